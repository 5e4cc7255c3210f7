"""Feature maps of two fixed classifiers, for perceptual losses: VGG-19 and SqueezeNet 1.0.

And two perceptual distances, to score photos: one by SqueezeNet, and LPIPS by AlexNet.

VGG-19 is what Wan et al. 2020 (and pix2pixHD) use; its weights are 550 MB, so they come as a file
that the user has. SqueezeNet is 400 times smaller and cheap enough for a CPU; its loss is not
theirs and numbers made with it say so.

`load_*` reads a file strictly, `*_features` is a pure function of the parameters and a batch
[N, H, W, 3] in [-1, 1]. Parameters are float32; maps are computed in the dtype of the images.
"""

import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from oldphoto_jax.errors import WeightsError

# VGG-19 up to relu5_1: index in torchvision's `features`, width, and whether a pool comes before.
_VGG19 = (
  (0, 64, False),
  (2, 64, False),
  (5, 128, True),
  (7, 128, False),
  (10, 256, True),
  (12, 256, False),
  (14, 256, False),
  (16, 256, False),
  (19, 512, True),
  (21, 512, False),
  (23, 512, False),
  (25, 512, False),
  (28, 512, True),
)
_VGG19_LEVELS = (0, 5, 10, 19, 28)  # relu1_1, relu2_1, relu3_1, relu4_1, relu5_1

# Fire modules 2 to 9: channels of the squeeze and of each of the two expand convolutions.
_FIRES = {
  'fire2': (16, 64),
  'fire3': (16, 64),
  'fire4': (32, 128),
  'fire5': (32, 128),
  'fire6': (48, 192),
  'fire7': (48, 192),
  'fire8': (64, 256),
  'fire9': (64, 256),
}
_POOL_AFTER = ('conv1', 'fire4', 'fire8')
_BGR_MEAN = np.array([104, 117, 123], np.float32)  # of ImageNet, as Caffe models expect

# Five levels at 1/2, 1/4, 1/8, 1/8 and 1/16 of the side, the first of each scale or width as in
# the VGG-19 loss, and the mean activation by which each is divided: `squeezenet_maps` of the
# central 256×256 of the 400 training photos of BSDS500 (train and test), mean over everything.
# With it the mean L1 distance of photos to their `Wan2020` version is 0.5 at conv1, 0.5, 0.7, 0.7
# and 1.0 at fire9: the levels weigh alike, the deep ones a little more.
SQUEEZENET_LEVELS = {
  'conv1': 19.489,
  'fire2': 76.274,
  'fire5': 190.218,
  'fire7': 56.983,
  'fire9': 9.658,
}

# AlexNet of torchvision: index in `features`, width, side of the kernel, stride, padding. LPIPS
# takes all five maps behind their ReLU.
_ALEXNET = (
  (0, 64, 11, 4, 2),
  (3, 192, 5, 1, 2),
  (6, 384, 3, 1, 1),
  (8, 256, 3, 1, 1),
  (10, 256, 3, 1, 1),
)
_ALEXNET_POOL_BEFORE = (3, 6)
_LPIPS_SCALING = ((-0.030, -0.088, -0.188), (0.458, 0.448, 0.450))  # shift, scale (ScalingLayer)


def _read(path) -> dict[str, np.ndarray]:
  """All arrays of a .npz, .safetensors, .pth or .pt file by name."""
  path = pathlib.Path(path)
  if not path.is_file():
    raise WeightsError(f'No weight file at {path}.')
  try:
    if path.suffix == '.npz':
      with np.load(path, allow_pickle=False) as file:
        return {key: file[key] for key in file.files}
    if path.suffix == '.safetensors':
      from safetensors.numpy import load_file

      return load_file(path)
    if path.suffix in ('.pth', '.pt'):
      try:
        import torch
      except ImportError:
        raise WeightsError(
          f"{path} is a PyTorch file: install torch (pip install 'oldphoto_jax[torch]') to read "
          'it, or convert it to .safetensors.'
        ) from None
      # weights_only: tensors and nothing that could run.
      state = torch.load(path, map_location='cpu', weights_only=True)
      return {key: value.float().numpy() for key, value in state.items()}
  except WeightsError:
    raise
  except Exception as error:  # each format has its own errors for a damaged file
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    raise WeightsError(f'{path} cannot be read as a {path.suffix} weight file: {reason}') from error
  raise WeightsError(f'{path}: weight files end in .npz, .safetensors, .pth or .pt.')


def _require(path, arrays, shapes, optional=()):
  """Checks that `arrays` is `shapes` (name -> shape), but for names that start as in `optional`."""
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


