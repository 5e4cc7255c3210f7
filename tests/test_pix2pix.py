"""models.pix2pix and its networks: official parity, receptive field, updates, devices, resuming."""

import dataclasses
import json
import runpy
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import official_discriminators
import optax
import pytest
import safetensors.numpy
from conftest import ROOT, count_parameters
from flax import traverse_util

from oldphoto_jax import weights
from oldphoto_jax.metrics import psnr_ssim
from oldphoto_jax.models import gan_networks, pix2pix
from oldphoto_jax.nn import averaging, convolution, layers, losses
from oldphoto_jax.systems import build, frozen, splits
from oldphoto_jax.systems import pix2pix as system
from oldphoto_jax.training import checkpoints, parallel
from oldphoto_jax.weights import official_gans

get_config = runpy.run_path(str(ROOT / 'configs' / 'pix2pix.py'))['get_config']

# The generator of the TensorFlow tutorial, which the student report took.
TUTORIAL = gan_networks.GanUNet(
  norm=gan_networks.BATCH_TF,
  bottleneck_norm=True,
  slope=0.3,
  rectify_skips=False,
  dropout_levels=(6, 7, 8),
)


def nhwc(array):
  return jnp.asarray(array.transpose(0, 2, 3, 1))


def parameters(reference):
  return {k.removeprefix('param/'): v for k, v in reference.items() if k.startswith('param/')}


def init(net, key, photo):
  return jax.jit(partial(gan_networks.init, net))(key, photo)


def assert_equal(ours, reference):
  reference = nhwc(reference)
  np.testing.assert_allclose(ours, reference, rtol=0, atol=1e-4 * float(jnp.abs(reference).max()))


# Networks --------------------------------------------------------------------------------------


@pytest.mark.parametrize(('name', 'downs'), [('pix2pix_unet256', 8), ('pix2pix_unet128', 7)])
def test_unet_equals_the_official_network(fixture, name, downs):
  reference = fixture(name)
  variables = official_gans.unet(parameters(reference))
  net = gan_networks.GanUNet(width=8, downs=downs)
  ours = jax.jit(net.apply)(variables, nhwc(reference['input/image']))
  assert_equal(ours, reference['output/image'])


@pytest.mark.parametrize('name', ['pix2pix_patchgan', 'pix2pix_patchgan_in'])
def test_discriminator_equals_the_official_network(fixture, name):
  reference = fixture(name)
  variables = official_discriminators.patch(parameters(reference))
  norm = gan_networks.INSTANCE if name.endswith('_in') else gan_networks.BATCH
  net = gan_networks.GanPatchDiscriminator(width=16, norm=norm)
  ours = jax.jit(net.apply)(variables, nhwc(reference['input/image']))
  assert_equal(ours, reference['output/logits'])


OFFICIAL = {
  'pix2pix_G_unet256_batch_dropout': gan_networks.GanUNet(),
  'pix2pix_G_unet128_batch_dropout': gan_networks.GanUNet(downs=7),
  'pix2pix_D_patch70_batch_in6': gan_networks.GanPatchDiscriminator(),
  'cyclegan_G_resnet9_instance': gan_networks.GanResNet(),
  'cyclegan_G_resnet6_instance': gan_networks.GanResNet(blocks=6),
  'cyclegan_G_resnet9_instance_dropout': gan_networks.GanResNet(),
  'cyclegan_D_patch70_instance_in3': gan_networks.GanPatchDiscriminator(norm=gan_networks.INSTANCE),
  'cyclegan_G_unet256_instance': gan_networks.GanUNet(norm=gan_networks.INSTANCE),
}


