"""The repair network: it begins with doing nothing, and learns from what is known only."""

import dataclasses
import pathlib
import runpy
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict

from oldphoto_jax.data import pipeline, prints
from oldphoto_jax.degradation import recipes, worn
from oldphoto_jax.errors import ConfigError, PhotoError
from oldphoto_jax.metrics import psnr_ssim
from oldphoto_jax.models import repair, state, tone
from oldphoto_jax.nn import averaging, noise
from oldphoto_jax.systems import frozen
from oldphoto_jax.systems import repair as system
from oldphoto_jax.training import parallel

ROOT = pathlib.Path(__file__).parent.parent
SMALL = repair.Repair(widths=(4, 8), blocks=1, g_tx=optax.sgd(0.1))


def _photos(count=4, side=32, seed=0):
  rng = np.random.default_rng(seed)
  return rng.uniform(-1, 1, (count, side, side, 3)).astype(np.float32)


def _holes(count=4, side=32):
  holes = np.zeros((count, side, side, 1), np.float32)
  holes[:, 10:14, 5:25] = 1
  return holes


def _batch(count=4):
  holes, ones = _holes(count), np.ones((count, 32, 32, 1), np.float32)
  return {
    'old': _photos(count),
    'clean': _photos(count, seed=1),
    'damage': holes,
    'known': ones,
    'judged': ones.copy(),
    'told': holes.copy(),
    'trust': np.ones((count, 1, 1, 1), np.float32),
  }


@pytest.fixture(scope='module')
def trained():
  """Parameters with no zeros left, as after some training."""
  state = repair.init(SMALL, jax.random.key(0))
  leaves, tree = jax.tree.flatten(state.g)
  keys = jax.random.split(jax.random.key(1), len(leaves))
  moved = [leaf + 0.05 * jax.random.normal(k, leaf.shape) for k, leaf in zip(keys, leaves)]
  return jax.tree.unflatten(tree, moved)


def test_an_untrained_network_changes_nothing_and_fills_smoothly():
  params = repair.init(SMALL, jax.random.key(0)).g
  photo, holes = _photos(), _holes()
  clean, found, _ = repair.look(SMALL, params, photo)
  np.testing.assert_array_equal(clean, photo)
  np.testing.assert_allclose(found, repair.PRIOR, rtol=1e-4)
  filled = np.asarray(repair.fill(SMALL, params, photo, holes))
  np.testing.assert_array_equal(np.where(holes, 0, filled), np.where(holes, 0, photo))
  assert np.abs(filled - photo).max() > 0.1


def test_what_a_pixel_becomes_depends_on_its_neighbourhood_only(trained):
  """By gradient: no pooled statistics, so that tiles of any size give the same."""
  photo = jnp.asarray(_photos(1, 64))
  gradient = jax.grad(lambda x: repair.look(SMALL, trained, x)[0][0, 8, 8].sum())(photo)
  reached = np.argwhere(np.abs(np.asarray(gradient)).sum((0, 3)) > 0)
  assert reached.max() < 48


def test_of_what_a_person_marks_only_what_agrees_with_its_surroundings_is_shown():
  slope = jnp.broadcast_to(jnp.linspace(-0.8, 0.8, 64)[:, None], (1, 64, 64, 3))
  holes = jnp.zeros((1, 64, 64, 1)).at[:, 20:44, 20:44].set(1)
  noise = jax.random.uniform(jax.random.key(0), slope.shape, minval=-1)
  veil, inside = 0.5 * slope + 0.3, (slice(None), slice(24, 40), slice(24, 40))
  shares = []
  for content in (jnp.ones_like(slope), noise, veil):  # bare paper, dirt, a veil
    photo = jnp.where(holes > 0, content, slope)
    seen, filled = repair.starts(photo, holes)
    shares.append(jnp.abs(seen - filled)[inside].mean() / jnp.abs(photo - filled)[inside].mean())
  assert shares[0] < 1e-4 and shares[1] < 0.3 and 0.9 < shares[2] <= 1
  # A detector may be wrong, and outside of holes everything is shown.
  photo = jnp.where(holes > 0, 1.0, slope)
  np.testing.assert_array_equal(repair.starts(photo, 0.5 * holes)[0], photo)
  outside = np.asarray(holes == 0)
  for start in repair.starts(photo, holes):
    np.testing.assert_array_equal(np.where(outside, start, 0), np.where(outside, photo, 0))


