"""models.vae and models.mapping: parity with the official networks, properties, devices."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import official_discriminators
import optax
import pytest
from conftest import count_parameters

from oldphoto_jax.models import mapping, vae
from oldphoto_jax.nn import averaging, layers
from oldphoto_jax.nn.parameters import power_iteration, right_vectors, spectral_norm
from oldphoto_jax.training import parallel
from oldphoto_jax.weights import bopbtl

TINY = dict(width=8, latent=8, blocks=1, d_width=8, d_scales=2)


def nhwc(array):
  return jnp.asarray(array.transpose(0, 2, 3, 1))


def parameters(reference):
  return {k.removeprefix('param/'): v for k, v in reference.items() if k.startswith('param/')}


def assert_equal(ours, reference):
  reference = nhwc(reference)
  np.testing.assert_allclose(ours, reference, rtol=0, atol=1e-4 * float(jnp.abs(reference).max()))


def test_vae_equals_the_official_network(fixture):
  reference = fixture('bopbtl_vae')
  params = bopbtl.read_vae(parameters(reference))
  model = vae.VAE(width=16, latent=16)
  image = nhwc(reference['input/image'])
  latent = vae.encode(model, params, image)
  assert_equal(latent, reference['output/latent'])
  assert_equal(vae.decode(model, params, latent), reference['output/reconstruction'])
  decoded = vae.decode(model, params, nhwc(reference['input/latent']))
  assert_equal(decoded, reference['output/decoded'])


def test_mapping_equals_the_official_network(fixture):
  reference = fixture('bopbtl_mapping_quality')
  params = bopbtl.read_mapping(parameters(reference))
  mapped = mapping.T(width=128, blocks=2).apply({'params': params}, nhwc(reference['input/latent']))
  assert_equal(mapped, reference['output/mapped'])


def test_discriminator_equals_the_official_network(fixture):
  reference = fixture('bopbtl_disc')
  params = official_discriminators.bopbtl(parameters(reference))
  pair = nhwc(reference['input/pair'])
  assert_equal(layers.avg_pool_3x3(pair), reference['output/downsampled_input'])
  outputs = vae.MultiScaleDiscriminator(width=16).apply({'params': params}, pair)
  for scale, maps in zip(('full', 'half'), outputs):
    assert len(maps) == 5
    for i, ours in enumerate(maps):
      assert_equal(ours, reference[f'output/{scale}/layer{i}'])


def test_discriminator_with_spectral_norm_equals_the_official_network(fixture):
  reference = fixture('bopbtl_disc_sn')
  d = official_discriminators.bopbtl(parameters(reference))
  normed = spectral_norm(d['params'], d['vectors'])
  for scale, name in ((0, 'scale1'), (1, 'scale0')):
    for i in range(5):
      before, after = (p[f'scale{scale}'][f'conv{i}']['kernel'] for p in (d['params'], normed))
      sigma = np.linalg.norm(before) / np.linalg.norm(after)
      # Its u is the file's, rounded to half precision, and ours W v.
      np.testing.assert_allclose(sigma, reference[f'output/sigma/{name}_layer{i}.0'], rtol=2e-3)
  outputs = vae.MultiScaleDiscriminator(width=16).apply(
    {'params': normed}, nhwc(reference['input/pair'])
  )
  for scale, maps in zip(('full', 'half'), outputs):
    for i, ours in enumerate(maps):
      expected = reference[f'output/{scale}/layer{i}']
      np.testing.assert_allclose(
        ours.transpose(0, 3, 1, 2), expected, rtol=0, atol=3e-3 * np.abs(expected).max()
      )


def test_power_iteration_finds_the_largest_singular_value():
  params = {'conv': {'kernel': jax.random.normal(jax.random.key(0), (3, 3, 4, 6)), 'bias': 1.0}}
  vectors = right_vectors(params, jax.random.key(1))
  for _ in range(60):
    vectors = power_iteration(params, vectors)
  normed = spectral_norm(params, vectors)
  matrix = np.asarray(normed['conv']['kernel']).reshape(-1, 6)
  np.testing.assert_allclose(np.linalg.svd(matrix, compute_uv=False)[0], 1, rtol=1e-4)
  assert normed['conv']['bias'] == 1.0


def test_parameter_counts_of_the_published_sizes():
  """The totals of the official state dicts."""
  rx = vae.VAE(latent_gan=True)
  state = jax.eval_shape(partial(vae.init, rx), jax.random.key(0))
  assert count_parameters(state.g) == 872_131
  assert count_parameters(state.d['image']) == 5_529_474
  assert count_parameters(state.d['latent']) == 2_827_201
  model = mapping.Mapping(rx.encoder, rx.decoder)
  t = jax.eval_shape(partial(mapping.init, model), jax.random.key(0))
  assert count_parameters(t.g) == 36_135_232
  assert count_parameters(t.d) == 5_535_618


def test_initialisation_is_normal_with_zero_biases_and_differs_between_networks():
  state = vae.init(vae.VAE(**TINY | {'width': 32, 'latent': 32}), jax.random.key(0))
  kernel = state.g['encoder']['block0']['conv1']['kernel']
  assert abs(float(kernel.std()) - 0.02) < 0.001
  assert abs(float(kernel.mean())) < 0.001
  assert not np.any(state.g['encoder']['block0']['conv1']['bias'])
  other = state.g['decoder']['block0']['conv1']['kernel']
  assert not np.allclose(kernel, other)


def test_sides_that_do_not_fit_are_an_error():
  model = vae.VAE(**TINY)
  params = vae.init(model, jax.random.key(0)).g
  with pytest.raises(ValueError, match='30x32 is not a multiple of 4: pad the photo to 32x32'):
    vae.encode(model, params, jnp.zeros((1, 30, 32, 3)))


def test_latents_of_different_width_cannot_be_mapped():
  one = vae.VAE(**TINY)
  model = mapping.Mapping(one.encoder, dataclasses.replace(one, latent=4).decoder)
  with pytest.raises(ValueError, match='latents of 8 and 4 channels'):
    mapping.init(model, jax.random.key(0))


# Training steps ----------------------------------------------------------------------------------


def batch_of(n, side=32, seed=0):
  rng = np.random.default_rng(seed)
  return {
    'id': np.arange(100, 100 + n, dtype=np.uint32),
    'image': rng.integers(0, 256, (n, side, side, 3), dtype=np.uint8),
    'is_real': np.arange(n) % 4 == 0,  # of four devices with two examples, two hold no R
  }


def prepare_rx(batch, keys):
  noise = jax.vmap(lambda k: jax.random.normal(k, batch['image'].shape[1:]))(keys)
  image = batch['image'].astype(jnp.float32) / 127.5 - 1
  return {'image': image + 0.1 * noise, 'is_real': batch['is_real'].astype(jnp.float32)}


def prepare_pair(batch, keys):
  clean = batch['image'].astype(jnp.float32) / 127.5 - 1
  return {'old': prepare_rx(batch, keys)['image'], 'clean': clean}


def run(model, module, prepare, constants, devices, steps=5):
  """`steps` steps with SGD: Adam would hide a factor on the gradients."""
  state = jax.jit(partial(module.init, model))(jax.random.key(0))
  first = jax.tree.map(np.array, state.g)
  devices_used = jax.devices()[:devices]
  state = parallel.replicate(state, devices_used)
  step = parallel.train_step(prepare, partial(module.train_step, model), devices_used)
  for i in range(steps):
    batch = batch_of(8, seed=i)
    batch = jax.tree.map(lambda x: x.reshape(devices, -1, *x.shape[1:]), batch)
    old = state
    state, metrics = step(state, constants, batch, jax.random.key(1))
  assert jax.tree.leaves(old.g)[0].is_deleted()  # the state is donated, not the batch
  return first, state, {name: float(value) for name, value in metrics.items()}


def assert_same_parameters(a, b):
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b)):
    assert x.dtype == y.dtype == np.float64
    np.testing.assert_allclose(x, y, rtol=0, atol=1e-12)


def sgd(weights, rate):
  # Gradients of these losses have norms of 30 to 80: larger steps amplify rounding to chaos.
  return dict(weights=weights, g_tx=optax.sgd(rate), d_tx=optax.sgd(rate))


# Two devices, and two parts of a device's batch. Of these parts of two examples, half hold no R.


def test_one_device_and_many_parts_train_the_vae_alike(float64):
  every_term = dict(vae.WEIGHTS, l1=10.0)
  model = vae.VAE(
    **TINY | {'d_scales': 1},
    latent_gan=True,
    ema=0.9,
    dtype=jnp.float64,
    **sgd(every_term, 1e-3),
  )
  first, one, metrics = run(model, vae, prepare_rx, {}, 1)
  model = dataclasses.replace(model, accumulate=2)
  _, four, metrics4 = run(model, vae, prepare_rx, {}, 2)
  moved = np.abs(jax.tree.leaves(first)[1] - jax.tree.leaves(one.g)[1]).max()
  assert moved > 1e-3  # far more than the tolerance below
  assert_same_parameters(one.g, four.g)
  assert_same_parameters(one.d, four.d)
  assert_same_parameters(one.ema, four.ema)
  assert metrics == pytest.approx(metrics4, rel=1e-9)
  assert set(metrics) == {
    *('gan', 'feature_matching', 'kl', 'latent_gan', 'l1', 'g_norm', 'd_norm'),
    *('d_fake', 'd_real', 'd_latent_r', 'd_latent_x'),
  }


@pytest.mark.slow
def test_one_device_and_many_parts_train_the_mapping_alike(float64):
  v = vae.VAE(**TINY, dtype=jnp.float64)
  terms = dict(mapping.WEIGHTS, l1=10.0)
  model = mapping.Mapping(
    v.encoder, v.decoder, width=16, blocks=1, d_width=8, dtype=jnp.float64, **sgd(terms, 3e-4)
  )
  constants = {
    'rx': vae.init(v, jax.random.key(5)).g,
    'y': vae.init(v, jax.random.key(6)).g,
  }
  _, one, metrics = run(model, mapping, prepare_pair, constants, 1)
  model = dataclasses.replace(model, accumulate=2)
  _, four, metrics4 = run(model, mapping, prepare_pair, constants, 2)
  assert_same_parameters(one.g, four.g)
  assert_same_parameters(one.d, four.d)
  assert metrics == pytest.approx(metrics4, rel=1e-9)


@pytest.mark.slow
def test_residual_blocks_are_computed_again_and_give_the_same_gradients(float64):
  v = vae.VAE(**TINY | {'blocks': 2}, norm=False, dtype=jnp.float64)
  model = mapping.Mapping(v.encoder, v.decoder, width=16, blocks=2, dtype=jnp.float64)
  old = jax.random.uniform(jax.random.key(0), (1, 32, 32, 3), minval=-1)
  params = vae.init(v, jax.random.key(1)).g | {'mapping': mapping.init(model, jax.random.key(2)).g}

  def gradients(remat):
    one = dataclasses.replace(v, remat=remat)
    both = dataclasses.replace(model, encoder=one.encoder, decoder=one.decoder, remat=remat)

    def loss(params):
      z = mapping.translate(both, params['mapping'], vae.encode(one, params, old), None)
      return jnp.abs(vae.decode(one, params, z)).sum()

    again = str(jax.make_jaxpr(jax.grad(loss))(params)).count('prevent_cse=True')
    return jax.jit(jax.grad(loss))(params), again

  (plain, none), (again, some) = gradients(False), gradients(True)
  assert none == 0 and some == 6  # every block: of encoder, mapping and decoder
  assert jax.tree.structure(plain) == jax.tree.structure(again)
  jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-9), plain, again)


def test_devices_draw_different_noise_and_one_example_the_same_anywhere():
  def draw(state, constants, batch, keys):
    # Bits, which are the same in every program; a normal number is rounded on the way from them.
    noise = jax.vmap(jax.random.bits)(keys)
    return state, jax.lax.all_gather(noise, averaging.AXIS)

  def noise(devices):
    step = parallel.train_step(lambda b, k: b, draw, jax.devices()[:devices])
    ids = {'id': np.arange(8, dtype=np.uint32).reshape(devices, -1)}
    return np.asarray(step(jnp.zeros(()), {}, ids, jax.random.key(0))[1]).ravel()

  assert len(set(noise(4).tolist())) == 8
  np.testing.assert_array_equal(noise(1), noise(4))


def test_terms_of_weight_zero_are_not_computed_and_discriminators_stay():
  terms = dict.fromkeys(vae.WEIGHTS, 0.0) | {'l1': 1.0}
  model = vae.VAE(**TINY, weights=terms)
  state = vae.init(model, jax.random.key(0))
  d = jax.tree.map(np.asarray, state.d)
  step = parallel.train_step(prepare_rx, partial(vae.train_step, model), jax.devices()[:1])
  batch = jax.tree.map(lambda x: x[None], batch_of(2))
  state, metrics = step(state, {}, batch, jax.random.key(1))
  assert set(metrics) == {'kl', 'l1', 'g_norm', 'd_norm'}
  jax.tree.map(np.testing.assert_array_equal, d, jax.tree.map(np.asarray, state.d))


def test_a_batch_of_one_domain_still_trains_its_latent_discriminator():
  """The reference crashes there. R alone: both sides of its term; X alone: the X side of D."""
  terms = dict.fromkeys(vae.WEIGHTS, 0.0) | {'latent_gan': 1.0}
  model = vae.VAE(**TINY, latent_gan=True, weights=terms)

  state = vae.init(model, jax.random.key(0))

  @jax.jit
  def gradients(is_real):
    batch = {'image': jnp.zeros((1, 2, 32, 32, 3)).at[:, :, 4:9].set(0.5), 'is_real': is_real[None]}
    step = jax.vmap(
      lambda b, k: vae.train_step(model, state, {}, b, k)[1], axis_name=averaging.AXIS
    )
    return step(batch, jax.random.split(jax.random.key(0), 2)[None])

  real, synthetic = gradients(jnp.ones(2)), gradients(jnp.zeros(2))
  assert real['latent_gan'] > 0 and real['d_latent_r'] > 0 and real['d_latent_x'] == 0
  assert real['g_norm'] > 0 and real['d_norm'] > 0
  assert synthetic['latent_gan'] == 0 and synthetic['d_latent_x'] > 0
  assert synthetic['g_norm'] == 0 and synthetic['d_norm'] > 0  # only latents of R are moved


def test_latent_noise_has_the_posterior_std_and_evaluation_has_none():
  """z + N(0, std) per example: without it two steps from the same state agree."""
  image = jnp.linspace(-1, 1, 32 * 32 * 3).reshape(1, 1, 32, 32, 3)

  def loss(std, seed):
    terms = dict.fromkeys(vae.WEIGHTS, 0.0) | {'l1': 1.0}
    model = vae.VAE(**TINY, posterior_std=std, weights=terms)
    state = vae.init(model, jax.random.key(0))
    # Larger kernels in the decoder, for the noise to be visible behind it.
    state = state.replace(g=jax.tree.map(lambda x: 5 * x, state.g))
    step = jax.vmap(
      lambda b, k: vae.train_step(model, state, {}, {'image': b}, k)[1], axis_name=averaging.AXIS
    )
    return float(step(image, jax.random.split(jax.random.key(seed), 1)[None])['l1'][0])

  assert loss(1.0, 0) != loss(1.0, 1)
  assert loss(0.0, 0) == loss(0.0, 1)


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
def test_the_perceptual_network_computes_in_the_dtype_of_the_others(dtype):
  seen = []

  def features(params, photo):
    seen.append(photo.dtype)
    return [photo]

  terms = dict(dtype=dtype, features=features, feature_weights=(1.0,))
  one = vae.VAE(**TINY, **terms)
  t = mapping.Mapping(one.encoder, one.decoder, width=16, blocks=1, d_width=8, d_scales=1, **terms)
  photos = jnp.zeros((1, 2, 32, 32, 3))
  keys = jax.random.split(jax.random.key(0), 2)[None]

  def step(module, model, constants):
    state = jax.eval_shape(partial(module.init, model), jax.random.key(0))
    train = lambda state, constants, batch, k: module.train_step(model, state, constants, batch, k)
    train = jax.vmap(train, axis_name=averaging.AXIS, in_axes=(None, None, 0, 0))
    batch = {'image': photos, 'old': photos, 'clean': photos}
    _, metrics = jax.eval_shape(train, state, constants | {'perceptual': {}}, batch, keys)
    assert metrics['perceptual'].dtype == jnp.float32
    return state.g

  g = step(vae, one, {})
  step(mapping, t, {'rx': g, 'y': g})
  assert seen == [dtype] * 4
