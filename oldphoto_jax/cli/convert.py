"""oldphoto samples, tfds and import: bring photos, data and weights in."""

import argparse
import pathlib

from oldphoto_jax.cli import options
from oldphoto_jax.errors import ExitStatus, PhotoError


def add(verbs) -> None:
  samples = options.verb(
    verbs,
    'samples',
    'write a few sample photos',
    'Writes sample photographs from scikit-image, for trying the other commands.',
    ('oldphoto samples -o samples',),
    '-o OUT',
  )
  options.add_output(samples)
  samples.set_defaults(run=_samples)

  tfds = options.verb(
    verbs,
    'tfds',
    'turn a VOCdevkit folder into a TFDS data set, without TensorFlow',
    'Reads VOCdevkit/VOC2012 and writes DATA_DIR/voc2012_photos, which '
    'data.tfds_name=voc2012_photos trains on. Reports the number of photos, and refuses to write '
    'an empty set.',
    ('oldphoto tfds VOCdevkit tfds',),
    'VOCDEVKIT DATA_DIR',
  )
  tfds.add_argument('vocdevkit', metavar='VOCDEVKIT', help='the unpacked folder')
  tfds.add_argument('data_dir', metavar='DATA_DIR', help='folder of TFDS data sets')
  tfds.set_defaults(run=_tfds)

  importer = options.verb(
    verbs,
    'import',
    'convert the official PyTorch checkpoints',
    "Converts checkpoints published by a method's authors into weights for `oldphoto restore`. "
    'Needs PyTorch: pip install "oldphoto_jax[torch]".',
    (
      'oldphoto import bopbtl Bringing-Old-Photos-Back-to-Life -o triplet.safetensors',
      'oldphoto import cyclegan latest_net_G.pth -o cyclegan.safetensors',
    ),
    'METHOD CHECKPOINT -o FILE',
  )
  importer.add_argument(
    'method',
    metavar='METHOD',
    choices=['bopbtl', 'bopbtl-detector', 'pix2pix', 'cyclegan'],
    help='bopbtl ("Bringing Old Photos Back to Life"), bopbtl-detector (its scratch detector), '
    'pix2pix or cyclegan',
  )
  importer.add_argument(
    'checkpoints',
    metavar='CHECKPOINT',
    help='bopbtl: the official repository, or its Global/checkpoints/restoration folder; all '
    'mappings and the detector are read; '
    'bopbtl-detector: its Global/checkpoints/detection/FT_Epoch_latest.pt; '
    'the others: a generator file (latest_net_G.pth)',
  )
  importer.add_argument(
    '-o', '--output', required=True, type=pathlib.Path, metavar='FILE', help='weights to write'
  )
  importer.set_defaults(run=_import)


def _samples(args: argparse.Namespace) -> int:
  from oldphoto_jax import data
  from oldphoto_jax.photos import images

  source = data.sample_photos()
  for i, name in enumerate(source.names):
    path = args.output / pathlib.PurePath(name).with_suffix('.png').name
    if path.exists() and not args.overwrite:
      print(f'{path} kept')
      continue
    images.make_folder(path.parent)
    images.write(images.Photo(source[i]), path, overwrite=args.overwrite)
    print(path)
  return ExitStatus.OK


def _tfds(args: argparse.Namespace) -> int:
  from oldphoto_jax.data import voc

  try:
    counts = voc.write_tfds(args.vocdevkit, args.data_dir)
  except OSError as error:
    raise PhotoError(str(error)) from error
  for split, count in counts.items():
    print(f'{split}: {count} photos written and read back')
  return ExitStatus.OK


def _import(args: argparse.Namespace) -> int:
  import flax

  from oldphoto_jax import weights
  from oldphoto_jax.weights import bopbtl, official_gans

  left_out = []
  if args.method == 'bopbtl':
    imported, left_out = bopbtl.import_triplet(args.checkpoints)
  elif args.method == 'bopbtl-detector':
    imported = bopbtl.import_detector(args.checkpoints)
  elif args.method == 'pix2pix':
    imported = official_gans.import_pix2pix(args.checkpoints)
  else:
    imported = official_gans.import_cyclegan(args.checkpoints)
  weights.save(args.output, imported, card={'source': f'{args.method} official checkpoints'})
  for sentence in left_out:
    print(sentence)
  numbers = sum(leaf.size for leaf in flax.traverse_util.flatten_dict(imported.params).values())
  used = 'detect' if args.method == 'bopbtl-detector' else 'restore'
  print(
    f'{args.output}: {numbers:,} numbers, checked. Next: oldphoto {used} --weights {args.output}'
  )
  return ExitStatus.OK
