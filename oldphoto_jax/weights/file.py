"""Released weights: one safetensors file per system, with its sizes and a card inside."""

import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
from collections.abc import Callable
from typing import Any

import flax
import jax
import numpy as np
import safetensors.numpy

from oldphoto_jax.errors import WeightsError
from oldphoto_jax.models import cyclegan, fusion, mapping, pix2pix, repair
from oldphoto_jax.models import detector as detector_model
from oldphoto_jax.models import triplet as triplet_model
from oldphoto_jax.models.released import Networks
from oldphoto_jax.restoring import detect, restore

FILE = 'weights.safetensors'  # its name in the folder of a run
FORMAT = 'oldphoto_jax/1'

# The system that comes with the package: see MODEL_CARD.md beside it.
SHIPPED = pathlib.Path(__file__).parent.parent / 'pretrained' / FILE

# System -> what makes its networks, given their sizes.
NETWORKS: dict[str, Callable[[dict[str, Any]], Networks]] = {
  'triplet': triplet_model.networks,
  'pix2pix': pix2pix.networks,
  'cyclegan': cyclegan.networks,
  'detector': detector_model.networks,
  'repair': repair.networks,
}
DETECTOR = 'detector'  # the one system that restores nothing
FORMER = {'scratch': DETECTOR}  # names in files of version 0.1


@dataclasses.dataclass(frozen=True)
class Weights:
  """A trained system.

  Attributes:
    system: which networks, one of NETWORKS. For CycleGAN, only the restoring generator is kept.
    model: their sizes, JSON values by name.
    params: nested dicts of float32 arrays.
  """

  system: str
  model: dict[str, Any]
  params: dict[str, Any]


@dataclasses.dataclass(frozen=True, eq=False)
class Loaded:
  """A file of weights, read, hashed and checked once.

  Attributes:
    file: path of the file.
    weights: what it holds.
    card: their origin, see `save`.
    sha256: of the file.
  """

  file: pathlib.Path
  weights: Weights
  card: dict[str, Any]
  sha256: str

  @property
  def digest(self) -> str:
    """Twelve hexadecimal digits that identify the file."""
    return self.sha256[:12]

  @property
  def name(self) -> str:
    """Identifies these weights in reports."""
    return f'{self.weights.system} {self.file.name} {self.digest}'

  def restorer(self) -> restore.Restorer:
    """The system, ready to restore.

    Raises:
      WeightsError: if it is a detector.
    """
    if self.weights.system == DETECTOR:
      raise WeightsError(
        f'{self.file} holds a detector, which marks damage but restores nothing: use it with '
        '`oldphoto detect`, and give weights that restore here'
      )
    return restorer(self.weights, self.name)

  def find_detector(self) -> detect.Detector | None:
    """A detector, the one released with a triplet, or a system that finds damage; else None."""
    weights = self.weights
    if 'detector' in weights.model:
      weights = Weights(DETECTOR, weights.model['detector'], weights.params['detector'])
    released = networks(weights)
    if weights.system == DETECTOR:
      return detect.Detector(released.apply, weights.params, released.multiple, self.name)
    if released.look is None:
      return None
    look = released.look
    return detect.Detector(
      lambda params, photos: look(params, photos)[1],
      weights.params,
      released.multiple,
      self.name,
      self.restorer(),
    )

  def detector(self) -> detect.Detector:
    """The detector, ready to mark damage.

    Raises:
      WeightsError: if there is none in this file.
    """
    found = self.find_detector()
    if found is None:
      raise WeightsError(
        f'{self.file} holds a system that restores photos, without a detector: use it with '
        '`oldphoto restore`, and train a detector with configs/detector.py'
      )
    return found


def save(
  path: str | os.PathLike, weights: Weights, card: dict[str, Any], half: bool = False
) -> None:
  """Writes one safetensors file. An existing file is replaced atomically.

  Args:
    path: of the file.
    weights: what to write.
    card: the origin of the weights (run, data, licences, scores), as JSON values.
    half: stores float16, which halves the size. Loading converts back to float32.

  Raises:
    WeightsError: the file cannot be written.
  """
  path = pathlib.Path(path)
  flat = flax.traverse_util.flatten_dict(weights.params, sep='/')
  dtype = np.float16 if half else np.float32
  arrays = {name: np.ascontiguousarray(value, dtype) for name, value in flat.items()}
  metadata = {
    'format': FORMAT,
    'system': weights.system,
    'model': json.dumps(weights.model),
    'card': json.dumps(card),
  }
  temporary = path.with_name(f'.{path.name}.{os.getpid()}')
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary.touch()  # with the permissions of any new file: safetensors makes it private
    rights = temporary.stat().st_mode
    safetensors.numpy.save_file(arrays, temporary, metadata)
    temporary.chmod(rights)
    os.replace(temporary, path)
  except (OSError, safetensors.SafetensorError) as error:
    raise WeightsError(f'{path} cannot be written: {error}; choose another place') from error
  finally:
    with contextlib.suppress(OSError):  # the folder may not even be one
      temporary.unlink(missing_ok=True)


