"""Our train steps and restoring beside PyTorch's, in turn, in a pair of processes.

  python -m benchmarks.torch_reference.compare --config=configs/pix2pix.py:cpu

Takes the configs and settings of launch.py, `measure` among them, and the extra `torch`. The table
is printed; its numbers are written to `measure.output`, or speed_torch.json in the workdir.

Both sides get the same parameters, batch, losses, optimiser and number of threads. Their forward
passes are first checked to agree. Then windows of calls alternate, so that other load on the
machine affects both equally. Where the processor has no bfloat16, PyTorch emulates it, dozens of
times slower than float32: that column is left out. What is measured is told on stderr. Where JAX
has an NVIDIA card, PyTorch takes the same one, and both keep their usual float32, which is TF32 in
convolutions.
"""

import contextlib
import dataclasses
import importlib.metadata
import json
import math
import multiprocessing
import os
import pathlib
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import app
from ml_collections import ConfigDict

import launch
from benchmarks.torch_reference import steps, worker
from oldphoto_jax.dip import fit_time, prior
from oldphoto_jax.dip.networks import ResNet, Skip
from oldphoto_jax.errors import ConfigError, UserError
from oldphoto_jax.evaluation import speed
from oldphoto_jax.models import cyclegan, gan_networks, mapping, pix2pix, vae
from oldphoto_jax.nn import losses
from oldphoto_jax.systems import build, frozen, splits, system, triplet
from oldphoto_jax.systems import cyclegan as cyclegan_system
from oldphoto_jax.systems import dip as dip_system
from oldphoto_jax.systems import pix2pix as pix2pix_system
from oldphoto_jax.training import parallel, runs, train

DIP_SIDES = (128, 256)
DIP_ITERATIONS = 10  # in one program, as a fit runs its chunks of 100
ROUNDS_SECONDS = 120  # of a row; where calls are so slow that all windows take longer, fewer do
TOLERANCE = 1e-3  # of the outputs' largest value; float32 through some 40 layers
TF32_TOLERANCE = 5e-2  # its numbers have 10 bits after the point


@dataclasses.dataclass(frozen=True)
class Ours:
  """Our half: `train` and `restore` make n calls and wait; `outputs` as steps.Program.

  On both sides, a call of `train` is `steps` train steps.
  """

  train: Callable[[int], Any]
  restore: Callable[[int], None]
  outputs: dict[str, np.ndarray]
  steps: int = 1


@dataclasses.dataclass(frozen=True)
class Row:
  """Milliseconds of a train step or of restoring, and the ratio PyTorch float32 / ours.

  The ratio is of windows: their median, the least, the most.
  """

  stage: str
  what: str
  batch: int
  side: int
  ours: float
  torch: float
  torch_bfloat16: float | None  # None: the processor has none
  ratio: float
  least: float
  most: float


def run(config: ConfigDict) -> str:
  """Compares every stage of a config; writes JSON and gives the table as Markdown.

  Raises:
    ConfigError: for a network that PyTorch's side has not, a dtype other than float32, or forward
      passes that do not agree.
  """
  plan, path = system.windows(config), system.measured_file(config, 'speed_torch.json')
  threads = config.measure.threads or speed.cores()
  device = 'cuda' if jax.default_backend() == 'gpu' else 'cpu'
  if config.system not in PAIRS:
    raise ConfigError(f'there is no PyTorch version of the system {config.system} to compare')
  half = device != 'cpu' or has_bfloat16()
  rows = []
  for name, side, batch, ours, make, job in PAIRS[config.system](config):
    with torch_process(threads, device, make, job) as (ask, outputs):
      check(name, ours.outputs, outputs, TOLERANCE if device == 'cpu' else TF32_TOLERANCE)
      for what, call, count in (('train', ours.train, ours.steps), ('restore', ours.restore, 1)):
        row = measured(name, what, batch, side, count, call, partial(ask, what), plan, half)
        rows.append(row)
  mean = math.exp(statistics.mean(math.log(row.ratio) for row in rows))
  record = speed.describe() | {
    'commit': runs.commit(),
    'torch': importlib.metadata.version('torch'),
    'threads': threads,
    'rows': [dataclasses.asdict(row) for row in rows],
    'geometric_mean': mean,
    'config': config.to_dict(),
  }
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(json.dumps(record, indent=1) + '\n')
  return table(rows, mean, threads)


