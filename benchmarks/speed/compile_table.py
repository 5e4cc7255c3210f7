"""Train steps compiled for TPU v5e with 1, 8, 16 and 64 chips, none of which is here.

The `paper` recipes, and `repair` as an accelerator trains it, which is also compiled for other
chips. Fine-tuning on an archive is a training of `repair`, with the same step.

  python benchmarks/speed/compile_table.py          # hours; goes on where it was; extra `tpu`
  python benchmarks/speed/compile_table.py --write  # only the tables

Every row is a run of `launch.py --mode=compile` in a process of its own, whose JSON stays in
benchmarks/speed/compiled/; compile_tpu.md is rewritten after each.
"""

import argparse
import dataclasses
import json
import pathlib
import platform
import subprocess
import sys
import time

from oldphoto_jax.evaluation import compile_report

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
TOPOLOGIES = {1: 'v5e:1x1', 8: 'v5e:2x4', 16: 'v5e:4x4', 64: 'v5e:8x8'}  # by chips
OTHERS = ('v5p:2x2x1', 'v6e:1x1', 'v6e:2x4')  # for `repair`
REPAIR = ('--config.repair.batch_size=256', '--config.model.dtype=bfloat16')
# Config by stage. vae_y_masked is the program of vae_y.
STAGES = {
  'vae_rx': 'vae.py:paper',
  'vae_y': 'vae.py:paper',
  'mapping': 'vae.py:paper',
  'mapping_masked': 'vae.py:paper',
  'fusion': 'vae.py:paper',
  'pix2pix': 'pix2pix.py:paper',
  'cyclegan': 'cyclegan.py:paper',
  'detector': 'detector.py:paper',
  'repair': 'repair.py:cpu',
}
# Per chip: parts of the paper's batch, of at least 8 examples: see README.md.
PARTS = {'vae_rx': 2, 'mapping': 5, 'mapping_masked': 5, 'fusion': 5}


@dataclasses.dataclass(frozen=True)
class Entry:
  """A row: a stage for a slice, with settings other than the recipe's, and what it shows."""

  stage: str
  topology: str
  flags: tuple[str, ...] = ()
  name: str = ''
  shows: str = ''

  @property
  def path(self) -> pathlib.Path:
    name = self.name or self.stage
    return HERE / 'compiled' / f'{name}_{self.topology.replace(":", "_")}.json'

  @property
  def command(self) -> list[str]:
    config = STAGES[self.stage]
    command = ['launch.py', f'--config=configs/{config}']
    if config.startswith(('vae', 'repair')):  # of several stages
      command.append(f'--config.stages={self.stage}')
    return [*command, '--mode=compile', f'--config.measure.topology={self.topology}', *self.flags]


def entries() -> list[Entry]:
  """The rows of all slices, then those that show what one setting does."""
  rows = []
  for chips, topology in TOPOLOGIES.items():
    for stage in STAGES:
      parts = chips == 1 and PARTS.get(stage)
      flags = (f'--config.{stage}.accumulate={parts}',) if parts else ()
      rows.append(Entry(stage, topology, REPAIR if stage == 'repair' else flags))
  return [
    *rows,
    Entry(
      'vae_y',
      'v5e:4x4',
      ('--config.model.dtype=float32',),
      'vae_y_float32',
      'float32 instead of bfloat16',
    ),
    Entry(
      'vae_y',
      'v5e:4x4',
      ('--config.vae_y.batch_size=96',),
      'vae_y_batch96',
      '6 examples per chip instead of 8',
    ),
    Entry(
      'mapping',
      'v5e:1x1',
      ('--config.mapping.accumulate=5', '--config.model.remat=True'),
      'mapping_remat',
      'residual blocks computed again in the backward pass',
    ),
    Entry(
      'pix2pix',
      'v5e:1x1',
      ('--config.pix2pix.batch_size=512',),
      'pix2pix_batch512',
      '512 examples per chip instead of 1',
    ),
    Entry(
      'pix2pix',
      'v5e:1x1',
      ('--config.pix2pix.batch_size=1024',),
      'pix2pix_batch1024',
      'more examples than a chip can hold',
    ),
    *(Entry('repair', topology, REPAIR) for topology in OTHERS),
  ]


