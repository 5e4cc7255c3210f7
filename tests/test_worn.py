"""The recipe of worn prints: the mask says where the content is lost, and nothing else changes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from oldphoto_jax.degradation import cracks, drawing, patches, recipes, worn


def _photos(count=6, side=64):
  rng = np.random.default_rng(0)
  coarse = rng.uniform(-0.7, 0.7, (count, 8, 8, 3)).astype(np.float32)
  return np.asarray(jax.image.resize(coarse, (count, side, side, 3), 'cubic')).clip(-1, 1)


@pytest.mark.parametrize(
  'artefact',
  [
    cracks.Cracks(relief=(0.0, 0.0)),  # flanks lie outside
    patches.Losses(),
    patches.Blots(),
    patches.Mould(),
    patches.Gaps(),
  ],
)
def test_outside_of_its_cover_an_artefact_changes_nothing(artefact):
  photos, seen = _photos(), 0.0
  run = jax.jit(artefact)
  for i, photo in enumerate(photos):
    damaged = run(jax.random.key(i), photo)
    assert damaged.photo.shape == photo.shape and damaged.mask.shape == (64, 64, 1)
    assert float(damaged.mask.min()) >= 0 and float(damaged.mask.max()) <= 1
    change = jnp.abs(damaged.photo - photo).max(-1, keepdims=True)
    seen += float((damaged.mask > 0.3).mean())
    away = np.asarray(damaged.mask) == 0
    assert np.asarray(change)[away].max() == 0
  assert 0.002 < seen / len(photos) < 0.5


def test_cracks_branch_from_the_cracks_that_are_there():
  """Without a main crack nothing is drawn, however many branches there are."""
  draw = jax.jit(cracks.Cracks(count=(0, 4), branches=(12, 12), twigs=(10, 10)))
  drawn = [draw(jax.random.key(i), _photos(1)[0]) for i in range(12)]
  none = [damaged for damaged in drawn if damaged.drawn['count'] == 0]
  assert 0 < len(none) < len(drawn)
  assert all(float(damaged.mask.max()) == 0 for damaged in none)


def test_level_is_the_distance_from_the_edge_of_a_curve():
  points = jnp.stack([jnp.full(40, 20.0), jnp.arange(40.0)], -1)[None]
  inside = cracks.level(40, 40, points, jnp.full((1, 40), 3.0), jnp.ones((1, 40), bool))
  np.testing.assert_allclose(inside[14:27, 20], 3 - np.abs(np.arange(14, 27) - 20), atol=1e-5)
  assert float(inside[35, 20]) == -cracks.REACH


@pytest.mark.parametrize('brightness', [-0.8, 0.0, 0.9])
def test_mould_is_orange_on_light_and_brown_on_dark(brightness):
  photo, run = jnp.full((64, 64, 3), brightness), jax.jit(patches.Mould(count=(8, 32)))
  for i in range(4):
    damaged = run(jax.random.key(i), photo)
    red, green, blue = np.moveaxis(
      np.asarray(damaged.photo)[np.asarray(damaged.mask)[..., 0] > 0.3], -1, 0
    )
    assert len(red) and (red > green).all() and (green >= blue - 1e-6).mean() > 0.9


def test_a_gap_is_as_wide_as_it_says_and_shows_what_lies_bare():
  gaps = patches.Gaps(
    width=(12.0, 12.0), uneven=(0.0, 0.0), bend=(0.0, 0.0), ragged=(0.0, 0.0), oblique=0.0,
    ends=0.0, opacity=(1.0, 1.0), light=1.0,
  )  # fmt: skip
  bare, run = jnp.full((64, 64, 3), 0.7), jax.jit(gaps)
  widths = []
  for i in range(8):
    damaged = run(jax.random.key(i), _photos(1)[0], bare)
    inside = np.asarray(damaged.mask[..., 0]) == 1
    np.testing.assert_allclose(np.asarray(damaged.photo)[inside], 0.7, atol=1e-6)
    lines = [inside.sum(axis) for axis in (0, 1)]
    widths.append(min(line.max() for line in lines))  # across, whichever way it runs
  assert 10 <= np.median(widths) <= 13


RECIPE = worn.Worn(unharmed=0.0, jpeg=0.0, clean_scan=1.0)
# It compiles for seconds, so once.
age = jax.jit(lambda keys, photos: recipes.degrade_batch(RECIPE, keys, photos))


@pytest.fixture(scope='module')
def aged():
  return age(jax.random.split(jax.random.key(5), 6), _photos())


def test_the_mask_is_where_the_photo_differs_from_its_answer(aged):
  change = np.abs(np.asarray(aged.old) - np.asarray(aged.clean)).max(-1, keepdims=True)
  lost = np.asarray(aged.mask) > 0.9
  assert lost.mean() > 0.01
  # Lost content shows a difference of several levels nearly everywhere.
  assert (change[lost] > 0.02).mean() > 0.9
  assert np.median(change[np.asarray(aged.mask) == 0]) < 0.01


def test_the_same_key_gives_the_same_photo_in_any_batch(aged):
  again = age(jax.random.split(jax.random.key(5), 6)[::-1], _photos()[::-1])
  np.testing.assert_array_equal(again.old[::-1], aged.old)
  np.testing.assert_array_equal(again.mask[::-1], aged.mask)


def test_a_print_keeps_its_pixels_where_nothing_is_added():
  photo = np.round(_photos(1)[0] * 127.5 + 127.5) / 127.5 - 1
  lens = worn.Lens(blur=(0.0, (0.3, 1.2)), sharpening=(0.0, (0.3, 1.6)))
  untouched = worn.Worn(unharmed=1.0, lens=lens, clean_scan=1.0)
  same = jax.jit(untouched.over)(jax.random.key(1), photo, photo)
  assert float(same.mask.max()) == 0
  np.testing.assert_array_equal(same.clean, photo)
  np.testing.assert_allclose(same.old, photo, atol=1e-5)


def test_the_lens_is_the_same_for_a_print_and_its_answer():
  photo = _photos(1)[0] * np.where(np.arange(64) < 32, 1, -1)[:, None].astype(np.float32)
  lens = worn.Lens(blur=(1.0, (0.8, 1.2)), sharpening=(1.0, (0.5, 1.6)))
  see = jax.jit(lambda key, *photos: lens(drawing.Draws(key), *photos))
  old, clean, black = see(jax.random.key(1), photo, photo, 0 * photo - 1)
  np.testing.assert_array_equal(old, clean)
  assert np.abs(clean - photo).max() > 0.1
  np.testing.assert_allclose(black, -1, atol=1e-6)


def test_shares_draw_every_recipe_as_often_as_they_say():
  def constant(value):
    return lambda key, clean: recipes.Aged(jnp.full_like(clean, value), clean, clean[..., :1] * 0)

  mixed = recipes.Shares((constant(0.0), constant(0.5), constant(1.0)), (0.2, 0.5, 0.3))
  keys = jax.random.split(jax.random.key(0), 2000)
  drawn = jax.vmap(lambda key: mixed(key, jnp.zeros((16, 16, 3))).old[0, 0, 0])(keys)
  for value, share in ((0.0, 0.2), (0.5, 0.5), (1.0, 0.3)):
    assert abs(float((drawn == value).mean()) - share) < 0.05
