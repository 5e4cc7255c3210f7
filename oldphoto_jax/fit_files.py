"""Photo files in, restored files out, by Deep Image Prior: a fit for each, written when it ends.

What `launch.py --config=configs/dip.py` and `oldphoto restore --method dip` share.
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

from oldphoto_jax import fit, images, masks, metrics, restore
from oldphoto_jax.models.dip import Dip

UNFINISHED = 'unfinished'  # folder of the checkpoints of fits under way
CURVES = 'curves'
TELL_EVERY = 30  # seconds between two sentences about a fit under way
PHOTOS_AT_ONCE, PIXELS_AT_ONCE = 4, 2**20  # of an accelerator, see Job.batch
LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601


@dataclasses.dataclass(frozen=True)
class Job:
  """How to restore files.

  Attributes:
    settings: the channels of a photo, 3 or 1 -> the settings of its fit.
    name: of the settings, for the report.
    seed: of all random choices; those of a photo also depend on its name, not on other photos.
    mask: (path of a photo, photo) -> its damage [H, W, 1], 1 = damaged; may raise
      images.PhotoError for a photo. None: all pixels are known.
    truths: a folder of the sound photos under the photos' names, for the report alone.
    paste: with masks, change the masked pixels alone. Else the result is what the network shows.
    strength: 1 is the restored photo, 0 the original, between is a blend.
    gray: fit and write one channel. Files that are gray always are.
    max_side: fit photos with a longer side at this size; only with masks, and pasting.
    max_seconds: refuse to begin where a fit might take longer.
    chunk, save_every: iterations between two looks, and looks between two checkpoints.
    batch: photos that a device fits at once, padded to a common size. 0: one on CPU; on
      accelerators PHOTOS_AT_ONCE, fewer where they have more than PIXELS_AT_ONCE together.
    overwrite: replace outputs that exist.
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
  overwrite: bool = False
  curves: bool = False


@dataclasses.dataclass(frozen=True)
class Result(restore.Result):
  """What became of one photo and of its fit; `shape` is the size it was fitted at.

  PSNR is in dB, where the truth is known.
  """

  iteration: int | None = None  # whose image was chosen
  iterations: int | None = None  # that were run
  psnr_before: float | None = None  # of the photo as it came
  psnr: float | None = None  # of the file written
  psnr_chosen: float | None = None  # of the network's image at the iteration chosen
  psnr_best: float | None = None  # and at the best one
  best: int | None = None  # which is this


@dataclasses.dataclass(frozen=True, eq=False)
class _Input:
  """A photo as it is fitted; `mask` and `truth` may be None."""

  path: pathlib.Path
  output: pathlib.Path
  photo: images.Photo
  values: np.ndarray  # [H, W, C] in [-1, 1]
  mask: np.ndarray | None  # [H, W, 1]
  truth: np.ndarray | None  # [H factor, W factor, C]
  key: jax.Array
  digest: str  # of its name, photo, mask and truth

  @property
  def channels(self) -> int:
    return self.values.shape[-1]


