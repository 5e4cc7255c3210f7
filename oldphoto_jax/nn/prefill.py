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
  means = sums / jnp.maximum(weight, 1e-6)
  if height == 1 and width == 1:
    return jnp.where(weight > 0, means, 0.0)
  pad = ((0, 0), (0, 0), (0, height % 2), (0, width % 2))
  blocks = _blocks(jnp.pad(sums, pad)), _blocks(jnp.pad(weight, pad))
  # A block counts for one pixel at most: near pixels decide, not the many far ones.
  least = jnp.maximum(blocks[1], 1.0)
  coarse = _push_pull(blocks[0] / least, blocks[1] / least)
  finer = layers.double(coarse, axes=(2, 3))[:, :, :height, :width]
  return weight * means + (1 - weight) * finer


def _blocks(x):
  """Sums over blocks of 2x2."""
  return sum(x[:, :, i::2, j::2] for i in range(2) for j in range(2))


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
