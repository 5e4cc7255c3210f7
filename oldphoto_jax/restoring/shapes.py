"""Few shapes for photos of all sizes: each shape needs a program, and compiling is slow."""

import collections
import dataclasses
import itertools
import math
from collections.abc import Iterable

import numpy as np
from PIL import Image

from oldphoto_jax.restoring import tiles

COMMON = 512  # side of the tiles in which repair fills holes
FEW = 8  # photos up to which a program less saves more than tight shapes: see Plan.tight
# Sides to which photos are padded. Steps are a third to a half at first, later a quarter or less.
LADDER = (128, 192, 256, 320, 384, 448, 512, 640, 768, 896, 1024, 1280, 1536, 1792, 2048)


@dataclasses.dataclass(frozen=True)
class Plan:
  """The shapes to which photos are padded, or into which they are split as tiles.

  Attributes:
    multiple: the sides are multiples of this.
    tile: photos with a longer side are split into tiles of this size, or smaller.
    overlap: pixels over which neighbouring tiles are blended.
    shapes: (height, width) each, from small to large.
    few: whether it is for few photos, so that compiling is most of the work.
  """

  multiple: int
  tile: int
  overlap: int
  shapes: tuple[tuple[int, int], ...] = ()
  few: bool = False

  @property
  def grid(self) -> int:
    """Tiles start at multiples of this, so a network that halves the sides sees the same grid."""
    return math.lcm(tiles.GRID, self.multiple)

  def shape(self, size: tuple[int, int]) -> tuple[int, int]:
    """The smallest shape that holds a photo of this height and width; its own if there is none."""
    need = needed(size, self.multiple, self.tile, self.overlap)
    fitting = [shape for shape in self.shapes if shape[0] >= need[0] and shape[1] >= need[1]]
    return min(fitting, key=math.prod, default=need)

  def tight(self, size: tuple[int, int]) -> tuple[int, int]:
    """`shape`, but the photo's own if that is less than half as large: for smaller copies.

    With few photos, the shape of the tiles in which holes are filled, if the copy fits.
    """
    shape = self.shape(size)
    need = needed(size, self.multiple, self.tile, self.overlap)
    if 2 * math.prod(need) >= math.prod(shape):
      return shape
    common = tuple(min(side, COMMON) for side in shape)
    fits = all(side >= least for side, least in zip(common, need))
    return common if self.few and fits else need


def plan(
  sizes: Iterable[tuple[int, int]],
  multiple: int,
  *,
  tile: int = 2048,
  overlap: int = 64,
  max_shapes: int = 4,
) -> Plan:
  """At most `max_shapes` shapes for photos of these sizes, with little padding.

  Starts from the shape of each photo, and merges the pair that adds the fewest padded pixels until
  few enough remain. The plan also works for photos of other sizes.

  Raises:
    ValueError: `overlap` is not from 1 to half of the tile.
  """
  if not 0 < 2 * overlap <= tile:
    raise ValueError(f'overlap is {overlap}; it must be from 1 to half of the tile, {tile // 2}.')
  counts = collections.Counter(needed(size, multiple, tile, overlap) for size in sizes)
  few = 0 < counts.total() <= FEW

  def joined(a, b):
    return max(a[0], b[0]), max(a[1], b[1])

  def cost(pair):
    area = math.prod(joined(*pair))
    return sum(counts[shape] * (area - math.prod(shape)) for shape in pair)

  while len(counts) > max(max_shapes, 1):
    a, b = min(itertools.combinations(sorted(counts), 2), key=cost)
    count = counts.pop(a) + counts.pop(b)
    counts[joined(a, b)] += count
  return Plan(multiple, tile, overlap, tuple(sorted(counts, key=math.prod)), few)


def bucket(side: int, multiple: int) -> int:
  """A side after padding: the next one in LADDER, or else the next multiple of 512."""
  rung = next((rung for rung in LADDER if rung >= side), math.ceil(side / 512) * 512)
  return math.ceil(rung / multiple) * multiple


def needed(size: tuple[int, int], multiple: int, tile: int, overlap: int) -> tuple[int, int]:
  """The smallest shape for a photo of this height and width, or for its tiles.

  As many tiles as it takes, but no larger than that needs: two of 2048 pixels would cover most of a
  side of 2400 twice.
  """
  counts = (len(tiles.spans(side, tile, overlap)) for side in size)
  sides = (-(-(side + (n - 1) * overlap) // n) for side, n in zip(size, counts))
  return tuple(bucket(min(side, tile), multiple) for side in sides)


def pad(photo: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
  """Pads [H, W, C] at the bottom and right by reflection, repeatedly if the photo is small."""
  height, width = photo.shape[:2]
  return np.pad(photo, ((0, shape[0] - height), (0, shape[1] - width), (0, 0)), 'reflect')


def resized(x: np.ndarray, height: int, width: int) -> np.ndarray:
  """[H, W, C] -> float32 [height, width, C]: means where it shrinks, linear where it grows."""
  planes = (Image.fromarray(x[..., c].astype(np.float32)) for c in range(x.shape[-1]))
  size, kernel = (width, height), Image.Resampling.BILINEAR  # which averages where it shrinks
  return np.stack([np.asarray(plane.resize(size, kernel)) for plane in planes], -1)
