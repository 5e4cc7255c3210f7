"""The CPU forms of the convolutions equal the plain ones, and torch's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from oldphoto_jax.nn import convolution, cpu_convolution


def array(seed, *shape):
  return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def same_with_gradients(fast, plain, x, kernel, tolerance=2e-5):
  """Forward, and both gradients, of two forms of one convolution."""
  y = plain(x, kernel)
  dy = array(9, *y.shape)

  def results(form):
    y, pullback = jax.vjp(form, x, kernel)
    return y, *pullback(dy)

  results = [jax.jit(results, static_argnums=0)(form) for form in (fast, plain)]
  for a, b in zip(*results):
    assert a.shape == b.shape
    np.testing.assert_allclose(a, b, atol=tolerance * float(jnp.abs(b).max()), rtol=0)


CONVS = [
  # height, width, in, out, kernel, stride, pad
  (12, 10, 3, 8, 7, 1, 0),
  (12, 10, 64, 3, 7, 1, 3),
  (9, 8, 40, 33, 3, 1, 1),
  (9, 8, 40, 33, 3, 1, 0),
  (12, 16, 5, 6, 4, 2, 1),
  (12, 16, 5, 6, 4, 2, 2),
  (13, 15, 36, 34, 4, 2, 1),
  (13, 12, 5, 6, 3, 2, 1),
  (12, 13, 5, 6, 5, 2, 2),
  (12, 12, 3, 96, 7, 2, 0),
  (8, 8, 6, 7, 1, 1, 0),
  (8, 8, 6, 7, 1, 2, 0),
  (15, 15, 3, 4, 4, 4, 0),
]


@pytest.mark.parametrize('case', CONVS, ids=str)
def test_conv_equals_the_plain_form(case):
  h, w, c_in, c_out, k, stride, pad = case
  padding = ((pad, pad), (pad, pad))
  same_with_gradients(
    lambda x, kernel: convolution.conv2d(x, kernel, stride, padding),
    lambda x, kernel: convolution.xla_conv(x, kernel, stride, padding),
    array(0, 2, h, w, c_in),
    array(1, k, k, c_in, c_out),
  )


def test_conv_with_uneven_padding():
  padding = ((0, 2), (1, 0))
  same_with_gradients(
    lambda x, kernel: convolution.conv2d(x, kernel, 1, padding),
    lambda x, kernel: convolution.xla_conv(x, kernel, 1, padding),
    array(0, 2, 6, 7, 33),
    array(1, 3, 3, 33, 35),
  )


ONE = ((1, 1), (1, 1))
WIDE = [
  # photos, height, width, in, out, kernel, stride, padding
  (2, 9, 8, 40, 33, 3, 1, ONE),
  (1, 10, 13, 33, 32, 3, 1, ((0, 2), (1, 0))),
  (2, 7, 6, 32, 36, 2, 1, ((0, 0), (0, 0))),
  (1, 11, 9, 32, 33, 4, 1, ((2, 2), (2, 2))),
  (2, 4, 5, 33, 32, 4, 1, ONE),
  (2, 3, 2, 32, 33, 3, 1, ONE),
  (2, 12, 15, 34, 33, 4, 2, ONE),
  (1, 13, 9, 33, 32, 3, 2, ONE),
  (1, 2, 2, 32, 32, 4, 2, ONE),
]


@pytest.mark.parametrize('few', [0, 10**6], ids=['winograd', 'taps'])
@pytest.mark.parametrize('case', WIDE, ids=str)
def test_products_of_matrices_equal_the_plain_form(case, few, monkeypatch):
  b, h, w, c_in, c_out, k, stride, padding = case
  monkeypatch.setattr(cpu_convolution, 'FEW_PIXELS', few)
  monkeypatch.setattr(cpu_convolution, 'CHANNELS_FORWARD', 32)
  x, kernel = array(0, b, h, w, c_in), array(1, k, k, c_in, c_out)

  def fast(x, kernel):
    return convolution.conv2d(x, kernel, stride, padding)

  same_with_gradients(fast, lambda x, k: convolution.xla_conv(x, k, stride, padding), x, kernel)
  assert 'convolution' not in jax.jit(fast).lower(x, kernel).as_text()


@pytest.mark.parametrize('few', [0, 10**6], ids=['winograd', 'taps'])
@pytest.mark.parametrize('shape', [(1, 4, 7), (2, 1, 1)], ids=str)
@pytest.mark.parametrize('k', [3, 4])
def test_transposed_products_of_matrices_equal_the_plain_form(k, shape, few, monkeypatch):
  monkeypatch.setattr(cpu_convolution, 'FEW_PIXELS', few)
  c_in = 35 if few else 36  # JAX would take a form of the same shape that it has seen
  x, kernel = array(0, *shape, c_in), array(1, k, k, c_in, 34)
  same_with_gradients(convolution.conv_transpose2d, convolution.xla_conv_transpose, x, kernel)
  assert 'convolution' not in jax.jit(convolution.conv_transpose2d).lower(x, kernel).as_text()


def test_large_maps_and_half_precision_are_convolved(monkeypatch):
  """Winograd's terms of a large photo would fill the memory; bfloat16 would lose them."""
  x, kernel = array(0, 1, 20, 18, 32), array(1, 3, 3, 32, 33)

  def fast(x, kernel):
    return convolution.conv2d(x, kernel, 1, ONE)

  def text(dtype):
    return jax.jit(lambda *a: fast(*a)).lower(x.astype(dtype), kernel.astype(dtype)).as_text()

  monkeypatch.setattr(cpu_convolution, 'CHANNELS_FORWARD', 32)
  assert 'convolution' not in text(jnp.float32)
  assert 'convolution' in text(jnp.bfloat16)
  monkeypatch.setattr(cpu_convolution, 'PRODUCTS', 36 * 25 * 65 * 4 - 1)
  assert 'convolution' in text(jnp.float32)
  same_with_gradients(fast, lambda x, k: convolution.xla_conv(x, k, 1, ONE), x, kernel)


