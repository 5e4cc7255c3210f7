"""What every system builds from its config: photos, recipes, optimisers, perceptual features."""

import dataclasses
import json
import logging
import pathlib
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from oldphoto_jax import (
  checkpoints,
  classifiers,
  data,
  evaluation,
  features,
  parallel,
  restore,
  train,
)
from oldphoto_jax.data import artefacts
from oldphoto_jax.degradation import names, photographic, recipes
from oldphoto_jax.errors import ConfigError

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Photos:
  """The sources of a run. `old` is None where no real old photos are given."""

  train: data.Source
  val: data.Source
  test: data.Source | None
  old: data.Source | None


def photos(config: ConfigDict, seed: int) -> Photos:
  """Opens the photos that `config` (section `data`) names, and splits them.

  Raises:
    ValueError: where a folder is missing or empty, or holds too few photos for the split.
  """
  if config.tfds_name:
    source = data.tfds_images(config.tfds_dir, config.tfds_name, config.tfds_split)
  elif config.photos:
    source = data.folder(config.photos)
  else:
    _log.info('data.photos is not set: training on the sample photos of scikit-image')
    source = data.sample_photos()
  test = data.folder(config.test) if config.test else None
  if config.val:
    train_photos, val = source, data.folder(config.val)
    if config.subset_train:
      train_photos = data.subset(source, seed, {'train': config.subset_train})['train']
  else:
    # A tenth for validation, at most 100 as in the student report.
    n_val = config.subset_val or min(100, max(1, len(source) // 10))
    counts = {'train': config.subset_train or len(source) - n_val - config.subset_test}
    counts |= {'val': n_val} | ({'test': config.subset_test} if config.subset_test else {})
    if counts['train'] < 1:
      raise ConfigError(
        f'{len(source)} photos are too few to hold out {n_val + config.subset_test}: add photos, '
        'or set data.val to a folder of its own'
      )
    splits = data.subset(source, seed, counts)
    train_photos, val = splits['train'], splits['val']
    test = test or splits.get('test')
  old = data.folder(config.old) if config.old else None
  limit = int(config.cache_gb * 2**30)
  return Photos(
    train=data.cached(train_photos, limit),
    val=val,
    test=test,
    old=old and data.cached(old, limit),
  )


def stand_ins(config: ConfigDict) -> Photos:
  """Sample photos in the place of those that a run's config names.

  What a stage is compiled to does not depend on its photos, but for whether there are old ones.
  """
  source = data.sample_photos()
  return Photos(train=source, val=source, test=None, old=source if config.data.old else None)


def write_manifest(photos: Photos, workdir: str) -> None:
  """Writes manifest.json: every photo of the run with its split, size and hash."""
  if parallel.is_main():
    splits = {'train': photos.train, 'val': photos.val, 'test': photos.test, 'old': photos.old}
    rows = data.manifest({name: source for name, source in splits.items() if source is not None})
    path = pathlib.Path(workdir) / 'manifest.json'
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rows, indent=1))


def crop(config: ConfigDict) -> data.Crop:
  """How training squares are cut."""
  return data.Crop(size=config.crop, scale=tuple(config.scale), flip=config.flip)


def train_batches(config: ConfigDict, stream: data.Stream, batch_size: int) -> data.Batches:
  """This host's share of a stream's batches, endless. `config` is the whole one."""
  return data.train_batches(
    stream,
    batch_size,
    config.seed,
    process=jax.process_index(),
    processes=jax.process_count(),
    threads=config.data.threads,
    workers=config.data.workers,
  )


def eval_batches(config: ConfigDict, source: data.Source) -> Iterable[dict[str, np.ndarray]]:
  """This host's share of one pass over `source`, as squares of the training size."""
  return data.eval_batches(
    source,
    config.data.crop,
    parallel.multiple(config.train.eval_batch),
    process=jax.process_index(),
    processes=jax.process_count(),
    threads=config.data.threads,
  )


def recipe(text: str, overlays: str = '', textures: str = '') -> recipes.Recipe:
  """names.recipe, with the drawn artefacts and paper textures of two folders; '' for none.

  Raises:
    ConfigError: for an unknown name.
    PhotoError: for a folder that is missing or empty, or an overlay without transparency.
  """
  drawn = artefacts.overlays(overlays) if overlays else None
  return names.recipe(text, drawn, artefacts.textures(textures) if textures else None)


def train_recipe(config: ConfigDict, text: str) -> recipes.Recipe:
  """The recipe of these names with the folders of the whole `config`."""
  return recipe(text, config.data.overlays, config.data.textures)


def prepare_pairs(recipe: recipes.Recipe) -> Callable[[dict, jax.Array], dict]:
  """Batches of clean photos -> 'old', 'clean' [b, S, S, 3] and 'mask' [b, S, S, 1]."""

  def prepare(batch, keys):
    aged = recipes.degrade_batch(recipe, keys, photographic.from_levels(batch['image']))
    return {'old': aged.old, 'clean': aged.clean, 'mask': aged.mask}

  return prepare


