"""Photos in, masks of their damage out: the originals are only read, one bad file stops nothing.

A photo is looked at in its own resolution, in overlapping tiles where it is large; see restore for
the shapes that are compiled.
"""

import collections
import dataclasses
import json
import os
import pathlib
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import numpy as np

import oldphoto_jax
from oldphoto_jax import images, masks, restore

MASKS, OVERLAYS = 'masks', 'overlays'  # folders below the output folder
RED = np.array([255, 0, 0], np.float32)


@dataclasses.dataclass(frozen=True, eq=False)
class Detector:
  """A trained detector, ready to use."""

  # (params, photos float32 [B, H, W, 3] in [-1, 1]) -> probability of damage [B, H, W, 1].
  apply: Callable[[Any, jax.Array], jax.Array]
  params: Any
  multiple: int  # H and W have to be multiples of it
  name: str  # says which weights these are, in the report


@dataclasses.dataclass(frozen=True)
class Result:
  """What became of one photo."""

  input: str
  mask: str | None  # None where there is none
  overlay: str | None
  status: str  # 'marked', 'kept' (mask and overlay were there already) or 'failed'
  message: str = ''  # why it failed
  warnings: tuple[str, ...] = ()
  seconds: float = 0.0
  size: tuple[int, int] | None = None  # height, width
  damaged: float | None = None  # share of the pixels at or over the threshold


