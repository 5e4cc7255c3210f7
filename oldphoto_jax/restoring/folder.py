"""A job on photos and folders of photos, shared by restore, detect, degrade and Deep Image Prior.

The originals are only read. `plan` checks everything it can before anything is written. `run` does
the job and writes report.json; a bad photo does not stop it.
"""

import collections
import dataclasses
import hashlib
import json
import os
import pathlib
import time
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax

import oldphoto_jax
from oldphoto_jax.errors import ExitStatus, PhotoError, UserError
from oldphoto_jax.photos import folders, images

REPORT = 'report.json'
REPORT_EVERY = 30  # seconds between two writings of the report, which may have many entries
# Errors that may be caused by a photo rather than the program.
FAILURES = (UserError, MemoryError, jax.errors.JaxRuntimeError)


@dataclasses.dataclass(frozen=True)
class Item:
  """One photo of a job."""

  path: pathlib.Path  # the original
  name: pathlib.PurePath  # below the folder that was given, or the file's name
  outputs: Mapping[str, pathlib.Path]  # the files to write, by their names in the report
  kept: bool = False  # nothing to do: all required outputs exist
  problem: str = ''  # why it cannot be processed
  size: tuple[int, int] | None = None  # height and width, if it is to be processed and readable

  @property
  def output(self) -> pathlib.Path:
    """The first of the outputs."""
    return next(iter(self.outputs.values()))


@dataclasses.dataclass(frozen=True)
class Plan:
  """The work of a job.

  Attributes:
    items: the photos.
    out: folder of the outputs.
    folder: folder of the report.
    overwrite: whether existing outputs are replaced.
  """

  items: tuple[Item, ...]
  out: pathlib.Path
  folder: pathlib.Path
  overwrite: bool = False

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
  """The outcome for one photo: an entry of the report."""

  input: str
  status: str  # 'kept', 'failed', or the job's word for success
  outputs: Mapping[str, str | None]  # as Item.outputs; None if the file does not exist
  message: str = ''  # why it failed
  warnings: tuple[str, ...] = ()
  seconds: float = 0.0
  size: tuple[int, int] | None = None  # height, width
  sha256: str | None = None  # of the first output
  fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # of Done

  @property
  def output(self) -> str | None:
    """The first of the outputs."""
    return next(iter(self.outputs.values()))

  def entry(self) -> dict[str, Any]:
    """The result as JSON values for the report."""
    common = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
    fields, outputs = common.pop('fields'), common.pop('outputs')
    return {'input': self.input, **outputs, **common, **fields}


