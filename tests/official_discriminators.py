"""The official discriminators, which nobody restores with: for the tests of parity."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from oldphoto_jax.weights import official_gans, torch_state


def bopbtl(state: Mapping[str, Any], scales: int = 2) -> dict[str, Any]:
  """`MultiscaleDiscriminator` of the official code -> models.vae.MultiScaleDiscriminator.

  In the file, `scale{scales - 1}_*` is the full resolution. With spectral norm: {'params',
  'vectors'}, see parameters.spectral_norm.

  Raises:
    WeightsError: if a key is missing or left over.
  """
  spectral = any(key.endswith('.weight_v') for key in state)
  # u is W v, normalised.
  state = {k.replace('_orig', ''): v for k, v in state.items() if not k.endswith('.weight_u')}
  read = torch_state.Reader(state, 'discriminator checkpoint')
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


def patch(state: Mapping[str, Any]) -> dict[str, Any]:
  """`NLayerDiscriminator` -> {'params', 'batch_stats'} of gan_networks.GanPatchDiscriminator.

  Raises:
    WeightsError: if a key is missing or left over, except as for official_gans.unet.
  """
  read = torch_state.Reader(official_gans.without_counters(state), 'discriminator checkpoint')
  places = sorted(
    int(key.split('.')[1])
    for key, value in state.items()
    if key.endswith('.weight') and np.ndim(value) == 4
  )
  params, stats = {}, {}
  for i, place in enumerate(places):
    params[f'conv{i}'] = read.conv(f'model.{place}')
    if 0 < i < len(places) - 1:
      official_gans.read_norm(read, f'model.{place + 1}', f'norm{i}', params, stats)
  return read.done({'params': params, 'batch_stats': stats})
