"""Decodes photo files.

Pillow decodes 8-bit files. It silently cuts 16-bit colour to 8 bits, so 16-bit PNG and TIFF files
go through imagecodecs and tifffile. What a file says beside its pixels is up to `metadata`.
"""

import dataclasses
import io
import mmap
import re
from typing import NamedTuple

import imagecodecs
import numpy as np
import tifffile
from PIL import Image, ImageCms, UnidentifiedImageError

from oldphoto_jax.errors import PhotoError
from oldphoto_jax.photos import directories, formats, metadata
from oldphoto_jax.photos.formats import FORMATS, WRITTEN, Photo
from oldphoto_jax.photos.metadata import Metadata

_PILLOW = ('JPEG', 'PNG', 'WEBP', 'TIFF', 'BMP', 'GIF', 'PPM', 'TGA', 'JPEG2000', 'AVIF')
_THUMBNAIL = 1024  # pixels: a smaller picture before one of the same shape is its thumbnail
_MOST_PAGES = 1000


def _known(data: bytes, suffix: str) -> str:
  """The format of a file, from its first bytes. Raises PhotoError if it is not read."""
  if not data:
    raise PhotoError('the file is empty.')
  form = formats.kind(data[:32], suffix)
  if form is None:
    for mark, name in (
      (b'%PDF', 'a PDF file; save its pictures as PNG or TIFF'),
      (b'8BPS', 'a Photoshop file; save it as TIFF'),
    ):
      if data.startswith(mark):
        raise PhotoError(f'this is {name}.')
    raise PhotoError('this is not a photo, or its header is damaged.')
  if install := formats.missing_extra(form):
    name = 'camera raw' if form == 'RAW' else form
    raise PhotoError(f'{name} files need a further package: {install}.')
  return form


def _check_pixels(height: int, width: int, most: int) -> None:
  if height * width > most:
    raise PhotoError(f'{width} x {height} pixels are more than the limit of {most:,}.')


# Sizes -------------------------------------------------------------------------------------------


def size(file: io.BufferedIOBase, suffix: str, most: int) -> tuple[int, int]:
  """Height and width of the upright photo, from the header of its file.

  Raises:
    PhotoError: the file is not read, or has more than `most` pixels.
    Exception: of any kind, for damaged data.
  """
  head = file.read(32)
  form = _known(head, suffix)
  file.seek(0)
  if form == 'TIFF':
    with _tiff(file) as tiff:
      page = tiff.pages[_photos_of(tiff)[0][0]]
      _refuse_unusual(page)
      found = (page.imagelength, page.imagewidth)
      first = tiff.pages.first.offset if page.index else None
      with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        turned = metadata.of_tiff(data, page.offset, first).orientation >= 5
  elif form == 'PNG':
    found, turned = _png_size(file)
  elif form in _PILLOW:
    with _open(file, form) as image:
      found = (image.height, image.width)
      turned = _pillow_metadata(image, form).orientation >= 5
  else:
    pixels = _decoded(file.read(), form, most).pixels
    return pixels.shape[:2]
  _check_pixels(*found, most)
  return found[::-1] if turned else found


def _png_size(file: io.BufferedIOBase) -> tuple[tuple[int, int], bool]:
  """The size of a PNG, and whether its EXIF or XMP data turns it. Skips over the pixels."""
  file.seek(16)
  sides = file.read(8)
  found = (int.from_bytes(sides[4:], 'big'), int.from_bytes(sides[:4], 'big'))
  file.seek(8)
  chunks = [b'\x89PNG\r\n\x1a\n']
  names = set()
  while len(start := file.read(8)) == 8:
    length = int.from_bytes(start[:4], 'big')
    names.add(start[4:])
    if start[4:] in (b'eXIf', b'iTXt', b'tEXt', b'zTXt') and length < metadata.MOST:
      chunks.append(start + file.read(length + 4))
    else:
      file.seek(length + 4, 1)
  if b'IDAT' not in names:
    raise PhotoError('the file is cut off before the pixels.')
  return found, metadata.of_png(b''.join(chunks))[0].orientation >= 5


