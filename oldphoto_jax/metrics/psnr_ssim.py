"""PSNR, SSIM and MS-SSIM per photo, all by one protocol.

Photos [N, H, W, 3] in [-1, 1] are clipped, rounded to 8 bits and compared as RGB at full size,
without cropping or conversion to luma. The data range is 255. Metrics are float32 [N], so the
caller can mask the mean over photos.

Photos that are identical after rounding have an infinite PSNR, which neither a mean nor JSON can
hold, so PSNR is capped at MAX_PSNR.
"""

import jax.numpy as jnp
import numpy as np
from jax import lax

_DATA_RANGE = 255.0
MAX_PSNR = 60.0  # dB, for identical photos: a recipe leaves some photos untouched


def _levels(photos):
  return jnp.floor(jnp.clip((photos + 1) * 127.5, 0, 255) + 0.5)


def _check(a, b):
  if a.shape != b.shape or a.ndim != 4:
    raise ValueError(
      f'metrics compare two batches [N, H, W, C] of one shape, not {a.shape} and {b.shape}'
    )


def _psnr(mean_squared_error):
  decibels = 20 * np.log10(_DATA_RANGE) - 10 * jnp.log10(mean_squared_error)
  return jnp.minimum(decibels, MAX_PSNR)


def psnr(a, b):
  """Peak signal-to-noise ratio in dB, [N], at most MAX_PSNR.

  Below that it equals skimage's `peak_signal_noise_ratio` per photo.
  """
  _check(a, b)
  return _psnr(((_levels(a) - _levels(b)) ** 2).mean((1, 2, 3)))


def psnr_inside(a, b, mask):
  """PSNR over only the damaged pixels.

  Args:
    a, b: [N, H, W, C] in [-1, 1].
    mask: [N, H, W, 1] in [0, 1], the weight of each pixel; 1 - mask gives the PSNR outside.

  Returns:
    dB, [N], at most MAX_PSNR; nan for a photo whose mask is empty.
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
    ValueError: for photos smaller than the window.
  """
  _check(a, b)
  if min(a.shape[1:3]) < 11:
    raise ValueError(f'SSIM needs photos of at least 11×11 pixels, not {a.shape[1]}×{a.shape[2]}')
  luminance, contrast = _similarity(_levels(a), _levels(b))
  return (luminance * contrast).mean((1, 2, 3))


# Weights of the five scales, finest first: Wang, Simoncelli, Bovik 2003, section 3.2.
_SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
MS_SSIM_SIDE = 11 * 2 ** (len(_SCALE_WEIGHTS) - 1)  # the window fits into the coarsest scale


def ms_ssim(a, b):
  """Multi-scale structural similarity of Wang, Simoncelli and Bovik 2003, [N].

  The product of the contrast and structure terms of five scales and the luminance term of the
  coarsest, each to the power of the paper's weight. Window and constants are those of `ssim`. Each
  scale halves the one before by means of 2×2 pixels and drops an odd last row or column. Terms are
  averaged over the photo per channel before the powers are taken. Negative terms count as 0, as in
  TensorFlow and pytorch-msssim, since their power is not a real number. The result is the mean
  over channels.

  Raises:
    ValueError: for photos under `MS_SSIM_SIDE` = 176 pixels per side. There is no variant with
      fewer scales, because its numbers could not be compared.
  """
  _check(a, b)
  if min(a.shape[1:3]) < MS_SSIM_SIDE:
    raise ValueError(
      f'MS-SSIM needs photos of at least {MS_SSIM_SIDE}×{MS_SSIM_SIDE} pixels for its five scales, '
      f'not {a.shape[1]}×{a.shape[2]}'
    )
  a, b = _levels(a), _levels(b)
  product = 1.0
  for i, weight in enumerate(_SCALE_WEIGHTS):
    if i:
      a, b = _half(a), _half(b)
    luminance, term = _similarity(a, b)
    if i == len(_SCALE_WEIGHTS) - 1:
      term = luminance * term
    product *= jnp.maximum(term.mean((1, 2)), 0) ** weight
  return product.mean(1)


def _similarity(a, b):
  """SSIM's luminance term, and its contrast and structure term, for levels 0 to 255.

  One value per 11×11 window inside the photos: [N, H - 10, W - 10, C] each.
  """
  # Centred on mid gray, so that a variance, the difference of two squares, keeps its digits.
  a, b = a - 128, b - 128
  mean_a, mean_b, aa, bb, ab = _window_means(jnp.stack([a, b, a * a, b * b, a * b]))
  var_a, var_b, covariance = aa - mean_a**2, bb - mean_b**2, ab - mean_a * mean_b
  mean_a, mean_b = mean_a + 128, mean_b + 128
  c1, c2 = (0.01 * _DATA_RANGE) ** 2, (0.03 * _DATA_RANGE) ** 2
  luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
  return luminance, (2 * covariance + c2) / (var_a + var_b + c2)


def _half(x):
  """Means of 2×2 pixels of [N, H, W, C]."""
  n, height, width, channels = x.shape
  x = x[:, : height // 2 * 2, : width // 2 * 2]
  return x.reshape(n, height // 2, 2, width // 2, 2, channels).mean((2, 4))


def _window_means(x):
  """Gaussian-weighted means of [M, N, H, W, C] over 11×11 windows, [M, N, H - 10, W - 10, C]."""
  weight = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
  weight = (weight / weight.sum()).astype(np.float32)
  height, width = x.shape[2] - 10, x.shape[3] - 10
  x = sum(weight[i] * lax.slice_in_dim(x, i, i + height, axis=2) for i in range(11))
  return sum(weight[i] * lax.slice_in_dim(x, i, i + width, axis=3) for i in range(11))
