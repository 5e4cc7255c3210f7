"""The `oldphoto` command: restore photos, age good ones, bring data and weights in.

Exit codes: 0 all went well; 1 some photos failed, and the rest is done; 2 nothing was done; 130
interrupted. An error of the user's is one sentence on stderr.
"""

import argparse
import functools
import math
import os
import pathlib
import sys
import time
import warnings

import numpy as np
from PIL import Image

from oldphoto_jax import images
from oldphoto_jax.degradation.names import RECIPES

PAGE = 'before-after.html'
SHEET = f'{PAGE}.png'  # no photo has this name
_PHOTOS_ON_SHEET = 6  # of before and after


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
    help='the trained system: a weights file, or the folder of a training run (default: the one '
    'that comes with oldphoto)',
  )
  restore.add_argument(
    '--strength',
    type=_share,
    default=1.0,
    metavar='S',
    help='1 = restored (default), 0 = original, between = a blend',
  )
  restore.add_argument(
    '--mask',
    metavar='FILE_OR_FOLDER',
    help='what is damaged: a picture of the size of the photo, white where damaged, or a folder of '
    'such pictures under the names of the photos',
  )
  restore.add_argument(
    '--detector',
    metavar='RUN_OR_FILE',
    help='a trained detector (default: the one inside --weights, if there is one)',
  )
  restore.add_argument(
    '--find-damage',
    action='store_true',
    help='fill what the detector inside --weights finds; implied by --detector, --only-damage and '
    '--save-mask. Look at the result: it may take dark or bright objects for damage',
  )
  restore.add_argument(
    '--threshold',
    type=_inside,
    default=0.5,
    metavar='T',
    help='fill what the detector holds damaged with probability T or more (default: 0.5)',
  )
  restore.add_argument(
    '--only-damage',
    action='store_true',
    help='fill the damage and leave every other pixel as it is',
  )
  restore.add_argument(
    '--save-mask',
    action='store_true',
    help='write what was filled as masks/NAME.png, to be corrected and given as --mask',
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
    '--method',
    choices=['trained', 'dip'],
    default='trained',
    help='trained: the system of --weights (default). dip: Deep Image Prior, which needs no '
    'weights but minutes to hours a photo: it removes noise, or fills what --mask or --detector '
    'marks and leaves all else as it is',
  )
  dip = restore.add_argument_group('with --method dip')
  dip.add_argument('--seed', type=int, metavar='N', help='another try (default: 0)')
  dip.add_argument(
    '--max-side',
    type=_positive,
    metavar='N',
    help='fill the damage of photos with a side over N pixels at a size of N: faster, less sharp',
  )
  dip.add_argument(
    '--max-hours',
    type=float,
    metavar='H',
    help='do not begin where a photo might take longer (default: 2)',
  )
  restore.add_argument(
    '--page',
    action=argparse.BooleanOptionalAction,
    default=True,
    help=f'write {PAGE}, to compare before and after in a browser (default: yes)',
  )
  restore.set_defaults(run=_restore)

  detect = verbs.add_parser(
    'detect',
    help='mark scratches, dust, folds and tears',
    description='Marks damage. A mask of each photo is written as masks/NAME.png (white is '
    'damaged), the photo with its damage in red as overlays/NAME.jpg; report.json says what was '
    'done. Pictures that are there already are kept.',
  )
  _add_paths(detect)
  detect.add_argument(
    '--weights',
    metavar='RUN_OR_FILE',
    help='the trained detector: a weights file, or the folder of a training run (default: the one '
    'that comes with oldphoto)',
  )
  detect.add_argument(
    '--threshold',
    type=_inside,
    metavar='T',
    help='masks in black and white: white where damage is as probable as T or more (default: gray '
    'masks that hold the probability)',
  )
  detect.add_argument(
    '--tile',
    type=_detector_tile,
    default=1024,
    metavar='N',
    help='look at photos with a side over N pixels in pieces of N; smaller needs less memory '
    '(default: 1024)',
  )
  detect.set_defaults(run=_detect)

  degrade = verbs.add_parser(
    'degrade',
    help='make good photos look old, to see what the training sees',
    description='Ages photos. Copy K of a photo is written as old-K/NAME.png, the mask of what it '
    'lost (if anything) as mask-K/NAME.png; contact sheets show the copies beside the original. '
    'For the recipe print, artefact-KIND.png shows each kind of damage alone.',
  )
  _add_paths(degrade)
  degrade.add_argument('--recipe', choices=RECIPES, required=True, help='the kind of damage')
  degrade.add_argument('--seed', type=int, default=0, metavar='N', help='other damage (default: 0)')
  degrade.add_argument(
    '--copies', type=_positive, default=3, metavar='N', help='aged copies a photo (default: 3)'
  )
  degrade.add_argument(
    '--overlays',
    default='',
    metavar='FOLDER',
    help='with print: mix in drawn damage, pictures with transparency',
  )
  degrade.add_argument(
    '--textures', default='', metavar='FOLDER', help='with print: mix in pictures of surfaces'
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
    choices=['bopbtl', 'bopbtl-detector', 'pix2pix', 'cyclegan'],
    help='bopbtl is "Bringing Old Photos Back to Life", bopbtl-detector its scratch detector',
  )
  importer.add_argument(
    'checkpoints',
    metavar='CHECKPOINT',
    help='bopbtl: the official repository, or its Global/checkpoints/restoration folder; '
    'bopbtl-detector: its Global/checkpoints/detection/FT_Epoch_latest.pt; '
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


def _inside(text: str) -> float:
  value = float(text)
  if not 0 < value < 1:
    raise argparse.ArgumentTypeError(f'{text} is not between 0 and 1')
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


def _detector_tile(text: str) -> int:
  value = int(text)
  if value < 256:
    raise argparse.ArgumentTypeError(f'{text} is not 256 or more')
  return value


# oldphoto restore


def _restore(args: argparse.Namespace) -> int:
  if args.method == 'dip':
    return _restore_by_dip(args)
  for name in ('seed', 'max_side', 'max_hours'):
    if getattr(args, name) is not None:
      option = name.replace('_', '-')
      raise images.PhotoError(f'--{option} is for Deep Image Prior; add --method dip.')
  # Here and not above, so that --help does not wait for JAX.
  from oldphoto_jax import restore, weights

  if args.weights is None:
    args.weights = weights.SHIPPED
  try:
    restorer = weights.load_restorer(args.weights)
  except (OSError, ValueError) as error:
    raise images.PhotoError(f'{args.weights}: the weights cannot be used: {error}') from error
  mask = _mask_of(args)
  wanted = {
    '--find-damage': args.find_damage,
    '--only-damage': args.only_damage,
    '--save-mask': args.save_mask,
  }
  option = next((name for name, given in wanted.items() if given), None)
  if mask is None and option:
    raise images.PhotoError(
      f'{option} needs to know what is damaged, and {args.weights} holds no detector; '
      'add --mask or --detector.'
    )

  marked = {}
  summary = restore.restore_photos(
    restorer,
    args.photos,
    args.output,
    overwrite=args.overwrite,
    strength=args.strength,
    mask=_remembered(mask, marked),
    only_damage=args.only_damage,
    save_masks=args.save_mask,
    tile=args.tile,
    progress=functools.partial(_print_progress, time.perf_counter()),
  )
  return _conclude(args, summary, marked)


def _restore_by_dip(args: argparse.Namespace) -> int:
  for given, sentence in (
    (args.weights is not None, 'Deep Image Prior has no weights; leave --weights or --method out.'),
    (args.tile != 2048, 'Deep Image Prior has no tiles; see --max-side.'),
    (args.save_mask, '--save-mask is for trained systems; `oldphoto detect` writes masks.'),
    (args.find_damage, 'Deep Image Prior fills what --mask or --detector marks; name one.'),
  ):
    if given:
      raise images.PhotoError(sentence)
  # Here and not above, so that --help does not wait for JAX.
  import jax

  from oldphoto_jax import fit_files
  from oldphoto_jax.models import dip_presets

  mask = None if args.mask is None and args.detector is None else _mask_of(args)
  if jax.local_devices()[0].platform == 'cpu':
    # The published nets take an hour a photo of 256x256 on two cores, this one minutes.
    name, preset = 'small', dip_presets.small
  elif mask is None:
    name, preset = 'denoise', dip_presets.denoise
  else:
    name, preset = 'inpaint', dip_presets.inpaint
  marked = {}
  job = fit_files.Job(
    settings=preset,
    name=f'preset {name}',
    seed=args.seed or 0,
    mask=_remembered(mask, marked),
    strength=args.strength,
    max_side=args.max_side,
    max_seconds=3600 * (2 if args.max_hours is None else args.max_hours),
    overwrite=args.overwrite,
  )
  summary = fit_files.restore_files(
    job,
    args.photos,
    args.output,
    progress=functools.partial(_print_progress, time.perf_counter()),
    tell=functools.partial(print, flush=True),
  )
  return _conclude(args, summary, marked)


def _print_progress(start: float, done: int, total: int, result) -> None:
  """A line a photo; `start` is when the first one began."""
  if result.status == 'failed':
    print(f'[{done}/{total}] {result.message}', file=sys.stderr)
    return
  left = (time.perf_counter() - start) / done * (total - done)
  wait = f', about {math.ceil(left / 60)} min left' if left > 60 else ''
  print(f'[{done}/{total}] {result.output} {result.status}{wait}', flush=True)
  for warning in result.warnings:
    print(f'  {warning}', file=sys.stderr)


def _remembered(mask, marked: dict[str, np.ndarray]):
  """`mask`, which also leaves small pictures of the masks in `marked`, for the page."""
  if mask is None:
    return None

  def remember(path: pathlib.Path, photo: images.Photo) -> np.ndarray:
    weight = mask(path, photo)
    picture = Image.fromarray(np.rint(255 * weight[..., 0]).astype(np.uint8))
    picture.thumbnail((1200, 1200), Image.Resampling.BOX)
    marked[str(path)] = np.asarray(picture) / 255
    return weight

  return remember


def _conclude(args: argparse.Namespace, summary, marked: dict[str, np.ndarray]) -> int:
  """Counts the photos, writes the page, and returns the exit code."""
  from oldphoto_jax import restore

  counts = (f'{summary.count(status)} {status}' for status in ('restored', 'kept', 'failed'))
  print(f'{", ".join(counts)}: see {args.output / restore.REPORT}')
  if args.page:
    _write_page(summary, args.output, marked)
  return summary.exit_code


def _mask_of(args: argparse.Namespace):
  """(path, photo) -> what to fill, from the user's masks or a detector; None where is neither.

  Damage is only looked for on request: what a detector takes for damage by mistake is lost.
  """
  from oldphoto_jax import detect, masks, weights

  if args.mask is not None:
    if not os.path.exists(args.mask):
      raise images.PhotoError(f'{args.mask}: there is no such mask or folder.')
    return lambda path, photo: masks.read(masks.find(args.mask, path), photo.size)
  if not (args.detector or args.find_damage or args.only_damage or args.save_mask):
    return None
  source = args.detector or args.weights
  try:
    detector = weights.load_detector(source) if args.detector else weights.find_detector(source)
  except (OSError, ValueError) as error:
    raise images.PhotoError(f'{source}: the detector cannot be used: {error}') from error
  if detector is None:
    return None
  sizes = []
  for path, _ in images.find_photos(args.photos, skip=args.output):
    try:
      sizes.append(images.size(path))
    except images.PhotoError:
      continue  # said when the photo's turn comes
  mark = detect.marker(detector, sizes)
  return lambda path, photo: masks.grow(mark(photo), args.threshold)


def _write_page(summary, out: pathlib.Path, marked: dict[str, np.ndarray]) -> None:
  """The page of a run; `marked` has the damage of photos by their paths, [h, w] in [0, 1]."""
  from oldphoto_jax import page, sheets

  pairs, names = [], []  # small ones, of the first photos

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
      icc = None if after.gray else after.icc
      before, after = images.to_rgb8(before), images.to_rgb8(after)
      if len(pairs) < _PHOTOS_ON_SHEET:
        pairs.append([sheets.thumbnail(before, 384), sheets.thumbnail(after, 384)])
        names.append(name)
      change = None
      if before.shape == after.shape:
        # A change of a quarter of the range shows in full.
        change = np.clip(np.abs(after.astype(np.int16) - before).max(-1) / 64, 0, 1)
      yield page.Entry(
        name,
        before,
        after,
        icc=icc,
        mask=marked.get(result.input),
        change=change,
        note=' '.join(result.warnings),
      )

  # A page of a thousand photos still has to open: smaller pictures where there are many.
  count = len(summary.results)
  side = 1200 if count <= 50 else 800 if count <= 200 else 500
  page.write_page(out / PAGE, entries(), side=side)
  if pairs:
    sheets.save_png(out / SHEET, sheets.grid(pairs, ['before', 'after'], names))
  print(f'Open {out / PAGE} in a browser to compare.')


# oldphoto detect


def _detect(args: argparse.Namespace) -> int:
  # Here and not above, so that --help does not wait for JAX.
  from oldphoto_jax import detect, restore, weights

  if args.weights is None:
    args.weights = weights.SHIPPED
  try:
    detector = weights.load_detector(args.weights)
  except (OSError, ValueError) as error:
    raise images.PhotoError(f'{args.weights}: the weights cannot be used: {error}') from error

  def progress(done: int, total: int, result: detect.Result) -> None:
    if result.status == 'failed':
      print(f'[{done}/{total}] {result.message}', file=sys.stderr)
      return
    share = '' if result.damaged is None else f', {result.damaged:.2%} damaged'
    print(f'[{done}/{total}] {result.mask} {result.status}{share}', flush=True)
    for warning in result.warnings:
      print(f'  {warning}', file=sys.stderr)

  summary = detect.detect_photos(
    detector,
    args.photos,
    args.output,
    overwrite=args.overwrite,
    threshold=args.threshold,
    tile=args.tile,
    progress=progress,
  )
  counts = (f'{summary.count(status)} {status}' for status in ('marked', 'kept', 'failed'))
  print(f'{", ".join(counts)}: see {args.output / restore.REPORT}')
  return summary.exit_code


# oldphoto degrade


def _degrade(args: argparse.Namespace) -> int:
  if (args.overlays or args.textures) and args.recipe != 'print':
    raise images.PhotoError('--overlays and --textures belong to --recipe print.')
  # Here and not above, so that --help does not wait for JAX.
  from oldphoto_jax import degrade_files
  from oldphoto_jax.degradation import damage
  from oldphoto_jax.systems import build

  recipe = build.recipe(args.recipe, args.overlays, args.textures)
  kinds = damage.artefacts(recipe) if args.recipe == 'print' else {}

  def progress(done: int, total: int, text: str, failed: bool) -> None:
    print(f'[{done}/{total}] {text}', file=sys.stderr if failed else sys.stdout, flush=True)

  sheets, failed = degrade_files.degrade_photos(
    recipe,
    args.recipe,
    args.photos,
    args.output,
    copies=args.copies,
    seed=args.seed,
    kinds=kinds,
    overwrite=args.overwrite,
    progress=progress,
  )
  for path in sheets:
    print(f'Look at {path}.')
  return int(failed > 0)


# oldphoto samples, tfds, import


def _samples(args: argparse.Namespace) -> int:
  from oldphoto_jax import data

  source = data.sample_photos()
  for i, name in enumerate(source.names):
    path = args.output / pathlib.PurePath(name).with_suffix('.png').name
    if path.exists() and not args.overwrite:
      print(f'{path} kept')
      continue
    images.make_folder(path.parent)
    images.write(images.Photo(source[i]), path, overwrite=args.overwrite)
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

  from oldphoto_jax import bopbtl, official_gans, weights

  left_out = []
  try:
    if args.method == 'bopbtl':
      imported, left_out = bopbtl.import_triplet(args.checkpoints)
    elif args.method == 'bopbtl-detector':
      imported = bopbtl.import_detector(args.checkpoints)
    elif args.method == 'pix2pix':
      imported = official_gans.import_pix2pix(args.checkpoints)
    else:
      imported = official_gans.import_cyclegan(args.checkpoints)
  except weights.WeightsError as error:
    raise images.PhotoError(str(error)) from error
  weights.save(args.output, imported, card={'source': f'{args.method} official checkpoints'})
  for sentence in left_out:
    print(sentence)
  numbers = sum(leaf.size for leaf in flax.traverse_util.flatten_dict(imported.params).values())
  verb = 'detect' if args.method == 'bopbtl-detector' else 'restore'
  print(f'{args.output}: {numbers:,} numbers, checked; {verb} with --weights {args.output}')
  return 0


if __name__ == '__main__':
  sys.exit(main())