def test_where_nothing_is_lost_filling_is_looking(trained):
  photo, nothing = jnp.asarray(_photos()), jnp.zeros((4, 32, 32, 1))
  clean, found = repair.answer(SMALL, trained, *repair.starts(photo, nothing), nothing, nothing)
  looked = repair.look(SMALL, trained, photo)
  np.testing.assert_allclose(clean, looked[0], atol=1e-6)
  np.testing.assert_allclose(found, looked[1], atol=1e-6)


def test_unknown_pixels_teach_nothing(trained):
  state = repair.init(SMALL, jax.random.key(0)).replace(g=trained)
  batch = _batch()
  batch['known'][:, :16] = 0
  batch['judged'][:, :16] = 0
  other = {name: value.copy() for name, value in batch.items()}
  other['clean'][:, :16] = 0.3
  other['damage'][:, 2:8] = 1.0
  step = jax.pmap(
    lambda state, batch: repair.train_step(SMALL, state, {}, batch, None),
    axis_name='batch',
    in_axes=(None, 0),
    out_axes=None,
    devices=jax.devices()[:1],
  )
  states = [step(state, {k: v[None] for k, v in b.items()})[0] for b in (batch, other)]
  # Dice leaves photos without damage out, and both have some.
  for a, b in zip(*(jax.tree.leaves(s.g) for s in states)):
    np.testing.assert_allclose(a, b, atol=1e-6)


def test_only_every_other_example_sees_its_mask(trained):
  batch = {name: jnp.asarray(value) for name, value in _batch().items()}
  shown = repair._with_prefilled(batch)
  assert float(shown['mask'][0::2].max()) == 1 and float(shown['mask'][1::2].max()) == 0
  assert float(shown['trust'][1::2].max()) == 0
  np.testing.assert_array_equal(shown['filled'][1::2], batch['old'][1::2])


def test_in_training_the_network_is_shown_what_it_will_be_shown():
  batch = {name: jnp.asarray(value) for name, value in _batch().items()}
  batch['trust'] = jnp.array([1.0, 1.0, 0.5, 1.0])[:, None, None, None]
  seen = repair._with_prefilled(batch)['seen']
  for i, trust in ((0, 1.0), (2, 0.5)):  # a person's mask, and a detector's
    old, holes = batch['old'][i : i + 1], batch['told'][i : i + 1]
    np.testing.assert_allclose(seen[i], repair.starts(old, trust * holes)[0][0], atol=1e-6)
  assert not np.array_equal(seen[0], batch['old'][0])
  np.testing.assert_array_equal(seen[1:], batch['old'][1:])


def test_a_finder_sees_no_masks_and_learns_nothing_but_damage(trained):
  weights = dict.fromkeys(repair.WEIGHTS, 0.0) | {'bce': 1.0, 'dice': 0.3}
  model = repair.Repair((4, 8), 1, weights, g_tx=optax.sgd(0.1), tells=False)
  state = repair.init(model, jax.random.key(0)).replace(g=trained)
  step = jax.pmap(
    lambda state, batch: repair.train_step(model, state, {}, batch, None),
    axis_name='batch',
    in_axes=(None, 0),
    out_axes=None,
    devices=jax.devices()[:1],
  )
  batch = _batch()
  other = batch | {'told': 1 - batch['told'], 'clean': -batch['clean']}
  (a, terms), (b, _) = (step(state, {k: v[None] for k, v in x.items()}) for x in (batch, other))
  assert set(terms) == {'bce', 'dice', 'norm'}
  jax.tree.map(np.testing.assert_array_equal, a.g, b.g)


