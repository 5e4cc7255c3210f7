"""The command line as a whole: its verbs, errors as sentences, and exit codes."""

import argparse
import contextlib
import signal
import sys
import warnings
from collections.abc import Iterator

import oldphoto_jax
from oldphoto_jax.cli import (
  convert,
  degrade,
  detect,
  dip,
  export,
  options,
  restore,
  serve,
  status,
  verify,
)
from oldphoto_jax.errors import DiskFullError, ExitStatus, UserError


def main(argv: list[str] | None = None) -> int:
  """Runs the command line and returns an errors.ExitStatus.

  Errors that the user can fix become one sentence on stderr, and an event with --json. Others keep
  their traceback.
  """
  for stream in (sys.stdout, sys.stderr):  # file names need not be valid Unicode
    if hasattr(stream, 'reconfigure'):
      stream.reconfigure(errors='backslashreplace')
  args = parser().parse_args(argv)
  # Pillow warns about large photos, but images.read has its own limit. By the sentence, as Pillow's
  # class would have to be imported, here and for --help.
  warnings.filterwarnings('ignore', message=r'Image size \(\d+ pixels\) exceeds limit')
  if getattr(args, 'cache', False):
    from oldphoto_jax.restoring import compile_cache

    compile_cache.enable()
  try:
    with _terminable():
      return args.run(args)
  except UserError as error:
    full = isinstance(error, DiskFullError)
    code, sentence = ExitStatus.STOPPED if full else ExitStatus.NOTHING_DONE, str(error)
  except KeyboardInterrupt:
    code, sentence = ExitStatus.INTERRUPTED, 'interrupted; the same command goes on from here.'
  except Terminated:
    code, sentence = ExitStatus.STOPPED, 'stopped by SIGTERM; the same command goes on from here.'
  print(f'oldphoto: {sentence}', file=sys.stderr)
  if getattr(args, 'json', False):
    options.emit({'event': 'error', 'message': sentence, 'exit_code': int(code)})
  return code


class Terminated(BaseException):
  """SIGTERM, as KeyboardInterrupt is SIGINT: what runs can still write its report."""


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
  """Turns the first SIGTERM into Terminated. Later ones would only cut the report short."""

  def stop(*_):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise Terminated

  try:
    before = signal.signal(signal.SIGTERM, stop)
  except ValueError:  # not the main thread, which never gets a signal
    yield
    return
  try:
    yield
  finally:
    signal.signal(signal.SIGTERM, before)


def parser() -> argparse.ArgumentParser:
  """The parser of all verbs. Its results have the function `run`."""
  top = argparse.ArgumentParser(
    prog='oldphoto',
    description='Restores old photographs. Your originals are never changed.',
    epilog='Exit codes: 0 success; 1 some photos failed, the others are done; 2 nothing was done; '
    '75 stopped by SIGTERM or a full disk, 130 by Ctrl-C: the same command goes on. '
    '"oldphoto COMMAND --help" shows options and examples.',
  )
  version = f'oldphoto {oldphoto_jax.__version__}'
  top.add_argument('--version', action='version', version=version)
  verbs = top.add_subparsers(title='commands', required=True, metavar='COMMAND')
  for module in (restore, serve, dip, detect, degrade, status, verify, convert, export):
    module.add(verbs)
  return top
