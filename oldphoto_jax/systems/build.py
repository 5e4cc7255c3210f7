"""Shared by all systems: photos, recipes, optimisers and perceptual features from configs."""

import dataclasses
import json
import logging
import pathlib
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from oldphoto_jax import data
from oldphoto_jax.data import artefacts, sources
from oldphoto_jax.degradation import names as recipe_names
from oldphoto_jax.degradation import photographic, recipes
from oldphoto_jax.errors import CheckpointError, ConfigError
from oldphoto_jax.evaluation.rows import Test, age, given
from oldphoto_jax.nn import features
from oldphoto_jax.training import checkpoints, parallel, runs, train
from oldphoto_jax.weights import classifiers

_log = logging.getLogger(__name__)

MANIFEST = 'manifest.json'
Manifest = list[dict[str, Any]]  # rows of data.manifest


@dataclasses.dataclass(frozen=True)
class Photos:
  """The sources of a run. `old` is None without real old photos."""

  train: data.Source
  val: data.Source
  test: data.Source | None
  old: data.Source | None


def photos(config: ConfigDict, seed: int, before: Manifest | None = None) -> Photos:
  """Opens the photos that `config` (section `data`) names, and splits them.

  Args:
    config: the section.
    seed: of the split.
    before: the manifest of the run that goes on. Its photos stay in their splits and in their
      order, and those that were added since are not used: a log line names them.

  Raises:
    UserError: a folder is missing or empty, or holds too few photos for the split.
  """
  for name in ('photos', 'val', 'test', 'old'):
    if config[name] and not pathlib.Path(config[name]).expanduser().is_dir():
      raise ConfigError(f'data.{name}: there is no folder {config[name]}')
  pairs = config.get('pairs')
  folder = data.pairs if pairs else data.folder
  if config.tfds_name:
    source = data.tfds_images(config.tfds_dir, config.tfds_name, config.tfds_split)
  elif pairs or config.photos:
    source = folder(pairs or config.photos)
  else:
    _log.info('data.photos is not set: training on the sample photos of scikit-image')
    source = data.sample_photos()
  test = folder(config.test) if config.test else None
  if before is not None:
    opened = {'train': source, 'test': test or source}
    opened['val'] = folder(config.val) if config.val else source
    if config.old:
      opened['old'] = data.folder(config.old)
    kept = _as_before(opened, before, bool(config.subset_train))
    train_photos, val, test = (kept.get(split) for split in ('train', 'val', 'test'))
    old = kept.get('old')
  elif config.val:
    train_photos, val = source, folder(config.val)
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
        'or set data.val to a separate folder'
      )
    splits = data.subset(source, seed, counts)
    train_photos, val = splits['train'], splits['val']
    test = test or splits.get('test')
  if before is None:
    old = data.folder(config.old) if config.old else None
  # Training and old photos share the memory.
  limit = int(config.cache_gb * 2**30) // (1 if old is None else 2)
  return Photos(
    train=data.cached(train_photos, limit),
    val=val,
    test=test,
    old=old and data.cached(old, limit),
  )


def _as_before(
  opened: Mapping[str, data.Source], before: Manifest, chosen: bool
) -> dict[str, data.Source]:
  """The splits of a manifest.

  Args:
    opened: the photos from which each split was taken.
    before: the manifest.
    chosen: whether the splits were only a part of the photos, so that others are no news.
  """
  kept, used = {}, {}
  for split in dict.fromkeys(row['split'] for row in before):
    source = opened[split]
    index = {name: i for i, name in enumerate(source.names)}
    names = [row['name'] for row in before if row['split'] == split]
    missing = [name for name in names if name not in index]
    if missing:
      raise ConfigError(
        f'{len(missing)} photos of the split {split} are gone since the run began, such as '
        f'{missing[0]}: put them back, or begin another run with --config.workdir'
      )
    kept[split] = sources.Chosen(source, [index[name] for name in names])
    used.setdefault(id(source), (source, set()))[1].update(names)
  for source, names in () if chosen else used.values():
    added = [name for name in source.names if name not in names]
    if added:
      _log.warning(
        '%d photos were added since the run began, such as %s: it goes on without them, so that '
        'its split stays. To learn from them, begin another run.',
        len(added),
        added[0],
      )
  return kept