def test_one_device_and_four_train_alike(trained):
  """One step of SGD, smooth but for L1, whose kinks no number here is near to."""
  state = repair.init(SMALL, jax.random.key(0)).replace(g=trained)
  batch = _batch(8)
  results = []
  for devices in (1, 4):
    step = jax.pmap(
      lambda state, batch: repair.train_step(SMALL, state, {}, batch, None),
      axis_name='batch',
      in_axes=(None, 0),
      out_axes=None,
      devices=jax.devices()[:devices],
    )
    parts = {k: v.reshape(devices, -1, *v.shape[1:]) for k, v in batch.items()}
    results.append(step(state, parts)[0].g)
  for a, b in zip(*(jax.tree.leaves(result) for result in results)):
    np.testing.assert_allclose(a, b, atol=2e-5)


def test_it_learns_where_damage_is():
  model = repair.Repair(widths=(8, 16), blocks=1, g_tx=optax.adam(3e-3))
  batch = _batch(4)
  batch['old'] = np.where(batch['damage'] > 0, 1.0, 0.3 * batch['clean']).astype(np.float32)
  batch['clean'] = 0.3 * batch['clean']
  step = parallel.train_step(
    lambda batch, keys: {k: v for k, v in batch.items() if k != 'id'},
    lambda *args: repair.train_step(model, *args),
    jax.devices()[:1],
  )
  state = parallel.replicate(repair.init(model, jax.random.key(0)), jax.devices()[:1])
  sharded = {k: v[None] for k, v in (batch | {'id': np.arange(4, dtype=np.uint32)}).items()}
  for _ in range(80):
    state, _ = step(state, {}, sharded, jax.random.key(1))
  _, found, _ = repair.look(model, state.released, batch['old'])
  inside, outside = np.asarray(found)[batch['damage'] > 0], np.asarray(found)[batch['damage'] == 0]
  assert inside.mean() > 0.7 and outside.mean() < 0.1


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


def test_shares_name_known_recipes_and_zero_leaves_one_out():
  config = runpy.run_path(str(ROOT / 'configs' / 'repair.py'))['get_config']('tiny').unlock()
  mixed = system.recipe(config, {'report': 3.0, 'faded': 1.0, 'print': 0.0})
  assert mixed.shares == (0.75, 0.25)
  assert [type(recipe) for recipe in mixed.recipes] == [recipes.Report, worn.Faded]
  with pytest.raises(ConfigError, match="no recipe 'moon' in shares: choose from worn"):
    system.recipe(config, {'report': 1.0, 'moon': 0.0})
  with pytest.raises(ConfigError, match='all shares are 0'):
    system.recipe(config, {'report': 0.0})


def test_a_finder_without_members_is_an_error():
  config = runpy.run_path(str(ROOT / 'configs' / 'repair.py'))['get_config']('tiny')
  config.finder.members = 0
  with pytest.raises(ConfigError, match=r'finder\.members is 0: set 1 or more'):
    system.model(config, 'finder')


def test_a_label_without_its_photo_is_an_error(tmp_path):
  from PIL import Image

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


