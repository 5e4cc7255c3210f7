"""The scratch detector: official parity, losses, training, tiles, scores, import, the command."""

import dataclasses
import json
import runpy
import shutil
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import ROOT, count_parameters
from PIL import Image

from oldphoto_jax import cli, colour, weights
from oldphoto_jax.degradation import distractors, recipes
from oldphoto_jax.metrics import detection
from oldphoto_jax.models import detector
from oldphoto_jax.nn import averaging, layers
from oldphoto_jax.photos import images
from oldphoto_jax.restoring import detect, tiles
from oldphoto_jax.systems import build, frozen, splits
from oldphoto_jax.systems import detector as system
from oldphoto_jax.training import parallel
from oldphoto_jax.weights import bopbtl

get_config = runpy.run_path(str(ROOT / 'configs' / 'detector.py'))['get_config']

SMALL = detector.DetectorUNet(width=4, depth=2)


@pytest.fixture(scope='module')
def official(fixture):
  """Inputs, outputs and the state dict of the official network at width 8."""
  reference = fixture('bopbtl_scratch_unet')
  state = {k.removeprefix('param/'): v for k, v in reference.items() if k.startswith('param/')}
  return reference, state


def nhwc(array):
  return jnp.asarray(array.transpose(0, 2, 3, 1))


# Network -----------------------------------------------------------------------------------------


def test_equals_the_official_network(official):
  reference, state = official
  net = detector.DetectorUNet(width=8)
  ours = jax.jit(net.apply)(bopbtl.read_detector(state), nhwc(reference['input/gray']))
  logits = nhwc(reference['output/logits'])
  np.testing.assert_allclose(ours, logits, rtol=0, atol=1e-4 * float(jnp.abs(logits).max()))


def test_published_size():
  like = jax.eval_shape(partial(detector.init, detector.Detector()), jax.random.key(0))
  assert count_parameters(like.g) == 37_626_177


def test_official_state_dict_has_our_shapes(shared):
  path = shared / 'reference' / 'state_dicts' / 'ms_state_dicts.json'
  shapes = json.loads(path.read_text())['scratch_detection_UNet']
  blur = np.outer([1, 2, 1], [1, 2, 1]) / 16
  state = {
    key: np.broadcast_to(blur if key.endswith('filt') else np.float32(0), shape)
    for key, shape in shapes.items()
  }
  like = jax.eval_shape(partial(detector.init, detector.Detector()), jax.random.key(0)).released
  weights.check_shapes(bopbtl.read_detector(state), like, 'official')


def test_blur_pool_and_double_equal_their_definitions():
  x = np.random.default_rng(0).normal(size=(1, 6, 8, 2)).astype(np.float32)
  padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), 'reflect')
  kernel = np.outer([1, 2, 1], [1, 2, 1])[..., None] / 16
  pooled = [
    [(padded[0, i : i + 3, j : j + 3] * kernel).sum((0, 1)) for j in range(0, 8, 2)]
    for i in range(0, 6, 2)
  ]
  np.testing.assert_allclose(detector.blur_pool(x)[0], pooled, atol=1e-6)
  doubled = jax.image.resize(x, (1, 12, 16, 2), 'bilinear')
  np.testing.assert_allclose(layers.double(x), doubled, atol=1e-6)


def test_luma_is_that_of_pillow():
  photo = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
  ours = colour.luma(jnp.asarray(photo, jnp.float32) / 127.5 - 1)
  theirs = np.asarray(Image.fromarray(photo).convert('L'))
  assert np.abs(127.5 * (np.asarray(ours)[..., 0] + 1) - theirs).max() <= 0.51


def test_a_photo_is_marked_the_same_in_any_batch(finder):
  old = jax.random.uniform(jax.random.key(0), (3, 16, 16, 3), minval=-1)
  apply = jax.jit(finder.apply)
  together = apply(finder.params, old)
  np.testing.assert_allclose(apply(finder.params, old[1:2]), together[1:2], atol=1e-6)
  assert 0 < float(together.min()) < float(together.max()) < 1


def test_sides_that_do_not_fit_are_a_sentence():
  with pytest.raises(ValueError, match='20x24'):
    jax.eval_shape(SMALL.init, jax.random.key(0), jnp.zeros((1, 18, 24, 1)))


