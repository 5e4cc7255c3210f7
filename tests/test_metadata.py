"""Captions, colour and camera data: nothing is lost on the way from a file to its copy.

The table of formats and data is measured with ExifTool, which has no code in common with ours, and
is the one in docs/restoring.md.
"""

import dataclasses
import io
import json
import os
import pathlib
import re
import shutil
import struct
import subprocess

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms, PngImagePlugin

from oldphoto_jax.photos import directories, images, metadata

ROOT = pathlib.Path(__file__).parent.parent
ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile('sRGB')).tobytes()
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><dc:title>Gran</dc:title></x:xmpmeta>'


def pixels(height=48, width=64, dtype=np.uint8):
  return np.random.default_rng(0).integers(0, np.iinfo(dtype).max + 1, (height, width, 3), dtype)


def copied(path, name=None):
  """The path of a copy of a photo, as restoring would write it."""
  copy = path.parent / 'out' / (name or path.name)
  copy.parent.mkdir(exist_ok=True)
  images.write(images.read(path), copy, overwrite=True)
  return copy


# The table, by ExifTool

# What is kept, as docs/restoring.md shows it. –: the format has no place for it.
FORMATS = ('JPEG', 'PNG', 'WebP', 'TIFF', 'TIFF, 16 bits', 'PNG, 16 bits')
TABLE = {
  'EXIF: camera, dates, notes': ('kept',) * 6,
  'EXIF: place': ('kept',) * 6,
  'EXIF over 64 KiB': ('kept',) * 6,
  'IPTC captions': ('kept', 'kept', '–', 'kept', 'kept', 'kept'),
  'XMP': ('kept',) * 6,
  'XMP regions of faces': ('kept',) * 6,
  "Photoshop's resources": ('kept', 'kept', '–', 'kept', 'kept', 'kept'),
  'comments, texts of PNG': ('kept', 'kept', '–', '–', '–', 'kept'),
  'texts of TIFF, also in EXIF': ('kept',) * 6,
  'colour profile': ('kept',) * 6,
  'gamma, primaries': ('–', 'kept', '–', '–', '–', 'kept'),
  'resolution': ('kept',) * 6,
}
_TAGS = {
  'EXIF: camera, dates, notes': r'(IFD0:(Make|Artist|Copyright)|ExifIFD:)',
  'EXIF: place': 'GPS:',
  'EXIF over 64 KiB': 'IFD0:ImageDescription',
  'IPTC captions': 'IPTC:',
  'XMP': 'XMP-dc:',
  'XMP regions of faces': 'XMP-mwg-rs:',
  "Photoshop's resources": 'Photoshop:',
  'comments, texts of PNG': r'(File:Comment|PNG:(Author|Title|Comment))',
  'texts of TIFF, also in EXIF': r'IFD0:(DocumentName|PageName)',
  'colour profile': 'ICC',
  'gamma, primaries': r'PNG:(Gamma|WhitePoint|RedX|GreenX|BlueX)',
  'resolution': r'(JFIF|PNG-pHYs|IFD0):(XRes|YRes|PixelsPerUnit|Resolution)',
}


def _exiftool(*words):
  return subprocess.run(['exiftool', *map(str, words)], capture_output=True, check=False)


