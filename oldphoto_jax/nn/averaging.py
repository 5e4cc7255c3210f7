"""Means over devices and over steps, and the norm of a tree."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

# The name of the axis that train steps average over; parallel.py maps it.
AXIS = 'batch'


def pmean(tree: Any) -> Any:
  """Mean over the devices of AXIS.

  A single device returns its tree as it is, because XLA's CPU backend would copy it.
  """
  return tree if lax.axis_size(AXIS) == 1 else lax.pmean(tree, AXIS)


def moving_average(average: Any, params: Any, decay: float, step: jax.Array) -> Any:
  """average + (1 - decay) * (params - average), leaf by leaf; None stays None.

  The decay starts at 0.1 and rises as (1 + step) / (10 + step) up to `decay`, so that the random
  initial parameters are forgotten (`tf.train.ExponentialMovingAverage` with num_updates).
  """
  if average is None:
    return None
  decay = jnp.minimum(decay, (1.0 + step) / (10.0 + step))
  return jax.tree.map(lambda a, p: a + (1 - decay) * (p - a), average, params)


def global_norm(tree: Any) -> jax.Array:
  """Euclidean norm of all numbers of a tree, as `optax.global_norm`.

  Computed by scalar products, because XLA's CPU backend would first write all squares to memory.
  """
  squares = [jnp.vdot(x, x, precision=lax.Precision.HIGHEST) for x in jax.tree.leaves(tree)]
  return jnp.sqrt(sum(squares))
