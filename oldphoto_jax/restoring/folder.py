"""A job on photos and folders of photos, shared by restore, detect, degrade and Deep Image Prior.

The originals are only read. `plan` checks everything it can before anything is written. `run` does
the job and writes its manifest, see manifest.py; a bad photo does not stop it.
"""

import collections
import concurrent.futures
import dataclasses
import itertools
import os
import pathlib
import threading
import time
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from oldphoto_jax.errors import DiskFullError, ExitStatus, PhotoError, UserError, is_disk_full
from oldphoto_jax.photos import folders, formats, images, provenance
from oldphoto_jax.restoring import manifest

# Errors that may be caused by a photo rather than the program.
FAILURES = (UserError, MemoryError, jax.errors.JaxRuntimeError)
CHANGED = 'The original has changed since; --overwrite does it again.'
REPLACED = 'What was written has been changed since, and is kept as it is.'


@dataclasses.dataclass(frozen=True)
class Part:
  """Which of the photos a job does.

  Attributes:
    shard: only those of this part; None: all.
    only_failed: only those that failed in an earlier job on the same output folder.
  """

  shard: manifest.Shard | None = None
  only_failed: bool = False


WHOLE = Part()


@dataclasses.dataclass(frozen=True)
class Item:
  """One photo of a job."""

  path: pathlib.Path  # the original
  name: pathlib.PurePath  # below the folder that was given, or the file's name
  outputs: Mapping[str, pathlib.Path]  # the files to write, by their names in the report
  needed: tuple[pathlib.Path, ...] = ()  # those of the outputs that every photo has
  kept: bool = False  # nothing to do: all required outputs exist
  problem: str = ''  # why it cannot be processed
  size: tuple[int, int] | None = None  # height and width, if it is to be processed and readable

  @property
  def output(self) -> pathlib.Path:
    """The first of the outputs."""
    return next(iter(self.outputs.values()))

  def is_done(self) -> bool:
    """Whether all outputs that the photo needs exist now."""
    return bool(self.needed) and all(path.is_file() for path in self.needed)


@dataclasses.dataclass(frozen=True)
class Plan:
  """The work of a job.

  Attributes:
    items: the photos.
    out: folder of the outputs.
    folder: folder of the report.
    overwrite: whether existing outputs are replaced.
    shard: the part of the photos that the items are; None: all.
    left: number of photos found that are neither done nor in this job, see Part.only_failed.
    skipped: what is no photo, and why.
  """

  items: tuple[Item, ...]
  out: pathlib.Path
  folder: pathlib.Path
  overwrite: bool = False
  shard: manifest.Shard | None = None
  left: int = 0
  skipped: tuple[folders.Skipped, ...] = ()

  @property
  def report(self) -> pathlib.Path:
    """The path of the report."""
    return self.folder / manifest.report_name(self.shard)

  @property
  def sizes(self) -> list[tuple[int, int]]:
    """Height and width of the photos to process."""
    return [item.size for item in self.items if item.size]


@dataclasses.dataclass(frozen=True)
class Done:
  """A photo whose outputs have been written.

  Attributes:
    size: height and width.
    warnings: sentences.
    fields: further fields of its report entry, as JSON values by name.
  """

  size: tuple[int, int] | None
  warnings: tuple[str, ...] = ()
  fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Result:
  """The outcome for one photo: an entry of the manifest.

  Attributes:
    input: the path of the original.
    status: 'kept', 'failed', or the job's word for success.
    outputs: as Item.outputs; None for a file that does not exist.
    name: as Item.name.
    message: why it failed.
    warnings: sentences.
    seconds: how long it took.
    size: height and width.
    files: what identifies the original and the outputs, by the names of the manifest.
    fields: of Done.
    run: identifies the weights and settings of the outputs; None if they are unknown.
    time: when the outputs were made, or the photo failed.
  """

  input: str
  status: str
  outputs: Mapping[str, str | None]
  name: str = ''
  message: str = ''
  warnings: tuple[str, ...] = ()
  seconds: float = 0.0
  size: tuple[int, int] | None = None
  files: Mapping[str, manifest.File | None] = dataclasses.field(default_factory=dict)
  fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  run: str | None = None
  time: str = ''

  @property
  def output(self) -> str | None:
    """The first of the outputs."""
    return next(iter(self.outputs.values()))

  def entry(self, folder: pathlib.Path) -> manifest.Entry:
    """The result as JSON values, for the report in `folder`."""
    entry = {'name': self.name, 'status': self.status}
    paths = {'input': os.path.abspath(self.input)}
    for key, path in self.outputs.items():
      paths[key] = path and pathlib.PurePath(os.path.relpath(path, folder)).as_posix()
    for key, path in paths.items():
      file = self.files.get(key)
      entry |= {
        key: path,
        f'{key}_bytes': file and file.bytes,
        f'{key}_sha256': file and file.sha256,
      }
    entry |= {'message': self.message, 'warnings': list(self.warnings)}
    entry |= {'seconds': round(self.seconds, 3), 'size': self.size, 'run': self.run}
    return entry | {'time': self.time} | dict(self.fields)


