"""Photos in tiles by networks that see the whole photo: the same as without tiles."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from oldphoto_jax import weights
from oldphoto_jax.models import cyclegan, gan_networks, mapping, pix2pix, vae
from oldphoto_jax.models import triplet as triplet_model
from oldphoto_jax.restoring import engine, layerwise, restore, shapes

TOLERANCE = 1e-4  # of values in [-1, 1]; a level of 8 bits is 8e-3
KEY = jax.random.key(0)


def halves(height, width):
  """Noise that is nearly black on the left and nearly white on the right."""
  noise = np.random.default_rng(0).uniform(-0.1, 0.1, (height, width, 3))
  noise[:, : width // 2] -= 0.9
  noise[:, width // 2 :] += 0.9
  return noise.astype(np.float32)


def resnet():
  model = cyclegan.CycleGAN(generator=gan_networks.GanResNet(width=4, blocks=1))
  return weights.Weights(
    'cyclegan', cyclegan.sizes(model), jax.jit(functools.partial(cyclegan.init, model))(KEY).g['G']
  )


def unet():
  """Batch norm over the photo itself, with scales and offsets."""
  net = gan_networks.GanUNet(width=4, downs=5, dropout_levels=())
  model = pix2pix.Pix2Pix(generator=net, test_batch_statistics=True)
  state = jax.jit(functools.partial(pix2pix.init, model))(KEY)
  return weights.Weights('pix2pix', pix2pix.sizes(model), state.released)


def deep():
  """Batch norm with running statistics; the bottom of the U-Net sees far."""
  net = gan_networks.GanUNet(width=4, downs=5, dropout_levels=())
  model = pix2pix.Pix2Pix(generator=net)
  state = jax.jit(functools.partial(pix2pix.init, model))(KEY)
  params = jax.tree.map(lambda x: 4 * x if x.ndim == 4 else x, state.released)
  return weights.Weights('pix2pix', pix2pix.sizes(model), params)


def triplet():
  one = vae.VAE(width=4, latent=4, blocks=1)
  model = mapping.Mapping(one.encoder, one.decoder, width=8, blocks=1, residual=True)
  params = jax.jit(lambda key: triplet_model.init(triplet_model.Triplet(model), key))(KEY)
  return weights.triplet(model, params)


@pytest.mark.parametrize(
  ('system', 'sides'), [(resnet, (64, 96)), (unet, (64,)), (deep, (96,)), (triplet, (64,))]
)
def test_tiles_change_nothing(system, sides):
  restorer = weights.restorer(system(), 'test')
  network = engine.compiled(restorer).network
  photo = halves(150, 256)
  in_tiles = lambda side: network.restore(photo, (side, side), 32)
  whole = network.restore(photo, shapes.needed((150, 256), network.grid, 2048, 64), 32)
  assert whole.shape == photo.shape and whole.std() > 0.02
  for side in sides:
    np.testing.assert_allclose(in_tiles(side), whole, atol=TOLERANCE)
  # Each tile by itself, as networks without instance norm are restored.
  plan = shapes.plan([], restorer.multiple, tile=64, overlap=32)
  alone = engine.Tiled(plan, 'test', network).restore(photo)
  assert np.abs(alone - whole).max() > 100 * TOLERANCE
  assert np.abs(alone - whole).mean() > 10 * TOLERANCE


def test_maps_that_are_too_large_are_computed_again(monkeypatch):
  monkeypatch.setattr(layerwise, 'KEPT', 15)  # of 16 bytes at full resolution and at half
  restorer = weights.restorer(resnet(), 'test')
  network = engine.compiled(restorer).network
  photo = halves(128, 192)
  whole = network.restore(photo, (128, 192), 32)
  np.testing.assert_allclose(network.restore(photo, (64, 64), 32), whole, atol=TOLERANCE)


def test_padding_does_not_count():
  network = engine.compiled(weights.restorer(resnet(), 'test')).network
  photo = halves(128, 128)
  alone = network.restore(photo, (128, 128), 32)
  padded = network.restore(photo, (128, 256), 32)
  plain = network(shapes.pad(photo, (128, 256))[None])[0, :, :128]
  # Next to the padding the network sees that instead of its own.
  error, before = (np.abs(x - alone)[:, :64].mean() for x in (padded, plain))
  assert error < 5e-3 and before > 20 * error


def test_holes_are_filled_in_tiles():
  """Norms of the photo with its holes in white, as without tiles."""
  restorer = weights.restorer(resnet(), 'test')
  one = lambda params, old, mask: restorer.apply(params, jnp.where(mask > 0, 1.0, old))
  bright = lambda *args: (one(*args),) * 2
  filler = engine.Restorer(
    restorer.apply, restorer.params, restorer.multiple, 'test', bright, layerwise=True
  )
  system = engine.compiled(filler)
  photo, mask = halves(128, 192), np.zeros((128, 192, 1), np.float32)
  mask[30:60, 50:90] = 1
  plans = (shapes.plan([], 16, tile=tile, overlap=32) for tile in (64, 192))
  results = [
    restore.restore_array(dataclasses.replace(system, plan=plan), photo, mask).photo
    for plan in plans
  ]
  np.testing.assert_allclose(*results, atol=TOLERANCE)


@pytest.mark.parametrize('batch', [False, True])
@pytest.mark.parametrize('norm', [False, True])
def test_instance_norms_go_layer_by_layer(norm, batch):
  """And the triplet system without them, as it is released, does not."""
  unet = gan_networks.GanUNet(4, 2, gan_networks.Norm(batch, affine=True), dropout_levels=())
  systems = {
    'triplet': dict(width=4, latent=4, blocks=1, norm=norm, t_width=8, t_blocks=1, t_residual=True),
    'cyclegan': gan_networks.sizes(unet.clone(norm=gan_networks.INSTANCE)),
    'pix2pix': gan_networks.sizes(unet) | dict(test_dropout=False, test_batch_statistics=norm),
  }
  for system, sizes in systems.items():
    like = jax.eval_shape(weights.file.NETWORKS[system](sizes).init, KEY)
    params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), like)
    restorer = weights.restorer(weights.Weights(system, sizes, params), 'test')
    traced = str(jax.make_jaxpr(restorer.apply)(params, jnp.zeros((1, 64, 64, 3))))
    assert restorer.layerwise == ('norm_mean' in traced or system != 'triplet')
    kind = engine.Layerwise if restorer.layerwise else engine.Tiled
    assert isinstance(engine.compiled(restorer), kind)


def test_statistics_of_parts_are_those_of_the_whole():
  x = np.random.default_rng(0).normal(3, 2, (1, 10, 8, 2))
  parts = [
    (part[..., 0].size, part.mean((1, 2), keepdims=True), part.var((1, 2), keepdims=True))
    for part in (x[:, :3], x[:, 3:])
  ]
  mean, variance = layerwise._pooled([[np.asarray(x) for x in part] for part in parts])
  np.testing.assert_allclose(mean, x.mean((1, 2), keepdims=True), rtol=1e-6)
  np.testing.assert_allclose(variance, x.var((1, 2), keepdims=True), rtol=1e-6)
