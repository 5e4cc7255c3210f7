"""A small repair network, as after some training, and a batch for it."""

import functools

import jax
import numpy as np
import optax

from oldphoto_jax.models import repair

NET = repair.Repair(widths=(4, 8), blocks=1, g_tx=optax.sgd(0.1))


def photos(count=4, side=32, seed=0):
  """Noise, float32 [count, side, side, 3] in [-1, 1]."""
  rng = np.random.default_rng(seed)
  return rng.uniform(-1, 1, (count, side, side, 3)).astype(np.float32)


def batch(count=4):
  """What repair.train_step takes: photos of 32x32 pixels with a hole in each."""
  holes, ones = np.zeros((count, 32, 32, 1), np.float32), np.ones((count, 32, 32, 1), np.float32)
  holes[:, 10:14, 5:25] = 1
  return {
    'old': photos(count),
    'clean': photos(count, seed=1),
    'damage': holes,
    'known': ones,
    'judged': ones.copy(),
    'sound': 1 - holes,
    'told': holes.copy(),
    'trust': np.ones((count, 1, 1, 1), np.float32),
  }


def moved(params, by, seed=1):
  """Parameters to which noise of the deviation `by` is added: none is zero any more."""
  leaves, tree = jax.tree.flatten(params)
  keys = jax.random.split(jax.random.key(seed), len(leaves))
  noisy = [leaf + by * jax.random.normal(k, leaf.shape) for k, leaf in zip(keys, leaves)]
  return jax.tree.unflatten(tree, noisy)


@functools.cache
def trained():
  """Parameters of NET."""
  return moved(repair.init(NET, jax.random.key(0)).g, 0.05)
