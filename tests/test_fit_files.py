"""Deep Image Prior on files: what is written, kept, refused and reported."""

import dataclasses
import json
import pathlib

import jax
import numpy as np
import pytest
from PIL import Image

from oldphoto_jax.dip import fit_files, fit_time
from oldphoto_jax.dip.fit_files import Job
from oldphoto_jax.dip.networks import ResNet
from oldphoto_jax.dip.prior import Dip, Emv
from oldphoto_jax.metrics import psnr_ssim
from oldphoto_jax.photos import images
from oldphoto_jax.restoring import tasks
from oldphoto_jax.training import train


def settings(channels):
  net = ResNet(4, 0, out_channels=channels)
  stop = Emv(alpha=0.6, burn_in=10, patience=20)
  return Dip(net, input_depth=2, learning_rate=0.02, iterations=40, stop=stop)


JOB = Job(settings, 'tiny', chunk=10, save_every=1)


@pytest.fixture(autouse=True)
def light(monkeypatch):
  """One device, so that most tests share a program; a millisecond an iteration, not measured."""
  device = jax.devices()[0]
  monkeypatch.setattr(jax, 'local_devices', lambda: [device])
  monkeypatch.setattr(fit_time, 'measure', lambda *_: fit_time.Speed(1e-3, 128, 128))


def save(path, height=16, width=16, seed=0, gray=False, alpha=False, bits=8):
  """A smooth picture with noise."""
  y, x = np.mgrid[:height, :width] / 16
  values = np.stack([0.5 + 0.3 * np.sin(2 * x + c + (seed + 1) * y) for c in range(3)], -1)
  values += np.random.default_rng(seed).normal(0, 0.05, values.shape)
  pixels = np.rint(np.clip(values, 0, 1) * (2**bits - 1)).astype(f'uint{bits}')
  pixels = np.repeat(pixels[..., :1], 3, -1) if gray else pixels
  path.parent.mkdir(parents=True, exist_ok=True)
  images.write(images.Photo(pixels, alpha=pixels[..., 0] if alpha else None, gray=gray), path)
  return path


def save_mask(path, height=16, width=16, rows=slice(5, 8)):
  mask = np.zeros((height, width), np.uint8)
  mask[rows] = 255
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.fromarray(mask).save(path)
  return path


def use(place):
  """Masks of that folder."""
  return lambda path, photo: fit_files.masks.read(fit_files.masks.find(place, path), photo.size)


def restore_files(job, paths, out, report=None, overwrite=False, **options):
  """As `oldphoto dip` does, in one call."""
  todo = fit_files.plan(paths, out, report, overwrite=overwrite)
  return fit_files.restore_files(job, todo, **options)


def test_photos_of_every_kind_keep_their_names_sizes_and_kinds(tmp_path):
  made = {
    'a.png': save(tmp_path / 'in/a.png'),
    'sub/b.png': save(tmp_path / 'in/sub/b.png', bits=16, seed=1),
    'gray.png': save(tmp_path / 'in/gray.png', gray=True, alpha=True),
  }
  (tmp_path / 'in/bad.jpg').write_bytes(b'')
  before = {name: path.read_bytes() for name, path in made.items()}
  out, told, seen = tmp_path / 'out', [], []
  summary = restore_files(
    JOB, [tmp_path / 'in'], out, progress=lambda *a: seen.append(a), tell=told.append
  )
  assert summary.exit_code == 1 and summary.count('restored') == 3
  names = [pathlib.Path(result.input).name for result in summary.results]
  assert names == ['a.png', 'bad.jpg', 'gray.png', 'b.png']
  for name, path in made.items():
    assert path.read_bytes() == before[name]
    a, b = images.read(path), images.read(out / name)
    assert (a.size, a.bits, a.gray) == (b.size, b.bits, b.gray)
    assert (a.alpha is None and b.alpha is None) or (a.alpha == b.alpha).all()
    assert 0.5 < np.abs(images.to_float(a) - images.to_float(b)).mean() * 128 < 64
  report = json.loads((out / 'report.json').read_text())
  assert report['weights'] == 'Deep Image Prior, tiny, seed 0' and report['failed'] == 1
  assert report['photos'][1]['message'].endswith('bad.jpg: the file is empty.')
  assert 10 < report['photos'][0]['iteration'] <= report['photos'][0]['iterations'] <= 40
  assert [done for done, _, _ in seen] == [1, 2, 3, 4] and seen[0][1] == 4
  assert '3 photos: at most' in told[1] and 'a 16x16 photo takes at most' in told[0]
  visible = sorted(path.name for path in out.iterdir() if not path.name.startswith('.'))
  assert visible == ['a.png', 'gray.png', 'report.csv', 'report.json', 'sub']

  # Again: all is kept, with what the report knew; but not for an output that is another file.
  restore_files(dataclasses.replace(JOB, seed=1), [made['a.png']], tmp_path / 'other')
  (out / 'a.png').write_bytes((tmp_path / 'other/a.png').read_bytes())
  again = restore_files(JOB, [tmp_path / 'in'], out)
  assert again.count('kept') == 3
  assert 'iteration' not in again.results[0].fields
  for new, old in zip(again.results[2:], summary.results[2:]):
    assert new.fields['iteration'] == old.fields['iteration']
  assert restore_files(JOB, [made['a.png']], out, overwrite=True).count('restored') == 1