def table(rows: list[Row], mean: float, threads: int) -> str:
  lines = [
    f'{threads} threads. Ratio: PyTorch float32 / ours, above 1 we are faster; median, least and '
    'most of the windows.',
    '',
    '| stage | | photos | ours ms | PyTorch ms | PyTorch bfloat16 ms | ratio |',
    '|---|---|---|---|---|---|---|',
  ]
  for x in rows:
    half = 'none' if x.torch_bfloat16 is None else f'{x.torch_bfloat16:.1f}'
    lines.append(
      f'| {x.stage} | {x.what} | {x.batch} x {x.side}² | {x.ours:.1f} | {x.torch:.1f} | '
      f'{half} | {x.ratio:.2f} ({x.least:.2f} to {x.most:.2f}) |'
    )
  return '\n'.join([*lines, '', f'Geometric mean of the ratios: {mean:.2f}'])


def measured(
  name: str, what: str, batch: int, side: int, steps_a_call: int, ours: Callable[[int], None],
  ask: Callable[[int, bool], float], plan: speed.Windows, bfloat16: bool,
) -> Row:  # fmt: skip
  def seconds(n):
    start = time.perf_counter()
    ours(n)
    return time.perf_counter() - start

  def tell(text):
    print(f'{name} {what}: {text}', file=sys.stderr, flush=True)

  sides = [seconds, lambda n: ask(n, False)] + [lambda n: ask(n, True)] * bfloat16
  tell('compiling and first calls')
  for side_of in sides:  # compiles, and lets PyTorch choose its kernels
    side_of(1)
  once = [max(side_of(1), 1e-9) for side_of in sides]
  calls = [max(1, round(plan.seconds / each)) for each in once]
  expected = sum(n * each for n, each in zip(calls, once))
  count = min(plan.count, max(1, int(ROUNDS_SECONDS / expected)))
  tell(f'{count} windows, about {count * expected:.0f} s')
  rounds = [[side_of(n) / n for side_of, n in zip(sides, calls)] for _ in range(count)]
  ratios = [torch / own for own, torch, *_ in rounds]
  medians = [1e3 * statistics.median(times) / steps_a_call for times in zip(*rounds)]
  own, torch, half = medians if len(medians) == 3 else (*medians, None)
  ends = statistics.median(ratios), min(ratios), max(ratios)
  return Row(name, what, batch, side, own, torch, half, *ends)


def has_bfloat16(cpuinfo: str | os.PathLike = '/proc/cpuinfo') -> bool:
  """Whether PyTorch finds a processor with bfloat16; if nothing says so, it has none."""
  if 'AVX2' in (
    os.environ.get('ONEDNN_MAX_CPU_ISA', '').upper(),
    os.environ.get('ATEN_CPU_CAPABILITY', '').upper(),
  ):
    return False
  try:
    text = pathlib.Path(cpuinfo).read_text()
  except OSError:
    return False
  line = next((x for x in text.splitlines() if x.lower().startswith(('flags', 'features'))), '')
  return bool({'avx512_bf16', 'amx_bf16', 'bf16'} & set(line.split()))


def check(
  name: str,
  ours: dict[str, np.ndarray],
  theirs: dict[str, np.ndarray],
  tolerance: float = TOLERANCE,
) -> None:
  for key, value in theirs.items():
    error = np.abs(ours[key] - value).max() / np.abs(value).max()
    if not error < tolerance:
      raise ConfigError(
        f'{name}: {key} of the two sides differs by {error:.2g} of its largest value'
      )


@contextlib.contextmanager
def torch_process(
  threads: int, device: str, make: Callable, job: steps.Job
) -> Iterator[tuple[Callable, dict]]:
  """A process of PyTorch: (ask(what, calls, bfloat16) -> seconds, its outputs)."""
  context = multiprocessing.get_context('spawn')
  connection, other = context.Pipe()
  process = context.Process(
    target=worker.serve, args=(other, threads, device, make, job), daemon=True
  )
  process.start()
  other.close()

  def ask(*question):
    connection.send(question)
    return connection.recv()

  try:
    try:
      outputs = connection.recv()
    except EOFError as error:
      raise ConfigError("PyTorch's process ended; what it said is above") from error
    yield ask, outputs
    connection.send(None)
  finally:
    process.join(timeout=10)
    process.kill()


# Ours, and the same for PyTorch -----------------------------------------------------------------


# Both yield (stage, side, batch, our half, PyTorch's function, its job).


def _fits(config: ConfigDict) -> Iterator[tuple]:
  for side in DIP_SIDES:
    yield config.variant, side, 1, *_dip(dip_system.settings(config, 3), side)


def _stages(stages: Callable, config: ConfigDict) -> Iterator[tuple]:
  opened = stages(config, splits.stand_ins(config), frozen.UNTRAINED)
  for name in build.stage_names(config):
    stage = opened[name]()
    model = stage.train_step.args[0]
    if getattr(config.model, 'dtype', 'float32') != 'float32':
      raise ConfigError('PyTorch is compared in float32: set --config.model.dtype=float32')
    state = jax.jit(stage.init)(jax.random.key(0))
    constants = jax.device_put(stage.constants)
    batch, key = prepared(stage)
    size, side = batch['id'].shape[0], next(v for v in batch.values() if v.ndim == 4).shape[1]
    restore, make, job = pair(config[stage.name], model, state, constants, batch)
    ours = Ours(
      trainer(stage, state, constants, batch, key),
      repeat(only_restored(restore), state, constants, batch),
      outputs(restore, state, constants, batch),
    )
    yield stage.name, side, size, ours, make, job


