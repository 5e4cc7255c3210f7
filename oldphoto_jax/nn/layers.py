"""Layers that at least two of the networks share, on NHWC images."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from oldphoto_jax.errors import UserError
from oldphoto_jax.nn.convolution import conv2d, conv_transpose2d

# Marks in the traced program, for layerwise.py: the input of instance norm, its two statistics,
# other maps between layers, and a map that is 1 inside the photo and 0 in its padding. A mark
# computes nothing.
MARKS = ('norm_map', 'norm_mean', 'norm_variance', 'cut', 'inside')
MAP, MEAN, VARIANCE, CUT, INSIDE = MARKS

# N(0, 0.02) for every convolution kernel, as `weights_init` in all three GAN reference codes.
kernel_init = nn.initializers.normal(0.02)


# Padding, norm, pooling ------------------------------------------------------------------------


def reflect_pad(x, pad: int):
  """Pads height and width of [B, H, W, C] by `pad` mirrored pixels (`ReflectionPad2d`).

  Raises:
    UserError: if a side is not longer than `pad`: jnp.pad would silently wrap around.
  """
  if x.shape[1] <= pad or x.shape[2] <= pad:  # not min: symbolic sides have no order
    raise UserError(
      f'a map of {x.shape[1]}x{x.shape[2]} is too small for reflection padding of {pad}: '
      'use a larger photo or a network with fewer downsamplings'
    )
  return jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)), mode='reflect')


def instance_norm(x, epsilon: float = 1e-5):
  """(x - mean) / sqrt(variance + epsilon) over height and width of each image and channel.

  [B, H, W, C] -> the same shape and dtype; statistics in float32, biased variance, no affine
  parameters (`torch.nn.InstanceNorm2d` defaults).
  """
  x = checkpoint_name(x, MAP)
  y = x.astype(jnp.float32)
  y = y - checkpoint_name(y.mean((1, 2), keepdims=True), MEAN)
  variance = checkpoint_name((y * y).mean((1, 2), keepdims=True), VARIANCE)
  return (y * lax.rsqrt(variance + epsilon)).astype(x.dtype)


def optional_norm(wanted: bool) -> Callable:
  """`instance_norm`, or what changes nothing."""
  return instance_norm if wanted else lambda x: x


def leaky_relu(x, slope: float = 0.2):
  """max(x, slope * x). All reference discriminators have slope 0.2; jax.nn's default is 0.01."""
  return jnp.maximum(x, slope * x)


def avg_pool_3x3(x):
  """3x3 mean of stride 2 and padding 1, padding not counted: halves a discriminator's scale."""
  return nn.avg_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)), count_include_pad=False)


def double(x, axes: tuple[int, int] = (1, 2)):
  """Doubles height and width bilinearly (torch's align_corners=False); `axes` are those of x."""
  # Output pixels lie a quarter of an input pixel beside the input's, so the weights are 3/4 and
  # 1/4. This is 4 times faster on CPU than jax.image.resize, which multiplies by a dense matrix.
  for axis in axes:
    n = x.shape[axis]
    first = jax.lax.slice_in_dim(x, 0, 1, axis=axis)
    last = jax.lax.slice_in_dim(x, n - 1, n, axis=axis)
    before = jnp.concatenate([first, jax.lax.slice_in_dim(x, 0, n - 1, axis=axis)], axis)
    after = jnp.concatenate([jax.lax.slice_in_dim(x, 1, n, axis=axis), last], axis)
    pairs = jnp.stack([0.25 * before + 0.75 * x, 0.75 * x + 0.25 * after], axis + 1)
    x = pairs.reshape(*x.shape[:axis], 2 * n, *x.shape[axis + 1 :])
  return x


# Modules ---------------------------------------------------------------------------------------


