"""Photo files in and out: same size, bit depth, grayness, transparency, profile and tags.

An original is only ever read. Every file is written under a temporary name in the same folder and
then renamed, so no half-written photo is left behind.
"""

import dataclasses
import logging
import os
import pathlib
import secrets
import struct

import numpy as np

from oldphoto_jax import colour
from oldphoto_jax.errors import PhotoError
from oldphoto_jax.photos import decoding, formats, metadata
from oldphoto_jax.photos.formats import Photo, reason

# Twice Pillow's MAX_IMAGE_PIXELS, where Pillow itself refuses: 13,000 x 13,000.
MAX_PIXELS = 178_956_970


_log = logging.getLogger(__name__)


def read(
  path: str | os.PathLike, max_pixels: int = MAX_PIXELS, *, all_pages: bool = False
) -> Photo:
  """Reads a photo, of any format of formats.FORMATS.

  Args:
    path: the file. If its content differs from its ending, it is read with a warning.
    max_pixels: larger photos are refused before they are decoded, which protects against
      decompression bombs. Pillow's own limit, 2 * PIL.Image.MAX_IMAGE_PIXELS, applies as well.
    all_pages: also reads the other photos of a TIFF file, as `pages`. Otherwise the first photo is
      read, with a warning. Thumbnails and infrared pictures of scanners are no photos.

  Raises:
    PhotoError: the file is missing, empty, cut off, too large, or of a kind that is not read or
      could only be read with a loss (floating point, Lab, more than 16 bits).
  """
  path = pathlib.Path(path)
  try:
    with path.open('rb') as file:
      modified = os.fstat(file.fileno()).st_mtime_ns
      photo = decoding.decode(file.read(), path.suffix, max_pixels, all_pages)
    return dataclasses.replace(photo, modified=modified)
  except PhotoError as error:
    raise PhotoError(f'{path}: {error}') from error.__cause__
  except FileNotFoundError as error:
    raise PhotoError(f'{path}: there is no such file.') from error
  except PermissionError as error:
    raise PhotoError(f'{path}: no permission to read the file; change its permissions.') from error
  except Exception as error:  # decoders raise exceptions of all kinds for damaged files
    raise PhotoError(
      f'{path}: the file could not be decoded and is probably damaged ({reason(error)}).'
    ) from error


def read_rgb8(path: str | os.PathLike) -> np.ndarray:
  """Reads a photo as uint8 [H, W, 3]; transparency is dropped. Raises PhotoError as `read`."""
  return to_rgb8(read(path))


def size(path: str | os.PathLike) -> tuple[int, int]:
  """Height and width of the upright photo, from the file's header. Raises PhotoError as `read`."""
  path = pathlib.Path(path)
  try:
    with path.open('rb') as file:
      return decoding.size(file, path.suffix, MAX_PIXELS)
  except PhotoError as error:
    raise PhotoError(f'{path}: {error}') from error.__cause__
  except Exception as error:
    raise PhotoError(f'{path}: the header could not be read ({reason(error)}).') from error


def size_or_none(path: str | os.PathLike) -> tuple[int, int] | None:
  """`size`, or None for a photo that cannot be read. The error is reported when it is processed."""
  try:
    return size(path)
  except PhotoError:
    return None


def make_folder(path: pathlib.Path) -> None:
  """Makes a folder and its parents, unless they exist.

  Raises:
    PhotoError: the folder cannot be made.
  """
  try:
    path.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise PhotoError(f'{path}: the folder cannot be made ({reason(error)}).') from error


