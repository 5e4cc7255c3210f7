"""The `oldphoto` command: restore photos, age good ones, bring data and weights in.

Exit codes: 0 all went well; 1 some photos failed, and the rest is done; 2 nothing was done; 130
interrupted. An error of the user's is one sentence on stderr.
"""

import argparse
import math
import os
import pathlib
import sys
import time
import warnings
import zlib

import numpy as np
from PIL import Image

from oldphoto_jax import images

RECIPES = ('wan2020', 'report', 'aging')
PAGE = 'before-after.html'
_COPIES_ON_SHEET = 12  # photos a contact sheet


def main(argv: list[str] | None = None) -> int:
  """Runs the command line and returns the exit code."""
  for stream in (sys.stdout, sys.stderr):  # a file name need not be valid Unicode
    if hasattr(stream, 'reconfigure'):
      stream.reconfigure(errors='backslashreplace')
  # Pillow warns of large photos; ours are limited in images.read.
  warnings.filterwarnings('ignore', category=Image.DecompressionBombWarning)
  args = _parser().parse_args(argv)
  try:
    return args.run(args)
  except images.PhotoError as error:
    print(f'oldphoto: {error}', file=sys.stderr)
    return 2
  except KeyboardInterrupt:
    print('oldphoto: interrupted; the same command goes on from here.', file=sys.stderr)
    return 130


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog='oldphoto', description='Restores old photographs. Your originals are never changed.'
  )
  verbs = parser.add_subparsers(title='commands', required=True, metavar='COMMAND')

  restore = verbs.add_parser(
    'restore',
    help='restore photos and folders of photos',
    description='Restores photos. Each is written to the output folder under the same name, with '
    'the same size and kind; report.json there says what was done. Photos that are there already '
    'are kept, so an interrupted run can be run again.',
  )
  _add_paths(restore)
  restore.add_argument(
    '--weights',
    metavar='RUN_OR_FILE',
    help='the trained system: a weights file, or the folder of a training run',
  )
  restore.add_argument(
    '--strength',
    type=_share,
    default=1.0,
    metavar='S',
    help='1 = restored (default), 0 = original, between = a blend',
  )
  restore.add_argument(
    '--tile',
    type=_tile,
    default=2048,
    metavar='N',
    help='restore photos with a side over N pixels in pieces of N; smaller needs less memory '
    '(default: 2048)',
  )
  restore.add_argument(
    '--page',
    action=argparse.BooleanOptionalAction,
    default=True,
    help=f'write {PAGE}, to compare before and after in a browser (default: yes)',
  )
  restore.set_defaults(run=_restore)

  degrade = verbs.add_parser(
    'degrade',
    help='make good photos look old, to see what the training sees',
    description='Ages photos. Copy K of a photo is written as old-K/NAME.png, the mask of what it '
    'lost (if anything) as mask-K/NAME.png; contact sheets show the copies beside the original.',
  )
  _add_paths(degrade)
  degrade.add_argument('--recipe', choices=RECIPES, required=True, help='the kind of damage')
  degrade.add_argument('--seed', type=int, default=0, metavar='N', help='other damage (default: 0)')
  degrade.add_argument(
    '--copies', type=_positive, default=3, metavar='N', help='aged copies a photo (default: 3)'
  )
  degrade.set_defaults(run=_degrade)

  samples = verbs.add_parser(
    'samples',
    help='write a few sample photos',
    description='Writes the photographs that scikit-image carries, to try the other commands on.',
  )
  _add_output(samples)
  samples.set_defaults(run=_samples)

  tfds = verbs.add_parser(
    'tfds',
    help='turn a VOCdevkit folder into a TFDS data set, without TensorFlow',
    description='Reads VOCdevkit/VOC2012 and writes DATA_DIR/voc2012_photos, which data.tfds_name='
    'voc2012_photos trains on. Counts what it wrote, and refuses to write an empty set.',
  )
  tfds.add_argument('vocdevkit', metavar='VOCDEVKIT', help='the unpacked folder')
  tfds.add_argument('data_dir', metavar='DATA_DIR', help='where TFDS data sets lie')
  tfds.set_defaults(run=_tfds)

  importer = verbs.add_parser(
    'import',
    help='convert the official PyTorch checkpoints',
    description="Converts checkpoints of a method's authors into a file of weights for "
    '`oldphoto restore`. Needs PyTorch: pip install "oldphoto_jax[torch]".',
  )
  importer.add_argument(
    'method',
    choices=['bopbtl', 'pix2pix', 'cyclegan'],
    help='bopbtl is "Bringing Old Photos Back to Life"',
  )
  importer.add_argument(
    'checkpoints',
    metavar='CHECKPOINT',
    help='bopbtl: the official repository, or its Global/checkpoints/restoration folder; '
    'the others: a generator file (latest_net_G.pth)',
  )
  importer.add_argument(
    '-o', '--output', required=True, type=pathlib.Path, metavar='FILE', help='weights to write'
  )
  importer.set_defaults(run=_import)
  return parser


