"""The damage detector of Wan et al. 2020: a U-Net that marks damage pixel by pixel.

The network is that of the reference (`UNet` in `Global/detection_models/networks.py`, as set up by
`Global/detection.py`). The reference's training was never released. Ours damages clean photos by a
recipe and learns to predict the masks. The network sees only the luma.
"""

import dataclasses
import math
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from oldphoto_jax import colour
from oldphoto_jax.models import gan_networks
from oldphoto_jax.models.released import Networks
from oldphoto_jax.models.state import State, start
from oldphoto_jax.nn import averaging, layers, losses

# The terms of the loss: cross-entropy and soft Dice (Milletari et al. 2016 and many since). For the
# focal loss (Lin et al. 2017) instead of cross-entropy, set a weight for 'focal' and 0 for 'bce'.
WEIGHTS = {'bce': 1.0, 'dice': 1.0, 'focal': 0.0}

# Share of a photo's pixels that is added to both halves of its Dice coefficient (the F1 score of
# its pixels). A photo without damage then scores 1 if nothing is marked, and 1/2 if this share is.
SMOOTHING = 1e-4

# Damaged share from which a photo enters the Dice loss. With less damage, this loss could only
# teach the network to mark nothing, and it would do so faster than anything else.
DAMAGED = 1e-3

# Initial probability of damage. Without it, the first steps are spent on learning that most pixels
# are undamaged (Lin et al. 2017, section 4.1).
PRIOR = 0.02