def _written(folder):
  """One file of each format with everything that ExifTool can write into it."""
  for name, form in (('a.jpg', 'JPEG'), ('b.png', 'PNG'), ('c.webp', 'WEBP'), ('d.tif', 'TIFF')):
    info = None
    if form == 'PNG':
      info = PngImagePlugin.PngInfo()
      info.add(b'gAMA', struct.pack('>I', 45455))
      info.add(b'cHRM', struct.pack('>8I', 31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000))
    options = {'pnginfo': info} if info else {}
    Image.fromarray(pixels()).save(folder / name, form, dpi=(300, 600), **options)
  deep = pixels(dtype=np.uint16)
  tifffile.imwrite(folder / 'e.tif', deep, photometric='rgb', resolution=(300, 600))
  chunks = metadata.chunks((folder / 'b.png').read_bytes())
  own = b''.join(chunk for name, _, chunk in chunks if name in (b'gAMA', b'cHRM', b'pHYs'))
  deep = imagecodecs.png_encode(deep)
  (folder / 'f.png').write_bytes(deep[:33] + own + deep[33:])
  (folder / 'profile.icc').write_bytes(ICC)
  (folder / 'long.txt').write_text('Great-aunt Ada in Rügen. ' * 3000)
  words = [
    *('-IPTC:CodedCharacterSet=UTF8', '-IPTC:Caption-Abstract=Großmutter', '-IPTC:By-line=Ada'),
    *('-IPTC:Keywords=sea', '-IPTC:Keywords=1931', '-XMP-dc:Title=Gran at sea'),
    *('-XMP-dc:Description=Rügen', '-IFD0:Make=Kodak', '-IFD0:Artist=Ada', '-IFD0:Copyright=Åsa'),
    *('-ExifIFD:DateTimeOriginal=1931:05:04 12:00:00', '-ExifIFD:UserComment=scanned twice'),
    *('-GPS:GPSLatitude=54.4', '-GPS:GPSLatitudeRef=N', '-Photoshop:URL=https://example.org'),
    f'-IFD0:ImageDescription<={folder / "long.txt"}',
    f'-ICC_Profile<={folder / "profile.icc"}',
    '-XMP-mwg-rs:RegionInfo={AppliedToDimensions={W=64,H=48,Unit=pixel},RegionList=[{Area={X=0.4,'
    'Y=0.3,W=0.1,H=0.2,Unit=normalized},Name=Ada,Type=Face}]}',
    *('-IFD0:XResolution=300', '-IFD0:YResolution=600', '-XMP-dc:Creator=Ada'),
    *('-Comment=by hand', '-PNG:Author=Åsa', '-PNG:Title=Sea'),
    *('-IFD0:DocumentName=box 7', '-IFD0:PageName=page 3'),
  ]
  names = sorted(path for path in folder.iterdir() if path.suffix not in ('.icc', '.txt'))
  _exiftool('-q', '-overwrite_original', '-m', '-charset', 'iptc=utf8', *words, *names)
  return names


@pytest.mark.skipif(not shutil.which('exiftool'), reason='no ExifTool: install exiftool')
def test_what_each_format_keeps_by_exiftool(tmp_path):
  originals = _written(tmp_path)
  copies = [copied(path) for path in originals]
  read = _exiftool('-j', '-G1', '-a', '-b', '-struct', '-u', *originals, *copies).stdout
  found = json.loads(read)
  before, after = found[: len(originals)], found[len(originals) :]
  measured = {
    kind: tuple(_cell(re.compile(tags), *pair) for pair in zip(before, after))
    for kind, tags in _TAGS.items()
  }
  assert measured == TABLE


def _cell(tags, before, after):
  """'kept', '–' if the original has nothing of the kind, or what was lost."""
  first, second = (
    {key: value for key, value in side.items() if tags.match(key)} for side in (before, after)
  )
  if not first:
    return '–'
  return 'kept' if first == second else f'lost: {sorted(set(first) ^ set(second))}'


def test_the_table_of_the_documents_is_the_measured_one():
  lines = [f'| | {" | ".join(FORMATS)} |', f'|---|{"---|" * len(FORMATS)}']
  lines += [f'| {kind} | {" | ".join(cells)} |' for kind, cells in TABLE.items()]
  assert '\n'.join(lines) in (ROOT / 'docs/restoring.md').read_text()


# Without ExifTool


