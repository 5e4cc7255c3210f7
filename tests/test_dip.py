"""Deep Image Prior: the iteration, its stopping rules, fits of many photos, checkpoints."""

import dataclasses
import functools
import runpy
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT, count_parameters

from oldphoto_jax.dip import presets, prior
from oldphoto_jax.dip.fit import Fit, _programs, _split, _stack, canvas, fit_photos
from oldphoto_jax.dip.fit_files import paste, shrink
from oldphoto_jax.dip.fit_time import Speed, check_time, estimate, measure
from oldphoto_jax.dip.networks import ResNet, Skip
from oldphoto_jax.dip.prior import Dip, Emv, Photo
from oldphoto_jax.systems import dip

get_config = runpy.run_path(str(ROOT / 'configs' / 'dip.py'))['get_config']

# Small, and with a stop after some 20 to 50 iterations, different for each photo.
NET = ResNet(4, 0)
STOP = Emv(alpha=0.6, burn_in=10, patience=3)
SETTINGS = Dip(NET, input_depth=4, learning_rate=0.02, iterations=60, stop=STOP)

KEY = jax.random.key(0)


def picture(height=16, width=16, channels=3, seed=0):
  """Smooth colours and noise of standard deviation 0.1, in [0, 1]: (photo, truth)."""
  y, x = np.mgrid[:height, :width] / 16
  truth = np.stack([0.5 + 0.3 * np.sin(2 * x + c + y * (seed + 1)) for c in range(channels)], -1)
  noise = np.random.default_rng(seed).normal(0, 0.1, truth.shape)
  return np.clip(truth + noise, 0, 1).astype(np.float32), truth.astype(np.float32)


def as_photo(image, truth=None, known=None):
  ones = jnp.ones((*image.shape[:2], 1))
  known = ones if known is None else known
  return Photo(jnp.asarray(image), known, ones, None if truth is None else jnp.asarray(truth))


@functools.cache
def drawn(size=16):
  """The first parameters and z for every fit with SETTINGS' network."""
  photo = as_photo(np.zeros((size, size, 3)))
  return jax.jit(partial(prior.draw, SETTINGS))(photo, jax.random.key(3))


def run(settings, photo, iterations):
  state = prior.start(settings, *drawn())
  return jax.jit(partial(prior.run, settings, iterations))(photo, jax.random.key(3), state)


@functools.cache
def program(function, settings):
  return jax.jit(partial(function, settings))


apply = jax.jit(NET.apply)


@pytest.fixture(scope='module')
def outputs():
  """The outputs that the first 30 iterations on `picture` see, from a Python loop."""
  settings = dataclasses.replace(SETTINGS, stop=None)
  photo, state, images = as_photo(picture()[0]), prior.start(settings, *drawn()), []
  for _ in range(30):
    images.append(np.asarray(apply({'params': state.params}, state.z[None])[0]))
    state, _ = program(prior.step, settings)(photo, jax.random.key(3), state)
  return images


# Loss -------------------------------------------------------------------------------------------


def test_unknown_pixels_have_no_gradient():
  rng = np.random.default_rng(0)
  image, output = (rng.uniform(size=(6, 5, 3)).astype(np.float32) for _ in range(2))
  known = (rng.uniform(size=(6, 5, 1)) > 0.4).astype(np.float32)
  photo = as_photo(image, known=jnp.asarray(known))
  loss, gradient = jax.value_and_grad(prior.masked_loss)(jnp.asarray(output), photo)
  assert loss == pytest.approx(np.mean((known * output - known * image) ** 2), rel=1e-5)
  np.testing.assert_array_equal(gradient != 0, np.broadcast_to(known == 1, image.shape))
  changed = photo.replace(image=jnp.where(known == 1, image, 7.0))
  assert prior.masked_loss(output, changed) == loss


def test_padding_counts_in_no_mean():
  image, _ = picture(6, 5)
  output = np.full_like(image, 0.3)
  pad = lambda x: jnp.pad(x, ((0, 2), (0, 3), (0, 0)), constant_values=0)
  padded = jax.tree.map(pad, as_photo(image))
  loss = prior.masked_loss(pad(output) + 0.1 * (1 - padded.real), padded)
  assert loss == pytest.approx(float(prior.masked_loss(output, as_photo(image))), rel=1e-5)


# Downsampling -----------------------------------------------------------------------------------


