"""A finder only says what is damaged; it may learn from what another one finds."""

import dataclasses
import pathlib
import runpy
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import small_repair
from flax.traverse_util import flatten_dict
from small_repair import NET

from oldphoto_jax import weights
from oldphoto_jax.errors import ConfigError, WeightsError
from oldphoto_jax.models import repair, state
from oldphoto_jax.nn import averaging
from oldphoto_jax.restoring import engine
from oldphoto_jax.systems import frozen, splits
from oldphoto_jax.systems import repair as system

ROOT = pathlib.Path(__file__).parent.parent
LOSS = dict.fromkeys(repair.WEIGHTS, 0.0) | {'bce': 1.0, 'dice': 0.3}


def test_a_finder_sees_no_masks_and_learns_nothing_but_damage():
  trained = small_repair.trained()
  model = repair.Repair((4, 8), 1, LOSS, g_tx=optax.sgd(0.1), tells=False)
  state = repair.init(model, jax.random.key(0)).replace(g=trained)
  step = jax.pmap(
    lambda state, batch: repair.train_step(model, state, {}, batch, None),
    axis_name='batch',
    in_axes=(None, 0),
    out_axes=None,
    devices=jax.devices()[:1],
  )
  batch = small_repair.batch()
  other = batch | {'told': 1 - batch['told'], 'clean': -batch['clean']}
  (a, terms), (b, _) = (step(state, {k: v[None] for k, v in x.items()}) for x in (batch, other))
  assert set(terms) == {'bce', 'dice', 'norm'}
  jax.tree.map(np.testing.assert_array_equal, a.g, b.g)


def test_a_finder_alone_says_what_is_damaged():
  trained = small_repair.trained()
  finder = repair.Repair(widths=(4, 6), blocks=1)
  untrained = repair.init(finder, jax.random.key(0)).g  # finds PRIOR everywhere
  sizes = repair.sizes(NET)
  held = weights.Weights(
    'repair',
    sizes | {'finder': repair.sizes(finder)},
    {'repair': trained, 'finder': untrained},
  )
  weights.check(held, 'these')
  photo = small_repair.photos(1, 192)[0]
  restorer = weights.restorer(held, 'test')
  alone = weights.restorer(weights.Weights('repair', sizes, {'repair': trained}), 'alone')
  looked, first = (engine.compiled(r, [(192, 192)]).look(photo) for r in (restorer, alone))
  np.testing.assert_array_equal(looked.clean, first.clean)
  by_itself = jax.jit(alone.look)({'repair': trained}, photo[None])[1]  # without copies
  assert by_itself.max() > 2 * repair.PRIOR
  assert np.abs(first.probability - repair.PRIOR).max() > 0.01
  np.testing.assert_allclose(looked.probability, repair.PRIOR, atol=1e-5)
  _, found = jax.jit(restorer.look)(held.params, photo[None])  # by one program
  np.testing.assert_allclose(found[0], repair.PRIOR, atol=1e-5)


def _squeezenet(key):
  """Random parameters of SqueezeNet, in the layout of weights."""
  zeros = repair.untrained_squeezenet()
  leaves, tree = jax.tree.flatten(zeros)
  keys = jax.random.split(key, len(leaves))
  draw = lambda key, x: (0.5 / x[..., 0].size) ** 0.5 * jax.random.normal(key, x.shape)
  return jax.tree.unflatten(tree, [draw(*both) for both in zip(keys, leaves)])


def _as_file(folder, params):
  """These parameters of SqueezeNet as a whole network in a file."""
  flat = flatten_dict(jax.device_get(params), sep='/')
  full = flat | {'conv10/kernel': np.zeros((1, 1, 512, 1000)), 'conv10/bias': np.zeros(1000)}
  np.savez(folder / 'squeezenet.npz', **full)
  return str(folder / 'squeezenet.npz')


