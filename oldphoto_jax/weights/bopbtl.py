"""Import of the official checkpoints of Wan et al. 2020 (Bringing-Old-Photos-Back-to-Life).

`read_*` convert a state dict to the parameters of one of our networks, `import_*` convert files to
weights that can be saved. All raise WeightsError if a key is missing or left over.
"""

import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from oldphoto_jax import weights
from oldphoto_jax.errors import WeightsError
from oldphoto_jax.models import detector, patch_attention
from oldphoto_jax.weights import torch_state


def read_vae(state: Mapping[str, Any]) -> dict[str, Any]:
  """`netG_VAE` of the official code -> {'encoder', 'decoder'} of models.vae."""
  read = torch_state.Reader(state, 'VAE checkpoint')
  encoder = {
    'conv_in': read.conv('encoder.1'),
    'down0': read.conv('encoder.4'),
    'down1': read.conv('encoder.7'),
  } | {f'block{i}': _resnet_block(read, f'encoder.{10 + i}') for i in range(4)}
  decoder = {f'block{i}': _resnet_block(read, f'decoder.{i}') for i in range(4)} | {
    'up0': read.conv_transpose('decoder.4'),
    'up1': read.conv_transpose('decoder.7'),
    'conv_out': read.conv('decoder.11'),
  }
  return read.done({'encoder': encoder, 'decoder': decoder})


def read_mapping(state: Mapping[str, Any]) -> dict[str, Any]:
  """`Mapping_Model` (stage "quality") of the official code -> parameters of models.mapping.T.

  The number of residual blocks is read from the keys.
  """
  read = torch_state.Reader(state, 'mapping checkpoint')
  blocks = len({key.split('.')[1] for key in state if '.conv_block.' in key})
  params = {f'up{i}': read.conv(f'model.{3 * i}') for i in range(4)}
  params |= {f'block{i}': _resnet_block(read, f'model.{12 + i}') for i in range(blocks)}
  first = 12 + blocks
  params |= {f'down{i}': read.conv(f'model.{first + 3 * i}') for i in range(3)}
  params['conv_out'] = read.conv(f'model.{first + 9}')
  return read.done(params)


def read_masked_mapping(state: Mapping[str, Any]) -> dict[str, Any]:
  """`Mapping_Model_with_mask` (stage "scratch") -> parameters of a masked models.mapping.T.

  The number of residual blocks after the partial non-local block is read from the keys.
  """
  read = torch_state.Reader(state, 'scratch mapping checkpoint')
  blocks = len({k.split('.')[1] for k in state if k.startswith('after_NL.') and '.conv_b' in k})
  params = {f'up{i}': read.conv(f'before_NL.{3 * i}') for i in range(4)}
  params['nonlocal'] = {name: read.conv(f'NL.{name}') for name in ('g', 'theta', 'phi', 'W')}
  refining = {f'block{i}': _resnet_block(read, f'NL.res_block.{i}') for i in range(3)}
  params['nonlocal'] |= refining
  params |= {f'block{i}': _resnet_block(read, f'after_NL.{i}') for i in range(blocks)}
  params |= {f'down{i}': read.conv(f'after_NL.{blocks + 3 * i}') for i in range(3)}
  params['conv_out'] = read.conv(f'after_NL.{blocks + 9}')
  return read.done(params)


def read_patch_mapping(state: Mapping[str, Any]) -> dict[str, Any]:
  """`Mapping_Model_with_mask_2` (scratches, --HR) -> parameters of patch_attention.PatchT."""
  read = torch_state.Reader(state, 'high-resolution mapping checkpoint')
  params = {f'up{i}': read.conv(f'before_NL.{3 * i}') for i in range(4)}
  groups = ('before_NL.12', 'before_NL.13', 'res_block_1.0', 'res_block_1.1')
  groups += ('res_block_2.0', 'res_block_2.1', 'after_NL.0', 'after_NL.1')
  params |= {f'block{i}': _resnet_block(read, key) for i, key in enumerate(groups)}
  for i, size in enumerate(patch_attention.SIZES, 1):
    params[f'copy{size}'] = {
      'block': _resnet_block(read, f'NL_scale_{i}.res_block.0'),
      'combine': read.conv(f'NL_scale_{i}.F_Combine'),
    }
  params |= {f'down{i}': read.conv(f'after_NL.{2 + 3 * i}') for i in range(3)}
  params['conv_out'] = read.conv('after_NL.11')
  return read.done(params)


def read_detector(state: Mapping[str, Any]) -> dict[str, Any]:
  """`UNet` of the official scratch detection -> {'params', 'batch_stats'} of DetectorUNet.

  The depth is read from the keys. Batch norm's counters may be missing.

  Raises:
    WeightsError: any other key is missing or left over, or a blur kernel differs.
  """
  state = {k: v for k, v in state.items() if not k.endswith('.num_batches_tracked')}
  read = torch_state.Reader(state, 'detector checkpoint')
  depth = len({key.split('.')[1] for key in state if key.startswith('down_sample.')})
  params, stats = {'conv_in': read.conv('first.1'), 'conv_out': read.conv('last.1')}, {}

  def block(name, key, place):
    params[name] = read.conv(f'{key}.{place}')
    norm = f'{name}_norm'
    params[norm], stats[norm] = read.batch_norm(f'{key}.{place + 1}')

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


