"""oldphoto restore."""

import argparse
import collections
import contextlib
import os
import sys
import time
import typing
from collections.abc import Iterator

from oldphoto_jax import allocator
from oldphoto_jax.cli import options
from oldphoto_jax.errors import ExitStatus, OptionError, PhotoError

if typing.TYPE_CHECKING:
  from oldphoto_jax.restoring import remote

_PROBE = 256  # pixels of the square that --dry-run measures the time with


def add(verbs) -> None:
  parser = options.verb(
    verbs,
    'restore',
    'restore photos and folders of photos',
    'Writes restored photos to the output folder, under the names of the originals, with the same '
    'size and kind, and a report.json. Existing photos are kept: the same command goes on with an '
    'interrupted run.',
    (
      'oldphoto restore scans -o restored',
      'oldphoto restore scans -o restored --mask masks --only-damage',
      'oldphoto restore photo.jpg -o restored --find-damage --save-mask',
    ),
  )
  options.add_photos(parser, stores=True)
  parser.add_argument(
    '--weights',
    metavar='WEIGHTS',
    help='weights file or run folder (default: built in)',
  )
  parser.add_argument(
    '--strength',
    type=options.share,
    default=1.0,
    metavar='S',
    help='1 = restored (default), 0 = original, or between',
  )
  parser.add_argument(
    '--tone',
    type=options.share,
    metavar='T',
    help='how far faded tones are revived: 0 = not at all, 1 = as far as possible',
  )
  options.add_damage(parser, 'default: the system itself')
  parser.add_argument(
    '--find-damage',
    action=argparse.BooleanOptionalAction,
    help='look for damage and fill it (default: yes, if the weights are made for it)',
  )
  parser.add_argument(
    '--patches',
    action='store_true',
    help='fill holes by copies from elsewhere in the photo (triplets that were trained for it; '
    '--HR of the official code)',
  )
  parser.add_argument(
    '--only-damage', action='store_true', help='fill the damage and change nothing else'
  )
  parser.add_argument(
    '--save-mask',
    action='store_true',
    help='write what was filled to masks/, to be corrected and given as --mask',
  )
  parser.add_argument(
    '--tile',
    type=options.least(128),
    default=2048,
    metavar='N',
    help='cut larger photos into tiles of N pixels, for less memory (default: 2048; repair: 1024)',
  )
  options.add_provenance(parser)
  parser.add_argument(
    '--pages',
    choices=('first', 'all'),
    default='first',
    help='which photos of a TIFF file to restore (default: first)',
  )
  parser.add_argument(
    '--descreen',
    action='store_true',
    help='first blur the dots of printed pictures into shades',
  )
  parser.add_argument(
    '--every-picture',
    action='store_true',
    help='also restore what does not look like a photo',
  )
  parser.add_argument(
    '--dry-run',
    action='store_true',
    help='only list what would be done and left out',
  )
  options.add_page(parser)
  options.add_cache(parser)
  parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
  allocator.keep_memory()
  from oldphoto_jax.photos import places
  from oldphoto_jax.restoring import remote

  if not any(map(places.is_remote, (*args.photos, str(args.output)))):
    return _restore(args)
  if len(args.photos) > 1:
    raise OptionError('of a store, give one folder at a time.')
  needs = {
    '--save-mask': args.save_mask,
    '--only-failed': args.only_failed,
    '--dry-run': args.dry_run,
  }
  for option in (name for name, given in needs.items() if given):
    raise OptionError(f'{option} needs an output folder on a disk: leave it out with a store.')
  (photos,) = args.photos
  with remote.mirror(photos, str(args.output), args.shard, args.overwrite) as mirror:
    if not any(mirror.photos.iterdir()):
      print(f'{args.output}: nothing is left to do.', file=sys.stderr)
      return ExitStatus.OK
    local = {'photos': [str(mirror.photos)], 'output': mirror.out, 'page': False}
    return _restore(argparse.Namespace(**{**vars(args), **local}), mirror)


def _restore(args: argparse.Namespace, mirror: 'remote.Mirror | None' = None) -> int:
  from oldphoto_jax import weights
  from oldphoto_jax.cli import before_after
  from oldphoto_jax.restoring import engine, restore

  source = args.weights or weights.SHIPPED
  loaded = weights.read(source)
  restorer = loaded.restorer()
  if args.patches:
    restorer = weights.restorer(weights.with_patches(loaded.weights), f'{loaded.name} by patches')
  if args.tone and restorer.correction is None:
    raise OptionError(f'{loaded.file} revives no tones: leave --tone out, or choose other weights.')
  if args.mask is not None and args.pages == 'all':
    raise OptionError('--mask marks damage on one page; leave --pages all out.')
  todo = restore.plan(
    args.photos,
    args.output,
    overwrite=args.overwrite,
    save_masks=args.save_mask,
    part=options.part(args),
    skip=[args.mask] if args.mask is not None and os.path.isdir(args.mask) else [],
  )
  mask, find = _damage(args, loaded, restorer, todo.sizes)
  wishes = restore.Wishes(
    args.strength,
    args.only_damage,
    find,
    restore.TONE if args.tone is None else args.tone,
    args.every_picture,
    args.descreen,
  )
  settings = {
    'weights_sha256': loaded.sha256,
    'mask': args.mask,
    'detector': args.detector,
    'threshold': args.threshold,
    'tile': args.tile,
    'pages': args.pages,
  }
  if args.dry_run:
    return _list(todo, engine.compiled(restorer, [(_PROBE, _PROBE)]), wishes)
  pages = before_after.Pages(todo) if args.page and todo.shard is None else None
  system = engine.compiled(restorer, todo.sizes, tile=args.tile)
  rename = mirror.rename if mirror else str
  progress = options.progress(todo, args.json, rename=rename)
  with _compiling(system, todo.sizes, wishes, mask is not None):
    summary = restore.restore_photos(
      system,
      todo,
      wishes,
      settings=settings,
      history=args.provenance,
      mask=mask,
      all_pages=args.pages == 'all',
      progress=mirror.progress(progress) if mirror else progress,
      show=mirror.put_results if mirror else pages.show if pages else None,
    )
  options.conclude(todo, summary, 'restored', args.json, rename)
  if pages:
    path = pages.write(summary)
    if not args.json:
      print(f'Open {path} in a browser to compare.')
  return summary.exit_code


