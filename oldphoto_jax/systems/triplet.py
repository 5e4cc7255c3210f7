"""The triplet system: VAE of R and X, VAE of Y, then the mapping T between their latents.

A second mapping fills holes (stage `mapping_masked`), between the same encoder and the decoder of
Y, or one of its own (`vae_y_masked`). The stage `fusion`, which the paper has not, corrects the old
photo at full resolution by what the others make of it.
"""

import dataclasses
import logging
import pathlib
from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from oldphoto_jax import data, parallel, restore, train, weights
from oldphoto_jax.degradation import photographic, recipes
from oldphoto_jax.models import fusion, mapping, vae
from oldphoto_jax.systems import build

_log = logging.getLogger(__name__)

STAGES = ('vae_rx', 'vae_y', 'mapping', 'vae_y_masked', 'mapping_masked', 'fusion')


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


def prepare_holes(
  recipe: recipes.Recipe, grow: tuple[int, int]
) -> Callable[[dict, jax.Array], dict]:
  """Batches as build.prepare_pairs, whose 'mask' is what a detector or a person would draw.

  Pixels that are lost by a quarter or more are holes, grown by `grow` pixels at least and at most.
  """
  pairs = build.prepare_pairs(recipe)

  def draw(key, mask):
    pixels = jax.random.randint(jax.random.fold_in(key, 1), (), grow[0], grow[1] + 1)
    return jax.lax.fori_loop(
      0, pixels, lambda _, mask: nn.max_pool(mask, (3, 3), (1, 1), 'SAME'), mask
    )

  def prepare(batch, keys):
    batch = pairs(batch, keys)
    holes = (batch['mask'] > 0.25).astype(jnp.float32)
    return batch | {'mask': jax.vmap(draw)(keys, holes)}

  return prepare


@dataclasses.dataclass(frozen=True)
class Models:
  """The networks of a run, and the perceptual network's parameters."""

  rx: vae.VAE
  y: vae.VAE
  y_masked: vae.VAE
  mapping: mapping.Mapping
  masked: mapping.Mapping
  fusion: fusion.Fusion
  perceptual: Any


def models(config: ConfigDict, untrained: bool = False) -> Models:
  """Hyper-parameters of all stages, and the perceptual network.

  With `untrained` that network is of zeros, and is there if one of `config.stages` has its term.
  """
  m = config.model
  terms = {name: config[name].weights for name in _stages(config)}
  if untrained and not any(term.get('perceptual', 0) for term in terms.values()):
    perceptual = build.Perceptual({}, None, ())
  else:
    perceptual = build.perceptual(config.perceptual, untrained)

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
      accumulate=c.accumulate,
      weights=build.weights(c.weights, vae.WEIGHTS),
      g_tx=build.adam(c, c.lr, c.steps),
      d_tx=build.adam(c, c.d_lr, c.steps),
      dtype=build.dtype(m.dtype),
      remat=m.remat,
      features=perceptual.features,
      feature_weights=perceptual.level_weights,
    )

  def a_mapping(c, y, masked):
    return mapping.Mapping(
      rx=rx,
      y=y,
      width=m.t_width,
      blocks=m.t_blocks,
      residual=m.t_residual,
      masked=masked,
      mask_pool=m.mask_pool,
      scaled=m.scaled_attention,
      d_width=m.d_width,
      d_layers=m.d_layers,
      d_scales=m.d_scales,
      spectral=masked and config.mapping_masked.spectral,
      ema=c.ema,
      accumulate=c.accumulate,
      weights=build.weights(c.weights, mapping.WEIGHTS),
      g_tx=build.adam(c, c.lr, c.steps),
      d_tx=build.adam(c, c.d_lr, c.steps),
      dtype=build.dtype(m.dtype),
      remat=m.remat,
      features=perceptual.features,
      feature_weights=perceptual.level_weights,
    )

  rx, y = a_vae(config.vae_rx, True), a_vae(config.vae_y, False)
  y_masked = a_vae(config.vae_y_masked, False)
  t, masked = a_mapping(config.mapping, y, False), a_mapping(config.mapping_masked, y_masked, True)
  c = config.fusion
  fused = fusion.Fusion(
    mapping=t,
    masked=masked if c.masked else None,
    width=c.width,
    depth=c.depth,
    blocks=c.blocks,
    alone=c.alone,
    weights=build.weights(c.weights, fusion.WEIGHTS),
    ema=c.ema,
    accumulate=c.accumulate,
    tx=optax.chain(optax.clip_by_global_norm(c.clip), build.adam(c, c.lr, c.steps)),
    dtype=build.dtype(m.dtype),
    features=perceptual.features,
    feature_weights=perceptual.level_weights,
  )
  return Models(rx, y, y_masked, t, masked, fused, perceptual.params)


def _y_of_masked(config: ConfigDict) -> str:
  """The stage whose decoder the masked mapping uses."""
  return 'vae_y_masked' if config.mapping_masked.own_y else 'vae_y'


