"""Released weights: one safetensors file a system; import of the official PyTorch checkpoints."""

import dataclasses
import hashlib
import json
import os
import pathlib
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import flax
import jax
import numpy as np
import safetensors
import safetensors.numpy

from oldphoto_jax import restore
from oldphoto_jax.models import cyclegan, mapping, pix2pix, vae

FILE = 'weights.safetensors'  # its name in the folder of a run
FORMAT = 'oldphoto_jax/1'


class WeightsError(ValueError):
  """A weights file or checkpoint that does not fit, with a sentence that says why."""


@dataclasses.dataclass(frozen=True)
class Weights:
  """A trained system.

  Attributes:
    system: which networks: 'triplet', 'pix2pix', 'cyclegan' (its G).
    model: their sizes, JSON values by name.
    params: nested dicts of float32 arrays.
  """

  system: str
  model: dict[str, Any]
  params: dict[str, Any]


def save(path: str | os.PathLike, weights: Weights, card: dict[str, Any]) -> None:
  """Writes one safetensors file; an older file is replaced in one move.

  `card` says where the weights are from (run, data, licences, scores); any JSON values.
  """
  path = pathlib.Path(path)
  flat = flax.traverse_util.flatten_dict(weights.params, sep='/')
  arrays = {name: np.ascontiguousarray(value, np.float32) for name, value in flat.items()}
  metadata = {
    'format': FORMAT,
    'system': weights.system,
    'model': json.dumps(weights.model),
    'card': json.dumps(card),
  }
  path.parent.mkdir(parents=True, exist_ok=True)
  temporary = path.with_name(f'.{path.name}.{os.getpid()}')
  try:
    safetensors.numpy.save_file(arrays, temporary, metadata)
    os.replace(temporary, path)
  finally:
    temporary.unlink(missing_ok=True)


def load(path: str | os.PathLike) -> Weights:
  """Reads a file of weights, or that of a run's folder, and checks every name and shape.

  Raises:
    WeightsError: where there is none, or it is not ours, damaged or incomplete.
  """
  file = _file(path)
  try:
    with safetensors.safe_open(file, 'numpy') as opened:
      metadata = opened.metadata() or {}
    flat = safetensors.numpy.load_file(file)
  except Exception as error:
    raise WeightsError(f'{file} cannot be read as safetensors: {error}') from error
  if metadata.get('format') != FORMAT:
    raise WeightsError(f'{file} is not a file of oldphoto_jax weights (format {FORMAT})')
  system, model = metadata['system'], json.loads(metadata['model'])
  params = flax.traverse_util.unflatten_dict(flat, sep='/')
  try:
    _, like, _ = _system(system, model)
  except WeightsError as error:
    raise WeightsError(f'{file}: {error}') from error
  check_shapes(params, like, str(file))
  return Weights(system, model, params)


def load_restorer(path: str | os.PathLike) -> restore.Restorer:
  """What `oldphoto restore --weights` uses: `load`, ready to restore.

  Raises:
    WeightsError: see `load`.
  """
  weights = load(path)
  file = _file(path)
  digest = hashlib.sha256(file.read_bytes()).hexdigest()[:12]
  return restorer(weights, f'{weights.system} {file.name} {digest}')


def restorer(weights: Weights, name: str) -> restore.Restorer:
  """The restoring function of trained weights; `name` identifies them in reports."""
  apply, _, multiple = _system(weights.system, weights.model)
  return restore.Restorer(apply, weights.params, multiple, name)


def triplet(model: mapping.Mapping, params: dict[str, Any]) -> Weights:
  """Weights of the triplet system from its model and {'rx': {'encoder'}, 'y': {'decoder'}, ...}."""
  sizes = {
    'width': model.rx.width,
    'latent': model.rx.latent,
    'blocks': model.rx.blocks,
    'norm': model.rx.norm,
    't_width': model.width,
    't_blocks': model.blocks,
    't_residual': model.residual,
  }
  return Weights('triplet', sizes, params)


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
      f'{want.get(name, "not part of the network")} in the network'
    )


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


