"""Restores old photographs.

  import oldphoto_jax
  restorer = oldphoto_jax.load()
  restored = restorer.restore(photo)  # uint8 [H, W, 3] in, the same out

See `load` and library.ArrayRestorer.restore. JAX is imported by `load`, not by the package itself.
"""

import typing

if typing.TYPE_CHECKING:
  import os

  from oldphoto_jax import library

__version__ = '0.2.0.dev0'


def load(weights: 'str | os.PathLike | None' = None) -> 'library.ArrayRestorer':
  """Loads a trained system that restores photos given as arrays.

  Args:
    weights: a weights file, or the folder of a training run. None: the weights in the package.

  Raises:
    errors.WeightsError: the weights cannot be used.
  """
  from oldphoto_jax import library

  return library.load(weights)
