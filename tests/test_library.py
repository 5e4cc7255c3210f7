"""Restoring from Python: arrays in, the same kind of arrays out."""

import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest

import oldphoto_jax
from oldphoto_jax import library, weights
from oldphoto_jax.errors import OptionError, PhotoError, WeightsError
from oldphoto_jax.restoring import engine


def halved():
  """Photos become half as strong, and holes black."""
  apply = lambda params, photos: photos * params
  one = lambda params, photos, holes: jnp.where(holes > 0, -1, photos) * (2 * params)
  fill = lambda *args: (one(*args),) * 2
  return engine.Restorer(apply, jnp.float32(0.5), 16, 'half', fill)


@pytest.fixture
def restorer():
  dark = lambda photo: (photo < -0.99).all(-1, keepdims=True).astype(np.float32)
  return library.ArrayRestorer(engine.compiled(halved()), find=dark)


def photo(height=20, width=30, dtype=np.uint8, seed=0):
  top = np.iinfo(dtype).max
  return np.random.default_rng(seed).integers(top // 4, top, (height, width, 3), dtype)


def test_importing_does_not_wait_for_jax():
  code = (
    'import sys, oldphoto_jax; assert oldphoto_jax.__version__; '
    'sys.exit(bool({"jax", "numpy", "PIL"} & set(sys.modules)))'
  )
  assert subprocess.run([sys.executable, '-c', code], check=False).returncode == 0


def test_load_opens_weights_and_refuses_what_is_none(monkeypatch, tmp_path):
  opened = []

  class Loaded:
    restorer = staticmethod(halved)
    find_detector = staticmethod(lambda: None)

  monkeypatch.setattr(weights, 'read', lambda path: opened.append(path) or Loaded())
  assert oldphoto_jax.load('mine').restore(photo()).shape == (20, 30, 3)
  oldphoto_jax.load()
  assert opened == ['mine', weights.SHIPPED]
  monkeypatch.undo()
  with pytest.raises(WeightsError, match='there is no file of weights'):
    oldphoto_jax.load(tmp_path / 'nothing')


@pytest.mark.parametrize('dtype', [np.uint8, np.uint16, np.float32, np.float64, np.float16])
@pytest.mark.parametrize('gray', [False, True])
def test_the_same_kind_comes_back(restorer, dtype, gray):
  levels = photo()
  values = levels / 127.5 - 1
  given = levels * np.uint16(257) if dtype == np.uint16 else levels
  given = values.astype(dtype) if np.dtype(dtype).kind == 'f' else given.astype(dtype)
  given = given[..., 0] if gray else given
  before = given.copy()
  after = restorer.restore(given)
  assert (after.shape, after.dtype) == (given.shape, given.dtype)
  np.testing.assert_array_equal(given, before)
  expected = values[..., 0] / 2 if gray else values / 2
  found = after / (np.iinfo(dtype).max / 2) - 1 if np.dtype(dtype).kind == 'u' else after
  np.testing.assert_allclose(found, expected, atol=0.01)


def test_a_list_of_different_sizes_gives_what_each_photo_gives(restorer):
  photos = [photo(), photo(200, 140, seed=1), photo(9, 9, np.uint16)]
  together = restorer.restore(photos)
  for one, of_list in zip(photos, together):
    np.testing.assert_array_equal(restorer.restore(one), of_list)


@pytest.mark.parametrize('kind', [bool, np.uint8, np.float64])
@pytest.mark.parametrize('flat', [False, True])
def test_a_mask_of_any_kind_is_filled_and_the_rest_kept(restorer, kind, flat):
  given, mask = photo(), np.zeros((20, 30, 1), kind)
  mask[4:8, 5:9] = 255 if kind == np.uint8 else 1
  after = restorer.restore(given, mask[..., 0] if flat else mask, only_damage=True)
  marked = mask[..., 0] > 0
  np.testing.assert_array_equal(after[~marked], given[~marked])
  assert (after[marked] == 0).all()
  values = given / 127.5 - 1
  after = restorer.restore(values, mask, only_damage=True)
  np.testing.assert_array_equal(after[~marked], values[~marked])
  assert after.dtype == np.float64 and (after[marked] == -1).all()


def test_damage_is_found_on_request(restorer):
  given = photo()
  given[10, 12] = 0
  plain, found = restorer.restore(given), restorer.restore(given, find_damage=True)
  assert (plain[10, 12] > 60).all() and (found[10, 12] < 5).all()
  list_ = restorer.restore([given, given], [None, np.zeros((20, 30))], find_damage=True)
  np.testing.assert_array_equal(list_[0], found)
  np.testing.assert_array_equal(list_[1], plain)
  with pytest.raises(OptionError, match='hold no detector'):
    library.ArrayRestorer(restorer.engine).restore(given, find_damage=True)


@pytest.mark.parametrize('dtype', [np.uint8, np.float32])
def test_a_system_that_finds_damage_fills_only_that_on_request(dtype):
  def look(params, photos):  # damage is what is white
    return photos, (photos.min(-1, keepdims=True) > 0.9).astype(jnp.float32)

  fill = lambda params, photos, holes: (jnp.where(holes > 0, 0.0, photos),) * 2
  system = engine.compiled(engine.Restorer(None, None, 16, 'white', fill=fill, look=look))
  given = photo(40, 50) // 2
  given[10:16, 10:16] = 255
  given = given if dtype == np.uint8 else (given / 127.5 - 1).astype(dtype)
  after = library.ArrayRestorer(system, finds=True).restore(given, only_damage=True)
  assert after.dtype == dtype and (after[11:15, 11:15] != given[11:15, 11:15]).all()
  np.testing.assert_array_equal(after[20:], given[20:])
  # Damage all over is a search that has failed, and no photo to refuse.
  white = np.full_like(given, given.max())
  np.testing.assert_array_equal(library.ArrayRestorer(system, finds=True).restore(white), white)


def test_what_cannot_be_restored_is_a_sentence(restorer):
  given = photo()
  for arguments, options, match in (
    ((given[..., :2],), {}, r'shape \(20, 30, 2\)'),
    ((given[None],), {}, 'give .H, W, 3'),
    ((given.astype(np.int32),), {}, 'dtype int32'),
    ((given.astype(np.float32),), {}, 'outside of .-1, 1'),
    ((np.full((9, 9, 3), np.nan),), {}, 'outside of .-1, 1'),
    ((given, np.zeros((30, 20))), {}, r'a mask has shape \(30, 20\)'),
    ((given, np.full((20, 30), 2.0)), {}, 'outside of .0, 1'),
    (([given], [None, None]), {}, '1 photos and 2 masks'),
    ((given,), {'strength': 2}, 'from 0 to 1'),
    ((given,), {'only_damage': True}, 'needs a mask'),
    ((given,), {'tone': 0.5}, 'revive no tones'),
  ):
    with pytest.raises(ValueError, match=match):
      restorer.restore(*arguments, **options)
  with pytest.raises(PhotoError, match='covers the whole photo'):
    restorer.restore(given, np.ones((20, 30)))
