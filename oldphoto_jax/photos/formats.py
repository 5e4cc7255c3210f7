"""The bytes of photo files: JPEG, PNG, WebP, TIFF, BMP and GIF, with their profiles and tags.

Pillow decodes 8-bit files. It silently cuts 16-bit colour to 8 bits, so 16-bit PNG and TIFF files
go through imagecodecs and tifffile.
"""

import dataclasses
import io
import pathlib
import re
import struct
import zlib

import imagecodecs
import numpy as np
import tifffile
from PIL import ExifTags, Image, ImageCms, TiffImagePlugin, UnidentifiedImageError

from oldphoto_jax.errors import PhotoError

# Ending of the name -> format. A file is decoded only if its content is of the same format.
FORMATS = {
  '.jpg': 'JPEG',
  '.jpeg': 'JPEG',
  '.png': 'PNG',
  '.webp': 'WEBP',
  '.tif': 'TIFF',
  '.tiff': 'TIFF',
  '.bmp': 'BMP',
  '.gif': 'GIF',
}

_ORIENTATION = ExifTags.Base.Orientation
_IFDS = (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo)
# TIFF tags that describe the photo and not the layout of its pixels in the file: document, title,
# make, model, page name, software, date, artist, computer, copyright, and Windows' XP* texts.
_TIFF_TEXTS = (269, 270, 271, 272, 285, 305, 306, 315, 316, 33432, *range(0x9C9B, 0x9CA0))


@dataclasses.dataclass(frozen=True, eq=False)
class Photo:
  """A photo and what its file says about it.

  The pixels are upright: the EXIF orientation has been applied, and is 1 in `exif`.
  """

  pixels: np.ndarray  # uint8 or uint16, [H, W, 3], RGB; a gray photo has three equal channels
  alpha: np.ndarray | None = None  # [H, W], dtype of the pixels; the top value is opaque
  gray: bool = False  # the file had one colour channel, and is written with one
  format: str = 'PNG'  # a value of FORMATS
  icc: bytes | None = None  # colour profile
  exif: bytes | None = None  # starts at the TIFF header, without 'Exif\0\0'; no thumbnail
  xmp: bytes | None = None
  iptc: bytes | None = None  # IPTC-IIM records
  text: tuple[tuple[str, str], ...] = ()  # PNG texts; the comment of a JPEG as ('Comment', ...)
  dpi: tuple[float, float] | None = None  # horizontal, vertical
  lossless: bool = False  # of a WebP file
  warnings: tuple[str, ...] = ()  # sentences about what could not be kept

  @property
  def bits(self) -> int:
    """Bits per sample: 8 or 16."""
    return 8 * self.pixels.dtype.itemsize

  @property
  def size(self) -> tuple[int, int]:
    """Height and width in pixels."""
    return self.pixels.shape[:2]


def reason(error: Exception) -> str:
  """The message of an exception in one line, without the full stop."""
  text = getattr(error, 'strerror', None) or str(error) or type(error).__name__
  return ' '.join(text.split()).rstrip('.')


def open_header(file: io.BufferedIOBase, path: pathlib.Path, max_pixels: int) -> Image.Image:
  """Opens a file by its header, without decoding its pixels.

  Raises:
    PhotoError: the file is empty, misnamed, too large, or of a kind that is not read.
  """
  expected = FORMATS.get(path.suffix.lower())
  if expected is None:
    raise PhotoError(f'the name does not end like a photo ({", ".join(FORMATS)}).')
  if not file.read(1):
    raise PhotoError('the file is empty.')
  file.seek(0)
  if expected == 'TIFF':
    _refuse_unusual_tiff(file)
    file.seek(0)
  try:
    image = Image.open(file, formats=list(dict.fromkeys(FORMATS.values())))
  except UnidentifiedImageError as error:
    if expected == 'TIFF':  # tifffile could read its header
      raise PhotoError('this kind of TIFF is not supported; save it as RGB.') from error
    raise PhotoError('this is not a photo, or its header is damaged.') from error
  except Image.DecompressionBombError as error:
    raise PhotoError('the photo has more pixels than Pillow will open.') from error
  # MPO: a JPEG followed by further pictures, as many phones write it.
  actual = 'JPEG' if image.format == 'MPO' else image.format
  if actual != expected:
    raise PhotoError(f'the content is {actual} though the name ends in {path.suffix}; rename it.')
  if image.width * image.height > max_pixels:
    raise PhotoError(
      f'{image.width} x {image.height} pixels are more than the limit of {max_pixels:,}.'
    )
  return image


