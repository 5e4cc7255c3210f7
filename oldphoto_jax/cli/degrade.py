"""oldphoto degrade."""

import argparse

from oldphoto_jax.cli import options
from oldphoto_jax.degradation.names import RECIPES
from oldphoto_jax.errors import OptionError


def add(verbs) -> None:
  parser = options.verb(
    verbs,
    'degrade',
    'make good photos look old, as in training',
    'Writes copy K of each photo as old-K/NAME.png, a mask of what it lost (if anything) as '
    'mask-K/NAME.png, and contact sheets of the copies beside the originals. With --recipe print, '
    'artefact-KIND.png shows each kind of damage. Existing copies are kept.',
    (
      'oldphoto degrade photos -o aged --recipe report',
      'oldphoto degrade photos -o aged --recipe print --copies 1 --textures surfaces',
    ),
  )
  options.add_photos(parser)
  parser.add_argument('--recipe', choices=RECIPES, required=True, help='the kind of damage')
  parser.add_argument('--seed', type=int, default=0, metavar='N', help='random seed (default: 0)')
  parser.add_argument(
    '--copies',
    type=options.least(1),
    default=3,
    metavar='N',
    help='aged copies of each photo (default: 3)',
  )
  parser.add_argument(
    '--overlays',
    default='',
    metavar='FOLDER',
    help='with print: also use drawn damage, pictures with transparency',
  )
  parser.add_argument(
    '--textures',
    default='',
    metavar='FOLDER',
    help='with print: also use pictures of paper',
  )
  options.add_cache(parser)
  parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
  if (args.overlays or args.textures) and args.recipe != 'print':
    raise OptionError('--overlays and --textures belong to --recipe print.')
  from oldphoto_jax.degradation import damage
  from oldphoto_jax.restoring import degrade_files
  from oldphoto_jax.systems import build

  recipe = build.recipe(args.recipe, args.overlays, args.textures)
  kinds = damage.artefacts(recipe) if args.recipe == 'print' else {}
  todo = degrade_files.plan(
    args.photos,
    args.output,
    copies=args.copies,
    overwrite=args.overwrite,
    part=options.part(args),
  )
  summary, sheets = degrade_files.degrade_photos(
    recipe,
    args.recipe,
    todo,
    seed=args.seed,
    kinds=kinds,
    progress=options.progress(todo, args.json),
  )
  options.conclude(todo, summary, 'aged', args.json)
  for path in () if args.json else sheets:
    print(f'Look at {path}.')
  return summary.exit_code
