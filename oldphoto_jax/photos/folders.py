"""Finds the photos in files and folders, and says what is left out and why."""

import collections
import logging
import os
import pathlib
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from oldphoto_jax.errors import PhotoError
from oldphoto_jax.photos import formats, images
from oldphoto_jax.photos.formats import FORMATS, reason

# Kinds of pictures that folders often hold but that are not read: ending -> what to do.
UNREAD_SUFFIXES = {
  '.pdf': 'save its pictures as PNG or TIFF',
  '.djvu': 'save its pictures as PNG or TIFF',
  **dict.fromkeys(('.psd', '.psb', '.xcf', '.kra', '.afphoto'), 'save it as TIFF'),
  **dict.fromkeys(('.exr', '.hdr', '.dcm', '.fits'), 'save it as TIFF with 16 bits'),
  **dict.fromkeys(('.svg', '.eps', '.ai', '.ico', '.wmf'), 'save it as PNG'),
}
# Folders in which systems keep thumbnails, deleted files and older versions.
_SYSTEM_FOLDERS = {
  *('@eadir', '#recycle', '@recycle', '#snapshot', '@tmp', '$recycle.bin', 'recycler', 'recycled'),
  *('system volume information', 'lost+found', '__macosx', 'thumbnails', '@appstore'),
}
_MASKS = ('mask', 'masks', 'overlay', 'overlays')  # names of folders beside photos
# What oldphoto writes beside photos.
_OWN_FILES = ('before-after.html.png', 'contact-sheet-', 'artefact-')
_OWN_FOLDERS = ('masks', 'overlays')

_log = logging.getLogger(__name__)


class Skipped(NamedTuple):
  """A file or folder that is left out."""

  path: pathlib.Path
  why: str  # in words, without a full stop


class Found(NamedTuple):
  """What folders hold.

  Attributes:
    photos: (path to read, relative path) of each photo, without duplicates.
    skipped: everything else.
  """

  photos: list[tuple[pathlib.Path, pathlib.PurePath]]
  skipped: list[Skipped]


def find_photos(
  paths: Iterable[str | os.PathLike], skip: str | os.PathLike | Iterable[os.PathLike] | None = None
) -> list[tuple[pathlib.Path, pathlib.PurePath]]:
  """The photos that `find` finds. The log sums up what was left out."""
  found = find(paths, skip)
  warn(found.skipped)
  return found.photos


def warn(skipped: Iterable[Skipped]) -> None:
  """Sums up in the log what was left out: one line for each reason."""
  by_reason = collections.defaultdict(list)
  for path, why in skipped:
    by_reason[why].append(path)
  for why, left_out in by_reason.items():
    more = f' and {len(left_out) - 1} more' if len(left_out) > 1 else ''
    _log.warning('skipped %s%s: %s.', left_out[0], more, why)


def find(
  paths: Iterable[str | os.PathLike], skip: str | os.PathLike | Iterable[os.PathLike] | None = None
) -> Found:
  """Finds all photos in files and folders, and their paths below an output folder.

  A file that is given by name is always taken. In folders, at any depth, files with an ending of
  FORMATS are taken, in sorted order, but for:

  - hidden files, and folders of the system, such as recycle bins and thumbnails of a NAS;
  - results of oldphoto: a folder below with its report, and its masks and sheets;
  - masks: a picture in a folder `masks` or `overlays` beside a photo of its name, or a picture of
    two shades beside a photo of its name;
  - links to folders, and links to files outside of the folder.

  A folder that cannot be listed is left out. The output path is the path below the folder, preceded
  by the folder's name if several paths are given. For a file given by name it is that name. If two
  of the paths have one name, the names of the folders around them are added.

  Args:
    paths: files and folders.
    skip: folders to leave out, such as the output folder.

  Raises:
    PhotoError: a path does not exist, or there is no photo at all.
  """
  paths = [pathlib.Path(path) for path in paths]
  skip = () if skip is None else (skip,) if isinstance(skip, str | os.PathLike) else skip
  left_out = {pathlib.Path(folder).resolve() for folder in skip}
  found, skipped, seen = [], [], set()
  for path, name in zip(paths, _names(paths)):
    if path.is_dir():
      prefix = name if len(paths) > 1 else pathlib.PurePath()
      inside, others = _walk(path, left_out)
      skipped += others
      photos = [(photo, prefix / photo.relative_to(path)) for photo in inside]
    elif path.exists():
      photos = [(path, name)]
    else:
      raise PhotoError(f'{path}: there is no such file or folder.')
    for photo, relative in photos:
      real = os.path.realpath(photo.parent) + os.sep + photo.name
      if real not in seen:
        seen.add(real)
        found.append((photo, relative))
  if not found:
    warn(skipped)
    names = ', '.join(str(path) for path in paths)
    raise PhotoError(f'{names}: no photo found; photos end in {", ".join(FORMATS)}.')
  return Found(found, skipped)


