"""Damage masks: those that a person painted, and those made from what a detector found."""

import os
import pathlib
import unicodedata

import numpy as np
from scipy import ndimage

from oldphoto_jax.errors import PhotoError
from oldphoto_jax.photos import formats, images


def find(masks: str | os.PathLike, photo: str | os.PathLike) -> pathlib.Path:
  """The mask of a photo: `masks` itself if it is a file, otherwise the one that `find_named` finds.

  Raises:
    PhotoError: there is no mask, or more than one.
  """
  masks = pathlib.Path(masks)
  return masks if masks.is_file() else find_named(masks, photo, 'mask')


def find_named(folder: str | os.PathLike, photo: str | os.PathLike, kind: str) -> pathlib.Path:
  """The picture in a folder that has the name of a photo, with any ending.

  A picture in a folder of the same name is preferred (sub/a.png for in/sub/a.jpg) to one directly
  in `folder`.

  Args:
    folder: of the pictures.
    photo: the photo's path.
    kind: what the pictures are called in messages.

  Raises:
    PhotoError: there is none, or more than one.
  """
  folder, photo = pathlib.Path(folder), pathlib.Path(photo)
  if not folder.is_dir():
    raise PhotoError(f'{folder}: there is no such {kind} or folder.')
  parents = photo.parent.parts[len(photo.parent.anchor) > 0 :]
  for first in range(len(parents) + 1):
    place = folder.joinpath(*parents[first:])
    found = _named(place, photo) if place.is_dir() else []
    if len(found) > 1:
      names = ' and '.join(path.name for path in found)
      raise PhotoError(f'{photo}: {place} holds {names}, both its {kind}; remove one.')
    if found:
      return found[0]
  raise PhotoError(
    f'{photo}: {folder} holds no {kind} of that name; it would be called {photo.stem}.png.'
  )


def _named(folder: pathlib.Path, photo: pathlib.Path) -> list[pathlib.Path]:
  """The pictures of a folder that are named like the photo, but not the photo itself."""
  # Some file systems store an accent apart from its letter.
  stem = lambda path: unicodedata.normalize('NFC', path.stem)
  return sorted(
    path
    for path in folder.iterdir()
    if stem(path) == stem(photo)
    and path.suffix.lower() in formats.FORMATS
    and not (photo.exists() and path.samefile(photo))
  )


def read(path: str | os.PathLike, size: tuple[int, int]) -> np.ndarray:
  """Reads a mask: float32 [H, W, 1] in [0, 1], 1 = damaged.

  White is damaged, black or transparent is sound, and gray is partly damaged.

  Args:
    path: a picture of any kind that images.read takes.
    size: height and width of its photo.

  Raises:
    PhotoError: as images.read, and if the mask has a different size.
  """
  mask = images.read(path)
  if mask.size != tuple(size):
    raise PhotoError(
      f'{path}: the mask is {mask.size[1]}x{mask.size[0]} and its photo {size[1]}x{size[0]}; '
      'a mask needs the width and height of its photo.'
    )
  top = np.iinfo(mask.pixels.dtype).max
  values = mask.pixels.astype(np.float32).mean(-1, keepdims=True) / top
  if mask.alpha is not None:
    values *= mask.alpha[..., None] / np.float32(top)
  # Black and white are a few levels off in a JPEG, but sound pixels must be exactly 0.
  return np.clip((values - 1 / 16) / (1 - 2 / 16), 0, 1)


def grow(damage: np.ndarray, threshold: float = 0.5, pixels: float = 2, feather: float = 2):
  """The mask to fill around the damage that a detector found: float32 [H, W, 1] in [0, 1].

  The mask is 1 up to `pixels` from the damage, then falls to 0 over `feather` pixels: a detector is
  less sure about the edge of a scratch than about its middle, and a filling needs a soft edge.

  Args:
    damage: probability of damage, [H, W, 1].
    threshold: pixels with at least this probability count as damaged.
    pixels, feather: distances in pixels, 0 or more.
  """
  sound = damage[..., 0] < threshold
  if sound.all():
    return np.zeros(damage.shape, np.float32)
  distance = ndimage.distance_transform_edt(sound)
  mask = 1 - (distance - pixels) / (feather + 1)
  return np.clip(mask, 0, 1).astype(np.float32)[..., None]


def to_photo(mask: np.ndarray, dpi: tuple[float, float] | None = None) -> images.Photo:
  """A mask [H, W, 1] in [0, 1] as a gray photo of 8 bits: white = 1, black = exactly 0."""
  levels = np.ceil(255 * np.clip(mask, 0, 1)).astype(np.uint8)
  return images.Photo(np.repeat(levels, 3, axis=-1), gray=True, dpi=dpi)