def test_initialisation():
  net = detector.DetectorUNet(width=16, depth=1)
  state = jax.jit(partial(detector.init, detector.Detector(net=net)))(jax.random.key(0))
  kernel = state.g['down0_conv2']['kernel']
  assert abs(float(kernel.std()) / np.sqrt(2 / (9 * 32)) - 1) < 0.03
  found = detector.detect(detector.Detector(net=net), state.released, jnp.zeros((1, 16, 16, 3)))
  np.testing.assert_allclose(found, detector.PRIOR, rtol=1e-5)


# Losses ------------------------------------------------------------------------------------------


def test_losses_equal_their_formulas():
  rng = np.random.default_rng(0)
  x = rng.normal(size=(2, 4, 4, 1)).astype(np.float32)
  m = rng.uniform(size=x.shape).astype(np.float32)
  p = 1 / (1 + np.exp(-x.astype(np.float64)))
  bce = -(m * np.log(p) + (1 - m) * np.log(1 - p))
  np.testing.assert_allclose(detector.binary_cross_entropy(x, m), bce.mean(), rtol=1e-5)
  focal = -(0.3 * m * (1 - p) ** 2 * np.log(p) + 0.7 * (1 - m) * p**2 * np.log(1 - p))
  np.testing.assert_allclose(detector.focal(x, m, 2.0, 0.3), focal.mean(), rtol=1e-5)
  # Without focusing and at equal weights it is half of the cross-entropy.
  np.testing.assert_allclose(detector.focal(x, m, 0.0, 0.5), bce.mean() / 2, rtol=1e-5)
  s = detector.SMOOTHING * 16
  dice = [1 - (2 * (p * m)[i].sum() + s) / ((p**2 + m**2)[i].sum() + s) for i in range(2)]
  np.testing.assert_allclose(detector.dice(x, m), np.mean(dice), rtol=1e-5)


def test_dice_leaves_out_photos_without_damage(float64):
  x = np.random.default_rng(0).normal(size=(2, 8, 8, 1))
  mask = np.zeros_like(x)
  mask[0, 3] = 1
  both, alone = detector.dice(x, mask), detector.dice(x[:1], mask[:1])
  np.testing.assert_allclose(both, alone, rtol=1e-12)
  assert float(detector.dice(x[1:], mask[1:])) == 0


def test_only_terms_with_a_weight_are_computed():
  x = jnp.zeros((1, 4, 4, 1))
  model = detector.Detector(weights={'bce': 0.0, 'dice': 1.0, 'focal': 2.0})
  assert set(detector.loss_terms(model, x, x)) == {'dice', 'focal'}


# Training ----------------------------------------------------------------------------------------


def batch(n=4, side=16):
  """Gray photos, each with a light line, and masks of the lines."""
  rng = np.random.default_rng(0)
  old = rng.normal(-0.3, 0.1, (n, side, side, 3)).astype(np.float32)
  mask = np.zeros((n, side, side, 1), np.float32)
  for i, row in enumerate(rng.integers(2, side - 2, n)):
    mask[i, row] = 1
  return {'old': np.where(mask > 0, 0.5, old).astype(np.float32), 'mask': mask}


def step_of(model, devices):
  mapped = jax.pmap(
    partial(detector.train_step, model),
    averaging.AXIS,
    in_axes=(None, None, 0, None),
    out_axes=None,
    devices=jax.devices()[:devices],
  )

  def step(state, batch):
    shards = {k: v.reshape(devices, -1, *v.shape[1:]) for k, v in batch.items()}
    return jax.device_get(mapped(state, {}, shards, None))

  return step


# Plain gradient steps, so that where sums are taken does not matter; shallow, to compile at once.
MODEL = detector.Detector(
  net=detector.DetectorUNet(width=4, depth=1),
  sync_batch_norm=True,
  ema=0.9,
  g_tx=optax.sgd(0.3, momentum=0.9),
)


@pytest.fixture(scope='module')
def trained():
  """(initial state, state and loss terms after a step, the same after many) on one batch."""
  initial = jax.device_get(jax.jit(partial(detector.init, MODEL))(jax.random.key(0)))
  step, data = step_of(MODEL, 1), batch()
  state, first = step(initial, data)
  once = state
  for _ in range(100):
    state, last = step(state, data)
  return initial, (once, first), (state, last)


