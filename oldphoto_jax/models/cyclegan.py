"""CycleGAN: "Unpaired Image-to-Image Translation using Cycle-Consistent Adversarial Networks".

Zhu et al. 2017. Domain X holds old photos, domain Y clean ones, and no photo of X has its partner
in Y. G takes X to Y (it restores), F takes Y to X (it ages). D_Y judges the photos of G, D_X those
of F. Names are the paper's; the official code calls G, F, D_Y, D_X: G_A, G_B, D_A, D_B.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from oldphoto_jax.metrics import checkerboard, psnr_ssim
from oldphoto_jax.models import gan_networks
from oldphoto_jax.models import state as states
from oldphoto_jax.models.released import Networks
from oldphoto_jax.nn import averaging, losses


@dataclasses.dataclass(frozen=True)
class CycleGAN:
  """Networks, losses and optimisers.

  All four networks are updated at once, as in the TensorFlow tutorial. The official code is
  equivalent: it updates the generators first, but its discriminators learn from photos made before
  that update, and its generators learn from the old discriminators.

  Attributes:
    generator: the network of G and of F, which have separate parameters.
    discriminator: the network of D_X and D_Y; without batch norm, like the generator.
    gan_loss: (logits, target) -> scalar: losses.lsgan (paper), losses.vanilla_gan (tutorial).
    lambda_cycle: weight of the cycle loss; 10 in the paper.
    lambda_identity: weight of the identity loss, times lambda_cycle; 0.5 in the official code.
    halve_d: a discriminator's loss is 0.5 * (real + fake); False: real + fake.
    pool_size: generated photos per domain in the history that discriminators learn from (section 4
      of the paper: 50); 0: they learn only from the photos of the current step.
    crop: side of the training photos, and so of those in the history, in pixels.
    ema: decay of the moving average of G and F that is evaluated and released; 0: none.
    g_tx, d_tx: optimisers of G with F, and of D_X with D_Y.
  """

  generator: gan_networks.GanUNet | gan_networks.GanResNet = gan_networks.GanResNet()
  discriminator: gan_networks.GanPatchDiscriminator = gan_networks.GanPatchDiscriminator(
    norm=gan_networks.INSTANCE
  )
  gan_loss: Callable[[jax.Array, float], jax.Array] = losses.lsgan
  lambda_cycle: float = 10.0
  lambda_identity: float = 0.5
  halve_d: bool = True
  pool_size: int = 50
  crop: int = 256
  ema: float = 0.0
  g_tx: optax.GradientTransformation = optax.adam(2e-4, b1=0.5)
  d_tx: optax.GradientTransformation = optax.adam(2e-4, b1=0.5)

  @property
  def weights(self) -> dict[str, float]:
    """The weights of the generators' terms, by name."""
    cycle, identity = self.lambda_cycle, self.lambda_identity * self.lambda_cycle
    weights = {'gan_G': 1.0, 'gan_F': 1.0, 'cycle_X': cycle, 'cycle_Y': cycle}
    return weights | {'identity_G': identity, 'identity_F': identity}


class Pool(struct.PyTreeNode):
  """The history: generated photos of both domains [pool_size, crop, crop, 3], and their count."""

  X: jax.Array
  Y: jax.Array
  count: jax.Array


class State(states.State):
  """The training state; arrays only.

  `g` holds {'G', 'F'}, `d` {'D_X', 'D_Y'}; `pool` is None with a pool size of 0.

  All devices share one history: every device sees the generated photos of all devices, in the order
  of the global batch, and makes the same exchanges. The state thus stays replicated, does not
  depend on the number of devices, and resumes exactly. The price is the memory of two histories per
  device (float32: 2 x 39 MB for 50 photos of 256x256) and gathering the photos of each step.
  """

  pool: Any = None


def init(model: CycleGAN, key: jax.Array) -> State:
  """Four networks, each by gan_networks.init from its own key, and fresh optimiser states.

  Raises:
    ValueError: for networks with batch norm.
  """
  keys = jax.random.split(key, 4)
  side = max(model.generator.multiple, 16)
  photo, large = jnp.zeros((1, side, side, 3)), jnp.zeros((1, 128, 128, 3))
  g = {name: gan_networks.init(model.generator, k, photo) for name, k in zip('GF', keys)}
  d = {
    name: gan_networks.init(model.discriminator, k, large)
    for name, k in zip(('D_X', 'D_Y'), keys[2:])
  }
  if any('batch_stats' in variables for variables in (g | d).values()):
    raise ValueError('CycleGAN does not support batch norm: choose instance norm, affine or not')
  g, d = ({name: variables['params'] for name, variables in v.items()} for v in (g, d))
  shape = (model.pool_size, model.crop, model.crop, 3)
  pool = Pool(jnp.zeros(shape), jnp.zeros(shape), jnp.zeros((), jnp.int32))
  begun = states.start(model, g, d)
  return State(**vars(begun), pool=pool if model.pool_size else None)