# The official folder, below Global/checkpoints/restoration.
_FILES = {
  'rx': 'VAE_A_quality/latest_net_G.pth',
  'y': 'VAE_B_quality/latest_net_G.pth',
  'mapping': 'mapping_quality/latest_net_mapping_net.pth',
}
# For photos with scratches, each with the decoder beside it; used if both exist.
_MASKED_DECODER = 'VAE_B_scratch/latest_net_G.pth'
_MASKED = 'mapping_scratch/latest_net_mapping_net.pth'
_PATCHED = 'mapping_Patch_Attention/latest_net_mapping_net.pth'
_DETECTOR = 'detection/FT_Epoch_latest.pt'  # beside the folder

_DILATION = 3  # pixels by which run.py --HR widens masks


def import_triplet(folder: str | os.PathLike) -> tuple[weights.Weights, list[str]]:
  """Reads the official checkpoints of Wan et al., all of their folder Global.

  Args:
    folder: holds VAE_A_quality/, VAE_B_quality/ and mapping_quality/, and for scratches
      VAE_B_scratch/ with mapping_scratch/, mapping_Patch_Attention/ or both; or the official
      repository's Global/checkpoints/restoration/ with them. The detector is read from
      detection/FT_Epoch_latest.pt beside this folder.

  Returns:
    Weights of the triplet system, and a sentence for each part that was left out.

  Raises:
    WeightsError: a file is missing or unreadable, or a key or shape does not fit.
  """
  folder = pathlib.Path(folder)
  nested = folder / 'Global' / 'checkpoints' / 'restoration'
  root = nested if nested.is_dir() else folder
  missing = [name for name in _FILES.values() if not (root / name).is_file()]
  if missing:
    raise WeightsError(f'{root} lacks {", ".join(missing)} of the official checkpoints')
  states = {key: torch_state.load(root / name) for key, name in _FILES.items()}
  rx, y = read_vae(states['rx']), read_vae(states['y'])
  t = read_mapping(states['mapping'])
  kernel, latent = rx['encoder']['conv_in']['kernel'], rx['encoder']['down1']['kernel']
  sizes = {'width': kernel.shape[-1], 'latent': latent.shape[-1], 'blocks': 4, 'norm': True}
  params = {'rx': {'encoder': rx['encoder']}, 'y': {'decoder': y['decoder']}, 'mapping': t}
  sizes |= _mapping_sizes(t)

  left_out = []
  for name, part, file, read, more in (
    ('masked', 'the masked branch', _MASKED, read_masked_mapping, {'scaled': False}),
    ('patched', 'the high-resolution branch', _PATCHED, read_patch_mapping, {'grow': _DILATION}),
  ):
    files = (root / _MASKED_DECODER, root / file)
    lacking = ' and '.join(str(path) for path in files if not path.is_file())
    if lacking:
      left_out.append(f'{part} is left out: {lacking} is missing')
      continue
    decoder, mapped = (torch_state.load(path) for path in files)
    params[name] = {'y': {'decoder': read_vae(decoder)['decoder']}, 'mapping': read(mapped)}
    sizes[name] = _mapping_sizes(params[name]['mapping']) | {'mask_pool': 'reference'} | more
  if 'patched' in sizes:
    sizes['patched']['t_blocks'] = 2  # in each group
  path = root.parent / _DETECTOR
  if path.is_file():
    detector = import_detector(path)
    sizes['detector'], params['detector'] = detector.model, detector.params
  else:
    left_out.append(f'the detector is left out: {path} is missing')
  imported = weights.Weights('triplet', sizes, params)
  weights.check(imported, str(root))
  return imported, left_out


def _mapping_sizes(t: dict[str, Any]) -> dict[str, Any]:
  blocks = sum(name.startswith('block') for name in t)
  return {'t_width': t['up3']['kernel'].shape[-1], 't_blocks': blocks, 't_residual': False}


def import_detector(path: str | os.PathLike) -> weights.Weights:
  """Reads the official detector, Global/checkpoints/detection/FT_Epoch_latest.pt.

  Raises:
    WeightsError: if the file is missing, unreadable, or not that network.
  """
  params = read_detector(torch_state.load(path, 'model_state'))
  depth = sum(name.startswith('pool') and name.endswith('norm') for name in params['params'])
  width = params['params']['conv_in']['kernel'].shape[-1]
  model = detector.Detector(net=detector.DetectorUNet(width=width, depth=depth))
  imported = weights.Weights('detector', detector.sizes(model), params)
  weights.check(imported, str(path))
  return imported


def _resnet_block(read: torch_state.Reader, key: str) -> dict[str, Any]:
  return {'conv1': read.conv(f'{key}.conv_block.1'), 'conv2': read.conv(f'{key}.conv_block.5')}