def _list(todo, probe, wishes) -> int:
  """Prints what would be done with each photo, and about how long it would take."""
  import numpy as np

  from oldphoto_jax.photos import images
  from oldphoto_jax.restoring import restore

  counts = collections.Counter()
  for item in todo.items:
    if item.problem:
      state = 'fails'
      print(f'fails: {item.problem}')
    elif item.kept:
      state = 'kept'
      print(f'keeps: {item.output}')
    elif item.size is None:
      state = 'fails'
      try:
        images.size(item.path)
      except PhotoError as error:
        print(f'fails: {error}')
    else:
      state = 'restored'
      print(f'restores: {item.path} ({item.size[1]} x {item.size[0]}) -> {item.output}')
    counts[state] += 1
  for path, why in todo.skipped:
    print(f'skips: {path}: {why}')
  pixels = sum(height * width for height, width in todo.sizes)
  print(
    f'{counts["restored"]} to restore ({pixels / 1e6:.1f} megapixels), {counts["kept"]} kept, '
    f'{counts["fails"]} would fail, {len(todo.skipped)} skipped. Nothing was written.'
  )
  if pixels:
    square = np.random.default_rng(0).uniform(-0.5, 0.5, (_PROBE, _PROBE, 3)).astype(np.float32)
    for _ in range(2):  # the first time compiles
      start = time.perf_counter()
      restore.restore_array(probe, square, None, wishes)
      seconds = time.perf_counter() - start
    whole = seconds * pixels / _PROBE**2
    about = f'{whole:.0f} s' if whole < 90 else f'{whole / 60:.0f} min'
    print(
      f'About {about} without filling and compiling, as a square of {_PROBE} x {_PROBE} pixels '
      f'takes {seconds:.2f} s on this machine.'
    )
  return ExitStatus.SOME_FAILED if counts['fails'] else ExitStatus.OK


@contextlib.contextmanager
def _compiling(system, sizes, wishes, marked: bool) -> Iterator[None]:
  """Compiles for the first photo in threads, while it is decoded; stops when the job ends."""
  from oldphoto_jax.restoring import engine

  if not (sizes and isinstance(system, engine.Repairing) and system.programs is not None):
    yield
    return
  pool = system.programs.prepare(
    system.plan,
    sizes[0],
    find=wishes.find is not None,
    told=marked,
    revive=wishes.tone > 0 and not wishes.only_damage,
  )
  try:
    yield
  finally:
    pool.shutdown(wait=False, cancel_futures=True)


def _damage(args, loaded, restorer, sizes) -> tuple[options.Damage | None, float | None]:
  """Where damage is marked, and the probability from which on the system fills its own finds."""
  from oldphoto_jax import weights
  from oldphoto_jax.restoring import finding

  needs = {'--only-damage': args.only_damage, '--save-mask': args.save_mask}
  option = next((name for name, given in needs.items() if given), None)
  if args.mask is not None and args.detector:
    raise OptionError('--mask and --detector both say what is damaged; choose one.')
  if args.threshold is not None and (args.mask is not None or args.find_damage is False):
    raise OptionError('--threshold needs a search for damage: leave it out, or let it search.')
  if args.mask is not None:
    return options.marked_by_user(args.mask), None
  if args.detector:
    detector = weights.load_detector(args.detector)
    return options.marked_by_detector(detector, sizes, args.threshold or 0.5), None
  if args.find_damage is False:
    if option:
      raise OptionError(f'{option} needs damage to be marked: leave --no-find-damage out.')
    return None, None
  if restorer.look is not None:
    return None, args.threshold or finding.THRESHOLD
  if not args.find_damage and not option:
    # A detector beside a system is only used on request: what it takes for damage is lost.
    return None, None
  detector = loaded.find_detector()
  if detector is None:
    raise OptionError(
      f'{option or "--find-damage"} needs to know what is damaged, and {loaded.file} holds no '
      'detector; add --mask or --detector.'
    )
  return options.marked_by_detector(detector, sizes, args.threshold or 0.5), None
