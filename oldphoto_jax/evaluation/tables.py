"""Reports of a comparison: means with bootstrap intervals, tables, and grids of photos."""

import dataclasses
import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from oldphoto_jax.evaluation.judge import METRICS, REFERENCE, TRUTH
from oldphoto_jax.evaluation.results import Results
from oldphoto_jax.evaluation.rows import NOTHING, Row, Test
from oldphoto_jax.photos import sheets

CONFIDENCE = 0.95


@dataclasses.dataclass(frozen=True)
class Mean:
  """A mean over `n` photos and its 95 % interval; None for too few photos."""

  mean: float | None
  low: float | None
  high: float | None
  n: int


def bootstrap(values: np.ndarray, seed: int, resamples: int) -> Mean:
  """The mean of the finite values, with the percentile bootstrap's interval over them.

  Efron 1979: the 2.5 % and 97.5 % quantiles of the means of `resamples` draws with replacement. The
  interval covers only the choice of photos, not the variation between training runs.

  Args:
    values: [N], one per photo. An interval needs at least two.
    seed: seed of the draws.
    resamples: number of draws.
  """
  values = np.asarray(values, np.float64)
  values = values[np.isfinite(values)]
  n = len(values)
  if n == 0:
    return Mean(None, None, None, 0)
  if n == 1:
    return Mean(float(values[0]), None, None, 1)
  drawn = np.random.default_rng(seed).integers(n, size=(resamples, n))
  tail = (1 - CONFIDENCE) / 2
  low, high = np.quantile(values[drawn].mean(1), (tail, 1 - tail))
  return Mean(float(values.mean()), float(low), float(high), n)


def difference(ours: np.ndarray, reference: np.ndarray, seed: int, resamples: int) -> Mean:
  """`bootstrap` of the differences on the photos that both have: the first ones."""
  n = min(len(ours), len(reference))
  return bootstrap(ours[:n] - reference[:n], seed, resamples)


def improved(ours: np.ndarray, nothing: np.ndarray) -> int:
  """Number of photos whose PSNR is higher than that of doing nothing."""
  return int((ours > nothing[: len(ours)]).sum())


@dataclasses.dataclass(frozen=True)
class Table:
  """A table for people. The first column names the row."""

  title: str
  text: str
  header: list[str]
  rows: list[list[str]]


def markdown(tables: Sequence[Table]) -> str:
  """All tables, each below its title and text."""
  parts = []
  for table in tables:
    lines = [table.header, ['---'] * len(table.header), *table.rows]
    parts.append(f'## {table.title}\n\n{table.text}\n\n' if table.text else f'## {table.title}\n\n')
    parts.append(''.join(f'| {" | ".join(_cell(x) for x in line)} |\n' for line in lines) + '\n')
  return ''.join(parts)


def _cell(text: str) -> str:
  return text.replace('|', r'\|')


def report(
  rows: Sequence[Row],
  tests: Sequence[Test],
  results: dict[str, dict[str, Results]],
  extra: dict[str, dict[str, np.ndarray]],
  reference: str,
  seed: int,
  resamples: int,
) -> dict[str, Any]:
  """All measurements as JSON values. Everything that depends on a clock is under 'timings'.

  Args:
    rows: in the order of the tables.
    tests: likewise.
    results: test -> label -> results.
    extra: test -> `judge.extra_scores`.
    reference: label of the row that the others are compared with.
    seed, resamples: of the bootstrap.
  """

  def numbers(mean: Mean) -> dict[str, Any]:
    return {k: v if k == 'n' else _round(v) for k, v in dataclasses.asdict(mean).items()}

  def of(test: Test, label: str) -> dict[str, Any]:
    mine, found = results[test.name][label], {}
    found['photos'], found['commits'] = mine.photos, sorted(mine.commits)
    found['means'] = {k: numbers(bootstrap(v, seed, resamples)) for k, v in mine.scores.items()}
    base = results[test.name].get(reference)
    if base is not None and label != reference:
      found[f'minus {reference}'] = {
        k: numbers(difference(v, base.scores[k], seed, resamples))
        for k, v in mine.scores.items()
        if k in base.scores
      }
    if 'psnr' in mine.scores and label != NOTHING:
      found['improved'] = improved(mine.scores['psnr'], results[test.name][NOTHING].scores['psnr'])
    found['scores'] = {k: [_round(x) for x in v] for k, v in mine.scores.items()}
    return found

  def training(row: Row) -> dict[str, Any] | None:
    if row.training is None:
      return None
    fields = dataclasses.asdict(row.training)
    fields.pop('seconds')
    return fields

  return {
    'reference': reference,
    'confidence': CONFIDENCE,
    'systems': {
      row.label: {
        'identity': row.identity,
        'parameters': row.parameters,
        'true mask': row.masked,
        'training': training(row),
      }
      for row in rows
    },
    'tests': {
      test.name: {
        'photos': test.photos,
        'digest': digest(test),
        'rows': {row.label: of(test, row.label) for row in rows if row.label in results[test.name]},
        'niqe': {
          name: numbers(bootstrap(values, seed, resamples))
          for name, values in extra[test.name].items()
        },
      }
      for test in tests
    },
    'timings': {
      'seconds per photo': {
        test.name: {label: _median(r.seconds) for label, r in results[test.name].items()}
        for test in tests
      },
      'training seconds': {
        row.label: None if row.training is None else _round(row.training.seconds) for row in rows
      },
    },
  }


def digest(test: Test) -> str:
  """A hash of all photos of a test, damaged and true."""
  parts = ''.join(test.digest(i) for i in range(len(test.photos)))
  return hashlib.sha256(parts.encode()).hexdigest()


