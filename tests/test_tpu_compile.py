"""Train steps compiled for TPUs that are not here, by launch.py and by compile_report."""

import dataclasses
import json
import os
import pathlib
import runpy
import subprocess
import sys
from functools import partial

import jax
import jax.numpy as jnp
import pytest

from oldphoto_jax.evaluation import compile_report
from oldphoto_jax.models import pix2pix
from oldphoto_jax.nn import convolution
from oldphoto_jax.systems import pix2pix as system

ROOT = pathlib.Path(__file__).resolve().parent.parent

# The networks alone: the recipe `report` and photos that are old already compile in less time.
CHEAP = ('--config.recipe=report', '--config.data.old=somewhere')
SYSTEMS = [
  ('vae', (*CHEAP, '--config.stages=vae_rx,vae_y,mapping,mapping_masked,fusion')),
  ('cyclegan', CHEAP),
  ('detector', ()),
]


@pytest.fixture
def libtpu():
  """The compiler, loaded into this process."""
  pytest.importorskip('libtpu')
  compile_report.prepare_process()


def compiled(tmp_path, name, *flags, topology='v5e:2x2', code=0):
  path = tmp_path / 'compiled.json'
  command = [sys.executable, str(ROOT / 'launch.py'), f'--config={ROOT}/configs/{name}.py:tiny']
  command += ['--mode=compile', f'--config.measure.topology={topology}']
  command += [f'--config.measure.output={path}', *flags]
  # As a user's environment is: neither told to use CPU nor how many.
  environment = {k: v for k, v in os.environ.items() if not k.startswith(('JAX_', 'XLA_'))}
  done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
  assert done.returncode == code, done.stderr[-2000:]
  return json.loads(path.read_text()) if path.exists() else done.stderr, done.stdout


def test_pix2pix_for_four_chips(tmp_path, libtpu):
  record, said = compiled(tmp_path, 'pix2pix', '--config.pix2pix.batch_size=6')
  assert record['topology'] == 'v5e:2x2' and record['devices'] == 4
  (row,) = record['stages']
  assert row['stage'] == 'pix2pix' and row['fits'] and row['flops'] > 0
  assert (row['batch'], row['asked']) == (8, 6)  # two examples a device
  assert '| pix2pix | 8 |  | yes; 6 does not divide |' in said
  # All of the state is donated: what is not is the metrics.
  assert 0.98 < row['aliased'] / row['outputs'] <= 1
  # The gradients of G and D are reduced, G's batch statistics, and four losses.
  config = runpy.run_path(str(ROOT / 'configs' / 'pix2pix.py'))['get_config']('tiny')
  state = jax.eval_shape(partial(pix2pix.init, system.model(config)), jax.random.key(0))
  numbers = sum(x.size for x in jax.tree.leaves((state.g, state.d, state.stats))) + 4
  assert row['all_reduces'] >= 1 and row['all_reduce_bytes'] == 4 * numbers
  assert row['peak'] >= row['arguments']


@pytest.mark.parametrize(('name', 'chips'), [('v5e:1x1', 1), ('v6e:1x1', 1), ('v6e:2x4', 8)])
def test_a_slice_may_be_one_chip_or_several_hosts(libtpu, name, chips):
  assert len(compile_report.topology(name).devices) == chips


@pytest.mark.slow
@pytest.mark.parametrize(('name', 'flags'), SYSTEMS)
def test_every_system_compiles(tmp_path, libtpu, name, flags):
  record, _ = compiled(tmp_path, name, *flags)
  for row in record['stages']:
    assert row['fits'] and row['all_reduces'] >= 1 and row['aliased'] > 0.9 * row['outputs']


@pytest.mark.parametrize(
  ('topology', 'sentence'),
  [
    ('', 'is no topology: write a chip'),
    ('v5e', 'libtpu knows no topology'),
    ('v5e:9x9', 'libtpu knows no topology'),
    ('tpu:2x2', 'is no topology: write a chip'),
  ],
)
def test_a_topology_that_is_none_is_a_sentence(libtpu, topology, sentence):
  with pytest.raises(compile_report.ConfigError, match=sentence):
    compile_report.topology(topology)


