"""Files in, restored files out: the originals are only read, and one bad file stops nothing.

Photos come in every size and a compiled program has one, so a run looks at all sizes first and
settles on few shapes; a photo is padded by reflection to the smallest that holds it and cut back.
Photos larger than a limit are restored in overlapping tiles of such a shape.

Where a mask says what is damaged, only the damage is filled: the rest of the photo is restored as
one without scratches, or kept as it is.
"""

import collections
import dataclasses
import hashlib
import itertools
import json
import math
import os
import pathlib
import time
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from scipy import ndimage

import oldphoto_jax
from oldphoto_jax import blending, images, layerwise, masks, tiles

# Sides that photos are padded to: steps of a third to a half at first, of a quarter later.
LADDER = (128, 192, 256, 320, 384, 448, 512, 640, 768, 896, 1024, 1280, 1536, 1792, 2048)
FILL_SIDE, FILL_OVERLAP = 256, 64  # pixels of the tiles in which holes are filled: see fill_shape
REPORT = 'report.json'
MASKS = 'masks'  # folder of saved masks below the output folder
LOSSY = ('JPEG', 'WEBP')


@dataclasses.dataclass(frozen=True, eq=False)
class Restorer:
  """A trained system, ready to restore."""

  # (params, photos float32 [B, H, W, 3] in [-1, 1]) -> the same shape and range; jitted here.
  apply: Callable[[Any, jax.Array], jax.Array]
  params: Any
  multiple: int  # H and W have to be multiples of it
  name: str  # says which weights these are, in the report
  # The same for photos with holes, (params, photos, masks [B, H, W, 1], above 0 = hole) -> filled
  # [B, H, W, 3], or two fillings [B, H, W, 6], of which the second sees what the holes show; None
  # where the system has no networks of its own for them.
  fill: Callable[[Any, jax.Array, jax.Array], jax.Array] | None = None
  # Whether tiles go through it layer by layer: it has instance norms, or what becomes of a pixel
  # depends on more of the photo than tiles overlap by.
  layerwise: bool = False


@dataclasses.dataclass(frozen=True)
class Result:
  """What became of one photo."""

  input: str
  output: str | None  # None where there is no output
  status: str  # 'restored', 'kept' (the output was there already) or 'failed'
  message: str = ''  # why it failed
  warnings: tuple[str, ...] = ()
  seconds: float = 0.0
  size: tuple[int, int] | None = None  # height, width
  shape: tuple[int, int] | None = None  # height and width of the program that restored it
  sha256: str | None = None  # of the output file
  damaged: float | None = None  # share of the pixels that the mask marks; None without masks
  mask: str | None = None  # the saved mask


@dataclasses.dataclass(frozen=True)
class Summary:
  """What became of all photos, in the order in which they were found.

  A result says it in its `status`; detect and fit_files have results of their own.
  """

  results: tuple[Any, ...]

  def count(self, status: str) -> int:
    return sum(result.status == status for result in self.results)

  @property
  def exit_code(self) -> int:
    """0, or 1 where a photo failed."""
    return int(self.count('failed') > 0)


