"""Photos in, restored photos out: the walk of one photo, and of a folder of them.

`restore_array` is the walk, and knows no files. `restore_photos` does it for a folder.
"""

import dataclasses
import os
import pathlib
import threading
import types
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from oldphoto_jax.errors import PhotoError
from oldphoto_jax.photos import images, masks
from oldphoto_jax.restoring import filling, finding, folder, kinds, output_files, schedule, tasks
from oldphoto_jax.restoring.engine import Engine, Look, stoppable
from oldphoto_jax.restoring.engine import Restorer as Restorer  # for those who make one

TONE = 0.6  # of what the network of tones thinks right, by default: benchmarks/prints
MASKS = 'masks'  # folder of saved masks below the output folder
# Mean change of brightness, of [-1, 1]: up to the first it is not seen, up to the second it is
# undone, and beyond it a cleaning is not used.
SHIFT, LARGEST_SHIFT = 2 / 127.5, 8 / 127.5
SAMPLES = 100_000  # pixels that this is measured with
BAND = 256  # rows that are compared at once


@dataclasses.dataclass(frozen=True)
class Wishes:
  """What is wanted of a restoration.

  Attributes:
    strength: 1 is the restored photo, 0 the original, between is a blend of the two. Damage is
      filled all the same.
    only_damage: nothing but the damage changes, as with strength and tone 0.
    find: probability from which on damage that the system finds itself is filled, where no mask
      says what is damaged; None: nothing is looked for.
    tone: how far faded tones are revived: 0 not at all, 1 as far as the system thinks right.
    every_picture: pictures that are no photos (see kinds) are restored, too. Otherwise only the
      damage that a mask marks is filled in them.
    descreen: the dots of printed pictures are blurred into shades before they are restored.
  """

  strength: float = 1.0
  only_damage: bool = False
  find: float | None = None
  tone: float = 0.0
  every_picture: bool = False
  descreen: bool = False

  def __post_init__(self):
    for name in ('strength', 'tone'):
      if not 0 <= getattr(self, name) <= 1:
        raise ValueError(f'{name} is {getattr(self, name)}; it must be from 0 to 1.')
    if self.find is not None and not 0 < self.find <= 1:
      raise ValueError(f'find is {self.find}; a probability is above 0, and at most 1.')


PLAIN = Wishes()  # cleaned, and filled where a mask says so


def usual(restorer: Restorer) -> Wishes:
  """What `oldphoto restore` does without options: a system that finds damage looks for it."""
  return Wishes(find=None if restorer.look is None else finding.THRESHOLD, tone=TONE)


class Restored(NamedTuple):
  """A restored photo, and what was done to it.

  Attributes:
    photo: float32 [H, W, 3], not clipped.
    mask: float32 [H, W, 1] in [0, 1], what was filled; None: there was neither mask nor search.
    tone: how far tones were revived: 0 not at all, 1 wholly.
    notes: sentences on what was not done.
    kind: name of a kinds.Kind, if it was recognised.
  """

  photo: np.ndarray
  mask: np.ndarray | None
  tone: float
  notes: tuple[str, ...] = ()
  kind: str | None = None


