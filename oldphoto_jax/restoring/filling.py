"""Filled damage that fits into the photo around it.

A network fills a hole with the colours of a clean photo; the photo around may be faded, yellow or
kept as it is. What the two differ by next to the hole is carried on into it.

Of two fillings, one sees what a hole still shows and one does not: the first is right about the
sound rim of a generous mask and about stains that let the photo through, the second about tears.
"""

import concurrent.futures

import numpy as np
from scipy import ndimage

from oldphoto_jax.restoring import shapes

SIDE, OVERLAP = 256, 64  # pixels of the tiles in which holes are filled: see tile_shape
REPAIR_SIDE = 512  # the same for models.repair, whose receptive field is larger

# See rimmed (benchmarks/prints): pixels from the edge of a hole to its middle; share of the way
# from the sound colour to the lost one; and the least length of that way, in units of [-1, 1].
DEEP, HALO, SEEN = 6, 0.35, 0.1

# See grained (benchmarks/prints).
GRAIN = 0.7  # share of the deviation that a filling lacks which it is given
ROUGHEST = 15 / 127.5  # deviation of grain, at most; what is rougher is a pattern
EDGE = 2.0  # deviations beyond which a pixel shows an edge, not grain
BESIDE = 2  # pixels beside a hole that may be damaged, too
FINE, LOCAL = 5, 31  # sides of the squares that fine texture is told by, and measured in
ROOT = 0.822  # mean of sqrt|x| of normal values x of deviation 1: 2**0.25 gamma(3/4) / sqrt(pi)
GRAIN_TILE = 128  # pixels of a side, at least: grain is only sought around holes

# Difference of the fillings, of [-1, 1], at which the seeing one counts for exp(-1). Chosen of 0.2
# to 0.9: benchmarks/detector/README.md.
AGREEMENT = 0.4


def into(
  around: np.ndarray, holes: np.ndarray, blind: np.ndarray, seeing: np.ndarray
) -> np.ndarray:
  """One filling of two, which fits into what is around the holes: see `match` and `believe`.

  Args:
    around: what the filling is put into, float32 [H, W, 3].
    holes: bool [H, W, 1]; not everywhere.
    blind, seeing: the whole photo, filled without and with a look into the holes, [H, W, 3].
  """
  return believe(*(match(filled, around, holes) for filled in (blind, seeing)))


def rimmed(photo: np.ndarray, holes: np.ndarray) -> np.ndarray:
  """Holes with a rim around each that a person drew, that is wide, and that has a halo.

  A stain fades into its surroundings, and a brush seldom covers all of it: a filling that begins at
  its faint edge carries its colour back in. So the network begins farther away; what is filled is
  the hole alone. A rim is half as wide as the hole is deep. It is sound unless its median colour
  lies on the way from that of an equally wide ring around it to that of the hole, from HALO of the
  way on.

  Args:
    photo: float32 [H, W, 3] in [-1, 1].
    holes: float32 [H, W, 1], above 0 in holes, 1 in those that a person drew.

  Returns:
    The same, with 1 in the rims, too.
  """
  if holes.max() < 1:
    return holes
  marked = holes[..., 0] > 0
  depth = ndimage.distance_transform_cdt(np.pad(marked, 1))[1:-1, 1:-1]
  if depth.max() < DEEP:
    return holes
  pieces, count = ndimage.label(marked, np.ones((3, 3)))
  boxes = ndimage.find_objects(pieces)
  depths = ndimage.maximum(depth, pieces, np.arange(1, count + 1))
  grown = holes.copy()
  drawn = ndimage.maximum(holes[..., 0], pieces, np.arange(1, count + 1)) == 1
  for i in np.flatnonzero((depths >= DEEP) & drawn):
    wide = round(depths[i] / 2)
    around = tuple(slice(max(0, side.start - 2 * wide), side.stop + 2 * wide) for side in boxes[i])
    piece = pieces[around] == i + 1
    away, free = ndimage.distance_transform_cdt(~piece), ~marked[around]
    rim, ring = (away <= wide) & free, (away > wide) & (away <= 2 * wide) & free
    if rim.any() and ring.any():
      hole, rim_colour, sound = (np.median(photo[around][x], 0) for x in (piece, rim, ring))
      way = hole - sound
      if (way**2).sum() >= SEEN**2 and (rim_colour - sound) @ way >= HALO * (way**2).sum():
        grown[around][rim] = 1
  return grown if (grown == 0).any() else holes