def restore_photos(
  restorer: Restorer,
  paths: Iterable[str | os.PathLike],
  out: str | os.PathLike,
  *,
  overwrite: bool = False,
  strength: float = 1.0,
  mask: Callable[[pathlib.Path, images.Photo], np.ndarray] | None = None,
  only_damage: bool = False,
  save_masks: bool = False,
  tile: int = 2048,
  overlap: int = 64,
  max_shapes: int = 4,
  progress: Callable[[int, int, Result], None] | None = None,
) -> Summary:
  """Restores files and folders of photos into a folder, and writes its report.json.

  Each output has its input's name, place below the folder, size, format, bit depth, transparency
  and tags; only a GIF becomes NAME.gif.png. An output that exists is kept unless `overwrite`, so
  that an interrupted run can simply be run again. The report is written even if the run is
  interrupted.

  Args:
    restorer: the trained system.
    paths: photos and folders of photos, as for images.find_photos.
    out: the output folder; made if needed; left out where it lies inside an input folder.
    overwrite: replaces outputs that exist.
    strength: 1 is the restored photo, 0 the original, between is a blend of the two. Damage is
      filled all the same.
    mask: (path of a photo, photo) -> its damage, float32 [H, W, 1]: 1 is filled, 0 is not, between
      is a blend. May raise images.PhotoError for a photo. None: nothing is filled.
    only_damage: pixels where the mask is 0 keep the original's values, bit for bit.
    save_masks: writes the masks as masks/NAME.png.
    tile: photos with a side longer than this are restored in tiles of it, in the memory of one.
    overlap: pixels over which neighbouring tiles are blended.
    max_shapes: number of programs to compile at most. A photo's padding, and with it the numbers
      near its edge, depends on these shapes: the report has them.
    progress: called after each photo with (photos done, photos in all, result).

  Raises:
    images.PhotoError: nothing could be done: no photo, an output would replace an input, or the
      output folder cannot be written.
    ValueError: an argument is out of range, or `only_damage` or `save_masks` has no `mask`.
  """
  if mask is None and (only_damage or save_masks):
    raise ValueError('without masks there is no damage to restore alone, and no mask to save.')
  if not 0 <= strength <= 1:
    raise ValueError(f'strength is {strength}; it has to be from 0 to 1.')
  if not 0 < 2 * overlap <= tile:
    raise ValueError(f'overlap is {overlap}; it has to be from 1 to half of the tile, {tile // 2}.')
  out = pathlib.Path(out)
  found = images.find_photos(paths, skip=out)
  photos = plan_outputs([(path, _output_name(relative)) for path, relative in found], out)
  if save_masks:  # they must not replace an original, or the mask of another photo
    named = [(path, _mask_name(relative)) for path, relative in found]
    for i, (_, _, problem) in enumerate(plan_outputs(named, out / MASKS)):
      photos[i] = (*photos[i][:2], photos[i][2] or problem)
  images.make_folder(out)
  if not os.access(out, os.W_OK):
    raise images.PhotoError(f'{out}: nothing may be written in this folder; give another one.')
  sizes = [
    size for path, _, problem in photos if not problem and (size := images.size_or_none(path))
  ]
  shapes = plan_shapes(sizes, restorer.multiple, tile, max_shapes)

  run, run_fill = programs(restorer)
  grid = math.lcm(tiles.GRID, restorer.multiple)

  def restore(path: pathlib.Path, photo: images.Photo) -> _Restored:
    weight = None if mask is None else mask(path, photo)
    if weight is not None and weight.min() > 0:
      raise images.PhotoError(
        'its mask covers the whole photo, so nothing is left to restore it from; mark less.'
      )
    values = images.to_float(photo)
    shape = choose_shape(photo.size, shapes, restorer.multiple, tile)
    values = repair_array(
      run, run_fill, values, weight, shape, overlap, strength, only_damage, grid
    )
    restored = images.from_float(images.keep_gray(values, photo), photo)
    if only_damage:
      pixels = np.where(weight > 0, restored.pixels, photo.pixels)
      restored = dataclasses.replace(restored, pixels=pixels)
    return _Restored(restored, shape, weight, only_damage)

  results = []
  try:
    for path, output, problem in photos:
      if problem:
        result = Result(str(path), None, 'failed', problem)
      elif output.is_file() and not overwrite:
        result = Result(str(path), str(output), 'kept', sha256=_sha256(output))
      else:
        saved = out / MASKS / _mask_name(output.relative_to(out)) if save_masks else None
        result = _restore_file(restore, path, output, saved, overwrite)
      results.append(result)
      if progress is not None:
        progress(len(results), len(photos), result)
  finally:  # also when the run is interrupted
    write_report(out / REPORT, restorer.name, strength, results)
  return Summary(tuple(results))


def programs(
  restorer: Restorer,
) -> tuple[Callable[[np.ndarray], np.ndarray], Callable[[np.ndarray], np.ndarray]]:
  """Compiled forms of a system, one program a shape, for `repair_array`.

  Returns:
    The restoring of photos [B, H, W, 3]; and the filling of [B, H, W, 4], whose last channel is
    above 0 in holes (one array, so that tiles cut the mask too). A system without networks for
    holes fills them with what it makes of the photo. A system that is `layerwise` gives a
    layerwise.Network each.
  """
  params = jax.device_put(restorer.params)
  if restorer.layerwise:
    grid = math.lcm(tiles.GRID, restorer.multiple)

    def apply_fill(params, photos):
      if restorer.fill is None:
        return restorer.apply(params, photos[..., :3])
      return restorer.fill(params, photos[..., :3], photos[..., 3:])

    return tuple(layerwise.Network(apply, params, grid) for apply in (restorer.apply, apply_fill))
  apply = jax.jit(restorer.apply)
  fill = None if restorer.fill is None else jax.jit(restorer.fill)

  def run(photos):
    return np.asarray(apply(params, photos))

  def run_fill(photos):
    if fill is None:
      return run(photos[..., :3])
    return np.asarray(fill(params, photos[..., :3], photos[..., 3:]))

  return run, run_fill


