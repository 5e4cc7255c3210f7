"""Shared by all systems: recipes, batches, optimisers and stages from configs."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from oldphoto_jax import data
from oldphoto_jax.data import artefacts
from oldphoto_jax.degradation import names as recipe_names
from oldphoto_jax.degradation import photographic, recipes
from oldphoto_jax.errors import ConfigError
from oldphoto_jax.evaluation.rows import Test, age, given
from oldphoto_jax.systems import splits
from oldphoto_jax.training import parallel, train


def tests(config: ConfigDict, source: data.Source) -> list[Test]:
  """The central squares of a source, damaged by each recipe of `evaluate.recipes`; or its pairs."""
  if config.data.get('pairs'):
    return [given(source, config.evaluate.crop)]
  return [
    age(train_recipe(config, name), name, source, config.evaluate.crop, config.seed)
    for name in names(config.evaluate.recipes)
  ]


def stage_names(config: ConfigDict) -> list[str]:
  """The stages to train: `config.stages`, or the one stage with the name of the system."""
  return names(config.stages) if 'stages' in config else [config.system]


def names(text: str) -> list[str]:
  """The names in a setting that separates them by commas."""
  return text.replace(' ', '').split(',')


def crop(config: ConfigDict) -> data.Crop:
  """How training squares are cut."""
  return data.Crop(size=config.crop, scale=tuple(config.scale), flip=config.flip)


def train_batches(config: ConfigDict, stream: data.Stream, batch_size: int) -> data.Batches:
  """This host's share of a stream's batches, endless. `config` is the whole config."""
  return data.train_batches(
    stream,
    batch_size,
    config.seed,
    process=jax.process_index(),
    processes=jax.process_count(),
    threads=config.data.threads,
    workers=config.data.workers,
  )


def eval_batches(
  config: ConfigDict, source: data.Source, crop: int
) -> Iterable[dict[str, np.ndarray]]:
  """This host's share of one pass over `source`, as squares of `crop` pixels."""
  return data.eval_batches(
    source,
    crop,
    parallel.multiple(config.train.eval_batch),
    process=jax.process_index(),
    processes=jax.process_count(),
    threads=config.data.threads,
  )


def recipe(text: str, overlays: str = '', textures: str = '') -> recipes.Recipe:
  """names.recipe, with drawn artefacts and paper textures from two folders; '' for none.

  Raises:
    ConfigError: a name is unknown.
    PhotoError: a folder is missing or empty, or an overlay has no transparency.
  """
  drawn = artefacts.overlays(overlays) if overlays else None
  return recipe_names.recipe(text, drawn, artefacts.textures(textures) if textures else None)


def train_recipe(config: ConfigDict, text: str) -> recipes.Recipe:
  """The recipe of these names with the folders of the whole `config`."""
  return recipe(text, config.data.overlays, config.data.textures)


def prepare_pairs(recipe: recipes.Recipe) -> Callable[[dict, jax.Array], dict]:
  """Batches of clean photos -> 'old', 'clean' [b, S, S, 3] and 'mask' [b, S, S, 1]."""

  def prepare(batch, keys):
    aged = recipes.degrade_batch(recipe, keys, photographic.from_levels(batch['image']))
    return {'old': aged.old, 'clean': aged.clean, 'mask': aged.mask}

  return prepare


def prepare_given(batch: dict, keys: jax.Array) -> dict:
  """Batches of data.Pairs -> 'old' and 'clean' [b, S, S, 3]."""
  del keys
  both = photographic.from_levels(batch['image'])
  return {'old': both[..., :3], 'clean': both[..., 3:]}


def prepare_clean(gray: float) -> Callable[[dict, jax.Array], dict]:
  """Batches of clean photos that lose their colour with probability `gray`: 'image'."""

  def one(key, image):
    image = photographic.from_levels(image)
    return jnp.where(jax.random.bernoulli(key, gray), photographic.gray(image), image)

  return lambda batch, keys: {'image': jax.vmap(one)(keys, batch['image'])}