def decode(image: Image.Image, data: bytes) -> Photo:
  """Decodes a photo from the bytes of its file.

  Args:
    image: of `open_header`.
    data: the whole file.

  Raises:
    PhotoError: pixels of this kind are not supported.
    Exception: of any kind, from the decoders, for damaged data.
  """
  info, warnings = image.info, []
  frames = getattr(image, 'n_frames', 1)
  if frames > 1:
    warnings.append(f'The file holds {frames} pictures; only the first one is used.')

  icc, xmp = info.get('icc_profile'), info.get('xmp')
  if image.format == 'TIFF':  # before the pixels: Pillow turns them upright when it loads them
    exif, iptc, orientation = _tiff_tags(image)
    text = ()
  else:
    image.load()  # a PNG's texts and EXIF may follow its pixels
    xmp = info.get('xmp', xmp)
    orientation = image.getexif().get(_ORIENTATION, 1)  # from XMP where EXIF has none
    exif = info.get('exif', b'')
    if not exif and 'Raw profile type exif' in info:  # how ImageMagick keeps EXIF in a PNG
      exif = image.getexif().tobytes()
    iptc = info.get('photoshop', {}).get(0x0404)
    text = _texts(image)
  if exif:
    exif = _upright_exif(exif.removeprefix(b'Exif\0\0'))
    if not exif:
      warnings.append('The EXIF data is damaged and is left out.')
  if xmp:
    xmp = re.sub(rb'(tiff:Orientation(?:\s*=\s*["\']|>))\d', rb'\g<1>1', xmp)

  if image.format == 'PNG' and data[24] == 16:  # bit depth in IHDR
    array = imagecodecs.png_decode(data)
  elif image.format == 'TIFF' and image.tag_v2.get(258, (1,))[0] == 16:
    array = _tiff16(data)
  else:
    array, icc = _array8(image, icc, warnings)
  if image.format != 'TIFF' or array.dtype == np.uint16:  # Pillow has turned an 8-bit TIFF
    array = _turn(array, orientation)
  array = array[..., None] if array.ndim == 2 else array
  channels = array.shape[2]
  gray = channels <= 2
  dpi = info.get('dpi')
  if dpi and orientation in (5, 6, 7, 8):
    dpi = dpi[::-1]
  return Photo(
    pixels=np.repeat(array[..., :1], 3, axis=2) if gray else np.ascontiguousarray(array[..., :3]),
    alpha=np.ascontiguousarray(array[..., -1]) if channels in (2, 4) else None,
    gray=gray,
    format='JPEG' if image.format == 'MPO' else image.format,
    icc=icc or None,
    exif=exif or None,
    xmp=xmp or None,
    iptc=iptc or None,
    text=text,
    dpi=(float(dpi[0]), float(dpi[1])) if dpi and min(dpi) > 0 else None,
    lossless=image.format == 'WEBP' and b'VP8L' in data[:64],
    warnings=tuple(warnings),
  )


def upright_size(image: Image.Image) -> tuple[int, int]:
  """Height and width of an opened photo once it stands upright."""
  width, height = image.size
  # A PNG without EXIF before its pixels would be decoded by getexif; TIFF sizes are upright.
  turned = (
    image.format != 'TIFF'
    and (image.format != 'PNG' or 'exif' in image.info)
    and image.getexif().get(_ORIENTATION) in (5, 6, 7, 8)
  )
  return (width, height) if turned else (height, width)


def encode(photo: Photo, suffix: str) -> bytes:
  """The bytes of a file whose name ends in `suffix`.

  Raises:
    PhotoError: files of that kind are not written, or cannot hold the photo.
  """
  form = FORMATS.get(suffix.lower())
  if form == 'PNG':
    return _png(photo)
  if form == 'TIFF':
    return _tiff(photo)
  if form in ('JPEG', 'WEBP', 'BMP'):
    return _by_pillow(photo, form)
  raise PhotoError(f"photos are not written as '{suffix}'; end the name in .png.")


