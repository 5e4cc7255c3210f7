"""What photo files say beside their pixels: captions, colour, cameras, faces.

It is carried from file to file byte for byte, in the containers of each format: segments of JPEG
(ITU-T T.81, B.1.1), chunks of PNG (W3C, "Portable Network Graphics", 5 and 11) and WebP (RFC 9649),
tags of TIFF. No maintained library with a permissive licence does this for all of them: Pillow
decodes texts and drops what it does not know, and piexif only knows EXIF.
"""

import re
import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

from oldphoto_jax.photos import directories

MOST = 1 << 26  # bytes of a profile or a text when it is unpacked, against decompression bombs
XMP = b'http://ns.adobe.com/xap/1.0/\0'
_EXIF, _ICC, _PHOTOSHOP = b'Exif\0\0', b'ICC_PROFILE\0', b'Photoshop 3.0\0'
_SEGMENT = 65533  # bytes of content that a segment of a JPEG can hold
# Chunks of a PNG that still hold for new pixels of the same size and depth, in their usual order.
_PNG_KEPT = (b'cICP', b'mDCV', b'cLLI', b'iCCP', b'sRGB', b'gAMA', b'cHRM', b'sBIT', b'pHYs')
_PNG_KEPT += (b'tEXt', b'zTXt', b'iTXt', b'tIME', b'sTER')
_PNG_XMP = b'XML:com.adobe.xmp\0'
# Tags of a TIFF that lay out its pixels, hold pictures, or are kept elsewhere.
TIFF_XMP, TIFF_IPTC, TIFF_PHOTOSHOP, TIFF_ICC = 700, 33723, 34377, 34675
_TIFF_LAYERS = 37724
_TIFF_LAYOUT = {
  *(254, 255, 256, 257, 258, 259, 262, 263, 264, 265, 266, 273, 277, 278, 279, 280, 281, 284),
  *(288, 289, 290, 291, 292, 293, 301, 317, 320, 321, 322, 323, 324, 325, 330, 332, 333, 334, 336),
  *(338, 339, 340, 341, 342, 343, 344, 345, 346, 347, 433, 434, 435),
  *(512, 513, 514, 515, 517, 518, 519, 520, 521, 529, 530, 531, 532, 559),
  *(TIFF_XMP, TIFF_IPTC, TIFF_PHOTOSHOP, TIFF_ICC, _TIFF_LAYERS),
  # Of sensors, in camera raw files: mosaic, DNG.
  *(33421, 33422, *range(50706, 50742), *range(50778, 50782), *range(50931, 51200)),
}


class Metadata(NamedTuple):
  """What a file says beside its pixels, as in images.Photo."""

  icc: bytes | None = None
  exif: bytes | None = None
  xmp: bytes | None = None
  iptc: bytes | None = None
  photoshop: bytes | None = None
  comments: tuple[bytes, ...] = ()
  parts: tuple[tuple[str, bytes], ...] = ()
  warnings: tuple[str, ...] = ()

  @property
  def orientation(self) -> int:
    """From 1 to 8: that of the EXIF data, or that of the XMP."""
    found = directories.orientation(self.exif) if self.exif else 1
    if found == 1 and self.xmp and not _names_orientation(self.exif):
      match = re.search(rb'tiff:Orientation(?:\s*=\s*["\']|>)([1-8])', self.xmp)
      found = int(match[1]) if match else 1
    return found


def _names_orientation(exif: bytes | None) -> bool:
  return bool(exif) and directories.is_exif(exif) and directories.names_orientation(exif)


# JPEG --------------------------------------------------------------------------------------------


