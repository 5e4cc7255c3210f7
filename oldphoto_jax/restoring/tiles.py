"""Overlapping tiles of one shape that cover a photo of any size, and their blending."""

import itertools
import math
from collections.abc import Callable

import numpy as np

GRID = 16  # tiles start at multiples of this many pixels


def spans(side: int, tile: int, overlap: int, grid: int = GRID) -> list[tuple[int, int]]:
  """(start, end) of tiles that cover a side and overlap by at least `overlap`.

  They start at multiples of `grid`, so that networks that halve the sides see each tile on the same
  grid as the whole photo. The last tile may be shorter.
  """
  if side <= tile:
    return [(0, side)]
  step = (tile - overlap) // grid * grid or tile - overlap
  last = math.ceil((side - tile) / grid) * grid
  return [(start, min(start + tile, side)) for start in [*range(0, last, step), last]]


def blend(
  restore: Callable[[slice, slice], np.ndarray],
  size: tuple[int, int],
  shape: tuple[int, int],
  overlap: int,
  grid: int = GRID,
) -> np.ndarray:
  """Composes a photo from its tiles, which are blended linearly where they overlap.

  Args:
    restore: (rows, columns) of a tile -> the restored tile, float32 [rows, columns, C].
    size: height and width of the photo.
    shape: height and width of a tile.
    overlap, grid: see `spans`.

  Returns:
    float32 [H, W, C].
  """
  rows, columns = (spans(*sides, overlap, grid) for sides in zip(size, shape))
  if len(rows) == len(columns) == 1:
    return restore(*(slice(0, side) for side in size))
  total = None
  weights = np.zeros((*size, 1), np.float32)
  for (top, bottom), (left, right) in itertools.product(rows, columns):
    here = slice(top, bottom), slice(left, right)
    restored = restore(*here)
    weight = _ramp(top, bottom, size[0], overlap)[:, None] * _ramp(left, right, size[1], overlap)
    if total is None:
      total = np.zeros((*size, restored.shape[-1]), np.float32)
    total[here] += weight[..., None] * restored
    weights[here] += weight[..., None]
  return total / weights


def _ramp(start: int, end: int, side: int, overlap: int) -> np.ndarray:
  """Weights of a tile along one side. They rise from its edges, except at edges of the photo."""
  position = np.arange(start, end, dtype=np.float32)
  rise = position - start + 1 if start > 0 else np.inf
  fall = end - position if end < side else np.inf
  return np.minimum(np.minimum(rise, fall) / (overlap + 1), 1) * np.ones_like(position)