def test_only_the_masked_pixels_change(tmp_path):
  photo = save(tmp_path / 'in/a.png', bits=16)
  sound = save(tmp_path / 'in/sound.png', seed=1)
  save(tmp_path / 'in/all.png', seed=2)
  save(tmp_path / 'in/none.png', seed=3)
  masks = tmp_path / 'masks'
  save_mask(masks / 'a.png')
  save_mask(masks / 'sound.png', rows=slice(0))
  save_mask(masks / 'all.png', rows=slice(None))
  job = dataclasses.replace(JOB, mask=use(masks))
  summary = restore_files(job, [tmp_path / 'in'], tmp_path / 'out')
  said = {pathlib.Path(r.input).stem: r for r in summary.results}
  assert said['none'].status == 'failed' and 'no mask of that name' in said['none'].message
  assert said['all'].status == 'failed' and 'marks 100% of the photo' in said['all'].message
  assert (tmp_path / 'out/sound.png').read_bytes() == sound.read_bytes()
  assert 'iteration' not in said['sound'].fields and 'marks nothing' in said['sound'].warnings[0]
  before, after = images.read(photo).pixels, images.read(tmp_path / 'out/a.png').pixels
  np.testing.assert_array_equal(np.delete(before, np.s_[5:8], 0), np.delete(after, np.s_[5:8], 0))
  assert (before[5:8] != after[5:8]).mean() > 0.9
  assert said['a'].fields['damaged'] == pytest.approx(3 / 16)

  whole = dataclasses.replace(job, paste=False)
  restore_files(whole, [photo], tmp_path / 'whole')
  assert (images.read(tmp_path / 'whole/a.png').pixels[8:] != before[8:]).mean() > 0.9


def test_a_mask_leaves_the_rest_of_a_jpeg_only_nearly_the_same(tmp_path):
  photo = save(tmp_path / 'in/a.jpg')
  save_mask(tmp_path / 'masks/a.png')
  job = dataclasses.replace(JOB, mask=use(tmp_path / 'masks'))
  (result,) = restore_files(job, [photo], tmp_path / 'out').results
  assert 'compressed again' in result.warnings[0]
  assert images.size(result.output) == (16, 16)


def test_a_large_photo_is_fitted_small_where_a_mask_says_what_to_fill(tmp_path):
  photo = save(tmp_path / 'in/a.png', 32, 32)
  save_mask(tmp_path / 'masks/a.png', 32, 32)
  job = dataclasses.replace(JOB, max_side=16)
  (result,) = restore_files(
    dataclasses.replace(job, mask=use(tmp_path / 'masks')), [photo], tmp_path / 'out'
  ).results
  assert (result.size, result.fields['shape']) == ((32, 32), (16, 16))
  before, after = images.read(photo).pixels, images.read(tmp_path / 'out/a.png').pixels
  np.testing.assert_array_equal(before[8:], after[8:])
  assert (before[5:8] != after[5:8]).mean() > 0.9
  (result,) = restore_files(job, [photo], tmp_path / 'other').results
  assert 'a 32x32 photo can be fitted at 16 px only to fill damage' in result.message


def test_truths_give_the_loss_of_the_stop_and_curves(tmp_path):
  photo = save(tmp_path / 'in/a.png')
  save(tmp_path / 'in/b.png')
  truth = save(tmp_path / 'truths/a.jpg', seed=5)
  save(tmp_path / 'truths/b.jpg', 16, 32)
  job = dataclasses.replace(JOB, truths=tmp_path / 'truths', curves=True)
  out, run = tmp_path / 'run/restored', tmp_path / 'run'
  result, wrong = restore_files(job, [tmp_path / 'in'], out, run).results
  assert 'the truth is 32x16, and the restored photo will be 16x16' in wrong.message
  curves = np.load(run / 'curves/a.png.npz')
  said = result.fields
  assert len(curves['psnr']) == len(curves['variance']) == said['iterations']
  assert said['psnr_chosen'] == pytest.approx(curves['psnr'][said['iteration'] - 1], abs=1e-3)
  assert said['best'] == 1 + curves['psnr'].argmax()
  assert said['psnr_best'] == pytest.approx(curves['psnr'].max(), abs=1e-3)
  photos = [images.to_float(images.read(path))[None] for path in (photo, out / 'a.png', truth)]
  assert said['psnr_before'] == pytest.approx(
    float(psnr_ssim.psnr(photos[0], photos[2])[0]), abs=1e-3
  )
  assert said['psnr'] == pytest.approx(float(psnr_ssim.psnr(photos[1], photos[2])[0]), abs=1e-3)
  assert said['psnr'] == pytest.approx(said['psnr_chosen'], abs=0.05)  # 8 bits


