"""The manifest of an output folder, report.json: what was made of which original, by what.

While a job runs, it appends a line for each photo to a hidden journal. At its end, the journal
becomes the report. So a kill at any moment loses no more than the photo in work, and the report of
a million photos is not written again and again. A shard has a report and a journal of its own, so
that two machines never write the same file.

An entry of a report is a dict of JSON values. Each file that it names, under a key such as `input`
or `output`, also has KEY_bytes and KEY_sha256. Paths of originals are absolute, those of outputs
are relative to the folder of the report, which can therefore be moved.
"""

import contextlib
import csv
import dataclasses
import datetime
import errno
import hashlib
import io
import json
import logging
import os
import pathlib
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import filelock

import oldphoto_jax
from oldphoto_jax.errors import PhotoError
from oldphoto_jax.photos import images

SCHEMA = 1  # grows when a field changes its meaning or goes away, not when one is added
REPORT = 'report.json'
SOFTWARE = f'oldphoto_jax {oldphoto_jax.__version__}'

Entry = dict[str, Any]

_log = logging.getLogger(__name__)


class Shard(NamedTuple):
  """A part of the photos: number K, from 1, of N."""

  number: int
  count: int

  def holds(self, name: pathlib.PurePath) -> bool:
    """Whether a photo belongs to this part. Depends on its name below its folder alone."""
    # Composed and decomposed accents are the same name: macOS and Linux store them differently.
    text = unicodedata.normalize('NFC', name.as_posix()).encode('utf-8', 'surrogateescape')
    return int.from_bytes(hashlib.sha256(text).digest()[:8]) % self.count == self.number - 1

  def __str__(self) -> str:
    return f'{self.number}/{self.count}'


class File(NamedTuple):
  """What identifies the content of a file."""

  bytes: int
  sha256: str


@dataclasses.dataclass(frozen=True)
class Report:
  """A report, or what a job that runs or was killed has left of one.

  Attributes:
    file: the path of the report.
    head: what it says beside its photos.
    photos: its entries.
    ended: whether the last job came to its end or could at least write its report.
  """

  file: pathlib.Path
  head: Mapping[str, Any]
  photos: Sequence[Entry]
  ended: bool


def report_name(shard: Shard | None) -> str:
  """The file name of the report of a part, or of a job on all photos."""
  return REPORT if shard is None else f'report-{shard.number}-of-{shard.count}.json'


def is_done(entry: Entry) -> bool:
  """Whether the photo has its outputs, made by this job or before."""
  return entry['status'] != 'failed'


def files(entry: Entry) -> Iterator[str]:
  """The keys of an entry that name files which exist: `input` and those of the outputs."""
  for key, value in entry.items():
    if value is not None and entry.get(f'{key}_sha256') is not None:
      yield key


def identify(path: str | os.PathLike) -> File | None:
  """Size and hash of a file, or None if it cannot be read."""
  try:
    with open(path, 'rb') as file:
      return File(os.fstat(file.fileno()).st_size, hashlib.file_digest(file, 'sha256').hexdigest())
  except OSError:
    return None


def unchanged(path: pathlib.Path, entry: Entry, key: str) -> bool:
  """Whether a file is still the one that an entry describes.

  A file of the same size that was not written since is believed without being read, so that a
  resumed job need not read an archive; `verify` reads all.
  """
  try:
    stat = path.stat()
  except OSError:
    return False
  if stat.st_size != entry.get(f'{key}_bytes'):
    return False
  if stat.st_mtime <= datetime.datetime.fromisoformat(entry['time']).timestamp():
    return True
  known = identify(path)
  return known is not None and known.sha256 == entry.get(f'{key}_sha256')


def now() -> str:
  """The time, UTC, in ISO 8601 with milliseconds."""
  return datetime.datetime.now(datetime.UTC).isoformat(timespec='milliseconds')


def run_id(made_by: Mapping[str, Any]) -> str:
  """Eight digits that identify weights and settings."""
  return hashlib.sha256(json.dumps(made_by, sort_keys=True).encode()).hexdigest()[:8]


# Reading ----------------------------------------------------------------------------------------


def read(folder: pathlib.Path) -> list[Report]:
  """All reports in a folder, those of shards included.

  Raises:
    PhotoError: there is no folder, or a report cannot be used.
  """
  if not folder.is_dir():
    raise PhotoError(f'{folder}: there is no such folder.')
  names = {REPORT} | {path.name for path in folder.glob('report-*-of-*.json')}
  names |= {_journaled(path.name) for path in folder.glob('.report*.journal')}
  pattern = re.compile(r'report(-\d+-of-\d+)?\.json')
  found = (read_one(folder, name) for name in sorted(names) if pattern.fullmatch(name))
  return [report for report in found if report is not None]