def _add_paths(parser: argparse.ArgumentParser) -> None:
  parser.add_argument('photos', nargs='+', metavar='PHOTOS', help='photos, or folders of photos')
  _add_output(parser)


def _add_output(parser: argparse.ArgumentParser) -> None:
  parser.add_argument(
    '-o', '--output', required=True, type=pathlib.Path, metavar='OUT', help='the output folder'
  )
  parser.add_argument(
    '--overwrite', action='store_true', help='replace photos that are in the output folder already'
  )


def _share(text: str) -> float:
  value = float(text)
  if not 0 <= value <= 1:
    raise argparse.ArgumentTypeError(f'{text} is not from 0 to 1')
  return value


def _positive(text: str) -> int:
  value = int(text)
  if value < 1:
    raise argparse.ArgumentTypeError(f'{text} is not 1 or more')
  return value


def _tile(text: str) -> int:
  value = int(text)
  if value < 128:
    raise argparse.ArgumentTypeError(f'{text} is not 128 or more')
  return value


# oldphoto restore


def _restore(args: argparse.Namespace) -> int:
  if args.weights is None:
    raise images.PhotoError('no weights are given; add --weights and a file or a run folder.')
  # Here and not above, so that --help does not wait for JAX.
  from oldphoto_jax import restore, weights

  try:
    restorer = weights.load_restorer(args.weights)
  except (OSError, ValueError) as error:
    raise images.PhotoError(f'{args.weights}: the weights cannot be used: {error}') from error

  start = time.perf_counter()

  def progress(done: int, total: int, result: restore.Result) -> None:
    if result.status == 'failed':
      print(f'[{done}/{total}] {result.message}', file=sys.stderr)
      return
    left = (time.perf_counter() - start) / done * (total - done)
    wait = f', about {math.ceil(left / 60)} min left' if left > 60 else ''
    print(f'[{done}/{total}] {result.output} {result.status}{wait}', flush=True)
    for warning in result.warnings:
      print(f'  {warning}', file=sys.stderr)

  summary = restore.restore_photos(
    restorer,
    args.photos,
    args.output,
    overwrite=args.overwrite,
    strength=args.strength,
    tile=args.tile,
    progress=progress,
  )
  counts = (f'{summary.count(status)} {status}' for status in ('restored', 'kept', 'failed'))
  print(f'{", ".join(counts)}: see {args.output / restore.REPORT}')
  if args.page:
    _write_page(summary, args.output)
  return summary.exit_code


def _write_page(summary, out: pathlib.Path) -> None:
  from oldphoto_jax import page

  def entries():
    for result in summary.results:
      if result.status == 'failed':
        reason = result.message.removeprefix(f'{result.input}: ')
        yield page.Entry(result.input, error=reason[:1].upper() + reason[1:])
        continue
      name = str(pathlib.PurePath(result.output).relative_to(out))
      try:
        before, after = images.read(result.input), images.read(result.output)
      except images.PhotoError as error:  # a kept output may be anything
        yield page.Entry(name, error=str(error))
        continue
      yield page.Entry(
        name,
        images.to_rgb8(before),
        images.to_rgb8(after),
        icc=None if after.gray else after.icc,
        note=' '.join(result.warnings),
      )

  # A page of a thousand photos still has to open: smaller pictures where there are many.
  count = len(summary.results)
  side = 1200 if count <= 50 else 800 if count <= 200 else 500
  page.write_page(out / PAGE, entries(), side=side)
  print(f'Open {out / PAGE} in a browser to compare.')


# oldphoto degrade


def _degrade(args: argparse.Namespace) -> int:
  found = images.find_photos(args.photos, skip=args.output)
  # Here and not above, so that --help does not wait for JAX.
  import jax

  from oldphoto_jax import restore, sheets
  from oldphoto_jax.degradation import recipes

  recipe = {
    'wan2020': recipes.Wan2020(),
    'report': recipes.Report(),
    'aging': recipes.Aging(),
  }[args.recipe]
  age, seed = jax.jit(recipe), jax.random.key(args.seed)
  names = [(path, relative.with_suffix('.png')) for path, relative in found]
  copies = range(1, args.copies + 1)
  folders = [args.output / f'old-{copy}' for copy in copies]
  plans = zip(*(restore.plan_outputs(names, folder) for folder in folders))
  shapes = _shapes_for_recipes([path for path, _ in found])

  failed, rows = 0, []
  for (path, name), plan in zip(names, plans):
    try:
      if plan[0][2]:
        raise images.PhotoError(plan[0][2])
      photo = images.read(path)
      # A photo's damage depends on its name, not on the photos beside it.
      key = jax.random.fold_in(seed, zlib.crc32(name.as_posix().encode('utf-8', 'replace')))
      row = [images.to_rgb8(photo)]
      for copy, (_, output, _) in zip(copies, plan):
        old, mask = _age(age, jax.random.fold_in(key, copy), photo, shapes)
        _write(old, output, args.overwrite)
        if mask is not None:
          _write(mask, args.output / f'mask-{copy}' / name, args.overwrite)
        row.append(old.pixels)
      rows.append((str(name), [_thumbnail(image) for image in row]))
      print(f'[{len(rows) + failed}/{len(names)}] {name}', flush=True)
    except images.PhotoError as error:
      failed += 1
      print(f'[{len(rows) + failed}/{len(names)}] {error}', file=sys.stderr)

  titles = ['original', *(f'{args.recipe}, copy {copy}' for copy in copies)]
  for first in range(0, len(rows), _COPIES_ON_SHEET):
    labels, pictures = zip(*rows[first : first + _COPIES_ON_SHEET])
    path = args.output / f'contact-sheet-{first // _COPIES_ON_SHEET + 1}.png'
    sheets.save_png(path, sheets.grid(pictures, titles, labels))
    print(f'Look at {path}.')
  return int(failed > 0)


