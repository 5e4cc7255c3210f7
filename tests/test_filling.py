"""Filled holes fit into what is around them."""

import numpy as np
import pytest

from oldphoto_jax.restoring import filling


def photo(height=37, width=50, seed=0):
  return np.random.default_rng(seed).uniform(-1, 1, (height, width, 3)).astype(np.float32)


def square_hole(height=37, width=50):
  holes = np.zeros((height, width, 1), bool)
  holes[9:24, 12:31] = True
  return holes


def test_a_constant_difference_is_carried_into_the_hole_exactly():
  clean, holes = photo(), square_hole()
  faded = 0.3 + clean
  faded[holes[..., 0]] = 9  # whatever
  np.testing.assert_allclose(filling.match(clean, faded, holes), clean + 0.3, atol=1e-5)


def test_a_slow_difference_leaves_no_seam():
  clean, holes = photo(), square_hole()
  rows, columns = np.mgrid[:37, :50]
  difference = (0.01 * rows - 0.006 * columns)[..., None]
  matched = filling.match(clean, clean + difference, holes)
  np.testing.assert_allclose(matched, clean + difference, atol=0.06)
  np.testing.assert_allclose(
    matched[~holes[..., 0]], (clean + difference)[~holes[..., 0]], atol=1e-5
  )


@pytest.mark.parametrize('size', [(1, 1), (2, 1), (5, 7), (64, 64)])
def test_one_known_pixel_is_enough_at_any_size(size):
  known = np.zeros((*size, 1), bool)
  known[-1, -1] = True
  values = np.zeros((*size, 2), np.float32)
  values[-1, -1] = (0.25, -0.5)
  extended = filling.extend(values, known)
  np.testing.assert_allclose(extended, np.broadcast_to([0.25, -0.5], (*size, 2)), atol=1e-6)


def test_known_pixels_stay():
  values, holes = photo(), square_hole()
  values[holes[..., 0]] = 0
  extended = filling.extend(values, ~holes)
  np.testing.assert_array_equal(extended[~holes[..., 0]], values[~holes[..., 0]])
  assert np.abs(extended).max() <= 1
