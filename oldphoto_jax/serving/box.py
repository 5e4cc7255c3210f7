"""The box: photos, what was found in them, what was drawn on them, and their results, on disk.

A photo has a folder of its own, named by random digits, never by the name that the visitor gave it:

  photo.json    where it comes from
  original.*    a copy, if it was uploaded; a photo of a folder that was given is read where it is
  edits.json    settings and brush strokes, saved at each change
  looked.json   what a first look found, with looked*.png and *.jpg: small pictures
  found.png     the mask that the search found, at full size
  result.json   the newest result, which is in a folder of its own beside it

Each file is written completely or not at all, and a result counts once result.json names it. So a
server may be killed at any time.
"""

import dataclasses
import hashlib
import json
import os
import pathlib
import secrets
import shutil
import threading
import time
from collections.abc import Iterable, Mapping
from typing import Any

from oldphoto_jax.errors import OptionError, PhotoError
from oldphoto_jax.photos import folders, images
from oldphoto_jax.restoring import restore
from oldphoto_jax.serving import brush, names
from oldphoto_jax.serving.limits import Limits


@dataclasses.dataclass(frozen=True)
class Settings:
  """What a person can set; see restore.Wishes. `find`: whether damage is looked for."""

  strength: float = 1.0
  tone: float = restore.TONE
  only_damage: bool = False
  find: bool = True
  every_picture: bool = False


@dataclasses.dataclass(frozen=True)
class Edits:
  """What a person wants of one photo.

  Attributes:
    revision: counts the changes, so that two open pages do not overwrite each other.
    settings: of the restoration.
    strokes: drawn on the photo, in turn.
  """

  revision: int = 0
  settings: Settings = Settings()
  strokes: tuple[brush.Stroke, ...] = ()

  @property
  def digest(self) -> str:
    """The same for the same settings and strokes, whatever was undone between."""
    value = json.dumps([dataclasses.asdict(self.settings), *map(dataclasses.asdict, self.strokes)])
    return hashlib.sha256(value.encode()).hexdigest()[:16]

  @property
  def draws(self) -> bool:
    """Whether the mask was changed by hand. Kept pixels alone leave it as it was found."""
    return any(stroke.kind != 'protect' for stroke in self.strokes)


@dataclasses.dataclass(frozen=True)
class Entry:
  """One photo of the box.

  Attributes:
    id: names it in addresses, and its folder.
    name: path below the output folder, with / between its parts; cleaned.
    source: path of the original, if it is not in the box.
    stamp: time and size of that original, by which a change of it is noticed.
    size: height and width; None: unreadable.
    number: order in which photos came.
    problem: why it cannot be restored, whatever is tried.
  """

  id: str
  name: str
  source: str | None
  stamp: tuple[int, int] | None
  size: tuple[int, int] | None
  number: int
  problem: str = ''