def tables(report: dict[str, Any]) -> list[Table]:
  """The tables of a `report`: systems, scores and differences on each test, and their origin."""
  reference, made = report['reference'], [_systems(report)]
  for name, test in report['tests'].items():
    rows = test['rows']
    columns = [m for m in METRICS if any(_mean(r['means'], m.name) for r in rows.values())]
    with_truth = any('psnr' in row['means'] for row in rows.values())
    header = ['', 'photos', *(f'{m.title} {"↑" if m.higher_is_better else "↓"}' for m in columns)]
    header += ['improved'] * with_truth + ['s per photo']
    lines = []
    for label, row in rows.items():
      seconds = report['timings']['seconds per photo'][name][label]
      line = [label, str(row['photos'])]
      line += [_interval(_mean(row['means'], m.name), m.digits) for m in columns]
      if with_truth:
        line.append(str(row.get('improved', '')))
      lines.append([*line, '' if seconds is None else f'{seconds:.3f}'])
    text = f'Means over photos [{CONFIDENCE:.0%} bootstrap interval over photos].'
    if not with_truth:
      text += ' There is no truth: the distance is to the reference, the photos of another system.'
    for label, mean in test['niqe'].items():
      text += f' NIQE of the {label}: {_interval(mean, 2)}.'
    made.append(Table(name, text, header, lines))

    header = ['', 'photos', *(m.title for m in columns)]
    lines = []
    for label, row in rows.items():
      paired = row.get(f'minus {reference}')
      if paired is not None:
        shared = max((mean['n'] for mean in paired.values()), default=0)
        cells = [_interval(_mean(paired, m.name), m.digits, sign='+') for m in columns]
        lines.append([label, str(shared), *cells])
    if lines:
      text = f'Row minus {reference}, on the photos that both have: mean [interval].'
      made.append(Table(f'{name}: differences to {reference}', text, header, lines))
  if 'environment' in report:
    made.append(_origin(report))
  return made


def _origin(report: dict[str, Any]) -> Table:
  """What has to be the same for the same numbers."""
  environment, settings = report['environment'], report['settings']
  count, kind = environment['devices']
  lines = [
    ['commit', str(environment['commit'])],
    ['seed', str(settings['seed'])],
    ['processor', f'{environment.get("processor", "unknown")}, as {count} x {kind}'],
    ['versions', ', '.join(f'{k} {v}' for k, v in environment['versions'].items())],
    ['scores', str(settings.get('judge', 'unknown'))],
  ]
  lines += [[f'photos and damage: {k}', t['digest'][:12]] for k, t in report['tests'].items()]
  lines += [[f'row: {label}', row['identity']] for label, row in report['systems'].items()]
  text = (
    'What these numbers depend on; a row of weights has the first digits of the SHA-256 of their '
    'file. --config.verify runs the cheapest rows again.'
  )
  return Table('Origin', text, ['', ''], lines)


def _systems(report: dict[str, Any]) -> Table:
  header = ['', 'parameters', 'training images', 'training s', 'photos', 'recipe', 'crop']
  header += ['perceptual loss']
  lines = []
  for label, system in report['systems'].items():
    training = system['training'] or {}
    seconds = report['timings']['training seconds'][label]
    cells = [system['parameters'], training.get('images'), None if seconds is None else seconds]
    cells = ['' if x is None else f'{x:,.0f}' for x in cells]
    cells += [training.get(x) for x in ('photos', 'recipe', 'crop', 'perceptual')]
    lines.append([label, *('' if x is None else str(x) for x in cells)])
  text = (
    'How each row was trained. Seconds count training steps on the machine that trained it. An '
    'empty cell is unknown or does not apply.'
  )
  return Table('Systems', text, header, lines)


def _mean(means: dict[str, dict], name: str) -> dict | None:
  found = means.get(name)
  return None if found is None or found['mean'] is None else found


def _interval(mean: dict | None, digits: int, sign: str = '') -> str:
  if mean is None or mean['mean'] is None:
    return '–'
  text = f'{mean["mean"]:{sign}.{digits}f}'
  if mean['low'] is None:
    return text
  return f'{text} [{mean["low"]:{sign}.{digits}f}, {mean["high"]:{sign}.{digits}f}]'


def _round(value: float | None) -> float | None:
  """Rounded to six digits; None for values that are not finite, which JSON lacks."""
  return None if value is None or not np.isfinite(value) else round(float(value), 6)


def _median(seconds: np.ndarray) -> float | None:
  known = seconds[np.isfinite(seconds)]
  return _round(np.median(known)) if len(known) else None


def grid(test: Test, results: dict[str, Results], rows: int) -> np.ndarray:
  """The first photos: damaged, restored by every row, and the truth or the reference."""
  rows = min(rows, len(test.photos))
  columns = {'damaged': test.old}
  columns |= {label: r.pictures for label, r in results.items() if label != NOTHING}
  if test.truth is not None:
    columns[TRUTH] = test.truth
  elif test.reference is not None:
    columns[REFERENCE] = test.reference
  lines = [
    [column[i] if i < len(column) else None for column in columns.values()] for i in range(rows)
  ]
  return sheets.grid(lines, list(columns), test.photos[:rows])


def figure(test: Test, results: dict[str, Results], labels: Sequence[str], rows: int) -> np.ndarray:
  """The first photos, each in a row: input, restored by some of the rows, target if there is one.

  The columns of figure 13 of the student report.
  """
  rows = min(rows, len(test.photos))
  columns = {'input': test.old} | {label: results[label].pictures for label in labels}
  if test.truth is not None:
    columns['target'] = test.truth
  lines = [
    [column[i] if i < len(column) else None for column in columns.values()] for i in range(rows)
  ]
  return sheets.grid(lines, list(columns), test.photos[:rows])
