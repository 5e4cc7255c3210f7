"""The formats of photo files: which are read and written, and how they are encoded.

They are decoded by `decoding`. What a file says beside its pixels is up to `metadata`.
"""

import dataclasses
import importlib.util
import io
import re
import struct

import imagecodecs
import numpy as np
import tifffile
from PIL import Image

from oldphoto_jax.errors import PhotoError
from oldphoto_jax.photos import metadata
from oldphoto_jax.photos.metadata import Metadata

# Ending of the name -> format. The content decides what a file is; the ending, what is looked at.
FORMATS = {
  **dict.fromkeys(('.jpg', '.jpeg', '.jpe', '.jfif', '.jif', '.mpo'), 'JPEG'),
  **dict.fromkeys(('.png', '.apng'), 'PNG'),
  '.webp': 'WEBP',
  **dict.fromkeys(('.tif', '.tiff'), 'TIFF'),
  **dict.fromkeys(('.bmp', '.dib'), 'BMP'),
  '.gif': 'GIF',
  **dict.fromkeys(('.pnm', '.ppm', '.pgm', '.pbm'), 'PPM'),
  '.tga': 'TGA',
  **dict.fromkeys(('.jp2', '.j2k', '.j2c', '.jpx', '.jpf'), 'JPEG2000'),
  '.avif': 'AVIF',
  '.jxl': 'JXL',
  **dict.fromkeys(('.heic', '.heif', '.hif'), 'HEIF'),
  **dict.fromkeys(
    ('.dng', '.cr2', '.cr3', '.nef', '.nrw', '.arw', '.orf', '.rw2', '.raf', '.pef', '.srw'), 'RAW'
  ),
}
WRITTEN = ('JPEG', 'PNG', 'WEBP', 'TIFF', 'BMP')  # photos of other formats are written as PNG

# Format -> (module that reads it, the extra of this package that installs it).
_EXTRAS = {'HEIF': ('pi_heif', 'heif'), 'RAW': ('rawpy', 'raw')}


@dataclasses.dataclass(frozen=True, eq=False)
class Photo:
  """A photo and what its file says about it.

  The pixels are upright: the orientation has been applied, and is 1 in the metadata.
  """

  pixels: np.ndarray  # uint8 or uint16, [H, W, 3], RGB; a gray photo has three equal channels
  alpha: np.ndarray | None = None  # [H, W], dtype of the pixels; the top value is opaque
  gray: bool = False  # the file had one colour channel, and is written with one
  format: str = 'PNG'  # of the content: a value of FORMATS
  suffix: str = ''  # ending of the file that was read, in lower case
  icc: bytes | None = None  # colour profile
  exif: bytes | None = None  # starts at the TIFF header, without 'Exif\0\0'; the tags of a TIFF
  xmp: bytes | None = None
  iptc: bytes | None = None  # IPTC-IIM records
  photoshop: bytes | None = None  # Photoshop's image resources, with the IPTC records in them
  comments: tuple[bytes, ...] = ()  # of a JPEG or GIF
  # Further segments of a JPEG (APP0 ...) or chunks of a PNG (tEXt, gAMA ...): name, content.
  parts: tuple[tuple[str, bytes], ...] = ()
  dpi: tuple[float, float] | None = None  # horizontal, vertical
  lossless: bool = False  # of a WebP file
  modified: int | None = None  # date of the file, in nanoseconds since 1970; copies keep it
  pages: tuple['Photo', ...] = ()  # further photos of a TIFF file, if they were asked for
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


# What a file is ----------------------------------------------------------------------------------


def kind(head: bytes, suffix: str) -> str | None:
  """The format of a file by its first bytes (32 are enough), or None if it is no photo.

  Camera raw files are TIFF files by their content, and TGA files have no mark: their endings count.
  """
  expected = FORMATS.get(suffix.lower())
  brand = head[8:12] if head[4:8] == b'ftyp' else b''
  marks = (
    ('JPEG', head.startswith(b'\xff\xd8\xff')),
    ('PNG', head.startswith(b'\x89PNG\r\n\x1a\n')),
    ('WEBP', head.startswith(b'RIFF') and head[8:12] == b'WEBP'),
    ('GIF', head.startswith((b'GIF87a', b'GIF89a'))),
    ('BMP', head.startswith(b'BM')),
    ('JPEG2000', head.startswith((b'\xff\x4f\xff\x51', b'\0\0\0\x0cjP  '))),
    ('JXL', head.startswith((b'\xff\x0a', b'\0\0\0\x0cJXL '))),
    ('AVIF', brand in (b'avif', b'avis')),
    ('RAW', brand == b'crx ' or head.startswith((b'FUJIFILM', b'IIRO', b'IIRS', b'IIU\0'))),
    ('HEIF', brand in (b'heic', b'heix', b'heim', b'heis', b'hevc', b'hevx', b'mif1', b'msf1')),
    ('PPM', bool(re.match(rb'P[1-6]\s', head))),
    ('TIFF', head[:4] in (b'II*\0', b'MM\0*', b'II+\0', b'MM\0+')),
  )
  found = next((name for name, is_it in marks if is_it), None)
  if found == 'TIFF' and expected == 'RAW':
    return 'RAW'
  return 'TGA' if found is None and expected == 'TGA' else found