def restore(model: CycleGAN, params: dict[str, Any], old: jax.Array) -> jax.Array:
  """Restores old photos [B, H, W, 3] in [-1, 1]; H and W multiples of `model.generator.multiple`.

  `params` are the parameters of G: State.released['G'].
  """
  return model.generator.apply({'params': params}, old)


def exchange(pool: jax.Array, count: jax.Array, photos: jax.Array, keys: jax.Array):
  """Puts photos into a history and takes out as many, one after the other.

  While there is room, a photo is stored and also returned. Once the history is full, each photo is
  either returned without being stored, or replaces a random stored photo, which is returned
  instead; both with probability 0.5 (`ImagePool` of the official code, after Shrivastava et al.
  2017).

  Args:
    pool: [P, H, W, 3].
    count: int32, number of photos it holds; the first places are filled first.
    photos: [B, H, W, 3].
    keys: [B].

  Returns:
    The pool, the count, and the photos to learn from [B, H, W, 3].
  """
  size = pool.shape[0]

  def one(carry, arguments):
    pool, count = carry
    photo, key = arguments
    swap_key, place_key = jax.random.split(key)
    full = count >= size
    place = jnp.where(full, jax.random.randint(place_key, (), 0, size), count)
    swap = full & jax.random.bernoulli(swap_key)
    stored = pool[place]
    # If the photo itself is returned from a full history, the stored one is written back.
    pool = pool.at[place].set(jnp.where(full & ~swap, stored, photo))
    return (pool, jnp.minimum(count + 1, size)), jnp.where(swap, stored, photo)

  (pool, count), given = jax.lax.scan(one, (pool, count), (photos, keys))
  return pool, count, given


def _exchange_all(pool: Pool, fake_x: jax.Array, fake_y: jax.Array, keys: jax.Array):
  """`exchange` for both domains with the photos of all devices; returns this device's share."""
  b = fake_x.shape[0]

  def gather(x):
    return jax.lax.all_gather(x, averaging.AXIS, tiled=True)

  keys = jax.random.wrap_key_data(gather(jax.random.key_data(keys)))
  first = jax.lax.axis_index(averaging.AXIS) * b
  pools, given = [], []
  for i, (stored, fake) in enumerate(((pool.X, fake_x), (pool.Y, fake_y))):
    own = jax.vmap(lambda key, i=i: jax.random.fold_in(key, i))(keys)
    stored, count, out = exchange(stored, pool.count, gather(fake), own)
    pools.append(stored)
    given.append(jax.lax.dynamic_slice_in_dim(out, first, b))
  return Pool(*pools, count), *given


