"""Damage of prints: what every artefact promises, and the recipe `print` as a whole."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import skimage.data
from PIL import Image

from oldphoto_jax.data import artefacts
from oldphoto_jax.degradation import artefact, collected, damage, drawing, scratches
from oldphoto_jax.degradation.recipes import degrade_batch
from oldphoto_jax.photos import images

RECIPE = damage.Print()
ARTEFACTS = damage.artefacts(RECIPE)
# Content is lost where these touch the photo, and nowhere else is it changed.
STRUCTURED = ('scratches', 'hairs', 'dust', 'flaking', 'tears', 'corners', 'foxing')
UNMASKED = ('fading', 'texture', 'yellowing')
HEIGHT, WIDTH = 72, 88

# One program a kind, at one size, for the whole file.
mapped = {
  name: jax.jit(lambda keys, photos, artefact=artefact: jax.lax.map(
    lambda args: artefact(*args), (keys, photos)
  ))
  for name, artefact in ARTEFACTS.items()
}  # fmt: skip
age = jax.jit(lambda keys, photos: degrade_batch(RECIPE, keys, photos))


def keys(seed, n=12):
  return jax.random.split(jax.random.key(seed), n)


def crops(height, width):
  """[12, height, width, 3]: four photos, three times."""
  names = ('astronaut', 'chelsea', 'coffee', 'rocket')
  four = [getattr(skimage.data, name)()[60 : 60 + height, 120 : 120 + width] for name in names]
  return jnp.asarray(np.stack(four * 3).astype(np.float32) / 127.5 - 1)


@pytest.fixture(scope='module')
def photos():
  return crops(HEIGHT, WIDTH)


@pytest.fixture(scope='module')
def large():
  """Large enough that specks of one pixel are small."""
  return crops(176, 208)


@pytest.fixture(scope='module')
def damaged(photos):
  return {name: apply(keys(0), photos) for name, apply in mapped.items()}


@pytest.mark.parametrize('name', ARTEFACTS)
def test_each_artefact_changes_photos_and_says_where(name, photos, damaged):
  done = damaged[name]
  assert done.photo.shape == photos.shape and done.mask.shape == (*photos.shape[:3], 1)
  assert done.photo.dtype == done.mask.dtype == jnp.float32
  assert np.isfinite(done.photo).all() and np.abs(done.photo).max() <= 1 + 1e-6
  assert done.mask.min() >= 0 and done.mask.max() <= 1
  changed = np.abs(done.photo - photos).max(-1, keepdims=True)
  assert (changed.max((1, 2, 3)) > 0.01).sum() >= 9  # of 12: a speck may fall outside
  assert done.drawn
  if name in UNMASKED:
    assert not done.mask.any()
  elif name in STRUCTURED:
    # Bit for bit.
    assert (np.where(done.mask == 0, changed, 0) == 0).all()
    assert done.mask.max() > 0.3
  elif name in ('stains', 'smudges'):
    assert 0 < done.mask.max() <= 0.25


@pytest.mark.parametrize('name', ARTEFACTS)
def test_the_same_key_gives_the_same_photo_in_any_batch(name, photos, damaged):
  again = mapped[name](keys(0)[::-1], photos[::-1])
  np.testing.assert_array_equal(again.photo[::-1], damaged[name].photo)
  np.testing.assert_array_equal(again.mask[::-1], damaged[name].mask)
  # The same photo under another key is another.
  assert (again.mask[0] != again.mask[4]).any() or name in UNMASKED
  assert (again.photo[0] != again.photo[4]).any()


@pytest.mark.parametrize('name', ['scratches', 'folds'])
def test_vmapped_equals_mapped(name, photos, damaged):
  vmapped = jax.jit(jax.vmap(ARTEFACTS[name]))(keys(0), photos)
  for one, other in zip(vmapped[:2], damaged[name][:2]):
    # A last bit may fall the other way where noise is cut at a bar.
    assert (np.abs(one - other) > 1e-3).mean() < 1e-3


def test_numbers_drawn_ahead_are_the_same_numbers():
  """Also where the blocks drawn ahead run out, or are too short."""

  def draw(draws):
    numbers = [draws.uniform((-1, 1), 3), draws.noise(24, 30, 5), draws.unit(1500)]
    numbers += [draws.unit(2100), draws.normal(4), draws.unit(2047), draws.unit(9)]
    return numbers, jax.random.key_data(jnp.stack([draws.key() for _ in range(30)]))

  key = jax.random.key(3)
  alone = jax.jit(lambda key: draw(drawing.Draws(key)))(key)
  ahead = jax.jit(lambda key: draw(drawing.Draws(drawing.ahead(key, 3))))(key)
  for one, other in zip(jax.tree.leaves(alone), jax.tree.leaves(ahead)):
    np.testing.assert_array_equal(one, other)


def test_several_smooth_noises_are_their_sum():
  key = jax.random.key(4)
  one = drawing.Draws(key)
  expected = 0.7 * one.noise(40, 32, 5) + 0.2 * one.noise(40, 32, 11)
  both = drawing.Draws(key).noises(40, 32, [(0.7, 5), (0.2, 11)])
  np.testing.assert_allclose(both, expected, atol=1e-5)
  rows, columns = np.ptp(expected, 0), np.ptp(expected, 1)
  assert rows.min() > 0.1 and columns.min() > 0.1


def test_a_recipe_is_one_artefact_after_the_other(photos):
  """In one loop, with several of a kind as steps of their own: as the artefacts by themselves."""
  paper = artefact.draw_paper(jax.random.key(0), HEIGHT, WIDTH)
  strong = lambda cover, change: (change > 0.3).astype(jnp.float32)
  layers = [
    artefact.Layer(0.8, ARTEFACTS['stains'], True, strong),
    artefact.Layer(0.6, ARTEFACTS['yellowing'], True, artefact.nothing),
    artefact.Layer(1.0, ARTEFACTS['yellowing'], False),
    artefact.Layer(0.7, ARTEFACTS['hairs']),
  ]
  alone = [jax.jit(layer.artefact) for layer in layers]

  @jax.jit
  def apply(key, photo):
    draw = drawing.Draws(key)
    draw.unit()
    return artefact.apply(draw, layers, artefact.unharmed(photo), paper)

  used = 0
  for key, photo in zip(keys(6), photos):
    draw = drawing.Draws(drawing.ahead(key))
    draw.unit()
    expected = artefact.unharmed(photo)
    for layer, one in zip(layers, alone):
      own, drawn = draw.key(), draw.chance(layer.probability) and layer.allowed
      if drawn:
        damaged = one(own, expected.photo, paper)
        change = jnp.abs(damaged.photo - expected.photo).max(-1, keepdims=True)
        hidden = layer.mark(damaged.mask, change)
        shown = jnp.maximum(expected.shown, jnp.where(hidden > 0, change, 0))
        expected = artefact.Marked(damaged.photo, jnp.maximum(expected.mask, hidden), shown)
        used += 1
    for got, wanted in zip(apply(key, photo), expected):
      # Two programs: a last bit may fall the other way.
      assert (np.abs(got - wanted) > 1e-3).mean() < 1e-3
  assert used > 8


def test_strokes_are_as_wide_and_as_long_as_told():
  n = 100
  draw = jax.jit(functools.partial(drawing.strokes, 101, 121))
  for angle in np.linspace(0, np.pi, 7):
    along = np.linspace(-40, 40, n)
    points = np.stack([50 + along * np.sin(angle), 60 + along * np.cos(angle)], -1)[None]
    for thickness in (0.5, 1.0, 2.5, 4.0):
      wide = jnp.full((1, n), thickness)
      cover = draw(jnp.asarray(points, jnp.float32), wide, jnp.ones((1, n)))
      assert abs(cover.sum() / (80 * thickness) - 1) < 0.08, (angle, thickness)
      assert abs(cover.max() - min(thickness, 1)) < 0.02
  assert not draw(jnp.asarray(points, jnp.float32) + 200, wide, jnp.ones((1, n))).any()


@pytest.mark.parametrize('side', [64, 600])
def test_scratches_are_thin_at_every_size(side):
  scratch = scratches.Scratches(count=(1, 1), bundled=0, broken=0, length=(0.4, 0.8))
  draw = jax.jit(lambda key: scratch(key, jnp.zeros((side, side, 3))).mask[..., 0])
  widths, lengths = [], []
  for key in keys(1, 16):
    mask = np.asarray(draw(key))
    # Pixels along the axis that the curve runs along, and their mean number across it.
    lengths.append(max((mask > 0.1).any(axis).sum() for axis in (0, 1)))
    widths.append(mask.sum() / max(lengths[-1], 1))
  assert 0.5 < np.median(widths) < 3.5
  assert 0.15 < np.median(lengths) / side < 0.8


def test_paper_is_off_white_and_never_white():
  tints = []
  for seed in range(8):
    paper = np.asarray(artefact.draw_paper(jax.random.key(seed), 64, 64))
    levels = (paper + 1) * 127.5
    assert levels.max() <= 245.01 and levels.mean() > 140 and levels.std((0, 1)).min() > 0.5
    tints.append(levels.mean((0, 1)))
    assert tints[-1][0] >= tints[-1][1] >= tints[-1][2]
  assert np.std(tints, 0).min() > 2


def test_print_gives_levels_masks_and_one_photo_a_key(large):
  aged = age(keys(5), large)
  for field in aged:
    assert field.dtype == jnp.float32 and field.shape[:3] == large.shape[:3]
  assert aged.mask.min() >= 0 and aged.mask.max() <= 1
  levels = (aged.old + 1) * 127.5
  np.testing.assert_allclose(levels, np.round(levels), atol=1e-3)
  assert aged.old.min() >= -1 and aged.old.max() <= 1
  again = age(keys(5)[::-1], large[::-1])
  for one, other in zip(aged, again):
    np.testing.assert_array_equal(one, other[::-1])


def test_print_spares_some_photos_and_damages_the_others_sensibly(large):
  masks, whites, grays = [], [], []
  for seed in range(8):
    aged = age(keys(100 + seed), large)
    masks.append(np.asarray(aged.mask))
    # Where content is lost the photo is not pure white, as paper is not and the scan comes after.
    lost = np.asarray(aged.mask[..., 0] > 0.9)
    whites.append(np.asarray((aged.old > 0.99).all(-1))[lost])
    grays.append(np.asarray(np.ptp(aged.clean, -1).max((1, 2)) == 0))
    # A gray photo may be toned, but its colours do not scatter.
    hue = np.asarray(aged.old[..., 0] - aged.old[..., 2])[grays[-1]]
    assert hue.size == 0 or (np.median(np.abs(hue), (1, 2)) < 0.6).all()
  coverage = (np.concatenate(masks) > 0.3).mean((1, 2, 3))
  assert coverage.size == 96
  assert 0.12 < (coverage == 0).mean() < 0.45
  assert 0.005 < np.median(coverage[coverage > 0]) < 0.05
  assert 0.05 < coverage.max() < 0.45
  assert np.concatenate(whites).mean() < 0.002
  assert 0.15 < np.concatenate(grays).mean() < 0.45


def test_print_refuses_a_batch(photos):
  with pytest.raises(ValueError, match='use degrade_batch'):
    RECIPE(jax.random.key(0), photos)


@pytest.fixture
def folders(tmp_path):
  rng = np.random.default_rng(0)
  for i in range(3):
    for kind in ('drawn', 'surface'):
      (tmp_path / kind / 'sub').mkdir(parents=True, exist_ok=True)
    rgba = np.full((60, 60, 4), 255, np.uint8)
    rgba[..., 3] = 0
    rgba[20 : 30 + 5 * i, 25:35, 3] = 255
    Image.fromarray(rgba).save(tmp_path / f'drawn/sub/{i}.png')
    Image.fromarray(rng.integers(0, 256, (40 + i, 50), np.uint8)).save(
      tmp_path / f'surface/{i}.png'
    )
  return tmp_path


def test_overlays_and_textures_from_folders(folders, photos):
  alpha = artefacts.overlays(folders / 'drawn', size=48)
  assert alpha.shape == (3, 48, 48) and alpha.dtype == np.uint8
  assert alpha.max() == 255 and (alpha == 0).mean() > 0.8
  assert len(artefacts.overlays(folders / 'drawn', most=2)) == 2
  relief = artefacts.textures(folders / 'surface', size=32)
  assert relief.shape == (3, 32, 32) and abs(relief.mean() - 128) < 3
  assert (np.abs(relief.std((1, 2)) - 32) < 6).all()

  overlays = collected.Overlays(alpha, opacity=(1.0, 1.0))
  textures = collected.Textures(relief)
  recipe = dataclasses.replace(RECIPE, overlays=(0.5, overlays), textures=(0.5, textures))
  assert set(damage.artefacts(recipe)) == {*ARTEFACTS, 'overlays', 'textures'}
  hash(recipe)  # a static argument
  apply = jax.jit(jax.vmap(overlays))
  done = apply(keys(3), photos)
  changed = np.abs(done.photo - photos).max(-1, keepdims=True)
  assert (np.where(done.mask == 0, changed, 0) == 0).all()
  assert done.mask.max() == 1 and 0.005 < (done.mask > 0.5).mean() < 0.2
  again = apply(keys(3)[::-1], photos[::-1])
  # One program, but another row of its batch: a last bit may fall the other way.
  assert (np.abs(again.mask - done.mask[::-1]) > 1e-3).mean() < 1e-3
  textured = jax.jit(jax.vmap(textures))(keys(3), photos)
  assert not textured.mask.any() and (np.abs(textured.photo - photos).max((1, 2, 3)) > 0.02).all()


def test_overlays_need_transparency(folders):
  with pytest.raises(images.PhotoError, match='needs transparency'):
    artefacts.overlays(folders / 'surface')