def _names(paths: list[pathlib.Path]) -> list[pathlib.PurePath]:
  """Names for the paths: the last part of each, or as many parts as tell them apart."""
  real = [path.absolute() if path.is_file() else path.resolve() for path in paths]
  names = []
  for path in real:
    others = [other for other in real if other != path]
    count = 1
    while count < len(path.parts) and any(o.parts[-count:] == path.parts[-count:] for o in others):
      count += 1
    names.append(pathlib.PurePath(*(part for part in path.parts[-count:] if part != path.anchor)))
  return names


def _walk(
  root: pathlib.Path, left_out: set[pathlib.Path]
) -> tuple[list[pathlib.Path], list[Skipped]]:
  """The photos below a folder, sorted, and what else is there."""
  skipped = []

  def unlisted(error: OSError):
    skipped.append(
      Skipped(pathlib.Path(error.filename), f'the folder cannot be listed ({reason(error)})')
    )

  real_root = root.resolve()
  photos = []
  own_root = _is_output(root)
  for place, folders, names in os.walk(root, onerror=unlisted):
    folder = pathlib.Path(place)
    entered = []
    for name in sorted(folders):
      why = _no_folder(folder / name, own_root and folder == root, left_out)
      if why is None:
        entered.append(name)
      elif why:
        skipped.append(Skipped(folder / name, why))
    folders[:] = entered
    own = own_root and folder == root
    for name in sorted(names):
      path = folder / name
      why = _no_photo(path, real_root)
      if not why and own and name.startswith(_OWN_FILES):
        why = 'it is a sheet of oldphoto'
      if why:
        skipped.append(Skipped(path, why))
      elif path.suffix.lower() in FORMATS:
        photos.append(path)
  masks = _masks(photos, root)
  skipped += [Skipped(path, 'it is a mask of a photo') for path in masks]
  return sorted(set(photos) - set(masks)), skipped


def _is_output(folder: pathlib.Path) -> bool:
  """Whether a folder has a report of oldphoto, or of a job that runs or was stopped."""
  for path in (*folder.glob('report*.json'), *folder.glob('.report*.journal')):
    try:
      with path.open('rb') as file:
        if b'"oldphoto_jax ' in file.read(4096):
          return True
    except OSError:
      pass
  return False


def _no_folder(folder: pathlib.Path, own: bool, left_out: set[pathlib.Path]) -> str | None:
  """Why a folder is not entered; '' for one that need not be mentioned; None if it is entered."""
  if folder.name.startswith('.'):
    return ''
  if folder.resolve() in left_out:
    return ''
  if folder.name.lower() in _SYSTEM_FOLDERS:
    return 'it is a folder of the system'
  if folder.is_symlink():
    return 'links to folders are not followed'
  if own and folder.name in _OWN_FOLDERS:
    return 'it holds masks of oldphoto'
  if _is_output(folder):
    return 'it holds results of oldphoto; give it by name to restore them again'
  return None


def _no_photo(path: pathlib.Path, root: pathlib.Path) -> str:
  """Why a file is no photo; '' if it is one."""
  suffix = path.suffix.lower()
  if path.name.startswith('.') or path.name in ('Thumbs.db', 'desktop.ini', 'Picasa.ini'):
    return 'it is a hidden file or one of the system'
  if not path.exists():
    return 'it links to a file that is not there'
  if not path.is_file():
    return 'it is no file'
  if why := unread(suffix):
    return why
  if suffix not in FORMATS:
    return (
      f'a name that ends in {suffix} is not that of a photo' if suffix else 'its name has no ending'
    )
  if not path.resolve().is_relative_to(root):
    return 'it links to a file outside of the folder'
  return ''


def unread(suffix: str) -> str:
  """Why pictures whose names end in `suffix` are not read, and what to do; '' if they are."""
  if suffix in UNREAD_SUFFIXES:
    return f'{suffix} files are not read; {UNREAD_SUFFIXES[suffix]}'
  install = formats.missing_extra(FORMATS[suffix]) if suffix in FORMATS else None
  return f'{suffix} files need a further package: {install}' if install else ''


def _masks(photos: list[pathlib.Path], root: pathlib.Path) -> list[pathlib.Path]:
  """Those of the pictures that are masks of others."""
  stems = {path.with_suffix('') for path in photos}
  masks = []
  for path in photos:
    parts = path.relative_to(root).with_suffix('').parts
    beside = (
      root.joinpath(*parts[:i], *parts[i + 1 :])  # masks/sub/a.png for sub/a.jpg
      for i, part in enumerate(parts[:-1])
      if part.lower() in _MASKS
    )
    if any(photo in stems for photo in beside):
      masks.append(path)
  twins = collections.defaultdict(list)
  for path in set(photos) - set(masks):
    twins[path.with_suffix('')].append(path)
  for paths in twins.values():
    drawn = [path for path in paths if _is_black_and_white(path)] if len(paths) > 1 else []
    if len(drawn) < len(paths):  # at least one is a photo
      masks += drawn
  return sorted(masks)


def _is_black_and_white(path: pathlib.Path) -> bool:
  """Whether nearly all of a picture has one of two shades, as masks have."""
  try:
    photo = images.read(path)
  except PhotoError:
    return False
  counts = np.bincount(images.to_rgb8(photo)[..., 0].ravel(), minlength=256)
  return bool(np.sort(counts)[-2:].sum() >= 0.98 * counts.sum())
