"""Networks that pix2pix and CycleGAN share: U-Net and ResNet generators, the patch discriminator.

Layouts follow `networks.py` of the official PyTorch code (junyanz/pytorch-CycleGAN-and-pix2pix).
Fields select the variants of the TensorFlow tutorials. Padding, epsilons and slopes are explicit
everywhere because the two code families differ in them.
"""

import dataclasses
import itertools
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from oldphoto_jax.nn import layers


@dataclasses.dataclass(frozen=True)
class Norm:
  """The normalisation after a convolution.

  A convolution has a bias only if the norm after it has no offset: with the instance norm of the
  official code, but not with batch norm or the tutorials' instance norm.

  Attributes:
    batch: True: statistics over batch, height and width (batch norm), with running averages.
      False: over height and width of each image (instance norm).
    affine: a learnt scale and offset.
    epsilon: added to the variance.
    momentum: share of the running averages that a step keeps. The running variance is biased;
      torch's is unbiased, n / (n - 1) times as large.
  """

  batch: bool
  affine: bool
  epsilon: float = 1e-5
  momentum: float = 0.9


BATCH = Norm(batch=True, affine=True)
BATCH_TF = Norm(batch=True, affine=True, epsilon=1e-3, momentum=0.99)
INSTANCE = Norm(batch=False, affine=False)
INSTANCE_AFFINE = Norm(batch=False, affine=True)


class Affine(nn.Module):
  """x * scale + bias, with one scale and one bias per channel."""

  @nn.compact
  def __call__(self, x):
    scale = self.param('scale', nn.initializers.ones, (x.shape[-1],))
    bias = self.param('bias', nn.initializers.zeros, (x.shape[-1],))
    return (x * scale + bias).astype(x.dtype)


def normalise(x, norm: Norm, batch_statistics: bool, axis_name: str | None, name: str):
  """Applies `norm` to [B, H, W, C] inside a compact module.

  Args:
    x: activations of any dtype; statistics are float32.
    norm: the kind of norm.
    batch_statistics: True: batch norm uses the statistics of this batch (training). False: it uses
      the running averages.
    axis_name: axis of the devices over which batch statistics are averaged; None: no averaging.
    name: of the parameters.
  """
  if not norm.batch:
    y = layers.instance_norm(x, norm.epsilon)
    return Affine(name=name)(y) if norm.affine else y
  x = checkpoint_name(x, layers.CUT)
  return nn.BatchNorm(
    use_running_average=not batch_statistics,
    momentum=norm.momentum,
    epsilon=norm.epsilon,
    dtype=x.dtype,
    use_bias=norm.affine,
    use_scale=norm.affine,
    axis_name=axis_name,
    use_fast_variance=False,
    name=name,
  )(x)


def _masks(keys, shapes, keep: float) -> list[jax.Array]:
  """Boolean masks [B, *shape], one per shape, True with probability `keep`; keys [B].

  All masks are drawn at once: XLA takes longer to compile a generator than a convolution.
  """
  sizes = [math.prod(shape) for shape in shapes]
  drawn = jax.vmap(lambda key: jax.random.bernoulli(key, keep, (sum(sizes),)))(keys)
  ends = itertools.accumulate(sizes)
  return [
    drawn[:, end - size : end].reshape(-1, *shape) for size, end, shape in zip(sizes, ends, shapes)
  ]