def run_photos(config: ConfigDict) -> Photos:
  """The photos of the run in `config.workdir`, in the splits that it began with; else as `photos`.

  Raises:
    UserError: see `photos`; or the run's manifest is damaged.
  """
  path = pathlib.Path(config.workdir) / MANIFEST
  before = None
  if path.exists():
    try:
      before = json.loads(path.read_text())
    except ValueError as error:
      raise ConfigError(
        f'{path} is damaged: restore it from a backup, or choose another folder with '
        '--config.workdir'
      ) from error
  return photos(config.data, config.seed, before)


def test_photos(config: ConfigDict, opened: Photos) -> data.Source:
  """The photos to score: the first `evaluate.limit` of the test or else the validation photos."""
  return first(opened.val if opened.test is None else opened.test, config.evaluate.limit)


def first(source: data.Source, limit: int) -> data.Source:
  """The first `limit` photos of a source, or all for 0. Each keeps its number and so its key."""
  return sources.Chosen(source, list(range(min(limit, len(source))))) if limit else source


def tests(config: ConfigDict, source: data.Source) -> list[Test]:
  """The central squares of a source, damaged by each recipe of `evaluate.recipes`; or its pairs."""
  if config.data.get('pairs'):
    return [given(source, config.evaluate.crop)]
  return [
    age(train_recipe(config, name), name, source, config.evaluate.crop, config.seed)
    for name in names(config.evaluate.recipes)
  ]


def stand_ins(config: ConfigDict) -> Photos:
  """Sample photos instead of those that a run's config names.

  The compiled program of a stage does not depend on its photos, only on whether there are old ones.
  """
  source = data.sample_photos()
  if config.data.get('pairs'):
    source = data.Pairs(source, source)
  return Photos(train=source, val=source, test=None, old=source if config.data.old else None)


def stage_names(config: ConfigDict) -> list[str]:
  """The stages to train: `config.stages`, or the one stage with the name of the system."""
  return names(config.stages) if 'stages' in config else [config.system]


def names(text: str) -> list[str]:
  """The names in a setting that separates them by commas."""
  return text.replace(' ', '').split(',')


def write_manifest(photos: Photos, workdir: str) -> None:
  """Writes manifest.json: every photo of the run with its split, size and hash.

  If the run goes on, it is there already. A log line then names photos that have changed since.
  """
  if not parallel.is_main():
    return
  splits = {'train': photos.train, 'val': photos.val, 'test': photos.test, 'old': photos.old}
  rows = data.manifest({name: source for name, source in splits.items() if source is not None})
  path = pathlib.Path(workdir) / MANIFEST
  if not path.exists():
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix('.part')
    temporary.write_text(json.dumps(rows, indent=1))
    temporary.replace(path)
    return
  known = {(row['split'], row['name']): row['sha256'] for row in json.loads(path.read_text())}
  changed = [row['name'] for row in rows if known.get((row['split'], row['name'])) != row['sha256']]
  if changed:
    _log.warning(
      '%d photos have changed since the run began, such as %s: the run goes on with them as they '
      'are now',
      len(changed),
      changed[0],
    )


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
  photos: Photos,
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


@dataclasses.dataclass(frozen=True)
class Perceptual:
  """A feature network: its parameters, its function, and the weights of its levels."""

  params: Any
  features: Callable[[Any, jax.Array], list[jax.Array]] | None
  level_weights: tuple[float, ...]


NO_PERCEPTUAL = Perceptual({}, None, ())
_PERCEPTUAL = {
  # Wan et al. `VGGLoss`: relu1_1, 2_1, 3_1, 4_1, 5_1.
  'vgg19': (
    classifiers.load_vgg19,
    classifiers.untrained_vgg19,
    features.vgg19_features,
    (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1.0),
  ),
  # The levels are normalised to equal weight: see features.squeezenet_features.
  'squeezenet': (
    classifiers.load_squeezenet,
    classifiers.untrained_squeezenet,
    features.squeezenet_features,
    (0.2,) * 5,
  ),
}


