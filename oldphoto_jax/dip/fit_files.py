"""Photo files in, restored files out, by Deep Image Prior: a fit for each, written when it ends.

What `launch.py --config=configs/dip.py` and `oldphoto dip` share.
"""

import contextlib
import dataclasses
import hashlib
import json
import math
import os
import pathlib
import shutil
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from oldphoto_jax.dip import fit, fit_time
from oldphoto_jax.dip.prior import Dip
from oldphoto_jax.errors import PhotoError, UserError
from oldphoto_jax.metrics import psnr_ssim
from oldphoto_jax.photos import images, masks
from oldphoto_jax.restoring import folder

UNFINISHED = 'unfinished'  # folder of the checkpoints of fits under way
CURVES = 'curves'
TELL_EVERY = 30  # seconds between two sentences about a fit under way
PHOTOS_AT_ONCE, PIXELS_AT_ONCE = 4, 2**20  # of an accelerator, see Job.batch


@dataclasses.dataclass(frozen=True)
class Job:
  """How to restore files.

  Attributes:
    settings: the channels of a photo, 3 or 1 -> the settings of its fit.
    name: of the settings, for the report.
    seed: of all random choices; those of a photo also depend on its name, not on other photos.
    mask: (path of a photo, photo) -> its damage [H, W, 1], 1 = damaged; may raise PhotoError for a
      photo. None: all pixels are known.
    truths: a folder of the sound photos under the photos' names, only for the report.
    paste: with masks, change only the masked pixels. Else the result is what the network shows.
    strength: 1 is the restored photo, 0 the original, between is a blend.
    gray: fit and write one channel. Files that are gray always are.
    max_side: fit photos with a longer side at this size; only with masks, and pasting.
    max_seconds: refuse to begin where a fit might take longer.
    chunk, save_every: iterations between two looks, and looks between two checkpoints.
    batch: photos that a device fits at once, padded to a common size. 0: one on CPU; on
      accelerators PHOTOS_AT_ONCE, fewer where they have more than PIXELS_AT_ONCE together.
    curves: also write loss, variance and PSNR of every iteration as curves/NAME.npz.
  """

  settings: Callable[[int], Dip]
  name: str
  seed: int = 0
  mask: Callable[[pathlib.Path, images.Photo], np.ndarray] | None = None
  truths: str | os.PathLike | None = None
  paste: bool = True
  strength: float = 1.0
  gray: bool = False
  max_side: int | None = None
  max_seconds: float = math.inf
  chunk: int = 100
  save_every: int = 10
  batch: int = 0
  curves: bool = False


@dataclasses.dataclass(frozen=True, eq=False)
class _Input:
  """A photo as it is fitted; `mask` and `truth` may be None."""

  item: folder.Item
  photo: images.Photo
  values: np.ndarray  # [H, W, C] in [-1, 1]
  mask: np.ndarray | None  # [H, W, 1]
  truth: np.ndarray | None  # [H factor, W factor, C]
  key: jax.Array
  digest: str  # of its name, photo, mask and truth

  @property
  def channels(self) -> int:
    return self.values.shape[-1]


def plan(
  paths: Iterable[str | os.PathLike],
  out: str | os.PathLike,
  report: str | os.PathLike | None = None,
  *,
  overwrite: bool = False,
) -> folder.Plan:
  """What `restore_files` has to do: see folder.plan.

  Args:
    paths: photos and folders of photos.
    out: where the restored photos go, under the names of the originals.
    report: folder of report.json, and of the checkpoints of fits under way; `out` by default.
    overwrite: replaces outputs that exist.
  """
  outputs = lambda name: {'output': folder.like_original(name)}
  return folder.plan(paths, out, outputs, folder=report, overwrite=overwrite)


