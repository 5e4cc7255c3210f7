"""Two processes of two devices each, joined over localhost, as launch.py starts them."""

import os
import pathlib
import runpy
import signal
import socket
import subprocess
import sys
import time
from functools import partial

import jax
import numpy as np
import pytest

from oldphoto_jax.errors import ExitStatus
from oldphoto_jax.models import vae
from oldphoto_jax.systems import triplet
from oldphoto_jax.training import checkpoints, parallel

ROOT = pathlib.Path(__file__).resolve().parent.parent
get_config = runpy.run_path(str(ROOT / 'configs' / 'vae.py'))['get_config']
# No decay: the learning rates of 3 steps and of 6 are the same.
SETTINGS = (
  f'--config={ROOT}/configs/vae.py:tiny',
  '--config.stages=vae_y',
  '--config.vae_y.decay=0.0',
)


def start(place, devices, *flags):
  environment = dict(os.environ, JAX_PLATFORMS='cpu', JAX_NUM_CPU_DEVICES=str(devices))
  environment |= {'JAX_COMPILATION_CACHE_DIR': str(place / 'compiled')}
  return subprocess.Popen(
    [sys.executable, str(ROOT / 'launch.py'), *SETTINGS, *flags],
    env=environment,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def finish(*processes):
  said = [process.communicate(timeout=600)[1] for process in processes]
  assert [process.returncode for process in processes] == [0] * len(processes), '\n'.join(said)
  return said


def start_two(place, *flags):
  with socket.socket() as free:
    free.bind(('localhost', 0))
    port = free.getsockname()[1]
  pod = (f'--coordinator=localhost:{port}', '--num_processes=2')
  return [start(place, 2, *pod, f'--process_id={i}', *flags) for i in range(2)]


def run_two(place, *flags):
  return finish(*start_two(place, *flags))


def state(run, step):
  config = get_config('tiny')
  config.vae_y.decay = 0.0
  like = jax.eval_shape(partial(vae.init, triplet.models(config).y), jax.random.key(0))
  with checkpoints.manager(run / 'vae_y' / 'checkpoints', 'psnr') as saved:
    return checkpoints.restore(saved, like, step)[1]


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
  """Folder with `one`: six steps on one process, and `two`: three on two; and what those said."""
  place = tmp_path_factory.mktemp('processes')
  finish(start(place, 4, f'--config.workdir={place}/one', '--config.vae_y.steps=6'))
  said = run_two(place, f'--config.workdir={place}/two', '--config.vae_y.steps=3')
  return place, said


def difference(a, b):
  """Largest distance of two trees of parameters; a step of Adam is up to 1e-3."""
  distances = jax.tree.map(lambda x, y: np.abs(x - y).max(), a, b)
  return max(jax.tree.leaves(distances))


def test_two_processes_train_to_the_parameters_of_one(runs):
  place, said = runs
  assert all('4 devices' in text for text in said)
  one, two = state(place / 'one', 3), state(place / 'two', 3)
  assert difference(one.g, two.g) < 1e-5


@pytest.mark.slow
def test_what_two_processes_saved_goes_on_on_one_and_on_two(runs):
  place, _ = runs
  flags = (f'--config.workdir={place}/two', '--config.vae_y.steps=6')
  (said,) = finish(start(place, 4, *flags))
  assert 'vae_y: going on from step 3 of 6' in said
  one, resumed = state(place / 'one', 6), state(place / 'two', 6)
  assert difference(one.g, resumed.g) < 1e-5
  said = run_two(place, f'--config.workdir={place}/two', '--config.vae_y.steps=9')
  assert all('vae_y: going on from step 6 of 9' in text for text in said)


@pytest.mark.slow
def test_a_run_that_loses_a_process_ends_with_a_sentence_and_goes_on(tmp_path):
  flags = (f'--config.workdir={tmp_path}/lost', '--config.train.evaluate_every=1')
  endless = start_two(tmp_path, *flags, '--config.vae_y.steps=100000')
  folder = tmp_path / 'lost' / 'vae_y' / 'checkpoints'
  while not any(path.name.isdecimal() for path in folder.glob('*')):
    assert [process.poll() for process in endless] == [None, None]
    time.sleep(0.5)
  survivor, lost = endless
  lost.kill()
  said = survivor.communicate(timeout=60)[1]
  # The error that JAX raises races with its own end of the process, which says the same.
  if survivor.returncode == -signal.SIGABRT:
    assert 'another task died' in said
  else:
    assert survivor.returncode == ExitStatus.STOPPED, said
    assert 'another process of this run has ended' in said and 'the same command' in said
  lost.communicate()
  newest = max(int(path.name) for path in folder.glob('*') if path.name.isdecimal())
  said = run_two(tmp_path, *flags, f'--config.vae_y.steps={newest + 2}')
  assert all(f'vae_y: going on from step {newest} of {newest + 2}' in text for text in said)


def test_only_errors_of_other_processes_are_a_lost_process(monkeypatch):
  lost = ValueError('UNKNOWN: Gloo all-reduce failed: Read error: Connection reset by peer')
  assert not parallel.lost_process(lost)  # there is no other process
  monkeypatch.setattr(jax, 'process_count', lambda: 2)
  assert parallel.lost_process(lost) and not parallel.lost_process(ValueError('shapes differ'))


@pytest.mark.parametrize(
  'given',
  [('localhost:1', None, 0), (None, 2, 0), ('localhost:1', 2, 2), ('localhost:1', 2, -1)],
)
def test_half_of_the_flags_is_a_sentence(given):
  with pytest.raises(ValueError, match='--process_id'):
    parallel.initialize(False, *given)