def test_training_on_a_batch_finds_its_lines(trained):
  _, (_, first), (state, last) = trained
  assert set(last) == {'bce', 'dice', 'norm'}
  assert last['bce'] < 0.2 * first['bce'] and last['dice'] < 0.3 * first['dice']
  assert int(state.step) == 101
  evaluate = jax.jit(partial(detector.eval_step, MODEL))
  scores, shown = evaluate(state, {}, batch())
  assert float(scores['f1'].min()) > 0.8
  np.testing.assert_allclose(scores['damaged'], 1 / 16)
  blind = jax.tree.map(jnp.zeros_like, state)
  blind.ema['params']['conv_out']['bias'] -= 1
  nothing, _ = evaluate(blind, {}, batch())
  np.testing.assert_allclose(nothing['f1'], scores['f1_nothing'], rtol=1e-5)
  assert float(scores['f1_nothing'].max()) < 0.01
  assert {name: image.shape for name, image in shown.items()} == {
    name: (4, 16, 16, 3) for name in ('old', 'mask', 'found')
  }


def test_four_devices_take_the_step_of_one(float64):
  model = dataclasses.replace(MODEL, net=MODEL.net.clone(dtype=jnp.float64))
  initial = jax.device_get(jax.jit(partial(detector.init, model))(jax.random.key(0)))
  one, four = (step_of(model, devices)(initial, batch()) for devices in (1, 4))
  for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(four), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


def test_the_system_trains_from_its_config(tmp_path):
  config = get_config('tiny')
  config.workdir = str(tmp_path)

  class Noise:
    names = tuple(f'{i}.png' for i in range(4))

    def __len__(self):
      return 4

    def __getitem__(self, i):
      return np.random.default_rng(i).integers(0, 256, (40, 48, 3), np.uint8)

  photos = splits.Photos(train=Noise(), val=Noise(), test=None, old=None)
  stage = system.stages(config, photos, frozen.SHAPES)['detector']()
  step = parallel.train_step(stage.prepare, stage.train_step)
  state = parallel.replicate(jax.jit(stage.init)(jax.random.key(0)))
  batches = stage.batches()
  state, metrics = step(state, {}, parallel.shard(next(batches)), jax.random.key(1))
  batches.close()
  assert set(metrics) == {'bce', 'dice', 'focal', 'norm'}
  assert all(np.isfinite(value) for value in metrics.values())


@pytest.mark.parametrize(
  ('change', 'says'),
  [
    ({'data.crop': 33}, r'data\.crop is 33, .* multiples of 2 from 4 on'),
    ({'evaluate.crop': 2}, r'evaluate\.crop is 2'),
    ({'recipe': 'none'}, "no recipe 'none'"),
    ({'detector.weights': {'l1': 1.0}}, 'no loss term l1'),
    ({'data.old': 'photos'}, 'have no masks'),
  ],
)
def test_settings_that_cannot_work_are_sentences(change, says):
  config = get_config('tiny').unlock()
  config.update_from_flattened_dict(change)
  with pytest.raises(build.ConfigError, match=says):
    system.SYSTEM.check(config)


def test_distractors_are_drawn_and_not_marked():
  def none(key, clean):
    return recipes.Aged(clean, clean, jnp.zeros_like(clean[..., :1]))

  clean = jnp.zeros((64, 80, 3))

  @jax.jit
  def draw(lines, border):
    keys = jax.random.split(jax.random.key(0), 16)
    return jax.vmap(distractors.Distracted(none, lines, border), (0, None))(keys, clean)

  for lines, border in ((1.0, 0.0), (0.0, 1.0)):
    aged = draw(lines, border)
    changed = np.asarray(jnp.abs(aged.old).max(-1) > 0.05).mean((1, 2))
    assert (changed > 0.01).mean() > 0.8 and 0.02 < changed.mean() < 0.5
    assert not aged.mask.any()
  assert not draw(0.0, 0.0).old.any()


# Tiles -------------------------------------------------------------------------------------------


@pytest.fixture(scope='module')
def finder():
  """A network of random parameters with running statistics that are not those of a start."""
  variables = jax.jit(SMALL.init)(jax.random.key(0), jnp.zeros((1, 16, 16, 1)))
  rng = np.random.default_rng(0)
  params = {
    'params': jax.tree.map(lambda x: x + 0.2 * rng.normal(size=x.shape), variables['params']),
    'batch_stats': jax.tree.map(
      lambda x: x + 0.2 * rng.uniform(size=x.shape), variables['batch_stats']
    ),
  }
  params = jax.tree.map(np.float32, params)
  return detect.Detector(
    partial(detector.detect, detector.Detector(net=SMALL)), params, 4, 'random'
  )


