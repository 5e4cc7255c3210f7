"""The speed report, and its PyTorch side, which must compute what ours does."""

import json
import os
import pathlib
import runpy
import subprocess
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from oldphoto_jax.dip import networks, prior
from oldphoto_jax.evaluation import speed
from oldphoto_jax.systems import build, cyclegan, frozen, pix2pix, splits, triplet

ROOT = pathlib.Path(__file__).resolve().parent.parent
PLAN = speed.Windows(count=2, seconds=0.01)


def config_of(name):
  return runpy.run_path(str(ROOT / 'configs' / f'{name}.py'))['get_config']('tiny')


def launch(*flags, program=('launch.py',)):
  environment = dict(os.environ, JAX_NUM_CPU_DEVICES='1')
  command = [sys.executable, *program, *flags]
  return subprocess.run(
    command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
  )


# The report ---------------------------------------------------------------------------------------


def test_launch_reports_a_system(tmp_path):
  done = launch(
    f'--config={ROOT}/configs/pix2pix.py:tiny',
    f'--config.workdir={tmp_path}',
    '--mode=speed',
    '--config.measure.windows=2',
    '--config.measure.window_seconds=0.01',
  )
  assert done.returncode == 0, done.stderr
  record = json.loads((tmp_path / 'speed.json').read_text())
  (step,) = record['steps']
  assert step['batch'] == 4 and step['side'] == 32 and step['pipeline'] > 0
  assert step['images_per_second'] == pytest.approx(4000 / step['ms'])
  assert step['gflops'] == pytest.approx(1000 * step['gflop'] / step['ms'])
  assert step['share'] == pytest.approx(step['gflops'] / record['matmul_gflops'])
  assert [x['side'] for x in record['restoring']] == [256, 1024]
  assert '| pix2pix | 4 x 32² |' in done.stdout
  # The step holds the degradation.
  assert 0 < step['degradation_compile_cpu'] < step['compile_cpu']
  assert '| compile s (CPU s) |' in done.stdout and '| degradation compile CPU s |' in done.stdout
  assert not (tmp_path / 'run.json').exists()  # it is no run


def test_windows_are_as_long_as_asked_and_count_calls(monkeypatch):
  now, calls = [0.0], []
  monkeypatch.setattr(speed.time, 'perf_counter', lambda: now[0])

  def run(n):
    calls.append(n)
    now[0] += 0.002 * n

  seconds = speed.windows(run, speed.Windows(count=3, seconds=0.05))
  assert calls == [1, 25, 25, 25]
  np.testing.assert_allclose(seconds, 0.002)


def test_an_iteration_of_a_fit_is_measured_with_its_flops():
  settings = prior.Dip(net=networks.Skip((8,), (8,), (2,), ('nearest',)), input_depth=4)
  step = speed.measure_fit('skip', settings, 16, 2.0, PLAN)
  # Convolutions (pixels, side of the kernel, channels in and out); backwards it is twice as much.
  convolutions = ((256, 1, 4, 2), (64, 3, 4, 8), (64, 3, 8, 8), (256, 3, 10, 8), (256, 1, 8, 8))
  least = 3 * sum(2 * n * k * k * i * o for n, k, i, o in (*convolutions, (256, 1, 8, 3))) / 1e9
  assert least < step.gflop < 2 * least
  assert step.share == pytest.approx(step.gflops / 2) and step.compile_seconds > 0
  assert speed.restoring_of_fit(step, settings).ms == pytest.approx(step.ms * settings.iterations)


# PyTorch ------------------------------------------------------------------------------------------


def test_a_system_is_compared_with_pytorch(tmp_path):
  pytest.importorskip('torch')
  done = launch(
    f'--config={ROOT}/configs/pix2pix.py:tiny',
    '--config.recipe=report',
    '--config.measure.threads=1',
    '--config.measure.windows=2',
    '--config.measure.window_seconds=0.01',
    f'--config.measure.output={tmp_path}/compared.json',
    program=('-m', 'benchmarks.torch_reference.compare'),
  )
  assert done.returncode == 0, done.stderr
  record = json.loads((tmp_path / 'compared.json').read_text())
  assert [row['what'] for row in record['rows']] == ['train', 'restore'] and record['threads'] == 1
  ratios = [row['ratio'] for row in record['rows']]
  assert record['geometric_mean'] == pytest.approx(np.prod(ratios) ** 0.5)
  for row in record['rows']:
    assert 0 < row['least'] <= row['ratio'] <= row['most']
    assert row['torch_bfloat16'] is None or row['torch_bfloat16'] > 0
  assert f'Geometric mean of the ratios: {record["geometric_mean"]:.2f}' in done.stdout
  assert 'train: 2 windows' in done.stderr  # it never seems to hang


def test_bfloat16_is_compared_only_where_the_processor_has_it(tmp_path, monkeypatch):
  pytest.importorskip('torch')
  from benchmarks.torch_reference import compare

  for name in ('ONEDNN_MAX_CPU_ISA', 'ATEN_CPU_CAPABILITY'):
    monkeypatch.delenv(name, raising=False)
  genoa, haswell = tmp_path / 'genoa', tmp_path / 'haswell'
  genoa.write_text('model name : a\nflags : fpu avx2 avx512_bf16\n')
  haswell.write_text('model name : b\nflags : fpu avx2\n')
  assert compare.has_bfloat16(genoa)
  assert not compare.has_bfloat16(haswell) and not compare.has_bfloat16(tmp_path / 'none')
  monkeypatch.setenv('ONEDNN_MAX_CPU_ISA', 'AVX2')
  assert not compare.has_bfloat16(genoa)


