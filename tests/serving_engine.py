"""An engine for tests of the page: no network, but the same walk of a photo. Nothing compiles."""

import numpy as np

from oldphoto_jax.restoring import engine, shapes

SHIFT = 20  # levels
SIZE = 120, 180  # height and width of `photo`


def make(slow=lambda: None):
  """Makes all redder and less blue by SHIFT, takes white for damage, and fills with middle gray.

  So the brightness stays: a network that changes it is not believed.

  `slow` is called for each tile that is computed.
  """

  def run_look(tile):
    slow()
    white = (tile > 0.95).all(-1, keepdims=True).astype(np.float32)
    return tile + np.array([SHIFT, 0, -SHIFT], np.float32) / 127.5, white

  def run_fill(tile, marked):
    slow()
    return (np.where(marked > 0, np.float32(0), tile),) * 2

  return engine.Repairing(shapes.plan((), 16, tile=512), 'fake', run_look, run_fill)


def photo(seed=0, dtype=np.uint8, size=SIZE):
  """Dark, with a little noise, and a white scratch in the rows 20 to 22."""
  top = np.iinfo(dtype).max
  pixels = np.random.default_rng(seed).integers(top // 4, top // 3, (*size, 3), dtype)
  pixels[20:23, 10:-10] = top
  return pixels