def load_vgg19(path) -> dict:
  """Reads VGG-19 in torchvision's layout (`features.N.weight`, `features.N.bias`).

  Args:
    path: .pth or .pt (needs torch), .safetensors or .npz with those names. The classifier and
      the convolutions behind relu5_1 may be there and are not kept.

  Returns:
    {'features.N': {'kernel': float32 [3, 3, in, out], 'bias': float32 [out]}}, 13 convolutions.

  Raises:
    WeightsError: no or unreadable file, names or shapes that are not VGG-19's.
  """
  arrays = _read(path)
  shapes = {}
  for name, (_, _, channels, width) in _vgg19_kernels().items():
    shapes[f'{name}.weight'] = (width, channels, 3, 3)
    shapes[f'{name}.bias'] = (width,)
  rest = tuple(f'features.{index}.' for index in (30, 32, 34))
  _require(path, arrays, shapes, optional=(*rest, 'classifier.'))
  return {
    f'features.{index}': {
      'kernel': jnp.asarray(arrays[f'features.{index}.weight'].transpose(2, 3, 1, 0), jnp.float32),
      'bias': jnp.asarray(arrays[f'features.{index}.bias'], jnp.float32),
    }
    for index, _, _ in _VGG19
  }


def untrained_vgg19() -> dict:
  """Zeros in the shapes of `load_vgg19`: to measure programs without the file of weights."""
  return {
    name: {'kernel': np.zeros(shape, np.float32), 'bias': np.zeros(shape[-1:], np.float32)}
    for name, shape in _vgg19_kernels().items()
  }


def _vgg19_kernels() -> dict[str, tuple[int, ...]]:
  kernels, channels = {}, 3
  for index, width, _ in _VGG19:
    kernels[f'features.{index}'] = (3, 3, channels, width)
    channels = width
  return kernels


def vgg19_features(params, images) -> list[jax.Array]:
  """relu1_1, relu2_1, relu3_1, relu4_1, relu5_1 at 1, 1/2, 1/4, 1/8, 1/16 of the side.

  Args:
    params: from `load_vgg19`.
    images: [N, H, W, 3] in [-1, 1], at least 16 pixels a side. They go in as they are, without
      ImageNet's mean and standard deviation: so does the official code of Wan et al. 2020
      (`VGGLoss_torch`, models/networks.py), although the network was trained with them.
  """
  x, maps = images, []
  for index, _, pool in _VGG19:
    if pool:
      x = _max_pool_2(x)
    x = jax.nn.relu(_conv(x, params[f'features.{index}'], padding='SAME'))
    if index in _VGG19_LEVELS:
      maps.append(x)
  return maps


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
  _require(path, arrays, _squeezenet_shapes())
  return {key: jnp.asarray(value, jnp.float32) for key, value in arrays.items()}


def untrained_squeezenet() -> dict:
  """Zeros in the shapes of `load_squeezenet`: to measure programs without the file of weights."""
  return {name: np.zeros(shape, np.float32) for name, shape in _squeezenet_shapes().items()}


def _squeezenet_shapes() -> dict[str, tuple[int, ...]]:
  kernels, channels = {'conv1': (7, 7, 3, 96)}, 96
  for name, (squeeze, expand) in _FIRES.items():
    kernels[f'{name}/squeeze1x1'] = (1, 1, channels, squeeze)
    kernels[f'{name}/expand1x1'] = (1, 1, squeeze, expand)
    kernels[f'{name}/expand3x3'] = (3, 3, squeeze, expand)
    channels = 2 * expand
  kernels['conv10'] = (1, 1, channels, 1000)
  shapes = {f'{name}/kernel': shape for name, shape in kernels.items()}
  return shapes | {f'{name}/bias': shape[-1:] for name, shape in kernels.items()}


def squeezenet_features(params, images) -> list[jax.Array]:
  """conv1, fire2, fire5, fire7 and fire9, each divided by its mean activation on photos.

  The raw activations differ 20-fold between levels (`SQUEEZENET_LEVELS`), so a sum of L1
  distances of raw maps would be that of one or two levels.

  Args:
    params: from `load_squeezenet`.
    images: [N, H, W, 3] RGB in [-1, 1], at least 32 pixels a side.
  """
  maps = squeezenet_maps(params, images)
  return [maps[name] / scale for name, scale in SQUEEZENET_LEVELS.items()]


def squeezenet_maps(params, images) -> dict[str, jax.Array]:
  """The raw output of conv1 and of every fire module by name, after ReLU and before pooling.

  Input as in `squeezenet_features`; Caffe's BGR order, 0..255 minus the mean, is made inside.
  """

  def conv(name, x, **kwargs):
    layer = {'kernel': params[f'{name}/kernel'], 'bias': params[f'{name}/bias']}
    return jax.nn.relu(_conv(x, layer, **kwargs))

  x = (images[..., ::-1] + 1) * 127.5 - _BGR_MEAN.astype(images.dtype)
  x = conv('conv1', x, stride=2)
  maps = {'conv1': x}
  for name in _FIRES:
    if next(reversed(maps)) in _POOL_AFTER:
      x = _max_pool_3(x)
    x = conv(f'{name}/squeeze1x1', x)
    one, three = conv(f'{name}/expand1x1', x), conv(f'{name}/expand3x3', x, padding='SAME')
    maps[name] = x = jnp.concatenate([one, three], -1)
  return maps


# As LPIPS takes them from SqueezeNet 1.1: before each pooling, then every fire module.
_DISTANCE_LEVELS = ('conv1', 'fire3', 'fire5', 'fire6', 'fire7', 'fire8', 'fire9')


