"""oldphoto verify."""

import argparse
import collections
import os
import sys
import typing

from oldphoto_jax.cli import options
from oldphoto_jax.errors import ExitStatus, OptionError

if typing.TYPE_CHECKING:
  from oldphoto_jax.restoring import manifest


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
  parser.add_argument('folder', metavar='OUT', help='the output folder')
  parser.add_argument(
    '--originals',
    metavar='FOLDER',
    help='where the folder of the originals is now (default: where it was)',
  )
  parser.add_argument('--no-originals', action='store_true', help='check the outputs alone')
  options.add_json(parser)
  parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
  from oldphoto_jax.photos import places
  from oldphoto_jax.restoring import manifest

  originals = args.originals and args.originals.rstrip('/')
  if originals and not places.is_remote(originals) and not os.path.isdir(originals):
    raise OptionError(f'{originals}: there is no such folder.')
  reports, folder = options.reports(args.folder), args.folder.rstrip('/')
  entries = manifest.merged(entry for report in reports for entry in report.photos)
  done = [entry for entry in entries if manifest.is_done(entry)]
  if not done:
    raise OptionError(
      f'{args.folder}: no {manifest.REPORT} in it names a photo; verify takes the output folder '
      'of a job of this version.'
    )
  counts = collections.Counter()
  for entry in done:
    for problem in manifest.check(folder, entry, originals, not args.no_originals, _identify):
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


def _identify(path: str) -> 'manifest.File | None':
  from oldphoto_jax.photos import places
  from oldphoto_jax.restoring import manifest, remote

  return remote.identify(path) if places.is_remote(path) else manifest.identify(path)
