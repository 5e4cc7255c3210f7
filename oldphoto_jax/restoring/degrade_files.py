"""Writes aged copies of good photos with their masks, and contact sheets to judge a recipe by.

The originals are only read. The damage of a copy depends on the seed, the name of the photo and the
number of the copy, but not on other photos.
"""

import contextlib
import math
import os
import pathlib
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import jax
import numpy as np
from PIL import Image

from oldphoto_jax.degradation import photographic, recipes
from oldphoto_jax.degradation.artefact import Damaged
from oldphoto_jax.errors import PhotoError
from oldphoto_jax.photos import images, sheets
from oldphoto_jax.restoring import folder, output_files, schedule, shapes, tasks

_COPIES_ON_SHEET = 12  # photos per contact sheet
_PHOTOS_ON_ARTEFACT_SHEET = 6
_LEAST = 16  # pixels: the smallest side that recipes accept


def plan(
  paths: Iterable[str | os.PathLike],
  out: str | os.PathLike,
  *,
  copies: int = 1,
  overwrite: bool = False,
  part: folder.Part = folder.WHOLE,
) -> folder.Plan:
  """Plans `degrade_photos`: see folder.plan.

  Copy N of a photo is old-N/NAME.png; a mask of what it lost (if anything) is mask-N/NAME.png.
  """

  def named(kind):
    numbered = [f'{kind}-{number}' for number in range(1, copies + 1)]
    return lambda name: {place: place / name.with_suffix('.png') for place in numbered}

  return folder.plan(paths, out, named('old'), also=named('mask'), overwrite=overwrite, part=part)


def degrade_photos(
  recipe: recipes.Recipe,
  title: str,
  todo: folder.Plan,
  *,
  seed: int = 0,
  kinds: Mapping[str, Callable[..., Damaged]] | None = None,
  progress: Callable[[int, int, tasks.Result], None] | None = None,
) -> tuple[folder.Summary, list[pathlib.Path]]:
  """Writes aged copies of photos into a folder, with contact sheets and a manifest.

  Args:
    recipe: damages the photos.
    title: name of the recipe on the sheets and in the report.
    todo: of `plan`.
    seed: seed of all damage.
    kinds: kinds of damage (damage.artefacts), each shown on its own in OUT/artefact-KIND.png.
    progress: called after each photo with (photos done, total, result).

  Returns:
    The summary, and the paths of the sheets: none for a shard, which sees only a part.

  Raises:
    PhotoError: a folder or a sheet cannot be written.
    DiskFullError: see folder.run.
  """
  fitting = _shapes(todo.sizes)
  age, key = jax.jit(recipe), jax.random.key(seed)
  pictures = {}

  def one(item: tasks.Item) -> tasks.Done:
    photo = images.read(item.path)
    name = item.output.relative_to(todo.out / 'old-1').as_posix()
    own = jax.random.fold_in(key, zlib.crc32(name.encode('utf-8', 'replace')))
    row = [images.to_rgb8(photo)]
    for number, (old_path, mask_path) in enumerate(_copies(item), 1):
      old, mask = _age(age, jax.random.fold_in(own, number), photo, fitting)
      # The copy comes last: a photo with all copies is kept when the job is resumed.
      if mask is not None:
        output_files.write(todo, mask, mask_path)
      elif todo.overwrite:
        mask_path.unlink(missing_ok=True)  # of another recipe or seed
      output_files.write(todo, old, old_path)
      row.append(old.pixels)
    if todo.shard is None:
      pictures[item.path] = _pictures(row)
    return tasks.Done(photo.size, photo.warnings)

  summary = folder.run(
    todo,
    schedule.each(one),
    {'recipe': title, 'seed': seed},
    'aged',
    'make it smaller',
    progress=progress,
  )

  if todo.shard is not None:
    return summary, []
  rows, squares = [], []
  for item, result in zip(todo.items, summary.results):
    if result.status == 'kept':
      with contextlib.suppress(PhotoError):  # kept files may be anything
        paths = [item.path, *(old for old, _ in _copies(item))]
        pictures[item.path] = _pictures([images.read_rgb8(path) for path in paths])
    if item.path in pictures:
      thumbnails, square = pictures[item.path]
      rows.append((str(item.name.with_suffix('.png')), thumbnails))
      squares.append(square)
  squares = squares[:_PHOTOS_ON_ARTEFACT_SHEET]
  copies = range(1, len(rows[0][1])) if rows else ()
  written, titles = [], ['original', *(f'{title}, copy {number}' for number in copies)]
  for first in range(0, len(rows), _COPIES_ON_SHEET):
    labels, pictures = zip(*rows[first : first + _COPIES_ON_SHEET])
    written.append(todo.out / f'contact-sheet-{first // _COPIES_ON_SHEET + 1}.png')
    sheets.save_png(written[-1], sheets.grid(pictures, titles, labels))
  for name, artefact in (kinds or {}).items() if squares else ():
    written.append(todo.out / f'artefact-{name}.png')
    sheets.save_png(written[-1], _artefact_sheet(name, artefact, squares, key))
  return summary, written


