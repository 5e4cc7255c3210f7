"""failure_signs: what is a checkerboard and what is not, and when a log is worth a warning."""

import jax
import numpy as np
import pytest

from oldphoto_jax.metrics import checkerboard
from oldphoto_jax.training import failure_signs


def pattern(period, side=64, seed=0):
  """[1, side, side, 1] that repeats with `period`, mean 0, standard deviation 1."""
  cell = np.random.default_rng(seed).normal(size=(period, period))
  x = np.tile(cell - cell.mean(), (side // period, side // period))
  return (x / x.std())[None, ..., None].astype(np.float32)


def noise(side=64, seed=1):
  return np.random.default_rng(seed).normal(size=(1, side, side, 1)).astype(np.float32)


def share(x):
  return float(jax.jit(checkerboard.checkerboard)(x)[0])


@pytest.mark.parametrize('period', [2, 4])
def test_a_pattern_is_found(period):
  assert share(pattern(period)) == pytest.approx(1, abs=1e-4)
  # Its share of the energy, beside noise that repeats by chance in one of 64 parts.
  assert share(pattern(period) + noise()) == pytest.approx(0.5, abs=0.05)
  # Also on top of what is not fine detail.
  ramp = np.linspace(-5, 5, 64, dtype=np.float32)[None, :, None, None]
  assert share(pattern(period) + ramp) == pytest.approx(1, abs=1e-3)


def test_what_is_no_pattern():
  assert share(noise(256)) == pytest.approx(1 / 64, abs=0.004)
  assert share(pattern(5, 160)) < 0.1
  assert share(np.zeros((1, 64, 64, 3))) == 0
  assert share(noise(18)) < 0.5  # smaller than a window


def test_photos_are_below_the_threshold(shared):
  from PIL import Image

  paths = sorted((shared / 'data' / 'photos' / 'val').iterdir())[:8]
  photos = [np.asarray(Image.open(p).convert('RGB'))[:256, :256] / 127.5 - 1 for p in paths]
  photos = np.stack([p for p in photos if p.shape[:2] == (256, 256)]).astype(np.float32)
  score = jax.jit(checkerboard.checkerboard)
  assert score(photos).mean() < 0.5 * failure_signs.CHECKERBOARD
  marked = photos + 4 / 127.5 * pattern(2, 256)
  assert score(marked).mean() > failure_signs.CHECKERBOARD


def lines(losses, every=100):
  return [
    {'step': every * (i + 1), 'd_real': x, 'd_fake': x, 'l1': 0.0} for i, x in enumerate(losses)
  ]


def test_a_discriminator_that_won_is_told():
  assert failure_signs.warnings([]) == []
  assert failure_signs.warnings(lines([0.2] * 10)) == []
  (warning,) = failure_signs.warnings(lines([0.2] * 5 + [0.01] * 5))
  assert 'the discriminator has stayed below 0.03 for 500 steps' in warning
  assert failure_signs.warnings(lines([0.2] * 6 + [0.01] * 4)) == []  # not yet for long
  assert failure_signs.warnings(lines([0.01] * 4)) == []  # too early to say
  assert failure_signs.warnings(lines([0.01] * 9 + [0.2])) == []  # it has come back
  cycle = [{'step': 100 * i, 'd_X_real': 0.2, 'd_X_fake': 0.3} for i in range(10)]
  cycle = [line | {'d_Y_real': 0.01, 'd_Y_fake': 0.02} for line in cycle]
  (warning,) = failure_signs.warnings(cycle)
  assert 'the discriminator Y has' in warning
  assert failure_signs.warnings([{'step': 100 * i, 'l1': 0.1} for i in range(10)]) == []


def test_a_checkerboard_is_told():
  clean, bad = ({'step': 5, 'eval_checkerboard': x} for x in (0.03, 0.25))
  assert failure_signs.warnings([bad, clean]) == []
  (warning,) = failure_signs.warnings([clean, bad])
  assert '25% of the fine detail' in warning
