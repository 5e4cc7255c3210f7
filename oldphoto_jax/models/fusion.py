"""A path around the latent: the restored photo and the old one, fused at full resolution.

This is ours, not in Wan et al. 2020. Their photos pass through a latent at a quarter of the sides,
whose noise and size limit the result: a photo with little damage loses more detail than it gains.
Here a small U-Net sees the old photo beside the one that the triplet system restored, and corrects
the old one; before training it changes nothing. Inside holes it corrects the restored photo, but
sees the old one there too: content that a mask marks as damaged often shows through.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from oldphoto_jax.metrics import psnr_ssim
from oldphoto_jax.models import mapping, vae
from oldphoto_jax.models.state import State, start
from oldphoto_jax.nn import accumulation, averaging, layers, losses, parameters

# Terms of weight 0 are not computed.
WEIGHTS = {
  'l1': 10.0,
  'hole_l1': 0.0,  # over only the pixels of holes, which are few
  'perceptual': 1.0,
}


class FusionUNet(nn.Module):
  """Old photo, restored photo [B, H, W, 3], holes [B, H, W, 1] -> photo [B, H, W, 3].

  Level i works at 1/2**i of the sides with `width` * 2**i channels, but at most `most`. Residual
  blocks have no norms, so a pixel depends only on its neighbourhood, not on the size of the photo
  or tile. Maps are enlarged bilinearly, because the patterns of transposed convolutions show on
  flat areas (Odena et al. 2016).
  """

  width: int = 24
  most: int = 128
  depth: int = 3
  blocks: int = 3
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, old, restored, holes):
    layers.check_multiple(old.shape, 2**self.depth)
    channels = [min(self.width * 2**i, self.most) for i in range(self.depth + 1)]

    def conv(x, features, name, size=3, stride=1):
      pad = (size - 1) // 2
      return layers.Conv(features, size, stride, pad, dtype=self.dtype, name=name)(x)

    def block(x, features, name):
      return layers.ResnetBlock(features, False, self.dtype, name=name)(x)

    base = jnp.where(holes > 0, restored, old)
    x = jnp.concatenate([old, restored, (holes > 0).astype(old.dtype)], -1)
    x = conv(x, channels[0], 'conv_in')
    skips = []
    for i, features in enumerate(channels[1:]):
      skips.append(x)
      x = layers.leaky_relu(conv(x, features, f'down{i}', 4, 2))
      if i + 1 < self.depth:
        x = block(x, features, f'down{i}_block')
    for i in range(self.blocks):
      x = block(x, channels[-1], f'block{i}')
    for i in reversed(range(self.depth)):
      # Reducing channels before the enlargement gives the same function for a quarter of the work.
      x = layers.double(conv(x, channels[i], f'up{i}', 1)) + skips[i]
      x = block(layers.leaky_relu(x), channels[i], f'up{i}_block')
    x = conv(x, 4, 'conv_out').astype(jnp.float32)
    # Channel 0 blends old against restored; channels 1-3 add what neither shows.
    return base + x[..., :1] * (old - restored) + x[..., 1:]


@dataclasses.dataclass(frozen=True)
class Fusion:
  """The U-Net with the mappings below it, loss weights and optimiser.

  Attributes:
    mapping: restores photos without known holes.
    masked: fills holes; None: there is no such network, and the U-Net does not see holes.
    width, depth, blocks: of the U-Net.
    alone: the U-Net sees the old photo instead of the restored one, to measure what the triplet
      contributes.
    weights: of the loss terms, by name; see WEIGHTS.
    ema: decay of the moving average that is evaluated and released; 0: none.
    accumulate: as in vae.VAE.
    g_tx: optimiser.
    dtype: of the convolutions.
    features, feature_weights: as in vae.VAE.
  """

  mapping: mapping.Mapping
  masked: mapping.Mapping | None = None
  width: int = 24
  depth: int = 3
  blocks: int = 3
  alone: bool = False
  weights: dict[str, float] = dataclasses.field(default_factory=WEIGHTS.copy)
  ema: float = 0.0
  accumulate: int = 1
  g_tx: optax.GradientTransformation = optax.adam(1e-3)
  dtype: Any = jnp.float32
  features: Callable[[Any, jax.Array], list[jax.Array]] | None = None
  feature_weights: tuple[float, ...] = ()

  @property
  def net(self) -> FusionUNet:
    return FusionUNet(self.width, depth=self.depth, blocks=self.blocks, dtype=self.dtype)

  @property
  def multiple(self) -> int:
    """Sides of a photo must be multiples of this."""
    return max(2**self.depth, 4)


def init(model: Fusion, key: jax.Array) -> State:
  """Kernels by He et al. 2015, but zeros before sums.

  The last convolution is zero, so that nothing is corrected at first. So is the second one of every
  residual block; otherwise features would grow from block to block (Zhang et al. 2019, Fixup).
  """
  side = 4 * model.multiple
  photo, holes = jnp.zeros((1, side, side, 3)), jnp.zeros((1, side, side, 1))
  g = parameters.init_normal(model.net, key, photo, photo, holes, std=None)
  zeros = partial(jax.tree.map, jnp.zeros_like)
  g['conv_out'] = zeros(g['conv_out'])
  for name, layer in g.items():
    if 'conv2' in layer:
      g[name] = layer | {'conv2': zeros(layer['conv2'])}
  return start(model, g)


def restore(
  model: Fusion, params: dict[str, Any], old: jax.Array, mask: jax.Array | None = None
) -> jax.Array:
  """Restores old photos [B, H, W, 3] in [-1, 1]; H and W multiples of `model.multiple`.

  Args:
    model: must have `masked` if there is a mask.
    params: {'rx', 'y', 'mapping'} of mapping.restore, with a mask {'rx', 'masked': {'y',
      'mapping'}}, and 'fusion'.
    old: the photos.
    mask: [B, H, W, 1], above 0 = hole to fill; None: no known holes.

  Returns:
    [B, H, W, 3] in [-1, 1].
  """
  restored = _below(model, params, old, mask)
  return jnp.clip(_fuse(model, params['fusion'], old, restored, mask), -1, 1)


def fill_twice(
  model: Fusion, params: dict[str, Any], old: jax.Array, mask: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Two fillings of holes, [B, H, W, 3] each: by only the masked mapping, and by `restore`.

  The second sees the contents of the holes, so an opaque tear shows through it. Arguments as for
  `restore`; the model must have `masked`.
  """
  blind = mapping.restore(model.masked, {'rx': params['rx']} | params['masked'], old, mask)
  seeing = _fuse(model, params['fusion'], old, old if model.alone else blind, mask)
  return blind, jnp.clip(seeing, -1, 1)


