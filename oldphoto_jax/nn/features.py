"""Feature maps of two fixed classifiers, for perceptual losses: VGG-19 and SqueezeNet 1.0.

Wan et al. 2020 (and pix2pixHD) use VGG-19. Its weights are 550 MB, so the user provides the file.
SqueezeNet is 400 times smaller and cheap enough for a CPU. Its loss is a different one, and results
that use it say so. classifiers.py reads both.

`*_features` is a pure function of the parameters and a batch [N, H, W, 3] in [-1, 1]. Parameters
are float32; maps are computed in the dtype of the images.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

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
FIRES = {
  'fire2': (16, 64),
  'fire3': (16, 64),
  'fire4': (32, 128),
  'fire5': (32, 128),
  'fire6': (48, 192),
  'fire7': (48, 192),
  'fire8': (64, 256),
  'fire9': (64, 256),
}
POOL_AFTER = ('conv1', 'fire4', 'fire8')
BGR_MEAN = np.array([104, 117, 123], np.float32)  # of ImageNet, as Caffe models expect

# Five levels at 1/2, 1/4, 1/8, 1/8 and 1/16 of the side, the first of each scale or width as in
# the VGG-19 loss. Each is divided by its mean activation, given here: the mean of `squeezenet_maps`
# over the central 256×256 of the 400 training photos of BSDS500 (train and test). After that the
# mean L1 distance between photos and their `Wan2020` versions is 0.5, 0.5, 0.7, 0.7 and 1.0 from
# conv1 to fire9: the levels weigh about the same, the deep ones a little more.
SQUEEZENET_LEVELS = {
  'conv1': 19.489,
  'fire2': 76.274,
  'fire5': 190.218,
  'fire7': 56.983,
  'fire9': 9.658,
}

# The maps of `squeezenet_pyramid`, and what they are divided by, so that all are of order 1.
PYRAMID = {'conv1': 20.0, 'fire4': 120.0, 'fire8': 60.0, 'fire9': 10.0}
SQUEEZENET_CHANNELS = (96, *(2 * FIRES[name][1] for name in PYRAMID if name in FIRES))  # of these


def vgg19_kernels() -> dict[str, tuple[int, ...]]:
  """The shapes [3, 3, in, out] of the convolutions up to relu5_1, by torchvision's names."""
  kernels, channels = {}, 3
  for index, width, _ in _VGG19:
    kernels[f'features.{index}'] = (3, 3, channels, width)
    channels = width
  return kernels


def vgg19_features(params, images) -> list[jax.Array]:
  """relu1_1, relu2_1, relu3_1, relu4_1, relu5_1 at 1, 1/2, 1/4, 1/8, 1/16 of the side.

  Args:
    params: from classifiers.load_vgg19.
    images: [N, H, W, 3] in [-1, 1], at least 16 pixels per side. They are not normalised by
      ImageNet's mean and standard deviation, although the network was trained with them: the
      official code of Wan et al. 2020 does not either (`VGGLoss_torch`, models/networks.py).
  """
  x, maps = images, []
  for index, _, pool in _VGG19:
    if pool:
      x = _max_pool_2(x)
    x = jax.nn.relu(conv(x, params[f'features.{index}'], padding='SAME'))
    if index in _VGG19_LEVELS:
      maps.append(x)
  return maps


def squeezenet_shapes() -> dict[str, tuple[int, ...]]:
  """The shapes of all kernels and biases by name."""
  kernels, channels = {'conv1': (7, 7, 3, 96)}, 96
  for name, (squeeze, expand) in FIRES.items():
    kernels[f'{name}/squeeze1x1'] = (1, 1, channels, squeeze)
    kernels[f'{name}/expand1x1'] = (1, 1, squeeze, expand)
    kernels[f'{name}/expand3x3'] = (3, 3, squeeze, expand)
    channels = 2 * expand
  kernels['conv10'] = (1, 1, channels, 1000)
  shapes = {f'{name}/kernel': shape for name, shape in kernels.items()}
  return shapes | {f'{name}/bias': shape[-1:] for name, shape in kernels.items()}


