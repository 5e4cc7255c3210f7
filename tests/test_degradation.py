"""Photographic damage against Pillow, libjpeg and slow NumPy; what the recipes promise."""

import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import skimage.data
from PIL import Image

from oldphoto_jax.degradation import names, photographic
from oldphoto_jax.degradation.examples import each
from oldphoto_jax.degradation.recipes import (
  Ageing,
  Holes,
  Mixture,
  Report,
  Wan2020,
  degrade_batch,
  line_mask,
)
from oldphoto_jax.errors import ConfigError

RECIPES = [Wan2020(), Report(), Ageing()]

# Compiled once for the whole file; recipes are hashable.
age = jax.jit(degrade_batch, static_argnums=0)
blur = jax.jit(photographic.gaussian_blur)
low_resolution = jax.jit(photographic.low_resolution)
jpeg = jax.jit(photographic.jpeg)
draw_lines = jax.jit(line_mask, static_argnums=(2, 3))


def to_float(image):
  return jnp.asarray(image.astype(np.float32) / 127.5 - 1)


def to_uint8(photo):
  return np.asarray(jnp.round((photo + 1) * 127.5)).astype(np.uint8)


@pytest.fixture(scope='module')
def image():
  return np.ascontiguousarray(skimage.data.astronaut()[20:117, 130:235])  # 97 × 105: odd sides


@pytest.fixture(scope='module')
def batch():
  """[24, 40, 48, 3]: eight times the same three photos."""
  images = [skimage.data.astronaut(), skimage.data.chelsea(), skimage.data.coffee()]
  return jnp.stack([to_float(image[40:80, 150:198]) for image in images] * 8)


def keys(seed):
  return jax.random.split(jax.random.key(seed), 24)


def flat(value, side=256):
  return jnp.full((side, side, 3), value / 127.5 - 1, jnp.float32)


@pytest.mark.parametrize(('size', 'sigma'), [(3, 1.0), (5, 2.4), (7, 5.0)])
def test_gaussian_blur_is_a_windowed_mean_with_mirrored_border(image, size, sigma):
  image = image[:12, :15]
  radius = size // 2
  weight = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
  weight = np.outer(weight, weight) / weight.sum() ** 2
  padded = np.pad(image.astype(float), ((radius, radius), (radius, radius), (0, 0)), 'reflect')
  expected = np.zeros(image.shape)
  for y in range(image.shape[0]):
    for x in range(image.shape[1]):
      window = padded[y : y + size, x : x + size]
      expected[y, x] = (window * weight[..., None]).sum((0, 1))
  blurred = blur(to_float(image), size, sigma)
  np.testing.assert_array_equal(to_uint8(blurred), np.floor(expected + 0.5))


@pytest.mark.parametrize('nearest', [True, False])
@pytest.mark.parametrize('size', [(49, 53), (97, 105), (61, 89), (79, 53)])
def test_low_resolution_equals_pillow(image, size, nearest):
  # One axis a call: Pillow 13 chooses the order of the two by itself. Odd sizes, because at even
  # ones a nearest pixel may be a tie, which Pillow's running sum of doubles breaks either way.
  height, width = size
  photo = Image.fromarray(image)
  small = photo.resize((width, photo.height), Image.BICUBIC).resize((width, height), Image.BICUBIC)
  back = Image.NEAREST if nearest else Image.BILINEAR
  large = small.resize((photo.width, height), back).resize(photo.size, back)
  low = low_resolution(to_float(image), height, width, nearest)
  difference = np.abs(to_uint8(low) - np.asarray(large).astype(int))
  # Pillow's weights are 22-bit integers: a level may differ where a sum lies at one half.
  assert difference.max() <= 1 and (difference > 0).mean() < 1e-3


@pytest.mark.parametrize('quality', [1, 40, 60, 80, 95, 100])
@pytest.mark.parametrize('crop', [(97, 105), (80, 96), (33, 32)])
def test_jpeg_equals_libjpeg(image, quality, crop):
  image = image[: crop[0], : crop[1]]
  file = io.BytesIO()
  Image.fromarray(image).save(file, 'JPEG', quality=quality)
  stored = Image.open(file)
  for i, table in stored.quantization.items():
    np.testing.assert_array_equal(
      photographic.quantisation_tables(quality)[i].ravel(), np.asarray(table)
    )
  expected = np.asarray(stored).astype(float)
  error = to_uint8(jpeg(to_float(image), quality)) - expected
  mse = max((error**2).mean(), 1e-9)
  # Measured 51 to 70 dB: libjpeg computes in integers. Without the smooth chroma enlargement
  # it is 30 to 40 dB, with a wrong rounding of the coefficients less.
  assert 10 * np.log10(255**2 / mse) > 50
  assert (error == 0).mean() > 0.8


