"""oldphoto restore."""

import argparse

from oldphoto_jax.cli import options
from oldphoto_jax.errors import OptionError


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
  options.add_photos(parser)
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
    help='1 = restored (default), 0 = original, between = a blend',
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
    help='cut larger photos into tiles of N pixels; smaller tiles need less memory (default: 2048)',
  )
  options.add_provenance(parser)
  options.add_page(parser)
  options.add_cache(parser)
  parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
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
  todo = restore.plan(
    args.photos,
    args.output,
    overwrite=args.overwrite,
    save_masks=args.save_mask,
    part=options.part(args),
  )
  mask, find = _damage(args, loaded, restorer, todo.sizes)
  wishes = restore.Wishes(
    args.strength, args.only_damage, find, restore.TONE if args.tone is None else args.tone
  )
  settings = {
    'weights_sha256': loaded.sha256,
    'mask': args.mask,
    'detector': args.detector,
    'threshold': args.threshold,
    'tile': args.tile,
  }
  pages = before_after.Pages(todo) if args.page and todo.shard is None else None
  system = engine.compiled(restorer, todo.sizes, tile=args.tile)
  if isinstance(system, engine.Repairing) and system.programs is not None and todo.sizes:
    system.programs.prepare(  # while the first photo is decoded
      system.plan,
      todo.sizes[0],
      search=find is not None,
      fill=find is not None or mask is not None,
      revive=wishes.tone > 0 and not wishes.only_damage,
    )
  summary = restore.restore_photos(
    system,
    todo,
    wishes,
    settings=settings,
    history=args.provenance,
    mask=mask,
    progress=options.progress(todo, args.json),
    show=pages.show if pages else None,
  )
  options.conclude(todo, summary, 'restored', args.json)
  if pages:
    path = pages.write(summary)
    if not args.json:
      print(f'Open {path} in a browser to compare.')
  return summary.exit_code


def _damage(args, loaded, restorer, sizes) -> tuple[options.Damage | None, float | None]:
  """Where damage is marked, and the probability from which on the system fills its own finds."""
  from oldphoto_jax import weights
  from oldphoto_jax.restoring import finding

  needs = {'--only-damage': args.only_damage, '--save-mask': args.save_mask}
  option = next((name for name, given in needs.items() if given), None)
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
