"""Photos in, restored photos out: the walk of one photo, and of a folder of them.

`restore_array` is the walk, and knows no files. `restore_photos` does it for a folder.
"""

import dataclasses
import os
import pathlib
from collections.abc import Callable, Iterable

import numpy as np

from oldphoto_jax import folder, images, masks
from oldphoto_jax.engine import Engine
from oldphoto_jax.engine import Restorer as Restorer  # for those who make one
from oldphoto_jax.errors import PhotoError

MASKS = 'masks'  # folder of saved masks below the output folder


def restore_array(
  engine: Engine,
  photo: np.ndarray,
  mask: np.ndarray | None = None,
  *,
  strength: float = 1.0,
  only_damage: bool = False,
) -> np.ndarray:
  """Restores one photo, and fills what a mask marks.

  Args:
    engine: the trained system.
    photo: float32 [H, W, 3] in [-1, 1].
    mask: float32 [H, W, 1] in [0, 1], 1 = damaged: 1 is filled, 0 is not, between is a blend.
      None: nothing is filled.
    strength: 1 is the restored photo, 0 the original, between is a blend of the two. Damage is
      filled all the same.
    only_damage: nothing but the damage changes, as with strength 0.

  Returns:
    float32 [H, W, 3], not clipped.

  Raises:
    PhotoError: the mask covers the whole photo.
  """
  if mask is not None and mask.min() > 0:
    raise PhotoError(
      'its mask covers the whole photo, so nothing is left to restore it from; mark less.'
    )
  clean = photo
  if strength > 0 and not only_damage:
    # This form is exact at both ends.
    clean = strength * engine.restore(photo) + (1 - strength) * photo
  if mask is None or not mask.any():
    return clean
  holes = mask > 0
  filled = engine.fill(photo, clean, holes)
  return np.where(holes, mask * filled + (1 - mask) * clean, clean)


def restore_photo(
  engine: Engine,
  photo: images.Photo,
  mask: np.ndarray | None = None,
  *,
  strength: float = 1.0,
  only_damage: bool = False,
) -> images.Photo:
  """`restore_array` of a photo of levels, which keeps its depth, grayness and metadata.

  With `only_damage`, pixels where the mask is 0 keep the original's levels.

  Raises:
    PhotoError: the mask covers the whole photo, or the engine gave values that are not finite.
  """
  values = restore_array(
    engine, images.to_float(photo), mask, strength=strength, only_damage=only_damage
  )
  restored = images.from_float(images.keep_gray(values, photo.pixels), photo)
  if only_damage:
    pixels = np.where(mask > 0, restored.pixels, photo.pixels)
    restored = dataclasses.replace(restored, pixels=pixels)
  return restored


def plan(
  paths: Iterable[str | os.PathLike],
  out: str | os.PathLike,
  *,
  overwrite: bool = False,
  save_masks: bool = False,
) -> folder.Plan:
  """What `restore_photos` has to do: see folder.plan.

  Each output has its input's name and place below the folder; only a GIF becomes NAME.gif.png.
  With `save_masks`, there are also masks/NAME.png.
  """
  return folder.plan(
    paths,
    out,
    lambda name: {'output': folder.like_original(name)},
    also=lambda name: {'mask': MASKS / name.with_suffix('.png')} if save_masks else {},
    overwrite=overwrite,
  )


def restore_photos(
  engine: Engine,
  todo: folder.Plan,
  *,
  strength: float = 1.0,
  mask: Callable[[pathlib.Path, images.Photo], np.ndarray] | None = None,
  only_damage: bool = False,
  progress: Callable[[int, int, folder.Result], None] | None = None,
  show: Callable[[folder.Item, images.Photo, images.Photo, np.ndarray | None], None] | None = None,
) -> folder.Summary:
  """Restores photos into a folder, and writes its report.json.

  Each output has its input's size, format, bit depth, transparency and tags. An interrupted job can
  simply be run again. What the report has of a photo beside folder.Result: `shape`, the height and
  width of the program that restored it (its padding changes the numbers near the photo's edge), and
  `damaged`, the share of the pixels that the mask marks.

  Args:
    engine: the trained system, compiled for `todo.sizes`.
    todo: of `plan`.
    mask: (path of a photo, photo) -> its damage, as restore_array takes it. May raise PhotoError.
    strength, only_damage: see restore_photo.
    progress: called after each photo with (photos done, photos in all, result).
    show: called with each restored photo: (its item, before, after with the warnings, mask).

  Raises:
    PhotoError: a folder cannot be made.
    ValueError: an argument is out of range, or there is no `mask` where one is needed.
  """
  saves_masks = any('mask' in item.outputs for item in todo.items)
  if mask is None and (only_damage or saves_masks):
    raise ValueError('without masks there is no damage to restore alone, and no mask to save.')
  if not 0 <= strength <= 1:
    raise ValueError(f'strength is {strength}; it must be from 0 to 1.')

  def one(item: folder.Item) -> folder.Done:
    photo = images.read(item.path)
    found = None if mask is None else mask(item.path, photo)
    restored = restore_photo(engine, photo, found, strength=strength, only_damage=only_damage)
    if saves_masks:
      images.make_folder(item.outputs['mask'].parent)
      images.write(masks.to_photo(found, photo.dpi), item.outputs['mask'], overwrite=True)
    warnings = photo.warnings + folder.changed_name(item, photo)
    unchanged = only_damage and not found.any() and item.output.suffix == item.path.suffix
    if unchanged:
      images.make_folder(item.output.parent)
      images.write_bytes(item.output, item.path.read_bytes(), overwrite=todo.overwrite)
    else:
      folder.write(todo, restored, item.output)
      warnings += folder.compressed_again(photo) if only_damage else ()
    if show is not None:
      show(item, photo, dataclasses.replace(restored, warnings=warnings), found)
    damaged = None if found is None else float((found > 0).mean())
    return folder.Done(
      photo.size, warnings, {'shape': engine.plan.shape(photo.size), 'damaged': damaged}
    )

  return folder.run(
    todo,
    folder.each(one),
    {'weights': engine.name, 'strength': strength},
    'restored',
    'use smaller tiles',
    progress=progress,
  )
