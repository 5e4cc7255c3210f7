"""The repair network: it begins with doing nothing, and learns from what is known only."""

import dataclasses
import pathlib
import runpy

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import small_repair
from small_repair import NET

from oldphoto_jax import weights
from oldphoto_jax.models import repair, tone
from oldphoto_jax.restoring import engine, filling, programs, restore
from oldphoto_jax.systems import frozen
from oldphoto_jax.systems import repair as system
from oldphoto_jax.training import parallel

ROOT = pathlib.Path(__file__).parent.parent


def test_an_untrained_network_changes_nothing_and_fills_smoothly():
  params = repair.init(NET, jax.random.key(0)).g
  photo, holes = small_repair.photos(), small_repair.batch()['damage']
  clean, found, _ = repair.look(NET, params, photo)
  np.testing.assert_array_equal(clean, photo)
  np.testing.assert_allclose(found, repair.PRIOR, rtol=1e-4)
  filled = np.asarray(repair.fill(NET, params, photo, holes))
  np.testing.assert_array_equal(np.where(holes, 0, filled), np.where(holes, 0, photo))
  assert np.abs(filled - photo).max() > 0.1


def test_what_a_pixel_becomes_depends_on_its_neighbourhood_only():
  """By gradient: no pooled statistics, so that tiles of any size give the same."""
  trained = small_repair.trained()
  photo = jnp.asarray(small_repair.photos(1, 64))
  gradient = jax.grad(lambda x: repair.look(NET, trained, x)[0][0, 8, 8].sum())(photo)
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


def test_where_nothing_is_lost_filling_is_looking():
  trained = small_repair.trained()
  photo, nothing = jnp.asarray(small_repair.photos()), jnp.zeros((4, 32, 32, 1))
  clean, found = repair.answer(NET, trained, *repair.starts(photo, nothing), nothing, nothing)
  looked = repair.look(NET, trained, photo)
  np.testing.assert_allclose(clean, looked[0], atol=1e-6)
  np.testing.assert_allclose(found, looked[1], atol=1e-6)


def test_unknown_pixels_teach_nothing():
  trained = small_repair.trained()
  state = repair.init(NET, jax.random.key(0)).replace(g=trained)
  batch = small_repair.batch()
  batch['known'][:, :16] = 0
  batch['judged'][:, :16] = 0
  other = {name: value.copy() for name, value in batch.items()}
  other['clean'][:, :16] = 0.3
  other['damage'][:, 2:8] = 1.0
  step = jax.pmap(
    lambda state, batch: repair.train_step(NET, state, {}, batch, None),
    axis_name='batch',
    in_axes=(None, 0),
    out_axes=None,
    devices=jax.devices()[:1],
  )
  states = [step(state, {k: v[None] for k, v in b.items()})[0] for b in (batch, other)]
  # Dice leaves photos without damage out, and both have some.
  for a, b in zip(*(jax.tree.leaves(s.g) for s in states)):
    np.testing.assert_allclose(a, b, atol=1e-6)


def test_only_every_other_example_sees_its_mask():
  batch = {name: jnp.asarray(value) for name, value in small_repair.batch().items()}
  shown = repair._with_prefilled(batch)
  assert float(shown['mask'][0::2].max()) == 1 and float(shown['mask'][1::2].max()) == 0
  assert float(shown['trust'][1::2].max()) == 0
  np.testing.assert_array_equal(shown['filled'][1::2], batch['old'][1::2])


def test_in_training_the_network_is_shown_what_it_will_be_shown():
  batch = {name: jnp.asarray(value) for name, value in small_repair.batch().items()}
  batch['trust'] = jnp.array([1.0, 1.0, 0.5, 1.0])[:, None, None, None]
  seen = repair._with_prefilled(batch)['seen']
  for i, trust in ((0, 1.0), (2, 0.5)):  # a person's mask, and a detector's
    old, holes = batch['old'][i : i + 1], batch['told'][i : i + 1]
    np.testing.assert_allclose(seen[i], repair.starts(old, trust * holes)[0][0], atol=1e-6)
  assert not np.array_equal(seen[0], batch['old'][0])
  np.testing.assert_array_equal(seen[1:], batch['old'][1:])


def test_one_device_and_four_train_alike():
  """One step of SGD, smooth but for L1, whose kinks no number here is near to."""
  trained = small_repair.trained()
  state = repair.init(NET, jax.random.key(0)).replace(g=trained)
  batch = small_repair.batch(8)
  results = []
  for devices in (1, 4):
    step = jax.pmap(
      lambda state, batch: repair.train_step(NET, state, {}, batch, None),
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
  batch = small_repair.batch(4)
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


def test_the_engine_finds_fills_and_leaves_the_rest(monkeypatch):
  """The walk of a photo: what is found is filled, and with only_damage nothing else moves."""
  monkeypatch.setattr(filling, 'GRAIN', 0)

  def look_at(params, photo):  # damage is what is white
    return photo, (photo.min(-1, keepdims=True) > 0.9).astype(jnp.float32)

  def show_trust(params, photo, mask):
    return (jnp.where(mask > 0, mask, photo),) * 2

  system = engine.compiled(
    engine.Restorer(None, None, 16, 'white', fill=show_trust, look=look_at), [(200, 220)]
  )
  photo = small_repair.photos(1, 220)[0, :200] * 0.3
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
  net = repair.Repair(widths=(4, 8), blocks=1)
  params = {'repair': jax.device_get(repair.init(net, jax.random.key(0)).g)}
  saved = weights.Weights('repair', repair.sizes(net), params)
  weights.save(tmp_path / 'w.safetensors', saved, card={}, half=True)
  loaded = weights.read(tmp_path / 'w.safetensors')
  restorer, detector = loaded.restorer(), loaded.find_detector()
  photo = small_repair.photos(1)
  np.testing.assert_allclose(restorer.apply(restorer.params, photo), photo, atol=1e-6)
  assert detector.system is not None  # it looks as the system itself does
  found = detector.apply(detector.params, photo)
  np.testing.assert_allclose(found, repair.PRIOR, rtol=1e-2)
  assert restorer.correction is None  # no network of tones was saved


def test_the_parts_of_the_network_give_what_it_gives_and_are_compiled_before_they_are_needed():
  trained = small_repair.trained()
  held = weights.Weights('repair', repair.sizes(NET), {'repair': trained})
  restorer = weights.restorer(held, 'test')
  size = (330, 310)
  shared = engine.compiled(restorer, [size])
  plain = engine.compiled(dataclasses.replace(restorer, answer=None), [size])
  photo = small_repair.photos(1, 330)[0, :, :310]
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


def test_what_the_weights_before_hold_is_released_again(tmp_path):
  trained = small_repair.trained()
  config = runpy.run_path(str(ROOT / 'configs/repair.py'))['get_config']('tiny')
  finder = repair.Repair(widths=(4, 6), blocks=1)
  fading = tone.Tone(width=8)
  key = jax.random.key(0)
  params = {
    'repair': trained,
    'finder': repair.init(finder, key).g,
    'tone': tone.init(fading, key).g,
  }
  sizes = repair.sizes(NET) | {'finder': repair.sizes(finder), 'tone': tone.sizes(fading)}
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


def test_a_program_that_could_not_be_compiled_is_tried_again():
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
