"""Masks: which file belongs to a photo, and what it marks."""

import numpy as np
import pytest
from PIL import Image

from oldphoto_jax.photos import images, masks


def save(path, pixels=None):
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.fromarray(np.zeros((4, 6), np.uint8) if pixels is None else pixels).save(path)
  return path


def test_a_file_is_the_mask_of_every_photo(tmp_path):
  mask = save(tmp_path / 'any.png')
  assert masks.find(mask, tmp_path / 'a.jpg') == mask


def test_a_folder_holds_masks_under_the_photos_names(tmp_path):
  folder = tmp_path / 'masks'
  a, é = save(folder / 'a.PNG'), save(folder / 'e\u0301.png')
  save(folder / 'ab.png')
  (folder / 'a.txt').write_text('no picture')
  assert masks.find(folder, tmp_path / 'a.jpg') == a
  assert masks.find(folder, tmp_path / 'in' / 'deep' / 'a.tif') == a
  assert masks.find(folder, tmp_path / '\u00e9.jpg') == é


def test_the_mask_in_a_folder_of_the_same_name_comes_first(tmp_path):
  folder = tmp_path / 'masks'
  near, other = save(folder / 'sub' / 'a.png'), save(folder / 'a.png')
  assert masks.find(folder, tmp_path / 'in' / 'sub' / 'a.jpg') == near
  assert masks.find(folder, tmp_path / 'in' / 'a.jpg') == other
  assert masks.find(folder, 'sub/a.jpg') == near


def test_a_photo_is_not_its_own_mask(tmp_path):
  photo = save(tmp_path / 'a.jpg')
  with pytest.raises(images.PhotoError, match='no mask of that name'):
    masks.find(tmp_path, photo)
  assert masks.find(tmp_path, photo.with_name('a.tif')) == photo
  mask = save(tmp_path / 'a.png')
  assert masks.find(tmp_path, photo) == mask


def test_no_mask_and_two_masks_are_sentences(tmp_path):
  save(tmp_path / 'masks' / 'a.png')
  save(tmp_path / 'masks' / 'a.webp')
  with pytest.raises(images.PhotoError, match='nowhere: there is no such mask or folder'):
    masks.find(tmp_path / 'nowhere', tmp_path / 'a.jpg')
  with pytest.raises(images.PhotoError, match=r'no mask of that name; it would be called b\.png'):
    masks.find(tmp_path / 'masks', tmp_path / 'b.jpg')
  with pytest.raises(images.PhotoError, match=r'a\.png and a\.webp, both'):
    masks.find(tmp_path / 'masks', tmp_path / 'a.jpg')


