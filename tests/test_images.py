"""Photo files: nothing lost on the way through, bad files named in one sentence."""

import dataclasses
import io
import os

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms

from oldphoto_jax.photos import images

ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile('sRGB')).tobytes()
XMP = b'<x:xmpmeta tiff:Orientation="6"><dc:title>Gran</dc:title></x:xmpmeta>'


def random_array(*shape, dtype=np.uint8):
  return np.random.default_rng(0).integers(0, np.iinfo(dtype).max + 1, shape, dtype)


def exif(orientation=1):
  tags = Image.Exif()
  tags[0x0112] = orientation
  tags[0x010F] = 'Kodak'
  tags[0x8769] = {0x9003: '1931:05:04 12:00:00'}
  return tags.tobytes()


def through(path, tmp_path, name=None):
  """The photo, and what is read back after it has been written."""
  photo = images.read(path)
  copy = tmp_path / 'out' / (name or path.name)
  copy.parent.mkdir(exist_ok=True)
  images.write(photo, copy)
  return photo, images.read(copy)


def same(a, b):
  return np.array_equal(a, b) and np.asarray(a).dtype == np.asarray(b).dtype


# Files in


@pytest.mark.parametrize(
  ('name', 'mode', 'gray', 'alpha'),
  [
    ('a.png', '1', True, False),
    ('a.png', 'L', True, False),
    ('a.png', 'LA', True, True),
    ('a.png', 'P', False, False),
    ('a.png', 'RGB', False, False),
    ('a.png', 'RGBA', False, True),
    ('a.webp', 'RGBA', False, True),
    ('a.tif', '1', True, False),
    ('a.tif', 'L', True, False),
    ('a.tif', 'LA', True, True),
    ('a.tiff', 'RGB', False, False),
    ('a.tif', 'RGBA', False, True),
    ('a.tif', 'P', False, False),
    ('a.bmp', 'L', True, False),
    ('a.bmp', 'RGB', False, False),
  ],
)
def test_modes_come_back_exactly(tmp_path, name, mode, gray, alpha):
  image = Image.fromarray(random_array(13, 17, 4 if alpha else 3)).convert(mode)
  image.save(tmp_path / name, lossless=True, exact=True)
  photo, copy = through(tmp_path / name, tmp_path)
  assert same(photo.pixels, np.asarray(image.convert('RGB')))
  assert same(copy.pixels, photo.pixels)
  assert (photo.gray, photo.alpha is not None, photo.bits) == (gray, alpha, 8)
  assert (copy.gray, copy.bits) == (gray, 8)
  if alpha:
    assert same(photo.alpha, np.asarray(image)[..., -1])
    assert same(copy.alpha, photo.alpha)


@pytest.mark.parametrize(
  ('name', 'channels'),
  [
    ('a.png', 1),
    ('a.png', 2),
    ('a.png', 3),
    ('a.png', 4),
    ('a.tif', 1),
    ('a.tif', 3),
    ('a.tif', 4),
  ],
)
def test_sixteen_bits_are_kept(tmp_path, name, channels):
  array = random_array(13, 17, channels, dtype=np.uint16).squeeze()
  if name == 'a.png':
    (tmp_path / name).write_bytes(imagecodecs.png_encode(array))
  else:
    tifffile.imwrite(
      tmp_path / name,
      array,
      photometric='rgb' if channels > 2 else 'minisblack',
      extrasamples=['unassalpha'] if channels == 4 else None,
    )
  photo, copy = through(tmp_path / name, tmp_path)
  colour = array[..., :3] if channels > 2 else array.reshape(13, 17, -1)[..., :1].repeat(3, -1)
  assert same(photo.pixels, colour)
  assert (photo.gray, photo.bits) == (channels < 3, 16)
  assert same(copy.pixels, photo.pixels)
  if channels in (2, 4):
    assert same(photo.alpha, array[..., -1])
    assert same(copy.alpha, photo.alpha)


