"""Curves and a matrix undo fading; what is not faded stays."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from oldphoto_jax.degradation import recipes, worn
from oldphoto_jax.models import tone
from oldphoto_jax.training import parallel


def _photos(count=4, side=24):
  rng = np.random.default_rng(0)
  return rng.uniform(-1, 1, (count, side, side, 3)).astype(np.float32)


def test_an_untrained_network_changes_nothing():
  model, photo = tone.Tone(), _photos()
  state = tone.init(model, jax.random.key(0))
  knots, matrix, gate = tone.correction(model, state.g, photo, jnp.ones((4, 24, 24, 1)))
  np.testing.assert_allclose(tone.apply(photo, knots, matrix, gate), photo, atol=1e-6)


def test_curves_are_linear_between_their_knots():
  photo = _photos(1)
  knots = np.random.default_rng(1).uniform(-0.2, 0.2, (1, 3, tone.KNOTS)).astype(np.float32)
  result = np.asarray(tone.apply(photo, knots, np.zeros((1, 3, 3)), np.ones(1)))
  place = np.linspace(-1, 1, tone.KNOTS)
  for c in range(3):
    wanted = photo[0, ..., c] + np.interp(photo[0, ..., c], place, knots[0, c])
    np.testing.assert_allclose(result[0, ..., c], wanted, atol=1e-5)


def test_a_closed_gate_leaves_the_photo_and_no_value_moves_far():
  photo = _photos(1)
  knots, matrix = np.full((1, 3, tone.KNOTS), 5.0), np.full((1, 3, 3), 3.0)
  np.testing.assert_array_equal(tone.apply(photo, knots, matrix, np.zeros(1)), photo)
  moved = np.abs(np.asarray(tone.apply(photo, knots, matrix, np.ones(1))) - photo)
  assert moved.max() <= tone.LARGEST + 1e-6


def test_statistics_leave_out_what_has_no_weight():
  photo = _photos(1)
  weight = np.ones((1, 24, 24, 1), np.float32)
  weight[0, :8] = 0
  damaged = photo.copy()
  damaged[0, :8] = 1.0
  same = [np.asarray(tone.statistics(x, weight)) for x in (photo, damaged)]
  # The lightest and darkest twentieth are sought among all pixels: 6 of the numbers may differ.
  n = 3 * len(tone.QUANTILES)
  np.testing.assert_allclose(same[0][:, :n], same[1][:, :n], atol=1e-5)
  np.testing.assert_allclose(same[0][:, -3:], same[1][:, -3:], atol=1e-5)
  quantile = np.quantile(photo[0, 8:].reshape(-1, 3), 0.5, axis=0)
  middle = 3 * tone.QUANTILES.index(0.5)
  np.testing.assert_allclose(same[0][0, middle : middle + 3], quantile, atol=0.02)


def test_it_learns_to_undo_one_fading():
  model = tone.Tone(g_tx=optax.adam(3e-3))
  clean = _photos()
  batch = {'old': 0.5 * clean + 0.2, 'clean': clean}
  state = tone.init(model, jax.random.key(0))
  step = parallel.train_step(
    lambda batch, keys: {k: v for k, v in batch.items() if k != 'id'},
    lambda *args: tone.train_step(model, *args),
    jax.devices()[:1],
  )
  sharded = {k: v[None] for k, v in (batch | {'id': np.arange(4, dtype=np.uint32)}).items()}
  state, first = step(parallel.replicate(state, jax.devices()[:1]), {}, sharded, jax.random.key(1))
  for _ in range(60):
    state, last = step(state, {}, sharded, jax.random.key(1))
  assert float(last['log_mse']) < float(first['log_mse']) - 0.7  # 7 dB


def test_faded_photos_of_one_hue_keep_it():
  """The answer to a toned photo is toned: all channels of answer and photo follow one curve."""
  recipe = worn.Faded(mono=1.0, toned=1.0, sound=0.0, noise=(0.0, 0.0))
  clean = _photos(1, 32)
  aged = recipes.degrade_batch(recipe, jax.random.split(jax.random.key(3), 1), clean)
  for photo in (aged.old, aged.clean):
    red, blue = np.asarray(photo)[0, ..., 0].ravel(), np.asarray(photo)[0, ..., 2].ravel()
    order = np.argsort(red)
    # Values rise together, but for the rounding to levels.
    assert np.diff(blue[order]).min() > -0.02
