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


def _stain(halo):
  """A gray photo with an orange spot whose edge fades over some pixels; a mask of its middle."""
  rows, columns = np.mgrid[:80, :90]
  away = np.hypot(rows - 40, columns - 45)
  cover = np.clip((12 + halo - away) / max(halo, 1), 0, 1)[..., None]
  photo = (1 - cover) * 0.1 + cover * np.array([0.8, 0.2, -0.6])
  return photo.astype(np.float32), (away < 12)[..., None].astype(np.float32)


def test_a_stain_that_fades_gets_a_rim_that_the_filling_does_not_begin_from():
  photo, mask = _stain(halo=6)
  grown = filling.rimmed(photo, mask)
  added = (grown > 0) & (mask == 0)
  assert added.sum() > 200 and grown.max() == 1
  np.testing.assert_array_equal(grown[mask > 0], mask[mask > 0])
  away = np.hypot(*(np.mgrid[:80, :90] - np.array([40, 45])[:, None, None]))
  assert away[added[..., 0]].max() < 12 + 12 / 2 * 2**0.5 + 1


@pytest.mark.parametrize('case', ['sharp', 'found', 'thin'])
def test_what_ends_where_it_is_marked_or_was_only_found_or_is_thin_gets_no_rim(case):
  photo, mask = _stain(halo=0 if case == 'sharp' else 6)
  if case == 'found':
    mask *= 0.5
  elif case == 'thin':
    mask[:40], mask[44:] = 0, 0
  np.testing.assert_array_equal(filling.rimmed(photo, mask), mask)
