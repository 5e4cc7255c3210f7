"""Trains the network of `repair` for a given time, from its newest checkpoint: see README.md.

python -m benchmarks.accelerator.train data.zip -o out --minutes 9
"""

import argparse
import ast
import dataclasses
import os
import pathlib
import re
import sys
import tempfile
import time
import zipfile
from functools import partial
from typing import Any

import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from benchmarks.accelerator import resident
from configs import repair as configs
from oldphoto_jax import weights
from oldphoto_jax.errors import CheckpointError, ConfigError, PhotoError, UserError
from oldphoto_jax.models.state import State
from oldphoto_jax.nn import averaging
from oldphoto_jax.systems import repair, splits
from oldphoto_jax.training import parallel
from oldphoto_jax.training.train import Terminated

LARGEST = 16 << 20  # bytes of a file
PART = 15 << 20  # bytes of a part of a state
WIDE = (48, 96, 192, 288)
STEPS = 10**9  # without end
AT_MOST = 5.0  # seconds between looks at the losses, so that the end is not missed by more


@dataclasses.dataclass(frozen=True)
class Position:
  """Where a run is, besides its State.

  Attributes:
    began: the step whose weights it learnt on from without their optimiser, or 0. It makes the
      random key, so that such a start does not see the examples of the steps before.
    data: 'next_example', the number of the next example.
  """

  began: int
  data: dict[str, int]


def newest(folder: pathlib.Path) -> pathlib.Path | None:
  """The weights of the most steps in a folder."""
  return max(folder.glob('repair-*.safetensors'), default=None)  # their numbers have one length


