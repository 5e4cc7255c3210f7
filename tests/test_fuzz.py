"""Damaged files give a photo or a sentence. Originals stay, and nothing is half-written."""

import io
import os
import resource
import struct

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms, PngImagePlugin

from oldphoto_jax.photos import directories, images, masks

XMP = (
  b'<x:xmpmeta><rdf:Description tiff:Orientation="6"><mwg-rs:Area stArea:x="0.8" stArea:y="0.3" '
  b'stArea:w="0.1" stArea:h="0.2"/></rdf:Description></x:xmpmeta>'
)
MOST_PIXELS = 1 << 20


def seeds():
  """Small files of each format with all that is parsed by us: name -> bytes."""
  rng = np.random.default_rng(0)
  photo = np.kron(rng.integers(0, 256, (6, 8, 3), np.uint8), np.ones((4, 4, 1), np.uint8))
  icc = ImageCms.ImageCmsProfile(ImageCms.createProfile('sRGB')).tobytes()
  exif = Image.Exif()
  exif[0x0112], exif[0x010F], exif[0x011A], exif[0x011B] = 6, 'Kodak', 300, 600
  exif[0x8769] = {0x9003: '1931:05:04 12:00:00', 0xA002: 32, 0xA003: 24, 0x9214: (9, 9, 4, 4)}
  exif = exif.tobytes()

  def saved(form, image=None, **options):
    buffer = io.BytesIO()
    (image or Image.fromarray(photo)).save(buffer, form, **options)
    return buffer.getvalue()

  def tiff(array, **options):
    buffer = io.BytesIO()
    tags = [
      (274, 3, 1, 6, True),
      (270, 2, 4, b'Ada\0', True),
      (700, 1, len(XMP), XMP, True),
      (33723, 7, 8, b'\x1c\x02\x78\x00\x03Ada', True),
    ]
    tifffile.imwrite(buffer, array, photometric='rgb', iccprofile=icc, extratags=tags, **options)
    return buffer.getvalue()

  info = PngImagePlugin.PngInfo()
  info.add_text('Author', 'Ada', zip=True)
  info.add_itxt('XML:com.adobe.xmp', XMP.decode())
  resource_ = struct.pack('>4sHHI', b'8BIM', 0x0404, 0, 8) + b'\x1c\x02\x78\x00\x03Ada'
  segment = b'\xff\xed' + struct.pack('>H', len(resource_) + 16) + b'Photoshop 3.0\0' + resource_
  full = {'icc_profile': icc, 'exif': exif}
  return {
    'a.jpg': saved('JPEG', **full, xmp=XMP, comment=b'Ada', extra=segment),
    'a.png': saved('PNG', **full, pnginfo=info, dpi=(300, 600)),
    '16.png': imagecodecs.png_encode(photo.astype(np.uint16) * 257),
    'a.webp': saved('WEBP', **full, xmp=XMP, lossless=True),
    'a.tif': tiff(photo),
    'b.tif': tiff(photo, compression='lzw'),
    '16.tif': tiff(photo.astype('>u2') * 257, byteorder='>', compression='zlib'),
    'a.bmp': saved('BMP', Image.fromarray(photo).convert('RGBA')),
    'a.gif': saved('GIF', comment=b'Ada'),
    'a.pgm': saved('PPM', Image.fromarray(photo[..., 0])),
    'a.tga': saved('TGA'),
    'a.jp2': saved('JPEG2000'),
    'a.avif': saved('AVIF', exif=exif),
    'a.jxl': imagecodecs.jpegxl_encode(photo),
  }


SEEDS = seeds()


