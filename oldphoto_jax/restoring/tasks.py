"""One photo of a job, and what became of it: an entry of the manifest."""

import dataclasses
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax

from oldphoto_jax.errors import UserError
from oldphoto_jax.restoring import manifest

# Errors that may be caused by a photo rather than the program.
FAILURES = (UserError, MemoryError, jax.errors.JaxRuntimeError)
CHANGED = 'The original has changed since; --overwrite does it again.'
REPLACED = 'What was written has been changed since, and is kept as it is.'


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


def finished(item: Item, end: Done, status: str, seconds: float, run: str | None) -> Result:
  """The result of a photo whose outputs have been written."""
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


def kept(item: Item, folder: pathlib.Path, earlier: Mapping[str, manifest.Entry]) -> Result:
  """The result of a kept photo, with what is known of it if its outputs are still the same.

  Args:
    item: the photo.
    folder: that of the report.
    earlier: what earlier reports say, see manifest.Journal.
  """
  relative = pathlib.PurePath(os.path.relpath(item.output, folder)).as_posix()
  entry = earlier.get(relative)
  outputs = item.outputs
  same = entry is not None and all(
    manifest.unchanged(path, entry, key) for key, path in outputs.items() if entry.get(key)
  )
  if not same:
    warnings = () if entry is None else (REPLACED,)
    return finished(item, Done(None, warnings), 'kept', 0.0, None)
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


def failed(item: Item, error: Exception, seconds: float, too_large: str) -> Result:
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