def restore_files(
  job: Job,
  todo: folder.Plan,
  *,
  progress: Callable[[int, int, folder.Result], None] | None = None,
  show: Callable[[folder.Item, images.Photo, images.Photo, np.ndarray | None], None] | None = None,
  tell: Callable[[str], None] = lambda sentence: None,
  stop: Callable[[], bool] | None = None,
) -> folder.Summary:
  """Restores photos into a folder.

  Each output has its input's size, kind and tags. An interrupted fit goes on from its checkpoint:
  the same call again ends with the same photos. What the report has of a photo beside
  folder.Result: `shape`, the size it was fitted at; `damaged`, the share of the pixels that its
  mask marks; of its fit `iteration`, whose image was chosen, of `iterations` that were run; and
  where the truth is known, PSNR in dB: `psnr_before` of the photo as it came, `psnr` of the file
  written, `psnr_chosen` of the network's image at the iteration chosen, `psnr_best` at the `best`
  one.

  Args:
    job: see Job.
    todo: of `plan`.
    progress: called after each photo with (photos done, photos in all, result).
    show: called with each restored photo: (its item, before, after with the warnings, mask).
    tell: takes sentences: how long it will take, how far a fit is.
    stop: asked during a fit; on yes, it is saved and train.Stopped raised.

  Raises:
    PhotoError: a fit might take longer than `max_seconds`, or a folder cannot be made.
    train.Stopped: see `stop`.
  """
  sizes = {item.path: item.size for item in todo.items if item.size}
  _check_time(job, sizes, tell)
  earlier = _earlier(todo.folder / folder.REPORT)

  def kept(item: folder.Item, result: folder.Result) -> folder.Result:
    """With what an earlier report says of this very output."""
    entry = earlier.get(result.output, {})
    if entry.get('sha256') != result.sha256:
      return result
    more = {name: value for name, value in entry.items() if name not in result.entry()}
    known = {name: entry[name] for name in ('warnings', 'seconds', 'size') if name in entry}
    return dataclasses.replace(result, **known, fields=more)

  def work(items: list[folder.Item]) -> Iterator[tuple]:
    for group in _groups(job, items):
      yield from _restore_group(job, todo, group, show, tell, stop)

  head = {'weights': f'Deep Image Prior, {job.name}, seed {job.seed}', 'strength': job.strength}
  return folder.run(todo, work, head, 'restored', 'make it smaller', kept=kept, progress=progress)


# Before -----------------------------------------------------------------------------------------


def _check_time(job: Job, sizes: dict[pathlib.Path, tuple[int, int]], tell) -> None:
  """Tells how long all photos take at most, or raises what is too long for one of them."""
  if not sizes:
    return
  settings = job.settings(1 if job.gray else 3)
  fitted = {path: _fitted_size(job, size) for path, size in sizes.items()}
  largest = max(fitted, key=lambda path: math.prod(fitted[path]))
  # The time grows with the area, but a small photo does not keep an accelerator busy.
  side = 128 if jax.local_devices()[0].platform == 'cpu' else 512
  speed = fit_time.measure(settings, side, side)
  try:
    tell(f'{largest}: {fit_time.check_time(settings, speed, *fitted[largest], job.max_seconds)}')
  except UserError as error:
    advice = (
      'set max_side to fit it smaller and fill only the damage'
      if job.mask
      else 'make it smaller (without a mask, all of it must be fitted)'
    )
    raise PhotoError(f'{largest}: {error}: {advice}, or raise max_hours.') from error
  total = sum(fit_time.estimate(settings, speed, *size) for size in fitted.values())
  if len(sizes) > 1:
    tell(f'{len(sizes)} photos: at most {fit_time.duration(total)}')


def _fitted_size(job: Job, size: tuple[int, int]) -> tuple[int, int]:
  scale = min(1, (job.max_side or math.inf) / max(size))
  return tuple(max(1, round(side * scale)) for side in size)