def test_the_engine_finds_fills_and_leaves_the_rest(monkeypatch):
  """The walk of a photo: what is found is filled, and with only_damage nothing else moves."""
  from oldphoto_jax.restoring import engine, filling, restore

  monkeypatch.setattr(filling, 'GRAIN', 0)

  def look_at(params, photo):  # damage is what is white
    return photo, (photo.min(-1, keepdims=True) > 0.9).astype(jnp.float32)

  def show_trust(params, photo, mask):
    return (jnp.where(mask > 0, mask, photo),) * 2

  system = engine.compiled(
    engine.Restorer(None, None, 16, 'white', fill=show_trust, look=look_at), [(200, 220)]
  )
  photo = _photos(1, 220)[0, :200] * 0.3
  photo[50:60, 40:90] = 1.0
  for only in (False, True):
    done = restore.restore_array(system, photo, None, restore.Wishes(1.0, only, find=0.4))
    assert done.mask[52:58, 42:88].min() == 1 and done.mask.mean() < 0.05
    np.testing.assert_allclose(done.photo[52:58, 42:88], 0.5)  # what it found may be wrong
    untouched = done.mask[..., 0] == 0
    np.testing.assert_allclose(done.photo[untouched], photo[untouched], atol=1e-6)
  told = restore.restore_array(system, photo, np.zeros((200, 220, 1), np.float32))
  np.testing.assert_allclose(told.photo, photo, atol=1e-6)  # an empty mask is believed
  marked = np.zeros((200, 220, 1), np.float32)
  marked[100:110, 100:110] = 1
  told = restore.restore_array(system, photo, marked)
  np.testing.assert_allclose(told.photo[100:110, 100:110], 1)  # and what a person marked
  np.testing.assert_allclose(told.photo[marked[..., 0] == 0], photo[marked[..., 0] == 0], atol=1e-6)
  monkeypatch.undo()
  grained = restore.restore_array(system, photo, None, restore.Wishes(find=0.4))
  assert grained.photo[52:58, 42:88].std() > 0.01  # the photo is all grain
  np.testing.assert_array_equal(grained.photo[untouched], done.photo[untouched])


def test_weights_of_repair_restore_and_detect(tmp_path):
  from oldphoto_jax import weights

  net = repair.Repair(widths=(4, 8), blocks=1)
  params = {'repair': jax.device_get(repair.init(net, jax.random.key(0)).g)}
  saved = weights.Weights('repair', repair.sizes(net), params)
  weights.save(tmp_path / 'w.safetensors', saved, card={}, half=True)
  loaded = weights.read(tmp_path / 'w.safetensors')
  restorer, detector = loaded.restorer(), loaded.find_detector()
  photo = _photos(1)
  np.testing.assert_allclose(restorer.apply(restorer.params, photo), photo, atol=1e-6)
  assert detector.system is not None  # it looks as the system itself does
  found = detector.apply(detector.params, photo)
  np.testing.assert_allclose(found, repair.PRIOR, rtol=1e-2)
  assert restorer.correction is None  # no network of tones was saved


def test_the_parts_of_the_network_give_what_it_gives_and_are_compiled_before_they_are_needed(
  trained,
):
  import dataclasses

  from oldphoto_jax import weights
  from oldphoto_jax.restoring import engine, restore

  held = weights.Weights('repair', repair.sizes(SMALL), {'repair': trained})
  restorer = weights.restorer(held, 'test')
  size = (330, 310)
  shared = engine.compiled(restorer, [size])
  plain = engine.compiled(dataclasses.replace(restorer, answer=None), [size])
  photo = _photos(1, 330)[0, :, :310]
  shared.programs.prepare(shared.plan, size, find=True, told=True, revive=True).shutdown()
  mask = np.zeros((*size, 1), np.float32)
  mask[100:110, 40:200] = 1
  both = [restore.restore_array(s, photo, mask, restore.Wishes()).photo for s in (shared, plain)]
  np.testing.assert_allclose(*both, atol=1e-5)
  found, told = (shared.fill(photo, photo, trust * mask) for trust in (0.5, 1.0))
  np.testing.assert_allclose(found, plain.fill(photo, photo, 0.5 * mask), atol=1e-5)
  assert np.abs(found - told).max() > 1e-4  # it does not believe both alike
  for a, b in zip(shared.look(photo)[:2], plain.look(photo)[:2]):
    np.testing.assert_allclose(a, b, atol=1e-5)
  # The photo and its holes have one shape, its copy takes it, too: no other program was needed.
  assert shared.programs.answer.shapes == [
    tuple((1, 384, 320, channels) for channels in (3, 3, 1, 1))
  ]


