"""What the repair networks learn from: clean photos that are damaged, and labelled prints."""

import pathlib
import runpy

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from oldphoto_jax.data import pipeline, prints
from oldphoto_jax.degradation import recipes, worn
from oldphoto_jax.errors import ConfigError, PhotoError
from oldphoto_jax.systems import repair as system

ROOT = pathlib.Path(__file__).parent.parent


def test_prints_teach_what_was_damaged_here_and_where_damage_is():
  sound = recipes.Mixture((worn.Sound(),))

  def over(key, photo, clean):
    mask = jnp.zeros_like(photo[..., :1]).at[2:6, 2:6].set(1.0)
    return recipes.Aged(jnp.where(mask > 0, 1.0, photo), clean, mask)

  prepare = jax.jit(system.prepare(sound, over, 1.0, 0.0))
  damaged = np.zeros((2, 32, 32, 1), np.uint8)
  damaged[:, 20:24, 20:24] = 255
  ignored = np.zeros_like(damaged)
  ignored[:, 28:] = 255
  batch = {
    'image': np.full((2, 32, 32, 3), 90, np.uint8),
    'damaged': damaged * np.array([1, 0], np.uint8)[:, None, None, None],
    'ignored': ignored * np.array([1, 0], np.uint8)[:, None, None, None],
    'donor': np.zeros((2, 32, 32, 3), np.uint8),
    'moved': np.zeros((2, 32, 32, 1), np.uint8),
    'is_print': np.array([True, False]),
  }
  ready = jax.tree.map(np.asarray, prepare(batch, jax.random.split(jax.random.key(0), 2)))
  known, judged, damage = ready['known'][0], ready['judged'][0], ready['damage'][0]
  assert known.sum() == 16 and known[3, 3] == 1  # only the pixels that were damaged here
  assert damage[3, 3] == 1 and damage[21, 21] == 1 and damage[10, 10] == 0
  assert judged[29:].max() == 0 and judged[19, 21] == 0 and judged[10, 10] == 1
  assert ready['known'][1].min() == 1 and ready['damage'][1].max() == 0
  # Of a print nobody knows that all damage is marked; a clean photo has none.
  assert ready['sound'][0].max() == 0 and ready['sound'][1].min() == 1


def test_away_from_what_is_drawn_a_clean_photo_is_sound():
  def one_spot(key, photo):
    mask = jnp.zeros_like(photo[..., :1]).at[10, 12].set(0.01)
    return recipes.Aged(photo, photo, mask)

  shape = (1, 32, 32, 1)
  nothing = {name: np.zeros(shape, np.uint8) for name in ('damaged', 'ignored', 'moved')}
  photos = {name: np.zeros((1, 32, 32, 3), np.uint8) for name in ('image', 'donor')}
  batch = nothing | photos | {'is_print': np.array([False])}
  prepare = system.prepare(one_spot, None, 0.0, 0.0)
  sound = np.asarray(prepare(batch, jax.random.split(jax.random.key(0), 1))['sound'])
  near = np.zeros(shape)
  near[:, 10 - 4 : 10 + 5, 12 - 4 : 12 + 5] = 1
  np.testing.assert_array_equal(sound, 1 - near)


def test_prints_get_other_tones_and_keep_their_order():
  ramp = np.broadcast_to(np.linspace(-1, 1, 64)[None, :, None], (64, 64, 3)).astype(np.float32)
  toned = jax.vmap(lambda key: system._retoned(1.0, key, ramp))(
    jax.random.split(jax.random.key(0), 30)
  )
  toned = np.asarray(toned)
  assert np.abs(toned).max() <= 1 and np.abs(toned - ramp).max((1, 2, 3)).min() > 0.02
  assert np.diff(toned, axis=2).min() > -1e-6  # what is lighter stays lighter
  np.testing.assert_array_equal(system._retoned(0.0, jax.random.key(0), ramp), ramp)


def test_the_damage_of_one_print_is_laid_on_the_sound_parts_of_another():
  host, donor = np.full((32, 32, 3), 60, np.uint8), np.full((32, 32, 3), 140, np.uint8)
  donor[4:8, :] = 220
  label, moved = np.zeros((32, 32), np.uint8), np.zeros((32, 32), np.uint8)
  label[:, 24:], moved[4:8, :] = 255, 255
  stream = prints.CleanAndPrints(
    [np.zeros((32, 32, 3), np.uint8)],
    prints.Prints(['donor', 'host'], [donor, host], [moved, label]),
    pipeline.Crop(size=32),
    pipeline.Crop(size=32, flip=0.0),
    p_print=1.0,
    p_transplant=1.0,
  )
  drawn = [stream.draw(0, np.random.default_rng(n)) for n in range(200)]
  # Of what was drawn: the damage of the first laid over the second, neither of them turned.
  drawn = [x for x in drawn if x['photo'] == 1 and x['donor'][0, 0, 0] == 140]
  drawn = [x for x in drawn if x['damaged'][0, -1, 0] and x['moved'][:, 0].any()]
  batch = {name: np.stack([x[name] for x in drawn]) for name in drawn[0] if name != 'photo'}
  untouched = lambda key, photo, clean: recipes.Aged(photo, clean, jnp.zeros_like(photo[..., :1]))
  prepare = jax.jit(system.prepare(recipes.Mixture((worn.Sound(),)), untouched, 0.0, 0.0))
  keys = jax.random.split(jax.random.key(0), len(drawn))
  ready = jax.tree.map(np.asarray, prepare(batch, keys))
  levels = lambda x: np.round(127.5 * (x + 1))
  # Its own colours, or the change that it made; only where the host was sound.
  inner = np.array([np.flatnonzero(x[:, 0, 0])[1:3] for x in batch['moved']])
  inside = lambda name: ready[name][np.arange(len(drawn))[:, None], inner]  # [n, 2, 32, channels]
  assert {round(v) for v in levels(inside('old')[:, :, 10]).mean((1, 2))} == {220, 140}
  assert (inside('damage')[:, :, :20] == 1).all() and (inside('known')[:, :, :20] == 1).all()
  np.testing.assert_allclose(levels(ready['old'][:, :, 28]), 60, atol=1)
  assert (ready['known'][:, :, 24:] == 0).all()  # what lies below the host's own damage
  np.testing.assert_allclose(levels(ready['clean']), 60, atol=1)


