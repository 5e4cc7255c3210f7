"""Functions of one example that run over a batch: one by one on CPU, all at once elsewhere.

What an example does depends on its key, and most of a recipe happens to few examples. Under
`jax.vmap`, `lax.switch` and `lax.cond` compute all their branches for all examples. `switch` and
`when` are the same functions for one example, but under vmap each branch gets only the examples
that take it, a part of the batch at a time.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_batching import custom_vmap
from jax.extend.core import ClosedJaxpr, Primitive, jaxpr_as_fun
from jax.interpreters import mlir

PARTS = 4  # into which a batch is cut; what remains of the last one is computed in vain
LEAST = 4  # examples of a part


def each(function: Callable, *args):
  """`function` of every example of a batch: of args[0][i], args[1][i], ... for every i.

  The CPU processes one photo at a time, and takes one branch of each `switch`. GPU and TPU use the
  vmapped form: a single photo would leave most of their cores idle.

  `lax.platform_dependent` would do the same, but trace both forms, and the vmapped one takes most
  of the time. Not differentiable.
  """
  one = [jax.ShapeDtypeStruct(x.shape[1:], x.dtype) for x in args]
  traced, shape = jax.make_jaxpr(function, return_shape=True)(*one)
  return jax.tree.unflatten(jax.tree.structure(shape), _each(*args, traced=traced))


@partial(jax.jit, static_argnames='traced')
def _each(*args, traced):
  return _EACH.bind(*args, traced=traced)


_EACH = Primitive('each_example')
_EACH.multiple_results = True


@_EACH.def_abstract_eval
def _(*args, traced):
  return [x.update(shape=(args[0].shape[0], *x.shape)) for x in traced.out_avals]


def _one_by_one(*args, traced):
  return lax.map(lambda args: jaxpr_as_fun(traced)(*args), args)


def _at_once(*args, traced):
  return jax.vmap(jaxpr_as_fun(traced))(*args)


mlir.register_lowering(_EACH, mlir.lower_fun(_at_once, multiple_results=True))
mlir.register_lowering(_EACH, mlir.lower_fun(_one_by_one, multiple_results=True), platform='cpu')


def switch(index, branches: Sequence[Callable], *operands):
  """lax.switch(index, branches, *operands); under vmap, see the head of this file.

  There are no gradients. Results must be arrays of numbers, not keys.

  Raises:
    TypeError: the branches do not give the same.
  """
  index = jnp.clip(index, 0, len(branches) - 1)
  traced, consts, shape = _traced(branches, operands)
  flat = jax.tree.leaves(operands)

  def plain(index, consts, flat):
    return lax.switch(index, [partial(_run, i, traced) for i in range(len(traced))], consts, flat)

  chosen = custom_vmap(plain)

  @chosen.def_vmap
  def _(size, batched, index, consts, flat):
    own = tuple(batched[1:])
    if not batched[0]:
      axes = jax.tree.map(_axis, own)
      out = jax.vmap(partial(plain, index), axes, axis_size=size)(consts, flat)
    else:
      out = [jnp.zeros((size, *x.shape), x.dtype) for x in jax.tree.leaves(shape)]
      for i in range(len(traced)):
        run = partial(_run, i, traced)
        out = _some(index == i, run, (consts, flat), own, out)
    return out, [True] * len(out)

  return jax.tree.unflatten(jax.tree.structure(shape), chosen(index, consts, flat))


def when(active, function: Callable, carry, *operands):
  """lax.cond(active, function, lambda carry, *operands: carry, carry, *operands).

  Under vmap, see the head of this file. There are no gradients.

  Args:
    active: bool.
    function: (carry, *operands) -> carry.
    carry: a tree of arrays of numbers.
    operands: trees of arrays.

  Raises:
    TypeError: `function` gives something else than a carry.
  """
  traced, consts, shape = _traced([function], (carry, *operands))
  _check_same(shape, carry)
  before, flat = jax.tree.leaves(carry), jax.tree.leaves((carry, *operands))
  run = partial(_run, 0, traced)

  def plain(active, consts, flat):
    return lax.cond(active, run, lambda consts, flat: flat[: len(before)], consts, flat)

  chosen = custom_vmap(plain)

  @chosen.def_vmap
  def _(size, batched, active, consts, flat):
    own = tuple(batched[1:])
    if not batched[0]:
      axes = jax.tree.map(_axis, own)
      out = jax.vmap(partial(plain, active), axes, axis_size=size)(consts, flat)
    else:
      pairs = zip(own[1], flat[: len(before)])
      out = [x if many else jnp.broadcast_to(x, (size, *x.shape)) for many, x in pairs]
      out = _some(active, run, (consts, flat), own, out)
    return out, [True] * len(out)

  return jax.tree.unflatten(jax.tree.structure(shape), chosen(active, consts, flat))


def _traced(branches: Sequence[Callable], operands) -> tuple[list, list, Any]:
  """The branches as programs, what they take from outside, and the shapes of their results."""
  made = [jax.make_jaxpr(branch, return_shape=True)(*operands) for branch in branches]
  for _, shape in made[1:]:
    _check_same(shape, made[0][1])
  return [closed.jaxpr for closed, _ in made], [closed.consts for closed, _ in made], made[0][1]


def _check_same(result, expected):
  found, expected = (jax.tree.map(lambda x: (x.shape, x.dtype), x) for x in (result, expected))
  if found != expected:
    raise TypeError(f'branches have to give the same shapes and types: {found} is not {expected}')


def _run(i, traced, consts, flat):
  return jaxpr_as_fun(ClosedJaxpr(traced[i], consts[i]))(*flat)


def _axis(batched):
  return 0 if batched else None


def _some(active, function, args, batched, out):
  """`function` of the examples that are active, in the rows of `out` that are theirs.

  Args:
    active: bool [B].
    function: of one example's `args` -> list of arrays.
    args: a tree; arrays [B, ...] where the same tree `batched` is true, else the same for all.
    out: list of arrays [B, ...].
  """
  size = len(active)
  part = min(size, max(LEAST, math.ceil(size / PARTS)))
  count = active.sum()
  order = jnp.argsort(~active)  # stable: the active ones first
  order = jnp.concatenate([order, jnp.zeros(part, order.dtype)])
  run = jax.vmap(function, jax.tree.map(_axis, batched))

  def step(i, out):
    places = lax.dynamic_slice(order, (i * part,), (part,))
    rows = jax.tree.map(lambda many, x: x[places] if many else x, batched, args)
    # One past the end is dropped.
    there = jnp.where(i * part + jnp.arange(part) < count, places, size)
    return [x.at[there].set(new, mode='drop') for x, new in zip(out, run(*rows))]

  return lax.fori_loop(0, (count + part - 1) // part, step, out)
