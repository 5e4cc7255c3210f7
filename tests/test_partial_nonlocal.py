"""The masked branch: parity with the official block, what masks may and may not reach, memory."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import count_parameters

from oldphoto_jax import weights
from oldphoto_jax.models import mapping, partial_nonlocal, vae
from oldphoto_jax.nn import averaging, parameters
from oldphoto_jax.weights import bopbtl


def nhwc(array):
  return jnp.asarray(array.transpose(0, 2, 3, 1))


def assert_equal(ours, reference):
  np.testing.assert_allclose(ours, reference, rtol=0, atol=1e-4 * float(jnp.abs(reference).max()))


@pytest.fixture(scope='module')
def official(fixture):
  reference = fixture('bopbtl_mapping_scratch')
  state = {k.removeprefix('param/'): v for k, v in reference.items() if k.startswith('param/')}
  return reference, bopbtl.read_masked_mapping(state)


def test_mapping_with_mask_equals_the_official_network(official):
  reference, params = official
  mask = nhwc(reference['input/mask'])
  valid = partial_nonlocal.sound(mask, 'reference')
  np.testing.assert_array_equal(valid, nhwc(reference['output/validity']))
  net = mapping.T(width=128, blocks=1, masked=True)
  mapped = net.apply({'params': params}, nhwc(reference['input/latent']), valid)
  assert_equal(mapped, nhwc(reference['output/mapped']))


@pytest.mark.parametrize('direct', [partial_nonlocal.DIRECT, 0])
def test_block_equals_the_official_one_with_and_without_the_whole_matrix(
  official, monkeypatch, direct
):
  reference, params = official
  monkeypatch.setattr(partial_nonlocal, 'DIRECT', direct)
  valid = partial_nonlocal.sound(nhwc(reference['input/mask']), 'reference')
  block = partial_nonlocal.PartialNonLocal(128)
  ours = block.apply({'params': params['nonlocal']}, nhwc(reference['input/feature']), valid)
  assert_equal(ours, nhwc(reference['output/nonlocal']))


def test_parameters_of_the_published_size():
  one = vae.VAE()
  model = mapping.Mapping(one.encoder, one.decoder, masked=True)
  state = jax.eval_shape(partial(mapping.init, model), jax.random.key(0))
  assert count_parameters(state.g) == 51_344_704


def test_a_line_of_one_pixel_survives_max_pooling_and_not_the_references_sampling():
  for column in range(8, 12):
    mask = jnp.zeros((1, 32, 32, 1)).at[:, :, column].set(1)
    assert (partial_nonlocal.sound(mask)[0, :, 2] == 0).all()
    assert partial_nonlocal.sound(mask).sum() == 8 * 7
  assert (partial_nonlocal.sound(mask, 'reference') == 1).all()  # column 11 = 4 * 2 + 3
  with pytest.raises(ValueError, match="'max' or 'reference', not 'mean'"):
    partial_nonlocal.sound(mask, 'mean')
  with pytest.raises(ValueError, match='is not a multiple of 4'):
    partial_nonlocal.sound(jnp.zeros((1, 30, 32, 1)))


# Small blocks of our own ---------------------------------------------------------------------

SIDE = 20  # no multiple of TILE


def block_and_input(norm, dtype=jnp.float32, seed=0):
  block = partial_nonlocal.PartialNonLocal(8, blocks=1, norm=norm, dtype=dtype)
  x = jax.random.normal(jax.random.key(seed), (2, SIDE, SIDE, 8))
  params = parameters.init_normal(
    block, jax.random.key(1), x, jnp.ones((2, SIDE, SIDE, 1)), std=0.3
  )
  return block, {'params': params}, x


def holes():
  """A square in the first photo, none in the second."""
  return jnp.ones((2, SIDE, SIDE, 1)).at[0, 4:9, 3:8].set(0)


@pytest.mark.parametrize('norm', [True, False])
def test_empty_mask_is_the_identity(norm):
  block, params, x = block_and_input(norm)
  np.testing.assert_array_equal(block.apply(params, x, jnp.ones((2, SIDE, SIDE, 1))), x)
  y = block.apply(params, x, holes())
  np.testing.assert_array_equal(y[1], x[1])
  outside = np.asarray(holes()[0, ..., 0] > 0)
  np.testing.assert_array_equal(y[0][outside], x[0][outside])
  assert (np.abs(y[0] - x[0])[~outside] > 1e-3).all(-1).any()


@pytest.mark.parametrize('direct', [partial_nonlocal.DIRECT, 0])
def test_nothing_leaks_from_a_hole_into_other_holes(monkeypatch, direct):
  """Attention alone: the answer at one hole does not depend on what another hole holds."""
  monkeypatch.setattr(partial_nonlocal, 'DIRECT', direct)
  x = jax.random.normal(jax.random.key(0), (2, SIDE, SIDE, 8))
  valid = holes() > 0

  def answer_at(v):  # one query inside the hole
    return partial_nonlocal.attend(x, v, v, valid, ~valid)[0, 6, 5].sum()

  grad = np.abs(jax.jit(jax.grad(answer_at))(x)).sum(-1)
  inside = ~np.asarray(valid[..., 0])
  assert (grad[0][inside[0]] == 0).all() and (grad[1] == 0).all()
  assert (grad[0][~inside[0]] > 0).mean() > 0.9


@pytest.mark.parametrize('norm', [True, False])
def test_tiles_give_the_values_and_gradients_of_the_whole_matrix(float64, monkeypatch, norm):
  block, params, x = block_and_input(norm, jnp.float64)
  weight = jax.random.normal(jax.random.key(2), x.shape)

  @jax.jit
  def loss(params, x):
    y = block.apply(params, x, holes())
    return (y * weight).sum(), y

  whole = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(params, x)
  monkeypatch.setattr(partial_nonlocal, 'DIRECT', 0)
  jax.clear_caches()
  tiled = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(params, x)
  jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-9), whole, tiled)


@pytest.mark.parametrize('direct', [partial_nonlocal.DIRECT, 0])
def test_a_photo_that_is_all_hole_gives_numbers(monkeypatch, direct):
  monkeypatch.setattr(partial_nonlocal, 'DIRECT', direct)
  block, params, x = block_and_input(True)
  y, grad = jax.value_and_grad(lambda x: block.apply(params, x, jnp.zeros_like(x[..., :1])).sum())(
    x
  )
  assert np.isfinite(y) and np.isfinite(grad).all()
  zeros = partial_nonlocal.attend(x, x, x, jnp.zeros((2, SIDE, SIDE, 1), bool), x[..., :1] < 9)
  assert (zeros == 0).all()


def test_memory_grows_with_the_positions_and_not_with_their_square():
  def temporary(side):
    x = jax.ShapeDtypeStruct((1, side, side, 8), jnp.float32)
    mask = jax.ShapeDtypeStruct((1, side, side, 1), jnp.bool_)
    compiled = jax.jit(partial_nonlocal.attend).lower(x, x, x, mask, mask).compile()
    return compiled.memory_analysis().temp_size_in_bytes

  small, large = temporary(128), temporary(256)  # 16,384 and 65,536 positions
  assert large < 5 * small
  assert large < 65536**2 * 4 / 50


# The mapping around it -----------------------------------------------------------------------


def small_mapping(dtype=jnp.float32, **changes):
  one = vae.VAE(width=8, latent=8, blocks=1, d_width=8, d_scales=1, norm=False, dtype=dtype)
  settings = {'width': 16, 'blocks': 1, 'masked': True, 'dtype': dtype} | changes
  return mapping.Mapping(one.encoder, one.decoder, **settings)


def trained_like(model):
  return {
    'rx': vae.init_networks(model.encoder, model.decoder, *jax.random.split(jax.random.key(0))),
    'y': vae.init_networks(model.encoder, model.decoder, *jax.random.split(jax.random.key(1))),
    'mapping': mapping.init(model, jax.random.key(2)).g,
  }


FILLERS = [{}, {'attention': False}, {'prefilled': True}]


@pytest.mark.parametrize('changes', FILLERS)
def test_what_lies_inside_a_hole_does_not_matter(changes):
  model = small_mapping(**changes)
  params = trained_like(model)
  old = jax.random.uniform(jax.random.key(3), (1, 32, 32, 3), minval=-1)
  mask = jnp.zeros((1, 32, 32, 1)).at[:, 8:15, 9:21].set(1)
  other = jnp.where(mask > 0, -old, old)
  restore = jax.jit(partial(mapping.restore, model))
  np.testing.assert_array_equal(restore(params, old, mask), restore(params, other, mask))
  assert np.isfinite(restore(params, old, jnp.ones_like(mask))).all()


def test_without_attention_a_hole_fills_from_what_t_sees_around_it():
  """Far from the hole the photo may change, and the hole stays; with attention it does not."""
  mask = jnp.zeros((1, 64, 192, 1)).at[:, 28:32, 160:164].set(1)
  old = jax.random.uniform(jax.random.key(3), (1, 64, 192, 3), minval=-1)
  far = old.at[:, :, :8].set(1.0)
  for attention in (True, False):
    model = small_mapping(attention=attention)
    params = trained_like(model)
    assert ('nonlocal' in params['mapping']) == attention
    one, other = (mapping.restore(model, params, photo, mask) for photo in (old, far))
    assert np.array_equal(one[:, 28:32, 160:164], other[:, 28:32, 160:164]) == (not attention)


def test_smooth_holes_hide_less_from_the_encoder_than_white_ones():
  old = jnp.full((1, 32, 32, 3), -0.5)
  mask = jnp.zeros((1, 32, 32, 1)).at[:, 8:15, 9:21].set(1)
  np.testing.assert_allclose(
    mapping.shown(small_mapping(prefilled=True), old, mask), old, atol=1e-5
  )
  white = mapping.shown(small_mapping(), old, mask)
  np.testing.assert_array_equal(white, jnp.where(mask > 0, 1.0, old))
  assert mapping.shown(small_mapping(masked=False), old, None) is old


def test_the_loss_of_holes_sees_the_pixels_of_holes_alone():
  terms = dict.fromkeys(mapping.WEIGHTS, 0.0) | {'hole_l1': 1.0}
  model = small_mapping(weights=terms)
  params = trained_like(model)
  state = mapping.init(model, jax.random.key(4))
  clean = jnp.broadcast_to(jnp.linspace(-1, 1, 32)[:, None], (1, 2, 32, 32, 3))
  mask = jnp.zeros((1, 2, 32, 32, 1)).at[:, 0, 4:12, 4:12].set(1)
  batch = {'old': clean, 'clean': clean, 'mask': mask}

  @jax.jit
  def loss(clean):
    step = jax.vmap(
      lambda b: mapping.train_step(model, state, params, b, None)[1], axis_name=averaging.AXIS
    )
    return step(batch | {'clean': clean})['hole_l1'][0]

  before = loss(clean)
  assert loss(jnp.where(mask > 0, clean, -clean)) == before > 0
  assert abs(loss(jnp.where(mask > 0, -clean, clean)) - before) > 1e-3


def test_the_loss_of_holes_of_a_batch_in_parts_is_that_of_the_whole(float64):
  """Also where one part has all holes: per pixel of a hole, not per part."""
  whole = small_mapping(jnp.float64, weights=dict.fromkeys(mapping.WEIGHTS, 0.0) | {'hole_l1': 1.0})
  params, state = trained_like(whole), mapping.init(whole, jax.random.key(4))
  clean = jax.random.uniform(jax.random.key(5), (1, 2, 32, 32, 3), minval=-1)
  mask = jnp.zeros((1, 2, 32, 32, 1)).at[:, 0, 4:12, 4:12].set(1)
  batch = {'old': clean, 'clean': clean, 'mask': mask}

  def step(model):
    train = lambda batch: mapping.train_step(model, state, params, batch, None)[1]
    return jax.jit(jax.vmap(train, axis_name=averaging.AXIS))(batch)

  one, two = step(whole), step(dataclasses.replace(whole, accumulate=2))
  for name in ('hole_l1', 'g_norm'):
    np.testing.assert_allclose(one[name], two[name], rtol=1e-9)


@pytest.mark.parametrize('changes', FILLERS)
def test_masked_weights_round_trip_and_fill(tmp_path, changes):
  masked = small_mapping(**changes)
  plain = dataclasses.replace(masked, masked=False)
  params = trained_like(masked)
  whole = {
    'rx': {'encoder': params['rx']['encoder']},
    'y': {'decoder': params['y']['decoder']},
    'mapping': mapping.init(plain, jax.random.key(5)).g,
    'masked': {'y': {'decoder': params['y']['decoder']}, 'mapping': params['mapping']},
  }
  weights.save(tmp_path / 'both', weights.triplet(plain, whole, masked), card={})
  restorer = weights.load_restorer(tmp_path / 'both')
  old = jax.random.uniform(jax.random.key(3), (1, 32, 32, 3), minval=-1)
  mask = jnp.zeros((1, 32, 32, 1)).at[:, 8:15, 9:21].set(1)
  filled, _ = restorer.fill(restorer.params, old, mask)
  np.testing.assert_array_equal(filled, mapping.restore(masked, params, old, mask))
  del whole['masked']
  weights.save(tmp_path / 'one', weights.triplet(plain, whole), card={})
  assert weights.load_restorer(tmp_path / 'one').fill is None