def blur_pool(x):
  """Halves [B, H, W, C] after the blur [1, 2, 1] x [1, 2, 1] / 16 (Zhang 2019), reflect-padded.

  The reference's `Downsample` (filt_size 3, stride 2) for even sides. It is computed by shifted
  sums, since a convolution of single channels is slow on CPU.
  """
  for axis in (1, 2):
    pairs = x.reshape(*x.shape[:axis], x.shape[axis] // 2, 2, *x.shape[axis + 1 :])
    even, odd = (jax.lax.index_in_dim(pairs, i, axis + 1, keepdims=False) for i in (0, 1))
    n = odd.shape[axis]
    first, others = (jax.lax.slice_in_dim(odd, 0, end, axis=axis) for end in (1, n - 1))
    x = 0.5 * even + 0.25 * (odd + jnp.concatenate([first, others], axis))
  return x


class DetectorUNet(nn.Module):
  """Luma [B, H, W, 1] in [-1, 1] -> logits [B, H, W, 1]; positive: damaged.

  Level i works at 1/2**i of the size with width * 2**i channels. Batch norm follows every
  convolution except the first, the last and those after an enlargement. Leaky ReLU of slope 0.2.

  Attributes:
    width: channels at full size; 64 in the reference.
    depth: number of halvings; 4 in the reference. Sides are multiples of 2**depth and at least
      twice that.
    axis_name: axis of the devices over which batch statistics are averaged; None: no averaging.
    dtype: of the convolutions.
  """

  width: int = 64
  depth: int = 4
  axis_name: str | None = None
  dtype: Any = jnp.float32

  @property
  def multiple(self) -> int:
    """Sides of a photo must be multiples of this."""
    return 2**self.depth

  @nn.compact
  def __call__(self, luma, batch_statistics: bool = False):
    layers.check_multiple(luma.shape, self.multiple)

    def conv(x, features, name, size=3):
      return layers.Conv(
        features, size, pad=size // 2, pad_mode='reflect', dtype=self.dtype, name=name
      )(x)

    def block(x, features, name):
      x = conv(x, features, name)
      norm = gan_networks.BATCH
      x = gan_networks.normalise(x, norm, batch_statistics, self.axis_name, f'{name}_norm')
      return layers.leaky_relu(x)

    x = layers.leaky_relu(conv(luma, self.width, 'conv_in', 7))
    skips = []
    for i in range(self.depth):
      skips.append(x)
      features = self.width * 2**i
      x = blur_pool(block(x, features, f'pool{i}'))
      x = block(x, 2 * features, f'down{i}_conv1')
      x = block(x, 2 * features, f'down{i}_conv2')
    for i in reversed(range(self.depth)):
      features = self.width * 2**i
      x = conv(layers.double(x), features, f'up{i}')
      x = jnp.concatenate([x, skips[i]], axis=-1)
      x = block(x, features, f'up{i}_conv1')
      x = block(x, features, f'up{i}_conv2')
    return conv(x, 1, 'conv_out').astype(jnp.float32)


@dataclasses.dataclass(frozen=True)
class Detector:
  """Network, loss and optimiser.

  Attributes:
    net: the U-Net.
    weights: of the loss terms, by name; see WEIGHTS. Terms of weight 0 are not computed.
    focal_gamma, focal_alpha: of the focal loss: how much easy pixels are discounted, and the weight
      of damaged pixels.
    sync_batch_norm: batch norm over the examples of all devices. False: each device uses the
      statistics of its own examples, as in the reference, and the running ones are averaged.
    ema: decay of the moving average of the network that is evaluated and released; 0: none.
    g_tx: optimiser.
  """

  net: DetectorUNet = DetectorUNet()
  weights: dict[str, float] = dataclasses.field(default_factory=WEIGHTS.copy)
  focal_gamma: float = 2.0
  focal_alpha: float = 0.25
  sync_batch_norm: bool = False
  ema: float = 0.0
  g_tx: optax.GradientTransformation = optax.adam(1e-3)


def init(model: Detector, key: jax.Array) -> State:
  """Parameters and a fresh optimiser state.

  Kernels are normal with variance 2 / fan-in (He et al. 2015), and every pixel starts as damaged
  with probability PRIOR. Neither has been shown to train better than N(0, 0.02) without a prior.
  """
  side = 2 * model.net.multiple
  released = dict(gan_networks.init(model.net, key, jnp.zeros((1, side, side, 1))))

  def scaled(path, leaf):
    if path[-1].key != 'kernel':
      return leaf
    return leaf / 0.02 * math.sqrt(2 * leaf.shape[-1] / leaf.size)

  params = jax.tree_util.tree_map_with_path(scaled, released['params'])
  params['conv_out']['bias'] += math.log(PRIOR / (1 - PRIOR))
  return start(model, params, stats=released['batch_stats'])


def detect(model: Detector, params: dict[str, Any], old: jax.Array) -> jax.Array:
  """Marks damage in photos [B, H, W, 3] in [-1, 1]: probabilities [B, H, W, 1].

  `params` is State.released. H and W are multiples of `model.net.multiple` and at least twice that.
  The result for a photo does not depend on the others in the batch.
  """
  return jax.nn.sigmoid(model.net.apply(params, colour.luma(old)))


def loss_terms(
  model: Detector, logits: jax.Array, mask: jax.Array, axis_name: str | None = None
) -> dict[str, jax.Array]:
  """The terms with a weight above 0, by name; `mask` [B, H, W, 1] in [0, 1] may be soft.

  See `dice` for `axis_name`.
  """
  terms = {}
  if model.weights['bce'] > 0:
    terms['bce'] = binary_cross_entropy(logits, mask)
  if model.weights['dice'] > 0:
    terms['dice'] = dice(logits, mask, axis_name)
  if model.weights['focal'] > 0:
    terms['focal'] = focal(logits, mask, model.focal_gamma, model.focal_alpha)
  return terms


def binary_cross_entropy(logits, mask) -> jax.Array:
  """Mean cross-entropy of sigmoid(logits) against `mask`."""
  return optax.sigmoid_binary_cross_entropy(logits, mask).mean()


def focal(logits, mask, gamma: float, alpha: float) -> jax.Array:
  """Focal loss (Lin et al. 2017, section 3) for soft masks: both classes' losses, mixed.

  mean(mask * alpha * (1-p)^gamma * -log p + (1-mask) * (1-alpha) * p^gamma * -log(1-p)).
  """
  p = jax.nn.sigmoid(logits)
  positive = alpha * (1 - p) ** gamma * jax.nn.softplus(-logits)
  negative = (1 - alpha) * p**gamma * jax.nn.softplus(logits)
  return (mask * positive + (1 - mask) * negative).mean()


def dice(logits, mask, axis_name: str | None = None) -> jax.Array:
  """1 - 2 mean(p m) / (mean(p^2) + mean(m^2)) of each photo, averaged (Milletari et al. 2016).

  It is computed per photo, so that a thin scratch counts as much as a missing corner. SMOOTHING is
  added to both halves. Photos with a damaged share below DAMAGED are left out. The mean of the
  results over the devices of `axis_name` is that over all photos.
  """
  p = jax.nn.sigmoid(logits)
  both, found, damaged = (x.mean((1, 2, 3)) for x in (p * mask, p * p, mask * mask))
  cost = 1 - (2 * both + SMOOTHING) / (found + damaged + SMOOTHING)
  chosen = mask.mean((1, 2, 3)) >= DAMAGED
  count = None if axis_name is None else jax.lax.pmean(chosen.sum().astype(p.dtype), axis_name)
  return losses.masked_mean(cost, chosen, count)


def train_step(
  model: Detector, state: State, constants: Any, batch: dict[str, jax.Array], keys: jax.Array
) -> tuple[State, dict[str, jax.Array]]:
  """One update on one device of the axis averaging.AXIS.

  Args:
    model: hyper-parameters.
    state: replicated.
    constants: unused.
    batch: 'old' [b, S, S, 3] in [-1, 1] and 'mask' [b, S, S, 1] in [0, 1].
    keys: unused: the network is deterministic.

  Returns:
    The new state, and every loss term by name (unweighted) with the gradient norm.
  """
  del constants, keys
  net = model.net.clone(axis_name=averaging.AXIS if model.sync_batch_norm else None)

  def loss(params):
    variables = {'params': params, 'batch_stats': state.stats}
    logits, changed = net.apply(variables, colour.luma(batch['old']), True, mutable=['batch_stats'])
    terms = loss_terms(model, logits, batch['mask'], averaging.AXIS)
    return losses.total(terms, model.weights), (terms, changed['batch_stats'])

  grad, (terms, stats) = jax.grad(loss, has_aux=True)(state.g)
  grad, terms, stats = averaging.pmean((grad, terms, stats))
  state = state.apply(model, grad, stats=stats)
  return state, terms | {'norm': averaging.global_norm(grad)}


def eval_step(
  model: Detector, state: State, constants: Any, batch: dict[str, jax.Array]
) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
  """Marks the damage of the batch.

  Returns:
    Per-example scores [b]: 'f1' of probability >= 1/2 against mask >= 1/2 (see SMOOTHING),
    'f1_nothing', the score of marking nothing (1 for a photo without damage), 'bce', and the shares
    of pixels that are 'damaged' and 'found'; images {'old', 'mask', 'found'} [b, S, S, 3] in
    [-1, 1].
  """
  del constants
  old, mask = batch['old'], batch['mask']
  logits = model.net.apply(state.released, colour.luma(old))
  found, damaged = logits >= 0, mask >= 0.5

  def mean(x):
    """The mean of each photo [b, S, S, C]: float32 [b]."""
    return x.mean((1, 2, 3), dtype=jnp.float32)

  both = mean(found & damaged)
  scores = {
    'f1': (2 * both + SMOOTHING) / (mean(found) + mean(damaged) + SMOOTHING),
    'f1_nothing': SMOOTHING / (mean(damaged) + SMOOTHING),
    'bce': mean(optax.sigmoid_binary_cross_entropy(logits, mask)),
    'damaged': mean(damaged),
    'found': mean(found),
  }

  def gray(x):
    """[b, S, S, 1] in [0, 1] -> a gray photo [b, S, S, 3] in [-1, 1]."""
    return jnp.broadcast_to(2 * x - 1, old.shape)

  images = {'old': old, 'mask': gray(mask), 'found': gray(jax.nn.sigmoid(logits))}
  return scores, images


def sizes(model: Detector) -> dict[str, Any]:
  """The sizes of the network that a weights file stores, as JSON values."""
  return {'width': model.net.width, 'depth': model.net.depth}


def from_sizes(sizes: dict[str, Any]) -> Detector:
  """The model that `sizes` describes, for `detect`.

  Raises:
    KeyError: if a size is missing.
  """
  return Detector(net=DetectorUNet(width=sizes['width'], depth=sizes['depth']))


def networks(sizes: dict[str, Any]) -> Networks:
  """The functions for weights of these sizes; raises as `from_sizes`."""
  model = from_sizes(sizes)
  init_released = lambda key: init(model, key).released
  return Networks(init_released, partial(detect, model), model.net.multiple, layerwise=False)