def _pictures(row: list[np.ndarray]) -> tuple[list[np.ndarray], np.ndarray]:
  """The thumbnails of a photo and its copies for the sheets, and a square of the photo."""
  return [sheets.thumbnail(image) for image in row], middle_square(row[0])


def _copies(item: tasks.Item) -> Iterator[tuple[pathlib.Path, pathlib.Path]]:
  """The paths (aged copy, mask) of each copy."""
  half = len(item.outputs) // 2
  paths = list(item.outputs.values())
  return zip(paths[:half], paths[half:])


def _artefact_sheet(
  name: str,
  artefact: Callable[..., Damaged],
  squares: Sequence[np.ndarray],
  key: jax.Array,
) -> np.ndarray:
  """Squares of photos, two damaged copies of each and their masks."""
  apply, rows = jax.jit(artefact), []
  for i, square in enumerate(squares):
    row = [square]
    for copy in (1, 2):
      own = jax.random.fold_in(jax.random.fold_in(key, i), copy)
      done = apply(own, photographic.from_levels(square.astype(np.float32)))
      mask = np.round(255 * np.asarray(done.mask[..., 0])).astype(np.uint8)
      row += [sheets.from_float(np.asarray(done.photo)), mask]
    rows.append(row)
  titles = ['original', f'{name}, copy 1', 'mask 1', f'{name}, copy 2', 'mask 2']
  return sheets.grid(rows, titles)


def _shapes(sizes: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
  """The sizes of the photos, or a few larger ones if compiling for each would take long."""
  least = {tuple(max(side, _LEAST) for side in size) for size in sizes}
  if len(least) <= 4:
    return sorted(least)
  sizes = [tuple(max(side, _LEAST) for side in size) for size in sizes]
  return list(shapes.plan(sizes, 1, tile=max(map(max, sizes)), overlap=1).shapes)  # no tiles


def _age(
  age: Callable[..., recipes.Aged],
  key: jax.Array,
  photo: images.Photo,
  sizes: Sequence[tuple[int, int]],
) -> tuple[images.Photo, images.Photo | None]:
  """An aged copy and its mask. The photo is centred in the smallest shape that holds it."""
  height, width = photo.size
  holding = [shape for shape in sizes if shape[0] >= height and shape[1] >= width]
  least = (max(height, _LEAST), max(width, _LEAST))
  rows, columns = min(holding, key=math.prod, default=least)
  top, left = (rows - height) // 2, (columns - width) // 2
  around = ((top, rows - height - top), (left, columns - width - left), (0, 0))
  aged = age(key, np.pad(images.to_float(photo), around, 'reflect'))
  inside = np.s_[top : top + height, left : left + width]
  blank = np.zeros((height, width, 3), np.uint8)
  like = images.Photo(blank, icc=None if photo.gray else photo.icc, dpi=photo.dpi)
  old = images.from_float(np.asarray(aged.old)[inside], like)
  mask = np.asarray(aged.mask)[inside]
  if not mask.any():
    return old, None
  return old, images.from_float(np.repeat(2 * mask - 1, 3, -1), images.Photo(blank, gray=True))


def middle_square(pixels: np.ndarray, side: int = 256) -> np.ndarray:
  """The central square of a photo, at a fixed size, so that each artefact compiles once."""
  image = Image.fromarray(pixels)
  least = min(image.size)
  left, top = (image.width - least) // 2, (image.height - least) // 2
  box = (left, top, left + least, top + least)
  return np.asarray(image.resize((side, side), Image.Resampling.LANCZOS, box))
