"""The weights that come with the package: they are there, small, and better than doing nothing."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from oldphoto_jax import cli, data, weights
from oldphoto_jax.degradation import photographic, recipes
from oldphoto_jax.metrics import psnr_ssim
from oldphoto_jax.restoring import degrade_files, engine, restore

SIDE = 128


@pytest.fixture(scope='module')
def aged():
  """Middle squares of the sample photos, damaged as in the student report."""
  source = data.sample_photos()
  clean = [degrade_files.middle_square(source[i], SIDE) for i in range(len(source))]
  keys = jax.random.split(jax.random.key(0), len(clean))
  clean = photographic.from_levels(jnp.asarray(np.stack(clean)))
  return jax.jit(partial(recipes.degrade_batch, recipes.Report()))(keys, clean)


def test_they_are_small_and_say_where_they_are_from():
  assert weights.SHIPPED.stat().st_size < 25e6
  loaded = weights.read(weights.SHIPPED)
  assert 'run' in loaded.card
  assert (weights.SHIPPED.parent / 'MODEL_CARD.md').exists()
  assert loaded.find_detector() is not None


def test_they_restore_better_than_doing_nothing(aged):
  restorer = weights.load_restorer(weights.SHIPPED)
  restored = jax.jit(restorer.apply)(restorer.params, aged.old)
  gain = psnr_ssim.psnr(restored, aged.clean) - psnr_ssim.psnr(aged.old, aged.clean)
  assert float(gain.mean()) > 2


def test_they_fill_what_a_mask_marks(aged):
  """Of the recipe; and opaque white and dark: where a network sees it, it must not show through."""
  restorer = weights.load_restorer(weights.SHIPPED)
  system = engine.compiled(restorer, [(SIDE, SIDE)])
  wide = nn.max_pool(aged.mask, (3, 3), (1, 1), 'SAME')  # lines of 3 pixels
  torn = [(jnp.where(wide > 0, level, aged.clean), wide, 8) for level in (1.0, -0.8)]
  for old, mask, least in [(aged.old, aged.mask, 6), *torn]:
    photos = zip(np.asarray(old), np.asarray(mask))
    only = restore.Wishes(only_damage=True)
    filled = np.stack([restore.restore_array(system, *both, only).photo for both in photos])
    inside = partial(psnr_ssim.psnr_inside, b=aged.clean, mask=mask)
    assert float(jnp.nanmean(inside(filled) - inside(old))) > least


def test_the_command_uses_them(tmp_path, capsys):
  Image.fromarray(np.full((40, 50, 3), 90, np.uint8)).save(tmp_path / 'a.png')
  words = ['restore', tmp_path / 'a.png', '-o', tmp_path / 'out', '--save-mask', '--no-page']
  assert cli.main([str(word) for word in words]) == 0
  assert (tmp_path / 'out/masks/a.png').exists()
  assert '1 restored' in capsys.readouterr().out
