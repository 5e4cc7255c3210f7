"""Metrics against scikit-image, on uint8 photos, and the protocol around them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import skimage.data
from scipy import ndimage
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from oldphoto_jax.metrics import psnr_ssim
from oldphoto_jax.metrics.psnr_ssim import ms_ssim, psnr, psnr_inside, ssim


def to_float(images):
  return jnp.asarray(images.astype(np.float32) / 127.5 - 1)


@pytest.fixture(scope='module')
def pairs():
  """Clean and damaged uint8 photos [5, 60, 75, 3]: noise, shift, flat, nearly equal, inverted."""
  rng = np.random.default_rng(0)
  images = (skimage.data.astronaut(), skimage.data.coffee(), skimage.data.rocket())
  clean = np.stack([image[100:160, 150:225] for image in (*images, images[1], images[0])])
  other = clean.astype(float)
  other[0] += rng.normal(size=other[0].shape) * 25
  other[1] = np.roll(other[1], 2, 1)
  other[2] = other[2].mean()
  other[3, 30, 30] += 1
  other[4] = 255 - other[4]
  return clean, np.clip(np.round(other), 0, 255).astype(np.uint8)


def test_psnr_equals_skimage(pairs):
  expected = [peak_signal_noise_ratio(a, b, data_range=255) for a, b in zip(*pairs)]
  expected = np.minimum(expected, psnr_ssim.MAX_PSNR)
  np.testing.assert_allclose(jax.jit(psnr)(*map(to_float, pairs)), expected, atol=1e-4)


def test_ssim_equals_skimage(pairs):
  expected = [
    structural_similarity(
      a,
      b,
      gaussian_weights=True,
      sigma=1.5,
      use_sample_covariance=False,
      channel_axis=-1,
      data_range=255,
    )
    for a, b in zip(*pairs)
  ]
  np.testing.assert_allclose(jax.jit(ssim)(*map(to_float, pairs)), expected, atol=1e-5)


def slow_ms_ssim(a, b):
  """Of one channel of two photos, in float64, a scale at a time."""

  def means(x):
    return ndimage.gaussian_filter(x, 1.5, truncate=3.4)[5:-5, 5:-5]  # 11 taps

  a, b, product = a.astype(float), b.astype(float), 1.0
  for i, weight in enumerate((0.0448, 0.2856, 0.3001, 0.2363, 0.1333)):
    if i:
      a, b = (
        sum(x[j : len(x) // 2 * 2 : 2, k : x.shape[1] // 2 * 2 : 2] for j in (0, 1) for k in (0, 1))
        / 4
        for x in (a, b)
      )
    mean_a, mean_b = means(a), means(b)
    var_a, var_b = means(a * a) - mean_a**2, means(b * b) - mean_b**2
    terms = (2 * (means(a * b) - mean_a * mean_b) + 58.5225) / (var_a + var_b + 58.5225)
    if i == 4:
      terms = terms * (2 * mean_a * mean_b + 6.5025) / (mean_a**2 + mean_b**2 + 6.5025)
    product *= max(terms.mean(), 0) ** weight
  return product


def test_ms_ssim_equals_a_slow_one():
  clean = np.stack([skimage.data.astronaut(), skimage.data.astronaut()])[:, 20:205, 100:279]
  noise = np.random.default_rng(0).normal(size=clean.shape) * np.array([10, 60]).reshape(2, 1, 1, 1)
  other = np.clip(np.round(clean + noise), 0, 255).astype(np.uint8)
  other = np.concatenate([other, 255 - clean[:1]])  # structure that is inverted counts 0
  clean = np.concatenate([clean, clean[:1]])
  expected = [
    np.mean([slow_ms_ssim(*(x[i, ..., c] for x in (clean, other))) for c in range(3)])
    for i in range(3)
  ]
  found = jax.jit(ms_ssim)(*map(to_float, (clean, other)))
  np.testing.assert_allclose(found, expected, atol=2e-5)
  assert found[0] > found[1] > found[2] == 0
  np.testing.assert_allclose(ms_ssim(*[to_float(clean)] * 2), 1, atol=1e-6)


def test_ms_ssim_refuses_photos_without_five_scales():
  photos = jnp.zeros((1, 176, 175, 3))
  with pytest.raises(ValueError, match='176×176'):
    ms_ssim(photos, photos)


def test_a_photo_compared_with_itself(pairs):
  photos = to_float(pairs[0])
  np.testing.assert_allclose(ssim(photos, photos), 1, atol=1e-6)
  assert (psnr(photos, photos) == psnr_ssim.MAX_PSNR).all()


def test_photos_are_clipped_then_rounded(pairs):
  clean, other = map(to_float, pairs)
  bright = jnp.where(clean == 1, 1.7, clean)  # beyond white is white
  np.testing.assert_array_equal(psnr(bright, other), psnr(clean, other))
  np.testing.assert_array_equal(psnr(clean + 0.45 / 127.5, other), psnr(clean, other))
  assert (psnr(clean + 0.55 / 127.5, other) != psnr(clean, other)).all()


def test_psnr_inside_is_the_psnr_of_the_masked_pixels(pairs):
  clean, other = pairs
  mask = np.zeros((*clean.shape[:3], 1), np.float32)
  mask[:, 20:45, 10:50] = 1
  inside = psnr_inside(to_float(clean), to_float(other), mask)
  expected = psnr(to_float(clean[:, 20:45, 10:50]), to_float(other[:, 20:45, 10:50]))
  np.testing.assert_allclose(inside, expected, atol=1e-4)
  everywhere = psnr_inside(to_float(clean), to_float(other), np.ones_like(mask))
  np.testing.assert_allclose(everywhere, psnr(to_float(clean), to_float(other)), atol=1e-4)
  assert np.isnan(psnr_inside(to_float(clean), to_float(other), np.zeros_like(mask))).all()


def test_wrong_shapes_are_refused(pairs):
  a, b = map(to_float, pairs)
  for metric in (psnr, ssim):
    with pytest.raises(ValueError, match='one shape'):
      metric(a, b[:2])
    with pytest.raises(ValueError, match='one shape'):
      metric(a[0], b[0])
  with pytest.raises(ValueError, match='11×11'):
    ssim(a[:, :10], b[:, :10])
  with pytest.raises(ValueError, match='a mask for'):
    psnr_inside(a, b, jnp.zeros(a.shape))
