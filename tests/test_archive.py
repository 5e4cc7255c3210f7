"""Fine-tuning on an archive: the verdict where it is known, and what the command writes."""

import json
import pathlib

import jax
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from configs.repair import get_config
from oldphoto_jax import weights
from oldphoto_jax.errors import ConfigError
from oldphoto_jax.evaluation import verdict
from oldphoto_jax.models import repair as model
from oldphoto_jax.photos import images, sheets
from oldphoto_jax.restoring.engine import Look
from oldphoto_jax.systems import archive

SIDE = 96


def prints(count, damaged=True, seed=0):
  """Slopes and soft shapes; white scratches, which are never as bright elsewhere."""
  rng = np.random.default_rng(seed)
  photos = []
  for _ in range(count):
    noise = ndimage.gaussian_filter(rng.normal(0, 1, (SIDE, SIDE)), 6)
    photo = np.repeat((0.25 * noise / noise.std())[..., None].clip(-0.7, 0.3), 3, -1)
    if damaged:
      row, column = rng.integers(12, SIDE - 12, 2)
      photo[row : row + 3, 10 : 10 + rng.integers(30, 70)] = 1
      photo[20 : 20 + rng.integers(30, 60), column : column + 2] = 1
    photos.append(photo.astype(np.float32))
  return photos


class Engine:
  """Finds what is white, and fills it with the mean around it and a cast."""

  plan, name, revives = None, 'test', False

  def __init__(self, cast=0.0, seen=0.9):
    self.cast, self.seen = cast, seen

  def restore(self, photo):
    return photo

  def look(self, photo):
    return Look(photo, (photo.min(-1, keepdims=True) > self.seen).astype(np.float32))

  def fill(self, photo, around, holes):
    known = (holes == 0).astype(np.float32)
    blurred = [ndimage.gaussian_filter(x, (4, 4, 0)) for x in (photo * known, known)]
    return np.where(holes > 0, blurred[0] / np.maximum(blurred[1], 1e-6) + self.cast, photo)

  def revive(self, photo, mask, strength):
    return photo, 0.0


def judged(before, after, photos):
  found = [before.look(photo).probability for photo in photos]
  made = list(verdict.trials(photos, found, 0.8, 0))
  return verdict.judge(*(verdict.scores(e, made) for e in (before, after)), 0, 1000)


def test_weights_that_lose_their_colour_cast_are_better_and_the_other_way_round_worse():
  photos = prints(8)
  decided, rows = judged(Engine(0.3), Engine(), photos)
  assert decided == verdict.BETTER
  psnr = rows[0]
  assert psnr.difference.low > 3 and psnr.sure == 1 and psnr.difference.n == 8
  decided, rows = judged(Engine(), Engine(0.3), photos)
  assert decided == verdict.WORSE and rows[0].difference.high < -3
  text = verdict.table(decided, rows, 8)
  assert 'worse' in text.text and 'keep the old ones' in text.text


def test_weights_that_change_nothing_or_too_little_are_no_different():
  photos = prints(8)
  for other in (Engine(), Engine(1e-4)):
    decided, rows = judged(Engine(), other, photos)
    assert decided == verdict.EQUAL
    assert all(abs(row.difference.mean) < row.criterion.margin for row in rows)


def test_weights_that_no_longer_find_the_damage_are_worse():
  decided, rows = judged(Engine(), Engine(seen=2.0), prints(8))
  assert decided == verdict.WORSE
  assert {row.criterion.name: row.verdict for row in rows}['f1'] == verdict.WORSE


def test_better_in_one_way_and_worse_in_another_is_not_recommended():
  steady = {c.name: np.linspace(0.5, 0.6, 9) for c in verdict.CRITERIA}
  decided, _ = verdict.judge(steady, steady | {'psnr': steady['psnr'] + 1}, 0, 100)
  assert decided == verdict.BETTER
  mixed = steady | {'psnr': steady['psnr'] + 1, 'kept': steady['kept'] - 0.1}
  assert verdict.judge(steady, mixed, 0, 100)[0] == verdict.EQUAL
  few = [{k: v[:2] for k, v in x.items()} for x in (steady, mixed)]
  decided, rows = verdict.judge(*few, 0, 100)
  assert decided == verdict.EQUAL and 'only 2 prints' in verdict.table(decided, rows, 2).text


def test_moved_damage_lies_on_sound_places_whose_truth_is_known():
  photos = prints(4)
  found = [Engine().look(photo).probability for photo in photos]
  made = list(verdict.trials(photos, found, 0.8, 0))
  assert {trial.host for trial in made} == {0, 1, 2, 3}
  for trial in made:
    assert (trial.photo[trial.placed] == 1).mean() > 0.5 and trial.sound[trial.placed].all()
    np.testing.assert_array_equal(trial.truth, photos[trial.host])
    np.testing.assert_array_equal(trial.photo[~trial.placed], trial.truth[~trial.placed])


def test_the_blind_sheet_hides_which_is_which():
  photos = prints(6)
  names = [f'{i}.png' for i in range(6)]
  sheet, key = verdict.blind_sheet(Engine(), Engine(0.4), photos, names, 0)
  assert sheet.dtype == np.uint8 and set(key['new weights']) == set(names)
  assert set(key['new weights'].values()) == {'A', 'B'}


# The whole command ---------------------------------------------------------------------------


