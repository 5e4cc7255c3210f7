"""The `paper` recipes compiled for TPU v5e with 1, 8, 16 and 64 chips, none of which is here.

  python benchmarks/speed/compile_table.py     # hours; goes on where it was; needs the extra `tpu`

Every stage is compiled by `launch.py --mode=compile` in a process of its own, whose JSON stays in
benchmarks/speed/compiled/; compile_v5e.md is written anew after each.
"""

import json
import pathlib
import platform
import subprocess
import sys
import time

from oldphoto_jax import compile_report

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
TOPOLOGIES = ('v5e:4x4', 'v5e:2x4', 'v5e:1x1', 'v5e:8x8')
# Config, stage, and the batch for one chip where the paper's is too large for it: estimates from
# the memory on 16 chips, not compiled yet.
# vae_y_masked is the program of vae_y.
STAGES = (
  ('vae', 'vae_rx', 32),
  ('vae', 'vae_y', 40),
  ('vae', 'mapping', 24),
  ('vae', 'mapping_masked', 16),
  ('vae', 'fusion', 24),
  ('pix2pix', 'pix2pix', None),
  ('cyclegan', 'cyclegan', None),
  ('scratch', 'scratch', 32),
)


def command(config: str, stage: str, one_chip: int | None, topology: str) -> list[str]:
  flags = [f'--config=configs/{config}.py:paper', '--mode=compile', f'--topology={topology}']
  if config == 'vae':
    flags.append(f'--config.stages={stage}')
  if topology == 'v5e:1x1' and one_chip:
    flags.append(f'--config.{stage}.batch_size={one_chip}')
  return ['launch.py', *flags]


def path_of(stage: str, topology: str) -> pathlib.Path:
  return HERE / 'compiled' / f'{stage}_{topology.replace(":", "_")}.json'


def write() -> None:
  """compile_v5e.md, of what is compiled so far."""
  parts = [
    '# The paper recipes on TPU v5e, compiled without a TPU',
    '',
    'Written by `python benchmarks/speed/compile_table.py`; each row is one run such as '
    f'`python {" ".join(command(*STAGES[0], TOPOLOGIES[0]))}`. Temporaries and peak are the '
    "compiler's plan, in which it fits a program into the memory there is; times of compilation "
    'are of a shared machine.',
  ]
  versions = set()
  for topology in TOPOLOGIES:
    records = {
      entry: json.loads(path_of(entry[1], topology).read_text())
      for entry in STAGES
      if path_of(entry[1], topology).exists()
    }
    if not records:
      continue
    rows = [compile_report.Row(**row) for record in records.values() for row in record['stages']]
    first = next(iter(records.values()))
    versions |= {json.dumps(record['versions']) for record in records.values()}
    table = compile_report.table(topology, first['devices'], first['hbm_bytes'], rows)
    parts += ['', f'## {topology}', '', table]
    if topology == 'v5e:1x1':
      parts += ['', "Of one chip: smaller batches than the paper's where that is too large."]
    missing = [stage for _, stage, _ in STAGES if not path_of(stage, topology).exists()]
    if missing:
      parts += ['', f'Not compiled yet: {", ".join(missing)}.']
  parts += ['', f'{", ".join(sorted(versions))}; {platform.machine()}, {time.strftime("%Y-%m-%d")}']
  (HERE / 'compile_v5e.md').write_text('\n'.join(parts) + '\n')


def main():
  for topology in TOPOLOGIES:
    for entry in STAGES:
      path = path_of(entry[1], topology)
      if not path.exists():
        arguments = [*command(*entry, topology), f'--output={path}']
        done = subprocess.run([sys.executable, *arguments], cwd=ROOT, check=False)
        if not path.exists():
          raise SystemExit(f'{" ".join(arguments)} ended with {done.returncode}')
        write()
  write()


if __name__ == '__main__':
  main()