def test_tiff16_variants(tmp_path):
  array = random_array(9, 8, 3, dtype=np.uint16)
  path = tmp_path / 'a.tif'
  tifffile.imwrite(path, np.moveaxis(array, -1, 0), photometric='rgb', planarconfig='separate')
  assert same(images.read(path).pixels, array)
  tifffile.imwrite(path, array, photometric='rgb', byteorder='>', compression='lzw')
  assert same(images.read(path).pixels, array)
  tifffile.imwrite(path, 65535 - array[..., 0], photometric='miniswhite')
  assert same(images.read(path).pixels[..., 0], array[..., 0])
  tifffile.imwrite(path, array, photometric='rgb', extratags=[(274, 3, 1, 6, True)])
  assert same(images.read(path).pixels, np.rot90(array, -1))
  opaque = np.full((9, 8, 1), 32768, np.uint16)
  half = np.concatenate([array // 2, opaque], -1)
  tifffile.imwrite(path, half, photometric='rgb', extrasamples=['assocalpha'])
  assert np.abs(images.read(path).pixels.astype(int) - array).max() <= 2


@pytest.mark.parametrize('orientation', range(1, 9))
@pytest.mark.parametrize('name', ['a.jpg', 'a.png', 'a.webp', 'a.tif'])
def test_orientation_is_applied_and_reset(tmp_path, name, orientation):
  # Flat blocks survive JPEG well enough to tell the corners apart.
  array = np.kron(random_array(2, 3, 3), np.ones((16, 16, 1), np.uint8))
  path = tmp_path / name
  Image.fromarray(array).save(
    path, exif=exif(orientation), quality=100, subsampling=0, lossless=True
  )
  turned = {
    1: array,
    2: array[:, ::-1],
    3: array[::-1, ::-1],
    4: array[::-1],
    5: array.swapaxes(0, 1),
    6: np.rot90(array, -1),
    7: array[::-1, ::-1].swapaxes(0, 1),
    8: np.rot90(array),
  }[orientation]
  photo, copy = through(path, tmp_path)
  for each in (photo, copy):
    assert each.pixels.shape == turned.shape
    assert np.abs(each.pixels.astype(int) - turned).max() < 12
  assert images.size(path) == turned.shape[:2]
  written = Image.open(tmp_path / 'out' / name).getexif()
  assert written.get(0x0112, 1) == 1
  assert written.get(0x010F) == 'Kodak'
  assert written.get_ifd(0x8769)[0x9003] == '1931:05:04 12:00:00'


def test_orientation_of_xmp_is_applied_and_reset(tmp_path):
  array = np.kron(random_array(2, 3, 3), np.ones((16, 16, 1), np.uint8))
  Image.fromarray(array).save(tmp_path / 'a.jpg', xmp=XMP, quality=100)
  photo, copy = through(tmp_path / 'a.jpg', tmp_path)
  assert photo.size == copy.size == (48, 32)
  assert copy.xmp == XMP.replace(b'"6"', b'"1"')


def test_a_lossless_webp_stays_lossless(tmp_path):
  for lossless in (True, False):
    Image.fromarray(random_array(5, 6, 3)).save(
      tmp_path / 'a.webp', lossless=lossless, icc_profile=ICC
    )
    assert images.read(tmp_path / 'a.webp').lossless == lossless


def test_cmyk_becomes_rgb_with_a_warning(tmp_path):
  Image.new('CMYK', (16, 16), (255, 0, 0, 0)).save(tmp_path / 'a.jpg')
  photo, copy = through(tmp_path / 'a.jpg', tmp_path)
  assert np.abs(copy.pixels[0, 0].astype(int) - [0, 255, 255]).max() < 4
  assert 'CMYK' in photo.warnings[0]
  assert copy.icc is None


def test_palette_of_grays_is_gray_and_transparency_of_a_palette_is_kept(tmp_path):
  Image.fromarray(random_array(9, 9)).convert('P').save(tmp_path / 'a.gif')
  photo = images.read(tmp_path / 'a.gif')
  assert photo.gray
  image = Image.fromarray(random_array(9, 9, 3)).quantize(4)
  image.save(tmp_path / 'b.png', transparency=0)
  assert same(images.read(tmp_path / 'b.png').alpha == 0, np.asarray(image) == 0)


@pytest.mark.parametrize('name', ['a.tif', 'a.gif', 'a.webp', 'a.png'])
def test_first_of_several_pictures_with_a_warning(tmp_path, name):
  first, second = (Image.new('RGB', (12, 8), colour) for colour in ('red', 'blue'))
  first.save(tmp_path / name, save_all=True, append_images=[second], lossless=True)
  photo = images.read(tmp_path / name)
  assert same(photo.pixels, np.asarray(first))
  assert photo.warnings == ('The file holds 2 pictures; only the first one is used.',)


def test_mpo_is_a_jpeg(tmp_path):
  pictures = [Image.new('RGB', (16, 16), colour) for colour in ('red', 'blue')]
  pictures[0].save(tmp_path / 'a.mpo', save_all=True, append_images=pictures[1:])
  os.rename(tmp_path / 'a.mpo', tmp_path / 'a.jpg')
  photo, copy = through(tmp_path / 'a.jpg', tmp_path)
  assert 'holds 2 pictures' in photo.warnings[0]
  assert not copy.warnings


def encoded(form, array=None):
  buffer = io.BytesIO()
  Image.fromarray(random_array(64, 64, 3) if array is None else array).save(buffer, form)
  return buffer.getvalue()


def tiff(array, photometric='minisblack', **options):
  buffer = io.BytesIO()
  tifffile.imwrite(buffer, array, photometric=photometric, **options)
  return buffer.getvalue()


@pytest.mark.parametrize(
  ('name', 'data', 'says'),
  [
    ('a.jpg', b'', 'is empty'),
    ('a.jpg', b'hello, this is text', 'not a photo'),
    ('a.tif', b'hello, this is text', 'not a photo'),
    ('a.tif', b'II*\0\xff\xff\xff\xff', 'damaged'),
    ('a.pdf', b'%PDF-1.7', 'a PDF file; save its pictures'),
    ('a.psd', b'8BPS\0\1', 'a Photoshop file; save it as TIFF'),
    ('a.jpg', encoded('JPEG')[:2000], 'probably damaged'),
    ('a.png', encoded('PNG')[:2000], 'probably damaged'),
    ('a.webp', encoded('WEBP')[:1000], 'damaged'),
    ('a.bmp', encoded('BMP')[:1000], 'probably damaged'),
    ('a.tif', encoded('TIFF')[:1000], 'damaged'),
    (
      'a.png',
      imagecodecs.png_encode(random_array(64, 64, 3, dtype=np.uint16))[:2000],
      'probably damaged',
    ),
    ('a.tif', tiff(random_array(64, 64, dtype=np.uint16))[:2000], 'probably damaged'),
    ('a.tif', tiff(np.zeros((8, 8), np.float32)), 'floating-point'),
    ('a.tif', tiff(np.zeros((8, 8), np.int16)), 'signed or complex'),
    ('a.tif', tiff(np.zeros((8, 8), np.uint32)), 'samples of 32 bits'),
    ('a.tif', tiff(np.zeros((8, 8, 4), np.uint16), 'separated'), 'gray or RGB'),
    ('a.tif', tiff(np.zeros((8, 8, 3), np.uint8), 'cielab'), "colour mode 'LAB'"),
  ],
)
def test_bad_files_are_refused_in_one_sentence(tmp_path, name, data, says):
  (tmp_path / name).write_bytes(data)
  with pytest.raises(images.PhotoError, match=says) as caught:
    images.read(tmp_path / name)
  message = str(caught.value)
  assert message.startswith(str(tmp_path / name))
  assert message.endswith('.')
  assert '\n' not in message


def test_missing_file_and_pixel_cap(tmp_path):
  with pytest.raises(images.PhotoError, match='no such file'):
    images.read(tmp_path / 'a.jpg')
  (tmp_path / 'a.png').write_bytes(encoded('PNG'))
  assert images.read(tmp_path / 'a.png', max_pixels=64 * 64).size == (64, 64)
  with pytest.raises(images.PhotoError, match='more than the limit'):
    images.read(tmp_path / 'a.png', max_pixels=64 * 64 - 1)


# Files out


def test_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
  path = tmp_path / 'a.png'
  images.write(images.Photo(random_array(4, 4, 3)), path)
  before = path.read_bytes()
  photo = images.Photo(random_array(9, 9, 3))
  with pytest.raises(images.PhotoError, match='exists already'):
    images.write(photo, path)

  def full(_):
    raise OSError(28, 'No space left on device')

  with monkeypatch.context() as patch:
    patch.setattr(os, 'fsync', full)
    with pytest.raises(images.PhotoError, match='No space left'):
      images.write(photo, path, overwrite=True)
  assert path.read_bytes() == before
  assert os.listdir(tmp_path) == ['a.png']
  images.write(photo, path, overwrite=True)
  assert images.read(path).size == (9, 9)


def test_a_format_that_cannot_hold_the_photo_is_refused(tmp_path):
  deep = images.Photo(random_array(4, 4, 3, dtype=np.uint16))
  clear = images.Photo(random_array(4, 4, 3), alpha=random_array(4, 4))
  for photo, name, says in [
    (deep, 'a.jpg', '16 bits'),
    (deep, 'a.webp', '16 bits'),
    (clear, 'a.jpg', 'transparency'),
    (clear, 'a.gif', "not written as '.gif'"),
  ]:
    with pytest.raises(images.PhotoError, match=says):
      images.write(photo, tmp_path / name)
  assert not os.listdir(tmp_path)


@pytest.mark.parametrize('dtype', [np.uint8, np.uint16])
def test_float_round_trip_is_exact(dtype):
  levels = np.arange(np.iinfo(dtype).max + 1, dtype=dtype).reshape(16, -1, 1).repeat(3, -1)
  for gray in (False, True):
    photo = images.Photo(levels, gray=gray, alpha=levels[..., 0], icc=ICC)
    values = images.to_float(photo)
    assert (values.dtype, values.min(), values.max()) == (np.float32, -1, 1)
    copy = images.from_float(values, photo)
    assert same(copy.pixels, levels)
    assert (copy.alpha is photo.alpha, copy.icc, copy.gray) == (True, ICC, gray)


def test_a_photo_that_is_gray_in_every_pixel_stays_so():
  green = np.array([-1.0, 1.0, -1.0]) * np.ones((1, 4, 1))
  gray = images.Photo(np.full((1, 4, 3), 7, np.uint8))
  np.testing.assert_allclose(images.keep_gray(green, gray.pixels), 2 * 0.587 - 1, atol=1e-6)
  tinted = images.Photo(gray.pixels + np.eye(3, dtype=np.uint8)[:1])
  assert images.keep_gray(green, tinted.pixels) is green


def test_from_float_clips_rounds_and_never_stretches():
  like = images.Photo(np.zeros((1, 4, 3), np.uint8))
  values = np.repeat(np.array([[-3.0, -0.5, 0.503, 3.0]])[..., None], 3, -1)
  assert images.from_float(values, like).pixels[0, :, 0].tolist() == [0, 64, 192, 255]
  green = np.array([-1.0, 1.0, -1.0]) * np.ones((1, 4, 1))
  gray = images.from_float(green, dataclasses.replace(like, gray=True))
  assert (gray.pixels == round(255 * 0.587)).all()
  with pytest.raises(images.PhotoError, match='finite'):
    images.from_float(values * np.nan, like)
  with pytest.raises(ValueError, match='shape'):
    images.from_float(values[:, :2], like)


def test_read_rgb8(tmp_path):
  array = random_array(9, 8, 3, dtype=np.uint16)
  (tmp_path / 'a.png').write_bytes(imagecodecs.png_encode(array))
  assert same(images.read_rgb8(tmp_path / 'a.png'), np.rint(array / 257).astype(np.uint8))