def train_step(
  model: CycleGAN, state: State, constants: Any, batch: dict[str, jax.Array], keys: jax.Array
) -> tuple[State, dict[str, jax.Array]]:
  """One update of G and F, D_X and D_Y, on one device of the axis averaging.AXIS.

  Args:
    model: hyper-parameters.
    state: replicated.
    constants: unused.
    batch: 'old' (X) and 'clean' (Y) [b, S, S, 3] in [-1, 1], which are not pairs.
    keys: [b], one key per example, for dropout and history.

  Returns:
    The new state, and every loss term by name (unweighted) with gradient norms.
  """
  del constants
  x, y, weights = batch['old'], batch['clean'], model.weights
  # Six keys for dropout, one for the history.
  keys = jax.vmap(lambda key: jax.random.split(key, 7))(keys)

  def translate(params, photos, *which):
    own = jnp.concatenate([keys[:, i] for i in which])
    return model.generator.apply({'params': params}, photos, own)

  def judge(params, photos):
    return model.discriminator.apply({'params': params}, photos)

  def g_loss(g):
    terms = {}
    if weights['identity_G'] > 0:
      # Norm statistics are per image, so two batches fit into one call.
      fake_y, same_y = jnp.split(translate(g['G'], jnp.concatenate([x, y]), 0, 1), 2)
      fake_x, same_x = jnp.split(translate(g['F'], jnp.concatenate([y, x]), 2, 3), 2)
      terms |= {'identity_G': losses.l1(same_y, y), 'identity_F': losses.l1(same_x, x)}
    else:
      fake_y, fake_x = translate(g['G'], x, 0), translate(g['F'], y, 2)
    terms |= {
      'gan_G': model.gan_loss(judge(state.d['D_Y'], fake_y), 1.0),
      'gan_F': model.gan_loss(judge(state.d['D_X'], fake_x), 1.0),
      'cycle_X': losses.l1(translate(g['F'], fake_y, 4), x),
      'cycle_Y': losses.l1(translate(g['G'], fake_x, 5), y),
    }
    return losses.total(terms, weights), (fake_x, fake_y, terms)

  def d_loss(d, fake_x, fake_y):
    terms = {
      'd_X_real': model.gan_loss(judge(d['D_X'], x), 1.0),
      'd_X_fake': model.gan_loss(judge(d['D_X'], fake_x), 0.0),
      'd_Y_real': model.gan_loss(judge(d['D_Y'], y), 1.0),
      'd_Y_fake': model.gan_loss(judge(d['D_Y'], fake_y), 0.0),
    }
    return d_total(model, terms), terms

  (_, (fake_x, fake_y, terms)), g_grad = jax.value_and_grad(g_loss, has_aux=True)(state.g)
  fake_x, fake_y = jax.lax.stop_gradient((fake_x, fake_y))
  pool = state.pool
  if pool is not None:
    pool, fake_x, fake_y = _exchange_all(pool, fake_x, fake_y, keys[:, 6])
  (_, d_terms), d_grad = jax.value_and_grad(d_loss, has_aux=True)(state.d, fake_x, fake_y)
  g_grad, d_grad, terms = averaging.pmean((g_grad, d_grad, terms | d_terms))
  state = state.replace(pool=pool).apply(model, g_grad, d_grad)
  return state, terms | states.norms(g=g_grad, d=d_grad)


def d_total(model: CycleGAN, terms: dict[str, jax.Array]) -> jax.Array:
  """The loss of both discriminators, from their terms 'd_X_real' and so on."""
  return (0.5 if model.halve_d else 1.0) * sum(terms.values())


def eval_step(
  model: CycleGAN, state: State, constants: Any, batch: dict[str, jax.Array]
) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
  """Restores the old photos of a batch of pairs; training never sees pairs.

  Returns:
    Per-example scores [b] and images [b, S, S, 3]. Scores: 'psnr', 'ssim' of the restored photo and
    'psnr_old', 'ssim_old' of doing nothing, against the clean photo, and 'checkerboard' of the
    restored photo. Images: 'old', 'restored', 'back' (F of the restored), 'clean', 'aged' (F of the
    clean).
  """
  del constants
  old, clean, params = batch['old'], batch['clean'], state.released
  restored = restore(model, params['G'], old)
  back, aged = jnp.split(restore(model, params['F'], jnp.concatenate([restored, clean])), 2)
  scores = {
    'psnr': psnr_ssim.psnr(restored, clean),
    'ssim': psnr_ssim.ssim(restored, clean),
    'psnr_old': psnr_ssim.psnr(old, clean),
    'ssim_old': psnr_ssim.ssim(old, clean),
    'checkerboard': checkerboard.checkerboard(restored),
  }
  images = {'old': old, 'restored': restored, 'back': back, 'clean': clean, 'aged': aged}
  return scores, images


def sizes(model: CycleGAN) -> dict[str, Any]:
  """The sizes of the model that a weights file stores, as JSON values."""
  return gan_networks.sizes(model.generator)


def from_sizes(sizes: dict[str, Any]) -> CycleGAN:
  """The model that `sizes` describes, for `restore`.

  Raises:
    KeyError: if a size is missing.
    ValueError: for an unknown kind of generator.
  """
  return CycleGAN(generator=gan_networks.from_sizes(sizes))


def networks(sizes: dict[str, Any]) -> Networks:
  """The functions for weights of these sizes; raises as `from_sizes`."""
  model = from_sizes(sizes)
  init_released = lambda key: init(model, key).released['G']
  return Networks(init_released, partial(restore, model), model.generator.multiple, layerwise=True)
