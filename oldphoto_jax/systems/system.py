"""The interface of systems: `config.system` names one, and launch.py runs its modes.

A system that learns in stages and releases one file of weights is made by `trained`, from a
function that opens its stages and one that releases their networks. pix2pix.py is the smallest
example.
"""

import dataclasses
import json
import logging
import pathlib
import tempfile
from collections.abc import Callable, Mapping
from typing import Any

import jax
from ml_collections import ConfigDict

from oldphoto_jax import weights
from oldphoto_jax.errors import ConfigError, DiskFullError, is_disk_full
from oldphoto_jax.evaluation import compile_report, speed, tables
from oldphoto_jax.evaluation.judge import extra_scores, load_judge
from oldphoto_jax.evaluation.results import compare
from oldphoto_jax.evaluation.rows import NOTHING, nothing, restoring
from oldphoto_jax.photos import images, sheets
from oldphoto_jax.systems import build, frozen, splits
from oldphoto_jax.training import parallel, runs, train

_log = logging.getLogger(__name__)

RESTORED = 'restored'


@dataclasses.dataclass(frozen=True)
class System:
  """A system, as launch.py sees it.

  Attributes:
    name: the value of `config.system`.
    modes: functions by the value of --mode; `run` is the default.
    check: raises UserError for settings that cannot work, before any mode. Makes no folder.
    may_change: patterns of settings (see runs.FREE) that may differ when a run is resumed.
    behind: (released weights, whether they know a mask) -> the stages on whose training it depends
      how they restore; none for a system that releases nothing.
  """

  name: str
  modes: Mapping[str, Callable[[ConfigDict], None]]
  check: Callable[[ConfigDict], None]
  may_change: tuple[str, ...] = ()
  behind: Callable[[weights.Weights, bool], tuple[str, ...]] = lambda found, masked: ()


def scores(config: ConfigDict) -> str:
  """Compares the run's weights with doing nothing, on each recipe of `evaluate.recipes`.

  A comparison with two rows, see evaluation/. Writes evaluation.md, evaluation.json and a sheet for
  each recipe into the run's folder.

  Returns:
    The tables as Markdown.
  """
  folder, e = pathlib.Path(config.workdir), config.evaluate
  restorer = weights.load_restorer(config.workdir)
  if e.crop % restorer.multiple:
    raise ConfigError(f'evaluate.crop is {e.crop}, not a multiple of {restorer.multiple}')
  rows = [nothing(), restoring(RESTORED, restorer)]
  source = splits.test_photos(config, splits.run_photos(config))
  tests = build.tests(config, source)
  judge = load_judge('', '')
  with tempfile.TemporaryDirectory() as place:
    results = compare(
      rows, tests, judge, place, pictures=config.train.sheet_rows, commit=runs.commit()
    )
  extra = {test.name: extra_scores(test, judge) for test in tests}
  report = tables.report(rows, tests, results, extra, NOTHING, config.seed, 10_000)
  _, *written = tables.tables(report)  # the first lists the systems, and there is only one
  text = f'Restored by {restorer.name}.\n\n{tables.markdown(written)}'
  images.write_bytes(folder / 'evaluation.md', text.encode(), overwrite=True)
  record = {'restorer': restorer.name} | report
  images.write_bytes(
    folder / 'evaluation.json', json.dumps(record, indent=1).encode(), overwrite=True
  )
  for test in tests:
    grid = tables.grid(test, results[test.name], config.train.sheet_rows)
    sheets.save_png(folder / f'evaluation_{test.name}.png', grid)
  return text