def test_outputs_that_differ_are_a_sentence():
  pytest.importorskip('torch')
  from benchmarks.torch_reference import compare

  outputs = {'restored': np.ones((1, 3, 4, 4), np.float32)}
  compare._check('net', outputs, outputs)
  with pytest.raises(build.ConfigError, match='net: restored of the two sides differs'):
    compare._check('net', outputs, {'restored': 1.1 * outputs['restored']})


def one_step_each(config, stage, section):
  """Our and PyTorch's outputs on the same numbers, before and after a train step."""
  from benchmarks.torch_reference import compare

  batch, key = compare.prepared(stage)
  state, model = jax.jit(stage.init)(jax.random.key(0)), stage.train_step.args[0]
  restore, make, job = compare.pair(section, model, state, stage.constants, batch)
  program = make(job)
  before = compare.outputs(restore, state, stage.constants, batch)
  theirs_before = {name: value.numpy() for name, value in program.outputs().items()}
  step = compare.trainer(stage, state, stage.constants, batch, key)
  after = compare.outputs(restore, step(1), stage.constants, batch)
  program.train()
  theirs_after = {name: value.numpy() for name, value in program.outputs().items()}
  return before, theirs_before, after, theirs_after


def settle(config, name):
  """No randomness that the two sides would draw differently."""
  config.recipe = 'report'
  if name in ('vae_y', 'vae_rx'):
    config.model.posterior_std = 0.0
  if name == 'pix2pix':
    config.model.dropout_levels = ()


@pytest.mark.parametrize(
  ('system', 'name', 'stage'),
  [
    (triplet, 'vae', 'vae_y'),
    (triplet, 'vae', 'vae_rx'),
    (triplet, 'vae', 'mapping'),
    (triplet, 'vae', 'mapping_masked'),
    (pix2pix, 'pix2pix', 'pix2pix'),
    (cyclegan, 'cyclegan', 'cyclegan'),
  ],
)
def test_pytorch_computes_the_same_and_learns_the_same(system, name, stage):
  pytest.importorskip('torch')
  config = config_of(name)
  settle(config, stage)
  if system is triplet:
    config.stages = stage
    config.data.old = 'somewhere'  # real old photos: the program is smaller
    config.model.norm = True
    config.mapping_masked.spectral = False
  built = system.stages(config, splits.stand_ins(config), frozen.UNTRAINED)[stage]()
  before, theirs_before, after, theirs_after = one_step_each(config, built, config[stage])
  assert set(before) == set(theirs_before) == {'restored', 'judged'}
  for key, ours in before.items():
    # Untrained kernels are small, and instance norm enlarges the rounding.
    np.testing.assert_allclose(theirs_before[key], ours, atol=5e-4 * np.abs(ours).max())
    moved = np.abs(after[key] - ours).max()
    assert moved > 0
    # Adam moves weights whose gradient is rounding alone either way.
    assert np.abs(after[key] - theirs_after[key]).max() < 0.2 * moved, key


@pytest.mark.parametrize(
  'network',
  [networks.Skip((8, 8), (8, 8), (4, 4), ('bilinear', 'nearest')), networks.ResNet(8, 2)],
)
def test_pytorch_fits_a_photo_as_we_do(network):
  pytest.importorskip('torch')
  from benchmarks.torch_reference import compare

  settings, key = prior.Dip(network, input_depth=4, stop=None), jax.random.key(0)
  ours, make, job = compare._dip(settings, 32)
  program = make(job)
  before = ours.outputs['restored']
  np.testing.assert_allclose(program.outputs()['restored'], before, atol=1e-5)
  program.train()
  ones = jnp.ones((32, 32, 1))
  photo = prior.Photo(jnp.asarray(job.batch['image'][0].transpose(1, 2, 0)), ones, ones)
  state = jax.jit(partial(prior.init, settings))(photo, key)
  state, _ = jax.jit(partial(prior.run, settings, ours.steps))(photo, key, state)
  after = np.asarray(prior.result(settings, state)).transpose(2, 0, 1)[None]
  moved = np.abs(after - before).max()
  # Ten steps of Adam move what has next to no gradient either way.
  assert moved > 0.01 and np.abs(program.outputs()['restored'] - after).max() < 0.2 * moved


def test_products_are_counted_in_loops_branches_and_convolutions():
  a, b, x = jnp.ones((4, 5)), jnp.ones((5, 6)), jnp.ones((2, 8, 8, 3))
  kernel = jnp.ones((3, 3, 3, 7))

  def function(flag, a, b, x):
    total = jnp.zeros((4, 6))
    total = jax.lax.scan(lambda sum, _: (sum + a @ b, None), total, length=3)[0]
    total = jax.lax.cond(flag, lambda: total + a @ b, lambda: total)
    same = jax.lax.conv_general_dilated(
      x, kernel, (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC')
    )
    return total.sum() + jax.jit(lambda x: x)(same).sum()

  counted = speed.products(jax.make_jaxpr(function)(True, a, b, x).jaxpr)
  assert counted == 4 * 2 * 4 * 6 * 5 + 2 * 2 * 8 * 8 * 7 * 3 * 3 * 3