def test_what_the_weights_before_hold_is_released_again(tmp_path, trained):
  from oldphoto_jax import weights

  config = runpy.run_path(str(ROOT / 'configs/repair.py'))['get_config']('tiny')
  finder = repair.Repair(widths=(4, 6), blocks=1)
  fading = tone.Tone(width=8)
  key = jax.random.key(0)
  params = {
    'repair': trained,
    'finder': repair.init(finder, key).g,
    'tone': tone.init(fading, key).g,
  }
  sizes = repair.sizes(SMALL) | {'finder': repair.sizes(finder), 'tone': tone.sizes(fading)}
  weights.save(
    tmp_path / 'w.safetensors', weights.Weights('repair', sizes, jax.device_get(params)), card={}
  )
  networks = frozen.Networks(lambda *_: trained, lambda name: name == 'repair', None)
  assert not {'finder', 'tone'} & set(system.release(config, networks).model)
  config.start = str(tmp_path / 'w.safetensors')
  released = system.release(config, networks)
  weights.check(released, 'these')
  for name in ('finder', 'tone'):
    jax.tree.map(np.testing.assert_array_equal, released.params[name], params[name])


def test_a_finder_without_sizes_of_its_own_is_a_sentence():
  from oldphoto_jax import errors, weights

  held = weights.Weights('repair', repair.sizes(SMALL) | {'finder': True}, {})
  with pytest.raises(errors.WeightsError, match='not in the form of this version'):
    weights.restorer(held, 'test')


def test_a_finder_alone_says_what_is_damaged(trained):
  from oldphoto_jax import weights
  from oldphoto_jax.restoring import engine

  finder = repair.Repair(widths=(4, 6), blocks=1)
  untrained = repair.init(finder, jax.random.key(0)).g  # finds PRIOR everywhere
  sizes = repair.sizes(SMALL)
  held = weights.Weights(
    'repair',
    sizes | {'finder': repair.sizes(finder)},
    {'repair': trained, 'finder': untrained},
  )
  weights.check(held, 'these')
  photo = _photos(1, 192)[0]
  restorer = weights.restorer(held, 'test')
  alone = weights.restorer(weights.Weights('repair', sizes, {'repair': trained}), 'alone')
  looked, first = (engine.compiled(r, [(192, 192)]).look(photo) for r in (restorer, alone))
  np.testing.assert_array_equal(looked.clean, first.clean)
  by_itself = jax.jit(alone.look)({'repair': trained}, photo[None])[1]  # without copies
  assert by_itself.max() > 2 * repair.PRIOR
  assert np.abs(first.probability - repair.PRIOR).max() > 0.01
  np.testing.assert_allclose(looked.probability, repair.PRIOR, atol=1e-5)
  _, found = jax.jit(restorer.look)(held.params, photo[None])  # by one program
  np.testing.assert_allclose(found[0], repair.PRIOR, atol=1e-5)


def _squeezenet(key):
  """Random parameters of SqueezeNet, in the layout of weights."""
  zeros = repair.untrained_squeezenet()
  leaves, tree = jax.tree.flatten(zeros)
  keys = jax.random.split(key, len(leaves))
  draw = lambda key, x: (0.5 / x[..., 0].size) ** 0.5 * jax.random.normal(key, x.shape)
  return jax.tree.unflatten(tree, [draw(*both) for both in zip(keys, leaves)])


