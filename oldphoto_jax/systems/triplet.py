"""The triplet system: VAE of R and X, VAE of Y, then the mapping T between their latents.

A second mapping fills holes (stage `mapping_masked`). It shares the encoder, and uses the decoder
of Y or one of its own (`vae_y_masked`). The stage `fusion`, which is not in the paper, corrects the
old photo at full resolution, guided by the result of the others.
"""

import dataclasses
import logging
from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from oldphoto_jax import data, weights
from oldphoto_jax.degradation import examples, photographic, recipes
from oldphoto_jax.errors import ConfigError, WeightsError
from oldphoto_jax.models import fusion, mapping, vae
from oldphoto_jax.systems import build, frozen, splits, system
from oldphoto_jax.training import train

_log = logging.getLogger(__name__)

STAGES = ('vae_rx', 'vae_y', 'mapping', 'vae_y_masked', 'mapping_masked', 'fusion')


def prepare_rx(
  recipe: recipes.Recipe, ageing: recipes.Recipe | None, gray: float
) -> Callable[[dict, jax.Array], dict]:
  """Batches for the VAE of R and X.

  A clean photo becomes X by `recipe`. A real photo (`is_real`) stays as it is, or is aged by
  `ageing` if clean photos stand in for R. Photos of R lose their colour with probability `gray`, as
  photos of X do in the recipe (Wan et al.: 0.1).
  """

  def one(key, image, is_real):
    x_key, r_key, gray_key = jax.random.split(key, 3)
    image = photographic.from_levels(image)

    def as_r():
      old = image if ageing is None else ageing(r_key, image).old
      return jnp.where(jax.random.bernoulli(gray_key, gray), photographic.gray(old), old)

    return examples.switch(is_real.astype(int), [lambda: recipe(x_key, image).old, as_r])

  def prepare(batch, keys):
    image = examples.each(one, keys, batch['image'], batch['is_real'])
    return {'image': image, 'is_real': batch['is_real'].astype(jnp.float32)}

  return prepare


def prepare_rx_eval(recipe: recipes.Recipe) -> Callable[[dict, jax.Array], dict]:
  """Batches that validate the VAE of R and X: photos of X."""

  def prepare(batch, keys):
    old = recipes.degrade_batch(recipe, keys, photographic.from_levels(batch['image'])).old
    return {'image': old}

  return prepare