@pytest.mark.parametrize('name', OFFICIAL)
def test_official_state_dicts_have_our_shapes(shared, name):
  """Every tensor of the full-size networks finds its place, and the counts agree."""
  path = shared / 'reference' / 'state_dicts' / 'gan_state_dicts.json'
  listed = json.loads(path.read_text())[name]
  # As an array of one number each: only the shapes are looked at.
  state = {e['key']: np.broadcast_to(np.float32(0), e['shape']) for e in listed['state_dict']}
  net = OFFICIAL[name]
  _, channels, *sides = listed['example_input_nchw']
  photo = jax.ShapeDtypeStruct((1, *sides, channels), jnp.float32)
  like = jax.eval_shape(net.init, jax.random.key(0), photo)
  if isinstance(net, gan_networks.GanUNet):
    found = official_gans.unet(state)
  elif isinstance(net, gan_networks.GanResNet):
    found = {'params': official_gans.resnet(state)}
  else:
    found = official_discriminators.patch(state)
  weights.check_shapes(found, like, name)
  assert count_parameters(like['params']) == listed['n_params_trainable']


def test_sizes_of_the_tutorials_networks():
  """The totals of tensorflow_examples' pix2pix networks."""

  def count(net, channels):
    like = jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, 256, 256, channels)))
    return count_parameters(like['params'])

  d = partial(gan_networks.GanPatchDiscriminator, slope=0.3, first_bias=False)
  assert count(TUTORIAL, 3) == 54_414_979
  assert count(d(norm=gan_networks.BATCH_TF), 6) == 2_768_641
  assert count(d(norm=gan_networks.INSTANCE_AFFINE), 3) == 2_765_569


def test_the_tutorials_unet_equals_its_layers_one_by_one():
  """down: conv, norm (not the first), leaky ReLU; up: deconv, norm, ReLU, then the skip."""
  net = dataclasses.replace(TUTORIAL, width=4, downs=3, norm=gan_networks.INSTANCE_AFFINE)
  net = net.clone(dropout_levels=())
  x = jax.random.normal(jax.random.key(0), (2, 16, 16, 3))
  p = init(net, jax.random.key(1), x)['params']

  def down(x, name):
    return convolution.conv2d(x, p[name]['kernel'], 2, ((1, 1), (1, 1)))

  def norm(x, name):
    return layers.instance_norm(x) * p[name]['scale'] + p[name]['bias']

  @jax.jit
  def expected(x):
    leaky = lambda x: jnp.where(x > 0, x, 0.3 * x)
    one = leaky(down(x, 'down1'))
    two = leaky(norm(down(one, 'down2'), 'down2_norm'))
    three = leaky(norm(down(two, 'down3'), 'down3_norm'))
    up = convolution.conv_transpose2d(three, p['up3']['kernel'])
    up = jnp.concatenate([two, jax.nn.relu(norm(up, 'up3_norm'))], -1)
    up = convolution.conv_transpose2d(up, p['up2']['kernel'])
    up = jnp.concatenate([one, jax.nn.relu(norm(up, 'up2_norm'))], -1)
    return jnp.tanh(convolution.conv_transpose2d(up, p['up1']['kernel']) + p['up1']['bias'])

  np.testing.assert_allclose(jax.jit(net.apply)({'params': p}, x), expected(x), atol=1e-6)


