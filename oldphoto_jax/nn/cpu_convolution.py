"""The convolutions of convolution.py in forms that are fast on XLA's CPU backend.

You need to read this file only to speed up training on a CPU. `conv2d` and `conv_transpose2d`
choose between:

- a convolution of stride 1 with a backward pass that XLA compiles well everywhere (`_stride1`);
  stride 2 becomes stride 1 over blocks of 2x2 pixels;
- for many channels, matrix products (`ProductForm`): one per tap of the kernel, or fewer by
  Winograd's trick. In one dimension, a kernel (g0, g1) on the pixels (d0, d1, d2) gives
  y0 = d0 g0 + d1 g1 and y1 = d1 g0 + d2 g1, which takes four products. Three are enough:

    m0 = (d0 - d1) g0,  m1 = d1 (g0 + g1),  m2 = (d1 - d2) g1;  y0 = m0 + m1,  y1 = m1 - m2

  Each of d, g and y is a vector of channels, and each product is a matrix product of
  [windows, C_in] and [C_in, C_out]. The sums are cheap: they run over few pixels, not over
  channels.
"""

import dataclasses
import functools
import itertools
from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

Padding = tuple[tuple[int, int], tuple[int, int]]  # ((top, bottom), (left, right)), zeros
DIMENSIONS = ('NHWC', 'HWIO', 'NHWC')

# Thresholds of the choice. Times: 4 photos, forward and both gradients, on two AMD Zen 5 cores.
STRIP = 2**22  # bytes of a gradient that a convolution may read over and over
# Channels (in and out) from which matrix products pay. A 3x3 kernel at 32x32 takes 71 ms instead of
# 200 with 512 channels, 2.5 instead of 5.4 with 64, 0.8 instead of 1.5 with 32. With 12 channels
# products are a fifth slower.
CHANNELS = 32
# The same where nothing is differentiated. A 3x3 kernel at 256x256 and 32 channels takes 14 ms
# directly and 22 by products; at 128x128 and 64 channels 12 and 8, at 64x64 and 128 channels 12 and
# 6 (one Zen 4 core). Products also take five times as long to compile.
CHANNELS_FORWARD = 64
# Pixels of the smaller map up to which each tap gets its own product: a 4x4 kernel of stride 2 and
# 512 channels, to 4x4 pixels, takes 6 ms instead of 23. From 1024 pixels on, Winograd's form takes
# half the time.
FEW_PIXELS = 256
# Output channels up to which the gradient of a kernel is one product. 7x7, 64 channels to 3, at
# 128x128: 15 ms of one core instead of 68. 4x4, 512 channels to 1, at 32x32: 1.3 instead of 14.
FEW_CHANNELS = 16
PRODUCTS = 2**28  # most bytes of terms or patches; larger photos are convolved, to save memory
# Where Winograd's polynomials are evaluated, by the side of the kernel; infinity is added.
# With 5/8 and 5/4 the result errs by 2e-6 of its largest value, with the usual 1 and 2 by 8e-6.
_FIVE = (0, 5 / 8, -5 / 8, 5 / 4, -5 / 4)
POINTS = {2: (0, 1, -1), 3: _FIVE, 4: _FIVE}


def xla_conv(x, kernel, stride: int, padding: Padding):
  """The convolution by XLA, for every platform except the CPU."""
  return lax.conv_general_dilated(
    x, kernel, (stride, stride), padding, dimension_numbers=DIMENSIONS
  )