def _shapes_for_recipes(paths: list[pathlib.Path]) -> list[tuple[int, int]]:
  """The photos' own sizes, or a few larger ones where compiling for each would take long."""
  from oldphoto_jax import restore

  sizes = []
  for path in paths:
    try:
      sizes.append(tuple(max(side, 16) for side in images.size(path)))  # 16: the recipes' least
    except images.PhotoError:
      continue  # said when the photo's turn comes
  if len(set(sizes)) <= 4:
    return sorted(set(sizes))
  return restore.plan_shapes(sizes, 1, max(map(max, sizes)), 4)


def _age(age, key, photo: images.Photo, shapes) -> tuple[images.Photo, images.Photo | None]:
  """An aged copy and its mask; the photo lies in the middle of the smallest shape that holds it."""
  height, width = photo.size
  holding = [shape for shape in shapes if shape[0] >= height and shape[1] >= width]
  rows, columns = min(holding, key=math.prod, default=(max(height, 16), max(width, 16)))
  top, left = (rows - height) // 2, (columns - width) // 2
  around = ((top, rows - height - top), (left, columns - width - left), (0, 0))
  aged = age(key, np.pad(images.to_float(photo), around, 'reflect'))
  inside = np.s_[top : top + height, left : left + width]
  blank = np.zeros((height, width, 3), np.uint8)
  like = images.Photo(blank, icc=None if photo.gray else photo.icc, dpi=photo.dpi)
  old = images.from_float(np.asarray(aged.old)[inside], like)
  mask = np.asarray(aged.mask)[inside]
  if not mask.any():
    return old, None
  return old, images.from_float(np.repeat(2 * mask - 1, 3, -1), images.Photo(blank, gray=True))


def _write(photo: images.Photo, path: pathlib.Path, overwrite: bool) -> None:
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise images.PhotoError(
      f'{path.parent}: the folder cannot be made ({os.strerror(error.errno)}).'
    ) from error
  images.write(photo, path, overwrite=overwrite)


def _thumbnail(pixels: np.ndarray, side: int = 256) -> np.ndarray:
  image = Image.fromarray(pixels)
  image.thumbnail((side, side), Image.Resampling.LANCZOS)
  return np.asarray(image)


# oldphoto samples, tfds, import


def _samples(args: argparse.Namespace) -> int:
  from oldphoto_jax import data

  source = data.sample_photos()
  for i, name in enumerate(source.names):
    path = args.output / pathlib.PurePath(name).with_suffix('.png').name
    if path.exists() and not args.overwrite:
      print(f'{path} kept')
      continue
    _write(images.Photo(source[i]), path, args.overwrite)
    print(path)
  return 0


def _tfds(args: argparse.Namespace) -> int:
  from oldphoto_jax.data import voc

  try:
    counts = voc.write_tfds(args.vocdevkit, args.data_dir)
  except (OSError, ValueError) as error:
    raise images.PhotoError(str(error)) from error
  for split, count in counts.items():
    print(f'{split}: {count} photos written and read back')
  return 0


def _import(args: argparse.Namespace) -> int:
  import flax

  from oldphoto_jax import official_gans, weights

  read = {
    'bopbtl': weights.import_bopbtl,
    'pix2pix': official_gans.import_pix2pix,
    'cyclegan': official_gans.import_cyclegan,
  }[args.method]
  try:
    imported = read(args.checkpoints)
  except weights.WeightsError as error:
    raise images.PhotoError(str(error)) from error
  weights.save(args.output, imported, card={'source': f'{args.method} official checkpoints'})
  numbers = sum(leaf.size for leaf in flax.traverse_util.flatten_dict(imported.params).values())
  print(f'{args.output}: {numbers:,} numbers, checked; restore with --weights {args.output}')
  return 0


if __name__ == '__main__':
  sys.exit(main())
