"""What is kept with a run: settings, versions, device, commit; the guard against mixing runs."""

import importlib.metadata
import json
import os
import pathlib
import subprocess
from typing import Any

import jax
from absl import logging
from ml_collections import ConfigDict

from oldphoto_jax import parallel
from oldphoto_jax.systems.build import ConfigError

FILE = 'run.json'
PACKAGES = ('jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'grain', 'numpy')

# Settings that a run may be resumed with although they differ: they change no number of a step
# already taken, but for the number of steps, which also moves the decay of the learning rate.
FREE = ('stages', 'workdir', 'train.', 'evaluate.', 'data.threads', 'data.workers', 'data.cache_gb')
# Of the system dip: what its size guard advises to change, and how it is spread over devices.
FREE += ('max_hours', 'max_side', 'batch', 'save_every')
FREE += ('detector', 'half')  # say only how the triplet system is released
FREE += ('model.remat',)  # and `accumulate`: memory alone, for another machine to go on with
FREE_ENDING = ('.steps', '.accumulate')


def start(config: ConfigDict) -> None:
  """Writes run.json into the run's folder, or checks that the run there has the same settings.

  Raises:
    ConfigError: where the folder holds a run with other settings.
  """
  folder = pathlib.Path(config.workdir)
  settings = _flat(json.loads(config.to_json()))
  path = folder / FILE
  if path.exists():
    before = _flat(json.loads(path.read_text())['config'])
    new = sorted(settings.keys() - before.keys())
    if new:
      logging.warning(
        '%s is a run of a version without these settings, which are taken as they are now: %s',
        folder,
        ', '.join(f'{name}={settings[name]}' for name in new),
      )
    for name in sorted(before):
      if (
        name.startswith(FREE)
        or name.endswith(FREE_ENDING)
        or before.get(name) == settings.get(name)
      ):
        continue
      raise ConfigError(
        f'{folder} holds a run with {name} = {before.get(name)}, not {settings.get(name)}: go on '
        'with its settings, or choose another folder with --config.workdir'
      )
  if not parallel.is_main():
    return
  folder.mkdir(parents=True, exist_ok=True)
  description = {'config': json.loads(config.to_json()), **environment()}
  temporary = path.with_suffix('.part')
  temporary.write_text(json.dumps(description, indent=2))
  temporary.replace(path)
  logging.info('run folder: %s', folder)


def environment() -> dict[str, Any]:
  """What computes: devices, processes, versions, flags, and the commit of the code."""
  return {
    'devices': [jax.device_count(), jax.devices()[0].device_kind],
    'processes': jax.process_count(),
    'versions': {name: importlib.metadata.version(name) for name in PACKAGES},
    'xla_flags': os.environ.get('XLA_FLAGS', ''),
    'commit': commit(),
  }


def _flat(tree: dict, prefix: str = '') -> dict:
  rows = {}
  for name, value in tree.items():
    if isinstance(value, dict):
      rows |= _flat(value, f'{prefix}{name}.')
    else:
      rows[prefix + name] = value
  return rows


def commit() -> str | None:
  """The git commit of the code, with + where files differ from it; None outside a checkout."""
  here = pathlib.Path(__file__).parent
  try:
    commit = subprocess.run(
      ['git', 'rev-parse', 'HEAD'], cwd=here, capture_output=True, text=True, check=True
    ).stdout.strip()
    changed = subprocess.run(
      ['git', 'status', '--porcelain', '-uno'], cwd=here, capture_output=True, text=True, check=True
    ).stdout.strip()
  except (OSError, subprocess.CalledProcessError):
    return None
  return commit + ('+' if changed else '')
