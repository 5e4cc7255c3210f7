"""Released weights: one safetensors file a system; import of the official PyTorch checkpoints."""

import dataclasses
import hashlib
import json
import os
import pathlib
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import flax
import jax
import numpy as np
import safetensors
import safetensors.numpy

from oldphoto_jax import detect, restore
from oldphoto_jax.errors import WeightsError
from oldphoto_jax.models import cyclegan, fusion, mapping, pix2pix, scratch, vae

FILE = 'weights.safetensors'  # its name in the folder of a run
FORMAT = 'oldphoto_jax/1'

# The system that comes with the package: see MODEL_CARD.md beside it.
SHIPPED = pathlib.Path(__file__).parent / 'pretrained' / FILE


@dataclasses.dataclass(frozen=True)
class Weights:
  """A trained system.

  Attributes:
    system: which networks: 'triplet', 'pix2pix', 'cyclegan' (its G), 'scratch' (the detector).
    model: their sizes, JSON values by name.
    params: nested dicts of float32 arrays.
  """

  system: str
  model: dict[str, Any]
  params: dict[str, Any]


def save(
  path: str | os.PathLike, weights: Weights, card: dict[str, Any], half: bool = False
) -> None:
  """Writes one safetensors file; an older file is replaced in one move.

  Args:
    path: of the file.
    weights: what to write.
    card: where the weights are from (run, data, licences, scores); any JSON values.
    half: as float16, in half of the space. They are float32 again when loaded.
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
  path.parent.mkdir(parents=True, exist_ok=True)
  temporary = path.with_name(f'.{path.name}.{os.getpid()}')
  try:
    temporary.touch()  # with the rights of any new file: safetensors' own are for the owner alone
    rights = temporary.stat().st_mode
    safetensors.numpy.save_file(arrays, temporary, metadata)
    temporary.chmod(rights)
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
    flat = {k: v.astype(np.float32) for k, v in safetensors.numpy.load_file(file).items()}
  except Exception as error:
    raise WeightsError(f'{file} cannot be read as safetensors: {error}') from error
  if metadata.get('format') != FORMAT:
    raise WeightsError(f'{file} is not a file of oldphoto_jax weights (format {FORMAT})')
  system, model = metadata['system'], json.loads(metadata['model'])
  params = flax.traverse_util.unflatten_dict(flat, sep='/')
  try:
    like = _networks(system, model).like
  except WeightsError as error:
    raise WeightsError(f'{file}: {error}') from error
  check_shapes(params, like, str(file))
  return Weights(system, model, params)


def card(path: str | os.PathLike) -> dict[str, Any]:
  """Where the weights of a file, or of a run's folder, are from: see `save`.

  Raises:
    WeightsError: where there is none, or it is damaged.
  """
  file = _file(path)
  try:
    with safetensors.safe_open(file, 'numpy') as opened:
      return json.loads((opened.metadata() or {}).get('card', '{}'))
  except Exception as error:
    raise WeightsError(f'{file} cannot be read as safetensors: {error}') from error


def digest(path: str | os.PathLike) -> str:
  """Twelve digits that tell a file of weights, or that of a run's folder, from all others.

  Raises:
    WeightsError: where there is none.
  """
  return hashlib.sha256(_file(path).read_bytes()).hexdigest()[:12]


def load_restorer(path: str | os.PathLike) -> restore.Restorer:
  """What `oldphoto restore --weights` uses: `load`, ready to restore.

  Raises:
    WeightsError: see `load`; and for the weights of a detector.
  """
  return load_with_detector(path)[0]


def load_with_detector(
  path: str | os.PathLike,
) -> tuple[restore.Restorer, detect.Detector | None]:
  """`load_restorer`, and the detector that a triplet system was released with, or None.

  The file is read and hashed once.

  Raises:
    WeightsError: see `load_restorer`.
  """
  weights, name = _named(path)
  if weights.system == 'scratch':
    raise WeightsError(
      f'{_file(path)} holds a detector, which marks damage and restores nothing: use it with '
      '`oldphoto detect`, and give the weights of a system that restores here'
    )
  return restorer(weights, name), _detector(weights, name)


def load_detector(path: str | os.PathLike) -> detect.Detector:
  """The detector of a file: its own, or the one that a triplet system was released with.

  Raises:
    WeightsError: see `load`; and for the weights of a system without a detector.
  """
  detector = _detector(*_named(path))
  if detector is None:
    raise WeightsError(
      f'{_file(path)} holds a system that restores photos, without a detector of damage: use it '
      'with `oldphoto restore`, and train a detector with configs/scratch.py'
    )
  return detector


def _named(path: str | os.PathLike) -> tuple[Weights, str]:
  """The weights of a file, and what to call them in reports."""
  weights, file = load(path), _file(path)
  return weights, f'{weights.system} {file.name} {digest(file)}'


def _detector(weights: Weights, name: str) -> detect.Detector | None:
  if weights.system == 'triplet' and 'detector' in weights.model:
    weights = Weights('scratch', weights.model['detector'], weights.params['detector'])
  if weights.system != 'scratch':
    return None
  networks = _networks(weights.system, weights.model)
  return detect.Detector(networks.apply, weights.params, networks.multiple, name)


def restorer(weights: Weights, name: str) -> restore.Restorer:
  """The restoring function of trained weights; `name` identifies them in reports."""
  networks = _networks(weights.system, weights.model)
  return restore.Restorer(
    networks.apply,
    weights.params,
    networks.multiple,
    name,
    fill=networks.fill,
    layerwise=networks.layerwise,
  )


def triplet(
  model: mapping.Mapping,
  params: dict[str, Any],
  masked: mapping.Mapping | None = None,
  fused: fusion.Fusion | None = None,
  detector: Weights | None = None,
) -> Weights:
  """Weights of the triplet system.

  Args:
    model: of the mapping without masks.
    params: {'rx': {'encoder'}, 'y': {'decoder'}, 'mapping'}; with `masked` also 'masked':
      {'y': {'decoder'}, 'mapping'}, which fills holes between the same encoder and its own decoder;
      with `fused` also 'fusion'.
    masked: the model of the mapping with masks, where there is one.
    fused: the model of the fusion, where there is one.
    detector: weights of the system 'scratch', to find the holes.
  """
  one = model.rx
  sizes = {'width': one.width, 'latent': one.latent, 'blocks': one.blocks, 'norm': one.norm}
  sizes |= {'t_width': model.width, 't_blocks': model.blocks, 't_residual': model.residual}
  if masked is not None:
    sizes['masked'] = {
      't_width': masked.width,
      't_blocks': masked.blocks,
      't_residual': masked.residual,
      'mask_pool': masked.mask_pool,
      'scaled': masked.scaled,
    }
  if fused is not None:
    sizes['fusion'] = {'width': fused.width, 'depth': fused.depth, 'blocks': fused.blocks}
    sizes['fusion'] |= {'masked': fused.masked is not None, 'alone': fused.alone}
  if detector is not None:
    sizes['detector'], params = detector.model, params | {'detector': detector.params}
  return Weights('triplet', sizes, params)


def without_fusion(weights: Weights) -> Weights:
  """The triplet system as Wan et al. have it, out of weights that may hold a fusion as well."""
  model, params = (
    {k: v for k, v in d.items() if k != 'fusion'} for d in (weights.model, weights.params)
  )
  return Weights(weights.system, model, params)


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


class _Networks(NamedTuple):
  """The functions of a system's weights: see restore.Restorer; `like` has the shapes of params."""

  apply: Callable
  fill: Callable | None
  like: Any
  multiple: int
  layerwise: bool