def photo_of(height, width, dtype=np.uint8, gray=False):
  top = np.iinfo(dtype).max
  pixels = np.random.default_rng(0).integers(0, top, (height, width, 3), dtype, endpoint=True)
  return images.Photo(pixels[..., :1].repeat(3, -1) if gray else pixels, gray=gray)


def test_tiles_equal_the_whole_photo_away_from_their_edges(finder):
  photo = photo_of(256, 512)
  values = images.to_float(photo)
  whole = detect.marker(finder, [photo.size])(values)
  tiled = detect.marker(finder, [photo.size], tile=256, overlap=96)(values)
  assert whole.shape == tiled.shape == (256, 512, 1) and whole.dtype == np.float32
  # Depth 2 looks 3 + 11 * (1 + 2) + 1 pixels far: beyond that of a tile's edge both see the same.
  reach = 3 + 11 * 3 + 1
  spans = tiles.spans(512, 256, 96)
  same = np.zeros(512, bool)
  for x in range(512):
    inside = [(a, b) for a, b in spans if a <= x < b]
    same[x] = all((a == 0 or x - a >= reach) and (b == 512 or b - x > reach) for a, b in inside)
  assert same.mean() > 0.3
  np.testing.assert_allclose(tiled[:, same], whole[:, same], atol=1e-5)
  assert np.abs(tiled - whole).max() < 0.5


def test_any_photo_gets_a_soft_mask_of_its_size(finder):
  marked = detect.marker(finder, [(130, 70)], tile=256)
  mark = lambda photo: marked(images.to_float(photo))
  eight = photo_of(130, 70)
  mask = mark(eight)
  assert mask.shape == (130, 70, 1) and 0 <= mask.min() < mask.max() <= 1
  sixteen = images.Photo(eight.pixels.astype(np.uint16) * 257)
  np.testing.assert_allclose(mark(sixteen), mask, atol=1e-5)
  assert mark(photo_of(33, 21, gray=True)).shape == (33, 21, 1)


# Scores ------------------------------------------------------------------------------------------


def test_scores_equal_their_definitions():
  rng = np.random.default_rng(0)
  masks = rng.uniform(size=(3, 20, 30, 1)) > 0.8
  found = np.clip(0.4 * masks + rng.uniform(size=masks.shape) * 0.6, 0, 1).astype(np.float32)
  counts = np.stack([detection.count(f, m) for f, m in zip(found, masks)])
  curve = detection.curve(counts)
  for i, threshold in enumerate(detection.THRESHOLDS):
    marked = found >= np.float32(threshold)
    both = (marked & masks).sum()
    assert curve.precision[i] == (both / marked.sum() if marked.any() else 1)
    assert curve.recall[i] == both / masks.sum()
    np.testing.assert_allclose(curve.f1[i], 2 * both / (marked.sum() + masks.sum()))
    np.testing.assert_allclose(curve.iou[i], both / (marked | masks).sum())
  assert (curve.photos, curve.damaged) == (3, masks.mean())
  # Average precision from the definition, over all distinct values.
  order = np.argsort(-found.ravel())
  hit = masks.ravel()[order]
  exact = (np.cumsum(hit) / np.arange(1, hit.size + 1))[hit].mean()
  assert abs(curve.average_precision - exact) < 2e-3
  low, high = detection.spread(counts, curve.best_threshold)
  assert low <= curve.f1.max() <= high


def test_scores_of_a_perfect_and_of_a_blind_detector():
  mask = np.zeros((8, 8, 1))
  mask[2] = 1
  perfect = detection.curve(detection.count(mask, mask)[None])
  assert perfect.f1.min() == perfect.iou.min() == perfect.average_precision == 1
  blind = detection.curve(detection.count(0 * mask, mask)[None])
  assert blind.f1.max() == blind.recall.max() == 0 and blind.precision.min() == 1


def test_scores_refuse_what_has_no_answer():
  zeros = np.zeros((4, 4, 1))
  with pytest.raises(ValueError, match='nothing to find'):
    detection.curve(detection.count(zeros, zeros)[None])
  with pytest.raises(ValueError, match='shape'):
    detection.count(zeros, zeros[1:])
  with pytest.raises(ValueError, match='probabilities must be in'):
    detection.count(zeros + np.nan, zeros)


