"""The system pix2pix: one stage, trained on clean photos and their old versions.

These are made by a recipe, or are the pairs of a folder (`data.pairs`).
"""

from collections.abc import Callable
from functools import partial

from ml_collections import ConfigDict

from oldphoto_jax import data, weights
from oldphoto_jax.errors import ConfigError
from oldphoto_jax.models import pix2pix
from oldphoto_jax.systems import build, frozen, gans, splits, system
from oldphoto_jax.training import train

STAGE = 'pix2pix'


def model(config: ConfigDict) -> pix2pix.Pix2Pix:
  """The model that a config describes.

  Raises:
    ConfigError: a setting is unknown, or the U-Net cannot take the crop.
  """
  m, c = config.model, config.pix2pix
  generator = gans.unet(m)
  build.check_crops(config, generator.multiple)
  return pix2pix.Pix2Pix(
    generator=generator,
    discriminator=gans.discriminator(m),
    gan_loss=gans.gan_loss(c.gan_loss),
    weights=build.weights(c.weights, pix2pix.WEIGHTS),
    halve_d=c.halve_d,
    alternate=c.alternate,
    sync_batch_norm=c.sync_batch_norm,
    test_dropout=m.test_dropout,
    test_batch_statistics=m.test_batch_statistics,
    ema=c.ema,
    g_tx=build.adam(c, c.lr, c.steps),
    d_tx=build.adam(c, c.d_lr, c.steps),
  )


def stages(
  config: ConfigDict, photos: splits.Photos, networks: frozen.Networks
) -> dict[str, Callable[[], train.Stage]]:
  """The one stage; see system.trained."""
  del networks
  prepare = build.prepare_given
  if not config.data.pairs:
    prepare = build.prepare_pairs(build.train_recipe(config, config.recipe))
  stream = data.Photos(photos.train, build.crop(config.data))
  return {
    STAGE: partial(
      build.stage,
      pix2pix,
      model(config),
      config,
      photos,
      STAGE,
      stream=stream,
      prepare=prepare,
      columns=('old', 'restored', 'clean'),
    )
  }


def release(config: ConfigDict, networks: frozen.Networks) -> weights.Weights:
  """The generator."""
  net = model(config)
  return weights.Weights(STAGE, pix2pix.sizes(net), networks.of(STAGE, net, pix2pix.init))


def check(config: ConfigDict) -> None:
  """Raises ConfigError for photos without a clean version, or two sources of photos."""
  if config.data.old:
    raise ConfigError(
      'pix2pix learns from pairs, and the photos of data.old have no clean version: leave it '
      'empty, or train CycleGAN (configs/cyclegan.py)'
    )
  if config.data.pairs and (config.data.photos or config.data.tfds_name):
    raise ConfigError(
      'data.pairs already says which photos to learn from: leave data.photos and data.tfds_name '
      'empty'
    )


SYSTEM = system.trained(STAGE, stages=stages, release=release, needed=(STAGE,), check=check)
