"""Directories of tags, as in TIFF files and EXIF data: read, changed in place and written again.

Pillow and tifffile decode the values of tags, and cannot write all of them as they were. Here the
bytes of a value are copied. Layout: TIFF 6.0, section 2; BigTIFF; EXIF 2.32, section 4.6.
"""

import contextlib
import struct
from collections.abc import Callable, Iterator
from typing import NamedTuple

ORIENTATION = 274
EXIF, GPS, INTEROP = 34665, 34853, 40965  # these tags point to further directories
_POINTERS = (EXIF, GPS, INTEROP)
_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
_BYTES |= {16: 8, 17: 8, 18: 8}  # of BigTIFF
_MOST_TAGS = 4096  # in a directory; more mean damaged data
# Width and height, resolutions, sizes in EXIF, resolutions of the focal plane.
_PAIRS = ((256, 257), (282, 283), (0xA002, 0xA003), (0xA20E, 0xA20F))
_AREA, _LOCATION = 0x9214, 0xA214  # of the main subject, in pixels


class Tag(NamedTuple):
  """A tag with its value, or the directory that it points to."""

  code: int
  kind: int  # as in the file: 2 = ASCII, 3 = SHORT ...
  count: int
  value: bytes  # in the byte order of the file
  tags: tuple['Tag', ...] = ()  # of the directory, instead of a value


class _Place(NamedTuple):
  """Where a tag lies in the data."""

  code: int
  kind: int
  count: int
  entry: int  # offset of the tag
  value: int  # offset of its value
  size: int  # bytes of the value


class Layout(NamedTuple):
  """Byte order and size of offsets."""

  order: str  # '<' or '>'
  big: bool = False

  @property
  def pointer(self) -> str:
    return f'{self.order}{"Q" if self.big else "I"}'

  def head(self) -> bytes:
    """The first bytes of a file with this layout, without the offset of the first directory."""
    mark = b'II' if self.order == '<' else b'MM'
    if self.big:
      return mark + struct.pack(f'{self.order}HHH', 43, 8, 0)
    return mark + struct.pack(f'{self.order}H', 42)


def layout(data: bytes) -> Layout:
  """The layout of a TIFF file or of EXIF data.

  Raises:
    ValueError: the data is neither.
  """
  order = {b'II': '<', b'MM': '>'}.get(data[:2])
  if order is None or len(data) < 8:
    raise ValueError('there is no header.')
  (version,) = struct.unpack_from(f'{order}H', data, 2)
  if version not in (42, 43):
    raise ValueError('the header is damaged.')
  return Layout(order, version == 43)


def is_exif(data: bytes) -> bool:
  """Whether data has the header of EXIF data, which is that of a TIFF file but no BigTIFF one."""
  return data[:4] in (b'II*\0', b'MM\0*') and len(data) >= 8


def _places(data: bytes, offset: int, form: Layout) -> tuple[list[_Place], int]:
  """The tags of the directory at an offset, and the offset of the link to the next directory."""
  count_kind, entry_kind, size = ('Q', 'HHQ', 20) if form.big else ('H', 'HHI', 12)
  if not 0 <= offset <= len(data):
    raise ValueError('a directory is cut off.')
  try:
    (count,) = struct.unpack_from(form.order + count_kind, data, offset)
    first = offset + struct.calcsize('=' + count_kind)
    if count > _MOST_TAGS or first + count * size > len(data):
      raise ValueError('a directory is damaged.')
    places = []
    for entry in range(first, first + count * size, size):
      code, kind, number = struct.unpack_from(form.order + entry_kind, data, entry)
      length = _BYTES.get(kind, 0) * number
      slot = size - (8 if form.big else 4) + entry
      inline = size - 4 - struct.calcsize('=' + entry_kind[2:])
      value = slot if length <= inline else struct.unpack_from(form.pointer, data, slot)[0]
      if length and value + length <= len(data):  # else the value is damaged
        places.append(_Place(code, kind, number, entry, value, length))
  except struct.error as error:
    raise ValueError('a directory is cut off.') from error
  return places, first + count * size