def squeezenet_features(params, images) -> list[jax.Array]:
  """conv1, fire2, fire5, fire7 and fire9, each divided by its mean activation on photos.

  The raw activations differ 20-fold between levels (`SQUEEZENET_LEVELS`). One or two levels would
  dominate a sum of L1 distances of raw maps.

  Args:
    params: from classifiers.load_squeezenet.
    images: [N, H, W, 3] RGB in [-1, 1], at least 32 pixels per side.
  """
  maps = squeezenet_maps(params, images)
  return [maps[name] / scale for name, scale in SQUEEZENET_LEVELS.items()]


def squeezenet_maps(params, images) -> dict[str, jax.Array]:
  """The raw output of conv1 and of every fire module by name, after ReLU and before pooling.

  Input as in `squeezenet_features`.
  """
  return _squeezenet(params, images, _max_pool_3)


def squeezenet_pyramid(params, images) -> list[jax.Array]:
  """conv1, fire4, fire8 and fire9 at exactly 1/2, 1/4, 1/8 and 1/16 of the sides.

  For networks that see them beside a photo. Edges are repeated, where `squeezenet_maps` loses them,
  and each window of a pool lies around its pixel. Each map is divided by a constant (`PYRAMID`).

  Args:
    params: as for `squeezenet_features`; conv10 is not needed.
    images: [N, H, W, 3] RGB in [-1, 1]; H and W multiples of 16.
  """
  edges = jnp.pad(images, ((0, 0), (3, 3), (3, 3), (0, 0)), 'edge')
  maps = _squeezenet(params, edges, _max_pool_centred)
  return [maps[name] / scale for name, scale in PYRAMID.items()]


def _squeezenet(params, images, pool):
  """The maps by name; the input is converted to Caffe's BGR order, 0..255 minus the mean."""

  def layer(name, x, **kwargs):
    weights = {'kernel': params[f'{name}/kernel'], 'bias': params[f'{name}/bias']}
    return jax.nn.relu(conv(x, weights, **kwargs))

  x = (images[..., ::-1] + 1) * 127.5 - BGR_MEAN.astype(images.dtype)
  x = layer('conv1', x, stride=2)
  maps = {'conv1': x}
  for name in FIRES:
    if next(reversed(maps)) in POOL_AFTER:
      x = pool(x)
    x = layer(f'{name}/squeeze1x1', x)
    one, three = layer(f'{name}/expand1x1', x), layer(f'{name}/expand3x3', x, padding='SAME')
    maps[name] = x = jnp.concatenate([one, three], -1)
  return maps


def conv(x, layer, stride=1, padding='VALID'):
  """Convolution and bias of {'kernel' [h, w, in, out], 'bias' [out]}, in the dtype of `x`."""
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

  For maps without negative values. Slices are used because the gradient of `lax.reduce_window` took
  15 times as long on CPU (30 ms against 2 ms for 4×61×61×96).
  """
  height, width = ((n - 2) // 2 * 2 + 3 for n in x.shape[1:3])
  x = jnp.pad(x, ((0, 0), (0, height - x.shape[1]), (0, width - x.shape[2]), (0, 0)))
  x = jnp.maximum(jnp.maximum(x[:, :-2:2], x[:, 1:-1:2]), x[:, 2::2])
  return jnp.maximum(jnp.maximum(x[:, :, :-2:2], x[:, :, 1:-1:2]), x[:, :, 2::2])


def _max_pool_centred(x):
  """3×3 maxima, stride 2, around every second pixel. No gradient is taken of it."""
  return lax.reduce_window(
    x, -jnp.inf, lax.max, (1, 3, 3, 1), (1, 2, 2, 1), ((0, 0), (1, 1), (1, 1), (0, 0))
  )
