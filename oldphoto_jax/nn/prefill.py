"""Holes filled smoothly from their rims, on the device: where the network begins to fill.

Three steps, each the start of the next. Push and pull: every hole pixel takes the mean of the known
ones in the smallest block that has any (Gortler et al. 1996, "The Lumigraph", section 3.4). Jacobi
sweeps of Laplace's equation take the blocks away. Conjugate gradients of the biharmonic equation
carry slopes into the hole. They are stopped early on purpose: with 10 steps thin holes are filled
as well as by the converged biharmonic equation, and wide ones better, as it overshoots there.
"""

import jax
import jax.numpy as jnp
from jax import lax

from oldphoto_jax.nn import layers

SWEEPS = 24
STEPS = 10
SMALL = 256  # side from which on down the levels of push and pull are one loop


def prefill(photo: jax.Array, holes: jax.Array, sweeps: int = SWEEPS, steps: int = STEPS):
  """Fills holes from what is around them.

  Args:
    photo: float32 [B, H, W, C]; what it holds in holes does not matter.
    holes: bool [B, H, W, 1]. Where a photo is one hole, it becomes 0.
    sweeps: of Jacobi's method.
    steps: of conjugate gradients.

  Returns:
    float32 [B, H, W, C], equal to `photo` outside of the holes.
  """
  # Planes, as sums over rows of three channels are slow.
  planes, holes = photo.transpose(0, 3, 1, 2), holes.transpose(0, 3, 1, 2)
  known = 1 - holes.astype(photo.dtype)
  filled = jnp.where(holes, _push_pull(planes * known, known), planes)

  def sweep(_, x):
    return jnp.where(holes, _neighbours(x) / 4, x)

  filled = lax.fori_loop(0, sweeps, sweep, filled)
  return _biharmonic(filled, holes, steps).transpose(0, 2, 3, 1)


def _push_pull(sums, weight):
  """Means over the known pixels of ever larger blocks; `sums` are values times `weight`."""
  height, width = sums.shape[2:]
  if max(height, width) <= SMALL:
    return _push_pull_small(sums, weight)
  coarse = _push_pull(*_blocks(sums, weight))
  return _mixed(sums, weight, layers.double(coarse, axes=(2, 3))[:, :, :height, :width])


def _push_pull_small(sums, weight):
  """The same as two loops over the levels, which all have one shape: fewer programs to compile.

  A level lies in the top left corner; beyond it, weights and sums are 0.
  """
  sizes = [sums.shape[2:]]
  while max(sizes[-1]) > 1:
    sizes.append(tuple(-(-side // 2) for side in sizes[-1]))
  last = jnp.array(sizes[1:], jnp.int32).reshape(-1, 2) - 1  # of the next coarser level
  whole = sums.shape

  def down(level, _):
    coarse = (
      jnp.pad(x, [(0, n - m) for n, m in zip((*x.shape[:2], *whole[2:]), x.shape)])
      for x in _blocks(*level)
    )
    return tuple(coarse), level

  def up(coarse, level):
    last, sums, weight = level
    for axis in (2, 3):
      coarse = lax.slice_in_dim(coarse, 0, -(-whole[axis] // 2), axis=axis)
    finer = _double(coarse, last)[:, :, : whole[2], : whole[3]]
    return _mixed(sums, weight, finer), None

  (sums, weight), levels = lax.scan(down, (sums, weight), length=len(last))
  coarsest = jnp.where(weight > 0, sums / jnp.maximum(weight, 1e-6), 0.0)
  return lax.scan(up, coarsest, (last, *levels), reverse=True)[0]


def _mixed(sums, weight, finer):
  return weight * (sums / jnp.maximum(weight, 1e-6)) + (1 - weight) * finer


def _double(x, last):
  """layers.double of the corner of x that ends with row and column `last`."""
  for axis, end in zip((2, 3), last):
    place = lax.broadcasted_iota(jnp.int32, x.shape, axis)
    before = jnp.where(place == 0, x, jnp.roll(x, 1, axis))
    after = jnp.where(place >= end, x, jnp.roll(x, -1, axis))
    pairs = jnp.stack([0.25 * before + 0.75 * x, 0.75 * x + 0.25 * after], axis + 1)
    x = pairs.reshape(*x.shape[:axis], 2 * x.shape[axis], *x.shape[axis + 1 :])
  return x


def _blocks(sums, weight):
  """The next coarser level: over blocks of 2x2."""
  pad = ((0, 0), (0, 0), (0, sums.shape[2] % 2), (0, sums.shape[3] % 2))

  def added(x):
    x = jnp.pad(x, pad)
    return sum(x[:, :, i::2, j::2] for i in range(2) for j in range(2))

  sums, weight = added(sums), added(weight)
  # A block counts for one pixel at most: near pixels decide, not the many far ones.
  least = jnp.maximum(weight, 1.0)
  return sums / least, weight / least


def _neighbours(x):
  """The sum of the four neighbours; the border repeats."""
  total = 0
  for axis in (2, 3):
    n = x.shape[axis]
    place = lax.broadcasted_iota(jnp.int32, x.shape, axis)
    # Rolled, as XLA fuses that into one loop, which it does not with what is joined.
    total += jnp.where(place == 0, x, jnp.roll(x, 1, axis))
    total += jnp.where(place == n - 1, x, jnp.roll(x, -1, axis))
  return total


def _biharmonic(photo, holes, steps):
  """Conjugate gradients for a vanishing Laplacian of the Laplacian in the holes."""
  inside = holes.astype(photo.dtype)

  def operator(x):
    # The Laplacian with a repeated border is symmetric, so this is a product L L.
    for _ in range(2):
      x = _neighbours(x) - 4 * x
    return inside * x

  def dot(a, b):  # of each photo and channel, whose equations do not know of each other
    return (a * b).sum((2, 3), keepdims=True)

  def step(_, carry):
    x, residual, direction, size = carry
    image = operator(direction)
    length = size / jnp.maximum(dot(direction, image), 1e-20)
    x = x + length * direction
    residual = residual - length * image
    new = dot(residual, residual)
    direction = residual + new / jnp.maximum(size, 1e-20) * direction
    return x, residual, direction, new

  residual = -operator(photo)
  start = photo, residual, residual, dot(residual, residual)
  return lax.fori_loop(0, steps, step, start)[0]
