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
    'size and kind, and a report.json. Existing photos are kept: an interrupted run can be run '
    'again.',
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
  options.add_damage(parser, 'default: that in --weights')
  parser.add_argument(
    '--find-damage',
    action='store_true',
    help='fill what the detector finds (implied by --detector, --only-damage and --save-mask); it '
    'may mistake objects for damage',
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
  options.add_page(parser)
  parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
  from oldphoto_jax import engine, restore, weights
  from oldphoto_jax.cli import before_after

  source = args.weights or weights.SHIPPED
  loaded = weights.read(source)
  restorer, inside = loaded.restorer(), loaded.find_detector()
  todo = restore.plan(args.photos, args.output, overwrite=args.overwrite, save_masks=args.save_mask)
  wanted = {
    '--only-damage': args.only_damage,
    '--save-mask': args.save_mask,
    '--find-damage': args.find_damage,
  }
  option = next((name for name, given in wanted.items() if given), None)
  mask = None
  if args.mask is not None:
    mask = options.marked_by_user(args.mask)
  elif args.detector or option:
    # Damage is only looked for on request: what a detector mistakes for damage is lost.
    detector = weights.load_detector(args.detector) if args.detector else inside
    if detector is None:
      raise OptionError(
        f'{option} needs to know what is damaged, and {source} holds no detector; add --mask or '
        '--detector.'
      )
    mask = options.marked_by_detector(detector, todo.sizes, args.threshold)
  pages = before_after.Pages(todo) if args.page else None
  summary = restore.restore_photos(
    engine.compiled(restorer, todo.sizes, tile=args.tile),
    todo,
    strength=args.strength,
    mask=mask,
    only_damage=args.only_damage,
    progress=options.progress(),
    show=pages and pages.show,
  )
  options.conclude(todo, summary, 'restored')
  if pages:
    pages.write(summary)
  return summary.exit_code