def _networks(system: str, sizes: dict[str, Any]) -> _Networks:
  key = jax.random.key(0)
  try:
    if system == 'triplet':
      return _triplet_networks(sizes, key)
    if system == 'pix2pix':
      model = pix2pix.from_sizes(sizes)
      like = jax.eval_shape(partial(pix2pix.init, model), key).released
      return _Networks(partial(pix2pix.restore, model), None, like, model.generator.multiple, True)
    if system == 'cyclegan':
      model = cyclegan.from_sizes(sizes)
      like = jax.eval_shape(partial(cyclegan.init, model), key).released['G']
      return _Networks(partial(cyclegan.restore, model), None, like, model.generator.multiple, True)
    if system == 'scratch':
      model = scratch.from_sizes(sizes)
      like = jax.eval_shape(partial(scratch.init, model), key).released
      return _Networks(partial(scratch.detect, model), None, like, model.net.multiple, False)
  except KeyError as error:
    raise WeightsError(f'the size {error} of the {system} networks is missing') from error
  raise WeightsError(f'the system {system!r} is unknown to this version')


def _triplet_networks(sizes: dict[str, Any], key: jax.Array) -> _Networks:
  model, masked = _triplet_models(sizes)
  like = jax.eval_shape(partial(_triplet_params, model, masked), key)
  if 'detector' in sizes:
    like['detector'] = _networks('scratch', sizes['detector']).like

  def fill_holes(params, old, mask):
    return (mapping.restore(masked, {'rx': params['rx']} | params['masked'], old, mask),) * 2

  fill = None if masked is None else fill_holes
  if 'fusion' not in sizes:
    apply = partial(mapping.restore, model)
    return _Networks(apply, fill, like, vae.DOWNSAMPLING, sizes['norm'])

  f = sizes['fusion']
  fused = fusion.Fusion(
    model,
    masked if f['masked'] else None,
    width=f['width'],
    depth=f['depth'],
    blocks=f['blocks'],
    alone=f.get('alone', False),  # not in the files of version 0.1
  )
  like['fusion'] = jax.eval_shape(partial(fusion.init, fused), key).g
  apply = partial(fusion.restore, fused)

  if f['masked']:
    fill = partial(fusion.fill_twice, fused)
  return _Networks(apply, fill, like, fused.multiple, sizes['norm'])