def restore_files(
  job: Job,
  paths: Iterable[str | os.PathLike],
  out: pathlib.Path,
  folder: pathlib.Path | None = None,
  *,
  progress: Callable[[int, int, Result], None] | None = None,
  tell: Callable[[str], None] | None = None,
  stop: Callable[[], bool] | None = None,
) -> restore.Summary:
  """Restores files and folders of photos into a folder.

  Each output has its input's name, size, kind and tags, as restore.restore_photos has it. One that
  exists is kept, and an interrupted fit goes on from its checkpoint: the same call again ends with
  the same photos.

  Args:
    job: see Job.
    paths: photos and folders of photos.
    out: where the restored photos go.
    folder: of report.json, and of the checkpoints of fits under way; `out` by default.
    progress: called after each photo with (photos done, photos in all, result).
    tell: takes sentences: how long it will take, how far a fit is.
    stop: asked during a fit; on yes, it is saved and train.Stopped raised.

  Raises:
    images.PhotoError: nothing could be done: no photo, an output would replace an input, a folder
      cannot be written, or a fit might take longer than `max_seconds`.
    train.Stopped: see `stop`.
  """
  folder = out if folder is None else folder
  tell = (lambda _: None) if tell is None else tell
  found = images.find_photos(paths, skip=folder)
  photos = restore.plan_outputs([(path, _output_name(name)) for path, name in found], out)
  for place in {folder, out}:
    images.make_folder(place)
    if not os.access(place, os.W_OK):
      raise images.PhotoError(f'{place}: nothing may be written in this folder; give another one.')
  kept = lambda output: output.is_file() and not job.overwrite
  waiting = [(path, output) for path, output, bad in photos if not bad and not kept(output)]
  sizes = {path: size for path, _ in waiting if (size := images.size_or_none(path))}
  _check_time(job, sizes, tell)

  earlier, results = _earlier(folder / restore.REPORT), {}

  def note(result: Result) -> None:
    results[result.input] = result
    restore.write_report(
      folder / restore.REPORT,
      f'Deep Image Prior, {job.name}, seed {job.seed}',
      job.strength,
      [results[str(path)] for path, _, _ in photos if str(path) in results],
    )
    if progress is not None:
      progress(len(results), len(photos), result)

  for path, output, bad in photos:
    if bad:
      note(Result(str(path), None, 'failed', bad))
    elif kept(output):
      note(_kept(path, output, earlier))
  for group in _groups(job, waiting, sizes):
    for result in _restore_group(job, group, out, folder, tell, stop):
      note(result)
  return restore.Summary(tuple(results[str(path)] for path, _, _ in photos))


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
  speed = fit.measure(settings, side, side)
  try:
    tell(f'{largest}: {fit.check_time(settings, speed, *fitted[largest], job.max_seconds)}')
  except ValueError as error:
    advice = (
      'set max_side to fit it smaller and fill the damage alone'
      if job.mask
      else 'make it smaller (without a mask, all of it has to be fitted)'
    )
    raise images.PhotoError(f'{largest}: {error}: {advice}, or raise max_hours.') from error
  total = sum(fit.estimate(settings, speed, *size) for size in fitted.values())
  if len(sizes) > 1:
    tell(f'{len(sizes)} photos: at most {fit.duration(total)}')


def _fitted_size(job: Job, size: tuple[int, int]) -> tuple[int, int]:
  scale = min(1, (job.max_side or math.inf) / max(size))
  return tuple(max(1, round(side * scale)) for side in size)


def _earlier(report: pathlib.Path) -> dict[str, dict]:
  """The entries of a report that is there already, by their outputs."""
  try:
    return {entry['output']: entry for entry in json.loads(report.read_text())['photos']}
  except (OSError, ValueError, KeyError, TypeError):
    return {}


def _kept(path: pathlib.Path, output: pathlib.Path, earlier: dict[str, dict]) -> Result:
  """With what an earlier report says of this very output."""
  sha256, entry = _sha256(output), earlier.get(str(output), {})
  if entry.get('sha256') != sha256:
    return Result(str(path), str(output), 'kept', sha256=sha256)
  names = {field.name for field in dataclasses.fields(Result)}
  entry = {name: value for name, value in entry.items() if name in names}
  return Result(**entry | {'input': str(path), 'status': 'kept'})


