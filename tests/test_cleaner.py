"""A cleaner takes noise away, as far as a photo has some, and is not asked for damage."""

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
from oldphoto_jax.metrics import psnr_ssim
from oldphoto_jax.models import repair
from oldphoto_jax.nn import noise
from oldphoto_jax.restoring import engine, finding
from oldphoto_jax.systems import frozen
from oldphoto_jax.systems import repair as system

ROOT = pathlib.Path(__file__).parent.parent


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


def test_a_cleaner_sees_how_noisy_a_photo_is_and_is_not_asked_for_damage():
  trained = small_repair.trained()
  weights = dict.fromkeys(repair.WEIGHTS, 0.0) | {'l1': 10.0}
  model = repair.Repair((4, 8), 1, weights, g_tx=optax.sgd(0.1), tells=False, measures=True)
  batch = {name: jnp.asarray(value) for name, value in small_repair.batch().items()}
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
def test_a_network_is_judged_by_what_it_was_asked_for(measures):
  trained = small_repair.trained()
  model = repair.Repair((4, 8), 1, tells=not measures, measures=measures)
  state = repair.init(model, jax.random.key(0)).replace(g=trained)
  batch = {name: jnp.asarray(value) for name, value in small_repair.batch().items()}
  scores, images = repair.eval_step(model, state, {}, batch)
  expected = repair.look(model, trained, batch['old'])[0]
  if measures:
    expected = repair.clean(model, trained, batch['old'])
    np.testing.assert_array_equal(images['told'], images['restored'])
  np.testing.assert_allclose(images['restored'], expected, atol=1e-6)
  np.testing.assert_allclose(scores['psnr'], psnr_ssim.psnr(expected, batch['clean']), rtol=1e-5)


def test_a_cleaner_is_believed_as_far_as_the_photo_needs_it():
  """It needs no program of its own, and what is found is found in the cleaned photo."""
  trained = small_repair.trained()

  def moving(by):
    params = jax.tree.map(np.zeros_like, trained)
    params['conv_out']['bias'] = np.tile(np.float32([by, by, by, 0, 0]), 4)
    return params

  photo = 0.5 * small_repair.photos(1, 128)[0]

  def look(params, photo=photo):
    sizes = repair.sizes(NET) | {'cleaner': 'cleaner' in params}
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


def test_a_first_cleaner_begins_as_the_network_that_it_will_stand_beside(tmp_path):
  trained = small_repair.trained()
  config = runpy.run_path(str(ROOT / 'configs/repair.py'))['get_config']('tiny')
  held = weights.Weights('repair', repair.sizes(NET), {'repair': trained})
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