class Conv(nn.Module):
  """Convolution with explicit padding; parameters: kernel [k, k, in, out] and bias [out].

  Attributes:
    features: output channels.
    size: side of the kernel.
    stride: of both axes.
    pad: pixels added to every side.
    pad_mode: 'constant' (zeros) or 'reflect', as in jnp.pad.
    use_bias: add a bias.
    dtype: of the computation; parameters are float32.
    kernel_init, bias_init: initialisers.
    products: see conv2d.
  """

  features: int
  size: int
  stride: int = 1
  pad: int = 0
  pad_mode: str = 'constant'
  use_bias: bool = True
  dtype: Any = jnp.float32
  kernel_init: Any = kernel_init
  bias_init: Any = nn.initializers.zeros
  products: bool = True

  @nn.compact
  def __call__(self, x):
    shape = (self.size, self.size, x.shape[-1], self.features)
    kernel = self.param('kernel', self.kernel_init, shape).astype(self.dtype)
    x = x.astype(self.dtype)
    if self.pad_mode == 'reflect':
      x, padding = reflect_pad(x, self.pad), ((0, 0), (0, 0))
    elif self.pad_mode == 'constant':
      padding = ((self.pad, self.pad), (self.pad, self.pad))
    else:
      raise ValueError(f"pad_mode is 'constant' or 'reflect', not {self.pad_mode!r}")
    y = conv2d(x, kernel, self.stride, padding, self.products)
    if self.use_bias:
      y = y + self.param('bias', self.bias_init, (self.features,)).astype(self.dtype)
    return y


class ConvTranspose(nn.Module):
  """Doubles height and width by `conv_transpose2d`; parameters: kernel [k, k, in, out], bias."""

  features: int
  size: int = 4
  use_bias: bool = True
  dtype: Any = jnp.float32
  kernel_init: Any = kernel_init
  bias_init: Any = nn.initializers.zeros

  @nn.compact
  def __call__(self, x):
    shape = (self.size, self.size, x.shape[-1], self.features)
    kernel = self.param('kernel', self.kernel_init, shape).astype(self.dtype)
    y = conv_transpose2d(x.astype(self.dtype), kernel)
    if self.use_bias:
      y = y + self.param('bias', self.bias_init, (self.features,)).astype(self.dtype)
    return y


class ResnetBlock(nn.Module):
  """x + IN(conv3(ReLU(IN(conv3(x))))), reflection padding, no activation after the sum.

  `ResnetBlock` of the bopbtl and CycleGAN reference codes (their `conv_block.1`, `conv_block.5`).
  `norm` False leaves out both instance norms. `products`: see conv2d.
  """

  features: int
  norm: bool = True
  dtype: Any = jnp.float32
  products: bool = True

  @nn.compact
  def __call__(self, x):
    conv = partial(
      Conv,
      self.features,
      3,
      pad=1,
      pad_mode='reflect',
      dtype=self.dtype,
      products=self.products,
    )
    norm = optional_norm(self.norm)
    y = nn.relu(norm(conv(name='conv1')(x)))
    return checkpoint_name(x + norm(conv(name='conv2')(y)), CUT)


def resnet_blocks(
  x, count: int, features: int, norm: bool = True, dtype: Any = jnp.float32, remat: bool = False
):
  """Applies `count` blocks, named block0, block1, ... in the calling module.

  With `remat` the backward pass recomputes their inner maps instead of keeping them.
  """
  block = nn.remat(ResnetBlock) if remat else ResnetBlock
  for i in range(count):
    x = block(features, norm, dtype, name=f'block{i}')(x)
  return x


def check_multiple(shape: Sequence[int], factor: int) -> None:
  """Checks that height and width of `shape` [B, H, W, C] are multiples of `factor`.

  Raises:
    ValueError: if not; the message names the sides that would fit.
  """
  h, w = shape[1:3]
  if h % factor or w % factor:
    fit = f'{-(-h // factor) * factor}x{-(-w // factor) * factor}'
    raise ValueError(f'{h}x{w} is not a multiple of {factor}: pad the photo to {fit}')
