"""Holes are filled smoothly from what is around them, and from nothing else."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from oldphoto_jax.nn import prefill


def _photo(height, width, channels=3):
  rng = np.random.default_rng(0)
  return rng.uniform(-1, 1, (2, height, width, channels)).astype(np.float32)


def _holes(height, width):
  holes = np.zeros((2, height, width, 1), bool)
  holes[0, 3:6, 2:9] = True
  holes[1, :, 5] = True
  holes[1, height - 1] = True
  return holes


@pytest.mark.parametrize(('height', 'width'), [(16, 16), (13, 18), (7, 31)])
def test_pixels_outside_of_holes_keep_their_bits(height, width):
  photo, holes = _photo(height, width), _holes(height, width)
  filled = np.asarray(prefill.prefill(photo, holes))
  np.testing.assert_array_equal(np.where(holes, 0, filled), np.where(holes, 0, photo))
  assert np.isfinite(filled).all()


def test_what_a_hole_holds_does_not_matter():
  photo, holes = _photo(16, 16), _holes(16, 16)

  def total(photo):
    return (prefill.prefill(photo, holes) ** 2).sum()

  gradient = np.asarray(jax.grad(total)(jnp.asarray(photo)))
  assert np.abs(gradient[np.broadcast_to(holes, photo.shape)]).max() == 0
  assert np.abs(gradient).max() > 0


def test_a_photo_that_is_one_hole_becomes_gray():
  photo = _photo(8, 8)
  filled = prefill.prefill(photo, np.ones((2, 8, 8, 1), bool))
  np.testing.assert_allclose(filled, 0, atol=1e-6)


def test_slopes_go_on_into_holes():
  y, x = np.mgrid[:24, :24]
  photo = np.stack([x / 24, y / 24, (x + y) / 48], -1)[None].astype(np.float32)
  holes = np.zeros((1, 24, 24, 1), bool)
  holes[0, 8:13, 6:18] = True
  filled = np.asarray(prefill.prefill(np.where(holes, 5.0, photo), holes))
  np.testing.assert_allclose(filled, photo, atol=0.01)


def test_many_steps_solve_the_biharmonic_equation():
  """Against a dense solution: the hole pixels for which the squared Laplacians sum to the least."""
  n = 9
  photo, holes = _photo(n, n, 1)[:1], np.zeros((1, n, n, 1), bool)
  holes[0, 3:6, 2:7] = True
  laplacian = np.zeros((n * n, n * n))
  for i in range(n):
    for j in range(n):
      for di, dj in ((1, 0), (-1, 0), (0, 1), (0, -1)):
        row, column = min(max(i + di, 0), n - 1), min(max(j + dj, 0), n - 1)
        laplacian[i * n + j, row * n + column] += 1
        laplacian[i * n + j, i * n + j] -= 1
  inside, values = holes.ravel(), photo.ravel().astype(np.float64)
  known = laplacian[:, ~inside] @ values[~inside]
  values[inside] = np.linalg.lstsq(laplacian[:, inside], -known, rcond=None)[0]
  filled = np.asarray(prefill.prefill(photo, holes, steps=200)).ravel()
  np.testing.assert_allclose(filled, values, atol=2e-3)


def test_film_scans_reach_46_dB_without_a_network(shared):
  """The first goal of filling without harm: 46 dB over the photo and 29 in the mask."""
  from oldphoto_jax.photos import images

  folder = shared / 'data' / 'old' / 'film_pairs'
  whole, inside = [], []
  run = jax.jit(prefill.prefill)
  for name in ('velvia50_0', 'cinestill800t_1'):
    old, truth = (
      images.read_rgb8(folder / f'{name}_{kind}.jpg').astype(np.float32)
      for kind in ('damaged', 'restored')
    )
    holes = images.read_rgb8(folder / f'{name}_mask.png')[..., :1] > 127
    filled = np.asarray(run(old[None] / 127.5 - 1, holes[None]))[0]
    error = (np.rint((filled.clip(-1, 1) + 1) * 127.5) - truth) ** 2
    whole.append(10 * np.log10(255**2 / error.mean()))
    inside.append(10 * np.log10(255**2 / error[holes[..., 0]].mean()))
  assert np.mean(whole) > 46
  assert np.mean(inside) > 29
