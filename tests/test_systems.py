"""The contract of a system: its modes, what it checks before a folder is made, how launch ends."""

import dataclasses
import json
import os
import runpy
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

from oldphoto_jax import weights
from oldphoto_jax.errors import UserError
from oldphoto_jax.systems import build, cyclegan, detector, frozen, pix2pix, splits, triplet
from oldphoto_jax.training import runs, train

TRAINED = {'vae': triplet, 'pix2pix': pix2pix, 'cyclegan': cyclegan, 'detector': detector}


def config_of(name, workdir, **settings):
  config = runpy.run_path(str(ROOT / 'configs' / f'{name}.py'))['get_config']('tiny').unlock()
  config.recipe = 'report'
  config.update_from_flattened_dict(settings | {'workdir': str(workdir)})
  return config


def run(name, config):
  system = TRAINED[name].SYSTEM
  system.check(config)
  system.modes['run'](config)


WRONG = [
  (name, setting, value, sentence)
  for name in TRAINED
  for setting, value, sentence in (
    ('data.photos', '/nowhere', r'data\.photos: there is no folder /nowhere'),
    ('recipe', 'moon', "no recipe 'moon'"),
    ('data.crop', 33, r'data\.crop is 33'),
    ('model.dtype', 'float16', 'dtype is float32 or bfloat16'),
  )
]
WRONG += [
  ('detector', 'data.test', '/nowhere', r'data\.test: there is no folder /nowhere'),
  ('detector', 'data.overlays', '/nowhere', '/nowhere'),
  ('detector', 'evaluate.recipes', 'moon', "no recipe 'moon'"),
  ('detector', 'evaluate.crop', 33, r'evaluate\.crop is 33'),
  ('vae', 'data.old', '/nowhere', r'data\.old: there is no folder'),
  ('vae', 'stages', 'vae_z', "there is no stage 'vae_z': choose from vae_rx, vae_y, mapping"),
  ('vae', 'stages', 'vae_rx,mapping', 'train vae_y first'),
  ('vae', 'stages', 'mapping_masked', 'train mapping first'),
  ('vae', 'vae_y.weights', {'gam': 1.0}, 'no loss term gam'),
  ('vae', 'vae_y.decay', 2.0, 'decay is a share'),
  ('vae', 'vae_y.batch_size', 6, 'multiple of 4'),
  ('vae', 'vae_y.accumulate', 3, 'multiple of 12'),
  ('vae', 'perceptual.network', 'vgg', 'vgg19 or squeezenet'),
  ('vae', 'perceptual.weights', '/nowhere.pth', r'/nowhere\.pth'),
  ('vae', 'detector', '/nowhere', '/nowhere'),
  ('pix2pix', 'data.old', '/nowhere', 'have no clean version'),
  ('pix2pix', 'model.norm', 'layer', r'model\.norm is one of'),
  ('pix2pix', 'pix2pix.batch_size', 6, 'multiple of 4'),
  ('cyclegan', 'data.old', '/nowhere', r'data\.old: there is no folder'),
  ('cyclegan', 'cyclegan.gan_loss', 'moon', 'gan_loss is one of'),
  ('detector', 'data.old', '/nowhere', 'have no masks'),
  ('detector', 'detector.weights', {'l1': 1.0}, 'no loss term l1'),
]


@pytest.fixture
def untrained(monkeypatch):
  """Runs go as far as training."""
  networks = dataclasses.replace(frozen.SHAPES, perceptual=frozen.perceptual)
  monkeypatch.setattr(frozen, 'trained', lambda config: networks)
  monkeypatch.setattr(train, 'train', lambda stage, folder, seed: None)


@pytest.mark.parametrize(('name', 'setting', 'value', 'sentence'), WRONG)
def test_a_mistyped_command_makes_no_folder(tmp_path, untrained, name, setting, value, sentence):
  settings = {}
  if setting == 'data.overlays':
    settings['recipe'] = 'print'
  elif setting.startswith('vae_y.'):
    settings['stages'] = 'vae_y'
  with pytest.raises(UserError, match=sentence):
    run(name, config_of(name, tmp_path / 'run', **settings | {setting: value}))
  assert not (tmp_path / 'run').exists()


def test_smooth_holes_and_norms_do_not_go_together(tmp_path):
  """With norms, large photos go layer by layer, in which no prefill can be cut."""
  settings = {'model.norm': True, 'mapping_masked.prefilled': True}
  with pytest.raises(UserError, match=r'set model\.norm or mapping_masked\.prefilled to False'):
    run('vae', config_of('vae', tmp_path / 'run', **settings))


@pytest.mark.parametrize('name', TRAINED)
def test_a_right_command_makes_one(tmp_path, untrained, name):
  run(name, config_of(name, tmp_path / 'run'))
  assert json.loads((tmp_path / 'run' / 'run.json').read_text())['config']['seed'] == 0