def test_gray_equals_pillow(image):
  expected = np.asarray(Image.fromarray(image).convert('L'))
  got = to_uint8(photographic.gray(to_float(image)))
  np.testing.assert_array_equal(got, np.repeat(expected[..., None], 3, -1))


def test_noise_has_the_moments_of_the_reference():
  key = jax.random.key(0)
  levels = photographic.to_levels(photographic.gaussian_noise(flat(128), key, 20.0))
  # Truncation, not rounding: the mean falls by half a level.
  assert abs(levels.mean() - 127.5) < 0.2 and abs(levels.std() - 20) < 0.2
  for value in (60, 120):
    levels = photographic.to_levels(photographic.speckle_noise(flat(value), key, 40.0))
    assert abs(levels.mean() - value + 0.5) < 0.2
    assert abs(levels.std() / value - 40 / 255) < 2e-3
  levels = photographic.to_levels(photographic.salt_pepper_noise(flat(100), key, 0.01, 0.3))
  assert abs((levels == 255).mean() - 0.003) < 5e-4
  assert abs((levels == 0).mean() - 0.007) < 8e-4
  assert ((levels == 0) | (levels == 100) | (levels == 255)).all()


def test_noises_are_independent_between_channels():
  for noise in (photographic.gaussian_noise, photographic.speckle_noise):
    levels = photographic.to_levels(noise(flat(128), jax.random.key(1), 20.0)).reshape(-1, 3)
    np.testing.assert_allclose(np.corrcoef(levels.T), np.eye(3), atol=0.02)


def test_film_grain_is_correlated_and_gray():
  photo = flat(127.5, 512)
  film_grain = jax.jit(photographic.film_grain)
  grain = np.asarray(film_grain(photo, jax.random.key(0), 8.0, 1.0) - photo) * 127.5
  assert (grain[..., 0] == grain[..., 1]).all() and (grain[..., 0] == grain[..., 2]).all()
  grain = grain[..., 0]
  assert abs(grain.std() - 8) < 0.2
  # White noise under a Gaussian of sigma s correlates as exp(-d² / 4s²).
  lag = (grain[:, 1:] * grain[:, :-1]).mean() / grain.var()
  assert abs(lag - np.exp(-0.25)) < 0.02
  black = flat(0, 512)
  np.testing.assert_array_equal(film_grain(black, jax.random.key(0), 8.0, 1.0), black)


def test_strengths_are_traced_and_never_recompile():
  traces = []

  @jax.jit
  def damage(photo, size, quality):
    traces.append(1)
    photo = photographic.gaussian_blur(photo, 3, quality / 50)
    return photographic.jpeg(photographic.low_resolution(photo, size, size, False), quality)

  for size, quality in ((16, 40), (9, 77), (8, 100)):
    damage(flat(90, 16), size, quality)
  assert len(traces) == 1


def test_wan2020_orders_and_omits_at_random():
  recipe = Wan2020()
  keys = jax.random.split(jax.random.key(0), 20_000)
  steps = np.asarray(jax.jit(jax.vmap(recipe.steps))(keys))
  assert abs((steps == 0).all(1).mean() - 0.3**4) < 3e-3
  assert abs((steps > 0).mean() - 0.7) < 0.01
  orders = np.asarray(jax.jit(jax.vmap(Wan2020(probability=1.0).steps))(keys))
  permutations, counts = np.unique(orders, axis=0, return_counts=True)
  assert len(permutations) == 24 and (np.abs(counts / 20_000 - 1 / 24) < 0.01).all()
  for position in range(4):  # the omission does not depend on the place in the order
    assert abs((steps[:, position] > 0).mean() - 0.7) < 0.015


def test_wan2020_does_what_its_steps_say(batch):
  candidates = jax.random.split(jax.random.key(3), 3000)
  number = (np.asarray(jax.jit(jax.vmap(Wan2020().steps))(candidates)) > 0).sum(1)
  idle, busy = candidates[number == 0][:8], candidates[number == 4][:16]
  aged = age(Wan2020(), jnp.concatenate([idle, busy]), batch)
  np.testing.assert_array_equal(to_uint8(aged.old[:8]), to_uint8(aged.clean[:8]))
  assert (jnp.abs(aged.old[8:] - aged.clean[8:]).max((1, 2, 3)) > 0.01).all()
  assert not aged.mask.any()


