"""Restores the photos of a box with the engine and the folder job of `oldphoto restore`.

What is added here: progress in pixels, results of the network that are kept so that a changed mask
costs only what it changes, and previews from small copies.
"""

import collections
import dataclasses
import hashlib
import pathlib
import re
import shutil
import threading
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from oldphoto_jax.errors import ExitStatus, PhotoError
from oldphoto_jax.photos import images, masks
from oldphoto_jax.restoring import engine as engines
from oldphoto_jax.restoring import (
  filling,
  finding,
  folder,
  output_files,
  restore,
  shapes,
  tasks,
  tiles,
)
from oldphoto_jax.serving import box, brush, pictures

TILE = 512  # the one shape that is compiled for photos of all sizes
LOOKED = 960  # pixels of the longer side of the copy that is looked at first: four tiles
PREVIEW = 1280  # the same of previews after a photo was restored
# What a search found in the whole photo; in a picture that is no photo, by `every_picture` alone.
FOUND = {False: 'found.png', True: 'found-in-every-picture.png'}
# The copy that a first look saw, and what it found in it.
SMALL, SMALL_MASK = 'looked.png', 'looked-mask.png'


class Tiles:
  """Results of the network by the tiles they came from, the least used forgotten first.

  An engine that meets the same tile again takes its result from here, so what it gives is the same
  to the bit.
  """

  def __init__(self, limit: int):
    """`limit`: bytes that are kept at most."""
    self._limit, self._bytes = limit, 0
    self._found: collections.OrderedDict[bytes, tuple[np.ndarray, ...]] = collections.OrderedDict()
    self._lock = threading.Lock()

  def through(self, run: Callable, name: str, *arrays: np.ndarray):
    """`run(*arrays)`, or what it gave before for the same arrays."""
    key = hashlib.blake2b(name.encode(), digest_size=16)
    for array in arrays:
      key.update(str((array.shape, array.dtype)).encode())
      key.update(np.ascontiguousarray(array).data.cast('B'))
    with self._lock:
      if key.digest() in self._found:
        self._found.move_to_end(key.digest())
        return self._found[key.digest()]
    result = run(*arrays)
    with self._lock:
      if key.digest() not in self._found:
        self._found[key.digest()] = result
        self._bytes += _bytes(result)
      while self._bytes > self._limit:
        self._bytes -= _bytes(self._found.popitem(last=False)[1])
    return result


def for_page(sentences: Iterable[str]) -> list[str]:
  """Remarks on a photo in the words of the page, which has a brush and no options."""
  brushed = [sentence.replace('by --mask', 'with the brush') for sentence in sentences]
  # The pixels of a first look are not those of the photo.
  return [re.sub(r'over \d+ pixels wide', 'very wide', sentence) for sentence in brushed]


def marked(path: pathlib.Path) -> np.ndarray:
  """A mask of the box, which holds black and white only: float32 [H, W, 1], 0 or 1."""
  return (images.read(path).pixels[..., :1] > 127).astype(np.float32)


def found(place: pathlib.Path, size: tuple[int, int], every_picture: bool) -> np.ndarray:
  """The mask that was found in a photo, at another size, float32 [h, w, 1], 0 or 1.

  That of the whole photo if it is known, else that of a first look.

  Args:
    place: folder of the photo.
    size: height and width of the mask.
    every_picture: of the settings.
  """
  for path in (place / FOUND[every_picture], place / SMALL_MASK):
    if path.exists():
      return (shapes.resized(marked(path), *size) > 0.5).astype(np.float32)
  return np.zeros((*size, 1), np.float32)


