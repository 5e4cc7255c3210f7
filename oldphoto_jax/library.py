"""Restoring from Python, with arrays instead of files: see oldphoto_jax.load."""

import dataclasses
import os
from collections.abc import Callable, Sequence

import numpy as np

from oldphoto_jax import detect, engine, images, masks, restore, weights
from oldphoto_jax.errors import OptionError


def load(path: str | os.PathLike | None = None) -> 'ArrayRestorer':
  """See oldphoto_jax.load."""
  source = weights.SHIPPED if path is None else path
  restorer, detector = weights.load_with_detector(source)
  find = None if detector is None else detect.marker(detector)
  return ArrayRestorer(engine.compiled(restorer), find)


@dataclasses.dataclass(frozen=True, eq=False)
class ArrayRestorer:
  """A trained system that takes arrays.

  Programs are compiled when a photo first needs them, and kept: restore many photos with one
  object.
  """

  engine: engine.Engine
  # Photo, float32 [H, W, 3] in [-1, 1] -> probability of damage [H, W, 1]; None: no detector.
  find: Callable[[np.ndarray], np.ndarray] | None = None

  def restore(
    self,
    photos: np.ndarray | Sequence[np.ndarray],
    mask: np.ndarray | Sequence[np.ndarray | None] | None = None,
    *,
    strength: float = 1.0,
    only_damage: bool = False,
    find_damage: bool = False,
    threshold: float = 0.5,
  ) -> np.ndarray | list[np.ndarray]:
    """Restores one photo, or each of a list, whatever their sizes.

    Args:
      photos: [H, W, 3], or gray [H, W]: uint8, uint16, or float in [-1, 1]. Or a list of them.
      mask: what is damaged and to be filled, [H, W] or [H, W, 1]: bool, uint8 (255 = damaged), or
        float in [0, 1] (1 = damaged). For a list of photos a list of masks, which may be None.
      strength: 1 is the restored photo, 0 the original, between is a blend of the two.
      only_damage: changes nothing but the damage.
      find_damage: fills what the detector finds in photos without a mask. It may mistake objects
        for damage.
      threshold: from which probability on the detector's damage is filled.

    Returns:
      The restored photo, of the same shape and dtype; or a list of them.

    Raises:
      ValueError: an argument has a wrong shape, dtype or range.
      errors.OptionError: the damage is to be found, and the system has no detector.
      errors.PhotoError: a mask covers its whole photo.
    """
    if not 0 <= strength <= 1:
      raise ValueError(f'strength is {strength}; it must be from 0 to 1.')
    if find_damage and self.find is None:
      raise OptionError('these weights hold no detector, so give a mask instead of find_damage.')
    one = not isinstance(photos, list | tuple)
    given = ([photos], [mask]) if one else (photos, [None] * len(photos) if mask is None else mask)
    if len(given[0]) != len(given[1]):
      raise ValueError(f'{len(given[0])} photos and {len(given[1])} masks; give one for each.')
    restored = []
    for photo, damage in zip(*given):
      photo = np.asarray(photo)
      pixels = _pixels(photo)
      if damage is not None:
        damage = _mask(np.asarray(damage), photo.shape[:2])
      elif find_damage:
        damage = masks.grow(self.find(_values(pixels)), threshold)
      elif only_damage:
        raise ValueError('only_damage needs a mask, or find_damage=True.')
      if pixels.dtype.kind == 'u':
        levels = images.Photo(pixels, gray=photo.ndim == 2)
        after = restore.restore_photo(
          self.engine, levels, damage, strength=strength, only_damage=only_damage
        ).pixels
      else:
        after = restore.restore_array(
          self.engine, _values(pixels), damage, strength=strength, only_damage=only_damage
        )
        after = np.clip(images.keep_gray(after, pixels), -1, 1).astype(photo.dtype)
        after = np.where(damage > 0, after, pixels) if only_damage else after
      restored.append(after[..., 0] if photo.ndim == 2 else after)
    return restored[0] if one else restored


def _pixels(photo: np.ndarray) -> np.ndarray:
  """A photo as [H, W, 3], if it is one."""
  if photo.ndim not in (2, 3) or (photo.ndim == 3 and photo.shape[2] != 3) or 0 in photo.shape:
    raise ValueError(f'a photo has shape {photo.shape}; give [H, W, 3], or [H, W] if it is gray.')
  if photo.dtype.kind == 'f':
    if not (np.abs(photo) <= 1).all():
      raise ValueError('a photo of floats has values outside of [-1, 1].')
  elif photo.dtype not in (np.uint8, np.uint16):
    raise ValueError(f'a photo has dtype {photo.dtype}; give uint8, uint16 or floats in [-1, 1].')
  return np.repeat(photo[..., None], 3, -1) if photo.ndim == 2 else photo


def _values(pixels: np.ndarray) -> np.ndarray:
  if pixels.dtype.kind == 'u':
    return images.to_float(images.Photo(pixels))
  return pixels.astype(np.float32)


def _mask(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
  """A mask as float32 [H, W, 1] in [0, 1], if it is one for a photo of this size."""
  if mask.shape not in (size, (*size, 1)):
    raise ValueError(f'a mask has shape {mask.shape} and its photo {size}; give [H, W] as well.')
  values = mask.astype(np.float32) / np.float32(255 if mask.dtype == np.uint8 else 1)
  if not ((values >= 0) & (values <= 1)).all():
    raise ValueError('a mask has values outside of [0, 1].')
  return values.reshape(*size, 1)