def test_a_finder_learns_from_maps_that_it_does_not_change(tmp_path):
  config = runpy.run_path(str(ROOT / 'configs/repair.py'))['get_config']('tiny')
  fixed = _squeezenet(jax.random.key(1))
  config.finder.squeezenet = _as_file(tmp_path, fixed)
  model = system.model(config, 'finder')
  constants = system.squeezenet(config)
  jax.tree.map(np.testing.assert_array_equal, constants, {'squeezenet': jax.device_get(fixed)})

  state = repair.init(model, jax.random.key(0))
  one_device = jax.pmap(
    lambda state, batch: repair.train_step(model, state, constants, batch, None)[0],
    axis_name=averaging.AXIS,
    devices=jax.devices()[:1],
  )
  learnt, batch = (jax.tree.map(lambda x: x[None], tree) for tree in (state, small_repair.batch()))
  for _ in range(3):
    learnt = one_device(learnt, batch)
  learnt = jax.tree.map(lambda x: x[0], learnt)
  assert set(learnt.g) == set(state.g) and 'maps0' in learnt.g
  assert np.abs(learnt.g['maps0']['kernel'] - state.g['maps0']['kernel']).max() > 1e-5

  trained = {'finder': learnt.released, 'repair': repair.init(NET, jax.random.key(0)).g}
  networks = frozen.Networks(lambda name, *_: trained[name], lambda name: name in trained, None)
  released = system.release(config, networks)
  assert 'squeezenet' not in learnt.released  # a run goes on from what it has learnt
  jax.tree.map(np.testing.assert_array_equal, released.params['finder']['squeezenet'], fixed)
  held = weights.Weights('repair', released.model | repair.sizes(NET), released.params)
  weights.check(held, 'these')
  find = jax.jit(weights.restorer(held, 'these').find)
  photos = small_repair.photos()
  seen = find(released.params, photos)
  other = released.params | {
    'finder': released.params['finder'] | {'squeezenet': repair.untrained_squeezenet()}
  }
  assert np.abs(seen - find(other, photos)).max() > 1e-4  # it looks at the maps


def test_members_learn_apart_and_decide_together():
  one = dataclasses.replace(NET, tells=False)
  two = dataclasses.replace(one, members=2)
  assert repair.from_sizes(repair.sizes(two)).members == 2
  before = repair.init(two, jax.random.key(0))
  starts = [state.start(one, g) for g in repair.apart(two, before.g)]
  kernels = [begun.g['conv_in']['kernel'] for begun in starts]
  assert np.abs(kernels[0] - kernels[1]).max() > 0.01

  def step(model, *begun):
    run = jax.pmap(
      lambda state, batch: repair.train_step(model, state, {}, batch, None),
      axis_name=averaging.AXIS,
      devices=jax.devices()[:1],
    )
    lead = lambda tree: jax.tree.map(lambda x: x[None], tree)
    batch = lead(small_repair.batch())
    return [jax.tree.map(lambda x: x[0], run(lead(one), batch)) for one in begun]

  ((after, terms),) = step(two, before)
  apart, terms_apart = zip(*step(one, *starts))
  for name in ('bce', 'dice'):
    np.testing.assert_allclose(terms[name], np.mean([t[name] for t in terms_apart]), rtol=1e-4)
  for joint, begun, learnt in zip(repair.apart(two, after.g), starts, apart):
    # Half the step of plain gradient descent: the loss is the mean of both.
    half = jax.tree.map(lambda a, b: (a + b) / 2, begun.g, learnt.g)
    jax.tree.map(partial(np.testing.assert_allclose, atol=1e-5), joint, half)

  photos = 0.5 * small_repair.photos()  # nothing is clipped
  looks = zip(*(repair.look(one, learnt.g, photos) for learnt in apart))
  together = repair.look(two, repair.together([learnt.g for learnt in apart]), photos)
  for values, answer in zip(looks, together):
    np.testing.assert_allclose(answer, np.mean(values, 0), atol=2e-5)


def test_a_finder_without_members_is_an_error():
  config = runpy.run_path(str(ROOT / 'configs' / 'repair.py'))['get_config']('tiny')
  config.finder.members = 0
  with pytest.raises(ConfigError, match=r'finder\.members is 0: set 1 or more'):
    system.model(config, 'finder')


