"""Deep Image Prior: one network fitted to one photo, and stopped before it also fits the noise.

Ulyanov, Vedaldi, Lempitsky, CVPR 2018 (official code: DmitryUlyanov/deep-image-prior); stopping
without ground truth after Wang et al., TMLR 2023 (sun-umn/Early_Stopping_for_DIP).

    theta* = argmin_theta |known * (f_theta(z) - photo)|^2,  z random and fixed,  result f_theta*(z)

Images are in [0, 1] in this file, as in the reference; `fit.py` and the rest of the package
use [-1, 1]. All functions take one photo without a batch axis: vmap them.

Differences from the official code:
- the result comes from the clean z (there, denoising and super-resolution use the last noisy z);
- `param_noise` changes the weights (there, it rebinds a loop variable and has no effect);
- backtracking is left out (there, its test is inverted).
"""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from jax import lax

from oldphoto_jax.dip.networks import Network
from oldphoto_jax.errors import ConfigError

# Settings ---------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Emv:
  """ES-EMV: stop at the minimum of the exponential moving variance of the outputs.

  With the output x, mean m and variance v (Wang et al. 2023, algorithm 2):
  d = x - m; m += alpha d; v = (1 - alpha) (v + alpha mean(d^2)).
  """

  alpha: float = 0.1
  burn_in: int = 100  # iterations before a minimum counts; 0.9^100 of the first mean remains
  patience: int = 1000  # iterations without a new minimum before it stops


@dataclasses.dataclass(frozen=True)
class Dip:
  """Settings of a fit."""

  net: Network
  input: str = 'noise'  # z: 'noise', U(0, input_scale), or 'meshgrid', x and y in [0, 1]
  input_depth: int = 32  # channels of z; 2 for a meshgrid
  input_scale: float = 0.1
  learning_rate: float = 0.01  # of Adam
  iterations: int = 3000  # at most
  stop: Emv | None = Emv()  # None: after `iterations`
  reg_noise_std: float = 0.0  # of the normal noise added to z, fresh at every iteration
  param_noise: bool = False  # add N(0, 1) std(w) / 50 to each kernel w at every iteration
  ema: float = 0.0  # decay of the mean of the outputs that is then the result; 0: no averaging
  factor: int = 1  # super-resolution: the photo is a Lanczos-downsampled image; 2, 4, 8, ...

  def __post_init__(self):
    if self.input not in ('noise', 'meshgrid'):
      raise ConfigError(f"input is 'noise' or 'meshgrid', not {self.input!r}")
    if self.input == 'meshgrid' and self.input_depth != 2:
      raise ConfigError(f'a meshgrid has input_depth 2, not {self.input_depth}')
    if self.iterations < 1 or not 0 <= self.ema < 1:
      raise ConfigError(f'a fit needs iterations >= 1 and 0 <= ema < 1: {self}')
    if self.factor != 1 and (self.factor < 2 or self.factor % 2):
      raise ConfigError(f'factor is 1 or an even number, not {self.factor}')


class Photo(struct.PyTreeNode):
  """One photo to fit, perhaps padded. H, W are h, w times the settings' factor."""

  image: jax.Array  # [h, w, C] in [0, 1]
  known: jax.Array  # [h, w, 1] or [h, w, C] in [0, 1]: 1 - damage mask, 0 on padding
  real: jax.Array  # [h, w, 1]: 0 on padding, 1 elsewhere
  truth: jax.Array | None = None  # [H, W, C] in [0, 1], only for the PSNR curve


class State(struct.PyTreeNode):
  """A running fit. t counts the iterations done; iteration t shows the output before step t.

  With `stop`, `memory` is (mean, variance) of the outputs.
  """

  t: jax.Array
  params: Any
  optimiser: Any
  z: jax.Array  # [H, W, D], without noise
  average: jax.Array | None  # [H, W, C], with ema
  memory: Any
  best: Any  # at iteration best_t: the average with ema, else the parameters
  best_t: jax.Array
  best_variance: jax.Array
  done: jax.Array


# Parts ------------------------------------------------------------------------------------------