def stage(
  config: ConfigDict, photos: build.Photos, name: str, untrained: bool = False
) -> train.Stage:
  """One of STAGES. The mappings read the VAEs from their checkpoints in the run's folder.

  With `untrained` nothing is read, and frozen networks are as initialised: the stage learns
  nothing of use then, but its steps cost the same.

  Raises:
    checkpoints.CheckpointError: if a network that the stage needs is not trained.
  """
  m = models(config, untrained)
  if name == 'vae_rx':
    return _stage_rx(config, photos, m)
  if name == 'vae_y':
    return _stage_y(config, photos, m.y, m.perceptual, name)
  if name == 'vae_y_masked':
    return _stage_y(config, photos, m.y_masked, m.perceptual, name)
  if name == 'fusion':
    return _stage_fusion(config, photos, m, untrained)
  return _stage_mapping(config, photos, m, name == 'mapping_masked', untrained)


def untrained(config: ConfigDict, photos: build.Photos) -> list[train.Stage]:
  """The stages that `config.stages` names, to be measured without checkpoints or weights.

  Raises:
    ConfigError: for a stage that does not exist.
  """
  return [stage(config, photos, name, untrained=True) for name in _stages(config)]


def untrained_restorer(config: ConfigDict) -> restore.Restorer:
  """What the system restores with, as initialised, to be measured."""
  m = models(config, untrained=True)
  released = weights.triplet(m.mapping, _trained(config, m, False, build.untrained))
  return weights.restorer(released, 'untrained')


def _stage_rx(config: ConfigDict, photos: build.Photos, m: Models) -> train.Stage:
  d, recipe = config.data, build.train_recipe(config, config.degradation)
  if photos.old is None:
    _log.info('data.old is not set: R is played by clean photos aged with another recipe than X')
  aging = recipes.Aging() if photos.old is None else None
  real = photos.train if photos.old is None else photos.old
  stream = data.RealAndClean(photos.train, real, build.crop(d), d.p_real)
  return train.Stage(
    name='vae_rx',
    init=partial(vae.init, m.rx),
    prepare=prepare_rx(recipe, aging, d.gray),
    prepare_eval=prepare_rx_eval(recipe),
    train_step=partial(vae.train_step, m.rx),
    eval_step=partial(vae.eval_step, m.rx),
    constants={'perceptual': m.perceptual},
    batches=partial(build.train_batches, config, stream, config.vae_rx.batch_size),
    eval_batches=partial(build.eval_batches, config, photos.val),
    score='psnr',
    loop=build.loop(config.train, config.vae_rx.steps),
    columns=('input', 'reconstruction'),
    accumulate=m.rx.accumulate,
  )


def _stage_y(
  config: ConfigDict, photos: build.Photos, y: vae.VAE, perceptual: Any, name: str
) -> train.Stage:
  c, stream = config[name], data.Photos(photos.train, build.crop(config.data))
  return train.Stage(
    name=name,
    init=partial(vae.init, y),
    prepare=prepare_y(config.data.gray),
    prepare_eval=prepare_y(0.0),
    train_step=partial(vae.train_step, y),
    eval_step=partial(vae.eval_step, y),
    constants={'perceptual': perceptual},
    batches=partial(build.train_batches, config, stream, c.batch_size),
    eval_batches=partial(build.eval_batches, config, photos.val),
    score='psnr',
    loop=build.loop(config.train, c.steps),
    columns=('input', 'reconstruction'),
    accumulate=y.accumulate,
  )


def _stage_mapping(
  config: ConfigDict, photos: build.Photos, m: Models, masked: bool, untrained: bool
) -> train.Stage:
  trained = build.untrained if untrained else build.trained
  if masked:
    name, t, y, y_name = 'mapping_masked', m.masked, m.y_masked, _y_of_masked(config)
    c = config.mapping_masked
    prepare = prepare_holes(build.train_recipe(config, c.degradation), tuple(c.grow))
  else:
    name, t, y, y_name, c = 'mapping', m.mapping, m.y, 'vae_y', config.mapping
    prepare = build.prepare_pairs(build.train_recipe(config, config.degradation))
  init = partial(mapping.init, t)
  if masked and c.warm_start and not untrained:
    # All but the partial non-local block, which has no part in photos without holes.
    start = build.trained(config, 'mapping', m.mapping, mapping.init)
    init = partial(_start_from, init, jax.device_get(start))
  stream = data.Photos(photos.train, build.crop(config.data))
  return train.Stage(
    name=name,
    init=init,
    prepare=prepare,
    prepare_eval=prepare,
    train_step=partial(mapping.train_step, t),
    eval_step=partial(mapping.eval_step, t),
    constants={
      'rx': trained(config, 'vae_rx', m.rx, vae.init),
      'y': trained(config, y_name, y, vae.init),
      'perceptual': m.perceptual,
    },
    batches=partial(build.train_batches, config, stream, c.batch_size),
    eval_batches=partial(build.eval_batches, config, photos.val),
    score='psnr',
    loop=build.loop(config.train, c.steps),
    columns=('old', 'reconstruction', 'restored', 'clean'),
    accumulate=t.accumulate,
  )


