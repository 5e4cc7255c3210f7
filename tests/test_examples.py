"""Branches that each example of a batch takes for itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.custom_batching import custom_vmap

from oldphoto_jax.degradation import examples


def one(key, x, active, index):
  mean = x.mean()  # the branches take it from here, not as an operand

  def move(carry, key):
    return carry[0] + mean, 2 * carry[1] + jax.random.uniform(key, (3,))

  moved = examples.when(active, move, (x, jnp.zeros(3)), key)
  branches = [
    lambda key, x: x + 1,
    lambda key, x: mean * x + jax.random.normal(key, x.shape),
    lambda key, x: examples.when(active, lambda x: -x, x),
  ]
  return moved, examples.switch(index, branches, key, x)


def batch(n):
  keys = jax.random.split(jax.random.key(0), 4)
  return (
    jax.random.split(keys[0], n),
    jax.random.normal(keys[1], (n, 5)),
    jax.random.bernoulli(keys[2], 0.4, (n,)),
    jax.random.randint(keys[3], (n,), -1, 4),  # beyond both ends, which are the nearest branch
  )


def test_a_batch_gives_what_its_examples_give():
  for n in (1, 13):
    args = batch(n)
    together = jax.jit(jax.vmap(one))(*args)
    alone = jax.lax.map(lambda args: one(*args), args)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), together, alone)


def test_one_branch_for_the_whole_batch_is_a_branch():
  keys, x, _, _ = batch(6)
  (moved, _), chosen = jax.vmap(one, (0, 0, None, None))(keys, x, False, 0)
  np.testing.assert_array_equal(moved, x)
  np.testing.assert_allclose(chosen, x + 1)


def test_a_branch_gets_a_part_of_the_batch_at_a_time():
  sizes = []

  @custom_vmap
  def counted(x):
    return -x

  @counted.def_vmap
  def _(size, batched, x):
    sizes.append(size)
    return -x, True

  x, active = jnp.arange(32.0), jnp.arange(32) % 8 == 0
  result = jax.vmap(lambda active, x: examples.when(active, counted, x))(active, x)
  np.testing.assert_array_equal(result, np.where(active, -x, x))
  assert set(sizes) == {32 // examples.PARTS}


def test_branches_that_differ_are_an_error():
  x = jnp.arange(4.0)
  with pytest.raises(TypeError, match='the same shapes'):
    examples.switch(1, [lambda x: {'a': x}, lambda x: {'b': x}], x)
  with pytest.raises(TypeError, match='the same shapes'):
    examples.when(True, lambda x: x[:2], x)