class Box:
  """All photos of one server. Safe to use from several threads.

  Attributes:
    changed: grows with each change; `version(id)` says when a photo changed.
  """

  def __init__(self, folder: pathlib.Path, limits: Limits):
    """Opens a box, with what an earlier server left in it.

    Raises:
      PhotoError: the folder cannot be made or belongs to a running server.
    """
    self.folder, self.limits = folder, limits
    self._photos = folder / 'photos'
    self.temporary = folder / 'temporary'
    images.make_folder(self._photos)
    self._lock_file = _locked(folder / 'lock')
    shutil.rmtree(self.temporary, ignore_errors=True)  # uploads that were cut off
    images.make_folder(self.temporary)
    for place in (folder, self._photos, self.temporary):
      place.chmod(0o700)  # family photos are nobody else's business
    self._lock = threading.RLock()
    self.changed = 0
    self._entries: dict[str, Entry] = {}
    self._versions: dict[str, int] = {}
    self._removed: dict[str, int] = {}
    self._edits: dict[str, Edits] = {}
    self._bytes = 0
    for place in self._photos.iterdir():
      self._reopen(place)

  def _reopen(self, place: pathlib.Path) -> None:
    value = read_json(place / 'photo.json')
    if value is None:  # its upload never ended
      shutil.rmtree(place, ignore_errors=True)
      return
    stamp, size = (None if value[k] is None else tuple(value[k]) for k in ('stamp', 'size'))
    entry = Entry(**(value | {'id': place.name, 'stamp': stamp, 'size': size}))
    for left in place.glob('.oldphoto-*.tmp'):
      left.unlink(missing_ok=True)
    current = (read_json(place / 'result.json') or {}).get('folder')
    for old in place.glob('result-*'):
      if old.name != current:
        shutil.rmtree(old, ignore_errors=True)
    if entry.source is not None:
      entry = self._again(entry, place)
    else:
      self._bytes += self.original(entry).stat().st_size
    self._entries[entry.id] = entry
    self.touch(entry.id)

  def _again(self, entry: Entry, place: pathlib.Path) -> Entry:
    """An entry from an earlier server, without what was made of an original that has changed."""
    stamp = _stamp(entry.source)
    if stamp is None:  # such as a drive that is not there today
      gone = f'{entry.name}: its original is not there; connect its drive and start the page again.'
      return dataclasses.replace(entry, problem=gone)
    if stamp == entry.stamp:
      return entry
    for old in place.iterdir():
      if old.name not in ('photo.json', 'edits.json'):
        shutil.rmtree(old) if old.is_dir() else old.unlink()
    entry = self._described(dataclasses.replace(entry, stamp=stamp))
    self._write(entry)
    return entry

  def close(self) -> None:
    """Lets another server use the folder."""
    shutil.rmtree(self.temporary, ignore_errors=True)
    self._lock_file.close()

  # What is there -------------------------------------------------------------------------------

  def entries(self) -> list[Entry]:
    """All photos, in the order in which they came."""
    with self._lock:
      return sorted(self._entries.values(), key=lambda entry: entry.number)

  def entry(self, id: str) -> Entry | None:
    """The photo of this id, or None."""
    with self._lock:
      return self._entries.get(id)

  def version(self, id: str) -> int:
    """When a photo last changed, in terms of `changed`."""
    with self._lock:
      return self._versions.get(id, 0)

  def removed_since(self, version: int) -> list[str]:
    """The ids of photos that were removed after `changed` was `version`."""
    with self._lock:
      return [id for id, when in self._removed.items() if when > version]

  def touch(self, id: str) -> None:
    """Says that something about a photo has changed."""
    with self._lock:
      self.changed += 1
      self._versions[id] = self.changed

  def place(self, entry: Entry) -> pathlib.Path:
    """The folder of a photo."""
    return self._photos / entry.id

  def original(self, entry: Entry) -> pathlib.Path:
    """The file that is restored; only ever read."""
    if entry.source is not None:
      return pathlib.Path(entry.source)
    return self.place(entry) / f'original{pathlib.PurePath(entry.name).suffix.lower()}'

  def edits(self, entry: Entry) -> Edits:
    """What is wanted of a photo."""
    with self._lock:
      if entry.id not in self._edits:
        edits, value = Edits(), read_json(self.place(entry) / 'edits.json')
        if value is not None:
          drawn = tuple(brush.Stroke(s[0], s[1], tuple(s[2])) for s in value['strokes'])
          edits = Edits(value['revision'], Settings(**value['settings']), drawn)
        self._edits[entry.id] = edits
      return self._edits[entry.id]

  # Changes -------------------------------------------------------------------------------------

  def add_folders(self, paths: Iterable[str | os.PathLike], skip: pathlib.Path | None) -> None:
    """Adds the photos in files and folders, where they are. Those already in the box stay.

    Raises:
      PhotoError: there is no photo, or a folder cannot be listed.
    """
    known = {entry.source for entry in self.entries()}
    for path, name in folders.find_photos(paths, skip=skip):
      source = os.path.realpath(path)
      if source not in known:
        self._check_count()
        self._add(
          Entry(self._new(), str(names.cleaned(name.as_posix())), source, _stamp(source), None, 0)
        )

  def add_upload(self, name: str, upload: pathlib.Path) -> Entry:
    """Adds an uploaded photo, and takes its temporary file.

    Raises:
      PhotoError: it is no photo that can be read, or the box is full.
    """
    cleaned = names.cleaned(name)
    length = upload.stat().st_size
    with self._lock:
      self._check_count()
      if self._bytes + length > self.limits.box_bytes:
        raise PhotoError(
          f'{cleaned.name}: the box is full ({self.limits.box_bytes // 2**30} GB); '
          'remove photos from it first.'
        )
      self._bytes += length
    entry = Entry(self._new(), str(cleaned), None, None, None, 0)
    try:
      images.make_folder(self.place(entry))
      original = self.original(entry)
      os.replace(upload, original)
      entry = self._described(entry)
      if entry.problem:
        raise PhotoError(entry.problem)
    except BaseException:
      shutil.rmtree(self.place(entry), ignore_errors=True)
      with self._lock:
        self._bytes -= length
      raise
    return self._add(entry)

  def _check_count(self) -> None:
    if len(self._entries) >= self.limits.photos:
      raise PhotoError(
        f'the box holds {self.limits.photos} photos, which is the limit; remove some first.'
      )

  def _new(self) -> str:
    return secrets.token_hex(12)

  def _described(self, entry: Entry) -> Entry:
    """The entry with its size, or with the reason why it has none."""
    original = self.original(entry)
    try:
      height, width = images.size(original)
      if height * width > self.limits.pixels:
        raise PhotoError(
          f'{original}: {width} x {height} pixels are more than the limit of '
          f'{self.limits.pixels:,}.'
        )
      return dataclasses.replace(entry, size=(height, width), problem='')
    except PhotoError as error:
      return dataclasses.replace(entry, size=None, problem=plain(error, original, entry.name))

  def _add(self, entry: Entry) -> Entry:
    if entry.size is None:
      entry = self._described(entry)
    with self._lock:
      last = max((other.number for other in self._entries.values()), default=0)
      entry = dataclasses.replace(entry, number=last + 1)
      images.make_folder(self.place(entry))
      self._write(entry)
      self._entries[entry.id] = entry
      self.touch(entry.id)
    return entry

  def _write(self, entry: Entry) -> None:
    value = dataclasses.asdict(entry)
    del value['id']
    write_json(self.place(entry) / 'photo.json', value)

  def set_edits(self, entry: Entry, edits: Edits) -> Edits:
    """Saves what is wanted of a photo, at once, with a new revision.

    Args:
      entry: the photo.
      edits: with the revision that they change.

    Raises:
      Outdated: they were changed meanwhile.
      PhotoError: they cannot be written.
    """
    with self._lock:
      if self.edits(entry).revision != edits.revision:
        raise Outdated
      edits = dataclasses.replace(edits, revision=edits.revision + 1)
      value = {
        'revision': edits.revision,
        'settings': dataclasses.asdict(edits.settings),
        'strokes': [[s.kind, s.size, s.points] for s in edits.strokes],
      }
      write_json(self.place(entry) / 'edits.json', value)
      self._edits[entry.id] = edits
      self.touch(entry.id)
    return edits

  def remove(self, id: str) -> None:
    """Removes a photo from the box with all that was made of it; not an original in a folder."""
    with self._lock:
      entry = self._entries.pop(id, None)
      if entry is None:
        return
      if entry.source is None:
        self._bytes -= self.original(entry).stat().st_size
      self._versions.pop(id, None)
      self._edits.pop(id, None)
      self.changed += 1
      self._removed[id] = self.changed
      # At first away from where a restart would find half of it.
      gone = self.temporary / secrets.token_hex(8)
      os.replace(self.place(entry), gone)
    shutil.rmtree(gone, ignore_errors=True)

  def sweep(self, entry: Entry) -> None:
    """Removes what was still written of a photo while it was removed."""
    with self._lock:
      if entry.id not in self._entries:
        shutil.rmtree(self.place(entry), ignore_errors=True)

  def new_result(self, entry: Entry) -> pathlib.Path:
    """A folder for a result, which counts once `set_result` names it."""
    return self.place(entry) / f'result-{secrets.token_hex(4)}'

  def set_result(self, entry: Entry, folder: pathlib.Path, value: Mapping[str, Any]) -> None:
    """Makes a result the newest one, and removes the one before."""
    with self._lock:
      if entry.id not in self._entries:
        return
      before = self.result(entry)
      value = {**value, 'folder': folder.name, 'time': time.time()}
      write_json(self.place(entry) / 'result.json', value)
      self.touch(entry.id)
    if before is not None:
      shutil.rmtree(self.place(entry) / before['folder'], ignore_errors=True)

  def result(self, entry: Entry) -> dict[str, Any] | None:
    """The newest result, or None."""
    return read_json(self.place(entry) / 'result.json')

  def restored(self, entry: Entry) -> pathlib.Path | None:
    """The file of the newest result, or None."""
    result = self.result(entry)
    return None if result is None else self.place(entry) / result['folder'] / result['file']

  def set_looked(self, entry: Entry, value: Mapping[str, Any]) -> None:
    """Saves what was found in a small copy of a photo."""
    with self._lock:
      if entry.id in self._entries:
        write_json(self.place(entry) / 'looked.json', value)
        self.touch(entry.id)

  def looked(self, entry: Entry) -> dict[str, Any] | None:
    """What was found in a small copy of a photo, or None."""
    return read_json(self.place(entry) / 'looked.json')


