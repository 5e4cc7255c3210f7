"""Restoring arrays in Python: see oldphoto_jax.load."""

import dataclasses
import os
from collections.abc import Callable, Sequence

import numpy as np

from oldphoto_jax import weights
from oldphoto_jax.errors import OptionError
from oldphoto_jax.photos import images, masks
from oldphoto_jax.restoring import detect, engine, finding, restore


def load(path: str | os.PathLike | None = None) -> 'ArrayRestorer':
  """See oldphoto_jax.load."""
  source = weights.SHIPPED if path is None else path
  loaded = weights.read(source)
  restorer = loaded.restorer()
  detector = loaded.find_detector() if restorer.look is None else None
  find = None if detector is None else detect.marker(detector)
  finds, tones = restorer.look is not None, restorer.correction is not None
  return ArrayRestorer(engine.compiled(restorer), finds, tones, find)


@dataclasses.dataclass(frozen=True, eq=False)
class ArrayRestorer:
  """A trained system that restores arrays.

  Programs are compiled when a photo first needs them and then kept, so restore many photos with one
  object.
  """

  engine: engine.Engine
  finds: bool = False  # whether the system itself finds damage, in the same pass
  tones: bool = False  # whether it revives tones
  # Photo, float32 [H, W, 3] in [-1, 1] -> probability of damage [H, W, 1]; None: no detector.
  find: Callable[[np.ndarray], np.ndarray] | None = None

  def restore(
    self,
    photos: np.ndarray | Sequence[np.ndarray],
    mask: np.ndarray | Sequence[np.ndarray | None] | None = None,
    *,
    strength: float = 1.0,
    only_damage: bool = False,
    find_damage: bool | None = None,
    threshold: float | None = None,
    tone: float | None = None,
  ) -> np.ndarray | list[np.ndarray]:
    """Restores one photo, or a list of photos, of any sizes.

    Args:
      photos: [H, W, 3], or gray [H, W]: uint8, uint16, or float in [-1, 1]. Or a list of these.
      mask: the damage to fill, [H, W] or [H, W, 1]: bool, uint8 (255 = damaged), or float in [0, 1]
        (1 = damaged). For a list of photos, a list of masks, which may be None.
      strength: 1 is the restored photo, 0 the original, values between blend the two.
      only_damage: changes only the damage.
      find_damage: fills the damage that the system, or the detector in its weights, finds in photos
        without a mask. By default only systems made for it do this, see weights.SHIPPED.
      threshold: found damage is filled from this probability. None: the value that was best on real
        prints, or 0.5 for a detector.
      tone: how far faded tones are revived, from 0 to 1. None: as `oldphoto restore` does. Use 0
        for measurements.

    Returns:
      The restored photo, of the same shape and dtype; or a list of them.

    Raises:
      ValueError: an argument has a wrong shape, dtype or range.
      errors.OptionError: `find_damage` or `tone` is set, but the system cannot do it.
      errors.PhotoError: a mask covers its whole photo.
    """
    searching = self.finds if find_damage is None else find_damage
    if threshold is not None and not 0 < threshold <= 1:
      raise ValueError(f'threshold is {threshold}; a probability is above 0, and at most 1.')
    if searching and not self.finds and self.find is None:
      raise OptionError('these weights hold no detector, so give a mask instead of find_damage.')
    if tone and not self.tones:
      raise OptionError('these weights revive no tones, so leave tone out.')
    itself = searching and self.finds
    wishes = restore.Wishes(
      strength,
      only_damage,
      (finding.THRESHOLD if threshold is None else threshold) if itself else None,
      restore.TONE if tone is None else tone,
    )
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
      elif searching and not itself:
        damage = masks.grow(self.find(_values(pixels)), 0.5 if threshold is None else threshold)
      elif only_damage and not searching:
        raise ValueError('only_damage needs a mask, or find_damage=True.')
      if pixels.dtype.kind == 'u':
        levels = images.Photo(pixels, gray=photo.ndim == 2)
        after = restore.restore_photo(self.engine, levels, damage, wishes)[0].pixels
      else:
        done = restore.restore_array(self.engine, _values(pixels), damage, wishes)
        after = np.clip(images.keep_gray(done.photo, pixels), -1, 1).astype(photo.dtype)
        after = np.where(done.mask > 0, after, pixels) if only_damage else after
      restored.append(after[..., 0] if photo.ndim == 2 else after)
    return restored[0] if one else restored


def _pixels(photo: np.ndarray) -> np.ndarray:
  """A photo as [H, W, 3]. Raises ValueError for other arrays."""
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
  """A mask as float32 [H, W, 1] in [0, 1]. Raises ValueError if it does not fit the size."""
  if mask.shape not in (size, (*size, 1)):
    raise ValueError(f'a mask has shape {mask.shape} and its photo {size}; give the same [H, W].')
  values = mask.astype(np.float32) / np.float32(255 if mask.dtype == np.uint8 else 1)
  if not ((values >= 0) & (values <= 1)).all():
    raise ValueError('a mask has values outside of [0, 1].')
  return values.reshape(*size, 1)
