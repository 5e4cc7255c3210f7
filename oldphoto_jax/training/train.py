"""One training loop for every trained system.

A system hands over a `Stage`: plain functions and iterators. The loop dispatches steps, reads
their metrics late so that the devices never wait for the host, evaluates and saves. It can be
stopped at any step: the same command then goes on, with the same numbers as without the stop.
"""

import dataclasses
import datetime
import json
import logging
import pathlib
import signal
import time
from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np
import tqdm

from oldphoto_jax import data
from oldphoto_jax.errors import ConfigError, ExitStatus, UserError
from oldphoto_jax.photos import sheets
from oldphoto_jax.training import checkpoints, failure_signs, parallel

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Loop:
  """How long to train one stage, and how often to log and evaluate.

  Attributes:
    steps: total number of steps.
    log_every: steps between lines of metrics.jsonl. A non-finite loss is noticed this much later.
    evaluate_every: steps between evaluations; each one also saves a checkpoint.
    sheet_rows: photos in the image grids.
    tensorboard: also write the lines of metrics.jsonl as TensorBoard scalars, into tensorboard/.
    line_seconds: seconds between lines of progress in the log, without a terminal for a bar.
  """

  steps: int
  log_every: int = 20
  evaluate_every: int = 500
  sheet_rows: int = 4
  tensorboard: bool = False
  line_seconds: float = 60.0


@dataclasses.dataclass(frozen=True)
class Stage:
  """One network (or a group trained together) with its data.

  Attributes:
    name: name of its folder inside the run's folder.
    init: key -> state with a field `step`.
    prepare, prepare_eval: (uint8 batch, keys [b]) -> float batch, on the device.
    train_step: (state, constants, batch, keys) -> (state, metrics); see models.
    eval_step: (state, constants, batch) -> (scores per example, images).
    constants: arrays that training reads but does not change (frozen networks).
    batches: opens the training stream of this host.
    eval_batches: opens an evaluation pass over the validation photos of this host.
    score: the evaluation score that decides which checkpoint is best; higher is better.
    loop: see Loop.
    columns: names of `eval_step`'s images, as columns of the image grids. Default: all, sorted.
    accumulate: parts into which `train_step` splits a device's batch; None if it cannot. Used only
      in reports.
  """

  name: str
  init: Callable[[jax.Array], Any]
  prepare: Callable[[dict, jax.Array], dict]
  prepare_eval: Callable[[dict, jax.Array], dict]
  train_step: Callable[..., tuple[Any, dict]]
  eval_step: Callable[..., tuple[dict, dict]]
  constants: Any
  batches: Callable[[], data.Batches]
  eval_batches: Callable[[], Iterable[dict[str, np.ndarray]]]
  score: str
  loop: Loop
  columns: tuple[str, ...] = ()
  accumulate: int | None = None


class Stopped(SystemExit):
  """Raised after SIGTERM once everything is saved. Ends the program with ExitStatus.STOPPED."""

  def __init__(self):
    super().__init__(int(ExitStatus.STOPPED))


class NonFiniteLoss(UserError):
  """A loss that is NaN or infinite, with the step and the examples at which it occurred."""


