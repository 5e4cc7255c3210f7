"""The system CycleGAN: one stage, trained on old and clean photos that are not pairs."""

import logging
from collections.abc import Callable
from functools import partial

import jax
from ml_collections import ConfigDict

from oldphoto_jax import data, weights
from oldphoto_jax.degradation import photographic, recipes
from oldphoto_jax.errors import ConfigError
from oldphoto_jax.models import cyclegan
from oldphoto_jax.systems import build, frozen, gans, splits, system
from oldphoto_jax.training import train

_log = logging.getLogger(__name__)

STAGE = 'cyclegan'


def prepare(recipe: recipes.Recipe | None, gray: float) -> Callable[[dict, jax.Array], dict]:
  """Batches of two domains -> 'old' and 'clean' [b, S, S, 3], not pairs.

  Args:
    recipe: makes photos of X from clean ones. None: they are old already.
    gray: probability that a photo of Y loses its colour.
  """

  def prepare(batch, keys):
    x_keys, y_keys = jax.vmap(jax.random.split, out_axes=1)(keys)
    old = photographic.from_levels(batch['other'])
    if recipe is not None:
      old = recipes.degrade_batch(recipe, x_keys, old).old
    return {'old': old, 'clean': build.prepare_clean(gray)(batch, y_keys)['image']}

  return prepare


def model(config: ConfigDict) -> cyclegan.CycleGAN:
  """The model that a config describes.

  Raises:
    ConfigError: a setting is unknown, or the generator cannot take the crop.
  """
  m, c = config.model, config.cyclegan
  if m.generator not in ('resnet', 'unet'):
    raise ConfigError(f'model.generator is resnet or unet, not {m.generator!r}')
  generator = gans.resnet(m) if m.generator == 'resnet' else gans.unet(m)
  build.check_crops(config, generator.multiple)
  if gans.norm(m.norm).batch:
    raise ConfigError(f'model.norm is instance or instance_affine here, not {m.norm!r}')
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


def stages(
  config: ConfigDict, photos: splits.Photos, networks: frozen.Networks
) -> dict[str, Callable[[], train.Stage]]:
  """The one stage; see system.trained. X is real if the config names old photos."""
  del networks
  d, recipe = config.data, build.train_recipe(config, config.recipe)
  others = photos.train if photos.old is None else photos.old
  return {
    STAGE: partial(
      build.stage,
      cyclegan,
      model(config),
      config,
      photos,
      STAGE,
      stream=data.Unpaired(photos.train, others, build.crop(d)),
      prepare=prepare(recipe if photos.old is None else None, d.gray),
      prepare_eval=build.prepare_pairs(recipe),
      columns=('old', 'restored', 'back', 'clean', 'aged'),
    )
  }


def release(config: ConfigDict, networks: frozen.Networks) -> weights.Weights:
  """The restoring generator G."""
  net = model(config)
  return weights.Weights(STAGE, cyclegan.sizes(net), networks.of(STAGE, net, cyclegan.init)['G'])


def check(config: ConfigDict) -> None:
  """Logs how X is made if there are no old photos."""
  if not config.data.old:
    _log.info('data.old is not set: X is made from clean photos by the recipe %s', config.recipe)


SYSTEM = system.trained(STAGE, stages=stages, release=release, needed=(STAGE,), check=check)
