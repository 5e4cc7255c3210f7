"""Gradient accumulation: a batch taken in parts, one after the other, in the memory of one."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def mean_over_parts(
  function: Callable[[Any, jax.Array], Any], parts: int, batch: Any, keys: jax.Array
) -> Any:
  """Mean of `function(part of the batch, its keys)` over equal parts of a batch.

  Where `function` gives gradients of a mean over examples, that is the gradient of the whole
  batch, to rounding. A mean over some examples only (of one domain, of holes) has to be divided by
  their number in the whole batch: see losses.masked_mean.

  Args:
    function: gives arrays of floating point.
    parts: how many; 1 is a plain call.
    batch, keys: arrays whose first axis [b] is that of the examples; b is a multiple of `parts`.

  Raises:
    ValueError: if b is not.
  """
  if parts == 1:
    return function(batch, keys)
  b = len(jax.tree.leaves(batch)[0])
  if parts < 1 or b % parts:
    raise ValueError(
      f'a device has {b} examples a step, which are not {parts} equal parts: set accumulate to a '
      'divisor of that, or another batch size'
    )
  split = jax.tree.map(lambda x: x.reshape(parts, b // parts, *x.shape[1:]), (batch, keys))

  def add(total, part):
    return jax.tree.map(jnp.add, total, function(*part)), None

  first = jax.tree.map(lambda x: x[0], split)
  zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(function, *first))
  total, _ = jax.lax.scan(add, zeros, split)
  return jax.tree.map(lambda x: x / parts, total)