def read(path: str | os.PathLike) -> Loaded:
  """Reads a file of weights, or the one in a run's folder, and checks every name and shape.

  Not those of the package's own file: that takes half a second, and the tests do it.

  Raises:
    WeightsError: there is no file, or it is not one of ours, damaged or incomplete.
  """
  file = _file(path)
  try:
    data = file.read_bytes()
    arrays = safetensors.numpy.load(data)
    # The header: its length in 8 bytes, then JSON. The line above has checked it.
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], 'little')])
    metadata = header.get('__metadata__', {})
  except Exception as error:
    raise WeightsError(f'{file} cannot be read as safetensors: {error}') from error
  if metadata.get('format') != FORMAT:
    raise WeightsError(f'{file} is not a file of oldphoto_jax weights (format {FORMAT})')
  flat = {name: value.astype(np.float32) for name, value in arrays.items()}
  params = flax.traverse_util.unflatten_dict(flat, sep='/')
  system = FORMER.get(metadata['system'], metadata['system'])
  weights = Weights(system, json.loads(metadata['model']), params)
  if file != SHIPPED:
    check(weights, str(file))
  card = json.loads(metadata.get('card', '{}'))
  return Loaded(file, weights, card, hashlib.sha256(data).hexdigest())


def load(path: str | os.PathLike) -> Weights:
  """Only the weights of a file: see `read`."""
  return read(path).weights


def load_restorer(path: str | os.PathLike) -> restore.Restorer:
  """The restorer in a file, as `oldphoto restore` uses it. Raises WeightsError: Loaded.restorer."""
  return read(path).restorer()


def load_detector(path: str | os.PathLike) -> detect.Detector:
  """The detector in a file, as `oldphoto detect` uses it. Raises WeightsError: Loaded.detector."""
  return read(path).detector()


def restorer(weights: Weights, name: str) -> restore.Restorer:
  """The restoring function of trained weights; `name` identifies them in reports."""
  released = networks(weights)
  return restore.Restorer(
    released.apply,
    weights.params,
    released.multiple,
    name,
    fill=released.fill,
    layerwise=released.layerwise,
    look=released.look,
    correction=released.correction,
    answer=released.answer,
    prefill=released.prefill,
    shown=released.shown,
    find=released.find,
    cleaning=released.cleaning,
    key=json.dumps([weights.system, weights.model], sort_keys=True),
  )


def triplet(
  model: mapping.Mapping,
  params: dict[str, Any],
  masked: mapping.Mapping | None = None,
  fused: fusion.Fusion | None = None,
  detector: Weights | None = None,
  patched: mapping.Mapping | None = None,
) -> Weights:
  """Weights of the triplet system, for models as in models.triplet.Triplet.

  Args:
    model, masked, fused, patched: the models.
    params: in the layout of models.triplet.init, without the detector's.
    detector: weights of a detector.
  """
  found = None
  if detector is not None:
    found = detector_model.from_sizes(detector.model)
    params = params | {'detector': detector.params}
  whole = triplet_model.Triplet(model, masked, patched, fused, found)
  return Weights('triplet', triplet_model.sizes(whole), params)


def with_patches(weights: Weights) -> Weights:
  """A triplet that fills holes by copies of patches, for large photos (--HR of the published code).

  Raises:
    WeightsError: these weights have no such mapping.
  """
  if 'patched' not in weights.model:
    raise WeightsError(
      'these weights have no mapping that copies patches: import the official ones with '
      'mapping_Patch_Attention, or train a triplet with mapping_masked.patched=True'
    )
  model, params = (
    {k: v for k, v in d.items() if k != 'masked'} for d in (weights.model, weights.params)
  )
  if 'fusion' in model:  # it corrects the photo, and leaves holes to the copies
    model['fusion'] = model['fusion'] | {'masked': False}
  return Weights(weights.system, model, params)


def without_fusion(weights: Weights) -> Weights:
  """The triplet system as Wan et al. published it: the weights without their fusion, if any."""
  model, params = (
    {k: v for k, v in d.items() if k != 'fusion'} for d in (weights.model, weights.params)
  )
  return Weights(weights.system, model, params)


def check(weights: Weights, what: str) -> None:
  """Checks that the parameters have the names and shapes that the sizes imply.

  Raises:
    WeightsError: they do not, or the system is unknown. `what` names the file in the message.
  """
  try:
    released = networks(weights)
  except WeightsError as error:
    raise WeightsError(f'{what}: {error}') from error
  check_shapes(weights.params, jax.eval_shape(released.init, jax.random.key(0)), what)


def check_shapes(params: Any, like: Any, what: str) -> None:
  """Raises WeightsError unless both trees have the same names and shapes."""
  have, want = (
    {name: tuple(leaf.shape) for name, leaf in flax.traverse_util.flatten_dict(t, sep='/').items()}
    for t in (params, like)
  )
  if have != want:
    name = sorted(set(have.items()) ^ set(want.items()))[0][0]
    raise WeightsError(
      f'{what}: {name} is {have.get(name, "missing")} in the file, '
      f'but {want.get(name, "not part of the network")} in the network'
    )


def networks(weights: Weights) -> Networks:
  """The functions of trained weights.

  Raises:
    WeightsError: the system or a size is unknown.
  """
  if weights.system not in NETWORKS:
    raise WeightsError(f'the system {weights.system!r} is unknown to this version')
  try:
    return NETWORKS[weights.system](weights.model)
  except KeyError as error:
    raise WeightsError(f'the size {error} of the {weights.system} networks is missing') from error
  except TypeError as error:  # such as a finder without sizes of its own
    raise WeightsError(
      f'the sizes of the {weights.system} networks are not in the form of this version: train them '
      f'again ({error})'
    ) from error
  except ValueError as error:  # for example a generator that only a later version knows
    raise WeightsError(str(error)) from error


def _file(path: str | os.PathLike) -> pathlib.Path:
  path = pathlib.Path(path)
  if path.is_dir():
    if not (path / FILE).is_file():
      raise WeightsError(
        f'{path} holds no {FILE}: the run has not finished; '
        'launch.py --mode=export writes it from the newest checkpoints'
      )
    return path / FILE
  if not path.is_file():
    raise WeightsError(f'there is no file of weights {path}')
  return path