def adam(config: ConfigDict, lr: float, steps: int) -> optax.GradientTransformation:
  """Adam with a constant learning rate, then linear decay to 0 over the last `decay` of `steps`.

  The reference decays by epochs (100 constant + 100 decaying, `decay` = 0.5 here). Decay by steps
  is smoother and does not depend on the size of the data set.
  """
  if not 0 <= config.decay <= 1:
    raise ConfigError(f'decay is a share of the steps between 0 and 1, not {config.decay}')
  decaying = max(1, round(steps * config.decay))
  schedule = optax.join_schedules(
    [optax.constant_schedule(lr), optax.linear_schedule(lr, 0.0, decaying)], [steps - decaying]
  )
  return optax.adam(schedule if config.decay else lr, b1=config.b1, b2=config.b2, eps=1e-8)


def stage(
  module: Any,
  model: Any,
  config: ConfigDict,
  photos: splits.Photos,
  name: str,
  *,
  stream: data.Stream,
  prepare: Callable[[dict, jax.Array], dict],
  columns: tuple[str, ...],
  prepare_eval: Callable[[dict, jax.Array], dict] | None = None,
  init: Callable[[jax.Array], Any] | None = None,
  constants: Any = None,
  score: str = 'psnr',
  eval_crop: int | None = None,
) -> train.Stage:
  """The stage that trains `model`, with the steps of its module and the section `config[name]`.

  Args:
    module: has `init`, `train_step` and `eval_step`; see models.
    model: their first argument.
    config: the whole config.
    photos: the photos of the run.
    name: name of the stage and of its section, which has at least `steps` and `batch_size`.
    stream, prepare, columns, init, constants, score: see train.Stage. By default, `init` is the
      module's, and there are no constants.
    prepare_eval: `prepare` by default.
    eval_crop: side of the validation squares; by default that of training.
  """
  c, t = config[name], config.train
  return train.Stage(
    name=name,
    init=init or partial(module.init, model),
    prepare=prepare,
    prepare_eval=prepare_eval or prepare,
    train_step=partial(module.train_step, model),
    eval_step=partial(module.eval_step, model),
    constants=constants or {},
    batches=partial(train_batches, config, stream, c.batch_size),
    eval_batches=partial(eval_batches, config, photos.val, eval_crop or config.data.crop),
    score=score,
    loop=train.Loop(c.steps, t.log_every, t.evaluate_every, t.sheet_rows, t.tensorboard),
    columns=columns,
    accumulate=c.get('accumulate'),
  )


def check_crops(config: ConfigDict, multiple: int, least: int = 1) -> None:
  """Raises ConfigError unless the crops of training and evaluation fit the network."""
  for name in ('data', 'evaluate'):
    crop = config[name].crop
    if crop % multiple or crop < least:
      limit = f' from {least} on' if least > multiple else ''
      raise ConfigError(
        f'{name}.crop is {crop}, but this network takes multiples of {multiple}{limit}: change it, '
        'or use fewer downsampling levels'
      )


def check_batches(config: ConfigDict) -> None:
  """Raises ConfigError unless the batches of all stages divide over the devices and their parts."""
  devices = jax.device_count()
  for name in stage_names(config):
    size, parts = config[name].batch_size, config[name].get('accumulate', 1)
    if size < 1 or parts < 1 or size % (devices * parts):
      text = f' and {parts} parts' if parts != 1 else ''
      raise ConfigError(
        f'{name}.batch_size is {size}, which does not divide over {devices} devices{text}: set a '
        f'multiple of {devices * max(parts, 1)}'
      )


def weights(config: ConfigDict, allowed: dict[str, float]) -> dict[str, float]:
  """The loss weights of a stage. Terms that it does not name have weight 0.

  Raises:
    ConfigError: the loss has no such term.
  """
  unknown = sorted(set(config) - set(allowed))
  if unknown:
    raise ConfigError(
      f'there is no loss term {", ".join(unknown)}: choose from {", ".join(allowed)}'
    )
  return dict.fromkeys(allowed, 0.0) | {name: float(value) for name, value in config.items()}


def dtype(name: str) -> Any:
  """float32 or bfloat16, the type of the convolutions."""
  if name not in ('float32', 'bfloat16'):
    raise ConfigError(f'dtype is float32 or bfloat16, not {name!r}')
  return jnp.dtype(name)