def _open(file: io.BufferedIOBase, form: str) -> Image.Image:
  """Opens a file by Pillow, which reads its header."""
  try:
    return Image.open(
      file, formats=[form, 'MPO'] if form == 'JPEG' else ['BMP', 'DIB'] if form == 'BMP' else [form]
    )
  except UnidentifiedImageError as error:
    raise PhotoError('this is not a photo, or its header is damaged.') from error
  except Image.DecompressionBombError as error:
    raise PhotoError('the photo has more pixels than Pillow will open.') from error


# Reading -----------------------------------------------------------------------------------------


class _Decoded(NamedTuple):
  """A photo as it lies in its file."""

  pixels: np.ndarray  # [H, W] or [H, W, 1 to 4]
  meta: Metadata
  dpi: tuple[float, float] | None = None
  warnings: tuple[str, ...] = ()
  upright: bool = False  # the decoder has turned the pixels
  pages: tuple['_Decoded', ...] = ()


def decode(data: bytes, suffix: str, most: int, all_pages: bool = False) -> Photo:
  """Decodes a photo from the bytes of its file.

  Args:
    data: the whole file.
    suffix: ending of its name, such as '.jpg'.
    most: pixels at most.
    all_pages: reads all photos of a TIFF file.

  Raises:
    PhotoError: the file is not read, or its pixels are of a kind that is not supported.
    Exception: of any kind, from the decoders, for damaged data.
  """
  form = _known(data, suffix)
  photo = _photo(_decoded(data, form, most, all_pages), form, suffix)
  warnings = photo.warnings
  expected = FORMATS.get(suffix.lower())
  if form != expected:
    became = form if form in WRITTEN and expected in WRITTEN else 'PNG'
    named = f'the name ends in {suffix}' if suffix else 'the name has no ending'
    warnings += (f'The content is {form} though {named}; it is written as {became}.',)
  lossless = form == 'WEBP' and b'VP8L' in metadata.webp_chunks(data)
  return dataclasses.replace(photo, lossless=lossless, warnings=warnings)


def _photo(found: _Decoded, form: str, suffix: str) -> Photo:
  array, meta, dpi = found.pixels, found.meta, found.dpi
  orientation = meta.orientation
  stored = array.shape[:2]
  if found.upright:
    stored = stored[::-1] if orientation >= 5 else stored
  else:
    array = turn(array, orientation)
  meta = metadata.upright(meta, stored, orientation)
  array = array[..., None] if array.ndim == 2 else array
  channels = array.shape[2]
  gray = channels <= 2
  if dpi and orientation >= 5:
    dpi = dpi[::-1]
  if gray and form not in ('JPEG', 'TIFF') and meta.icc and meta.icc[16:20] == b'RGB ':
    gray = False  # a PNG with a profile for colours must have colours
  return Photo(
    pixels=np.repeat(array[..., :1], 3, axis=2)
    if channels <= 2
    else np.ascontiguousarray(array[..., :3]),
    alpha=np.ascontiguousarray(array[..., -1]) if channels in (2, 4) else None,
    gray=gray,
    format=form,
    suffix=suffix.lower(),
    icc=meta.icc or None,
    exif=meta.exif or None,
    xmp=meta.xmp or None,
    iptc=meta.iptc or None,
    photoshop=meta.photoshop or None,
    comments=meta.comments,
    parts=meta.parts,
    dpi=(float(dpi[0]), float(dpi[1])) if dpi and min(dpi) > 0 else None,
    pages=tuple(_photo(page, form, suffix) for page in found.pages),
    warnings=meta.warnings + found.warnings,
  )


def _decoded(data: bytes, form: str, most: int, all_pages: bool = False) -> _Decoded:
  if form == 'TIFF':
    return _from_tiff(data, most, all_pages)
  if form == 'PNG':
    return _from_png(data, most)
  if form == 'JPEG':
    return _from_jpeg(data, most)
  if form == 'JXL':
    return _from_jxl(data, most)
  if form == 'HEIF':
    return _from_heif(data, most)
  if form == 'RAW':
    return _from_raw(data, most)
  return _from_pillow(data, form, most)