def test_wan2020_takes_the_colour_from_both_photos(batch):
  share = []
  for seed in range(8):
    aged = age(Wan2020(), keys(seed), batch)
    old, clean = (np.ptp(np.asarray(x), -1).max((1, 2)) == 0 for x in (aged.old, aged.clean))
    np.testing.assert_array_equal(old, clean)
    share.append(clean.mean())
  assert 0.03 < np.mean(share) < 0.18  # of 192 photos: 0.1 expected, standard deviation 0.022


@pytest.mark.parametrize('recipe', RECIPES, ids=lambda recipe: type(recipe).__name__)
def test_recipe_gives_8_bit_levels_and_one_photo_a_key(recipe, batch):
  aged = age(recipe, keys(7), batch)
  for field in aged:
    assert field.dtype == jnp.float32 and field.shape[:3] == batch.shape[:3]
  assert aged.mask.shape[-1] == 1 and set(np.unique(aged.mask)) <= {0, 1}
  levels = (aged.old + 1) * 127.5
  np.testing.assert_allclose(levels, np.round(levels), atol=1e-3)
  assert aged.old.min() >= -1 and aged.old.max() <= 1
  # The same photos under other keys are others; in another order they are the same.
  assert (aged.old[0] != aged.old[3]).any()
  again = age(recipe, keys(7)[::-1], batch[::-1])
  for one, other in zip(aged, again):
    np.testing.assert_array_equal(one, other[::-1])


def test_wan2020_gives_the_same_alone_vmapped_and_in_a_batch(batch):
  # The recipe whose form over a batch depends on the platform.
  aged = age(Wan2020(), keys(9), batch)
  vmapped = jax.jit(jax.vmap(Wan2020()))(keys(9), batch)
  # Another program may round another way at the edge of a level; JPEG spreads that over a block.
  assert (jnp.abs(aged.old - vmapped.old) > 1e-3).mean() < 3e-3
  np.testing.assert_array_equal(aged.mask, vmapped.mask)
  alone = jax.jit(Wan2020())(keys(9)[4], batch[4])
  assert (jnp.abs(aged.old[4] - alone.old) > 1e-3).mean() < 3e-3
  np.testing.assert_array_equal(aged.clean[4], alone.clean)


def test_a_batch_is_a_loop_on_cpu_and_vectors_elsewhere():
  """Of two arguments, the second a key; the form is that of the platform a program is made for."""

  def one(x, key):
    return x.sum(), {'drawn': x + jax.random.uniform(key, x.shape)}

  x, several = jnp.arange(24.0).reshape(4, 2, 3), jax.random.split(jax.random.key(0), 4)
  batch = jax.jit(lambda x, keys: each(one, x, keys))
  total, rest = batch(x, several)
  expected = [one(*args) for args in zip(x, several)]
  np.testing.assert_allclose(total, [e[0] for e in expected])
  np.testing.assert_allclose(rest['drawn'], [e[1]['drawn'] for e in expected])
  simple = jax.jit(lambda x: each(lambda x: x * 2, x)).trace(x)
  assert 'while' in simple.lower(lowering_platforms=('cpu',)).as_text()
  assert 'while' not in simple.lower(lowering_platforms=('tpu',)).as_text()


def test_lines_are_one_pixel_wide():
  height, width = 23, 31
  rng = np.random.default_rng(0)
  for _ in range(60):
    ends = rng.integers(0, [height, width], (1, 2, 2))
    mask = np.asarray(draw_lines(jnp.asarray(ends), 1, height, width))[..., 0]
    (y, x), (y1, x1) = ends[0]
    steps = max(abs(y1 - y), abs(x1 - x))
    assert mask.sum() == steps + 1 and mask[y, x] and mask[y1, x1]
    shallow = abs(x1 - x) >= abs(y1 - y)
    assert mask.sum(0 if shallow else 1).max() == 1
    for row, column in np.argwhere(mask):  # along the line's longer axis, half a pixel at most
      share = (column - x) / (x1 - x or 1) if shallow else (row - y) / (y1 - y)
      off = row - y - share * (y1 - y) if shallow else column - x - share * (x1 - x)
      assert 0 <= share <= 1 and abs(off) <= 0.5 + 1e-9