class _Restored(NamedTuple):
  photo: images.Photo
  shape: tuple[int, int]  # of the program
  mask: np.ndarray | None  # float32 [H, W, 1]
  only_damage: bool


def _restore_file(
  restore: Callable[[pathlib.Path, images.Photo], _Restored],
  path: pathlib.Path,
  output: pathlib.Path,
  saved: pathlib.Path | None,
  overwrite: bool,
) -> Result:
  start = time.perf_counter()

  def failed(message: str) -> Result:
    if not message.startswith((str(path), str(output))):
      message = f'{path}: {message}'
    return Result(str(path), None, 'failed', message, seconds=time.perf_counter() - start)

  try:
    photo = images.read(path)
    restored = restore(path, photo)
    images.make_folder(output.parent)
    if saved is not None:
      images.make_folder(saved.parent)
      images.write(masks.to_photo(restored.mask, photo.dpi), saved, overwrite=True)
    warnings = photo.warnings
    if output.suffix != path.suffix:
      warnings += (f'{photo.format} cannot hold a photo well; written as {output.name}.',)
    if restored.only_damage and not restored.mask.any() and output.suffix == path.suffix:
      images.write_bytes(output, path.read_bytes(), overwrite=overwrite)
    else:
      images.write(restored.photo, output, overwrite=overwrite)
      if restored.only_damage and photo.format in LOSSY and not photo.lossless:
        warnings += (
          f'{photo.format} is compressed anew, which moves pixels outside the damage a little; '
          'as PNG or TIFF they would stay the same.',
        )
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
    str(output),
    'restored',
    warnings=warnings,
    seconds=time.perf_counter() - start,
    size=photo.size,
    shape=restored.shape,
    sha256=_sha256(output),
    damaged=None if restored.mask is None else float((restored.mask > 0).mean()),
    mask=None if saved is None else str(saved),
  )


def plan_outputs(
  photos: Sequence[tuple[pathlib.Path, pathlib.PurePath]], out: pathlib.Path
) -> list[tuple[pathlib.Path, pathlib.Path, str]]:
  """Where each photo goes: (input, output, '' or a sentence on why it cannot go there).

  Of names that some file systems take for the same, such as A.jpg and a.jpg, only the first goes.

  Args:
    photos: (input, path below the output folder) of each.
    out: the output folder.

  Raises:
    images.PhotoError: `out` is a file, or an output is one of the inputs.
  """
  if out.exists() and not out.is_dir():
    raise images.PhotoError(f'{out}: the output has to be a folder, and this is a file.')
  inputs = {os.path.realpath(path) for path, _ in photos}
  planned, taken = [], {}
  for path, relative in photos:
    output = out / relative
    same_file = output.exists() and output.samefile(path)
    if same_file or os.path.realpath(output) in inputs:
      raise images.PhotoError(
        f'{output}: the output would replace an original; give another output folder.'
      )
    first = taken.setdefault(unicodedata.normalize('NFC', str(relative)).casefold(), path)
    problem = ''
    if first is not path:
      problem = f'{path}: its output would have the same name as that of {first}; rename one.'
    planned.append((path, output, problem))
  return planned


def write_report(
  path: pathlib.Path, weights: str, strength: float, results: Sequence[Result]
) -> None:
  """Writes what was done as JSON, all or nothing."""
  counts = collections.Counter(result.status for result in results)
  report = {
    'software': f'oldphoto_jax {oldphoto_jax.__version__}',
    'weights': weights,
    'strength': strength,
    **{status: counts[status] for status in ('restored', 'kept', 'failed')},
    'photos': [dataclasses.asdict(result) for result in results],
  }
  images.make_folder(path.parent)
  images.write_bytes(path, json.dumps(report, indent=2).encode(), overwrite=True)