def test_a_finder_without_sizes_of_its_own_is_a_sentence():
  held = weights.Weights('repair', repair.sizes(NET) | {'finder': True}, {})
  with pytest.raises(WeightsError, match='not in the form of this version'):
    weights.restorer(held, 'test')


# Learning from another finder

TEACHER = repair.Repair(widths=(4,), blocks=1, members=2)
STUDENT = repair.Repair((6,), 1, LOSS, g_tx=optax.adam(1e-2), tells=False, teacher=TEACHER)


@pytest.fixture(scope='module')
def opinions():
  """The parameters of a teacher that finds something, which is not the same in its mirror image."""
  return small_repair.moved(repair.init(TEACHER, jax.random.key(0)).g, 0.1)


def _one_device(model, constants):
  step = jax.pmap(
    lambda state, batch: repair.train_step(model, state, constants, batch, None),
    axis_name=averaging.AXIS,
    devices=jax.devices()[:1],
  )
  one = lambda tree: jax.tree.map(lambda x: x[None], tree)
  return lambda state, batch: jax.tree.map(lambda x: x[0], step(one(state), one(batch)))


def test_a_teacher_looks_at_the_photo_and_at_its_mirror_image_in_gray(opinions):
  photo, none = small_repair.batch()['old'], np.zeros((4, 32, 32, 1), np.float32)
  taught = repair.taught(TEACHER, opinions, photo, none)
  found = repair.look(TEACHER, opinions, photo)[1]
  gray = np.float32(photo @ [[0.299] * 3, [0.587] * 3, [0.114] * 3])
  mirrored = repair.look(TEACHER, opinions, gray[:, :, ::-1])[1][:, :, ::-1]
  assert np.abs(found - mirrored).max() > 0.01
  np.testing.assert_allclose(taught['damage'], (found + mirrored) / 2, atol=1e-6)
  np.testing.assert_array_equal(taught['judged'], np.ones_like(found))
  # Mirrored and gray alike: whoever learns from mirrored squares learns the same.
  again = repair.taught(TEACHER, opinions, gray[:, :, ::-1], none)['damage'][:, :, ::-1]
  other = repair.taught(TEACHER, opinions, gray, none)['damage']
  np.testing.assert_allclose(again, other, atol=1e-5)


def test_false_alarms_are_not_taught(opinions):
  batch = small_repair.batch()
  taught, all_finds = (
    repair.taught(TEACHER, opinions, batch['old'], sound)['damage']
    for sound in (batch['sound'], 0 * batch['sound'])
  )
  np.testing.assert_array_equal(taught, np.where(batch['sound'] > 0, 0, all_finds))
  assert taught.max() > 0


def test_a_student_learns_what_its_teacher_finds_whatever_the_labels_say(opinions):
  batch = small_repair.batch()
  batch['sound'][:, :, 8:] = 0  # here it learns false alarms as well
  other = batch | {'damage': 1 - batch['damage'], 'judged': 1 - batch['judged']}
  step = _one_device(STUDENT, {'teacher': opinions})
  begun = repair.init(STUDENT, jax.random.key(2))
  jax.tree.map(np.testing.assert_array_equal, *(step(begun, b)[0].g for b in (batch, other)))

  wanted = repair.taught(TEACHER, opinions, batch['old'], batch['sound'])['damage']

  def error(params):
    return float(jnp.abs(repair.look(STUDENT, params, batch['old'])[1] - wanted).mean())

  learnt = begun
  for _ in range(60):
    learnt, _ = step(learnt, batch)
  assert set(learnt.g) == set(begun.g)
  assert error(learnt.g) < 0.7 * error(begun.g)


