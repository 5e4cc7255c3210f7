"""Trees of parameters: their initialisation and spectral norm.

A tree holds modules by name, each with a kernel [h, w, in, out] and sometimes a bias [out].
"""

import math
from typing import Any

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp


def init_normal(
  module: nn.Module, key: jax.Array, *inputs: jax.Array, std: float | None = 0.02
) -> Any:
  """Parameters of a module: kernels N(0, std), biases 0 (`init_weights` of the GAN references).

  `std` None is for networks without norms: sqrt(2 / fan-in) for each kernel (He et al. 2015).

  All kernels are drawn at once. module.init would compile a random generator per kernel, which
  takes longer than a training step of the network.

  Raises:
    ValueError: for a module with parameters that are neither kernels nor biases.
  """
  shapes = jax.eval_shape(module.init, key, *inputs)['params']
  paths, structure = jax.tree_util.tree_flatten_with_path(shapes)
  names = [path[-1].key for path, _ in paths]
  if not set(names) <= {'kernel', 'bias'}:
    raise ValueError(f'init_normal knows kernels and biases only, not {sorted(set(names))}')
  sizes = [leaf.size if name == 'kernel' else 0 for name, (_, leaf) in zip(names, paths)]
  drawn = jax.random.normal(key, (sum(sizes),))
  leaves, start = [], 0
  for size, (_, leaf) in zip(sizes, paths):
    scale = std or math.sqrt(2 * leaf.shape[-1] / leaf.size)
    values = scale * drawn[start : start + size] if size else jnp.zeros(leaf.size)
    leaves.append(values.reshape(leaf.shape))
    start += size
  return jax.tree.unflatten(structure, leaves)


def right_vectors(params: Any, key: jax.Array) -> Any:
  """Random unit vectors [k, k, in], one per kernel in a tree of parameters."""
  kernels = {
    path: leaf
    for path, leaf in flax.traverse_util.flatten_dict(params).items()
    if path[-1] == 'kernel'
  }
  keys = jax.random.split(key, len(kernels))
  drawn = {
    path: jax.random.normal(k, kernels[path].shape[:-1]) for k, path in zip(keys, sorted(kernels))
  }
  return flax.traverse_util.unflatten_dict({p: v / jnp.linalg.norm(v) for p, v in drawn.items()})


def power_iteration(params: Any, vectors: Any) -> Any:
  """Moves vectors towards the right singular vectors of their kernels: v <- W^T W v, normalised."""

  def nearer(params, v):
    if not isinstance(v, dict):
      u = jnp.einsum('hwio,hwi->o', params, v)
      v = jnp.einsum('hwio,o->hwi', params, u)
      return v / jnp.maximum(jnp.linalg.norm(v), 1e-12)
    return {name: nearer(params[name], v[name]) for name in v}

  return nearer(params, vectors)


def spectral_norm(params: Any, vectors: Any) -> Any:
  """Kernels divided by |W v|, their largest singular value once v has converged.

  Miyato et al. 2018. W has the rows [out] and the columns [k, k, in]. Other parameters are returned
  unchanged. No gradient reaches the vectors.
  """

  def divided(params, v):
    if not isinstance(v, dict):
      return params / jnp.linalg.norm(jnp.einsum('hwio,hwi->o', params, jax.lax.stop_gradient(v)))
    return params | {name: divided(params[name], v[name]) for name in v}

  return divided(params, vectors)
