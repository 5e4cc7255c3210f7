"""The latent mapping T of "Bringing Old Photos Back to Life" (Wan et al., CVPR 2020, section 3.3).

T takes the latent of an old photo (encoder of R and X) to the latent of its clean version (VAE of
Y). Both VAEs are frozen; gradients flow through the frozen decoder of Y. A photo r is restored by
decoder_Y(T(encoder_RX(r))).

For scratches and holes, a second T has a partial non-local block in its middle and takes a mask. It
restores by decoder_Y(T(encoder_RX(r with white holes), mask)). A third, for large photos, copies
patches instead (models.patch_attention).

Networks, losses and settings follow the published code (`Mapping_Model`, `Mapping_Model_with_mask`,
`Mapping_Model_with_mask_2`, `Pix2PixHDModel_Mapping`, stages "quality" and "scratch").
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from oldphoto_jax.metrics import psnr_ssim
from oldphoto_jax.models import partial_nonlocal, patch_attention, vae
from oldphoto_jax.models.state import State, norms, start
from oldphoto_jax.nn import accumulation, layers, losses, parameters
from oldphoto_jax.nn.prefill import prefill

# The total loss of the published code. Terms of weight 0 are not computed.
WEIGHTS = {
  'latent_l1': 60.0,
  'gan': 1.0,
  'feature_matching': 10.0,
  'perceptual': 10.0,
  'l1': 0.0,  # not in the reference: pixels of the restored photo against the clean one
  'hole_l1': 0.0,  # not in the reference: the same over only the pixels of holes, which are few
}


class T(nn.Module):
  """T: latent of an old photo -> latent of its clean version, both [B, h, w, latent].

  Four 3x3 convolutions that double the channels up to `width` (zero padding, IN, ReLU), residual
  blocks, and the mirror image. The last convolution has no norm or activation. `residual` adds a
  skip from input to output, which the reference lacks. With `masked` the partial non-local block
  comes before the residual blocks; see partial_nonlocal for its fields.
  """

  width: int = 512
  latent: int = 64
  blocks: int = 6
  norm: bool = True
  residual: bool = False
  masked: bool = False
  scaled: bool = False
  dtype: Any = jnp.float32
  remat: bool = False

  @nn.compact
  def __call__(self, z, valid=None):
    """`valid` [B, h, w, 1], 1 = nothing lost, is required with `masked` and unused without."""
    channels = [min(self.latent * 2**i, self.width) for i in range(5)]
    norm = layers.optional_norm(self.norm)
    x = z
    for i, features in enumerate(channels[1:]):
      x = layers.Conv(features, 3, pad=1, dtype=self.dtype, name=f'up{i}')(x)
      x = nn.relu(norm(x))
    if self.masked:
      block = partial_nonlocal.PartialNonLocal(
        channels[-1], norm=self.norm, scaled=self.scaled, dtype=self.dtype, name='nonlocal'
      )
      x = block(x, valid)
    x = layers.resnet_blocks(x, self.blocks, channels[-1], self.norm, self.dtype, self.remat)
    for i, features in enumerate(channels[-2:0:-1]):
      x = layers.Conv(features, 3, pad=1, dtype=self.dtype, name=f'down{i}')(x)
      x = nn.relu(norm(x))
    x = layers.Conv(self.latent, 3, pad=1, dtype=self.dtype, name='conv_out')(x)
    x = x.astype(jnp.float32)
    return z + x if self.residual else x


@dataclasses.dataclass(frozen=True)
class Mapping:
  """T with the encoder and decoder it joins, its discriminator, loss weights and optimisers.

  Attributes:
    encoder, decoder: the networks of both VAEs, which differ only in their parameters.
    width: largest number of channels of T.
    blocks: residual blocks of T; if `patched`, of each of its four groups.
    residual: T adds to its input, a good start if the two VAEs resemble each other.
    masked: T has the partial non-local block and takes masks (stage "scratch").
    patched: a masked T is a patch_attention.PatchT, which copies patches instead.
    attention: a masked T that is not patched has the partial non-local block. Without it, holes are
      all that it sees of the mask: to measure what the block is worth.
    prefilled: a masked T sees its holes filled smoothly (nn.prefill), not white as in the
      reference.
    grow: pixels by which masks grow in every direction when a photo is restored.
    mask_pool: how masks are reduced, 'max' or 'reference'; see partial_nonlocal.sound, or for
      `patched` patch_attention.holes.
    scaled: of the non-local attention; the reference does not scale.
    d_width, d_layers, d_scales: the discriminator, which sees the old photo beside the result.
    spectral: its kernels are divided by their largest singular values, as in stage "scratch".
    ema: decay of the moving average of T's parameters; 0: none.
    accumulate: as in vae.VAE.
    weights: of the loss terms, by name; see WEIGHTS.
    g_tx, d_tx: optimisers of T and of the discriminator. The reference uses TTUR here: Adam with
      betas (0, 0.9) and learning rates 1e-4 and 4e-4.
    dtype: of the convolutions.
    remat: of T, see layers.resnet_blocks; those of the VAEs have it too.
    features, feature_weights: as in vae.VAE.
  """

  encoder: vae.Encoder
  decoder: vae.Decoder
  width: int = 512
  blocks: int = 6
  residual: bool = False
  masked: bool = False
  patched: bool = False
  attention: bool = True
  prefilled: bool = False
  grow: int = 0
  mask_pool: str = 'max'
  scaled: bool = False
  d_width: int = 64
  d_layers: int = 3
  d_scales: int = 2
  spectral: bool = False
  ema: float = 0.0
  accumulate: int = 1
  weights: dict[str, float] = dataclasses.field(default_factory=WEIGHTS.copy)
  g_tx: optax.GradientTransformation = optax.adam(1e-4, b1=0.0, b2=0.9)
  d_tx: optax.GradientTransformation = optax.adam(4e-4, b1=0.0, b2=0.9)
  dtype: Any = jnp.float32
  remat: bool = False
  features: Callable[[Any, jax.Array], list[jax.Array]] | None = None
  feature_weights: tuple[float, ...] = ()

  @property
  def takes_mask(self) -> bool:
    """Whether T itself takes the mask, beside the photo with its holes."""
    return self.masked and (self.patched or self.attention)

  @property
  def net(self) -> T | patch_attention.PatchT:
    if self.patched:
      return patch_attention.PatchT(
        self.width,
        self.encoder.latent,
        self.blocks,
        self.encoder.norm,
        self.residual,
        dtype=self.dtype,
        remat=self.remat,
      )
    return T(
      self.width,
      self.encoder.latent,
      self.blocks,
      self.encoder.norm,
      self.residual,
      self.takes_mask,
      self.scaled,
      self.dtype,
      self.remat,
    )

  @property
  def discriminator(self) -> vae.MultiScaleDiscriminator:
    return vae.MultiScaleDiscriminator(self.d_width, self.d_layers, self.d_scales, self.dtype)


def init(model: Mapping, key: jax.Array) -> State:
  """Kernels N(0, 0.02), or He's without norms, biases 0, and fresh optimiser states.

  The state's `g` is T; `d` holds the discriminator's parameters, with `spectral` {'params',
  'vectors'}, see parameters.spectral_norm.

  Raises:
    ValueError: if the latents of encoder and decoder differ in channels.
  """
  if model.encoder.latent != model.decoder.latent:
    raise ValueError(
      f'encoder and decoder have latents of {model.encoder.latent} and {model.decoder.latent} '
      'channels: T needs the same number on both sides'
    )
  g_key, d_key = jax.random.split(key)
  std = 0.02 if model.net.norm else None
  latent, known = jnp.zeros((1, 16, 16, model.net.latent)), jnp.ones((1, 16, 16, 1))
  g = parameters.init_normal(model.net, g_key, latent, *[known] * model.takes_mask, std=std)
  d = parameters.init_normal(model.discriminator, d_key, jnp.zeros((1, 64, 64, 6)))
  if model.spectral:
    d = {'params': d, 'vectors': parameters.right_vectors(d, jax.random.fold_in(d_key, 1))}
  return start(model, g, d)


def shown(model: Mapping, old: jax.Array, mask: jax.Array | None) -> jax.Array:
  """The photo as the encoder sees it: what a masked T has to fill (mask above 0) is hidden.

  Holes are pure white, as in the reference, or smooth.
  """
  if not model.masked:
    return old
  return prefill(old, mask > 0) if model.prefilled else jnp.where(mask > 0, 1.0, old)


def translate(model: Mapping, g: Any, z: jax.Array, mask: jax.Array | None) -> jax.Array:
  """T with parameters `g`: latents [B, h, w, latent] of old photos to those of clean ones.

  `mask` is [B, 4h, 4w, 1] for a T that takes one; others do not look at it.
  """
  if not model.takes_mask:
    return model.net.apply({'params': g}, z)
  if model.patched and model.mask_pool == 'reference':
    seen = patch_attention.holes(mask, z.shape[1:3])
  else:
    seen = partial_nonlocal.sound(mask, model.mask_pool)
    seen = 1 - seen if model.patched else seen
  return model.net.apply({'params': g}, z, seen)


def restore(
  model: Mapping, params: dict[str, Any], old: jax.Array, mask: jax.Array | None = None
) -> jax.Array:
  """Restores old photos [B, H, W, 3] in [-1, 1]; H and W multiples of 4.

  Args:
    model: with `masked`, holes are filled.
    params: {'rx': {'encoder'}, 'y': {'decoder'}, 'mapping'}.
    old: the photos; their content inside holes does not matter.
    mask: [B, H, W, 1], above 0 = hole; for a masked model only. If it covers a whole photo, nothing
      is known and the result is some flat picture.
  """
  if model.masked and model.grow:
    side = 2 * model.grow + 1
    mask = nn.max_pool(mask, (side, side), (1, 1), 'SAME')
  z = vae.encode(model, params['rx'], shown(model, old, mask))
  return vae.decode(model, params['y'], translate(model, params['mapping'], z, mask))


def train_step(
  model: Mapping, state: State, constants: Any, batch: dict[str, jax.Array], keys: jax.Array
) -> tuple[State, dict[str, jax.Array]]:
  """One update of T and its discriminator on one device of the axis averaging.AXIS.

  Latents are used without noise. The discriminator learns from the photo restored before T's
  update, as in the reference.

  Args:
    model: hyper-parameters.
    state: replicated.
    constants: {'rx', 'y': parameters of the frozen VAEs, 'perceptual': see vae.train_step}.
    batch: 'old' and 'clean' [b, S, S, 3] in [-1, 1]; for a masked model also 'mask' [b, S, S, 1],
      above 0 = hole. Holes are hidden here, see `shown`.
    keys: unused: this step draws nothing.

  Returns:
    The new state, and every loss term by name (unweighted) with gradient norms.
  """
  parts, holes = model.accumulate, None
  if _has_holes(model):
    holes = accumulation.count(batch['mask'] > 0, parts)

  def gradients(batch, keys):
    del keys
    return _gradients(model, state, constants, batch, holes)

  g_grad, d_grad, terms = accumulation.mean(gradients, parts, batch, keys)
  state = state.apply(model, g_grad, d_grad)
  if model.spectral:  # once per step; torch does it in every forward pass
    d = state.d
    vectors = parameters.power_iteration(d['params'], d['vectors'])
    state = state.replace(d=d | {'vectors': vectors})
  return state, terms | norms(g=g_grad, d=d_grad)


def _has_holes(model: Mapping) -> bool:
  return model.masked and model.weights['hole_l1'] > 0


def _gradients(model, state, constants, batch, holes):
  """Gradients for g and d and loss terms of one part of the batch, not yet averaged over devices.

  `holes` is the mean number of hole pixels per part; None if they have no loss term.
  """
  clean, weights = batch['clean'], model.weights
  mask = batch['mask'] if model.masked else None
  old = shown(model, batch['old'], mask)
  has_gan = weights['gan'] > 0 or weights['feature_matching'] > 0
  has_perceptual = model.features is not None and weights['perceptual'] > 0
  has_holes = _has_holes(model)
  needs_pixels = has_gan or has_perceptual or has_holes or weights['l1'] > 0
  z_x = jax.lax.stop_gradient(vae.encode(model, constants['rx'], old))
  z_y = jax.lax.stop_gradient(vae.encode(model, constants['y'], clean))

  def judge(d, photo):
    pair = jnp.concatenate([old, photo], axis=-1)
    if model.spectral:
      d = parameters.spectral_norm(d['params'], d['vectors'])
    return model.discriminator.apply({'params': d}, pair)

  def g_loss(g):
    z = translate(model, g, z_x, mask)
    terms = {'latent_l1': losses.l1(z, z_y)}
    fake = vae.decode(model, constants['y'], z) if needs_pixels else None
    if has_gan:
      on_fake, on_real = judge(state.d, fake), judge(state.d, clean)
      terms['gan'] = losses.multiscale_lsgan(on_fake, 1.0)
      terms['feature_matching'] = losses.feature_matching(on_fake, on_real)
    if has_perceptual:
      terms['perceptual'] = vae.perceptual(model, constants, fake, clean)
    if weights['l1'] > 0:
      terms['l1'] = losses.l1(fake, clean)
    if has_holes:
      # Averaged per hole pixel, so that it does not matter how holes spread over devices.
      error = jnp.abs(fake - clean).mean(-1, keepdims=True)
      terms['hole_l1'] = losses.masked_mean(error, (mask > 0).astype(jnp.float32), holes)
    return losses.total(terms, weights), (fake, terms)

  def d_loss(d, fake):
    terms = {
      'd_fake': losses.multiscale_lsgan(judge(d, fake), 0.0),
      'd_real': losses.multiscale_lsgan(judge(d, clean), 1.0),
    }
    return 0.5 * (terms['d_fake'] + terms['d_real']), terms

  (_, (fake, terms)), g_grad = jax.value_and_grad(g_loss, has_aux=True)(state.g)
  d_grad = jax.tree.map(jnp.zeros_like, state.d)
  if has_gan:
    fake = jax.lax.stop_gradient(fake)
    (_, d_terms), d_grad = jax.value_and_grad(d_loss, has_aux=True)(state.d, fake)
    terms = terms | d_terms
  return g_grad, d_grad, terms


def eval_step(
  model: Mapping, state: State, constants: Any, batch: dict[str, jax.Array]
) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
  """Restores the batch.

  Returns:
    Per-example scores [b]: 'psnr', 'ssim' of the restored photo and 'psnr_old', 'ssim_old' of doing
    nothing, against the clean photo; for a masked model also 'psnr_holes' and 'psnr_old_holes' over
    only the pixels of holes, MAX_PSNR for a photo without holes. Images {'old', 'reconstruction'
    (of the old photo by the VAE of R and X), 'restored', 'clean'} [b, S, S, 3].
  """
  old, clean = batch['old'], batch['clean']
  mask = batch['mask'] if model.masked else None
  z = vae.encode(model, constants['rx'], shown(model, old, mask))
  restored = vae.decode(model, constants['y'], translate(model, state.released, z, mask))
  scores = {
    'psnr': psnr_ssim.psnr(restored, clean),
    'ssim': psnr_ssim.ssim(restored, clean),
    'psnr_old': psnr_ssim.psnr(old, clean),
    'ssim_old': psnr_ssim.ssim(old, clean),
  }
  if model.masked:
    holes = (mask > 0).astype(jnp.float32)
    for name, photo in (('psnr_holes', restored), ('psnr_old_holes', old)):
      inside = psnr_ssim.psnr_inside(photo, clean, holes)
      scores[name] = jnp.nan_to_num(inside, nan=psnr_ssim.MAX_PSNR)
  reconstruction = vae.decode(model, constants['rx'], z)
  images = {'old': old, 'reconstruction': reconstruction, 'restored': restored, 'clean': clean}
  return scores, images