def save_state(path: pathlib.Path, state: State, position: Position, half: bool) -> None:
  """Writes what the file of weights `path` lacks: the parameters and the state of the optimiser.

  The moving average is in the file of weights. The parts are NAME.state-1-of-N and so on, each at
  most PART bytes. With `half`, parameters are rounded to float16, and the rest to bfloat16, as
  averages of squared gradients are too small for float16.
  """
  if half:
    state = state.replace(g=_rounded(state.g, jnp.float16), g_opt=_rounded(state.g_opt))
  tree = flax.serialization.to_state_dict(jax.device_get(state.replace(ema=None)))
  content = {'state': tree, 'position': dataclasses.asdict(position)}
  whole = flax.serialization.msgpack_serialize(content)
  count = -(-len(whole) // PART)
  for i in range(count):
    part = path.with_name(f'{path.stem}.state-{i + 1}-of-{count}')
    temporary = part.with_name(f'.{part.name}')
    temporary.write_bytes(whole[i * PART : (i + 1) * PART])
    os.replace(temporary, part)


def _rounded(tree: Any, dtype: Any = jnp.bfloat16) -> Any:
  return jax.tree.map(lambda x: x.astype(dtype) if x.dtype == jnp.float32 else x, tree)


def load_state(path: pathlib.Path, like: State) -> tuple[State, Position] | None:
  """The state that belongs to the file of weights `path`, but without its moving average.

  Args:
    path: see `save_state`.
    like: a state of the same network.

  Returns:
    None if there is no state, or a part of it is missing.

  Raises:
    CheckpointError: it is damaged, or belongs to a different network.
  """
  parts = _parts(path)
  if not parts or sorted(parts) != list(range(1, len(parts) + 1)):
    return None
  try:
    whole = b''.join(parts[i].read_bytes() for i in sorted(parts))
    content = flax.serialization.msgpack_restore(whole)
    bare = like.replace(ema=None)
    state = flax.serialization.from_state_dict(bare, content['state'])
    position = Position(**content['position'])
  except Exception as error:  # msgpack raises errors of many kinds
    raise CheckpointError(
      f'the state beside {path} cannot be read ({type(error).__name__}): remove its files to go '
      'on from the weights alone'
    ) from error
  shapes = [[np.shape(leaf) for leaf in jax.tree.leaves(tree)] for tree in (state, bare)]
  if shapes[0] != shapes[1]:
    raise CheckpointError(
      f'the state beside {path} is of a different network: remove its files, or give the settings '
      'of the run'
    )
  return jax.tree.map(lambda x, old: np.asarray(x, old.dtype), state, bare), position


def _parts(path: pathlib.Path) -> dict[int, pathlib.Path]:
  """The parts of a state by number; empty if their names do not agree on how many there are."""
  found, counts = {}, set()
  for part in path.parent.glob(f'{path.stem}.state-*-of-*'):
    number, count = map(int, re.search(r'-(\d+)-of-(\d+)$', part.name).groups())
    found[number] = part
    counts.add(count)
  return found if counts == {len(found)} else {}


def settings(
  args: argparse.Namespace, data: pathlib.Path, start: pathlib.Path | None
) -> ConfigDict:
  """The config of the run. The optimiser's rate is constant, see `falling`; steps are averaged.

  Raises:
    ConfigError: a setting of --set does not exist, or its value is of the wrong type.
  """
  c = configs.get_config('tiny' if args.tiny else '')
  c.start = str(start or '')
  for name in ('photos', 'val', 'labels', 'prints', 'overlays'):
    if (data / name).is_dir():
      c.data[name] = str(data / name)
  c.data.threads = args.threads
  c[args.stage].batch_size = args.batch
  c[args.stage].lr = args.lr
  c[args.stage].steps = STEPS
  c[args.stage].ema = 0.999
  c.model.dtype = args.dtype
  if args.wide:
    c.model.widths = WIDE
    c.finder.widths = configs.get_config().model.widths
  for words in args.set:
    name, _, value = words.partition('=')
    try:
      c.update_from_flattened_dict({name: ast.literal_eval(value)})
    except (AttributeError, KeyError, SyntaxError, TypeError, ValueError) as error:
      raise ConfigError(
        f'--set {words}: give a setting of configs/repair.py and a value of its type, such as '
        'data.p_print=0.5'
      ) from error
  return c


def train(args: argparse.Namespace, data: pathlib.Path) -> pathlib.Path:
  """Trains until the time or the steps are over, or SIGTERM comes; gives the last weights.

  Raises:
    UserError: the data or the checkpoint cannot be used.
  """
  if not 0 <= args.decay <= 1:
    raise ConfigError(f'--decay is a share of the minutes between 0 and 1, not {args.decay}')
  if args.ahead < 1:
    raise ConfigError(f'--ahead is a number of steps from 1 on, not {args.ahead}')
  begun = time.monotonic()
  start = newest(args.output) or args.start
  loaded = None if start is None else weights.read(start)
  if args.stage != 'repair' and loaded is None:
    raise ConfigError(
      f'a {args.stage} is a part of weights of repair: name these by --start, such as '
      'oldphoto_jax/pretrained/weights.safetensors'
    )
  config = settings(args, data, start)
  # Steps, and the state, of another stage are none of this one.
  same = loaded is not None and loaded.card.get('stage', 'repair') == args.stage
  count = int(loaded.card.get('step', 0)) if same else 0
  photos = splits.photos(config.data, config.seed)
  stream = repair.stream(config, photos, args.stage)
  init = repair.started(config, args.stage)
  stage = repair.repair_stage(config, photos, stream, args.stage, init)
  constants = parallel.replicate(stage.constants)
  state, position = jax.jit(stage.init)(jax.random.key(config.seed)), Position(count, {})
  resumed = load_state(start, state) if same else None
  if resumed is not None:
    state, position = resumed[0].replace(ema=loaded.weights.params[args.stage]), resumed[1]
    print(f'going on from step {count}', flush=True)
  elif count:
    print(f'going on from the weights of step {count}; the optimiser begins anew', flush=True)
  key = jax.random.fold_in(jax.random.key(config.seed), position.began)
  state = parallel.replicate(state)
  shelves = parallel.replicate(resident.shelves(stream, args.threads))
  pixels = sum(len(shelf.pixels) for shelf in (shelves.clean, shelves.prints) if shelf)
  print(f'the photos are there: {pixels / 1e6:.0f} megapixels at all their sizes', flush=True)

  def some_steps(state, constants, batch, keys):
    shelves, rate, others = constants
    cut = jax.vmap(lambda key: resident.draw(stream, shelves, key))(batch['cut'])
    prepared = stage.prepare(cut, batch['damage'])

    def one_step(state, batch_and_keys):
      after, metrics = stage.train_step(state, others, *batch_and_keys)
      return slowed(state, after, rate, config[args.stage].ema), metrics

    split = partial(jax.tree.map, lambda x: x.reshape(args.ahead, -1, *x.shape[1:]))
    state, metrics = jax.lax.scan(one_step, state, split((prepared, keys)))
    return state, jax.tree.map(lambda x: x.mean(0), metrics)

  steps = parallel.train_step(split_keys, some_steps)
  taken = position.data.get('next_example', count * args.batch)
  saved, looked, wait, measured = time.monotonic(), count, 1, []
  with Terminated() as terminated:
    while True:
      gone = (time.monotonic() - begun) / (60 * args.minutes)
      rate = np.float32(falling(gone, args.decay))
      ids = np.arange(taken, taken + args.ahead * args.batch).astype(np.uint32)
      # The same steps, however many devices there are.
      ids = ids.reshape(args.ahead, jax.local_device_count(), -1).swapaxes(0, 1).reshape(-1)
      state, metrics = steps(state, (shelves, rate, constants), parallel.shard({'id': ids}), key)
      count, taken = count + args.ahead, taken + len(ids)
      if count - looked < wait and not terminated.requested and count < args.steps:
        continue
      metrics = jax.device_get(metrics)  # waits
      now = time.monotonic()
      measured.append((now, count))
      seen = speed(measured, args.batch)
      # The first look waits for compiling, the second one for a step.
      wait = max(1, min(args.look, int(AT_MOST * seen / args.batch)))
      looked = count
      total = {name: float(np.mean(value)) for name, value in metrics.items()}
      if not all(np.isfinite(value) for value in total.values()):
        raise ConfigError(f'step {count}: a loss is not finite; lower --lr')
      over = terminated.requested or now - begun > 60 * args.minutes or count >= args.steps
      if over or now - saved > args.every:
        position = Position(position.began, {'next_example': taken})
        path = save(args.output, config, state, loaded, args.stage, count, now - begun, position)
        saved = now
        words = ', '.join(f'{name} {value:.4f}' for name, value in total.items())
        print(f'{path.name}: {seen:.1f} photos/s, {words}', flush=True)
      if over:
        return path


def split_keys(batch: dict, keys: jax.Array) -> dict[str, jax.Array]:
  """Two keys of each example: to cut it, and to damage it."""
  del batch
  pairs = jax.vmap(jax.random.split)(keys)
  return {'cut': pairs[:, 0], 'damage': pairs[:, 1]}


def falling(gone: float, decay: float) -> float:
  """The learning rate, of 1, after a share `gone` of the time: 0 at the end of the last `decay`."""
  return min(1.0, max(0.0, 1 - gone) / decay) if decay else 1.0


def slowed(before: State, after: State, rate: jax.Array, decay: float) -> State:
  """`after`, had its step been made with `rate` times the learning rate: Adam's steps scale so."""
  g = jax.tree.map(lambda a, b: a + rate * (b - a), before.g, after.g)
  return after.replace(g=g, ema=averaging.moving_average(before.ema, g, decay, before.step))


def speed(measured: list[tuple[float, int]], batch: int) -> float:
  """Photos a second since the first look, before which the step was compiled; 0: not known."""
  (start, first), (end, last) = measured[0], measured[-1]
  return batch * (last - first) / (end - start) if last > first else 0.0


def save(
  folder: pathlib.Path, config: ConfigDict, state: State, loaded: weights.Loaded | None,
  stage: str, step: int, seconds: float, position: Position,
) -> pathlib.Path:  # fmt: skip
  """Writes a file of weights, which `oldphoto restore` and `config.start` take, and the state.

  The networks that are not trained here are those of `loaded`; one of them may be left out, so that
  the file is not larger than LARGEST.
  The weights come after the state, so that where they are, the state is whole. Those of earlier
  steps are removed at the end.
  """
  model = repair.model(config, stage)
  own, released = repair.repair.sizes(model), jax.device_get(state.released)
  before = weights.Weights('repair', {}, {}) if loaded is None else loaded.weights
  named = {'repair': own, 'finder': {'finder': own}, 'cleaner': {'cleaner': True}}
  sizes = dict(before.model) | named[stage]
  fixed = repair.squeezenet(config) if model.squeezenet else {}
  params = dict(before.params) | {stage: released | fixed}
  path = folder / f'repair-{step:09d}.safetensors'
  numbers = lambda tree: sum(leaf.size for leaf in jax.tree.leaves(tree))
  large = lambda tree: 4 * numbers(tree) > LARGEST - (1 << 20)
  if 2 * numbers(params) > LARGEST - (1 << 20):  # too large even in 16 bits: join.py brings it back
    other = 'finder' if stage == 'cleaner' else 'cleaner'
    sizes, params = ({k: v for k, v in part.items() if k != other} for part in (sizes, params))
  card = {'stage': stage, 'step': step, 'seconds': round(seconds), 'config': config.to_json()}
  save_state(path, state, position, half=large(released))
  weights.save(path, weights.Weights('repair', sizes, params), card=card, half=large(params))
  for old in folder.glob('repair-*'):
    if not old.name.startswith(f'{path.stem}.'):
      old.unlink()
  return path


def unpack(path: pathlib.Path, folder: pathlib.Path) -> None:
  """Unpacks a file of pack.py beside others.

  Raises:
    PhotoError: a file of this name is there.
  """
  with zipfile.ZipFile(path) as packed:
    for name in packed.namelist():
      if (folder / name).is_file():
        raise PhotoError(f'{path}: {name} is in an earlier file, too: rename one of them')
    packed.extractall(folder)


def main(argv: list[str] | None = None) -> int:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('data', type=pathlib.Path, nargs='+', help='of pack.py')
  parser.add_argument('-o', '--output', type=pathlib.Path, required=True, help='of checkpoints')
  parser.add_argument('--start', type=pathlib.Path, help='weights, if OUTPUT holds no checkpoint')
  parser.add_argument(
    '--stage',
    choices=('repair', 'finder', 'cleaner'),
    default='repair',
    help='finder, cleaner: a network that only finds or cleans; the others are those of --start',
  )
  parser.add_argument('--minutes', type=float, default=9.0, help='in all, compiling included')
  parser.add_argument(
    '--steps', type=int, default=STEPS, help='in all, those before included, or up to --ahead more'
  )
  parser.add_argument('--every', type=float, default=60.0, help='seconds between checkpoints')
  parser.add_argument('--batch', type=int, default=256)
  parser.add_argument(
    '--ahead', type=int, default=4, help='steps whose squares are made in one go; changes no square'
  )
  parser.add_argument('--lr', type=float, default=1e-3)
  parser.add_argument(
    '--decay', type=float, default=0.0, help='share of these minutes over which the rate falls to 0'
  )
  parser.add_argument('--dtype', choices=('bfloat16', 'float32'), default='bfloat16')
  parser.add_argument(
    '--set', action='append', default=[], metavar='NAME=VALUE',
    help='a setting of configs/repair.py, such as data.p_print=0.5; may be given more than once',
  )  # fmt: skip
  parser.add_argument('--wide', action='store_true', help=f'widths {WIDE}')
  parser.add_argument('--threads', type=int, default=8, help='that resize photos')
  parser.add_argument(
    '--look', type=int, default=20, help='steps between looks at the losses, at most'
  )
  parser.add_argument('--tiny', action='store_true', help='a network for tests')
  args = parser.parse_args(argv)
  args.output.mkdir(parents=True, exist_ok=True)
  with tempfile.TemporaryDirectory() as place:
    try:
      for path in args.data:
        unpack(path, pathlib.Path(place))
      train(args, pathlib.Path(place))
    except (UserError, OSError, zipfile.BadZipFile) as error:
      print(f'{type(error).__name__}: {error}', file=sys.stderr)
      return 2
  return 0


if __name__ == '__main__':
  sys.exit(main())
