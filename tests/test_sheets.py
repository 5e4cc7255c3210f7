"""Grids of images."""

import numpy as np
import pytest
from PIL import Image

from oldphoto_jax.photos import sheets


def test_every_image_is_in_its_place(tmp_path):
  shades = [[10, 60, None], [110, 160, 210]]
  rows = [
    [None if shade is None else np.full((40, 50, 3), shade, np.uint8) for shade in row]
    for row in shades
  ]
  rows[0][1] = rows[0][1][..., 0]  # gray
  rows[1][1] = rows[1][1][:20, :30]  # smaller: in the middle of its place
  for titles in (None, ['first', 'second row of a long name']):
    sheet = sheets.grid(rows, ['old', 'restored', 'clean'], titles)
    assert sheet.dtype == np.uint8
    corners = {}
    for shade in (10, 60, 110, 160, 210):
      ys, xs = np.nonzero((sheet == shade).all(-1))
      height, width = (20, 30) if shade == 160 else (40, 50)
      block = sheet[ys.min() : ys.min() + height, xs.min() : xs.min() + width]
      assert block.shape == (height, width, 3)
      assert (block == shade).mean() > 0.99
      corners[shade] = (ys.min(), xs.min())
    assert corners[10][0] == corners[60][0] < corners[110][0] == corners[210][0]
    assert corners[10][1] == corners[110][1] < corners[60][1]
    assert corners[160] == (corners[110][0] + 10, corners[60][1] + 10)
    assert corners[10][0] > 12  # the titles are above
    assert (sheet[: corners[10][0]] < 100).any()
  sheets.save_png(tmp_path / 'a.png', sheet)
  np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / 'a.png')), sheet)


def test_long_titles_are_broken_and_stay_inside():
  image = np.full((20, 60, 3), 128, np.uint8)
  sheet = sheets.grid([[image]], ['a title of several words and averyveryverylongword'])
  assert sheet.shape[1] == 60 + 16
  ink = (sheet < 100).any(-1)
  assert not ink[:, :4].any() and not ink[:, -4:].any()
  font = sheets.ImageFont.load_default(12)
  lines = sheets._wrap('one two averyveryverylongword', font, 60)
  assert ''.join(lines) == 'onetwoaveryveryverylongword' or lines[0] == 'one two'
  assert max(font.getlength(text) for text in lines) <= 60


def test_what_does_not_fit_is_refused():
  image = np.zeros((4, 4, 3), np.uint8)
  with pytest.raises(ValueError, match='hold 2 images'):
    sheets.grid([[image]], ['a', 'b'])
  with pytest.raises(ValueError, match='row titles'):
    sheets.grid([[image]], ['a'], ['b', 'c'])
  with pytest.raises(ValueError, match='uint8'):
    sheets.grid([[image / 255]], ['a'])


def test_from_float_clips_then_rounds():
  assert sheets.from_float([-9, -1, -0.999, 0.999, 1, 9]).tolist() == [0, 0, 0, 255, 255, 255]
  assert sheets.from_float([0.503]).tolist() == [192]
