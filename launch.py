"""Trains, evaluates and exports every system: `python launch.py --config=configs/vae.py`."""

import logging
import sys

import jax
from absl import app, flags
from absl import logging as absl_logging
from ml_collections import config_flags

from oldphoto_jax import parallel, runs, weights
from oldphoto_jax.systems import build, cyclegan, dip, pix2pix, scratch, triplet

SYSTEMS = {
  'triplet': triplet,
  'pix2pix': pix2pix,
  'cyclegan': cyclegan,
  'scratch': scratch,
  'dip': dip,
}

_CONFIG = config_flags.DEFINE_config_file('config', None, 'File of settings.', lock_config=True)
_MODE = flags.DEFINE_enum(
  'mode',
  'train',
  ['train', 'evaluate', 'export'],
  'train: all stages, then export. evaluate: the table beside doing nothing; of a detector, its '
  'scores at every threshold. '
  'export: weights.safetensors from the newest checkpoints.',
)
_MULTIHOST = flags.DEFINE_bool('multihost', False, 'One of several processes, as on a TPU pod.')


def _is_ours(record: logging.LogRecord) -> bool:
  """Orbax tells dozens of lines a save; what its warnings mean, checkpoints.py says itself."""
  return record.levelno >= logging.ERROR or 'orbax' not in record.pathname


def main(argv):
  if len(argv) > 1:
    raise app.UsageError(f'unknown arguments: {" ".join(argv[1:])}')
  absl_logging.set_verbosity(absl_logging.INFO)
  absl_logging.get_absl_handler().addFilter(_is_ours)
  config = _CONFIG.value
  try:
    parallel.initialize(_MULTIHOST.value)
    logging.info('%d devices of kind %s', jax.device_count(), jax.devices()[0].device_kind)
    system = SYSTEMS[config.system]
    if system is dip:
      dip.check(config, _MODE.value)
    if _MODE.value == 'train':
      runs.start(config)
      system.run(config)
    elif _MODE.value == 'evaluate' and system is scratch:
      print(scratch.evaluate(config, weights.load_detector(config.workdir)))
    elif _MODE.value == 'evaluate':
      print(build.evaluate(config, weights.load_restorer(config.workdir)))
    if _MODE.value == 'export' or (_MODE.value == 'train' and system.is_complete(config)):
      logging.info('weights are in %s', system.export(config))
  except (ValueError, ArithmeticError, OSError) as error:
    # What a user can mend is one sentence; a bug keeps its traceback under --v=1.
    if flags.FLAGS.verbosity >= 1:
      raise
    sys.exit(f'{type(error).__name__}: {error}')


def _parse(argv: list[str]) -> list[str]:
  try:
    return flags.FLAGS(argv)
  except flags.Error as error:
    # Of a config file's error absl gives the whole traceback, which ends with the sentence.
    sys.exit(f'launch.py: {str(error).strip().splitlines()[-1].strip()}')
  except (AttributeError, KeyError, OSError, TypeError, ValueError) as error:
    # An unknown setting, a value of the wrong type, a variant that does not exist.
    sys.exit(f'launch.py: {error.args[0] if error.args else error}')


if __name__ == '__main__':
  flags.mark_flag_as_required('config')
  app.run(main, flags_parser=_parse)
