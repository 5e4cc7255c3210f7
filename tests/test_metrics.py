"""Metrics against scikit-image, on uint8 photos, and the protocol around them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import skimage.data
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from oldphoto_jax.metrics import psnr, psnr_inside, ssim


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


def test_a_photo_compared_with_itself(pairs):
  photos = to_float(pairs[0])
  np.testing.assert_allclose(ssim(photos, photos), 1, atol=1e-6)
  assert np.isposinf(psnr(photos, photos)).all()


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
