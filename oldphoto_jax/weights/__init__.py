"""Files of weights: their format, and readers of the official checkpoints."""

from oldphoto_jax.errors import WeightsError
from oldphoto_jax.weights.file import (
  DETECTOR,
  FILE,
  SHIPPED,
  Loaded,
  Weights,
  check,
  check_shapes,
  load,
  load_detector,
  load_restorer,
  read,
  restorer,
  save,
  triplet,
  with_patches,
  without_fusion,
)

__all__ = [
  'DETECTOR',
  'FILE',
  'SHIPPED',
  'Loaded',
  'Weights',
  'WeightsError',
  'check',
  'check_shapes',
  'load',
  'load_detector',
  'load_restorer',
  'read',
  'restorer',
  'save',
  'triplet',
  'with_patches',
  'without_fusion',
]
