"""A job on photos and folders of photos: what restore, detect, degrade and Deep Image Prior share.

The originals are only read. `plan` looks at everything that can be wrong before anything is
written; `run` does the job, where one bad photo stops nothing, and writes report.json.
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
# What may be the fault of a photo, and not of the program.
FAILURES = (UserError, MemoryError, jax.errors.JaxRuntimeError)


@dataclasses.dataclass(frozen=True)
class Item:
  """One photo of a job."""

  path: pathlib.Path  # the original
  name: pathlib.PurePath  # below the folder that was given, or the file's name
  outputs: Mapping[str, pathlib.Path]  # what is written of it, by the report's name for it
  kept: bool = False  # nothing is to be done: all outputs that are needed are there
  problem: str = ''  # why it cannot be done
  size: tuple[int, int] | None = None  # height and width of one to be done, if it can be read

  @property
  def output(self) -> pathlib.Path:
    """The first of the outputs."""
    return next(iter(self.outputs.values()))


@dataclasses.dataclass(frozen=True)
class Plan:
  """What a job has to do.

  Attributes:
    items: the photos.
    out: folder of the outputs.
    folder: of the report.
    overwrite: whether outputs that exist are replaced.
  """

  items: tuple[Item, ...]
  out: pathlib.Path
  folder: pathlib.Path
  overwrite: bool = False

  @property
  def sizes(self) -> list[tuple[int, int]]:
    """Height and width of the photos to be done."""
    return [item.size for item in self.items if item.size]


@dataclasses.dataclass(frozen=True)
class Done:
  """What a job says of a photo whose outputs it has written.

  Attributes:
    size: height and width.
    warnings: sentences.
    fields: what else the report has of it, as JSON values by name.
  """

  size: tuple[int, int] | None
  warnings: tuple[str, ...] = ()
  fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Result:
  """What became of one photo: an entry of the report."""

  input: str
  status: str  # 'kept', 'failed', or the job's word for a photo that is done
  outputs: Mapping[str, str | None]  # as Item.outputs; None where there is no such file
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
    """The result as the report has it."""
    common = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
    fields, outputs = common.pop('fields'), common.pop('outputs')
    return {'input': self.input, **outputs, **common, **fields}


@dataclasses.dataclass(frozen=True)
class Summary:
  """What became of all photos, in the order in which they were found."""

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
  """Looks at the photos and at where their outputs go. Writes nothing.

  Of names that some file systems take for the same, such as A.jpg and a.jpg, only the first is
  done. Headers of photos to be done are read once, for their sizes.

  Args:
    paths: photos and folders of photos, as for folders.find_photos.
    out: the output folder; left out where it lies inside an input folder.
    outputs: a photo's path below its folder -> its outputs' names in the report and paths below
      `out`. A photo whose outputs all exist is kept.
    also: further outputs, which a photo may be kept without.
    folder: of the report; `out` by default.
    overwrite: keeps nothing.

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
  """The path of a restored photo: its original's, but a GIF becomes NAME.gif.png."""
  # 256 colours do not hold a photo. The whole name is kept: there may be a NAME.png as well.
  return name.with_name(f'{name.name}.png') if name.suffix.lower() == '.gif' else name


def _check_folder(folder: pathlib.Path) -> None:
  if folder.exists() and not folder.is_dir():
    raise PhotoError(f'{folder}: the output must be a folder, and this is a file.')
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
  """Does a job and writes its report, also when it is interrupted.

  Photos that are kept come first, so that a job which goes on says at once how far it was.

  Args:
    plan: of `plan`.
    work: the photos to be done -> (photo, how it ended, seconds) of each, in any order: see `each`.
      An end is what the job says of outputs that it has written, or an error of FAILURES.
    report: the head of the report, such as which weights were used.
    done: the status of a photo that is done.
    too_large: what helps where there is too little memory.
    kept: adds to the result of a photo that is kept.
    progress: called after each photo with (photos done, photos in all, result).

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
      if time.monotonic() - written > REPORT_EVERY:  # it survives even a power cut
        write_report()
        written = time.monotonic()
  finally:
    summary = write_report()
  return summary


def each(
  one: Callable[[Item], Done],
) -> Callable[[list[Item]], Iterator[tuple[Item, Done | Exception, float]]]:
  """The `work` of a job that does one photo after the other.

  `one` reads a photo and writes its outputs. It may raise what is in FAILURES.
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
  """The result of a photo that an error stopped; raises an error that is not about the photo."""
  message = str(error)
  if isinstance(error, MemoryError):
    message = f'there is not enough memory for this photo; {too_large}.'
  elif isinstance(error, jax.errors.JaxRuntimeError):
    if 'RESOURCE_EXHAUSTED' not in message:
      raise error
    message = f'the device has not enough memory for this photo; {too_large}.'
  if not message.startswith((str(item.path), *map(str, item.outputs.values()))):
    message = f'{item.path}: {message}'
  nothing = dict.fromkeys(item.outputs)
  return Result(str(item.path), 'failed', nothing, message, seconds=seconds)


def write(todo: Plan, photo: images.Photo, output: pathlib.Path) -> None:
  """Writes one of a photo's outputs; one that is there from a run that was cut off is kept."""
  images.make_folder(output.parent)
  if todo.overwrite or not output.exists():
    images.write(photo, output, overwrite=todo.overwrite)


def changed_name(item: Item, photo: images.Photo) -> tuple[str, ...]:
  """A warning where the output has another format than the original."""
  if item.output.suffix == item.path.suffix:
    return ()
  return (f'{photo.format} cannot hold a photo well; written as {item.output.name}.',)


def compressed_again(photo: images.Photo) -> tuple[str, ...]:
  """A warning where a photo of which only the damage is filled is written with losses."""
  if photo.format not in ('JPEG', 'WEBP') or photo.lossless:
    return ()
  return (
    f'{photo.format} is compressed again, which changes pixels outside of the damage a little; '
    'as PNG or TIFF they would stay the same.',
  )


def _write_report(path: pathlib.Path, head: Mapping[str, Any], done: str, summary: Summary) -> None:
  """As JSON, all or nothing."""
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
