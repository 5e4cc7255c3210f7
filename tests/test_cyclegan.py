"""models.cyclegan: official parity, the history, updates, devices, resuming."""

import dataclasses
import json
import random
import runpy
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import safetensors.numpy
from conftest import ROOT
from flax import traverse_util

from oldphoto_jax import weights
from oldphoto_jax.metrics import psnr_ssim
from oldphoto_jax.models import cyclegan, gan_networks
from oldphoto_jax.nn import averaging, losses
from oldphoto_jax.systems import build, frozen, splits
from oldphoto_jax.systems import cyclegan as system
from oldphoto_jax.training import checkpoints, parallel
from oldphoto_jax.weights import official_gans

get_config = runpy.run_path(str(ROOT / 'configs' / 'cyclegan.py'))['get_config']


def nhwc(array):
  return jnp.asarray(array.transpose(0, 2, 3, 1))


def parameters(reference):
  return {k.removeprefix('param/'): v for k, v in reference.items() if k.startswith('param/')}


def same(a, b):
  return all(
    np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
  )


def distance(a, b):
  a, b = jax.device_get((a, b))
  return max(
    np.abs(x - y).max() for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
  )


def on_devices(state, n):
  """A copy as a step returns its state (else it compiles again), because steps take its buffers."""
  mesh = jax.sharding.Mesh(jax.devices()[:n], (averaging.AXIS,))
  sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
  return jax.tree.map(jnp.copy, jax.device_put(state, sharding))


# Parity ----------------------------------------------------------------------------------------


@pytest.mark.parametrize('blocks', [6, 9])
def test_resnet_equals_the_official_network(fixture, blocks):
  reference = fixture(f'cyclegan_resnet{blocks}')
  params = official_gans.resnet(parameters(reference))
  model = cyclegan.CycleGAN(generator=gan_networks.GanResNet(width=16, blocks=blocks))
  ours = jax.jit(partial(cyclegan.restore, model))(params, nhwc(reference['input/image']))
  expected = nhwc(reference['output/image'])
  np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-4 * float(jnp.abs(expected).max()))


@pytest.mark.parametrize(
  ('name', 'cycle', 'identity'), [('official', 10.0, 0.5), ('cycle8_no_identity', 8.0, 0.0)]
)
def test_losses_equal_the_reference(fixture, name, cycle, identity):
  """The reference's A is X, its D_A is D_Y."""
  reference = fixture('gan_losses')
  model = cyclegan.CycleGAN(lambda_cycle=cycle, lambda_identity=identity)

  def of(name):
    return nhwc(reference[f'input/cyclegan/{name}'])

  terms = {
    'gan_G': model.gan_loss(of('disc_A_fake'), 1.0),
    'gan_F': model.gan_loss(of('disc_B_fake'), 1.0),
    'cycle_X': losses.l1(of('rec_A'), of('real_A')),
    'cycle_Y': losses.l1(of('rec_B'), of('real_B')),
    'identity_G': losses.l1(of('idt_A'), of('real_B')),
    'identity_F': losses.l1(of('idt_B'), of('real_A')),
  }
  assert terms.keys() == model.weights.keys()

  def d(letter):
    real, fake = of(f'disc_{letter}_real'), of(f'disc_{letter}_fake')
    return {'real': model.gan_loss(real, 1.0), 'fake': model.gan_loss(fake, 0.0)}

  weighted = {key: model.weights[key] * value for key, value in terms.items()}
  ours = {
    'D_A': cyclegan.d_total(model, d('A')),
    'D_B': cyclegan.d_total(model, d('B')),
    'G_A': weighted['gan_G'],
    'G_B': weighted['gan_F'],
    'cycle_A': weighted['cycle_X'],
    'cycle_B': weighted['cycle_Y'],
    'idt_A': weighted['identity_G'],
    'idt_B': weighted['identity_F'],
    'g_total': losses.total(terms, model.weights),
  }
  for key, value in ours.items():
    expected = reference[f'output/cyclegan/{name}/{key}']
    np.testing.assert_allclose(value, expected, rtol=1e-5, err_msg=key)


