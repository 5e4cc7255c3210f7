"""Restores photo files by Deep Image Prior: fits each one, and writes it when its fit ends.

Shared by `launch.py --config=configs/dip.py` and `oldphoto dip`.
"""

import contextlib
import dataclasses
import hashlib
import math
import os
import pathlib
import shutil
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from oldphoto_jax import colour
from oldphoto_jax.dip import fit, fit_time
from oldphoto_jax.dip.prior import Dip
from oldphoto_jax.errors import PhotoError, UserError
from oldphoto_jax.metrics import psnr_ssim
from oldphoto_jax.photos import images, masks
from oldphoto_jax.restoring import folder, output_files, tasks

UNFINISHED = 'unfinished'  # folder of the checkpoints of unfinished fits
CURVES = 'curves'
TELL_EVERY = 30  # seconds between messages about a running fit
PHOTOS_AT_ONCE, PIXELS_AT_ONCE = 4, 2**20  # per accelerator, see Job.batch


@dataclasses.dataclass(frozen=True)
class Job:
  """How to restore files.

  Attributes:
    settings: number of channels, 3 or 1 -> settings of the fit.
    name: name of the settings in the report.
    seed: seed of all random choices. Those for a photo also depend on its name, but not on other
      photos.
    mask: (path of a photo, photo) -> its damage [H, W, 1], 1 = damaged. May raise PhotoError. None:
      all pixels are known.
    truths: a folder of the undamaged photos, with the same names, only for the report.
    paste: with masks, change only the masked pixels. Otherwise use the network's whole image.
    strength: 1 is the restored photo, 0 the original, values between blend the two.
    gray: fit and write one channel. Gray files always have one.
    max_side: fit photos with a longer side at this size; only with masks and `paste`.
    max_seconds: refuse to start if a fit might take longer.
    chunk, save_every: iterations per chunk, chunks per checkpoint.
    batch: photos that a device fits at once, padded to a common size. 0: one on CPU; on
      accelerators PHOTOS_AT_ONCE, or fewer if they exceed PIXELS_AT_ONCE together.
    history: whether each photo says in its XMP data how it was made: see provenance.py.
    curves: also write loss, variance and PSNR of every iteration to curves/NAME.npz.
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
  history: bool = True
  curves: bool = False

  @property
  def made_by(self) -> dict[str, Any]:
    """What the photos depend on, for the manifest."""
    weights = f'Deep Image Prior, {self.name}, seed {self.seed}'
    return {'weights': weights, 'strength': self.strength}


@dataclasses.dataclass(frozen=True, eq=False)
class _Input:
  """A photo to fit. `mask` and `truth` may be None."""

  item: tasks.Item
  photo: images.Photo
  values: np.ndarray  # [H, W, C] in [-1, 1]
  mask: np.ndarray | None  # [H, W, 1]
  truth: np.ndarray | None  # [H factor, W factor, C]
  key: jax.Array
  digest: str  # hash of its name, photo, mask and truth

  @property
  def channels(self) -> int:
    return self.values.shape[-1]


def plan(
  paths: Iterable[str | os.PathLike],
  out: str | os.PathLike,
  report: str | os.PathLike | None = None,
  *,
  overwrite: bool = False,
  part: folder.Part = folder.WHOLE,
) -> folder.Plan:
  """Plans `restore_files`: see folder.plan.

  Args:
    paths: photos and folders of photos.
    out: folder of the restored photos, which keep the names of the originals.
    report: folder of report.json and of the checkpoints of unfinished fits; `out` by default.
    overwrite: whether to replace existing outputs.
    part: which of the photos to do.
  """
  outputs = lambda name: {'output': output_files.like_original(name)}
  return folder.plan(paths, out, outputs, folder=report, overwrite=overwrite, part=part)


def restore_files(
  job: Job,
  todo: folder.Plan,
  *,
  progress: Callable[[int, int, tasks.Result], None] | None = None,
  show: Callable[[tasks.Item, images.Photo, images.Photo, np.ndarray | None], None] | None = None,
  tell: Callable[[str], None] = lambda sentence: None,
  stop: Callable[[], bool] | None = None,
) -> folder.Summary:
  """Restores photos into a folder.

  Each output has the size, kind and tags of its input. An interrupted fit goes on from its
  checkpoint, and the same call again gives the same photos. For each photo, the report has these
  fields beside those of tasks.Result:

    shape: the size at which it was fitted.
    damaged: the share of pixels that its mask marks.
    iteration, iterations: the iteration whose image was chosen, and the number that were run.
    psnr_before, psnr: in dB, of the input and of the written file, if the truth is known.
    psnr_chosen, psnr_best: in dB, of the network's image at the chosen iteration and at the `best`.

  Args:
    job: see Job.
    todo: of `plan`.
    progress: called after each photo with (photos done, total, result).
    show: called with each restored photo: (its item, before, after with the warnings, mask).
    tell: called with messages about the expected duration and the progress of a fit.
    stop: called during a fit. If it returns true, the fit is saved and train.Stopped raised.

  Raises:
    PhotoError: a fit might take longer than `max_seconds`, or see folder.run.
    DiskFullError: see folder.run.
    train.Stopped: see `stop`.
  """
  sizes = {item.path: item.size for item in todo.items if item.size}
  _check_time(job, sizes, tell)

  def work(items: Iterable[tasks.Item]) -> Iterator[tuple]:
    for group in _groups(job, list(items)):
      yield from _restore_group(job, todo, group, show, tell, stop)

  return folder.run(todo, work, job.made_by, 'restored', 'make it smaller', progress=progress)


# Before -----------------------------------------------------------------------------------------


def _check_time(job: Job, sizes: dict[pathlib.Path, tuple[int, int]], tell) -> None:
  """Reports how long all photos take at most. Raises PhotoError if one takes too long."""
  if not sizes:
    return
  settings = job.settings(1 if job.gray else 3)
  fitted = {path: _fitted_size(job, size) for path, size in sizes.items()}
  largest = max(fitted, key=lambda path: math.prod(fitted[path]))
  # Time grows with the area, but a small photo does not keep an accelerator busy.
  side = 128 if jax.local_devices()[0].platform == 'cpu' else 512
  speed = fit_time.measure(settings, side, side)
  try:
    tell(f'{largest}: {fit_time.check_time(settings, speed, *fitted[largest], job.max_seconds)}')
  except UserError as error:
    advice = (
      'set max_side to fit it smaller and fill only the damage'
      if job.mask
      else 'make it smaller (without a mask, the whole photo must be fitted)'
    )
    raise PhotoError(f'{largest}: {error}: {advice}, or raise max_hours.') from error
  total = sum(fit_time.estimate(settings, speed, *size) for size in fitted.values())
  if len(sizes) > 1:
    tell(f'{len(sizes)} photos: at most {fit_time.duration(total)}')


def _fitted_size(job: Job, size: tuple[int, int]) -> tuple[int, int]:
  scale = min(1, (job.max_side or math.inf) / max(size))
  return tuple(max(1, round(side * scale)) for side in size)


def _groups(job: Job, items: Sequence[tasks.Item]) -> Iterator[list[tasks.Item]]:
  """Groups photos to fit at once: one per device in their order, or more, sorted by size."""
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
  """Reads, fits and writes the photos of a group. A bad photo fails on its own: see folder.run."""
  inputs = []
  for item in group:
    try:
      photo = _read(job, todo, item)
      if photo.mask is None or not job.paste or photo.mask.any():
        inputs.append(photo)
        continue
      end = _write(job, todo, photo, None, show)
    except tasks.FAILURES as error:
      end = error
    yield item, end, 0.0
  for channels in (3, 1):
    members = [photo for photo in inputs if photo.channels == channels]
    if not members:
      continue
    # Named by a hash of everything, so other photos, masks or settings never use these checkpoints.
    about = repr((job.settings(channels), job.seed, job.chunk, job.max_side))
    digest = hashlib.sha256(''.join([about, *(photo.digest for photo in members)]).encode())
    checkpoints = todo.folder / UNFINISHED / digest.hexdigest()[:16]
    start = time.perf_counter()
    try:
      fits = _fit(job, members, checkpoints, tell, stop)
    except tasks.FAILURES as error:
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
      except tasks.FAILURES as error:
        end = error
      yield photo.item, end, seconds
    _forget(checkpoints)


def _forget(checkpoints: pathlib.Path) -> None:
  shutil.rmtree(checkpoints, ignore_errors=True)
  with contextlib.suppress(OSError):  # the folder holds others
    checkpoints.parent.rmdir()


def _read(job: Job, todo: folder.Plan, item: tasks.Item) -> _Input:
  path = item.path
  photo = images.read(path)
  gray = photo.gray or job.gray

  def as_array(photo: images.Photo) -> np.ndarray:
    values = images.to_float(photo)
    return colour.luma(values) if gray else values

  height, width = photo.size
  mask = truth = None
  if job.mask:
    mask = job.mask(path, photo)
    if mask.min() == 1:
      raise PhotoError(
        f'{path}: its mask covers the whole photo, so nothing is left to restore from; mark less.'
      )
  if job.max_side and max(photo.size) > job.max_side and (mask is None or not job.paste):
    raise PhotoError(
      f'{path}: a {width}x{height} photo can be fitted at {job.max_side} px only to fill damage: '
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
  """Fits photos that have the same number of channels, at their own size or at max_side."""
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


def _write(job: Job, todo: folder.Plan, given: _Input, result: fit.Fit | None, show) -> tasks.Done:
  """Writes a restored photo. None: its mask marks nothing, so it is copied unchanged."""
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
  if job.history and result is not None:
    restored, untold = output_files.with_history(restored, like, pasted, job.made_by)
    warnings += untold
  if result is None and like is photo and item.output.suffix == item.path.suffix:
    images.make_folder(item.output.parent)
    images.write_bytes(item.output, item.path.read_bytes(), overwrite=todo.overwrite)
  else:
    output_files.write(todo, restored, item.output)
    warnings += output_files.compressed_again(like) if pasted else ()
  warnings += output_files.changed_name(item)
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
  return tasks.Done(restored.size, warnings, fields)


def _numbers(result: fit.Fit) -> dict[str, float]:
  numbers = {'iteration': result.chosen, 'iterations': result.iterations}
  if 'psnr' in result.curve:
    chosen = round(float(result.curve['psnr'][result.chosen - 1]), 3)
    numbers |= {'psnr_chosen': chosen, 'psnr_best': round(chosen + result.lost, 3)}
    numbers |= {'best': result.best}
  return numbers


def _like(job: Job, photo: images.Photo, shape: tuple[int, ...]) -> images.Photo:
  """The photo that receives the restored pixels: perhaps gray, perhaps larger."""
  if job.gray and not photo.gray:
    photo = dataclasses.replace(photo, gray=True, icc=None)  # an RGB profile fits no gray file
  if photo.size == shape[:2]:
    return photo
  alpha = photo.alpha
  if alpha is not None:
    whole = Image.fromarray(alpha.astype(np.float32))
    values = np.asarray(whole.resize(shape[1::-1], Image.Resampling.BICUBIC))
    alpha = np.clip(np.rint(values), 0, np.iinfo(photo.alpha.dtype).max).astype(photo.alpha.dtype)
  pixels = np.zeros((*shape[:2], 3), photo.pixels.dtype)
  return dataclasses.replace(photo, pixels=pixels, alpha=alpha)


def _psnr(image: np.ndarray, truth: np.ndarray) -> float:
  """PSNR in dB, at most psnr_ssim.MAX_PSNR. One channel counts as three equal ones."""
  image, truth = (np.broadcast_to(x, (*x.shape[:2], 3))[None] for x in (image, truth))
  return round(float(psnr_ssim.psnr(image, truth)[0]), 3)


# Large photos -----------------------------------------------------------------------------------


def shrink(photo: np.ndarray, mask: np.ndarray, max_side: int) -> tuple[np.ndarray, np.ndarray]:
  """Shrinks a photo and its mask to a longer side of `max_side`, using only known pixels.

  Args:
    photo: [H, W, C] in [-1, 1].
    mask: [H, W, 1] in [0, 1], 1 = damaged.

  Returns:
    The smaller photo and its mask. Each pixel is the weighted mean of the known pixels under it
    (triangle filter, antialiased); the mask is one minus the known share of the weights. Photos
    that are already small enough are returned unchanged.
  """
  if max(photo.shape[:2]) <= max_side:
    return photo, mask
  height, width = (max(1, round(s * max_side / max(photo.shape[:2]))) for s in photo.shape[:2])
  resize = lambda x: jax.image.resize(x, (height, width, x.shape[2]), 'linear', antialias=True)
  known = resize(jnp.asarray(1 - mask, jnp.float32))
  small = resize(photo * (1 - mask)) / jnp.maximum(known, 1e-6)
  return np.asarray(small), np.asarray(jnp.clip(1 - known, 0, 1))


def paste(photo: np.ndarray, mask: np.ndarray, restored: np.ndarray) -> np.ndarray:
  """`photo` with the damage filled from `restored`, which is enlarged (cubic) if it is smaller.

  Shapes [H, W, C], [H, W, 1], [h, w, C]; images in [-1, 1], mask 1 = damaged.
  """
  enlarged = jax.image.resize(jnp.asarray(restored), photo.shape, 'cubic')
  return np.asarray(photo * (1 - mask) + jnp.clip(enlarged, -1, 1) * mask, np.float32)
