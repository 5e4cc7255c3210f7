"""Tones of photos of any size."""

import numpy as np

from oldphoto_jax.models import tone
from oldphoto_jax.restoring import toning


def _photo(height, width):
  return np.random.default_rng(0).uniform(-1, 1, (height, width, 3)).astype(np.float32)


def test_bands_of_rows_are_corrected_as_models_tone_does(monkeypatch):
  monkeypatch.setattr(toning, 'BAND', 300)
  photo = _photo(37, 50)
  rng = np.random.default_rng(1)
  knots = rng.uniform(-0.2, 0.2, (3, tone.KNOTS)).astype(np.float32)
  matrix = rng.uniform(-0.1, 0.1, (3, 3)).astype(np.float32)
  wanted = tone.apply(photo[None], knots[None], matrix[None], np.array([0.7], np.float32))
  corrected = toning.correct(photo, knots, matrix, 0.7, tone.LARGEST)
  np.testing.assert_allclose(corrected, np.clip(wanted[0], -1, 1), atol=1e-5)


def test_damage_and_the_frame_do_not_count():
  mask = np.zeros((128, 192, 1), np.float32)
  mask[:64] = 1
  small, weight = toning.thumbnail(_photo(128, 192), mask)
  assert small.shape == (1, toning.SIDE, toning.SIDE, 3)
  assert weight[0, : toning.SIDE // 2 - 1].max() < 0.05  # the damaged half
  assert weight[0, toning.SIDE // 2 + 2 : -4, 4:-4].min() > 0.95
  assert weight[0, -1].max() == 0 and weight[0, :, 0].max() == 0


def test_a_doubtful_correction_is_not_made():
  assert toning.conviction(0.3) == 0
  assert 0 < toning.conviction(0.6) < 0.6
  assert toning.conviction(0.9) == 0.9
