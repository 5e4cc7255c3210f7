"""The short table of the READMEs, from the comparison's JSON.

  python benchmarks/quality/summary.py benchmarks/quality/benchmark.json

PSNR with its 95 % bootstrap interval over photos, and the SqueezeNet distance.
"""

import json
import pathlib
import sys

TESTS = ('report', 'wan2020', 'print')


def table(report: dict) -> str:
  header = ['']
  for test in TESTS:
    header += [f'{test}: PSNR (dB)', 'distance']
  lines = ['| ' + ' | '.join(header) + ' |', '|---' * len(header) + '|']
  for label in report['tests'][TESTS[0]]['rows']:
    cells, photos = [], set()
    for test in TESTS:
      row = report['tests'][test]['rows'][label]
      psnr, distance = row['means']['psnr'], row['means']['squeezenet']
      cells.append(f'{psnr["mean"]:.2f} [{psnr["low"]:.2f}, {psnr["high"]:.2f}]')
      cells.append(f'{distance["mean"]:.3f}')
      photos.add(row['photos'])
    all_photos = len(report['tests'][TESTS[0]]['photos'])
    fewer = '' if photos == {all_photos} else f' ({max(photos)} photos)'
    lines.append('| ' + ' | '.join([label + fewer, *cells]) + ' |')
  return '\n'.join(lines)


if __name__ == '__main__':
  print(table(json.loads(pathlib.Path(sys.argv[1]).read_text())))