def restore_array(
  engine: Engine,
  photo: np.ndarray,
  mask: np.ndarray | None = None,
  wishes: Wishes = PLAIN,
  found: np.ndarray | None = None,
) -> Restored:
  """Restores one photo: finds its damage, fills it, cleans the rest and revives the tones.

  Args:
    engine: the trained system.
    photo: float32 [H, W, 3] in [-1, 1].
    mask: float32 [H, W, 1] in [0, 1], 1 = damaged: 1 is filled, 0 is not, between is a blend.
      None: damage is looked for if `wishes` say so.
    wishes: what is wanted.
    found: bool [H, W, 1], what of the mask was found by an earlier search and is believed less;
      None: a person drew all of it.

  Raises:
    PhotoError: the mask covers the whole photo.
  """
  searching = mask is None and wishes.find is not None
  notes, wide = [], ''
  strength = 0.0 if wishes.only_damage else wishes.strength
  clean = photo
  if strength > 0 or searching:
    looked, probability = engine.look(photo) if searching else Look(engine.restore(photo))
    if probability is not None:
      mask = finding.decide(probability, wishes.find)
      if why := finding.failed(mask, kinds.noise(127.5 * photo[..., 1])):
        mask = np.zeros_like(mask)
        notes.append(why)
      mask, wide = finding.narrow(mask)
    if strength == 1:  # one pass over the photo less
      clean = looked
    elif strength > 0:
      clean = strength * looked + (1 - strength) * photo
    if engine.revives:
      clean, why = kept_brightness(photo, clean, mask)
      notes += [why] if why else []
  if mask is not None and mask.min() > 0:
    raise PhotoError(
      'its mask covers the whole photo, so nothing is left to restore it from; mark less.'
    )
  restored = clean
  if mask is not None and mask.any():
    doubted = searching if found is None else found
    trust = np.where(doubted, np.float32(finding.TRUST), np.float32(1))
    holes = np.where(mask > 0, trust, np.float32(0))
    filled = engine.fill(photo, clean, filling.rimmed(photo, holes))
    if searching:
      mask = finding.worth_filling(looked, filled, mask)
    inside = np.nonzero(mask[..., 0] > 0)  # a small part of the photo
    weight = mask[inside]
    restored = clean.copy()
    restored[inside] = weight * filled[inside] + (1 - weight) * clean[inside]
  toned = 0.0
  if not wishes.only_damage and not notes:  # what is not understood keeps its tones, too
    restored, toned = engine.revive(restored, mask, wishes.tone)
  return Restored(restored, mask, toned, (*notes, wide) if wide else tuple(notes))


