"""Deep Image Prior as a user runs it: configs/dip.py through launch.py, `oldphoto dip`."""

import json
import pathlib
import runpy
import subprocess
import sys

import jax
import numpy as np
import pytest
from PIL import Image

import launch
from oldphoto_jax import cli
from oldphoto_jax.dip import fit_time, presets
from oldphoto_jax.dip.networks import ResNet
from oldphoto_jax.dip.prior import Dip, Emv
from oldphoto_jax.errors import ConfigError, UserError
from oldphoto_jax.photos import images
from oldphoto_jax.systems import dip
from oldphoto_jax.training import runs, train

ROOT = pathlib.Path(__file__).resolve().parent.parent


def tiny(channels=3):
  net = ResNet(4, 0, out_channels=channels)
  return Dip(net, input_depth=2, learning_rate=0.02, iterations=30, stop=Emv(0.6, 10, 20))


@pytest.fixture(autouse=True)
def light(monkeypatch):
  """One device; `oldphoto dip` has a net that compiles at once, and its speed is known."""
  device = jax.devices()[0]
  monkeypatch.setattr(jax, 'local_devices', lambda: [device])
  monkeypatch.setattr(presets, 'small', tiny)
  monkeypatch.setattr(fit_time, 'measure', lambda *_: fit_time.Speed(1e-3, 128, 128))


def save(path, height=16, width=16, seed=0):
  path.parent.mkdir(parents=True, exist_ok=True)
  pixels = np.random.default_rng(seed).integers(60, 190, (height, width, 3), np.uint8)
  Image.fromarray(pixels).save(path)
  return path


def save_mask(path):
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.fromarray(np.pad(np.full((3, 16), 255, np.uint8), ((5, 8), (0, 0)))).save(path)


def config(workdir, **settings):
  c = runpy.run_path(str(ROOT / 'configs' / 'dip.py'))['get_config']()
  c.workdir, c.chunk, c.save_every = str(workdir), 10, 1
  with c.unlocked():
    c.net = dict(kind='resnet', features=4, blocks=0)
  c.fit.update(input_depth=2, learning_rate=0.02, iterations=30, reg_noise_std=0.0, ema=0.0)
  c.stop = dict(alpha=0.6, burn_in=10, patience=20)
  for name, value in settings.items():
    c[name] = str(value) if isinstance(value, pathlib.Path) else value
  return c


# launch.py --config=configs/dip.py ---------------------------------------------------------------


def test_the_settings_of_a_config_reach_the_fit(tmp_path):
  c = config(tmp_path)
  assert dip.settings(c, 3) == tiny()
  c.fit.iterations, c.fit.reg_noise_std, c.stop.patience = 12, 0.5, 7
  settings = dip.settings(c, 1)
  assert (settings.iterations, settings.reg_noise_std, settings.stop) == (12, 0.5, Emv(0.6, 10, 7))
  assert settings.net.out_channels == 1
  c.stop.patience = 0
  assert dip.settings(c, 3).stop is None


def test_a_folder_is_restored_and_reported(tmp_path):
  photo = save(tmp_path / 'in/sub/a.png')
  save(tmp_path / 'truths/a.png', seed=1)
  save_mask(tmp_path / 'masks/a.png')
  run = tmp_path / 'run'
  c = config(run, photos=tmp_path / 'in', masks=tmp_path / 'masks', truths=tmp_path / 'truths')
  dip.check(c)
  dip.run(c)
  before, after = images.read(photo).pixels, images.read(run / 'restored/sub/a.png').pixels
  np.testing.assert_array_equal(np.delete(before, np.s_[5:8], 0), np.delete(after, np.s_[5:8], 0))
  (entry,) = json.loads((run / 'report.json').read_text())['photos']
  table = (run / 'report.md').read_text().splitlines()
  assert table[0].endswith('| network, best | lost |') and len(table) == 3
  assert table[2].startswith(f'| a.png | 16x16 | {entry["iterations"]} | {entry["iteration"]} | ')
  assert table[2].endswith(f' {entry["psnr_best"] - entry["psnr_chosen"]:.2f} |')
  assert len(np.load(run / 'curves/sub/a.png.npz')['loss']) == entry['iterations']

  dip.run(c)  # all is there: the report stays
  assert (run / 'report.md').read_text().splitlines() == table
  save(tmp_path / 'in/b.png', 8, 8)  # and it has no mask
  with pytest.raises(
    ConfigError, match=r'1 of 2 photos failed: see .*report\.json for the reasons'
  ):
    dip.run(c)
  assert '| b.png | failed |' in (run / 'report.md').read_text()


def test_without_photos_it_denoises_samples(tmp_path, monkeypatch):
  monkeypatch.setattr(dip, 'SAMPLE_SIDE', 16)
  # A mistyped folder leaves nothing behind that would refuse the corrected command.
  with pytest.raises(UserError, match='no such file or folder'):
    dip.check(config(tmp_path / 'run', photos=tmp_path / 'nowhere'))
  c = config(tmp_path / 'run')
  dip.check(c)
  dip.run(c)
  entries = json.loads((tmp_path / 'run/report.json').read_text())['photos']
  assert len(entries) == dip.SAMPLE_COUNT
  assert all(19 < entry['psnr_before'] < 23 for entry in entries)  # sigma 25: 20.2 dB, clipped


