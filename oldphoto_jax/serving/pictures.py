"""Pictures for the screen: small ones, and tiles of large ones, in the colours of their profile."""

import collections
import dataclasses
import io
import math
import os
import pathlib
import threading

import numpy as np
from PIL import Image

from oldphoto_jax.photos import images
from oldphoto_jax.restoring import shapes

SIDES = {'small': 360, 'large': 1600}  # pixels of the longer side of the pictures that are stored
TILE = 512  # pixels per side of a tile
RED = (226, 62, 40)  # of damage


def fitting(size: tuple[int, int], side: int) -> tuple[int, int]:
  """Height and width of a photo, shrunk in proportion to at most `side` pixels per side."""
  scale = min(1.0, side / max(size))
  return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def shrunk(photo: images.Photo, side: int) -> images.Photo:
  """A copy with at most `side` pixels per side, of the same depth, without tags."""
  size = fitting(photo.size, side)
  pixels = photo.pixels
  if size != photo.size:
    pixels = np.rint(shapes.resized(pixels, *size)).astype(pixels.dtype)
  return images.Photo(pixels, gray=photo.gray, format=photo.format, icc=photo.icc)


def shrunk_floats(photo: images.Photo, size: tuple[int, int]) -> np.ndarray:
  """A copy of this height and width, float32 [h, w, 3] in [-1, 1]."""
  top = np.iinfo(photo.pixels.dtype).max
  return shapes.resized(photo.pixels, *size) * np.float32(2 / top) - 1


def jpeg(photo: images.Photo, quality: int = 88) -> bytes:
  """The photo as a browser can show it: 8 bits, opaque, with its profile."""
  pixels, buffer = images.to_rgb8(photo), io.BytesIO()
  image = Image.fromarray(pixels[..., 0] if photo.gray else pixels)
  image.save(buffer, 'JPEG', quality=quality, icc_profile=photo.icc or b'')
  return buffer.getvalue()


def write_small(photo: images.Photo, folder: pathlib.Path, name: str) -> None:
  """Writes NAME-small.jpg and NAME-large.jpg. Raises PhotoError if they cannot be written."""
  images.make_folder(folder)
  for kind in ('large', 'small'):
    photo = shrunk(photo, SIDES[kind])
    images.write_bytes(folder / f'{name}-{kind}.jpg', jpeg(photo), overwrite=True)


def stained(mask: np.ndarray) -> bytes:
  """A mask, uint8 [H, W], as a PNG that lies over the photo: red as opaque as it is damaged."""
  rgba = np.empty((*mask.shape, 4), np.uint8)
  rgba[..., :3], rgba[..., 3] = RED, mask
  buffer = io.BytesIO()
  Image.fromarray(rgba).save(buffer, 'PNG', compress_level=1)
  return buffer.getvalue()


@dataclasses.dataclass(frozen=True, eq=False)
class Decoded:
  """A photo in memory: uint8 [H, W, 3], or [H, W] if it is gray, and its profile."""

  pixels: np.ndarray
  icc: bytes | None


class Cache:
  """Decoded photos, the least used forgotten first. They are decoded one at a time."""

  def __init__(self, limit: int, pixels: int):
    """`limit`: bytes that are kept at most; `pixels`: of a photo that is read at all."""
    self._limit, self._pixels, self._lock = limit, pixels, threading.Lock()
    self._photos: collections.OrderedDict[tuple, Decoded] = collections.OrderedDict()
    self._small: collections.OrderedDict[tuple, images.Photo] = collections.OrderedDict()

  def decoded(self, path: pathlib.Path) -> Decoded:
    """The photo in a file. Raises PhotoError as images.read."""
    with self._lock:
      return self._decoded(path)

  def _decoded(self, path: pathlib.Path) -> Decoded:
    key = _key(path)
    if key in self._photos:
      self._photos.move_to_end(key)
    else:
      photo = images.read(path, self._pixels)
      pixels = images.to_rgb8(photo)
      # A copy of one channel: a view would keep all three.
      self._photos[key] = Decoded(pixels[..., 0].copy() if photo.gray else pixels, photo.icc)
      total = sum(p.pixels.nbytes for p in self._photos.values())
      while total > self._limit and len(self._photos) > 1:
        total -= self._photos.popitem(last=False)[1].pixels.nbytes
    return self._photos[key]

  def small(self, path: pathlib.Path, side: int) -> images.Photo:
    """A small copy of the photo in a file, see `shrunk`. Raises PhotoError as images.read."""
    with self._lock:
      key = (*_key(path), side)
      if key not in self._small:
        self._small[key] = shrunk(images.read(path, self._pixels), side)
        while len(self._small) > 8:
          self._small.popitem(last=False)
      self._small.move_to_end(key)
      return self._small[key]

  def forget(self, folder: pathlib.Path) -> None:
    """Forgets the photos in a folder."""
    with self._lock:
      for known in (self._photos, self._small):
        for key in [k for k in known if pathlib.Path(k[0]).is_relative_to(folder)]:
          del known[key]

  def tile(self, path: pathlib.Path, level: int, x: int, y: int) -> tuple[bytes, str] | None:
    """A square of a photo that is shrunk by 2**level, and its media type; None: outside of it.

    At level 0 it is a PNG, so that single pixels are what they are.
    """
    photo = self.decoded(path)
    part = _cut(photo.pixels, level, x, y)
    if part is None:
      return None
    image, buffer = Image.fromarray(part), io.BytesIO()
    if level == 0:
      image.save(buffer, 'PNG', compress_level=1, icc_profile=photo.icc)
      return buffer.getvalue(), 'image/png'
    image.save(buffer, 'JPEG', quality=90, icc_profile=photo.icc or b'')
    return buffer.getvalue(), 'image/jpeg'

  def mask_tile(self, path: pathlib.Path, level: int, x: int, y: int) -> bytes | None:
    """The same of a mask, as `stained`."""
    part = _cut(self.decoded(path).pixels, level, x, y)
    return None if part is None else stained(part)


def _cut(pixels: np.ndarray, level: int, x: int, y: int) -> np.ndarray | None:
  reach = TILE << level
  part = pixels[y * reach : (y + 1) * reach, x * reach : (x + 1) * reach]
  if not part.size:
    return None
  part = np.ascontiguousarray(part)
  return part if level == 0 else np.asarray(Image.fromarray(part).reduce(1 << level))


def levels(size: tuple[int, int]) -> int:
  """How many levels of tiles a photo of this height and width has: the last fits into one."""
  return 1 + max(0, math.ceil(math.log2(max(size) / TILE)))


def _key(path: pathlib.Path) -> tuple:
  facts = os.stat(path)
  return str(path), facts.st_mtime_ns, facts.st_size
