"""Weights of the official networks of Deep Image Prior, as our parameters, for tests of parity."""

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from oldphoto_jax.dip.networks import Network, ResNet, Skip, UNet


def _skip_names(net: Skip) -> Iterator[tuple[str, str]]:
  # Positions in the reference's nested nn.Sequential: 1 the branches, 2 Norm, 3 and 4 the
  # convolution up, 6 and 7 the 1x1 one; reflection padding is a layer before each convolution.
  conv = '.1' if net.pad_mode == 'reflect' else '.0'
  scale = ''
  for i, features in enumerate(net.skip):
    deeper = scale + ('1.1.' if features else '1.')
    if features:
      yield f'{scale}1.0.1{conv}', f'skip_{i}/conv'
      yield f'{scale}1.0.2', f'skip_{i}/norm'
    for k, name in ((1, 'halve'), (4, 'down')):
      yield f'{deeper}{k}{conv}', f'{name}_{i}/conv'
      yield f'{deeper}{k + 1}', f'{name}_{i}/norm'
    yield f'{scale}2', f'norm_{i}'
    for k, name in ((3, 'up'), (6, 'mix')) if net.up_1x1 else ((3, 'up'),):
      yield f'{scale}{k}{conv}', f'{name}_{i}/conv'
      yield f'{scale}{k + 1}', f'{name}_{i}/norm'
    scale = f'{deeper}7.'
  yield ('9' if net.up_1x1 else '6') + conv, 'out'


def _resnet_names(net: ResNet) -> Iterator[tuple[str, str]]:
  yield 'model.0.1', 'first'
  for i in range(net.blocks):
    for k, name in enumerate(('conv1', 'norm1', '', 'conv2', 'norm2')):
      if name:
        yield f'model.{i + 2}.{k}', f'block_{i}_{name}'
  yield f'model.{net.blocks + 2}', 'last'
  yield f'model.{net.blocks + 3}', 'last_norm'
  yield f'model.{net.blocks + 4}.1', 'out'


def _unet_names(net: UNet) -> Iterator[tuple[str, str]]:
  for i in range(len(net.widths)):
    down = 'start' if i == 0 else f'down{i}.conv' if i <= 4 else f'more_downs.{i - 5}.conv'
    up = f'up{i + 1}' if i < 4 else f'more_ups.{i - 4}'
    for k in (1, 2):
      yield f'{down}.conv{k}.0.0', f'down_{i}_conv{k}'
    if i + 1 < len(net.widths):
      yield f'{up}.up', f'up_{i}'
      for k in (1, 2):
        yield f'{up}.conv.conv{k}.0.0', f'up_{i}_conv{k}'
  yield 'final.0.0', 'out'


def torch_names(net: Network) -> dict[str, str]:
  """The reference's module names, in its state dict's layout, to our parameter paths."""
  if isinstance(net, Skip):
    return dict(_skip_names(net))
  return dict(_resnet_names(net) if isinstance(net, ResNet) else _unet_names(net))


def from_torch(net: Network, state_dict: Mapping[str, np.ndarray]) -> dict[str, Any]:
  """Parameters of `net` from a state dict of the reference's network with the same settings.

  Args:
    net: the network that the weights are for.
    state_dict: arrays under the reference's keys, kernels (out, in, h, w), transposed kernels
      (in, out, h, w). Running statistics and counters of batch norms are not used.

  Returns:
    The tree that `net.init` gives under 'params', float32. The depth of z is read off the first
    kernel.

  Raises:
    ValueError: if a parameter is missing, left over or of another shape.
  """
  unused = ('running_mean', 'running_var', 'num_batches_tracked')
  left = {k: np.asarray(v) for k, v in state_dict.items() if k.rpartition('.')[2] not in unused}
  names = {ours: theirs for theirs, ours in torch_names(net).items()}
  first = 'halve_0/conv' if isinstance(net, Skip) else 'first'
  first = names['down_0_conv1' if isinstance(net, UNet) else first] + '.weight'
  if first not in left:
    raise ValueError(f'these are no weights of {net}: {first!r} is missing')

  side = 8 * net.multiple  # enough for every reflection padding
  z = jax.ShapeDtypeStruct((1, side, side, left[first].shape[1]), jnp.float32)
  shapes = jax.eval_shape(net.init, jax.random.key(0), z)['params']
  params = {}
  for path, expected in traverse_util.flatten_dict(shapes, sep='/').items():
    module, _, leaf = path.rpartition('/')
    key = f'{names[module]}.{"bias" if leaf == "bias" else "weight"}'
    if key not in left:
      raise ValueError(f'these are no weights of {net}: {key!r} is missing')
    value = left.pop(key)
    if leaf == 'kernel' and isinstance(net, UNet) and key.endswith('.up.weight'):
      value = value.transpose(2, 3, 0, 1)[::-1, ::-1]
    elif leaf == 'kernel' and value.ndim == 4:
      value = value.transpose(2, 3, 1, 0)
    if value.shape != expected.shape:
      raise ValueError(f'{key!r} does not fit {net}: {value.shape}, not {expected.shape}')
    params[path] = jnp.asarray(value, jnp.float32)
  if left:
    raise ValueError(f'{net} has no place for {", ".join(map(repr, sorted(left)))}')
  return traverse_util.unflatten_dict(params, sep='/')