@pytest.mark.parametrize(('n_layers', 'field'), [(1, 16), (2, 34), (3, 70)])
def test_receptive_field_of_a_logit(n_layers, field):
  """The pixels that one logit in the middle has a gradient to, batch norm held still."""
  net = gan_networks.GanPatchDiscriminator(width=2, n_layers=n_layers)
  photo = jax.random.normal(jax.random.key(0), (1, 128, 128, 1))
  variables = init(net, jax.random.key(1), photo)

  def logit(photo):
    logits = net.apply(variables, photo)
    return logits[0, logits.shape[1] // 2, logits.shape[2] // 2, 0]

  seen = np.abs(jax.jit(jax.grad(logit))(photo))[0, :, :, 0] > 0
  for axis in (0, 1):
    (places,) = np.nonzero(seen.any(axis))
    assert places[-1] - places[0] + 1 == field
    assert places[0] > 0 and places[-1] < 127  # all of it lies inside the photo


def test_dropout_is_each_photos_own():
  net = gan_networks.GanUNet(width=4, downs=2, dropout_levels=(2,))
  photo = jax.random.normal(jax.random.key(0), (1, 16, 16, 3))
  variables = init(net, jax.random.key(1), photo)
  keys = jax.random.split(jax.random.key(2), 3)
  apply = jax.jit(net.apply)
  chosen = keys[jnp.array([0, 1, 0])]
  one, other, again = apply(variables, jnp.repeat(photo, 3, 0), chosen)
  # The masks are exactly those of the key. The photos behind them agree up to rounding: where a
  # photo lies in its batch may decide in which order a processor adds.
  (masks,) = gan_networks._masks(chosen, [(8, 8, 4)], 0.5)
  np.testing.assert_array_equal(masks[0], masks[2])
  assert not np.array_equal(masks[0], masks[1])
  np.testing.assert_allclose(one, again, atol=1e-6)
  assert np.abs(one - other).max() > 1e-4
  assert np.abs(one - apply(variables, photo)[0]).max() > 1e-4

  masks = gan_networks._masks(jax.random.split(jax.random.key(0), 50), [(4, 4, 8), (6,)], 0.5)
  assert [mask.shape for mask in masks] == [(50, 4, 4, 8), (50, 6)]
  assert abs(float(masks[0].mean()) - 0.5) < 0.03


def test_dropout_in_a_level_that_is_not_there_is_an_error():
  net = gan_networks.GanUNet(width=4, downs=2, dropout_levels=(5,))
  with pytest.raises(ValueError, match='dropout_levels must be from 2 to 2'):
    jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, 16, 16, 3)))


def test_initialisation():
  variables = init(
    gan_networks.GanUNet(width=32, downs=3, dropout_levels=()),
    jax.random.key(0),
    jnp.zeros((1, 8, 8, 3)),
  )
  params, stats = variables['params'], variables['batch_stats']
  kernel, scale = params['down3']['kernel'], params['up3_norm']['scale']
  assert abs(float(kernel.std()) - 0.02) < 0.001 and abs(float(kernel.mean())) < 0.001
  assert 0 < float(jnp.abs(scale - 1).max()) < 0.1
  assert not np.any(params['up3_norm']['bias']) and not np.any(params['up1']['bias'])
  assert not np.any(stats['up3_norm']['mean']) and np.all(stats['up3_norm']['var'] == 1)


# Losses ----------------------------------------------------------------------------------------


@pytest.mark.parametrize('mode', ['vanilla', 'lsgan'])
def test_losses_equal_the_reference(fixture, mode):
  reference = fixture('gan_losses')
  loss = {'vanilla': losses.vanilla_gan, 'lsgan': losses.lsgan}[mode]
  model = pix2pix.Pix2Pix(gan_loss=loss)

  def of(name):
    return nhwc(reference[f'input/{name}'])

  on_fake, on_real = of('pix2pix/disc_on_generated'), of('pix2pix/disc_on_target')
  d_terms = {'d_fake': loss(on_fake, 0.0), 'd_real': loss(on_real, 1.0)}
  g_terms = {
    'gan': loss(on_fake, 1.0),
    'l1': losses.l1(of('pix2pix/generated'), of('pix2pix/target')),
  }
  ours = {f'pix2pix/{mode}/{name}': value for name, value in d_terms.items()} | {
    f'pix2pix/{mode}/d_total': pix2pix.d_total(model, d_terms),
    f'pix2pix/{mode}/g_gan': g_terms['gan'],
    f'pix2pix/{mode}/g_l1_x100': 100 * g_terms['l1'],
    f'pix2pix/{mode}/g_total': losses.total(g_terms, model.weights),
  }
  for logits in ('logits_a', 'logits_b'):
    ours[f'{mode}/{logits}/real'] = loss(of(logits), 1.0)
    ours[f'{mode}/{logits}/fake'] = loss(of(logits), 0.0)
  for name, value in ours.items():
    np.testing.assert_allclose(value, reference[f'output/{name}'], rtol=1e-5, err_msg=name)

  doubled = pix2pix.d_total(dataclasses.replace(model, halve_d=False), d_terms)
  assert float(doubled) == 2 * float(pix2pix.d_total(model, d_terms))


# Steps -----------------------------------------------------------------------------------------


def sgd():
  """Its learning rate lies in the state, so that one compiled step serves many rates."""
  return optax.inject_hyperparams(optax.sgd)(learning_rate=0.1)


