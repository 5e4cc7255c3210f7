"""Photos that stay in an accelerator's memory, and training squares that are cut there.

A card trains on more squares in a second than the cores beside it can cut. So all photos are
resized once, to SCALES sizes, and the rest of data.prints.CleanAndPrints happens in the train step.
"""

import concurrent.futures
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from oldphoto_jax.data import Crop
from oldphoto_jax.data.pipeline import resized_sides
from oldphoto_jax.data.prints import SEEN, CleanAndPrints
from oldphoto_jax.errors import PhotoError

SCALES = 8  # sizes of each photo; a Crop draws from a range
LARGEST = 2**31 - 1  # pixels of a shelf, at all sizes: places in it are int32


class Shelf(NamedTuple):
  """Photos, one after the other, at all their sizes.

  pixels: uint8 [N, C]: red, green, blue, and for prints 255 where damaged, 255 where undecidable.
  start: int32 [P, SCALES], the place of the first pixel of photo P at that size.
  sides: int32 [P, SCALES, 2], height and width.
  """

  pixels: np.ndarray
  start: np.ndarray
  sides: np.ndarray


class Shelves(NamedTuple):
  """The photos of a stream. `prints` is None if there are none; `donors`: see Prints."""

  clean: Shelf
  prints: Shelf | None
  donors: np.ndarray | None


def shelves(stream: CleanAndPrints, threads: int) -> Shelves:
  """All photos of a stream, resized by `threads`, in this machine's memory.

  Raises:
    PhotoError: at all their sizes, they have more than LARGEST pixels.
  """
  clean = _shelf(len(stream.clean), lambda i: (stream.clean[i],), stream.crop, threads)
  known = stream.prints
  if not len(known) or not stream.p_print:
    return Shelves(clean, None, None)
  marked = lambda i: (known.photos[i], known.marks[i])
  prints = _shelf(len(known), marked, stream.print_crop, threads)
  return Shelves(clean, prints, np.array(known.donors, np.int32))


def _shelf(
  count: int, load: Callable[[int], Sequence[np.ndarray]], crop: Crop, threads: int
) -> Shelf:
  low, high = crop.scale
  scales = low + (high - low) * (np.arange(SCALES) + 0.5) / SCALES

  def sides_of(photo):
    return [resized_sides(crop.size, *photo.shape[:2], scale) for scale in scales]

  def sized(i):
    layers = load(i)
    copies = []
    for sides in sides_of(layers[0]):
      parts = [
        np.asarray(Image.fromarray(layer).resize(sides[::-1], Image.Resampling.BICUBIC))
        for layer in layers
      ]
      parts[1:] = [255 * (marks[..., :2] >= 128).astype(np.uint8) for marks in parts[1:]]
      copies.append(np.concatenate(parts, -1))
    return copies

  with concurrent.futures.ThreadPoolExecutor(threads) as pool:
    sides = np.array(list(pool.map(lambda i: sides_of(load(i)[0]), range(count))), np.int32)
    counts = sides.astype(np.int64).prod(-1)
    if counts.sum() > LARGEST:  # before memory is full of them
      raise PhotoError(
        f'these {count} photos have {counts.sum() / 1e6:.0f} megapixels at {SCALES} sizes, and '
        f'{LARGEST / 1e6:.0f} are the most: pack fewer or smaller ones.'
      )
    photos = list(pool.map(sized, range(count)))
  start = (counts.cumsum() - counts.reshape(-1)).reshape(counts.shape).astype(np.int32)
  pixels = np.concatenate([copy.reshape(-1, copy.shape[2]) for some in photos for copy in some])
  return Shelf(pixels, start, sides)


def draw(stream: CleanAndPrints, shelves: Shelves, key: jax.Array) -> dict[str, jax.Array]:
  """One example as CleanAndPrints.draw makes it, but of photos at random instead of epochs.

  Args:
    stream: its shares; its photos are those of `shelves`.
    shelves: on the device.
    key: of this example.
  """
  keys = jax.random.split(key, 8)
  size = stream.crop.size
  clean = _cut(shelves.clean, size, stream.crop.flip, *_place(shelves.clean, size, keys[0]))
  nothing = jnp.zeros_like(clean[..., :1])
  example = {
    'image': clean, 'damaged': nothing, 'ignored': nothing, 'donor': jnp.zeros_like(clean),
    'moved': nothing, 'is_print': jnp.bool_(False),
  }  # fmt: skip
  if shelves.prints is None:
    return example
  is_print = jax.random.bernoulli(keys[1], stream.p_print)
  sought = jax.random.bernoulli(keys[2], stream.p_sought)
  donor = {}
  if len(shelves.donors):
    share = jnp.where(is_print, stream.p_transplant, stream.p_transplant_clean)
    moves = jax.random.bernoulli(keys[3], share)
    among = jax.random.randint(keys[4], (), 0, len(shelves.donors))
    found = _cut_print(stream, shelves.prints, keys[5], True, shelves.donors[among])
    donor = {
      'donor': jnp.where(moves, found[..., :3], 0),
      'moved': jnp.where(moves, found[..., 3:4], 0),
    }
    sought &= ~moves  # any part of a print takes damage
  cut = _cut_print(stream, shelves.prints, keys[6], sought)
  example |= donor
  a_print = example | {
    'image': cut[..., :3], 'damaged': cut[..., 3:4], 'ignored': cut[..., 4:],
    'is_print': jnp.bool_(True),
  }  # fmt: skip
  return jax.tree.map(lambda a, b: jnp.where(is_print, a, b), a_print, example)


def _cut_print(stream, shelf, key, sought, photo=None):
  """A square [S, S, 5] of a print; where `sought`, the first of some that shows damage."""
  size, crop = stream.print_crop.size, stream.print_crop
  photo_key, key, turn_key = jax.random.split(key, 3)
  if photo is None:
    photo = jax.random.randint(photo_key, (), 0, len(shelf.start))
  keys = jax.random.split(key, stream.tries)
  places = jax.vmap(lambda key: _place(shelf, size, key, photo))(keys)
  shares = jax.vmap(lambda *place: _cut(shelf, size, 0.0, *place)[..., 3].mean() / 255)(*places)
  damaged = shares > SEEN
  chosen = jnp.where(damaged.any(), jnp.argmax(damaged), stream.tries - 1)
  chosen = jnp.where(sought, chosen, 0)
  square = _cut(shelf, size, crop.flip, *(x[chosen] for x in places))
  over, turn = jax.random.bernoulli(turn_key, shape=(2,))
  square = jnp.where(over, square[::-1], square)
  return jnp.where(turn, square.swapaxes(0, 1), square)


def _place(shelf, size, key, photo=None):
  """A random square: place of its first pixel, width of its photo, and a key."""
  photo_key, scale_key, top_key, left_key, flip_key = jax.random.split(key, 5)
  if photo is None:
    photo = jax.random.randint(photo_key, (), 0, len(shelf.start))
  scale = jax.random.randint(scale_key, (), 0, SCALES)
  height, width = shelf.sides[photo, scale]
  top = jax.random.randint(top_key, (), 0, height - size + 1)
  left = jax.random.randint(left_key, (), 0, width - size + 1)
  return shelf.start[photo, scale] + top * width + left, width, flip_key


def _cut(shelf, size, flip, start, width, flip_key):
  places = start + jnp.arange(size)[:, None] * width + jnp.arange(size)
  square = shelf.pixels[places]
  return jnp.where(jax.random.bernoulli(flip_key, flip), square[:, ::-1], square)
