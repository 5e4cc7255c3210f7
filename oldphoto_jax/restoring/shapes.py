"""Few shapes for photos of all sizes: each shape needs a program, and compiling is slow."""

import collections
import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from PIL import Image

from oldphoto_jax.restoring import tiles

# Sides to which photos are padded. Steps are a third to a half at first, later a quarter or less.
LADDER = (128, 192, 256, 320, 384, 448, 512, 640, 768, 896, 1024, 1280, 1536, 1792, 2048)
# Sides of tiles: finer, as one shape serves all tiles of a photo, and padding is paid for each.
FINE = 32
LEAST = 512  # of a side of a tile, if tiles may be so large: it shows what is around a hole
GAP = 48  # pixels of padding at least beside a picture that shares a shape: see together


@dataclasses.dataclass(frozen=True)
class Plan:
  """The shapes to which photos are padded, or into which they are split as tiles.

  Attributes:
    multiple: the sides are multiples of this.
    tile: photos with a longer side are split into tiles of this size, or smaller.
    overlap: pixels over which neighbouring tiles are blended.
    shapes: (height, width) each, from small to large.
    copies: size of a photo -> the sizes of its copies, which go through the same program.
  """

  multiple: int
  tile: int
  overlap: int
  shapes: tuple[tuple[int, int], ...] = ()
  copies: Callable[[tuple[int, int]], Sequence[tuple[int, int]]] = lambda size: ()

  @property
  def grid(self) -> int:
    """Tiles start at multiples of this, so a network that halves the sides sees the same grid."""
    return math.lcm(tiles.GRID, self.multiple)

  def shape(self, size: tuple[int, int]) -> tuple[int, int]:
    """The smallest shape that holds a photo of this height and width; its own if there is none."""
    need = needed(size, self.multiple, self.tile, self.overlap, self.copies(size))
    fitting = [
      shape
      for shape in self.shapes
      if all(side >= min(whole, least) for side, whole, least in zip(shape, size, need))
    ]
    return min(fitting, key=math.prod, default=need)


def plan(
  sizes: Iterable[tuple[int, int]],
  multiple: int,
  *,
  tile: int = 2048,
  overlap: int = 64,
  max_shapes: int = 4,
  copies: Callable[[tuple[int, int]], Sequence[tuple[int, int]]] = lambda size: (),
) -> Plan:
  """At most `max_shapes` shapes for photos of these sizes, with little padding.

  Starts from the shape of each photo, and merges the pair that adds the fewest padded pixels until
  few enough remain. The plan also works for photos of other sizes.

  Raises:
    ValueError: `overlap` is not from 1 to half of the tile.
  """
  if not 0 < 2 * overlap <= tile:
    raise ValueError(f'overlap is {overlap}; it must be from 1 to half of the tile, {tile // 2}.')
  counts = collections.Counter()
  for size, count in collections.Counter(sizes).items():
    counts[needed(size, multiple, tile, overlap, copies(size))] += count

  def joined(a, b):
    return max(a[0], b[0]), max(a[1], b[1])

  def cost(pair):
    area = math.prod(joined(*pair))
    return sum(counts[shape] * (area - math.prod(shape)) for shape in pair)

  while len(counts) > max(max_shapes, 1):
    a, b = min(itertools.combinations(sorted(counts), 2), key=cost)
    count = counts.pop(a) + counts.pop(b)
    counts[joined(a, b)] += count
  return Plan(multiple, tile, overlap, tuple(sorted(counts, key=math.prod)), copies)


def bucket(side: int, multiple: int) -> int:
  """A side after padding: the next one in LADDER, or else the next multiple of 512."""
  rung = next((rung for rung in LADDER if rung >= side), math.ceil(side / 512) * 512)
  return math.ceil(rung / multiple) * multiple


def needed(
  size: tuple[int, int],
  multiple: int,
  tile: int,
  overlap: int,
  copies: Sequence[tuple[int, int]] = (),
) -> tuple[int, int]:
  """The smallest shape for a photo of this height and width, or the best one for its tiles.

  That is the one with which the photo and its copies take the fewest pixels in all: two tiles of
  2048 pixels would cover most of a side of 2400 twice.
  """
  step = math.lcm(FINE, multiple)
  grid = math.lcm(tiles.GRID, multiple)
  sides, covered = [], []
  for axis, side in enumerate(size):
    if side <= tile:
      choice = [bucket(side, multiple)]
    else:
      least = -(-max(tile // 2, min(tile, LEAST), 2 * overlap) // step) * step
      choice = [bucket(tile, multiple), *reversed(range(least, tile, step))]  # few tiles first
    all_sides = (side, *(copy[axis] for copy in copies))
    counts = [[len(tiles.spans(n, c, overlap, grid)) for n in all_sides] for c in choice]
    sides.append(choice)
    covered.append(np.array(choice)[:, None] * np.array(counts))  # pixels, by choice and copy
  total = np.einsum('hc,wc->hw', *covered)
  best = np.unravel_index(total.argmin(), total.shape)
  return tuple(choice[i] for choice, i in zip(sides, best))


def together(
  pictures: Sequence[np.ndarray], shape: tuple[int, int]
) -> tuple[np.ndarray, list[tuple[slice, slice]]] | None:
  """Small pictures [h, w, C] in one of this shape, one below or beside the other.

  Each is padded by reflection to fill its cell: it starts at a multiple of tiles.GRID, and at least
  GAP pixels of its padding lie between it and the next cell.

  Returns:
    The one picture, and where in it the others lie; None if there is no room for all.
  """
  for axis in (0, 1):
    length = shape[axis]
    room = length - sum(picture.shape[axis] for picture in pictures)
    gap = (room // (2 * len(pictures) - 1) - tiles.GRID) // tiles.GRID * tiles.GRID
    fits = all(picture.shape[1 - axis] <= shape[1 - axis] for picture in pictures)
    if not fits or gap < GAP:
      continue
    starts, end = [0], 0
    for before in pictures[:-1]:
      end = starts[-1] + before.shape[axis] + 2 * gap
      starts.append(-(-end // tiles.GRID) * tiles.GRID)
    cells = itertools.pairwise([0, *(start - gap for start in starts[1:]), length])
    parts, places = [], []
    for picture, start, (first, last) in zip(pictures, starts, cells):
      end = start + picture.shape[axis]
      wide = [(0, n - m) for n, m in zip(shape, picture.shape)]
      wide[axis] = (start - first, last - end)
      parts.append(np.pad(picture, (*wide, (0, 0)), 'reflect'))
      place = [slice(0, n) for n in picture.shape[:2]]
      place[axis] = slice(start, end)
      places.append(tuple(place))
    return np.concatenate(parts, axis), places
  return None


def pad(photo: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
  """Pads [H, W, C] at the bottom and right by reflection, repeatedly if the photo is small."""
  height, width = photo.shape[:2]
  if (height, width) == tuple(shape):
    return photo
  return np.pad(photo, ((0, shape[0] - height), (0, shape[1] - width), (0, 0)), 'reflect')


def resized(x: np.ndarray, height: int, width: int) -> np.ndarray:
  """[H, W, C] -> float32 [height, width, C]: means where it shrinks, linear where it grows."""
  planes = (Image.fromarray(x[..., c].astype(np.float32)) for c in range(x.shape[-1]))
  size, kernel = (width, height), Image.Resampling.BILINEAR  # which averages where it shrinks
  return np.stack([np.asarray(plane.resize(size, kernel)) for plane in planes], -1)
