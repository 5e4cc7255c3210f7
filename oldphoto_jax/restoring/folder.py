"""A job on photos and folders of photos, shared by restore, detect, degrade and Deep Image Prior.

The originals are only read. `plan` checks everything it can before anything is written. `run` does
the job and writes its manifest, see manifest.py; a bad photo does not stop it.
"""

import dataclasses
import os
import pathlib
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from oldphoto_jax.errors import DiskFullError, ExitStatus, PhotoError, is_disk_full
from oldphoto_jax.photos import folders, images
from oldphoto_jax.restoring import manifest, tasks
from oldphoto_jax.restoring.schedule import Work
from oldphoto_jax.restoring.tasks import Done, Item, Result


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
  chosen, taken, left = [], {}, 0
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
    chosen.append(dataclasses.replace(item, kept=kept, size=size))
  return Plan(tuple(chosen), out, folder, overwrite, part.shard, left, tuple(found.skipped))


def _failed_before(folder: pathlib.Path) -> set[str]:
  """The originals that failed, by the reports in a folder."""
  reports = manifest.read(folder)
  if not reports:
    raise PhotoError(f'{folder}: there is no {manifest.REPORT} that says what has failed.')
  entries = manifest.merged(entry for report in reports for entry in report.photos)
  return {entry['input'] for entry in entries if not manifest.is_done(entry)}


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
  work: Work,
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
    work: does the photos, see schedule.py.
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
        yield tasks.failed(item, PhotoError(item.problem), 0.0, too_large)
      elif item.kept:
        yield tasks.kept(item, plan.folder, journal.earlier)
    for item, end, seconds in work(waiting()):
      if isinstance(end, Done):
        yield tasks.finished(item, end, done, seconds, journal.run)
      elif is_disk_full(end):
        raise end  # so will all others; told below
      else:
        yield tasks.failed(item, end, seconds, too_large)
    for item in elsewhere:
      yield tasks.kept(item, plan.folder, journal.earlier)

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