def read(data: bytes, offset: int | None = None) -> tuple[Tag, ...]:
  """The tags of a directory, with those of the EXIF, GPS and interoperability directories in it.

  Args:
    data: a TIFF file or EXIF data.
    offset: of the directory; None: the first one.

  Raises:
    ValueError: the data is damaged. Single values that are cut off are left out.
  """
  form = layout(data)
  return _read(data, _first(data, form) if offset is None else offset, form, set())


def _first(data: bytes, form: Layout) -> int:
  try:
    return struct.unpack_from(form.pointer, data, len(form.head()))[0]
  except struct.error as error:
    raise ValueError('the header is cut off.') from error


def _read(data: bytes, offset: int, form: Layout, seen: set[int]) -> tuple[Tag, ...]:
  seen.add(offset)  # a damaged directory may point to itself
  tags = []
  for place in _places(data, offset, form)[0]:
    value = data[place.value : place.value + place.size]
    if place.code not in _POINTERS:
      tags.append(Tag(place.code, place.kind, place.count, value))
      continue
    at = _number(value, form)
    try:
      inner = () if at in seen else _read(data, at, form, seen)
    except ValueError:
      inner = ()
    if inner:
      tags.append(Tag(place.code, 4, 1, b'', inner))
  return tuple(tags)


def _number(value: bytes, form: Layout) -> int:
  """The first number of a value of 2, 4 or 8 bytes per number, or -1."""
  kind = {2: 'H', 4: 'I', 8: 'Q'}.get(len(value))
  return -1 if kind is None else struct.unpack(form.order + kind, value)[0]


def links(data: bytes) -> Iterator[int]:
  """The offsets of the directories of pages, in order.

  Raises:
    ValueError: the data is damaged.
  """
  form, seen = layout(data), set()
  offset = _first(data, form)
  while offset and offset not in seen:
    seen.add(offset)
    yield offset
    _, link = _places(data, offset, form)
    try:
      (offset,) = struct.unpack_from(form.pointer, data, link)
    except struct.error:  # EXIF data often ends with the last tag
      return


def block(tags: tuple[Tag, ...], form: Layout) -> bytes:
  """The tags as EXIF data: a header and a directory."""
  head = form.head()
  start = len(head) + struct.calcsize('=' + form.pointer[1])
  return head + struct.pack(form.pointer, start) + directory(tags, form, start)


def directory(tags: tuple[Tag, ...], form: Layout, base: int, after: int = 0) -> bytes:
  """A directory, followed by its values and the directories that it points to.

  Args:
    tags: of the directory, in any order.
    form: layout of the file.
    base: offset in the file at which the directory will lie, even.
    after: offset of the directory of the next page; 0: there is none.
  """
  count_kind, entry_kind = ('Q', 'HHQ') if form.big else ('H', 'HHI')
  inline = 8 if form.big else 4
  tags = sorted(tags, key=lambda tag: tag.code)
  entries = b''
  rest = b''
  length = struct.calcsize('=' + count_kind) + len(tags) * (
    struct.calcsize('=' + entry_kind) + inline
  )
  end = base + length + inline
  for tag in tags:
    if tag.tags:
      rest += bytes(len(rest) % 2)
      value = struct.pack(form.pointer, end + len(rest))
      kind, count = (16, 1) if form.big else (4, 1)
      rest += directory(tag.tags, form, end + len(rest))
    elif len(tag.value) <= inline:
      value, kind, count = tag.value.ljust(inline, b'\0'), tag.kind, tag.count
    else:
      rest += bytes(len(rest) % 2)
      value, kind, count = struct.pack(form.pointer, end + len(rest)), tag.kind, tag.count
      rest += tag.value
    entries += struct.pack(form.order + entry_kind, tag.code, kind, count) + value
  head = struct.pack(form.order + count_kind, len(tags)) + entries
  return head + struct.pack(form.pointer, after) + rest