def of_jpeg(segments: list[tuple[str, bytes]], icc: bytes | None) -> Metadata:
  """Reads the segments of a JPEG: Pillow's `applist`, and the profile that Pillow joined."""
  exif, xmp, photoshop, comments, parts, warnings = b'', None, b'', [], [], []
  for name, content in segments:
    if name == 'COM':
      comments.append(content)
    elif name == 'APP0' and content.startswith(b'JFIF\0') and len(content) >= 12:
      parts.append((name, content[:12] + b'\0\0'))  # without its thumbnail
    elif name == 'APP1' and content.startswith(_EXIF):
      exif += content[len(_EXIF) :]
    elif name == 'APP1' and content.startswith(XMP) and xmp is None:
      xmp = content[len(XMP) :]
    elif name == 'APP13' and content.startswith(_PHOTOSHOP):
      photoshop += content[len(_PHOTOSHOP) :]
    elif name == 'APP2' and content.startswith(_ICC) and icc:
      pass
    elif name == 'APP11' and b'jumb' in content[:32]:
      warnings.append('Its content credentials (C2PA) do not hold for new pixels; left out.')
    # JFXX is a thumbnail, MPF names further pictures, Adobe's APP14 tells how colours are coded.
    elif name not in ('APP0', 'APP14') and not content.startswith(b'MPF\0'):
      parts.append((name, content))
  return Metadata(
    icc,
    exif or None,
    xmp,
    resource(photoshop, 0x0404),
    photoshop or None,
    tuple(comments),
    tuple(parts),
    tuple(dict.fromkeys(warnings)),
  )


def into_jpeg(data: bytes, meta: Metadata) -> bytes:
  """A JPEG that Pillow has written without metadata, with it."""
  at = 2
  if data[2:4] == b'\xff\xe0':
    at += 2 + int.from_bytes(data[4:6], 'big')
  own = [content for name, content in meta.parts if name == 'APP0']
  segments = [('APP0', own[0])] if own else []
  start = b'' if own else data[2:at]
  if meta.exif:
    segments += [('APP1', _EXIF + part) for part in _cut(meta.exif, _SEGMENT - len(_EXIF))]
  if meta.xmp and 'XMP' not in lost(meta, 'JPEG'):
    segments.append(('APP1', XMP + meta.xmp))
  photoshop = meta.photoshop or b''
  if meta.iptc and resource(photoshop, 0x0404) is None:
    photoshop += _as_resource(0x0404, meta.iptc)
  segments += [('APP13', _PHOTOSHOP + part) for part in _cut(photoshop, _SEGMENT - len(_PHOTOSHOP))]
  profile = _cut(meta.icc or b'', _SEGMENT - len(_ICC) - 2)
  for number, part in enumerate(profile, 1):
    segments.append(('APP2', _ICC + bytes([number, len(profile)]) + part))
  segments += [part for part in meta.parts if part[0].startswith('APP') and part[0] != 'APP0']
  segments += [('COM', comment) for comment in meta.comments]
  middle = b''.join(
    bytes([0xFF, 0xFE if name == 'COM' else 0xE0 + int(name[3:])])
    + struct.pack('>H', len(content) + 2)
    + content
    for name, content in segments
  )
  return data[:2] + start + middle + data[at:]


def _cut(data: bytes, size: int) -> list[bytes]:
  return [data[at : at + size] for at in range(0, len(data), size)]


def resource(photoshop: bytes | None, number: int) -> bytes | None:
  """One of Photoshop's image resources: 0x0404 are the IPTC records."""
  data, at = photoshop or b'', 0
  while data[at : at + 4] == b'8BIM' and at + 12 <= len(data):
    (code,) = struct.unpack_from('>H', data, at + 4)
    at += 6 + (data[at + 6] + 2) // 2 * 2  # a Pascal string, of even length
    if at + 4 > len(data):
      return None
    (size,) = struct.unpack_from('>I', data, at)
    if code == number:
      return data[at + 4 : at + 4 + size]
    at += 4 + size + size % 2
  return None


def _as_resource(number: int, content: bytes) -> bytes:
  head = struct.pack('>4sHHI', b'8BIM', number, 0, len(content))
  return head + content + b'\0' * (len(content) % 2)


# PNG ---------------------------------------------------------------------------------------------