def adam(config: ConfigDict, lr: float, steps: int) -> optax.GradientTransformation:
  """Adam with a constant learning rate, then linear decay to 0 over the last `decay` of `steps`.

  The reference decays by epochs (100 constant + 100 decaying, `decay` = 0.5 here); steps are
  smoother and do not depend on the size of the data set.
  """
  if not 0 <= config.decay <= 1:
    raise ConfigError(f'decay is a share of the steps between 0 and 1, not {config.decay}')
  decaying = max(1, round(steps * config.decay))
  schedule = optax.join_schedules(
    [optax.constant_schedule(lr), optax.linear_schedule(lr, 0.0, decaying)], [steps - decaying]
  )
  return optax.adam(schedule if config.decay else lr, b1=config.b1, b2=config.b2, eps=1e-8)


def loop(config: ConfigDict, steps: int) -> train.Loop:
  """`config` is the section `train`."""
  return train.Loop(
    steps=steps,
    log_every=config.log_every,
    evaluate_every=config.evaluate_every,
    sheet_rows=config.sheet_rows,
    tensorboard=config.tensorboard,
  )


def weights(config: ConfigDict, allowed: dict[str, float]) -> dict[str, float]:
  """The loss weights of a stage; terms that it does not name have weight 0.

  Raises:
    ConfigError: for a term that the loss does not have.
  """
  unknown = sorted(set(config) - set(allowed))
  if unknown:
    raise ConfigError(
      f'there is no loss term {", ".join(unknown)}: choose from {", ".join(allowed)}'
    )
  return dict.fromkeys(allowed, 0.0) | {name: float(value) for name, value in config.items()}


@dataclasses.dataclass(frozen=True)
class Perceptual:
  """A feature network: its parameters, its function, and the weights of its levels."""

  params: Any
  features: Callable[[Any, jax.Array], list[jax.Array]] | None
  level_weights: tuple[float, ...]


def perceptual(config: ConfigDict, untrained: bool = False) -> Perceptual:
  """Loads the network that `config` (section `perceptual`) names; without weights, none.

  With `untrained` no file is read and the parameters are zeros.

  Raises:
    ValueError: for an unknown network, or a weights file that is missing or does not fit.
  """
  if not config.weights and not untrained:
    _log.info('perceptual.weights is not set: the perceptual loss term is off')
    return Perceptual({}, None, ())
  if config.network == 'vgg19':
    return Perceptual(
      classifiers.untrained_vgg19() if untrained else classifiers.load_vgg19(config.weights),
      features.vgg19_features,
      # Wan et al. `VGGLoss`: relu1_1, 2_1, 3_1, 4_1, 5_1.
      (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1.0),
    )
  if config.network == 'squeezenet':
    return Perceptual(
      classifiers.untrained_squeezenet()
      if untrained
      else classifiers.load_squeezenet(config.weights),
      features.squeezenet_features,
      (0.2,) * 5,  # the levels are normalised to weigh alike (features.squeezenet_features)
    )
  raise ConfigError(f'perceptual.network is vgg19 or squeezenet, not {config.network!r}')


def dtype(name: str) -> Any:
  """float32 or bfloat16, the type of the convolutions."""
  if name not in ('float32', 'bfloat16'):
    raise ConfigError(f'dtype is float32 or bfloat16, not {name!r}')
  return jnp.dtype(name)


def trained(config: ConfigDict, name: str, model: Any, init: Callable, score: str = 'psnr') -> Any:
  """The released parameters of a stage, from its newest checkpoint; `score` is that of its Stage.

  Raises:
    CheckpointError: where there is none.
  """
  folder = pathlib.Path(config.workdir) / name / 'checkpoints'
  like = jax.eval_shape(partial(init, model), jax.random.key(0))
  loaded = None
  if folder.is_dir():
    with checkpoints.manager(folder, score) as saved:
      loaded = checkpoints.restore(saved, like)
  if loaded is None:
    raise checkpoints.CheckpointError(
      f'there is no checkpoint in {folder}: train {name} first (without --mode, and with {name} in '
      'config.stages where there are stages)'
    )
  return loaded[1].released


def untrained(config: ConfigDict, name: str, model: Any, init: Callable) -> Any:
  """In the place of `trained`: the parameters of a stage as initialised."""
  del config, name
  return jax.jit(partial(init, model))(jax.random.key(0)).released


def evaluate(config: ConfigDict, restorer: restore.Restorer) -> str:
  """Scores a restorer on the test photos (else the validation photos) of a config.

  Writes evaluation.md, evaluation.json and a sheet a recipe into the run's folder.

  Returns:
    The table as Markdown.
  """
  opened = photos(config.data, config.seed)
  source = opened.val if opened.test is None else opened.test
  if config.evaluate.limit:
    source = data.subset(source, config.seed, {'some': config.evaluate.limit})['some']
  size = config.evaluate.crop
  if size % restorer.multiple:
    raise ConfigError(f'evaluate.crop is {size}, not a multiple of {restorer.multiple}')
  tables = [
    evaluation.evaluate(
      restorer, recipe(name), name, data.eval_batches(source, size, 4), list(source.names)
    )
    for name in config.evaluate.degradations.replace(' ', '').split(',')
  ]
  return evaluation.write(tables, restorer.name, pathlib.Path(config.workdir))