# Reading -----------------------------------------------------------------------------------------


def _array8(image: Image.Image, icc: bytes | None, warnings: list[str]):
  """8-bit pixels [H, W, 1 to 4], and the colour profile that still fits them."""
  image.load()
  mode = image.mode
  if mode == 'CMYK':
    return _from_cmyk(image, icc, warnings), None
  if mode in ('1', 'L', 'LA', 'La'):
    image = image.convert('LA' if image.has_transparency_data else 'L')
  elif mode in ('P', 'PA', 'RGB', 'RGBA', 'RGBX', 'RGBa', 'YCbCr'):
    image = image.convert('RGBA' if image.has_transparency_data else 'RGB')
  else:
    raise PhotoError(f"the colour mode '{mode}' is not supported; save the photo as RGB.")
  array = np.asarray(image)
  if mode in ('P', 'PA') and (array[..., :1] == array[..., 1:3]).all():  # a palette of grays
    array = array[..., ::3] if array.shape[2] == 4 else array[..., :1]
  return array, icc


def _from_cmyk(image: Image.Image, icc: bytes | None, warnings: list[str]) -> np.ndarray:
  warnings.append('The photo uses printing colours (CMYK) and is written as RGB.')
  if icc:
    try:
      image = ImageCms.profileToProfile(
        image, io.BytesIO(icc), ImageCms.createProfile('sRGB'), outputMode='RGB'
      )
    except ImageCms.PyCMSError:
      warnings.append('Its colour profile could not be used; colours may shift.')
  return np.asarray(image.convert('RGB'))


def _refuse_unusual_tiff(file: io.BufferedIOBase) -> None:
  """Refuses TIFF files that Pillow would misread, or reject without a reason."""
  try:
    with tifffile.TiffFile(file) as tiff:
      page = tiff.pages.first
      kind, bits, colour = page.sampleformat, page.bitspersample, page.photometric
  except tifffile.TiffFileError as error:
    raise PhotoError('this is not a TIFF photo, or its header is damaged.') from error
  if kind == tifffile.SAMPLEFORMAT.IEEEFP:
    raise PhotoError('floating-point TIFF files are not supported; save it with 16 bits.')
  if kind != tifffile.SAMPLEFORMAT.UINT:
    raise PhotoError(
      'TIFF files with signed or complex numbers are not supported; save it with 16 bits.'
    )
  if bits not in (1, 2, 4, 8, 16):
    raise PhotoError(f'TIFF samples of {bits} bits are not supported; save it with 8 or 16 bits.')
  if bits == 16 and colour not in (0, 1, 2):  # white is zero, black is zero, RGB
    raise PhotoError('a TIFF with 16 bits must be gray or RGB; save it as one of these.')


def _tiff16(data: bytes) -> np.ndarray:
  """uint16 [H, W] or [H, W, 2 to 4], not yet upright."""
  with tifffile.TiffFile(io.BytesIO(data)) as tiff:
    page = tiff.pages.first
    array = page.asarray()
    colours = 3 if page.photometric == tifffile.PHOTOMETRIC.RGB else 1
    extra = tuple(page.extrasamples)
    if array.ndim == 3 and page.planarconfig == tifffile.PLANARCONFIG.SEPARATE:
      array = np.moveaxis(array, 0, -1)
    inverted = page.photometric == tifffile.PHOTOMETRIC.MINISWHITE
  array = array.astype(np.uint16).reshape(*array.shape[:2], -1)
  if array.shape[2] != colours + len(extra) or len(extra) > 1:
    raise PhotoError(f'a TIFF with {array.shape[2]} channels is not supported; save it as RGB.')
  if inverted:
    array[..., 0] = 65535 - array[..., 0]
  if extra == (tifffile.EXTRASAMPLE.UNSPECIFIED,):
    array = array[..., :colours]
  elif extra == (tifffile.EXTRASAMPLE.ASSOCALPHA,):  # colours were multiplied by alpha
    alpha = array[..., -1:].astype(np.float64)
    colour = array[..., :-1] * (65535 / np.maximum(alpha, 1))
    array[..., :-1] = np.rint(np.minimum(colour, 65535))
  return array