def train(stage: Stage, folder: str | pathlib.Path, seed: int) -> Any:
  """Trains `stage` to its last step, starting from its newest checkpoint in `folder`, if any.

  Writes into `folder`: checkpoints/, metrics.jsonl, sheets/ (image grids as PNG).

  Args:
    stage: the stage to train.
    folder: the folder of this stage, made if missing.
    seed: seed of the initialisation and of every random choice on the devices.

  Returns:
    The state after the last step.

  Raises:
    NonFiniteLoss: a loss is not finite; earlier checkpoints are kept.
    Stopped: after SIGTERM, once a checkpoint is saved.
    CheckpointError: the folder holds checkpoints of a different network.
  """
  folder = pathlib.Path(folder)
  folder.mkdir(parents=True, exist_ok=True)
  loop = stage.loop
  init_key, train_key, eval_key = jax.random.split(jax.random.key(seed), 3)
  state = jax.jit(stage.init)(init_key)
  batches = stage.batches()
  constants = parallel.replicate(stage.constants)
  train_step = _announced(
    parallel.train_step(stage.prepare, stage.train_step), f'{stage.name}: the train step'
  )
  eval_step = _announced(
    parallel.eval_step(stage.prepare_eval, stage.eval_step), f'{stage.name}: the evaluation step'
  )

  with checkpoints.manager(folder / 'checkpoints', stage.score) as saved:
    newest = checkpoints.restore(saved, state)
    step = 0
    if newest is not None:
      step, state, position = newest
      batches.set_state(position)
      _log.info('%s: going on from step %d of %d', stage.name, step, loop.steps)
    if step >= loop.steps:
      return state
    # In the layout that the step returns: otherwise its second call would compile again.
    state = parallel.replicate(state)
    log = _Log(folder / 'metrics.jsonl', step, loop.tensorboard)
    flow = parallel.prefetch(batches)
    progress = tqdm.tqdm(total=loop.steps, initial=step, desc=stage.name, unit='step', disable=None)
    lines = _Lines(stage, step) if progress.disable else None
    with Terminated() as terminated, progress:
      pending = []
      while step < loop.steps:
        on_device, batch, position = next(flow)
        state, metrics = train_step(state, constants, on_device, train_key)
        step += 1
        pending.append((step, batch, metrics))
        progress.update()
        stop = parallel.stop_requested(terminated.requested, step)
        evaluating = step == loop.steps or step % loop.evaluate_every == 0
        looking = evaluating or stop
        if looking or len(pending) > loop.log_every:
          # All but the newest step, which the devices are still computing.
          ready = pending if looking else pending[:-1]
          pending = [] if looking else pending[-1:]
          speed, means = log.train(ready)
          progress.set_postfix({'img/s': f'{speed:.1f}'}, refresh=False)
          if lines is not None:
            lines.measured(speed, means)
        if lines is not None:
          lines.tell(step)
        if looking:
          scores = None
          if evaluating:
            scores = evaluate(stage, eval_step, state, constants, eval_key, folder / 'sheets', step)
            log.write({'step': step} | {f'eval_{k}': v for k, v in scores.items()})
            line = '  '.join(f'{k} {v:.4g}' for k, v in scores.items())
            _log.info('%s: step %d: %s', stage.name, step, line)
            for sentence in failure_signs.warnings(log.lines):
              _log.warning('%s: %s', stage.name, sentence)
            log.restart_clock()
          checkpoints.save(saved, step, state, position, scores)
        if stop and step < loop.steps:
          saved.wait_until_finished()
          _log.warning('%s: stopped at step %d; the same command goes on', stage.name, step)
          raise Stopped
    batches.close()
  return state


def evaluate(
  stage: Stage,
  eval_step: parallel.Step,
  state: Any,
  constants: Any,
  key: jax.Array,
  sheets_folder: pathlib.Path,
  step: int,
) -> dict[str, float]:
  """Means of the scores over the validation photos. Writes an image grid of the first ones."""
  totals, count, first = {}, 0, None
  for batch in stage.eval_batches():
    sums, n, images = eval_step(state, constants, parallel.shard(batch), key)
    if first is None:
      first = jax.tree.map(lambda x: np.concatenate(np.asarray(x)), images)
    totals = {name: totals.get(name, 0.0) + float(value) for name, value in sums.items()}
    count += int(n)
  if parallel.is_main():
    columns = stage.columns or tuple(first)
    rows = list(zip(*(sheets.from_float(first[c]) for c in columns)))[: stage.loop.sheet_rows]
    path = sheets_folder / f'{step:07d}.png'
    path.parent.mkdir(parents=True, exist_ok=True)
    sheets.save_png(path, sheets.grid(rows, columns))
  return {name: total / count for name, total in totals.items()}


def _announced(step: parallel.Step, what: str) -> parallel.Step:
  """`step`, whose first call logs that it compiles, and how long that took."""
  compiled = False

  def call(*arguments):
    nonlocal compiled
    if compiled:
      return step(*arguments)
    _log.info('%s: compiling', what)
    start = time.perf_counter()
    result = step(*arguments)
    _log.info('%s: compiled in %.1f s', what, time.perf_counter() - start)
    compiled = True
    return result

  return call


