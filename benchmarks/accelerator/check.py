"""What an accelerator does with this code, in minutes and without network: see README.md.

python -m benchmarks.accelerator.check -o measured.json --minutes 9
"""

import argparse
import importlib
import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np

from oldphoto_jax import data, weights
from oldphoto_jax.degradation import recipes, worn
from oldphoto_jax.evaluation import speed
from oldphoto_jax.models import repair
from oldphoto_jax.nn import prefill
from oldphoto_jax.restoring import engine, restore, shapes
from oldphoto_jax.systems import build, cyclegan, detector, frozen, pix2pix, splits, triplet
from oldphoto_jax.systems import repair as repair_system

STAGES = {
  'repair': repair_system.stages,
  'pix2pix': pix2pix.stages,
  'vae': triplet.stages,
  'cyclegan': cyclegan.stages,
  'detector': detector.stages,
}
DTYPES = ('bfloat16', 'float32')
TOLERANCE = 2e-2  # of [-1, 1], or of the largest entry of a gradient
WINDOWS = speed.Windows(3, 0.7)
BATCH = 256  # of the train step of repair; other systems have that of their paper
# What is also run in PyTorch on the same device: flags of benchmarks.torch_reference.compare.
BESIDE = {
  'vae_y': (
    '--config=configs/vae.py:paper', '--config.stages=vae_y', '--config.vae_y.batch_size=16',
    '--config.vae_y.weights.perceptual=0.0',
  ),
  'pix2pix': ('--config=configs/pix2pix.py:paper', '--config.pix2pix.batch_size=16'),
  'mapping': (
    '--config=configs/vae.py:paper', '--config.stages=mapping', '--config.mapping.batch_size=16',
    '--config.mapping.weights.perceptual=0.0',
  ),
  'cyclegan': ('--config=configs/cyclegan.py:paper', '--config.cyclegan.batch_size=4'),
  'dip': ('--config=configs/dip.py:denoise',),
}  # fmt: skip
BESIDE_SECONDS = 150  # of one of these; it is ended after that
ROOT = pathlib.Path(__file__).resolve().parents[2]

Section = tuple[str, Callable[[], Any]]


def device() -> dict[str, Any]:
  """What there is, and the products of matrices that it does in a second."""
  facts = speed.describe() | {'platform': jax.default_backend()}
  for dtype in DTYPES:
    facts[f'tflops_{dtype}'] = peak(dtype) / 1e3
  if importlib.util.find_spec('torch') is not None:
    import torch

    facts['torch'] = torch.__version__
    facts['torch_cuda'] = torch.cuda.is_available()
  return facts


def peak(dtype: str) -> float:
  """GFLOP/s of products of large matrices, in the best window."""
  side = 512 if jax.default_backend() == 'cpu' else 8192
  a, product = jnp.ones((side, side), dtype), jax.jit(jnp.matmul)

  def run(n):
    for _ in range(n):
      last = product(a, a)
    last.block_until_ready()

  run(1)
  return 2 * side**3 / min(speed.windows(run, WINDOWS)) / 1e9


def agreement() -> dict[str, float]:
  """Largest differences between this device and the CPU, of what restoring and training compute.

  Products are exact float32 here, as an accelerator's usual ones differ by more than a fault might.

  Raises:
    AssertionError: one is larger than TOLERANCE; those of recipes may move pixels by a level.
  """
  model = repair.Repair(widths=(8, 16), blocks=1)
  key = jax.random.key(0)
  # Not as they are initialised: layers whose kernels are 0 would agree whatever the device does.
  params = jax.tree.map(
    lambda p: p + 0.05 * jax.random.normal(jax.random.fold_in(key, p.size), p.shape),
    repair.init(model, key).g,
  )
  photo = np.random.default_rng(0).uniform(-1, 1, (2, 64, 64, 3)).astype(np.float32)
  holes = np.zeros((2, 64, 64, 1), bool)
  holes[:, 20:30, 10:50] = True
  keys = jax.random.split(jax.random.key(1), 2)

  def gradient():
    def loss(params):
      return jnp.square(repair.fill(model, params, photo, jnp.float32(holes)) - photo).mean()

    found, _ = jax.flatten_util.ravel_pytree(jax.grad(loss)(params))
    return found / jnp.abs(found).max()

  whole = {
    'look': lambda: repair.look(model, params, photo)[0],
    'fill': lambda: repair.fill(model, params, photo, jnp.float32(holes)),
    'gradient': gradient,
    'prefill': lambda: prefill.prefill(jnp.asarray(photo), jnp.asarray(holes)),
    'report': lambda: recipes.degrade_batch(recipes.Report(), keys, photo).old,
    'worn': lambda: recipes.degrade_batch(worn.Worn(), keys, photo).mask,
  }
  found = {}
  for name, function in whole.items():
    with jax.default_matmul_precision('highest'):
      here = np.asarray(jax.jit(function)())
      with jax.default_device(jax.devices('cpu')[0]):
        there = np.asarray(jax.jit(lambda function=function: function())())
    found[name] = float(np.abs(here - there).max())
    median = float(np.median(np.abs(here - there)))
    assert np.isfinite(here).all() and median < TOLERANCE, f'{name}: {found[name]}'
    if name not in ('report', 'worn'):
      assert found[name] < TOLERANCE, f'{name} differs by {found[name]}'
  return found