def _tiff_tags(image: TiffImagePlugin.TiffImageFile) -> tuple[bytes, bytes | None, int]:
  """The tags that describe the photo: EXIF bytes, IPTC records, orientation."""
  tags, kept = image.getexif(), Image.Exif()
  for tag in _TIFF_TEXTS:
    if isinstance(tags.get(tag), str | bytes):
      kept[tag] = tags[tag]
  for tag in _IFDS:
    if tags.get_ifd(tag):
      kept[tag] = tags.get_ifd(tag)
  iptc = tags.get(33723)
  return (
    kept.tobytes() if len(kept) else b'',
    iptc if isinstance(iptc, bytes) else None,
    tags.get(_ORIENTATION, 1),
  )


def _texts(image: Image.Image) -> tuple[tuple[str, str], ...]:
  """The texts of a PNG, or the comment of a JPEG or GIF."""
  if image.format == 'PNG':
    return tuple(
      (str(key), str(value))
      for key, value in image.text.items()
      if key != 'XML:com.adobe.xmp' and not key.startswith('Raw profile type')
    )
  comment = image.info.get('comment', b'')
  return (('Comment', comment.decode('utf-8', 'replace')),) if comment else ()


def _turn(array: np.ndarray, orientation: int) -> np.ndarray:
  """Turns [H, W, ...] upright, given the EXIF orientation from 1 to 8."""
  if orientation in (5, 6, 7, 8):
    array = array.swapaxes(0, 1)
  if orientation in (3, 4, 7, 8):
    array = array[::-1]
  if orientation in (2, 3, 6, 7):
    array = array[:, ::-1]
  return array


def _upright_exif(exif: bytes) -> bytes:
  """EXIF with orientation 1 and without the link to its thumbnail, which shows the old pixels.

  The rest stays byte for byte, because a camera's maker notes hold offsets into the whole block.
  Returns b'' for damaged data.
  """
  order = {b'II': '<', b'MM': '>'}.get(exif[:2])
  if order is None:
    return b''
  changed = bytearray(exif)
  try:
    (first,) = struct.unpack_from(f'{order}I', exif, 4)
    (count,) = struct.unpack_from(f'{order}H', exif, first)
    end = first + 2 + 12 * count
    for entry in range(first + 2, end, 12):
      if struct.unpack_from(f'{order}H', exif, entry)[0] == _ORIENTATION:
        struct.pack_into(f'{order}HIHH', changed, entry + 2, 3, 1, 1, 0)  # one 16-bit 1
  except struct.error:
    return b''
  if len(exif) >= end + 4:
    struct.pack_into(f'{order}I', changed, end, 0)
  return bytes(changed)


# Writing -----------------------------------------------------------------------------------------


def _channels(photo: Photo) -> np.ndarray:
  """The channels that the file holds: [H, W] or [H, W, 2 to 4]."""
  colour = photo.pixels[..., 0] if photo.gray else photo.pixels
  if photo.alpha is not None:
    colour = np.dstack([colour, photo.alpha])
  return np.ascontiguousarray(colour)


def _by_pillow(photo: Photo, form: str) -> bytes:
  if photo.bits > 8:
    raise PhotoError(f'{form} cannot hold 16 bits; end the name in .png or .tif.')
  if photo.alpha is not None and form != 'WEBP':
    raise PhotoError(f'{form} cannot hold transparency; end the name in .png.')
  image, buffer = Image.fromarray(_channels(photo)), io.BytesIO()
  dpi = photo.dpi or (0, 0)
  exif = b'Exif\0\0' + photo.exif if photo.exif else b''
  icc, xmp = photo.icc or b'', photo.xmp or b''
  if form == 'JPEG':
    image.save(
      buffer,
      form,
      quality=95,
      subsampling=0,
      dpi=dpi,
      icc_profile=icc,
      exif=exif,
      xmp=xmp,
      comment=dict(photo.text).get('Comment', '').encode(),
      extra=_iptc_segment(photo.iptc) if photo.iptc else b'',
    )
  elif form == 'WEBP':
    image.save(
      buffer,
      form,
      quality=95,
      lossless=photo.lossless,
      exact=True,
      icc_profile=icc,
      exif=exif,
      xmp=xmp,
    )
  else:
    image.save(buffer, form, dpi=photo.dpi or (96, 96))
  return buffer.getvalue()


