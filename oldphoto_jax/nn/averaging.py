"""Means over devices and over steps, and the norm of a tree."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

# The axis that train steps average over, whatever maps it (parallel.py).
AXIS = 'batch'


def pmean(tree: Any) -> Any:
  """Mean over the devices of AXIS. XLA's CPU backend would copy what a single device has."""
  return tree if lax.axis_size(AXIS) == 1 else lax.pmean(tree, AXIS)


def moving_average(average: Any, params: Any, decay: float, step: jax.Array) -> Any:
  """average + (1 - decay) * (params - average), leaf by leaf; None stays None.

  The decay starts at 0.1 and rises as (1 + step) / (10 + step), so that the first random
  parameters are forgotten (`tf.train.ExponentialMovingAverage` with num_updates).
  """
  if average is None:
    return None
  decay = jnp.minimum(decay, (1.0 + step) / (10.0 + step))
  return jax.tree.map(lambda a, p: a + (1 - decay) * (p - a), average, params)


def global_norm(tree: Any) -> jax.Array:
  """Euclidean norm of all numbers of a tree, as `optax.global_norm`.

  By scalar products: XLA's CPU backend would write all squares to memory first.
  """
  squares = [jnp.vdot(x, x, precision=lax.Precision.HIGHEST) for x in jax.tree.leaves(tree)]
  return jnp.sqrt(sum(squares))
