"""oldphoto verify."""

import argparse
import collections
import pathlib
import sys

from oldphoto_jax.cli import options
from oldphoto_jax.errors import ExitStatus, OptionError


def add(verbs) -> None:
  parser = options.verb(
    verbs,
    'verify',
    'check an output folder against its report',
    'Reads all files that report.json names, and compares them with their hashes: outputs that are '
    'missing or changed, originals that are missing or changed. Changes nothing.',
    (
      'oldphoto verify restored',
      'oldphoto verify restored --originals /mnt/archive/scans',
      'oldphoto verify restored --no-originals --json',
    ),
    'OUT',
  )
  parser.add_argument('folder', metavar='OUT', type=pathlib.Path, help='the output folder')
  parser.add_argument(
    '--originals',
    metavar='FOLDER',
    type=pathlib.Path,
    help='where the folder of the originals is now (default: where it was)',
  )
  parser.add_argument('--no-originals', action='store_true', help='check the outputs alone')
  options.add_json(parser)
  parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
  from oldphoto_jax.restoring import manifest

  if args.originals is not None and not args.originals.is_dir():
    raise OptionError(f'{args.originals}: there is no such folder.')
  reports = manifest.read(args.folder)
  entries = manifest.merged(entry for report in reports for entry in report.photos)
  done = [entry for entry in entries if manifest.is_done(entry)]
  if not done:
    raise OptionError(
      f'{args.folder}: no {manifest.REPORT} in it names a photo; verify takes the output folder '
      'of a job of this version.'
    )
  counts = collections.Counter()
  for entry in done:
    for problem in manifest.check(args.folder, entry, args.originals, not args.no_originals):
      counts[problem.problem] += 1
      if args.json:
        options.emit({'event': 'problem', 'problem': problem.problem, 'file': problem.file})
      else:
        print(f'{problem.file}: {problem.problem}', file=sys.stderr)
  code = ExitStatus.SOME_FAILED if counts else ExitStatus.OK
  if args.json:
    options.emit({'event': 'end', 'photos': len(done), **counts, 'exit_code': int(code)})
  elif counts:
    print(f'{len(done)} photos: {", ".join(f"{n} {problem}" for problem, n in counts.items())}.')
  else:
    print(f'{len(done)} photos: all files are as the report says.')
  return code
