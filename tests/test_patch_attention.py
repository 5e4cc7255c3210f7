"""The high-resolution mapping: parity with the official one, what is copied, memory, photos in tiles."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import count_parameters

from oldphoto_jax import weights
from oldphoto_jax.models import mapping, patch_attention, vae
from oldphoto_jax.models import triplet as triplet_model
from oldphoto_jax.nn import averaging
from oldphoto_jax.restoring import engine
from oldphoto_jax.weights import bopbtl, torch_state


def nhwc(array):
  return jnp.asarray(array.transpose(0, 2, 3, 1))


def assert_equal(ours, reference):
  np.testing.assert_allclose(ours, reference, rtol=0, atol=1e-4 * float(jnp.abs(reference).max()))


# The official network ------------------------------------------------------------------------

NET = patch_attention.PatchT(width=128, zero_strip=True)


@pytest.fixture(scope='module')
def official(fixture):
  reference = fixture('bopbtl_mapping_hr')
  state = {k.removeprefix('param/'): v for k, v in reference.items() if k.startswith('param/')}
  return reference, bopbtl.read_patch_mapping(state)


def test_holes_of_the_latent_are_the_official_ones(official):
  reference, _ = official
  for end in ('', '_odd'):
    expected = nhwc(reference[f'output/latent_mask{end}'])
    ours = patch_attention.holes(nhwc(reference[f'input/mask{end}']), expected.shape[1:3])
    np.testing.assert_array_equal(ours, expected)


@pytest.mark.parametrize('size', patch_attention.SIZES)
@pytest.mark.parametrize('block', [patch_attention.BLOCK, 320])
def test_copies_are_taken_from_the_official_patches(official, monkeypatch, size, block):
  """Chosen patches first, then values; also in blocks, of which the last is not full."""
  monkeypatch.setattr(patch_attention, 'BLOCK', block)
  jax.clear_caches()
  reference, params = official
  hole = nhwc(reference['output/latent_mask'])[:1]
  z, inside = nhwc(reference['input/feature']), jnp.ones_like(hole)
  attention = patch_attention.PatchAttention(128, size, zero_strip=True)
  ours, state = attention.apply(
    {'params': params[f'copy{size}']}, z, hole, inside, capture_intermediates=True
  )
  x = state['intermediates']['block']['__call__'][0][0]
  chosen = patch_attention.sources(x, hole[0], inside[0], size)
  np.testing.assert_array_equal(chosen, reference[f'output/index_{size}'][0])
  assert_equal(ours, nhwc(reference[f'output/attention_{size}']))


@pytest.mark.parametrize(
  ('end', 'masked', 'output'),
  [
    ('', True, 'mapped'),
    ('_strip', True, 'mapped_strip'),
    ('_strip', False, 'mapped_strip_empty'),
    ('_odd', True, 'mapped_odd'),
  ],
)
def test_high_resolution_mapping_equals_the_official_network(official, end, masked, output):
  """On whole patches, and on sides that leave a strip of zeros there, with and without holes."""
  reference, params = official
  z, mask = (nhwc(reference[f'input/{name}{end}']) for name in ('latent', 'mask'))
  hole = patch_attention.holes(mask * masked, z.shape[1:3])
  assert_equal(NET.apply({'params': params}, z, hole), nhwc(reference[f'output/{output}']))


def test_parameters_of_the_published_size():
  one = vae.VAE()
  model = mapping.Mapping(one.encoder, one.decoder, blocks=2, masked=True, patched=True)
  state = jax.eval_shape(partial(mapping.init, model), jax.random.key(0))
  assert count_parameters(state.g) == 73_904_448