def _taught(folder, sees):
  """A stage that a teacher of these maps teaches, with the teacher and both networks' maps."""
  config = _config()
  teacher = dataclasses.replace(TEACHER, squeezenet=sees != 'none')
  fixed = _squeezenet(jax.random.key(1))
  own = _squeezenet(jax.random.key(2)) if sees == 'others' else fixed
  finder = small_repair.moved(repair.init(teacher, jax.random.key(0)).g, 0.1)
  finder |= {'squeezenet': own} if teacher.squeezenet else {}
  held = {'repair': repair.init(STUDENT, jax.random.key(0)).g, 'finder': finder}
  config.finder.teacher = _saved(folder / 'w.safetensors', held, teacher)
  config.finder.squeezenet = _as_file(folder, fixed)
  stage = system.stages(config, splits.stand_ins(config), frozen.UNTRAINED)['finder']()
  student = dataclasses.replace(system.model(config, 'finder'), teacher=teacher)
  return stage, student, finder, {'squeezenet': fixed}


def test_maps_that_teacher_and_student_see_are_held_once(tmp_path):
  for sees, twice in (('the same', False), ('others', True), ('none', False)):
    folder = tmp_path / sees
    folder.mkdir()
    assert ('squeezenet' in _taught(folder, sees)[0].constants['teacher']) == twice


@pytest.mark.parametrize('sees', ['the same', 'none'])
def test_a_student_with_maps_of_squeezenet_learns_what_its_teacher_finds(tmp_path, sees):
  stage, student, finder, maps = _taught(tmp_path, sees)
  begun, batch = stage.init(jax.random.key(0)), small_repair.batch()
  wanted = repair.taught(student.teacher, finder, batch['old'], batch['sound'])
  learner = dataclasses.replace(student, teacher=None)
  (_, terms), (_, expected) = (
    _one_device(net, constants)(begun, batch | targets)
    for net, constants, targets in ((student, stage.constants, {}), (learner, maps, wanted))
  )
  np.testing.assert_allclose(terms['bce'], expected['bce'], rtol=1e-5)


def _config():
  return runpy.run_path(str(ROOT / 'configs/repair.py'))['get_config']('tiny')


def _saved(path, params, teacher=TEACHER):
  sizes = repair.sizes(STUDENT) | ({'finder': repair.sizes(teacher)} if 'finder' in params else {})
  weights.save(path, weights.Weights('repair', sizes, params), card={})
  return str(path)


def test_the_teacher_is_the_finder_of_a_file_and_is_not_released(tmp_path, opinions):
  config = _config()
  held = {'repair': repair.init(STUDENT, jax.random.key(0)).g, 'finder': opinions}
  config.finder.teacher = _saved(tmp_path / 'w.safetensors', held)
  stage, plain = (
    system.stages(c, splits.stand_ins(c), frozen.UNTRAINED)['finder']() for c in (config, _config())
  )
  jax.tree.map(np.testing.assert_array_equal, stage.constants['teacher'], opinions)
  begun, batch = stage.init(jax.random.key(0)), small_repair.batch()
  jax.tree.map(np.testing.assert_array_equal, begun.g, plain.init(jax.random.key(0)).g)
  with_teacher, _ = stage.eval_step(begun, stage.constants, batch)
  alone, _ = stage.eval_step(begun, {}, batch)  # judged by what is true, not by its teacher
  jax.tree.map(np.testing.assert_array_equal, with_teacher, alone)
  assert not plain.constants


@pytest.mark.parametrize('stage', ['repair', 'cleaner'])
def test_others_than_the_finder_learn_from_labels(tmp_path, opinions, stage):
  config = _config()
  config.finder.teacher = str(tmp_path / 'there is none')
  assert not system.stages(config, splits.stand_ins(config), frozen.UNTRAINED)[stage]().constants


def test_weights_without_a_finder_cannot_teach(tmp_path):
  config = _config()
  held = {'repair': repair.init(STUDENT, jax.random.key(0)).g}
  config.finder.teacher = _saved(tmp_path / 'w.safetensors', held)
  with pytest.raises(ConfigError, match='holds no finder; give weights of repair with one'):
    system.stages(config, splits.stand_ins(config), frozen.UNTRAINED)['finder']()