def _earlier(report: pathlib.Path) -> dict[str, dict]:
  """The entries of a report that is there already, by their outputs."""
  try:
    return {entry['output']: entry for entry in json.loads(report.read_text())['photos']}
  except (OSError, ValueError, KeyError, TypeError):
    return {}


def _groups(job: Job, items: Sequence[folder.Item]) -> Iterator[list[folder.Item]]:
  """Photos to fit at once: one a device in their order, or more, sorted by size."""
  devices = jax.local_devices()
  fitted = lambda item: _fitted_size(job, item.size or (1, 1))
  if devices[0].platform == 'cpu' and job.batch <= 1:
    most = lambda members: len(devices)
  else:
    items = sorted(items, key=fitted)

    def most(members):
      area = max(math.prod(fitted(item)) for item in members)
      return len(devices) * (job.batch or max(1, min(PHOTOS_AT_ONCE, PIXELS_AT_ONCE // area)))

  group = []
  for item in items:
    if group and len(group) + 1 > most([*group, item]):
      yield group
      group = []
    group.append(item)
  if group:
    yield group


# Fit --------------------------------------------------------------------------------------------


def _restore_group(job, todo, group, show, tell, stop) -> Iterator[tuple]:
  """Reads, fits and writes the photos of a group; a bad one fails by itself: see folder.run."""
  inputs = []
  for item in group:
    try:
      photo = _read(job, todo, item)
      if photo.mask is None or not job.paste or photo.mask.any():
        inputs.append(photo)
        continue
      end = _write(job, todo, photo, None, show)
    except folder.FAILURES as error:
      end = error
    yield item, end, 0.0
  for channels in (3, 1):
    members = [photo for photo in inputs if photo.channels == channels]
    if not members:
      continue
    # Named by names and contents: other photos, masks or settings never meet these checkpoints.
    about = repr((job.settings(channels), job.seed, job.chunk, job.max_side))
    digest = hashlib.sha256(''.join([about, *(photo.digest for photo in members)]).encode())
    checkpoints = todo.folder / UNFINISHED / digest.hexdigest()[:16]
    start = time.perf_counter()
    try:
      fits = _fit(job, members, checkpoints, tell, stop)
    except folder.FAILURES as error:
      _forget(checkpoints)
      for photo in members:
        yield photo.item, error, 0.0
      continue
    seconds = (time.perf_counter() - start) / len(members)
    for photo, result in zip(members, fits):
      try:
        if job.curves:
          place = todo.folder / CURVES / photo.item.output.relative_to(todo.out)
          images.make_folder(place.parent)
          np.savez_compressed(place.with_name(f'{place.name}.npz'), **result.curve)
        end = _write(job, todo, photo, result, show)
      except folder.FAILURES as error:
        end = error
      yield photo.item, end, seconds
    _forget(checkpoints)


def _forget(checkpoints: pathlib.Path) -> None:
  shutil.rmtree(checkpoints, ignore_errors=True)
  with contextlib.suppress(OSError):  # others are in there
    checkpoints.parent.rmdir()


def _read(job: Job, todo: folder.Plan, item: folder.Item) -> _Input:
  path = item.path
  photo = images.read(path)
  gray = photo.gray or job.gray

  def as_array(photo: images.Photo) -> np.ndarray:
    values = images.to_float(photo)
    return images.luma(values) if gray else values

  height, width = photo.size
  mask = truth = None
  if job.mask:
    mask = job.mask(path, photo)
    if mask.min() == 1:
      raise PhotoError(
        f'{path}: its mask covers all of it, so nothing is left to restore it from; mark less.'
      )
  if job.max_side and max(photo.size) > job.max_side and (mask is None or not job.paste):
    raise PhotoError(
      f'{path}: a {width}x{height} photo is fitted at {job.max_side} px only to fill its damage: '
      'give a mask, make the photo smaller, or raise max_side.'
    )
  if job.truths:
    file = masks.find_named(job.truths, path, 'truth')
    truth = as_array(images.read(file))
    factor = job.settings(3).factor
    if truth.shape[:2] != (height * factor, width * factor):
      raise PhotoError(
        f'{file}: the truth is {truth.shape[1]}x{truth.shape[0]}, and the restored photo will '
        f'be {width * factor}x{height * factor}.'
      )
  name = item.output.relative_to(todo.out).as_posix().encode('utf-8', 'replace')
  return _Input(
    item,
    photo,
    as_array(photo),
    mask,
    truth,
    jax.random.fold_in(jax.random.key(job.seed), zlib.crc32(name)),
    name.hex()
    + ''.join(
      hashlib.sha256(np.ascontiguousarray(x)).hexdigest()
      for x in (photo.pixels, mask, truth)
      if x is not None
    ),
  )


def _fit(job: Job, inputs: list[_Input], checkpoints: pathlib.Path, tell, stop) -> list[fit.Fit]:
  """Fits photos of one number of channels, at their sizes or at max_side."""
  settings = job.settings(inputs[0].channels)
  photos, shrunk = [], []
  for item in inputs:
    photo, mask = item.values, item.mask
    if job.max_side and max(photo.shape[:2]) > job.max_side:
      photo, mask = shrink(photo, mask, job.max_side)
    photos.append(photo)
    shrunk.append(mask)
  truths = None
  if job.truths:
    none = lambda x: np.zeros((*x.shape[:2], 1), np.float32)
    truths = [
      shrink(item.truth, none(item.truth), max(photo.shape[:2]) * settings.factor)[0]
      for item, photo in zip(inputs, photos)
    ]
  names = inputs[0].item.path.name + (f' and {len(inputs) - 1} more' if len(inputs) > 1 else '')
  first = told = None  # (time, iteration)

  def on_chunk(progress: fit.Progress) -> None:
    nonlocal first, told
    now, t = time.perf_counter(), int(progress.t.max())
    if first is None:
      first = told = now, t  # before it, time also went into compiling
    elif now - told[0] > TELL_EVERY and not progress.done.all():
      told = now, t
      left = (settings.iterations - t) * (now - first[0]) / (t - first[1])
      tell(
        f'{names}: iteration {t} of at most {settings.iterations}, at most '
        f'{fit_time.duration(left)} left'
      )

  return fit.fit_photos(
    settings,
    photos,
    shrunk,
    jnp.stack([item.key for item in inputs]),
    truths=truths,
    chunk=job.chunk,
    save_every=job.save_every,
    on_chunk=on_chunk,
    folder=checkpoints,
    stop=stop,
  )


# After ------------------------------------------------------------------------------------------


def _write(job: Job, todo: folder.Plan, given: _Input, result: fit.Fit | None, show) -> folder.Done:
  """Writes a restored photo; None: its mask marks nothing, and it stays as it is."""
  item, photo, image = given.item, given.photo, given.values
  pasted = given.mask is not None and job.paste
  warnings, fields = photo.warnings, {}
  if result is None:
    warnings += ('Its mask marks nothing: it is unchanged.',)
  else:
    fields = _numbers(result)
    image = result.image
    if pasted and job.settings(given.channels).factor == 1:
      image = paste(given.values, given.mask, image)
    if image.shape == given.values.shape:
      image = job.strength * image + (1 - job.strength) * given.values
  like = _like(job, photo, image.shape)
  values = images.keep_gray(np.broadcast_to(image, like.pixels.shape), like.pixels)
  restored = images.from_float(values, like)
  if result is None and like is photo and item.output.suffix == item.path.suffix:
    images.make_folder(item.output.parent)
    images.write_bytes(item.output, item.path.read_bytes(), overwrite=todo.overwrite)
  else:
    folder.write(todo, restored, item.output)
    warnings += folder.compressed_again(like) if pasted else ()
  warnings += folder.changed_name(item, photo)
  if given.truth is not None:
    fields |= {'psnr': _psnr(images.to_float(restored), given.truth)}
    if given.truth.shape == given.values.shape:
      fields |= {'psnr_before': _psnr(given.values, given.truth)}
  fields |= {
    'shape': _fitted_size(job, photo.size),
    'damaged': None if given.mask is None else float((given.mask > 0).mean()),
  }
  if show is not None:
    show(item, photo, dataclasses.replace(restored, warnings=warnings), given.mask)
  return folder.Done(restored.size, warnings, fields)


def _numbers(result: fit.Fit) -> dict[str, float]:
  numbers = {'iteration': result.chosen, 'iterations': result.iterations}
  if 'psnr' in result.curve:
    chosen = round(float(result.curve['psnr'][result.chosen - 1]), 3)
    numbers |= {'psnr_chosen': chosen, 'psnr_best': round(chosen + result.lost, 3)}
    numbers |= {'best': result.best}
  return numbers


def _like(job: Job, photo: images.Photo, shape: tuple[int, ...]) -> images.Photo:
  """The photo that the restored pixels take their place in: perhaps gray, perhaps larger."""
  if job.gray and not photo.gray:
    photo = dataclasses.replace(photo, gray=True, icc=None)  # an RGB profile fits no gray file
  if photo.size == shape[:2]:
    return photo
  alpha = photo.alpha
  if alpha is not None:
    alpha = Image.fromarray(alpha.astype(np.float32)).resize(shape[1::-1], Image.Resampling.BICUBIC)
    alpha = np.clip(np.rint(alpha), 0, np.iinfo(photo.alpha.dtype).max).astype(photo.alpha.dtype)
  pixels = np.zeros((*shape[:2], 3), photo.pixels.dtype)
  return dataclasses.replace(photo, pixels=pixels, alpha=alpha)


def _psnr(image: np.ndarray, truth: np.ndarray) -> float:
  """Of 8 bits, in dB; one channel counts as three equal ones."""
  image, truth = (np.broadcast_to(x, (*x.shape[:2], 3))[None] for x in (image, truth))
  return round(min(float(psnr_ssim.psnr(image, truth)[0]), psnr_ssim.MAX_PSNR), 3)


# Large photos -----------------------------------------------------------------------------------


def shrink(photo: np.ndarray, mask: np.ndarray, max_side: int) -> tuple[np.ndarray, np.ndarray]:
  """A photo whose long side is `max_side`, made from its known pixels only, and its mask.

  Args:
    photo: [H, W, C] in [-1, 1].
    mask: [H, W, 1] in [0, 1], 1 = damaged.

  Returns:
    The smaller photo, each pixel the weighted mean of the known pixels under it (triangle filter,
    antialiased), and its mask, one minus the known share of the weights. Smaller photos come back
    unchanged.
  """
  if max(photo.shape[:2]) <= max_side:
    return photo, mask
  height, width = (max(1, round(s * max_side / max(photo.shape[:2]))) for s in photo.shape[:2])
  resize = lambda x: jax.image.resize(x, (height, width, x.shape[2]), 'linear', antialias=True)
  known = resize(jnp.asarray(1 - mask, jnp.float32))
  small = resize(photo * (1 - mask)) / jnp.maximum(known, 1e-6)
  return np.asarray(small), np.asarray(jnp.clip(1 - known, 0, 1))


def paste(photo: np.ndarray, mask: np.ndarray, restored: np.ndarray) -> np.ndarray:
  """`photo` with the damage filled from `restored`, enlarged (cubic) where it is smaller.

  Shapes [H, W, C], [H, W, 1], [h, w, C]; images in [-1, 1], mask 1 = damaged.
  """
  enlarged = jax.image.resize(jnp.asarray(restored), photo.shape, 'cubic')
  return np.asarray(photo * (1 - mask) + jnp.clip(enlarged, -1, 1) * mask, np.float32)