def test_a_finder_learns_from_maps_that_it_does_not_change(tmp_path):
  from oldphoto_jax import weights

  config = runpy.run_path(str(ROOT / 'configs/repair.py'))['get_config']('tiny')
  fixed = _squeezenet(jax.random.key(1))
  flat = flatten_dict(jax.device_get(fixed), sep='/')
  full = flat | {'conv10/kernel': np.zeros((1, 1, 512, 1000)), 'conv10/bias': np.zeros(1000)}
  np.savez(tmp_path / 'squeezenet.npz', **full)
  config.finder.squeezenet = str(tmp_path / 'squeezenet.npz')
  model = system.model(config, 'finder')
  constants = system.squeezenet(config)
  jax.tree.map(np.testing.assert_array_equal, constants, {'squeezenet': jax.device_get(fixed)})

  state = repair.init(model, jax.random.key(0))
  one_device = jax.pmap(
    lambda state, batch: repair.train_step(model, state, constants, batch, None)[0],
    axis_name=averaging.AXIS,
    devices=jax.devices()[:1],
  )
  learnt, batch = (jax.tree.map(lambda x: x[None], tree) for tree in (state, _batch()))
  for _ in range(3):
    learnt = one_device(learnt, batch)
  learnt = jax.tree.map(lambda x: x[0], learnt)
  assert set(learnt.g) == set(state.g) and 'maps0' in learnt.g
  assert np.abs(learnt.g['maps0']['kernel'] - state.g['maps0']['kernel']).max() > 1e-5

  trained = {'finder': learnt.released, 'repair': repair.init(SMALL, jax.random.key(0)).g}
  networks = frozen.Networks(lambda name, *_: trained[name], lambda name: name in trained, None)
  released = system.release(config, networks)
  assert 'squeezenet' not in learnt.released  # a run goes on from what it has learnt
  jax.tree.map(np.testing.assert_array_equal, released.params['finder']['squeezenet'], fixed)
  held = weights.Weights('repair', released.model | repair.sizes(SMALL), released.params)
  weights.check(held, 'these')
  find = jax.jit(weights.restorer(held, 'these').find)
  photos = _photos()
  seen = find(released.params, photos)
  other = released.params | {
    'finder': released.params['finder'] | {'squeezenet': repair.untrained_squeezenet()}
  }
  assert np.abs(seen - find(other, photos)).max() > 1e-4  # it looks at the maps


def test_members_learn_apart_and_decide_together():
  one = dataclasses.replace(SMALL, tells=False)
  two = dataclasses.replace(one, members=2)
  assert repair.from_sizes(repair.sizes(two)).members == 2
  before = repair.init(two, jax.random.key(0))
  starts = [state.start(one, g) for g in repair.apart(two, before.g)]
  kernels = [begun.g['conv_in']['kernel'] for begun in starts]
  assert np.abs(kernels[0] - kernels[1]).max() > 0.01

  def step(model, *begun):
    run = jax.pmap(
      lambda state, batch: repair.train_step(model, state, {}, batch, None),
      axis_name=averaging.AXIS,
      devices=jax.devices()[:1],
    )
    lead = lambda tree: jax.tree.map(lambda x: x[None], tree)
    return [jax.tree.map(lambda x: x[0], run(lead(one), lead(_batch()))) for one in begun]

  ((after, terms),) = step(two, before)
  apart, terms_apart = zip(*step(one, *starts))
  for name in ('bce', 'dice'):
    np.testing.assert_allclose(terms[name], np.mean([t[name] for t in terms_apart]), rtol=1e-4)
  for joint, begun, learnt in zip(repair.apart(two, after.g), starts, apart):
    # Half the step of plain gradient descent: the loss is the mean of both.
    half = jax.tree.map(lambda a, b: (a + b) / 2, begun.g, learnt.g)
    jax.tree.map(partial(np.testing.assert_allclose, atol=1e-5), joint, half)

  photos = 0.5 * _photos()  # nothing is clipped
  looks = zip(*(repair.look(one, learnt.g, photos) for learnt in apart))
  together = repair.look(two, repair.together([learnt.g for learnt in apart]), photos)
  for values, answer in zip(looks, together):
    np.testing.assert_allclose(answer, np.mean(values, 0), atol=2e-5)