def conv2d(x, kernel, stride: int, padding: Padding, channels: int = CHANNELS):
  """See convolution.conv2d; `channels` from which on products are taken."""
  form = _product_form(x, kernel, stride, padding, channels)
  if form is not None:
    return _conv_by_products(x, kernel, form, padding)
  if stride == 1 and kernel.shape[:2] == (1, 1):
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    return jnp.einsum('bhwi,io->bhwo', x, kernel[0, 0])
  if stride == 1:
    return _stride1(x, kernel, padding)
  if stride != 2:
    return xla_conv(x, kernel, stride, padding)
  # Stride 2 = stride 1 over 2x2 blocks of pixels, with the kernel cut into the same blocks.
  kh, kw, c_in, c_out = kernel.shape
  out = _result_sides(x, kernel, 2, padding)
  kernel = jnp.pad(kernel, ((0, kh % 2), (0, kw % 2), (0, 0), (0, 0)))
  kh, kw = kernel.shape[:2]
  x = _pad_or_crop(x, padding, [2 * (o - 1) + k for o, k in zip(out, (kh, kw))])
  kernel = kernel.reshape(kh // 2, 2, kw // 2, 2, c_in, c_out).transpose(0, 2, 1, 3, 4, 5)
  kernel = kernel.reshape(kh // 2, kw // 2, 4 * c_in, c_out)
  return conv2d(space_to_depth(x), kernel, 1, ((0, 0), (0, 0)), channels)


def conv_transpose2d(x, kernel):
  """See convolution.conv_transpose2d."""
  # The zeros between the pixels of the dilated input always meet the same kernel taps. Each of the
  # four output phases is therefore a 2x2 convolution of the undilated input: one convolution with
  # 4 C_out outputs, which are then interleaved. k = 4: phase a reads x[i - 1 + a], x[i + a] with
  # taps a, a + 2. k = 3: phase 0 reads x[i] with tap 1, phase 1 reads x[i], x[i + 1] with taps 0
  # and 2.
  b, h, w, _ = x.shape
  k, _, c_in, c_out = kernel.shape
  if _is_wide(x, kernel, CHANNELS) and b * h * w <= FEW_PIXELS:
    return _products(_transposed_tap_products(k), x, kernel)[:, 1 : 1 + 2 * h, 1 : 1 + 2 * w]
  if k == 4:
    taps = kernel.reshape(2, 2, 2, 2, c_in, c_out)  # [row, phase, column, phase, in, out]
    taps = taps.transpose(0, 2, 4, 1, 3, 5).reshape(2, 2, c_in, 4 * c_out)
    y = conv2d(x, taps, 1, ((1, 1), (1, 1)))  # [B, h + 1, w + 1, 4 C_out]
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
  return depth_to_space(conv2d(x, taps, 1, ((0, 1), (0, 1))))


# Stride 1, and how other strides become it ------------------------------------------------------


def _turned(kernel):
  """[h, w, in, out] -> the kernel of the gradient with respect to the input."""
  return kernel[::-1, ::-1].swapaxes(2, 3)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _stride1(x, kernel, padding: Padding):
  # XLA's CPU convolution is 4 times slower without any padding: pad one row and drop it.
  if padding == ((0, 0), (0, 0)):
    return xla_conv(x, kernel, 1, ((0, 1), (0, 0)))[:, :-1]
  return xla_conv(x, kernel, 1, padding)


def _stride1_fwd(x, kernel, padding):
  return _stride1(x, kernel, padding), (x, kernel)


def _stride1_bwd(padding, residuals, dy):
  x, kernel = residuals
  kh, kw = kernel.shape[:2]
  (top, bottom), (left, right) = padding
  full = ((kh - 1 - top, kh - 1 - bottom), (kw - 1 - left, kw - 1 - right))
  dx = _stride1(dy, _turned(kernel), full)
  x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
  c_in, c_out = kernel.shape[2:]
  patches = kh * kw * c_out * (x.size // c_in) * x.dtype.itemsize
  if c_out <= FEW_CHANNELS < c_in and patches <= PRODUCTS:
    # One product with all patches of dy, whose rows are contiguous.
    dy = jnp.pad(dy.transpose(3, 0, 1, 2), ((0, 0), (0, 0), (kh - 1, kh - 1), (kw - 1, kw - 1)))
    h, w = x.shape[1:3]
    dy = jnp.stack([dy[..., j : j + w] for j in range(kw)])
    dy = jnp.stack([dy[..., i : i + h, :] for i in range(kh)])
    dkernel = dy.reshape(kh * kw * c_out, -1) @ x.reshape(-1, c_in)
    return dx, _turned(dkernel.reshape(kh, kw, c_out, c_in))
  # A convolution with dy as its kernel, written in the layout NHWC, HWIO. Autodiff would use a
  # different layout, which XLA's CPU backend repairs only outside scan, map and cond; inside them
  # it takes 100 times longer.
  x, dy = x.transpose(3, 1, 2, 0), dy.transpose(1, 2, 0, 3)  # [C_in, H, W, B], [h, w, B, C_out]
  # All of dy is read once per input channel, in strips of rows that stay in the cache.
  strips = max(1, min(-(-dy.size * dy.dtype.itemsize // STRIP), dy.shape[0]))
  rows = [dy.shape[0] * i // strips for i in range(strips + 1)]
  dkernel = sum(
    xla_conv(
      x[:, first : last + kh - 1],
      # A row of zeros in both operands: see _stride1.
      jnp.pad(dy[first:last], ((0, 1), (0, 0), (0, 0), (0, 0))),
      1,
      ((0, 1), (0, 0)),
    )
    for first, last in itertools.pairwise(rows)
  )
  return dx, dkernel.transpose(1, 2, 0, 3)


_stride1.defvjp(_stride1_fwd, _stride1_bwd)


def _result_sides(x, kernel, stride: int, padding: Padding) -> list[int]:
  """Height and width of the result."""
  sides = zip(x.shape[1:3], padding, kernel.shape[:2])
  return [(n + sum(pads) - k) // stride + 1 for n, pads, k in sides]


def _pad_or_crop(x, padding: Padding, sides: Sequence[int]):
  """Pads top and left, then pads or crops at the bottom and right to height and width `sides`."""
  pads = [(low, side - n - low, 0) for (low, _), side, n in zip(padding, sides, x.shape[1:3])]
  return lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), *pads, (0, 0, 0)))


def space_to_depth(x):
  """[B, 2h, 2w, C] -> [B, h, w, 4C], channel order (row, column, C)."""
  b, h, w, c = x.shape
  return (
    x.reshape(b, h // 2, 2, w // 2, 2, c).transpose(0, 1, 3, 2, 4, 5).reshape(b, h // 2, w // 2, -1)
  )


def depth_to_space(x):
  """[B, h, w, 4C] -> [B, 2h, 2w, C], the inverse of `space_to_depth`."""
  b, h, w, c = x.shape
  return x.reshape(b, h, w, 2, 2, c // 4).transpose(0, 1, 3, 2, 4, 5).reshape(b, 2 * h, 2 * w, -1)


# Convolution as matrix products -----------------------------------------------------------------


@dataclasses.dataclass(frozen=True, eq=False)
class ProductForm:
  """A convolution as t x t matrix products, [windows, C_in] x [C_in, C_out] each.

  Along an axis, a window of the result is `result` @ (`kernel` @ taps * `image` @ window). In the
  example above t = 3, `image` = [[1, -1, 0], [0, 1, 0], [0, 1, -1]], `kernel` = [[1, 0], [1, 1],
  [0, 1]] and `result` = [[1, 1, 0], [0, 1, -1]]. This is the bilinear form of Lavin & Gray 2016,
  section 3, who call the matrices B^T, G and A^T.

  Attributes:
    image: [t, pixels of a window].
    kernel: [t, k]; None: the taps are used as they are.
    result: [pixels of a window of the result, t].
    step: pixels from one window of the image to the next.
    out: pixels from one window of the result to the next; overlapping windows are summed.
  """

  image: np.ndarray
  kernel: np.ndarray | None
  result: np.ndarray
  step: int
  out: int


@functools.cache
def _winograd(k: int) -> ProductForm:
  """Stride 1, in windows of n x n pixels; for k = 2, 3, 4 by 16, 36, 36 products, not 36, 144, 144.

  Polynomials of degree n - 1 and k - 1 can be multiplied through their values at n + k - 1 = t
  points, with one product per point (Toom and Cook). The last point is infinity, where the value
  is the highest coefficient. The transpose of that multiplication is a convolution with n results.
  """
  points = POINTS[k]
  t = len(points) + 1
  n = t - k + 1
  image, kernel, result = np.zeros((t, t)), np.zeros((t, k)), np.zeros((n, t))
  for i, point in enumerate(points):
    others = [p for p in points if p != point]
    image[i, :-1] = np.poly(others)[::-1]
    kernel[i] = point ** np.arange(k) / np.prod([point - p for p in others])
    result[:, i] = point ** np.arange(n)
  image[-1] = np.poly(points)[::-1]
  kernel[-1, -1] = result[-1, -1] = 1
  return ProductForm(image, kernel, result, step=n, out=n)


@functools.cache
def _tap_products(k: int, stride: int) -> ProductForm:
  """One matrix product per kernel tap, summed.

  For maps smaller than the kernel: it avoids transforming the kernel.
  """
  return ProductForm(np.eye(k), None, np.ones((1, k)), step=stride, out=1)


@functools.cache
def _transposed_tap_products(k: int) -> ProductForm:
  """The same for a transposed convolution, whose result windows overlap."""
  return ProductForm(np.ones((k, 1)), None, np.eye(k)[::-1], step=1, out=2)


def _is_wide(x, kernel, channels: int) -> bool:
  """Whether there are products for this kernel and enough channels for them to pay."""
  k = kernel.shape[0]
  square = k in POINTS and kernel.shape[1] == k
  return square and x.dtype == jnp.float32 and min(kernel.shape[2:]) >= channels


def _product_form(x, kernel, stride: int, padding: Padding, channels: int) -> ProductForm | None:
  """The fastest form; None: a convolution, after `space_to_depth` if the stride is 2."""
  if not _is_wide(x, kernel, channels) or stride > 2:
    return None
  h, w = _result_sides(x, kernel, stride, padding)
  if x.shape[0] * h * w <= FEW_PIXELS:
    return _tap_products(kernel.shape[0], stride)
  if stride == 2:
    return None
  form = _winograd(kernel.shape[0])
  terms = form.image.shape[0] ** 2 * x.shape[0] * -(-h // form.out) * -(-w // form.out)
  return form if terms * sum(kernel.shape[2:]) * x.dtype.itemsize <= PRODUCTS else None


def _conv_by_products(x, kernel, form: ProductForm, padding: Padding):
  """Pads the photo to whole windows, and drops the surplus of the result."""
  h, w = _result_sides(x, kernel, form.step // form.out, padding)
  windows = [-(-side // form.out) for side in (h, w)]
  x = _pad_or_crop(x, padding, [form.step * (n - 1) + form.image.shape[1] for n in windows])
  return _products(form, x, kernel)[:, :h, :w]


def _weighted_sums(matrix, parts):
  """Weighted sums of arrays, one per row of weights."""
  return [sum(float(c) * part for c, part in zip(row, parts) if c) for row in matrix]


def _window_counts(x, size: int, step: int) -> list[int]:
  """How many windows fit into height and width."""
  return [(side - size) // step + 1 for side in x.shape[1:3]]


def _terms_of_windows(x, matrix, step: int):
  """[B, H, W, C] -> `matrix` times each window along both axes, [t t, B h w, C]."""
  b, _, _, c = x.shape
  size = matrix.shape[1]
  h, w = _window_counts(x, size, step)
  if size == step:  # side by side
    x = x.reshape(b, h, size, w, size, c).transpose(2, 4, 0, 1, 3, 5)
    return jnp.tensordot(np.kron(matrix, matrix).astype(x.dtype), x.reshape(size**2, -1, c), 1)
  # A stack of sums is one loop over memory. A product would need copies of the overlaps.
  columns = [x[:, :, j : j + step * (w - 1) + 1 : step] for j in range(size)]
  x = jnp.stack(_weighted_sums(matrix, columns))
  rows = [x[:, :, i : i + step * (h - 1) + 1 : step] for i in range(size)]
  return jnp.stack(_weighted_sums(matrix, rows)).reshape(len(matrix) ** 2, -1, c)


def _windows_from_terms(y, matrix, step: int, h: int, w: int):
  """[t t, B h w, C] -> [B, H, W, C]: `matrix` times the terms of each window, summed.

  The transpose of `_terms_of_windows` with the transposed matrix, except for some zeros at the
  bottom and on the right.
  """
  size, t = matrix.shape
  b, c = y.shape[1] // (h * w), y.shape[2]
  if size == step:
    y = jnp.tensordot(np.kron(matrix, matrix).astype(y.dtype), y, 1)
    y = y.reshape(size, size, b, h, w, c).transpose(2, 3, 0, 4, 1, 5)
    return y.reshape(b, h * size, w * size, c)
  overlap = -(-size // step)

  def along(axis, parts):
    parts = _weighted_sums(matrix, parts)

    def moved(part, i):
      return jnp.pad(
        part, [(i, overlap - 1 - i) if a == axis else (0, 0) for a in range(part.ndim)]
      )

    sums = [
      sum(moved(part, i) for i, part in enumerate(parts[first::step])) for first in range(step)
    ]
    return jnp.stack(sums, axis + 1)

  y = y.reshape(t, t, b, h, w, c)
  y = along(3, [y[:, j] for j in range(t)])  # [t, B, h, w', step, C]
  y = along(1, list(y))
  return y.reshape(b, step * y.shape[1], step * y.shape[3], c)


def _zero_made_after(x):
  """A 0 that XLA cannot foresee: whatever adds it is not computed before `x`.

  XLA's CPU backend drops optimization_barrier. Without this it would compute the terms of all
  kernels at the start, and keep those of the forward pass for the backward pass: 600 MiB more in a
  network of 60M parameters.
  """
  return jnp.minimum(jnp.abs(x[0, 0, 0, 0]), 0).astype(jnp.int32)


def _kernel_terms(form: ProductForm, kernel, after):
  """[k, k, C_in, C_out] -> [t t, C_in, C_out], not before the map `after` is there."""
  kernel = kernel.reshape(-1, *kernel.shape[2:])
  if form.kernel is None:
    return kernel
  matrix = np.kron(form.kernel, form.kernel).astype(kernel.dtype)
  return jnp.tensordot(matrix + _zero_made_after(after), kernel, 1)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _products(form: ProductForm, x, kernel):
  """The result for [B, H, W, C_in] that whole windows cover and a kernel [k, k, C_in, C_out]."""
  terms = _terms_of_windows(x, form.image, form.step)
  y = jnp.einsum('tpi,tio->tpo', terms, _kernel_terms(form, kernel, x))
  return _windows_from_terms(
    y, form.result, form.out, *_window_counts(x, form.image.shape[1], form.step)
  )


def _products_fwd(form, x, kernel):
  return _products(form, x, kernel), (x, kernel)


def _products_bwd(form, residuals, dy):
  # The form is bilinear: each gradient is a form with the matrices transposed and swapped. The
  # terms of x are computed again, not kept from the forward pass: they are larger than x.
  x, kernel = residuals
  x = x + _zero_made_after(dy)
  terms, dterms = (
    _terms_of_windows(x, form.image, form.step),
    _terms_of_windows(dy, form.result.T, form.out),
  )
  dx = jnp.einsum('tpo,tio->tpi', dterms, _kernel_terms(form, kernel, dy))
  dx = _windows_from_terms(
    dx, form.image.T, form.step, *_window_counts(x, form.image.shape[1], form.step)
  )
  dkernel = jnp.einsum('tpi,tpo->tio', terms, dterms)
  if form.kernel is not None:
    dkernel = jnp.tensordot(np.kron(form.kernel, form.kernel).T.astype(x.dtype), dkernel, 1)
  return dx[:, : x.shape[1], : x.shape[2]], dkernel.reshape(kernel.shape)


_products.defvjp(_products_fwd, _products_bwd)
