"""oldphoto serve."""

import argparse
import pathlib

from oldphoto_jax.cli import options
from oldphoto_jax.errors import OptionError


def add(verbs) -> None:
  parser = options.verb(
    verbs,
    'serve',
    'restore photos on a page in your browser',
    'Opens a page on this computer, where photos are looked at, restored, corrected with a brush, '
    'compared and saved. Nothing leaves the computer. The photos, and what was drawn on them, are '
    'kept until they are removed there.',
    (
      'oldphoto serve',
      'oldphoto serve scans -o restored',
      'oldphoto serve --host 0.0.0.0',
    ),
    usage='[PHOTOS...]',
  )
  parser.add_argument('photos', nargs='*', metavar='PHOTOS', help='photos, or folders of photos')
  parser.add_argument(
    '-o', '--output', type=pathlib.Path, metavar='OUT', help='the folder to which the page saves'
  )
  parser.add_argument(
    '--overwrite', action='store_true', help='replace files that exist in the output folder'
  )
  parser.add_argument(
    '--weights', metavar='WEIGHTS', help='weights file or run folder (default: built in)'
  )
  parser.add_argument(
    '--work',
    type=pathlib.Path,
    metavar='FOLDER',
    help='where uploaded photos, masks and results are kept (default: in your home)',
  )
  parser.add_argument(
    '--host',
    default='127.0.0.1',
    metavar='ADDRESS',
    help='0.0.0.0 lets other computers use the page, with a token (default: this one only)',
  )
  parser.add_argument(
    '--port', type=options.least(0), metavar='N', help='(default: 8765, or any that is free)'
  )
  parser.add_argument(
    '--minutes',
    type=options.least(1),
    default=60,
    metavar='N',
    help='time for one photo at most (default: 60)',
  )
  parser.add_argument(
    '--no-browser', dest='browser', action='store_false', help='only print the address'
  )
  options.add_cache(parser)
  parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
  try:
    import starlette  # noqa: F401
    import uvicorn  # noqa: F401
  except ImportError as error:
    raise OptionError(
      f"the page needs the package {error.name}: run pip install 'oldphoto_jax[web]'."
    ) from None
  print('Starting ...', flush=True)  # JAX takes a few seconds
  from oldphoto_jax import weights
  from oldphoto_jax.serving import server
  from oldphoto_jax.serving.limits import Limits

  return server.serve(
    args.photos,
    source=args.weights or weights.SHIPPED,
    out=args.output,
    overwrite=args.overwrite,
    work=args.work or server.default_work(),
    host=args.host,
    port=args.port,
    token=None,
    browser=args.browser,
    limits=Limits(seconds=60 * args.minutes),
  )