def prepare_holes(
  recipe: recipes.Recipe, grow: tuple[int, int]
) -> Callable[[dict, jax.Array], dict]:
  """As build.prepare_pairs, but 'mask' is what a detector or a person would draw.

  Pixels that lost more than a quarter are holes. They grow by a random number of pixels between the
  two of `grow`.
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


def models(config: ConfigDict, perceptual: frozen.Perceptual = frozen.NO_PERCEPTUAL) -> Models:
  """The models of all stages, with the feature network of their perceptual terms."""
  m, patched = config.model, config.mapping_masked.patched

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

  def a_mapping(c, masked):
    return mapping.Mapping(
      encoder=rx.encoder,
      decoder=y.decoder,
      width=m.t_width,
      blocks=config.mapping_masked.patch_blocks if masked and patched else m.t_blocks,
      residual=m.t_residual,
      masked=masked,
      patched=masked and patched,
      attention=config.mapping_masked.attention,
      prefilled=config.mapping_masked.prefilled,
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
  t, masked = a_mapping(config.mapping, False), a_mapping(config.mapping_masked, True)
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
    g_tx=optax.chain(optax.clip_by_global_norm(c.clip), build.adam(c, c.lr, c.steps)),
    dtype=build.dtype(m.dtype),
    features=perceptual.features,
    feature_weights=perceptual.level_weights,
  )
  return Models(rx, y, y_masked, t, masked, fused, perceptual.params)


def _y_of_masked(config: ConfigDict) -> str:
  """The stage whose decoder the masked mapping uses."""
  return 'vae_y_masked' if config.mapping_masked.own_y else 'vae_y'


def stages(
  config: ConfigDict, photos: splits.Photos, networks: frozen.Networks
) -> dict[str, Callable[[], train.Stage]]:
  """The six stages; see system.trained. A mapping or the fusion reads earlier ones when opened."""
  chosen = [config[name].weights for name in build.stage_names(config) if name in STAGES]
  wanted = any(terms.get('perceptual', 0) for terms in chosen)
  m = models(config, networks.perceptual(config.perceptual, wanted))
  opened: dict[str, Callable] = {
    'vae_rx': _stage_rx,
    'vae_y': partial(_stage_y, 'vae_y', m.y),
    'mapping': _stage_mapping,
    'vae_y_masked': partial(_stage_y, 'vae_y_masked', m.y_masked),
    'mapping_masked': _stage_masked,
    'fusion': _stage_fusion,
  }
  return {
    name: partial(open_stage, config, photos, m, networks) for name, open_stage in opened.items()
  }


def _photos(config: ConfigDict, photos: splits.Photos) -> data.Photos:
  return data.Photos(photos.train, build.crop(config.data))


def _stage_rx(config, photos, m, networks) -> train.Stage:
  del networks
  d, recipe = config.data, build.train_recipe(config, config.recipe)
  ageing = recipes.Ageing() if photos.old is None else None
  real = photos.train if photos.old is None else photos.old
  return build.stage(
    vae,
    m.rx,
    config,
    photos,
    'vae_rx',
    stream=data.RealAndClean(photos.train, real, build.crop(d), d.p_real),
    prepare=prepare_rx(recipe, ageing, d.gray),
    prepare_eval=prepare_rx_eval(recipe),
    constants={'perceptual': m.perceptual},
    columns=('input', 'reconstruction'),
  )


def _stage_y(name, model, config, photos, m, networks) -> train.Stage:
  del networks
  return build.stage(
    vae,
    model,
    config,
    photos,
    name,
    stream=_photos(config, photos),
    prepare=build.prepare_clean(config.data.gray),
    prepare_eval=build.prepare_clean(0.0),
    constants={'perceptual': m.perceptual},
    columns=('input', 'reconstruction'),
  )


def _stage_mapping(config, photos, m, networks) -> train.Stage:
  return build.stage(
    mapping,
    m.mapping,
    config,
    photos,
    'mapping',
    stream=_photos(config, photos),
    prepare=build.prepare_pairs(build.train_recipe(config, config.recipe)),
    constants={
      'rx': networks.of('vae_rx', m.rx, vae.init),
      'y': networks.of('vae_y', m.y, vae.init),
      'perceptual': m.perceptual,
    },
    columns=('old', 'reconstruction', 'restored', 'clean'),
  )


def _stage_masked(config, photos, m, networks) -> train.Stage:
  c, init = config.mapping_masked, partial(mapping.init, m.masked)
  if c.warm_start:
    # All layers of the same names: all but the partial non-local block, which is not used in photos
    # without holes, or but the copying of patches.
    start = networks.of('mapping', m.mapping, mapping.init)
    init = partial(_start_from, init, jax.device_get(start))
  return build.stage(
    mapping,
    m.masked,
    config,
    photos,
    'mapping_masked',
    init=init,
    stream=_photos(config, photos),
    prepare=prepare_holes(build.train_recipe(config, c.recipe), tuple(c.grow)),
    constants={
      'rx': networks.of('vae_rx', m.rx, vae.init),
      'y': networks.of(_y_of_masked(config), m.y_masked, vae.init),
      'perceptual': m.perceptual,
    },
    columns=('old', 'reconstruction', 'restored', 'clean'),
  )


def _stage_fusion(config, photos, m, networks) -> train.Stage:
  c = config.fusion
  filled = ('filled',) if c.masked else ()
  return build.stage(
    fusion,
    m.fusion,
    config,
    photos,
    'fusion',
    stream=_photos(config, photos),
    prepare=prepare_holes(build.train_recipe(config, c.recipe), tuple(c.grow)),
    constants={'triplet': _below(config, m, networks, c.masked), 'perceptual': m.perceptual},
    columns=('old', 'below', 'restored', *filled, 'clean'),
  )


def _below(
  config: ConfigDict, m: Models, networks: frozen.Networks, masked: bool
) -> dict[str, Any]:
  """The trained networks that restoring needs; with `masked`, also those that fill holes."""
  of = networks.of
  params = {
    'rx': {'encoder': of('vae_rx', m.rx, vae.init)['encoder']},
    'y': {'decoder': of('vae_y', m.y, vae.init)['decoder']},
    'mapping': of('mapping', m.mapping, mapping.init),
  }
  if masked:
    y = of(_y_of_masked(config), m.y_masked, vae.init)
    params['masked'] = {
      'y': {'decoder': y['decoder']},
      'mapping': of('mapping_masked', m.masked, mapping.init),
    }
  return params


def _start_from(init: Callable, trained: Any, key: jax.Array) -> mapping.State:
  """The state of `init`, with parameters from `trained` where it has them."""
  state = init(key)
  g = state.g | trained
  return state.replace(g=g, ema=None if state.ema is None else jax.tree.map(jnp.copy, g))


def release(config: ConfigDict, networks: frozen.Networks) -> weights.Weights:
  """The mapping, and the masked mapping, the fusion and a detector, if they exist."""
  m, patched = models(config), config.mapping_masked.patched
  masked, fused = networks.has('mapping_masked'), networks.has('fusion')
  params = _below(config, m, networks, masked)
  if masked and patched:
    params['patched'] = params.pop('masked')
  if fused:
    params['fusion'] = networks.of('fusion', m.fusion, fusion.init)
  return weights.triplet(
    m.mapping,
    params,
    masked=m.masked if masked and not patched else None,
    patched=m.masked if masked and patched else None,
    fused=m.fusion if fused else None,
    detector=_detector(config),
  )


def _detector(config: ConfigDict) -> weights.Weights | None:
  """The detector to release with the system.

  Raises:
    WeightsError: `config.detector` is not a detector.
  """
  if not config.detector:
    return None
  detector = weights.load(config.detector)
  if detector.system != weights.DETECTOR:
    raise WeightsError(
      f'{config.detector} holds the system {detector.system}: config.detector takes the run or '
      'weights of configs/detector.py'
    )
  return detector


def check(config: ConfigDict) -> None:
  """Checks the crops and the detector. Logs what stands in for R if there are no old photos.

  Raises:
    ConfigError: a crop does not fit, the fusion would see holes filled by copies, or holes are to
      be smooth in a network with norms.
    WeightsError: the detector cannot be released.
  """
  fused = 'fusion' in build.stage_names(config)
  build.check_crops(config, models(config).fusion.multiple if fused else vae.DOWNSAMPLING)
  _detector(config)
  if fused and config.fusion.masked and config.mapping_masked.patched:
    raise ConfigError(
      'fusion.masked corrects what non-local attention fills, not copied patches: set '
      'fusion.masked or mapping_masked.patched to False'
    )
  if config.mapping_masked.prefilled and config.model.norm:
    raise ConfigError(
      'mapping_masked.prefilled fills holes from the whole photo, and with norms large photos are '
      'restored layer by layer: set model.norm or mapping_masked.prefilled to False'
    )
  if not config.data.old:
    _log.info('data.old is not set: clean photos, aged by a recipe other than X, stand in for R')


def behind(found: weights.Weights, masked: bool) -> tuple[str, ...]:
  """See system.System. `vae_y_masked` counts if the masked mapping has its own VAE."""
  names, fusion = ('vae_rx', 'vae_y', 'mapping'), found.model.get('fusion')
  if masked or (fusion is not None and fusion['masked']):
    names += ('vae_y_masked', 'mapping_masked')
  return names if fusion is None else (*names, 'fusion')


SYSTEM = system.trained(
  'triplet',
  stages=stages,
  release=release,
  needed=('vae_rx', 'vae_y', 'mapping'),
  check=check,
  may_change=('stages', 'detector', 'half', 'model.remat', '*.accumulate'),
  behind=behind,
)