def test_the_damage_of_a_print_is_laid_on_a_clean_photo():
  clean, donor = np.full((32, 32, 3), 60, np.uint8), np.full((32, 32, 3), 140, np.uint8)
  donor[4:8] = 220  # stands out
  donor[20:24] = 145  # does not
  moved = np.zeros((32, 32), np.uint8)
  moved[4:8], moved[20:24] = 255, 255
  stream = prints.CleanAndPrints(
    [clean],
    prints.Prints(['donor'], [donor], [moved]),
    pipeline.Crop(size=32),
    pipeline.Crop(size=32, flip=0.0),
    p_print=0.0,
    p_transplant_clean=1.0,
  )
  undamaged = lambda key, photo, *_: recipes.Aged(photo, photo, jnp.zeros_like(photo[..., :1]))
  prepare = jax.jit(system.prepare(undamaged, undamaged, 0.0, 0.0))
  drawn = [stream.draw(0, np.random.default_rng(n)) for n in range(40)]
  drawn = [x for x in drawn if x['moved'][4:8].all() and x['donor'][5, 0, 0] == 220]  # not turned
  assert len(drawn) > 4
  batch = {name: np.stack([x[name] for x in drawn]) for name in drawn[0] if name != 'photo'}
  ready = jax.tree.map(np.asarray, prepare(batch, jax.random.split(jax.random.key(0), len(drawn))))
  rows = lambda name, first, last: ready[name][:, first:last, :, 0]
  assert (rows('damage', 4, 8) == 1).all() and (rows('damage', 8, 32) == 0).mean() > 0.85
  assert (rows('judged', 4, 8) == 1).all() and rows('judged', 8, 9).max() == 0  # to the pixel
  # What only just shows is judged by nobody; where damage lies, nobody knows the photo.
  changes = [abs(p - 60).max() > 25 for p in 127.5 * (ready['old'][:, 21] + 1)]
  assert [damage.max() == 1 for damage in rows('damage', 20, 24)] == changes and not all(changes)
  assert [judged.max() == 1 for judged in rows('judged', 21, 23)] == changes
  assert rows('known', 4, 8).max() == 0 and (rows('known', 12, 17) == 1).all()
  assert rows('sound', 0, 12).max() == 0 and (rows('sound', 12, 16) == 1).all()
  assert not any(stream.draw(0, np.random.default_rng(n))['is_print'] for n in range(5))


def test_shares_name_known_recipes_and_zero_leaves_one_out():
  config = runpy.run_path(str(ROOT / 'configs' / 'repair.py'))['get_config']('tiny').unlock()
  mixed = system.recipe(config, {'report': 3.0, 'faded': 1.0, 'print': 0.0})
  assert mixed.shares == (0.75, 0.25)
  assert [type(recipe) for recipe in mixed.recipes] == [recipes.Report, worn.Faded]
  with pytest.raises(ConfigError, match="no recipe 'moon' in shares: choose from worn"):
    system.recipe(config, {'report': 1.0, 'moon': 0.0})
  with pytest.raises(ConfigError, match='all shares are 0'):
    system.recipe(config, {'report': 0.0})


def test_a_label_without_its_photo_is_an_error(tmp_path):
  Image.fromarray(np.zeros((20, 30), np.uint8)).save(tmp_path / 'a.png')
  photos = tmp_path / 'photos'
  photos.mkdir()
  Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(photos / 'b.jpg')
  with pytest.raises(PhotoError, match='no photo a'):
    prints.prints([tmp_path], [photos])
  Image.fromarray(np.zeros((21, 30, 3), np.uint8)).save(photos / 'a.jpg')
  with pytest.raises(PhotoError, match='of one size'):
    prints.prints([tmp_path], [photos])
  Image.fromarray(np.full((20, 30), 90, np.uint8)).save(tmp_path / 'b.png')
  (tmp_path / 'a.png').unlink()
  with pytest.raises(PhotoError, match='the levels 0'):
    prints.prints([tmp_path], [photos])
  with pytest.raises(PhotoError, match='no label'):
    prints.prints([photos], [photos])


def test_squares_of_prints_are_cut_with_their_labels():
  """A print whose damage is white: wherever the square is cut, label and photo agree."""
  photo = np.full((90, 120, 3), 40, np.uint8)
  label = np.zeros((90, 120), np.uint8)
  photo[30:50, 40:80], label[30:50, 40:80] = 240, 255
  stream = prints.CleanAndPrints(
    [np.zeros((64, 64, 3), np.uint8)],
    prints.Prints(['a'], [photo], [label]),
    pipeline.Crop(size=32),
    pipeline.Crop(size=32, scale=(0.5, 1.0)),
    p_print=1.0,
  )
  shares = []
  for n in range(20):
    drawn = stream.draw(0, np.random.default_rng(n))
    bright = drawn['image'][..., :1] > 140
    assert (bright != (drawn['damaged'] > 0)).mean() < 0.05
    shares.append((drawn['damaged'] > 0).mean())
  assert np.mean(np.array(shares) > 0.005) > 0.7  # damage is sought
