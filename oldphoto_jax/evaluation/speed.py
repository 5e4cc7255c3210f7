"""Measures a system on this machine: train steps, restoring, input, memory, and the peak.

Times are medians over windows; each window has as many calls as fill some seconds and waits for its
last output. Compilation is reported separately. How FLOPs are counted: Step.gflop.
"""

import dataclasses
import importlib.metadata
import json
import math
import os
import pathlib
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from oldphoto_jax.dip import fit_time, prior
from oldphoto_jax.errors import ConfigError
from oldphoto_jax.restoring import engine, programs
from oldphoto_jax.training import parallel, train

SIDES = (256, 1024)  # pixels of the photos that are restored
MATMUL = 2048  # side of the matrices whose product measures the peak of the machine
# Iterations of Deep Image Prior per call. A fit runs chunks of 100, but at 1024² one takes seconds.
ITERATIONS = 4
_STATUS, _CLEAR = pathlib.Path('/proc/self/status'), pathlib.Path('/proc/self/clear_refs')


@dataclasses.dataclass(frozen=True)
class Windows:
  """How long to measure: `count` windows of about `seconds` each."""

  count: int = 5
  seconds: float = 2.0


@dataclasses.dataclass(frozen=True)
class Step:
  """The train step of one stage, or an iteration of Deep Image Prior.

  Attributes:
    stage: its name.
    batch, side: examples per step over all devices, and pixels per side.
    compile_seconds: tracing and compilation.
    ms: milliseconds per step.
    images_per_second: examples per second.
    gflop: per step and device. On CPU of the compiled program, where a loop counts once; elsewhere
      `products` of the traced one, as XLA does not count what it leaves to a library, such as
      cuDNN's convolutions. For a batch in parts, see compile_report.Row.
    gflops: GFLOP per second.
    share: fraction of the measured peak of one device.
    peak_mib: peak memory while compiling and running.
    pipeline: images per second of the input pipeline by itself; None without one.
    pipeline_core: the same per busy core.
    degradation: images per second of the preparation on the device; None without one.
    degradation_compile_cpu: CPU seconds of tracing and compiling it by itself.
    compile_cpu: CPU seconds of tracing and compiling the step, over all threads; None in reports
      from before they were measured.
  """

  stage: str
  batch: int
  side: int
  compile_seconds: float
  ms: float
  images_per_second: float
  gflop: float
  gflops: float
  share: float
  peak_mib: float
  pipeline: float | None = None
  pipeline_core: float | None = None
  degradation: float | None = None
  degradation_compile_cpu: float | None = None
  compile_cpu: float | None = None


@dataclasses.dataclass(frozen=True)
class Restoring:
  """Restoring one photo of side x side pixels: time of compilation and of a call."""

  side: int
  compile_seconds: float
  ms: float


def prepare_process(threads: int) -> None:
  """Limits JAX's CPU backend to `threads` threads; 0: no limit. Call before any use of a device.

  Compiled programs are not cached, because compilation is measured.

  Raises:
    ConfigError: the operating system cannot limit threads.
  """
  if threads and not hasattr(os, 'sched_setaffinity'):
    raise ConfigError('measure.threads works on Linux only: leave it out')
  if threads:
    # The backend starts one thread for each core that it may use.
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
  jax.config.update('jax_enable_compilation_cache', False)


def cores() -> int:
  """Number of cores that this process may use."""
  return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()


def windows(run: Callable[[int], None], plan: Windows) -> list[float]:
  """Seconds per call in each window. `run(n)` makes n calls and waits for the last."""
  start = time.perf_counter()
  run(1)
  n = max(1, round(plan.seconds / max(time.perf_counter() - start, 1e-9)))
  seconds = []
  for _ in range(plan.count):
    start = time.perf_counter()
    run(n)
    seconds.append((time.perf_counter() - start) / n)
  return seconds


