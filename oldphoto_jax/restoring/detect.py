"""Photos in, masks of their damage out.

A photo is looked at in its own resolution, in overlapping tiles where it is large.
"""

import dataclasses
import os
from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np

from oldphoto_jax.errors import PhotoError
from oldphoto_jax.photos import images, masks
from oldphoto_jax.restoring import engine, folder, shapes

MASKS, OVERLAYS = 'masks', 'overlays'  # folders below the output folder
RED = np.array([255, 0, 0], np.float32)


@dataclasses.dataclass(frozen=True, eq=False)
class Detector:
  """A trained detector, ready to use."""

  # (params, photos float32 [B, H, W, 3] in [-1, 1]) -> probability of damage [B, H, W, 1].
  apply: Callable[[Any, jax.Array], jax.Array]
  params: Any
  multiple: int  # H and W must be multiples of it
  name: str  # says which weights these are, in the report


def marker(
  detector: Detector,
  sizes: Iterable[tuple[int, int]] = (),
  *,
  tile: int = 1024,
  overlap: int = 128,
  max_shapes: int = 4,
) -> Callable[[np.ndarray], np.ndarray]:
  """The detector as a function of photos of any size.

  Args:
    detector: the trained network.
    sizes: height and width of the photos to come, so that few programs serve them all; a photo of
      another size is served too.
    tile: photos with a side longer than this are looked at in tiles of it.
    overlap: pixels over which neighbouring tiles are blended. Near a tile's edge the network sees
      a mirrored photo instead of what lies beyond.
    max_shapes: number of programs to compile at most for `sizes`.

  Returns:
    Photo, float32 [H, W, 3] in [-1, 1] -> probability of damage, float32 [H, W, 1] in [0, 1].

  Raises:
    ValueError: `overlap` is not from 1 to half of the tile.
  """
  plan = shapes.plan(sizes, detector.multiple, tile=tile, overlap=overlap, max_shapes=max_shapes)
  run = engine.program(detector.apply, detector.params)
  network = engine.Tiled(plan, detector.name, run)
  return lambda photo: np.clip(network.restore(photo), 0, 1)  # a blend of ones may end a bit above


def plan(
  paths: Iterable[str | os.PathLike], out: str | os.PathLike, *, overwrite: bool = False
) -> folder.Plan:
  """What `detect_photos` has to do, masks/NAME.png and overlays/NAME.jpg: see folder.plan."""

  def outputs(name):
    return {
      'mask': MASKS / name.with_suffix('.png'),
      'overlay': OVERLAYS / name.with_suffix('.jpg'),
    }

  return folder.plan(paths, out, outputs, overwrite=overwrite)


def detect_photos(
  detector: Detector,
  todo: folder.Plan,
  *,
  threshold: float | None = None,
  tile: int = 1024,
  progress: Callable[[int, int, folder.Result], None] | None = None,
) -> folder.Summary:
  """Writes a mask and an overlay picture of each photo into a folder, and report.json.

  A mask is gray, 8 bits, of the photo's size: white is damaged. An overlay is the photo with the
  damage in red. What the report has of a photo beside folder.Result: `damaged`, the share of the
  pixels at or over the threshold.

  Args:
    detector: the trained network.
    todo: of `plan`.
    threshold: makes masks black and white: white from this probability on. None: a mask holds the
      probability, and the report counts pixels from 1/2 on.
    tile: see `marker`.
    progress: called after each photo with (photos done, photos in all, result).

  Raises:
    PhotoError: a folder cannot be made.
    ValueError: an argument is out of range.
  """
  if threshold is not None and not 0 < threshold < 1:
    raise ValueError(f'threshold is {threshold}; it must be between 0 and 1.')
  mark = marker(detector, todo.sizes, tile=tile)

  def one(item: folder.Item) -> folder.Done:
    photo = images.read(item.path)
    mask = mark(images.to_float(photo))
    if not np.isfinite(mask).all():
      raise PhotoError('the detector gave values that are not finite; check its weights.')
    damaged = mask >= (0.5 if threshold is None else threshold)
    if threshold is not None:
      mask = damaged.astype(np.float32)
    made = {'mask': masks.to_photo(mask, photo.dpi), 'overlay': overlay_photo(photo, mask)}
    for name, output in item.outputs.items():
      folder.write(todo, made[name], output)
    return folder.Done(photo.size, photo.warnings, {'damaged': float(damaged.mean())})

  return folder.run(
    todo,
    folder.each(one),
    {'weights': detector.name, 'threshold': threshold},
    'marked',
    'use smaller tiles',
    progress=progress,
  )


def overlay_photo(photo: images.Photo, mask: np.ndarray) -> images.Photo:
  """The photo, 8 bits, faded a little, with the damage in red as strong as `mask` [H, W, 1]."""
  pixels = images.to_rgb8(photo).astype(np.float32)
  gray = pixels.mean(-1, keepdims=True)
  pixels = 0.6 * gray + 0.4 * pixels  # so that red stands out from coloured photos
  pixels += mask * (RED - pixels)
  icc = None if photo.gray else photo.icc
  return images.Photo(np.rint(pixels).astype(np.uint8), icc=icc, dpi=photo.dpi)