def chunks(data: bytes) -> Iterator[tuple[bytes, bytes, bytes]]:
  """The chunks of a PNG: (name, content, the whole chunk). Stops where the file is cut off."""
  at = 8
  while at + 12 <= len(data):
    (size,) = struct.unpack_from('>I', data, at)
    if at + 12 + size > len(data):
      break
    yield data[at + 4 : at + 8], data[at + 8 : at + 8 + size], data[at : at + 12 + size]
    at += 12 + size


def of_png(data: bytes) -> tuple[Metadata, bytes]:
  """Reads the chunks of a PNG. Also returns the file with nothing but its pixels.

  Raises:
    ValueError: a profile is larger than `MOST`.
  """
  icc = exif = xmp = photoshop = None
  parts = []
  for name, content, _ in chunks(data):
    if not name[0] & 0x20 or name == b'tRNS':  # critical chunks have a capital
      continue
    key, _, _ = content.partition(b'\0')
    if name == b'iCCP':
      icc = _unpacked(content[len(key) + 2 :])
    elif name == b'eXIf' and exif is None:
      exif = content
      continue
    elif name == b'iTXt' and content.startswith(_PNG_XMP) and xmp is None:
      xmp = _international(content)
      continue
    elif name in (b'tEXt', b'zTXt') and key.startswith(b'Raw profile type '):
      raw = _raw_profile(name, content[len(key) + 1 :])
      kind = key[17:].lower()
      if kind in (b'exif', b'app1') and raw.startswith(_EXIF) and exif is None:
        exif = raw[len(_EXIF) :]  # as ImageMagick keeps it
        continue
      if kind == b'xmp' and xmp is None and raw:
        xmp = raw
        continue
      if kind in (b'iptc', b'8bim'):
        photoshop = raw
    # A small fourth letter: programs that do not know a chunk may copy it to changed pixels.
    if name in _PNG_KEPT or name[3] & 0x20:
      parts.append((name.decode('latin-1'), content))
  return Metadata(
    icc, exif, xmp, resource(photoshop, 0x0404), photoshop, parts=tuple(parts)
  ), _only_pixels(data)


def _only_pixels(data: bytes) -> bytes:
  """A PNG without the chunks that Pillow might refuse, such as long texts."""
  kept, end = [data[:8]], 8
  for name, _, whole in chunks(data):
    end += len(whole)
    if not name[0] & 0x20 or name == b'tRNS':
      kept.append(whole)
  return b''.join(kept) + data[end:]  # what is cut off is for the decoder to judge


def into_png(data: bytes, meta: Metadata, dpi: tuple[float, float] | None, channels: int) -> bytes:
  """A PNG without metadata, with it."""
  names = {name for name, _ in meta.parts}
  added = []
  if meta.icc and 'iCCP' not in names:
    added.append((b'iCCP', b'ICC Profile\0\0' + zlib.compress(meta.icc)))
  if dpi and 'pHYs' not in names:
    x, y = (round(value / 0.0254) for value in dpi)  # pixels per metre
    added.append((b'pHYs', struct.pack('>IIB', x, y, 1)))
  for name, content in meta.parts:
    fits = meta.icc is not None if name == 'iCCP' else name != 'sBIT' or len(content) == channels
    if len(name) == 4 and name[3].islower() | (name.encode('latin-1') in _PNG_KEPT) and fits:
      added.append((name.encode('latin-1'), content))
  # Colour comes first. The order of other chunks does not matter, and stays.
  rank = {name: i for i, name in enumerate(_PNG_KEPT[:9])}
  added.sort(key=lambda chunk: rank.get(chunk[0], len(rank)))
  if meta.exif:
    added.append((b'eXIf', meta.exif))
  if meta.xmp:
    added.append((b'iTXt', _PNG_XMP + b'\0\0\0\0' + meta.xmp))
  if meta.iptc and not any(
    c.startswith((b'Raw profile type iptc', b'Raw profile type 8bim')) for _, c in added
  ):
    records = meta.photoshop or _as_resource(0x0404, meta.iptc)
    text = b'\niptc\n%8d\n%s\n' % (len(records), records.hex().encode())
    added.append((b'zTXt', b'Raw profile type iptc\0\0' + zlib.compress(text)))
  for comment in meta.comments:
    added.append((b'tEXt', b'Comment\0' + comment.replace(b'\0', b'')))
  packed = b''.join(
    struct.pack('>I', len(content)) + name + content + struct.pack('>I', zlib.crc32(name + content))
    for name, content in added
  )
  header = 8 + 25  # the signature and IHDR, which is always first
  return data[:header] + packed + data[header:]


