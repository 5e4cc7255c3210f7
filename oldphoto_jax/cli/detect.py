"""oldphoto detect."""

import argparse

from oldphoto_jax.cli import options


def add(verbs) -> None:
  parser = options.verb(
    verbs,
    'detect',
    'mark scratches, dust, folds and tears',
    'Writes a mask of each photo as masks/NAME.png (white = damaged), the photo with its damage in '
    'red as overlays/NAME.jpg, and a report.json. Existing pictures are kept.',
    (
      'oldphoto detect scans -o found',
      'oldphoto detect scans -o found --threshold 0.8',
    ),
  )
  options.add_photos(parser)
  parser.add_argument(
    '--weights',
    metavar='WEIGHTS',
    help='weights file or run folder (default: built in)',
  )
  parser.add_argument(
    '--threshold',
    type=options.between(0, 1),
    metavar='T',
    help='write black and white masks: white where damage has probability T or more (default: gray '
    'levels encode the probability)',
  )
  parser.add_argument(
    '--tile',
    type=options.least(256),
    default=1024,
    metavar='N',
    help='split larger photos into tiles of N pixels; smaller needs less memory (default: 1024)',
  )
  options.add_cache(parser)
  parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
  from oldphoto_jax import weights
  from oldphoto_jax.restoring import detect

  detector = weights.load_detector(args.weights or weights.SHIPPED)
  todo = detect.plan(args.photos, args.output, overwrite=args.overwrite, part=options.part(args))
  summary = detect.detect_photos(
    detector,
    todo,
    threshold=args.threshold,
    tile=args.tile,
    progress=options.progress(todo, args.json, _damaged),
  )
  options.conclude(todo, summary, 'marked', args.json)
  return summary.exit_code


def _damaged(result) -> str:
  return f', {result.fields["damaged"]:.2%} damaged' if 'damaged' in result.fields else ''