def test_noise_is_measured_where_there_is_least_texture():
  rng = np.random.default_rng(0)
  y, x = np.mgrid[:128, :160] / 40
  smooth = 0.4 * np.stack([np.sin(x + y), np.cos(x), np.sin(y)], -1)
  smooth[:, 120:] += np.where(np.indices((128, 40)).sum(0) % 2, 0.3, -0.3)[..., None]  # texture
  smooth[:32] = 1.0  # paper shows no noise
  noisy = smooth + rng.normal(0, 0.1, smooth.shape) * (smooth < 1)
  both = np.stack([smooth, noisy]).astype(np.float32)
  fine, coarse = noise.LOUD * noise.measure(both).T
  assert fine[0] < 0.005 and coarse[0] < 0.02
  assert fine[1] == pytest.approx(0.1, rel=0.15)
  assert coarse[1] == pytest.approx(0.05, rel=0.25)  # white noise has half as much of it
  np.testing.assert_allclose(jax.jit(noise.measure)(both), noise.measure(both), atol=1e-5)
  assert noise.measure(np.ones((1, 64, 64, 3), np.float32)).max() == 0
  assert noise.measure(both[:, :20, :20]).shape == (2, 2)  # too small to be measured coarsely


def test_a_cleaner_sees_how_noisy_a_photo_is_and_is_not_asked_for_damage(trained):
  weights = dict.fromkeys(repair.WEIGHTS, 0.0) | {'l1': 10.0}
  model = repair.Repair((4, 8), 1, weights, g_tx=optax.sgd(0.1), tells=False, measures=True)
  batch = {name: jnp.asarray(value) for name, value in _batch().items()}
  seen = repair._without_masks(batch, True)
  levels = noise.measure(batch['old'])
  np.testing.assert_allclose(seen['mask'][:, 3, 5, 0], levels[:, 0])
  np.testing.assert_allclose(seen['trust'][:, 3, 5, 0], levels[:, 1])
  assert levels.max() > 0 and float(seen['holes'].max()) == 0
  deaf = repair.unmasked(trained)
  counts = {'known': 1.0, 'judged': 1.0, 'holes': 1.0}
  terms = [repair.loss_terms(model, g, seen, counts)['l1'] for g in (trained, deaf)]
  assert abs(terms[0] - terms[1]) > 1e-3
  expected = repair.look(model, deaf, batch['old'])[0]
  np.testing.assert_allclose(repair.clean(model, deaf, batch['old']), expected, atol=1e-6)


@pytest.mark.parametrize('measures', [False, True])
def test_a_network_is_judged_by_what_it_was_asked_for(trained, measures):
  model = repair.Repair((4, 8), 1, tells=not measures, measures=measures)
  state = repair.init(model, jax.random.key(0)).replace(g=trained)
  batch = {name: jnp.asarray(value) for name, value in _batch().items()}
  scores, images = repair.eval_step(model, state, {}, batch)
  expected = repair.look(model, trained, batch['old'])[0]
  if measures:
    expected = repair.clean(model, trained, batch['old'])
    np.testing.assert_array_equal(images['told'], images['restored'])
  np.testing.assert_allclose(images['restored'], expected, atol=1e-6)
  np.testing.assert_allclose(scores['psnr'], psnr_ssim.psnr(expected, batch['clean']), rtol=1e-5)