def orientation(data: bytes) -> int:
  """The orientation that EXIF data names: 1 to 8, or 1 if it names none."""
  place = _orientation(data) if is_exif(data) else None
  if place is None:
    return 1
  value = _number(data[place.value : place.value + place.size], layout(data))
  return value if 1 <= value <= 8 else 1


def _orientation(data: bytes) -> _Place | None:
  try:
    form = layout(data)
    places, _ = _places(data, _first(data, form), form)
  except ValueError:
    return None
  return next((p for p in places if p.code == ORIENTATION and is_number(p.kind, p.count)), None)


def is_number(kind: int, count: int) -> bool:
  """Whether a tag of this kind is one whole number of 16 or 32 bits, as orientations are."""
  return kind in (3, 4) and count == 1


def names_orientation(data: bytes) -> bool:
  """Whether EXIF data names an orientation."""
  return _orientation(data) is not None


def without_orientation(data: bytes, offset: int) -> bytes:
  """A TIFF file in which the orientation of the page whose directory lies at `offset` is 1."""
  try:
    order, big = layout(data)
    places, _ = _places(data, offset, Layout(order, big))
  except ValueError:
    return data
  changed = None
  for place in places:
    if place.code == ORIENTATION:  # also one that is damaged, which Pillow may understand
      changed = changed or bytearray(data)
      struct.pack_into(f'{order}H{"Q" if big else "I"}H', changed, place.entry + 2, 3, 1, 1)
  return data if changed is None else bytes(changed)


def upright(
  data: bytes,
  size: tuple[int, int],
  turn: Callable[[float, float], tuple[float, float]],
  turned: bool,
) -> bytes:
  """EXIF data of a photo that has been turned upright.

  The orientation becomes 1, and the link to the thumbnail, which shows the old pixels, 0. Widths
  and heights change places, and the area of the main subject is turned. All else stays byte for
  byte where it was, because a camera's maker notes hold offsets into the whole block.

  Args:
    data: EXIF data.
    size: height and width in the file.
    turn: where a point (x, y) in [0, 1] of the file comes to lie.
    turned: whether width and height have changed places.

  Returns:
    The data, unchanged if it is damaged.
  """
  changed = bytearray(data)
  try:
    form = layout(data)
    if form.big:
      return data
    places, link = _places(data, _first(data, form), form)
  except ValueError:
    return data
  found = {place.code: place for place in reversed(places)}  # the first of two counts
  if EXIF in found:
    place = found[EXIF]
    inner = _number(data[place.value : place.value + place.size], form)
    with contextlib.suppress(ValueError):  # damaged
      found |= {place.code: place for place in _places(data, inner, form)[0]}
  if ORIENTATION in found:  # one 16-bit 1
    struct.pack_into(f'{form.order}HIHH', changed, found[ORIENTATION].entry + 2, 3, 1, 1, 0)
  if len(data) >= link + 4:
    struct.pack_into(form.pointer, changed, link, 0)
  for width, height in _PAIRS if turned else ():
    if width in found and height in found:
      a, b = (slice(found[code].entry + 2, found[code].entry + 12) for code in (width, height))
      changed[a], changed[b] = data[b], data[a]
  for code in (_AREA, _LOCATION):
    if code in found and found[code].kind == 3 and found[code].count in (2, 3, 4):
      place = found[code]
      pattern = f'{form.order}{place.count}H'
      x, y, *sides = struct.unpack_from(pattern, data, place.value)
      x, y = turn(x / size[1], y / size[0])
      new = (size[0], size[1]) if turned else (size[1], size[0])
      sides = sides[::-1] if turned else sides
      point = (min(65535, max(0, round(a * b))) for a, b in zip((x, y), new))
      struct.pack_into(pattern, changed, place.value, *point, *sides)
  return bytes(changed)