def lanczos_matrix(size: int, factor: int) -> np.ndarray:
  """Downsampling of one axis as a matrix [size // factor, size].

  Lanczos-2 kernel of 4 factor taps, phase 0.5, normalised; edges replicated (`Downsampler` of the
  official code; its 2-D kernel is the outer product of this one).
  """
  taps = np.arange(4 * factor)
  d = (taps - (4 * factor - 1) / 2) / factor
  kernel = np.sinc(d) * np.sinc(d / 2)
  matrix = np.zeros((size // factor, size))
  for row in range(size // factor):
    columns = np.clip(factor * row + taps - 3 * factor // 2, 0, size - 1)
    np.add.at(matrix[row], columns, kernel / kernel.sum())
  return matrix.astype(np.float32)


def downsample(x, factor: int):
  """Lanczos-2 downsampling of [H, W, C] to [H / factor, W / factor, C], even factors."""
  rows, columns = (lanczos_matrix(side, factor) for side in x.shape[:2])
  return jnp.einsum('ih,hwc,jw->ijc', rows, x, columns, precision=lax.Precision.HIGHEST)


def masked_loss(output, photo: Photo):
  """mean((known (output - image))^2) over all real pixels and channels, as the reference.

  The unknown pixels count in the mean, so the gradient shrinks with the known area.
  """
  squares = (photo.known * (output - photo.image)) ** 2
  return squares.sum() / (photo.real.sum() * output.shape[-1])


def _real_mean(x, real):
  """Mean of [H, W, C] over the pixels that are not padding."""
  return (x * real).sum() / (real.sum() * x.shape[-1])


def _perturbed(params, key):
  """Every kernel w plus N(0, 1) std(w) / 50, as the inpainting notebook intended."""
  leaves, tree = jax.tree.flatten(params)
  keys = jax.random.split(key, len(leaves))
  noise = lambda key, w: jax.random.normal(key, (w.size,)).reshape(w.shape) * w.std() / 50
  return tree.unflatten(w + noise(k, w) if w.ndim == 4 else w for k, w in zip(keys, leaves))


def _track(stop: Emv | None, t, memory, x, real):
  """The variance of the outputs after output x of iteration t: (memory, variance, counts yet?)."""
  if stop is None:
    return None, jnp.float32(jnp.inf), False
  mean, variance = memory
  mean = jnp.where(t == 1, x, mean)
  d = x - mean  # from the mean before this output
  mean = mean + stop.alpha * d
  variance = (1 - stop.alpha) * (variance + stop.alpha * _real_mean(d * d, real))
  return (mean, variance), variance, t > stop.burn_in


def curve_names(settings: Dip, photo: Photo) -> tuple[str, ...]:
  """The names of the curves that `step` reports."""
  stop = () if settings.stop is None else ('variance',)
  return ('loss', *stop, *(() if photo.truth is None else ('psnr',)))


# Fit --------------------------------------------------------------------------------------------


def draw(settings: Dip, photo: Photo, key) -> tuple[Any, jax.Array]:
  """The network's parameters and z [H, W, D], from fold_in(key, 0).

  Raises:
    ConfigError: photo and network differ in their channels.
    UserError: the photo is too small for the network.
  """
  h, w, channels = photo.image.shape
  if channels != settings.net.out_channels:
    raise ConfigError(
      f'the photo has {channels} channels and the network {settings.net.out_channels}: '
      'set its out_channels'
    )
  height, width = h * settings.factor, w * settings.factor
  params_key, z_key = jax.random.split(jax.random.fold_in(key, 0))
  if settings.input == 'meshgrid':
    z = jnp.stack(jnp.meshgrid(jnp.linspace(0, 1, width), jnp.linspace(0, 1, height)), -1)
  else:
    z = jax.random.uniform(z_key, (height, width, settings.input_depth)) * settings.input_scale
  return settings.net.init(params_key, z[None])['params'], z


def start(settings: Dip, params, z) -> State:
  """The state before the first iteration."""
  image = jnp.zeros((*z.shape[:2], settings.net.out_channels))
  return State(
    t=jnp.int32(0),
    params=params,
    optimiser=optax.adam(settings.learning_rate).init(params),
    z=z,
    average=image if settings.ema else None,
    memory=None if settings.stop is None else (image, jnp.float32(0)),
    best=image if settings.ema else params,
    best_t=jnp.int32(0),
    best_variance=jnp.float32(jnp.inf),
    done=jnp.bool_(False),
  )


def init(settings: Dip, photo: Photo, key) -> State:
  """The state before the first iteration, with parameters and z drawn from `key`."""
  return start(settings, *draw(settings, photo, key))


def step(settings: Dip, photo: Photo, key, state: State) -> tuple[State, dict[str, jax.Array]]:
  """One iteration: output, variance, best so far, Adam.

  Args:
    key: the photo's; iteration t draws from fold_in(key, t).

  Returns:
    The new state, and the iteration's loss, variance (with a stopping rule) and PSNR in dB (if the
    truth is known). Variance and PSNR use the output under this iteration's noise on z, which saves
    a second forward pass. With ema, the PSNR is that of the average.
  """
  t = state.t + 1
  z_key, params_key = jax.random.split(jax.random.fold_in(key, t))
  z, params = state.z, state.params
  if settings.reg_noise_std:
    z = z + settings.reg_noise_std * jax.random.normal(z_key, z.shape)
  if settings.param_noise:
    params = _perturbed(params, params_key)

  def loss_fn(params):
    x = settings.net.apply({'params': params}, z[None])[0]
    output = x if settings.factor == 1 else downsample(x, settings.factor)
    return masked_loss(output, photo), x

  (loss, x), grads = jax.value_and_grad(loss_fn, has_aux=True)(params)
  real = photo.real
  if settings.factor != 1:
    real = real.repeat(settings.factor, 0).repeat(settings.factor, 1)
  average = None
  if settings.ema:  # starts from the first output, no bias correction
    average = jnp.where(t == 1, x, settings.ema * state.average + (1 - settings.ema) * x)
  shown = x if average is None else average

  memory, variance, counts = _track(settings.stop, t, state.memory, x, real)
  # Until a minimum counts, the latest output is the best, so a short fit ends with its last one.
  better = ~jnp.asarray(counts) | (variance < state.best_variance)
  best = params if average is None else average
  best_t = jnp.where(better, t, state.best_t)
  done = t >= settings.iterations
  if settings.stop is not None:
    done |= t - best_t >= settings.stop.patience

  curve = {'loss': loss}
  if settings.stop is not None:
    curve['variance'] = variance
  if photo.truth is not None:
    curve['psnr'] = -10 * jnp.log10(_real_mean((shown - photo.truth) ** 2, real))

  updates, optimiser = optax.adam(settings.learning_rate).update(grads, state.optimiser)
  state = State(
    t=t,
    params=optax.apply_updates(params, updates),
    optimiser=optimiser,
    z=state.z,
    average=average,
    memory=memory,
    best=jax.tree.map(partial(jnp.where, better), best, state.best),
    best_t=best_t,
    best_variance=jnp.where(jnp.asarray(counts) & better, variance, state.best_variance),
    done=done,
  )
  return state, curve


def run(settings: Dip, iterations: int, photo: Photo, key, state: State):
  """`iterations` steps in one scan: (state, curve), each curve [iterations].

  A finished photo stays unchanged, and its curves continue with nan. Under vmap the condition is a
  `jnp.where`. Without vmap (`lax.map`), a finished photo costs nothing.
  """
  frozen = {name: jnp.float32(jnp.nan) for name in curve_names(settings, photo)}

  def body(state, _):
    return lax.cond(
      state.done, lambda state: (state, frozen), partial(step, settings, photo, key), state
    )

  return lax.scan(body, state, length=iterations)


def result(settings: Dip, state: State):
  """The image at the detected minimum: [H, W, C] in [0, 1], from the clean z or, with ema, the
  average of the outputs."""
  if settings.ema:
    return state.best
  return settings.net.apply({'params': state.best}, state.z[None])[0]


def detect(variance: np.ndarray, stop: Emv) -> tuple[int, int]:
  """Applies `stop` to a whole curve: (iteration of the minimum, last iteration), from 1.

  For fits that went on after the stop, as benchmarks do to measure the cost of stopping.
  """
  first = stop.burn_in + 1
  if len(variance) < first:
    return len(variance), len(variance)
  best_t, best = first - 1, np.inf
  for t, v in enumerate(variance[first - 1 :], first):
    if v < best:
      best_t, best = t, v
    elif t - best_t >= stop.patience:
      return best_t, t
  return best_t, len(variance)
