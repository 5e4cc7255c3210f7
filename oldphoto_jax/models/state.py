"""The training state and its update, shared by all models."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from oldphoto_jax.nn import averaging


class State(struct.PyTreeNode):
  """The training state; arrays only.

  Attributes:
    step: steps taken.
    g, g_opt: parameters of the restorers, generators or detector, and their optimiser's state.
    d, d_opt: parameters of the discriminators and their optimiser's state; None if there are none.
    stats: running statistics of g's batch norm; None if the model has no batch norm networks.
    ema: moving average of `released`; None without an average.
  """

  step: jax.Array
  g: Any
  g_opt: Any
  d: Any = None
  d_opt: Any = None
  stats: Any = None
  ema: Any = None

  @property
  def released(self) -> Any:
    """The parameters to evaluate and release: g, or with `stats` {'params': g, 'batch_stats'}."""
    return _released(self.g, self.stats) if self.ema is None else self.ema

  def apply(self, model: Any, g_grad: Any, d_grad: Any = None, stats: Any = None) -> 'State':
    """The state after one optimiser step.

    Args:
      model: has the optimisers `g_tx` and, with `d_grad`, `d_tx`, and the decay `ema`.
      g_grad, d_grad: averaged over the devices; without `d_grad`, d stays as it is.
      stats: the new running statistics; None if there are none.
    """
    g, g_opt = optimise(model.g_tx, g_grad, self.g_opt, self.g)
    d, d_opt = self.d, self.d_opt
    if d_grad is not None:
      d, d_opt = optimise(model.d_tx, d_grad, d_opt, d)
    ema = averaging.moving_average(self.ema, _released(g, stats), model.ema, self.step)
    return self.replace(
      step=self.step + 1, g=g, g_opt=g_opt, d=d, d_opt=d_opt, stats=stats, ema=ema
    )


def start(model: Any, g: Any, d: Any = None, stats: Any = None) -> State:
  """The state before the first step; like State.apply, with parameters instead of gradients."""
  return State(
    step=jnp.zeros((), jnp.int32),
    g=g,
    g_opt=model.g_tx.init(g),
    d=d,
    d_opt=None if d is None else model.d_tx.init(d),
    stats=stats,
    ema=jax.tree.map(jnp.copy, _released(g, stats)) if model.ema else None,
  )


def optimise(tx: optax.GradientTransformation, grad: Any, opt: Any, params: Any) -> tuple[Any, Any]:
  """One step of an optimiser: the new parameters and its new state."""
  update, opt = tx.update(grad, opt, params)
  return optax.apply_updates(params, update), opt


def norms(**grads: Any) -> dict[str, jax.Array]:
  """The norms of gradients by name: `g` and `d` give 'g_norm' and 'd_norm'."""
  return {f'{name}_norm': averaging.global_norm(grad) for name, grad in grads.items()}


def _released(g: Any, stats: Any) -> Any:
  return g if stats is None else {'params': g, 'batch_stats': stats}
