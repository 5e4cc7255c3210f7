"""Photos on disk -> uint8 batches on this host: sources, the Grain pipeline, Pascal VOC."""

from oldphoto_jax.data.pipeline import (
  Batches,
  Crop,
  Photos,
  RealAndClean,
  Stream,
  Unpaired,
  eval_batches,
  train_batches,
)
from oldphoto_jax.data.sources import (
  Pairs,
  Source,
  cached,
  folder,
  manifest,
  pairs,
  sample_photos,
  subset,
  tfds_images,
)

__all__ = [
  'Batches',
  'Crop',
  'Pairs',
  'Photos',
  'RealAndClean',
  'Source',
  'Stream',
  'Unpaired',
  'cached',
  'eval_batches',
  'folder',
  'manifest',
  'pairs',
  'sample_photos',
  'subset',
  'tfds_images',
  'train_batches',
]