def test_a_stopped_run_says_so_by_its_exit_status(tmp_path, monkeypatch):
  class Now(train.Terminated):
    def __enter__(self):
      super().__enter__()
      self.requested = True
      return self

  save(tmp_path / 'in/a.png')
  c = config(tmp_path / 'run', photos=tmp_path / 'in')
  monkeypatch.setattr(train, 'Terminated', Now)
  with pytest.raises(SystemExit) as stopped:
    dip.run(c)
  assert stopped.value.code == 75
  assert list((tmp_path / 'run/unfinished').iterdir())


def test_the_limits_of_a_run_may_change_but_not_its_fit(tmp_path):
  runs.start(config(tmp_path))
  free = dip.SYSTEM.may_change
  runs.start(config(tmp_path, max_hours=1.0, max_side=64, batch=2), free)
  other = config(tmp_path)
  other.stop.patience = 3
  with pytest.raises(ConfigError, match=r'holds a run with stop\.patience'):
    runs.start(other, free)


def test_what_cannot_work_is_a_sentence_before_the_folder_is_made(tmp_path):
  (tmp_path / 'empty').mkdir()
  photo = save(tmp_path / 'a.png')
  for settings, match in (
    ({'photos': tmp_path / 'empty'}, 'no photo found'),
    ({'photos': tmp_path / 'nowhere'}, 'no such file or folder'),
    ({'photos': photo, 'masks': '/nowhere'}, 'config.masks: there is no folder /nowhere'),
    ({'masks': tmp_path}, 'set config.photos as well'),
  ):
    with pytest.raises(UserError, match=match):
      dip.check(config(tmp_path / 'run', **settings))
  for section, name, value, match in (
    ('fit', 'input', 'zeros', 'meshgrid'),
    ('fit', 'factor', 4, r'fit\.factor enlarges'),
    ('net', 'kind', 'unet', 'unet has no blocks'),
    ('net', 'kind', 'net', r"net\.kind is 'net'"),
  ):
    c = config(tmp_path / 'run')
    c[section][name] = value
    with pytest.raises(UserError, match=match):
      dip.check(c)
  assert not (tmp_path / 'run').exists()


def test_a_mode_that_it_has_not_and_a_variant_that_is_not_there_are_sentences(tmp_path):
  with pytest.raises(UserError, match="dip has no mode 'export': choose from run, speed"):
    launch.launch(config(tmp_path / 'run'), 'export')
  command = [sys.executable, 'launch.py', '--config=configs/dip.py:denoize']
  done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
  assert done.returncode == 1 and "no variant 'denoize'" in done.stderr
  assert 'Traceback' not in done.stderr and not (tmp_path / 'run').exists()


# oldphoto dip ------------------------------------------------------------------------------------


@pytest.fixture
def oldphoto(capsys):
  def command(*words):
    try:
      code = cli.main([str(word) for word in words])
    except SystemExit as error:  # argparse
      code = error.code
    shown = capsys.readouterr()
    return code, shown.out, shown.err

  return command


def test_it_denoises(oldphoto, tmp_path):
  save(tmp_path / 'in/a.png')
  words = ['dip', tmp_path / 'in', '-o', tmp_path / 'out']
  code, said, errors = oldphoto(*words)
  assert (code, errors) == (0, '')
  assert 'a 16x16 photo takes at most' in said and '1 restored, 0 kept, 0 failed' in said
  report = json.loads((tmp_path / 'out/report.json').read_text())
  assert report['weights'] == 'Deep Image Prior, preset small, seed 0'
  assert report['photos'][0]['iterations'] <= 30
  assert 'a.png' in (tmp_path / 'out/before-after.html').read_text()
  assert '1 kept' in oldphoto(*words)[1]
  first = (tmp_path / 'out/a.png').read_bytes()
  code, said, _ = oldphoto(*words, '--overwrite', '--seed', 1, '--no-page')
  assert code == 0 and (tmp_path / 'out/a.png').read_bytes() != first


def test_it_fills_what_the_mask_marks(oldphoto, tmp_path):
  photo = save(tmp_path / 'a.png')
  save(tmp_path / 'b.png')
  save_mask(tmp_path / 'masks/a.png')
  words = ['dip', '-o', tmp_path / 'out', '--max-side', 12]
  code, _, errors = oldphoto(*words, photo, '--mask', tmp_path / 'masks/a.png')
  assert (code, errors) == (0, '')
  before, after = images.read(photo).pixels, images.read(tmp_path / 'out/a.png').pixels
  np.testing.assert_array_equal(np.delete(before, np.s_[5:8], 0), np.delete(after, np.s_[5:8], 0))
  assert (before[5:8] != after[5:8]).any()
  code, _, errors = oldphoto(*words, photo, tmp_path / 'b.png', '--mask', tmp_path / 'masks')
  assert code == 1 and 'b.png: ' in errors and 'no mask of that name' in errors


def test_it_refuses_what_cannot_be_done(oldphoto, tmp_path):
  photo = save(tmp_path / 'a.png')
  words = ['dip', photo, '-o', tmp_path / 'out']
  for more, says in (
    (['--mask', tmp_path / 'no'], 'no such mask or folder'),
    (['--detector', tmp_path / 'no'], 'there is no file of weights'),
    (['--max-hours', '0'], 'raise max_hours'),
  ):
    code, said, errors = oldphoto(*words, *more)
    assert (code, said) == (2, '') and says in errors and errors.count('\n') == 1
  assert not (tmp_path / 'out').exists()
