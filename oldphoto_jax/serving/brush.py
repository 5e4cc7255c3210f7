"""Brush strokes as data: what a person drew, at any size of photo, small enough to save at once."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from oldphoto_jax.errors import OptionError

# mark: this is damage. clear: this is neither damage nor kept. protect: these pixels stay as they
# are. empty: nothing is damage or kept, as if all was cleared.
KINDS = ('mark', 'clear', 'protect', 'empty')
MOST, MOST_POINTS = 5000, 200_000  # strokes, and points in all


@dataclasses.dataclass(frozen=True)
class Stroke:
  """One stroke of a round brush.

  Attributes:
    kind: one of KINDS.
    size: diameter in pixels of the photo.
    points: x, y in turn, in pixels of the photo; (0, 0) is the corner of its first pixel.
  """

  kind: str
  size: float = 1.0
  points: tuple[float, ...] = ()


def parse(values: Any, size: tuple[int, int]) -> tuple[Stroke, ...]:
  """Strokes of JSON values, for a photo of this height and width.

  Raises:
    OptionError: they are none.
  """
  if not isinstance(values, list) or len(values) > MOST:
    raise OptionError(f'the strokes are no list of at most {MOST} strokes.')
  strokes = tuple(_stroke(value, max(size)) for value in values)
  if sum(len(stroke.points) for stroke in strokes) > 2 * MOST_POINTS:
    raise OptionError(f'the strokes have more than {MOST_POINTS} points.')
  return strokes


def _stroke(value: Any, side: int) -> Stroke:
  if not isinstance(value, dict) or value.get('kind') not in KINDS:
    raise OptionError('a stroke is of no known kind.')
  size, points = value.get('size', 1), value.get('points', [])
  if not isinstance(points, list) or len(points) % 2:
    raise OptionError('a stroke has no pairs of numbers as points.')
  for number in (size, *points):
    # Far outside of the photo a stroke is of no use, and could cost much to draw.
    good = isinstance(number, int | float) and not isinstance(number, bool)
    if not good or not math.isfinite(number) or abs(number) > 2 * side + 100:
      raise OptionError('a stroke has points that are not in the photo.')
  if not size > 0:
    raise OptionError('a stroke has no size.')
  return Stroke(value['kind'], float(size), tuple(float(number) for number in points))


def draw(
  base: np.ndarray, strokes: Sequence[Stroke], scale: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
  """What is damage and what is kept, after all strokes in turn.

  Args:
    base: what was damage before, float32 [H, W, 1] in [0, 1].
    strokes: of a person.
    scale: pixels of `base` for each pixel of the photo.

  Returns:
    The mask float32 [H, W, 1] in [0, 1], and what is kept, bool [H, W, 1].
  """
  height, width = base.shape[:2]
  mask, keep = base, np.zeros((height, width, 1), bool)
  for kind, group in _runs(strokes):
    if kind == 'empty':
      mask, keep = np.zeros_like(mask), np.zeros_like(keep)
      continue
    picture = Image.new('1', (width, height))
    pen = ImageDraw.Draw(picture)
    for stroke in group:
      _line(pen, stroke, scale)
    touched = np.asarray(picture)[..., None]
    mask = np.where(touched, np.float32(kind == 'mark'), mask)
    keep = np.where(touched, kind == 'protect', keep)
  return mask, keep


def _runs(strokes: Sequence[Stroke]):
  """Neighbouring strokes of one kind together: (kind, strokes)."""
  group: list[Stroke] = []
  for stroke in strokes:
    if group and stroke.kind != group[0].kind:
      yield group[0].kind, group
      group = []
    group.append(stroke)
  if group:
    yield group[0].kind, group


def _line(pen: ImageDraw.ImageDraw, stroke: Stroke, scale: float) -> None:
  # Pillow's coordinates are of centres of pixels.
  xs = [x * scale - 0.5 for x in stroke.points[::2]]
  ys = [y * scale - 0.5 for y in stroke.points[1::2]]
  radius = max(stroke.size * scale, 1) / 2
  if len(xs) > 1:
    pen.line(list(zip(xs, ys)), fill=1, width=max(1, round(2 * radius)), joint='curve')
  reach = max(radius - 0.5, 0)
  for x, y in zip(xs, ys):
    pen.ellipse((x - reach, y - reach, x + reach, y + reach), fill=1)
