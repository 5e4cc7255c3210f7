"""How noisy a photo is, measured where it shows least."""

import jax
import jax.numpy as jnp
import numpy as np

BLOCK = 8  # cells of 2x2 pixels of a side, of which the noise is measured
QUIET = 0.1  # share of the blocks that show less noise than the photo is said to have
CLIPPED = 0.9  # mean of a block, of [-1, 1], from which on white or black hide its noise
LOUD = 50 / 127.5  # standard deviation, of [-1, 1], that counts as 1


def measure(photo: jax.Array | np.ndarray) -> jax.Array | np.ndarray:
  """How noisy photos are, fine and coarse: [B, 2] in units of LOUD, at most 1.

  The standard deviation of white noise would be that of the diagonal Haar coefficients, of cells of
  2x2 pixels. Texture adds to it, so that of the photo is taken where it is least: of a share QUIET
  of the blocks, without those that are nearly black or white. Coarse: the same of the photo at half
  the size. Ours, after Immerkaer 1996 (a Laplacian of the whole photo).

  Args:
    photo: float32 [B, H, W, 3] in [-1, 1], of NumPy or JAX; H and W at least 4 * BLOCK, or what
      cannot be measured is 0.
  """
  xp = np if isinstance(photo, np.ndarray) else jnp
  halves = photo[:, : photo.shape[1] // 2 * 2, : photo.shape[2] // 2 * 2]
  halves = halves.reshape(len(photo), photo.shape[1] // 2, 2, photo.shape[2] // 2, 2, 3)
  return xp.stack([_noise(photo, xp), _noise(halves.mean((2, 4)), xp)], -1)


def _noise(photo, xp):
  rows, columns = (n // (2 * BLOCK) for n in photo.shape[1:3])
  if not rows or not columns:
    return xp.zeros(len(photo), photo.dtype)
  cells = photo[:, : 2 * BLOCK * rows, : 2 * BLOCK * columns]
  cells = cells.reshape(len(photo), rows, BLOCK, 2, columns, BLOCK, 2, 3)
  diagonal = cells[:, :, :, 0, :, :, 0] - cells[:, :, :, 0, :, :, 1]
  diagonal = (diagonal - cells[:, :, :, 1, :, :, 0] + cells[:, :, :, 1, :, :, 1]) / 2
  power = (diagonal**2).mean((2, 4, 5)).reshape(len(photo), -1)
  hidden = abs(cells.mean((2, 3, 5, 6, 7))).reshape(len(photo), -1) >= CLIPPED
  power = xp.sort(xp.where(hidden, xp.inf, power), -1)
  seen = (~hidden).sum(-1)
  place = (QUIET * xp.maximum(seen - 1, 0)).astype(int)
  least = xp.take_along_axis(power, place[:, None], -1)[:, 0]
  return xp.minimum(xp.where(seen > 0, least, 0.0) ** 0.5 / LOUD, 1.0).astype(photo.dtype)