class GanUNet(nn.Module):
  """U-Net generator: [B, H, W, 3] in [-1, 1] -> the same shape in (-1, 1).

  `downs` 4x4 stride-2 convolutions and as many transposed ones, joined by skips. Level 1 is the
  outermost, level `downs` the innermost; levels 1, 2, 3, ... have 1, 2, 4, 8, 8, ... x width
  channels. The defaults give the official `UnetGenerator`; `unet_256` has 8 downs, `unet_128` 7.

  The generator of the TensorFlow tutorials (`unet_generator`) is norm=BATCH_TF or INSTANCE_AFFINE,
  bottleneck_norm=True, slope=0.3, rectify_skips=False, dropout_levels=(6, 7, 8), except for the
  order of the channels that meet at a skip.

  Attributes:
    width: channels of level 1.
    downs: number of levels; sides of a photo are multiples of 2**downs.
    norm: after all convolutions except the first, the last and that of the bottleneck.
    bottleneck_norm: a norm after the innermost down convolution, too. The official code has none:
      on a 1x1 bottleneck, instance norm gives exactly 0, as does batch norm over a single image.
    slope: of the leaky ReLU on the way down.
    rectify_skips: True: a ReLU acts on skips and bottleneck on the way up (official). False: they
      keep the output of the leaky ReLU (tutorials).
    dropout_levels: levels whose way up ends in dropout. Official: 5 to downs - 1; paper, Lua code
      and tutorials: the three innermost.
    dropout_rate: probability that a value becomes 0.
    axis_name: axis of the devices over which batch statistics are averaged; None: no averaging.
    dtype: of the convolutions.
  """

  width: int = 64
  downs: int = 8
  norm: Norm = BATCH
  bottleneck_norm: bool = False
  slope: float = 0.2
  rectify_skips: bool = True
  dropout_levels: tuple[int, ...] = (5, 6, 7)
  dropout_rate: float = 0.5
  axis_name: str | None = None
  dtype: Any = jnp.float32

  @property
  def multiple(self) -> int:
    """Sides of a photo must be multiples of this."""
    return 2**self.downs

  @nn.compact
  def __call__(self, x, keys=None, batch_statistics: bool = False):
    """Translates photos.

    Args:
      x: [B, H, W, 3].
      keys: [B], for dropout; None: no dropout.
      batch_statistics: see `normalise`; if True, the collection 'batch_stats' must be mutable.

    Raises:
      ValueError: if a side is not a multiple of `multiple`, or for dropout at a missing level.
    """
    layers.check_multiple(x.shape, self.multiple)
    if not set(self.dropout_levels) <= set(range(2, self.downs + 1)):
      raise ValueError(
        f'dropout_levels must be from 2 to {self.downs}, the number of downs, not '
        f'{self.dropout_levels}'
      )
    channels = [min(self.width * 2**i, 8 * self.width) for i in range(self.downs)]
    use_bias = not self.norm.affine

    def normalised(x, name):
      return normalise(x, self.norm, batch_statistics, self.axis_name, name)

    def on_the_way_up(x):
      return nn.relu(x) if self.rectify_skips else layers.leaky_relu(x, self.slope)

    skips = []
    for level, features in enumerate(channels, 1):
      x = x if level == 1 else layers.leaky_relu(x, self.slope)
      conv = layers.Conv(
        features, 4, stride=2, pad=1, use_bias=use_bias, dtype=self.dtype, name=f'down{level}'
      )
      x = conv(x)
      if 1 < level < self.downs or (level == self.downs and self.bottleneck_norm):
        x = normalised(x, f'down{level}_norm')
      skips.append(x)

    masks, keep = {}, 1 - self.dropout_rate
    if keys is not None and self.dropout_levels:
      # The way up of level n has the shape of the skip that it meets, that of level n - 1.
      shapes = [skips[level - 2].shape[1:] for level in self.dropout_levels]
      masks = dict(zip(self.dropout_levels, _masks(keys, shapes, keep)))

    x = on_the_way_up(skips.pop())
    for level in range(self.downs, 1, -1):
      features = channels[level - 2]
      x = layers.ConvTranspose(features, use_bias=use_bias, dtype=self.dtype, name=f'up{level}')(x)
      x = normalised(x, f'up{level}_norm')
      if level in masks:
        x = jnp.where(masks[level], x / keep, 0)
      x = jnp.concatenate([on_the_way_up(skips.pop()), nn.relu(x)], axis=-1)
    x = layers.ConvTranspose(3, dtype=self.dtype, name='up1')(x)
    return jnp.tanh(x.astype(jnp.float32))


class GanResNet(nn.Module):
  """Residual generator of CycleGAN: [B, H, W, 3] in [-1, 1] -> the same shape in (-1, 1).

  Official `ResnetGenerator` with instance norm: 7x7 convolution, two 3x3 stride-2 convolutions,
  residual blocks at a quarter of the sides, and the mirror image. All convolutions have biases.

  Attributes:
    width: channels at full resolution.
    blocks: residual blocks; the paper has 6 for 128x128 photos and 9 for larger ones.
    dtype: of the convolutions.
  """

  width: int = 64
  blocks: int = 9
  dtype: Any = jnp.float32

  @property
  def multiple(self) -> int:
    """Sides of a photo must be multiples of this."""
    return 4

  @nn.compact
  def __call__(self, x, keys=None):
    """Translates photos [B, H, W, 3]; `keys` are unused, since this generator has no dropout.

    Raises:
      ValueError: if a side is not a multiple of 4.
    """
    del keys
    layers.check_multiple(x.shape, self.multiple)
    x = layers.Conv(self.width, 7, pad=3, pad_mode='reflect', dtype=self.dtype, name='conv_in')(x)
    x = nn.relu(layers.instance_norm(x))
    for i in range(2):
      features = self.width * 2 ** (i + 1)
      x = layers.Conv(features, 3, stride=2, pad=1, dtype=self.dtype, name=f'down{i}')(x)
      x = nn.relu(layers.instance_norm(x))
    x = layers.resnet_blocks(x, self.blocks, 4 * self.width, dtype=self.dtype)
    for i in range(2):
      features = self.width * 2 ** (1 - i)
      x = layers.ConvTranspose(features, size=3, dtype=self.dtype, name=f'up{i}')(x)
      x = nn.relu(layers.instance_norm(x))
    x = layers.Conv(3, 7, pad=3, pad_mode='reflect', dtype=self.dtype, name='conv_out')(x)
    return jnp.tanh(x.astype(jnp.float32))