def _groups(
  job: Job,
  photos: Sequence[tuple[pathlib.Path, pathlib.Path]],
  sizes: dict[pathlib.Path, tuple[int, int]],
) -> Iterator[list[tuple[pathlib.Path, pathlib.Path]]]:
  """Photos to fit at once: one a device in their order, or more, sorted by size."""
  devices = jax.local_devices()
  if devices[0].platform == 'cpu' and job.batch <= 1:
    size_of = lambda members: len(devices)
  else:
    photos = sorted(photos, key=lambda item: _fitted_size(job, sizes.get(item[0], (1, 1))))

    def size_of(members):
      area = max(math.prod(_fitted_size(job, sizes.get(path, (1, 1)))) for path, _ in members)
      return len(devices) * (job.batch or max(1, min(PHOTOS_AT_ONCE, PIXELS_AT_ONCE // area)))

  group = []
  for item in photos:
    if group and len(group) + 1 > size_of([*group, item]):
      yield group
      group = []
    group.append(item)
  if group:
    yield group


# Fit --------------------------------------------------------------------------------------------


def _restore_group(job, group, out, folder, tell, stop) -> Iterator[Result]:
  """Reads, fits and writes the photos of a group; a bad one fails by itself."""
  inputs = []
  for path, output in group:
    try:
      item = _read(job, path, output, out)
      if item.mask is not None and job.paste and not item.mask.any():
        yield _write(job, item, item.values, 0.0, {}, ('Its mask marks nothing: it is unchanged.',))
      else:
        inputs.append(item)
    except images.PhotoError as error:
      yield _failed(path, str(error))
  for channels in (3, 1):
    members = [item for item in inputs if item.channels == channels]
    if not members:
      continue
    # Named by names and contents: other photos, masks or settings never meet these checkpoints.
    about = repr((job.settings(channels), job.seed, job.chunk, job.max_side))
    digest = hashlib.sha256(''.join([about, *(item.digest for item in members)]).encode())
    checkpoints = folder / UNFINISHED / digest.hexdigest()[:16]
    start = time.perf_counter()
    try:
      fits = _fit(job, members, checkpoints, tell, stop)
    except (ValueError, MemoryError, jax.errors.JaxRuntimeError) as error:
      reason = str(error)
      if not isinstance(error, ValueError):
        if isinstance(error, jax.errors.JaxRuntimeError) and 'RESOURCE_EXHAUSTED' not in reason:
          raise
        reason = 'the memory is too small for this photo; make it smaller.'
      _forget(checkpoints)
      for item in members:
        yield _failed(item.path, f'{item.path}: {reason}')
      continue
    seconds = (time.perf_counter() - start) / len(members)
    for item, result in zip(members, fits):
      try:
        if job.curves:
          _write_curves(result, folder / CURVES / item.output.relative_to(out))
        yield _write(job, item, _composed(job, item, result), seconds, _numbers(result))
      except images.PhotoError as error:
        yield _failed(item.path, str(error), seconds)
    _forget(checkpoints)


def _forget(checkpoints: pathlib.Path) -> None:
  shutil.rmtree(checkpoints, ignore_errors=True)
  with contextlib.suppress(OSError):  # others are in there
    checkpoints.parent.rmdir()


def _read(job: Job, path: pathlib.Path, output: pathlib.Path, out: pathlib.Path) -> _Input:
  photo = images.read(path)
  gray = photo.gray or job.gray

  def as_array(photo: images.Photo) -> np.ndarray:
    values = images.to_float(photo)
    return (values @ LUMA)[..., None] if gray else values

  height, width = photo.size
  mask = truth = None
  if job.mask:
    mask = job.mask(path, photo)
    if mask.min() == 1:
      raise images.PhotoError(
        f'{path}: its mask covers all of it, so nothing is left to restore it from; mark less.'
      )
  if job.max_side and max(photo.size) > job.max_side and (mask is None or not job.paste):
    raise images.PhotoError(
      f'{path}: a {width}x{height} photo is fitted at {job.max_side} px only to fill its damage: '
      'give a mask, make the photo smaller, or raise max_side.'
    )
  if job.truths:
    file = masks.find_named(job.truths, path, 'truth')
    truth = as_array(images.read(file))
    factor = job.settings(3).factor
    if truth.shape[:2] != (height * factor, width * factor):
      raise images.PhotoError(
        f'{file}: the truth is {truth.shape[1]}x{truth.shape[0]}, and the restored photo will '
        f'be {width * factor}x{height * factor}.'
      )
  name = output.relative_to(out).as_posix().encode('utf-8', 'replace')
  return _Input(
    path,
    output,
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
  photos, known = [], []
  for item in inputs:
    shrunk = job.max_side and max(item.values.shape[:2]) > job.max_side
    both = item.values, item.mask
    photo, mask = fit.shrink(*both, job.max_side) if shrunk else both
    photos.append(photo)
    known.append(mask)
  truths = None
  if job.truths:
    none = lambda x: np.zeros((*x.shape[:2], 1), np.float32)
    truths = [
      fit.shrink(item.truth, none(item.truth), max(photo.shape[:2]) * settings.factor)[0]
      for item, photo in zip(inputs, photos)
    ]
  names = inputs[0].path.name + (f' and {len(inputs) - 1} more' if len(inputs) > 1 else '')
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
        f'{fit.duration(left)} left'
      )

  return fit.fit_photos(
    settings,
    photos,
    known,
    jnp.stack([item.key for item in inputs]),
    truths=truths,
    chunk=job.chunk,
    save_every=job.save_every,
    on_chunk=on_chunk,
    folder=checkpoints,
    stop=stop,
  )


# After ------------------------------------------------------------------------------------------


def _composed(job: Job, item: _Input, result: fit.Fit) -> np.ndarray:
  """The restored photo [H factor, W factor, C]."""
  if item.mask is None or not job.paste or job.settings(item.channels).factor != 1:
    return result.image
  return fit.paste(item.values, item.mask, result.image)


def _numbers(result: fit.Fit) -> dict[str, float]:
  numbers = {'iteration': result.chosen, 'iterations': result.iterations}
  if 'psnr' in result.curve:
    chosen = round(float(result.curve['psnr'][result.chosen - 1]), 3)
    numbers |= {'psnr_chosen': chosen, 'psnr_best': round(chosen + result.lost, 3)}
    numbers |= {'best': result.best}
  return numbers


def _write(
  job: Job,
  item: _Input,
  image: np.ndarray,
  seconds: float,
  numbers: dict[str, float],
  warnings: tuple[str, ...] = (),
) -> Result:
  like = _like(job, item.photo, image.shape)
  if image is not item.values and image.shape == item.values.shape:
    image = job.strength * image + (1 - job.strength) * item.values
  values = images.keep_gray(np.broadcast_to(image, like.pixels.shape), like)
  restored = images.from_float(values, like)
  warnings = item.photo.warnings + warnings
  images.make_folder(item.output.parent)
  if image is item.values and like is item.photo and item.output.suffix == item.path.suffix:
    images.write_bytes(item.output, item.path.read_bytes(), overwrite=job.overwrite)
  else:
    images.write(restored, item.output, overwrite=job.overwrite)
    if item.mask is not None and job.paste and like.format in restore.LOSSY and not like.lossless:
      warnings += (
        f'{like.format} is compressed anew, which moves pixels outside the damage a little; '
        'as PNG or TIFF they would stay the same.',
      )
  if item.truth is not None:
    numbers = numbers | {'psnr': _psnr(images.to_float(restored), item.truth)}
    if item.truth.shape == item.values.shape:
      numbers |= {'psnr_before': _psnr(item.values, item.truth)}
  if item.output.suffix != item.path.suffix:
    warnings += (f'{item.photo.format} cannot hold a photo well; written as {item.output.name}.',)
  return Result(
    str(item.path),
    str(item.output),
    'restored',
    warnings=warnings,
    seconds=seconds,
    size=restored.size,
    shape=_fitted_size(job, item.photo.size),
    sha256=_sha256(item.output),
    damaged=None if item.mask is None else float((item.mask > 0).mean()),
    **numbers,
  )


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
  return round(min(float(metrics.psnr(image, truth)[0]), metrics.MAX_PSNR), 3)


def _write_curves(result: fit.Fit, path: pathlib.Path) -> None:
  images.make_folder(path.parent)
  np.savez_compressed(path.with_name(f'{path.name}.npz'), **result.curve)


def _failed(path: pathlib.Path, message: str, seconds: float = 0.0) -> Result:
  return Result(str(path), None, 'failed', message, seconds=seconds)


def _output_name(relative: pathlib.PurePath) -> pathlib.PurePath:
  # As restore.py: 256 colours do not hold a photo.
  is_gif = relative.suffix.lower() == '.gif'
  return relative.with_name(f'{relative.name}.png') if is_gif else relative


def _sha256(path: pathlib.Path) -> str:
  with path.open('rb') as file:
    return hashlib.file_digest(file, 'sha256').hexdigest()
