"""The command line as a whole: its verbs, errors as sentences, and exit codes."""

import argparse
import sys
import warnings

from PIL import Image

import oldphoto_jax
from oldphoto_jax.cli import convert, degrade, detect, dip, restore, serve
from oldphoto_jax.errors import ExitStatus, UserError


def main(argv: list[str] | None = None) -> int:
  """Runs the command line and returns an errors.ExitStatus.

  Errors that the user can fix become one sentence on stderr. Others keep their traceback.
  """
  for stream in (sys.stdout, sys.stderr):  # file names need not be valid Unicode
    if hasattr(stream, 'reconfigure'):
      stream.reconfigure(errors='backslashreplace')
  # Pillow warns about large photos, but images.read has its own limit.
  warnings.filterwarnings('ignore', category=Image.DecompressionBombWarning)
  args = parser().parse_args(argv)
  try:
    return args.run(args)
  except UserError as error:
    print(f'oldphoto: {error}', file=sys.stderr)
    return ExitStatus.NOTHING_DONE
  except KeyboardInterrupt:
    print('oldphoto: interrupted; the same command goes on from here.', file=sys.stderr)
    return ExitStatus.INTERRUPTED


def parser() -> argparse.ArgumentParser:
  """The parser of all verbs. Its results have the function `run`."""
  top = argparse.ArgumentParser(
    prog='oldphoto',
    description='Restores old photographs. Your originals are never changed.',
    epilog='Exit codes: 0 success; 1 some photos failed, the others are done; 2 nothing was done; '
    '130 interrupted. "oldphoto COMMAND --help" shows options and examples.',
  )
  version = f'oldphoto {oldphoto_jax.__version__}'
  top.add_argument('--version', action='version', version=version)
  verbs = top.add_subparsers(title='commands', required=True, metavar='COMMAND')
  for module in (restore, serve, dip, detect, degrade, convert):
    module.add(verbs)
  return top