def _from_pillow(data: bytes, form: str, most: int) -> _Decoded:
  with _open(io.BytesIO(data), form) as image:
    _check_pixels(image.height, image.width, most)
    meta = _pillow_metadata(image, form)
    if form == 'AVIF' and (at := data[:8192].find(b'pixi')) > 0 and data[at + 9] > 8:
      raise PhotoError('AVIF with more than 8 bits is not supported; save it as TIFF.')
    if form == 'JPEG2000':
      array = imagecodecs.jpeg2k_decode(data)
      bits = array.dtype.itemsize * 8
      deep = _jpeg2000_bits(data)
      if array.dtype not in (np.uint8, np.uint16) or (array.ndim == 3 and array.shape[2] > 4):
        raise PhotoError('this kind of JPEG 2000 is not supported; save it as TIFF.')
      if deep < bits:
        array = (array.astype(np.uint32) * (2**bits - 1) // (2**deep - 1)).astype(array.dtype)
      warnings = ()
    elif (
      form == 'PPM' and image.mode in ('I', 'I;16', 'RGB') and (deep := _deep_pnm(data)) is not None
    ):
      array, warnings = deep, ()
    else:
      array, meta, warnings = _array8(image, meta)
    warnings += _several(getattr(image, 'n_frames', 1))
    if form == 'BMP' and array.ndim == 3 and array.shape[2] == 4 and np.ptp(array[..., 3]) == 0:
      array = array[..., :3]  # an opaque or unused fourth byte is no transparency
    return _Decoded(array, meta, image.info.get('dpi'), warnings)


def _several(count: int) -> tuple[str, ...]:
  return (f'The file holds {count} pictures; only the first one is used.',) if count > 1 else ()


def _pillow_metadata(image: Image.Image, form: str) -> Metadata:
  info = image.info
  if form == 'JPEG':
    return metadata.of_jpeg(image.applist, info.get('icc_profile'))
  if form == 'WEBP':
    exif = info.get('exif', b'').removeprefix(b'Exif\0\0')
    return Metadata(info.get('icc_profile'), exif or None, info.get('xmp'))
  exif = info.get('exif', b'').removeprefix(b'Exif\0\0')
  xmp, comment = info.get('xmp'), info.get('comment', b'')
  comment = comment if isinstance(comment, bytes) else str(comment).encode()
  return Metadata(
    info.get('icc_profile') or None,
    exif or None,
    xmp if isinstance(xmp, bytes) else None,
    comments=(comment,) if comment else (),
  )


def _jpeg2000_bits(data: bytes) -> int:
  """Bits per sample, from the SIZ segment (ITU-T T.800, A.5.1)."""
  at = data.find(b'\xff\x4f\xff\x51')
  return (data[at + 42] & 0x7F) + 1


def _deep_pnm(data: bytes) -> np.ndarray | None:
  """A binary PGM or PPM of 16 bits, which Pillow would cut; None if it has no more than 8."""
  head = re.match(rb'P([56])((?:\s+|#[^\n]*\n)*\d+){3}\s', data[:4096])
  if not head:
    return None
  width, height, top = (int(n) for n in re.findall(rb'\d+', re.sub(rb'#[^\n]*', b'', head[0][2:])))
  if top < 256:
    return None
  channels = 3 if head[1] == b'6' else 1
  array = np.frombuffer(data, '>u2', height * width * channels, head.end())
  array = array.reshape(height, width, channels).astype(np.uint32) * 65535 // top
  return np.minimum(array, 65535).astype(np.uint16)


def _array8(image: Image.Image, meta: Metadata) -> tuple[np.ndarray, Metadata, tuple[str, ...]]:
  """8-bit pixels [H, W] or [H, W, 2 to 4], the metadata that still fits them, and warnings."""
  image.load()
  mode = image.mode
  if mode == 'CMYK':
    array, warnings = _from_cmyk(image, meta.icc)
    return array, meta._replace(icc=None), warnings
  if mode in ('1', 'L', 'LA', 'La'):
    image = image.convert('LA' if image.has_transparency_data else 'L')
  elif mode in ('P', 'PA', 'RGB', 'RGBA', 'RGBX', 'RGBa', 'YCbCr'):
    image = image.convert('RGBA' if image.has_transparency_data else 'RGB')
  else:
    raise PhotoError(f"the colour mode '{mode}' is not supported; save the photo as RGB.")
  array = np.asarray(image)
  if mode in ('P', 'PA') and (array[..., :1] == array[..., 1:3]).all():  # a palette of grays
    array = array[..., ::3] if array.shape[2] == 4 else array[..., :1]
  return array, meta, ()


def _from_cmyk(image: Image.Image, icc: bytes | None) -> tuple[np.ndarray, tuple[str, ...]]:
  warnings = ('The photo uses printing colours (CMYK) and is written as RGB.',)
  if icc:
    try:
      image = ImageCms.profileToProfile(
        image, io.BytesIO(icc), ImageCms.createProfile('sRGB'), outputMode='RGB'
      )
    except ImageCms.PyCMSError:
      warnings += ('Its colour profile could not be used; colours may shift.',)
  return np.asarray(image.convert('RGB')), warnings


def _from_jpeg(data: bytes, most: int) -> _Decoded:
  warnings = ()
  try:
    return _from_pillow(data, 'JPEG', most)
  except OSError:
    # Many files lack no more than their last bytes. If the picture is whole, it does not matter
    # what follows it.
    ends = [
      _from_pillow(data + filler + b'\xff\xd9', 'JPEG', most) for filler in (b'', b'\x55' * 4096)
    ]
    differs = (ends[0].pixels != ends[1].pixels).reshape(len(ends[0].pixels), -1).any(1)
    rows = np.flatnonzero(differs)
    last = min(16, len(differs) // 20)  # rows: no more than one block is lost
    if len(rows) and rows[0] < len(differs) - last:
      raise
  warnings = ('The file is cut off behind the picture; the picture is whole.',)
  if len(rows):
    warnings = ('The file is cut off in the last rows of the picture.',)
  return ends[0]._replace(warnings=ends[0].warnings + warnings)


def _from_png(data: bytes, most: int) -> _Decoded:
  meta, pixels = metadata.of_png(data)
  _check_pixels(int.from_bytes(data[20:24], 'big'), int.from_bytes(data[16:20], 'big'), most)
  frames = next(
    (int.from_bytes(c[:4], 'big') for n, c, _ in metadata.chunks(data) if n == b'acTL'), 1
  )
  unit = dict(meta.parts).get('pHYs', b'')
  dpi = None
  if len(unit) == 9 and unit[8] == 1:  # pixels per metre
    dpi = tuple(int.from_bytes(side, 'big') * 0.0254 for side in (unit[:4], unit[4:8]))
  if data[24:25] == b'\x10':  # bit depth in IHDR
    array, warnings = imagecodecs.png_decode(pixels), ()
  else:
    with _open(io.BytesIO(pixels), 'PNG') as image:
      array, meta, warnings = _array8(image, meta)
  return _Decoded(array, meta, dpi, warnings + _several(frames))


def _boxes(data: bytes) -> dict[bytes, bytes]:
  """The first box of each name of a file of boxes (ISO/IEC 14496-12, 4.2)."""
  found, at = {}, 0
  while at + 8 <= len(data):
    length, start = int.from_bytes(data[at : at + 4], 'big'), at + 8
    if length == 1:
      length, start = int.from_bytes(data[at + 8 : at + 16], 'big'), at + 16
    end = at + length if length else len(data)
    if end <= at:
      break
    found.setdefault(data[at + 4 : at + 8], data[start:end])
    at = end
  return found


def _from_jxl(data: bytes, most: int) -> _Decoded:
  array = imagecodecs.jpegxl_decode(data)
  if array.dtype not in (np.uint8, np.uint16) or array.ndim not in (2, 3):
    raise PhotoError('this kind of JPEG XL is not supported; save it as TIFF.')
  _check_pixels(array.shape[0], array.shape[1], most)
  boxes = _boxes(data) if data.startswith(b'\0\0\0\x0c') else {}
  packed = boxes.get(b'brob', b'')
  if packed[:4] in (b'Exif', b'xml '):
    boxes[packed[:4]] = bytes(imagecodecs.brotli_decode(packed[4:]))
  exif = boxes.get(b'Exif', b'')[4:]  # behind the offset of the header
  meta = Metadata(None, exif or None, boxes.get(b'xml ') or None)
  return _Decoded(
    array, meta, upright=True, warnings=('A colour profile of JPEG XL would not be read.',)
  )


def _from_heif(data: bytes, most: int) -> _Decoded:
  import pi_heif  # the extra 'heif'

  image = pi_heif.open_heif(io.BytesIO(data), convert_hdr_to_8bit=False)
  _check_pixels(image.size[1], image.size[0], most)
  info = image.info
  exif = (info.get('exif') or b'').removeprefix(b'Exif\0\0')
  meta = Metadata(info.get('icc_profile') or None, exif or None, info.get('xmp') or None)
  return _Decoded(np.array(image), meta, upright=True)


def _from_raw(data: bytes, most: int) -> _Decoded:
  import rawpy  # the extra 'raw'

  with rawpy.imread(io.BytesIO(data)) as raw:
    _check_pixels(raw.sizes.height, raw.sizes.width, most)
    array = raw.postprocess(output_bps=16, use_camera_wb=True)
  try:
    meta = metadata.of_tiff(data, next(directories.links(data)))
  except (ValueError, StopIteration):  # not all kinds are TIFF files
    meta = Metadata()
  meta = meta._replace(icc=None)  # of the sensor; the pixels are sRGB now
  return _Decoded(array, meta, upright=True, warnings=('A camera raw file is developed as sRGB.',))


# TIFF


def _tiff(file: io.BufferedIOBase) -> tifffile.TiffFile:
  try:
    return tifffile.TiffFile(file)
  except tifffile.TiffFileError as error:
    raise PhotoError('this is not a TIFF photo, or its header is damaged.') from error


def _photos_of(tiff: tifffile.TiffFile) -> tuple[list[int], tuple[str, ...]]:
  """The pages that are photos, and sentences about the others."""
  pages = [tiff.pages[i] for i in range(min(len(tiff.pages), _MOST_PAGES))]
  sizes = [(page.imagelength, page.imagewidth) for page in pages]
  same_shape = lambda a, b: abs(a[0] * b[1] - a[1] * b[0]) <= 0.03 * a[1] * b[1]
  main = next((i for i, page in enumerate(pages) if not page.subfiletype & 5), 0)
  if not pages[main].subfiletype & 5:  # a thumbnail need not say that it is one
    larger = [
      i
      for i in range(main + 1, len(pages))
      if not pages[i].subfiletype & 5
      and same_shape(sizes[main], sizes[i])
      and sizes[i][0] >= 2 * sizes[main][0]
    ]
    if larger and max(sizes[main]) <= _THUMBNAIL:
      main = larger[0]
  photos, said = [main], []
  for i, page in enumerate(pages):
    if i == main:
      continue
    smaller = sizes[i][0] * 2 <= sizes[main][0] and same_shape(sizes[i], sizes[main])
    one = page.samplesperpixel == 1 and pages[main].samplesperpixel > 1
    if page.subfiletype & 1 or smaller:
      said.append(f'Page {i + 1} is a thumbnail; left out.')
    elif page.subfiletype & 4 or (one and sizes[i] == sizes[main]):
      said.append(f'Page {i + 1} is an infrared picture or a mask of the scanner; left out.')
    else:
      photos.append(i)
  return photos, tuple(said)


def _from_tiff(data: bytes, most: int, all_pages: bool) -> _Decoded:
  with _tiff(io.BytesIO(data)) as tiff:
    photos, said = _photos_of(tiff)
    if len(photos) > 1 and not all_pages:
      said += _several(len(photos))
      photos = photos[:1]
    decoded = [_tiff_page(data, tiff, index, most) for index in photos]
  first = decoded[0]
  return first._replace(warnings=first.warnings + said, pages=tuple(decoded[1:]))


def _tiff_page(data: bytes, tiff: tifffile.TiffFile, index: int, most: int) -> _Decoded:
  page = tiff.pages[index]
  _refuse_unusual(page)
  _check_pixels(page.imagelength, page.imagewidth, most)
  meta = metadata.of_tiff(data, page.offset, tiff.pages.first.offset if index else None)
  colours = 3 if page.photometric in (tifffile.PHOTOMETRIC.RGB, tifffile.PHOTOMETRIC.YCBCR) else 1
  alphas = [extra for extra in page.extrasamples if extra != tifffile.EXTRASAMPLE.UNSPECIFIED]
  warnings = ()
  if page.photometric <= 2 and page.samplesperpixel > colours + len(alphas):
    warnings = (f'Channel {colours + 1}, which may be infrared, is left out.',)
  image = None
  if page.bitspersample != 16 and page.samplesperpixel <= 4:
    try:
      # Pillow would turn the pixels, by its own reading of damaged tags.
      plain = directories.without_orientation(data, page.offset)
      image = Image.open(io.BytesIO(plain), formats=['TIFF'])
      image.seek(index)
    except (UnidentifiedImageError, KeyError, SyntaxError):  # tifffile can do more
      image = None
  if image is None:
    return _Decoded(_tiff_array(page, colours), meta, _tiff_dpi(page), warnings)
  with image:
    image.info.pop('xmp', None)  # which would turn them, too
    array, meta, said = _array8(image, meta)
    if array.ndim == 3 and array.shape[2] in (2, 4) and warnings:
      array = array[..., :-1]
  return _Decoded(array, meta, _tiff_dpi(page), warnings + said)


def _tiff_dpi(page: tifffile.TiffPage) -> tuple[float, float] | None:
  unit = page.resolutionunit
  scale = {2: 1.0, 3: 2.54}.get(int(unit)) if unit else None
  try:
    return None if scale is None else tuple(scale * value for value in page.resolution)
  except (ZeroDivisionError, TypeError, ValueError):
    return None


def _refuse_unusual(page: tifffile.TiffPage) -> None:
  """Refuses TIFF pages that would be misread, or rejected without a reason."""
  sample, bits, colour = page.sampleformat, page.bitspersample, page.photometric
  if sample == tifffile.SAMPLEFORMAT.IEEEFP:
    raise PhotoError('floating-point TIFF files are not supported; save it with 16 bits.')
  if sample != tifffile.SAMPLEFORMAT.UINT:
    raise PhotoError(
      'TIFF files with signed or complex numbers are not supported; save it with 16 bits.'
    )
  if bits not in (1, 2, 4, 8, 16):
    raise PhotoError(f'TIFF samples of {bits} bits are not supported; save it with 8 or 16 bits.')
  if bits == 16 and colour not in (0, 1, 2):  # white is zero, black is zero, RGB
    raise PhotoError('a TIFF with 16 bits must be gray or RGB; save it as one of these.')


def _tiff_array(page: tifffile.TiffPage, colours: int) -> np.ndarray:
  """uint8 or uint16 [H, W, 1 to 4], not yet upright."""
  array = page.asarray()
  if array.ndim == 3 and page.planarconfig == tifffile.PLANARCONFIG.SEPARATE:
    array = np.moveaxis(array, 0, -1)
  if array.dtype not in (np.uint8, np.uint16) or array.ndim not in (2, 3):
    raise PhotoError('this kind of TIFF is not supported; save it as RGB.')
  top = np.iinfo(array.dtype).max
  array = array.reshape(*array.shape[:2], -1)
  extra = tuple(page.extrasamples)
  if array.shape[2] < colours or (page.photometric > 2 and array.shape[2] != colours):
    raise PhotoError(f'a TIFF with {array.shape[2]} channels is not supported; save it as RGB.')
  if page.photometric == tifffile.PHOTOMETRIC.MINISWHITE:
    array = np.concatenate([top - array[..., :1], array[..., 1:]], -1)
  alphas = [i for i, kind in enumerate(extra) if kind != tifffile.EXTRASAMPLE.UNSPECIFIED]
  if not alphas or colours + alphas[0] >= array.shape[2]:
    return array[..., :colours]
  alpha = array[..., colours + alphas[0], None]
  array = np.concatenate([array[..., :colours], alpha], -1)
  if extra[alphas[0]] == tifffile.EXTRASAMPLE.ASSOCALPHA:  # colours were multiplied by alpha
    colour = array[..., :-1] * (top / np.maximum(alpha.astype(np.float64), 1))
    array[..., :-1] = np.rint(np.minimum(colour, top))
  return array


def turn(array: np.ndarray, orientation: int) -> np.ndarray:
  """Turns [H, W, ...] upright, given the EXIF orientation from 1 to 8."""
  if orientation in (5, 6, 7, 8):
    array = array.swapaxes(0, 1)
  if orientation in (3, 4, 7, 8):
    array = array[::-1]
  if orientation in (2, 3, 6, 7):
    array = array[:, ::-1]
  return array
