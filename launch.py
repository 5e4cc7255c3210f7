"""Trains, evaluates and exports every system: `python launch.py --config=configs/vae.py`."""

import logging
import pathlib
import sys

import jax
from absl import app, flags
from absl import logging as absl_logging
from ml_collections import config_flags

from oldphoto_jax import compile_report, parallel, runs, speed, weights
from oldphoto_jax.systems import benchmark, build, cyclegan, dip, pix2pix, scratch, triplet

SYSTEMS = {
  'triplet': triplet,
  'pix2pix': pix2pix,
  'cyclegan': cyclegan,
  'scratch': scratch,
  'dip': dip,
  'benchmark': benchmark,
}

_CONFIG = config_flags.DEFINE_config_file('config', None, 'File of settings.', lock_config=True)
_MODE = flags.DEFINE_enum(
  'mode',
  'train',
  ['train', 'evaluate', 'export', 'compile', 'speed'],
  'train: all stages, then export. evaluate: the table beside doing nothing; of a detector, its '
  'scores at every threshold. '
  'export: weights.safetensors from the newest checkpoints. '
  'compile: what the train steps cost on the TPUs of --topology, which need not be there. '
  'speed: how fast the untrained networks train and restore on this machine.',
)
_TOPOLOGY = flags.DEFINE_string('topology', '', 'Of --mode=compile: chip and shape, as in v5e:4x4.')
_OUTPUT = flags.DEFINE_string(
  'output', '', 'File of the figures of compile and speed; by default in the run folder.'
)
_COMPARE = flags.DEFINE_enum(
  'compare', None, ['torch'], 'Of --mode=speed: beside the same steps in PyTorch, in turn.'
)
_THREADS = flags.DEFINE_integer(
  'threads', 0, 'Of --mode=speed, on CPU: threads of each side; 0: as many as there are cores.'
)
_WINDOWS = flags.DEFINE_integer('windows', 5, 'Of --mode=speed: windows, whose median is told.')
_SECONDS = flags.DEFINE_float('window_seconds', 2.0, 'Of --mode=speed: length of a window.')
_MULTIHOST = flags.DEFINE_bool(
  'multihost', False, 'One of several processes, as on a TPU pod or under Slurm.'
)
_COORDINATOR = flags.DEFINE_string(
  'coordinator', None, 'HOST:PORT of process 0, where nothing tells the processes of each other.'
)
_PROCESSES = flags.DEFINE_integer('num_processes', None, 'With --coordinator: how many.')
_PROCESS = flags.DEFINE_integer('process_id', None, 'With --coordinator: which one, from 0.')


def _is_ours(record: logging.LogRecord) -> bool:
  """Orbax tells dozens of lines a save; what its warnings mean, checkpoints.py says itself."""
  return record.levelno >= logging.ERROR or 'orbax' not in record.pathname


def main(argv):
  if len(argv) > 1:
    raise app.UsageError(f'unknown arguments: {" ".join(argv[1:])}')
  absl_logging.set_verbosity(max(absl_logging.INFO, flags.FLAGS.verbosity))
  absl_logging.get_absl_handler().addFilter(_is_ours)
  path = config_flags.get_config_filename(flags.FLAGS['config']).partition(':')[0]
  if not pathlib.Path(path).is_file():
    sys.exit(f'launch.py: there is no config file {path}: --config takes one of configs/')
  config = _CONFIG.value
  try:
    if _MODE.value == 'compile':
      compile_report.prepare_process()
    elif _MODE.value == 'speed':
      speed.prepare_process(_THREADS.value)
    parallel.initialize(_MULTIHOST.value, _COORDINATOR.value, _PROCESSES.value, _PROCESS.value)
    logging.info('%d devices of kind %s', jax.device_count(), jax.devices()[0].device_kind)
    system = SYSTEMS[config.system]
    if system in (dip, benchmark):
      system.check(config, _MODE.value)
    if _MODE.value == 'compile':
      _compile(system, config)
    elif _MODE.value == 'speed':
      _speed(system, config)
    elif _MODE.value == 'train':
      if system is not benchmark:  # its systems have run folders of their own
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


def _compile(system, config):
  chips = compile_report.topology(_TOPOLOGY.value)
  path = pathlib.Path(_OUTPUT.value or f'{config.workdir}/compile_{chips.file_name}.json')
  stages = system.untrained(config, build.stand_ins(config))
  rows = [compile_report.compile_stage(stage, chips) for stage in stages]
  compile_report.write(path, chips, rows, config.to_dict(), runs.commit())
  print(compile_report.table(chips.name, len(chips.devices), chips.hbm, rows))
  logging.info('the figures are in %s', path)
  compile_report.check_fit(chips, rows)


def _speed(system, config):
  if jax.process_count() > 1:
    raise ValueError('speed is measured on one host: leave --multihost and --coordinator out')
  plan = speed.Windows(_WINDOWS.value, _SECONDS.value)
  if _COMPARE.value == 'torch':
    try:
      from benchmarks.torch_reference import compare
    except ImportError as error:
      raise ValueError(f"--compare=torch needs PyTorch, pip install '.[torch]': {error}") from error
    path = pathlib.Path(_OUTPUT.value or f'{config.workdir}/speed_torch.json')
    print(compare.run(system, config, plan, _THREADS.value, path))
  else:
    path = pathlib.Path(_OUTPUT.value or f'{config.workdir}/speed.json')
    peak = speed.matmul_peak(plan)
    if system is dip:
      settings = dip.settings(config, 3)
      steps = [speed.measure_fit(config.preset, settings, side, peak, plan) for side in speed.SIDES]
      restoring = [speed.restoring_of_fit(step, settings) for step in steps]
    else:
      stages = system.untrained(config, build.photos(config.data, config.seed))
      steps = [speed.measure_stage(stage, peak, plan) for stage in stages]
      restorer = system.untrained_restorer(config)
      restoring = [speed.measure_restorer(restorer, side, plan) for side in speed.SIDES]
    speed.write(path, peak, steps, restoring, config.to_dict(), runs.commit())
    print(speed.table(peak, steps, restoring))
  logging.info('the figures are in %s', path)


def _parse(argv: list[str]) -> list[str]:
  try:
    return flags.FLAGS(argv)
  except flags.Error as error:
    # Of a config file's error absl gives the whole traceback, which ends with the sentence.
    sys.exit(f'launch.py: {str(error).strip().splitlines()[-1].strip()}')
  except (AttributeError, KeyError, OSError, TypeError, ValueError) as error:
    # An unknown setting, a value of the wrong type, a variant that does not exist.
    while error.args and isinstance(error.args[0], Exception):  # as absl wraps an unknown setting
      error = error.args[0]
    sentence = ': '.join(str(error.args[0] if error.args else error).splitlines())
    unknown = 'there is no setting ' if isinstance(error, KeyError) else ''
    sys.exit(f'launch.py: {unknown}{sentence}')


if __name__ == '__main__':
  flags.mark_flag_as_required('config')
  app.run(main, flags_parser=_parse)