def _unpacked(data: bytes) -> bytes | None:
  """Deflated data, or None if it is damaged."""
  unpacker = zlib.decompressobj()
  try:
    result = unpacker.decompress(data, MOST + 1)
  except zlib.error:
    return None
  if len(result) > MOST:
    raise ValueError(f'a profile or text takes more than {MOST >> 20} MiB')
  return result


def _international(content: bytes) -> bytes | None:
  """The text of an iTXt chunk: keyword, whether it is packed, method, language, keyword, text."""
  packed, rest = content[len(_PNG_XMP) : len(_PNG_XMP) + 1], content[len(_PNG_XMP) + 2 :]
  text = rest.split(b'\0', 2)[-1]
  return _unpacked(text) if packed == b'\1' else text


def _raw_profile(name: bytes, text: bytes) -> bytes:
  """The bytes of a 'Raw profile' text: name, length, and hexadecimal digits. b'' if damaged."""
  if name == b'zTXt':
    text = _unpacked(text[1:]) or b''
  lines = text.split(b'\n', 3)
  try:
    return bytes.fromhex(lines[3].decode('ascii')) if len(lines) == 4 else b''
  except ValueError:
    return b''


# WebP --------------------------------------------------------------------------------------------


def webp_chunks(data: bytes) -> dict[bytes, bytes]:
  """The first chunk of each name of a WebP file (or of another RIFF file)."""
  found, at = {}, 12
  while at + 8 <= len(data):
    (size,) = struct.unpack_from('<I', data, at + 4)
    found.setdefault(data[at : at + 4], data[at + 8 : at + 8 + size])
    at += 8 + size + size % 2
  return found


# TIFF --------------------------------------------------------------------------------------------


def of_tiff(data: bytes, offset: int, first: int | None = None) -> Metadata:
  """Reads the tags of a page of a TIFF file, or of EXIF-like data of a camera.

  Args:
    data: the file.
    offset: of the directory of the page.
    first: offset of the directory of a thumbnail before the photo, which may have its captions.

  Raises:
    ValueError: the directory is damaged.
  """
  form = directories.layout(data)
  tags = directories.read(data, offset)
  if first is not None and first != offset:
    known = {tag.code for tag in tags}
    tags += tuple(tag for tag in directories.read(data, first) if tag.code not in known)
  values = {tag.code: tag.value for tag in tags}
  kept = tuple(tag for tag in tags if tag.code not in _TIFF_LAYOUT)
  warnings = ()
  if _TIFF_LAYERS in values:
    warnings = ('Its layers of Photoshop are left out.',)
  return Metadata(
    values.get(TIFF_ICC),
    directories.block(kept, form._replace(big=False)) if kept else None,
    values.get(TIFF_XMP, b'').rstrip(b'\0') or None,
    _in_order(values.get(TIFF_IPTC)),
    values.get(TIFF_PHOTOSHOP),
    warnings=warnings,
  )