def matmul_peak(plan: Windows) -> float:
  """GFLOP/s of the product of two float32 matrices on one device, in the best window."""
  a = jax.random.normal(jax.random.key(0), (MATMUL, MATMUL))
  product = jax.jit(jnp.matmul)
  product(a, a).block_until_ready()

  def run(n):
    for _ in range(n):
      last = product(a, a)
    last.block_until_ready()

  return 2 * MATMUL**3 / min(windows(run, plan)) / 1e9


def measure_stage(stage: train.Stage, peak: float, plan: Windows) -> Step:
  """Measures a stage's train step on all devices, its input and its degradation.

  Args:
    stage: its networks may be untrained.
    peak: see `matmul_peak`.
    plan: see `Windows`.
  """
  _reset_peak()
  key = jax.random.key(0)
  pipeline, pipeline_core = _pipeline(stage, plan)
  batches = stage.batches()
  on_device, batch, _ = next(parallel.prefetch(batches, 1))
  batches.close()
  state = parallel.replicate(jax.jit(stage.init)(key))
  constants = parallel.replicate(stage.constants)
  step = parallel.train_step(stage.prepare, stage.train_step)
  program, compiled = _compiled(step, state, constants, on_device, key)
  gflop = _gflop(program, step, state, constants, on_device, key)

  def run(n):
    nonlocal state
    for _ in range(n):
      state, _ = program(state, constants, on_device, key)
    jax.block_until_ready(state)

  run(1)
  seconds = statistics.median(windows(run, plan))
  size = len(batch['id'])
  degradation, degradation_compile = _degradation(stage, batch, plan)
  return _step(
    stage.name,
    (size, batch['image'].shape[1]),
    (compiled, seconds),
    gflop,
    peak,
    parts=stage.accumulate or 1,
    pipeline=pipeline,
    pipeline_core=pipeline_core,
    degradation=degradation,
    degradation_compile_cpu=degradation_compile,
  )


def measure_fit(name: str, settings: prior.Dip, side: int, peak: float, plan: Windows) -> Step:
  """Measures an iteration of Deep Image Prior on one photo of side x side pixels and one device."""
  _reset_peak()
  photo, key, state = fit_time.arguments(settings, side, side)
  fit = fit_time.program(settings, ITERATIONS)
  program, compiled = _compiled(fit, photo, key, state)
  gflop = _gflop(program, fit, photo, key, state)

  def run(n):
    nonlocal state
    for _ in range(n):
      state, _ = program(photo, key, state)
    jax.block_until_ready(state)

  run(1)
  seconds = statistics.median(windows(run, plan)) / ITERATIONS
  return _step(name, (1, side), (compiled, seconds), gflop, peak)


def _compiled(function: Any, *args: Any) -> tuple[Any, tuple[float, float]]:
  """The compiled program of a jitted function, and the seconds and CPU seconds that it took."""
  start, cpu = time.perf_counter(), time.process_time()
  program = function.lower(*args).compile()
  return program, (time.perf_counter() - start, time.process_time() - cpu)


def _gflop(program: Any, function: Any, *args: Any) -> float:
  """See Step.gflop."""
  if jax.default_backend() == 'cpu':
    return program.cost_analysis()['flops'] / 1e9
  return products(jax.make_jaxpr(function)(*args).jaxpr) / 1e9


