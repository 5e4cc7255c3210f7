"""Layers that at least two of the networks share.

Convolutions take NHWC images and HWIO kernels. XLA's CPU backend is 4 to 80 times slower than it
could be at some of them, so each has a second form that is lowered on CPU only; GPU and TPU get
the plain one. Both forms give the same numbers, forward and in both gradients, up to the order of
summation (tests/test_layers.py).
"""

import itertools
import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

Padding = tuple[tuple[int, int], tuple[int, int]]  # ((top, bottom), (left, right)), zeros
DIMENSIONS = ('NHWC', 'HWIO', 'NHWC')

# The axis that train steps average over, whatever maps it (parallel.py).
AXIS = 'batch'

STRIP = 2**22  # bytes of a gradient that a convolution of the CPU may read over and over

# N(0, 0.02) for every convolution kernel: `weights_init` of all three GAN reference codes.
kernel_init = nn.initializers.normal(0.02)


# Convolution -----------------------------------------------------------------------------------


def _plain_conv(x, kernel, stride: int, padding: Padding):
  return lax.conv_general_dilated(
    x, kernel, (stride, stride), padding, dimension_numbers=DIMENSIONS
  )


def _flip(kernel):
  """[h, w, in, out] -> the kernel of the gradient with respect to the input."""
  return kernel[::-1, ::-1].swapaxes(2, 3)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _stride1_cpu(x, kernel, padding: Padding):
  # XLA's CPU convolution is 4 times slower where no side is padded at all: pad one row, drop it.
  if padding == ((0, 0), (0, 0)):
    return _plain_conv(x, kernel, 1, ((0, 1), (0, 0)))[:, :-1]
  return _plain_conv(x, kernel, 1, padding)


def _stride1_cpu_fwd(x, kernel, padding):
  return _stride1_cpu(x, kernel, padding), (x, kernel)


