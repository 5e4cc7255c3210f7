"""What the shape of `repair` is worth: variants of it, each trained for the same CPU seconds.

  python -m benchmarks.prints.variants OUT --photos CLEAN --val VAL --overlays OVERLAYS \\
    --train-labels LABELS --train-prints PRINTS --labels LABELS --prints PRINTS --triplet FILE

CLEAN, VAL                      folders of clean photos, to learn from and to measure with
--train-labels, --train-prints  folders of labelled prints to learn from (data.labels, data.prints)
--labels, --prints              and of others, to measure with
--triplet                       weights of a triplet, whose photo one variant sees as well

Each variant starts from nothing, with the same seed, data and losses. Its first steps are timed,
and it gets as many as fit into SECONDS of this process's CPU time. A run that was stopped goes on,
and one that was measured is not run again. Scores: PSNR of the middle squares of VAL under three
recipes, where nothing is told and, under `worn`, where the damage is; and F1 of what is found on
the prints, at the best threshold, over all pixels and as the mean over prints. Writes OUT/NAME.json
for each, and prints a table.
"""

import argparse
import dataclasses
import json
import pathlib
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from configs import repair as repair_config
from oldphoto_jax import data, weights
from oldphoto_jax.data import prints
from oldphoto_jax.degradation import photographic
from oldphoto_jax.evaluation import rows
from oldphoto_jax.metrics import print_scores, psnr_ssim
from oldphoto_jax.models import mapping, repair, state
from oldphoto_jax.models import triplet as triplet_model
from oldphoto_jax.nn import layers, parameters
from oldphoto_jax.nn.cpu_convolution import depth_to_space, space_to_depth
from oldphoto_jax.systems import build, splits
from oldphoto_jax.systems import repair as repair_system
from oldphoto_jax.training import parallel, train

SECONDS = 1200.0  # of CPU time for each variant
TIMED = 12  # steps that the speed is taken from
CROP = 256  # of the validation photos
TILE, RIM = 256, 32  # prints are looked at in tiles, of which the rim is dropped
RECIPES = ('report', 'wan2020', 'worn')
UNBIASED, SHUFFLED, GUIDED = 'without biases', 'shuffled by 4', "with the triplet's photo"
VARIANTS = ('repair', UNBIASED, SHUFFLED, GUIDED)