def products(jaxpr: Any) -> float:
  """FLOPs of the products of matrices and the convolutions of a program, as it is traced.

  A multiplication and an addition are two. Scans count as often as they run, other loops once, and
  of the branches of a condition the most expensive one. Zeros that a convolution puts between
  pixels count as pixels.
  """
  total = 0.0
  for eqn in jaxpr.eqns:
    out = eqn.outvars[0].aval if eqn.outvars else None
    if eqn.primitive.name == 'dot_general':
      (contracted, _), _ = eqn.params['dimension_numbers']
      left = eqn.invars[0].aval.shape
      total += 2 * math.prod(out.shape) * math.prod(left[axis] for axis in contracted)
    elif eqn.primitive.name == 'conv_general_dilated':
      kernel = eqn.invars[1].aval.shape
      features = kernel[eqn.params['dimension_numbers'].rhs_spec[0]]
      total += 2 * math.prod(out.shape) * math.prod(kernel) / features
    inner = [[products(x) for x in _programs(value)] for value in eqn.params.values()]
    if eqn.primitive.name == 'cond':
      total += max(map(max, filter(None, inner)), default=0.0)
    else:
      total += eqn.params.get('length', 1) * sum(map(sum, inner))
  return total


def _programs(value: Any) -> list[Any]:
  """The programs in a parameter of an operation."""
  values = value if isinstance(value, tuple | list) else [value]
  closed = [getattr(x, 'jaxpr', x) for x in values]
  return [x for x in closed if hasattr(x, 'eqns')]


def _step(
  name: str, shape: tuple[int, int], times: tuple[tuple[float, float], float], gflop: float,
  peak: float, parts: int = 1, pipeline: float | None = None, pipeline_core: float | None = None,
  degradation: float | None = None, degradation_compile_cpu: float | None = None,
) -> Step:  # fmt: skip
  (batch, side), ((compiled, compile_cpu), seconds) = shape, times
  gflop *= parts
  return Step(
    stage=name,
    batch=batch,
    side=side,
    compile_seconds=compiled,
    compile_cpu=compile_cpu,
    ms=1e3 * seconds,
    images_per_second=batch / seconds,
    gflop=gflop,
    gflops=gflop / seconds,
    share=gflop / seconds / peak,
    peak_mib=_peak_mib(),
    pipeline=pipeline,
    pipeline_core=pipeline_core,
    degradation=degradation,
    degradation_compile_cpu=degradation_compile_cpu,
  )


def measure_restorer(restorer: engine.Restorer, side: int, plan: Windows) -> Restoring:
  """Measures one pass of a system's network over a photo, without finding, filling and tones."""
  run_one = programs.program(restorer.apply, restorer.params)
  photo = np.random.default_rng(0).uniform(-1, 1, (1, side, side, 3)).astype(np.float32)
  start = time.perf_counter()
  run_one(photo)
  first = time.perf_counter() - start

  def run(n):
    for _ in range(n):
      run_one(photo)

  seconds = statistics.median(windows(run, plan))
  return Restoring(side, max(0.0, first - seconds), 1e3 * seconds)


def restoring_of_fit(step: Step, settings: prior.Dip) -> Restoring:
  """A whole fit without early stopping, estimated from the time of an iteration."""
  return Restoring(step.side, step.compile_seconds, step.ms * settings.iterations)


def _pipeline(stage: train.Stage, plan: Windows) -> tuple[float, float]:
  """Images per second of the stage's input: per second of wall-clock time, and of CPU time."""
  batches = stage.batches()
  size = len(next(batches)['id'])
  count, wall, cpu = 0, time.perf_counter(), time.process_time()
  while count == 0 or time.perf_counter() - wall < plan.count * plan.seconds:
    next(batches)
    count += size
  wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
  batches.close()
  return count / wall, count / cpu


def _degradation(stage: train.Stage, batch: dict[str, Any], plan: Windows) -> tuple[float, float]:
  """Images per second of the stage's preparation on one device, and CPU seconds of compiling it."""

  @jax.jit
  def prepare(batch, key):
    keys, _ = parallel.example_keys(key, batch['id'])
    return stage.prepare(batch, keys)

  batch, key = jax.device_put(batch), jax.random.key(0)
  program, (_, compile_cpu) = _compiled(prepare, batch, key)

  def run(n):
    for _ in range(n):
      last = program(batch, key)
    jax.block_until_ready(last)

  run(1)
  return len(batch['id']) / statistics.median(windows(run, plan)), compile_cpu