def _system(system: str, sizes: dict[str, Any]) -> tuple[Callable, Any, int]:
  """(its restore function, the shapes of its parameters, what sides must be multiples of)."""
  key = jax.random.key(0)
  try:
    if system == 'triplet':
      model = _triplet_model(sizes)
      like = jax.eval_shape(partial(_triplet_params, model), key)
      return partial(mapping.restore, model), like, vae.DOWNSAMPLING
    if system == 'pix2pix':
      model = pix2pix.from_sizes(sizes)
      like = jax.eval_shape(partial(pix2pix.init, model), key).released
      return partial(pix2pix.restore, model), like, model.generator.multiple
    if system == 'cyclegan':
      model = cyclegan.from_sizes(sizes)
      like = jax.eval_shape(partial(cyclegan.init, model), key).released['G']
      return partial(cyclegan.restore, model), like, model.generator.multiple
  except KeyError as error:
    raise WeightsError(f'the size {error} of the {system} networks is missing') from error
  raise WeightsError(f'the system {system!r} is unknown to this version')


def _triplet_model(sizes: dict[str, Any]) -> mapping.Mapping:
  one = vae.VAE(
    width=sizes['width'], latent=sizes['latent'], blocks=sizes['blocks'], norm=sizes['norm']
  )
  return mapping.Mapping(
    one, one, width=sizes['t_width'], blocks=sizes['t_blocks'], residual=sizes['t_residual']
  )


def _triplet_params(model: mapping.Mapping, key: jax.Array) -> dict[str, Any]:
  rx, y = vae.init(model.rx, key).g, vae.init(model.y, key).g
  return {
    'rx': {'encoder': rx['encoder']},
    'y': {'decoder': y['decoder']},
    'mapping': mapping.init(model, key).g,
  }


# Official PyTorch layouts -----------------------------------------------------------------------


class _Reader:
  """Takes tensors out of a PyTorch state dict by key, and knows in the end which were left."""

  def __init__(self, state: Mapping[str, Any], what: str):
    self.state, self.what, self.taken = state, what, set()

  def __call__(self, key: str) -> np.ndarray:
    if key not in self.state:
      raise WeightsError(f'{self.what}: there is no {key!r}: this is not the file expected here')
    self.taken.add(key)
    return np.asarray(self.state[key], np.float32)

  def conv(self, key: str) -> dict[str, np.ndarray]:
    """[out, in, h, w] -> kernel [h, w, in, out]."""
    kernel = self._four(key).transpose(2, 3, 1, 0)
    return {'kernel': kernel} | self._bias(key)

  def conv_transpose(self, key: str) -> dict[str, np.ndarray]:
    """[in, out, h, w] -> kernel [h, w, in, out], flipped (see layers.conv_transpose2d)."""
    kernel = self._four(key).transpose(2, 3, 0, 1)[::-1, ::-1]
    return {'kernel': np.ascontiguousarray(kernel)} | self._bias(key)

  def resnet_block(self, key: str) -> dict[str, Any]:
    return {
      'conv1': self.conv(f'{key}.conv_block.1'),
      'conv2': self.conv(f'{key}.conv_block.5'),
    }

  def _four(self, key: str) -> np.ndarray:
    kernel = self(f'{key}.weight')
    if kernel.ndim != 4:
      raise WeightsError(f'{self.what}: {key}.weight has shape {kernel.shape}, not four axes')
    return kernel

  def _bias(self, key: str) -> dict[str, np.ndarray]:
    return {'bias': self(f'{key}.bias')} if f'{key}.bias' in self.state else {}

  def done(self, params: dict[str, Any]) -> dict[str, Any]:
    left = sorted(set(self.state) - self.taken)
    if left:
      more = f' and {len(left) - 3} more' if len(left) > 3 else ''
      raise WeightsError(f'{self.what}: no place for {", ".join(left[:3])}{more}')
    return params


def bopbtl_vae(state: Mapping[str, Any]) -> dict[str, Any]:
  """`netG_VAE` of the official code -> {'encoder', 'decoder'} of models.vae.

  Raises:
    WeightsError: if a key is missing or left over.
  """
  read = _Reader(state, 'VAE checkpoint')
  encoder = {
    'conv_in': read.conv('encoder.1'),
    'down0': read.conv('encoder.4'),
    'down1': read.conv('encoder.7'),
  } | {f'block{i}': read.resnet_block(f'encoder.{10 + i}') for i in range(4)}
  decoder = {f'block{i}': read.resnet_block(f'decoder.{i}') for i in range(4)} | {
    'up0': read.conv_transpose('decoder.4'),
    'up1': read.conv_transpose('decoder.7'),
    'conv_out': read.conv('decoder.11'),
  }
  return read.done({'encoder': encoder, 'decoder': decoder})