def read_one(folder: pathlib.Path, name: str) -> Report | None:
  """The report of that name together with its journal; None if there is neither.

  Raises:
    PhotoError: it is not a report, or one of a later version.
  """
  path, journal = folder / name, folder / _journal(name)
  head, photos, ended = {}, [], True
  try:
    content = json.loads(path.read_bytes()) if path.exists() else None
  except (OSError, ValueError) as error:
    raise PhotoError(
      f'{path}: the report cannot be read ({images.reason(error)}); move it away.'
    ) from error
  if content is not None:
    if not isinstance(content, dict) or 'photos' not in content:
      raise PhotoError(f'{path}: this is no report of oldphoto; choose another output folder.')
    if content.get('schema', 0) > SCHEMA:
      raise PhotoError(f'{path}: the report is of a later version of oldphoto; use that version.')
    if 'schema' in content:  # those of version 0.1 have no hashes of originals
      photos = content.pop('photos')
      head = content
  lines = _lines(journal)
  if not lines and content is None:
    return None
  if lines:
    ended = False
    left = lines[0].get('total', 0) - (len(lines) - 1)
    runs = head.get('runs', {}) | lines[0].get('runs', {})
    head = head | lines[0] | {'runs': runs, 'left': left}
    photos = merged([*photos, *lines[1:]])
  return Report(path, head, photos, ended)


def merged(entries: Iterable[Entry]) -> list[Entry]:
  """Each original and each output once, with the newest entry that it has."""
  by_input = {}
  for entry in sorted(entries, key=lambda entry: entry['time']):
    by_input.pop(entry['input'], None)
    by_input[entry['input']] = entry
  newest = {first_output(entry): entry for entry in by_input.values() if is_done(entry)}
  return [e for e in by_input.values() if not is_done(e) or newest[first_output(e)] is e]


def first_output(entry: Entry) -> str | None:
  """The path of the first output, relative to the folder of the report."""
  return next((entry[key] for key in files(entry) if key != 'input'), None)


def _journal(name: str) -> str:
  return f'.{name}.journal'


def _journaled(name: str) -> str:
  return name.removeprefix('.').removesuffix('.journal')


def _lines(journal: pathlib.Path) -> list[dict]:
  """The lines of a journal: its head, then entries. The last one may be cut off."""
  lines = []
  with contextlib.suppress(FileNotFoundError), journal.open('rb') as file:
    for line in file:
      try:
        lines.append(json.loads(line))
      except ValueError:
        break
  return lines


# Writing ----------------------------------------------------------------------------------------


class Journal:
  """The report in the making, see `journal`.

  Attributes:
    run: identifies the weights and settings of this job.
    earlier: entries of earlier jobs by their first output.
  """

  def __init__(
    self,
    folder: pathlib.Path,
    shard: Shard | None,
    made_by: Mapping[str, Any],
    inputs: Sequence[str],
    done: str,
    left: int,
    skipped: Iterable[tuple[pathlib.Path, str]],
  ):
    self._folder, self._name = folder, report_name(shard)
    self._inputs, self._done = inputs, done
    self.run = run_id(made_by)
    own = read_one(folder, self._name)
    self._own = [] if own is None else list(own.photos)
    self._head = {
      'schema': SCHEMA,
      **made_by,
      'shard': None if shard is None else str(shard),
      'total': len(inputs) + left,
      'skipped': [{'path': str(path), 'why': why} for path, why in skipped],
      'started': now(),
      'run': self.run,
      'runs': ({} if own is None else dict(own.head.get('runs', {}))) | {self.run: dict(made_by)},
    }
    if own is not None and not own.ended:  # what a killed job did is now in the report
      head = {key: value for key, value in own.head.items() if key != 'left'}
      self._write(head, self._own, [], own.head['left'])
    self.earlier = self._earlier(shard)
    self._new = {}
    self._path = folder / _journal(self._name)
    images.write_bytes(self._path, json.dumps(self._head).encode() + b'\n', overwrite=True)

  def _earlier(self, shard: Shard | None) -> dict[str, Entry]:
    """What other reports know of photos that this job may meet."""
    known = list(self._own)
    for path in self._folder.glob('report*.json'):
      same = shard is not None and path.name.endswith(f'-of-{shard.count}.json')
      if path.name == self._name or same:  # the other parts of a million photos are not read
        continue
      with contextlib.suppress(PhotoError):  # not ours
        other = read_one(self._folder, path.name)
        known += other.photos
        self._head['runs'] = other.head.get('runs', {}) | self._head['runs']
    return {first_output(entry): entry for entry in merged(known) if is_done(entry)}

  def add(self, entry: Entry) -> None:
    """Notes what became of a photo."""
    self._new[entry['input']] = entry
    try:
      with self._path.open('ab') as file:
        file.write(json.dumps(entry).encode() + b'\n')
    except OSError as error:
      raise PhotoError(
        f'{self._path}: the file could not be written ({images.reason(error)}).'
      ) from error

  def finish(self) -> None:
    """Writes the report, and removes the journal."""
    # Not all that was read of others is needed.
    used = {entry['run'] for entry in (*self._own, *self._new.values())} | {self.run}
    runs = {run: made_by for run, made_by in self._head['runs'].items() if run in used}
    left = self._head['total'] - len(self._new)
    new = [self._new[path] for path in self._inputs if path in self._new]
    self._write(self._head | {'runs': runs, 'ended': now()}, self._own, new, left)
    self._path.unlink(missing_ok=True)

  def _write(self, head: Mapping, old: Iterable[Entry], new: list[Entry], left: int) -> None:
    """Writes report.json and report.csv, each completely or not at all."""
    inputs, names = ({entry[key] for entry in new} for key in ('input', 'name'))
    outputs = {first_output(entry) for entry in new if is_done(entry)}

    def stays(entry: Entry) -> bool:
      """Whether it is of another photo that was made into this folder, or failed to be."""
      if entry['input'] in inputs:
        return False
      if is_done(entry):
        return first_output(entry) not in outputs
      # Who has deleted a bad photo has mended it.
      return entry['name'] not in names and os.path.exists(entry['input'])

    rest = [entry for entry in old if stays(entry)]
    photos = new + rest
    counts = {status: 0 for status in (self._done, 'kept', 'failed')}
    for entry in photos:
      counts[entry['status']] = counts.get(entry['status'], 0) + 1
    report = {**head, **counts, 'left': left, 'photos': photos}
    path = self._folder / self._name
    images.write_bytes(path, json.dumps(report, indent=2).encode(), overwrite=True)
    images.write_bytes(path.with_suffix('.csv'), table(photos), overwrite=True)


