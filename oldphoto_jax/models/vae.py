"""The two VAEs of "Bringing Old Photos Back to Life" (Wan et al., CVPR 2020, section 3.1-3.2).

Real old photos R and synthetic old photos X share one VAE: a latent discriminator draws their
latents together. The other VAE encodes clean photos Y. Both have the same network, with latents of
`latent` channels at a quarter of the photo's sides and a posterior N(z, 1) of fixed variance.

Networks, losses and weights follow the published code (`GlobalGenerator_DCDCv2`,
`MultiscaleDiscriminator`, `Pix2PixHDModel`). A loss term that only the paper has (a pixel L1 with
alpha = 10) has the weight 0 unless a config sets it.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from oldphoto_jax.metrics import psnr_ssim
from oldphoto_jax.models.state import State, norms, start
from oldphoto_jax.nn import accumulation, layers, losses, parameters

DOWNSAMPLING = 4  # sides of a photo must be multiples of this

# The total loss of the published code. Terms of weight 0 are not computed.
WEIGHTS = {
  'gan': 1.0,
  'feature_matching': 10.0,
  'perceptual': 10.0,
  'kl': 1.0,
  'latent_gan': 1.0,  # only the VAE of R and X has this term
  'l1': 0.0,  # the paper's alpha, which is 10 there
}


# Networks --------------------------------------------------------------------------------------


class Encoder(nn.Module):
  """[B, H, W, 3] in [-1, 1] -> latent mean [B, H/4, W/4, latent], unbounded.

  7x7 convolution, two 4x4 stride-2 convolutions (each with IN and ReLU), residual blocks. There is
  no norm or activation at the end.
  """

  width: int = 64
  latent: int = 64
  blocks: int = 4
  norm: bool = True
  dtype: Any = jnp.float32
  remat: bool = False

  @nn.compact
  def __call__(self, x):
    layers.check_multiple(x.shape, DOWNSAMPLING)
    norm = layers.optional_norm(self.norm)
    x = layers.Conv(self.width, 7, pad=3, pad_mode='reflect', dtype=self.dtype, name='conv_in')(x)
    x = nn.relu(norm(x))
    for i, features in enumerate((self.width, self.latent)):
      x = layers.Conv(features, 4, stride=2, pad=1, dtype=self.dtype, name=f'down{i}')(x)
      x = nn.relu(norm(x))
    return layers.resnet_blocks(x, self.blocks, self.latent, self.norm, self.dtype, self.remat)


class Decoder(nn.Module):
  """Latent [B, h, w, latent] -> photo [B, 4h, 4w, 3] in (-1, 1): the encoder's mirror, tanh."""

  width: int = 64
  latent: int = 64
  blocks: int = 4
  norm: bool = True
  dtype: Any = jnp.float32
  remat: bool = False

  @nn.compact
  def __call__(self, z):
    norm = layers.optional_norm(self.norm)
    x = z.astype(self.dtype)
    x = layers.resnet_blocks(x, self.blocks, self.latent, self.norm, self.dtype, self.remat)
    for i in range(2):
      x = layers.ConvTranspose(self.width, dtype=self.dtype, name=f'up{i}')(x)
      x = nn.relu(norm(x))
    x = layers.Conv(3, 7, pad=3, pad_mode='reflect', dtype=self.dtype, name='conv_out')(x)
    return jnp.tanh(x.astype(jnp.float32))


class VaePatchDiscriminator(nn.Module):
  """pix2pixHD `NLayerDiscriminator`: [B, H, W, C] -> its `layers` + 2 feature maps.

  4x4 convolutions with zero padding 2 (pix2pix has 1), all of stride 2 except the last two. IN in
  all except the first and last; leaky ReLU of slope 0.2. The last map holds the logits.
  """

  width: int = 64
  layers: int = 3
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x):
    maps = []
    for i in range(self.layers + 1):
      features, stride = min(self.width * 2**i, 512), 2 if i < self.layers else 1
      x = layers.Conv(features, 4, stride=stride, pad=2, dtype=self.dtype, name=f'conv{i}')(x)
      x = layers.leaky_relu(x if i == 0 else layers.instance_norm(x))
      maps.append(x)
    maps.append(layers.Conv(1, 4, pad=2, dtype=self.dtype, name=f'conv{self.layers + 1}')(x))
    return maps


class MultiScaleDiscriminator(nn.Module):
  """`scales` patch discriminators on the photo, its half, its quarter; a list, full scale first."""

  width: int = 64
  layers: int = 3
  scales: int = 2
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x):
    outputs = []
    for i in range(self.scales):
      x = x if i == 0 else layers.avg_pool_3x3(x)
      judge = VaePatchDiscriminator(self.width, self.layers, self.dtype, name=f'scale{i}')
      outputs.append(judge(x))
    return outputs