def starting(path, cast):
  """Weights made by hand: they find what is white, and add `cast` to every pixel."""
  net = model.Repair(widths=(4, 8), blocks=1)
  like = jax.eval_shape(lambda key: model.init(net, key).g, jax.random.key(0))
  g = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), like)
  for k in range(4):  # pixel k of each 2x2: eight channels, of which the first three are the photo
    g['conv_in']['kernel'][1, 1, 8 * k : 8 * k + 3, k] = 1 / 3
    g['conv_out']['kernel'][1, 1, k, 5 * k + 3] = 60
    g['conv_out']['bias'][5 * k : 5 * k + 3] = cast
  g['conv_in']['bias'][:4] = -0.6
  weights.save(path, weights.Weights('repair', model.sizes(net), {'repair': g}), card={})


def settings(tmp_path, photos, cast):
  folder = tmp_path / 'scans'
  folder.mkdir()
  for i, photo in enumerate(photos):
    Image.fromarray(sheets.from_float(photo)).save(folder / f'{i:02d}.png')
  starting(tmp_path / 'start.safetensors', cast)
  config = get_config('archive')
  config.data.old, config.start = str(folder), str(tmp_path / 'start.safetensors')
  config.workdir = str(tmp_path / 'run')
  config.data.crop = 32
  config.shares = dict(sound=1.0)
  config.distractors.lines = config.distractors.border = 0.0
  config.repair.steps, config.repair.batch_size, config.repair.ema = 4, 8, 0.0
  config.train.log_every = config.train.evaluate_every = 4
  config.train.eval_batch = 4
  config.archive.aside = 0.5
  return config


@pytest.mark.slow
def test_an_archive_that_cannot_help_ends_without_a_recommendation(tmp_path):
  """Flat prints, which the start fills without a fault: whatever is learnt cannot be better."""
  photos = [np.where(photo == 1, photo, np.float32(0.2)) for photo in prints(16)]
  config = settings(tmp_path, photos, 0.0)
  archive.SYSTEM.check(config)
  archive.SYSTEM.modes['run'](config)
  folder = tmp_path / 'run'
  record = json.loads((folder / 'verdict.json').read_text())
  assert record['verdict'] in (verdict.WORSE, verdict.EQUAL)
  assert not (folder / weights.FILE).exists()
  assert 'The new weights' in (folder / 'verdict.md').read_text()
  assert (folder / 'blind.png').is_file() and (folder / 'blind_key.json').is_file()
  weights.read(folder / archive.CANDIDATE).restorer()


def test_new_weights_that_win_are_released(tmp_path, monkeypatch):
  """The start fills with a veil of 13 gray levels; what stands for the training takes it away."""
  config = settings(tmp_path, prints(16), 0.1)
  better = lambda own: starting(pathlib.Path(own.workdir) / weights.FILE, 0.0)
  monkeypatch.setitem(archive.repair.SYSTEM.modes, 'run', better)
  archive.SYSTEM.modes['run'](config)
  folder = tmp_path / 'run'
  record = json.loads((folder / 'verdict.json').read_text())
  assert record['verdict'] == verdict.BETTER
  psnr = record['scores']['psnr']
  assert psnr['after'] > psnr['before'] + 3
  released = weights.load(folder / weights.FILE)
  without_veil = weights.load(folder / 'finetuned')
  jax.tree.map(np.testing.assert_array_equal, released.params, without_veil.params)

  # What was learnt from must not become what it is judged by.
  archive.SYSTEM.modes['run'](config)
  config.archive.aside = 0.4
  with pytest.raises(ConfigError, match=r'holds a run with archive\.aside = 0\.5, not 0\.4'):
    archive.SYSTEM.modes['run'](config)
  config.archive.aside = 0.5
  Image.new('RGB', (60, 50)).save(tmp_path / 'scans/new.png')
  with pytest.raises(ConfigError, match=r'1 were added, changed or removed, such as new\.png'):
    archive.SYSTEM.modes['run'](config)


def test_settings_that_cannot_work_are_a_sentence(tmp_path):
  config = settings(tmp_path, prints(4), 0.0)
  archive.SYSTEM.check(config)
  with pytest.raises(ConfigError, match='holds 4 prints; at least 6 are needed'):
    archive.SYSTEM.modes['run'](config)
  assert not (tmp_path / 'run').exists()
  config.data.old = ''
  with pytest.raises(ConfigError, match=r"data.old names the archive's prints"):
    archive.SYSTEM.check(config)


def test_finds_become_labels_and_shapes(tmp_path):
  config = settings(tmp_path, [], 0.0)
  photos = prints(3)
  found = [Engine().look(photo).probability for photo in photos]
  places = archive._write_finds(tmp_path / 'found', photos, found, config)
  for i, photo in enumerate(photos):
    label = np.asarray(Image.open(tmp_path / 'found' / 'labels' / f'{i:05d}.png'))
    assert set(np.unique(label)) == {0, 128, 255}
    assert (label[photo[..., 0] == 1] == 255).all()
    assert (label == 255).mean() < 0.15
  shapes = sorted((tmp_path / 'found' / 'overlays').iterdir())
  assert images.read(shapes[0]).alpha.shape[0] == images.read(shapes[0]).alpha.shape[1]
  assert set(places) == {'labels', 'prints', 'overlays'}
  sound = [0 * p for p in found]
  with pytest.raises(ConfigError, match=r'no damage was found with a probability of 0.8'):
    archive._write_finds(tmp_path / 'found', photos, sound, config)
