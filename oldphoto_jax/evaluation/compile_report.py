"""The cost of a train step on TPUs that are not present: compiled for a topology, but not run.

libtpu serves only as a compiler, so any Linux machine will do. Figures come from XLA (cost and
memory analysis of the executable) and from the collectives in the text of the program.
"""

import dataclasses
import importlib.metadata
import importlib.util
import json
import logging
import math
import os
import pathlib
import re
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax

from oldphoto_jax.errors import ConfigError
from oldphoto_jax.training import parallel, train

_log = logging.getLogger(__name__)

GIB = 2**30
# Memory of a chip, "HBM capacity per chip" of https://cloud.google.com/tpu/docs/v5e and its
# siblings for v4, v5p and v6e.
HBM_GIB = {'v4': 32, 'v5e': 16, 'v5p': 95, 'v6e': 32}
# Makes libtpu treat a v4 chip as one device. Without it, each of its two cores would be one.
CHIP_CONFIGS = {'v4': 'megacore'}
_BITS = {'pred': 8, 'bf16': 16, 'c64': 64, 'c128': 128}  # others end in their number of bits


@dataclasses.dataclass(frozen=True)
class Topology:
  """Chips to compile for. `hbm` is the memory of one chip in bytes."""

  name: str
  devices: tuple[jax.Device, ...]
  hbm: int

  @property
  def file_name(self) -> str:
    return self.name.replace(':', '_')


@dataclasses.dataclass(frozen=True)
class Row:
  """One stage. All figures except the batches are per device; sizes are in bytes.

  Attributes:
    batch: examples over all devices that were compiled.
    asked: examples over all devices in the config. Different from `batch` if they do not divide
      over the devices, or do not fit.
    fits: whether the batch in the config (rounded up to a multiple of the devices) fits.
    flops, bytes_accessed: per step. XLA counts the body of a loop once, so for a batch in parts its
      counts are multiplied by their number. This also multiplies the update, which is small.
    arguments, outputs, temporaries, aliased: memory. Aliased (donated) memory is counted in both
      arguments and outputs.
    peak: most memory held at once.
    all_reduces, all_reduce_bytes: operations in the program, and bytes of their results.
    seconds: duration of the compilation.
    problem: the compiler's message for a batch that does not fit.
    accumulate: parts into which a device splits its batch; None if the stage cannot.
  """

  stage: str
  devices: int
  batch: int
  asked: int
  fits: bool
  flops: float
  bytes_accessed: float
  arguments: int
  outputs: int
  temporaries: int
  aliased: int
  peak: int
  all_reduces: int
  all_reduce_bytes: int
  seconds: float
  problem: str = ''
  accumulate: int | None = None


def prepare_process() -> None:
  """Keeps JAX on the CPU and uses libtpu only to compile. Call before any use of a device.

  Raises:
    ConfigError: libtpu is not installed.
  """
  if importlib.util.find_spec('libtpu') is None:
    raise ConfigError("compiling for TPUs needs libtpu: pip install 'oldphoto_jax[tpu]'")
  os.environ['TPU_SKIP_MDS_QUERY'] = '1'  # do not ask the cloud about the machine
  os.environ['ALLOW_MULTIPLE_LIBTPU_LOAD'] = '1'  # no lock file, because nothing runs on the chips
  jax.config.update('jax_platforms', 'cpu')
  # Programs for a topology can be written to the compilation cache, but not read back.
  jax.config.update('jax_enable_compilation_cache', False)


def topology(name: str) -> Topology:
  """The chips of a topology such as 'v5e:4x4', as Cloud TPU names it.

  Raises:
    ConfigError: the chip is not in HBM_GIB, or libtpu does not know the shape.
  """
  from jax.experimental import topologies

  chip, _, shape = name.partition(':')
  if chip not in HBM_GIB:
    raise ConfigError(
      f'{name!r} is no topology: write a chip, {", ".join(HBM_GIB)}, and a shape, as in v5e:4x4'
    )
  rest: dict[str, Any] = {}
  if chip in CHIP_CONFIGS:
    rest['chip_config_name'] = CHIP_CONFIGS[chip]
  if set(shape.split('x')) == {'1'}:  # else libtpu expects a host's four chips
    rest['chips_per_host_bounds'] = (1, 1, 1)
  try:
    devices = topologies.get_topology_desc(name, platform='tpu', **rest).devices
  except jax.errors.JaxRuntimeError as error:
    raise ConfigError(f'libtpu knows no topology {name!r}: {_sentence(error)}') from error
  return Topology(name, tuple(devices), HBM_GIB[chip] * GIB)


