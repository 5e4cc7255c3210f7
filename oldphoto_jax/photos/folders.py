"""Finds the photos in folders."""

import logging
import os
import pathlib
from collections.abc import Iterable

from oldphoto_jax.errors import PhotoError
from oldphoto_jax.photos.formats import FORMATS, reason

# Kinds of pictures that folders often hold but that cannot be read; a warning lists them.
UNREAD_SUFFIXES = {
  '.heic',
  '.heif',
  '.avif',
  '.jxl',
  '.jp2',
  '.psd',
  '.dng',
  '.cr2',
  '.nef',
  '.arw',
}

_log = logging.getLogger(__name__)


def find_photos(
  paths: Iterable[str | os.PathLike], skip: str | os.PathLike | None = None
) -> list[tuple[pathlib.Path, pathlib.PurePath]]:
  """Finds all photos in files and folders, and their paths below an output folder.

  A file that is given by name is always taken. In folders, at any depth, files with an ending of
  FORMATS are taken, in sorted order. Hidden files are left out. Links to folders are not followed,
  nor links to files outside the folder. The output path is the path below the folder, preceded by
  the folder's name if several paths are given. For a file given by name it is that name.

  Args:
    paths: files and folders.
    skip: a folder to leave out, such as the output folder.

  Returns:
    (path to read, relative path) of each photo, without duplicates.

  Raises:
    PhotoError: a path does not exist, a folder cannot be listed, or there is no photo at all.
  """
  paths = [pathlib.Path(path) for path in paths]
  skipped = None if skip is None else pathlib.Path(skip).resolve()
  found, seen = [], set()
  for path in paths:
    if path.is_dir():
      prefix = pathlib.PurePath(path.resolve().name if len(paths) > 1 else '')
      photos = [(photo, prefix / photo.relative_to(path)) for photo in _walk(path, skipped)]
    elif path.exists():
      photos = [(path, pathlib.PurePath(path.name))]
    else:
      raise PhotoError(f'{path}: there is no such file or folder.')
    for photo, relative in photos:
      real = os.path.realpath(photo.parent) + os.sep + photo.name
      if real not in seen:
        seen.add(real)
        found.append((photo, relative))
  if not found:
    names = ', '.join(str(path) for path in paths)
    raise PhotoError(f'{names}: no photo found; photos end in {", ".join(FORMATS)}.')
  return found


def _walk(root: pathlib.Path, skipped: pathlib.Path | None) -> list[pathlib.Path]:
  """The photos below a folder, sorted."""

  def refuse(error: OSError):
    raise PhotoError(f'{error.filename}: the folder cannot be listed ({reason(error)}).')

  real_root = root.resolve()
  photos, unread = [], []
  for folder, folders, names in os.walk(root, onerror=refuse):
    folder = pathlib.Path(folder)
    folders[:] = [
      name
      for name in folders
      if not name.startswith('.') and (skipped is None or (folder / name).resolve() != skipped)
    ]
    for name in names:
      path = folder / name
      suffix = path.suffix.lower()
      if name.startswith('.') or not path.is_file():
        continue
      if suffix in UNREAD_SUFFIXES:
        unread.append(path)
      elif suffix in FORMATS and path.resolve().is_relative_to(real_root):
        photos.append(path)
  if unread:
    kinds = ', '.join(sorted({path.suffix.lower() for path in unread}))
    _log.warning(
      '%s: skipped %d files of kinds that cannot be read (%s); save them as .png or .jpg.',
      root,
      len(unread),
      kinds,
    )
  return sorted(photos)
