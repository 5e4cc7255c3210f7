"""Import of official pix2pix and CycleGAN checkpoints (junyanz/pytorch-CycleGAN-and-pix2pix)."""

import os
from collections.abc import Mapping
from typing import Any

from oldphoto_jax import weights
from oldphoto_jax.models import cyclegan, gan_networks, pix2pix
from oldphoto_jax.weights import torch_state

_STATISTICS = ('running_mean', 'running_var', 'num_batches_tracked')


def unet(state: Mapping[str, Any]) -> dict[str, Any]:
  """`UnetGenerator` with batch or instance norm -> {'params', 'batch_stats'} of GanUNet.

  Batch norm's counters may be missing, as in old files, and old instance-norm statistics may
  exist: the network uses neither.

  Raises:
    WeightsError: if any other key is missing or left over.
  """
  read = torch_state.Reader(without_counters(state), 'U-Net checkpoint')
  levels = 1
  while f'{_level(levels + 1)}.1.weight' in state:
    levels += 1
  params = {'down1': read.conv('model.model.0'), 'up1': read.conv_transpose('model.model.3')}
  stats = {}
  for level in range(2, levels + 1):
    prefix = _level(level)
    innermost = level == levels
    params[f'down{level}'] = read.conv(f'{prefix}.1')
    params[f'up{level}'] = read.conv_transpose(f'{prefix}.{3 if innermost else 5}')
    norms = {f'up{level}_norm': 4} if innermost else {f'down{level}_norm': 2, f'up{level}_norm': 6}
    for name, place in norms.items():
      read_norm(read, f'{prefix}.{place}', name, params, stats)
  return read.done({'params': params, 'batch_stats': stats})


def resnet(state: Mapping[str, Any]) -> dict[str, Any]:
  """`ResnetGenerator` with instance norm -> parameters of gan_networks.GanResNet.

  The number of residual blocks is read from the keys. Blocks with dropout are supported; dropout
  moves their second convolution from 5 to 6. Old instance-norm statistics are dropped.

  Raises:
    WeightsError: if any other key is missing or left over.
  """
  read = torch_state.Reader(without_counters(state), 'ResNet checkpoint')
  blocks = len({key.split('.')[1] for key in state if '.conv_block.' in key})
  params = {
    'conv_in': read.conv('model.1'),
    'down0': read.conv('model.4'),
    'down1': read.conv('model.7'),
  }
  for i in range(blocks):
    block = f'model.{10 + i}.conv_block'
    second = 6 if f'{block}.6.weight' in state else 5
    params[f'block{i}'] = {
      'conv1': read.conv(f'{block}.1'),
      'conv2': read.conv(f'{block}.{second}'),
    }
  params['up0'] = read.conv_transpose(f'model.{10 + blocks}')
  params['up1'] = read.conv_transpose(f'model.{13 + blocks}')
  params['conv_out'] = read.conv(f'model.{17 + blocks}')
  return read.done(params)


def import_pix2pix(path: str | os.PathLike) -> weights.Weights:
  """Reads a generator of the official code, such as `latest_net_G.pth` of `facades_pretrained`.

  The official test script normalises by the statistics of the photo itself, and keeps dropout on.
  Imported weights do the former if they were trained with batch norm, but never the latter.

  Raises:
    WeightsError: if the file is missing, unreadable, or not a U-Net of the official code.
  """
  params = unet(torch_state.load(path))
  batch = bool(params['batch_stats'])
  downs = sum(name.startswith('down') and 'norm' not in name for name in params['params'])
  net = gan_networks.GanUNet(
    width=params['params']['down1']['kernel'].shape[-1],
    downs=downs,
    norm=gan_networks.BATCH if batch else gan_networks.INSTANCE,
    dropout_levels=tuple(range(5, downs)),
  )
  model = pix2pix.Pix2Pix(generator=net, test_batch_statistics=batch)
  imported = weights.Weights('pix2pix', pix2pix.sizes(model), params)
  weights.check(imported, str(path))
  return imported


def import_cyclegan(path: str | os.PathLike) -> weights.Weights:
  """Reads a generator of the official code, such as `latest_net_G.pth` of `monet2photo_pretrained`.

  Raises:
    WeightsError: if the file is missing, unreadable, or not a ResNet of the official code.
  """
  params = resnet(torch_state.load(path))
  net = gan_networks.GanResNet(
    width=params['conv_in']['kernel'].shape[-1],
    blocks=sum(name.startswith('block') for name in params),
  )
  sizes = cyclegan.sizes(cyclegan.CycleGAN(generator=net))
  imported = weights.Weights('cyclegan', sizes, params)
  weights.check(imported, str(path))
  return imported


def _level(level: int) -> str:
  """The prefix of a U-Net's level, from 2 on. Each level contains the next."""
  return 'model.model.1.model' + '.3.model' * (level - 2)


def without_counters(state: Mapping[str, Any]) -> dict[str, Any]:
  """`state` without batch-norm counters, and without statistics of norms that have no scale."""

  def kept(key):
    layer, _, name = key.rpartition('.')
    if name not in _STATISTICS:
      return True
    return name != 'num_batches_tracked' and f'{layer}.weight' in state

  return {key: value for key, value in state.items() if kept(key)}


def read_norm(read: torch_state.Reader, key: str, name: str, params: dict, stats: dict) -> None:
  """Adds the batch norm at `key` under `name`; adds nothing if the network has instance norm."""
  if not any(k.startswith(f'{key}.') and '.running_' in k for k in read.state):
    return
  params[name], stats[name] = read.batch_norm(key)