NETWORKS = ('generator', 'discriminator')
MODEL = pix2pix.Pix2Pix(
  generator=gan_networks.GanUNet(width=4, downs=2, dropout_levels=(2,)),
  discriminator=gan_networks.GanPatchDiscriminator(width=4, n_layers=1),
  g_tx=sgd(),
  d_tx=sgd(),
)


def batch(seed=0, n=4, side=16):
  rng = np.random.default_rng(seed)
  shape = (n, side, side, 3)
  return {name: rng.uniform(-1, 1, shape).astype(np.float32) for name in ('old', 'clean')} | {
    'id': np.arange(n, dtype=np.uint32) + n * seed
  }


def on_devices(state, n):
  """A copy as a step returns its state (else it compiles again), because steps take its buffers."""
  mesh = jax.sharding.Mesh(jax.devices()[:n], (averaging.AXIS,))
  sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
  return jax.tree.map(jnp.copy, jax.device_put(state, sharding))


def step_of(model, devices=1):
  """(state, batch) -> (state, metrics), the batch spread over `devices`."""
  mapped = parallel.train_step(
    lambda batch, keys: {'old': batch['old'], 'clean': batch['clean']},
    partial(pix2pix.train_step, model),
    devices=jax.devices()[:devices],
  )

  def step(state, batch):
    batch = {k: v.reshape(devices, -1, *v.shape[1:]) for k, v in batch.items()}
    return mapped(on_devices(state, devices), {}, batch, jax.random.key(1))

  return step


@pytest.fixture(scope='module')
def state():
  return jax.jit(partial(pix2pix.init, MODEL))(jax.random.key(0))


@pytest.fixture(scope='module')
def alternate():
  return step_of(MODEL)


@pytest.fixture(scope='module')
def simultaneous():
  """On four devices, each with batch norm of its own."""
  return step_of(dataclasses.replace(MODEL, alternate=False), 4)


def shapes_of_a_step(model, batch):
  """(initial state, state and metrics after a step) of one device, as shapes."""
  initial = jax.eval_shape(partial(pix2pix.init, model), jax.random.key(0))
  step = jax.vmap(
    lambda state, batch, keys: pix2pix.train_step(model, state, {}, batch, keys),
    axis_name=averaging.AXIS,
    in_axes=(None, 0, 0),
  )
  keys = jax.random.split(jax.random.key(0), (1, len(batch['id'])))
  batch = {k: v[None] for k, v in batch.items()}
  after = jax.eval_shape(step, initial, batch, keys)
  return initial, *jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), after)


def with_rates(state, g, d):
  state = jax.tree.map(lambda x: x, state)
  state.g_opt.hyperparams['learning_rate'] = jnp.float32(g)
  state.d_opt.hyperparams['learning_rate'] = jnp.float32(d)
  return state


def same(a, b):
  return all(
    np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
  )


def distance(a, b):
  a, b = jax.device_get((a, b))
  return max(
    np.abs(x - y).max() for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
  )


def test_each_update_leaves_the_other_network_alone(state, alternate):
  both, _ = alternate(with_rates(state, 0.1, 0.1), batch())
  only_g, _ = alternate(with_rates(state, 0.1, 0.0), batch())
  only_d, _ = alternate(with_rates(state, 0.0, 0.1), batch())
  assert same(only_g.d, state.d) and same(only_d.g, state.g)
  assert same(only_d.d, both.d)
  for name in ('g', 'd'):
    before, after = getattr(state, name), getattr(both, name)
    assert not any(np.array_equal(x, y) for x, y in zip(*map(jax.tree.leaves, (before, after))))


def test_g_learns_from_the_updated_d_or_from_the_old_one(state, alternate, simultaneous):
  (both, metrics), (only_g, before) = (
    alternate(with_rates(state, 0.1, rate), batch()) for rate in (1.0, 0.0)
  )
  assert distance(both.g, only_g.g) > 1e-5
  # D has just learnt to tell these photos, so the loss of fooling it is higher.
  assert float(metrics['gan']) > float(before['gan'])
  (both, metrics), (only_g, before) = (
    simultaneous(with_rates(state, 0.1, rate), batch()) for rate in (1.0, 0.0)
  )
  assert same(both.g, only_g.g) and not same(both.d, only_g.d)
  assert float(metrics['gan']) == float(before['gan'])