PAIRS = {
  'triplet': partial(_stages, triplet.stages),
  'pix2pix': partial(_stages, pix2pix_system.stages),
  'cyclegan': partial(_stages, cyclegan_system.stages),
  'dip': _fits,
}


def prepared(stage: train.Stage) -> tuple[dict[str, jax.Array], jax.Array]:
  """A prepared batch of a stage, and a key."""
  batches = stage.batches()
  batch, key = next(batches), jax.random.key(0)
  batches.close()

  @jax.jit
  def prepare(batch, key):
    return stage.prepare(batch, parallel.example_keys(key, batch['id'])[0])

  return {**prepare(batch, key), 'id': jnp.asarray(batch['id'])}, key


def only_restored(restore: Callable) -> Callable:
  return jax.jit(lambda *arguments: restore(*arguments)['restored'])


def outputs(restore: Callable, *arguments: Any) -> dict[str, np.ndarray]:
  """The outputs of `restore`, in PyTorch's layout."""
  return {name: _photo(x) for name, x in jax.jit(restore)(*arguments).items()}


def trainer(stage, state, constants, batch, key) -> Callable[[int], Any]:
  step = parallel.train_step(
    lambda batch, keys: batch, stage.train_step, devices=jax.local_devices()[:1]
  )
  state, constants = parallel.replicate((state, constants), jax.local_devices()[:1])
  batch = jax.tree.map(lambda x: x[None], batch)

  def run(n):
    nonlocal state
    for _ in range(n):
      state, _ = step(state, constants, batch, key)
    return jax.block_until_ready(state)

  return run


def repeat(function: Callable, *arguments: Any) -> Callable[[int], None]:
  def run(n):
    for _ in range(n):
      last = function(*arguments)
    jax.block_until_ready(last)

  return run


def pair(
  config: ConfigDict, model: Any, state: Any, constants: Any, batch: dict[str, jax.Array]
) -> tuple[Callable, Callable, steps.Job]:
  """((state, constants, batch) -> our outputs, PyTorch's function, its job) of a stage.

  `config` is the stage's section.

  Raises:
    ConfigError: for a network that PyTorch's side has not.
  """
  adam = {name: float(config[name]) for name in ('lr', 'd_lr', 'b1', 'b2')}
  own = {'weights': dict(model.weights)} if hasattr(model, 'weights') else {}
  if isinstance(model, vae.VAE):
    settings = ('norm', 'latent_gan', 'posterior_std', 'feature_weights')
    frozen = {'perceptual': to_torch(constants['perceptual'])}

    def restore(state, constants, batch):
      z = vae.encode(model, state.g, batch['image'])
      maps = model.discriminator.apply({'params': state.d['image']}, batch['image'])
      return {'restored': vae.decode(model, state.g, z), 'judged': maps[0][-1]}

    make, doubling = steps.vae, True
  elif isinstance(model, mapping.Mapping):
    if model.spectral:
      raise ConfigError('PyTorch has no spectral norm here: set --config.STAGE.spectral=False')
    settings = ('residual', 'masked', 'mask_pool', 'scaled', 'feature_weights')
    own['norm'] = model.encoder.norm
    frozen = {name: to_torch(constants[name], True) for name in ('rx', 'y')}
    frozen['perceptual'] = to_torch(constants['perceptual'])

    def restore(state, constants, batch):
      params = {'rx': constants['rx'], 'y': constants['y'], 'mapping': state.g}
      mask = batch['mask'] if model.masked else None
      old = mapping.shown(model, batch['old'], mask)
      pair = jnp.concatenate([old, batch['clean']], -1)
      maps = model.discriminator.apply({'params': state.d}, pair)
      return {
        'restored': mapping.restore(model, params, batch['old'], mask),
        'judged': maps[0][-1],
      }

    make, doubling = steps.mapping, False
  elif isinstance(model, pix2pix.Pix2Pix):
    settings, frozen = ('halve_d', 'alternate'), {}
    own |= _gan_settings(model)

    def restore(state, constants, batch):
      variables = {'params': state.g, 'batch_stats': state.stats}
      fake = model.generator.apply(variables, batch['old'], None, True, mutable=['batch_stats'])[0]
      pair = jnp.concatenate([batch['old'], batch['clean']], -1)
      judge = model.discriminator.apply
      judged = judge({'params': state.d}, pair, True, mutable=['batch_stats'])[0]
      return {'restored': fake, 'judged': judged}

    make, doubling = steps.pix2pix, True
  elif isinstance(model, cyclegan.CycleGAN):
    settings, frozen = ('halve_d', 'pool_size'), {}
    own |= _gan_settings(model)

    def restore(state, constants, batch):
      judged = model.discriminator.apply({'params': state.d['D_X']}, batch['old'])
      return {'restored': cyclegan.restore(model, state.g['G'], batch['old']), 'judged': judged}

    make, doubling = steps.cyclegan, True
  else:
    raise ConfigError(f'there is no PyTorch version of {type(model).__name__} to compare')
  job = steps.Job(
    g=to_torch(state.g, doubling),
    d=to_torch(state.d),
    frozen=frozen,
    batch={name: _photo(x) for name, x in batch.items() if x.dtype == jnp.float32},
    settings=own | {name: getattr(model, name) for name in settings},
    adam=adam,
  )
  return restore, make, job


