"""NIQE: fits of known distributions, its order of photos, what cannot be scored."""

import numpy as np
import pytest
import skimage.data
from scipy import ndimage

from oldphoto_jax.metrics import niqe


def aggd(rng, shape, left, right, n):
  """Draws of an asymmetric generalised Gaussian: |x| / scale is a gamma variable's root."""
  size = rng.gamma(1 / shape, 1, n) ** (1 / shape)
  is_left = rng.random(n) < left / (left + right)
  return np.where(is_left, -left * size, right * size)


@pytest.mark.parametrize(
  ('shape', 'left', 'right'), [(2.0, 1.0, 1.0), (1.0, 0.5, 1.5), (0.6, 2.0, 1.0), (4.0, 1.0, 0.7)]
)
def test_a_fit_finds_the_parameters_of_draws(shape, left, right):
  values = aggd(np.random.default_rng(0), shape, left, right, (3, 200_000))
  for found, true in zip(niqe.fit_aggd(values), (shape, left, right)):
    assert found.shape == (3,)
    np.testing.assert_allclose(found, true, rtol=0.04)


def test_a_fit_of_one_sided_or_flat_values_is_nan():
  values = np.stack([np.zeros(50), np.arange(1.0, 51), np.linspace(-1, 1, 50)])
  for found in niqe.fit_aggd(values):
    assert np.isnan(found[:2]).all() and np.isfinite(found[2])


def test_normalised_pixels_of_white_noise_have_no_mean_and_equal_spread():
  window = np.outer(*[np.exp(-0.5 * (np.arange(-3, 4) / (7 / 6)) ** 2)] * 2)
  luma = np.random.default_rng(0).normal(100, 20, (192, 192))
  values = niqe.normalised(luma, window / window.sum())
  assert abs(values.mean()) < 0.01
  np.testing.assert_array_equal(niqe.normalised(np.full((20, 20), 7.0), window / window.sum()), 0)


@pytest.fixture(scope='module')
def statistics(shared):
  return niqe.load(shared / 'data' / 'weights' / 'niqe_pris_params.npz')


@pytest.mark.parametrize('name', ['astronaut', 'coffee', 'chelsea'])
def test_noise_and_blur_score_worse(statistics, name):
  photo = getattr(skimage.data, name)()[:300, :420]
  noise = np.random.default_rng(0).normal(0, 25, photo.shape)
  noisy = np.clip(np.rint(photo + noise), 0, 255).astype(np.uint8)
  blurred = ndimage.gaussian_filter(photo, (2, 2, 0))
  clean, *damaged = (niqe.niqe(statistics, x) for x in (photo, noisy, blurred))
  assert 2 < clean < 6.5 and min(damaged) > clean + 1


def test_only_whole_blocks_count(statistics):
  photo = skimage.data.coffee()[:200, :300]
  score = niqe.niqe(statistics, photo)
  assert score == niqe.niqe(statistics, photo[:192, :288])
  assert score != niqe.niqe(statistics, photo[8:, 12:])


def test_flat_photos_have_no_score_and_flat_blocks_are_left_out(statistics):
  assert np.isnan(niqe.niqe(statistics, np.full((192, 192, 3), 90, np.uint8)))
  photo = skimage.data.coffee()[:192, :384].copy()
  photo[:, 288:] = 90
  assert np.isfinite(niqe.niqe(statistics, photo))


def test_photos_that_cannot_be_scored_are_refused(statistics):
  with pytest.raises(ValueError, match='two blocks'):
    niqe.niqe(statistics, np.zeros((191, 191, 3), np.uint8))
  with pytest.raises(ValueError, match='uint8'):
    niqe.niqe(statistics, np.zeros((192, 192, 3), np.float32))


def test_files_that_hold_no_statistics(tmp_path):
  with pytest.raises(niqe.WeightsError, match='no file of NIQE statistics'):
    niqe.load(tmp_path / 'none.npz')
  np.savez(tmp_path / 'other.npz', mu_pris_param=np.zeros(36))
  with pytest.raises(niqe.WeightsError, match='does not hold NIQE statistics'):
    niqe.load(tmp_path / 'other.npz')
  (tmp_path / 'broken.npz').write_bytes(b'no zip')
  with pytest.raises(niqe.WeightsError, match='does not hold NIQE statistics'):
    niqe.load(tmp_path / 'broken.npz')


def test_halving_keeps_a_ramp_and_a_mean():
  rows = np.tile(np.arange(32.0)[:, None], (1, 24))
  half = niqe._half(rows)
  assert half.shape == (16, 12)
  np.testing.assert_allclose(half[2:-2, 0], np.arange(16)[2:-2] * 2 + 0.5, atol=1e-12)
  np.testing.assert_allclose(niqe._half(np.full((8, 8), 3.0)), 3)