@dataclasses.dataclass(frozen=True)
class Summary:
  """The outcomes for all photos, in the order in which they were found."""

  results: tuple[Result, ...]
  run: str | None = None  # identifies the weights and settings of this job

  @property
  def made_otherwise(self) -> int:
    """Number of kept photos that are known to have been made with other weights or settings."""
    return sum(result.run not in (None, self.run) for result in self.results)

  def count(self, status: str) -> int:
    return sum(result.status == status for result in self.results)

  @property
  def exit_code(self) -> ExitStatus:
    return ExitStatus.SOME_FAILED if self.count('failed') else ExitStatus.OK


# Before -----------------------------------------------------------------------------------------


def plan(
  paths: Iterable[str | os.PathLike],
  out: str | os.PathLike,
  outputs: Callable[[pathlib.PurePath], Mapping[str, pathlib.PurePath]],
  *,
  also: Callable[[pathlib.PurePath], Mapping[str, pathlib.PurePath]] = lambda name: {},
  folder: str | os.PathLike | None = None,
  overwrite: bool = False,
  part: Part = WHOLE,
  skip: Iterable[pathlib.Path] = (),
) -> Plan:
  """Checks the photos and the places of their outputs. Writes nothing.

  If some file systems treat two names as equal, such as A.jpg and a.jpg, only the first is
  processed. The header of each photo to process is read once, for its size.

  Args:
    paths: photos and folders of photos, as for folders.find_photos.
    out: the output folder. It is skipped if it lies inside an input folder.
    outputs: a photo's path below its folder -> its outputs' names in the report and paths below
      `out`. A photo whose outputs all exist is kept.
    also: optional outputs, which are not needed to keep a photo.
    folder: folder of the report; `out` by default.
    overwrite: whether to replace existing outputs; then nothing is kept.
    part: which of the photos to do.
    skip: folders below `paths` that hold no photos, such as that of the masks.

  Raises:
    PhotoError: there is no photo, an output would replace an original, a folder cannot be
      written, or there is no report that could say what has failed.
  """
  out = pathlib.Path(out)
  folder = out if folder is None else pathlib.Path(folder)
  for place in (out, folder):
    _check_folder(place)
  found = folders.find(paths, skip=(folder, *skip))
  folders.warn(found.skipped)
  originals = {os.path.realpath(path) for path, _ in found.photos}
  failed = _failed_before(folder) if part.only_failed else ()
  items, taken, left = [], {}, 0
  for path, name in found.photos:
    needed = {key: out / output for key, output in outputs(name).items()}
    every = needed | {key: out / output for key, output in also(name).items()}
    problem = ''
    for output in every.values():
      same_file = output.exists() and output.samefile(path)
      if same_file or os.path.realpath(output) in originals:
        raise PhotoError(
          f'{output}: the output would replace an original; choose another output folder.'
        )
      key = unicodedata.normalize('NFC', str(output)).casefold()
      if (first := taken.setdefault(key, path)) is not path:
        problem = f'{path}: its output would have the same name as that of {first}; rename one.'
    if part.shard is not None and not part.shard.holds(name):
      continue  # only now: names must differ from those of all photos, and no original is replaced
    item = Item(path, name, every, tuple(needed.values()), problem=problem)
    kept = not problem and not overwrite and item.is_done()
    if part.only_failed and not kept and os.path.abspath(path) not in failed:
      left += 1
      continue
    size = None if problem or kept else images.size_or_none(path)
    items.append(dataclasses.replace(item, kept=kept, size=size))
  return Plan(tuple(items), out, folder, overwrite, part.shard, left, tuple(found.skipped))


