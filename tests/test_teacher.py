"""A finder may learn from what another one finds, instead of labels."""

import pathlib
import runpy

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from oldphoto_jax import weights
from oldphoto_jax.errors import ConfigError
from oldphoto_jax.models import repair
from oldphoto_jax.nn import averaging
from oldphoto_jax.systems import frozen, splits
from oldphoto_jax.systems import repair as system

ROOT = pathlib.Path(__file__).parent.parent
TEACHER = repair.Repair(widths=(4,), blocks=1, members=2)
LOSS = dict.fromkeys(repair.WEIGHTS, 0.0) | {'bce': 1.0, 'dice': 0.3}
STUDENT = repair.Repair((6,), 1, LOSS, g_tx=optax.adam(1e-2), tells=False, teacher=TEACHER)


@pytest.fixture(scope='module')
def opinions():
  """The parameters of a teacher that finds something, which is not the same in its mirror image."""
  params = repair.init(TEACHER, jax.random.key(0)).g
  leaves, tree = jax.tree.flatten(params)
  keys = jax.random.split(jax.random.key(1), len(leaves))
  moved = [leaf + 0.1 * jax.random.normal(k, leaf.shape) for k, leaf in zip(keys, leaves)]
  return jax.tree.unflatten(tree, moved)


def _batch(seed=0):
  rng = np.random.default_rng(seed)
  draw = lambda low, channels: rng.uniform(low, 1, (4, 32, 32, channels)).astype(np.float32)
  return {
    'old': draw(-1, 3),
    'clean': draw(-1, 3),
    'damage': (draw(0, 1) > 0.9).astype(np.float32),
    'known': np.ones((4, 32, 32, 1), np.float32),
    'judged': draw(0, 1),
    'told': draw(0, 1),
    'trust': np.ones((4, 1, 1, 1), np.float32),
  }


def _one_device(model, constants):
  step = jax.pmap(
    lambda state, batch: repair.train_step(model, state, constants, batch, None),
    axis_name=averaging.AXIS,
    devices=jax.devices()[:1],
  )
  one = lambda tree: jax.tree.map(lambda x: x[None], tree)
  return lambda state, batch: jax.tree.map(lambda x: x[0], step(one(state), one(batch)))


def test_a_teacher_looks_at_the_photo_and_at_its_mirror_image_in_gray(opinions):
  photo = _batch()['old']
  taught = repair.taught(TEACHER, opinions, photo)
  found = repair.look(TEACHER, opinions, photo)[1]
  gray = np.float32(photo @ [[0.299] * 3, [0.587] * 3, [0.114] * 3])
  mirrored = repair.look(TEACHER, opinions, gray[:, :, ::-1])[1][:, :, ::-1]
  assert np.abs(found - mirrored).max() > 0.01
  np.testing.assert_allclose(taught['damage'], (found + mirrored) / 2, atol=1e-6)
  np.testing.assert_array_equal(taught['judged'], np.ones_like(found))
  # Mirrored and gray alike: whoever learns from mirrored squares learns the same.
  again = repair.taught(TEACHER, opinions, gray[:, :, ::-1])['damage'][:, :, ::-1]
  other = repair.taught(TEACHER, opinions, gray)['damage']
  np.testing.assert_allclose(again, other, atol=1e-5)


def test_a_student_learns_what_its_teacher_finds_whatever_the_labels_say(opinions):
  batch = _batch()
  other = batch | {'damage': 1 - batch['damage'], 'judged': 1 - batch['judged']}
  step = _one_device(STUDENT, {'teacher': opinions})
  begun = repair.init(STUDENT, jax.random.key(2))
  jax.tree.map(np.testing.assert_array_equal, *(step(begun, b)[0].g for b in (batch, other)))

  wanted = repair.taught(TEACHER, opinions, batch['old'])['damage']

  def error(params):
    return float(jnp.abs(repair.look(STUDENT, params, batch['old'])[1] - wanted).mean())

  learnt = begun
  for _ in range(60):
    learnt, _ = step(learnt, batch)
  assert set(learnt.g) == set(begun.g)
  assert error(learnt.g) < 0.7 * error(begun.g)


def _config():
  return runpy.run_path(str(ROOT / 'configs/repair.py'))['get_config']('tiny')


def _saved(path, params):
  sizes = repair.sizes(STUDENT) | ({'finder': repair.sizes(TEACHER)} if 'finder' in params else {})
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
  begun, batch = stage.init(jax.random.key(0)), _batch()
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