class Shuffled4(nn.Module):
  """RepairUNet without its finest level: pixels are shuffled 4x4 instead of 2x2."""

  widths: tuple[int, ...] = (64, 128, 192)
  blocks: int = 2

  @nn.compact
  def __call__(self, photo, filled, mask, trust):
    def conv(x, features, name, size=3, stride=1):
      return layers.Conv(features, size, stride, (size - 1) // 2, name=name)(x)

    def residual(x, name):
      for i in range(self.blocks):
        x = layers.ResnetBlock(x.shape[-1], False, name=f'{name}_block{i}')(x)
      return x

    x = space_to_depth(space_to_depth(jnp.concatenate([photo, filled, mask, trust], -1)))
    x = residual(conv(x, self.widths[0], 'conv_in'), 'down0')
    skips = []
    for i, features in enumerate(self.widths[1:], 1):
      skips.append(x)
      x = residual(layers.leaky_relu(conv(x, features, f'down{i}', 4, 2)), f'down{i}')
    for i in reversed(range(len(skips))):
      x = layers.double(conv(x, self.widths[i], f'up{i}', 1)) + skips[i]
      x = residual(layers.leaky_relu(x), f'up{i}')
    return depth_to_space(depth_to_space(conv(x, 80, 'conv_out')))


class Net(NamedTuple):
  """What a variant has in the place of its module: `apply` of it, with the inputs of RepairUNet."""

  apply: Callable[..., jax.Array]


@dataclasses.dataclass(frozen=True)
class Variant(repair.Repair):
  """A Repair with another network.

  Attributes:
    name: of VARIANTS.
    photo_of: (parameters of a triplet, photos) -> its photos.
    blind: first and distance of the examples that are told nothing; the others do not see the
      triplet's photo. None: all are told.
  """

  name: str = VARIANTS[0]
  photo_of: Callable[[Any, jax.Array], jax.Array] | None = None
  blind: tuple[int, int] | None = (0, 1)

  @property
  def net(self) -> Net:
    unet = Shuffled4() if self.name == SHUFFLED else repair.RepairUNet(self.widths, self.blocks)

    def apply(variables, photo, filled, mask, trust):
      g = variables['params']
      if self.name == UNBIASED:
        g = without_biases(g)
      if self.name == GUIDED:
        if self.blind is not None:
          first, distance = self.blind
          below = jax.lax.stop_gradient(g['triplet'])
          filled = filled.at[first::distance].set(self.photo_of(below, photo[first::distance]))
        g = g['unet']
      return unet.apply({'params': g}, photo, filled, mask, trust)

    return Net(apply)


def without_biases(g: Any) -> Any:
  """Parameters without additive constants (Mohan et al. 2020) but those of logit and scale."""
  kept = jnp.tile(jnp.array([0.0, 0, 0, 1, 1]), 4)  # channels of conv_out

  def bias(path, leaf):
    if path[-1].key != 'bias':
      return leaf
    return leaf * kept if path[-2].key == 'conv_out' else jnp.zeros_like(leaf)

  return jax.tree_util.tree_map_with_path(bias, g)


def init(variant: Variant, below: Any, key: jax.Array) -> state.State:
  """As repair.init. `below`: parameters of the triplet, which are never trained."""
  plain = repair.Repair(variant.widths, variant.blocks)
  g = repair.init(plain, key).g
  if variant.name == SHUFFLED:
    side = jnp.zeros((1, 64, 64, 1))
    photo = jnp.zeros((1, 64, 64, 3))
    bias = jnp.tile(g['conv_out']['bias'], 4)
    g = parameters.init_normal(Shuffled4(), key, photo, photo, side, side, std=None)
    for name, layer in g.items():  # zeros where a sum follows, as in repair.init
      if 'conv2' in layer:
        g[name] = layer | {'conv2': jax.tree.map(jnp.zeros_like, layer['conv2'])}
    g['conv_out'] = {'kernel': jnp.zeros_like(g['conv_out']['kernel']), 'bias': bias}
  if variant.name == GUIDED:
    g = {'unet': g, 'triplet': below}
  return state.start(variant, g)


def stage(config: ConfigDict, name: str, triplet: weights.Weights) -> tuple[train.Stage, Variant]:
  """The stage `repair` with the network of a variant; and the variant, to evaluate it."""
  photos = splits.photos(config.data, config.seed)
  usual = repair_system.repair_stage(config, photos, repair_system.stream(config, photos))
  below = triplet_model.from_sizes(triplet.model).mapping
  restored = partial(mapping.restore, below)
  model = repair_system.model(config)
  fields = {field.name: getattr(model, field.name) for field in dataclasses.fields(model)}
  # Odd examples are told nothing in training; in evaluation, photos are looked at and then filled.
  learning = Variant(**fields, name=name, photo_of=restored, blind=(1, 2))
  looking = dataclasses.replace(learning, blind=(0, 1))
  of_triplet = {key: triplet.params[key] for key in ('rx', 'y', 'mapping')}
  varied = dataclasses.replace(
    usual,
    init=partial(init, learning, of_triplet),
    train_step=partial(repair.train_step, learning),
    eval_step=partial(repair.eval_step, looking),
  )
  return varied, looking


def speed(stage: train.Stage) -> float:
  """CPU seconds of a step, with the reading of photos; compiling is left out."""
  step = parallel.train_step(stage.prepare, stage.train_step)
  current = parallel.replicate(jax.jit(stage.init)(jax.random.key(0)))
  batches = stage.batches()
  flow = parallel.prefetch(batches)
  for i in range(TIMED + 2):
    if i == 2:
      jax.block_until_ready(current)
      start = time.process_time()
    current, _ = step(current, {}, next(flow)[0], jax.random.key(1))
  jax.block_until_ready(current)
  batches.close()
  return (time.process_time() - start) / TIMED


def measure(
  variant: Variant, g: Any, val: data.Source, overlays: str, labelled: prints.Prints
) -> dict[str, float]:
  """The scores of a trained variant."""
  look = jax.jit(lambda photo: repair.look(variant, g, photo)[:2])
  # The triplet's photo is for those who are told nothing.
  told = dataclasses.replace(variant, blind=None)
  fill = jax.jit(lambda photo, mask: repair.fill(told, g, photo, mask))
  scores = {}
  for name in RECIPES:
    test = rows.age(build.recipe(name, overlays), name, val, CROP)
    old, clean = (photographic.from_levels(np.stack(x)) for x in (test.old, test.truth))
    scores[name] = mean_psnr(map(lambda x: look(x)[0], each(old)), clean)
    if name == 'worn':
      holes = (np.stack(test.mask) > 0.25).astype(np.float32)
      scores[f'{name}, told'] = mean_psnr(map(fill, each(old), each(holes)), clean)
  return scores | f1(look, labelled)


def f1(look: Callable, labelled: prints.Prints) -> dict[str, float]:
  """F1 of what is found on labelled prints at the best threshold: over all pixels, and by print.

  `look`: photos [1, TILE, TILE, 3] in [-1, 1] -> (anything, the probability of damage).
  """
  found = [probability(look, photographic.from_levels(photo)) for photo in labelled.photos]
  labels = labels_of(labelled)
  threshold, best = print_scores.best_threshold(found, labels)
  _, by_print = print_scores.f1_by_print(found, labels, threshold)
  return {'F1': best.f1, 'F1 by print': by_print}


def labels_of(labelled: prints.Prints) -> list[print_scores.Label]:
  """The labels of prints as print_scores takes them."""
  return [
    print_scores.Label(label == prints.DAMAGED, label != prints.IGNORED)
    for label in labelled.labels
  ]


def each(photos: np.ndarray) -> Iterator[np.ndarray]:
  """Photos one by one, [1, H, W, C]."""
  return (photo[None] for photo in photos)


def mean_psnr(photos: Iterable[jax.Array], truth: np.ndarray) -> float:
  """In dB, of photos [1, H, W, 3]."""
  return float(np.mean([psnr_ssim.psnr(x, y[None])[0] for x, y in zip(photos, truth)]))


def probability(look: Callable, photo: np.ndarray) -> np.ndarray:
  """The probability of damage [H, W] of a photo of any size, by tiles of one shape."""
  inner = TILE - 2 * RIM
  height, width, _ = photo.shape
  after = [RIM + -side % inner for side in (height, width)]
  padded = np.pad(photo, ((RIM, after[0]), (RIM, after[1]), (0, 0)), 'symmetric')
  found = np.zeros((height + after[0], width + after[1]), np.float32)
  for top in range(0, height, inner):
    for left in range(0, width, inner):
      tile = padded[None, top : top + TILE, left : left + TILE]
      answer = np.asarray(look(tile)[1])[0, RIM:-RIM, RIM:-RIM, 0]
      found[top : top + inner, left : left + inner] = answer
  return found[:height, :width]


def table(results: dict[str, dict[str, float]]) -> str:
  """Markdown, a row for each variant."""
  columns = {'CPU seconds a step': 2, 'squares': 0}
  columns |= {name: 2 for name in (*RECIPES, 'worn, told')} | {'F1': 3, 'F1 by print': 3}
  lines = ['| | ' + ' | '.join(columns) + ' |', '|---' * (len(columns) + 1) + '|']
  for name, row in results.items():
    cells = [f'{row[column]:.{digits}f}' for column, digits in columns.items()]
    lines.append(f'| {name} | ' + ' | '.join(cells) + ' |')
  return '\n'.join(lines) + '\n'


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('out', type=pathlib.Path)
  for flag in ('photos', 'val', 'train-labels', 'train-prints', 'labels', 'prints', 'triplet'):
    parser.add_argument(f'--{flag}', required=True)
  parser.add_argument('--overlays', default='')
  parser.add_argument('--seconds', type=float, default=SECONDS)
  args = parser.parse_args()
  config = repair_config.get_config('cpu')
  config.data.photos, config.data.val = args.photos, args.val
  config.data.labels, config.data.prints = args.train_labels, args.train_prints
  config.data.overlays = args.overlays
  config.repair.ema = 0.99  # of few steps
  triplet = weights.load(args.triplet)
  labelled = prints.prints(build.names(args.labels), build.names(args.prints))
  args.out.mkdir(parents=True, exist_ok=True)
  results = {}
  for name in VARIANTS:
    folder = args.out / name.replace(' ', '_').replace("'", '')
    file, timed = folder.with_suffix('.json'), folder.with_suffix('.timed.json')
    if not file.exists():
      if not timed.exists():
        timed.write_text(json.dumps(speed(stage(config, name, triplet)[0])))
      seconds = json.loads(timed.read_text())
      config.repair.steps = round(args.seconds / seconds)
      varied, looking = stage(config, name, triplet)
      trained = train.train(varied, folder, config.seed)
      val = splits.photos(config.data, config.seed).val
      scores = measure(looking, trained.released, val, args.overlays, labelled)
      squares = config.repair.steps * config.repair.batch_size
      file.write_text(json.dumps({'CPU seconds a step': seconds, 'squares': squares} | scores))
    results[name] = json.loads(file.read_text())
    print(table(results), flush=True)


if __name__ == '__main__':
  main()