def bopbtl_mapping(state: Mapping[str, Any]) -> dict[str, Any]:
  """`Mapping_Model` (stage "quality") of the official code -> parameters of models.mapping.T.

  The number of residual blocks is read from the keys.

  Raises:
    WeightsError: if a key is missing or left over.
  """
  read = _Reader(state, 'mapping checkpoint')
  blocks = len({key.split('.')[1] for key in state if '.conv_block.' in key})
  params = {f'up{i}': read.conv(f'model.{3 * i}') for i in range(4)}
  params |= {f'block{i}': read.resnet_block(f'model.{12 + i}') for i in range(blocks)}
  first = 12 + blocks
  params |= {f'down{i}': read.conv(f'model.{first + 3 * i}') for i in range(3)}
  params['conv_out'] = read.conv(f'model.{first + 9}')
  return read.done(params)


def bopbtl_discriminator(state: Mapping[str, Any], scales: int = 2) -> dict[str, Any]:
  """`MultiscaleDiscriminator` of the official code -> models.vae.MultiScaleDiscriminator.

  In the file, `scale{scales - 1}_*` is the full resolution.

  Raises:
    WeightsError: if a key is missing or left over.
  """
  read = _Reader(state, 'discriminator checkpoint')
  params = {}
  for i in range(scales):
    prefix = f'scale{scales - 1 - i}_layer'
    n = len({key.split('.')[0] for key in state if key.startswith(prefix)})
    params[f'scale{i}'] = {f'conv{j}': read.conv(f'{prefix}{j}.0') for j in range(n)}
  return read.done(params)


# The official folder, below Global/checkpoints/restoration.
_BOPBTL_FILES = {
  'rx': 'VAE_A_quality/latest_net_G.pth',
  'y': 'VAE_B_quality/latest_net_G.pth',
  'mapping': 'mapping_quality/latest_net_mapping_net.pth',
}


def import_bopbtl(folder: str | os.PathLike) -> Weights:
  """Reads the official checkpoints of Wan et al. (stage "quality", without scratches).

  Args:
    folder: holds VAE_A_quality/, VAE_B_quality/ and mapping_quality/, or the official repository's
      Global/checkpoints/restoration/ with them.

  Returns:
    Weights of the triplet system.

  Raises:
    WeightsError: where a file is missing or unreadable, or a key or shape does not fit.
  """
  folder = pathlib.Path(folder)
  nested = folder / 'Global' / 'checkpoints' / 'restoration'
  root = nested if nested.is_dir() else folder
  missing = [name for name in _BOPBTL_FILES.values() if not (root / name).is_file()]
  if missing:
    raise WeightsError(f'{root} lacks {", ".join(missing)} of the official checkpoints')
  states = {key: _torch_load(root / name) for key, name in _BOPBTL_FILES.items()}
  rx, y = bopbtl_vae(states['rx']), bopbtl_vae(states['y'])
  t = bopbtl_mapping(states['mapping'])
  kernel, latent = rx['encoder']['conv_in']['kernel'], rx['encoder']['down1']['kernel']
  sizes = {
    'width': kernel.shape[-1],
    'latent': latent.shape[-1],
    'blocks': 4,
    'norm': True,
    't_width': t['up3']['kernel'].shape[-1],
    't_blocks': sum(name.startswith('block') for name in t),
    't_residual': False,
  }
  params = {
    'rx': {'encoder': rx['encoder']},
    'y': {'decoder': y['decoder']},
    'mapping': t,
  }
  like = jax.eval_shape(partial(_triplet_params, _triplet_model(sizes)), jax.random.key(0))
  check_shapes(params, like, str(root))
  return Weights('triplet', sizes, params)


def _torch_load(path: pathlib.Path) -> dict[str, np.ndarray]:
  try:
    import torch
  except ImportError as error:
    raise WeightsError(
      "reading official checkpoints needs PyTorch: pip install 'oldphoto_jax[torch]'"
    ) from error
  try:
    state = torch.load(path, map_location='cpu', weights_only=True)
    return {name: value.numpy() for name, value in state.items()}
  except Exception as error:
    raise WeightsError(f'{path} is not a state dict that PyTorch can read: {error}') from error