def _failed_before(folder: pathlib.Path) -> set[str]:
  """The originals that failed, by the reports in a folder."""
  reports = manifest.read(folder)
  if not reports:
    raise PhotoError(f'{folder}: there is no {manifest.REPORT} that says what has failed.')
  entries = manifest.merged(entry for report in reports for entry in report.photos)
  return {entry['input'] for entry in entries if not manifest.is_done(entry)}


def like_original(name: pathlib.PurePath) -> pathlib.PurePath:
  """The path of a restored photo: that of its original, or NAME.gif.png if it is only read."""
  # 256 colours are too few for a photo. The whole name is kept, as there may also be a NAME.png.
  form = formats.FORMATS.get(name.suffix.lower())
  return name.with_name(f'{name.name}.png') if form not in formats.WRITTEN else name


def _check_folder(folder: pathlib.Path) -> None:
  if folder.exists() and not folder.is_dir():
    raise PhotoError(f'{folder}: the output must be a folder, but this is a file.')
  place = folder.absolute()
  while not os.path.exists(place):
    place = place.parent
  if not place.is_dir():
    raise PhotoError(f'{folder}: the folder cannot be made, as {place} is a file.')
  if not os.access(place, os.W_OK):
    raise PhotoError(f'{folder}: cannot write to this folder; choose another.')


# The job ----------------------------------------------------------------------------------------


def run(
  plan: Plan,
  work: Callable[[Iterable[Item]], Iterator[tuple[Item, Done | Exception, float]]],
  made_by: Mapping[str, Any],
  done: str,
  too_large: str,
  *,
  progress: Callable[[int, int, Result], None] | None = None,
) -> Summary:
  """Does a job and writes its manifest, even if it is interrupted.

  Kept photos come first, so that a resumed job shows its progress at once. What an earlier report
  says of them is kept with them, if it describes exactly these files.

  Args:
    plan: of `plan`.
    work: photos to process -> (photo, outcome, seconds) of each, in any order: see `each`. An
      outcome is a Done, or an error of FAILURES.
    made_by: what the photos depend on, such as weights and settings, as JSON values. It is part of
      the head of the report.
    done: the status of a processed photo.
    too_large: advice in case of too little memory.
    progress: called after each photo with (photos done, total, result).

  Raises:
    PhotoError: a folder cannot be made, or another job is writing the same report.
    DiskFullError: the disk is full; what is done is kept.
  """
  for place in (plan.out, plan.folder):
    images.make_folder(place)
  made_by = {'software': manifest.SOFTWARE, **made_by}
  inputs = [os.path.abspath(item.path) for item in plan.items]
  results, elsewhere = {}, []

  def waiting() -> Iterator[Item]:
    for item in plan.items:
      if item.problem or item.kept:
        continue
      if not plan.overwrite and item.is_done():  # another job on this folder has done it meanwhile
        elsewhere.append(item)
      else:
        yield item

  def each_result(journal: manifest.Journal) -> Iterator[Result]:
    for item in plan.items:
      if item.problem:
        yield _failed(item, PhotoError(item.problem), 0.0, too_large)
      elif item.kept:
        yield _kept(item, plan, journal)
    for item, end, seconds in work(waiting()):
      if isinstance(end, Done):
        yield _finished(item, end, done, seconds, journal.run)
      elif is_disk_full(end):
        raise end  # so will all others; told below
      else:
        yield _failed(item, end, seconds, too_large)
    for item in elsewhere:
      yield _kept(item, plan, journal)

  try:
    with manifest.journal(
      plan.folder, plan.shard, made_by, inputs, done, plan.left, plan.skipped
    ) as journal:
      for result in each_result(journal):
        results[result.input] = result
        journal.add(result.entry(plan.folder))
        if progress is not None:
          progress(len(results), len(plan.items), result)
  except PhotoError as error:
    if is_disk_full(error):
      finished = sum(result.status != 'failed' for result in results.values())
      raise DiskFullError(
        f'{plan.out}: the disk is full. Photos done: {finished}; make room, and run the same '
        'command again.'
      ) from error
    raise
  return Summary(tuple(results[str(item.path)] for item in plan.items), journal.run)


