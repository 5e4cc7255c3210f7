"""Two perceptual distances that score photos: one by SqueezeNet, and LPIPS by AlexNet."""

import jax
import jax.numpy as jnp
from jax import lax

from oldphoto_jax.nn import features

# torchvision's AlexNet: index in `features`, width, kernel side, stride, padding. LPIPS uses all
# five maps, after their ReLU.
ALEXNET = (
  (0, 64, 11, 4, 2),
  (3, 192, 5, 1, 2),
  (6, 384, 3, 1, 1),
  (8, 256, 3, 1, 1),
  (10, 256, 3, 1, 1),
)
_POOL_BEFORE = (3, 6)
_LPIPS_SCALING = ((-0.030, -0.088, -0.188), (0.458, 0.448, 0.450))  # shift, scale (ScalingLayer)


def alexnet_kernels() -> dict[str, tuple[int, ...]]:
  """The shapes [h, w, in, out] of AlexNet's convolutions, by torchvision's names."""
  kernels, channels = {}, 3
  for index, width, size, _, _ in ALEXNET:
    kernels[f'features.{index}'] = (size, size, channels, width)
    channels = width
  return kernels


# As LPIPS takes them from SqueezeNet 1.1: before each pooling, then every fire module.
_DISTANCE_LEVELS = ('conv1', 'fire3', 'fire5', 'fire6', 'fire7', 'fire8', 'fire9')


def squeezenet_distance(params, a, b) -> jax.Array:
  """A perceptual distance, [N]: 0 for equal photos, at most 2.

  LPIPS (Zhang et al. 2018, equation 1) without its learnt weights. At every position of seven
  levels the features are scaled to length 1. Squared differences are summed over channels, then
  averaged over positions, then over levels. The network is SqueezeNet 1.0 and the weights are
  missing, so do not compare the numbers with published LPIPS.

  Args:
    params: from classifiers.load_squeezenet.
    a, b: [N, H, W, 3] RGB in [-1, 1], at least 32 pixels per side; not clipped or rounded here.
  """
  both = features.squeezenet_maps(params, jnp.concatenate([a, b]))

  def distance(x):
    x = x / (jnp.sqrt((x**2).sum(-1, keepdims=True)) + 1e-10)  # the epsilon of LPIPS
    return ((x[: len(a)] - x[len(a) :]) ** 2).sum(-1).mean((1, 2))

  return sum(distance(both[name]) for name in _DISTANCE_LEVELS) / len(_DISTANCE_LEVELS)


def lpips(params, a, b) -> jax.Array:
  """LPIPS 0.1 by AlexNet, [N]: 0 for equal photos (Zhang et al. 2018, equation 1).

  Args:
    params: from classifiers.load_lpips.
    a, b: [N, H, W, 3] RGB in [-1, 1], at least 31 pixels per side.
  """
  shift, scale = (jnp.array(v) for v in _LPIPS_SCALING)
  x, total = (jnp.concatenate([a, b]) - shift) / scale, 0.0
  for (index, _, _, stride, pad), weights in zip(ALEXNET, params['linear']):
    if index in _POOL_BEFORE:
      x = lax.reduce_window(x, -jnp.inf, lax.max, (1, 3, 3, 1), (1, 2, 2, 1), 'VALID')
    padding = ((pad, pad), (pad, pad))
    x = jax.nn.relu(features.conv(x, params[f'features.{index}'], stride, padding))
    unit = x / (jnp.sqrt((x**2).sum(-1, keepdims=True)) + 1e-10)
    total += ((unit[: len(a)] - unit[len(a) :]) ** 2 @ weights).mean((1, 2))
  return total
