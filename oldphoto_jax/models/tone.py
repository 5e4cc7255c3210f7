"""Undoes fading and colour casts: three curves and a matrix, from the statistics of the photo.

Silver and dyes fade monotonically, layer by layer, with some cross-talk: a curve for each channel
and a 3x3 matrix invert that (Ando et al. 1997). A small network reads them off a thumbnail, with a
gate that says how far the photo is faded at all: one that is not stays as it is. A photo of one
hue (gray, sepia, cyanotype) keeps its hue, and gets its contrast back.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from oldphoto_jax import colour
from oldphoto_jax.metrics import psnr_ssim
from oldphoto_jax.models.state import State, start
from oldphoto_jax.nn import averaging, losses

SIDE = 64  # pixels of the thumbnails that the network is trained on and reads
QUANTILES = (0.005, 0.02, 0.1, 0.25, 0.5, 0.75, 0.9, 0.98, 0.995)
KNOTS = 9  # of a curve, at equal steps from black to white
LARGEST = 0.47  # that a value moves at most, in units of [-1, 1]: 60 levels of 8 bits
FEATURES = 3 * len(QUANTILES) + 6 + 6 + 3

WEIGHTS = {'log_mse': 1.0}
FLOOR = 3e-4  # mean squared error, in [-1, 1], at which improving stops to count (41 dB)


class Reader(nn.Module):
  """Statistics [B, FEATURES] -> knots [B, 3, KNOTS], matrix [B, 3, 3] and gate [B].

  Knots are what a curve adds at them, the matrix is what is added to the identity.
  """

  width: int = 128

  @nn.compact
  def __call__(self, x):
    for name in ('dense0', 'dense1'):
      x = nn.relu(nn.Dense(self.width, name=name)(x))
    out = nn.Dense(
      3 * KNOTS + 10, kernel_init=nn.initializers.zeros, bias_init=nn.initializers.zeros, name='out'
    )(x)
    knots, matrix, gate = jnp.split(out, (3 * KNOTS, 3 * KNOTS + 9), -1)
    knots = LARGEST * jnp.tanh(knots.reshape(-1, 3, KNOTS))
    return knots, 0.5 * jnp.tanh(matrix.reshape(-1, 3, 3)), jax.nn.sigmoid(2 * gate[:, 0])


@dataclasses.dataclass(frozen=True)
class Tone:
  """The network, loss weights and optimiser; `ema` is the decay of the moving average, 0: none."""

  width: int = 128
  weights: dict[str, float] = dataclasses.field(default_factory=WEIGHTS.copy)
  ema: float = 0.0
  g_tx: optax.GradientTransformation = optax.adam(1e-3)

  @property
  def net(self) -> Reader:
    return Reader(self.width)


def init(model: Tone, key: jax.Array) -> State:
  """A network that changes nothing yet, with its gate half open."""
  g = model.net.init(key, jnp.zeros((1, FEATURES)))['params']
  return start(model, g)


def statistics(photo: jax.Array, weight: jax.Array) -> jax.Array:
  """What the network reads: [B, FEATURES].

  Quantiles of each channel, the covariance of the channels, and the mean colours of all pixels and
  of the lightest and darkest twentieth.

  Args:
    photo: [B, H, W, 3] in [-1, 1].
    weight: [B, H, W, 1], how far a pixel counts; 0 for damage and for the border of the scan.
  """
  b = photo.shape[0]
  x, w = photo.reshape(b, -1, 3), weight.reshape(b, -1)
  w = w / jnp.maximum(w.sum(1, keepdims=True), 1e-6)
  order = jnp.argsort(x, axis=1)
  values = jnp.take_along_axis(x, order, 1)
  rank = jnp.cumsum(jnp.take_along_axis(jnp.broadcast_to(w[..., None], x.shape), order, 1), 1)
  reached = rank[:, None] >= jnp.array(QUANTILES, x.dtype)[:, None, None] - 1e-6
  quantiles = jnp.take_along_axis(values, jnp.argmax(reached, axis=2), 1).reshape(b, -1)
  mean = jnp.einsum('bn,bnc->bc', w, x)
  away = x - mean[:, None]
  covariance = jnp.einsum('bn,bnc,bnd->bcd', w, away, away)
  upper = [covariance[:, i, j] for i in range(3) for j in range(i, 3)]
  luma = colour.luma(x)[..., 0]
  rank = jnp.argsort(jnp.argsort(luma, 1), 1) / luma.shape[1]
  ends = []
  for end in (rank < 0.05, rank >= 0.95):
    share = w * end
    share = share / jnp.maximum(share.sum(1, keepdims=True), 1e-6)
    ends.append(jnp.einsum('bn,bnc->bc', share, x))
  return jnp.concatenate([quantiles, 4 * jnp.stack(upper, -1), *ends, mean], -1)


def correction(model: Tone, params: Any, photo: jax.Array, weight: jax.Array):
  """(knots [B, 3, KNOTS], matrix [B, 3, 3], gate [B]) of thumbnails; arguments as `statistics`."""
  return model.net.apply({'params': params}, statistics(photo, weight))


def apply(photo: jax.Array, knots: jax.Array, matrix: jax.Array, gate: jax.Array) -> jax.Array:
  """The corrected photos [B, H, W, 3], not clipped, as far as the gate says."""
  place = (photo.clip(-1, 1) + 1) / 2 * (KNOTS - 1)
  # Linear between knots, as a sum of hats: no look-up by index, which is slow on accelerators.
  at = jnp.arange(KNOTS)
  hats = (1 - jnp.abs(place[..., None] - at)).clip(0)
  curved = photo + jnp.einsum('bhwck,bck->bhwc', hats, knots)
  mixed = curved + jnp.einsum('bhwc,bdc->bhwd', curved, matrix)
  change = (mixed - photo).clip(-LARGEST, LARGEST)
  return photo + gate[:, None, None, None] * change


def train_step(
  model: Tone, state: State, constants: Any, batch: dict[str, jax.Array], keys: jax.Array
) -> tuple[State, dict[str, jax.Array]]:
  """One update, as one device of the axis averaging.AXIS sees it.

  The loss is the mean logarithm of each photo's squared error: one that was good and is made worse
  counts as much as one that was bad and is made better.

  Args:
    model: hyper-parameters.
    state: replicated.
    constants, keys: unused.
    batch: 'old' and 'clean' [b, S, S, 3] in [-1, 1].

  Returns:
    The new state, and every loss term by name (unweighted) with the gradient norm.
  """
  del constants, keys

  def loss(g):
    fixed, _ = _corrected(model, g, batch['old'])
    error = ((fixed - batch['clean']) ** 2).mean((1, 2, 3))
    terms = {'log_mse': jnp.log10(error + FLOOR).mean()}
    return losses.total(terms, model.weights), terms

  grad, terms = averaging.pmean(jax.grad(loss, has_aux=True)(state.g))
  return state.apply(model, grad), terms | {'norm': averaging.global_norm(grad)}


def _corrected(model, params, old):
  knots, matrix, gate = correction(model, params, old, jnp.ones_like(old[..., :1]))
  return apply(old, knots, matrix, gate), gate


def eval_step(
  model: Tone, state: State, constants: Any, batch: dict[str, jax.Array]
) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
  """Corrects the batch.

  Returns:
    Per-example scores [b]: 'psnr', 'psnr_old' of doing nothing, 'worse', 1 where doing nothing is
    better by 0.1 dB, 'gate'; images {'old', 'restored', 'clean'} [b, S, S, 3] in [-1, 1].
  """
  del constants
  fixed, gate = _corrected(model, state.released, batch['old'])
  fixed = fixed.clip(-1, 1)
  psnr = lambda photo: psnr_ssim.psnr(photo, batch['clean'])
  after, before = psnr(fixed), psnr(batch['old'])
  scores = {
    'psnr': after,
    'psnr_old': before,
    'worse': (after < before - 0.1).astype(jnp.float32),
    'gate': gate,
  }
  return scores, {'old': batch['old'], 'restored': fixed, 'clean': batch['clean']}


def sizes(model: Tone) -> dict[str, Any]:
  """What a file of weights has to say about the network, as JSON values."""
  return {'width': model.width}


def from_sizes(sizes: dict[str, Any]) -> Tone:
  """The model that `sizes` describes.

  Raises:
    KeyError: if a size is missing.
  """
  return Tone(width=sizes['width'])