def _gan_settings(model: pix2pix.Pix2Pix | cyclegan.CycleGAN) -> dict[str, Any]:
  d = model.discriminator
  return {
    'lsgan': model.gan_loss is losses.lsgan,
    'generator': gan_networks.sizes(model.generator),
    'discriminator': {'norm': dataclasses.asdict(d.norm), 'slope': d.slope},
  }


def _dip(settings: prior.Dip, side: int) -> tuple[Ours, Callable, steps.Job]:
  """Iterations without a stop and without averages, so that both sides do the same."""
  network = settings.net
  skip = isinstance(network, Skip)
  if not isinstance(network, Skip | ResNet) or settings.factor != 1 or settings.param_noise:
    raise ConfigError(
      'PyTorch has only the skip and residual nets, without enlarging or noise on kernels'
    )
  if skip and (network.average_pool or network.pad_mode != 'reflect' or 0 in network.skip):
    raise ConfigError('PyTorch has the skip net with strides, reflection and all branches')
  settings = dataclasses.replace(settings, stop=None, ema=0.0)
  key, image = jax.random.key(0), jax.random.uniform(jax.random.key(1), (side, side, 3))
  ones = jnp.ones((side, side, 1))
  photo = prior.Photo(image, ones, ones)
  state = jax.jit(partial(prior.init, settings))(photo, key)
  job = steps.Job(
    g=to_torch(state.params),
    d={},
    frozen={},
    batch={'z': _photo(state.z[None]), 'image': _photo(image[None])},
    settings={
      'reg_noise_std': settings.reg_noise_std,
      'upsample': network.upsample if skip else (),
      'iterations': DIP_ITERATIONS,
    },
    adam={'lr': settings.learning_rate, 'b1': 0.9, 'b2': 0.999},
  )
  result = jax.jit(partial(prior.result, settings))
  shown, kept = np.asarray(result(state)), jax.tree.map(jnp.copy, state)
  iterations = fit_time.program(settings, DIP_ITERATIONS)

  def run(n):
    nonlocal state
    for _ in range(n):
      state, _ = iterations(photo, key, state)
    jax.block_until_ready(state)

  shown = {'restored': _nchw(shown[None])}
  return Ours(run, repeat(result, kept), shown, DIP_ITERATIONS), steps.dip, job


def to_torch(params: Any, doubling: bool = False) -> Any:
  """Our parameters in torch's layout: kernels [out, in, h, w].

  With `doubling` the layers up0, up1, ... are transposed convolutions, whose kernels are flipped
  and [in, out, h, w].
  """

  def convert(path, leaf):
    array = np.asarray(leaf, np.float32)
    if array.ndim != 4:
      return array
    names = [str(getattr(key, 'key', '')) for key in path]
    if doubling and any(name.startswith('up') for name in names):
      return np.ascontiguousarray(array[::-1, ::-1].transpose(2, 3, 0, 1))
    return np.ascontiguousarray(array.transpose(3, 2, 0, 1))

  return jax.tree_util.tree_map_with_path(convert, params)


def _nchw(x):
  return x.transpose(0, 3, 1, 2) if x.ndim == 4 else x


def _photo(x) -> np.ndarray:
  return np.ascontiguousarray(_nchw(np.asarray(x)))


def main(argv):
  if len(argv) > 1:
    raise app.UsageError(f'unknown arguments: {" ".join(argv[1:])}')
  config = launch.CONFIG.value
  try:
    speed.prepare_process(config.measure.threads)
    launch.SYSTEMS[config.system].check(config)
    print(run(config))
  except UserError as error:
    sys.exit(f'{type(error).__name__}: {error}')


if __name__ == '__main__':
  app.run(main, flags_parser=launch.parse)
