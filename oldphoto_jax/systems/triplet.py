"""The triplet system: VAE of R and X, VAE of Y, then the mapping T between their latents."""

import logging
import pathlib
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from oldphoto_jax import data, parallel, train, weights
from oldphoto_jax.degradation import photographic, recipes
from oldphoto_jax.models import mapping, vae
from oldphoto_jax.systems import build

_log = logging.getLogger(__name__)

STAGES = ('vae_rx', 'vae_y', 'mapping')


def prepare_rx(
  recipe: recipes.Recipe, aging: recipes.Recipe | None, gray: float
) -> Callable[[dict, jax.Array], dict]:
  """Batches for the VAE of R and X.

  A clean photo becomes X by `recipe`; a real one (`is_real`) stays as it is, or is aged by `aging`
  where clean photos play R. Photos of R lose their colour with probability `gray`, as those of X
  do in the recipe (Wan et al.: 0.1).
  """

  def one(key, image, is_real):
    x_key, r_key, gray_key = jax.random.split(key, 3)
    image = photographic.from_levels(image)

    def as_r():
      old = image if aging is None else aging(r_key, image).old
      return jnp.where(jax.random.bernoulli(gray_key, gray), photographic.gray(old), old)

    return jax.lax.cond(is_real, as_r, lambda: recipe(x_key, image).old)

  def prepare(batch, keys):
    # One photo at a time on CPU: see recipes.degrade_batch.
    image = jax.lax.platform_dependent(
      keys,
      batch['image'],
      batch['is_real'],
      cpu=lambda *args: jax.lax.map(lambda a: one(*a), args),
      default=jax.vmap(one),
    )
    return {'image': image, 'is_real': batch['is_real'].astype(jnp.float32)}

  return prepare


def prepare_rx_eval(recipe: recipes.Recipe) -> Callable[[dict, jax.Array], dict]:
  """Validation of the VAE of R and X: photos of X."""

  def prepare(batch, keys):
    old = recipes.degrade_batch(recipe, keys, photographic.from_levels(batch['image'])).old
    return {'image': old}

  return prepare


def prepare_y(gray: float) -> Callable[[dict, jax.Array], dict]:
  """Clean photos for the VAE of Y, which lose their colour with probability `gray`."""

  def one(key, image):
    image = photographic.from_levels(image)
    return jnp.where(jax.random.bernoulli(key, gray), photographic.gray(image), image)

  return lambda batch, keys: {'image': jax.vmap(one)(keys, batch['image'])}


def models(config: ConfigDict) -> tuple[vae.VAE, vae.VAE, mapping.Mapping, Any]:
  """The VAE of R and X, the VAE of Y, the mapping, and the perceptual network's parameters."""
  perceptual = build.perceptual(config.perceptual)
  m = config.model

  def a_vae(c, latent_gan):
    return vae.VAE(
      width=m.width,
      latent=m.latent,
      blocks=m.blocks,
      d_width=m.d_width,
      d_layers=m.d_layers,
      d_scales=m.d_scales,
      norm=m.norm,
      latent_gan=latent_gan,
      posterior_std=m.posterior_std,
      ema=c.ema,
      weights=build.weights(c.weights, vae.WEIGHTS),
      g_tx=build.adam(c, c.lr, c.steps),
      d_tx=build.adam(c, c.d_lr, c.steps),
      dtype=build.dtype(m.dtype),
      features=perceptual.features,
      feature_weights=perceptual.level_weights,
    )

  rx, y, c = a_vae(config.vae_rx, True), a_vae(config.vae_y, False), config.mapping
  t = mapping.Mapping(
    rx=rx,
    y=y,
    width=m.t_width,
    blocks=m.t_blocks,
    residual=m.t_residual,
    d_width=m.d_width,
    d_layers=m.d_layers,
    d_scales=m.d_scales,
    ema=c.ema,
    weights=build.weights(c.weights, mapping.WEIGHTS),
    g_tx=build.adam(c, c.lr, c.steps),
    d_tx=build.adam(c, c.d_lr, c.steps),
    dtype=build.dtype(m.dtype),
    features=perceptual.features,
    feature_weights=perceptual.level_weights,
  )
  return rx, y, t, perceptual.params


