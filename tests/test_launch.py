"""launch.py and `oldphoto restore` as a user runs them: in processes of their own."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from ml_collections import ConfigDict
from PIL import Image

from oldphoto_jax import weights
from oldphoto_jax.models import vae
from oldphoto_jax.systems import triplet
from oldphoto_jax.training import checkpoints, runs

ROOT = pathlib.Path(__file__).resolve().parent.parent


@pytest.fixture(scope='module')
def place(tmp_path_factory):
  return tmp_path_factory.mktemp('runs')


def start(place, *flags, variant='tiny'):
  # The second run of a program finds it compiled.
  environment = dict(os.environ, JAX_COMPILATION_CACHE_DIR=str(place / 'compiled'))
  environment |= {'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0.5'}
  return subprocess.Popen(
    [sys.executable, str(ROOT / 'launch.py'), f'--config={ROOT}/configs/vae.py:{variant}', *flags],
    env=environment,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def launch(place, *flags, code=0, variant='tiny'):
  process = start(place, *flags, variant=variant)
  out, err = process.communicate(timeout=600)
  assert process.returncode == code, err
  return out + err


STEPS = ('--config.vae_y.steps=240', '--config.train.evaluate_every=20')


@pytest.fixture(scope='module')
def trained(place):
  """All stages from nothing: no photos given, no weights, no settings but the variant."""
  said = launch(place, f'--config.workdir={place}/run', *STEPS)
  return place / 'run', said


def test_one_command_trains_all_stages_and_says_what_it_did(trained):
  run, said = trained
  for sentence in (
    'training on the sample photos of scikit-image',
    'the perceptual loss term is off',
    'clean photos, aged by a recipe other than X, stand in for R',
    f'weights are in {run}/weights.safetensors',
  ):
    assert sentence in said
  for stage in ('vae_rx', 'vae_y', 'mapping'):
    rows = [json.loads(x) for x in (run / stage / 'metrics.jsonl').read_text().splitlines()]
    assert np.isfinite([row['eval_psnr'] for row in rows if 'eval_psnr' in row]).all()
    assert list((run / stage / 'sheets').glob('*.png'))
  description = json.loads((run / 'run.json').read_text())
  assert description['config']['seed'] == 0 and description['versions']['jax'] == jax.__version__
  manifest = json.loads((run / 'manifest.json').read_text())
  assert {row['split'] for row in manifest} == {'train', 'val'}
  assert all(len(row['sha256']) == 64 for row in manifest)


def parameters(run):
  """The newest state of the stage vae_y."""
  with checkpoints.manager(run / 'vae_y' / 'checkpoints', 'psnr') as saved:
    arguments = ocp.args.Composite(state=ocp.args.StandardRestore())
    return saved.restore(saved.latest_step(), args=arguments)['state']


def test_a_killed_run_resumed_ends_with_the_same_bits(trained, place):
  run, _ = trained
  cut = place / 'killed'
  flags = (f'--config.workdir={cut}', '--config.stages=vae_y', *STEPS)
  process = start(place, *flags)
  folder = cut / 'vae_y' / 'checkpoints'
  deadline = time.monotonic() + 300
  while not (folder.is_dir() and any(p.name.isdigit() for p in folder.iterdir())):
    assert process.poll() is None and time.monotonic() < deadline
    time.sleep(0.02)
  process.send_signal(signal.SIGKILL)
  process.communicate()
  assert process.returncode == -signal.SIGKILL
  assert not (folder / '240').exists()  # it really was cut short
  said = launch(place, *flags)
  assert 'vae_y: going on from step' in said
  whole, resumed = parameters(run), parameters(cut)
  assert int(whole['step']) == int(resumed['step']) == 240
  jax.tree.map(np.testing.assert_array_equal, whole, resumed)


def test_what_was_trained_restores_photos_of_any_size(trained, tmp_path):
  run, _ = trained
  rng = np.random.default_rng(0)
  originals = {}
  for name, shape in {'a.jpg': (61, 47, 3), 'sub/b.png': (70, 93, 3), 'gray.png': (40, 50)}.items():
    path = tmp_path / 'in' / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rng.integers(0, 256, shape, np.uint8)).save(path)
    originals[name] = path.read_bytes()
  command = [sys.executable, '-m', 'oldphoto_jax', 'restore', str(tmp_path / 'in')]
  command += ['-o', str(tmp_path / 'out'), '--weights', str(run)]
  done = subprocess.run(command, capture_output=True, text=True, check=False)
  assert done.returncode == 0, done.stderr
  for name, before in originals.items():
    assert (tmp_path / 'in' / name).read_bytes() == before
    with Image.open(tmp_path / 'in' / name) as a, Image.open(tmp_path / 'out' / name) as b:
      assert (a.size, a.mode) == (b.size, b.mode)
      assert a.tobytes() != b.tobytes()
  assert (tmp_path / 'out' / 'before-after.html').exists()


def test_the_masked_mapping_is_trained_into_the_same_run_and_fills_holes(trained, place):
  run, _ = trained
  assert weights.load_restorer(run).fill is None
  launch(place, f'--config.workdir={run}', '--config.stages=mapping_masked', *STEPS)
  rows = (run / 'mapping_masked' / 'metrics.jsonl').read_text().splitlines()
  scores = [json.loads(row) for row in rows if 'eval_psnr_holes' in row][-1]
  assert np.isfinite([scores['eval_psnr_holes'], scores['eval_psnr_old_holes']]).all()
  restorer = weights.load_restorer(run)
  photo = np.zeros((1, 32, 32, 3), np.float32)
  holes = np.zeros((1, 32, 32, 1), np.float32)
  holes[:, 10:14, 5:20] = 1
  plain = restorer.apply(restorer.params, photo)
  filled, _ = restorer.fill(restorer.params, photo, holes)
  assert filled.shape == plain.shape and (np.abs(filled - plain) > 1e-4).any()


def test_the_fusion_comes_last_and_is_released_with_the_others(trained, place):
  run, _ = trained
  said = launch(place, f'--config.workdir={run}', '--config.stages=fusion', *STEPS)
  assert 'fusion: step' in said and 'psnr_below' in said
  restorer = weights.load_restorer(run)
  assert restorer.multiple == 8
  photo = np.zeros((1, 32, 32, 3), np.float32)
  assert restorer.apply(restorer.params, photo).shape == photo.shape


def test_evaluation_prints_the_row_of_doing_nothing(trained, place):
  run, _ = trained
  said = launch(place, f'--config.workdir={run}', '--mode=evaluate')
  for recipe in ('wan2020', 'report'):
    assert f'## {recipe}\n' in said and (run / f'evaluation_{recipe}.png').exists()
  assert said.count('| do nothing | 1 |') == 2 and said.count('| restored | 1 |') == 4
  tables = json.loads((run / 'evaluation.json').read_text())['tests']
  assert list(tables) == ['wan2020', 'report']
  scores = [row['scores'] for test in tables.values() for row in test['rows'].values()]
  assert len(scores) == 4 and np.isfinite([s['psnr'] + s['ssim'] for s in scores]).all()


@pytest.mark.parametrize(
  ('flags', 'sentence'),
  [
    (['--config.modle.width=3'], 'there is no setting \'modle\': Did you mean "model"'),
    (['--config.stages=mapping'], 'train vae_rx first'),  # the others: test_systems.py
  ],
  ids=lambda x: x[0] if isinstance(x, list) else '',
)
def test_a_wrong_setting_is_a_sentence_and_an_exit_code(place, tmp_path, flags, sentence):
  said = launch(place, f'--config.workdir={tmp_path}/new', *flags, code=1)
  assert sentence in said
  assert 'Traceback' not in said
  assert not (tmp_path / 'new').exists()


def test_a_run_goes_on_where_there_is_less_memory(tmp_path):
  config = ConfigDict({
    'workdir': str(tmp_path), 'model': {'width': 8, 'remat': False}, 'vae_y': {'accumulate': 1},
  })  # fmt: skip
  runs.start(config)
  config.model.remat, config.vae_y.accumulate = True, 2
  runs.start(config, triplet.SYSTEM.may_change)
  config.model.width = 16
  with pytest.raises(runs.ConfigError, match=r'model\.width = 8, not 16'):
    runs.start(config, triplet.SYSTEM.may_change)


@pytest.mark.slow
@pytest.mark.parametrize('variant', ['paper', 'report'])
def test_published_recipes_compile_and_step(place, tmp_path, variant):
  """All stages at full width, float32 (what the CPU computes bfloat16 in takes far longer)."""
  flags = [f'--config.workdir={tmp_path}', '--config.model.dtype=float32', '--config.data.crop=64']
  flags += ['--config.train.eval_batch=4', '--config.data.photos=', '--config.data.subset_train=0']
  flags += ['--config.data.subset_val=0', '--config.data.subset_test=0']
  for stage in ('vae_rx', 'vae_y', 'mapping'):
    flags += [f'--config.{stage}.batch_size=4', f'--config.{stage}.steps=2']
  said = launch(place, *flags, variant=variant)
  assert 'weights are in' in said


def test_published_sizes_are_those_of_the_config():
  sys.path.insert(0, str(ROOT / 'configs'))
  try:
    import vae as recipe
  finally:
    sys.path.pop(0)

  for variant in ('paper', 'report'):
    config = recipe.get_config(variant)
    m = triplet.models(config)
    rx, y, t = m.rx, m.y, m.mapping
    assert (rx.width, rx.latent, rx.blocks, rx.norm, rx.posterior_std) == (64, 64, 4, True, 1.0)
    assert (t.width, t.blocks, t.residual) == (512, 6, False)
    assert rx.weights == vae.WEIGHTS and rx.latent_gan and not y.latent_gan
    assert t.weights == {
      'latent_l1': 60,
      'gan': 1,
      'feature_matching': 10,
      'perceptual': 10,
      'l1': 0,
      'hole_l1': 0,
    }
    assert m.masked.masked and not t.masked
    assert (m.masked.mask_pool, m.masked.scaled) == ('reference', False)