def test_line_count_and_union():
  height, width = 40, 30
  ends = np.random.default_rng(1).integers(0, [height, width], (30, 2, 2))
  singles = [np.asarray(draw_lines(jnp.asarray(line[None]), 1, height, width)) for line in ends]
  for count in (1, 7, 30):
    mask = draw_lines(jnp.asarray(ends), count, height, width)
    np.testing.assert_array_equal(mask, np.logical_or.reduce(singles[:count]))


def test_report_draws_1_to_30_white_lines_and_masks_them():
  clean = jnp.broadcast_to(flat(90, 48), (24, 48, 48, 3))
  area = {}
  for lines in ((30, 30), (1, 30)):
    recipe = Report(sigma=0.0, gray=0.0, lines=lines)
    area[lines] = []
    for seed in range(6):
      aged = age(recipe, keys(seed), clean)
      changed = (jnp.abs(aged.old - clean) > 1e-3).any(-1, keepdims=True)
      np.testing.assert_array_equal(aged.mask, changed)
      assert (jnp.where(aged.mask == 1, aged.old, 1.0) == 1.0).all()
      area[lines] += aged.mask.sum((1, 2, 3)).tolist()
  # A random line has about 0.44 · 48 pixels; lines cross.
  thirty, spread = area.values()
  assert 400 < np.mean(thirty) < 660
  assert min(spread) < 50 and max(spread) > 400
  assert 0.35 < np.mean(spread) / np.mean(thirty) < 0.7


def test_report_adds_its_noise_twice_and_keeps_the_target():
  clean = jnp.broadcast_to(flat(128, 48), (24, 48, 48, 3))
  aged = age(Report(gray=0.0), keys(1), clean)
  noise = np.asarray((aged.old - clean) * 127.5)[np.asarray(aged.mask[..., 0]) == 0]
  assert abs(noise.std() - 10.5 * 2**0.5) < 0.2 and abs(noise.mean()) < 0.2
  np.testing.assert_allclose(np.corrcoef(noise.T), np.eye(3), atol=0.02)
  np.testing.assert_array_equal(aged.clean, clean)


def test_report_takes_the_colour_from_the_old_photo_only(batch):
  aged = age(Report(gray=1.0), keys(2), batch)
  assert (aged.old == aged.old[..., :1]).all()
  np.testing.assert_array_equal(aged.clean, batch)


def test_ageing_fades_and_yellows(batch):
  aged = age(Ageing(), keys(4), batch)
  assert aged.old.std((1, 2)).mean() < 0.8 * batch.std((1, 2)).mean()
  np.testing.assert_array_equal(aged.clean, batch)
  neutral = jnp.zeros_like(batch)
  mean = np.concatenate([age(Ageing(), keys(i), neutral).old.mean((1, 2)) for i in range(4)])
  yellowed = mean[:, 0] - mean[:, 2] > 0.02
  assert 0.65 < yellowed.mean() < 0.92  # of 96 photos: 0.8 expected, standard deviation 0.04
  assert (mean[yellowed, 1] > mean[yellowed, 2]).all()


def test_recipes_refuse_a_batch_and_tiny_photos(batch):
  for recipe in RECIPES:
    with pytest.raises(ValueError, match='use degrade_batch'):
      recipe(jax.random.key(0), batch)
    with pytest.raises(ValueError, match='16 pixels'):
      recipe(jax.random.key(0), batch[0, :8, :8])


def test_holes_are_pure_white_on_a_degraded_photo_and_half_of_the_photos_have_none():
  recipe = Holes(Report(), Report(lines=(1, 1), sigma=2.0))
  clean = jnp.zeros((16, 48, 48, 3))
  aged = degrade_batch(recipe, jax.random.split(jax.random.key(0), 16), clean)
  holes = np.asarray(aged.mask[..., 0]) > 0
  assert (aged.old[holes] == 1).all()
  assert set(np.unique(aged.mask)) == {0.0, 1.0}
  assert 3 <= holes.any((1, 2)).sum() <= 13
  assert (np.asarray(aged.old)[~holes] != 0).mean() > 0.5  # degraded elsewhere


def test_recipes_have_names():
  assert names.recipe('report') == Report()
  assert names.recipe('wan2020, ageing') == Mixture((Wan2020(), Ageing()))
  relief = np.full((2, 8, 8), 128, np.uint8)
  holes = names.recipe('holes', overlays=relief, textures=relief)
  assert isinstance(holes, Holes) and holes.masks.overlays[0] == 0.4
  with pytest.raises(ConfigError, match="no recipe 'magic': choose from wan2020, report, ageing"):
    names.recipe('report,magic')
