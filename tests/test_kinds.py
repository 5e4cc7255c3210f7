"""Pictures that are no photos are recognised, and what is not understood is left alone."""

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage
from skimage import data

from oldphoto_jax.photos import images
from oldphoto_jax.restoring import kinds, restore
from oldphoto_jax.restoring.engine import Look


def gray(array):
  return images.Photo(np.repeat(array.astype(np.uint8)[..., None], 3, -1), gray=True)


def scene(height=240, width=320):
  """Smooth shades, as in a photo without detail: float [H, W] in levels of 255."""
  y, x = np.mgrid[:height, :width]
  return 128 + 60 * np.sin(x / 70) + 40 * np.cos(y / 50 + x / 200)


def halftone(period, blur=0.0):
  y, x = np.mgrid[:240, :320] * (2 * np.pi / period)
  dots = np.cos(x * 0.7071 + y * 0.7071) + np.cos(x * 0.7071 - y * 0.7071)
  dotted = np.where(scene() > 128 + 60 * dots, 255.0, 0.0)
  # Paper and ink are not clean, or there would be two shades only.
  noise = np.random.default_rng(0).normal(0, 6, dotted.shape)
  return gray((ndimage.gaussian_filter(dotted, blur) + noise).clip(0, 255))


def page():
  image = Image.new('L', (400, 300), 245)
  draw = ImageDraw.Draw(image)
  font = ImageFont.load_default(14)
  for line in range(18):
    draw.text((8, 6 + 16 * line), 'Great-aunt Ada at the sea in the summer of 1931, by', 30, font)
  noise = np.random.default_rng(0).normal(0, 3, (300, 400))
  return gray((np.asarray(image) + noise).clip(0, 255))


def drawing():
  image = Image.new('RGB', (400, 300), (240, 240, 240))
  draw = ImageDraw.Draw(image)
  rng = np.random.default_rng(0)
  for _ in range(60):
    x, y = rng.integers(0, 380, 2)
    draw.rectangle((x, y, x + 30, y + 20), tuple(rng.integers(0, 256, 3).tolist()))
  return images.Photo(np.asarray(image))


def test_pictures_that_are_no_photos_are_named():
  dither = Image.fromarray(scene().astype(np.uint8)).convert('1')
  assert kinds.recognise(gray(np.asarray(dither) * 255)).name == 'bilevel'
  for period in (3, 5, 8):
    found = kinds.recognise(halftone(period, blur=period / 5))
    assert found.name == 'screen' and found.period == pytest.approx(period, rel=0.1)
  assert kinds.recognise(page()).name == 'document'
  assert kinds.recognise(drawing()).name == 'drawing'


@pytest.mark.parametrize('name', ['astronaut', 'coffee', 'chelsea', 'camera', 'rocket', 'brick'])
def test_photos_are_photos(name):
  array = getattr(data, name)()
  photo = images.Photo(array) if array.ndim == 3 else gray(array)
  assert kinds.recognise(photo) is None
  assert kinds.noise(photo.pixels[..., 1].astype(np.float32)) < kinds.GRAIN


@pytest.mark.parametrize('size', [(1, 1), (2, 90), (90, 1)])
def test_pictures_of_a_few_pixels_have_no_noise(size):
  assert kinds.noise(np.zeros(size, np.float32)) == 0


def test_the_estimate_of_noise_is_that_of_the_noise_and_cracks_do_not_move_it():
  noisy = scene() + np.random.default_rng(0).normal(0, 20, (240, 320))
  noisy[::12] = 255
  assert kinds.noise(noisy.astype(np.float32)) == pytest.approx(20, rel=0.15)
  assert kinds.noise(scene().astype(np.float32)) < 0.1


class Engine:
  """Takes light pixels for damage, and makes everything darker by a number of levels."""

  name, revives = 'test', True

  def __init__(self, darker=0.0, damage=0.9):
    self.darker, self.damage = darker, damage

  def restore(self, photo):
    return photo - self.darker / 127.5

  def look(self, photo):
    return Look(self.restore(photo), (photo[..., :1] > self.damage).astype(np.float32))

  def fill(self, photo, around, holes):
    return np.full_like(photo, -0.5)

  def revive(self, photo, mask, strength):
    return photo + 0.1 * strength, strength


LOOKING = restore.Wishes(find=0.5, tone=0.6)


@pytest.mark.parametrize(
  ('darker', 'expected', 'said'),
  [(1.0, -1.0, False), (5.0, 0.0, False), (-5.0, 0.0, False), (30.0, 0.0, True)],
)
def test_cleaning_keeps_the_brightness(darker, expected, said):
  photo = images.to_float(gray(scene()))
  done = restore.restore_array(Engine(darker), photo)
  assert 127.5 * (done.photo - photo).mean() == pytest.approx(expected, abs=0.05)
  assert ('by -30 levels' in str(done.notes)) == said


def test_scratches_that_go_make_no_photo_darker():
  clean = images.to_float(gray(scene())) * 0.5
  photo = clean.copy()
  photo[::12] = 1  # one row of 12 is a white scratch: the mean falls by more than eight levels
  assert 127.5 * (clean - photo).mean() < -8
  kept, sentence = restore.kept_brightness(photo, clean, None)
  np.testing.assert_array_equal(kept, clean)
  assert not sentence


def test_a_search_that_finds_too_much_fills_nothing():
  photo = images.to_float(gray(scene()))
  assert restore.restore_array(Engine(damage=0.5), photo, None, LOOKING).mask.any()
  done = restore.restore_array(Engine(damage=-0.2), photo, None, LOOKING)
  assert not done.mask.any() and done.tone == 0
  assert 'of the picture looked like damage, so none was filled' in done.notes[0]
  grain = (scene() + np.random.default_rng(0).normal(0, 25, (240, 320))).clip(0, 255)
  done = restore.restore_array(Engine(damage=0.6), images.to_float(gray(grain)), None, LOOKING)
  assert not done.mask.any() and 'strong grain' in done.notes[0]


def test_what_is_no_photo_is_left_as_it_is_but_for_marked_damage():
  photo = page()
  after, done = restore.restore_photo(Engine(30), photo, None, LOOKING)
  assert after is photo and done.kind == 'document' and 'left as it is' in done.notes[0]
  mask = np.zeros((300, 400, 1), np.float32)
  mask[:9] = 1
  after, _ = restore.restore_photo(Engine(30), photo, mask, LOOKING)
  np.testing.assert_array_equal(after.pixels[9:], photo.pixels[9:])
  assert (after.pixels[:9] == 64).all()
  every = restore.Wishes(every_picture=True)
  after, done = restore.restore_photo(Engine(1), photo, None, every)
  assert (after.pixels != photo.pixels).any() and done.kind is None


def test_a_screen_is_removed_on_request():
  photo = halftone(5, 1.0)
  after, done = restore.restore_photo(Engine(), photo, None, restore.Wishes(descreen=True))
  assert 'A screen of dots, 5.' in done.notes[0] or '4.9' in done.notes[0]
  assert kinds.recognise(after) is None
  assert after.pixels.mean() == pytest.approx(photo.pixels.mean(), abs=1)
  smooth = ndimage.gaussian_filter(photo.pixels[..., 0].astype(float), 6)
  assert np.abs(after.pixels[..., 0] - smooth).mean() < 8
