"""Good photos in, aged copies with their masks out, and contact sheets to judge a recipe by.

The originals are only read. A copy's damage depends on the seed, the photo's name and the number
of the copy, not on the photos beside it.
"""

import math
import os
import pathlib
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence

import jax
import numpy as np
from PIL import Image

from oldphoto_jax import images, restore, sheets
from oldphoto_jax.degradation import photographic, recipes
from oldphoto_jax.degradation.artefact import Damaged

_COPIES_ON_SHEET = 12  # photos a contact sheet
_PHOTOS_ON_ARTEFACT_SHEET = 6
_LEAST = 16  # pixels of a side that the recipes take


def degrade_photos(
  recipe: recipes.Recipe,
  title: str,
  paths: Iterable[str | os.PathLike],
  out: str | os.PathLike,
  *,
  copies: int = 1,
  seed: int = 0,
  kinds: Mapping[str, Callable[..., Damaged]] | None = None,
  overwrite: bool = False,
  progress: Callable[[int, int, str, bool], None] | None = None,
) -> tuple[list[pathlib.Path], int]:
  """Ages photos: OUT/old-N/NAME.png, OUT/mask-N/NAME.png where content is lost, contact sheets.

  Args:
    recipe: what happens to the photos.
    title: the recipe's name on the sheets.
    paths: photos and folders of photos, as for images.find_photos.
    out: the output folder; made if needed; left out where it lies inside an input folder.
    copies: of each photo.
    seed: of all damage.
    kinds: kinds of damage (damage.artefacts) to show each alone, as OUT/artefact-KIND.png.
    overwrite: replaces files that exist.
    progress: called after each photo with (photos done, photos in all, its name or why it failed,
      whether it failed).

  Returns:
    The sheets, and how many photos failed.

  Raises:
    images.PhotoError: there is no photo, or an output would replace an original.
  """
  out = pathlib.Path(out)
  found = images.find_photos(paths, skip=out)
  names = [(path, relative.with_suffix('.png')) for path, relative in found]
  numbers = range(1, copies + 1)
  plans = zip(*(restore.plan_outputs(names, out / f'old-{number}') for number in numbers))
  shapes = _shapes([path for path, _ in found])
  age, key = jax.jit(recipe), jax.random.key(seed)

  failed, rows, squares = 0, [], []
  for (path, name), plan in zip(names, plans):
    message = ''
    try:
      if plan[0][2]:
        raise images.PhotoError(plan[0][2])
      photo = images.read(path)
      own = jax.random.fold_in(key, zlib.crc32(name.as_posix().encode('utf-8', 'replace')))
      row = [images.to_rgb8(photo)]
      for number, (_, output, _) in zip(numbers, plan):
        old, mask = _age(age, jax.random.fold_in(own, number), photo, shapes)
        _write(old, output, overwrite)
        if mask is not None:
          _write(mask, out / f'mask-{number}' / name, overwrite)
        row.append(old.pixels)
      rows.append((str(name), [sheets.thumbnail(image) for image in row]))
      if len(squares) < _PHOTOS_ON_ARTEFACT_SHEET:
        squares.append(middle_square(row[0]))
    except images.PhotoError as error:
      failed, message = failed + 1, str(error)
    if progress is not None:
      progress(len(rows) + failed, len(names), message or str(name), bool(message))

  written, titles = [], ['original', *(f'{title}, copy {number}' for number in numbers)]
  for first in range(0, len(rows), _COPIES_ON_SHEET):
    labels, pictures = zip(*rows[first : first + _COPIES_ON_SHEET])
    written.append(out / f'contact-sheet-{first // _COPIES_ON_SHEET + 1}.png')
    sheets.save_png(written[-1], sheets.grid(pictures, titles, labels))
  for name, artefact in (kinds or {}).items() if squares else ():
    written.append(out / f'artefact-{name}.png')
    sheets.save_png(written[-1], _artefact_sheet(name, artefact, squares, key))
  return written, failed


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


def _shapes(paths: Sequence[pathlib.Path]) -> list[tuple[int, int]]:
  """The photos' own sizes, or a few larger ones where compiling for each would take long."""
  sizes = []
  for path in paths:
    try:
      sizes.append(tuple(max(side, _LEAST) for side in images.size(path)))
    except images.PhotoError:
      continue  # said when the photo's turn comes
  if len(set(sizes)) <= 4:
    return sorted(set(sizes))
  return restore.plan_shapes(sizes, 1, max(map(max, sizes)), 4)


def _age(
  age: Callable[..., recipes.Aged],
  key: jax.Array,
  photo: images.Photo,
  shapes: Sequence[tuple[int, int]],
) -> tuple[images.Photo, images.Photo | None]:
  """An aged copy and its mask; the photo lies in the middle of the smallest shape that holds it."""
  height, width = photo.size
  holding = [shape for shape in shapes if shape[0] >= height and shape[1] >= width]
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


def _write(photo: images.Photo, path: pathlib.Path, overwrite: bool) -> None:
  images.make_folder(path.parent)
  images.write(photo, path, overwrite=overwrite)


def middle_square(pixels: np.ndarray, side: int = 256) -> np.ndarray:
  """The middle square of a photo, at one size, so that each artefact compiles once."""
  image = Image.fromarray(pixels)
  least = min(image.size)
  left, top = (image.width - least) // 2, (image.height - least) // 2
  box = (left, top, left + least, top + least)
  return np.asarray(image.resize((side, side), Image.Resampling.LANCZOS, box))