def test_four_devices_equal_one_where_batch_norm_is_synchronised(float64):
  """With SGD, because Adam hides a factor in the gradients."""
  nets = {name: getattr(MODEL, name).clone(dtype=jnp.float64) for name in NETWORKS}
  model = dataclasses.replace(MODEL, **nets, g_tx=sgd(), d_tx=sgd())
  state = jax.jit(partial(pix2pix.init, model))(jax.random.key(0))
  on_one, on_four = step_of(model), step_of(dataclasses.replace(model, sync_batch_norm=True), 4)
  one = four = state
  for i in range(3):
    one, metrics = on_one(one, batch(i))
    four, others = on_four(four, batch(i))
    for name, value in metrics.items():
      np.testing.assert_allclose(others[name], value, rtol=1e-9, err_msg=name)
  for name in ('g', 'd', 'stats'):
    assert distance(getattr(one, name), getattr(state, name)) > 1e-3
  assert distance(one, four) < 1e-12


def test_four_devices_have_batch_norms_of_their_own_unless_synchronised(
  state, alternate, simultaneous
):
  # Without D's update, the order of updates is no difference between these two.
  one, _ = alternate(with_rates(state, 0.1, 0.0), batch())
  own, _ = simultaneous(with_rates(state, 0.1, 0.0), batch())
  assert distance(one.g, own.g) > 1e-4
  # Running means are averaged over devices, which gives the mean over all photos.
  means = (s.stats['up2_norm']['mean'] for s in (one, own))
  assert distance(*means) < 1e-6


def test_running_statistics_follow_the_batches(state, alternate):
  after, _ = alternate(with_rates(state, 0.0, 0.0), batch())
  keys = parallel.example_keys(jax.random.key(1), batch()['id'])[1]
  apply = jax.jit(partial(MODEL.generator.apply, batch_statistics=True, mutable=['batch_stats']))
  _, changed = apply({'params': state.g, 'batch_stats': state.stats}, batch()['old'], keys)
  assert distance(after.stats, changed['batch_stats']) < 1e-6
  assert distance(after.stats, state.stats) > 1e-4


def test_without_the_gan_term_d_is_not_trained():
  model = dataclasses.replace(MODEL, weights={'gan': 0.0, 'l1': 1.0})
  initial, after, metrics = shapes_of_a_step(model, batch())
  assert sorted(metrics) == ['g_norm', 'l1']
  assert jax.tree.structure(after) == jax.tree.structure(initial)


def test_a_bottleneck_that_batch_norm_erases_is_an_error():
  net = MODEL.generator.clone(bottleneck_norm=True)
  model = dataclasses.replace(MODEL, generator=net)
  with pytest.raises(ValueError, match='erases the 1x1 bottleneck'):
    shapes_of_a_step(model, batch(n=1, side=4))
  model = dataclasses.replace(model, sync_batch_norm=True)
  # Over the one photo of all devices.
  with pytest.raises(ValueError, match='erases the 1x1 bottleneck'):
    shapes_of_a_step(model, batch(n=1, side=4))
  shapes_of_a_step(model, batch(n=2, side=4))


# Restoring -------------------------------------------------------------------------------------


def test_a_restored_photo_does_not_depend_on_the_others(state, alternate):
  trained, _ = alternate(state, batch())
  photos = jnp.asarray(batch(1)['old'])
  results = []
  for dropout in (False, True):
    for statistics in (False, True):
      model = dataclasses.replace(MODEL, test_dropout=dropout, test_batch_statistics=statistics)
      restore = jax.jit(partial(pix2pix.restore, model))
      together = restore(trained.released, photos)
      alone = restore(trained.released, photos[:1])
      np.testing.assert_allclose(alone[0], together[0], atol=1e-6)
      assert together.shape == photos.shape
      results.append(together)
  for i, a in enumerate(results):
    assert all(distance(a, b) > 1e-4 for b in results[:i])