# Shapes


def bucket(side: int, multiple: int) -> int:
  """The side that a side is padded to: from LADDER, then multiples of 512; rounded up."""
  rung = next((rung for rung in LADDER if rung >= side), math.ceil(side / 512) * 512)
  return math.ceil(rung / multiple) * multiple


def needed_shape(size: tuple[int, int], multiple: int, tile: int) -> tuple[int, int]:
  """The smallest shape for a photo of this height and width, or for its tiles."""
  return tuple(bucket(min(side, tile), multiple) for side in size)


def plan_shapes(
  sizes: Iterable[tuple[int, int]], multiple: int, tile: int, max_shapes: int
) -> list[tuple[int, int]]:
  """At most `max_shapes` shapes for photos of these sizes, with little padding.

  Starts from each photo's own shape and joins the pair that adds the fewest padded pixels, until
  few enough are left.
  """
  counts = collections.Counter(needed_shape(size, multiple, tile) for size in sizes)

  def joined(a, b):
    return max(a[0], b[0]), max(a[1], b[1])

  def cost(pair):
    area = math.prod(joined(*pair))
    return sum(counts[shape] * (area - math.prod(shape)) for shape in pair)

  while len(counts) > max(max_shapes, 1):
    a, b = min(itertools.combinations(sorted(counts), 2), key=cost)
    count = counts.pop(a) + counts.pop(b)
    counts[joined(a, b)] += count
  return sorted(counts, key=math.prod)


def choose_shape(
  size: tuple[int, int], shapes: Iterable[tuple[int, int]], multiple: int, tile: int
) -> tuple[int, int]:
  """The smallest of the shapes that will do; the photo's own where none does."""
  need = needed_shape(size, multiple, tile)
  fitting = [shape for shape in shapes if shape[0] >= need[0] and shape[1] >= need[1]]
  return min(fitting, key=math.prod, default=need)


