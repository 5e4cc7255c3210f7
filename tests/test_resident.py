"""Training squares that are cut on the device."""

import jax
import numpy as np
import pytest

from benchmarks.accelerator import resident
from oldphoto_jax.data import prints
from oldphoto_jax.data.pipeline import Crop
from oldphoto_jax.errors import PhotoError

SIZE = 16


def labelled(rng, height, width):
  """A print whose damage is white, whose undecidable part is black, and the rest neither."""
  photo = rng.integers(60, 200, (height, width, 3)).astype(np.uint8)
  label = np.zeros((height, width), np.uint8)
  label[5:9, 7:12], label[-4:] = prints.DAMAGED, prints.IGNORED
  photo[label == prints.DAMAGED], photo[label == prints.IGNORED] = 255, 0
  return photo, label


def stream(scale=(1.0, 1.0), **settings):
  rng = np.random.default_rng(0)
  photos, labels = zip(*(labelled(rng, *sides) for sides in ((30, 40), (50, 20))))
  clean = [rng.integers(0, 256, sides).astype(np.uint8) for sides in ((20, 33, 3), (40, 17, 3))]
  crop = Crop(SIZE, scale)
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
  settings = {'p_print': 0.5, 'p_transplant': 0.5, 'p_sought': 1.0}
  found = drawn(stream(**settings), 200)
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
  both = drawn(stream(**settings, p_transplant_clean=0.3), 200)
  on_clean = both['moved'].any((1, 2, 3))[~is_print]
  assert 10 < on_clean.sum() < 50
  for name in found:  # all else is as without
    where = is_print if name in ('donor', 'moved') else np.ones_like(is_print)
    np.testing.assert_array_equal(both[name][where], found[name][where])
  assert not found['damaged'][~is_print].any()
  # It is in a quarter of the squares, and in most where it is sought in four of them.
  assert found['damaged'].any((1, 2, 3))[is_print & ~moved].mean() > 0.55


def test_photos_are_there_at_several_sizes():
  source = stream((0.5, 1.5), p_print=0.9, p_sought=0.0)
  shelves = resident.shelves(source, threads=1)
  # The middle of eight parts of the range; a photo of 30x40 gets no smaller than a square.
  expected = [max(SIZE / 30, 0.5 + (i + 0.5) / 8) for i in range(8)]
  np.testing.assert_array_equal(
    shelves.prints.sides[0], [[round(30 * f), round(40 * f)] for f in expected]
  )
  assert len(shelves.prints.pixels) == shelves.prints.sides.prod(-1).sum()
  found = drawn(source, 200)
  prints_found = {name: value[found['is_print']] for name, value in found.items()}
  assert 160 < len(prints_found['image']) < 199
  # The photo is white where it is damaged, and was resized with its label.
  white = (prints_found['image'] > 228).all(-1)
  agree = white == (prints_found['damaged'][..., 0] == 255)
  assert agree.mean() > 0.98 and white.any((1, 2)).sum() > 20
  assert not prints_found['moved'].any()  # p_transplant is 0


def test_too_many_photos_are_a_sentence(monkeypatch):
  monkeypatch.setattr(resident, 'LARGEST', 10_000)
  with pytest.raises(PhotoError, match='pack fewer or smaller'):
    resident.shelves(stream(), threads=1)
