"""The loop of Deep Image Prior: many photos on this host's devices, with checkpoints.

Photos are [H, W, C] in [-1, 1] and masks are 1 = damaged here, as in the rest of the package.
"""

import contextlib
import dataclasses
import functools
import hashlib
import pathlib
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from oldphoto_jax.dip import prior
from oldphoto_jax.dip.prior import Dip, Photo
from oldphoto_jax.errors import CheckpointError
from oldphoto_jax.training import checkpoints, parallel, train


@dataclasses.dataclass(frozen=True)
class Progress:
  """The argument of `on_chunk` after each chunk, in the order of the photos."""

  t: np.ndarray  # [n] iterations done
  best_t: np.ndarray  # [n] iteration of the minimum so far
  done: np.ndarray  # [n] bool
  curve: dict[str, np.ndarray]  # [n, chunk], nan after a photo's stop


@dataclasses.dataclass(frozen=True)
class Fit:
  """The outcome for one photo."""

  image: np.ndarray  # [H, W, C] in [-1, 1], float32: the output at the detected minimum
  chosen: int  # the iteration of that minimum, from 1
  iterations: int  # iterations run until the stop
  curve: dict[str, np.ndarray]  # [iterations]: loss, variance, psnr (dB; if the truth is known)

  @property
  def best(self) -> int:
    """The iteration of the highest PSNR, from 1; only if the truth is known."""
    return int(np.argmax(self.curve['psnr'])) + 1

  @property
  def lost(self) -> float:
    """PSNR that the detected minimum loses against the best iteration, in dB."""
    return float(self.curve['psnr'][self.best - 1] - self.curve['psnr'][self.chosen - 1])


# Photos to arrays -------------------------------------------------------------------------------