def test_lanczos_equals_the_reference(fixture):
  arrays = fixture('dip_lanczos')
  for name in ('square', 'wide'):
    image = arrays[f'input/{name}'][0].transpose(1, 2, 0)
    small = np.asarray(prior.downsample(image, 4)).transpose(2, 0, 1)
    expected = arrays[f'output/{name}'][0]
    assert np.abs(small - expected).max() <= 1e-4 * np.abs(expected).max()
  inner = prior.lanczos_matrix(64, 4)[5]
  kernel = np.outer(inner, inner)[14:30, 14:30]
  np.testing.assert_allclose(kernel, arrays['output/kernel'], atol=1e-6)


def test_lanczos_by_8_keeps_constants_and_ramps():
  matrix = prior.lanczos_matrix(64, 8)
  assert matrix.shape == (8, 64)
  np.testing.assert_allclose(matrix.sum(1), 1, rtol=1e-5)
  # The middle of the 8 pixels under each of the inner outputs.
  np.testing.assert_allclose((matrix @ np.arange(64))[2:-2], np.arange(2, 6) * 8 + 3.5, rtol=1e-5)


# Stopping ---------------------------------------------------------------------------------------


def naive_emv(images, alpha, burn_in, patience):
  mean, variance, best, best_t, curve = images[0], 0.0, np.inf, 0, []
  for t, x in enumerate(images, 1):
    d = x - mean
    mean = mean + alpha * d
    variance = (1 - alpha) * (variance + alpha * np.mean(d * d))
    curve.append(variance)
    if t <= burn_in:
      best_t = t
    elif variance < best:
      best, best_t = variance, t
    elif t - best_t >= patience:
      break
  return curve, best_t


def test_stopping_equals_a_naive_loop(outputs):
  stop = Emv(0.6, 10, 4)
  image, truth = picture()
  settings = dataclasses.replace(SETTINGS, stop=stop)
  photo = as_photo(image, truth)
  expected, best_t = naive_emv(outputs, *dataclasses.astuple(stop))

  state, curve = run(settings, photo, 30)
  t = int(state.t)
  assert state.done and t < 30, 'the test needs a stop before the end'
  assert t == len(expected) and int(state.best_t) == best_t
  variance = np.asarray(curve['variance'])
  np.testing.assert_allclose(variance[:t], expected, rtol=1e-3)
  assert np.isnan(variance[t:]).all() and np.isnan(curve['loss'][t:]).all()
  best = program(prior.result, SETTINGS)(state)
  np.testing.assert_allclose(best, outputs[best_t - 1], atol=1e-4)
  psnr = -10 * np.log10(np.mean((outputs[best_t - 1] - truth) ** 2))
  assert float(curve['psnr'][best_t - 1]) == pytest.approx(psnr, abs=1e-3)
  assert prior.detect(variance[:t], stop) == (best_t, t)


def test_detect_finds_the_stop_in_a_longer_curve():
  curve = np.array([9, 8, 0.1, 5, 4, 3, 6, 7, 6, 6, 1.0])
  assert prior.detect(curve, Emv(burn_in=3, patience=3)) == (6, 9)
  assert prior.detect(curve, Emv(burn_in=3, patience=30)) == (11, 11)
  assert prior.detect(curve[:3], Emv(burn_in=10)) == (3, 3)


def test_without_a_rule_the_last_output_is_the_result(outputs):
  image, _ = picture()
  settings = dataclasses.replace(SETTINGS, stop=None, iterations=8)
  state, curve = run(settings, as_photo(image), 10)
  assert set(curve) == {'loss'} and int(state.t) == int(state.best_t) == 8
  np.testing.assert_allclose(program(prior.result, SETTINGS)(state), outputs[7], atol=1e-5)


def test_noise_is_fitted_last_and_the_stop_comes_before():
  rng = np.random.default_rng(0)
  truth = np.full((24, 24, 3), 0.4, np.float32)
  image = np.clip(truth + rng.normal(0, 0.15, truth.shape), 0, 1).astype(np.float32)
  stop = Emv(burn_in=20, patience=60)
  settings = Dip(ResNet(8, 1), input_depth=4, iterations=300, stop=stop, reg_noise_std=1 / 30)
  photo, key = as_photo(image, truth), jax.random.key(3)
  state = program(prior.init, settings)(photo, key)
  state, curve = jax.jit(partial(prior.run, settings, 300))(photo, key, state)
  t, best_t, psnr = int(state.t), int(state.best_t), np.asarray(curve['psnr'])
  assert t < 300
  assert np.nanargmax(psnr) + 1 < t and np.nanmax(psnr) > psnr[t - 1] + 3
  noisy = -10 * np.log10(np.mean((image - truth) ** 2))
  assert psnr[best_t - 1] > noisy + 5


# Options ----------------------------------------------------------------------------------------


