"""The networks of Deep Image Prior: skip net, residual net, U-Net.

Sources: the notebooks and `models/{skip,resnet,unet}.py` of the official code (Ulyanov, Vedaldi,
Lempitsky, CVPR 2018; repository DmitryUlyanov/deep-image-prior). Each network maps z [B, H, W, D]
to an image [B, H, W, C] in (0, 1), float32. `dtype` is the type of the convolutions; parameters and
norm statistics are float32.

The reference's batch norm always sees a batch of one photo and uses that photo's statistics, which
makes it an instance norm with scale and shift. Here every image of a batch has its own statistics.
"""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from oldphoto_jax.errors import ConfigError, UserError
from oldphoto_jax.nn.layers import Conv, ConvTranspose, double, instance_norm, leaky_relu

# Parts ------------------------------------------------------------------------------------------


def torch_uniform(fan_in: int):
  """Initialiser U(-1/sqrt(fan_in), 1/sqrt(fan_in)): PyTorch's default, kernels and biases alike."""
  bound = fan_in**-0.5

  def init(key, shape, dtype=jnp.float32):
    # Drawn along one axis: XLA's CPU backend compiles a draw along four axes ten times slower.
    return jax.random.uniform(key, (math.prod(shape),), dtype, -bound, bound).reshape(shape)

  return init


