"""pix2pix: "Image-to-Image Translation with Conditional Adversarial Networks" (Isola et al. 2017).

A generator takes the old photo to the clean one. A discriminator sees the old photo beside the
clean or the restored one. Training needs pairs. Losses and their weights follow the official
PyTorch code; fields select what the TensorFlow tutorial does differently.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from oldphoto_jax.errors import ConfigError
from oldphoto_jax.metrics import checkerboard, psnr_ssim
from oldphoto_jax.models import gan_networks
from oldphoto_jax.models.released import Networks
from oldphoto_jax.models.state import State, norms, optimise, start
from oldphoto_jax.nn import averaging, losses

# The generator's loss; section 3.1 of the paper, lambda = 100. Terms of weight 0 are not computed.
WEIGHTS = {'gan': 1.0, 'l1': 100.0}


@dataclasses.dataclass(frozen=True)
class Pix2Pix:
  """Networks, losses and optimisers.

  Attributes:
    generator: U-Net.
    discriminator: sees the old photo and a clean or restored one.
    gan_loss: (logits, target) -> scalar: losses.vanilla_gan, as in the paper, or losses.lsgan.
    weights: of the generator's terms, by name; see WEIGHTS. Without 'gan', D is not trained.
    halve_d: D's loss is 0.5 * (real + fake) (paper, official); False: real + fake (tutorial).
    alternate: True: D is updated first, and G learns from the updated D (official). False: both
      learn from the state before the step (tutorial).
    sync_batch_norm: batch norm over the examples of all devices. False: each device uses the
      statistics of its own examples, as in the reference, and the running ones are averaged.
    test_dropout: restore with dropout, as in the reference and the paper; the same for every photo.
    test_batch_statistics: restore with batch norm over the photo itself, as the reference does at
      batch size 1; False: with the running statistics.
    ema: decay of the moving average of G that is evaluated and released; 0: none.
    g_tx, d_tx: optimisers.
  """

  generator: gan_networks.GanUNet = gan_networks.GanUNet()
  discriminator: gan_networks.GanPatchDiscriminator = gan_networks.GanPatchDiscriminator()
  gan_loss: Callable[[jax.Array, float], jax.Array] = losses.vanilla_gan
  weights: dict[str, float] = dataclasses.field(default_factory=WEIGHTS.copy)
  halve_d: bool = True
  alternate: bool = True
  sync_batch_norm: bool = False
  test_dropout: bool = False
  test_batch_statistics: bool = False
  ema: float = 0.0
  g_tx: optax.GradientTransformation = optax.adam(2e-4, b1=0.5)
  d_tx: optax.GradientTransformation = optax.adam(2e-4, b1=0.5)


def init(model: Pix2Pix, key: jax.Array) -> State:
  """Parameters by gan_networks.init, and fresh optimiser states.

  The state's `stats` are the generator's running statistics, {} with instance norm. The
  discriminator always normalises by its batch, so its running statistics are not kept.
  """
  g_key, d_key = jax.random.split(key)
  side = model.generator.multiple
  g = gan_networks.init(model.generator, g_key, jnp.zeros((1, side, side, 3)))
  d = gan_networks.init(model.discriminator, d_key, jnp.zeros((1, 128, 128, 6)))['params']
  return start(model, g['params'], d, g.get('batch_stats', {}))


def restore(model: Pix2Pix, params: dict[str, Any], old: jax.Array) -> jax.Array:
  """Restores old photos [B, H, W, 3] in [-1, 1]; H and W multiples of `model.generator.multiple`.

  `params` is State.released. The result for a photo does not depend on the others in the batch.
  """
  keys = None
  if model.test_dropout:
    keys = jnp.broadcast_to(jax.random.key(0), old.shape[:1])
  generator = model.generator
  if model.test_batch_statistics:  # those of a single photo are those of instance norm
    generator = generator.clone(norm=dataclasses.replace(generator.norm, batch=False))
  return generator.apply(params, old, keys)


def train_step(
  model: Pix2Pix, state: State, constants: Any, batch: dict[str, jax.Array], keys: jax.Array
) -> tuple[State, dict[str, jax.Array]]:
  """One update of D and of G on one device of the axis averaging.AXIS.

  G runs once. D learns from its photo, and G's gradient passes through D (updated or not, see
  Pix2Pix.alternate) back into the same photo.

  Args:
    model: hyper-parameters.
    state: replicated.
    constants: unused.
    batch: 'old' and 'clean' [b, S, S, 3] in [-1, 1].
    keys: [b], one key per example, for its dropout.

  Returns:
    The new state, and every loss term by name (unweighted) with gradient norms.

  Raises:
    ConfigError: if batch norm would see only one bottleneck value per channel.
  """
  del constants
  old, clean, weights = batch['old'], batch['clean'], model.weights
  axis_name = averaging.AXIS if model.sync_batch_norm else None
  generator = model.generator.clone(axis_name=axis_name)
  discriminator = model.discriminator.clone(axis_name=axis_name)
  _check_bottleneck(model, old.shape)

  def generate(g):
    variables = {'params': g, 'batch_stats': state.stats}
    fake, changed = generator.apply(variables, old, keys, True, mutable=['batch_stats'])
    return fake, changed.get('batch_stats', {})

  def judge(d, photo):
    pair = jnp.concatenate([old, photo], axis=-1)
    return discriminator.apply({'params': d}, pair, True, mutable=['batch_stats'])[0]

  def d_loss(d, fake):
    terms = {
      'd_fake': model.gan_loss(judge(d, fake), 0.0),
      'd_real': model.gan_loss(judge(d, clean), 1.0),
    }
    return d_total(model, terms), terms

  def g_loss(fake, d):
    terms = {}
    if weights['gan'] > 0:
      terms['gan'] = model.gan_loss(judge(d, fake), 1.0)
    if weights['l1'] > 0:
      terms['l1'] = losses.l1(fake, clean)
    return losses.total(terms, weights), terms

  fake, gradient_of, stats = jax.vjp(generate, state.g, has_aux=True)
  before, d_terms, d_norm = state, {}, {}
  if weights['gan'] > 0:
    (_, d_terms), d_grad = jax.value_and_grad(d_loss, has_aux=True)(state.d, fake)
    d_grad = averaging.pmean(d_grad)
    d, d_opt = optimise(model.d_tx, d_grad, state.d_opt, state.d)
    state, d_norm = state.replace(d=d, d_opt=d_opt), norms(d=d_grad)
  judging = state.d if model.alternate else before.d
  (_, g_terms), fake_grad = jax.value_and_grad(g_loss, has_aux=True)(fake, judging)
  (g_grad,) = gradient_of(fake_grad)
  g_grad, stats, terms = averaging.pmean((g_grad, stats, g_terms | d_terms))
  state = state.apply(model, g_grad, stats=stats)
  return state, terms | norms(g=g_grad) | d_norm


def d_total(model: Pix2Pix, terms: dict[str, jax.Array]) -> jax.Array:
  """D's loss from its terms 'd_real' and 'd_fake'."""
  return (0.5 if model.halve_d else 1.0) * (terms['d_real'] + terms['d_fake'])


