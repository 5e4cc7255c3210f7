"""Strict readers for the fixed classifiers behind perceptual losses and distances.

Files are .pth or .pt (both need torch), .safetensors or .npz. Names and shapes must match.
"""

import os
import pathlib

import jax.numpy as jnp
import numpy as np
import safetensors.numpy

from oldphoto_jax.errors import WeightsError
from oldphoto_jax.metrics import perceptual
from oldphoto_jax.nn import features
from oldphoto_jax.weights import torch_state


def load_vgg19(path) -> dict:
  """Reads VGG-19 in torchvision's layout (`features.N.weight`, `features.N.bias`).

  Args:
    path: .pth or .pt (needs torch), .safetensors or .npz with those names. The classifier and
      the convolutions after relu5_1 are allowed but dropped.

  Returns:
    {'features.N': {'kernel': float32 [3, 3, in, out], 'bias': float32 [out]}}, 13 convolutions.

  Raises:
    WeightsError: no or unreadable file, names or shapes that are not VGG-19's.
  """
  arrays, kernels = _read(path), features.vgg19_kernels()
  rest = tuple(f'features.{index}.' for index in (30, 32, 34))
  _require(path, arrays, _torch_shapes(kernels), optional=(*rest, 'classifier.'))
  return _from_torch(arrays, kernels)


def untrained_vgg19() -> dict:
  """Zeros in the shapes of `load_vgg19`, to measure programs without the weights."""
  return {
    name: {'kernel': np.zeros(shape, np.float32), 'bias': np.zeros(shape[-1:], np.float32)}
    for name, shape in features.vgg19_kernels().items()
  }


def load_squeezenet(path) -> dict:
  """Reads SqueezeNet 1.0 with kernels in HWIO layout.

  Args:
    path: .npz or .safetensors with `conv1/kernel`, `conv1/bias`, `fireN/squeeze1x1/kernel`,
      `fireN/expand1x1/kernel`, `fireN/expand3x3/kernel`, their `/bias` (N = 2..9), and
      `conv10/kernel`, `conv10/bias`; any float dtype.

  Returns:
    {'conv1/kernel': float32 ..., ...}: the same names, all float32.

  Raises:
    WeightsError: no or unreadable file, names or shapes that are not SqueezeNet's.
  """
  arrays = _read(path)
  _require(path, arrays, features.squeezenet_shapes())
  return {key: jnp.asarray(value, jnp.float32) for key, value in arrays.items()}


def untrained_squeezenet() -> dict:
  """Zeros in the shapes of `load_squeezenet`, to measure programs without the weights."""
  return {name: np.zeros(shape, np.float32) for name, shape in features.squeezenet_shapes().items()}


def load_lpips(alexnet, linear) -> dict:
  """Reads the parts of LPIPS: AlexNet, and the learnt weights of its channels.

  Args:
    alexnet: torchvision's AlexNet (`alexnet-owt-*.pth`), names `features.N.weight` and `.bias`.
    linear: of the `lpips` package, weights/v0.1/alex.pth, names `linN.model.1.weight`.
      Each as .pth or .pt (needs torch), .safetensors or .npz.

  Returns:
    {'features.N': {'kernel', 'bias'}, ..., 'linear': [float32 [C], ...]} of the five levels.

  Raises:
    WeightsError: no or unreadable file, names or shapes that are not theirs.
  """
  network, learnt = _read(alexnet), _read(linear)
  kernels = perceptual.alexnet_kernels()
  _require(alexnet, network, _torch_shapes(kernels), optional=('classifier.',))
  names = {f'lin{i}.model.1.weight': (1, s[-1], 1, 1) for i, s in enumerate(kernels.values())}
  _require(linear, learnt, names)
  learnt = [jnp.asarray(learnt[name].ravel(), jnp.float32) for name in names]
  return _from_torch(network, kernels) | {'linear': learnt}


def _read(path) -> dict[str, np.ndarray]:
  """All arrays of a .npz, .safetensors, .pth or .pt file by name."""
  path = pathlib.Path(path)
  if not path.is_file():
    raise WeightsError(f'there is no file of weights {path}')
  try:
    if path.suffix == '.npz':
      with np.load(path, allow_pickle=False) as file:
        return {key: file[key] for key in file.files}
    if path.suffix == '.safetensors':
      return safetensors.numpy.load_file(path)
    if path.suffix in ('.pth', '.pt'):
      return torch_state.load(path)
  except WeightsError:
    raise
  except Exception as error:  # every format raises its own errors for damaged files
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    raise WeightsError(f'{path} cannot be read as a {path.suffix} weight file: {reason}') from error
  raise WeightsError(f'{path}: weight files end in .npz, .safetensors, .pth or .pt.')


def _require(path, arrays, shapes, optional=()):
  """Checks `arrays` against `shapes` (name -> shape); names starting as in `optional` may exist."""
  missing = sorted(set(shapes) - set(arrays))
  unknown = sorted(
    key for key in set(arrays) - set(shapes) if not any(key.startswith(o) for o in optional)
  )
  wrong = [
    f'{key} {arrays[key].shape} instead of {shape}'
    for key, shape in shapes.items()
    if key in arrays and arrays[key].shape != shape
  ]
  problems = [
    f'{what}: {", ".join(items[:4])}{" ..." if len(items) > 4 else ""}'
    for what, items in (('missing', missing), ('unknown', unknown), ('wrong shape', wrong))
    if items
  ]
  if problems:
    raise WeightsError(f'{os.fspath(path)} does not fit; {"; ".join(problems)}.')


def _torch_shapes(kernels):
  """Shapes by name in PyTorch's layout, from kernels [h, w, in, out] by the name of their layer."""
  shapes = {f'{name}.weight': (o, i, h, w) for name, (h, w, i, o) in kernels.items()}
  return shapes | {f'{name}.bias': shape[-1:] for name, shape in kernels.items()}


def _from_torch(arrays, kernels):
  return {
    name: {
      'kernel': jnp.asarray(arrays[f'{name}.weight'].transpose(2, 3, 1, 0), jnp.float32),
      'bias': jnp.asarray(arrays[f'{name}.bias'], jnp.float32),
    }
    for name in kernels
  }