@pytest.mark.parametrize('name', ['a.jpg', 'a.png', 'a.webp', 'a.tif', '16.png', '16.tif'])
def test_what_a_photo_says_comes_back(tmp_path, name):
  exif = Image.Exif()
  exif[0x010F] = 'Kodak'
  exif[0x8769] = {0x9003: '1931:05:04 12:00:00'}
  photo = images.Photo(
    pixels=pixels(dtype=np.uint16 if name.startswith('16') else np.uint8),
    icc=ICC,
    exif=exif.tobytes().removeprefix(b'Exif\0\0'),
    xmp=XMP,
    iptc=b'\x1c\x02\x78\x00\x04Gran',
    dpi=(600.0, 600.0),
    modified=10**18,
  )
  images.write(photo, tmp_path / name)
  copy = images.read(tmp_path / name)
  assert (copy.icc, copy.xmp, copy.modified) == (ICC, XMP, 10**18)
  tags = Image.Exif()
  tags.load(b'Exif\0\0' + copy.exif)
  assert tags[0x010F] == 'Kodak'
  assert tags.get_ifd(0x8769)[0x9003] == '1931:05:04 12:00:00'
  if name != 'a.webp':
    assert copy.dpi == pytest.approx((600, 600), rel=1e-4)
    assert copy.iptc == photo.iptc
  with Image.open(tmp_path / name) as image:  # others read it too
    assert image.info['icc_profile'] == ICC
    assert image.getexif()[0x010F] == 'Kodak'


def test_what_a_format_cannot_hold_is_named(tmp_path, caplog):
  photo = images.Photo(pixels(), iptc=b'\x1c\x02\x78\x00\x04Gran', comments=(b'by hand',), icc=ICC)
  images.write(photo, tmp_path / 'a.webp')
  assert 'a.webp: WEBP cannot hold IPTC captions, comments; left out.' in caplog.text
  images.write(photo, tmp_path / 'a.bmp')
  assert 'BMP cannot hold IPTC captions, comments, a colour profile; left out.' in caplog.text