def _below(model, params, old, mask):
  """The photos restored by the triplet system."""
  if model.alone:
    return old
  if mask is None:
    return mapping.restore(model.mapping, params, old)
  return mapping.restore(model.masked, {'rx': params['rx']} | params['masked'], old, mask)


def _fuse(model, g, old, restored, mask):
  holes = jnp.zeros_like(old[..., :1]) if mask is None else mask
  return model.net.apply({'params': g}, old, restored, holes)


def train_step(
  model: Fusion, state: State, constants: Any, batch: dict[str, jax.Array], keys: jax.Array
) -> tuple[State, dict[str, jax.Array]]:
  """One update of the U-Net on one device of the axis averaging.AXIS.

  With `model.masked`, even steps show the holes and fill them, odd ones do not.

  Args:
    model: hyper-parameters.
    state: replicated.
    constants: {'triplet': the frozen networks, like `params` of `restore`, 'perceptual': see
      vae.train_step}.
    batch: 'old' and 'clean' [b, S, S, 3] in [-1, 1], 'mask' [b, S, S, 1], above 0 = hole.
    keys: unused: this step draws nothing.

  Returns:
    The new state, and every loss term by name (unweighted) with the gradient norm.
  """
  filling = None if model.masked is None else state.step % 2 == 0
  parts, holes = model.accumulate, None
  if model.weights['hole_l1'] > 0:
    holes = accumulation.count(_mask(batch, filling) > 0, parts)

  def gradient(batch, keys):
    del keys
    return _gradient(model, state.g, constants, batch, filling, holes)

  grad, terms = accumulation.mean(gradient, parts, batch, keys)
  return state.apply(model, grad), terms | {'norm': averaging.global_norm(grad)}


def _mask(batch, filling):
  """The batch's holes if this step fills them (`filling`, a traced bool), else no holes."""
  if filling is None:
    return jnp.zeros_like(batch['mask'])
  return jnp.where(filling, batch['mask'], 0.0)


def _gradient(model, g, constants, batch, filling, holes):
  """Gradient for g and the loss terms of one part of the batch, not yet averaged over devices.

  `holes` is the mean number of hole pixels per part; None if they have no loss term.
  """
  old, clean, mask = batch['old'], batch['clean'], _mask(batch, filling)
  if filling is None:
    restored = _below(model, constants['triplet'], old, None)
  else:
    restored = jax.lax.cond(
      filling,
      lambda: _below(model, constants['triplet'], old, mask),
      lambda: _below(model, constants['triplet'], old, None),
    )
  restored = jax.lax.stop_gradient(restored)

  def loss(g):
    fused = _fuse(model, g, old, restored, mask)
    terms = {'l1': losses.l1(fused, clean)}
    if model.weights['hole_l1'] > 0:
      error = jnp.abs(fused - clean).mean(-1, keepdims=True)
      terms['hole_l1'] = losses.masked_mean(error, (mask > 0).astype(jnp.float32), holes)
    if model.features is not None and model.weights['perceptual'] > 0:
      terms['perceptual'] = vae.perceptual(model, constants, fused, clean)
    return losses.total(terms, model.weights), terms

  return jax.grad(loss, has_aux=True)(g)


def eval_step(
  model: Fusion, state: State, constants: Any, batch: dict[str, jax.Array]
) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
  """Restores the batch without masks, and with them where the model fills holes.

  Returns:
    Per-example scores [b]: 'psnr', 'ssim' of the fused photo, 'psnr_below' of the triplet system's
    and 'psnr_old' of doing nothing, all against the clean photo; with `model.masked` also
    'psnr_filled'. Images {'old', 'below', 'restored', 'clean'} [b, S, S, 3], with `model.masked`
    also 'filled'.
  """
  old, clean = batch['old'], batch['clean']
  params = constants['triplet'] | {'fusion': state.released}
  below = _below(model, params, old, None)
  restored = jnp.clip(_fuse(model, params['fusion'], old, below, None), -1, 1)
  images = {'old': old, 'below': below, 'restored': restored, 'clean': clean}
  if model.masked is not None:
    images['filled'] = restore(model, params, old, batch['mask'])
  names = {'restored': 'psnr', 'below': 'psnr_below', 'old': 'psnr_old', 'filled': 'psnr_filled'}
  scores = {
    score: psnr_ssim.psnr(images[name], clean) for name, score in names.items() if name in images
  }
  return scores | {'ssim': psnr_ssim.ssim(restored, clean)}, images