def trained(
  name: str,
  *,
  stages: Callable[
    [ConfigDict, splits.Photos, frozen.Networks], dict[str, Callable[[], train.Stage]]
  ],
  release: Callable[[ConfigDict, frozen.Networks], weights.Weights],
  needed: tuple[str, ...],
  check: Callable[[ConfigDict], None] = lambda config: None,
  evaluate: Callable[[ConfigDict], str] = scores,
  may_change: tuple[str, ...] = (),
  behind: Callable[[weights.Weights, bool], tuple[str, ...]] | None = None,
) -> System:
  """A system that learns in stages and releases one file of weights.

  Args:
    name: name of the system. A single stage has the same name, and needs no setting `stages`.
    stages: (config, photos, networks) -> all stages by name, in the order of their numbers. Each is
      opened when its turn comes, because it may read earlier ones.
    release: (config, networks) -> the weights that the run learnt.
    needed: the stages that a release requires.
    check: further checks, beyond opening all stages with shapes instead of arrays.
    evaluate: writes tables into the run's folder and returns them as Markdown.
    may_change: see System.
    behind: see System; `needed` by default.
  """

  def check_all(config: ConfigDict) -> None:
    check(config)
    opened = stages(config, splits.stand_ins(config), frozen.SHAPES)
    for stage in build.stage_names(config):
      if stage not in opened:
        raise ConfigError(f'there is no stage {stage!r}: choose from {", ".join(opened)}')
      opened[stage]()
    build.recipe(config.evaluate.recipes)

  def run(config: ConfigDict) -> None:
    # Everything that can fail comes first: a corrected command must not find a folder.
    names = build.stage_names(config)
    build.check_batches(config)
    runs.check(config, may_change)
    photos = splits.run_photos(config)
    for i, stage in enumerate(names):
      stages(config, photos, frozen.planned(config, names[:i]))[stage]()
    opened = stages(config, photos, frozen.trained(config))
    try:
      with runs.alone(config.workdir):
        runs.start(config, may_change)
        splits.write_manifest(photos, config.workdir)
        for stage in names:
          seed = config.seed * len(opened) + list(opened).index(stage)
          train.train(opened[stage](), runs.stage_folder(config.workdir, stage), seed)
        if all(frozen.is_trained(config, stage) for stage in needed):
          export(config)
    except Exception as error:
      if not is_disk_full(error):
        raise
      raise DiskFullError(
        f'{config.workdir}: the disk is full; make room, and run the same command again: it goes '
        'on from the newest checkpoint'
      ) from error

  def export(config: ConfigDict) -> None:
    released = release(config, frozen.trained(config))
    path = pathlib.Path(config.workdir) / weights.FILE
    if parallel.is_main():
      card = {'run': config.to_json()}
      weights.save(path, released, card=card, half=config.get('half', False))
    _log.info('weights are in %s', path)

  def compile_stages(config: ConfigDict) -> None:
    chips = compile_report.topology(config.measure.topology)
    opened = stages(config, splits.stand_ins(config), frozen.UNTRAINED)
    rows = [
      compile_report.compile_stage(opened[stage](), chips) for stage in build.stage_names(config)
    ]
    path = measured_file(config, f'compile_{chips.file_name}.json')
    compile_report.write(path, chips, rows, config.to_dict(), runs.commit())
    print(compile_report.table(chips.name, len(chips.devices), chips.hbm, rows))
    _log.info('the measurements are in %s', path)
    compile_report.check_fit(chips, rows)

  def measure(config: ConfigDict) -> None:
    plan = windows(config)
    peak = speed.matmul_peak(plan)
    opened = stages(config, splits.photos(config.data, config.seed), frozen.UNTRAINED)
    steps = [speed.measure_stage(opened[s](), peak, plan) for s in build.stage_names(config)]
    restorer = weights.restorer(release(config, frozen.UNTRAINED), 'untrained')
    restoring = [speed.measure_restorer(restorer, side, plan) for side in speed.SIDES]
    write_speed(config, peak, steps, restoring)

  modes = {
    'run': run,
    'evaluate': lambda config: print(evaluate(config)),
    'export': export,
    'compile': compile_stages,
    'speed': measure,
  }
  return System(name, modes, check_all, may_change, behind or (lambda found, masked: needed))


def windows(config: ConfigDict) -> speed.Windows:
  """How long to measure.

  Raises:
    ConfigError: there are several hosts.
  """
  if jax.process_count() > 1:
    raise ConfigError('speed is measured on one host: leave --multihost and --coordinator out')
  return speed.Windows(config.measure.windows, config.measure.window_seconds)


def measured_file(config: ConfigDict, name: str) -> pathlib.Path:
  """Where to write measurements: `measure.output`, or a file of this name in the workdir."""
  return pathlib.Path(config.measure.output or pathlib.Path(config.workdir) / name)


def write_speed(config: ConfigDict, peak: float, steps: Any, restoring: Any) -> None:
  """Writes and prints measurements: lists of speed.Step and speed.Restoring."""
  path = measured_file(config, 'speed.json')
  speed.write(path, peak, steps, restoring, config.to_dict(), runs.commit())
  print(speed.table(peak, steps, restoring))
  _log.info('the measurements are in %s', path)