def test_a_cleaner_is_believed_as_far_as_the_photo_needs_it(trained):
  """It needs no program of its own, and what is found is found in the cleaned photo."""
  from oldphoto_jax import weights
  from oldphoto_jax.restoring import engine, finding

  def moving(by):
    params = jax.tree.map(np.zeros_like, trained)
    params['conv_out']['bias'] = np.tile(np.float32([by, by, by, 0, 0]), 4)
    return params

  photo = 0.5 * _photos(1, 128)[0]

  def look(params, photo=photo):
    sizes = repair.sizes(SMALL) | {'cleaner': 'cleaner' in params}
    held = weights.Weights('repair', sizes, params)
    weights.check(held, 'these')
    system = engine.compiled(weights.restorer(held, 'test'), [(128, 128)])
    looked = system.look(photo)
    np.testing.assert_array_equal(system.restore(photo), looked.clean)
    assert len(system.programs.answer.shapes) == 1
    return looked

  some, most = (by + 1e-3 for by in finding.NEEDED)  # a shift leaves the noise as it is
  np.testing.assert_allclose(look({'repair': moving(0.1)}).clean, photo + 0.1, atol=1e-6)
  for by, expected in ((most, most), (0.5 * some, 0)):
    both = {'repair': moving(0), 'cleaner': moving(by)}
    np.testing.assert_allclose(look(both).clean, photo + expected, atol=1e-6)
  both = {'repair': moving(-0.1), 'cleaner': moving(0)}  # what the cleaner leaves, stays
  np.testing.assert_array_equal(look(both).clean, photo)
  part = look({'repair': moving(0), 'cleaner': moving(some)}).clean - photo
  assert part.min() > 0 and part.max() < 0.5 * some
  both = {'repair': trained, 'cleaner': moving(most)}
  expected = look({'repair': trained}, photo + most).probability
  np.testing.assert_allclose(look(both).probability, expected, atol=1e-5)


def test_a_cleaner_that_sharpens_is_believed_later_than_one_that_takes_noise_away():
  from oldphoto_jax.restoring import engine

  rng = np.random.default_rng(0)
  smooth = np.broadcast_to(np.linspace(-0.5, 0.5, 128, dtype=np.float32), (3, 128, 128)).T
  noisy = smooth + rng.normal(0, 1 / 127.5, smooth.shape).astype(np.float32)
  assert engine._need_of_cleaner(noisy, smooth) > 0.5
  assert engine._need_of_cleaner(smooth, noisy) == 0  # the same change, the other way round
  assert engine._need_of_cleaner(smooth, smooth + 4 * (noisy - smooth)) > 0.5
  # Where as much noise is left as there was, rounding moves the answer by as much as itself.
  shifts = [smooth + np.float32(2 / 127.5 + by) for by in (-1e-6, 0, 1e-6)]
  needs = [engine._need_of_cleaner(noisy, x + (noisy - smooth)) for x in shifts]
  np.testing.assert_allclose(needs, 1 / 3, atol=1e-3)


def test_a_first_cleaner_begins_as_the_network_that_it_will_stand_beside(tmp_path, trained):
  from oldphoto_jax import weights

  config = runpy.run_path(str(ROOT / 'configs/repair.py'))['get_config']('tiny')
  held = weights.Weights('repair', repair.sizes(SMALL), {'repair': trained})
  weights.save(tmp_path / 'w.safetensors', held, card={})
  config.start = str(tmp_path / 'w.safetensors')
  begin = system.started(config, 'cleaner')
  jax.tree.map(np.testing.assert_array_equal, begin(jax.random.key(0)).g, repair.unmasked(trained))
  of = {'repair': trained, 'cleaner': jax.tree.map(lambda x: x + 1, trained)}
  networks = frozen.Networks(lambda stage, *_: of[stage], lambda name: name in of, None)
  released = system.release(config, networks)
  weights.check(released, 'these')
  jax.tree.map(np.testing.assert_array_equal, released.params['cleaner'], of['cleaner'])
  assert system.started(config, 'finder') is None
  config.start = ''
  assert system.started(config, 'cleaner') is None
  begin = system.started(config, 'cleaner', networks)  # or as the one of the run
  jax.tree.map(np.testing.assert_array_equal, begin(jax.random.key(0)).g, repair.unmasked(trained))


def test_a_program_that_could_not_be_compiled_is_tried_again():
  from oldphoto_jax.restoring import programs

  tries = []

  def apply(params, x):
    tries.append(x.shape)
    if len(tries) == 1:
      raise MemoryError('no more')
    return x + 1

  program = programs.Program(apply, None)
  photo = np.zeros((2, 3), np.float32)
  with pytest.raises(MemoryError):
    program(photo)
  np.testing.assert_array_equal(program(photo), photo + 1)
  assert len(tries) == 2 and program.shapes == [((2, 3),)]