def test_ema_is_the_result_and_starts_from_the_first_output(outputs):
  image, truth = picture()
  settings = dataclasses.replace(SETTINGS, stop=None, ema=0.9, iterations=4)
  state, curve = run(settings, as_photo(image, truth), 4)
  average = outputs[0]
  for x in outputs[1:4]:
    average = 0.9 * average + 0.1 * x
  np.testing.assert_allclose(prior.result(settings, state), average, atol=1e-5)
  psnr = -10 * np.log10(np.mean((average - truth) ** 2))
  assert float(curve['psnr'][-1]) == pytest.approx(psnr, abs=1e-3)


def test_reg_noise_is_fresh_and_the_result_comes_from_the_clean_z():
  image, _ = picture()
  settings = dataclasses.replace(SETTINGS, stop=None, learning_rate=0.0, reg_noise_std=0.1)
  state, curve = run(settings, as_photo(image), 3)
  assert len(set(np.asarray(curve['loss']).tolist())) == 3
  params, z = drawn()
  np.testing.assert_array_equal(state.z, z)
  clean = apply({'params': params}, z[None])[0]
  np.testing.assert_allclose(program(prior.result, SETTINGS)(state), clean, atol=1e-6)


def test_param_noise_moves_the_kernels_alone():
  settings = dataclasses.replace(SETTINGS, learning_rate=0.0, stop=None, param_noise=True)
  state, _ = run(settings, as_photo(picture()[0]), 1)
  old, new = (jax.tree.map(np.asarray, params) for params in (drawn()[0], state.params))
  kernels = 0
  for a, b in zip(jax.tree.leaves(old), jax.tree.leaves(new)):
    if a.ndim == 4:
      assert (b - a).std() == pytest.approx(a.std() / 50, rel=0.3)
      kernels += 1
    else:
      np.testing.assert_array_equal(a, b)
  assert kernels == 3


def test_inputs():
  photo = as_photo(picture(6, 8)[0])
  z = lambda settings: np.asarray(jax.jit(lambda key: prior.draw(settings, photo, key)[1])(KEY))
  mesh = z(Dip(ResNet(4, 0), input='meshgrid', input_depth=2))
  np.testing.assert_allclose(mesh[:, :, 0], np.tile(np.linspace(0, 1, 8), (6, 1)), atol=1e-6)
  np.testing.assert_allclose(mesh[:, :, 1].T, np.tile(np.linspace(0, 1, 6), (8, 1)), atol=1e-6)
  noise = z(Dip(ResNet(4, 0), input_depth=5))
  assert noise.shape == (6, 8, 5) and noise.min() >= 0 and 0.09 < noise.max() <= 0.1


def test_wrong_settings_raise_a_sentence():
  for wrong, message in (
    ({'input': 'flash'}, 'meshgrid'),
    ({'input': 'meshgrid'}, 'input_depth 2'),
    ({'factor': 3}, 'even'),
    ({'ema': 1.0}, 'ema'),
  ):
    with pytest.raises(ValueError, match=message):
      Dip(NET, **wrong)
  with pytest.raises(ValueError, match='out_channels'):
    fit_photos(SETTINGS, [np.zeros((16, 16, 1))], None, KEY)


def test_variants_have_the_nets_and_numbers_of_the_notebooks():
  counts = {
    'report': 158_979,
    'denoise': 2_217_831,
    'inpaint': 3_002_627,
    'hole': 2_157_955,
    'library': 1_616_315,
  }
  photo = jax.eval_shape(lambda: as_photo(jnp.zeros((64, 64, 3))))
  key = jax.eval_shape(lambda: KEY)
  for variant, count in counts.items():
    settings = dip.settings(get_config(variant), 3)
    state = jax.eval_shape(partial(prior.init, settings), photo, key)
    assert state.z.shape == (64, 64, settings.input_depth)
    assert count_parameters(state.params) == count
  eight = dip.settings(get_config('superres8'), 1)
  assert (eight.factor, eight.iterations, eight.net.out_channels) == (8, 4000, 1)


# Many photos ------------------------------------------------------------------------------------


@pytest.fixture(scope='module')
def photos():
  """Three photos of two sizes in [-1, 1] with masks and truths, and their fits."""
  pairs = [picture(16, 16, seed=0), picture(12, 14, seed=1), picture(16, 16, seed=2)]
  masks = [None, np.zeros((12, 14)), np.zeros((16, 16, 3))]
  masks[1][3:6], masks[2][:, 5:9, 1] = 1, 0.5
  data = {
    'photos': [2 * image - 1 for image, _ in pairs],
    'masks': masks,
    'truths': [2 * truth - 1 for _, truth in pairs],
  }
  fits = fit_photos(SETTINGS, key=KEY, chunk=20, devices=jax.devices()[:2], **data)
  return data, fits