def test_import_of_an_old_file(fixture, tmp_path):
  """Files of torch before 0.4 carry statistics that instance norm does not use."""
  torch = pytest.importorskip('torch')
  state = parameters(fixture('cyclegan_resnet6'))
  extra = {'model.2.running_mean': np.zeros(16), 'model.2.running_var': np.ones(16)}
  extra |= {'model.10.conv_block.2.num_batches_tracked': np.zeros((), np.int64)}
  path = tmp_path / 'latest_net_G.pth'
  torch.save({k: torch.tensor(v) for k, v in (state | extra).items()}, path)
  found = official_gans.import_cyclegan(path)
  assert found.system == 'cyclegan'
  assert cyclegan.from_sizes(found.model).generator == gan_networks.GanResNet(16, 6)
  assert same(found.params, official_gans.resnet(state))

  with pytest.raises(weights.WeightsError, match=r'no place for model\.2\.weight'):
    official_gans.resnet(state | {'model.2.weight': np.ones(16)})
  with pytest.raises(weights.WeightsError, match=r"there is no 'model\.12\.conv_block\.5\.weight'"):
    official_gans.resnet({k: v for k, v in state.items() if k != 'model.12.conv_block.5.weight'})


# History ---------------------------------------------------------------------------------------


def naive_pool(size, photos, swaps, places):
  """`ImagePool.query` of the official code, its random choices given."""
  stored, given = [], []
  for photo, swap, place in zip(photos, swaps, places):
    if len(stored) < size:
      stored.append(photo)
      given.append(photo)
    elif swap:
      given.append(stored[place])
      stored[place] = photo
    else:
      given.append(photo)
  return stored, given


def pooled(size, photos, keys, batch=4):
  """Photos that are numbers, through `exchange` in batches."""
  exchange = jax.jit(cyclegan.exchange)
  pool, count, given = jnp.zeros((size, 1, 1, 1)), jnp.int32(0), []
  for i in range(0, len(photos), batch):
    part = photos[i : i + batch].reshape(-1, 1, 1, 1)
    pool, count, out = exchange(pool, count, part, keys[i : i + batch])
    given.append(out.ravel())
  return pool.ravel(), int(count), np.concatenate(given)


def test_history_equals_a_naive_one_under_the_same_choices():
  size, n = 7, 200
  keys = jax.random.split(jax.random.key(0), n)
  photos = np.arange(n, dtype=np.float32)
  stored, count, given = pooled(size, photos, keys)
  pairs = jax.vmap(jax.random.split)(keys)
  swaps = jax.vmap(jax.random.bernoulli)(pairs[:, 0])
  places = jax.vmap(lambda key: jax.random.randint(key, (), 0, size))(pairs[:, 1])
  expected = naive_pool(size, photos, np.asarray(swaps), np.asarray(places))
  np.testing.assert_array_equal(stored, expected[0])
  np.testing.assert_array_equal(given, expected[1])
  assert count == size


def test_history_has_the_statistics_of_the_reference():
  """Half of the photos are given back; the others are as old as in the naive pool."""
  size, n = 50, 12_000
  photos = np.arange(n, dtype=np.float32)
  keys = jax.random.split(jax.random.key(1), n)
  _, _, given = pooled(size, photos, keys, batch=500)
  rng = random.Random(0)
  swaps = [rng.uniform(0, 1) > 0.5 for _ in photos]
  _, expected = naive_pool(size, photos, swaps, [rng.randint(0, size - 1) for _ in photos])
  # The age of a photo that is given is geometric: a stored one leaves at 1 in 2 * size steps.
  ages = [(photos - np.asarray(x))[10 * size :] for x in (given, expected)]
  fresh = [float((age == 0).mean()) for age in ages]
  means = [float(age[age > 0].mean()) for age in ages]
  assert all(abs(share - 0.5) < 0.02 for share in fresh)
  assert all(abs(mean - 2 * size) < 6 for mean in means)
  spreads = [float(age[age > 0].std()) for age in ages]
  assert all(abs(spread - 2 * size) < 8 for spread in spreads)