class Outdated(Exception):
  """Someone else, such as a second open page, changed the same thing first."""


def settings(value: Any) -> Settings:
  """Settings of JSON values.

  Raises:
    OptionError: they are none.
  """
  names = {field.name for field in dataclasses.fields(Settings)}
  if not isinstance(value, dict) or set(value) != names:
    raise OptionError('the settings are not complete.')
  for name in ('strength', 'tone'):
    number = value[name]
    if isinstance(number, bool) or not isinstance(number, int | float) or not 0 <= number <= 1:
      raise OptionError(f'{name} is not from 0 to 1.')
  for name in ('only_damage', 'find', 'every_picture'):
    if not isinstance(value[name], bool):
      raise OptionError(f'{name} is not true or false.')
  return Settings(**(value | {name: float(value[name]) for name in ('strength', 'tone')}))


def plain(error: Exception, path: pathlib.Path, name: str) -> str:
  """The message of an error with the name that the visitor knows, in place of a path."""
  text = str(error).removeprefix(f'{path}: ')
  return f'{name}: {text.replace(str(path), name)}'


def read_json(path: pathlib.Path) -> Any:
  """The values in a file, or None if there is none."""
  try:
    return json.loads(path.read_text(encoding='utf-8'))
  except (FileNotFoundError, NotADirectoryError):
    return None


def write_json(path: pathlib.Path, value: Any) -> None:
  """Writes values completely or not at all. Raises PhotoError if they cannot be written."""
  images.write_bytes(path, json.dumps(value).encode(), overwrite=True)


def _stamp(path: str | None) -> tuple[int, int] | None:
  try:
    facts = os.stat(path)
  except OSError:
    return None
  return facts.st_mtime_ns, facts.st_size


def _locked(path: pathlib.Path):
  """An open file which only one process can have, until it ends."""
  file = path.open('w')
  try:
    import fcntl
  except ImportError:  # Windows: two servers on one box are then not noticed
    return file
  try:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except OSError:
    file.close()
    raise PhotoError(
      f'{path.parent}: another `oldphoto serve` uses this folder; open its page, or give another '
      'folder with --work.'
    ) from None
  return file
