"""Overlapping tiles of one shape that cover a photo of any size, and their blending."""

import concurrent.futures
import contextlib
import itertools
import math
from collections.abc import Callable, Sequence

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
  restore: Callable[[slice, slice], tuple[np.ndarray, ...] | None],
  size: tuple[int, int],
  shape: tuple[int, int],
  overlap: int,
  grid: int = GRID,
  *,
  base: np.ndarray | None = None,
  workers: int = 1,
) -> tuple[np.ndarray, ...]:
  """Composes a photo from its tiles, which are blended linearly where they overlap.

  Args:
    restore: (rows, columns) of a tile -> what it becomes, arrays of float32 [rows, columns, C].
      With `base`, one array, or None for a tile that stays as it is there.
    size: height and width of the photo.
    shape: height and width of a tile.
    overlap, grid: see `spans`.
    base: float32 [H, W, C], what the tiles are laid into.
    workers: threads that call `restore`, each for another tile.

  Returns:
    For each array, float32 [H, W, C].
  """
  sides = [spans(*both, overlap, grid) for both in zip(size, shape)]
  places = [tuple(slice(*span) for span in both) for both in itertools.product(*sides)]
  if len(places) == 1:
    restored = restore(*places[0])
    return (base,) if restored is None else restored
  weights = itertools.product(*(_weights(*both, overlap) for both in zip(sides, size)))
  totals = None if base is None else (base.copy(),)
  with _mapped(restore, places, workers) as results:
    for here, (rows, columns), restored in zip(places, weights, results):
      if restored is None:
        continue
      if totals is None:
        totals = tuple(np.zeros((*size, x.shape[-1]), np.float32) for x in restored)
      weight = rows[:, None, None] * columns[:, None]
      for total, part in zip(totals, restored):
        part = part * weight if base is None else (part - base[here]) * weight
        total[here] += part
  return totals


@contextlib.contextmanager
def _mapped(restore: Callable, places: Sequence[tuple[slice, slice]], workers: int):
  """`restore` of all places in their order; what is not begun is left out after an error."""
  if workers == 1:
    yield itertools.starmap(restore, places)
    return
  pool = concurrent.futures.ThreadPoolExecutor(workers)
  try:
    yield pool.map(restore, *zip(*places))
  finally:
    pool.shutdown(cancel_futures=True)


def _weights(tiles: Sequence[tuple[int, int]], side: int, overlap: int) -> list[np.ndarray]:
  """Weights of all tiles along one side, whose sum is 1 at each pixel."""
  ramps = [_ramp(start, end, side, overlap) for start, end in tiles]
  total = np.zeros(side, np.float32)
  for (start, end), ramp in zip(tiles, ramps):
    total[start:end] += ramp
  return [ramp / total[start:end] for (start, end), ramp in zip(tiles, ramps)]


def _ramp(start: int, end: int, side: int, overlap: int) -> np.ndarray:
  """Weights of a tile along one side. They rise from its edges, except at edges of the photo."""
  position = np.arange(start, end, dtype=np.float32)
  rise = position - start + 1 if start > 0 else np.inf
  fall = end - position if end < side else np.inf
  return np.minimum(np.minimum(rise, fall) / (overlap + 1), 1) * np.ones_like(position)