def write() -> None:
  """compile_tpu.md, of what is compiled so far."""
  records = {
    entry: json.loads(entry.path.read_text()) for entry in entries() if entry.path.exists()
  }
  parts = [
    '# Train steps on TPUs, compiled without a TPU',
    '',
    'Written by `python benchmarks/speed/compile_table.py`. Temporaries and peak are the '
    "compiler's plan, in which it fits a program into the memory there is; seconds of compilation "
    'are of a shared machine.',
  ]
  for topology in (*TOPOLOGIES.values(), *OTHERS):
    of_slice = {
      entry: record
      for entry, record in records.items()
      if entry.topology == topology and not entry.name
    }
    if not of_slice:
      continue
    parts += ['', f'## {topology}', '', _table(of_slice)]
    missing = [stage for stage in STAGES if stage not in {entry.stage for entry in of_slice}]
    if missing and topology not in OTHERS:
      parts += ['', f'Not compiled yet: {", ".join(missing)}.']
  shown = {entry: record for entry, record in records.items() if entry.name}
  if shown:
    parts += ['', '## What one setting does']
  for entry, record in shown.items():
    parts += ['', f'{entry.stage}, {entry.shows}:', '', _table({entry: record})]
  commits = {record.get('commit') or 'not recorded' for record in records.values()}
  versions = {json.dumps(record['versions']) for record in records.values()}
  parts += ['', '```', *(f'python {" ".join(entry.command)}' for entry in records), '```', '']
  parts.append(
    f'Commits {", ".join(sorted(commits))}; {", ".join(sorted(versions))}; {platform.machine()}, '
    f'{time.strftime("%Y-%m-%d")}'
  )
  (HERE / 'compile_tpu.md').write_text('\n'.join(parts) + '\n')


def _table(records: dict[Entry, dict]) -> str:
  rows = [compile_report.Row(**row) for record in records.values() for row in record['stages']]
  first = next(iter(records.values()))
  return compile_report.table(first['topology'], first['devices'], first['hbm_bytes'], rows)


def summary() -> str:
  """Peak memory of every stage by number of chips, as Markdown, for the project's README."""
  lines = [
    '| GiB of 16 (photos per chip and step) | '
    + ' | '.join(f'{n} chip{"s" * (n > 1)}' for n in TOPOLOGIES)
    + ' |',
    '|' + '---|' * (len(TOPOLOGIES) + 1),
  ]
  found = {(entry.stage, entry.topology): entry for entry in entries() if not entry.name}
  for stage in STAGES:
    cells = []
    for topology in TOPOLOGIES.values():
      path = found[stage, topology].path
      if not path.exists():
        cells.append('not compiled')
        continue
      row = compile_report.Row(**json.loads(path.read_text())['stages'][0])
      parts = f' in {row.accumulate} parts' if (row.accumulate or 1) > 1 else ''
      cells.append(f'{row.peak / compile_report.GIB:.1f} ({row.batch // row.devices}{parts})')
    lines.append(f'| {stage} | ' + ' | '.join(cells) + ' |')
  return '\n'.join(lines)


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--write', action='store_true', help='compile nothing')
  if not parser.parse_args().write:
    for entry in entries():
      if not entry.path.exists():
        output = entry.path.relative_to(ROOT)  # which the JSON names
        arguments = [*entry.command, f'--config.measure.output={output}']
        done = subprocess.run([sys.executable, *arguments], cwd=ROOT, check=False)
        if not entry.path.exists():  # a batch that does not fit ends with 1, and its figures
          raise SystemExit(f'{" ".join(arguments)} ended with {done.returncode}')
        write()
  write()
  print(summary())


if __name__ == '__main__':
  main()
