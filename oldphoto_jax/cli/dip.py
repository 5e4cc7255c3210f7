"""oldphoto dip."""

import argparse
import functools
import sys

from oldphoto_jax import allocator
from oldphoto_jax.cli import options


def add(verbs) -> None:
  parser = options.verb(
    verbs,
    'dip',
    'restore photos without trained weights, by Deep Image Prior',
    'Fits a network to each photo and stops before the noise appears. Removes noise, or fills what '
    '--mask or --detector marks and changes nothing else. Needs no weights, but takes minutes to '
    'hours per photo. An interrupted run goes on from its last checkpoint.',
    (
      'oldphoto dip noisy.png -o restored',
      'oldphoto dip scans -o restored --mask masks --max-side 512',
    ),
  )
  options.add_photos(parser)
  options.add_damage(parser, 'default: none')
  parser.add_argument(
    '--strength',
    type=options.share,
    default=1.0,
    metavar='S',
    help='1 = restored (default), 0 = original, between = a blend',
  )
  parser.add_argument('--seed', type=int, default=0, metavar='N', help='random seed (default: 0)')
  parser.add_argument(
    '--max-side',
    type=options.least(1),
    metavar='N',
    help='with a mask, fit larger photos at N pixels: faster, but less sharp',
  )
  parser.add_argument(
    '--max-hours',
    type=float,
    default=2.0,
    metavar='H',
    help='refuse photos that might take longer (default: 2)',
  )
  options.add_provenance(parser)
  options.add_page(parser)
  options.add_cache(parser)
  parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
  allocator.keep_memory()
  import jax

  from oldphoto_jax import weights
  from oldphoto_jax.cli import before_after
  from oldphoto_jax.dip import fit_files, presets

  todo = fit_files.plan(args.photos, args.output, overwrite=args.overwrite, part=options.part(args))
  mask = None
  if args.mask is not None:
    mask = options.marked_by_user(args.mask)
  elif args.detector is not None:
    detector = weights.load_detector(args.detector)
    mask = options.marked_by_detector(detector, todo.sizes, args.threshold or 0.5)
  if jax.local_devices()[0].platform == 'cpu':
    # The published nets take an hour for 256x256 pixels on two cores; this one takes minutes.
    name, preset = 'small', presets.small
  elif mask is None:
    name, preset = 'denoise', presets.denoise
  else:
    name, preset = 'inpaint', presets.inpaint
  job = fit_files.Job(
    settings=preset,
    name=f'preset {name}',
    seed=args.seed,
    mask=mask,
    strength=args.strength,
    max_side=args.max_side,
    max_seconds=3600 * args.max_hours,
    history=args.provenance,
  )
  pages = before_after.Pages(todo) if args.page and todo.shard is None else None
  summary = fit_files.restore_files(
    job,
    todo,
    progress=options.progress(todo, args.json),
    show=pages.show if pages else None,
    tell=functools.partial(print, file=sys.stderr if args.json else sys.stdout, flush=True),
  )
  options.conclude(todo, summary, 'restored', args.json)
  if pages:
    path = pages.write(summary)
    if not args.json:
      print(f'Open {path} in a browser to compare.')
  return summary.exit_code
