"""oldphoto export: trained networks in forms that other programs load."""

import argparse

from oldphoto_jax.cli import options
from oldphoto_jax.errors import ExitStatus, OptionError


def add(verbs) -> None:
  parser = options.verb(
    verbs,
    'export',
    'write networks for other programs: ONNX, StableHLO',
    'Writes the networks of weights into a folder, for photos of any size. repair becomes '
    'look.onnx and fill.onnx, with a cleaner also clean.onnx, a detector detect.onnx, pix2pix and '
    'CycleGAN restore.onnx. Needs: pip install "oldphoto_jax[export]".',
    (
      'oldphoto export --onnx -o exported',
      'oldphoto export --onnx --stablehlo --weights runs/pix2pix_cpu -o exported',
    ),
    '-o OUT',
  )
  options.add_output(parser)
  parser.add_argument(
    '--weights', metavar='WEIGHTS', help='weights file or run folder (default: built in)'
  )
  parser.add_argument('--onnx', action='store_true', help='write ONNX, for onnxruntime and others')
  parser.add_argument(
    '--stablehlo', action='store_true', help='write StableHLO, which jax.export reads'
  )
  parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
  from oldphoto_jax import weights
  from oldphoto_jax.photos import images
  from oldphoto_jax.weights import onnx_graphs, stablehlo

  if not args.onnx and not args.stablehlo:
    raise OptionError('nothing to write: add --onnx, --stablehlo or both.')
  loaded = weights.read(args.weights or weights.SHIPPED)
  files = {}
  for wanted, form in ((args.onnx, onnx_graphs), (args.stablehlo, stablehlo)):
    files |= form.files(loaded) if wanted else {}
  paths = {args.output / name: data for name, data in files.items()}
  there = [str(path) for path in paths if path.exists()]
  if there and not args.overwrite:
    raise OptionError(f'{", ".join(there)} exists already: add --overwrite to replace it.')
  images.make_folder(args.output)
  for path, data in paths.items():
    images.write_bytes(path, data, overwrite=args.overwrite)
    print(path)
  return ExitStatus.OK
