"""Trains, evaluates and exports all systems: `python launch.py --config=configs/vae.py`."""

import logging
import os
import pathlib
import sys

import jax
from absl import app, flags
from absl import logging as absl_logging
from ml_collections import config_flags

from oldphoto_jax import allocator
from oldphoto_jax.errors import ConfigError, ExitStatus, UserError
from oldphoto_jax.evaluation import compile_report, speed
from oldphoto_jax.restoring import compile_cache
from oldphoto_jax.systems import (
  archive,
  comparison,
  cyclegan,
  detector,
  dip,
  pix2pix,
  repair,
  triplet,
)
from oldphoto_jax.training import parallel

MODULES = (triplet, pix2pix, cyclegan, detector, repair, archive, dip, comparison)
SYSTEMS = {module.SYSTEM.name: module.SYSTEM for module in MODULES}

CONFIG = config_flags.DEFINE_config_file('config', None, 'File of settings.', lock_config=True)
_MODE = flags.DEFINE_string(
  'mode',
  'run',
  'run: train all stages and export, or the main job of the system. evaluate: scores beside those '
  'of doing nothing; for a detector, at every threshold. export: weights.safetensors from the '
  'newest checkpoints. compile: cost of the train steps on the TPUs of measure.topology, which '
  'need not be present. speed: how fast the networks train and restore on this machine.',
)
_MULTIHOST = flags.DEFINE_bool(
  'multihost', False, 'This is one of several processes, as on a TPU pod or under Slurm.'
)
_COORDINATOR = flags.DEFINE_string(
  'coordinator', None, 'HOST:PORT of process 0, if there is no cluster environment.'
)
_PROCESSES = flags.DEFINE_integer('num_processes', None, 'With --coordinator: how many there are.')
_PROCESS = flags.DEFINE_integer(
  'process_id', None, 'With --coordinator: which one this is, from 0.'
)


def launch(config, mode: str) -> None:
  """Runs a mode of the system that a config names.

  Raises:
    UserError: something that the user can fix.
  """
  if config.system not in SYSTEMS:
    raise ConfigError(f'there is no system {config.system!r}: choose from {", ".join(SYSTEMS)}')
  system = SYSTEMS[config.system]
  if mode not in system.modes:
    raise ConfigError(f'{system.name} has no mode {mode!r}: choose from {", ".join(system.modes)}')
  # Before any use of a device.
  if mode == 'compile':
    compile_report.prepare_process()
  elif mode == 'speed':
    speed.prepare_process(config.measure.threads)
  else:
    compile_cache.enable()
  parallel.initialize(_MULTIHOST.value, _COORDINATOR.value, _PROCESSES.value, _PROCESS.value)
  logging.info('%d devices of kind %s', jax.device_count(), jax.devices()[0].device_kind)
  system.check(config)
  system.modes[mode](config)


def main(argv):
  if len(argv) > 1:
    raise app.UsageError(f'unknown arguments: {" ".join(argv[1:])}')
  allocator.keep_memory()
  absl_logging.set_verbosity(max(absl_logging.INFO, flags.FLAGS.verbosity))
  absl_logging.get_absl_handler().addFilter(_is_ours)
  path = config_flags.get_config_filename(flags.FLAGS['config']).partition(':')[0]
  if not pathlib.Path(path).is_file():
    sys.exit(f'launch.py: there is no config file {path}: --config takes one of configs/')
  try:
    launch(CONFIG.value, _MODE.value)
  except UserError as error:
    sys.exit(f'{type(error).__name__}: {error}')
  except (RuntimeError, ValueError) as error:
    if not parallel.lost_process(error):
      raise
    print(
      f'another process of this run has ended ({str(error).splitlines()[0]}): look at what it said '
      'last, and start all processes again with the same command, which goes on from the newest '
      'checkpoint',
      file=sys.stderr,
      flush=True,
    )
    # An ordinary end would wait for the process that is lost.
    os._exit(ExitStatus.STOPPED)


def _is_ours(record: logging.LogRecord) -> bool:
  """Drops Orbax's lines below ERROR: dozens per save, and checkpoints.py reports what matters."""
  return record.levelno >= logging.ERROR or 'orbax' not in record.pathname


def parse(argv: list[str]) -> list[str]:
  """Reads the flags. Errors in them or in the config become one sentence."""
  try:
    return flags.FLAGS(argv)
  except flags.Error as error:
    # For an error in a config file, absl gives the whole traceback, which ends with the message.
    sys.exit(f'launch.py: {str(error).strip().splitlines()[-1].strip()}')
  except (AttributeError, KeyError, OSError, TypeError, ValueError) as error:
    # An unknown setting, a value of the wrong type, or an unknown variant.
    while error.args and isinstance(error.args[0], Exception):  # absl wraps an unknown setting
      error = error.args[0]
    sentence = ': '.join(str(error.args[0] if error.args else error).splitlines())
    unknown = 'there is no setting ' if isinstance(error, KeyError) else ''
    sys.exit(f'launch.py: {unknown}{sentence}')


if __name__ == '__main__':
  flags.mark_flag_as_required('config')
  app.run(main, flags_parser=parse)
