"""Norms, pads, pooling, and what is done to trees of parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from oldphoto_jax.nn import averaging, layers


def array(seed, *shape):
  return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def test_instance_norm_statistics_and_dtype():
  x = 5 + 3 * array(0, 2, 16, 12, 4)
  y = layers.instance_norm(x)
  np.testing.assert_allclose(y.mean((1, 2)), 0, atol=1e-5)
  np.testing.assert_allclose(y.var((1, 2)), 1, atol=1e-4)
  half = layers.instance_norm((x * 100).astype(jnp.bfloat16))  # bfloat16 sums would be off by 10 %
  assert half.dtype == jnp.bfloat16
  np.testing.assert_allclose(half.astype(jnp.float32), y, atol=0.03)


def test_norm_of_a_tree():
  tree = {'kernel': array(0, 3, 3, 64, 64), 'bias': array(1, 64)}
  np.testing.assert_allclose(averaging.global_norm(tree), optax.global_norm(tree), rtol=1e-5)


def test_mean_over_devices_does_nothing_for_one():
  step = jax.pmap(averaging.pmean, axis_name=averaging.AXIS, devices=jax.devices()[:1])
  x = array(0, 1, 5)
  assert 'all_reduce' not in step.lower(x).as_text()
  np.testing.assert_array_equal(step(x), x)
  mean = jax.vmap(averaging.pmean, axis_name=averaging.AXIS)(jnp.asarray([1.0, 3.0]))
  np.testing.assert_array_equal(mean, [2.0, 2.0])


def test_reflection_that_does_not_fit_is_an_error():
  with pytest.raises(ValueError, match='too small for reflection padding of 3'):
    layers.reflect_pad(jnp.zeros((1, 3, 9, 1)), 3)


def test_average_pool_does_not_count_padding():
  x = array(0, 1, 6, 8, 2)
  y = layers.avg_pool_3x3(x)
  assert y.shape == (1, 3, 4, 2)
  np.testing.assert_allclose(y[0, 0, 0], x[0, :2, :2].mean((0, 1)), atol=1e-6)
  np.testing.assert_allclose(y[0, 1, 1], x[0, 1:4, 1:4].mean((0, 1)), atol=1e-6)
