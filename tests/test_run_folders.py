"""What befalls the folder of a run and its photos: a second process, a full disk, other photos."""

import errno
import json
import logging
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from test_systems import config_of, run

from oldphoto_jax import data
from oldphoto_jax.errors import ConfigError, DiskFullError, PhotoError, UserError, is_disk_full
from oldphoto_jax.systems import build, splits
from oldphoto_jax.training import runs, train


def save(path, height=40, width=48, seed=0):
  path.parent.mkdir(parents=True, exist_ok=True)
  pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
  Image.fromarray(pixels).save(path)
  return path


@pytest.fixture
def trained(monkeypatch):
  """Stages that are 'trained' without a step; has a list of them."""
  done = []
  monkeypatch.setattr(train, 'train', lambda stage, folder, seed: done.append(stage))
  return done


def listed(workdir):
  rows = json.loads((workdir / 'manifest.json').read_text())
  return [(row['split'], row['name']) for row in rows]


def test_a_second_process_in_a_run_folder_is_refused(tmp_path, trained):
  config = config_of('pix2pix', tmp_path)
  with runs.alone(config.workdir):
    with pytest.raises(ConfigError, match='another process trains in'):
      run('pix2pix', config)
    assert not (tmp_path / 'run.json').exists()
  run('pix2pix', config)
  assert len(trained) == 1


def test_the_lock_goes_with_a_killed_process(tmp_path):
  code = f'from oldphoto_jax.training import runs\nimport os\nwith runs.alone({str(tmp_path)!r}):\n'
  code += '  os.kill(os.getpid(), 9)'
  killed = subprocess.run([sys.executable, '-c', code], check=False, env=dict(os.environ))
  assert killed.returncode == -9 and (tmp_path / '.lock').exists()
  with runs.alone(tmp_path):
    pass


def test_photos_that_are_added_are_told_and_change_no_split(tmp_path, trained, caplog):
  caplog.set_level(logging.WARNING)
  for i in range(30):
    save(tmp_path / f'photos/{i}.png', seed=i)
  config = config_of('pix2pix', tmp_path / 'run', **{'data.photos': str(tmp_path / 'photos')})
  run('pix2pix', config)
  before = listed(tmp_path / 'run')
  assert [split for split, _ in before].count('val') == 3
  run('pix2pix', config)
  assert not caplog.records
  for i in range(30, 60):
    save(tmp_path / f'photos/{i}.png', seed=i)
  run('pix2pix', config)
  assert listed(tmp_path / 'run') == before
  assert '30 photos were added since the run began, such as 30.png' in caplog.text
  opened = splits.run_photos(config)
  assert [('train', n) for n in opened.train.names] + [
    ('val', n) for n in opened.val.names
  ] == before
  assert len(splits.photos(config.data, config.seed).val) == 6  # of a new run

  save(tmp_path / 'photos/7.png', seed=99)
  run('pix2pix', config)
  assert '1 photos have changed since the run began, such as 7.png' in caplog.text
  (tmp_path / 'photos/8.png').unlink()
  with pytest.raises(ConfigError, match=r'are gone since the run began, such as 8\.png'):
    run('pix2pix', config)


def test_a_choice_of_photos_stays_without_a_word(tmp_path, trained, caplog):
  caplog.set_level(logging.WARNING)
  for i in range(12):
    save(tmp_path / f'photos/{i}.png', seed=i)
    save(tmp_path / f'old/{i}.png', seed=i)
  settings = {'photos': str(tmp_path / 'photos'), 'old': str(tmp_path / 'old'), 'subset_train': 5}
  settings |= {'subset_val': 2, 'subset_test': 2}
  config = config_of('cyclegan', tmp_path / 'run', **{f'data.{k}': v for k, v in settings.items()})
  run('cyclegan', config)
  before = listed(tmp_path / 'run')
  save(tmp_path / 'photos/more.png', seed=50)
  run('cyclegan', config)
  assert listed(tmp_path / 'run') == before and not caplog.records
  opened = splits.run_photos(config)
  assert [len(s) for s in (opened.train, opened.val, opened.test, opened.old)] == [5, 2, 2, 12]