def _stride1_cpu_bwd(padding, residuals, dy):
  x, kernel = residuals
  kh, kw = kernel.shape[:2]
  (top, bottom), (left, right) = padding
  full = ((kh - 1 - top, kh - 1 - bottom), (kw - 1 - left, kw - 1 - right))
  dx = _stride1_cpu(dy, _flip(kernel), full)
  x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
  if kh * kw == 1:
    return dx, jnp.einsum('bhwi,bhwo->io', x, dy)[None, None]
  # A convolution with dy as its kernel, written in the layout NHWC, HWIO. Autodiff writes it in
  # another one, which XLA's CPU backend repairs only outside of scan, map and cond: inside, it
  # takes 100 times longer.
  x, dy = x.transpose(3, 1, 2, 0), dy.transpose(1, 2, 0, 3)  # [C_in, H, W, B], [h, w, B, C_out]
  # All of dy is read once per input channel: in strips of rows that stay in the cache.
  strips = max(1, min(-(-dy.size * dy.dtype.itemsize // STRIP), dy.shape[0]))
  rows = [dy.shape[0] * i // strips for i in range(strips + 1)]
  dkernel = sum(
    _plain_conv(
      x[:, first : last + kh - 1],
      # A row of zeros on either side of the product: see _stride1_cpu.
      jnp.pad(dy[first:last], ((0, 1), (0, 0), (0, 0), (0, 0))),
      1,
      ((0, 1), (0, 0)),
    )
    for first, last in itertools.pairwise(rows)
  )
  return dx, dkernel.transpose(1, 2, 0, 3)


_stride1_cpu.defvjp(_stride1_cpu_fwd, _stride1_cpu_bwd)


def _space_to_depth(x):
  """[B, 2h, 2w, C] -> [B, h, w, 4C], channel order (row, column, C)."""
  b, h, w, c = x.shape
  return (
    x.reshape(b, h // 2, 2, w // 2, 2, c).transpose(0, 1, 3, 2, 4, 5).reshape(b, h // 2, w // 2, -1)
  )


def _depth_to_space(x):
  """[B, h, w, 4C] -> [B, 2h, 2w, C], the inverse of `_space_to_depth`."""
  b, h, w, c = x.shape
  return x.reshape(b, h, w, 2, 2, c // 4).transpose(0, 1, 3, 2, 4, 5).reshape(b, 2 * h, 2 * w, -1)


def _conv_cpu(x, kernel, stride: int, padding: Padding):
  if stride == 1:
    return _stride1_cpu(x, kernel, padding)
  if stride != 2:
    return _plain_conv(x, kernel, stride, padding)
  # Stride 2 = stride 1 over 2x2 blocks of pixels, with the kernel cut into the same blocks.
  kh, kw, c_in, c_out = kernel.shape
  out = [(n + sum(p) - k) // 2 + 1 for n, p, k in zip(x.shape[1:3], padding, (kh, kw))]
  kernel = jnp.pad(kernel, ((0, kh % 2), (0, kw % 2), (0, 0), (0, 0)))
  kh, kw = kernel.shape[:2]
  # Exactly the pixels that the windows see: a negative high pad crops what stride 2 leaves over.
  high = [2 * (o - 1) + k - n - p[0] for o, k, n, p in zip(out, (kh, kw), x.shape[1:3], padding)]
  zero = jnp.zeros((), x.dtype)
  x = lax.pad(
    x, zero, ((0, 0, 0), (padding[0][0], high[0], 0), (padding[1][0], high[1], 0), (0, 0, 0))
  )
  kernel = kernel.reshape(kh // 2, 2, kw // 2, 2, c_in, c_out).transpose(0, 2, 1, 3, 4, 5)
  kernel = kernel.reshape(kh // 2, kw // 2, 4 * c_in, c_out)
  return _stride1_cpu(_space_to_depth(x), kernel, ((0, 0), (0, 0)))


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def conv2d(x, kernel, stride: int = 1, padding: Padding = ((0, 0), (0, 0))):
  """Convolution (cross-correlation, as `torch.nn.functional.conv2d`).

  Args:
    x: [B, H, W, C_in].
    kernel: [h, w, C_in, C_out], same dtype as `x`.
    stride: of both axes.
    padding: zeros added, ((top, bottom), (left, right)).

  Returns:
    [B, (H + top + bottom - h) // stride + 1, ..., C_out].
  """
  return lax.platform_dependent(
    x,
    kernel,
    cpu=lambda x, k: _conv_cpu(x, k, stride, padding),
    default=lambda x, k: _plain_conv(x, k, stride, padding),
  )


def _conv2d_fwd(x, kernel, stride, padding):
  return conv2d(x, kernel, stride, padding), (x, kernel)


def _conv2d_bwd(stride, padding, residuals, dy):
  # The platform is chosen inside the rule: choosing around a differentiated function would keep
  # the residuals of both forms.
  def grads(form):
    return lambda x, k, dy: jax.vjp(lambda x, k: form(x, k, stride, padding), x, k)[1](dy)

  return lax.platform_dependent(*residuals, dy, cpu=grads(_conv_cpu), default=grads(_plain_conv))


conv2d.defvjp(_conv2d_fwd, _conv2d_bwd)


# Transposed convolution ------------------------------------------------------------------------


def _plain_conv_transpose(x, kernel):
  # The k - 1 - p rule of transposed convolutions; odd kernels have output padding 1 (see below).
  k = kernel.shape[0]
  low, high = (k - 2, k - 2) if k % 2 == 0 else (k - 2, k - 1)
  return lax.conv_general_dilated(
    x,
    kernel,
    (1, 1),
    ((low, high), (low, high)),
    lhs_dilation=(2, 2),
    dimension_numbers=DIMENSIONS,
  )


def _conv_transpose_cpu(x, kernel):
  # The zeros between the pixels of the dilated input meet fixed kernel taps, so each of the four
  # output phases is a 2x2 convolution of the undilated input: one convolution with 4 C_out
  # outputs, then interleave. k = 4: phase a reads x[i - 1 + a], x[i + a] with taps a, a + 2.
  # k = 3: phase 0 reads x[i] with tap 1, phase 1 reads x[i], x[i + 1] with taps 0, 2.
  b, h, w, _ = x.shape
  k, _, c_in, c_out = kernel.shape
  if k == 4:
    taps = kernel.reshape(2, 2, 2, 2, c_in, c_out)  # [row, phase, column, phase, in, out]
    taps = taps.transpose(0, 2, 4, 1, 3, 5).reshape(2, 2, c_in, 4 * c_out)
    y = _stride1_cpu(x, taps, ((1, 1), (1, 1)))  # [B, h + 1, w + 1, 4 C_out]
    y = y.reshape(b, h + 1, w + 1, 2, 2, c_out)
    rows = [
      jnp.stack([y[:, i : i + h, j : j + w, i, j] for j in range(2)], axis=3) for i in range(2)
    ]
    return jnp.stack(rows, axis=2).reshape(b, 2 * h, 2 * w, c_out)
  # k == 3: place the taps into a [2, 2] window per phase.
  zero = jnp.zeros_like(kernel[0, 0])
  window = {0: (1, None), 1: (0, 2)}  # phase -> taps at x[i], x[i + 1]

  def tap(r, c):
    return zero if r is None or c is None else kernel[r, c]

  taps = jnp.stack(
    [
      jnp.stack(
        [
          jnp.concatenate([tap(window[a][r], window[p][c]) for a in (0, 1) for p in (0, 1)], -1)
          for c in (0, 1)
        ]
      )
      for r in (0, 1)
    ]
  )
  return _depth_to_space(_stride1_cpu(x, taps, ((0, 1), (0, 1))))


@jax.custom_vjp
def conv_transpose2d(x, kernel):
  """Transposed convolution that doubles both sides.

  Equals `torch.nn.functional.conv_transpose2d` with stride 2, padding 1 and, for 3x3 kernels,
  output padding 1, where torch's kernel [in, out, h, w] is flipped in h and w and transposed to
  [h, w, in, out].

  Args:
    x: [B, H, W, C_in].
    kernel: [k, k, C_in, C_out] with k = 3 or 4, same dtype as `x`.

  Returns:
    [B, 2H, 2W, C_out].
  """
  if kernel.shape[0] not in (3, 4):
    raise ValueError(f'conv_transpose2d takes 3x3 or 4x4 kernels, not {kernel.shape[:2]}')
  return lax.platform_dependent(x, kernel, cpu=_conv_transpose_cpu, default=_plain_conv_transpose)


def _conv_transpose2d_fwd(x, kernel):
  return conv_transpose2d(x, kernel), (x, kernel)


def _conv_transpose2d_bwd(residuals, dy):
  def grads(form):
    return lambda x, k, dy: jax.vjp(form, x, k)[1](dy)

  return lax.platform_dependent(
    *residuals, dy, cpu=grads(_conv_transpose_cpu), default=grads(_plain_conv_transpose)
  )


conv_transpose2d.defvjp(_conv_transpose2d_fwd, _conv_transpose2d_bwd)


# Padding, norm, pooling ------------------------------------------------------------------------


def reflect_pad(x, pad: int):
  """Pads height and width of [B, H, W, C] by `pad` mirrored pixels (`ReflectionPad2d`).

  Raises:
    ValueError: if a side is not longer than `pad`: jnp.pad would wrap around in silence.
  """
  if min(x.shape[1:3]) <= pad:
    raise ValueError(
      f'a map of {x.shape[1]}x{x.shape[2]} is too small for reflection padding of {pad}: '
      'use a larger photo or a network with fewer downsamplings'
    )
  return jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)), mode='reflect')


def instance_norm(x, epsilon: float = 1e-5):
  """(x - mean) / sqrt(variance + epsilon) over height and width of each image and channel.

  [B, H, W, C] -> the same shape and dtype; statistics in float32, biased variance, no affine
  parameters (`torch.nn.InstanceNorm2d` defaults).
  """
  y = x.astype(jnp.float32)
  y = y - y.mean((1, 2), keepdims=True)
  y = y * lax.rsqrt((y * y).mean((1, 2), keepdims=True) + epsilon)
  return y.astype(x.dtype)


def leaky_relu(x, slope: float = 0.2):
  """max(x, slope * x). The slope of every reference discriminator; jax.nn's default is 0.01."""
  return jnp.maximum(x, slope * x)


def avg_pool_3x3(x):
  """3x3 mean at stride 2 with padding 1, padding not counted: half scale of a discriminator."""
  return nn.avg_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)), count_include_pad=False)


def double(x):
  """Doubles height and width of [B, H, W, C] bilinearly (torch's align_corners=False)."""
  for axis in (1, 2):
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
  """Convolution with padding stated in pixels: parameters kernel [k, k, in, out] and bias [out].

  Attributes:
    features: output channels.
    size: side of the kernel.
    stride: of both axes.
    pad: pixels added on every side.
    pad_mode: 'constant' (zeros) or 'reflect', as in jnp.pad.
    use_bias: add a bias.
    dtype: of the computation; parameters are float32.
    kernel_init, bias_init: initialisers.
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
    y = conv2d(x, kernel, self.stride, padding)
    if self.use_bias:
      y = y + self.param('bias', self.bias_init, (self.features,)).astype(self.dtype)
    return y


class ConvTranspose(nn.Module):
  """Doubles height and width: see `conv_transpose2d`. Parameters kernel [k, k, in, out], bias."""

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
  With `norm` False, without the two instance norms.
  """

  features: int
  norm: bool = True
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x):
    conv = partial(Conv, self.features, 3, pad=1, pad_mode='reflect', dtype=self.dtype)
    norm = instance_norm if self.norm else lambda x: x
    y = nn.relu(norm(conv(name='conv1')(x)))
    return x + norm(conv(name='conv2')(y))


def init_normal(
  module: nn.Module, key: jax.Array, *inputs: jax.Array, std: float | None = 0.02
) -> Any:
  """Parameters of a module: kernels N(0, std), biases 0 (`init_weights` of the GAN references).

  `std` None is for networks without norms: sqrt(2 / fan-in) of each kernel (He et al. 2015).

  Draws all kernels at once: module.init would compile a random generator for each of them, which
  takes longer than a training step of the network.

  Raises:
    ValueError: for a module that has other parameters than kernels and biases.
  """
  shapes = jax.eval_shape(module.init, key, *inputs)['params']
  paths, structure = jax.tree_util.tree_flatten_with_path(shapes)
  names = [path[-1].key for path, _ in paths]
  if not set(names) <= {'kernel', 'bias'}:
    raise ValueError(f'init_normal knows kernels and biases only, not {sorted(set(names))}')
  sizes = [leaf.size if name == 'kernel' else 0 for name, (_, leaf) in zip(names, paths)]
  drawn = jax.random.normal(key, (sum(sizes),))
  leaves, start = [], 0
  for size, (_, leaf) in zip(sizes, paths):
    scale = std or math.sqrt(2 * leaf.shape[-1] / leaf.size)
    values = scale * drawn[start : start + size] if size else jnp.zeros(leaf.size)
    leaves.append(values.reshape(leaf.shape))
    start += size
  return jax.tree.unflatten(structure, leaves)


def right_vectors(params: Any, key: jax.Array) -> Any:
  """Random unit vectors [k, k, in], one for every kernel in a tree of parameters."""
  kernels = {
    path: leaf
    for path, leaf in flax.traverse_util.flatten_dict(params).items()
    if path[-1] == 'kernel'
  }
  keys = jax.random.split(key, len(kernels))
  drawn = {
    path: jax.random.normal(k, kernels[path].shape[:-1]) for k, path in zip(keys, sorted(kernels))
  }
  return flax.traverse_util.unflatten_dict({p: v / jnp.linalg.norm(v) for p, v in drawn.items()})


def power_iteration(params: Any, vectors: Any) -> Any:
  """The vectors, nearer to the right singular ones of their kernels: v <- W^T W v, normalised."""

  def nearer(params, v):
    if not isinstance(v, dict):
      u = jnp.einsum('hwio,hwi->o', params, v)
      v = jnp.einsum('hwio,o->hwi', params, u)
      return v / jnp.maximum(jnp.linalg.norm(v), 1e-12)
    return {name: nearer(params[name], v[name]) for name in v}

  return nearer(params, vectors)


def spectral_norm(params: Any, vectors: Any) -> Any:
  """Kernels divided by |W v|, their largest singular value once v has converged.

  Miyato et al. 2018; W has the rows [out] and the columns [k, k, in]. What else `params` holds is
  passed on; no gradient reaches the vectors.
  """

  def divided(params, v):
    if not isinstance(v, dict):
      return params / jnp.linalg.norm(jnp.einsum('hwio,hwi->o', params, jax.lax.stop_gradient(v)))
    return params | {name: divided(params[name], v[name]) for name in v}

  return divided(params, vectors)


def count_parameters(params: Any) -> int:
  """How many numbers a tree of arrays holds."""
  return sum(leaf.size for leaf in jax.tree.leaves(params))


def moving_average(average: Any, params: Any, decay: float, step: jax.Array) -> Any:
  """average + (1 - decay) * (params - average), leaf by leaf; None stays None.

  The decay starts at 0.1 and rises as (1 + step) / (10 + step), so that the first random
  parameters are forgotten (`tf.train.ExponentialMovingAverage` with num_updates).
  """
  if average is None:
    return None
  decay = jnp.minimum(decay, (1.0 + step) / (10.0 + step))
  return jax.tree.map(lambda a, p: a + (1 - decay) * (p - a), average, params)


def check_multiple(shape: Sequence[int], factor: int) -> None:
  """Checks that height and width of `shape` [B, H, W, C] are multiples of `factor`.

  Raises:
    ValueError: otherwise, with the sides that would fit.
  """
  h, w = shape[1:3]
  if h % factor or w % factor:
    fit = f'{-(-h // factor) * factor}x{-(-w // factor) * factor}'
    raise ValueError(f'{h}x{w} is not a multiple of {factor}: pad the photo to {fit}')
