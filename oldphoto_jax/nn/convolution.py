"""The two convolutions that all networks use, on NHWC images with HWIO kernels.

GPU and TPU use XLA's own convolutions. XLA's CPU backend is 4 to 80 times slower at some of them
than it could be, so the CPU uses the forms in cpu_convolution.py. Both give the same numbers up to
float32 rounding, in the forward pass and in both gradients (tests/test_convolution.py).
"""

import sys
from functools import partial

import jax
from jax import export, lax

from oldphoto_jax.nn import cpu_convolution
from oldphoto_jax.nn.cpu_convolution import DIMENSIONS, Padding, xla_conv


def _any_size(x) -> bool:
  """Whether a program for all sizes is traced (weights/stablehlo.py): CPU forms depend on it."""
  return any(export.is_symbolic_dim(side) for side in x.shape)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def conv2d(x, kernel, stride: int = 1, padding: Padding = ((0, 0), (0, 0)), products: bool = True):
  """Convolution (cross-correlation, as `torch.nn.functional.conv2d`).

  Args:
    x: [B, H, W, C_in].
    kernel: [h, w, C_in, C_out], same dtype as `x`.
    stride: of both axes.
    padding: zeros added, ((top, bottom), (left, right)).
    products: whether the CPU may take products of matrices where nothing is differentiated. They
      are faster, but take longer to compile.

  Returns:
    [B, (H + top + bottom - h) // stride + 1, ..., C_out].
  """
  channels = cpu_convolution.CHANNELS_FORWARD if products else sys.maxsize
  return _forward(x, kernel, stride, padding, channels)


def _forward(x, kernel, stride, padding, channels):
  if _any_size(x):
    return xla_conv(x, kernel, stride, padding)
  return lax.platform_dependent(
    x,
    kernel,
    cpu=lambda x, k: cpu_convolution.conv2d(x, k, stride, padding, channels),
    default=lambda x, k: xla_conv(x, k, stride, padding),
  )


def _conv2d_fwd(x, kernel, stride, padding, products):
  return _forward(x, kernel, stride, padding, cpu_convolution.CHANNELS), (x, kernel)


def _conv2d_bwd(stride, padding, products, residuals, dy):
  # The platform is chosen inside the rule. Chosen around a differentiated function, it would keep
  # the residuals of both forms.
  def grads(form):
    return lambda x, k, dy: jax.vjp(lambda x, k: form(x, k, stride, padding), x, k)[1](dy)

  return lax.platform_dependent(
    *residuals, dy, cpu=grads(cpu_convolution.conv2d), default=grads(xla_conv)
  )


conv2d.defvjp(_conv2d_fwd, _conv2d_bwd)


def xla_conv_transpose(x, kernel):
  """`conv_transpose2d` by XLA, for every platform except the CPU."""
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


@jax.custom_vjp
def conv_transpose2d(x, kernel):
  """Transposed convolution that doubles both sides.

  Equals `torch.nn.functional.conv_transpose2d` with stride 2, padding 1 and, for 3x3 kernels,
  output padding 1. Torch's kernel [in, out, h, w] must be flipped in h and w and transposed to
  [h, w, in, out].

  Args:
    x: [B, H, W, C_in].
    kernel: [k, k, C_in, C_out] with k = 3 or 4, same dtype as `x`.

  Returns:
    [B, 2H, 2W, C_out].

  Raises:
    ValueError: for kernels of another size.
  """
  if kernel.shape[0] not in (3, 4):
    raise ValueError(f'conv_transpose2d takes 3x3 or 4x4 kernels, not {kernel.shape[:2]}')
  if _any_size(x):
    return xla_conv_transpose(x, kernel)
  return lax.platform_dependent(
    x, kernel, cpu=cpu_convolution.conv_transpose2d, default=xla_conv_transpose
  )


def _conv_transpose2d_fwd(x, kernel):
  return conv_transpose2d(x, kernel), (x, kernel)


def _conv_transpose2d_bwd(residuals, dy):
  def grads(form):
    return lambda x, k, dy: jax.vjp(form, x, k)[1](dy)

  return lax.platform_dependent(
    *residuals, dy, cpu=grads(cpu_convolution.conv_transpose2d), default=grads(xla_conv_transpose)
  )


conv_transpose2d.defvjp(_conv_transpose2d_fwd, _conv_transpose2d_bwd)
