"""oldphoto status."""

import argparse
import collections
import pathlib
import typing
from typing import Any

from oldphoto_jax.cli import options
from oldphoto_jax.errors import ExitStatus, OptionError

if typing.TYPE_CHECKING:
  from oldphoto_jax.restoring import manifest


def add(verbs) -> None:
  parser = options.verb(
    verbs,
    'status',
    'tell what is done, failed and left in an output folder',
    'Reads the reports in an output folder, those of shards and of jobs that run or were killed '
    'included. Exit code 0 says that all is done, 1 that photos failed or are left.',
    (
      'oldphoto status restored',
      'oldphoto status restored --json',
    ),
    'OUT',
  )
  parser.add_argument('folder', metavar='OUT', help='the output folder')
  options.add_json(parser)
  parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
  from oldphoto_jax.restoring import manifest

  reports = options.reports(args.folder)
  if not reports:
    raise OptionError(
      f'{args.folder}: there is no {manifest.REPORT}; status takes the output folder of a job.'
    )
  entries = manifest.merged(entry for report in reports for entry in report.photos)
  failed = [entry for entry in entries if not manifest.is_done(entry)]
  jobs = [_job(report, entries) for report in reports]
  missing = _missing(reports)
  # Jobs on all photos and on shards, or on three and on four shards, may mean the same photos.
  partitions = collections.defaultdict(int)
  for job in jobs:
    partitions[(job['shard'] or '').partition('/')[2]] += job['left']
  left = max(partitions.values())
  code = ExitStatus.SOME_FAILED if failed or left or missing else ExitStatus.OK
  if args.json:
    options.emit(
      {
        'event': 'status',
        'schema': manifest.SCHEMA,
        'done': len(entries) - len(failed),
        'failed': len(failed),
        'left': left,
        'reports': jobs,
        'missing_shards': missing,
        'failures': [{'input': e['input'], 'message': e['message']} for e in failed],
        'exit_code': int(code),
      }
    )
    return code
  for job in jobs:
    if not job['ended']:
      print(f'{job["report"]}: {job["left"]} of {job["total"]} left; it runs or was stopped.')
    elif job['left']:
      print(f'{job["report"]}: {job["left"]} of {job["total"]} left; run the same command again.')
  if missing:
    print(f'Not begun: shard {", ".join(missing)}.')
  for entry in failed:
    print(entry['message'])
  print(f'{len(entries) - len(failed)} done, {len(failed)} failed, {left} left')
  return code


def _job(report: 'manifest.Report', entries: list['manifest.Entry']) -> dict[str, Any]:
  """What a report says. A photo is not left if another job has done it, see `entries`."""
  from oldphoto_jax.restoring import manifest

  own = {entry['input'] for entry in report.photos}
  text = report.head.get('shard')
  shard = manifest.Shard(*map(int, text.split('/'))) if text else None
  others = sum(
    entry['input'] not in own
    and (shard is None or shard.holds(pathlib.PurePosixPath(entry['name'])))
    for entry in entries
  )
  done = sum(map(manifest.is_done, report.photos))
  return {
    'report': report.file.name,
    'shard': text,
    'total': report.head.get('total', len(report.photos)),
    'done': done,
    'failed': len(report.photos) - done,
    'left': max(0, report.head.get('left', 0) - others),
    'ended': report.ended,
  }


def _missing(reports: list['manifest.Report']) -> list[str]:
  """The shards without a report, where another one of as many has one and no job did all."""
  from oldphoto_jax.restoring import manifest

  if any(report.file.name == manifest.REPORT for report in reports):
    return []
  shards = {report.head['shard'] for report in reports if report.head.get('shard')}
  counts = {int(shard.partition('/')[2]) for shard in shards}
  names = (f'{number}/{count}' for count in sorted(counts) for number in range(1, count + 1))
  return [name for name in names if name not in shards]
