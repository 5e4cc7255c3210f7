"""Runs the cheapest rows of a finished comparison again, and says which of its numbers moved."""

import dataclasses
import json
import pathlib
import tempfile
from collections.abc import Sequence
from typing import Any

import numpy as np

from oldphoto_jax.errors import ConfigError
from oldphoto_jax.evaluation.judge import METRICS, Judge
from oldphoto_jax.evaluation.results import compare
from oldphoto_jax.evaluation.rows import Row, Test
from oldphoto_jax.evaluation.tables import Table, digest

ROUNDING = 1e-6  # scores are stored with six digits
# How far the score of one photo may move on another processor, whose sums are rounded differently.
# Chosen, far below the intervals over photos. With AVX2 instead of AVX-512 (--xla_cpu_max_isa) on
# one machine no score moved: classical rows and the package's weights, three photos of `report`.
TOLERANCE = {
  'psnr': 0.05,
  'ssim': 0.001,
  'ms_ssim': 0.001,
  'lpips': 0.001,
  'squeezenet': 0.001,
  'niqe': 0.05,
  'psnr_inside': 0.05,
  'psnr_outside': 0.05,
}
SAME, WITHIN, MOVED = 'same', 'within tolerance', 'moved'


@dataclasses.dataclass(frozen=True)
class Score:
  """One number of the table beside what it is now.

  Attributes:
    test, label, metric: where it stands.
    photos: number of photos.
    before, after: means over photos.
    largest: largest change of a photo's score.
    verdict: SAME, WITHIN or MOVED.
  """

  test: str
  label: str
  metric: str
  photos: int
  before: float
  after: float
  largest: float
  verdict: str


def read(path: str) -> dict[str, Any]:
  """The report in a comparison.json.

  Raises:
    ConfigError: there is none.
  """
  try:
    report = json.loads(pathlib.Path(path).expanduser().read_text())
    return report if report['tests'] and report['systems'] else report['nothing']
  except OSError as error:
    raise ConfigError(f'verify: {path} cannot be read ({error.strerror})') from error
  except (ValueError, KeyError, TypeError) as error:
    raise ConfigError(
      f'verify: {path} is not the comparison.json of a comparison: name that file'
    ) from error


def choose(
  report: dict[str, Any], rows: Sequence[Row], tests: Sequence[Test], seconds: float
) -> tuple[list[tuple[str, str]], list[str]]:
  """Which (test, label) to run again, and sentences on rows that cannot be.

  The cheapest come first, by the table's own times, until these exceed `seconds`. Rows that restore
  with other weights or settings than those of the table are left out.

  Raises:
    ConfigError: the photos are not those of the table.
  """
  mine, left, found = {row.label: row for row in rows}, [], []
  for label, system in report['systems'].items():
    if label not in mine:
      left.append(f'{label}: its weights are not here')
    elif mine[label].identity != system['identity']:
      left.append(f'{label}: {mine[label].identity}, but the table has {system["identity"]}')
  out = {sentence.partition(': ')[0] for sentence in left}
  for test in tests:
    table = report['tests'].get(test.name)
    if table is None:
      continue
    if table['photos'] != test.photos:
      different = [a for a in table['photos'] if a not in test.photos] or table['photos']
      raise ConfigError(
        f'verify: the table {test.name} is of {len(table["photos"])} photos, among them '
        f'{different[0]}, and this command of {len(test.photos)}: name the same with data.photos, '
        'data.val, data.test and their subsets'
      )
    times = report['timings']['seconds per photo'][test.name]
    for label in table['rows']:
      if label not in out and table['rows'][label]['scores']:
        photos = table['rows'][label]['photos']
        found.append(((times.get(label) or 0) * photos, test.name, label))
  chosen, total = [], 0.0
  for cost, test_name, label in sorted(found):
    total += cost
    if chosen and total > seconds:
      left.append(f'{label} on {test_name}: it takes about {cost:.0f} s')
    else:
      chosen.append((test_name, label))
  return chosen, left


def again(
  report: dict[str, Any],
  rows: Sequence[Row],
  tests: Sequence[Test],
  judge: Judge,
  chosen: Sequence[tuple[str, str]],
) -> list[Score]:
  """Runs the chosen rows, and compares the score of every photo with the table's."""
  scores = []
  with tempfile.TemporaryDirectory() as place:  # stored results would only agree with themselves
    for test in tests:
      labels = [label for name, label in chosen if name == test.name]
      picked = [row for row in rows if row.label in labels]
      results = compare(picked, [test], judge, place, pictures=0, commit=None)[test.name]
      for label, result in results.items():
        stored = report['tests'][test.name]['rows'][label]['scores']
        scores += [
          _score(test.name, label, metric.name, stored[metric.name], result.scores[metric.name])
          for metric in METRICS
          if metric.name in stored and metric.name in result.scores
        ]
  return scores


def _score(test: str, label: str, metric: str, stored: list, now: np.ndarray) -> Score:
  before = np.array([np.nan if x is None else x for x in stored[: len(now)]], np.float64)
  now = now[: len(before)]
  both = np.isfinite(before) & np.isfinite(now)
  change = np.abs(before - now)[both]
  largest = float(change.max()) if both.any() else 0.0
  if (np.isfinite(before) != np.isfinite(now)).any():
    largest = np.inf  # there was a number and is none now, or the other way round
  verdict = SAME if largest <= ROUNDING else WITHIN if largest <= TOLERANCE[metric] else MOVED
  means = [float(x[both].mean()) if both.any() else float('nan') for x in (before, now)]
  return Score(test, label, metric, int(both.sum()), *means, largest, verdict)


def table(
  report: dict[str, Any], scores: Sequence[Score], tests: Sequence[Test], left: Sequence[str]
) -> Table:
  """What was run again, in words and numbers."""
  counts = {v: sum(s.verdict == v for s in scores) for v in (SAME, WITHIN, MOVED)}
  damage = [
    f'{test.name}: {"the same bits" if same else "other bits"}'
    for test in tests
    if test.name in report['tests']
    for same in [report['tests'][test.name]['digest'] == digest(test)]
  ]
  made = report.get('environment', {})
  text = (
    f'{counts[SAME]} numbers are the same to six digits, {counts[WITHIN]} are within the tolerance '
    f'for another processor, {counts[MOVED]} moved. The table was made by commit '
    f'{made.get("commit")} on {made.get("processor", "an unknown processor")}. Damaged photos: '
    f'{"; ".join(damage)}. Not run: {"; ".join(left) or "nothing"}.'
  )
  header = ['test', 'row', 'score', 'photos', 'mean in the table', 'mean now']
  header += ['largest change of a photo', 'tolerance', 'verdict']
  lines = [
    [
      *(s.test, s.label, s.metric, str(s.photos)),
      *(f'{x:.6f}' for x in (s.before, s.after)),
      *(f'{s.largest:.2g}', str(TOLERANCE[s.metric]), s.verdict),
    ]
    for s in scores
  ]
  return Table('Verification', text, header, lines)