def _triplet_models(sizes: dict[str, Any]) -> tuple[mapping.Mapping, mapping.Mapping | None]:
  """The mapping without masks, and the one with them or None."""
  one = vae.VAE(
    width=sizes['width'], latent=sizes['latent'], blocks=sizes['blocks'], norm=sizes['norm']
  )

  def between(sizes):
    return mapping.Mapping(
      one, one, width=sizes['t_width'], blocks=sizes['t_blocks'], residual=sizes['t_residual']
    )

  masked = sizes.get('masked')
  if masked is None:
    return between(sizes), None
  pool, scaled = masked['mask_pool'], masked['scaled']
  with_mask = dataclasses.replace(between(masked), masked=True, mask_pool=pool, scaled=scaled)
  return between(sizes), with_mask


def _triplet_params(
  model: mapping.Mapping, masked: mapping.Mapping | None, key: jax.Array
) -> dict[str, Any]:
  rx, y = vae.init(model.rx, key).g, vae.init(model.y, key).g
  decoder = {'decoder': y['decoder']}
  params = {'rx': {'encoder': rx['encoder']}, 'y': decoder}
  params['mapping'] = mapping.init(model, key).g
  if masked is not None:
    params['masked'] = {'y': decoder, 'mapping': mapping.init(masked, key).g}
  return params


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
    """[in, out, h, w] -> kernel [h, w, in, out], flipped (see convolution.conv_transpose2d)."""
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


def bopbtl_masked_mapping(state: Mapping[str, Any]) -> dict[str, Any]:
  """`Mapping_Model_with_mask` (stage "scratch") -> parameters of a masked models.mapping.T.

  The number of residual blocks after the partial non-local block is read from the keys.

  Raises:
    WeightsError: if a key is missing or left over.
  """
  read = _Reader(state, 'scratch mapping checkpoint')
  blocks = len({k.split('.')[1] for k in state if k.startswith('after_NL.') and '.conv_b' in k})
  params = {f'up{i}': read.conv(f'before_NL.{3 * i}') for i in range(4)}
  params['nonlocal'] = {name: read.conv(f'NL.{name}') for name in ('g', 'theta', 'phi', 'W')}
  refining = {f'block{i}': read.resnet_block(f'NL.res_block.{i}') for i in range(3)}
  params['nonlocal'] |= refining
  params |= {f'block{i}': read.resnet_block(f'after_NL.{i}') for i in range(blocks)}
  params |= {f'down{i}': read.conv(f'after_NL.{blocks + 3 * i}') for i in range(3)}
  params['conv_out'] = read.conv(f'after_NL.{blocks + 9}')
  return read.done(params)