def same(a: Fit, b: Fit, tolerance=0.0):
  assert (a.chosen, a.iterations) == (b.chosen, b.iterations)
  np.testing.assert_allclose(a.image, b.image, atol=tolerance)
  for name in a.curve:
    np.testing.assert_allclose(a.curve[name], b.curve[name], rtol=10 * tolerance)


def test_each_photo_has_its_own_stop(photos):
  data, fits = photos
  assert len({fit.iterations for fit in fits}) == 3
  for fit, photo, truth in zip(fits, data['photos'], data['truths']):
    assert fit.image.shape == photo.shape and fit.image.dtype == np.float32
    assert fit.chosen <= fit.iterations and len(fit.curve['loss']) == fit.iterations
    for curve in fit.curve.values():
      assert np.isfinite(curve).all()
    assert (fit.chosen, fit.iterations) == prior.detect(fit.curve['variance'], STOP)
    # In [0, 1] the error is half; the padding has no part in it.
    psnr = -10 * np.log10(np.mean((fit.image - truth) ** 2) / 4)
    assert fit.curve['psnr'][fit.chosen - 1] == pytest.approx(psnr, abs=1e-3)
    assert fit.lost == fit.curve['psnr'].max() - fit.curve['psnr'][fit.chosen - 1] >= 0


def test_a_photo_of_many_equals_the_same_alone(photos):
  data, fits = photos
  image, known = np.zeros((16, 16, 3)), np.zeros((16, 16, 1))
  real, truth = np.zeros((16, 16, 1)), np.zeros((16, 16, 3))
  image[:12, :14] = (data['photos'][1] + 1) / 2
  known[:12, :14, 0] = 1 - data['masks'][1]
  real[:12, :14], truth[:12, :14] = 1, (data['truths'][1] + 1) / 2
  photo = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), Photo(image, known, real, truth))
  key = jax.random.fold_in(KEY, 1)
  state = program(prior.init, SETTINGS)(photo, key)
  state, curve = jax.jit(partial(prior.run, SETTINGS, 60))(photo, key, state)
  t = int(state.t)
  alone = 2 * np.asarray(program(prior.result, SETTINGS)(state))[:12, :14] - 1
  curve = {name: np.asarray(value)[:t] for name, value in curve.items()}
  same(Fit(alone, int(state.best_t), t, curve), fits[1], 1e-4)


def test_at_once_equals_in_turn(photos):
  # Another number of devices and another length of the chunks, too.
  data, fits = photos
  at_once = fit_photos(
    SETTINGS, key=KEY, chunk=15, devices=jax.devices()[:1], together=True, **data
  )
  for a, b in zip(at_once, fits):
    same(a, b, 1e-4)