def kept_brightness(
  photo: np.ndarray, clean: np.ndarray, mask: np.ndarray | None
) -> tuple[np.ndarray, str]:
  """`clean` with the mean brightness of the photo, and a sentence if it was not used.

  Cleaning takes away noise and must not make a photo darker or brighter. A small shift is undone.
  Of a large one, the cleaning cannot be trusted, and the photo stays. The tenth of the pixels that
  became darker most, and the tenth that became brighter most, do not count: white scratches that
  are gone leave a darker mean behind, and no darker photo.

  Args:
    photo, clean: float32 [H, W, 3] in [-1, 1], before and after.
    mask: float32 [H, W, 1], damage, which does not count; None: there is none.
  """
  if clean is photo:
    return clean, ''
  if mask is None:
    sound = np.arange(0, photo[..., 0].size, 1 + photo[..., 0].size // SAMPLES)
  else:
    sound = np.flatnonzero(mask == 0)
    sound = sound[:: 1 + len(sound) // SAMPLES]
  if not len(sound):
    return clean, ''
  before, after = (x.reshape(-1, x.shape[-1])[sound] for x in (photo, clean))
  change = np.sort((after.clip(-1, 1) - before).mean(-1))
  tenth = len(change) // 10
  moved = float(change[tenth : len(change) - tenth].mean())
  if abs(moved) <= SHIFT:
    return clean, ''
  if abs(moved) <= LARGEST_SHIFT:
    return clean - moved, ''
  levels = f'{127.5 * moved:+.0f}'
  return photo, f'Cleaning would have changed the brightness by {levels} levels; left out.'


def restore_photo(
  engine: Engine,
  photo: images.Photo,
  mask: np.ndarray | None = None,
  wishes: Wishes = PLAIN,
  keep: np.ndarray | None = None,
  found: np.ndarray | None = None,
) -> tuple[images.Photo, Restored]:
  """`restore_array` of a photo of levels, which keeps its depth, grayness and metadata.

  With `only_damage`, pixels where the mask is 0 keep the original's levels. Those where `keep`,
  bool [H, W, 1], is true keep them in any case. Of a picture that is no photo (see kinds), only the
  damage that the mask marks is filled. `found`: see `restore_array`.

  Raises:
    PhotoError: the mask covers the whole photo, or the engine gave values that are not finite.
  """
  values, kind = images.to_float(photo), None
  note = ()
  if not wishes.every_picture:
    kind = kinds.recognise(photo)
  if kind is not None and kind.period and wishes.descreen and not wishes.only_damage:
    values = kinds.without_screen(values, kind.period)
    note = (f'A screen of dots, {kind.period:.1f} pixels apart, was removed.',)
  elif kind is not None:
    note = (kind.sentence,)
    if mask is None or not mask.any():
      return photo, Restored(values, None, 0.0, note, kind.name)
    wishes = dataclasses.replace(wishes, only_damage=True, find=None)
  done = restore_array(engine, values, mask, wishes, found)
  done = done._replace(notes=note + done.notes, kind=kind.name if kind else None)
  restored = images.from_float(images.keep_gray(done.photo, photo.pixels), photo)
  if wishes.only_damage:
    kept = (
      photo.pixels if done.mask is None else np.where(done.mask > 0, restored.pixels, photo.pixels)
    )
    restored = dataclasses.replace(restored, pixels=kept)
  if keep is not None:
    kept = np.where(keep, photo.pixels, restored.pixels)
    restored = dataclasses.replace(restored, pixels=kept)
  return restored, done


def plan(
  paths: Iterable[str | os.PathLike],
  out: str | os.PathLike,
  *,
  overwrite: bool = False,
  save_masks: bool = False,
  part: folder.Part = folder.WHOLE,
  skip: Iterable[pathlib.Path] = (),
) -> folder.Plan:
  """What `restore_photos` has to do: see folder.plan.

  Each output has its input's name and place below the folder; only a GIF becomes NAME.gif.png, as
  do other formats that are not written. With `save_masks`, there are also masks/NAME.png.
  """
  return folder.plan(
    paths,
    out,
    lambda name: {'output': output_files.like_original(name)},
    also=lambda name: {'mask': MASKS / name.with_suffix('.png')} if save_masks else {},
    overwrite=overwrite,
    part=part,
    skip=skip,
  )


def restore_photos(
  engine: Engine,
  todo: folder.Plan,
  wishes: Wishes = PLAIN,
  *,
  settings: Mapping[str, Any] = types.MappingProxyType({}),
  history: bool = True,
  mask: Callable[[pathlib.Path, images.Photo], np.ndarray | None] | None = None,
  keep: Callable[[pathlib.Path, images.Photo], np.ndarray | None] = lambda path, photo: None,
  found: Callable[[pathlib.Path, images.Photo], np.ndarray | None] = lambda path, photo: None,
  all_pages: bool = False,
  progress: Callable[[int, int, tasks.Result], None] | None = None,
  show: Callable[[tasks.Item, images.Photo, images.Photo, np.ndarray | None], None] | None = None,
) -> folder.Summary:
  """Restores photos into a folder, and writes its manifest.

  Each output has its input's size, format, bit depth, transparency and tags. An interrupted job can
  simply be run again. What the manifest has of a photo beside tasks.Result: `shape`, the height
  and width of the program that restored it (its padding changes the numbers near the photo's edge),
  `damaged`, the share of the pixels that were filled, `changed`, the share of the others that moved
  by more than four levels of 255, `brightness`, by how many levels the mean of the others moved,
  `tone`, how far tones were revived, and `kind`, what a picture is that was recognised as no photo.
  Of a file with several pages, these are of the first one.

  Args:
    engine: the trained system, compiled for `todo.sizes`.
    todo: of `plan`.
    wishes: what is wanted.
    settings: what else the photos depend on, as JSON values for the manifest, such as
      `weights_sha256`.
    history: whether each photo says in its XMP data how it was made: see provenance.py.
    mask: (path of a photo, photo or page of it) -> its damage, as restore_array takes it. May raise
      PhotoError.
    keep: (path of a photo, photo) -> pixels that stay as they are, as restore_photo takes them.
    found: (path of a photo, photo) -> what of its mask a search found, as restore_array takes it.
    all_pages: restores all photos of a TIFF file, which stay in one file.
    progress: called after each photo with (photos done, photos in all, result).
    show: called with each restored photo: (its item, before, after with the warnings, mask).

  Raises:
    PhotoError, DiskFullError: see folder.run.
    ValueError: there is neither `mask` nor search where one is needed.
  """
  saves_masks = any('mask' in item.outputs for item in todo.items)
  if mask is None and wishes.find is None and (wishes.only_damage or saves_masks):
    raise ValueError('without masks there is no damage to restore alone, and no mask to save.')

  made_by = {'weights': engine.name, **settings, **dataclasses.asdict(wishes)}

  def read(item: tasks.Item) -> images.Photo:
    return images.read(item.path, all_pages=all_pages)

  def compute(item: tasks.Item, photo: images.Photo, stop: threading.Event):
    system = stoppable(engine, stop)
    given = lambda page: None if mask is None else mask(item.path, page)
    told = given(photo), wishes, keep(item.path, photo), found(item.path, photo)
    first = restore_photo(system, photo, *told)
    pages = (first, *(restore_photo(system, page, given(page), wishes) for page in photo.pages))
    # Without the floats, as the next photo is computed while this one is written.
    none = np.empty((0, 0, 3), np.float32)
    return photo, [(after, done._replace(photo=none)) for after, done in pages]

  def finish(item: tasks.Item, computed) -> tasks.Done:
    photo, ((restored, done), *further) = computed
    restored = dataclasses.replace(restored, pages=tuple(page for page, _ in further))
    warnings = photo.warnings + done.notes + output_files.changed_name(item)
    if saves_masks:
      damage = np.zeros((*photo.size, 1), np.float32) if done.mask is None else done.mask
      drawn = masks.to_photo(damage, photo.dpi)
      warnings += output_files.write_mask(todo, drawn, item.outputs['mask'])
    same = item.output.suffix == item.path.suffix and _same(photo, restored)
    if history and not same:
      noted = [
        output_files.with_history(
          after, before, made.mask is not None and bool(made.mask.any()), made_by
        )
        for after, before, made in zip(
          (restored, *restored.pages), (photo, *photo.pages), (done, *(made for _, made in further))
        )
      ]
      restored, *pages = (page for page, _ in noted)
      restored = dataclasses.replace(restored, pages=tuple(pages))
      warnings += tuple(dict.fromkeys(warning for _, untold in noted for warning in untold))
    if same:
      output_files.copy(todo, item, photo)
      warnings = done.notes  # a copy has lost nothing
    else:
      output_files.write(todo, restored, item.output)
      warnings += output_files.compressed_again(photo) if wishes.only_damage else ()
    if show is not None:
      show(item, photo, dataclasses.replace(restored, warnings=warnings), done.mask)
    return tasks.Done(
      photo.size,
      warnings,
      {'shape': engine.plan.shape(photo.size), **_facts(photo, restored, done)},
    )

  return folder.run(
    todo,
    schedule.staged(read, compute, finish),
    made_by,
    'restored',
    'use smaller tiles',
    progress=progress,
  )


def _same(before: images.Photo, after: images.Photo) -> bool:
  """Whether no pixel has changed, on any page."""
  return np.array_equal(before.pixels, after.pixels) and all(
    _same(*pages) for pages in zip(before.pages, after.pages)
  )


def _facts(before: images.Photo, after: images.Photo, done: Restored) -> dict[str, Any]:
  """What the report says of a photo: shares of pixels, rounded as nobody needs more digits."""
  # In levels, by bands of rows: floats of a large photo take long to make.
  level = np.iinfo(before.pixels.dtype).max / 255
  filled = np.zeros(before.size, bool) if done.mask is None else done.mask[..., 0] > 0
  moved, total = 0, 0.0
  for top in range(0, len(filled), BAND):
    rows = slice(top, top + BAND)
    change = after.pixels[rows].astype(np.int32) - before.pixels[rows]
    sound = ~filled[rows]
    moved += int(((np.abs(change).max(-1) > 4 * level) & sound).sum())
    total += float((change.sum(-1) * sound).sum())
  others = filled.size - int(filled.sum())
  brightness = total / level / 3 / others if others else 0.0
  return {
    'damaged': None if done.mask is None else round(float(filled.mean()), 6),
    'changed': round(moved / filled.size, 6),
    'brightness': round(brightness, 2),
    'tone': round(done.tone, 3),
    'kind': done.kind,
  }