def bopbtl_discriminator(state: Mapping[str, Any], scales: int = 2) -> dict[str, Any]:
  """`MultiscaleDiscriminator` of the official code -> models.vae.MultiScaleDiscriminator.

  In the file, `scale{scales - 1}_*` is the full resolution. With spectral norm: {'params',
  'vectors'}, see layers.spectral_norm.

  Raises:
    WeightsError: if a key is missing or left over.
  """
  spectral = any(key.endswith('.weight_v') for key in state)
  # u is W v, normalised.
  state = {k.replace('_orig', ''): v for k, v in state.items() if not k.endswith('.weight_u')}
  read = _Reader(state, 'discriminator checkpoint')
  params, vectors = {}, {}
  for i in range(scales):
    prefix = f'scale{scales - 1 - i}_layer'
    n = len({key.split('.')[0] for key in state if key.startswith(prefix)})
    params[f'scale{i}'] = {f'conv{j}': read.conv(f'{prefix}{j}.0') for j in range(n)}
    vectors[f'scale{i}'] = {}
    for j in range(n if spectral else 0):
      height, width, channels, _ = params[f'scale{i}'][f'conv{j}']['kernel'].shape
      v = read(f'{prefix}{j}.0.weight_v').reshape(channels, height, width)
      vectors[f'scale{i}'][f'conv{j}'] = {'kernel': v.transpose(1, 2, 0)}
  return read.done({'params': params, 'vectors': vectors} if spectral else params)


# The official folder, below Global/checkpoints/restoration.
_BOPBTL_FILES = {
  'rx': 'VAE_A_quality/latest_net_G.pth',
  'y': 'VAE_B_quality/latest_net_G.pth',
  'mapping': 'mapping_quality/latest_net_mapping_net.pth',
}
# For photos with scratches; taken where both are there.
_BOPBTL_MASKED_FILES = {
  'y': 'VAE_B_scratch/latest_net_G.pth',
  'mapping': 'mapping_scratch/latest_net_mapping_net.pth',
}
_BOPBTL_LEFT_OUT = 'mapping_Patch_Attention/latest_net_mapping_net.pth'


