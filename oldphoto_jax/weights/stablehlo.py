"""Trained networks as StableHLO for photos of any size, by jax.export.

A file holds one function with its weights: photos float32 [1, H, W, 3] in [-1, 1], as everywhere in
this package, to the same. H and W are multiples of what the network needs, and at least twice that;
of a cleaner, which measures the noise first, multiples of 32.
It runs without this package:

  restored = jax.export.deserialize(pathlib.Path(file).read_bytes()).call(photo)

Filling by `repair` has no such form: nn.prefill halves the photo until one pixel is left, so its
program depends on the size. weights.onnx_graphs has it.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import export

from oldphoto_jax.errors import WeightsError
from oldphoto_jax.nn import noise
from oldphoto_jax.weights.file import DETECTOR, Loaded, networks

PLATFORMS = ('cpu', 'cuda', 'rocm', 'tpu')


def files(loaded: Loaded) -> dict[str, bytes]:
  """The functions of trained weights: name of the file -> what it holds.

  look.stablehlo of `repair`, with a cleaner also clean.stablehlo, detect.stablehlo of a detector,
  and restore.stablehlo of others.

  Raises:
    WeightsError: these networks have no such form.
  """
  weights = loaded.weights
  if weights.system not in ('repair', DETECTOR, 'pix2pix', 'cyclegan'):
    raise WeightsError(
      f'{loaded.file} holds the system {weights.system}, which has no StableHLO form: export '
      'repair, a detector, pix2pix or cyclegan'
    )
  if weights.model.get('test_dropout'):
    raise WeightsError(
      'these weights restore with dropout, which draws random numbers: export weights without '
      'test_dropout'
    )
  released = networks(weights)
  multiple = released.multiple
  if released.look is None:
    parts = {'detect' if weights.system == DETECTOR else 'restore': (released.apply, multiple)}
  else:
    parts = {'look': (released.look, multiple)}
    if released.cleaning is not None:  # it counts whole blocks
      parts['clean'] = released.apply, math.lcm(multiple, 4 * noise.BLOCK)
  return {
    f'{name}.stablehlo': _exported(function, weights.params, multiple)
    for name, (function, multiple) in parts.items()
  }


def _exported(function: Any, params: Any, multiple: int) -> bytes:
  sides = export.symbolic_shape(f'{multiple}*h, {multiple}*w', constraints=('h >= 2', 'w >= 2'))
  photo = jax.ShapeDtypeStruct((1, *sides, 3), jnp.float32)
  exported = export.export(jax.jit(lambda x: function(params, x)), platforms=PLATFORMS)(photo)
  return bytes(exported.serialize())