def test_resumed_equals_uninterrupted(photos, tmp_path):
  data, fits = photos
  seen = []

  def stop_after_the_first(progress):
    seen.append(progress)
    raise KeyboardInterrupt

  fit = partial(fit_photos, SETTINGS, chunk=20, folder=tmp_path, save_every=1, **data)
  two = jax.devices()[:2]
  with pytest.raises(KeyboardInterrupt):
    fit(key=KEY, devices=two, on_chunk=stop_after_the_first)
  assert seen[0].t.tolist() == [min(20, fit.iterations) for fit in fits]
  assert seen[0].curve['loss'].shape == (3, 20) and not seen[0].done.all()

  seen.clear()
  for a, b in zip(fit(key=KEY, devices=two, on_chunk=seen.append), fits):
    same(a, b)
  assert len(seen) == -(-max(fit.iterations for fit in fits) // 20) - 1, 'it began from nothing'
  seen.clear()
  for a, b in zip(fit(key=KEY, devices=two, on_chunk=seen.append), fits):
    same(a, b)
  assert not seen, 'a finished fit runs no more'

  with pytest.raises(ValueError, match='different key'):
    fit(key=jax.random.key(1), devices=two)
  with pytest.raises(ValueError, match='different photos, masks or truths'):
    fit(key=KEY, devices=two, masks=None)


def test_state_is_donated(photos):
  data, _ = photos
  two = tuple(jax.devices()[:2])
  init, run, _ = _programs(SETTINGS, 20, two, False)
  stacked = _stack(SETTINGS, data['photos'], data['masks'], data['truths'])
  parts, keys = _split((stacked, jax.random.split(KEY, 3)), two)
  state = init(parts, keys)
  run(parts, keys, state)
  assert all(leaf.is_deleted() for leaf in jax.tree.leaves((state.params, state.optimiser)))
  assert not parts.image.is_deleted()


def test_wrong_photos_raise_a_sentence():
  photo = np.zeros((16, 16, 3))
  for photos, masks, message in (
    ([], None, 'at least one'),
    ([photo], [], '0 masks'),
    ([photo[..., 0]], None, 'give'),
    ([photo], [np.zeros((16, 8))], 'mask 0'),
    ([photo], [np.ones((16, 16))], 'nothing of the photo'),
    ([photo, photo[..., :1]], None, 'channels'),
  ):
    with pytest.raises(ValueError, match=message):
      fit_photos(SETTINGS, photos, masks, KEY)
  with pytest.raises(ValueError, match='truth 0'):
    fit_photos(SETTINGS, [photo], None, KEY, truths=[photo[:8]])


def test_canvas_is_a_multiple_that_the_network_takes():
  skip = Dip(Skip((8,) * 5, (8,) * 5, (4,) * 5, ('nearest',) * 5))
  assert canvas(skip, [(64, 65), (33, 40)]) == (64, 96)
  assert canvas(dataclasses.replace(skip, factor=8), [(64, 65)]) == (64, 68)
  assert canvas(SETTINGS, [(5, 9), (7, 3)]) == (7, 9)


def test_super_resolution_of_a_gray_photo():
  _, truth = picture(24, 16, channels=1)
  photo = np.asarray(prior.downsample(truth, 4))
  # Coordinates as z: a net without downsampling fills the pixels between with noise of z.
  net = ResNet(4, 0, out_channels=1)
  settings = Dip(net, input='meshgrid', input_depth=2, iterations=60, stop=None, factor=4)
  fit = fit_photos(settings, [2 * photo - 1], None, KEY, truths=[2 * truth - 1], chunk=60)[0]
  assert fit.image.shape == truth.shape
  assert fit.curve['loss'][-1] < 0.2 * fit.curve['loss'][0]
  assert fit.curve['psnr'][-1] > fit.curve['psnr'][0] + 3


# Large photos -----------------------------------------------------------------------------------


def test_shrink_takes_nothing_from_the_damage():
  photo = np.full((40, 60, 3), 0.5, np.float32)
  mask = np.zeros((40, 60, 1), np.float32)
  mask[:, 20:32] = 1
  damaged = np.where(mask == 1, 1.0, photo)
  small, small_mask = shrink(damaged, mask, 15)
  assert small.shape == (10, 15, 3) and small_mask.shape == (10, 15, 1)
  np.testing.assert_allclose(small[small_mask[..., 0] < 0.999], 0.5, atol=1e-5)
  assert small_mask[:, 6].min() > 0.99 and small_mask[:, 10:].max() < 1e-6
  assert shrink(damaged, mask, 60)[0] is damaged


def test_paste_changes_the_damage_alone():
  rng = np.random.default_rng(0)
  photo = rng.uniform(-1, 1, (20, 30, 3)).astype(np.float32)
  mask = np.zeros((20, 30, 1), np.float32)
  mask[4:9, 6:20] = 1
  pasted = paste(photo, mask, np.full((10, 15, 3), 0.25, np.float32))
  np.testing.assert_array_equal(pasted[mask[..., 0] == 0], photo[mask[..., 0] == 0])
  np.testing.assert_allclose(pasted[mask[..., 0] == 1], 0.25, atol=1e-6)


def test_time_is_told_and_limited():
  settings = presets.denoise()
  speed = Speed(2.0, 256, 256)
  assert estimate(settings, speed, 256, 256) == 6000
  assert estimate(settings, speed, 512, 500) == 4 * 6000
  assert '1.7 h' in check_time(settings, speed, 256, 256, limit=7000)
  with pytest.raises(ValueError, match='over the limit of 30 min; reduce its longer side to 128'):
    check_time(settings, speed, 1024, 768, limit=1800)
  with pytest.raises(ValueError, match='fewer iterations'):
    check_time(settings, speed, 1024, 768, limit=1)
  measured = measure(SETTINGS, 12, 20)
  assert (measured.height, measured.width) == (12, 20) and measured.seconds > 0


def test_the_command_has_the_settings_of_the_config():
  for make in (presets.small, presets.denoise, presets.inpaint):
    assert dip.settings(get_config(make.__name__), 1) == make(1)
  assert get_config() == get_config('small')
  assert dip.settings(get_config('report'), 3).stop is None
