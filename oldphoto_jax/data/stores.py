"""Folders of object stores, such as gs://bucket/photos, which every host copies before it trains.

A training reads photos again and again, in any order, and each host reads all of them: so the copy
is whole. It lies in the folder for temporary files (TMPDIR), and a later run finds it there.
"""

import concurrent.futures
import getpass
import hashlib
import json
import logging
import os
import pathlib
import shutil
import tempfile

import filelock

from oldphoto_jax.errors import PhotoError
from oldphoto_jax.photos import images, places

_log = logging.getLogger(__name__)

INDEX = '.fetched.json'  # what was fetched, by name: what the store said about it
AT_ONCE = 16  # files: most of the time is spent waiting for the store


def local(path: str | os.PathLike) -> pathlib.Path:
  """The folder of that name, or this machine's copy of a folder in a store.

  The copy becomes as the store is: what is new or changed there is fetched, and what is gone is
  removed. Processes on one machine take turns, so that one of them fetches.

  Args:
    path: a local path, in which ~ is the home folder, or PROTOCOL://...

  Raises:
    OptionError: the store cannot be used.
    PhotoError: it holds no such folder, a file cannot be read, or there is no room for it.
  """
  url = os.fspath(path)
  if not places.is_remote(url):
    return pathlib.Path(url).expanduser()
  place = places.Place(url)
  folder = _home() / _readable(place.url)
  folder.mkdir(parents=True, exist_ok=True)
  with filelock.FileLock(folder.with_suffix('.lock')):
    _update(folder, place)
  return folder


def _home() -> pathlib.Path:
  """Where copies lie; of this user alone."""
  home = pathlib.Path(tempfile.gettempdir()) / f'oldphoto_jax-{getpass.getuser()}'
  home.mkdir(mode=0o700, exist_ok=True)
  return home


def _readable(url: str) -> str:
  """A name of a folder that tells the store, and that no other store has."""
  words = ''.join(letter if letter.isalnum() else '-' for letter in url)
  return f'{words[-60:].strip("-")}-{hashlib.sha256(url.encode()).hexdigest()[:8]}'


def _update(folder: pathlib.Path, place: places.Place) -> None:
  files = place.files()
  if not files:
    raise PhotoError(f'{place.url}: there is no file.')
  # Whatever a store says: a size, and a time, a version or a digest. Only changes matter.
  said = {name: repr(sorted(info.items(), key=str)) for name, info in files.items()}
  index = folder / INDEX
  before = json.loads(index.read_text()) if index.exists() else {}
  here = {path.relative_to(folder).as_posix() for path in folder.rglob('*') if path.is_file()}
  for name in here - said.keys() - {INDEX}:
    (folder / name).unlink()
  new = [name for name in files if name not in here or before.get(name) != said[name]]
  if not new:
    return
  need, free = sum(files[name]['size'] or 0 for name in new), shutil.disk_usage(folder).free
  if need > 0.9 * free:
    raise PhotoError(
      f'{place.url}: {need / 1e9:.1f} GB do not fit into {folder.parent}, where '
      f'{free / 1e9:.1f} GB are free; set TMPDIR to a larger disk.'
    )
  _log.info('%s: fetching %d of %d files, %.2f GB', place.url, len(new), len(files), need / 1e9)
  _write(index, {name: said[name] for name in files.keys() - set(new)})  # this may be interrupted

  def fetch(name: str) -> None:
    to = folder / name
    to.parent.mkdir(parents=True, exist_ok=True)
    with place.told(f'{name} cannot be read'):
      place.system.get_file(place.path(name), str(to))

  pool = concurrent.futures.ThreadPoolExecutor(AT_ONCE)
  try:
    for done in [pool.submit(fetch, name) for name in new]:
      done.result()
  finally:
    pool.shutdown(cancel_futures=True)
  _write(index, said)


def _write(index: pathlib.Path, said: dict[str, str]) -> None:
  images.write_bytes(index, json.dumps(said).encode(), overwrite=True)
