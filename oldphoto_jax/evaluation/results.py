"""Runs a comparison: every row restores every test, and the scores of each photo are stored.

All rows get the same arrays, and the same program scores them as 8-bit RGB, as they would be
written. The scores of a photo are stored at once, so an interrupted comparison goes on where it
stopped.
"""

import dataclasses
import functools
import hashlib
import json
import logging
import os
import pathlib
import re
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from PIL import Image

from oldphoto_jax.errors import WeightsError
from oldphoto_jax.evaluation.judge import METRICS, Judge, score
from oldphoto_jax.evaluation.rows import Restore, Row, Test
from oldphoto_jax.photos import images, masks, sheets
from oldphoto_jax.training import train

_log = logging.getLogger(__name__)

_REPEATED = 10.0  # seconds: a shorter first call is timed again, because it also compiled


@dataclasses.dataclass(frozen=True, eq=False)
class Results:
  """The results of one row on one test.

  Attributes:
    photos: number of photos, from the first one on.
    scores: metric -> one value per photo, [photos]; nan if there is nothing to measure.
    seconds: time per photo, [photos]; nan if the call also compiled.
    pictures: the first restored photos, uint8.
    commits: commits of the code that computed them.
  """

  photos: int
  scores: dict[str, np.ndarray]
  seconds: np.ndarray
  pictures: list[np.ndarray]
  commits: set[str]


def compare(
  rows: Sequence[Row],
  tests: Sequence[Test],
  judge: Judge,
  folder: str | os.PathLike,
  *,
  pictures: int,
  commit: str | None,
  stop: Callable[[], bool] = lambda: False,
) -> dict[str, dict[str, Results]]:
  """Results of all rows on all tests, by test and label. One row at a time is in memory.

  Arguments are those of `evaluate`. Rows with masks skip tests without masks.
  """
  results = {test.name: {} for test in tests}
  for row in rows:
    opened = functools.cache(row.open)
    for test in tests:
      if row.masked and test.mask is None:
        continue
      start = time.perf_counter()
      results[test.name][row.label] = evaluate(
        row, test, judge, folder, pictures=pictures, commit=commit, opened=opened, stop=stop
      )
      _log.info('%s: %s, %.0f s', test.name, row.label, time.perf_counter() - start)
  return results


def evaluate(
  row: Row,
  test: Test,
  judge: Judge,
  folder: str | os.PathLike,
  *,
  pictures: int,
  commit: str | None,
  opened: Callable[[], Restore],
  stop: Callable[[], bool] = lambda: False,
) -> Results:
  """Restores and scores those photos of a test for which `folder` has no results yet.

  Args:
    row, test, judge: who restores what, and how it is scored.
    folder: stores one JSON file per row and test, and pictures.
    pictures: number of restored photos to keep as PNG.
    commit: commit of this code.
    opened: returns the row's function; called only if there is something to restore.
    stop: called after each photo.

  Raises:
    train.Stopped: `stop` returned true before the end.
    WeightsError: a restored photo is not finite.
  """
  key = hashlib.sha256(json.dumps([row.label, row.identity, judge.identity]).encode()).hexdigest()
  place = pathlib.Path(folder) / _slug(test.name) / f'{_slug(row.label)}-{key[:12]}'
  file = place / 'scores.json'
  known = _read(file)
  count = min(row.limit or len(test.photos), len(test.photos))
  records: list[tuple[pathlib.Path, dict[str, Any]]] = []
  fresh = True
  for i in range(count):
    digest = test.digest(i)
    picture = place / f'{digest[:12]}.png'
    record = known.get(digest)
    if record is None or (i < pictures and not picture.is_file()):
      restored, seconds = _restore(row, test, i, opened(), fresh)
      fresh = False
      scores = score(judge, test, i, restored)
      record = {'photo': test.photos[i], 'scores': scores, 'seconds': seconds, 'commit': commit}
      place.mkdir(parents=True, exist_ok=True)
      if i < pictures:
        sheets.save_png(picture, restored)
      known[digest] = record
      images.write_bytes(file, json.dumps(known, indent=1).encode(), overwrite=True)
      if stop() and i + 1 < count:
        _log.warning('%s on %s: stopped; the same command goes on', row.label, test.name)
        raise train.Stopped
    records.append((picture, record))
  commits = {str(record['commit']) for _, record in records}
  if commits - {str(commit)}:
    _log.warning(
      '%s on %s: using stored results of commits %s; delete %s to compute them again',
      row.label,
      test.name,
      ', '.join(sorted(commits)),
      place,
    )
  names = [m.name for m in METRICS if any(m.name in record['scores'] for _, record in records)]
  return Results(
    photos=count,
    scores={name: _values(record['scores'].get(name) for _, record in records) for name in names},
    seconds=_values(record['seconds'] for _, record in records),
    pictures=[np.asarray(Image.open(path).convert('RGB')) for path, _ in records[:pictures]],
    commits=commits,
  )


def _restore(
  row: Row, test: Test, i: int, function: Restore, first: bool
) -> tuple[np.ndarray, float | None]:
  """The restored photo, uint8, and the seconds it took; None for a long first call."""
  photo = images.to_float(images.Photo(test.old[i]))
  weight = None
  if row.masked:
    # No margin, unlike for masks that were found or drawn: it would cost more than it gains.
    # Biharmonic filling of four photos, whole frame: 22.8 instead of 21.0 dB (recipe report), 17.4
    # instead of 17.3 dB (print).
    weight = masks.grow(test.mask[i], threshold=0.05, pixels=0, feather=0)
    if weight.min() > 0:  # nothing is left to fill from
      weight = None
  start = time.perf_counter()
  restored = function(photo, weight)
  seconds = time.perf_counter() - start
  if first:
    if seconds <= _REPEATED:
      start = time.perf_counter()
      restored = function(photo, weight)
      seconds = time.perf_counter() - start
    else:
      seconds = None
  if restored.shape != photo.shape or not np.isfinite(restored).all():
    raise WeightsError(
      f'{row.label} returned a wrong shape or values that are not finite for {test.photos[i]} '
      f'({test.name}): its weights are broken'
    )
  return sheets.from_float(restored), seconds


def _read(file: pathlib.Path) -> dict[str, dict]:
  """The records of a file by the digest of the photo; {} without a file."""
  try:
    return json.loads(file.read_text())
  except FileNotFoundError:
    return {}
  except ValueError:
    _log.warning('%s cannot be read and will be replaced', file)
    return {}


def _slug(text: str) -> str:
  return re.sub(r'[^a-z0-9]+', '_', text.lower()).strip('_') or 'row'


def _values(values) -> np.ndarray:
  return np.array([np.nan if value is None else value for value in values], np.float64)