def test_tpus_get_the_plain_convolutions(libtpu):
  """The forms for CPU are chosen by the platform that is compiled for, not that which compiles."""
  devices = compile_report.topology('v5e:2x2').devices[:1]
  sharding = jax.sharding.SingleDeviceSharding(devices[0])
  shape = lambda *sides: jax.ShapeDtypeStruct(sides, jnp.float32, sharding=sharding)

  def convolutions(function, *shapes):
    gradient = jax.grad(lambda *x: (function(*x) ** 2).sum(), (0, 1))
    return jax.jit(gradient).lower(*shapes).as_text().count('stablehlo.convolution')

  plain = lambda x, k: convolution.xla_conv(x, k, 2, ((1, 1), (1, 1)))
  ours = lambda x, k: convolution.conv2d(x, k, 2, ((1, 1), (1, 1)))
  shapes = shape(1, 16, 16, 3), shape(4, 4, 3, 8)
  assert convolutions(ours, *shapes) == convolutions(plain, *shapes) == 3
  shapes = shape(1, 16, 16, 3), shape(3, 3, 3, 8)
  ours, plain = convolution.conv_transpose2d, convolution.xla_conv_transpose
  assert convolutions(ours, *shapes) == convolutions(plain, *shapes) == 3


def test_without_libtpu_is_a_sentence(monkeypatch):
  monkeypatch.setattr(compile_report.importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(compile_report.ConfigError, match=r'pip install .*\[tpu\]'):
    compile_report.prepare_process()


# Without a compiler -------------------------------------------------------------------------------

HLO = """
%fused (a: f32[4]) -> f32[4] { }
  %all-reduce.1 = f32[64,3]{1,0:T(8,128)S(1)} all-reduce(%x), channel_id=1, to_apply=%add
  %all-reduce-start = (bf16[8]{0}, f32[]) all-reduce-start(%y, %z), channel_id=2
  %all-reduce-done = (bf16[8]{0}, f32[]) all-reduce-done(%all-reduce-start)
  %all-gather.1 = f32[64]{0} all-gather(%x), dimensions={0}
  ROOT %t = (f32[64,3]{1,0}) tuple(%all-reduce.1)
"""


def test_all_reduces_are_counted_with_their_bytes():
  assert compile_report.all_reduces(HLO) == [64 * 3 * 4, 8 * 2 + 4]


@pytest.mark.parametrize('limit', [1, 2, 7, 40, 95])
def test_largest_is_found_to_an_eighth_in_few_attempts(limit):
  tried = []

  def attempt(n):
    tried.append(n)
    return f'figures of {n}' if n <= limit else None

  found, figures = compile_report.largest(attempt, 96, guess=41)
  assert figures == f'figures of {found}' and found <= limit < found + max(2, found // 8 + 1)
  assert len(tried) <= 9 and len(set(tried)) == len(tried)


def test_largest_of_none():
  assert compile_report.largest(lambda n: None, 5, guess=2) == (0, None)


def test_the_guess_reads_what_the_compiler_says():
  said = 'RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 31.50G of 15.75G hbm.'
  assert compile_report._share_that_fits(said) == pytest.approx(0.5)
  said = (
    'RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: Ran out of memory on HBM, the total memory '
    'required for HLO temporaries (21.00G) exceeds available HBM (15.75G). HLO module: jit__fun.'
  )
  assert compile_report._share_that_fits(said) == pytest.approx(0.75)
  assert compile_report._share_that_fits('Ran out of memory in hbm.') == 0.5
  said = 'Used 1.5T of 15.75G hbm.'
  assert compile_report._share_that_fits(said) == pytest.approx(15.75 / 1536)


def test_a_batch_that_does_not_fit_is_an_error_with_the_largest_that_does():
  row = compile_report.Row('vae_y', 4, 64, 120, False, *[0.0] * 2, *[0] * 7, 0.0, 'Used 2G of 1G')
  chips = compile_report.Topology('v5e:2x2', (), 2**34)
  with pytest.raises(compile_report.ConfigError, match=r'--config\.vae_y\.batch_size=64'):
    compile_report.check_fit(chips, [row])
  compile_report.check_fit(chips, [])
  # 30 examples a device, of which 16 fit at once.
  row = dataclasses.replace(row, accumulate=1)
  with pytest.raises(compile_report.ConfigError, match=r'or --config\.vae_y\.accumulate=2$'):
    compile_report.check_fit(chips, [row])
  assert compile_report.parts_that_fit(dataclasses.replace(row, batch=3 * 4, accumulate=3)) == 30
  assert compile_report.parts_that_fit(dataclasses.replace(row, asked=121)) is None
  assert 'not 120; at most 64' in compile_report.table('v5e:2x2', 4, 2**34, [row])