class _Lines:
  """Progress in the log of a run without a terminal: one line every `Loop.line_seconds`."""

  def __init__(self, stage: Stage, step: int):
    self.name, self.loop = stage.name, stage.loop
    self.step, self.start, self.metrics = step, time.perf_counter(), ''

  def measured(self, speed: float, means: dict[str, float]) -> None:
    """Stores the newest metrics."""
    values = '  '.join(f'{name} {value:.4g}' for name, value in means.items())
    self.metrics = f', {speed:.1f} images/s: {values}'

  def tell(self, step: int) -> None:
    """Logs a line if one is due after `step`."""
    seconds = time.perf_counter() - self.start
    if seconds < self.loop.line_seconds:
      return
    left = (self.loop.steps - step) * seconds / (step - self.step)
    _log.info(
      '%s: step %d of %d, %s left%s',
      self.name,
      step,
      self.loop.steps,
      datetime.timedelta(seconds=round(left)),
      self.metrics,
    )
    self.step, self.start = step, time.perf_counter()


class _Log:
  """metrics.jsonl: one line per training interval and per evaluation."""

  def __init__(self, path: pathlib.Path, after: int, tensorboard: bool):
    """Drops lines after step `after`: the steps will be repeated."""
    self.file = self.tensorboard = None
    self.lines = []  # written by this process, for failure_signs
    if tensorboard and parallel.is_main():
      self.tensorboard = _tensorboard(path.parent / 'tensorboard', after)
    if parallel.is_main():
      lines = path.read_text().splitlines() if path.exists() else []
      kept = [line for line in lines if _step_of(line) <= after]
      path.write_text(''.join(f'{line}\n' for line in kept))
      self.file = path
    self.restart_clock()

  def restart_clock(self) -> None:
    self.start = time.perf_counter()

  def train(self, pending: list[tuple[int, dict, dict]]) -> tuple[float, dict[str, float]]:
    """Writes the means over `pending` (step, host batch, device metrics) and checks each of them.

    Returns:
      Images per second, and the means of the metrics by name.

    Raises:
      NonFiniteLoss: names the first bad step and its photos.
    """
    values = jax.device_get([metrics for _, _, metrics in pending])
    for (step, batch, _), metrics in zip(pending, values):
      bad = sorted(name for name, value in metrics.items() if not np.isfinite(value))
      if bad:
        ids, photos = batch['id'].tolist(), batch['photo'].tolist()
        raise NonFiniteLoss(
          f'{", ".join(bad)} not finite at step {step} (examples {ids}, photos {photos}): lower '
          'the learning rate or look at these photos; earlier checkpoints are kept'
        )
    seconds = time.perf_counter() - self.start
    self.restart_clock()
    images = sum(len(batch['id']) for _, batch, _ in pending) * jax.process_count()
    means = {name: float(np.mean([m[name] for m in values])) for name in values[0]}
    speed = images / seconds
    self.write({'step': pending[-1][0], 'images_per_second': round(speed, 3)} | means)
    return speed, means

  def write(self, line: dict[str, Any]) -> None:
    self.lines.append(line)
    if self.file is not None:
      with self.file.open('a') as file:
        file.write(json.dumps(line) + '\n')
    if self.tensorboard is not None:
      for name in line.keys() - {'step'}:
        self.tensorboard.add_scalar(name, line[name], line['step'])
      self.tensorboard.flush()


def _tensorboard(folder: pathlib.Path, after: int) -> Any:
  try:
    from tensorboardX import SummaryWriter
  except ImportError as error:
    raise ConfigError(
      "train.tensorboard needs tensorboardX: pip install 'oldphoto_jax[tensorboard]'"
    ) from error
  return SummaryWriter(str(folder), purge_step=after + 1)


def _step_of(line: str) -> float:
  try:
    return json.loads(line)['step']
  except ValueError:  # a line cut off when a run was killed
    return float('inf')


class Terminated:
  """Records SIGTERM while the loop runs, which then saves and stops after the current step."""

  def __enter__(self):
    self.requested = False
    try:
      self.previous = signal.signal(signal.SIGTERM, self._note)
    except ValueError:  # not the main thread, which never gets a signal
      self.previous = None
    return self

  def _note(self, *_):
    self.requested = True

  def __exit__(self, *_):
    if self.previous is not None:
      signal.signal(signal.SIGTERM, self.previous)