# Networks and steps ----------------------------------------------------------------------------


def test_the_four_networks_start_differently():
  model = cyclegan.CycleGAN(
    generator=gan_networks.GanResNet(width=4, blocks=1),
    discriminator=gan_networks.GanPatchDiscriminator(width=4, norm=gan_networks.INSTANCE),
  )
  state = jax.jit(partial(cyclegan.init, model))(jax.random.key(0))
  for a, b in ((state.g['G'], state.g['F']), (state.d['D_X'], state.d['D_Y'])):
    for (path, x), y in zip(jax.tree_util.tree_leaves_with_path(a), jax.tree.leaves(b)):
      assert path[-1].key == 'bias' or not np.any(x == y)


def test_batch_norm_is_refused():
  model = cyclegan.CycleGAN(discriminator=gan_networks.GanPatchDiscriminator(width=4))
  with pytest.raises(ValueError, match='CycleGAN does not support batch norm'):
    jax.eval_shape(partial(cyclegan.init, model), jax.random.key(0))


class Noise:
  """A source of photos that are noise."""

  def __init__(self, seed):
    self.seed = seed
    self.names = tuple(f'{i}.png' for i in range(6))

  def __len__(self):
    return len(self.names)

  def __getitem__(self, i):
    return np.random.default_rng([self.seed, i]).integers(0, 256, (40, 48, 3), np.uint8)


# With old photos of its own, a step has no recipe to compile.
PHOTOS = splits.Photos(train=Noise(0), val=Noise(1), test=None, old=Noise(2))


@dataclasses.dataclass(frozen=True)
class Run:
  """The tiny config's stage, with SGD: Adam would hide a factor in the gradients."""

  config: object
  stage: object
  steps: dict  # by the number of devices
  state: object

  def go_on(self, state, position, steps, devices):
    batches = self.stage.batches()
    batches.set_state(position)
    metrics = []
    state = on_devices(state, devices)
    for _ in range(steps):
      batch = {k: v.reshape(devices, -1, *v.shape[1:]) for k, v in next(batches).items()}
      state, values = self.steps[devices](state, {}, batch, jax.random.key(3))
      metrics.append(values)
    batches.close()
    return state, batches.get_state(), metrics


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  return start_run(tmp_path_factory.mktemp('run'))


def start_run(workdir, dtype=jnp.float32):
  config = get_config('tiny')
  config.workdir = str(workdir)
  config.model.dropout_levels = (2,)
  # Its learning rate lies in the state, so that one compiled step serves many rates.
  sgd = optax.inject_hyperparams(optax.sgd)(learning_rate=0.05)
  model = system.model(config)
  nets = {name: getattr(model, name).clone(dtype=dtype) for name in ('generator', 'discriminator')}
  model = dataclasses.replace(model, **nets, g_tx=sgd, d_tx=sgd)
  stage = dataclasses.replace(
    system.stages(config, PHOTOS, frozen.SHAPES)['cyclegan'](),
    init=partial(cyclegan.init, model),
    train_step=partial(cyclegan.train_step, model),
  )
  steps = {
    n: parallel.train_step(stage.prepare, stage.train_step, jax.devices()[:n]) for n in (1, 4)
  }
  return Run(config, stage, steps, jax.jit(stage.init)(jax.random.key(0)))


START = {'next_example': 0}


def test_four_devices_equal_one_with_one_history(float64, tmp_path):
  """Over three steps, after which the history of 6 is full and photos have been swapped."""
  run = start_run(tmp_path, jnp.float64)
  one, _, metrics = run.go_on(run.state, START, 3, devices=1)
  four, _, others = run.go_on(run.state, START, 3, devices=4)
  assert int(one.pool.count) == int(four.pool.count) == run.config.cyclegan.pool_size
  assert distance(one, four) < 1e-12
  for name in ('g', 'd', 'pool'):
    assert distance(getattr(one, name), getattr(run.state, name)) > 1e-3
  for ours, theirs in zip(metrics, others):
    for name, value in ours.items():
      np.testing.assert_allclose(theirs[name], value, rtol=1e-9, err_msg=name)


