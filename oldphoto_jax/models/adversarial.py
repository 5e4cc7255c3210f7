"""What the generators that learn beside discriminators share: their state and its update."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from oldphoto_jax import layers


class State(struct.PyTreeNode):
  """What training changes; arrays only.

  `g` holds the parameters of all that restores or generates, `d` those of all that judge, `ema` the
  moving average of `g`, or None.
  """

  step: jax.Array
  g: Any
  d: Any
  g_opt: Any
  d_opt: Any
  ema: Any

  @property
  def released(self) -> Any:
    """The parameters to evaluate, restore and release with."""
    return self.g if self.ema is None else self.ema


def start(model: Any, g: Any, d: Any) -> State:
  """The state before the first step. `model` has optimisers `g_tx`, `d_tx` and the decay `ema`."""
  return State(
    step=jnp.zeros((), jnp.int32),
    g=g,
    d=d,
    g_opt=model.g_tx.init(g),
    d_opt=model.d_tx.init(d),
    ema=jax.tree.map(jnp.copy, g) if model.ema else None,
  )


def update(model: Any, state: State, g_grad: Any, d_grad: Any) -> tuple[State, dict]:
  """One step of both optimisers, by gradients taken from the same `state`.

  Args:
    model: as in `start`.
    state: of any kind that has these fields; what else it has stays.
    g_grad, d_grad: averaged over the devices.

  Returns:
    The next state, and the norms of the gradients {'g_norm', 'd_norm'}.
  """
  g_update, g_opt = model.g_tx.update(g_grad, state.g_opt, state.g)
  d_update, d_opt = model.d_tx.update(d_grad, state.d_opt, state.d)
  g = optax.apply_updates(state.g, g_update)
  state = state.replace(
    step=state.step + 1,
    g=g,
    d=optax.apply_updates(state.d, d_update),
    g_opt=g_opt,
    d_opt=d_opt,
    ema=layers.moving_average(state.ema, g, model.ema, state.step),
  )
  return state, {'g_norm': layers.global_norm(g_grad), 'd_norm': layers.global_norm(d_grad)}