def restoring(side: int) -> dict[str, float]:
  """Megapixels a second of the whole of `oldphoto restore`, without files."""
  restorer = weights.load_restorer(weights.SHIPPED)
  size = (side, side * 3 // 4)
  system = engine.compiled(restorer, [size])
  photo = shapes.resized(data.sample_photos()[0].astype(np.float32) / 127.5 - 1, *size)
  photo[:, size[1] // 2 : size[1] // 2 + side // 100 + 1] = 1  # a fold
  seconds = []
  for _ in range(3):
    start = time.perf_counter()
    restore.restore_array(system, photo, None, restore.usual(restorer))
    seconds.append(time.perf_counter() - start)
  megapixels = size[0] * size[1] / 1e6
  return {
    'megapixels': megapixels,
    'first_seconds': seconds[0],
    'megapixels_per_second': megapixels / min(seconds),
  }


def steps(name: str, dtype: str, variant: str) -> list[dict[str, Any]]:
  """The train steps of a system, as --mode=speed measures them: speed, memory, degradation."""
  config = importlib.import_module(f'configs.{name}').get_config(variant)
  if 'dtype' in config.model:
    config.model.dtype = dtype
  elif dtype != 'float32':
    return []
  if name == 'repair':
    config.stages = 'repair,tone'  # a finder's step takes minutes more to compile
    if variant != 'tiny':
      config.repair.batch_size = BATCH
  opened = STAGES[name](config, splits.stand_ins(config), frozen.UNTRAINED)
  most, names = peak(dtype), build.stage_names(config)
  return [vars(speed.measure_stage(opened[stage](), most, WINDOWS)) for stage in names]


def beside_torch(flags: tuple[str, ...]) -> dict[str, Any]:
  """Our train step and restoring beside PyTorch's on this device, in processes of their own.

  Raises:
    RuntimeError: they failed, or took longer than BESIDE_SECONDS.
  """
  settings = (
    '--config.model.dtype=float32', '--config.recipe=report', '--config.measure.windows=3',
    '--config.measure.window_seconds=0.5',
  )  # fmt: skip
  if 'dip' in flags[0]:
    settings = settings[2:]
  # JAX would take three quarters of a card's memory at its start.
  environment = os.environ | {'XLA_PYTHON_CLIENT_PREALLOCATE': 'false'}
  with tempfile.TemporaryDirectory() as place:
    path = pathlib.Path(place) / 'rows.json'
    command = [sys.executable, '-m', 'benchmarks.torch_reference.compare', *flags, *settings]
    try:
      done = subprocess.run(
        [*command, f'--config.measure.output={path}'],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=BESIDE_SECONDS,
      )  # fmt: skip
    except subprocess.TimeoutExpired as error:
      raise RuntimeError(f'took longer than {BESIDE_SECONDS} s') from error
    if done.returncode:
      raise RuntimeError(done.stderr[-2000:])
    record = json.loads(path.read_text())
  return {'rows': record['rows'], 'geometric_mean': record['geometric_mean']}


def sections(tiny: bool) -> Iterator[Section]:
  """What is done, the most wanted first."""
  yield 'device', device
  yield 'agreement', agreement
  yield 'restoring', lambda: restoring(256 if tiny else 2048)
  for name in ('repair',) if tiny else STAGES:
    for dtype in DTYPES[1:] if tiny else DTYPES:
      variant = 'tiny' if tiny else 'paper' if name != 'repair' else ''
      yield f'{name} {dtype}', lambda args=(name, dtype, variant): steps(*args)
  if not tiny and importlib.util.find_spec('torch') is not None:
    for name, flags in BESIDE.items():
      yield f'{name} beside PyTorch', lambda flags=flags: beside_torch(flags)


def run(path: pathlib.Path, plan: Iterator[Section], seconds: float) -> int:
  """Does one section after the other, and writes the results after each.

  A section that fails leaves its traceback in the results, and the next one is begun. One that does
  not fit any more, as its like took longer than is left, is named there, too.

  Returns:
    The number of sections that failed.
  """
  begun, results, longest, failed = time.monotonic(), {}, 0.0, 0
  for name, section in plan:
    start = time.monotonic()
    left = begun + seconds - start
    state = 'done'
    if left < longest:
      state, results[name] = 'left out', {'left_out': f'{left:.0f} s were left'}
    else:
      try:
        results[name] = section()
      except Exception:
        state, results[name] = 'failed', {'failed': traceback.format_exc()}
        failed += 1
      longest = max(longest, time.monotonic() - start)
    print(f'{time.monotonic() - begun:5.0f} s  {name}: {state}', flush=True)
    path.write_text(json.dumps(results, indent=1, default=str) + '\n')
  return failed


def main(argv: list[str] | None = None) -> int:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('-o', '--output', type=pathlib.Path, required=True)
  parser.add_argument('--minutes', type=float, default=9.0)
  parser.add_argument(
    '--only', default='', help='these sections, with commas between, instead of all'
  )
  parser.add_argument('--tiny', action='store_true', help='networks for tests')
  args = parser.parse_args(argv)
  # Before the first use of a device: other processes need its memory later.
  os.environ.setdefault('XLA_PYTHON_CLIENT_PREALLOCATE', 'false')
  plan = dict(sections(args.tiny))
  chosen = args.only.split(',') if args.only else list(plan)
  if unknown := sorted(set(chosen) - set(plan)):
    print(f'there is no section {unknown[0]!r}: choose from {", ".join(plan)}', file=sys.stderr)
    return 2
  failed = run(args.output, ((name, plan[name]) for name in chosen), 60 * args.minutes)
  return 1 if failed else 0


if __name__ == '__main__':
  sys.exit(main())