def missing_extra(form: str) -> str | None:
  """What to install for a format that an optional package reads, if it is not there."""
  module, extra = _EXTRAS.get(form, ('', ''))
  if not module or importlib.util.find_spec(module):
    return None
  return f"pip install 'oldphoto_jax[{extra}]'"


# Writing -----------------------------------------------------------------------------------------


def format_of(photo: Photo, suffix: str) -> str:
  """The format in which a photo is written under a name that ends in `suffix`.

  That of the ending; but a file whose content differed from its ending stays what it was.

  Raises:
    PhotoError: files of that kind are not written.
  """
  suffix = suffix.lower()
  form = FORMATS.get(suffix)
  if photo.suffix == suffix and photo.format != form:
    return photo.format if photo.format in WRITTEN else 'PNG'
  if form not in WRITTEN:
    raise PhotoError(f"photos are not written as '{suffix}'; end the name in .png.")
  return form


def encode(photo: Photo, form: str) -> bytes:
  """The bytes of a file of a format of WRITTEN.

  Raises:
    PhotoError: files of that kind cannot hold the photo.
  """
  if form == 'TIFF':
    return _tiff_bytes(photo)
  if photo.pages:
    raise PhotoError(f'{form} cannot hold several pages; end the name in .tif.')
  if form == 'PNG':
    return _png_bytes(photo)
  if photo.bits > 8:
    raise PhotoError(f'{form} cannot hold 16 bits; end the name in .png or .tif.')
  if photo.alpha is not None and form == 'JPEG':
    raise PhotoError(f'{form} cannot hold transparency; end the name in .png.')
  image, buffer = Image.fromarray(_channels(photo)), io.BytesIO()
  if form == 'JPEG':
    image.save(buffer, form, quality=95, subsampling=0, dpi=photo.dpi or (0, 0))
    return metadata.into_jpeg(buffer.getvalue(), metadata_of(photo))
  if form == 'WEBP':
    image.save(
      buffer,
      form,
      quality=95,
      lossless=photo.lossless,
      exact=True,
      icc_profile=photo.icc or b'',
      exif=photo.exif or b'',
      xmp=photo.xmp or b'',
    )
  else:
    image = image.convert('RGBA') if image.mode == 'LA' else image
    image.save(buffer, form, dpi=photo.dpi or (96, 96))
    if photo.alpha is not None:
      return _bmp_with_alpha(buffer.getvalue())
  return buffer.getvalue()


def metadata_of(photo: Photo) -> Metadata:
  """What the file of a photo has to say beside its pixels."""
  return Metadata(
    photo.icc, photo.exif, photo.xmp, photo.iptc, photo.photoshop, photo.comments, photo.parts
  )


def _bmp_with_alpha(data: bytes) -> bytes:
  """A BMP of 32 bits as Pillow writes it, whose header says that the fourth byte is alpha.

  BITMAPV4HEADER of 108 bytes instead of BITMAPINFOHEADER of 40, with masks of the four channels.
  """
  more = 108 - 40
  size, start = (value + more for value in struct.unpack_from('<I4xI', data, 2))
  head = struct.pack('<2sI4sII', data[:2], size, data[6:10], start, 108)
  with_masks = struct.pack('<I', 3)
  masks = struct.pack('<IIII4s', 0xFF0000, 0xFF00, 0xFF, 0xFF000000, b'BGRs')
  return head + data[18:30] + with_masks + data[34:54] + masks + bytes(more - 20) + data[54:]


def _channels(photo: Photo) -> np.ndarray:
  """The channels that the file holds: [H, W] or [H, W, 2 to 4]."""
  colour = photo.pixels[..., 0] if photo.gray else photo.pixels
  if photo.alpha is not None:
    colour = np.dstack([colour, photo.alpha])
  return np.ascontiguousarray(colour)


def _png_bytes(photo: Photo) -> bytes:
  channels = _channels(photo)
  if channels.shape == (1, 1):  # which imagecodecs refuses
    buffer = io.BytesIO()
    Image.fromarray(channels).save(buffer, 'PNG')
    data = buffer.getvalue()
  else:
    data = imagecodecs.png_encode(channels)
  count = 1 if channels.ndim == 2 else channels.shape[2]
  return metadata.into_png(data, metadata_of(photo), photo.dpi, count)


def _tiff_bytes(photo: Photo) -> bytes:
  buffer, pages = io.BytesIO(), (photo, *photo.pages)
  with tifffile.TiffWriter(buffer, byteorder=metadata.order(photo.exif)) as tiff:
    for page in pages:
      tiff.write(
        _channels(page),
        photometric='minisblack' if page.gray else 'rgb',
        planarconfig='contig',
        extrasamples=None if page.alpha is None else ['unassalpha'],
        compression='zlib',
        predictor=True,
        iccprofile=page.icc,
        resolution=page.dpi,
        resolutionunit='INCH' if page.dpi else None,
        software=False,
        metadata=None,
      )
  return metadata.into_tiff(buffer.getvalue(), [metadata_of(page) for page in pages])
