"""Filled holes fit into what is around them."""

import numpy as np
import pytest
from scipy import ndimage

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


def fine_deviation(photo, where):
  fine = photo - ndimage.uniform_filter(photo, (5, 5, 1))
  return fine[where].std()


def test_a_smooth_filling_gets_the_grain_around_it():
  """Grain of 6 levels. What is added has no mean and no colour, and stays in the hole."""
  grain = 6 / 127.5 * np.random.default_rng(0).normal(size=(160, 160, 1))
  around = np.broadcast_to(0.2 + grain, (160, 160, 3)).astype(np.float32)
  holes = np.zeros((160, 160, 1), bool)
  holes[60:90, 20:140] = True
  filled = np.where(holes, np.float32(0.2), around)
  after = filling.grained(filled, around, holes)
  inside, sound = holes[..., 0], ~ndimage.binary_dilation(holes[..., 0], iterations=4)
  ratio = fine_deviation(after, inside) / fine_deviation(after, sound)
  assert 0.45 < ratio < 0.75  # GRAIN, less what is clipped
  added = (after - filled)[inside]
  assert abs(added.mean()) < 0.5 / 127.5
  np.testing.assert_allclose(added, added[:, :1].repeat(3, 1), atol=1e-6)
  np.testing.assert_array_equal(after[~inside], filled[~inside])
  # What lies in the hole of `around` is damage, and plays no part.
  np.testing.assert_array_equal(
    filling.grained(filled, np.where(holes, np.float32(-1), around), holes), after
  )


def test_the_middle_of_a_wide_hole_gets_grain_too():
  around = (8 / 127.5 * np.random.default_rng(0).normal(size=(260, 260, 1))).astype(np.float32)
  around = around.repeat(3, -1)
  holes = np.zeros((260, 260, 1), bool)
  holes[70:190, 70:190] = True
  after = filling.grained(np.where(holes, np.float32(0), around), around, holes)
  rim, middle, sound = (np.zeros((260, 260), bool) for _ in range(3))
  rim[72:80, 72:188] = middle[110:150, 110:150] = sound[:60] = True
  deviations = [fine_deviation(after, where) for where in (rim, middle, sound)]
  assert 0.8 < deviations[1] / deviations[0] < 1.25
  assert 0.45 < deviations[1] / deviations[2] < 0.75


def test_a_filling_as_rough_as_its_surroundings_and_one_in_a_smooth_photo_stay():
  holes = square_hole(96, 96)
  rough = 0.1 * photo(96, 96)
  more = np.where(holes, 1.5 * rough, rough)
  np.testing.assert_allclose(filling.grained(more, rough, holes), more, atol=1e-7)
  smooth = np.full((96, 96, 3), -0.3, np.float32)
  np.testing.assert_array_equal(filling.grained(smooth, smooth, holes), smooth)


def test_an_edge_beside_a_hole_is_not_mirrored_into_it():
  around = np.full((96, 96, 3), -0.5, np.float32)
  around += 2 / 127.5 * np.random.default_rng(0).normal(size=(96, 96, 1)).astype(np.float32)
  holes = np.zeros((96, 96, 1), bool)
  holes[40:56, 20:76] = True
  filled = np.where(holes, np.float32(-0.5), around)
  around[60:62] = 1.0  # a white line, four pixels beside the hole
  added = filling.grained(filled, around, holes) - filled
  assert np.abs(added).max() < 0.2  # of 1.5


def test_grain_is_the_same_in_tiles(monkeypatch):
  """Tiles see all that what is mirrored depends on; ties between edges may go either way."""
  around = 0.1 * photo(300, 260)
  holes = np.random.default_rng(1).random((300, 260, 1)) < 0.0005
  holes = ndimage.binary_dilation(holes, np.ones((5, 5, 1)))
  filled = np.where(holes, np.float32(0), around)
  in_tiles = filling.grained(filled, around, holes)
  monkeypatch.setattr(filling, 'GRAIN_TILE', 1000)
  whole = filling.grained(filled, around, holes)
  differ = ~np.isclose(in_tiles, whole, atol=1e-6).all(-1)
  assert differ[holes[..., 0]].mean() < 0.02
  assert (whole != filled).any()


def test_a_photo_that_is_nearly_all_hole_gets_no_grain():
  holes = np.ones((40, 40, 1), bool)
  holes[0, 0] = False
  values = 0.1 * photo(40, 40)
  np.testing.assert_array_equal(filling.grained(values, values, holes), values)
