"""Checkerboard patterns in photos, a sign that adversarial training is failing."""

import jax.numpy as jnp
from jax import lax

PERIOD = 4  # pixels: of two transposed convolutions or strides in a row; includes period 2
WINDOW = 32  # pixels


def checkerboard(photos):
  """Share of the fine detail that repeats with period 4 (or 2) in rows and columns, [N].

  Upsampling by transposed convolutions leaves such patterns (Odena et al. 2016). Fine detail is
  each pixel's difference from the mean of its 4x4 surroundings. In windows of 32x32 pixels, values
  at the same place of each 4x4 cell are averaged. The score is the energy of these averages over
  that of the detail: 1 for a pure pattern, 1/64 for white noise.

  Args:
    photos: [N, H, W, C]; if H or W is below 32 pixels, the window spans that whole side.

  Returns:
    float32 [N] in [0, 1]; 0 for a photo without detail.
  """
  x = photos.astype(jnp.float32)
  ones = (1, PERIOD, PERIOD, 1)
  means = lax.reduce_window(x, 0.0, lax.add, ones, (1, 1, 1, 1), 'VALID') / PERIOD**2
  detail = x[:, 2 : 2 + means.shape[1], 2 : 2 + means.shape[2]] - means
  n, h, w, c = detail.shape
  window_h, window_w = (min(WINDOW, side // PERIOD * PERIOD) for side in (h, w))
  rows, columns = h // window_h, w // window_w
  detail = detail[:, : rows * window_h, : columns * window_w]
  cells = detail.reshape(
    n, rows, window_h // PERIOD, PERIOD, columns, window_w // PERIOD, PERIOD, c
  )
  pattern = cells.mean((2, 5))
  return jnp.square(pattern).mean((1, 2, 3, 4, 5)) / jnp.maximum(
    jnp.square(detail).mean((1, 2, 3)), 1e-12
  )