def _iptc_segment(iptc: bytes) -> bytes:
  """IPTC records as a JPEG's APP13 segment: one Photoshop resource, number 0x0404."""
  resource = struct.pack('>4sHHI', b'8BIM', 0x0404, 0, len(iptc)) + iptc + b'\0' * (len(iptc) % 2)
  payload = b'Photoshop 3.0\0' + resource
  return b'\xff\xed' + struct.pack('>H', len(payload) + 2) + payload


def _png(photo: Photo) -> bytes:
  data = imagecodecs.png_encode(_channels(photo))
  chunks = []
  if photo.icc:
    chunks.append((b'iCCP', b'ICC Profile\0\0' + zlib.compress(photo.icc)))
  if photo.dpi:
    x, y = (round(value / 0.0254) for value in photo.dpi)  # pixels per metre
    chunks.append((b'pHYs', struct.pack('>IIB', x, y, 1)))
  if photo.exif:
    chunks.append((b'eXIf', photo.exif))
  if photo.xmp:
    chunks.append((b'iTXt', b'XML:com.adobe.xmp\0\0\0\0\0' + photo.xmp))
  for key, value in photo.text:
    chunks.append((b'iTXt', key.encode('latin-1') + b'\0\0\0\0\0' + value.encode()))
  added = b''.join(
    struct.pack('>I', len(content)) + name + content + struct.pack('>I', zlib.crc32(name + content))
    for name, content in chunks
  )
  header = 8 + 25  # the signature and IHDR, which is always first
  return data[:header] + added + data[header:]


def _tiff(photo: Photo) -> bytes:
  exif = Image.Exif()
  if photo.exif:
    exif.load(b'Exif\0\0' + photo.exif)
  tags = [(_ORIENTATION, 3, 1, 1, True)]
  for tag in _TIFF_TEXTS:
    value = exif.get(tag)
    if isinstance(value, str):
      tags.append((tag, 2, None, value.encode() + b'\0', True))
    elif isinstance(value, bytes):
      tags.append((tag, 1, len(value), value, True))
  if photo.xmp:
    tags.append((700, 1, len(photo.xmp), photo.xmp, True))
  if photo.iptc:
    tags.append((33723, 7, len(photo.iptc), photo.iptc, True))

  buffer = io.BytesIO()
  tifffile.imwrite(
    buffer,
    _channels(photo),
    byteorder='<',
    photometric='minisblack' if photo.gray else 'rgb',
    planarconfig='contig',
    extrasamples=None if photo.alpha is None else ['unassalpha'],
    compression='zlib',
    predictor=True,
    iccprofile=photo.icc,
    resolution=photo.dpi,
    resolutionunit='INCH' if photo.dpi else None,
    software=False,
    metadata=None,
    extratags=tags,
  )
  directories = {tag: exif.get_ifd(tag) for tag in _IFDS if exif.get_ifd(tag)}
  return _with_directories(buffer.getvalue(), directories) if directories else buffer.getvalue()


def _with_directories(data: bytes, directories: dict[int, dict]) -> bytes:
  """Adds EXIF and GPS directories to a little-endian TIFF, because tifffile cannot write them.

  They are appended, followed by a copy of the first directory that points to them.
  """
  (first,) = struct.unpack_from('<I', data, 4)
  (count,) = struct.unpack_from('<H', data, first)
  entries = [data[at : at + 12] for at in range(first + 2, first + 2 + 12 * count, 12)]
  result = bytearray(data)
  for tag, values in directories.items():
    result += bytes(len(result) % 2)  # directories start at even offsets
    entries.append(struct.pack('<HHII', tag, 4, 1, len(result)))
    directory = TiffImagePlugin.ImageFileDirectory_v2(b'II*\0\0\0\0\0')
    for key, value in values.items():
      if not isinstance(value, dict):
        directory[key] = value
    result += directory.tobytes(len(result))
  result += bytes(len(result) % 2)
  struct.pack_into('<I', result, 4, len(result))
  entries.sort(key=lambda entry: struct.unpack_from('<H', entry))
  result += struct.pack('<H', len(entries)) + b''.join(entries) + bytes(4)  # no second page
  return bytes(result)
