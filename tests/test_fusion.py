"""The path around the latent: where it begins, what it may see, training, release."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from oldphoto_jax import weights
from oldphoto_jax.models import fusion, mapping, vae
from oldphoto_jax.nn import averaging

ONE = vae.VAE(width=4, latent=4, blocks=1, norm=False)
BELOW = mapping.Mapping(ONE.encoder, ONE.decoder, width=8, blocks=1)
MASKED = dataclasses.replace(BELOW, masked=True)
MODEL = fusion.Fusion(
  BELOW,
  MASKED,
  width=4,
  depth=2,
  blocks=1,
  weights={'l1': 10.0, 'hole_l1': 1.0, 'perceptual': 0.0},
  g_tx=optax.sgd(0.003),
)


def in_float64(model):
  one = dataclasses.replace(ONE, dtype=jnp.float64)
  below = dataclasses.replace(BELOW, encoder=one.encoder, decoder=one.decoder, dtype=jnp.float64)
  masked = dataclasses.replace(below, masked=True)
  return dataclasses.replace(model, mapping=below, masked=masked, dtype=jnp.float64)


def photos(n=4, side=32):
  """Old photos with a light stripe, clean ones without, and the mask of the stripe."""
  clean = np.random.default_rng(0).uniform(-0.8, 0.2, (n, side, side, 3)).astype(np.float32)
  mask = np.zeros((n, side, side, 1), np.float32)
  mask[:, 9:12] = 1
  return {'old': np.where(mask > 0, 0.9, clean + 0.1), 'clean': clean, 'mask': mask}


@pytest.fixture(scope='module')
def frozen():
  keys = jax.random.split(jax.random.key(0), 3)
  rx = vae.init(ONE, keys[0]).g
  return {
    'rx': {'encoder': rx['encoder']},
    'y': {'decoder': rx['decoder']},
    'mapping': mapping.init(BELOW, keys[1]).g,
    'masked': {'y': {'decoder': rx['decoder']}, 'mapping': mapping.init(MASKED, keys[2]).g},
  }


@pytest.fixture(scope='module')
def g():
  """A U-Net that corrects something, unlike a fresh one."""
  fresh = fusion.init(MODEL, jax.random.key(3)).g
  return jax.tree.map(lambda x: x + 0.02 * jax.random.normal(jax.random.key(4), x.shape), fresh)


def test_it_begins_as_doing_nothing_and_as_the_filling_inside_holes(frozen):
  params = frozen | {'fusion': fusion.init(MODEL, jax.random.key(1)).g}
  batch = photos(1)
  old, mask = jnp.asarray(batch['old']), jnp.asarray(batch['mask'])
  np.testing.assert_array_equal(fusion.restore(MODEL, params, old), old)
  filled = fusion.restore(MODEL, params, old, mask)
  below = mapping.restore(MASKED, {'rx': frozen['rx']} | frozen['masked'], old, mask)
  np.testing.assert_allclose(filled, jnp.where(mask > 0, below, old), atol=1e-6)


def test_alone_it_sees_nothing_of_the_triplet(frozen, g):
  old, mask = (jnp.asarray(photos(1)[name]) for name in ('old', 'mask'))
  alone = dataclasses.replace(MODEL, alone=True)
  nothing = jax.tree.map(jnp.zeros_like, frozen)
  for holes in ((), (mask,)):
    one = fusion.restore(alone, frozen | {'fusion': g}, old, *holes)
    np.testing.assert_array_equal(one, fusion.restore(alone, nothing | {'fusion': g}, old, *holes))
    assert (one != fusion.restore(MODEL, frozen | {'fusion': g}, old, *holes)).any()


def test_masks_are_told_to_the_network(frozen, g):
  params, batch = frozen | {'fusion': g}, photos(1)
  old, mask = jnp.asarray(batch['old']), jnp.asarray(batch['mask'])
  filled, plain = (fusion.restore(MODEL, params, old, *m) for m in ([mask], []))
  assert (jnp.abs(filled - plain)[:, 10] > 1e-3).any()  # inside the stripe
  assert (jnp.abs(filled - plain)[:, 14] > 1e-4).any()  # beside it


def test_a_pixel_depends_on_its_neighbourhood_alone(g):
  """No statistics of the whole photo: tiles of it become what the photo becomes."""
  side = 128

  def pixel(old):
    restored, holes = jnp.zeros_like(old), jnp.zeros_like(old[..., :1])
    return MODEL.net.apply({'params': g}, old, restored, holes)[0, 64, 64].sum()

  old = jax.random.uniform(jax.random.key(0), (1, side, side, 3), minval=-1)
  seen = np.abs(np.asarray(jax.jit(jax.grad(pixel))(old))).sum((0, 3)) > 0
  rows = np.flatnonzero(seen.any(1))
  assert 24 <= 64 - rows[0] <= 40 and 24 <= rows[-1] - 64 <= 40
  np.testing.assert_array_equal(np.flatnonzero(seen.any(0)), rows)


def run(model, frozen, batch, devices, steps, state):
  step = jax.pmap(
    partial(fusion.train_step, model),
    averaging.AXIS,
    in_axes=(None, None, 0, None),
    out_axes=None,
    devices=jax.devices()[:devices],
  )
  shards = {k: v.reshape(devices, -1, *v.shape[1:]) for k, v in batch.items()}
  terms = []
  for _ in range(steps):
    state, metrics = step(state, {'triplet': frozen, 'perceptual': {}}, shards, None)
    terms.append(jax.device_get(metrics))
  return state, terms


def test_steps_learn_with_and_without_holes_and_leave_the_triplet_alone(frozen):
  model = dataclasses.replace(MODEL, ema=0.9, g_tx=optax.adam(3e-3))
  state, terms = run(model, frozen, photos(), 1, 40, fusion.init(model, jax.random.key(1)))
  filling, plain = terms[::2], terms[1::2]
  assert all(t['hole_l1'] > 0 for t in filling) and all(t['hole_l1'] == 0 for t in plain)
  assert plain[-1]['l1'] < 0.8 * plain[0]['l1']
  assert filling[-1]['l1'] < 0.8 * filling[0]['l1']
  assert int(state.step) == 40
  difference = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), state.g, state.ema)
  assert max(jax.tree.leaves(difference)) > 0
  scores, shown = jax.jit(partial(fusion.eval_step, MODEL))(
    state, {'triplet': frozen}, {k: jnp.asarray(v) for k, v in photos().items()}
  )
  assert set(shown) == {'old', 'below', 'restored', 'clean', 'filled'}
  assert (scores['psnr'] > scores['psnr_old']).all()
  assert (scores['psnr_filled'] > scores['psnr']).all()


def test_one_device_and_many_parts_give_the_same_parameters(float64, frozen, g):
  frozen, g = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), (frozen, g))
  model = in_float64(MODEL)
  state = fusion.init(model, jax.random.key(1)).replace(g=g)
  one, terms = run(model, frozen, photos(), 1, 3, state)
  model = dataclasses.replace(model, accumulate=2)
  four, terms4 = run(model, frozen, photos(), 2, 3, state)
  jax.tree.map(partial(np.testing.assert_allclose, rtol=0, atol=1e-12), one.g, four.g)
  np.testing.assert_allclose(terms[0]['hole_l1'], terms4[0]['hole_l1'], rtol=1e-9)


def test_released_with_the_triplet_and_taken_out_again(frozen, g, tmp_path):
  released = weights.triplet(BELOW, frozen | {'fusion': g}, masked=MASKED, fused=MODEL)
  weights.save(tmp_path / 'w.safetensors', released, card={})
  batch = photos(1)
  old, mask = jnp.asarray(batch['old']), jnp.asarray(batch['mask'])
  whole = weights.load_restorer(tmp_path / 'w.safetensors')
  assert whole.multiple == 4
  expected = fusion.restore(MODEL, frozen | {'fusion': g}, old)
  np.testing.assert_allclose(whole.apply(whole.params, old), expected, atol=1e-6)
  # Two fillings: what lies below the fusion does not see what a hole shows, the fusion does.
  blind, seeing = whole.fill(whole.params, old, mask)
  other = whole.fill(whole.params, jnp.where(mask > 0, -old, old), mask)
  np.testing.assert_array_equal(blind, other[0])
  expected = fusion.restore(MODEL, frozen | {'fusion': g}, old, mask)
  np.testing.assert_allclose(seeing, expected, atol=1e-6)
  assert jnp.abs(seeing - other[1]).max() > 0.01
  below = weights.restorer(weights.without_fusion(released), 'below')
  np.testing.assert_allclose(
    below.apply(below.params, old), mapping.restore(BELOW, frozen, old), atol=1e-6
  )
  assert 'fusion' not in below.params