def write(photo: Photo, path: str | os.PathLike, *, overwrite: bool = False) -> None:
  """Writes a photo in the format that the path's ending names, completely or not at all.

  If the content of the photo's file differed from its ending, a file with the same ending gets the
  format of the content. JPEG and lossy WebP are written at quality 95 (JPEG without chroma
  subsampling), TIFF with lossless deflate. The file gets the date of the file that was read. What
  the format cannot hold is named by a warning in the log.

  Raises:
    PhotoError: the file exists and `overwrite` is false, the format cannot hold the photo (16 bits
      or transparency), or the file cannot be written.
  """
  path = pathlib.Path(path)
  try:
    form = formats.format_of(photo, path.suffix)
    data = formats.encode(photo, form)
  except PhotoError as error:
    raise PhotoError(f'{path}: {error}') from None
  except (OSError, ValueError, OverflowError, struct.error) as error:
    raise PhotoError(f'{path}: the photo could not be encoded ({reason(error)}).') from error
  write_bytes(path, data, overwrite=overwrite, modified=photo.modified)
  if missing := metadata.lost(formats.metadata_of(photo), form):
    _log.warning('%s: %s cannot hold %s; left out.', path, form, ', '.join(missing))


def write_bytes(
  path: str | os.PathLike, data: bytes, *, overwrite: bool = False, modified: int | None = None
) -> None:
  """Writes a file under a temporary name in the same folder, syncs it to disk and renames it.

  Args:
    path: the file.
    data: its content.
    overwrite: whether an existing file is replaced.
    modified: its date, in nanoseconds since 1970; None: now.

  Raises:
    PhotoError: the file exists and `overwrite` is false, or it cannot be written.
  """
  path = pathlib.Path(path)
  if not overwrite and os.path.lexists(path):
    raise PhotoError(f'{path}: the file exists already and is kept.')
  # A short, hidden name: the name of the photo may already have the maximum length.
  temporary = path.with_name(f'.oldphoto-{secrets.token_hex(8)}.tmp')
  try:
    with temporary.open('xb') as file:
      file.write(data)
      file.flush()
      os.fsync(file.fileno())
    if modified is not None:
      os.utime(temporary, ns=(modified, modified))
    os.replace(temporary, path)
  except OSError as error:
    raise PhotoError(f'{path}: the file could not be written ({reason(error)}).') from error
  finally:
    temporary.unlink(missing_ok=True)


def to_float(photo: Photo) -> np.ndarray:
  """The pixels as float32 [H, W, 3] in [-1, 1]."""
  values = photo.pixels.astype(np.float32)  # in place from here on: photos can be large
  values *= 2 / np.iinfo(photo.pixels.dtype).max
  values -= 1
  return values


def from_float(values: np.ndarray, like: Photo) -> Photo:
  """`like` with new pixels, clipped to [-1, 1] and rounded. Contrast is never stretched.

  Args:
    values: float [H, W, 3], of the same size as `like`. A gray photo gets their luma (BT.601).
    like: supplies the rest: bit depth, grayness, transparency and metadata.

  Raises:
    PhotoError: a value is NaN or infinite.
    ValueError: the sizes differ.
  """
  values = np.asarray(values, np.float32)
  if values.shape != like.pixels.shape:
    raise ValueError(f'values of shape {values.shape} for a photo of {like.pixels.shape}')
  if not np.isfinite(values).all():
    raise PhotoError('the values are not all finite, so they do not make a photo.')
  if like.gray:
    values = np.repeat(colour.luma(values), 3, axis=-1)
  top = np.iinfo(like.pixels.dtype).max
  levels = values + 1
  levels *= top / 2
  np.rint(np.clip(levels, 0, top, out=levels), out=levels)
  return dataclasses.replace(like, pixels=levels.astype(like.pixels.dtype))


def keep_gray(values: np.ndarray, pixels: np.ndarray) -> np.ndarray:
  """The restored `values`, float [H, W, 3], or their luma if all original `pixels` are gray.

  Gray photos are often stored in colour; this keeps them gray.
  """
  if (pixels[..., :1] == pixels[..., 1:]).all():
    return np.repeat(colour.luma(values), 3, axis=-1)
  return values


def to_rgb8(photo: Photo) -> np.ndarray:
  """The pixels as uint8 [H, W, 3]; 16 bits are rounded to 8."""
  if photo.bits == 8:
    return photo.pixels
  return ((photo.pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)
