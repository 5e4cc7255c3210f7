"""The high-resolution mapping: the official numbers, what is copied, memory, photos in tiles."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import count_parameters
from jax.ad_checkpoint import checkpoint_name

from configs.vae import get_config
from oldphoto_jax import weights
from oldphoto_jax.errors import ConfigError
from oldphoto_jax.models import detector as detector_model
from oldphoto_jax.models import mapping, patch_attention, vae
from oldphoto_jax.models import triplet as triplet_model
from oldphoto_jax.nn import averaging, layers, parameters
from oldphoto_jax.restoring import layerwise
from oldphoto_jax.systems import frozen
from oldphoto_jax.systems import triplet as triplet_system
from oldphoto_jax.weights import bopbtl, torch_state


def nhwc(array):
  return jnp.asarray(array.transpose(0, 2, 3, 1))


def assert_equal(ours, reference):
  np.testing.assert_allclose(ours, reference, rtol=0, atol=1e-4 * float(jnp.abs(reference).max()))


# The official network ------------------------------------------------------------------------

NET = patch_attention.PatchT(width=128, zero_strip=True)
RUN = jax.jit(NET.apply)


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


@pytest.mark.parametrize(('size', 'block'), [(8, patch_attention.BLOCK), (4, 320), (2, 320)])
def test_copies_are_taken_from_the_official_patches(official, monkeypatch, size, block):
  """Chosen patches first, then values; also in blocks, of which the last is not full."""
  monkeypatch.setattr(patch_attention, 'BLOCK', block)
  reference, params = official
  hole = nhwc(reference['output/latent_mask'])[:1]
  z, inside = nhwc(reference['input/feature']), jnp.ones_like(hole)
  attention = patch_attention.PatchAttention(128, size, zero_strip=True)

  @jax.jit
  def run(params):
    ours, seen = attention.apply({'params': params}, z, hole, inside, capture_intermediates=True)
    x = seen['intermediates']['block']['__call__'][0][0]
    return patch_attention.sources(x, hole[0], inside[0], size), ours

  chosen, ours = run(params[f'copy{size}'])
  np.testing.assert_array_equal(chosen, reference[f'output/index_{size}'][0])
  assert_equal(ours, nhwc(reference[f'output/attention_{size}']))


@pytest.mark.parametrize(
  ('end', 'masked', 'output'),
  [
    ('', True, 'mapped'),
    ('_strip', True, 'mapped_strip'),
    ('_strip', False, 'mapped_strip_empty'),
    pytest.param('_odd', True, 'mapped_odd', marks=pytest.mark.slow),
  ],
)
def test_high_resolution_mapping_equals_the_official_network(official, end, masked, output):
  """On whole patches, and on sides that leave a strip of zeros there, with and without holes."""
  reference, params = official
  z, mask = (nhwc(reference[f'input/{name}{end}']) for name in ('latent', 'mask'))
  hole = patch_attention.holes(mask * masked, z.shape[1:3])
  assert_equal(RUN({'params': params}, z, hole), nhwc(reference[f'output/{output}']))


def test_parameters_of_the_published_size():
  one = vae.VAE()
  model = mapping.Mapping(one.encoder, one.decoder, blocks=2, masked=True, patched=True)
  state = jax.eval_shape(partial(mapping.init, model), jax.random.key(0))
  assert count_parameters(state.g) == 73_904_448


# Which patches are copied --------------------------------------------------------------------


def lost(shape, *squares):
  hole = jnp.zeros((*shape, 1))
  for rows, columns in squares:
    hole = hole.at[slice(*rows), slice(*columns)].set(1)
  return hole


def by_definition(x, hole, size):
  """The source of each patch, pair by pair, in float64."""
  x, hole = np.asarray(x, np.float64), np.asarray(hole)
  tops = [(i, j) for i in range(0, x.shape[0], size) for j in range(0, x.shape[1], size)]
  cut = lambda a: [a[i : i + size, j : j + size].ravel() for i, j in tops]
  masked = [part.mean() > 0.6 for part in cut(hole)]
  unit = [v / np.linalg.norm(v) for v in cut(x)]
  keys = [k for k, is_masked in enumerate(masked) if not is_masked]
  return [
    max(keys, key=lambda k: unit[q] @ unit[k]) if masked[q] and keys else q
    for q in range(len(tops))
  ]


@pytest.mark.parametrize(('size', 'block'), [(2, 4096), (2, 28), (4, 4096)])
def test_masked_patches_take_the_most_similar_one_by_its_cosine(monkeypatch, size, block):
  monkeypatch.setattr(
    patch_attention, 'BLOCK', block
  )  # 28: seven patches, of which 48 are no whole
  x = jax.random.normal(jax.random.key(0), (16, 12, 5))
  hole = lost((16, 12), ((0, 7), (2, 9)), ((12, 16), (0, 4)))
  find = jax.jit(partial(patch_attention.sources, size=size))
  found = find(x, hole, jnp.ones_like(hole))
  np.testing.assert_array_equal(found, by_definition(x, hole, size))
  assert (found != np.arange(len(found))).sum() >= 3


def test_the_first_of_equal_patches_is_copied_and_nothing_beyond_the_photo(monkeypatch):
  monkeypatch.setattr(patch_attention, 'BLOCK', 8)
  x = jnp.tile(jax.random.normal(jax.random.key(0), (2, 2, 3)), (6, 2, 1))  # twelve equal patches
  hole = lost((12, 4), ((6, 8), (0, 4)))
  find = jax.jit(partial(patch_attention.sources, size=2))
  np.testing.assert_array_equal(find(x, hole, jnp.ones_like(hole))[6:8], 0)
  # What is beyond the photo is copied only where the photo reaches into the patch.
  inside = lost((12, 4), ((5, 12), (0, 4)))
  np.testing.assert_array_equal(find(x, hole, inside)[6:8], 4)


def test_a_photo_of_holes_alone_and_one_without_a_whole_patch_keep_what_they_have():
  for shape, size in (((8, 8), 2), ((6, 20), 8)):
    x = jax.random.normal(jax.random.key(0), (1, *shape, 3))
    whole = jnp.ones((1, *shape, 1))
    for zero_strip in (False, True):
      y = patch_attention.copy_patches(x, whole, whole, size, zero_strip)
      np.testing.assert_array_equal(y, x)


def test_rows_and_columns_beyond_the_last_patch_stay_or_are_zero_as_published():
  x = jax.random.normal(jax.random.key(0), (2, 11, 10, 3))
  hole = jnp.stack([lost((11, 10), ((0, 4), (4, 8))), lost((11, 10))])
  ones = jnp.ones_like(hole)
  kept, zeroed = (patch_attention.copy_patches(x, hole, ones, 4, z) for z in (False, True))
  np.testing.assert_array_equal(kept[:, 8:], x[:, 8:])
  np.testing.assert_array_equal(kept[:, :8, 8:], x[:, :8, 8:])
  assert not zeroed[0, 8:].any() and not zeroed[0, :, 8:].any()
  np.testing.assert_array_equal(zeroed[1], x[1])  # no masked patch, no strip
  np.testing.assert_array_equal(zeroed[:, :8, :8], kept[:, :8, :8])


def test_gradients_flow_through_the_copied_values():
  x = jax.random.normal(jax.random.key(0), (1, 8, 8, 3))
  hole = lost((8, 8), ((2, 4), (4, 6)))[None]
  copy = lambda x: patch_attention.copy_patches(x, hole, jnp.ones_like(hole), 2, False)
  grad = jax.grad(lambda x: copy(x).sum())(x)
  source = by_definition(x[0], hole[0], 2)[1 * 4 + 2]
  row, column = 2 * (source // 4), 2 * (source % 4)
  expected = np.ones((8, 8))
  expected[2:4, 4:6] = 0  # the hole's own content is gone
  expected[row : row + 2, column : column + 2] = 2
  np.testing.assert_array_equal(grad[0], expected[..., None] * np.ones(3))


def test_memory_grows_with_the_patches_and_not_with_their_square():
  def temporary(side):
    x, hole = (jax.ShapeDtypeStruct((1, side, side, n), jnp.float32) for n in (8, 1))
    copy = partial(patch_attention.copy_patches, size=2, zero_strip=False)
    return jax.jit(copy).lower(x, hole, hole).compile().memory_analysis().temp_size_in_bytes

  small, large = temporary(256), temporary(512)  # 16,384 and 65,536 patches
  assert large < 5 * small
  assert large < 65536**2 * 4 / 50


# The system around it ------------------------------------------------------------------------


def small(norm=True, **changes):
  one = vae.VAE(width=8, latent=8, blocks=1, d_width=8, d_scales=1, norm=norm)
  settings = {'width': 16, 'blocks': 0, 'masked': True, 'patched': True} | changes
  return mapping.Mapping(one.encoder, one.decoder, **settings)


def drawn(init):
  """Random parameters in the shapes of `init`, without compiling it."""
  rng = np.random.default_rng(0)
  like = jax.eval_shape(init, jax.random.key(0))
  return jax.tree.map(lambda leaf: rng.normal(0, 0.1, leaf.shape).astype(leaf.dtype), like)


def whole_system(**changes):
  patched = small(**changes)
  plain = dataclasses.replace(patched, masked=False, patched=False)
  masked = dataclasses.replace(patched, patched=False)
  params = drawn(partial(triplet_model.init, triplet_model.Triplet(plain, masked, patched)))
  return patched, weights.triplet(plain, params, masked=masked, patched=patched)


def test_weights_round_trip_and_fill_by_copies_on_request(tmp_path):
  patched, both = whole_system(grow=2, mask_pool='reference')
  weights.save(tmp_path / 'both', both, card={})
  loaded = weights.load(tmp_path / 'both')
  plain = weights.restorer(loaded, 'test')
  copying = weights.restorer(weights.with_patches(loaded), 'test')
  assert (plain.multiple, copying.multiple) == (4, 32)
  old, mask = (jax.ShapeDtypeStruct((1, 64, 96, n), jnp.float32) for n in (3, 1))
  params = {'rx': loaded.params['rx']} | loaded.params['patched']
  ours = jax.make_jaxpr(lambda *args: copying.fill(copying.params, *args)[0])(old, mask)
  expected = jax.make_jaxpr(partial(mapping.restore, patched, params))(old, mask)
  assert str(ours) == str(expected) and 'copy_patches' in str(ours)
  whole = jax.make_jaxpr(lambda *args: plain.fill(plain.params, *args)[0])(old, mask)
  assert 'copy_patches' not in str(whole)
  with pytest.raises(weights.WeightsError, match='no mapping that copies patches'):
    weights.with_patches(weights.Weights('repair', {}, {}))


def test_masks_grow_before_the_network_sees_the_photo(monkeypatch):
  seen = {}
  monkeypatch.setattr(vae, 'encode', lambda model, g, photo: photo)
  monkeypatch.setattr(vae, 'decode', lambda model, g, z: z)
  monkeypatch.setattr(mapping, 'translate', lambda model, g, z, mask: seen.update(mask=mask) or z)
  mask = jnp.zeros((1, 32, 32, 1)).at[:, 10:12, 20].set(1)
  params = {'rx': None, 'y': None, 'mapping': None}
  white = mapping.restore(small(grow=3), params, jnp.zeros((1, 32, 32, 3)), mask)
  expected = jnp.zeros((1, 32, 32, 1)).at[:, 7:15, 17:24].set(1)
  np.testing.assert_array_equal(seen['mask'], expected)
  np.testing.assert_array_equal(white, jnp.broadcast_to(expected, white.shape))


def test_a_step_of_training_moves_every_layer_of_the_mapping():
  terms = dict.fromkeys(mapping.WEIGHTS, 0.0) | {'latent_l1': 1.0}
  model = small(False, weights=terms, g_tx=optax.sgd(1.0))
  state = drawn(partial(mapping.init, model))
  one = drawn(lambda key: vae.init_networks(model.encoder, model.decoder, key, key))
  constants = {'rx': one, 'y': one}
  old = jax.random.uniform(jax.random.key(5), (1, 2, 64, 64, 3), minval=-1)
  mask = jnp.zeros((1, 2, 64, 64, 1)).at[:, 0, 8:44, 4:60].set(1)
  batch = {'old': old, 'clean': old, 'mask': mask}
  step = lambda batch: mapping.train_step(model, state, constants, batch, None)[0].g
  after = jax.jit(jax.vmap(step, axis_name=averaging.AXIS))(batch)
  moved = jax.tree.map(lambda a, b: bool((a != b).any()), state.g, after)
  assert all(jax.tree.leaves(moved)), moved


def test_the_system_trains_and_releases_it_on_request():
  config = get_config('tiny')
  config.mapping_masked.patched = True
  config.stages = 'vae_rx,vae_y,mapping,mapping_masked'
  triplet_system.SYSTEM.check(config)
  networks = dataclasses.replace(frozen.SHAPES, has=lambda stage: stage != 'fusion')
  released = triplet_system.release(config, networks)
  assert 'patched' in released.model and 'masked' not in released.model
  weights.check(released, 'test')
  config.stages, config.fusion.masked = 'fusion', True
  with pytest.raises(ConfigError, match=r'set fusion.masked or mapping_masked.patched to False'):
    triplet_system.SYSTEM.check(config)


def test_import_reads_the_whole_official_folder_and_names_what_is_missing(tmp_path, monkeypatch):
  """Which file becomes which part; the readers are compared with the official networks above."""
  params = whole_system(mask_pool='reference')[1].params
  folder = tmp_path / 'Global' / 'checkpoints' / 'restoration'
  y, finder = (
    params['y'] | params['rx'],
    detector_model.Detector(net=detector_model.DetectorUNet(width=4, depth=2)),
  )
  found = jax.eval_shape(partial(detector_model.init, finder), jax.random.key(0)).released
  found = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), found)
  files = {
    **{f'restoration/VAE_{name}/latest_net_G.pth': y for name in ('A_quality', 'B_quality')},
    'restoration/mapping_quality/latest_net_mapping_net.pth': params['mapping'],
    'restoration/VAE_B_scratch/latest_net_G.pth': y,
    'restoration/mapping_scratch/latest_net_mapping_net.pth': params['masked']['mapping'],
    'restoration/mapping_Patch_Attention/latest_net_mapping_net.pth': params['patched']['mapping'],
    'detection/FT_Epoch_latest.pt': found,
  }
  monkeypatch.setattr(
    torch_state, 'load', lambda path, entry=None: files[str(path.relative_to(folder.parent))]
  )
  for reader in ('vae', 'mapping', 'masked_mapping', 'patch_mapping', 'detector'):
    monkeypatch.setattr(bopbtl, f'read_{reader}', lambda state: state)
  monkeypatch.setattr(weights, 'check', lambda *args: None)  # blocks of the published number
  for path in files:
    (folder.parent / path).parent.mkdir(parents=True, exist_ok=True)
    (folder.parent / path).touch()
  imported, left_out = bopbtl.import_triplet(tmp_path)
  assert left_out == []
  jax.tree.map(
    np.testing.assert_array_equal,
    imported.params['patched'],
    params['patched'] | {'y': {'decoder': y['decoder']}},
  )
  jax.tree.map(
    np.testing.assert_array_equal,
    imported.params['masked'],
    params['masked'] | {'y': {'decoder': y['decoder']}},
  )
  assert imported.params['detector'] is found
  sizes = imported.model['patched']
  assert (sizes['grow'], sizes['mask_pool'], sizes['t_blocks']) == (3, 'reference', 2)
  assert triplet_model.from_sizes(imported.model).patched.patched
  for name in (
    'mapping_Patch_Attention/latest_net_mapping_net.pth',
    'VAE_B_scratch/latest_net_G.pth',
  ):
    (folder / name).unlink()
  (folder.parent / 'detection' / 'FT_Epoch_latest.pt').unlink()
  imported, left_out = bopbtl.import_triplet(folder)
  assert [sentence.split(' is left out')[0] for sentence in left_out] == [
    'the masked branch',
    'the high-resolution branch',
    'the detector',
  ]
  assert set(imported.params) == {'rx', 'y', 'mapping'}


def test_photos_in_tiles_copy_from_the_whole_photo_and_nothing_from_its_padding():
  """Layer by layer: a hole in one tile is filled by a patch of another, as in the whole photo."""
  attention = patch_attention.PatchAttention(4, 2)
  shrink = lambda x: jax.lax.reduce_window(x, 0.0, jax.lax.add, (1, 4, 4, 1), (1, 4, 4, 1), 'VALID')

  def apply(params, x):
    z = layers.instance_norm(shrink(x[..., :3]) @ params['mix'])
    hole = checkpoint_name((shrink(x[..., 3:]) > 0).astype(jnp.float32), layers.CUT)
    inside = checkpoint_name(jnp.ones_like(hole), layers.INSIDE)
    y = layers.instance_norm(attention.apply({'params': params['copy']}, z, hole, inside))
    return jnp.repeat(jnp.repeat(y, 4, 1), 4, 2)

  z, one = jnp.zeros((1, 8, 8, 4)), jnp.zeros((1, 8, 8, 1))
  init = jax.jit(partial(parameters.init_normal, attention, std=0.5))
  params = {'copy': init(jax.random.key(0), z, one, one)}
  params['mix'] = jax.random.normal(jax.random.key(1), (3, 4))
  network = layerwise.Network(apply, params, 32)
  photo = np.random.default_rng(0).uniform(-1, 1, (128, 192, 4)).astype(np.float32)
  photo[..., 3] = 0
  photo[16:48, 16:48, 3] = 1
  photo[80:112, 128:160, :3] = photo[16:48, 16:48, :3]  # what lies in the hole, in another tile
  whole = network.restore(photo, (128, 192), 32)
  np.testing.assert_allclose(network.restore(photo, (64, 64), 32), whole, atol=1e-4)
  # Now only the mirrored padding of a shorter photo would hold it, from row 128 on.
  photo[63:95, 128:160, :3] = photo[47:15:-1, 16:48, :3]
  short, long = (network.restore(photo[:112], (height, 192), 32)[:64] for height in (128, 192))
  assert np.median(np.abs(long - short)[20:44, 20:44]) < 0.02
