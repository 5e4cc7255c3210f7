"""The mean gradient of a batch over devices, and over parts that a device takes in turn.

This is gradient accumulation: parts that run in turn need the memory of only one.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from oldphoto_jax.errors import ConfigError
from oldphoto_jax.nn import averaging


def count(chosen: jax.Array, parts: int) -> jax.Array:
  """Mean number of ones (or True) in a part of the batch, over parts and devices: float32.

  losses.masked_mean divides by it. A mean over some examples or pixels is then that of the whole
  batch, however they are spread.
  """
  return averaging.pmean(chosen.sum().astype(jnp.float32)) / parts


def mean(function: Callable[[Any, jax.Array], Any], parts: int, batch: Any, keys: jax.Array) -> Any:
  """`mean_over_parts`, and over the devices of the axis averaging.AXIS."""
  return averaging.pmean(mean_over_parts(function, parts, batch, keys))


def mean_over_parts(
  function: Callable[[Any, jax.Array], Any], parts: int, batch: Any, keys: jax.Array
) -> Any:
  """Mean of `function(part of the batch, its keys)` over equal parts of a batch.

  If `function` returns gradients of a mean over examples, the result is the gradient of the whole
  batch, up to rounding. A mean over only some examples (one domain, the holes) must be divided by
  their number in the whole batch: see `count`.

  Args:
    function: returns floating-point arrays.
    parts: how many; 1 is a plain call.
    batch, keys: arrays whose first axis [b] counts the examples; b is a multiple of `parts`.

  Raises:
    ConfigError: if b is not a multiple of `parts`.
  """
  if parts == 1:
    return function(batch, keys)
  b = len(jax.tree.leaves(batch)[0])
  if parts < 1 or b % parts:
    raise ConfigError(
      f'the {b} examples per step of a device cannot be split into {parts} equal parts: set '
      f'accumulate to a divisor of {b}, or change the batch size'
    )
  split = jax.tree.map(lambda x: x.reshape(parts, b // parts, *x.shape[1:]), (batch, keys))

  def add(total, part):
    return jax.tree.map(jnp.add, total, function(*part)), None

  first = jax.tree.map(lambda x: x[0], split)
  zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(function, *first))
  total, _ = jax.lax.scan(add, zeros, split)
  return jax.tree.map(lambda x: x / parts, total)
