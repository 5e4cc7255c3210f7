"""The files that a job writes: their names, their histories, and what a person should be told."""

import contextlib
import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from oldphoto_jax.errors import PhotoError
from oldphoto_jax.photos import formats, images, provenance
from oldphoto_jax.restoring import manifest
from oldphoto_jax.restoring.folder import Plan
from oldphoto_jax.restoring.tasks import Item


def like_original(name: pathlib.PurePath) -> pathlib.PurePath:
  """The path of a restored photo: that of its original, or NAME.gif.png if it is only read."""
  # 256 colours are too few for a photo. The whole name is kept, as there may also be a NAME.png.
  form = formats.FORMATS.get(name.suffix.lower())
  return name.with_name(f'{name.name}.png') if form not in formats.WRITTEN else name


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


def copy(todo: Plan, item: Item, photo: images.Photo) -> None:
  """Copies an original that stays as it is, with its date. Outputs are kept as by `write`."""
  images.make_folder(item.output.parent)
  if not todo.overwrite and item.output.exists():
    return
  try:
    data = item.path.read_bytes()
  except OSError as error:
    raise PhotoError(f'{item.path}: it cannot be read ({images.reason(error)}).') from error
  images.write_bytes(item.output, data, overwrite=True, modified=photo.modified)


def write_mask(todo: Plan, mask: images.Photo, path: pathlib.Path) -> tuple[str, ...]:
  """Saves a mask. One that is there already may have been corrected by hand: it is kept.

  Returns:
    A warning if the one that is kept differs.
  """
  images.make_folder(path.parent)
  if todo.overwrite or not path.exists():
    images.write(mask, path, overwrite=True)
    return ()
  with contextlib.suppress(PhotoError):  # what cannot be read is not what was filled
    if np.array_equal(images.read(path).pixels, mask.pixels):
      return ()
  return (f'{path} is kept, as it was there before; it does not show what was filled now.',)


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


def changed_name(item: Item) -> tuple[str, ...]:
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