def test_batch_norm_over_a_photo_is_that_of_the_reference(state):
  """Batch norm in training mode over a batch of the photo alone."""
  model = dataclasses.replace(MODEL, test_batch_statistics=True)
  params = jax.tree.map(lambda x: x + 0.1, state.released)  # offsets that are not 0
  photo = jnp.asarray(batch(1)['old'][:1])
  expected, _ = model.generator.apply(params, photo, None, True, mutable=['batch_stats'])
  restored = pix2pix.restore(model, params, photo)
  np.testing.assert_allclose(restored, expected, atol=1e-5)
  running = pix2pix.restore(MODEL, params, photo)
  assert distance(restored, running) > 1e-2


def test_evaluation_scores_each_photo(state):
  data = {name: value for name, value in batch().items() if name != 'id'}
  scores, images = jax.jit(partial(pix2pix.eval_step, MODEL))(state, {}, data)
  assert set(scores) == {'psnr', 'ssim', 'psnr_old', 'ssim_old', 'checkerboard'}
  assert all(value.shape == (4,) for value in scores.values())
  restored = jax.jit(partial(pix2pix.restore, MODEL))(state.released, data['old'])
  np.testing.assert_allclose(images['restored'], restored, atol=1e-6)
  # A recipe leaves some photos untouched.
  scores, _ = jax.jit(partial(pix2pix.eval_step, MODEL))(state, {}, data | {'clean': data['old']})
  assert (scores['psnr_old'] == psnr_ssim.MAX_PSNR).all()


def test_sizes_describe_the_model():
  model = dataclasses.replace(MODEL, generator=TUTORIAL, test_dropout=True)
  again = pix2pix.from_sizes(json.loads(json.dumps(pix2pix.sizes(model))))
  assert (again.generator, again.test_dropout) == (TUTORIAL, True)
  with pytest.raises(KeyError, match='downs'):
    pix2pix.from_sizes({'generator': 'unet', 'width': 4})


# Official files --------------------------------------------------------------------------------


@pytest.fixture(scope='module')
def official():
  """A state dict as the official code saves it, 2 levels, batch norm."""
  rng = np.random.default_rng(0)
  shapes = {
    'model.model.0.weight': (4, 3, 4, 4),
    'model.model.1.model.1.weight': (8, 4, 4, 4),
    'model.model.1.model.3.weight': (8, 4, 4, 4),
    'model.model.1.model.4.weight': (4,),
    'model.model.1.model.4.bias': (4,),
    'model.model.1.model.4.running_mean': (4,),
    'model.model.1.model.4.running_var': (4,),
    'model.model.3.weight': (8, 3, 4, 4),
    'model.model.3.bias': (3,),
  }
  return {key: np.abs(rng.normal(size=s)).astype(np.float32) for key, s in shapes.items()}


def test_import_of_a_file(official, tmp_path):
  torch = pytest.importorskip('torch')
  path = tmp_path / 'latest_net_G.pth'
  counter = {'model.model.1.model.4.num_batches_tracked': torch.tensor(7)}
  torch.save({k: torch.tensor(v) for k, v in official.items()} | counter, path)
  found = official_gans.import_pix2pix(path)
  assert found.system == 'pix2pix'
  model = pix2pix.from_sizes(found.model)
  assert (model.generator.width, model.generator.downs) == (4, 2)
  assert model.test_batch_statistics and not model.test_dropout
  model = dataclasses.replace(model, generator=model.generator.clone(dropout_levels=()))
  photo = jnp.zeros((1, 8, 8, 3))
  jax.eval_shape(partial(pix2pix.restore, model), found.params, photo)
  with pytest.raises(weights.WeightsError, match='there is no file'):
    official_gans.import_pix2pix(tmp_path / 'other.pth')