# Training --------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class VAE:
  """One VAE with its discriminators, loss weights and optimisers.

  Attributes:
    width: channels at the photo's resolution and at half of it.
    latent: channels of the latent.
    blocks: residual blocks of the encoder, and of the decoder.
    d_width, d_layers, d_scales: the image discriminator.
    norm: instance norm, as in the reference. It removes the mean and contrast of every channel from
      the latent, and with them the brightness of the photo; False keeps them.
    latent_gan: whether this is the VAE of R and X, with a latent discriminator.
    posterior_std: standard deviation of the latent noise in training (1 in the reference).
    ema: decay of the moving average of the parameters that is evaluated and released; 0: none.
    accumulate: number of parts of a device's batch that a step processes one after the other, with
      the memory of one; the gradient is that of the whole batch.
    weights: of the loss terms, by name; see WEIGHTS.
    g_tx, d_tx: optimisers of the VAE and of the discriminators.
    dtype: of the convolutions, including those of `features`. Norm statistics, losses and
      parameters stay float32.
    remat: see layers.resnet_blocks.
    features: (constants['perceptual'], photos) -> feature maps; None: no perceptual term.
    feature_weights: of the maps that `features` returns.
  """

  width: int = 64
  latent: int = 64
  blocks: int = 4
  d_width: int = 64
  d_layers: int = 3
  d_scales: int = 2
  norm: bool = True
  latent_gan: bool = False
  posterior_std: float = 1.0
  ema: float = 0.0
  accumulate: int = 1
  weights: dict[str, float] = dataclasses.field(default_factory=WEIGHTS.copy)
  g_tx: optax.GradientTransformation = optax.adam(2e-4, b1=0.5)
  d_tx: optax.GradientTransformation = optax.adam(2e-4, b1=0.5)
  dtype: Any = jnp.float32
  remat: bool = False
  features: Callable[[Any, jax.Array], list[jax.Array]] | None = None
  feature_weights: tuple[float, ...] = ()

  @property
  def encoder(self) -> Encoder:
    return Encoder(self.width, self.latent, self.blocks, self.norm, self.dtype, self.remat)

  @property
  def decoder(self) -> Decoder:
    return Decoder(self.width, self.latent, self.blocks, self.norm, self.dtype, self.remat)

  @property
  def discriminator(self) -> MultiScaleDiscriminator:
    return MultiScaleDiscriminator(self.d_width, self.d_layers, self.d_scales, self.dtype)

  @property
  def latent_discriminator(self) -> VaePatchDiscriminator:
    return VaePatchDiscriminator(self.d_width, self.d_layers, self.dtype)


def init(model: VAE, key: jax.Array) -> State:
  """Kernels N(0, 0.02), or He's without norms, biases 0, and fresh optimiser states.

  The state's `g` holds {'encoder', 'decoder'}, `d` {'image'} and, for R and X, 'latent'.
  """
  keys = jax.random.split(key, 4)
  photo = jnp.zeros((1, 64, 64, 3))
  latent = jnp.zeros((1, 16, 16, model.latent))
  g = init_networks(model.encoder, model.decoder, *keys[:2])
  d = {'image': parameters.init_normal(model.discriminator, keys[2], photo)}
  if model.latent_gan:
    d['latent'] = parameters.init_normal(model.latent_discriminator, keys[3], latent)
  return start(model, g, d)


def init_networks(
  encoder: Encoder, decoder: Decoder, encoder_key: jax.Array, decoder_key: jax.Array
) -> dict[str, Any]:
  """Random parameters {'encoder', 'decoder'}; see `init`."""
  photo, latent = jnp.zeros((1, 64, 64, 3)), jnp.zeros((1, 16, 16, decoder.latent))
  return {
    name: parameters.init_normal(net, key, x, std=0.02 if net.norm else None)
    for name, net, key, x in (
      ('encoder', encoder, encoder_key, photo),
      ('decoder', decoder, decoder_key, latent),
    )
  }


def encode(model: Any, g: Any, photo: jax.Array) -> jax.Array:
  """Latent mean [B, H/4, W/4, latent] of photos [B, H, W, 3] in [-1, 1].

  `model` has an `encoder`: a VAE or a mapping.
  """
  return model.encoder.apply({'params': g['encoder']}, photo)


def decode(model: Any, g: Any, latent: jax.Array) -> jax.Array:
  """Photos [B, 4h, 4w, 3] in (-1, 1) of latents [B, h, w, latent].

  `model` has a `decoder`: a VAE or a mapping.
  """
  return model.decoder.apply({'params': g['decoder']}, latent)