def test_evaluation_writes_tables_and_sheets(weights_file, tmp_path, monkeypatch):
  config = get_config('tiny')
  config.workdir = str(tmp_path)
  monkeypatch.setattr(splits, 'photos', lambda *_: splits.Photos(Small(), Small(), Small(), None))
  shutil.copy(weights_file, tmp_path / weights.FILE)
  said = system.evaluate(config)
  assert said == (tmp_path / 'evaluation.md').read_text()
  (row,) = json.loads((tmp_path / 'evaluation.json').read_text())['sets']
  assert (row['set'], row['photos'], len(row['f1'])) == ('report', 2, 19)
  assert '| report | 2 |' in said and (tmp_path / 'evaluation_report.png').is_file()


class Small:
  """Two photos."""

  names = ('a.png', 'b.png')

  def __len__(self):
    return 2

  def __getitem__(self, i):
    return np.random.default_rng(i).integers(0, 256, (64, 80, 3), np.uint8)


# Weights -----------------------------------------------------------------------------------------


@pytest.fixture(scope='module')
def weights_file(trained, tmp_path_factory):
  _, _, (state, _) = trained
  path = tmp_path_factory.mktemp('weights') / weights.FILE
  saved = weights.Weights('detector', detector.sizes(MODEL), jax.device_get(state.released))
  weights.save(path, saved, card={})
  return path


def test_saved_weights_mark_as_those_in_memory(trained, weights_file):
  _, _, (state, _) = trained
  loaded = weights.load_detector(weights_file.parent)
  old = batch()['old']
  apply = jax.jit(loaded.apply)
  expected = jax.jit(partial(detector.detect, MODEL))(state.released, old)
  jax.tree.map(np.testing.assert_array_equal, loaded.params, jax.device_get(state.released))
  np.testing.assert_allclose(apply(loaded.params, old), expected, atol=1e-6)
  assert loaded.name.startswith('detector weights.safetensors ') and loaded.multiple == 2


def test_the_two_kinds_of_weights_are_told_apart(weights_file, tmp_path, capsys):
  Image.new('RGB', (16, 16)).save(tmp_path / 'a.png')
  words = [str(tmp_path / 'a.png'), '-o', str(tmp_path / 'out'), '--weights']
  assert cli.main(['restore', *words, str(weights_file)]) == 2
  assert 'holds a detector, which marks damage but restores nothing' in capsys.readouterr().err
  from oldphoto_jax.models import pix2pix

  like = pix2pix.sizes(
    pix2pix.Pix2Pix(generator=pix2pix.gan_networks.GanUNet(4, 2, dropout_levels=()))
  )
  net = pix2pix.from_sizes(like)
  params = jax.tree.map(
    lambda x: np.zeros(x.shape),
    jax.eval_shape(partial(pix2pix.init, net), jax.random.key(0)).released,
  )
  weights.save(tmp_path / 'other', weights.Weights('pix2pix', like, params), card={})
  assert cli.main(['detect', *words, str(tmp_path / 'other')]) == 2
  assert 'restores photos, without a detector' in capsys.readouterr().err


def test_the_official_checkpoint_imports(official, tmp_path, capsys):
  torch = pytest.importorskip('torch')
  _, state = official
  tensors = {k: torch.tensor(v) for k, v in state.items() if 'num_batches' not in k}
  path, out = tmp_path / 'FT_Epoch_latest.pt', tmp_path / 'detector.safetensors'
  torch.save({'model_state': tensors, 'epoch': 3}, path)
  assert cli.main(['import', 'bopbtl-detector', str(path), '-o', str(out)]) == 0
  assert 'detect with --weights' in capsys.readouterr().out
  loaded = weights.load_detector(out)
  jax.tree.map(np.testing.assert_array_equal, loaded.params, bopbtl.read_detector(state))

  def refused(says, file):
    torch.save(file, path)
    assert cli.main(['import', 'bopbtl-detector', str(path), '-o', str(out)]) == 2
    assert says in capsys.readouterr().err

  refused("lacks 'model_state'", tensors)
  lacking = {k: v for k, v in tensors.items() if k != 'down_path.0.block.2.running_var'}
  refused("no 'down_path.0.block.2.running_var'", {'model_state': lacking})
  refused('no place for more', {'model_state': tensors | {'more': tensors['last.1.bias']}})
  blur = {'down_sample.1.4.filt': 2 * tensors['down_sample.1.4.filt']}
  refused('down_sample.1.4.filt is not the blur', {'model_state': tensors | blur})
  cli.main(['import', 'bopbtl-detector', str(tmp_path / 'no'), '-o', str(out)])
  assert 'there is no file' in capsys.readouterr().err


# oldphoto detect ---------------------------------------------------------------------------------


