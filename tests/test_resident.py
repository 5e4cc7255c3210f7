"""Training squares that are cut on the device."""

import jax
import numpy as np

from benchmarks.accelerator import resident
from oldphoto_jax.data import prints
from oldphoto_jax.data.pipeline import Crop

SIZE = 16


def labelled(rng, height, width):
  """A print whose damage is white, whose undecidable part is black, and the rest neither."""
  photo = rng.integers(60, 200, (height, width, 3)).astype(np.uint8)
  label = np.zeros((height, width), np.uint8)
  label[5:9, 7:12], label[-4:] = prints.DAMAGED, prints.IGNORED
  photo[label == prints.DAMAGED], photo[label == prints.IGNORED] = 255, 0
  return photo, label


def stream(**settings):
  rng = np.random.default_rng(0)
  photos, labels = zip(*(labelled(rng, *sides) for sides in ((30, 40), (50, 20))))
  clean = [rng.integers(0, 256, sides).astype(np.uint8) for sides in ((20, 33, 3), (40, 17, 3))]
  crop = Crop(SIZE, (1.0, 1.0))
  known = prints.Prints(['a', 'b'], photos, labels)
  return prints.CleanAndPrints(clean, known, crop, crop, **settings)


def drawn(source, count):
  shelves = jax.device_put(resident.shelves(source, threads=1))
  draw = jax.jit(jax.vmap(lambda key: resident.draw(source, shelves, key)))
  return jax.tree.map(np.asarray, draw(jax.random.split(jax.random.key(0), count)))


def test_squares_are_parts_of_the_photos():
  source = stream(p_print=0.0)
  windows = [
    np.lib.stride_tricks.sliding_window_view(photo, (SIZE, SIZE, 3)).reshape(-1, SIZE, SIZE, 3)
    for photo in source.clean
  ]
  windows = np.concatenate(windows)
  known = {window.tobytes() for window in (*windows, *windows[:, :, ::-1])}
  images = drawn(source, 60)['image']
  assert all(image.tobytes() in known for image in images)
  assert len({image.tobytes() for image in images}) > 50


def test_labels_are_cut_and_turned_with_their_prints():
  found = drawn(stream(p_print=0.5, p_transplant=0.5, p_sought=1.0), 200)
  is_print = found['is_print']
  assert 70 < is_print.sum() < 130
  for photo, mark in (('image', 'damaged'), ('donor', 'moved')):
    np.testing.assert_array_equal(
      (found[photo][is_print] == 255).all(-1), found[mark][is_print, ..., 0] == 255
    )
  np.testing.assert_array_equal(
    (found['image'] == 0).all(-1)[is_print], found['ignored'][is_print, ..., 0] == 255
  )
  moved = found['moved'].any((1, 2, 3))
  assert not moved[~is_print].any() and 20 < moved.sum() < 80
  assert not found['damaged'][~is_print].any()
  # It is in a quarter of the squares, and in most where it is sought in four of them.
  assert found['damaged'].any((1, 2, 3))[is_print & ~moved].mean() > 0.55
