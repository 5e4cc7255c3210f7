"""The speed report of all systems, and their published networks beside PyTorch.

  python benchmarks/speed/report.py            # an hour on two idle cores; needs the extra `torch`
  python benchmarks/speed/report.py --threads 2 --only compare

Each row of speed.md comes from `launch.py --mode=speed`, each row of compare.md from
`python -m benchmarks.torch_reference.compare`, in a process of its own, whose JSON stays in
benchmarks/speed/measured/; delete one to measure it again.
"""

import argparse
import json
import math
import pathlib
import shlex
import statistics
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
REPORTS = ('vae', 'pix2pix', 'cyclegan', 'detector', 'dip')

# The published networks in float32. The perceptual term is left out: it would be VGG-19's time.
# The recipe is not timed here, and `report` compiles in the least time.
PLAIN = ('--config.recipe=report', '--config.model.dtype=float32')
SIZES = ((128, 4), (256, 1))  # pixels of the sides, photos
WINDOWS = ('--config.measure.windows=4', '--config.measure.window_seconds=1.5')  # beside PyTorch
# For speed.md, which measures much.
SHORT = ('--config.measure.windows=3', '--config.measure.window_seconds=1.0')


def triplet(stage: str, *more: str) -> dict[str, tuple[str, ...]]:
  shared = ('--config=configs/vae.py:paper', *PLAIN, f'--config.stages={stage}')
  shared += (f'--config.{stage}.weights.perceptual=0.0', *more)
  return {
    f'{stage}_{side}': (
      *shared, f'--config.data.crop={side}', f'--config.{stage}.batch_size={batch}',
    )
    for side, batch in SIZES
  }  # fmt: skip


def comparisons() -> dict[str, tuple[str, ...]]:
  """Flags of launch.py by the name of the file of figures."""
  found = triplet('vae_y') | triplet('mapping')
  found |= triplet(
    'mapping_masked',
    '--config.mapping_masked.recipe=report',
    '--config.mapping_masked.spectral=False',
  )
  for side, batch in SIZES:
    size = (f'--config.data.crop={side}',)
    # U-Net-256 has 8 levels; photos of 128 pixels take 7, as the official unet_128.
    levels = () if side == 256 else (
      '--config.model.downs=7', '--config.model.dropout_levels=(5, 6)',
    )  # fmt: skip
    for name, extra in (('pix2pix', levels), ('cyclegan', ())):
      found[f'{name}_{side}'] = (
        f'--config=configs/{name}.py:paper', *PLAIN, *size, *extra,
        f'--config.{name}.batch_size={batch}',
      )  # fmt: skip
  return found | {'dip': ('--config=configs/dip.py:denoise',)}


def measure(
  name: str, program: tuple[str, ...], flags: tuple[str, ...], threads: int
) -> tuple[dict, str]:
  """The JSON that a program wrote, made unless it is there, and the command."""
  path = HERE / 'measured' / f'{name}.json'
  arguments = [*program, *flags, f'--config.measure.threads={threads}']
  if not path.exists():
    command = [sys.executable, *arguments, f'--config.measure.output={path}']
    subprocess.run(command, cwd=ROOT, check=True)
  return json.loads(path.read_text()), 'python ' + shlex.join(arguments)


def where(record: dict) -> str:
  load = 'unknown' if record['load'] is None else f'{record["load"]:.1f}'
  return (
    f'{record["machine"]}, {record["cores"]} cores, load {load}, '
    f'{record["versions"]}, commit {record["commit"]}, {record["date"]}'
  )


def write_report(threads: int) -> None:
  """speed.md: the variants `cpu`, and Deep Image Prior's default."""
  sys.path.insert(0, str(ROOT))
  from oldphoto_jax.evaluation import speed

  lines = ['# Speed of all systems on CPU', '']
  for name in REPORTS:
    variant = '' if name == 'dip' else ':cpu'
    record, command = measure(
      f'report_{name}',
      ('launch.py',),
      (f'--config=configs/{name}.py{variant}', '--mode=speed', *SHORT),
      threads,
    )
    steps = [speed.Step(**step) for step in record['steps']]
    restoring = [speed.Restoring(**x) for x in record['restoring']]
    table = speed.table(record['matmul_gflops'], steps, restoring)
    lines += [f'## {name}', '', f'`{command}`', '', table, '', where(record), '']
  (HERE / 'speed.md').write_text('\n'.join(lines))


def write_comparison(threads: int) -> None:
  """compare.md: every ratio, and their geometric means."""
  lines = [
    '# Beside PyTorch',
    '',
    'Ratio: time of PyTorch float32 by ours, so above 1 we are faster; median of windows, with the '
    'least and most. Windows of the two processes alternate. The published networks, losses and '
    'optimisers in float32, without the perceptual term.',
    '',
    '| stage | | photos | ours ms | PyTorch ms | PyTorch bfloat16 ms | ratio |',
    '|---|---|---|---|---|---|---|',
  ]
  rows, commands, commits = [], [], set()
  for name, flags in comparisons().items():
    record, command = measure(
      f'compare_{name}', ('-m', 'benchmarks.torch_reference.compare'), (*flags, *WINDOWS), threads
    )
    commands.append(command)
    commits.add(record['commit'])
    rows += record['rows']
  for x in rows:
    half = 'none' if x['torch_bfloat16'] is None else f'{x["torch_bfloat16"]:.1f}'
    lines.append(
      f'| {x["stage"]} | {x["what"]} | {x["batch"]} x {x["side"]}² | {x["ours"]:.1f} | '
      f'{x["torch"]:.1f} | {half} | '
      f'{x["ratio"]:.2f} ({x["least"]:.2f} to {x["most"]:.2f}) |'
    )
  mean = lambda values: math.exp(statistics.mean(math.log(value) for value in values))
  for what, chosen in (
    ('train steps', [x for x in rows if x['what'] == 'train']),
    ('restoring', [x for x in rows if x['what'] == 'restore']),
    ('all', rows),
  ):
    plain = mean(x['ratio'] for x in chosen)
    halves = [x['torch_bfloat16'] / x['ours'] for x in chosen if x['torch_bfloat16']]
    fast = f'; of PyTorch bfloat16: {mean(halves):.2f}' if halves else ''
    lines += ['', f'Geometric mean, {what}: {plain:.2f}{fast}']
  lines += ['', f'{record["threads"]} threads, PyTorch {record["torch"]}, {where(record)}']
  lines += ['', f'Measured at commits {", ".join(sorted(commits))}', '']
  lines += ['```', *commands, '```', '']
  (HERE / 'compare.md').write_text('\n'.join(lines))


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--threads', type=int, default=2)
  parser.add_argument('--only', choices=('report', 'compare'))
  arguments = parser.parse_args()
  if arguments.only != 'compare':
    write_report(arguments.threads)
  if arguments.only != 'report':
    write_comparison(arguments.threads)


if __name__ == '__main__':
  main()