def mutated(data, rng):
  """The bytes of a file, damaged in a few places."""
  data = bytearray(data)
  for _ in range(rng.integers(1, 5)):
    at = int(rng.integers(0, len(data)))
    kind = rng.integers(0, 6)
    if kind == 0:
      data[at] ^= 1 << int(rng.integers(0, 8))
    elif kind == 1:
      data[at : at + 4] = rng.choice([b'\0\0\0\0', b'\xff\xff\xff\xff', b'\x7f\xff\xff\xff', b'\1'])
    elif kind == 2:
      del data[at : at + int(rng.integers(1, 40))]
    elif kind == 3:
      data[at:at] = rng.bytes(int(rng.integers(1, 40)))
    elif kind == 4:
      start = int(rng.integers(0, len(data)))
      data[at:at] = data[start : start + int(rng.integers(1, 80))]
    elif at > 16:
      del data[at:]
    if len(data) < 16:
      break
  return bytes(data)


def check(path, data, out):
  """Reads a file, and writes what was read, if there is a folder for it. Only raises sentences."""
  path.write_bytes(data)
  try:
    size = images.size(path)
    photo = images.read(path, MOST_PIXELS, all_pages=True)
  except images.PhotoError as error:
    message = str(error)
    assert message.startswith(str(path)) and message.endswith('.') and '\n' not in message
    return False
  finally:
    assert path.read_bytes() == data
  assert photo.size == size and photo.pixels.size <= 3 * MOST_PIXELS
  if out is None:
    return True
  copy = out / (path.name if path.suffix in ('.jpg', '.png', '.webp', '.tif', '.bmp') else 'a.png')
  images.write(photo, copy, overwrite=True)
  assert images.read(copy).size == size
  assert not [name for name in os.listdir(out) if name.endswith('.tmp')]
  return True


def fuzz(name, count, tmp_path, monkeypatch):
  monkeypatch.setattr(os, 'fsync', lambda file: None)  # waiting for the disk is most of the time
  rng = np.random.default_rng(sum(name.encode()))
  out = tmp_path / 'out'
  out.mkdir()
  assert check(tmp_path / name, SEEDS[name], out)
  before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  for i in range(count):
    check(tmp_path / name, mutated(SEEDS[name], rng), None if i % 4 else out)
  grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before  # KiB on Linux
  assert grown < 600_000


@pytest.mark.parametrize('name', SEEDS)
def test_damaged_files_are_photos_or_sentences(tmp_path, monkeypatch, name):
  fuzz(name, 200, tmp_path, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize('name', SEEDS)
def test_ten_thousand_damaged_files_are_photos_or_sentences(tmp_path, monkeypatch, name):
  fuzz(name, 10_000, tmp_path, monkeypatch)


@pytest.mark.parametrize('count', [200, pytest.param(10_000, marks=pytest.mark.slow)])
def test_damaged_masks_are_masks_or_sentences(tmp_path, count):
  rng = np.random.default_rng(1)
  drawn = np.zeros((24, 32, 4), np.uint8)
  drawn[4:8] = (255, 0, 0, 255)
  buffer = io.BytesIO()
  Image.fromarray(drawn).save(buffer, 'PNG')
  for _ in range(count):
    path = tmp_path / 'a.png'
    path.write_bytes(mutated(buffer.getvalue(), rng))
    try:
      mask = masks.read(path, (24, 32))
    except images.PhotoError:
      continue
    assert mask.shape == (24, 32, 1) and 0 <= mask.min() <= mask.max() <= 1


@pytest.mark.parametrize('count', [2_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_damaged_directories_stay_what_they_are_or_are_turned(count):
  exif = Image.Exif()
  exif[0x0112], exif[0x010F] = 6, 'Kodak'
  exif[0x8769] = {0xA002: 32, 0xA003: 24, 0x9214: (9, 9, 4, 4)}
  data, rng = exif.tobytes().removeprefix(b'Exif\0\0'), np.random.default_rng(2)
  for _ in range(count):
    damaged = mutated(data, rng)
    assert directories.orientation(damaged) in range(1, 9)
    turned = directories.upright(damaged, (24, 32), lambda x, y: (1 - y, x), True)
    assert len(turned) == len(damaged)
    try:
      tags = directories.read(damaged)
    except ValueError:
      continue
    directories.block(tags, directories.layout(damaged)._replace(big=False))