def canvas(settings: Dip, sizes: Sequence[tuple[int, int]]) -> tuple[int, int]:
  """The common (height, width) to which photos of these sizes are padded.

  These are the largest sides, rounded up so that the network's output has the sides of its input.
  """
  multiple = np.lcm(settings.net.multiple, settings.factor) // settings.factor
  height, width = (int(-(-max(sides) // multiple) * multiple) for sides in zip(*sizes))
  return height, width


def _pad(x, height: int, width: int):
  return np.pad(x, ((0, height - x.shape[0]), (0, width - x.shape[1]), (0, 0)))


def _stack(settings: Dip, photos, masks, truths) -> Photo:
  """Photos of any sizes as one padded [n, ...] `Photo`; the padding counts as unknown."""
  n, factor = len(photos), settings.factor
  masks = [None] * n if masks is None else masks
  if n == 0 or len(masks) != n or (truths is not None and len(truths) != n):
    raise ValueError(
      f'{n} photos, {len(masks)} masks, {n if truths is None else len(truths)} truths: '
      'give at least one photo, and one mask (or None) and one truth for each'
    )
  height, width = canvas(settings, [photo.shape[:2] for photo in photos])
  images, knowns, reals, clean = [], [], [], []
  for i, (photo, mask) in enumerate(zip(photos, masks)):
    photo = np.asarray(photo, np.float32)
    if photo.ndim != 3:
      raise ValueError(f'photo {i} has shape {photo.shape}: give [H, W, C]')
    real = np.ones((*photo.shape[:2], 1), np.float32)
    mask = np.zeros_like(real) if mask is None else np.asarray(mask, np.float32)
    mask = mask[..., None] if mask.ndim == 2 else mask
    if mask.shape[:2] != photo.shape[:2] or mask.shape[2] not in (1, photo.shape[2]):
      raise ValueError(f'mask {i} has shape {mask.shape}, its photo {photo.shape}')
    if mask.min() == 1:
      raise ValueError(f'mask {i} is 1 everywhere: nothing of the photo is known')
    # All masks get the channels of the photos, because some may be per channel and some not.
    known = np.broadcast_to(1 - mask, photo.shape)
    images.append(_pad((photo + 1) / 2, height, width))
    knowns.append(_pad(known, height, width))
    reals.append(_pad(real, height, width))
    if truths is not None:
      truth = np.asarray(truths[i], np.float32)
      if truth.shape != (photo.shape[0] * factor, photo.shape[1] * factor, photo.shape[2]):
        raise ValueError(f'truth {i} has shape {truth.shape}, unlike the restored photo')
      clean.append(_pad((truth + 1) / 2, height * factor, width * factor))
  if len({image.shape for image in images}) > 1:
    raise ValueError('the photos have different numbers of channels: fit gray ones separately')
  arrays = (images, knowns, reals, clean or None)
  return Photo(*(x if x is None else np.stack(x) for x in arrays))


# Devices ----------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=4)
def _programs(settings: Dip, chunk: int, devices: tuple, together: bool):
  """init, run and result of `prior` for [devices, photos per device, ...], compiled per size."""

  def spread(function):
    if together:
      return jax.vmap(function)
    return lambda *args: lax.map(lambda x: function(*x), args)

  # No axis name: nothing is shared between photos.
  each = functools.partial(parallel.map_devices, devices=devices)
  return (
    each(spread(functools.partial(prior.init, settings))),
    each(spread(functools.partial(prior.run, settings, chunk)), donate_argnums=2),
    each(spread(functools.partial(prior.result, settings))),
  )


def _split(tree, devices: tuple):
  """[n, ...] -> [devices, ceil(n / devices), ...] on the devices, padded with the first one."""
  mesh = jax.sharding.Mesh(devices, ('photos',))
  sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec('photos'))

  def split(x):
    rows = np.arange(-(-len(x) // len(devices)) * len(devices))
    x = x[np.where(rows < len(x), rows, 0)]
    return jax.device_put(x.reshape(len(devices), -1, *x.shape[1:]), sharding)

  return jax.tree.map(split, tree)


def _join(tree, n: int):
  """The inverse of `_split`, on the host."""
  return jax.tree.map(lambda x: np.asarray(x).reshape(-1, *x.shape[2:])[:n], tree)


# Fit --------------------------------------------------------------------------------------------


def _identity(settings: Dip, data: Photo, key, chunk: int) -> dict[str, str]:
  """Everything that a checkpoint must share with the fit that continues it."""
  photos = hashlib.sha256()
  for x in jax.tree.leaves(data):
    photos.update(repr(x.shape).encode() + np.ascontiguousarray(x).tobytes())
  return {
    'settings': repr(settings),
    'photos, masks or truths': photos.hexdigest(),
    'key': repr(np.asarray(jax.random.key_data(key)).tolist()),
    'chunk': repr(chunk),
  }


def _check_identity(folder, saved: dict[str, str], identity: dict[str, str]) -> None:
  other = [name for name in identity if saved.get(name) != identity[name]]
  if other:
    raise CheckpointError(
      f'{folder} holds a fit with different {" and ".join(other)}: '
      'name an empty folder, or use the same inputs and settings again'
    )


def fit_photos(
  settings: Dip,
  photos: Sequence[np.ndarray],
  masks: Sequence[np.ndarray | None] | None,
  key: jax.Array,
  *,
  truths: Sequence[np.ndarray] | None = None,
  chunk: int = 100,
  on_chunk: Callable[[Progress], None] | None = None,
  folder: str | pathlib.Path | None = None,
  save_every: int = 10,
  stop: Callable[[], bool] | None = None,
  devices: Sequence[jax.Device] | None = None,
  together: bool | None = None,
) -> list[Fit]:
  """Fits one network to each photo, each with its own stop.

  The photos are padded at the bottom and on the right to one size (`canvas`). Padding counts as
  unknown, and is left out of all means. Random choices for photo i depend only on its key, or
  fold_in(key, i), and on the iteration, not on the other photos or the devices.

  Args:
    settings: settings of the fit.
    photos: [H, W, C] each, in [-1, 1], of any sizes. C is the network's out_channels.
    masks: [H, W], [H, W, 1] or [H, W, C] each, in [0, 1], 1 = damaged. None for an undamaged photo,
      or for all.
    key: a random key, or one key per photo, [n].
    truths: the undamaged photos, [H factor, W factor, C] in [-1, 1], only for the PSNR curves.
    chunk: iterations per call of the compiled program.
    on_chunk: called after each chunk.
    folder: where to keep checkpoints. If it holds one, the fit goes on from there, with the same
      outcome as without the interruption.
    save_every: chunks per checkpoint.
    stop: called after each chunk. If it returns true, a checkpoint is saved and `train.Stopped`
      raised.
    devices: all of this host by default.
    together: fit the photos of one device at once (vmap) instead of in turn. By default only on
      accelerators: on CPU, one photo keeps all cores busy.

  Returns:
    One `Fit` for each photo.

  Raises:
    ValueError: photos, masks or truths do not fit each other.
    UserError: a photo is too small for the network.
    CheckpointError: `folder` holds a different fit.
    train.Stopped: `stop` returned true before the end.
  """
  data = _stack(settings, photos, masks, truths)
  n = len(photos)
  devices = tuple(jax.local_devices() if devices is None else devices)[:n]
  if together is None:
    together = devices[0].platform != 'cpu'
  init, run, result = _programs(settings, chunk, devices, together)
  keys = key if key.ndim else jax.vmap(functools.partial(jax.random.fold_in, key))(jnp.arange(n))
  photo_parts, key_parts = _split((data, keys), devices)

  names, length = prior.curve_names(settings, data), -(-settings.iterations // chunk) * chunk
  curve = {name: np.full((n, length), np.nan, np.float32) for name in names}
  identity = _identity(settings, data, key, chunk)
  loaded = None
  with contextlib.ExitStack() as stack:
    if folder is not None:
      manager = stack.enter_context(checkpoints.manager(folder, None))
      shapes = jax.eval_shape(jax.vmap(functools.partial(prior.init, settings)), data, keys)
      loaded = checkpoints.restore(manager, {'state': shapes, 'curve': curve})
    if loaded is None:
      chunks, state = 0, init(photo_parts, key_parts)
    else:
      chunks, loaded, saved = loaded
      _check_identity(folder, saved, identity)
      curve = {name: np.array(loaded['curve'][name]) for name in names}
      state = _split(jax.tree.map(np.asarray, loaded['state']), devices)
    done = np.asarray(state.done)
    repeats = np.arange(done.size).reshape(done.shape) >= n
    state = state.replace(done=jax.device_put(done | repeats, state.done.sharding))

    while not np.asarray(state.done).all():
      state, new = run(photo_parts, key_parts, state)
      new = _join(new, n)
      for name in names:
        curve[name][:, chunks * chunk : (chunks + 1) * chunk] = new[name]
      chunks += 1
      finished = np.asarray(state.done).all()
      stopping = not finished and stop is not None and stop()
      if folder is not None and (finished or stopping or chunks % save_every == 0):
        saved = {'state': _join(state, n), 'curve': jax.tree.map(np.copy, curve)}
        checkpoints.save(manager, chunks, saved, identity, None)
      if on_chunk is not None:
        on_chunk(Progress(*_join((state.t, state.best_t, state.done), n), new))
      if stopping:  # leaving the block waits for the checkpoint
        raise train.Stopped

  images = _join(result(state), n)
  t, best_t = _join((state.t, state.best_t), n)
  fits = []
  for i, photo in enumerate(photos):
    h, w = (side * settings.factor for side in np.shape(photo)[:2])
    image = 2 * images[i, :h, :w] - 1
    fits.append(Fit(image, int(best_t[i]), int(t[i]), {k: v[i, : t[i]] for k, v in curve.items()}))
  return fits