class GanPatchDiscriminator(nn.Module):
  """[B, H, W, C] -> logits [B, h, w, 1] of overlapping patches (official `n_layers`).

  4x4 convolutions with zero padding 1, all of stride 2 except the last two. A logit sees 16, 34,
  70, 142 pixels per side for 1, 2, 3, 4 layers.

  Attributes:
    width: channels of the first convolution; they double up to 8 times that.
    n_layers: number of convolutions of stride 2.
    norm: after all convolutions except the first and last.
    slope: of the leaky ReLU; 0.3 in the tutorials.
    first_bias: whether the first convolution has a bias; it has none in the tutorials.
    axis_name, dtype: as in GanUNet.
  """

  width: int = 64
  n_layers: int = 3
  norm: Norm = BATCH
  slope: float = 0.2
  first_bias: bool = True
  axis_name: str | None = None
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x, batch_statistics: bool = False):
    for i in range(self.n_layers + 1):
      conv = layers.Conv(
        min(self.width * 2**i, 8 * self.width),
        4,
        stride=2 if i < self.n_layers else 1,
        pad=1,
        use_bias=self.first_bias if i == 0 else not self.norm.affine,
        dtype=self.dtype,
        name=f'conv{i}',
      )
      x = conv(x)
      if i > 0:
        x = normalise(x, self.norm, batch_statistics, self.axis_name, f'norm{i}')
      x = layers.leaky_relu(x, self.slope)
    return layers.Conv(1, 4, pad=1, dtype=self.dtype, name=f'conv{self.n_layers + 1}')(x)


def init(module: nn.Module, key: jax.Array, *inputs: jax.Array) -> dict[str, Any]:
  """Initial variables of a network: {'params'} and, with batch norm, {'batch_stats'}.

  Kernels are N(0, 0.02), scales of norms N(1, 0.02), biases and offsets 0, running means 0 and
  variances 1 (official `init_weights`; the tutorials start batch norm's scales at exactly 1).
  All numbers are drawn at once, as in parameters.init_normal.
  """
  shapes = jax.eval_shape(module.init, key, *inputs)
  paths, structure = jax.tree_util.tree_flatten_with_path(shapes)
  names = [path[-1].key for path, _ in paths]
  means = {'kernel': 0.0, 'scale': 1.0, 'bias': 0.0, 'mean': 0.0, 'var': 1.0}
  sizes = [leaf.size if name in ('kernel', 'scale') else 0 for name, (_, leaf) in zip(names, paths)]
  drawn = 0.02 * jax.random.normal(key, (sum(sizes),))
  leaves, start = [], 0
  for name, size, (_, leaf) in zip(names, sizes, paths):
    noise = drawn[start : start + size] if size else jnp.zeros(leaf.size)
    leaves.append(means[name] + noise.reshape(leaf.shape))
    start += size
  return jax.tree.unflatten(structure, leaves)


# Sizes, for files of weights ---------------------------------------------------------------------


def sizes(net: GanUNet | GanResNet) -> dict[str, Any]:
  """The sizes of a generator that a weights file stores, as JSON values."""
  if isinstance(net, GanResNet):
    return {'generator': 'resnet', 'width': net.width, 'blocks': net.blocks}
  return {
    'generator': 'unet',
    'width': net.width,
    'downs': net.downs,
    'norm': dataclasses.asdict(net.norm),
    'bottleneck_norm': net.bottleneck_norm,
    'slope': net.slope,
    'rectify_skips': net.rectify_skips,
    'dropout_levels': list(net.dropout_levels),
    'dropout_rate': net.dropout_rate,
  }


def from_sizes(sizes: dict[str, Any]) -> GanUNet | GanResNet:
  """The generator that `sizes` describes.

  Raises:
    KeyError: if a size is missing.
    ValueError: for an unknown kind of generator.
  """
  if sizes['generator'] == 'resnet':
    return GanResNet(sizes['width'], sizes['blocks'])
  if sizes['generator'] != 'unet':
    raise ValueError(f'unknown generator {sizes["generator"]!r}')
  return GanUNet(
    width=sizes['width'],
    downs=sizes['downs'],
    norm=Norm(**sizes['norm']),
    bottleneck_norm=sizes['bottleneck_norm'],
    slope=sizes['slope'],
    rectify_skips=sizes['rectify_skips'],
    dropout_levels=tuple(sizes['dropout_levels']),
    dropout_rate=sizes['dropout_rate'],
  )