def marker(
  detector: Detector,
  sizes: Iterable[tuple[int, int]],
  *,
  tile: int = 1024,
  overlap: int = 128,
  max_shapes: int = 4,
) -> Callable[[images.Photo], np.ndarray]:
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
    Photo -> probability of damage, float32 [H, W, 1] in [0, 1].

  Raises:
    ValueError: an argument is out of range.
  """
  if not 0 < 2 * overlap <= tile:
    raise ValueError(f'overlap is {overlap}; it has to be from 1 to half of the tile, {tile // 2}.')
  shapes = restore.plan_shapes(sizes, detector.multiple, tile, max_shapes)
  jitted, params = jax.jit(detector.apply), jax.device_put(detector.params)
  run = lambda batch: np.asarray(jitted(params, batch))

  def mark(photo: images.Photo) -> np.ndarray:
    shape = restore.choose_shape(photo.size, shapes, detector.multiple, tile)
    found = restore.restore_array(run, images.to_float(photo), shape, overlap)
    return np.clip(found, 0, 1)  # a blend of ones may end a bit above

  return mark


def detect_photos(
  detector: Detector,
  paths: Iterable[str | os.PathLike],
  out: str | os.PathLike,
  *,
  overwrite: bool = False,
  threshold: float | None = None,
  tile: int = 1024,
  overlap: int = 128,
  max_shapes: int = 4,
  progress: Callable[[int, int, Result], None] | None = None,
) -> restore.Summary:
  """Writes a mask and an overlay picture of each photo into a folder, and report.json.

  out/masks/NAME.png is gray, 8 bits, of the photo's size: white is damaged. out/overlays/NAME.jpg
  is the photo with the damage in red. What exists is kept unless `overwrite`. The report is written
  even if the run is interrupted.

  Args:
    detector: the trained network.
    paths: photos and folders of photos, as for images.find_photos.
    out: the output folder; made if needed; left out where it lies inside an input folder.
    overwrite: replaces masks and overlays that exist.
    threshold: makes masks black and white: white from this probability on. None: a mask holds the
      probability, and the report counts pixels from 1/2 on.
    tile, overlap, max_shapes: see `marker`.
    progress: called after each photo with (photos done, photos in all, result).

  Raises:
    images.PhotoError: nothing could be done: no photo, an output would replace an input, or the
      output folder cannot be written.
    ValueError: an argument is out of range.
  """
  if threshold is not None and not 0 < threshold < 1:
    raise ValueError(f'threshold is {threshold}; it has to be between 0 and 1.')
  out = pathlib.Path(out)
  if out.exists() and not out.is_dir():
    raise images.PhotoError(f'{out}: the output has to be a folder, and this is a file.')
  found = images.find_photos(paths, skip=out)
  plan = restore.plan_outputs(
    [(path, relative.with_suffix('.png')) for path, relative in found], out / MASKS
  )
  # Overlays are looked at too: they must not replace an original either.
  overlays = restore.plan_outputs(
    [(path, relative.with_suffix('.jpg')) for path, relative in found], out / OVERLAYS
  )
  images.make_folder(out)
  if not os.access(out, os.W_OK):
    raise images.PhotoError(f'{out}: nothing may be written in this folder; give another one.')
  sizes = [size for path, _, problem in plan if not problem and (size := images.size_or_none(path))]
  mark = marker(detector, sizes, tile=tile, overlap=overlap, max_shapes=max_shapes)

  results = []
  try:
    for (path, mask, problem), (_, overlay, _) in zip(plan, overlays):
      if problem:
        result = Result(str(path), None, None, 'failed', problem)
      elif mask.is_file() and overlay.is_file() and not overwrite:
        result = Result(str(path), str(mask), str(overlay), 'kept')
      else:
        result = _detect_file(mark, path, mask, overlay, threshold, overwrite)
      results.append(result)
      if progress is not None:
        progress(len(results), len(plan), result)
  finally:  # also when the run is interrupted
    _write_report(out / restore.REPORT, detector.name, threshold, results)
  return restore.Summary(tuple(results))


def overlay_photo(photo: images.Photo, mask: np.ndarray) -> images.Photo:
  """The photo, 8 bits, faded a little, with the damage in red as strong as `mask` [H, W, 1]."""
  pixels = images.to_rgb8(photo).astype(np.float32)
  gray = pixels.mean(-1, keepdims=True)
  pixels = 0.6 * gray + 0.4 * pixels  # so that red stands out from coloured photos
  pixels += mask * (RED - pixels)
  icc = None if photo.gray else photo.icc
  return images.Photo(np.rint(pixels).astype(np.uint8), icc=icc, dpi=photo.dpi)


def _detect_file(
  mark: Callable[[images.Photo], np.ndarray],
  path: pathlib.Path,
  mask_path: pathlib.Path,
  overlay_path: pathlib.Path,
  threshold: float | None,
  overwrite: bool,
) -> Result:
  start = time.perf_counter()

  def failed(message: str) -> Result:
    if not message.startswith((str(path), str(mask_path), str(overlay_path))):
      message = f'{path}: {message}'
    seconds = time.perf_counter() - start
    return Result(str(path), None, None, 'failed', message, seconds=seconds)

  try:
    photo = images.read(path)
    mask = mark(photo)
    if not np.isfinite(mask).all():
      raise images.PhotoError('the detector gave values that are not finite; check its weights.')
    damaged = mask >= (0.5 if threshold is None else threshold)
    if threshold is not None:
      mask = damaged.astype(np.float32)
    made = (
      (masks.to_photo(mask, photo.dpi), mask_path),
      (overlay_photo(photo, mask), overlay_path),
    )
    for picture, output in made:
      images.make_folder(output.parent)
      if overwrite or not output.exists():  # one of the two may be there from a run cut off
        images.write(picture, output, overwrite=overwrite)
  except images.PhotoError as error:
    return failed(str(error))
  except MemoryError:
    return failed('the memory is too small for this photo; use smaller tiles.')
  except jax.errors.JaxRuntimeError as error:
    if 'RESOURCE_EXHAUSTED' not in str(error):
      raise
    return failed('the memory of the device is too small for this photo; use smaller tiles.')
  return Result(
    str(path),
    str(mask_path),
    str(overlay_path),
    'marked',
    warnings=photo.warnings,
    seconds=time.perf_counter() - start,
    size=photo.size,
    damaged=float(damaged.mean()),
  )


def _write_report(
  path: pathlib.Path, weights: str, threshold: float | None, results: Sequence[Result]
) -> None:
  counts = collections.Counter(result.status for result in results)
  report = {
    'software': f'oldphoto_jax {oldphoto_jax.__version__}',
    'weights': weights,
    'threshold': threshold,
    **{status: counts[status] for status in ('marked', 'kept', 'failed')},
    'photos': [dataclasses.asdict(result) for result in results],
  }
  images.write_bytes(path, json.dumps(report, indent=2).encode(), overwrite=True)
