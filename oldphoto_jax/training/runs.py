"""The record of a run (settings, versions, device, commit), and the guard against mixing runs."""

import contextlib
import errno
import fnmatch
import importlib.metadata
import json
import os
import pathlib
import subprocess
from collections.abc import Iterator, Sequence
from typing import Any

import filelock
import jax
from absl import logging
from ml_collections import ConfigDict

from oldphoto_jax.errors import ConfigError
from oldphoto_jax.training import parallel

FILE = 'run.json'
PACKAGES = ('jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'grain', 'numpy')

# Settings of any system that may change when a run is resumed. They do not affect the steps already
# taken, except that the number of steps also moves the decay of the learning rate.
FREE = (
  'workdir', 'train.*', 'evaluate.*', 'measure.*', 'data.threads', 'data.workers', 'data.cache_gb',
  '*.steps',
)  # fmt: skip


# Names in version 0.1 -> current names, of settings and sections, and of systems. A stage that was
# renamed keeps its folder, see `stage_folder`.
FORMER_SETTINGS = {'degradation': 'recipe', 'degradations': 'recipes', 'scratch': 'detector'}
FORMER_SYSTEMS = {'scratch': 'detector', 'benchmark': 'comparison'}


def stage_folder(workdir: str | os.PathLike, name: str) -> pathlib.Path:
  """The folder of a stage. A run of version 0.1 may have it under its former name."""
  folder = pathlib.Path(workdir)
  for former, now in FORMER_SETTINGS.items():
    if now == name and (folder / former).is_dir() and not (folder / name).exists():
      return folder / former
  return folder / name


def check(config: ConfigDict, may_change: Sequence[str] = ()) -> None:
  """Checks that the run in `config.workdir`, if there is one, has the same settings.

  Args:
    config: the current settings.
    may_change: name patterns, like FREE, of settings that may differ.

  Raises:
    ConfigError: the folder holds a run with different settings.
  """
  folder = pathlib.Path(config.workdir)
  path = folder / FILE
  if not path.exists():
    return
  free = (*FREE, *may_change)
  settings = _fixed(json.loads(config.to_json()), free)
  before = _fixed(_renamed(json.loads(path.read_text())['config']), free)
  new = sorted(settings.keys() - before.keys())
  if new:
    logging.warning(
      '%s was started by an older version without these settings; using the current values: %s',
      folder,
      ', '.join(f'{name}={settings[name]}' for name in new),
    )
  for name in sorted(before):
    if before[name] != settings.get(name):
      raise ConfigError(
        f'{folder} holds a run with {name} = {before[name]}, not {settings.get(name)}: '
        'use its settings, or choose another folder with --config.workdir'
      )


def start(config: ConfigDict, may_change: Sequence[str] = ()) -> None:
  """Makes the run's folder and writes run.json, after `check` with the same arguments."""
  check(config, may_change)
  if not parallel.is_main():
    return
  path = pathlib.Path(config.workdir) / FILE
  path.parent.mkdir(parents=True, exist_ok=True)
  description = {'config': json.loads(config.to_json()), **environment()}
  temporary = path.with_suffix('.part')
  temporary.write_text(json.dumps(description, indent=2))
  temporary.replace(path)
  logging.info('run folder: %s', path.parent)


@contextlib.contextmanager
def alone(workdir: str | os.PathLike) -> Iterator[None]:
  """Keeps other runs out of a folder, which is made, while this one trains in it.

  The lock goes with the process, however it ends. Of several hosts, only the main one holds it.

  Raises:
    ConfigError: another process trains in the folder, or it cannot be made.
  """
  if not parallel.is_main():
    yield
    return
  folder = pathlib.Path(workdir)
  lock = filelock.FileLock(folder / '.lock', timeout=0)
  try:
    folder.mkdir(parents=True, exist_ok=True)
    lock.acquire()
  except filelock.Timeout as error:
    raise ConfigError(
      f'another process trains in {folder}: wait for its end, or choose another folder with '
      '--config.workdir'
    ) from error
  except OSError as error:
    if error.errno not in (errno.ENOLCK, errno.ENOTSUP):
      raise ConfigError(f'{folder} cannot be written ({error.strerror}): choose another') from error
    logging.warning('%s: this file system has no locks; start no second run in it', folder)
  try:
    yield
  finally:
    lock.release()


def environment() -> dict[str, Any]:
  """The environment of a run: devices, processes, versions, flags, and the commit of the code."""
  return {
    'devices': [jax.device_count(), jax.devices()[0].device_kind],
    'processes': jax.process_count(),
    'versions': {name: importlib.metadata.version(name) for name in PACKAGES},
    'xla_flags': os.environ.get('XLA_FLAGS', ''),
    'commit': commit(),
  }


def _renamed(tree: dict) -> dict[str, Any]:
  """The settings of a run under their current names."""
  renamed = {}
  for name, value in tree.items():
    if isinstance(value, dict):
      value = _renamed(value)
    elif name == 'system':
      value = FORMER_SYSTEMS.get(value, value)
    renamed[FORMER_SETTINGS.get(name, name)] = value
  return renamed


def _fixed(tree: dict, free: Sequence[str], prefix: str = '') -> dict[str, Any]:
  """The settings that must not change, by dotted names."""
  rows = {}
  for name, value in tree.items():
    if isinstance(value, dict):
      rows |= _fixed(value, free, f'{prefix}{name}.')
    elif not any(fnmatch.fnmatchcase(prefix + name, pattern) for pattern in free):
      rows[prefix + name] = value
  return rows


def commit() -> str | None:
  """The git commit of the code, with + if files were changed; None outside a checkout."""
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