def _conv(x, features: int, size: int, name: str, dtype: Any, stride=1, pad='reflect', bias=True):
  """A convolution of the calling module that keeps the size (at stride 1, odd kernels)."""
  init = torch_uniform(x.shape[-1] * size**2)
  conv = Conv(features, size, stride, size // 2, pad, bias, dtype, init, init, name=name)
  return conv(x)


class Norm(nn.Module):
  """instance_norm(x) * scale + bias, computed in float32, epsilon 1e-5."""

  @nn.compact
  def __call__(self, x):
    scale = self.param('scale', nn.initializers.ones, (x.shape[-1],))
    bias = self.param('bias', nn.initializers.zeros, (x.shape[-1],))
    return (instance_norm(x.astype(jnp.float32)) * scale + bias).astype(x.dtype)


def _blocks_2x2(x):
  """[B, H, W, C] -> [B, H // 2, 2, W // 2, 2, C]; a last odd row or column is dropped."""
  b, h, w, c = x.shape
  return x[:, : h // 2 * 2, : w // 2 * 2].reshape(b, h // 2, 2, w // 2, 2, c)


def upsample(x, mode: str):
  """Doubles height and width of [B, H, W, C].

  Args:
    mode: 'nearest' or 'bilinear' (`torch.nn.Upsample`, align_corners False).
  """
  if mode == 'nearest':
    b, h, w, c = x.shape
    return jnp.broadcast_to(x[:, :, None, :, None], (b, h, 2, w, 2, c)).reshape(b, 2 * h, 2 * w, c)
  if mode != 'bilinear':
    raise ConfigError(f"an upsample mode is 'nearest' or 'bilinear', not {mode!r}")
  return double(x)


def _crop(x, height: int, width: int):
  """The centre of x, as the reference's `Concat`."""
  top, left = (x.shape[1] - height) // 2, (x.shape[2] - width) // 2
  return x[:, top : top + height, left : left + width]


class ConvBlock(nn.Module):
  """Convolution, Norm, leaky ReLU 0.2. `average` averages 2x2 pixels after the convolution."""

  features: int
  size: int
  stride: int = 1
  average: bool = False
  pad_mode: str = 'reflect'
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x):
    x = _conv(x, self.features, self.size, 'conv', self.dtype, self.stride, self.pad_mode)
    if self.average:
      x = _blocks_2x2(x).mean((2, 4))
    return leaky_relu(Norm(name='norm')(x))


# Networks ---------------------------------------------------------------------------------------


class Skip(nn.Module):
  """The hourglass of most notebooks (`models/skip.py`); scale 0 is the finest.

  Per scale: two convolutions down, the first of stride 2; the deeper scale; doubling; beside it a
  1x1 branch of the scale's input; Norm on [branch, deeper]; a convolution up and a 1x1 one.

  Attributes:
    down, up: channels of each scale on the way down and up.
    skip: channels of each scale's branch, 0 for none.
    upsample: 'nearest' or 'bilinear' for each scale.
    kernel_down, kernel_up, kernel_skip: sides of the kernels.
    up_1x1: the 1x1 convolution after each `up` convolution.
    average_pool: halve by averaging 2x2 pixels after a convolution of stride 1, not by stride 2.
    pad_mode: 'reflect' or 'constant' (zeros).
    out_channels: 3, or 1 for gray photos.

  Calling it raises UserError if a map is too small for the reflection padding.
  """

  down: tuple[int, ...] = (128,) * 5
  up: tuple[int, ...] = (128,) * 5
  skip: tuple[int, ...] = (4,) * 5
  upsample: tuple[str, ...] = ('bilinear',) * 5
  kernel_down: int = 3
  kernel_up: int = 3
  kernel_skip: int = 1
  up_1x1: bool = True
  average_pool: bool = False
  pad_mode: str = 'reflect'
  out_channels: int = 3
  dtype: Any = jnp.float32

  @property
  def multiple(self) -> int:
    """Sides of z must be multiples of this for an output of the same size."""
    return 2 ** len(self.down)

  @nn.compact
  def __call__(self, z):
    if not len(self.down) == len(self.up) == len(self.skip) == len(self.upsample):
      raise ConfigError('down, up, skip and upsample of a skip net need one entry for each scale')
    shared = {'pad_mode': self.pad_mode, 'dtype': self.dtype}
    halving = {'average': True} if self.average_pool else {'stride': 2}
    x, branches = z, []
    for i, features in enumerate(self.down):
      if self.skip[i]:
        branch = ConvBlock(self.skip[i], self.kernel_skip, name=f'skip_{i}', **shared)(x)
      branches.append(branch if self.skip[i] else None)
      x = ConvBlock(features, self.kernel_down, name=f'halve_{i}', **halving, **shared)(x)
      x = ConvBlock(features, self.kernel_down, name=f'down_{i}', **shared)(x)
    for i, features in reversed(list(enumerate(self.up))):
      x = upsample(x, self.upsample[i])
      if branches[i] is not None:
        size = [min(a, b) for a, b in zip(branches[i].shape[1:3], x.shape[1:3])]
        x = jnp.concatenate([_crop(branches[i], *size), _crop(x, *size)], -1)
      x = Norm(name=f'norm_{i}')(x)
      x = ConvBlock(features, self.kernel_up, name=f'up_{i}', **shared)(x)
      if self.up_1x1:
        x = ConvBlock(features, 1, name=f'mix_{i}', **shared)(x)
    x = _conv(x, self.out_channels, 1, 'out', self.dtype)
    return nn.sigmoid(x.astype(jnp.float32))


class ResNet(nn.Module):
  """Residual blocks at full resolution (`models/resnet.py`): no downsampling.

  Attributes:
    features: channels. blocks: residual blocks. out_channels: 3, or 1 for gray photos.
  """

  features: int = 32
  blocks: int = 8
  out_channels: int = 3
  dtype: Any = jnp.float32

  multiple = 1

  @nn.compact
  def __call__(self, z):
    n, dtype = self.features, self.dtype
    x = leaky_relu(_conv(z, n, 3, 'first', dtype))
    for i in range(self.blocks):
      y = _conv(x, n, 3, f'block_{i}_conv1', dtype, pad='constant', bias=False)
      y = leaky_relu(Norm(name=f'block_{i}_norm1')(y))
      y = _conv(y, n, 3, f'block_{i}_conv2', dtype, pad='constant', bias=False)
      x = x + Norm(name=f'block_{i}_norm2')(y)
    x = Norm(name='last_norm')(_conv(x, n, 3, 'last', dtype, pad='constant'))
    x = _conv(x, self.out_channels, 3, 'out', dtype)
    return nn.sigmoid(x.astype(jnp.float32))


class UNet(nn.Module):
  """U-Net with max pooling and transposed convolutions (`models/unet.py`), zero padding.

  Two 3x3 convolutions per level, with instance norm on the way down only.

  Attributes:
    widths: channels of each level. The reference's "one extra level" repeats the last width: the
      default is its feature_scale 8, more_layers 1.
    out_channels: 3, or 1 for gray photos.

  Calling it raises UserError unless both sides are multiples of 2^levels, and at least twice that.
  """

  widths: tuple[int, ...] = (8, 16, 32, 64, 128, 128)
  out_channels: int = 3
  dtype: Any = jnp.float32

  @property
  def multiple(self) -> int:
    """Sides of z must be multiples of this."""
    return 2 ** (len(self.widths) - 1)

  @nn.compact
  def __call__(self, z):
    height, width = z.shape[1:3]
    if height % self.multiple or width % self.multiple or min(height, width) < 2 * self.multiple:
      raise UserError(
        f'{height}x{width} does not fit a U-Net of {len(self.widths)} levels: both sides must be '
        f'multiples of {self.multiple} and at least {2 * self.multiple}'
      )

    def conv(x, features, name):
      return _conv(x, features, 3, name, self.dtype, pad='constant')

    x, levels = z, []
    for i, n in enumerate(self.widths):
      x = x if i == 0 else _blocks_2x2(x).max((2, 4))
      x = nn.relu(instance_norm(conv(x, n, f'down_{i}_conv1')))
      x = nn.relu(instance_norm(conv(x, n, f'down_{i}_conv2')))
      levels.append(x)
    for i, n in reversed(list(enumerate(self.widths[:-1]))):
      init = torch_uniform(n * 4**2)  # PyTorch counts a transposed kernel's outputs as its fan-in
      double = ConvTranspose(n, 4, True, self.dtype, init, init, name=f'up_{i}')
      x = jnp.concatenate([double(x), levels[i]], -1)
      x = nn.relu(conv(x, n, f'up_{i}_conv1'))
      x = nn.relu(conv(x, n, f'up_{i}_conv2'))
    x = _conv(x, self.out_channels, 1, 'out', self.dtype)
    return nn.sigmoid(x.astype(jnp.float32))


Network = Skip | ResNet | UNet
