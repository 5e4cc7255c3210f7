"""PSNR and SSIM, per photo, with one stated protocol.

Protocol of every number here: photos [N, H, W, 3] in [-1, 1] are clipped, rounded to 8 bits and
compared as RGB in full size, without a crop and without a conversion to luma; the data range is
255. Metrics are float32 [N], so that a mean over photos is the caller's and can be masked.

A plain fact that follows: two photos that agree after rounding have a PSNR of infinity, as in
skimage.
"""

import jax.numpy as jnp
import numpy as np
from jax import lax

_DATA_RANGE = 255.0


def _levels(photos):
  return jnp.floor(jnp.clip((photos + 1) * 127.5, 0, 255) + 0.5)


def _check(a, b):
  if a.shape != b.shape or a.ndim != 4:
    raise ValueError(
      f'metrics compare two batches [N, H, W, C] of one shape, not {a.shape} and {b.shape}'
    )


def _psnr(mean_squared_error):
  return 20 * np.log10(_DATA_RANGE) - 10 * jnp.log10(mean_squared_error)


# What a mean over photos counts for two equal images, whose PSNR is infinite: in a table, the row
# of doing nothing holds photos that no operation of the recipe has touched.
MAX_PSNR = 60.0


def psnr(a, b):
  """Peak signal-to-noise ratio in dB, [N]; skimage's `peak_signal_noise_ratio` of each photo."""
  _check(a, b)
  return _psnr(((_levels(a) - _levels(b)) ** 2).mean((1, 2, 3)))


def psnr_inside(a, b, mask):
  """PSNR over the damaged pixels alone.

  Args:
    a, b: [N, H, W, C] in [-1, 1].
    mask: [N, H, W, 1] in [0, 1]; a pixel counts with its mask value, so 1 - mask gives the PSNR
      outside.

  Returns:
    dB, [N]; nan for a photo whose mask is empty: there is nothing to measure.
  """
  _check(a, b)
  if mask.shape != (*a.shape[:3], 1):
    raise ValueError(f'a mask for photos {a.shape} has shape {(*a.shape[:3], 1)}, not {mask.shape}')
  error = ((_levels(a) - _levels(b)) ** 2 * mask).sum((1, 2, 3))
  return _psnr(error / (mask.sum((1, 2, 3)) * a.shape[-1]))


def ssim(a, b):
  """Mean structural similarity of Wang et al. 2004, [N].

  As `skimage.metrics.structural_similarity(..., gaussian_weights=True, sigma=1.5,
  use_sample_covariance=False, channel_axis=-1, data_range=255)`: an 11×11 Gaussian window on each
  channel, K1 = 0.01, K2 = 0.03, the mean over channels and over the pixels whose window lies
  inside the photo.

  Raises:
    ValueError: photos smaller than the window.
  """
  _check(a, b)
  if min(a.shape[1:3]) < 11:
    raise ValueError(f'SSIM needs photos of at least 11×11 pixels, not {a.shape[1]}×{a.shape[2]}')
  # Around mid gray, so that a variance, the difference of two squares, keeps its digits.
  a, b = _levels(a) - 128, _levels(b) - 128
  mean_a, mean_b, aa, bb, ab = _window_means(jnp.stack([a, b, a * a, b * b, a * b]))
  var_a, var_b, covariance = aa - mean_a**2, bb - mean_b**2, ab - mean_a * mean_b
  mean_a, mean_b = mean_a + 128, mean_b + 128
  c1, c2 = (0.01 * _DATA_RANGE) ** 2, (0.03 * _DATA_RANGE) ** 2
  similarity = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
  similarity /= (mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2)
  return similarity.mean((1, 2, 3))


def _window_means(x):
  """Gaussian-weighted means of [M, N, H, W, C] over 11×11 windows, [M, N, H - 10, W - 10, C]."""
  weight = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
  weight = (weight / weight.sum()).astype(np.float32)
  height, width = x.shape[2] - 10, x.shape[3] - 10
  x = sum(weight[i] * lax.slice_in_dim(x, i, i + height, axis=2) for i in range(11))
  return sum(weight[i] * lax.slice_in_dim(x, i, i + width, axis=3) for i in range(11))
