"""Grids of images with titles, as one PNG: training samples, contact sheets."""

import os
from collections.abc import Sequence

import imagecodecs
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from oldphoto_jax.photos import images

_PAPER = (250, 248, 244)
_INK = (40, 34, 28)
_GAP = 8  # pixels between images


def from_float(photo: np.ndarray) -> np.ndarray:
  """float in [-1, 1] (clipped) -> uint8, rounded; any shape."""
  return np.round(127.5 * (np.clip(photo, -1, 1) + 1)).astype(np.uint8)


def thumbnail(pixels: np.ndarray, side: int = 256) -> np.ndarray:
  """uint8 [H, W, 3], shrunk in proportion to at most `side` pixels per side."""
  image = Image.fromarray(pixels)
  image.thumbnail((side, side), Image.Resampling.LANCZOS)
  return np.asarray(image)


def grid(
  rows: Sequence[Sequence[np.ndarray | None]],
  column_titles: Sequence[str],
  row_titles: Sequence[str] | None = None,
) -> np.ndarray:
  """Lays images out in rows and columns, each at its own size, centred in its place.

  Args:
    rows: uint8 [H, W, 3], or [H, W] for a gray one; None leaves a place empty.
    column_titles: one for each column; long ones are broken into lines.
    row_titles: one for each row, shown at the left.

  Returns:
    uint8 [H, W, 3].

  Raises:
    ValueError: the numbers of images and titles do not match, or an image is not uint8.
  """
  columns = len(column_titles)
  if not rows or not columns or any(len(row) != columns for row in rows):
    raise ValueError(f'each of one or more rows has to hold {columns} images, as there are titles')
  if row_titles is not None and len(row_titles) != len(rows):
    raise ValueError(f'{len(row_titles)} row titles for {len(rows)} rows')
  for image in (image for row in rows for image in row if image is not None):
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or image.shape[2:] not in ((), (3,)):
      raise ValueError(f'a grid takes uint8 [H, W, 3] or [H, W], not {image.dtype} {image.shape}')

  shapes = [[(0, 0) if image is None else image.shape[:2] for image in row] for row in rows]
  heights = [max(height for height, _ in row) for row in shapes]
  widths = [max(32, *(row[column][1] for row in shapes)) for column in range(columns)]
  # Readable when the sheet is shrunk to a screen: larger on larger images.
  font = ImageFont.load_default(min(max(12, max(widths) // 14), 40))
  line = sum(font.getmetrics()) + 2
  titles = [_wrap(title, font, width) for title, width in zip(column_titles, widths)]
  side = [_wrap(title, font, max(96, max(widths) // 2)) for title in row_titles or [''] * len(rows)]
  left = max(font.getlength(text) for lines in side for text in lines)
  heights = [max(height, line * len(lines)) for height, lines in zip(heights, side)]

  xs = np.cumsum(
    [_GAP + (int(left) + _GAP if row_titles else 0), *(width + _GAP for width in widths)]
  )
  top = _GAP + line * max(len(lines) for lines in titles) + _GAP // 2
  ys = np.cumsum([top, *(height + _GAP for height in heights)])
  sheet = Image.new('RGB', (int(xs[-1]), int(ys[-1])), _PAPER)
  draw = ImageDraw.Draw(sheet)
  for x, width, lines in zip(xs, widths, titles):
    for i, text in enumerate(lines):
      place = (x + width / 2, top - _GAP // 2 - line * (len(lines) - i))
      draw.text(place, text, _INK, font, anchor='ma')
  for y, height, lines in zip(ys, heights, side):
    for i, text in enumerate(lines):
      place = (_GAP, y + height / 2 + line * (i - len(lines) / 2))
      draw.text(place, text, _INK, font, anchor='la')
  for y, height, row in zip(ys, heights, rows):
    for x, width, image in zip(xs, widths, row):
      if image is not None:
        corner = (int(x) + (width - image.shape[1]) // 2, int(y) + (height - image.shape[0]) // 2)
        sheet.paste(Image.fromarray(image), corner)
  return np.asarray(sheet)


def save_png(path: str | os.PathLike, image: np.ndarray) -> None:
  """Writes a uint8 image [H, W, 3] as PNG, all or nothing, replacing an older file.

  Raises:
    images.PhotoError: the file cannot be written.
  """
  images.write_bytes(path, imagecodecs.png_encode(np.ascontiguousarray(image)), overwrite=True)


def _wrap(text: str, font: ImageFont.FreeTypeFont, width: float) -> list[str]:
  """Breaks a text at spaces, and inside words that are too long, into lines of this width."""
  lines = ['']
  for word in text.split():
    joined = f'{lines[-1]} {word}'.strip()
    if lines[-1] and font.getlength(joined) > width:
      lines.append(word)
    else:
      lines[-1] = joined
    while font.getlength(lines[-1]) > width and len(lines[-1]) > 1:
      whole = lines.pop()
      cut = next(
        n for n in range(len(whole) - 1, 0, -1) if n == 1 or font.getlength(whole[:n]) <= width
      )
      lines += [whole[:cut], whole[cut:]]
  return lines