def test_gray_and_strength(tmp_path):
  photo = save(tmp_path / 'a.png')
  restore_files(dataclasses.replace(JOB, gray=True), [photo], tmp_path / 'gray')
  assert images.read(tmp_path / 'gray/a.png').gray
  restore_files(JOB, [photo], tmp_path / 'one')
  restore_files(dataclasses.replace(JOB, strength=0.5), [photo], tmp_path / 'half')
  restore_files(dataclasses.replace(JOB, strength=0.0), [photo], tmp_path / 'zero')
  before, one, half, zero = (
    images.read(path).pixels.astype(float)
    for path in (photo, *(tmp_path / name / 'a.png' for name in ('one', 'half', 'zero')))
  )
  np.testing.assert_array_equal(zero, before)
  assert np.abs(half - (one + before) / 2).max() <= 1


def test_super_resolution_enlarges_the_photo_and_its_transparency(tmp_path):
  photo = save(tmp_path / 'a.png', 8, 12, alpha=True)

  def doubled(channels):
    return dataclasses.replace(settings(channels), factor=2)

  restore_files(dataclasses.replace(JOB, settings=doubled), [photo], tmp_path / 'out')
  large, small = images.read(tmp_path / 'out/a.png'), images.read(photo)
  assert large.size == (16, 24) and large.alpha.shape == (16, 24)
  halved = large.alpha.reshape(8, 2, 12, 2).mean((1, 3))
  assert np.abs(halved - small.alpha).mean() < 10


def test_a_fit_that_would_take_too_long_is_not_begun(tmp_path):
  small, large = save(tmp_path / 'in/a.png'), save(tmp_path / 'in/b.png', 64, 128)
  job = dataclasses.replace(JOB, max_seconds=0.01)
  said = r'b\.png: a 128x64 .* at most 0 s: 40 iter.*: make it smaller.*raise max_hours'
  with pytest.raises(images.PhotoError, match=said):
    restore_files(job, [tmp_path / 'in'], tmp_path / 'out')
  masked = dataclasses.replace(job, mask=lambda path, photo: np.ones((*photo.size, 1)))
  with pytest.raises(images.PhotoError, match='set max_side to fit it smaller'):
    restore_files(masked, [large], tmp_path / 'out')
  assert not (tmp_path / 'out').exists()
  assert restore_files(job, [small], tmp_path / 'out').exit_code == 0


def test_a_stopped_fit_goes_on_and_ends_the_same(tmp_path):
  save(tmp_path / 'in/a.png')
  save(tmp_path / 'in/b.png', seed=1)
  restore_files(JOB, [tmp_path / 'in'], tmp_path / 'whole')
  out, chunks = tmp_path / 'out', []

  def stop():
    chunks.append(None)
    return len(chunks) == 2

  with pytest.raises(train.Stopped):
    restore_files(JOB, [tmp_path / 'in'], out, stop=stop)
  (unfinished,) = (out / 'unfinished').iterdir()
  assert sorted(path.name for path in unfinished.iterdir() if path.name.isdigit()) == ['1', '2']
  chunks.clear()
  restore_files(JOB, [tmp_path / 'in'], out, stop=lambda: chunks.append(None))
  # Asked after each of four chunks but the last; a.png has two left.
  assert len(chunks) == 1 + 3
  for name in ('a.png', 'b.png'):
    assert (out / name).read_bytes() == (tmp_path / 'whole' / name).read_bytes()
  assert not (out / 'unfinished').exists()


def test_what_cannot_be_done_at_all_is_a_sentence(tmp_path):
  photo = save(tmp_path / 'in/a.png')
  (tmp_path / 'empty').mkdir()
  for paths, out, match in (
    ([tmp_path / 'empty'], tmp_path / 'out', 'no photo found'),
    ([photo], tmp_path / 'in', 'replace an original'),
    ([photo], photo, 'must be a folder'),
  ):
    with pytest.raises(images.PhotoError, match=match):
      restore_files(JOB, paths, out)


def test_groups_fill_the_devices(monkeypatch):
  names = [pathlib.Path(f'{i}.png') for i in range(9)]
  items = [
    tasks.Item(name, name, {'output': name}, size=(512, 512 + 64 * (i % 3)))
    for i, name in enumerate(names)
  ]

  def groups(job=JOB):
    return [[item.path.stem for item in group] for group in fit_files._groups(job, items)]

  assert groups() == [[str(i)] for i in range(9)]
  assert [len(g) for g in groups(dataclasses.replace(JOB, batch=2))] == [2, 2, 2, 2, 1]

  class Accelerator:
    platform = 'gpu'

  monkeypatch.setattr(jax, 'local_devices', lambda: [Accelerator()] * 2)
  # By size; four a device where they are 512x512, three where one is larger.
  assert groups() == [['0', '3', '6', '1', '4', '7'], ['2', '5', '8']]