def test_more_channels_are_needed_for_products_where_nothing_is_differentiated():
  def forward(x, kernel):
    return convolution.conv2d(x, kernel, 1, ONE)

  def backward(x, kernel):
    return jax.vjp(forward, x, kernel)[1](x)

  x, kernel = array(0, 1, 20, 18, 32), array(1, 3, 3, 32, 32)
  texts = [jax.jit(f).lower(x, kernel).as_text() for f in (forward, backward)]
  assert ['convolution' in text for text in texts] == [True, False]


def test_without_products_a_convolution_stays_one_until_it_is_differentiated():
  def forward(x, kernel):
    return convolution.conv2d(x, kernel, 1, ONE, products=False)

  def backward(x, kernel):
    return jax.vjp(forward, x, kernel)[1](x)

  x, kernel = array(0, 1, 20, 18, 64), array(1, 3, 3, 64, 64)
  texts = [jax.jit(f).lower(x, kernel).as_text() for f in (forward, backward)]
  assert ['convolution' in text for text in texts] == [True, False]
  same_with_gradients(forward, lambda x, k: convolution.xla_conv(x, k, 1, ONE), x, kernel)


THIN = [
  # height, width, in, out, kernel, padding, bytes of a strip (1: a strip a row)
  (9, 8, 3, 8, 3, ((0, 0), (0, 0)), cpu_convolution.STRIP),
  (9, 8, 3, 8, 3, ((0, 0), (0, 0)), 1),
  (9, 8, 8, 8, 3, ((1, 1), (1, 1)), cpu_convolution.STRIP),
  (9, 8, 32, 32, 3, ((0, 2), (1, 0)), cpu_convolution.STRIP),
  (9, 8, 32, 33, 4, ((1, 1), (1, 1)), 1),
  (9, 8, 8, 4, 1, ((0, 0), (0, 0)), cpu_convolution.STRIP),
  (9, 8, 3, 8, 1, ((1, 0), (0, 2)), cpu_convolution.STRIP),
]


@pytest.mark.parametrize('case', THIN, ids=str)
def test_gradients_inside_a_loop_equal_the_plain_form(case, monkeypatch):
  """In scan and map, where XLA's CPU backend compiles convolutions as they are written."""
  monkeypatch.setattr(cpu_convolution, 'PRODUCTS', 0)
  monkeypatch.setattr(cpu_convolution, 'FEW_PIXELS', 0)
  h, w, c_in, c_out, k, padding, strip = case
  monkeypatch.setattr(cpu_convolution, 'STRIP', strip)
  x, kernel = array(0, 3, 2, h, w, c_in), array(1, k, k, c_in, c_out)

  def grads(form):
    def one(x):
      y, pullback = jax.vjp(lambda x, kernel: form(x, kernel, 1, padding), x, kernel)
      return pullback(jnp.cos(3 * y))

    scanned = jax.lax.scan(lambda _, x: (None, one(x)), None, x)[1]
    return *scanned, *jax.lax.map(one, x)

  for a, b in zip(
    jax.jit(grads, static_argnums=0)(convolution.conv2d), grads(convolution.xla_conv)
  ):
    np.testing.assert_allclose(a, b, atol=2e-5 * float(jnp.abs(b).max()), rtol=0)


@pytest.mark.parametrize('k', [3, 4])
def test_conv_transpose_equals_the_plain_form(k):
  same_with_gradients(
    convolution.conv_transpose2d,
    convolution.xla_conv_transpose,
    array(0, 2, 5, 7, 33),
    array(1, k, k, 33, 34),
  )


@pytest.mark.parametrize('k', [3, 4])
def test_conv_transpose_equals_torch(k):
  torch = pytest.importorskip('torch')
  x, kernel = array(0, 2, 5, 7, 6), array(1, k, k, 6, 4)
  expected = torch.nn.functional.conv_transpose2d(
    torch.tensor(np.array(x)).permute(0, 3, 1, 2),
    torch.tensor(np.array(kernel[::-1, ::-1])).permute(2, 3, 0, 1),
    stride=2,
    padding=1,
    output_padding=k % 2,
  )
  expected = expected.permute(0, 2, 3, 1).numpy()
  np.testing.assert_allclose(convolution.conv_transpose2d(x, kernel), expected, atol=1e-4)


def test_other_platforms_get_the_plain_convolution():
  """A TPU program lowered on this host holds the native strided and dilated convolutions."""

  def loss(x, k, kt):
    return convolution.conv_transpose2d(convolution.conv2d(x, k, 2, ((1, 1), (1, 1))), kt).sum()

  args = array(0, 1, 8, 8, 4), array(1, 4, 4, 4, 4), array(2, 4, 4, 4, 4)
  text = jax.jit(loss).trace(*args).lower(lowering_platforms=('tpu',)).as_text()
  assert 'stride = [2, 2]' in text and 'lhs_dilate = [2, 2]' in text
  text = jax.jit(loss).trace(*args).lower(lowering_platforms=('cpu',)).as_text()
  assert 'stride = [2, 2]' not in text and 'lhs_dilate = [2, 2]' not in text
