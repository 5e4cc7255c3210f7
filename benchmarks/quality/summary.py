"""The short table of the READMEs, from the JSON of a comparison, or of one for each seed.

  python benchmarks/quality/summary.py SEED0/comparison.json [SEED1/comparison.json ...] \\
    [--reference 'do nothing']

PSNR with its 95 % bootstrap interval, and the SqueezeNet distance. The interval of one file is over
its photos, that of several over photos and seeds (both are drawn anew each time). With a reference
row, each PSNR is followed by the difference to it, of the same photos and seeds.
"""

import argparse
import json
import pathlib

import numpy as np

from oldphoto_jax.evaluation import tables

TESTS = ('report', 'wan2020', 'print')
RESAMPLES = 10_000
TAIL = 0.025  # of each side of a 95 % interval


def scores(reports: list[dict], test: str, label: str, metric: str) -> np.ndarray:
  """The scores of one row, [seeds, photos]; photos that not all seeds have are left out."""
  each = [report['tests'][test]['rows'][label]['scores'][metric] for report in reports]
  return np.array([values[: min(map(len, each))] for values in each], np.float64)


def interval(values: np.ndarray) -> tuple[float, float, float]:
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


def table(reports: list[dict], reference: str = '') -> str:
  header = ['']
  for test in TESTS:
    header += [f'{test}: PSNR (dB)', 'distance']
  lines = ['| ' + ' | '.join(header) + ' |', '|---' * len(header) + '|']
  all_photos = len(reports[0]['tests'][TESTS[0]]['photos'])
  for label in reports[0]['tests'][TESTS[0]]['rows']:
    cells, photos = [], set()
    for test in TESTS:
      psnr = scores(reports, test, label, 'psnr')
      distance = scores(reports, test, label, 'squeezenet')
      cells.append('{:.2f} [{:.2f}, {:.2f}]'.format(*interval(psnr)))
      if reference and label != reference:
        other = scores(reports, test, reference, 'psnr')
        both = min(psnr.shape[1], other.shape[1])  # the first photos: a row may have had fewer
        cells[-1] += '; {:+.2f} [{:+.2f}, {:+.2f}]'.format(
          *interval(psnr[:, :both] - other[:, :both])
        )
      cells.append(f'{distance.mean():.3f}')
      photos.add(psnr.shape[1])
    fewer = '' if photos == {all_photos} else f' ({max(photos)} photos)'
    lines.append('| ' + ' | '.join([label + fewer, *cells]) + ' |')
  return '\n'.join(lines)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('files', nargs='+', type=pathlib.Path, metavar='comparison.json')
  parser.add_argument('--reference', default='', help='a row to state the differences to')
  args = parser.parse_args()
  reports = [json.loads(file.read_text()) for file in args.files]
  rows = [set(report['tests'][TESTS[0]]['rows']) for report in reports]
  if missing := set.union(*rows) - set.intersection(*rows):
    raise SystemExit(f'not all files have the row {min(missing)!r}: compare the same systems')
  if args.reference and args.reference not in rows[0]:
    raise SystemExit(
      f'there is no row {args.reference!r}: choose from {", ".join(sorted(rows[0]))}'
    )
  print(table(reports, args.reference))


if __name__ == '__main__':
  main()