@contextlib.contextmanager
def journal(
  folder: pathlib.Path,
  shard: Shard | None,
  made_by: Mapping[str, Any],
  inputs: Sequence[str],
  done: str,
  left: int = 0,
  skipped: Iterable[tuple[pathlib.Path, str]] = (),
) -> Iterator[Journal]:
  """The report of a job, which is written however the job ends.

  Args:
    folder: the folder of the report.
    shard: the part of the photos that the job does.
    made_by: software, weights and settings, as JSON values.
    inputs: the absolute paths of the originals that it will do or keep, in the order of the report.
    done: the status of a photo that it has processed.
    left: the number of further photos, which it has found but will not do.
    skipped: the paths that are no photos, and why.

  Raises:
    PhotoError: another job is writing this report, or it cannot be written.
  """
  name = report_name(shard)
  lock = filelock.FileLock(folder / f'.{name}.lock', timeout=0)
  try:
    lock.acquire()
  except filelock.Timeout as error:
    raise PhotoError(
      f'{folder}: another run is writing {name}; wait for its end, or give each run a part of the '
      'photos with --shard.'
    ) from error
  except OSError as error:
    if error.errno not in (errno.ENOLCK, errno.ENOTSUP):
      raise PhotoError(
        f'{folder}: cannot write to this folder ({images.reason(error)}).'
      ) from error
    _log.warning('%s: this file system has no locks; let no two runs write %s.', folder, name)
  try:
    made = Journal(folder, shard, made_by, inputs, done, left, skipped)
    try:
      yield made
    except BaseException:
      with contextlib.suppress(PhotoError):  # the disk is full: the journal stays for the next run
        made.finish()
      raise
    made.finish()
  finally:
    lock.release()


def table(photos: Sequence[Entry]) -> bytes:
  """The entries as CSV with a header; lists are joined by spaces."""
  columns = list(dict.fromkeys(key for entry in photos for key in entry))
  text = io.StringIO()
  writer = csv.writer(text)
  writer.writerow(columns)
  for entry in photos:
    values = (entry.get(column) for column in columns)
    writer.writerow([' '.join(map(str, v)) if isinstance(v, list | tuple) else v for v in values])
  return text.getvalue().encode('utf-8', 'surrogateescape')


# Checking ---------------------------------------------------------------------------------------


class Problem(NamedTuple):
  """A file that is not as the manifest says."""

  file: str
  problem: str  # 'missing', 'changed', 'original missing' or 'original changed'


def check(
  folder: str,
  entry: Entry,
  originals: str | None,
  with_originals: bool = True,
  identify: Callable[[str], File | None] = identify,
) -> list[Problem]:
  """Reads the files of an entry, and compares them with their hashes.

  Args:
    folder: the folder of the report.
    entry: of a photo that is done.
    originals: where the folder of the originals is now, if it was moved.
    with_originals: whether originals are read, too.
    identify: reads a file.
  """
  found = []
  for key in files(entry):
    if key == 'input':
      if not with_originals:
        continue
      path = entry[key] if originals is None else f'{originals}/{entry["name"]}'
    else:
      path = f'{folder}/{entry[key]}'
    original = 'original ' if key == 'input' else ''
    now = identify(path)
    if now is None:
      found.append(Problem(path, f'{original}missing'))
    elif now.sha256 != entry[f'{key}_sha256']:
      found.append(Problem(path, f'{original}changed'))
  return found