def grained(
  filled: np.ndarray, around: np.ndarray, holes: np.ndarray, workers: int = 1
) -> np.ndarray:
  """A filling with the grain of the photo around it.

  A network that learns by absolute errors answers with the median of what might be there, which is
  smooth. Each pixel gets some of the fine texture, without colour, that the photo has where the
  pixel is mirrored at the nearest edge of its hole: GRAIN of what the filling lacks in deviation
  there, with edges clipped. Ours. It costs as much in PSNR as the grain is strong, and it takes the
  smeared look away.

  Args:
    filled: the photo with its holes filled, float32 [H, W, C].
    around: what the filling is put into, [H, W, C]; what it holds inside the holes does not matter.
    holes: bool [H, W, 1].
    workers: tiles that are computed at once.

  Returns:
    float32 [H, W, C]; only pixels in holes differ from `filled`.
  """
  inside = holes[..., 0]
  depth = int(ndimage.distance_transform_cdt(np.pad(inside, 1)).max())
  margin = LOCAL // 2 + FINE + BESIDE + 2 * depth  # so that what is mirrored is in the tile, too
  side = max(GRAIN_TILE, 2 * margin)
  corners = [
    (top, left)
    for top in range(0, inside.shape[0], side)
    for left in range(0, inside.shape[1], side)
    if inside[top : top + side, left : left + side].any()
  ]

  def one(corner):
    tile = tuple(slice(start, start + side) for start in corner)
    wider = tuple(slice(max(0, start - margin), start + side + margin) for start in corner)
    at = tuple(pixel + part.start for pixel, part in zip(np.nonzero(inside[tile]), tile))
    here = tuple(pixel - part.start for pixel, part in zip(at, wider))
    return at, _grain(filled[wider], around[wider], inside[wider], here)

  result = filled.copy()
  with concurrent.futures.ThreadPoolExecutor(workers) as pool:  # SciPy lets go of the lock
    for at, grain in pool.map(one, corners):
      result[at] += grain
  return result


def _grain(filled, around, inside, at):
  """What `grained` adds to all channels of the pixels `at`, (rows, columns) of a tile: [n, 1]."""
  sound = ~ndimage.binary_dilation(inside, np.ones((3, 3)), iterations=BESIDE)
  if not sound.any():
    return np.zeros((len(at[0]), 1), np.float32)
  mean = ndimage.uniform_filter
  photo = around.mean(-1)
  texture = photo - mean(photo, FINE)
  of_filling = np.where(inside, filled.mean(-1), photo)
  of_filling -= mean(of_filling, FINE)

  def local(values, where, at):
    """Its mean over the pixels `where` it counts, around the pixels `at`."""
    where = where.astype(np.float32)
    sums, counts = mean(values * where, LOCAL), mean(where, LOCAL)
    return sums[at] / np.maximum(counts[at], 1 / LOCAL**2)

  nearest = ndimage.distance_transform_edt(~sound, return_distances=False, return_indices=True)
  nearest = tuple(axis[at] for axis in nearest)
  # By the mean of square roots, which edges, few and large, hardly move. At the edge of the hole:
  # there is nothing sound around the middle of a wide one.
  deviation = (local(np.sqrt(np.abs(texture)), sound, nearest) / ROOT) ** 2
  deviation = np.minimum(deviation, ROUGHEST)
  variance = np.maximum(local(of_filling**2, inside, at), 0)
  lacking = np.sqrt(np.maximum(deviation**2 - variance, 0)) / np.maximum(deviation, 1e-6)
  mirrored = tuple(
    np.clip(2 * edge - pixel, 0, most - 1) for edge, pixel, most in zip(nearest, at, inside.shape)
  )
  usable = sound[mirrored]
  mirrored = tuple(np.where(usable, other, edge) for other, edge in zip(mirrored, nearest))
  grain = np.clip(texture[mirrored], -EDGE * deviation, EDGE * deviation)
  return (GRAIN * lacking * grain)[:, None].astype(np.float32)