def each(
  one: Callable[[Item], Done],
) -> Callable[[Iterable[Item]], Iterator[tuple[Item, Done | Exception, float]]]:
  """The `work` of a job that processes one photo after the other.

  `one` reads a photo and writes its outputs. It may raise the errors in FAILURES.
  """

  def work(items: Iterable[Item]) -> Iterator[tuple[Item, Done | Exception, float]]:
    for item in items:
      yield item, *_attempt(one, item)

  return work


def staged(
  read: Callable[[Item], Any],
  compute: Callable[[Item, Any, threading.Event], Any],
  finish: Callable[[Item, Any], Done],
) -> Callable[[Iterable[Item]], Iterator[tuple[Item, Done | Exception, float]]]:
  """The `work` of a job whose photos overlap: one is read and one written while one is computed.

  Photos begin and end in their order, and at most three are held at once. Each of the functions may
  raise the errors in FAILURES. An error or an interruption stops the job: what is written is
  written, and what is computed is given up.

  Args:
    read: photo -> its content. Runs in a thread.
    compute: (photo, content, stop) -> the result, which is not yet written. Runs in a thread, and
      should raise any error soon after `stop` is set.
    finish: (photo, result) -> what was written. Runs in the thread of the caller, whom Ctrl-C
      reaches at once.
  """

  def work(items: Iterable[Item]) -> Iterator[tuple[Item, Done | Exception, float]]:
    stop = threading.Event()
    reader, computer = (concurrent.futures.ThreadPoolExecutor(1) for _ in range(2))

    def computed(item, reading):
      content, seconds = reading.result()
      if isinstance(content, Exception):
        return content, seconds
      result, more = _attempt(compute, item, content, stop)
      return result, seconds + more

    def begun() -> Iterator[tuple[Item, concurrent.futures.Future]]:
      for item in items:
        reading = reader.submit(_attempt, read, item)
        yield item, computer.submit(computed, item, reading)

    coming = begun()
    try:
      ahead = collections.deque(itertools.islice(coming, 2))
      while ahead:
        item, computing = ahead.popleft()
        end, seconds = computing.result()
        ahead.extend(itertools.islice(coming, 1))  # is read while this one is written
        if not isinstance(end, Exception):
          end, more = _attempt(finish, item, end)
          seconds += more
        yield item, end, seconds
    finally:
      stop.set()
      for pool in (computer, reader):
        pool.shutdown(cancel_futures=True)

  return work


def _attempt(function: Callable, *args: Any) -> tuple[Any, float]:
  """What a function gives, or an error of FAILURES; and how many seconds it took."""
  start = time.perf_counter()
  try:
    end = function(*args)
  except FAILURES as error:
    end = error
  return end, time.perf_counter() - start


def _finished(item: Item, end: Done, status: str, seconds: float, run: str | None) -> Result:
  written = {key: path if path.is_file() else None for key, path in item.outputs.items()}
  paths = {'input': item.path} | {key: path for key, path in written.items() if path is not None}
  return Result(
    str(item.path),
    status,
    {key: path and str(path) for key, path in written.items()},
    item.name.as_posix(),
    warnings=end.warnings,
    seconds=seconds,
    size=end.size,
    files={key: manifest.identify(path) for key, path in paths.items()},
    fields=end.fields,
    run=run,
    time=manifest.now(),
  )


_COMMON = frozenset(field.name for field in dataclasses.fields(Result))