def train_step(
  model: VAE, state: State, constants: Any, batch: dict[str, jax.Array], keys: jax.Array
) -> tuple[State, dict[str, jax.Array]]:
  """One update of the VAE and its discriminators on one device of the axis averaging.AXIS.

  As in the reference, all losses come from one forward pass: the discriminators learn from the
  reconstruction made before the VAE's update.

  Args:
    model: hyper-parameters.
    state: replicated.
    constants: {'perceptual': parameters of `model.features`} or {}.
    batch: 'image' [b, S, S, 3] in [-1, 1]; for R and X also 'is_real' [b], 1 for photos of R.
    keys: [b], one key per example.

  Returns:
    The new state, and every loss term by name (unweighted) with gradient norms: scalars, the same
    on all devices.
  """
  parts, reals = model.accumulate, None
  if _has_latent_gan(model):
    reals = accumulation.count(batch['is_real'], parts)

  def gradients(batch, keys):
    return _gradients(model, state, constants, batch, keys, reals)

  g_grad, d_grad, terms = accumulation.mean(gradients, parts, batch, keys)
  state = state.apply(model, g_grad, d_grad)
  return state, terms | norms(g=g_grad, d=d_grad)


def perceptual(model: Any, constants: Any, fake: jax.Array, clean: jax.Array) -> jax.Array:
  """losses.perceptual of photos [b, S, S, 3] in [-1, 1]; no gradient to `clean`.

  Args:
    model: has `features`, `feature_weights` and `dtype`, in which the features are computed.
    constants: {'perceptual': parameters of `model.features`}.
    fake: the network's photos.
    clean: the photos they should equal; for a VAE, its input.
  """
  photos = (photo.astype(model.dtype) for photo in (fake, clean))
  maps = (model.features(constants['perceptual'], photo) for photo in photos)
  return losses.perceptual(*maps, model.feature_weights)


def _has_latent_gan(model: VAE) -> bool:
  return model.latent_gan and model.weights['latent_gan'] > 0


def _gradients(model, state, constants, batch, keys, reals):
  """Gradients for g and d and loss terms of one part of the batch, not yet averaged over devices.

  `reals` is the mean number of photos of R per part; None without a latent discriminator.
  """
  image, weights = batch['image'], model.weights
  has_gan = weights['gan'] > 0 or weights['feature_matching'] > 0
  has_latent_gan = _has_latent_gan(model)
  shape = (image.shape[1] // DOWNSAMPLING, image.shape[2] // DOWNSAMPLING, model.latent)
  noise = model.posterior_std * jax.vmap(lambda k: jax.random.normal(k, shape))(keys)

  def judge(d, photo):
    return model.discriminator.apply({'params': d['image']}, photo)

  def judge_latent(d, z):
    return model.latent_discriminator.apply({'params': d['latent']}, z)[-1]

  def g_loss(g):
    z = encode(model, g, image).astype(jnp.float32)
    fake = decode(model, g, z + noise)
    terms = {'kl': losses.kl(z)}
    if has_gan:
      on_fake, on_real = judge(state.d, fake), judge(state.d, image)
      terms['gan'] = losses.multiscale_lsgan(on_fake, 1.0)
      terms['feature_matching'] = losses.feature_matching(on_fake, on_real)
    if model.features is not None and weights['perceptual'] > 0:
      terms['perceptual'] = perceptual(model, constants, fake, image)
    if weights['l1'] > 0:
      terms['l1'] = losses.l1(fake, image)
    if has_latent_gan:
      # Only the latents of R are moved, towards those of X.
      terms['latent_gan'] = losses.latent_lsgan(
        judge_latent(state.d, z), 1.0, batch['is_real'], reals
      )
    return losses.total(terms, weights), (z, fake, terms)

  def d_loss(d, z, fake):
    terms = {}
    if has_gan:
      terms['d_fake'] = losses.multiscale_lsgan(judge(d, fake), 0.0)
      terms['d_real'] = losses.multiscale_lsgan(judge(d, image), 1.0)
    if has_latent_gan:
      logits = judge_latent(d, z)
      is_real = batch['is_real'].astype(jnp.float32)
      terms['d_latent_r'] = losses.latent_lsgan(logits, 0.0, is_real, reals)
      others = len(is_real) - reals
      terms['d_latent_x'] = losses.latent_lsgan(logits, 1.0, 1 - is_real, others)
    return 0.5 * sum(terms.values(), jnp.zeros(())), terms

  (_, (z, fake, terms)), g_grad = jax.value_and_grad(g_loss, has_aux=True)(state.g)
  z, fake = jax.lax.stop_gradient((z, fake))
  (_, d_terms), d_grad = jax.value_and_grad(d_loss, has_aux=True)(state.d, z, fake)
  return g_grad, d_grad, terms | d_terms


def eval_step(
  model: VAE, state: State, constants: Any, batch: dict[str, jax.Array]
) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
  """Reconstructs the batch without latent noise.

  Returns:
    Per-example scores {'psnr', 'ssim'} [b] of the reconstruction against its input, and images
    {'input', 'reconstruction'} [b, S, S, 3].
  """
  del constants
  image = batch['image']
  output = decode(model, state.released, encode(model, state.released, image))
  scores = {
    'psnr': psnr_ssim.psnr(output, image),
    'ssim': psnr_ssim.ssim(output, image),
  }
  return scores, {'input': image, 'reconstruction': output}