def test_iptc_of_a_tiff_is_kept_in_any_type_and_order(tmp_path):
  records = b'\x1c\x02\x78\x00\x05Gran!' + b'\x1c\x02\x50\x00\x03Ada' + bytes(2)
  swapped = b''.join(records[i : i + 4][::-1] for i in range(0, len(records), 4))
  for kind, count, value in (
    (4, len(records) // 4, records),
    (7, len(records), records),
    (4, 5, swapped),
  ):
    tifffile.imwrite(
      tmp_path / 'a.tif', pixels(), photometric='rgb', extratags=[(33723, kind, count, value, True)]
    )
    for name in ('a.tif', 'a.jpg', 'a.png'):
      assert images.read(copied(tmp_path / 'a.tif', name)).iptc.startswith(records[:18])
  with tifffile.TiffFile(tmp_path / 'out/a.tif') as tiff:
    assert tiff.pages.first.tags[33723].value.startswith(records[:18])


@pytest.mark.parametrize('text', ['Rügen'.encode(), 'Rügen'.encode('latin-1')])
def test_captions_are_bytes(tmp_path, text):
  """Not everybody wrote ASCII, or said what they wrote."""
  tags = [(270, 2, len(text) + 1, text + b'\0', True), (315, 2, 4, b'Ada\0', True)]
  tifffile.imwrite(tmp_path / 'a.tif', pixels(), photometric='rgb', metadata=None, extratags=tags)
  found = {tag.code: tag for tag in directories.read(copied(tmp_path / 'a.tif').read_bytes())}
  assert found[270].value == text + b'\0' and found[315].value == b'Ada\0'
  buffer = io.BytesIO()
  Image.fromarray(pixels()).save(buffer, 'JPEG', comment=text)
  data = buffer.getvalue()
  again = data[:2] + b'\xff\xfe' + struct.pack('>H', 8) + b'second' + data[2:]
  (tmp_path / 'a.jpg').write_bytes(again)
  with Image.open(copied(tmp_path / 'a.jpg')) as image:
    assert [content for name, content in image.applist if name == 'COM'] == [b'second', text]


def test_other_segments_of_a_jpeg_are_kept_and_credentials_named(tmp_path):
  extended = b'http://ns.adobe.com/xmp/extension/\0' + b'0' * 32 + bytes(8) + b'<x/>'
  extra = b''.join(
    b'\xff' + bytes([marker]) + struct.pack('>H', len(content) + 2) + content
    for marker, content in (
      (0xE1, extended),
      (0xE5, b'scanner\0x'),
      (0xEB, b'JP\0\1\0\0\0\1\0\0\0\x10jumb'),
    )
  )
  buffer = io.BytesIO()
  Image.fromarray(pixels()).save(buffer, 'JPEG')
  data = buffer.getvalue()
  (tmp_path / 'a.jpg').write_bytes(data[:20] + extra + data[20:])
  photo = images.read(tmp_path / 'a.jpg')
  assert 'content credentials (C2PA) do not hold' in photo.warnings[0]
  with Image.open(copied(tmp_path / 'a.jpg')) as image:
    assert ('APP1', extended) in image.applist and ('APP5', b'scanner\0x') in image.applist
    assert 'APP11' not in dict(image.applist)


def test_exif_over_64_kib_spans_several_segments(tmp_path):
  exif = Image.Exif()
  exif[0x010E] = 'Ada ' * 30_000
  photo = images.Photo(pixels(), exif=exif.tobytes().removeprefix(b'Exif\0\0'))
  for name in ('a.jpg', 'a.png', 'a.webp', 'a.tif'):
    images.write(photo, tmp_path / name)
    with Image.open(copied(tmp_path / name)) as image:
      assert image.getexif()[0x010E] == 'Ada ' * 30_000


def test_chunks_of_a_png_are_kept_however_long(tmp_path):
  info = PngImagePlugin.PngInfo()
  for name, content in (
    (b'gAMA', struct.pack('>I', 100_000)),
    (b'sBIT', b'\5\6\5'),
    (b'tIME', b'\x07\x8b\5\4\x0c\0\0'),
  ):
    info.add(name, content)
  info.add_text('Author', 'Åsa')
  info.add_text('Notes', 'Ada ' * 1000, zip=True)
  info.add_itxt('XML:com.adobe.xmp', XMP.decode() + ' ' * 1_200_000)
  icc = ICC + bytes(2_000_000)
  Image.fromarray(pixels()).save(tmp_path / 'a.png', pnginfo=info, icc_profile=icc)
  before, after = (
    sorted((name, content) for name, content, _ in metadata.chunks(path.read_bytes()))
    for path in (tmp_path / 'a.png', copied(tmp_path / 'a.png'))
  )
  assert [chunk for chunk in after if chunk[0] != b'IDAT'] == [
    chunk for chunk in before if chunk[0] != b'IDAT'
  ]
  assert images.size(tmp_path / 'a.png') == (48, 64)


def test_a_bomb_in_a_png_is_a_sentence(tmp_path):
  Image.fromarray(pixels()).save(tmp_path / 'a.png', icc_profile=bytes(metadata.MOST + 1))
  with pytest.raises(images.PhotoError, match='takes more than 64 MiB'):
    images.read(tmp_path / 'a.png')


def test_a_gray_palette_with_a_profile_for_colours_makes_a_valid_png(tmp_path):
  Image.fromarray(pixels()[..., 0]).convert('P').save(tmp_path / 'a.png', icc_profile=ICC)
  with Image.open(copied(tmp_path / 'a.png')) as image:
    assert (image.mode, image.info['icc_profile']) == ('RGB', ICC)


def test_pages_of_a_tiff(tmp_path):
  """Thumbnails and infrared pictures are no photos; the others are restored on request."""
  photos = [pixels(dtype=np.uint16), pixels(40, 64, np.uint16)]
  tags = [[(270, 2, 2, bytes([letter, 0]), True)] for letter in b'AB']
  with tifffile.TiffWriter(tmp_path / 'a.tif') as tiff:
    tiff.write(
      pixels(12, 16), photometric='rgb', metadata=None, extratags=[(315, 2, 4, b'Ada\0', True)]
    )
    tiff.write(photos[0], photometric='rgb', metadata=None, extratags=tags[0])
    tiff.write(photos[0][..., 0], photometric='minisblack', metadata=None)
    tiff.write(photos[1], photometric='rgb', metadata=None, extratags=tags[1])
  first = images.read(tmp_path / 'a.tif')
  np.testing.assert_array_equal(first.pixels, photos[0])
  assert first.warnings == (
    'Page 1 is a thumbnail; left out.',
    'Page 3 is an infrared picture or a mask of the scanner; left out.',
    'The file holds 2 pictures; only the first one is used.',
  )
  both = images.read(tmp_path / 'a.tif', all_pages=True)
  assert len(both.pages) == 1 and 'only the first' not in str(both.warnings)
  images.write(both, tmp_path / 'b.tif')
  with tifffile.TiffFile(tmp_path / 'b.tif') as tiff:
    for page, photo, letter in zip(tiff.pages, photos, 'AB'):
      np.testing.assert_array_equal(page.asarray(), photo)
      assert page.tags[270].value == letter
    assert len(tiff.pages) == 2 and tiff.pages.first.tags[315].value == 'Ada'
  assert images.size(tmp_path / 'a.tif') == (48, 64)


@pytest.mark.parametrize('named', [True, False])
def test_a_fourth_channel_is_named(tmp_path, named):
  deep = np.concatenate([pixels(dtype=np.uint16), pixels(dtype=np.uint16)[..., :1]], -1)
  path = tmp_path / 'a.tif'
  tifffile.imwrite(
    path, deep, photometric='rgb', planarconfig='contig', extrasamples=['unspecified']
  )
  if not named:  # as some scanners write it: the tag becomes one that nobody knows
    with tifffile.TiffFile(path) as tiff:
      at = tiff.pages.first.tags[338].offset
    data = bytearray(path.read_bytes())
    data[at : at + 2] = struct.pack('<H', 65000)
    path.write_bytes(data)
  photo = images.read(path)
  np.testing.assert_array_equal(photo.pixels, deep[..., :3])
  assert photo.alpha is None
  assert photo.warnings == ('Channel 4, which may be infrared, is left out.',)


# Turning

FACES = (
  b'<x:xmpmeta><rdf:Description tiff:Orientation="%d" exif:PixelXDimension="64" '
  b'exif:PixelYDimension="48"><mwg-rs:Regions rdf:parseType="Resource"><mwg-rs:AppliedToDimensions '
  b'stDim:w="%d" stDim:h="%d" stDim:unit="pixel"/><mwg-rs:RegionList><rdf:Bag><rdf:li>%s</rdf:li>'
  b'</rdf:Bag></mwg-rs:RegionList></mwg-rs:Regions><MPRI:Regions><rdf:li '
  b'MPReg:Rectangle="0.75, 0.25, 0.125, 0.25"/></MPRI:Regions></rdf:Description></x:xmpmeta>'
)
AREAS = (
  b'<mwg-rs:Area stArea:x="0.8125" stArea:y="0.375" stArea:w="0.125" stArea:h="0.25"/>',
  b'<mwg-rs:Area rdf:parseType="Resource"><stArea:h>0.25</stArea:h><stArea:w>0.125</stArea:w>'
  b'<stArea:x>0.8125</stArea:x><stArea:y>0.375</stArea:y></mwg-rs:Area>',
)


def with_face(path, orientation, area=AREAS[0], applied=(64, 48)):
  """A dark photo with a bright face at the place that its XMP and EXIF name."""
  dark = np.zeros((48, 64, 3), np.uint8)
  dark[12:24, 48:56] = 255
  exif = Image.Exif()
  exif[0x0112] = orientation
  exif[0x011A], exif[0x011B] = 300, 600
  exif[0x8769] = {0xA002: 64, 0xA003: 48, 0x9214: (52, 18, 8, 12)}
  xmp = FACES % (orientation, *applied, area)
  if path.suffix == '.tif':  # Pillow would not write XMP
    exif[0x02BC] = xmp
  options = {'lossless': True} if path.suffix == '.webp' else {}
  if path.suffix == '.png':
    options['pnginfo'] = PngImagePlugin.PngInfo()
    options['pnginfo'].add_itxt('XML:com.adobe.xmp', xmp.decode())
    xmp = None
  Image.fromarray(dark).save(path, exif=exif.tobytes(), xmp=xmp or b'', dpi=(300, 600), **options)
  return path


def numbers(xmp, *names):
  return [float(re.search(rb'%s(?:="|>)([0-9.]+)' % name, xmp)[1]) for name in names]


@pytest.mark.parametrize('orientation', range(1, 9))
@pytest.mark.parametrize('name', ['a.jpg', 'a.png', 'a.webp', 'a.tif'])
def test_faces_and_sizes_turn_with_the_pixels(tmp_path, name, orientation):
  path = copied(with_face(tmp_path / name, orientation, AREAS[orientation % 2]))
  with Image.open(path) as image:
    tags = image.getexif()
    details = tags.get_ifd(0x8769)
    bright = np.asarray(image)[..., 1] > 128
  xmp = images.read(path).xmp
  rows, columns = np.nonzero(bright)
  height, width = bright.shape
  box = [columns.min() / width, rows.min() / height, np.ptp(columns) + 1, np.ptp(rows) + 1]
  x, y, w, h = numbers(xmp, b'stArea:x', b'stArea:y', b'stArea:w', b'stArea:h')
  assert (x - w / 2, y - h / 2, w * width, h * height) == pytest.approx(box, abs=1e-5)
  corner = re.search(rb'Rectangle="([^"]*)"', xmp)[1].decode().split(',')
  assert [float(value) for value in corner] == pytest.approx(
    [box[0], box[1], box[2] / width, box[3] / height], abs=1e-5
  )
  assert numbers(xmp, b'stDim:w', b'stDim:h') == [width, height]
  assert numbers(xmp, b'exif:PixelXDimension', b'exif:PixelYDimension') == [width, height]
  assert b'tiff:Orientation="1"' in xmp and tags.get(0x0112, 1) == 1
  assert (details[0xA002], details[0xA003]) == (width, height)
  assert details[0x9214] == pytest.approx(
    (box[0] * width + box[2] / 2, box[1] * height + box[3] / 2, box[2], box[3])
  )
  turned = orientation >= 5
  assert (tags[0x011A], tags[0x011B]) == ((600, 300) if turned else (300, 600))
  if name != 'a.webp':
    expected = (600, 300) if turned else (300, 600)
    assert images.read(path).dpi == pytest.approx(expected, rel=1e-4)


def test_regions_that_another_program_has_turned_stay(tmp_path):
  path = with_face(tmp_path / 'a.jpg', 6, applied=(48, 64))
  xmp = images.read(copied(path)).xmp
  assert numbers(xmp, b'stArea:x', b'stArea:y', b'stDim:w') == [0.8125, 0.375, 48]


def test_exif_keeps_its_bytes_but_not_its_thumbnail():
  raw = b'II*\0\x08\0\0\0' + b'\x01\0' + b'\x12\x01\x03\0\x01\0\0\0\x06\0\0\0' + b'\x1a\0\0\0thumb'
  upright = lambda data: directories.upright(data, (4, 6), lambda x, y: (x, y), True)
  assert upright(raw) == raw.replace(b'\0\x06', b'\0\x01').replace(b'\x1a', b'\0')
  for damaged in (raw[:15], b'rubbish', b'', b'II*\0\xff\xff\xff\xff'):
    assert upright(damaged) == damaged
    assert directories.orientation(damaged) == 1


def test_orientation_of_xmp_counts_where_exif_has_none(tmp_path):
  xmp = b'<x:xmpmeta tiff:Orientation="6"/>'
  array = np.kron(pixels(2, 3), np.ones((16, 16, 1), np.uint8))
  for name in ('a.jpg', 'a.webp', 'a.tif'):
    if name == 'a.tif':
      tag = (700, 1, len(xmp), xmp, True)
      tifffile.imwrite(tmp_path / name, array, photometric='rgb', extratags=[tag])
    else:
      Image.fromarray(array).save(tmp_path / name, xmp=xmp, quality=100)
    assert images.size(tmp_path / name) == (48, 32)
    photo = images.read(copied(tmp_path / name))
    assert photo.size == (48, 32)
    assert photo.xmp == xmp.replace(b'"6"', b'"1"')


def test_a_copy_has_the_date_of_its_original(tmp_path):
  Image.fromarray(pixels()).save(tmp_path / 'a.png')
  os.utime(tmp_path / 'a.png', ns=(10**18, 10**18))
  assert copied(tmp_path / 'a.png').stat().st_mtime_ns == 10**18
  photo = dataclasses.replace(images.read(tmp_path / 'a.png'), modified=None)
  images.write(photo, tmp_path / 'b.png')
  assert (tmp_path / 'b.png').stat().st_mtime_ns > 10**18
