"""Drawn damage and paper textures from folders of pictures -> small uint8 arrays."""

import os

import numpy as np
from PIL import Image

from oldphoto_jax.data import stores
from oldphoto_jax.errors import PhotoError
from oldphoto_jax.photos import folders, images


def overlays(path: str | os.PathLike, size: int = 200, most: int = 200) -> np.ndarray:
  """The opacity of drawn artefacts (scratches, hairs, stains): 255 covers the photo.

  Args:
    path: a folder of pictures with transparency, searched with its sub-folders.
    size: side in pixels to which each picture is reduced.
    most: largest number of pictures, taken at equal steps through the sorted names.

  Returns:
    uint8 [N, size, size].

  Raises:
    PhotoError: if the folder holds no pictures, or one without transparency.
  """
  stack = []
  for file in _some(path, most):
    photo = images.read(file)
    if photo.alpha is None:
      raise PhotoError(f'{file}: an overlay needs transparency, but this picture has none.')
    alpha = photo.alpha if photo.alpha.dtype == np.uint8 else (photo.alpha >> 8).astype(np.uint8)
    stack.append(_resized(alpha, size))
  return np.stack(stack)


def textures(path: str | os.PathLike, size: int = 256, most: int = 50) -> np.ndarray:
  """Surfaces as gray reliefs around level 128: the middle square of each picture.

  Large shades are removed, and the contrast is scaled to a standard deviation of 32 levels, so that
  one strength suits all.

  Args and Raises: as for `overlays`; pictures need no transparency.

  Returns:
    uint8 [N, size, size].
  """
  stack = []
  for file in _some(path, most):
    gray = np.asarray(Image.fromarray(images.read_rgb8(file)).convert('L'))
    side = min(*gray.shape, size)
    top, left = (gray.shape[0] - side) // 2, (gray.shape[1] - side) // 2
    gray = _resized(gray[top : top + side, left : left + side], size).astype(np.float32)
    coarse = _resized(_resized(gray.astype(np.uint8), 8), size, Image.Resampling.BICUBIC)
    relief = gray - coarse
    relief *= 32 / max(relief.std(), 1e-3)
    stack.append(np.round(relief + 128).clip(0, 255).astype(np.uint8))
  return np.stack(stack)


def _some(path, most):
  found = [file for file, _ in folders.find_photos([stores.local(path)])]
  return [found[i * len(found) // min(len(found), most)] for i in range(min(len(found), most))]


def _resized(gray, size, filter=Image.Resampling.LANCZOS):
  return np.asarray(Image.fromarray(gray).resize((size, size), filter))
