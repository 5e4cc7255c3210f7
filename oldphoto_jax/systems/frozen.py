"""The networks that a stage reads but does not train: earlier stages, and perceptual networks."""

import dataclasses
import logging
import pathlib
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import jax
from ml_collections import ConfigDict

from oldphoto_jax.errors import CheckpointError, ConfigError
from oldphoto_jax.nn import features
from oldphoto_jax.training import checkpoints, runs
from oldphoto_jax.weights import classifiers

_log = logging.getLogger(__name__)


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
