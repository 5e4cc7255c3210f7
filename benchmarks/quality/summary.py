"""The short table of the READMEs, from the JSON of a comparison, or of one for each seed.

  python benchmarks/quality/summary.py SEED0/comparison.json [SEED1/comparison.json ...] \\
    [--reference 'do nothing']

PSNR with its 95 % bootstrap interval, of real damage the PSNR in it, and the SqueezeNet distance.
The interval of one file is over its photos, that of several over photos and seeds (both are drawn
anew each time). With a reference row, each PSNR is followed by the difference to it, of the same
photos and seeds.
"""

import argparse
import json
import pathlib

import numpy as np

from oldphoto_jax.evaluation import rows, tables

TESTS = ('report', 'wan2020', 'print')
RESAMPLES = 10_000
TAIL = 0.025  # of each side of a 95 % interval


def scores(reports: list[dict], test: str, label: str, metric: str) -> np.ndarray:
  """The scores of one row, [seeds, photos]; photos that not all seeds have are left out."""
  each = [report['tests'][test]['rows'][label]['scores'][metric] for report in reports]
  return np.array([values[: min(map(len, each))] for values in each], np.float64)


def interval(values: np.ndarray) -> tuple[float, float | None, float | None]:
  """Mean, and the percentile bootstrap's interval over seeds and photos of [seeds, photos]."""
  if len(values) == 1:  # as in the comparison itself
    mean = tables.bootstrap(values[0], 0, RESAMPLES)
    return mean.mean, mean.low, mean.high
  rng = np.random.default_rng(0)
  # How often each seed and each photo is drawn, [RESAMPLES, seeds] and [RESAMPLES, photos].
  seeds, photos = (rng.multinomial(n, np.full(n, 1 / n), RESAMPLES) for n in values.shape)
  means = np.einsum('rs,sp,rp->r', seeds, values, photos, optimize=True) / values.size
  low, high = np.quantile(means, (TAIL, 1 - TAIL))
  return float(values.mean()), float(low), float(high)


def stated(values: np.ndarray, sign: str = '') -> str:
  """The mean and its interval, in two digits; of a single photo there is no interval."""
  mean, low, high = interval(values)
  text = f'{mean:{sign}.2f}'
  return text if low is None else f'{text} [{low:{sign}.2f}, {high:{sign}.2f}]'


def table(reports: list[dict], reference: str = '') -> str:
  """A row for each of the comparison, in Markdown; `reference` names one of them."""
  columns = dict.fromkeys(TESTS, 'psnr')
  if all(rows.MOVED in report['tests'] for report in reports):
    columns[rows.MOVED] = 'psnr_inside'
  header = ['']
  for test, metric in columns.items():
    header += [f'{test}: PSNR{" in it" * (metric != "psnr")} (dB)', 'distance']
  lines = ['| ' + ' | '.join(header) + ' |', '|---' * len(header) + '|']
  for label in reports[0]['tests'][TESTS[0]]['rows']:
    cells, fewer = [], 0
    for test in columns:
      psnr = scores(reports, test, label, columns[test])
      distance = scores(reports, test, label, 'squeezenet')
      cells.append(stated(psnr))
      if reference and label != reference:
        other = scores(reports, test, reference, columns[test])
        both = min(psnr.shape[1], other.shape[1])  # the first photos: a row may have had fewer
        cells[-1] += '; ' + stated(psnr[:, :both] - other[:, :both], '+')
      cells.append(f'{distance.mean():.3f}')
      if psnr.shape[1] < len(reports[0]['tests'][test]['photos']):
        fewer = max(fewer, psnr.shape[1])
    name = f'{label} ({fewer} photos)' if fewer else label
    lines.append('| ' + ' | '.join([name, *cells]) + ' |')
  return '\n'.join(lines)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('files', nargs='+', type=pathlib.Path, metavar='comparison.json')
  parser.add_argument('--reference', default='', help='a row to state the differences to')
  args = parser.parse_args()
  reports = [json.loads(file.read_text()) for file in args.files]
  labels = [set(report['tests'][TESTS[0]]['rows']) for report in reports]
  if missing := set.union(*labels) - set.intersection(*labels):
    raise SystemExit(f'not all files have the row {min(missing)!r}: compare the same systems')
  if args.reference and args.reference not in labels[0]:
    raise SystemExit(
      f'there is no row {args.reference!r}: choose from {", ".join(sorted(labels[0]))}'
    )
  print(table(reports, args.reference))


if __name__ == '__main__':
  main()
