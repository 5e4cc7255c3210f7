"""The scripts for a machine with an accelerator, in miniature on a CPU."""

import json

import numpy as np
import pytest
from PIL import Image

from benchmarks.accelerator import check, pack, train
from oldphoto_jax import weights


@pytest.fixture(scope='module')
def packed(tmp_path_factory):
  folder = tmp_path_factory.mktemp('packed')
  rng = np.random.default_rng(0)
  for kind, count in (('photos', 4), ('val', 2)):
    (folder / kind).mkdir()
    for i in range(count):
      pixels = rng.integers(0, 256, (90, 120, 3)).astype(np.uint8)
      Image.fromarray(pixels).save(folder / kind / f'{i}.png')
  words = ['-o', f'{folder}/data.zip', '--side', '100']
  assert pack.main([*words, '--photos', f'{folder}/photos', '--val', f'{folder}/val']) == 0
  return folder / 'data.zip'


@pytest.mark.slow
def test_training_goes_on_from_its_newest_checkpoint_and_keeps_two(packed, tmp_path, capsys):
  words = [str(packed), '-o', str(tmp_path), '--minutes', '0.01', '--batch', '8', '--look', '1']
  words += ['--tiny', '--every', '0', '--threads', '1', '--dtype', 'float32']
  assert train.main(words) == 0
  first = train.newest(tmp_path)
  step = weights.read(first).card['step']
  assert first.stat().st_size < train.LARGEST and step >= 1
  assert f'{first.name}: ' in capsys.readouterr().out
  assert train.main(words) == 0
  last = weights.read(train.newest(tmp_path))
  assert last.card['step'] > step and last.weights.system == 'repair'
  assert len(list(tmp_path.iterdir())) == train.KEPT


def test_data_that_is_no_zip_is_a_sentence(tmp_path, capsys):
  (tmp_path / 'data.zip').write_text('no')
  assert train.main([f'{tmp_path}/data.zip', '-o', str(tmp_path)]) == 2
  assert 'zip' in capsys.readouterr().err


def test_a_packed_file_stays_small(packed, tmp_path, monkeypatch, capsys):
  monkeypatch.setattr(pack, 'LARGEST', 100)
  words = ['-o', f'{tmp_path}/a.zip', '--photos', str(packed.parent / 'photos')]
  assert pack.main(words) == 2
  assert 'lower --side' in capsys.readouterr().err and not (tmp_path / 'a.zip').exists()


def test_a_section_that_fails_leaves_the_next_ones(tmp_path):
  def fails():
    raise RuntimeError('no such instruction')

  plan = iter([('a', fails), ('b', lambda: {'x': 1.5})])
  assert check.run(tmp_path / 'm.json', plan, 60) == 1
  written = json.loads((tmp_path / 'm.json').read_text())
  assert 'no such instruction' in written['a']['failed'] and written['b'] == {'x': 1.5}


@pytest.mark.slow
def test_the_check_in_miniature(tmp_path):
  path = tmp_path / 'm.json'
  assert check.main(['-o', str(path), '--tiny', '--systems', 'repair', '--minutes', '30']) == 0
  written = json.loads(path.read_text())
  assert written['agreement']['prefill'] == 0 and written['device']['tflops_float32'] > 0
  assert {step['stage'] for step in written['repair float32']} == {'repair', 'tone'}