def drawn_over(
  found: np.ndarray, strokes: Sequence[brush.Stroke], scale: float = 1.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """brush.draw, and what of the mask was only found: bool [H, W, 1]."""
  believed, keep = brush.draw(finding.TRUST * found, strokes, scale)  # strokes are 1
  return (believed > 0).astype(np.float32), keep, (believed > 0) & (believed < 1)


def _bytes(result) -> int:
  arrays = result if isinstance(result, tuple) else (result,)
  return sum(array.nbytes for array in {id(array): array for array in arrays}.values())


def watched(
  engine: engines.Engine, known: Tiles, tick: Callable[[int], None] = lambda pixels: None
) -> engines.Engine:
  """The engine, which calls `tick` with the pixels of each tile, and remembers tiles.

  Tiles smaller than TILE are padded to it, so that few programs are compiled. An engine that goes
  layer by layer stays as it is: it has no tiles of its own.
  """

  def of(run: Callable, name: str) -> Callable:
    def run_one(*arrays):
      height, width = arrays[0].shape[1:3]
      side = max(height, TILE), max(width, TILE)
      padded = [shapes.pad(array[0], side)[None] for array in arrays]
      result = known.through(run, name, *padded)
      tick(height * width)
      if isinstance(result, tuple):
        return tuple(array[:, :height, :width] for array in result)
      return result[:, :height, :width]

    return run_one

  if isinstance(engine, engines.Repairing):
    return engines.each_run(engine, of)
  if isinstance(engine, engines.Tiled):
    fill = engine.run_fill and of(engine.run_fill, 'fill')
    return dataclasses.replace(engine, run=of(engine.run, 'run'), run_fill=fill)
  return engine


def work(engine: engines.Engine, size: tuple[int, int], searching: bool) -> int:
  """Pixels in the tiles of a photo of this height and width, about; see `watched`.

  How much has to be filled is not known before: it is counted as half of the photo.
  """

  def covered(size, overlap):
    shape = engine.plan.shape(size)
    counts = [len(tiles.spans(*sides, overlap, engine.plan.grid)) for sides in zip(size, shape)]
    return int(np.prod(counts) * np.prod(shape))

  total = covered(size, engine.plan.overlap) + covered(size, filling.OVERLAP) // 2
  if isinstance(engine, engines.Repairing) and engine.run_clean:
    total += int(np.prod(engine.plan.shape(size)))  # whether it needs cleaning: one tile
  if searching:
    if isinstance(engine, engines.Repairing) and engine.run_find:
      total += covered(size, engine.plan.overlap)
    total += sum(covered(copy, engine.plan.overlap) for copy in finding.copies(size))
  return total


class _Standing:
  """What stands for an engine, and makes of a photo what it wants. All else is the engine's."""

  engine: engines.Engine

  @property
  def plan(self) -> shapes.Plan:
    return self.engine.plan

  @property
  def name(self) -> str:
    return self.engine.name

  @property
  def revives(self) -> bool:
    return self.engine.revives

  def revive(self, photo, mask, strength):
    return self.engine.revive(photo, mask, strength)


class Recorder(_Standing):
  """An engine that also keeps small copies of what it makes of one photo, for previews."""

  def __init__(self, engine: engines.Engine, size: tuple[int, int]):
    """`size`: height and width of the copies."""
    self.engine, self.size = engine, size
    self.clean: np.ndarray | None = None
    self.filled: np.ndarray | None = None

  def restore(self, photo: np.ndarray) -> np.ndarray:
    clean = self.engine.restore(photo)
    self.clean = shapes.resized(clean, *self.size)
    return clean

  def look(self, photo: np.ndarray) -> engines.Look:
    look = self.engine.look(photo)
    self.clean = shapes.resized(look.clean, *self.size)
    return look

  def fill(self, photo: np.ndarray, around: np.ndarray, holes: np.ndarray) -> np.ndarray:
    filled = self.engine.fill(photo, around, holes)
    self.filled = shapes.resized(filled, *self.size)
    return filled


@dataclasses.dataclass(frozen=True, eq=False)
class Record(_Standing):
  """What a Recorder kept, as an engine of the small photo: it gives previews without a network.

  Attributes:
    engine: revives tones.
    original, clean: float32 [h, w, 3], small copies of the original and of what it was cleaned to.
    filled: the same of what was filled; None: nothing was.
    mask: float32 [h, w, 1], where.
    keep: bool [h, w, 1], pixels that stay.
    drawn: the strokes that led to it.
    find: whether damage was looked for.
  """

  engine: engines.Engine
  original: np.ndarray
  clean: np.ndarray
  filled: np.ndarray | None
  mask: np.ndarray
  keep: np.ndarray
  drawn: tuple[brush.Stroke, ...]
  find: bool

  def restore(self, photo: np.ndarray) -> np.ndarray:
    return self.clean

  def look(self, photo: np.ndarray) -> engines.Look:
    return engines.Look(self.clean)

  def fill(self, photo: np.ndarray, around: np.ndarray, holes: np.ndarray) -> np.ndarray:
    return around if self.filled is None else self.filled


class Studio:
  """Restores the photos of one box. `restore` and `look` are for one thread, `preview` for any."""

  def __init__(
    self,
    photos: box.Box,
    cache: pictures.Cache,
    engine: engines.Engine,
    made_by: Mapping[str, Any] = types.MappingProxyType({}),
  ):
    """`engine`: compiled for tiles of TILE; `made_by`: as settings of restore.restore_photos."""
    self.box, self.cache, self.engine, self.made_by = photos, cache, engine, made_by
    self.finds = isinstance(engine, engines.Repairing)
    self._tiles = Tiles(photos.limits.tile_bytes)
    self._records: collections.OrderedDict[str, Record] = collections.OrderedDict()

  def wishes(self, settings: box.Settings) -> restore.Wishes:
    """What the settings mean for these weights."""
    find = finding.THRESHOLD if settings.find and self.finds else None
    return restore.Wishes(
      settings.strength, settings.only_damage, find, settings.tone, settings.every_picture
    )

  # A first look --------------------------------------------------------------------------------

  def look(self, entry: box.Entry, tick: Callable[[int], None]) -> None:
    """Looks at a small copy: what is wrong with the photo, and what could become of it.

    In the whole photo the network sees more, and may find less damage than in the copy, or more.
    `whole` says that the copy has all pixels of the photo: then restoring finds the same.

    Raises:
      PhotoError: the photo cannot be read.
    """
    photo = images.read(self.box.original(entry), self.box.limits.pixels)
    place = self.box.place(entry)
    pictures.write_small(photo, place, 'before')
    small = pictures.shrunk(photo, LOOKED)
    images.write(small, place / SMALL, overwrite=True)  # previews need not decode the photo again
    wishes = self.wishes(box.Settings())
    engine = watched(self.engine, self._tiles, tick)
    after, done = restore.restore_photo(engine, small, None, wishes)
    pictures.write_small(after, place, 'looked')
    mask = np.zeros((*small.size, 1), np.float32) if done.mask is None else done.mask
    images.write(masks.to_photo(mask), place / SMALL_MASK, overwrite=True)
    self.box.set_looked(
      entry,
      {
        'whole': small.size == photo.size,
        'damaged': float((mask > 0).mean()) if self.finds else None,
        'faded': min(1.0, done.tone / restore.TONE) if self.finds else None,
        'noisy': self._noise(engine, photo),
        'bits': photo.bits,
        'gray': bool((photo.pixels[..., :1] == photo.pixels[..., 1:]).all()),
        'format': photo.format,
        'warnings': for_page([*photo.warnings, *done.notes]),
        'kind': done.kind,
      },
    )

  def _noise(self, engine: engines.Engine, photo: images.Photo) -> float | None:
    """How far the middle of a photo, at full size, needs cleaning: from 0 to 1."""
    if not isinstance(engine, engines.Repairing):
      return None
    height, width = photo.size
    top, left = max(0, (height - TILE) // 2), max(0, (width - TILE) // 2)
    part = images.to_float(images.Photo(photo.pixels[top : top + TILE, left : left + TILE]))
    return engine.need(part)

  def pixels_to_look(self, entry: box.Entry) -> int:
    """How many pixels `look` reports to `tick` in all, about."""
    return work(self.engine, pictures.fitting(entry.size, LOOKED), self.finds) + TILE**2

  # Restoring -----------------------------------------------------------------------------------

  def restore(self, entry: box.Entry, tick: Callable[[int], None]) -> None:
    """Restores a photo into the box, as `oldphoto restore` does into a folder.

    Raises:
      PhotoError: it could not be restored; a sentence says why.
    """
    edits = self.box.edits(entry)
    wishes, place = self.wishes(edits.settings), self.box.place(entry)
    searching = wishes.find is not None and not edits.draws
    source, out = self.box.original(entry), self.box.new_result(entry)
    suffix = pathlib.PurePath(entry.name).suffix.lower()
    name = output_files.like_original(pathlib.PurePath(f'restored{suffix}'))
    outputs = {'output': out / name, 'mask': out / 'filled.png'}
    todo = folder.Plan((tasks.Item(source, name, outputs, size=entry.size),), out, out)
    recorder = Recorder(
      watched(self.engine, self._tiles, tick), pictures.fitting(entry.size, PREVIEW)
    )
    kept: dict[str, Any] = {}

    def drawn(path: pathlib.Path, photo: images.Photo) -> tuple[np.ndarray, ...]:
      if 'drawn' not in kept:
        base = np.zeros((*photo.size, 1), np.float32)
        if wishes.find is not None and edits.draws:
          base = self._found(entry, photo, edits.settings, recorder.engine)
        kept['drawn'] = drawn_over(base, edits.strokes)
      return kept['drawn']

    def show(item, before, after, mask):
      kept.update(before=before, after=after, mask=mask)

    try:
      summary = restore.restore_photos(
        recorder,
        todo,
        wishes,
        settings=self.made_by,
        mask=(lambda path, photo: None) if searching else lambda *args: drawn(*args)[0],
        keep=lambda *args: drawn(*args)[1] if edits.strokes else None,
        found=lambda *args: None if searching else drawn(*args)[2],
        show=show,
      )
      (result,) = summary.results
      if summary.exit_code is not ExitStatus.OK:
        raise PhotoError(box.plain(PhotoError(result.message), source, entry.name))
      pictures.write_small(kept['after'], out, 'after')
      if searching:
        path = place / FOUND[wishes.every_picture]
        images.write_bytes(path, (out / 'filled.png').read_bytes(), overwrite=True)
      self.box.set_result(
        entry,
        out,
        {
          'file': str(name),
          'digest': edits.digest,
          'warnings': for_page(result.warnings),
          'seconds': result.seconds,
          'sha256': result.files['output'].sha256,
          'weights': self.engine.name,
          'settings': dataclasses.asdict(edits.settings),
          **result.fields,
        },
      )
    except BaseException:
      shutil.rmtree(out, ignore_errors=True)
      raise
    self._remember(entry, edits, recorder, kept)

  def pixels_to_restore(self, entry: box.Entry) -> int:
    """How many pixels `restore` reports to `tick` in all, about."""
    edits = self.box.edits(entry)
    searching = self.wishes(edits.settings).find is not None
    path = self.box.place(entry) / FOUND[edits.settings.every_picture]
    again = edits.draws and not path.exists()
    return work(self.engine, entry.size, searching and (not edits.draws or again))

  def _found(
    self, entry: box.Entry, photo: images.Photo, settings: box.Settings, engine: engines.Engine
  ) -> np.ndarray:
    """The mask that the search finds in the whole photo, on which strokes are drawn."""
    path = self.box.place(entry) / FOUND[settings.every_picture]
    if not path.exists():
      alone = dataclasses.replace(self.wishes(settings), only_damage=True)
      mask = restore.restore_photo(engine, photo, None, alone)[1].mask
      mask = np.zeros((*photo.size, 1), np.float32) if mask is None else mask
      images.write(masks.to_photo(mask, photo.dpi), path, overwrite=True)
    return marked(path)

  def _remember(self, entry, edits: box.Edits, recorder: Recorder, kept: dict[str, Any]) -> None:
    if recorder.clean is None:
      return
    size = recorder.size
    keep = np.zeros((*size, 1), bool)
    if edits.strokes:
      keep = shapes.resized(kept['drawn'][1].astype(np.float32), *size) > 0.5
    mask = np.zeros((*size, 1), np.float32)
    if kept['mask'] is not None:
      mask = shapes.resized(kept['mask'], *size)
    self._records[entry.id] = Record(
      self.engine,
      pictures.shrunk_floats(kept['before'], size),
      recorder.clean,
      recorder.filled,
      mask,
      keep,
      edits.strokes,
      edits.settings.find,
    )
    while len(self._records) > 6:
      self._records.popitem(last=False)

  # Previews ------------------------------------------------------------------------------------

  def preview(self, entry: box.Entry, edits: box.Edits) -> bytes:
    """A small picture of what would become of a photo, as JPEG, quickly.

    If the photo was restored with the same strokes, it is made of small copies of what the network
    gave then. Else the network runs on a small copy of the photo.

    Raises:
      PhotoError: the photo cannot be read, or the mask covers all of it.
    """
    wishes, record = self.wishes(edits.settings), self._records.get(entry.id)
    looked = self.box.place(entry) / SMALL
    source = looked if looked.exists() else self.box.original(entry)
    photo = self.cache.small(source, LOOKED)
    if record and record.drawn == edits.strokes and record.find == edits.settings.find:
      wishes = dataclasses.replace(wishes, find=None)
      values = restore.restore_array(record, record.original, record.mask, wishes).photo
      values = images.keep_gray(np.where(record.keep, record.original, values), photo.pixels)
      levels = np.rint((values.clip(-1, 1) + 1) * 127.5).astype(np.uint8)
    else:
      mask = keep = doubted = None
      if edits.strokes or wishes.find is None:
        base = np.zeros((*photo.size, 1), np.float32)
        if wishes.find is not None:
          base = found(self.box.place(entry), photo.size, wishes.every_picture)
        mask, keep, doubted = drawn_over(base, edits.strokes, photo.size[1] / entry.size[1])
      engine = watched(self.engine, self._tiles)
      levels = restore.restore_photo(engine, photo, mask, wishes, keep, doubted)[0].pixels
    return pictures.jpeg(images.Photo(levels, gray=photo.gray, icc=photo.icc))

  def forget(self, id: str) -> None:
    """Forgets what is kept in memory of a photo."""
    self._records.pop(id, None)
    self.cache.forget(self.box.folder / 'photos' / id)