def _in_order(iptc: bytes | None) -> bytes | None:
  """IPTC records, which some programs store as 32-bit numbers of the other byte order."""
  if iptc and iptc[:1] != b'\x1c' and iptc[3:4] == b'\x1c':
    whole = iptc[: len(iptc) // 4 * 4]
    return b''.join(whole[at : at + 4][::-1] for at in range(0, len(whole), 4))
  return iptc or None


def order(exif: bytes | None) -> str:
  """The byte order in which a TIFF file must be written to hold this EXIF data."""
  return '>' if exif and exif[:2] == b'MM' else '<'


def into_tiff(data: bytes, metas: list[Metadata]) -> bytes:
  """A TIFF file that tifffile has written, in `order`, with the tags of each of its pages.

  Its directories are written anew, behind everything else.
  """
  form = directories.layout(data)
  result = bytearray(data)
  link = len(form.head())
  size = struct.calcsize('=' + form.pointer[1])
  for offset, meta in zip(list(directories.links(data)), metas):
    tags = {tag.code: tag for tag in directories.read(data, offset)}
    try:
      given = directories.read(meta.exif) if meta.exif else ()
    except ValueError:
      given = ()
    one = struct.pack(f'{form.order}H', 1)
    tags |= {tag.code: tag for tag in given if tag.code not in _TIFF_LAYOUT}
    tags[directories.ORIENTATION] = directories.Tag(directories.ORIENTATION, 3, 1, one)
    for code, kind, value in (
      (TIFF_XMP, 1, meta.xmp),
      (TIFF_IPTC, 7, meta.iptc),
      (TIFF_PHOTOSHOP, 7, meta.photoshop),
    ):
      if value:
        tags[code] = directories.Tag(code, kind, len(value), value)
    result += bytes(len(result) % 2)
    start = len(result)
    result[link : link + size] = struct.pack(form.pointer, start)
    result += directories.directory(tuple(tags.values()), form, start)
    _, link = directories._places(bytes(result[start:]), 0, form)
    link += start
  return bytes(result)


# What a format cannot hold -----------------------------------------------------------------------


def lost(meta: Metadata, form: str) -> tuple[str, ...]:
  """What files of a format cannot hold of this, in words."""
  names = []
  if form in ('BMP', 'WEBP'):
    names += ['IPTC captions'] if meta.iptc or meta.photoshop else []
    names += ['comments'] if meta.comments else []
  if form == 'BMP':
    kept = (('a colour profile', meta.icc), ('EXIF data', meta.exif), ('XMP', meta.xmp))
    names += [name for name, value in kept if value]
  if form == 'TIFF' and meta.comments:
    names.append('comments')
  if form == 'JPEG' and meta.xmp and len(meta.xmp) > _SEGMENT - len(XMP):
    names.append('XMP')
  texts = [name for name, _ in meta.parts if name in ('tEXt', 'zTXt', 'iTXt')]
  if texts and form != 'PNG':
    names.append('texts')
  return tuple(names)


# Turning -----------------------------------------------------------------------------------------


def turn_point(x: float, y: float, orientation: int) -> tuple[float, float]:
  """Where a point of the file comes to lie when the photo is turned upright; all in [0, 1]."""
  if orientation in (5, 6, 7, 8):
    x, y = y, x
  if orientation in (3, 4, 7, 8):
    y = 1 - y
  if orientation in (2, 3, 6, 7):
    x = 1 - x
  return x, y


def upright(meta: Metadata, size: tuple[int, int], orientation: int) -> Metadata:
  """The metadata of a photo that has been turned upright.

  Orientations become 1. Widths, heights and resolutions change places where the photo was turned by
  a quarter. Regions, such as faces, are turned with the pixels. A thumbnail is left out.

  Args:
    meta: of the file.
    size: height and width in the file.
    orientation: of the file, from 1 to 8.
  """
  turned = orientation >= 5
  exif = meta.exif and directories.upright(
    meta.exif, size, lambda x, y: turn_point(x, y, orientation), turned
  )
  xmp = meta.xmp
  if xmp:
    xmp = _upright_xmp(xmp, size, orientation)
  parts = meta.parts
  if turned:
    parts = tuple((name, _swapped(name, content)) for name, content in parts)
  return meta._replace(exif=exif, xmp=xmp, parts=parts)


def _swapped(name: str, content: bytes) -> bytes:
  """A part that has the resolution, with that of width and height exchanged."""
  if name == 'pHYs':
    return content[4:8] + content[:4] + content[8:]
  if name == 'APP0':
    return content[:8] + content[10:12] + content[8:10] + content[12:]
  return content


def _pattern(name: bytes) -> bytes:
  """A pattern of an XMP property as an attribute or as an element: before, value, after."""
  return rb'(%s(?:\s*=\s*["\']|\s*>\s*))([^"\'<]*)' % name


def _value(xmp: bytes, name: bytes) -> bytes | None:
  found = re.search(_pattern(name), xmp)
  return found[2].strip() if found else None


def _with(xmp: bytes, values: dict[bytes, bytes]) -> bytes:
  for name, value in values.items():
    xmp = re.sub(_pattern(name), lambda found, value=value: found[1] + value, xmp)
  return xmp


def _exchange(xmp: bytes, pairs: tuple[tuple[bytes, bytes], ...]) -> bytes:
  for one, other in pairs:
    a, b = _value(xmp, one), _value(xmp, other)
    if a is not None and b is not None:
      xmp = _with(xmp, {one: b, other: a})
  return xmp


def _upright_xmp(xmp: bytes, size: tuple[int, int], orientation: int) -> bytes:
  """XMP of a photo that has been turned upright; see `upright`.

  Regions of the Metadata Working Group ("Guidelines for handling image metadata", 2.0, 5.9) have
  their centre in [0, 1], those of Microsoft ("MP") their upper left corner. A program that has
  already turned them says so by the size that they apply to.
  """
  turned = orientation >= 5
  xmp = _with(xmp, {b'tiff:Orientation': b'1'})
  if orientation == 1:
    return xmp
  height, width = size
  applied = [_value(xmp, name) for name in (b'stDim:w', b'stDim:h')]
  known = [float(value) for value in applied if value and re.fullmatch(rb'[0-9.]{1,9}', value)]
  stored = len(known) < 2 or not turned or (known[0] < known[1]) == (width < height)
  if stored:
    area = rb'<mwg-rs:Area\b[^>]*?/>|<mwg-rs:Area\b.*?</mwg-rs:Area>'
    xmp = re.sub(area, lambda found: _turned_area(found[0], size, orientation), xmp, flags=re.S)
    rectangle = _pattern(b'MPReg:Rectangle')
    xmp = re.sub(rectangle, lambda found: found[1] + _turned_rectangle(found[2], orientation), xmp)
    if turned:
      xmp = _exchange(xmp, ((b'stDim:w', b'stDim:h'),))
  if turned:
    pairs = (
      (b'exif:PixelXDimension', b'exif:PixelYDimension'),
      (b'tiff:ImageWidth', b'tiff:ImageLength'),
    )
    xmp = _exchange(xmp, (*pairs, (b'tiff:XResolution', b'tiff:YResolution')))
  return xmp


def _turned_area(area: bytes, size: tuple[int, int], orientation: int) -> bytes:
  names = (b'stArea:x', b'stArea:y', b'stArea:w', b'stArea:h')
  try:
    x, y, w, h = (float(value) if value else 0.0 for value in (_value(area, n) for n in names))
  except ValueError:
    return area
  height, width = size
  scale = (1, 1)
  if _value(area, b'stArea:unit') == b'pixel':
    scale = (width, height)
  x, y = turn_point(x / scale[0], y / scale[1], orientation)
  if orientation >= 5:
    w, h, scale = h, w, scale[::-1]
  return _with(
    area, dict(zip(names, (_text(x * scale[0]), _text(y * scale[1]), _text(w), _text(h))))
  )


def _turned_rectangle(text: bytes, orientation: int) -> bytes:
  try:
    left, top, w, h = (float(part) for part in text.split(b','))
  except ValueError:
    return text
  x, y = turn_point(left + w / 2, top + h / 2, orientation)
  if orientation >= 5:
    w, h = h, w
  return b', '.join(_text(value) for value in (x - w / 2, y - h / 2, w, h))


def _text(value: float) -> bytes:
  return f'{round(value, 7):g}'.encode() if abs(value) >= 1e-6 else b'0'
