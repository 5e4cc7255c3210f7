"""Writes masks of the damage in photos, large ones examined in overlapping tiles."""

import dataclasses
import os
from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np

from oldphoto_jax.errors import PhotoError
from oldphoto_jax.photos import images, masks
from oldphoto_jax.restoring import engine, folder, output_files, programs, schedule, shapes, tasks

MASKS, OVERLAYS = 'masks', 'overlays'  # folders below the output folder
RED = np.array([255, 0, 0], np.float32)


@dataclasses.dataclass(frozen=True, eq=False)
class Detector:
  """A trained detector, ready to use."""

  # (params, photos float32 [B, H, W, 3] in [-1, 1]) -> probability of damage [B, H, W, 1].
  apply: Callable[[Any, jax.Array], jax.Array]
  params: Any
  multiple: int  # H and W must be multiples of this
  name: str  # identifies the weights in the report
  # A system that finds damage itself. Then it looks as when it restores, and `apply` is not used.
  system: engine.Restorer | None = None


def marker(
  detector: Detector,
  sizes: Iterable[tuple[int, int]] = (),
  *,
  tile: int = 1024,
  overlap: int | None = None,
  max_shapes: int = 4,
) -> Callable[[np.ndarray], np.ndarray]:
  """The detector as a function of photos of any size.

  Args:
    detector: the trained network.
    sizes: height and width of the expected photos, so that few programs serve them all. Photos of
      other sizes work too.
    tile: photos with a longer side than this are split into tiles of this size.
    overlap: pixels over which neighbouring tiles are blended. Near the edge of a tile, the network
      sees a reflection instead of the surroundings. None: 128, or what `oldphoto restore` takes
      for a system that finds damage itself.
    max_shapes: maximum number of programs to compile for `sizes`.

  Returns:
    Photo, float32 [H, W, 3] in [-1, 1] -> probability of damage, float32 [H, W, 1] in [0, 1].

  Raises:
    ValueError: `overlap` is not from 1 to half of the tile.
  """
  if detector.system is not None:
    system = engine.compiled(
      detector.system, sizes, tile=tile, overlap=overlap, max_shapes=max_shapes
    )
    assert isinstance(system, engine.Repairing)
    return lambda photo: np.clip(system.look(photo).probability, 0, 1)
  plan = shapes.plan(
    sizes,
    detector.multiple,
    tile=tile,
    overlap=128 if overlap is None else overlap,
    max_shapes=max_shapes,
  )
  run = programs.program(detector.apply, detector.params)

  def mark(photo: np.ndarray) -> np.ndarray:
    shape = plan.shape(photo.shape[:2])
    (found,) = engine.in_tiles(run, photo, plan, shape)
    return np.clip(found, 0, 1)  # blended ones may slightly exceed 1

  return mark


def plan(
  paths: Iterable[str | os.PathLike],
  out: str | os.PathLike,
  *,
  overwrite: bool = False,
  part: folder.Part = folder.WHOLE,
) -> folder.Plan:
  """Plans `detect_photos`, with masks/NAME.png and overlays/NAME.jpg: see folder.plan."""

  def outputs(name):
    return {
      'mask': MASKS / name.with_suffix('.png'),
      'overlay': OVERLAYS / name.with_suffix('.jpg'),
    }

  return folder.plan(paths, out, outputs, overwrite=overwrite, part=part)


def detect_photos(
  detector: Detector,
  todo: folder.Plan,
  *,
  threshold: float | None = None,
  tile: int = 1024,
  progress: Callable[[int, int, tasks.Result], None] | None = None,
) -> folder.Summary:
  """Writes a mask and an overlay picture of each photo into a folder, and its manifest.

  A mask is gray, with 8 bits and the size of the photo; white is damaged. An overlay is the photo
  with the damage in red. Beside the fields of tasks.Result, the report has `damaged`: the share of
  pixels at or above the threshold.

  Args:
    detector: the trained network.
    todo: of `plan`.
    threshold: makes masks black and white: white from this probability. None: masks hold the
      probability, and the report counts pixels from 1/2.
    tile: see `marker`.
    progress: called after each photo with (photos done, total, result).

  Raises:
    PhotoError, DiskFullError: see folder.run.
    ValueError: an argument is out of range.
  """
  if threshold is not None and not 0 < threshold < 1:
    raise ValueError(f'threshold is {threshold}; it must be between 0 and 1.')
  mark = marker(detector, todo.sizes, tile=tile)

  def one(item: tasks.Item) -> tasks.Done:
    photo = images.read(item.path)
    mask = mark(images.to_float(photo))
    if not np.isfinite(mask).all():
      raise PhotoError('the detector returned values that are not finite; check its weights.')
    damaged = mask >= (0.5 if threshold is None else threshold)
    if threshold is not None:
      mask = damaged.astype(np.float32)
    made = {'mask': masks.to_photo(mask, photo.dpi), 'overlay': overlay_photo(photo, mask)}
    for name, output in item.outputs.items():
      output_files.write(todo, made[name], output)
    return tasks.Done(photo.size, photo.warnings, {'damaged': float(damaged.mean())})

  return folder.run(
    todo,
    schedule.each(one),
    {'weights': detector.name, 'threshold': threshold},
    'marked',
    'use smaller tiles',
    progress=progress,
  )


def overlay_photo(photo: images.Photo, mask: np.ndarray) -> images.Photo:
  """The photo in 8 bits, slightly faded, with damage in red as strong as `mask` [H, W, 1]."""
  pixels = images.to_rgb8(photo).astype(np.float32)
  gray = pixels.mean(-1, keepdims=True)
  pixels = 0.6 * gray + 0.4 * pixels  # so that red stands out from coloured photos
  pixels += mask * (RED - pixels)
  icc = None if photo.gray else photo.icc
  return images.Photo(np.rint(pixels).astype(np.uint8), icc=icc, dpi=photo.dpi)