def test_a_run_goes_on_only_with_its_settings(tmp_path, monkeypatch):
  monkeypatch.setattr(train, 'train', lambda stage, folder, seed: None)
  run('pix2pix', config_of('pix2pix', tmp_path))
  run('pix2pix', config_of('pix2pix', tmp_path, **{'pix2pix.steps': 9, 'measure.windows': 2}))
  with pytest.raises(UserError, match=r'holds a run with model\.width = 4, not 8'):
    run('pix2pix', config_of('pix2pix', tmp_path, **{'model.width': 8}))


def test_a_run_folder_of_version_0_1_goes_on(tmp_path):
  config = config_of('detector', tmp_path)
  former = json.loads(config.to_json())
  former['system'], former['scratch'] = 'scratch', former.pop('detector')
  former['degradation'] = former.pop('recipe')
  former['evaluate']['degradations'] = former['evaluate'].pop('recipes')
  (tmp_path / 'run.json').write_text(json.dumps({'config': former}))
  (tmp_path / 'scratch').mkdir()
  runs.check(config)
  assert runs.stage_folder(tmp_path, 'detector') == tmp_path / 'scratch'
  assert runs.stage_folder(tmp_path, 'vae_y') == tmp_path / 'vae_y'
  former['degradation'] = 'print'
  (tmp_path / 'run.json').write_text(json.dumps({'config': former}))
  with pytest.raises(UserError, match='holds a run with recipe = print, not report'):
    runs.check(config)


def test_stages_are_numbered_and_trained_in_the_order_that_is_asked_for(tmp_path, monkeypatch):
  done = []
  monkeypatch.setattr(frozen, 'trained', lambda config: frozen.SHAPES)
  monkeypatch.setattr(train, 'train', lambda *arguments: done.append(arguments))
  run('vae', config_of('vae', tmp_path, seed=2, stages='vae_y,vae_rx,mapping'))
  # Each stage has a seed of its own; these are those of version 0.1.
  assert [(stage.name, folder.name, seed) for stage, folder, seed in done] == [
    ('vae_y', 'vae_y', 13),
    ('vae_rx', 'vae_rx', 12),
    ('mapping', 'mapping', 14),
  ]


def test_evaluation_is_a_comparison_with_doing_nothing(tmp_path):
  config = config_of('pix2pix', tmp_path, **{'evaluate.recipes': 'report'})
  released = pix2pix.release(config, frozen.UNTRAINED)
  weights.save(tmp_path / weights.FILE, released, card={})
  rng = np.random.default_rng(0)
  (tmp_path / 'photos').mkdir()
  for name in 'abc':
    photo = Image.fromarray(rng.integers(0, 256, (40, 60, 3), np.uint8))
    photo.save(tmp_path / 'photos' / f'{name}.png')
  config.data.photos = config.data.test = str(tmp_path / 'photos')
  config.evaluate.limit = 2
  pix2pix.SYSTEM.modes['evaluate'](config)
  record = json.loads((tmp_path / 'evaluation.json').read_text())
  rows = record['tests']['report']['rows']
  assert list(rows) == ['do nothing', 'restored'] and rows['restored']['photos'] == 2
  # The first photos of the folder, damaged by the key of their number, as the comparison has them.
  tests = build.tests(config, splits.test_photos(config, splits.photos(config.data, config.seed)))
  assert tests[0].photos == record['tests']['report']['photos'] == ['a.png', 'b.png']
  for i, psnr in enumerate(rows['do nothing']['scores']['psnr']):
    error = (tests[0].old[i].astype(float) - tests[0].truth[i]) ** 2
    assert psnr == pytest.approx(10 * np.log10(255**2 / error.mean()), abs=1e-3)
  assert (tmp_path / 'evaluation_report.png').is_file()
  assert '| restored | 2 |' in (tmp_path / 'evaluation.md').read_text()


# launch.py ---------------------------------------------------------------------------------------

SCRIPT = """
import sys
from absl import app
import launch
from oldphoto_jax import errors
from oldphoto_jax.systems.system import System

def fail(config):
  raise {error}

launch.SYSTEMS['pix2pix'] = System('pix2pix', {{'run': fail}}, lambda config: None)
app.run(launch.main, flags_parser=launch.parse)
"""


@pytest.mark.parametrize(
  ('error', 'traceback'),
  [
    ("errors.ConfigError('mend this')", False),
    ("ValueError('a bug')", True),
    ("OSError('a bug')", True),
  ],
)
def test_only_what_a_user_can_mend_loses_its_traceback(tmp_path, error, traceback):
  script = tmp_path / 'script.py'
  script.write_text(SCRIPT.format(error=error))
  command = [sys.executable, str(script), f'--config={ROOT}/configs/pix2pix.py:tiny']
  environment = dict(os.environ, PYTHONPATH=str(ROOT))
  done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
  assert done.returncode == 1
  assert ('Traceback' in done.stderr) == traceback, done.stderr
  assert ('mend this' if not traceback else 'a bug') in done.stderr