def import_bopbtl(folder: str | os.PathLike) -> tuple[Weights, list[str]]:
  """Reads the official checkpoints of Wan et al., stages "quality" and, where it is, "scratch".

  Args:
    folder: holds VAE_A_quality/, VAE_B_quality/ and mapping_quality/, and for scratches
      VAE_B_scratch/ and mapping_scratch/; or the official repository's
      Global/checkpoints/restoration/ with them.

  Returns:
    Weights of the triplet system, and a sentence for each file that was left out.

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
  sizes = {'width': kernel.shape[-1], 'latent': latent.shape[-1], 'blocks': 4, 'norm': True}
  params = {'rx': {'encoder': rx['encoder']}, 'y': {'decoder': y['decoder']}, 'mapping': t}
  sizes |= _mapping_sizes(t)

  left_out = []
  scratch = {key: root / name for key, name in _BOPBTL_MASKED_FILES.items()}
  if all(path.is_file() for path in scratch.values()):
    masked = {'y': {'decoder': bopbtl_vae(_torch_load(scratch['y']))['decoder']}}
    masked['mapping'] = bopbtl_masked_mapping(_torch_load(scratch['mapping']))
    params['masked'] = masked
    sizes['masked'] = _mapping_sizes(masked['mapping'])
    sizes['masked'] |= {'mask_pool': 'reference', 'scaled': False}
  else:
    lacking = ' and '.join(str(path) for path in scratch.values() if not path.is_file())
    left_out.append(f'the masked branch is left out: {lacking} is not there')
  if (root / _BOPBTL_LEFT_OUT).is_file():
    left_out.append(
      f'{root / _BOPBTL_LEFT_OUT} is left out: the high-resolution variant that copies patches is '
      'not supported, the scratch mapping fills holes at any size here'
    )
  like = jax.eval_shape(partial(_triplet_params, *_triplet_models(sizes)), jax.random.key(0))
  check_shapes(params, like, str(root))
  return Weights('triplet', sizes, params), left_out


def _mapping_sizes(t: dict[str, Any]) -> dict[str, Any]:
  blocks = sum(name.startswith('block') for name in t)
  return {'t_width': t['up3']['kernel'].shape[-1], 't_blocks': blocks, 't_residual': False}


def bopbtl_detector(state: Mapping[str, Any]) -> dict[str, Any]:
  """`UNet` of the official scratch detection -> {'params', 'batch_stats'} of models.scratch.UNet.

  The depth is read from the keys. Batch norm's counters may be missing.

  Raises:
    WeightsError: if any other key is missing or left over, or a blur is not the network's.
  """
  state = {k: v for k, v in state.items() if not k.endswith('.num_batches_tracked')}
  read = _Reader(state, 'detector checkpoint')
  depth = len({key.split('.')[1] for key in state if key.startswith('down_sample.')})
  params, stats = {'conv_in': read.conv('first.1'), 'conv_out': read.conv('last.1')}, {}

  def block(name, key, place):
    norm = f'{key}.{place + 1}'
    params[name] = read.conv(f'{key}.{place}')
    params[f'{name}_norm'] = {'scale': read(f'{norm}.weight'), 'bias': read(f'{norm}.bias')}
    mean, var = read(f'{norm}.running_mean'), read(f'{norm}.running_var')
    stats[f'{name}_norm'] = {'mean': mean, 'var': var}

  for i in range(depth):
    block(f'pool{i}', f'down_sample.{i}', 1)
    blur = np.outer([1, 2, 1], [1, 2, 1]) / 16
    if not np.allclose(read(f'down_sample.{i}.4.filt'), blur):
      raise WeightsError(f'detector checkpoint: down_sample.{i}.4.filt is not the blur [1, 2, 1]')
    up = f'up_path.{depth - 1 - i}'
    params[f'up{i}'] = read.conv(f'{up}.up.2')
    for j, place in ((1, 1), (2, 5)):
      block(f'down{i}_conv{j}', f'down_path.{i}.block', place)
      block(f'up{i}_conv{j}', f'{up}.conv_block.block', place)
  return read.done({'params': params, 'batch_stats': stats})


def import_bopbtl_detector(path: str | os.PathLike) -> Weights:
  """Reads the official detector, Global/checkpoints/detection/FT_Epoch_latest.pt.

  Raises:
    WeightsError: if the file is missing, unreadable, or not that network.
  """
  path = pathlib.Path(path)
  if not path.is_file():
    raise WeightsError(f'there is no file {path}')
  params = bopbtl_detector(_torch_load(path, 'model_state'))
  depth = sum(name.startswith('pool') and name.endswith('norm') for name in params['params'])
  width = params['params']['conv_in']['kernel'].shape[-1]
  model = scratch.Scratch(net=scratch.UNet(width=width, depth=depth))
  weights = Weights('scratch', scratch.sizes(model), params)
  check_shapes(params, _networks(weights.system, weights.model).like, str(path))
  return weights


def _torch_load(path: pathlib.Path, entry: str | None = None) -> dict[str, np.ndarray]:
  """The state dict in a file, or that under the name `entry` of a dict in the file."""
  try:
    import torch
  except ImportError as error:
    raise WeightsError(
      "reading official checkpoints needs PyTorch: pip install 'oldphoto_jax[torch]'"
    ) from error
  try:
    state = torch.load(path, map_location='cpu', weights_only=True)
    state = state if entry is None else state[entry]
    return {name: value.numpy() for name, value in state.items()}
  except KeyError as error:
    raise WeightsError(f'{path} lacks {error}: this is not the file expected here') from error
  except Exception as error:
    raise WeightsError(f'{path} is not a state dict that PyTorch can read: {error}') from error