@pytest.mark.parametrize(
  'error',
  [
    OSError(errno.ENOSPC, 'No space left on device'),
    OSError(errno.EDQUOT, 'Disk quota exceeded'),
    ValueError('INTERNAL: Error writing "state": No space left on device [source locations]'),
  ],
)
def test_a_full_disk_is_a_sentence(tmp_path, monkeypatch, error):
  def full(stage, folder, seed):
    try:
      raise error
    except (OSError, ValueError) as cause:
      raise RuntimeError('a checkpoint could not be saved') from cause

  monkeypatch.setattr(train, 'train', full)
  with pytest.raises(DiskFullError, match='the disk is full; make room'):
    run('pix2pix', config_of('pix2pix', tmp_path))


def test_other_errors_are_no_full_disk():
  assert not is_disk_full(OSError(errno.EACCES, 'Permission denied'))
  assert not is_disk_full(None) and not is_disk_full(KeyError('x'))


# Pairs -------------------------------------------------------------------------------------------


@pytest.fixture
def pairs(tmp_path):
  """Before is noise, after is its negative; endings differ."""
  rng = np.random.default_rng(0)
  for i in range(6):
    pixels = rng.integers(0, 256, (50, 60 + i, 3), np.uint8)
    for kind, values, ending in (('before', pixels, 'png'), ('after', 255 - pixels, 'tif')):
      path = tmp_path / 'pairs' / kind / f'sub/{i}.{ending}'
      path.parent.mkdir(parents=True, exist_ok=True)
      Image.fromarray(values).save(path)
  return tmp_path / 'pairs'


def test_pix2pix_learns_from_the_pairs_of_a_folder(pairs, tmp_path, trained):
  config = config_of('pix2pix', tmp_path / 'run', **{'data.pairs': str(pairs)})
  run('pix2pix', config)
  (stage,) = trained
  batches = stage.batches()
  batch = next(batches)
  batches.close()
  made = stage.prepare(batch, None)
  assert made['old'].shape == made['clean'].shape == (4, 32, 32, 3)
  assert np.abs(made['old'] + made['clean']).max() < 0.02  # the same square, the same flip
  made = stage.prepare_eval(next(iter(stage.eval_batches())), None)
  assert np.abs(made['old'] + made['clean']).max() < 0.02
  assert dict(listed(tmp_path / 'run')).keys() == {'train', 'val'}
  assert {name for _, name in listed(tmp_path / 'run')} == {f'sub/{i}.tif' for i in range(6)}


def test_pairs_are_evaluated_as_they_are(pairs, tmp_path):
  config = config_of('pix2pix', tmp_path, **{'data.pairs': str(pairs), 'evaluate.crop': 32})
  config.data.test = str(pairs)
  config.evaluate.limit = 2
  (test,) = build.tests(config, splits.test_photos(config, splits.run_photos(config)))
  assert (test.name, test.photos) == ('pairs', ['sub/0.tif', 'sub/1.tif'])
  old = np.asarray(Image.open(pairs / 'before/sub/0.png'))[9:41, 14:46]
  np.testing.assert_array_equal(test.old[0], old)
  np.testing.assert_array_equal(test.truth[0], 255 - old)
  assert not test.mask[0].any()


def test_pairs_that_do_not_match_are_sentences(pairs, tmp_path):
  config = config_of('pix2pix', tmp_path / 'run', **{'data.pairs': str(pairs)})
  config.data.photos = str(pairs)
  with pytest.raises(UserError, match=r'leave data\.photos and data\.tfds_name empty'):
    run('pix2pix', config)
  config.data.photos = ''
  for name, width, sentence in (
    ('before/new.jpg', 60, r'after: 1 photos have no partner here, such as new'),
    ('after/sub/0.jpg', 60, 'two photos are called sub/0; keep one'),
    ('after/sub/0.tif', 61, 'is 60x50 and .* 61x50; both must show the same'),
  ):
    path = save(pairs / name, 50, width)
    with pytest.raises(PhotoError, match=sentence):
      run('pix2pix', config)
    path.unlink()
  with pytest.raises(PhotoError, match='is not a folder'):
    data.pairs(tmp_path)
  assert not (tmp_path / 'run').exists()
