"""The scratch detector: one stage, trained on clean photos that a recipe damages."""

import pathlib
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from oldphoto_jax import data, detect, mask_scores, parallel, restore, sheets, train, weights
from oldphoto_jax.degradation import distractors, photographic, recipes
from oldphoto_jax.models import scratch
from oldphoto_jax.systems import build

STAGE = 'scratch'
SHEET_ROWS = 6


def model(config: ConfigDict) -> scratch.Scratch:
  """The model that a config describes.

  Raises:
    ConfigError: for a setting that does not exist, or a crop that the U-Net cannot take.
  """
  m, c = config.model, config.scratch
  net = scratch.UNet(width=m.width, depth=m.depth, dtype=build.dtype(m.dtype))
  for name, crop in (('data', config.data.crop), ('evaluate', config.evaluate.crop)):
    if crop % net.multiple or crop < 2 * net.multiple:
      raise build.ConfigError(
        f'{name}.crop is {crop}; a detector of depth {m.depth} takes multiples of {net.multiple} '
        f'from {2 * net.multiple} on'
      )
  return scratch.Scratch(
    net=net,
    weights=build.weights(c.weights, scratch.WEIGHTS),
    focal_gamma=c.focal_gamma,
    focal_alpha=c.focal_alpha,
    sync_batch_norm=c.sync_batch_norm,
    ema=c.ema,
    tx=build.adam(c, c.lr, c.steps),
  )


def stage(config: ConfigDict, photos: build.Photos) -> train.Stage:
  """The stage, ready to train."""
  net = model(config)
  d, c, recipe = config.data, config.distractors, build.train_recipe(config, config.degradation)
  distracted = distractors.Distracted(recipe, lines=c.lines, border=c.border)
  return train.Stage(
    name=STAGE,
    init=partial(scratch.init, net),
    prepare=build.prepare_pairs(distracted),
    prepare_eval=build.prepare_pairs(recipe),
    train_step=partial(scratch.train_step, net),
    eval_step=partial(scratch.eval_step, net),
    constants={},
    batches=partial(
      build.train_batches,
      config,
      data.Photos(photos.train, build.crop(d)),
      config.scratch.batch_size,
    ),
    eval_batches=partial(build.eval_batches, config, photos.val),
    score='f1',
    loop=build.loop(config.train, config.scratch.steps),
    columns=('old', 'mask', 'found'),
  )


def untrained(config: ConfigDict, photos: build.Photos) -> list[train.Stage]:
  """The stages, to be measured; nothing is read from checkpoints."""
  return [stage(config, photos)]


def untrained_restorer(config: ConfigDict) -> restore.Restorer:
  """The detector as initialised, in the form of a restorer, to be measured."""
  net = model(config)
  params = build.untrained(config, STAGE, net, scratch.init)
  detect_damage = partial(scratch.detect, net)
  return restore.Restorer(detect_damage, params, net.net.multiple, 'untrained')


def run(config: ConfigDict) -> None:
  """Trains from where the run is.

  Raises:
    ConfigError: for real old photos, whose damage nobody has marked.
  """
  if config.data.old:
    raise build.ConfigError(
      'the detector learns from damage that it knows, and the photos of data.old have no masks: '
      'leave it empty'
    )
  photos = build.photos(config.data, config.seed)
  build.write_manifest(photos, config.workdir)
  train.train(stage(config, photos), pathlib.Path(config.workdir) / STAGE, config.seed)


def is_complete(config: ConfigDict) -> bool:
  """Whether the run holds a checkpoint, so that `export` can write weights."""
  folder = pathlib.Path(config.workdir) / STAGE / 'checkpoints'
  return folder.is_dir() and any(folder.iterdir())


def export(config: ConfigDict) -> pathlib.Path:
  """Writes the run's newest detector as a file of weights.

  Raises:
    CheckpointError: where there is no checkpoint.
  """
  net = model(config)
  params = build.trained(config, STAGE, net, scratch.init, score='f1')
  path = pathlib.Path(config.workdir) / weights.FILE
  if parallel.is_main():
    exported = weights.Weights('scratch', scratch.sizes(net), params)
    weights.save(path, exported, card={'run': config.to_json()})
  return path


def evaluate(config: ConfigDict, detector: detect.Detector) -> str:
  """Scores a detector on the test photos, each recipe of `evaluate.degradations` one set.

  The threshold is chosen on the validation photos, damaged by the same recipe; without test photos
  these are the set as well. Writes evaluation.md, evaluation.json and a sheet a recipe into the
  run's folder.

  Returns:
    The tables as Markdown.

  Raises:
    ConfigError: where the crop does not fit.
    ValueError: for a recipe whose masks are all empty.
  """
  photos = build.photos(config.data, config.seed)
  size, folder = config.evaluate.crop, pathlib.Path(config.workdir)
  if size % detector.multiple:
    raise build.ConfigError(f'evaluate.crop is {size}, not a multiple of {detector.multiple}')
  rows = []
  for name in config.evaluate.degradations.replace(' ', '').split(','):
    look = looking(detector, build.recipe(name))
    measured = []
    for source in (photos.val, photos.test):
      if source is not None and config.evaluate.limit:
        source = data.subset(source, config.seed, {'some': config.evaluate.limit})['some']
      if source is not None:
        measured.append(count(look, data.eval_batches(source, size, 4), list(source.names)))
    threshold = mask_scores.curve(measured[0][0]).best_threshold
    counts, sheet = measured[-1]
    rows.append(mask_scores.Row(name, counts, threshold))
    sheets.save_png(folder / f'evaluation_{name}.png', sheet)
  return mask_scores.write(rows, detector.name, folder)


def looking(
  detector: detect.Detector, recipe: recipes.Recipe
) -> Callable[[np.ndarray, np.ndarray], tuple[jax.Array, jax.Array, jax.Array]]:
  """Damages photos with the keys of their numbers, and looks for the damage.

  Returns:
    (uint8 photos [B, H, W, 3], numbers [B]) -> (old photos, true masks, probabilities); H and W
    multiples of `detector.multiple`.
  """

  @jax.jit
  def step(params, image, ids):
    keys = jax.vmap(partial(jax.random.fold_in, jax.random.key(0)))(ids)
    aged = recipes.degrade_batch(recipe, keys, photographic.from_levels(image))
    return aged.old, aged.mask, detector.apply(params, aged.old)

  return partial(step, jax.device_put(detector.params))


def count(
  look: Callable[..., tuple[jax.Array, jax.Array, jax.Array]],
  batches: Iterable[dict[str, Any]],
  names: list[str],
) -> tuple[np.ndarray, np.ndarray]:
  """Counts the pixels of every photo by how likely they looked damaged.

  Args:
    look: of `looking`.
    batches: of data.eval_batches.
    names: of the photos, in the order of their `photo` numbers.

  Returns:
    mask_scores.count of each photo, [photos, 2, BINS], and a sheet of the first: old, true mask,
    found damage.
  """
  counts, rows, labels = [], [], []
  for batch in batches:
    images = jax.device_get(look(batch['image'], batch['id']))
    for photo, valid, old, mask, found in zip(batch['photo'], batch['valid'], *images):
      if not valid:
        continue
      counts.append(mask_scores.count(found, mask))
      if len(rows) < SHEET_ROWS:
        marks = [sheets.from_float(2 * m[..., 0] - 1) for m in (mask, found)]
        rows.append([sheets.from_float(old), *marks])
        labels.append(names[photo])
  return np.stack(counts), sheets.grid(rows, ['old', 'true mask', 'found'], labels)
