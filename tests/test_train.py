"""The training loop on a network of three numbers: resuming, stopping, failing, checkpoints."""

import dataclasses
import json
import os
import re
import shutil
import signal

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from oldphoto_jax import data
from oldphoto_jax.errors import ExitStatus
from oldphoto_jax.nn.averaging import AXIS
from oldphoto_jax.training import checkpoints, parallel, train


class State(flax.struct.PyTreeNode):
  step: jax.Array
  w: jax.Array
  v: jax.Array


def stage(steps=7, poison=None, size=3, after_step=None, log_every=2, line_seconds=60.0):
  """A stage whose parameter depends on every photo, key and step so far.

  `poison` is the `id` of the example whose loss is NaN; `after_step` is called with the number of
  batches drawn.
  """
  source = data.sample_photos()

  def train_step(state, constants, batch, keys):
    noise = jax.vmap(jax.random.normal)(keys).mean()
    loss = batch['image'].mean() + 0.1 * noise + constants['offset'] * state.w.sum()
    if poison is not None:
      loss = jnp.where((batch['id'] == poison).any(), jnp.nan, loss)
    loss = jax.lax.pmean(loss, AXIS)
    state = state.replace(step=state.step + 1, w=0.9 * state.w + loss, v=state.v + 1)
    return state, {'loss': loss}

  def eval_step(state, constants, batch):
    del constants
    score = batch['image'].mean((1, 2, 3)) - 0.0 * state.w.sum()
    return {'psnr': score}, {'photo': batch['image']}

  def prepare(batch, keys):
    del keys
    return batch | {'image': batch['image'].astype(jnp.float32) / 127.5 - 1}

  class Watched(data.Batches):
    def __next__(self):
      batch = super().__next__()
      if after_step is not None:
        after_step(self.get_state()['next_example'] // 4)
      return batch

  def batches():
    stream = data.train_batches(data.Photos(source, data.Crop(16)), 4, seed=3)
    stream.__class__ = Watched
    return stream

  return train.Stage(
    name='toy',
    init=lambda key: State(jnp.zeros((), jnp.int32), jax.random.normal(key, (size,)), jnp.zeros(1)),
    prepare=prepare,
    prepare_eval=prepare,
    train_step=train_step,
    eval_step=eval_step,
    constants={'offset': jnp.float32(0.01)},
    batches=batches,
    eval_batches=lambda: data.eval_batches(source, 16, parallel.multiple(4)),
    score='psnr',
    loop=train.Loop(steps=steps, log_every=log_every, evaluate_every=3, line_seconds=line_seconds),
  )


def lines(folder):
  return [json.loads(line) for line in (folder / 'metrics.jsonl').read_text().splitlines()]


def same(a, b):
  jax.tree.map(np.testing.assert_array_equal, jax.device_get(a), jax.device_get(b))


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
  """The state and the folder of a run that nothing disturbed; the folder is not to be changed."""
  folder = tmp_path_factory.mktemp('whole')
  return jax.device_get(train.train(stage(), folder, seed=0)), folder


@pytest.fixture
def copied(whole, tmp_path):
  """A copy of its folder."""
  return shutil.copytree(whole[1], tmp_path / 'copied')


def test_a_run_logs_evaluates_and_saves(whole):
  state, folder = whole
  assert int(state.step) == 7
  rows = lines(folder)
  assert [r['step'] for r in rows if 'eval_psnr' in r] == [3, 6, 7]
  assert [r['step'] for r in rows if 'loss' in r][-1] == 7
  assert all(np.isfinite(r['loss']) and r['images_per_second'] > 0 for r in rows if 'loss' in r)
  assert sorted(p.name for p in (folder / 'sheets').iterdir()) == [
    '0000003.png',
    '0000006.png',
    '0000007.png',
  ]
  # Every photo counts once, whatever the batch: five photos in batches of four.
  from oldphoto_jax.degradation import photographic

  expected = np.mean(
    [
      photographic.from_levels(b['image'][i].astype(np.float32)).mean()
      for b in data.eval_batches(data.sample_photos(), 16, 4)
      for i in range(4)
      if b['valid'][i]
    ]
  )
  assert rows[-1]['eval_psnr'] == pytest.approx(float(expected), abs=1e-4)


def test_without_a_terminal_the_log_says_what_the_run_does(tmp_path, caplog):
  caplog.set_level('INFO')
  train.train(stage(line_seconds=0.0), tmp_path, seed=0)
  said = caplog.text
  for step in ('train', 'evaluation'):
    assert f'toy: the {step} step: compiling' in said
    assert re.search(rf'toy: the {step} step: compiled in \d+\.\d s', said)
  found = re.findall(r'toy: step (\d+) of 7, 0:\d\d:\d\d left(.*)', said)
  assert [int(step) for step, _ in found] == [1, 2, 3, 4, 5, 6, 7]
  # Losses are read late, so the first line has none yet.
  assert found[0][1] == '' and re.match(r', \d+\.\d images/s: loss ', found[-1][1])
  caplog.clear()
  train.train(stage(), tmp_path / 'minute', seed=0)
  assert ' left' not in caplog.text


def test_the_same_command_gives_the_same_numbers_and_another_seed_others(tmp_path, whole):
  same(whole[0], train.train(stage(), tmp_path / 'b', seed=0))
  assert not np.array_equal(whole[0].w, train.train(stage(), tmp_path / 'c', seed=1).w)


@pytest.mark.parametrize('at', [2, 4, 6])
def test_sigterm_saves_and_the_same_command_goes_on_exactly(tmp_path, whole, at):
  def terminate(drawn):
    if drawn == at:
      os.kill(os.getpid(), signal.SIGTERM)

  handler = signal.getsignal(signal.SIGTERM)
  with pytest.raises(SystemExit) as stopped:
    train.train(stage(after_step=terminate), tmp_path / 'cut', seed=0)
  assert stopped.value.code == ExitStatus.STOPPED
  assert signal.getsignal(signal.SIGTERM) == handler
  same(whole[0], train.train(stage(), tmp_path / 'cut', seed=0))
  drop_speed = [
    [{k: v for k, v in row.items() if k != 'images_per_second'} for row in lines(run)]
    for run in (whole[1], tmp_path / 'cut')
  ]
  evaluations = [[row for row in rows if 'eval_psnr' in row] for rows in drop_speed]
  assert evaluations[0] == evaluations[1]


def test_a_longer_run_goes_on_and_a_finished_one_is_left_alone(tmp_path, whole):
  train.train(stage(steps=4), tmp_path, seed=0)
  longer = train.train(stage(steps=7), tmp_path, seed=0)
  same(longer, whole[0])
  before = (tmp_path / 'metrics.jsonl').read_bytes()
  same(longer, train.train(stage(steps=7), tmp_path, seed=0))
  assert (tmp_path / 'metrics.jsonl').read_bytes() == before


def test_a_loss_that_is_not_finite_stops_with_its_examples(tmp_path):
  with pytest.raises(train.NonFiniteLoss, match=r'loss not finite at step 5 .*examples \[16, 17'):
    train.train(stage(poison=18), tmp_path, seed=0)
  with checkpoints.manager(tmp_path / 'checkpoints', 'psnr') as saved:
    assert saved.all_steps() == [3]  # from before it


def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before(whole, copied, caplog):
  for path in (copied / 'checkpoints' / '7' / 'state').rglob('*'):
    if path.is_file():
      path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
  same(whole[0], train.train(stage(), copied, seed=0))
  assert 'checkpoint 7' in caplog.text and 'cannot be read' in caplog.text


def test_when_no_checkpoint_can_be_read_training_does_not_start_anew(copied):
  for step in (copied / 'checkpoints').iterdir():
    shutil.rmtree(step / 'state')
  with pytest.raises(checkpoints.CheckpointError, match='none of the checkpoints'):
    train.train(stage(), copied, seed=0)


def test_a_checkpoint_of_another_network_is_refused(copied):
  with pytest.raises(
    checkpoints.CheckpointError, match=r'to a different network: w is \(3,\) there'
  ):
    train.train(stage(size=4), copied, seed=0)


def test_latest_two_and_best_are_kept(tmp_path):
  state = State(jnp.zeros((), jnp.int32), jnp.zeros(2), jnp.zeros(1))
  with checkpoints.manager(tmp_path, 'psnr') as saved:
    for step, psnr in enumerate([20.0, 25.0, 22.0, 23.0, 21.0], 1):
      checkpoints.save(saved, step, state, {'next_example': step}, {'psnr': psnr})
    checkpoints.save(saved, 6, state, {'next_example': 6}, None)  # SIGTERM: not evaluated
    checkpoints.save(saved, 7, state, {'next_example': 7}, {'psnr': 20.5})
    saved.wait_until_finished()
    assert saved.all_steps() == [2, 6, 7]
  with checkpoints.manager(tmp_path, 'psnr') as saved:
    assert (saved.best_step(), saved.latest_step()) == (2, 7)
    assert checkpoints.restore(saved, state, step=2)[2] == {'next_example': 2}


def test_a_checkpoint_of_four_devices_resumes_on_one(whole, copied):
  """The same numbers, too: keys and batches do not depend on the devices."""
  assert jax.local_device_count() == 4
  with checkpoints.manager(copied / 'checkpoints', 'psnr') as saved:
    _, state, _ = checkpoints.restore(saved, jax.eval_shape(stage().init, jax.random.key(0)))
  assert len(state.w.sharding.device_set) == 1
  same(whole[0], state)


def test_a_batch_that_does_not_divide_is_a_sentence():
  with pytest.raises(ValueError, match='batch of 6 does not divide over its 4 devices'):
    parallel.shard({'id': np.arange(6)})


def test_tensorboard_gets_the_same_scalars(tmp_path):
  pytest.importorskip('tensorboardX')
  logged = stage()
  loop = dataclasses.replace(logged.loop, tensorboard=True)
  train.train(dataclasses.replace(logged, loop=loop), tmp_path, seed=0)
  written = b''.join(path.read_bytes() for path in (tmp_path / 'tensorboard').iterdir())
  assert b'eval_psnr' in written and b'images_per_second' in written


class Longer(State):
  """What a later version might have: one more field, which this network leaves empty."""

  extra: jax.Array | None = None


def test_a_checkpoint_without_a_field_that_is_empty_is_read(tmp_path):
  state = State(jnp.ones((), jnp.int32), jnp.ones(2), None)
  with checkpoints.manager(tmp_path, 'psnr') as saved:
    checkpoints.save(saved, 1, state, {'next_example': 4}, {'psnr': 1.0})
    saved.wait_until_finished()
  for like in (state, Longer(**vars(state))):
    loaded = checkpoints.newest(tmp_path, like)
    assert type(loaded) is type(like)
    same(loaded, like)
  with pytest.raises(checkpoints.CheckpointError, match='extra is missing there'):
    checkpoints.newest(tmp_path, Longer(**vars(state), extra=jnp.zeros(3)))


class Former(flax.struct.PyTreeNode):
  step: jax.Array
  params: jax.Array
  opt: jax.Array


class Now(flax.struct.PyTreeNode):
  step: jax.Array
  g: jax.Array
  g_opt: jax.Array
  d: jax.Array | None = None


def test_a_checkpoint_with_field_names_of_version_0_1_is_read(tmp_path):
  arrays = (jnp.ones((), jnp.int32), jnp.arange(2.0), jnp.arange(3.0))
  with checkpoints.manager(tmp_path, 'psnr') as saved:
    checkpoints.save(saved, 1, Former(*arrays), {'next_example': 4}, {'psnr': 1.0})
    saved.wait_until_finished()
  same(checkpoints.newest(tmp_path, Now(*arrays)), Now(*arrays))
  with pytest.raises(checkpoints.CheckpointError, match=r'g is \(2,\) there and \(5,\) here'):
    checkpoints.newest(tmp_path, Now(arrays[0], jnp.zeros(5), arrays[2]))