def test_discriminators_learn_from_the_history(run):
  """With the history full of photos that no generator made, D's loss on them shows."""
  state, position, _ = run.go_on(run.state, START, 2, devices=1)
  filled = state.replace(pool=state.pool.replace(X=jnp.ones_like(state.pool.X)))
  _, _, (metrics,) = run.go_on(state, position, 1, devices=1)
  _, _, (others,) = run.go_on(filled, position, 1, devices=1)
  changed = {name for name in metrics if float(metrics[name]) != float(others[name])}
  assert changed == {'d_X_fake', 'd_norm'}


def test_each_update_leaves_the_other_networks_alone(run):
  def stepped(g, d):
    state = jax.tree.map(lambda x: x, run.state)
    state.g_opt.hyperparams['learning_rate'] = jnp.float32(g)
    state.d_opt.hyperparams['learning_rate'] = jnp.float32(d)
    return run.go_on(state, START, 1, devices=1)[0]

  both, only_g, only_d = stepped(0.1, 0.1), stepped(0.1, 0.0), stepped(0.0, 0.1)
  assert same(only_g.d, run.state.d) and same(only_d.g, run.state.g)
  # At once: neither sees what the other one does in this step.
  assert same(only_g.g, both.g) and same(only_d.d, both.d)
  for networks in ('g', 'd'):
    before, after = getattr(run.state, networks), getattr(both, networks)
    for name in before:
      assert distance(before[name], after[name]) > 1e-5


def test_a_stage_resumes_exactly(run):
  state, position, metrics = run.go_on(run.state, START, 2, devices=1)
  assert all(np.isfinite(value) for values in metrics for value in values.values())
  folder = f'{run.config.workdir}/cyclegan/checkpoints'
  with checkpoints.manager(folder, run.stage.score) as saved:
    checkpoints.save(saved, 2, state, position, {'psnr': 1.0})
    saved.wait_until_finished()
    _, loaded, position = checkpoints.restore(saved, state)
  assert same(loaded.pool, state.pool) and int(loaded.pool.count) == 6
  straight, _, _ = run.go_on(state, position, 2, devices=1)
  resumed, _, _ = run.go_on(loaded, position, 2, devices=1)
  assert same(straight, resumed)
  assert frozen.is_trained(run.config, 'cyclegan')


def test_export_holds_the_restoring_generator(tmp_path):
  config = get_config('tiny')
  config.workdir = str(tmp_path)
  assert not frozen.is_trained(config, 'cyclegan')
  export = system.SYSTEM.modes['export']
  with pytest.raises(checkpoints.CheckpointError, match='there is no checkpoint'):
    export(config)
  model = system.model(config)
  state = jax.jit(partial(cyclegan.init, model))(jax.random.key(0))
  with checkpoints.manager(tmp_path / 'cyclegan' / 'checkpoints', 'psnr') as saved:
    checkpoints.save(saved, 1, state, START, {'psnr': 1.0})
  export(config)
  exported = safetensors.numpy.load_file(tmp_path / weights.FILE)
  for name, value in traverse_util.flatten_dict(state.ema['G'], sep='/').items():
    np.testing.assert_array_equal(exported.pop(name), value)
  assert not exported


def test_the_terms_that_are_off_are_not_there():
  model = cyclegan.CycleGAN(
    generator=gan_networks.GanResNet(width=4, blocks=1),
    discriminator=gan_networks.GanPatchDiscriminator(4, 1, gan_networks.INSTANCE),
    lambda_identity=0.0,
    pool_size=0,
    crop=16,
  )
  initial = jax.eval_shape(partial(cyclegan.init, model), jax.random.key(0))
  assert initial.pool is None and initial.ema is None
  step = jax.vmap(
    lambda state, batch, keys: cyclegan.train_step(model, state, {}, batch, keys),
    axis_name=averaging.AXIS,
    in_axes=(None, 0, 0),
  )
  batch = {name: jnp.zeros((1, 2, 16, 16, 3)) for name in ('old', 'clean')}
  after, metrics = jax.eval_shape(step, initial, batch, jax.random.split(jax.random.key(0), (1, 2)))
  assert jax.tree.structure(after) == jax.tree.structure(initial)
  assert not any(name.startswith('identity') for name in metrics)


