"""Damage masks: those that a person painted, and those made from what a detector found."""

import logging
import os
import pathlib
import unicodedata

import numpy as np
from scipy import ndimage

from oldphoto_jax.errors import PhotoError
from oldphoto_jax.photos import formats, images

_log = logging.getLogger(__name__)

MOST = 0.8  # share of a photo: a mask that marks more is asked back
# All of [0, 1]. From the first difference of its channels on, a colour is no gray. Up to the second
# from each other, two colours are the same. Marks below the third are numbers, not shades.
_COLOURFUL, _SAME, _FAINT = 0.25, 0.15, 1 / 16


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

  White is damaged, black or transparent is sound, and gray is partly damaged. Also understood are
  strokes of any one colour on a transparent ground, coloured strokes on one shade of gray, and
  masks whose marks are nearly black because they are numbers, such as 1, or 255 of 65,535. The log
  names a mask that marks nothing.

  Args:
    path: a picture of any kind that images.read takes.
    size: height and width of its photo.

  Raises:
    PhotoError: as images.read, if the mask has a different size, if it marks nearly everything, or
      if it is a coloured picture whose strokes cannot be told from its ground.
  """
  mask = images.read(path)
  if mask.size != tuple(size):
    raise PhotoError(
      f'{path}: the mask is {mask.size[1]}x{mask.size[0]} and its photo {size[1]}x{size[0]}; '
      'a mask needs the width and height of its photo.'
    )
  try:
    damage = marks(mask)
  except PhotoError as error:
    raise PhotoError(f'{path}: {error}') from None
  share = float((damage > 0).mean())
  if share == 0:
    _log.warning('%s: the mask marks nothing, so nothing is filled.', path)
  if share > MOST:
    raise PhotoError(
      f'{path}: the mask marks {share:.0%} of the photo; white is filled and black is kept. '
      'If it is the other way round, invert it; else mark less.'
    )
  return damage


def marks(mask: images.Photo) -> np.ndarray:
  """What a drawn mask marks: float32 [H, W, 1] in [0, 1]; see `read`.

  Raises:
    PhotoError: it is a coloured picture whose strokes cannot be told from its ground.
  """
  values = mask.pixels.astype(np.float32) / np.iinfo(mask.pixels.dtype).max
  alpha = None
  if mask.alpha is not None and mask.alpha.min() < np.iinfo(mask.alpha.dtype).max:
    alpha = mask.alpha[..., None].astype(np.float32) / np.iinfo(mask.alpha.dtype).max
  colourful = np.ptp(values, -1, keepdims=True) > _COLOURFUL
  seen = np.ones(colourful.shape, bool) if alpha is None else alpha > 0.5
  if alpha is not None and _one_colour(values[seen[..., 0]]):
    return _stretched(alpha)  # strokes on a transparent ground
  if (colourful & seen).any():
    ground = values[(~colourful & seen)[..., 0]]
    if not _one_colour(ground):
      raise PhotoError(
        'this is a coloured picture and no mask; paint what is damaged white on black.'
      )
    # Strokes fade into their ground, so that their edges are less coloured.
    gray = ground.mean() if len(ground) else 0.0
    distance = np.abs(values - gray).max(-1, keepdims=True)
    return _stretched(distance / distance.max() * (1 if alpha is None else alpha))
  gray = values.mean(-1, keepdims=True)
  top = gray.max()
  if 0 < top < _FAINT:  # numbers of classes, or 8 bits in 16
    levels = mask.pixels[..., :1]
    gray = (levels > 0) if levels.max() < 16 else gray / top
  return _stretched(gray.astype(np.float32) * (1 if alpha is None else alpha))


def _one_colour(values: np.ndarray) -> bool:
  """Whether nearly all colours of [N, 3] are close to one."""
  if not len(values):
    return True
  far = np.abs(values - np.median(values, 0)).max(-1) > _SAME
  return float(far.mean()) < 0.02


def _stretched(values: np.ndarray) -> np.ndarray:
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
