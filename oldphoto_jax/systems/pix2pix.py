"""The system pix2pix: one stage, trained on clean photos and their synthetic old versions."""

import pathlib
from functools import partial

from ml_collections import ConfigDict

from oldphoto_jax import data, parallel, restore, train, weights
from oldphoto_jax.models import pix2pix
from oldphoto_jax.systems import build, gans

STAGE = 'pix2pix'


def model(config: ConfigDict) -> pix2pix.Pix2Pix:
  """The model that a config describes.

  Raises:
    ConfigError: for a setting that does not exist, or a crop that the U-Net cannot take.
  """
  m, c = config.model, config.pix2pix
  generator = gans.unet(m)
  gans.check_crop(config, generator.multiple)
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


def stage(config: ConfigDict, photos: build.Photos) -> train.Stage:
  """The stage, ready to train."""
  net = model(config)
  d, recipe = config.data, build.train_recipe(config, config.degradation)
  return train.Stage(
    name=STAGE,
    init=partial(pix2pix.init, net),
    prepare=build.prepare_pairs(recipe),
    prepare_eval=build.prepare_pairs(recipe),
    train_step=partial(pix2pix.train_step, net),
    eval_step=partial(pix2pix.eval_step, net),
    constants={},
    batches=partial(
      build.train_batches,
      config,
      data.Photos(photos.train, build.crop(d)),
      config.pix2pix.batch_size,
    ),
    eval_batches=partial(build.eval_batches, config, photos.val),
    score='psnr',
    loop=build.loop(config.train, config.pix2pix.steps),
    columns=('old', 'restored', 'clean'),
  )


def untrained(config: ConfigDict, photos: build.Photos) -> list[train.Stage]:
  """The stages, to be measured; nothing is read from checkpoints."""
  return [stage(config, photos)]


def untrained_restorer(config: ConfigDict) -> restore.Restorer:
  """What the system restores with, as initialised, to be measured."""
  net = model(config)
  params = build.untrained(config, STAGE, net, pix2pix.init)
  return weights.restorer(weights.Weights('pix2pix', pix2pix.sizes(net), params), 'untrained')


def run(config: ConfigDict) -> None:
  """Trains from where the run is.

  Raises:
    ConfigError: for real old photos, which have no clean version to learn from.
  """
  if config.data.old:
    raise build.ConfigError(
      'pix2pix learns from pairs, and the photos of data.old have no clean version: leave it '
      'empty, or train CycleGAN (configs/cyclegan.py)'
    )
  photos = build.photos(config.data, config.seed)
  build.write_manifest(photos, config.workdir)
  train.train(stage(config, photos), pathlib.Path(config.workdir) / STAGE, config.seed)


def is_complete(config: ConfigDict) -> bool:
  """Whether the run holds a checkpoint, so that `export` can write weights."""
  folder = pathlib.Path(config.workdir) / STAGE / 'checkpoints'
  return folder.is_dir() and any(folder.iterdir())


def export(config: ConfigDict) -> pathlib.Path:
  """Writes the run's newest generator as a file of weights.

  Raises:
    CheckpointError: where there is no checkpoint.
  """
  net = model(config)
  params = build.trained(config, STAGE, net, pix2pix.init)
  path = pathlib.Path(config.workdir) / weights.FILE
  if parallel.is_main():
    exported = weights.Weights('pix2pix', pix2pix.sizes(net), params)
    weights.save(path, exported, card={'run': config.to_json()})
  return path