def pad_to(photo: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
  """Pads [H, W, C] at the bottom and right by reflection, repeated where the photo is small."""
  height, width = photo.shape[:2]
  return np.pad(photo, ((0, shape[0] - height), (0, shape[1] - width), (0, 0)), 'reflect')


def repair_array(
  run: Callable[[np.ndarray], np.ndarray],
  run_fill: Callable[[np.ndarray], np.ndarray],
  photo: np.ndarray,
  weight: np.ndarray | None,
  shape: tuple[int, int],
  overlap: int,
  strength: float = 1.0,
  only_damage: bool = False,
  grid: int = tiles.GRID,
) -> np.ndarray:
  """Restores one photo, and fills what a mask marks: a photo outside of it stays protected.

  Args:
    run, run_fill: see `programs`.
    photo: float32 [H, W, 3] in [-1, 1].
    weight: of the filling, [H, W, 1] in [0, 1]; 0 somewhere. None: nothing is filled.
    shape, overlap, grid: see `restore_array`.
    strength: of the restoring of what is not filled; 0 leaves it as it is.
    only_damage: as strength 0.

  Returns:
    float32 [H, W, 3].
  """
  restored = photo
  if strength > 0 and not only_damage:
    # This form is exact at both ends.
    whole = restore_array(run, photo, shape, overlap, grid)
    restored = strength * whole + (1 - strength) * photo
  if weight is None or not weight.any():
    return restored
  holes = weight > 0
  filled = blending.believe(*fill_array(run_fill, photo, restored, holes, shape, overlap, grid))
  return np.where(holes, weight * filled + (1 - weight) * restored, restored)


def fill_array(
  run_fill: Callable[[np.ndarray], np.ndarray],
  photo: np.ndarray,
  around: np.ndarray,
  holes: np.ndarray,
  shape: tuple[int, int],
  overlap: int,
  grid: int = tiles.GRID,
) -> tuple[np.ndarray, np.ndarray]:
  """Two fillings of holes, as blending.believe takes them; the same one twice where there is one.

  Args:
    run_fill: see `programs`.
    photo: float32 [H, W, 3] in [-1, 1].
    around: what the fillings shall fit into, [H, W, 3].
    holes: bool [H, W, 1]; not everywhere.
    shape, overlap, grid: see `restore_array`, for systems that are layerwise. Others have tiles of
      `fill_shape`.
  """
  marked = np.concatenate([photo, holes], -1)
  if isinstance(run_fill, layerwise.Network):
    filled = restore_array(run_fill, marked, shape, overlap, grid)
  else:
    run_two = _two_fillings(run_fill)
    filled = restore_array(run_two, marked, fill_shape(holes), FILL_OVERLAP, grid)
  fillings = np.split(filled, filled.shape[-1] // 3, axis=-1)
  fillings = [blending.match(filling, around, holes) for filling in fillings]
  return fillings[0], fillings[-1]


def fill_shape(holes: np.ndarray) -> tuple[int, int]:
  """Height and width of the tiles in which a photo's holes, bool [H, W, 1], are filled.

  Not those in which it is restored: attention that was trained on small photos picks colours from
  all over a large one, and one answer in tiles of one size does not depend on the memory there is.
  FILL_SIDE, or twice the side of the largest square inside a hole, so that a tile shows what is
  around it.
  """
  depth = ndimage.distance_transform_cdt(holes[..., 0]).max()  # chessboard distance from the edge
  most = next((side for side in LADDER if side >= max(FILL_SIDE, 4 * depth)), LADDER[-1])
  return tuple(next(rung for rung in LADDER if rung >= min(side, most)) for side in holes.shape[:2])


def _two_fillings(
  run_fill: Callable[[np.ndarray], np.ndarray],
) -> Callable[[np.ndarray], np.ndarray]:
  """`run_fill` that gives 6 channels, one filling twice, and tiles without holes as they are."""

  def run_two(tile):
    filled = run_fill(tile) if tile[..., 3].any() else tile[..., :3]
    return np.concatenate([filled, filled], -1) if filled.shape[-1] == 3 else filled

  return run_two


def restore_array(
  run: Callable[[np.ndarray], np.ndarray],
  photo: np.ndarray,
  shape: tuple[int, int],
  overlap: int,
  grid: int = tiles.GRID,
) -> np.ndarray:
  """Restores one photo of any size by programs of one shape.

  Args:
    run: float32 [1, *shape, D] to [1, *shape, C], any numbers of channels; or a network
      that goes layer by layer.
    photo: float32 [H, W, D].
    shape: height and width that `run` takes.
    overlap: pixels over which tiles are blended, for a photo larger than the shape.
    grid: pixels at whose multiples tiles start, a multiple of what the sides have to be multiples
      of: there a network that halves the sides sees a tile as it sees the photo. One that goes
      layer by layer has its own.

  Returns:
    float32 [H, W, C].
  """
  height, width = photo.shape[:2]
  fits = height <= shape[0] and width <= shape[1]
  if isinstance(run, layerwise.Network):
    if fits:
      restored = run.restore(pad_to(photo, shape), (height, width))
    else:
      padded = pad_to(photo, tuple(bucket(side, run.grid) for side in (height, width)))
      restored = run.restore_large(padded, (height, width), shape, overlap)
    return restored[:height, :width]
  if fits:
    return run(pad_to(photo, shape)[None])[0, :height, :width]
  return blend_tiles(run, photo, shape, overlap, grid)


def blend_tiles(
  run: Callable[[np.ndarray], np.ndarray],
  photo: np.ndarray,
  shape: tuple[int, int],
  overlap: int,
  grid: int,
) -> np.ndarray:
  """Restores overlapping tiles, each by itself, and blends them; arguments as `restore_array`."""

  def restore(rows: slice, columns: slice) -> np.ndarray:
    part = photo[rows, columns]
    return run(pad_to(part, shape)[None])[0, : part.shape[0], : part.shape[1]]

  return tiles.blend(restore, photo.shape[:2], shape, overlap, grid)


def _output_name(relative: pathlib.PurePath) -> pathlib.PurePath:
  # 256 colours do not hold a photo. The whole name is kept: there may be a NAME.png as well.
  is_gif = relative.suffix.lower() == '.gif'
  return relative.with_name(f'{relative.name}.png') if is_gif else relative


def _mask_name(relative: pathlib.PurePath) -> pathlib.PurePath:
  return relative.with_suffix('.png')


def _sha256(path: pathlib.Path) -> str:
  with path.open('rb') as file:
    return hashlib.file_digest(file, 'sha256').hexdigest()