def stage(config: ConfigDict, photos: build.Photos, name: str) -> train.Stage:
  """One of STAGES. The mapping reads the VAEs from their checkpoints in the run's folder.

  Raises:
    checkpoints.CheckpointError: if a VAE that the mapping needs is not trained.
  """
  rx, y, t, perceptual = models(config)
  d = config.data
  crop, recipe = build.crop(d), build.recipe(config.degradation)
  eval_batches = partial(build.eval_batches, config, photos.val)
  if name == 'vae_rx':
    if photos.old is None:
      _log.info('data.old is not set: R is played by clean photos aged with another recipe than X')
    aging = recipes.Aging() if photos.old is None else None
    real = photos.train if photos.old is None else photos.old
    stream = data.RealAndClean(photos.train, real, crop, d.p_real)
    return train.Stage(
      name=name,
      init=partial(vae.init, rx),
      prepare=prepare_rx(recipe, aging, d.gray),
      prepare_eval=prepare_rx_eval(recipe),
      train_step=partial(vae.train_step, rx),
      eval_step=partial(vae.eval_step, rx),
      constants={'perceptual': perceptual},
      batches=partial(build.train_batches, config, stream, config.vae_rx.batch_size),
      eval_batches=eval_batches,
      score='psnr',
      loop=build.loop(config.train, config.vae_rx.steps),
      columns=('input', 'reconstruction'),
    )
  if name == 'vae_y':
    return train.Stage(
      name=name,
      init=partial(vae.init, y),
      prepare=prepare_y(d.gray),
      prepare_eval=prepare_y(0.0),
      train_step=partial(vae.train_step, y),
      eval_step=partial(vae.eval_step, y),
      constants={'perceptual': perceptual},
      batches=partial(
        build.train_batches, config, data.Photos(photos.train, crop), config.vae_y.batch_size
      ),
      eval_batches=eval_batches,
      score='psnr',
      loop=build.loop(config.train, config.vae_y.steps),
      columns=('input', 'reconstruction'),
    )
  constants = {
    'rx': build.trained(config, 'vae_rx', rx, vae.init),
    'y': build.trained(config, 'vae_y', y, vae.init),
    'perceptual': perceptual,
  }
  return train.Stage(
    name=name,
    init=partial(mapping.init, t),
    prepare=build.prepare_pairs(recipe),
    prepare_eval=build.prepare_pairs(recipe),
    train_step=partial(mapping.train_step, t),
    eval_step=partial(mapping.eval_step, t),
    constants=constants,
    batches=partial(
      build.train_batches, config, data.Photos(photos.train, crop), config.mapping.batch_size
    ),
    eval_batches=eval_batches,
    score='psnr',
    loop=build.loop(config.train, config.mapping.steps),
    columns=('old', 'reconstruction', 'restored', 'clean'),
  )


def run(config: ConfigDict) -> None:
  """Trains the stages that `config.stages` names, each from where it is.

  Raises:
    ConfigError: for a stage that does not exist.
  """
  names = config.stages.replace(' ', '').split(',')
  unknown = sorted(set(names) - set(STAGES))
  if unknown:
    raise build.ConfigError(f'there is no stage {unknown[0]!r}: choose from {", ".join(STAGES)}')
  photos = build.photos(config.data, config.seed)
  build.write_manifest(photos, config.workdir)
  for name in names:
    seed = config.seed * len(STAGES) + STAGES.index(name)
    train.train(stage(config, photos, name), pathlib.Path(config.workdir) / name, seed)


def is_complete(config: ConfigDict) -> bool:
  """Whether the run holds a checkpoint of every stage, so that `export` can write weights."""
  folders = [pathlib.Path(config.workdir) / name / 'checkpoints' for name in STAGES]
  return all(folder.is_dir() and any(folder.iterdir()) for folder in folders)


def export(config: ConfigDict) -> pathlib.Path:
  """Writes the run's newest parameters of all stages as one file of weights.

  Raises:
    CheckpointError: where a stage has no checkpoint.
  """
  rx, y, t, _ = models(config)
  params = {
    'rx': {'encoder': build.trained(config, 'vae_rx', rx, vae.init)['encoder']},
    'y': {'decoder': build.trained(config, 'vae_y', y, vae.init)['decoder']},
    'mapping': build.trained(config, 'mapping', t, mapping.init),
  }
  path = pathlib.Path(config.workdir) / weights.FILE
  if parallel.is_main():
    weights.save(path, weights.triplet(t, params), card={'run': config.to_json()})
  return path
