"""Scores of real prints: each answers to what it is meant for, and not to something else."""

import numpy as np
import pytest
from scipy import ndimage

from oldphoto_jax.metrics import print_scores


@pytest.fixture(scope='module')
def scene():
  """A grainy photo, a white line on it, the line's mask, and where the photo is sound."""
  rng = np.random.default_rng(0)
  photo = ndimage.gaussian_filter(rng.normal(size=(120, 160, 3)), (6, 6, 0)).astype(np.float32)
  photo = 2 * photo + rng.normal(0, 0.05, photo.shape).astype(np.float32)
  mask = np.zeros((120, 160), bool)
  mask[20:100, 60:64] = True
  damaged = np.where(mask[..., None], 0.9, photo).astype(np.float32)
  return photo, damaged, mask, ~ndimage.binary_dilation(mask, iterations=8)


def drawn():
  """A label with a vertical line of damage."""
  true = np.zeros((40, 40), bool)
  true[10:30, 20] = True
  return print_scores.Label(true, np.ones_like(true))


def test_damage_found_two_pixels_beside_is_found():
  label = drawn()
  beside = np.zeros((40, 40), bool)
  beside[10:30, 22] = True
  assert print_scores.count(beside, label, 2).f1 == 1
  assert print_scores.count(beside, label, 1).f1 == 0


def test_what_a_label_ignores_counts_on_neither_side():
  label = drawn()
  label.known[:, 30:] = False
  found = label.true.copy()
  found[5:8, 32:38] = True
  assert print_scores.count(found, label, 0).precision == 1
  label.true[0, :] = True
  assert print_scores.count(found, label, 0).recall < 1
  assert print_scores.count(found, label, 0, frame=3).recall == 1


def test_a_sound_print_without_finds_is_right():
  nothing = np.zeros((20, 20), bool)
  assert print_scores.count(nothing, print_scores.Label(nothing, ~nothing)).f1 == 1


def test_the_best_threshold_is_found():
  label = drawn()
  probability = np.full((40, 40), 0.4)
  probability[10:30, 20] = 0.72
  threshold, counts = print_scores.best_threshold([probability], [label])
  assert 0.4 < threshold <= 0.72 and counts.f1 == 1


def test_a_line_that_is_gone_leaves_no_energy_and_one_that_stays_leaves_all(scene):
  photo, damaged, mask, sound = scene
  assert print_scores.line_left(damaged, damaged, mask, sound) == pytest.approx(1)
  assert abs(print_scores.line_left(damaged, photo, mask, sound)) < 0.1
  half = (damaged + photo) / 2
  assert 0.3 < print_scores.line_left(damaged, half, mask, sound) < 0.7


def test_a_smear_has_another_texture(scene):
  photo, _, mask, sound = scene
  smeared = np.where(mask[..., None], ndimage.gaussian_filter(photo, (8, 8, 0)), photo)
  assert print_scores.texture_mismatch(photo, mask, sound) < 0.2
  assert print_scores.texture_mismatch(smeared, mask, sound) > 0.5


def test_a_change_of_tone_is_no_change_outside_but_a_lost_object_is(scene):
  _, damaged, mask, _ = scene
  toned = 0.8 * damaged**3 + 0.1 + 0.2 * damaged
  assert print_scores.change_outside(damaged, toned, mask) < 0.01
  changed = damaged.copy()
  changed[40:70, 100:140] = 0
  share = 30 * 40 / (120 * 160)
  assert 0.8 * share < print_scores.change_outside(damaged, changed, mask) < 1.6 * share
  assert print_scores.is_harmed(0.0, 0.05) and not print_scores.is_harmed(0.1, 0.0)


def test_transplanted_damage_lies_on_sound_places_of_the_host(scene):
  _, damaged, mask, _ = scene
  host = np.zeros((150, 200, 3), np.float32)
  sound = np.zeros((150, 200), bool)
  sound[:, 100:] = True
  moved, placed = print_scores.transplant(damaged, mask, host, sound, np.random.default_rng(1))
  assert placed.sum() == mask.sum() and not placed[:, :100].any()
  np.testing.assert_array_equal(moved[~placed], host[~placed])
  np.testing.assert_allclose(moved[placed], 0.9)