def perceptual(config: ConfigDict, wanted: bool) -> Perceptual:
  """Loads the network that `config` (section `perceptual`) names. Without weights, there is none.

  Args:
    config: the section.
    wanted: whether a stage has the term. If not, nothing is loaded.

  Raises:
    ConfigError: the network is unknown, or the file is missing.
    WeightsError: the file does not fit.
  """
  if not config.weights:
    _log.info('perceptual.weights is not set: the perceptual loss term is off')
    return NO_PERCEPTUAL
  if not pathlib.Path(config.weights).is_file():
    raise ConfigError(f'perceptual.weights: there is no file {config.weights}')
  if not wanted:
    return NO_PERCEPTUAL
  load, _, function, levels = _perceptual_network(config.network)
  return Perceptual(load(config.weights), function, levels)


def _untrained_perceptual(config: ConfigDict, wanted: bool) -> Perceptual:
  """Zeros instead of the parameters; no file is read."""
  _, zeros, function, levels = _perceptual_network(config.network)
  return Perceptual(zeros(), function, levels) if wanted else NO_PERCEPTUAL


def _perceptual_network(name: str) -> tuple:
  if name not in _PERCEPTUAL:
    raise ConfigError(f'perceptual.network is {" or ".join(_PERCEPTUAL)}, not {name!r}')
  return _PERCEPTUAL[name]


def dtype(name: str) -> Any:
  """float32 or bfloat16, the type of the convolutions."""
  if name not in ('float32', 'bfloat16'):
    raise ConfigError(f'dtype is float32 or bfloat16, not {name!r}')
  return jnp.dtype(name)


def is_trained(config: ConfigDict, name: str) -> bool:
  """Whether the run holds a checkpoint of a stage."""
  folder = _checkpoints(config, name)
  return folder.is_dir() and any(folder.iterdir())


def _checkpoints(config: ConfigDict, name: str) -> pathlib.Path:
  return runs.stage_folder(config.workdir, name) / 'checkpoints'


@dataclasses.dataclass(frozen=True)
class Networks:
  """The source of the networks that a stage reads but does not train.

  Attributes:
    of: (name of a stage, its model, its init) -> the released parameters of the stage.
    has: name of an optional stage -> whether it has been trained.
    perceptual: (section `perceptual`, whether a stage has the term) -> the feature network.
  """

  of: Callable[[str, Any, Callable], Any]
  has: Callable[[str], bool]
  perceptual: Callable[[ConfigDict, bool], Perceptual]


def trained(config: ConfigDict) -> Networks:
  """The networks of the newest checkpoints of the run, and the feature network of its file.

  `of` raises CheckpointError if a stage has no checkpoint.
  """

  def of(name, model, init):
    like = jax.eval_shape(partial(init, model), jax.random.key(0))
    loaded = checkpoints.newest(_checkpoints(config, name), like)
    if loaded is None:
      raise _missing(config, name)
    return loaded.released

  return Networks(of, partial(is_trained, config), perceptual)


def _initialised(name: str, model: Any, init: Callable) -> Any:
  del name
  return jax.jit(partial(init, model))(jax.random.key(0)).released


def _shape(name: str, model: Any, init: Callable) -> Any:
  del name
  return jax.eval_shape(partial(init, model), jax.random.key(0)).released


# Initial values: steps and photos cost the same as with trained networks.
UNTRAINED = Networks(_initialised, lambda name: False, _untrained_perceptual)
# Only shapes of arrays, to check settings: nothing is read or computed.
SHAPES = Networks(_shape, lambda name: False, _untrained_perceptual)


def planned(config: ConfigDict, before: Iterable[str]) -> Networks:
  """As SHAPES, but `of` raises CheckpointError for a stage that will not have been trained.

  Args:
    config: names the run's folder, in which some stages may already be trained.
    before: the stages that this command trains first.
  """

  def of(name, model, init):
    if name not in before and not is_trained(config, name):
      raise _missing(config, name)
    return _shape(name, model, init)

  return dataclasses.replace(SHAPES, of=of)


def _missing(config: ConfigDict, name: str) -> CheckpointError:
  return CheckpointError(
    f'there is no checkpoint in {_checkpoints(config, name)}: train {name} first (without --mode, '
    f'and with {name} in config.stages if the system has stages)'
  )