def eval_step(
  model: Pix2Pix, state: State, constants: Any, batch: dict[str, jax.Array]
) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
  """Restores the batch.

  Returns:
    Per-example scores [b]: 'psnr', 'ssim' of the restored photo and 'psnr_old', 'ssim_old' of doing
    nothing, against the clean photo, and 'checkerboard' of the restored photo. Images {'old',
    'restored', 'clean'} [b, S, S, 3].
  """
  del constants
  old, clean = batch['old'], batch['clean']
  restored = restore(model, state.released, old)
  scores = {
    'psnr': psnr_ssim.psnr(restored, clean),
    'ssim': psnr_ssim.ssim(restored, clean),
    'psnr_old': psnr_ssim.psnr(old, clean),
    'ssim_old': psnr_ssim.ssim(old, clean),
    'checkerboard': checkerboard.checkerboard(restored),
  }
  return scores, {'old': old, 'restored': restored, 'clean': clean}


def _check_bottleneck(model: Pix2Pix, shape: tuple[int, ...]) -> None:
  g = model.generator
  photos = shape[0] * (jax.lax.axis_size(averaging.AXIS) if model.sync_batch_norm else 1)
  single = photos == 1 and shape[1] == shape[2] == g.multiple
  if g.bottleneck_norm and g.norm.batch and single:
    raise ConfigError(
      f'batch norm erases the 1x1 bottleneck of {shape[1]}x{shape[2]} photos if a device has only '
      'one photo: use a larger batch, sync_batch_norm, or no bottleneck_norm'
    )


def sizes(model: Pix2Pix) -> dict[str, Any]:
  """The sizes of the model that a weights file stores, as JSON values."""
  return gan_networks.sizes(model.generator) | {
    'test_dropout': model.test_dropout,
    'test_batch_statistics': model.test_batch_statistics,
  }


def from_sizes(sizes: dict[str, Any]) -> Pix2Pix:
  """The model that `sizes` describes, for `restore`.

  Raises:
    KeyError: if a size is missing.
    ValueError: for an unknown kind of generator.
  """
  return Pix2Pix(
    generator=gan_networks.from_sizes(sizes),
    test_dropout=sizes['test_dropout'],
    test_batch_statistics=sizes['test_batch_statistics'],
  )


def networks(sizes: dict[str, Any]) -> Networks:
  """The functions for weights of these sizes; raises as `from_sizes`."""
  model = from_sizes(sizes)
  init_released = lambda key: init(model, key).released
  return Networks(init_released, partial(restore, model), model.generator.multiple, layerwise=True)