def tile_shape(holes: np.ndarray, side: int = SIDE) -> tuple[int, int]:
  """Height and width of the tiles in which a photo's holes, bool [H, W, 1], are filled.

  Not those in which it is restored: attention that was trained on small photos picks colours from
  all over a large one, and one answer in tiles of one size does not depend on the memory there is.
  `side`, or twice the side of the largest square inside a hole, so that a tile shows what is around
  it.
  """
  depth = ndimage.distance_transform_cdt(holes[..., 0]).max()  # chessboard distance from the edge
  return tile_shape_of(holes.shape[:2], side, depth)


def tile_shape_of(size: tuple[int, int], side: int, depth: int = 0) -> tuple[int, int]:
  """`tile_shape` of a photo of this height and width, whose holes reach `depth` pixels inwards."""
  ladder = shapes.LADDER
  most = next((rung for rung in ladder if rung >= max(side, 4 * depth)), ladder[-1])
  return tuple(next(rung for rung in ladder if rung >= min(n, most)) for n in size)


def believe(blind: np.ndarray, seeing: np.ndarray, agreement: float = AGREEMENT) -> np.ndarray:
  """`seeing` where the two agree about a pixel, `blind` where they do not, between in between.

  Args:
    blind: filled without a look at what is in the holes, float32 [H, W, C].
    seeing: filled with it, the same shape.
    agreement: difference at which `seeing` counts for exp(-1).
  """
  difference = np.abs(blind - seeing).mean(-1, keepdims=True)
  return blind + np.exp(-((difference / agreement) ** 2)) * (seeing - blind)


def match(filled: np.ndarray, around: np.ndarray, holes: np.ndarray) -> np.ndarray:
  """`filled` with its slow differences from `around` taken away, so that holes show no seam.

  Args:
    filled: the photo with its holes filled; its other pixels say how the filling differs from
      `around`. float32 [H, W, C].
    around: what the result is put into, [H, W, C]; what it holds inside the holes does not matter.
    holes: bool [H, W, 1]; not everywhere.

  Returns:
    float32 [H, W, C].
  """
  return filled + extend(np.where(holes, 0, around - filled), ~holes)


def extend(values: np.ndarray, known: np.ndarray) -> np.ndarray:
  """Values for all pixels from the known ones, smoother the farther from them (push and pull).

  Each unknown pixel takes the mean of the known ones in the smallest neighbourhood that has any,
  of 2x2, 4x4, 8x8 ... pixels, interpolated linearly between neighbourhoods (Gortler et al. 1996,
  "The Lumigraph", section 3.4).

  Args:
    values: [H, W, C]; 0 where unknown.
    known: bool [H, W, 1] or weights in [0, 1]; not 0 everywhere.
  """
  known = known.astype(np.float32)
  height, width = values.shape[:2]
  if known.min() >= 1 or height * width == 1:
    return values
  # To even sides by repeating the last row or column, which changes no mean of known pixels much.
  pad = ((0, height % 2), (0, width % 2), (0, 0))
  weights = np.pad(known, pad, 'edge')
  sums = _sum_2x2(np.pad(values * known, pad, 'edge'))
  totals = _sum_2x2(weights)
  coarse = extend(sums / np.maximum(totals, 1e-12), np.minimum(totals, 1))
  fine = _double(coarse)[:height, :width]
  return known * values + (1 - known) * fine


def _sum_2x2(x: np.ndarray) -> np.ndarray:
  return x[::2, ::2] + x[1::2, ::2] + x[::2, 1::2] + x[1::2, 1::2]


def _double(x: np.ndarray) -> np.ndarray:
  """Twice the sides, linear between the centres of the pixels."""
  for axis in (0, 1):
    ends = [(1, 1) if i == axis else (0, 0) for i in range(3)]
    padded = np.moveaxis(np.pad(x, ends, 'edge'), axis, 0)
    here, before, after = padded[1:-1], padded[:-2], padded[2:]
    pairs = np.stack([0.75 * here + 0.25 * before, 0.75 * here + 0.25 * after], 1)
    x = np.moveaxis(pairs.reshape(-1, *here.shape[1:]), 0, axis)
  return x
