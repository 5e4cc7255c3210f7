"""Runs a comparison: every row restores every test, and each photo's scores are kept.

All rows get the same arrays and are scored by the same program on 8-bit RGB, which is what they
would write. A photo's scores are on disk as soon as they are known, so an interrupted comparison
goes on where it stopped.
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

import numpy as np
from PIL import Image

from oldphoto_jax.errors import WeightsError
from oldphoto_jax.evaluation.judge import METRICS, Judge, score
from oldphoto_jax.evaluation.rows import Restore, Row, Test
from oldphoto_jax.photos import images, masks, sheets
from oldphoto_jax.training import train

_log = logging.getLogger(__name__)

_REPEATED = 10.0  # seconds up to which a first call, which compiles, is repeated for its time


@dataclasses.dataclass(frozen=True, eq=False)
class Results:
  """Of one row on one test.

  Attributes:
    photos: number of photos, the first ones of the test.
    scores: metric -> one value a photo, [photos]; nan where there is nothing to measure.
    seconds: of restoring, one a photo; nan where the call also compiled.
    pictures: the first restored photos, uint8.
    commits: of the code that computed them.
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
  """Results of all rows on all tests, test -> label; one row at a time is in memory.

  Arguments as `evaluate`; rows with masks are left out of tests without.
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
  """Restores and scores the photos of a test that `folder` has no results of yet.

  Args:
    row, test, judge: who restores what, and by what it is scored.
    folder: keeps results a file of JSON a row and test, and pictures.
    pictures: number of restored photos to keep as PNG.
    commit: of this code.
    opened: gives the row's function; called only where something is to be restored.
    stop: asked after each photo.

  Raises:
    train.Stopped: if `stop` said so before the end.
    WeightsError: a restored photo is not finite.
  """
  key = hashlib.sha256(json.dumps([row.label, row.identity, judge.identity]).encode()).hexdigest()
  place = pathlib.Path(folder) / _slug(test.name) / f'{_slug(row.label)}-{key[:12]}'
  file = place / 'scores.json'
  known = _read(file)
  count = min(row.limit or len(test.photos), len(test.photos))
  records, fresh = [], True
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
      '%s on %s: results of commits %s are kept; delete %s to compute them anew',
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
  """The restored photo, uint8, and the seconds it took or None for a long first call."""
  photo = images.to_float(images.Photo(test.old[i]))
  weight = None
  if row.masked:
    # No margin as for a mask that was found or drawn: it costs more of the photo than it saves.
    # Biharmonic filling of four photos, whole frame: 22.8 instead of 21.0 dB (recipe report), 17.4
    # instead of 17.3 (print).
    weight = masks.grow(test.mask[i], threshold=0.05, pixels=0, feather=0)
    if weight.min() > 0:  # nothing is left to fill it from
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
      f'{row.label} makes of {test.photos[i]} ({test.name}) no photo of its shape with finite '
      'values: its weights are broken'
    )
  return sheets.from_float(restored), seconds


def _read(file: pathlib.Path) -> dict[str, dict]:
  """The records of a file by the photo's digest; none where there is no file."""
  try:
    return json.loads(file.read_text())
  except FileNotFoundError:
    return {}
  except ValueError:
    _log.warning('%s cannot be read and is made anew', file)
    return {}


def _slug(text: str) -> str:
  return re.sub(r'[^a-z0-9]+', '_', text.lower()).strip('_') or 'row'


def _values(values) -> np.ndarray:
  return np.array([np.nan if value is None else value for value in values], np.float64)
