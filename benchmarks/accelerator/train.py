"""Trains the network of `repair` for a given time, from its newest checkpoint: see README.md.

python -m benchmarks.accelerator.train data.zip -o out --minutes 9
"""

import argparse
import pathlib
import sys
import tempfile
import time
import zipfile

import jax
import numpy as np
from ml_collections import ConfigDict

from configs import repair as configs
from oldphoto_jax import weights
from oldphoto_jax.errors import ConfigError, UserError
from oldphoto_jax.systems import build, repair
from oldphoto_jax.training import parallel

LARGEST = 16 << 20  # bytes of a checkpoint
WIDE = (48, 96, 192, 288)
KEPT = 2  # checkpoints


def newest(folder: pathlib.Path) -> pathlib.Path | None:
  """The checkpoint of the most steps in a folder."""
  return max(folder.glob('repair-*.safetensors'), default=None)  # their numbers have one length


def settings(
  args: argparse.Namespace, data: pathlib.Path, start: pathlib.Path | None
) -> ConfigDict:
  """The config of the run. Its end is not known: the rate is constant, and steps are averaged."""
  c = configs.get_config('tiny' if args.tiny else '')
  c.start = str(start or '')
  for name in ('photos', 'val', 'labels', 'prints', 'overlays'):
    if (data / name).is_dir():
      c.data[name] = str(data / name)
  c.data.threads = args.threads
  c.repair.batch_size = args.batch
  c.repair.lr = args.lr
  c.repair.steps = 10**9
  c.repair.ema = 0.999
  c.model.dtype = args.dtype
  if args.wide:
    c.model.widths = WIDE
  return c


def train(args: argparse.Namespace, data: pathlib.Path) -> pathlib.Path:
  """Trains until the time is over; gives the last checkpoint.

  Raises:
    UserError: the data or the checkpoint cannot be used.
  """
  begun = time.monotonic()
  start = newest(args.output) or args.start
  loaded = None if start is None else weights.read(start)
  config = settings(args, data, start)
  before = 0 if loaded is None else int(loaded.card.get('step', 0))
  opened = repair.stages(config, build.photos(config.data, config.seed), build.UNTRAINED)
  stage = opened['repair']()
  # Other examples than those before: the stream of each start has a seed of its own.
  key = jax.random.fold_in(jax.random.key(config.seed), before)
  state = parallel.replicate(jax.jit(stage.init)(key))
  step = parallel.train_step(stage.prepare, stage.train_step)
  flow = parallel.prefetch(stage.batches())
  count, saved, measured = 0, time.monotonic(), []
  path = None
  while True:
    on_device, _, _ = next(flow)
    state, metrics = step(state, stage.constants, on_device, key)
    count += 1
    if count % args.look and count > 1:
      continue
    metrics = jax.device_get(metrics)  # waits
    now = time.monotonic()
    measured.append((now, count))
    total = {name: float(np.mean(value)) for name, value in metrics.items()}
    if not all(np.isfinite(value) for value in total.values()):
      raise ConfigError(f'step {before + count}: a loss is not finite; lower --lr')
    over = now - begun > 60 * args.minutes
    if over or now - saved > args.every:
      path = save(args.output, config, state, loaded, before + count, now - begun)
      saved = now
      rate = speed(measured, args.batch)
      words = ', '.join(f'{name} {value:.4f}' for name, value in total.items())
      print(f'{path.name}: {rate:.1f} photos/s, {words}', flush=True)
    if over:
      return path


def speed(measured: list[tuple[float, int]], batch: int) -> float:
  """Photos a second since the first look, before which the step was compiled; 0: not known."""
  (start, first), (end, last) = measured[0], measured[-1]
  return batch * (last - first) / (end - start) if last > first else 0.0


def save(folder, config, state, loaded, step: int, seconds: float) -> pathlib.Path:
  """Writes a file of weights, which `oldphoto restore` and `config.start` take."""
  net = repair.model(config)
  released = jax.device_get(state.released)
  sizes, params = repair.repair.sizes(net), {'repair': released}
  if loaded is not None and 'tone' in loaded.weights.params:
    sizes['tone'] = loaded.weights.model['tone']
    params['tone'] = loaded.weights.params['tone']
  path = folder / f'repair-{step:09d}.safetensors'
  size = 4 * sum(leaf.size for leaf in jax.tree.leaves(params))
  card = {'step': step, 'seconds': round(seconds), 'config': config.to_json()}
  half = size > LARGEST - (1 << 20)
  weights.save(path, weights.Weights('repair', sizes, params), card=card, half=half)
  for old in sorted(folder.glob('repair-*.safetensors'))[:-KEPT]:
    old.unlink()
  return path


def main(argv: list[str] | None = None) -> int:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('data', type=pathlib.Path, help='of pack.py')
  parser.add_argument('-o', '--output', type=pathlib.Path, required=True, help='of checkpoints')
  parser.add_argument('--start', type=pathlib.Path, help='weights, if OUTPUT holds no checkpoint')
  parser.add_argument('--minutes', type=float, default=9.0, help='in all, compiling included')
  parser.add_argument('--every', type=float, default=60.0, help='seconds between checkpoints')
  parser.add_argument('--batch', type=int, default=256)
  parser.add_argument('--lr', type=float, default=1e-3)
  parser.add_argument('--dtype', choices=('bfloat16', 'float32'), default='bfloat16')
  parser.add_argument('--wide', action='store_true', help=f'widths {WIDE}')
  parser.add_argument('--threads', type=int, default=8, help='that cut crops')
  parser.add_argument('--look', type=int, default=20, help='steps between looks at the losses')
  parser.add_argument('--tiny', action='store_true', help='a network for tests')
  args = parser.parse_args(argv)
  args.output.mkdir(parents=True, exist_ok=True)
  with tempfile.TemporaryDirectory() as place:
    try:
      with zipfile.ZipFile(args.data) as packed:
        packed.extractall(place)
      train(args, pathlib.Path(place))
    except (UserError, OSError, zipfile.BadZipFile) as error:
      print(f'{type(error).__name__}: {error}', file=sys.stderr)
      return 2
  return 0


if __name__ == '__main__':
  sys.exit(main())