@pytest.fixture
def photos(tmp_path):
  """A folder: a damaged photo of 16 bits, a gray one in a folder, and a file that is none."""
  data = batch(2, 64)
  folder = tmp_path / 'in'
  (folder / 'sub').mkdir(parents=True)
  levels = np.rint((data['old'] + 1) * 32767.5).astype(np.uint16)
  images.write(images.Photo(levels[0]), folder / 'a.tif')
  gray = (levels[1, ..., :1] // 257).astype(np.uint8).repeat(3, -1)
  images.write(images.Photo(gray, gray=True), folder / 'sub' / 'b.jpg')
  (folder / 'c.png').write_bytes(b'')
  return folder, data['mask'][..., 0]


def test_detect_writes_masks_overlays_and_a_report(photos, weights_file, tmp_path, capsys):
  folder, truth = photos
  before = {path: path.read_bytes() for path in folder.rglob('*.*')}
  out = tmp_path / 'out'
  words = ['detect', str(folder), '-o', str(out), '--weights', str(weights_file)]
  assert cli.main(words) == 1
  said = capsys.readouterr()
  assert 'c.png: the file is empty.' in said.err
  assert '2 marked, 0 kept, 1 failed' in said.out
  for name, true in (('a', truth[0]), ('sub/b', truth[1])):
    mask = images.read(out / 'masks' / f'{name}.png')
    assert mask.gray and mask.bits == 8 and mask.size == true.shape
    found = mask.pixels[..., 0] / 255
    assert detection.curve(detection.count(found, true)[None]).f1.max() > 0.6  # chance: 0.03
    red = images.read_rgb8(out / 'overlays' / f'{name}.jpg').astype(int)
    difference = red[..., 0] - red[..., 1]
    assert difference[found > 0.9].mean() > 100 > 30 > np.abs(difference[found < 0.1]).mean()
  report = json.loads((out / 'report.json').read_text())
  assert [photo['status'] for photo in report['photos']] == ['marked', 'failed', 'marked']
  assert 0 < report['photos'][0]['damaged'] < 0.1
  assert {path: path.read_bytes() for path in folder.rglob('*.*')} == before

  # What is there is kept; what is missing of a photo is made.
  (out / 'overlays' / 'a.jpg').unlink()
  stamp = (out / 'masks' / 'a.png').stat().st_mtime_ns
  cli.main(words)
  assert '1 marked, 1 kept, 1 failed' in capsys.readouterr().out
  assert (out / 'overlays' / 'a.jpg').is_file()
  assert (out / 'masks' / 'a.png').stat().st_mtime_ns == stamp

  cli.main([*words, '--overwrite', '--threshold', '0.5'])
  hard = images.read(out / 'masks' / 'a.png').pixels
  assert set(np.unique(hard)) == {0, 255}


def test_detect_refuses_what_it_cannot_do_with_a_sentence(photos, weights_file, tmp_path, capsys):
  folder, _ = photos
  w = str(weights_file)
  for words, says in [
    ([folder / 'no.png', '-o', tmp_path / 'out', '--weights', w], 'no such file'),
    ([folder, '-o', folder / 'a.tif', '--weights', w], 'must be a folder'),
    ([folder, '-o', tmp_path / 'out', '--weights', tmp_path], 'the run has not finished'),
    ([folder, '-o', tmp_path / 'out', '--weights', w, '--threshold', '1'], 'between 0 and 1'),
    ([folder, '-o', tmp_path / 'out', '--weights', w, '--tile', '128'], '256 or more'),
  ]:
    try:
      code = cli.main(['detect', *map(str, words)])
    except SystemExit as error:
      code = error.code
    assert code == 2
    assert says in capsys.readouterr().err
  assert not (tmp_path / 'out').exists()


def test_the_classical_filter_finds_what_is_thin():
  from benchmarks.detector import evaluate

  photo = np.full((48, 60, 3), -0.2, np.float32)
  photo[20:22] = 0.8  # 128 levels lighter, two pixels wide
  photo[:, 40:43] = -0.7  # half of that darker
  photo[28:, 4:30] = 0.8  # too wide for the filter
  found = evaluate.top_hat(photo)[..., 0]
  np.testing.assert_allclose(found[20:22, 5:35], 1, atol=0.01)
  np.testing.assert_allclose(found[2:15, 40:43], 0.5, atol=0.01)
  assert found[:10, 5:35].max() == 0 and found[36:40, 10:24].max() == 0
