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
TOPOLOGIES = ('v5e:4x4', 'v5e:2x4', 'v5e:8x8', 'v5e:1x1')
# config, stage, and what else the stage is compiled with
STAGES = (
  ('vae', 'vae_rx', ()),
  ('vae', 'vae_y', ()),
  ('vae', 'mapping', ()),
  ('vae', 'mapping_masked', ()),
  ('pix2pix', 'pix2pix', ()),
  ('cyclegan', 'cyclegan', ()),
  ('scratch', 'scratch', ()),
)


def command(config: str, stage: str, topology: str, flags: tuple[str, ...]) -> list[str]:
  chosen = (f'--config.stages={stage}',) if config == 'vae' else ()
  mode = ('--mode=compile', f'--topology={topology}')
  return ['launch.py', f'--config=configs/{config}.py:paper', *mode, *chosen, *flags]


def path_of(stage: str, topology: str) -> pathlib.Path:
  return HERE / 'compiled' / f'{stage}_{topology.replace(":", "_")}.json'


def write() -> None:
  """compile_v5e.md, of what is compiled so far."""
  parts = [
    '# The paper recipes on TPU v5e, compiled without a TPU',
    'Written by `python benchmarks/speed/compile_table.py`; each row is one run such as',
    f'`python {" ".join(command(*STAGES[0][:2], TOPOLOGIES[0], ()))}`.',
  ]
  versions = set()
  for topology in TOPOLOGIES:
    records = [
      json.loads(path_of(stage, topology).read_text())
      for _, stage, _ in STAGES
      if path_of(stage, topology).exists()
    ]
    if records:
      rows = [compile_report.Row(**row) for record in records for row in record['stages']]
      versions |= {json.dumps(record['versions']) for record in records}
      hbm, count = records[0]['hbm_bytes'], records[0]['devices']
      parts += ['', f'## {topology}', '', compile_report.table(topology, count, hbm, rows)]
  parts += ['', f'{", ".join(sorted(versions))}; {platform.machine()}, {time.strftime("%Y-%m-%d")}']
  (HERE / 'compile_v5e.md').write_text('\n'.join(parts) + '\n')


def main():
  for topology in TOPOLOGIES:
    for config, stage, flags in STAGES:
      path = path_of(stage, topology)
      if not path.exists():
        arguments = [*command(config, stage, topology, flags), f'--output={path}']
        done = subprocess.run([sys.executable, *arguments], cwd=ROOT, check=False)
        if not path.exists():
          raise SystemExit(f'{" ".join(arguments)} ended with {done.returncode}')
        write()
  write()


if __name__ == '__main__':
  main()