def test_evaluation_restores_and_goes_both_ways():
  model = cyclegan.CycleGAN(
    generator=gan_networks.GanResNet(width=2, blocks=0),
    discriminator=gan_networks.GanPatchDiscriminator(4, 1, gan_networks.INSTANCE),
    pool_size=0,
  )
  state = jax.jit(partial(cyclegan.init, model))(jax.random.key(0))
  rng = np.random.default_rng(0)
  old, clean = (jnp.asarray(rng.uniform(-1, 1, (2, 16, 16, 3)), jnp.float32) for _ in range(2))
  evaluate = jax.jit(partial(cyclegan.eval_step, model))
  scores, images = evaluate(state, {}, {'old': old, 'clean': clean})
  assert all(value.shape == (2,) for value in scores.values())
  assert set(scores) == {'psnr', 'ssim', 'psnr_old', 'ssim_old', 'checkerboard'}
  restore = jax.jit(partial(cyclegan.restore, model))
  np.testing.assert_allclose(images['restored'], restore(state.g['G'], old), atol=1e-5)
  back = restore(state.g['F'], images['restored'])
  np.testing.assert_allclose(images['back'], back, atol=1e-5)
  np.testing.assert_allclose(images['aged'], restore(state.g['F'], clean), atol=1e-5)
  scores, _ = evaluate(state, {}, {'old': clean, 'clean': clean})  # a photo that is left untouched
  assert (scores['psnr_old'] == psnr_ssim.MAX_PSNR).all()


# System ----------------------------------------------------------------------------------------


@pytest.mark.parametrize('variant', ['', 'cpu', 'paper', 'report', 'tiny'])
def test_every_config_makes_a_model(variant):
  config = get_config(variant)
  model = system.model(config)
  state = jax.eval_shape(partial(cyclegan.init, model), jax.random.key(0))
  photo = jax.ShapeDtypeStruct((2, config.data.crop, config.data.crop, 3), jnp.float32)
  restored = jax.eval_shape(partial(cyclegan.restore, model), state.released['G'], photo)
  assert restored.shape == photo.shape
  again = cyclegan.from_sizes(json.loads(json.dumps(cyclegan.sizes(model))))
  assert again.generator == model.generator.clone(dtype=jnp.float32)
  if variant == 'report':
    assert state.pool is None
    assert model.weights['cycle_X'] == 8 and model.weights['identity_G'] == 4
  if variant == 'paper':
    assert model.generator == gan_networks.GanResNet(dtype=jnp.dtype('bfloat16'))
    assert state.pool.X.shape == (50, 256, 256, 3)
  with pytest.raises(ValueError, match='has no variant'):
    get_config('other')


def test_settings_that_cannot_work_are_told():
  for name, value, said in (
    ('generator', 'vgg', 'model.generator is resnet or unet'),
    ('norm', 'batch', 'model.norm is instance or instance_affine here'),
  ):
    config = get_config('tiny')
    config.model[name] = value
    with pytest.raises(build.ConfigError, match=said):
      system.model(config)


def test_the_domains_are_drawn_independently():
  """X is aged, Y is clean; with real old photos, X is theirs and stays as it is."""
  config = get_config('tiny')
  config.data.gray = 0.0
  for old in (None, PHOTOS.old):
    photos = dataclasses.replace(PHOTOS, old=old)
    stage = system.stages(config, photos, frozen.SHAPES)['cyclegan']()
    batches = stage.batches()
    batch = next(batches)
    batches.close()
    assert any(batch['photo'] != batch['other_photo'])
    prepared = jax.jit(stage.prepare)(batch, jax.random.split(jax.random.key(0), 4))
    as_levels = {name: np.rint(127.5 * (1 + np.asarray(x))) for name, x in prepared.items()}
    np.testing.assert_array_equal(as_levels['clean'], batch['image'])
    assert np.array_equal(as_levels['old'], batch['other']) == (old is not None)
