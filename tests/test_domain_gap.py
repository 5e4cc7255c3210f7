"""How far two kinds of photos lie apart."""

import numpy as np
import pytest
from scipy import linalg

from oldphoto_jax.metrics import domain_gap


def _kinds(shift, n=400, features=6):
  rng = np.random.default_rng(0)
  return [rng.normal(shift * kind, 1, (n, features)) for kind in (0, 1)]


def test_kinds_that_are_the_same_cannot_be_told_apart():
  owners = [np.arange(400)] * 2
  assert abs(domain_gap.told_apart(_kinds(0), owners) - 0.5) < 0.06
  assert domain_gap.told_apart(_kinds(5), owners) == 1


def test_kinds_of_different_numbers_count_the_same():
  few, many = _kinds(0)[0][:40], _kinds(0)[1]
  # One that always says "many" would be right in 91 of 100 examples.
  assert domain_gap.told_apart([few, many], [np.arange(40), np.arange(400)]) < 0.65


def test_a_photo_that_was_learnt_from_does_not_count():
  rng = np.random.default_rng(1)
  owners = [np.repeat(np.arange(25), 16), np.repeat(np.arange(25, 50), 16)]
  own_look = rng.normal(0, 1, (50, 60))  # tells the photo, and nothing of its kind
  described = [own_look[kind] + rng.normal(0, 0.01, (400, 60)) for kind in owners]
  mixed = [np.arange(400)] * 2  # as if all squares were of other photos
  assert domain_gap.told_apart(described, mixed) == 1
  assert domain_gap.told_apart(described, owners) < 0.7


def test_the_frechet_distance_of_normal_vectors():
  first, second = _kinds(0.7)
  second = second @ np.triu(np.ones((6, 6)))
  means = first.mean(0) - second.mean(0)
  covariances = [np.cov(kind, rowvar=False) for kind in (first, second)]
  mixed = linalg.sqrtm(covariances[0] @ covariances[1]).real
  expected = means @ means + np.trace(covariances[0] + covariances[1] - 2 * mixed)
  spread = np.trace(covariances[0] + covariances[1]) / 2
  assert domain_gap.frechet(first, second) == pytest.approx(expected / spread, rel=1e-6)
  assert domain_gap.frechet(second, first) == pytest.approx(expected / spread, rel=1e-6)


def test_the_frechet_distance_does_not_depend_on_the_scale():
  first, second = _kinds(0.7)
  assert domain_gap.frechet(first, first) == pytest.approx(0, abs=1e-9)
  small, large = domain_gap.frechet(first, second), domain_gap.frechet(50 * first, 50 * second)
  assert small == pytest.approx(large, rel=1e-9)


def test_a_shift_alone():
  first = _kinds(0)[0]
  spread = np.trace(np.cov(first, rowvar=False))
  assert domain_gap.frechet(first, first + 2) == pytest.approx(6 * 4 / spread, rel=1e-6)
