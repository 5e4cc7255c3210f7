"""The page and the sheet that compare restored photos with their originals."""

import dataclasses
import pathlib

import numpy as np

from oldphoto_jax.errors import PhotoError
from oldphoto_jax.photos import images, page, sheets
from oldphoto_jax.restoring import folder, tasks

PAGE = 'before-after.html'
SHEET = f'{PAGE}.png'  # a name that no photo has
_PHOTOS_ON_SHEET = 6


class Pages:
  """Collects small pictures of each photo of a job, and writes the page and the sheet."""

  def __init__(self, todo: folder.Plan):
    self._todo, self._figures = todo, {}
    self._pairs = {}  # thumbnails for the sheet
    # A page of a thousand photos must still open, so many photos get smaller pictures.
    count = len(todo.items)
    self._side = 1200 if count <= 50 else 800 if count <= 200 else 500

  def show(
    self, item: tasks.Item, before: images.Photo, after: images.Photo, mask: np.ndarray | None
  ) -> None:
    """Adds a restored photo. The mask is float [H, W, 1] in [0, 1], 1 = damaged."""
    icc = None if after.gray else after.icc
    note = ' '.join(after.warnings)
    before, after = images.to_rgb8(before), images.to_rgb8(after)
    change = None
    if before.shape == after.shape:
      # A change of a quarter of the range is shown at full strength.
      change = np.clip(np.abs(after.astype(np.int16) - before).max(-1) / 64, 0, 1)
    name = str(item.output.relative_to(self._todo.out))
    mask = None if mask is None else mask[..., 0]
    entry = page.Entry(name, before, after, icc, mask, change, note)
    self._figures[str(item.path)] = page.figure(entry, self._side)
    if len(self._pairs) < _PHOTOS_ON_SHEET:
      self._pairs[name] = [sheets.thumbnail(before, 384), sheets.thumbnail(after, 384)]

  def write(self, summary: folder.Summary) -> pathlib.Path:
    """Writes the page and the sheet, for which kept photos are read again.

    Returns:
      The path of the page.
    """
    figures, failures = [], []
    for item, result in zip(self._todo.items, summary.results):
      if result.status == 'failed':
        reason = result.message.removeprefix(f'{result.input}: ')
        failures.append((result.input, reason[:1].upper() + reason[1:]))
        continue
      if result.status == 'kept':
        try:
          after = dataclasses.replace(images.read(item.output), warnings=tuple(result.warnings))
          self.show(item, images.read(item.path), after, None)
        except PhotoError as error:  # kept files may be anything
          failures.append((str(item.output), str(error)))
          continue
      figures.append(self._figures[result.input])
    page.write_page(self._todo.out / PAGE, figures, failures)
    if self._pairs:
      sheet = sheets.grid(list(self._pairs.values()), ['before', 'after'], list(self._pairs))
      sheets.save_png(self._todo.out / SHEET, sheet)
    return self._todo.out / PAGE