@pytest.mark.parametrize('dtype', [np.uint8, np.uint16])
def test_white_is_damaged(tmp_path, dtype):
  top = np.iinfo(dtype).max
  pixels = np.full((4, 6), top // 2, dtype)
  pixels[0], pixels[1] = 0, top
  mask = masks.read(save(tmp_path / 'a.png', pixels), (4, 6))
  assert mask.shape == (4, 6, 1) and mask.dtype == np.float32
  assert (mask[0] == 0).all() and (mask[1] == 1).all()
  np.testing.assert_allclose(mask[2:], 0.5, atol=0.01)


def test_the_black_of_a_jpeg_is_sound_and_its_white_damaged(tmp_path):
  pixels = np.zeros((64, 64), np.uint8)
  pixels[8:40, 16:48] = 255  # along the blocks of the JPEG
  Image.fromarray(pixels).save(tmp_path / 'a.jpg', quality=60)
  Image.fromarray((255 * 0.98 - pixels * 0.97).astype(np.uint8)).save(tmp_path / 'b.png')
  mask = masks.read(tmp_path / 'a.jpg', (64, 64))
  np.testing.assert_array_equal(mask[..., 0], pixels / 255)
  np.testing.assert_array_equal(masks.read(tmp_path / 'b.png', (64, 64))[..., 0], 1 - pixels / 255)


def test_transparent_is_sound(tmp_path):
  pixels = np.full((4, 6, 4), 255, np.uint8)
  pixels[:2, :, 3] = 0
  mask = masks.read(save(tmp_path / 'a.png', pixels), (4, 6))
  assert (mask[:2] == 0).all() and (mask[2:] == 1).all()


def test_a_layer_without_a_stroke_marks_nothing(tmp_path):
  layer = np.full((6, 8, 4), 255, np.uint8)
  layer[..., 3] = 0
  Image.fromarray(layer).save(tmp_path / 'm.png')
  assert masks.read(tmp_path / 'm.png', (6, 8)).max() == 0


def test_a_mask_of_another_size_is_a_sentence(tmp_path):
  path = save(tmp_path / 'a.png')
  with pytest.raises(images.PhotoError, match='the mask is 6x4 and its photo 4x6; a mask needs'):
    masks.read(path, (6, 4))


def test_grow_covers_the_damage_and_ends_softly():
  damage = np.zeros((21, 21, 1), np.float32)
  damage[10, 10] = 0.8
  weight = masks.grow(damage, threshold=0.5, pixels=2, feather=3)
  row = weight[10, :, 0]
  assert (row[8:13] == 1).all() and (row[:5] == 0).all() and (row[16:] == 0).all()
  np.testing.assert_allclose(row[13:16], [0.75, 0.5, 0.25])
  assert (masks.grow(damage, threshold=0.9) == 0).all()
  assert weight.dtype == np.float32 and weight.shape == damage.shape


def test_a_written_mask_marks_every_pixel_above_zero():
  written = masks.to_photo(np.array([[[0.0], [0.001], [1.0]]]))
  assert written.gray and written.pixels[0, :, 0].tolist() == [0, 1, 255]


def drawn():
  """Strokes with a soft edge, float [H, W] in [0, 1]."""
  rows = np.abs(np.arange(40)[:, None] - 20)
  return np.clip((4.5 - rows) / 2, 0, 1) * np.ones((1, 60))


def with_alpha(colour):
  flat = np.broadcast_to(np.array(colour, np.uint8), (40, 60, 3))
  return np.dstack([flat, np.rint(255 * drawn()).astype(np.uint8)])


def blend(stroke, ground):
  a = drawn()[..., None]
  return np.rint(a * np.array(stroke) + (1 - a) * np.array(ground)).astype(np.uint8)


KINDS = {
  'white on black': np.rint(255 * drawn()).astype(np.uint8),
  '0 and 1': (drawn() > 0.5).astype(np.uint8),
  'classes': np.uint8(3) * (drawn() > 0.5),
  '8 bits in 16': np.rint(255 * drawn()).astype(np.uint16),
  '0 and 1 in 16 bits': (drawn() > 0.5).astype(np.uint16),
  'one bit': drawn() > 0.5,
  'black on transparent': with_alpha((0, 0, 0)),
  'white on transparent': with_alpha((255, 255, 255)),
  'red on transparent': with_alpha((220, 20, 30)),
  'red on black': blend((255, 0, 0), (0, 0, 0)),
  'green on white': blend((0, 255, 0), (255, 255, 255)),
}


@pytest.mark.parametrize('kind', KINDS)
def test_marks_of_all_kinds_are_understood(tmp_path, kind):
  mask = masks.read(save(tmp_path / 'a.png', KINDS[kind]), (40, 60))[..., 0]
  np.testing.assert_array_equal(mask[drawn() == 0], 0)
  np.testing.assert_array_equal(mask[drawn() == 1], 1)
  assert np.abs(mask - drawn()).max() <= 0.5


def test_a_palette_is_read_by_its_colours(tmp_path):
  image = Image.fromarray((drawn() > 0.5).astype(np.uint8), 'P')
  image.putpalette([0, 0, 0, 128, 0, 0])  # as label tools write: dark red is class 1
  image.save(tmp_path / 'a.png')
  np.testing.assert_array_equal(masks.read(tmp_path / 'a.png', (40, 60))[..., 0], drawn() > 0.5)


def test_a_mask_that_cannot_be_meant_is_asked_back(tmp_path):
  inverted = save(tmp_path / 'a.png', 255 - KINDS['white on black'])
  with pytest.raises(images.PhotoError, match=r'a\.png: the mask marks 8.% .* invert it'):
    masks.read(inverted, (40, 60))
  photo = np.random.default_rng(0).integers(0, 90, (40, 60, 1)) * np.ones((1, 1, 3))
  photo[drawn() > 0.5] = (255, 0, 0)
  with pytest.raises(images.PhotoError, match='a coloured picture and no mask'):
    masks.read(save(tmp_path / 'b.png', photo.astype(np.uint8)), (40, 60))


def test_an_empty_mask_marks_nothing(tmp_path):
  for pixels in (np.zeros((40, 60), np.uint8), np.zeros((40, 60, 4), np.uint8)):
    assert not masks.read(save(tmp_path / 'a.png', pixels), (40, 60)).any()