def _kept(item: Item, plan: Plan, journal: manifest.Journal) -> Result:
  """The result of a kept photo, with what is known of it if its outputs are still the same."""
  relative = pathlib.PurePath(os.path.relpath(item.output, plan.folder)).as_posix()
  entry = journal.earlier.get(relative)
  outputs = item.outputs
  same = entry is not None and all(
    manifest.unchanged(path, entry, key) for key, path in outputs.items() if entry.get(key)
  )
  if not same:
    warnings = () if entry is None else (REPLACED,)
    return _finished(item, Done(None, warnings), 'kept', 0.0, None)
  names = (*outputs, 'input')
  known = {f'{name}{end}' for name in names for end in ('', '_bytes', '_sha256')} | _COMMON
  warnings = tuple(w for w in entry['warnings'] if w != CHANGED)
  if not manifest.unchanged(item.path, entry, 'input'):
    warnings += (CHANGED,)
  return Result(
    str(item.path),
    'kept',
    {key: str(path) if entry.get(key) else None for key, path in outputs.items()},
    item.name.as_posix(),
    warnings=warnings,
    seconds=entry['seconds'],
    size=entry['size'] and tuple(entry['size']),
    files={
      name: manifest.File(entry[f'{name}_bytes'], entry[f'{name}_sha256'])
      for name in names
      if entry.get(f'{name}_sha256')
    },
    fields={key: value for key, value in entry.items() if key not in known},
    run=entry['run'],
    time=entry['time'],
  )


def _failed(item: Item, error: Exception, seconds: float, too_large: str) -> Result:
  """The result of a photo that failed. Raises the error if it is not about the photo."""
  message = str(error)
  if isinstance(error, MemoryError):
    message = f'there is not enough memory for this photo; {too_large}.'
  elif isinstance(error, jax.errors.JaxRuntimeError):
    if 'RESOURCE_EXHAUSTED' not in message:
      raise error
    message = f'the device does not have enough memory for this photo; {too_large}.'
  if not message.startswith((str(item.path), *map(str, item.outputs.values()))):
    message = f'{item.path}: {message}'
  return Result(
    str(item.path),
    'failed',
    dict.fromkeys(item.outputs),
    item.name.as_posix(),
    message,
    seconds=seconds,
    time=manifest.now(),
  )


def write(todo: Plan, photo: images.Photo, output: pathlib.Path) -> None:
  """Writes an output of a photo. One that an interrupted or another run has written is kept."""
  images.make_folder(output.parent)
  if not todo.overwrite and output.exists():
    return
  try:
    images.write(photo, output, overwrite=todo.overwrite)
  except PhotoError:
    if todo.overwrite or not output.is_file():
      raise


# What a photo says of itself. Paths of masks and the like are nobody else's business.
_TOLD = ('weights', 'weights_sha256', 'strength', 'only_damage', 'find', 'tone', 'descreen')


def with_history(
  after: images.Photo, before: images.Photo, filled: bool, made_by: Mapping[str, Any]
) -> tuple[images.Photo, tuple[str, ...]]:
  """A restored photo that says how it was made, in its XMP data: see provenance.py.

  Args:
    after: the restored photo. If no pixel has changed, it says nothing.
    before: the original.
    filled: whether parts of it are made up.
    made_by: as for `run`.

  Returns:
    The photo, and a warning if there is no place for it.
  """
  if after.format == 'BMP' or np.array_equal(after.pixels, before.pixels):
    return after, ()  # BMP has no metadata
  source = provenance.FILLED if filled else provenance.ENHANCED
  parameters = '; '.join(f'{name}={made_by[name]}' for name in _TOLD if name in made_by)
  xmp = provenance.add(before.xmp, provenance.Event(source, manifest.SOFTWARE, parameters))
  if xmp is None:
    return after, ('Its XMP data is damaged, so its history could not be added.',)
  if after.format == 'JPEG' and len(xmp) > provenance.JPEG_MOST:
    return after, ('Its XMP data leaves no room for its history.',)
  return dataclasses.replace(after, xmp=xmp), ()


def changed_name(item: Item, photo: images.Photo) -> tuple[str, ...]:
  """A warning if the format of the output differs from that of the original."""
  if item.output.suffix == item.path.suffix:
    return ()
  return (f'{item.path.suffix} files are only read; written as {item.output.name}.',)


def compressed_again(photo: images.Photo) -> tuple[str, ...]:
  """A warning if only the damage of a photo is filled, but its format is lossy."""
  if photo.format not in ('JPEG', 'WEBP') or photo.lossless:
    return ()
  return (
    f'{photo.format} is compressed again, which slightly changes pixels outside the damage; '
    'as PNG or TIFF they would stay the same.',
  )