def _stage_fusion(
  config: ConfigDict, photos: build.Photos, m: Models, untrained: bool
) -> train.Stage:
  trained = build.untrained if untrained else build.trained
  c, fused = config.fusion, m.fusion
  if config.data.crop % fused.multiple:
    raise build.ConfigError(
      f'data.crop is {config.data.crop}: with fusion.depth={c.depth} it has to be a multiple of '
      f'{fused.multiple}'
    )
  prepare = prepare_holes(build.train_recipe(config, c.degradation), tuple(c.grow))
  filled = ('filled',) if c.masked else ()
  return train.Stage(
    name='fusion',
    init=partial(fusion.init, fused),
    prepare=prepare,
    prepare_eval=prepare,
    train_step=partial(fusion.train_step, fused),
    eval_step=partial(fusion.eval_step, fused),
    constants={'triplet': _trained(config, m, c.masked, trained), 'perceptual': m.perceptual},
    batches=partial(
      build.train_batches,
      config,
      data.Photos(photos.train, build.crop(config.data)),
      c.batch_size,
    ),
    eval_batches=partial(build.eval_batches, config, photos.val),
    score='psnr',
    loop=build.loop(config.train, c.steps),
    columns=('old', 'below', 'restored', *filled, 'clean'),
    accumulate=fused.accumulate,
  )


def _trained(
  config: ConfigDict, m: Models, masked: bool, trained: Callable = build.trained
) -> dict[str, Any]:
  """What restoring takes of the trained networks, with `masked` also of those that fill holes."""
  params = {
    'rx': {'encoder': trained(config, 'vae_rx', m.rx, vae.init)['encoder']},
    'y': {'decoder': trained(config, 'vae_y', m.y, vae.init)['decoder']},
    'mapping': trained(config, 'mapping', m.mapping, mapping.init),
  }
  if masked:
    y = trained(config, _y_of_masked(config), m.y_masked, vae.init)
    params['masked'] = {
      'y': {'decoder': y['decoder']},
      'mapping': trained(config, 'mapping_masked', m.masked, mapping.init),
    }
  return params


def _start_from(init: Callable, trained: Any, key: jax.Array) -> mapping.State:
  """The state of `init` with the parameters that `trained` has."""
  state = init(key)
  g = state.g | trained
  return state.replace(g=g, ema=None if state.ema is None else jax.tree.map(jnp.copy, g))


def run(config: ConfigDict) -> None:
  """Trains the stages that `config.stages` names, each from where it is.

  Raises:
    ConfigError: for a stage that does not exist.
  """
  names = _stages(config)
  photos = build.photos(config.data, config.seed)
  build.write_manifest(photos, config.workdir)
  for name in names:
    seed = config.seed * len(STAGES) + STAGES.index(name)
    train.train(stage(config, photos, name), pathlib.Path(config.workdir) / name, seed)


def _stages(config: ConfigDict) -> list[str]:
  names = config.stages.replace(' ', '').split(',')
  unknown = sorted(set(names) - set(STAGES))
  if unknown:
    raise build.ConfigError(f'there is no stage {unknown[0]!r}: choose from {", ".join(STAGES)}')
  return names


def is_complete(config: ConfigDict) -> bool:
  """Whether the run holds a checkpoint of all networks that `export` needs at least."""
  return all(_is_trained(config, name) for name in ('vae_rx', 'vae_y', 'mapping'))


def _is_trained(config: ConfigDict, name: str) -> bool:
  folder = pathlib.Path(config.workdir) / name / 'checkpoints'
  return folder.is_dir() and any(folder.iterdir())


def export(config: ConfigDict) -> pathlib.Path:
  """Writes the run's newest parameters as one file: the mapping, and what else is trained of the
  masked one and the fusion.

  Raises:
    CheckpointError: where a stage has no checkpoint.
    WeightsError: where `config.detector` is no detector.
  """
  m = models(config)
  has_masked, has_fusion = (_is_trained(config, s) for s in ('mapping_masked', 'fusion'))
  params = _trained(config, m, has_masked)
  if has_fusion:
    params['fusion'] = build.trained(config, 'fusion', m.fusion, fusion.init)
  path = pathlib.Path(config.workdir) / weights.FILE
  if parallel.is_main():
    detector = None
    if config.detector:
      detector = weights.load(config.detector)
      if detector.system != 'scratch':
        raise weights.WeightsError(
          f'{config.detector} holds the system {detector.system}: config.detector takes the run or '
          'weights of configs/scratch.py'
        )
    released = weights.triplet(
      m.mapping,
      params,
      masked=m.masked if has_masked else None,
      fused=m.fusion if has_fusion else None,
      detector=detector,
    )
    weights.save(path, released, card={'run': config.to_json()}, half=config.half)
  return path