def test_import_is_strict(official):
  with pytest.raises(weights.WeightsError, match=r"there is no 'model\.model\.3\.weight'"):
    official_gans.unet({k: v for k, v in official.items() if k != 'model.model.3.weight'})
  with pytest.raises(weights.WeightsError, match='no place for extra'):
    official_gans.unet(official | {'extra.bias': np.zeros(3)})
  scale = 'model.model.1.model.4.weight'
  with pytest.raises(weights.WeightsError, match=r'no place for model\.model\.1\.model\.4\.bias'):
    official_gans.unet({k: v for k, v in official.items() if k != scale})
  with pytest.raises(weights.WeightsError, match=r"there is no 'model\.model\.0\.weight'"):
    official_gans.unet({'weight': np.zeros(3)})


# System ----------------------------------------------------------------------------------------


@pytest.mark.parametrize('variant', ['', 'cpu', 'paper', 'report', 'tiny'])
def test_every_config_makes_a_model(variant):
  config = get_config(variant)
  model = system.model(config)
  state = jax.eval_shape(partial(pix2pix.init, model), jax.random.key(0))
  photo = jax.ShapeDtypeStruct((2, config.data.crop, config.data.crop, 3), jnp.float32)
  restored = jax.eval_shape(partial(pix2pix.restore, model), state.released, photo)
  assert restored.shape == photo.shape
  if variant == 'report':
    assert model.generator == TUTORIAL
    assert model.discriminator.slope == 0.3 and not model.discriminator.first_bias
  if variant == 'paper':
    assert model.generator == gan_networks.GanUNet(dtype=jnp.dtype('bfloat16'))
  with pytest.raises(ValueError, match='has no variant'):
    get_config('other')


def test_settings_that_cannot_work_are_told():
  config = get_config('tiny')
  config.data.crop = 36
  with pytest.raises(build.ConfigError, match=r'data\.crop is 36, .* multiples of 8'):
    system.model(config)
  config = get_config('tiny')
  config.model.norm = 'layer'
  with pytest.raises(build.ConfigError, match=r'model\.norm is one of batch'):
    system.model(config)
  config = get_config('tiny')
  config.data.old = 'some/folder'
  with pytest.raises(build.ConfigError, match='have no clean version'):
    system.SYSTEM.check(config)


class Noise:
  """A source of photos that are noise."""

  names = tuple(f'{i}.png' for i in range(6))

  def __len__(self):
    return len(self.names)

  def __getitem__(self, i):
    return np.random.default_rng(i).integers(0, 256, (40, 48, 3), np.uint8)


def test_a_stage_steps_resumes_and_exports(tmp_path):
  config = get_config('tiny')
  config.workdir = str(tmp_path)
  photos = splits.Photos(train=Noise(), val=Noise(), test=None, old=None)
  stage = system.stages(config, photos, frozen.SHAPES)['pix2pix']()
  step = parallel.train_step(stage.prepare, stage.train_step)
  key = jax.random.key(3)
  state = parallel.replicate(jax.jit(stage.init)(jax.random.key(0)))

  def go_on(state, position, steps):
    batches = stage.batches()
    batches.set_state(position)
    for _ in range(steps):
      state, metrics = step(state, {}, parallel.shard(next(batches)), key)
    batches.close()
    return state, batches.get_state(), metrics

  state, position, metrics = go_on(state, {'next_example': 0}, 2)
  assert set(metrics) == {'gan', 'l1', 'd_real', 'd_fake', 'g_norm', 'd_norm'}
  assert all(np.isfinite(value) for value in metrics.values())
  with checkpoints.manager(tmp_path / stage.name / 'checkpoints', stage.score) as saved:
    checkpoints.save(saved, 2, state, position, {'psnr': 1.0})
    saved.wait_until_finished()
    _, loaded, position = checkpoints.restore(saved, state)
  released = jax.device_get(loaded.released)
  straight, _, _ = go_on(state, position, 2)
  resumed, _, _ = go_on(parallel.replicate(loaded), position, 2)
  assert same(straight, resumed)

  assert frozen.is_trained(config, stage.name)
  system.SYSTEM.modes['export'](config)
  exported = safetensors.numpy.load_file(tmp_path / weights.FILE)
  for name, value in traverse_util.flatten_dict(released, sep='/').items():
    np.testing.assert_array_equal(exported.pop(name), value)
  assert not exported
