"""The system CycleGAN: one stage, trained on old and clean photos that are not pairs."""

import logging
import pathlib
from collections.abc import Callable
from functools import partial

import jax
from ml_collections import ConfigDict

from oldphoto_jax import data, parallel, restore, train, weights
from oldphoto_jax.degradation import photographic, recipes
from oldphoto_jax.models import cyclegan
from oldphoto_jax.systems import build, gans
from oldphoto_jax.systems.triplet import prepare_y

_log = logging.getLogger(__name__)

STAGE = 'cyclegan'


def prepare(recipe: recipes.Recipe | None, gray: float) -> Callable[[dict, jax.Array], dict]:
  """Batches of two domains -> 'old' and 'clean' [b, S, S, 3], not pairs.

  Args:
    recipe: makes photos of X out of clean ones; None: they are old already.
    gray: probability that a photo of Y loses its colour.
  """

  def prepare(batch, keys):
    x_keys, y_keys = jax.vmap(jax.random.split, out_axes=1)(keys)
    old = photographic.from_levels(batch['other'])
    if recipe is not None:
      old = recipes.degrade_batch(recipe, x_keys, old).old
    return {'old': old, 'clean': prepare_y(gray)(batch, y_keys)['image']}

  return prepare


def model(config: ConfigDict) -> cyclegan.CycleGAN:
  """The model that a config describes.

  Raises:
    ConfigError: for a setting that does not exist, or a crop that the generator cannot take.
  """
  m, c = config.model, config.cyclegan
  if m.generator not in ('resnet', 'unet'):
    raise build.ConfigError(f'model.generator is resnet or unet, not {m.generator!r}')
  generator = gans.resnet(m) if m.generator == 'resnet' else gans.unet(m)
  gans.check_crop(config, generator.multiple)
  if gans.norm(m.norm).batch:
    raise build.ConfigError(f'model.norm is instance or instance_affine here, not {m.norm!r}')
  return cyclegan.CycleGAN(
    generator=generator,
    discriminator=gans.discriminator(m),
    gan_loss=gans.gan_loss(c.gan_loss),
    lambda_cycle=c.lambda_cycle,
    lambda_identity=c.lambda_identity,
    halve_d=c.halve_d,
    pool_size=c.pool_size,
    crop=config.data.crop,
    ema=c.ema,
    g_tx=build.adam(c, c.lr, c.steps),
    d_tx=build.adam(c, c.d_lr, c.steps),
  )


def stage(config: ConfigDict, photos: build.Photos) -> train.Stage:
  """The stage, ready to train. X is real where the config names old photos, else synthetic."""
  net = model(config)
  d, recipe = config.data, build.train_recipe(config, config.degradation)
  if photos.old is None:
    _log.info('data.old is not set: X is made of clean photos by the recipe %s', config.degradation)
  others = photos.train if photos.old is None else photos.old
  return train.Stage(
    name=STAGE,
    init=partial(cyclegan.init, net),
    prepare=prepare(recipe if photos.old is None else None, d.gray),
    prepare_eval=build.prepare_pairs(recipe),
    train_step=partial(cyclegan.train_step, net),
    eval_step=partial(cyclegan.eval_step, net),
    constants={},
    batches=partial(
      build.train_batches,
      config,
      data.Unpaired(photos.train, others, build.crop(d)),
      config.cyclegan.batch_size,
    ),
    eval_batches=partial(build.eval_batches, config, photos.val),
    score='psnr',
    loop=build.loop(config.train, config.cyclegan.steps),
    columns=('old', 'restored', 'back', 'clean', 'aged'),
  )


def untrained(config: ConfigDict, photos: build.Photos) -> list[train.Stage]:
  """The stages, to be measured; nothing is read from checkpoints."""
  return [stage(config, photos)]


def untrained_restorer(config: ConfigDict) -> restore.Restorer:
  """What the system restores with, as initialised, to be measured."""
  net = model(config)
  params = build.untrained(config, STAGE, net, cyclegan.init)['G']
  return weights.restorer(weights.Weights('cyclegan', cyclegan.sizes(net), params), 'untrained')


def run(config: ConfigDict) -> None:
  """Trains from where the run is."""
  photos = build.photos(config.data, config.seed)
  build.write_manifest(photos, config.workdir)
  train.train(stage(config, photos), pathlib.Path(config.workdir) / STAGE, config.seed)


def is_complete(config: ConfigDict) -> bool:
  """Whether the run holds a checkpoint, so that `export` can write weights."""
  folder = pathlib.Path(config.workdir) / STAGE / 'checkpoints'
  return folder.is_dir() and any(folder.iterdir())


def export(config: ConfigDict) -> pathlib.Path:
  """Writes the run's newest restoring generator G as a file of weights.

  Raises:
    CheckpointError: where there is no checkpoint.
  """
  net = model(config)
  params = build.trained(config, STAGE, net, cyclegan.init)['G']
  path = pathlib.Path(config.workdir) / weights.FILE
  if parallel.is_main():
    exported = weights.Weights('cyclegan', cyclegan.sizes(net), params)
    weights.save(path, exported, card={'run': config.to_json()})
  return path