def _reset_peak() -> None:
  """Resets the peak memory of this process, if the operating system can."""
  if _CLEAR.exists():
    try:
      _CLEAR.write_text('5')
    except OSError:  # not permitted: the peak then counts from the start
      return


def _peak_mib() -> float:
  """Peak memory of the device since the start; on CPU, of this process since `_reset_peak`."""
  stats = jax.local_devices()[0].memory_stats()
  if stats and 'peak_bytes_in_use' in stats:
    return stats['peak_bytes_in_use'] / 2**20
  if _STATUS.exists():
    for line in _STATUS.read_text().splitlines():
      if line.startswith('VmHWM:'):
        return int(line.split()[1]) / 2**10
  import resource  # Windows has none

  kilo = 2**20 if platform.system() == 'Darwin' else 2**10
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / kilo


def describe() -> dict[str, Any]:
  """The conditions of the measurement: device, threads, versions, flags."""
  device = jax.devices()[0]
  return {
    'device': device.device_kind,
    'devices': jax.device_count(),
    'machine': processor(),
    'cores': cores(),
    'load': os.getloadavg()[0] if hasattr(os, 'getloadavg') else None,  # Windows has none
    'versions': {name: importlib.metadata.version(name) for name in ('jax', 'jaxlib', 'flax')},
    'xla_flags': os.environ.get('XLA_FLAGS', ''),
    'date': time.strftime('%Y-%m-%d'),
  }


def processor() -> str:
  """The name of this machine's processor."""
  path = pathlib.Path('/proc/cpuinfo')
  if path.exists():
    for line in path.read_text().splitlines():
      if line.startswith('model name'):
        return line.split(':', 1)[1].strip()
  return platform.processor() or platform.machine()


def table(peak: float, steps: Sequence[Step], restoring: Sequence[Restoring]) -> str:
  """The measurements as Markdown."""
  lines = [
    f'Peak of a device, product of {MATMUL}x{MATMUL} float32 matrices: {peak:.0f} GFLOP/s',
    '',
    '| stage | batch | compile s (CPU s) | step ms | images/s | GFLOP | GFLOP/s | of peak | '
    'peak MiB | input images/s (per core) | degradation images/s | degradation compile CPU s |',
    '|' + '---|' * 12,
  ]
  number = lambda x, form='.1f': '' if x is None else format(x, form)
  for x in steps:
    cpu = '' if x.compile_cpu is None else f' ({x.compile_cpu:.1f})'
    source = '' if x.pipeline is None else f'{x.pipeline:.0f} ({x.pipeline_core:.0f})'
    lines.append(
      f'| {x.stage} | {x.batch} x {x.side}² | {x.compile_seconds:.1f}{cpu} | '
      f'{x.ms:.1f} | '
      f'{x.images_per_second:.2f} | {x.gflop:.2f} | {x.gflops:.1f} | {x.share:.0%} | '
      f'{x.peak_mib:.0f} | {source} | {number(x.degradation)} | '
      f'{number(x.degradation_compile_cpu)} |'
    )
  if restoring:
    lines += ['', '| restoring | compile s | ms per photo |', '|---|---|---|']
  for x in restoring:
    lines.append(f'| {x.side}² | {x.compile_seconds:.1f} | {x.ms:.0f} |')
  return '\n'.join(lines)


def write(
  path: pathlib.Path, peak: float, steps: Sequence[Step], restoring: Sequence[Restoring],
  config: dict[str, Any], commit: str | None,
) -> None:  # fmt: skip
  """Writes the measurements as JSON, with their conditions."""
  record = describe() | {
    'commit': commit,
    'matmul_gflops': peak,
    'steps': [dataclasses.asdict(step) for step in steps],
    'restoring': [dataclasses.asdict(x) for x in restoring],
    'config': config,
  }
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(json.dumps(record, indent=1) + '\n')
