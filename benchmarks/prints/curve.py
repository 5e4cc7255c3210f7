"""The training of the network that ships, as one curve over all its runs.

  python benchmarks/prints/curve.py RUN [RUN ...] -o curve.png

Each RUN is a run folder of configs/repair.py that learnt on from the one before it (config.start),
or what benchmarks.accelerator.train printed, in a file NAME.log.
Draws the losses, and on validation photos what is gained without a mask, PSNR with the true mask,
and F1 at a probability of 1/2. Dotted lines: a new run, with other photos, labels or shares.
"""

import argparse
import json
import pathlib
import re

import matplotlib

matplotlib.use('Agg')
import matplotlib.pyplot as plt
import numpy as np

LOSSES = ('l1', 'bce', 'dice', 'hole_l1')
SMOOTH = 5  # records of the log that a point of the curve is the mean of


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('runs', nargs='+', type=pathlib.Path)
  parser.add_argument('-o', '--output', required=True, type=pathlib.Path)
  parser.add_argument('--batch', type=int, default=256, help='of the run that a log tells of')
  args = parser.parse_args()
  records, starts, seen = [], [], 0
  for run in args.runs:
    batch, own = read(run, args.batch)
    records += [record | {'examples': seen + batch * record['step']} for record in own]
    starts.append(seen)
    seen += batch * max(record['step'] for record in own)
  figure, (left, middle, right) = plt.subplots(1, 3, figsize=(12, 3.4), layout='constrained')
  for name in LOSSES:
    left.plot(*smooth(records, name), label=name)
  left.set_yscale('log')
  judged = [record for record in records if 'eval_psnr_told' in record]
  examples = [record['examples'] / 1000 for record in judged]
  gain = [record['eval_psnr'] - record['eval_psnr_old'] for record in judged]
  middle.plot(examples, gain, 'o-', label='gain without a mask (dB)')
  told = [record['eval_psnr_told'] - record['eval_psnr_old'] for record in judged]
  middle.plot(examples, told, 's-', label='gain with the true mask (dB)')
  right.plot(examples, [record['eval_f1'] for record in judged], 'o-', label='F1 of the damage')
  for axes in (left, middle, right):
    for start in starts[1:]:
      axes.axvline(start / 1000, color='gray', linestyle=':', linewidth=0.8)
    axes.set_xlabel('thousand examples')
    axes.legend(fontsize=8)
  figure.savefig(args.output, dpi=80)


def read(run: pathlib.Path, batch: int) -> tuple[int, list[dict]]:
  """Size of the batches and records {'step', losses} of a run folder or a log."""
  if run.suffix == '.log':
    found = re.findall(r'^repair-(\d+)\.safetensors: \S+ photos/s, (.*)$', run.read_text(), re.M)
    pairs = [(int(step), dict(re.findall(r'(\w+) ([\d.-]+)', losses))) for step, losses in found]
    return batch, [{'step': n} | {k: float(v) for k, v in x.items()} for n, x in pairs]
  size = json.loads((run / 'run.json').read_text())['config']['repair']['batch_size']
  lines = (run / 'repair' / 'metrics.jsonl').read_text().splitlines()
  return size, [json.loads(line) for line in lines]


def smooth(records: list[dict], name: str) -> tuple[np.ndarray, np.ndarray]:
  """Thousands of examples and means over SMOOTH records."""
  pairs = np.array([(r['examples'] / 1000, r[name]) for r in records if name in r])
  n = len(pairs) // SMOOTH * SMOOTH
  return tuple(pairs[:n].reshape(-1, SMOOTH, 2).mean(1).T)


if __name__ == '__main__':
  main()