@dataclasses.dataclass(frozen=True)
class Summary:
  """The outcomes for all photos, in the order in which they were found."""

  results: tuple[Result, ...]

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

  Raises:
    PhotoError: there is no photo, an output would replace an original, or a folder cannot be
      written.
  """
  out = pathlib.Path(out)
  folder = out if folder is None else pathlib.Path(folder)
  for place in (out, folder):
    _check_folder(place)
  found = folders.find_photos(paths, skip=folder)
  originals = {os.path.realpath(path) for path, _ in found}
  items, taken = [], {}
  for path, name in found:
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
    kept = not problem and not overwrite and all(p.is_file() for p in needed.values())
    size = None if problem or kept else images.size_or_none(path)
    items.append(Item(path, name, every, kept, problem, size))
  return Plan(tuple(items), out, folder, overwrite)


def like_original(name: pathlib.PurePath) -> pathlib.PurePath:
  """The path of a restored photo: that of its original, except that a GIF becomes NAME.gif.png."""
  # 256 colours are too few for a photo. The whole name is kept, as there may also be a NAME.png.
  return name.with_name(f'{name.name}.png') if name.suffix.lower() == '.gif' else name


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
  work: Callable[[list[Item]], Iterator[tuple[Item, Done | Exception, float]]],
  report: Mapping[str, Any],
  done: str,
  too_large: str,
  *,
  kept: Callable[[Item, Result], Result] = lambda item, result: result,
  progress: Callable[[int, int, Result], None] | None = None,
) -> Summary:
  """Does a job and writes its report, even if it is interrupted.

  Kept photos come first, so that a resumed job shows its progress at once.

  Args:
    plan: of `plan`.
    work: photos to process -> (photo, outcome, seconds) of each, in any order: see `each`. An
      outcome is a Done, or an error of FAILURES.
    report: the head of the report, such as the weights that were used.
    done: the status of a processed photo.
    too_large: advice in case of too little memory.
    kept: extends the result of a kept photo.
    progress: called after each photo with (photos done, total, result).

  Raises:
    PhotoError: a folder cannot be made.
  """
  for place in (plan.out, plan.folder):
    images.make_folder(place)
  results, written = {}, time.monotonic()

  def write_report() -> Summary:
    summary = Summary(tuple(results[p] for i in plan.items if (p := str(i.path)) in results))
    _write_report(plan.folder / REPORT, report, done, summary)
    return summary

  def each_result() -> Iterator[Result]:
    for item in plan.items:
      if item.problem:
        yield _failed(item, PhotoError(item.problem), 0.0, too_large)
      elif item.kept:
        yield kept(item, _finished(item, Done(None), 'kept', 0.0))
    for item, end, seconds in work([i for i in plan.items if not i.problem and not i.kept]):
      if isinstance(end, Done):
        yield _finished(item, end, done, seconds)
      else:
        yield _failed(item, end, seconds, too_large)

  try:
    for result in each_result():
      results[result.input] = result
      if progress is not None:
        progress(len(results), len(plan.items), result)
      if time.monotonic() - written > REPORT_EVERY:  # a power cut then loses little
        write_report()
        written = time.monotonic()
  finally:
    summary = write_report()
  return summary


def each(
  one: Callable[[Item], Done],
) -> Callable[[list[Item]], Iterator[tuple[Item, Done | Exception, float]]]:
  """The `work` of a job that processes one photo after the other.

  `one` reads a photo and writes its outputs. It may raise the errors in FAILURES.
  """

  def work(items: list[Item]) -> Iterator[tuple[Item, Done | Exception, float]]:
    for item in items:
      start = time.perf_counter()
      try:
        end = one(item)
      except FAILURES as error:
        end = error
      yield item, end, time.perf_counter() - start

  return work


def _finished(item: Item, end: Done, status: str, seconds: float) -> Result:
  return Result(
    str(item.path),
    status,
    {name: str(path) if path.is_file() else None for name, path in item.outputs.items()},
    warnings=end.warnings,
    seconds=seconds,
    size=end.size,
    sha256=_sha256(item.output),
    fields=end.fields,
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
  nothing = dict.fromkeys(item.outputs)
  return Result(str(item.path), 'failed', nothing, message, seconds=seconds)


def write(todo: Plan, photo: images.Photo, output: pathlib.Path) -> None:
  """Writes an output of a photo. An output left by an interrupted run is kept."""
  images.make_folder(output.parent)
  if todo.overwrite or not output.exists():
    images.write(photo, output, overwrite=todo.overwrite)


def changed_name(item: Item, photo: images.Photo) -> tuple[str, ...]:
  """A warning if the format of the output differs from that of the original."""
  if item.output.suffix == item.path.suffix:
    return ()
  return (f'{photo.format} cannot hold a photo well; written as {item.output.name}.',)


def compressed_again(photo: images.Photo) -> tuple[str, ...]:
  """A warning if only the damage of a photo is filled, but its format is lossy."""
  if photo.format not in ('JPEG', 'WEBP') or photo.lossless:
    return ()
  return (
    f'{photo.format} is compressed again, which slightly changes pixels outside the damage; '
    'as PNG or TIFF they would stay the same.',
  )


def _write_report(path: pathlib.Path, head: Mapping[str, Any], done: str, summary: Summary) -> None:
  """Writes the report as JSON, completely or not at all."""
  counts = collections.Counter(result.status for result in summary.results)
  report = {
    'software': f'oldphoto_jax {oldphoto_jax.__version__}',
    **head,
    **{status: counts[status] for status in (done, 'kept', 'failed')},
    'photos': [result.entry() for result in summary.results],
  }
  images.write_bytes(path, json.dumps(report, indent=2).encode(), overwrite=True)


def _sha256(path: pathlib.Path) -> str:
  with path.open('rb') as file:
    return hashlib.file_digest(file, 'sha256').hexdigest()