def squeezenet_distance(params, a, b) -> jax.Array:
  """A perceptual distance, [N]: 0 for equal photos, at most 2.

  LPIPS (Zhang et al. 2018, equation 1) without its learnt weights: at every position of seven
  levels the features are scaled to length 1; squared differences, summed over channels; means over
  positions, then over levels. The network is SqueezeNet 1.0 and the weights are missing, so the
  numbers are not LPIPS's and are not to be compared with published ones.

  Args:
    params: from `load_squeezenet`.
    a, b: [N, H, W, 3] RGB in [-1, 1], at least 32 pixels a side; neither clipped nor rounded here.
  """
  both = squeezenet_maps(params, jnp.concatenate([a, b]))

  def distance(x):
    x = x / (jnp.sqrt((x**2).sum(-1, keepdims=True)) + 1e-10)  # LPIPS' own epsilon
    return ((x[: len(a)] - x[len(a) :]) ** 2).sum(-1).mean((1, 2))

  return sum(distance(both[name]) for name in _DISTANCE_LEVELS) / len(_DISTANCE_LEVELS)


def squeezenet_logits(params, images) -> jax.Array:
  """Scores of ImageNet's 1000 classes, [N, 1000]; to check weights (meant for 227×227)."""
  x = squeezenet_maps(params, images)['fire9']
  layer = {'kernel': params['conv10/kernel'], 'bias': params['conv10/bias']}
  return jax.nn.relu(_conv(x, layer)).mean((1, 2))


def load_lpips(alexnet, linear) -> dict:
  """Reads what LPIPS takes: AlexNet, and the learnt weights of its channels.

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
  shapes, channels = {}, 3
  for index, width, size, _, _ in _ALEXNET:
    shapes[f'features.{index}.weight'] = (width, channels, size, size)
    shapes[f'features.{index}.bias'] = (width,)
    channels = width
  _require(alexnet, network, shapes, optional=('classifier.',))
  names = {f'lin{i}.model.1.weight': (1, level[1], 1, 1) for i, level in enumerate(_ALEXNET)}
  _require(linear, learnt, names)
  params = {
    f'features.{index}': {
      'kernel': jnp.asarray(network[f'features.{index}.weight'].transpose(2, 3, 1, 0), jnp.float32),
      'bias': jnp.asarray(network[f'features.{index}.bias'], jnp.float32),
    }
    for index, *_ in _ALEXNET
  }
  return params | {'linear': [jnp.asarray(learnt[name].ravel(), jnp.float32) for name in names]}


def lpips(params, a, b) -> jax.Array:
  """LPIPS 0.1 by AlexNet, [N]: 0 for equal photos (Zhang et al. 2018, equation 1).

  Args:
    params: from `load_lpips`.
    a, b: [N, H, W, 3] RGB in [-1, 1], at least 31 pixels a side.
  """
  shift, scale = (jnp.array(v) for v in _LPIPS_SCALING)
  x, total = (jnp.concatenate([a, b]) - shift) / scale, 0.0
  for (index, _, _, stride, pad), weights in zip(_ALEXNET, params['linear']):
    if index in _ALEXNET_POOL_BEFORE:
      x = lax.reduce_window(x, -jnp.inf, lax.max, (1, 3, 3, 1), (1, 2, 2, 1), 'VALID')
    padding = ((pad, pad), (pad, pad))
    x = jax.nn.relu(_conv(x, params[f'features.{index}'], stride, padding))
    unit = x / (jnp.sqrt((x**2).sum(-1, keepdims=True)) + 1e-10)
    total += ((unit[: len(a)] - unit[len(a) :]) ** 2 @ weights).mean((1, 2))
  return total


def _conv(x, layer, stride=1, padding='VALID'):
  kernel, bias = layer['kernel'].astype(x.dtype), layer['bias'].astype(x.dtype)
  numbers = ('NHWC', 'HWIO', 'NHWC')
  x = lax.conv_general_dilated(x, kernel, (stride, stride), padding, dimension_numbers=numbers)
  return x + bias


def _max_pool_2(x):
  """2×2 maxima, stride 2; an odd last row or column is dropped, as in torch."""
  height, width = x.shape[1] // 2 * 2, x.shape[2] // 2 * 2
  x = jnp.maximum(x[:, 0:height:2], x[:, 1:height:2])
  return jnp.maximum(x[:, :, 0:width:2], x[:, :, 1:width:2])


def _max_pool_3(x):
  """3×3 maxima, stride 2, ceil mode: the last window may hang over the edge.

  Of slices, for maps that are not negative: the gradient of `lax.reduce_window` took 15 times as
  long on CPU (30 ms against 2 ms for 4×61×61×96).
  """
  height, width = ((n - 2) // 2 * 2 + 3 for n in x.shape[1:3])
  x = jnp.pad(x, ((0, 0), (0, height - x.shape[1]), (0, width - x.shape[2]), (0, 0)))
  x = jnp.maximum(jnp.maximum(x[:, :-2:2], x[:, 1:-1:2]), x[:, 2::2])
  return jnp.maximum(jnp.maximum(x[:, :, :-2:2], x[:, :, 1:-1:2]), x[:, :, 2::2])