def compile_stage(stage: train.Stage, chips: Topology) -> Row:
  """Compiles the train step of a stage. If the batch does not fit, finds the largest that does.

  Args:
    stage: only the shapes of its constants and of its first batch matter. A batch that does not
      divide over the chips is rounded up.
    chips: see `topology`.

  Raises:
    ConfigError: not even one example per device fits.
  """
  batches = stage.batches()
  example = next(batches)
  batches.close()
  n, asked, parts = len(chips.devices), len(example['id']), stage.accumulate or 1
  attempt = lambda part: _compile(stage, example, part * parts, chips)  # examples of a part
  part = wanted = -(-asked // (n * parts))
  figures, problem = attempt(part)
  if figures is None:
    _log.warning('%s: %d examples per device do not fit: %s', stage.name, part * parts, problem)
    guess = int(wanted * _share_that_fits(problem))
    part, figures = largest(lambda part: attempt(part)[0], wanted, guess)
    if figures is None:
      raise ConfigError(
        f'{stage.name} does not fit a chip of {chips.name} even with one example: {problem}'
      )
  row = Row(
    stage.name,
    n,
    part * parts * n,
    asked,
    part == wanted,
    **figures,
    problem=problem,
    accumulate=stage.accumulate,
  )
  _log.info(
    '%s: peak %.1f of %.0f GiB, compiled in %.0f s',
    row.stage,
    row.peak / GIB,
    chips.hbm / GIB,
    row.seconds,
  )
  return row


def check_fit(chips: Topology, rows: Sequence[Row]) -> None:
  """Raises ConfigError if a batch does not fit. Names the largest batch or the parts that do."""
  bad = [row for row in rows if not row.fits]
  if bad:
    said = '; '.join(
      f'{row.stage} with {row.asked} examples ({row.problem}), at most {row.batch}: '
      f'--config.{row.stage}.batch_size={row.batch}'
      + (f' or --config.{row.stage}.accumulate={parts}' if (parts := parts_that_fit(row)) else '')
      for row in bad
    )
    raise ConfigError(f'not all batches fit the memory of {chips.name}: {said}')


def parts_that_fit(row: Row) -> int | None:
  """The smallest number of equal parts of the configured batch that fit.

  None if the stage cannot split its batch, or the batch does not divide over the devices.
  """
  if row.accumulate is None or row.asked % row.devices:
    return None
  size, part = row.asked // row.devices, row.batch // row.devices // row.accumulate
  return next(parts for parts in range(1, size + 1) if size % parts == 0 and size // parts <= part)


def largest(attempt: Callable[[int], Any], too_many: int, guess: int) -> tuple[int, Any]:
  """A large number below `too_many` for which `attempt` succeeds, and its result.

  The number is within an eighth of the largest one, because each compilation takes minutes. (0,
  None) if there is none. `guess` is tried first.
  """
  low, high, best = 0, too_many, None
  near = [guess - max(1, guess // 8), guess]  # tried before bisecting from 0
  while high - low > max(1, low // 8):
    probe = (low + high) // 2
    if low:
      probe = min(probe, low + max(1, low // 8))
    elif near and 0 < near[-1] < high:
      probe = near.pop()
    result = attempt(probe)
    if result is None:
      high = probe
    else:
      low, best = probe, result
  return low, best


def _compile(
  stage: train.Stage, example: dict[str, Any], size: int, chips: Topology
) -> tuple[dict[str, Any] | None, str]:
  """The figures of a Row for `size` examples per device and '', or None and why it does not fit."""
  key = jax.random.key(0)
  state = jax.eval_shape(stage.init, key)
  shape = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype)
  constants = jax.tree.map(shape, stage.constants)
  batch = {
    name: jax.ShapeDtypeStruct((len(chips.devices), size, *x.shape[1:]), x.dtype)
    for name, x in example.items()
  }
  step = parallel.train_step(stage.prepare, stage.train_step, chips.devices)
  _log.info('%s: compiling for %s, %d examples per device', stage.name, chips.name, size)
  lowered = step.lower(state, constants, batch, shape(key))
  start = time.perf_counter()
  try:
    program = lowered.compile()
  except jax.errors.JaxRuntimeError as error:
    if 'RESOURCE_EXHAUSTED' not in str(error):
      raise
    return None, _sentence(error)
  seconds = time.perf_counter() - start
  cost, memory = program.cost_analysis(), program.memory_analysis()
  collectives = all_reduces(program.as_text())
  figures = {
    'flops': cost['flops'] * (stage.accumulate or 1),
    'bytes_accessed': cost['bytes accessed'] * (stage.accumulate or 1),
    'arguments': memory.argument_size_in_bytes,
    'outputs': memory.output_size_in_bytes,
    'temporaries': memory.temp_size_in_bytes,
    'aliased': memory.alias_size_in_bytes,
    'peak': memory.peak_memory_in_bytes,
    'all_reduces': len(collectives),
    'all_reduce_bytes': sum(collectives),
    'seconds': round(seconds, 1),
  }
  if figures['peak'] > chips.hbm:
    return None, f'Used {figures["peak"] / GIB:.2f}G of {chips.hbm / GIB:.2f}G hbm'
  return figures, ''


def all_reduces(text: str) -> list[int]:
  """Bytes of the result of each all-reduce in the text of a compiled program.

  An asynchronous all-reduce counts once, as does one over a tuple of arrays.
  """
  sizes = []
  for line in text.splitlines():
    found = re.search(r'= (.*?) all-reduce(-start)?\(', line)
    if found:
      sizes.append(sum(_bytes(*x) for x in re.findall(r'\b([a-z]+\d*)\[([\d,]*)\]', found[1])))
  return sizes


def _bytes(dtype: str, sides: str) -> int:
  bits = _BITS.get(dtype) or int(re.search(r'\d+', dtype)[0])
  return math.prod(int(side) for side in sides.split(',') if side) * bits // 8


def _share_that_fits(problem: str) -> float:
  """Fraction of the batch that fits, from XLA's message; 0.5 if the message has no numbers.

  libtpu has two forms: 'Used 23.96G of 15.75G hbm' gives 15.75 / 23.96, and '... temporaries
  (19.10G) exceeds available HBM (15.75G)' gives 15.75 / 19.10.
  """
  between = r'(?: ?of|\) exceeds available HBM) \(?'
  found = re.search(rf'([\d.]+)(\w?){between}([\d.]+)(\w?)', problem)
  if not found:
    return 0.5
  used, available = (
    float(number) * {'M': 1, 'G': 2**10, 'T': 2**20}.get(unit, 1)
    for number, unit in (found.groups()[:2], found.groups()[2:])
  )
  return available / used


def _sentence(error: Exception) -> str:
  """The first line of XLA's message, with its status."""
  return (str(error).strip().splitlines() or [type(error).__name__])[0]


def table(name: str, devices: int, hbm: int, rows: Sequence[Row]) -> str:
  """The rows as Markdown. A batch that differs from the configured one is marked."""
  header = (
    'stage', 'batch', 'parts', 'fits', 'GFLOP', 'GB accessed', 'GB per example',
    'arguments MiB', 'temporaries MiB',
    'outputs MiB', 'aliased MiB', 'peak MiB', 'of HBM', 'all-reduces', 'MiB reduced', 'compile s',
  )  # fmt: skip
  mib = lambda size: f'{size / 2**20:.1f}'
  lines = [header, ['---'] * len(header)]
  for row in rows:
    fits = 'yes'
    if not row.fits:
      fits = f'not {row.asked}; at most {row.batch}'
    elif row.batch != row.asked:
      fits = f'yes; {row.asked} does not divide'
    lines.append(
      (
        row.stage, row.batch, row.accumulate or '', fits,
        f'{row.flops / 1e9:.1f}', f'{row.bytes_accessed / 1e9:.2f}',
        f'{row.bytes_accessed * row.devices / row.batch / 1e9:.2f}',
        mib(row.arguments), mib(row.temporaries), mib(row.outputs), mib(row.aliased),
        mib(row.peak), f'{row.peak / hbm:.0%}', row.all_reduces,
        mib(row.all_reduce_bytes), f'{row.seconds:.0f}',
      )
    )  # fmt: skip
  first = (
    f'{name}: {devices} devices of {hbm / GIB:.0f} GiB. The batch is that of all '
    'devices; all other figures are per device.\n\n'
  )
  rest = '\n'.join('| ' + ' | '.join(str(cell) for cell in line) + ' |' for line in lines)
  return first + rest


def write(
  path: pathlib.Path, chips: Topology, rows: Sequence[Row], config: dict, commit: str | None
) -> None:
  """Writes the rows as JSON, with their conditions."""
  record = {
    'topology': chips.name,
    'device_kind': chips.devices[0].device_kind,
    'devices': len(chips.devices),
    'hbm_bytes': chips.hbm,
    'versions': {
      name: importlib.metadata.version(name) for name in ('jax', 'jaxlib', 'libtpu', 'flax')
    },
    'commit': commit,
    'stages': [dataclasses.asdict(row) for row in rows],
    'config': config,
  }
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(json.dumps(record, indent=1) + '\n')
