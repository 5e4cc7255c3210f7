"""Damage that covers areas: lost emulsion with ragged edges, gaps, blots and spots of any size."""

import dataclasses
import math

import jax.numpy as jnp
import numpy as np

from oldphoto_jax import colour
from oldphoto_jax.degradation import artefact, drawing


@dataclasses.dataclass(frozen=True)
class Losses:
  """Areas where the picture is gone down to the paper, or covered by dirt, mould or glue.

  The hills of a coarse noise say where, a fine one how ragged the edge is: from one lost corner
  to hundreds of pinholes that thin out around it.
  """

  area: tuple[float, float] = (0.004, 0.2)  # about the share of the photo that is gone
  patches: tuple[float, float] = (1.5, 12.0)  # hills along the shorter side
  ragged: tuple[float, float] = (0.1, 1.4)  # height of the fine noise beside that of the coarse
  opacity: tuple[float, float] = (0.6, 1.0)
  light: float = 0.75

  def __call__(self, key, photo, paper=None) -> artefact.Damaged:
    height, width = photo.shape[:2]
    short = min(height, width)
    draw = drawing.Draws(key)
    paper = artefact.under(draw, photo, paper)
    coarse, fine = (draw.noise(height, width, cells) for cells in self.patches)
    where = coarse + draw.uniform((0.0, 1.0)) * (fine - coarse)
    grain = draw.fractal(height, width, min(30, short / 6), 3)
    hills = where + draw.uniform(self.ragged) * grain
    area = draw.log_uniform(self.area)
    bar = jnp.quantile(hills[:: max(1, height // 64), :: max(1, width // 64)], 1 - area)
    cover = ((hills - bar) * draw.uniform((0.05, 0.12)) * short + 0.5).clip(0, 1)
    cover *= draw.uniform(self.opacity)
    colour = jnp.where(draw.chance(self.light), paper, artefact.dirt(draw))
    return artefact.Damaged(drawing.blend(photo, cover, colour), cover[..., None], {'area': area})


@dataclasses.dataclass(frozen=True)
class Blots:
  """Spots of ink, mould, rust or bleach: round to ragged, from a pixel to a fifth of a crop.

  Of one colour a print, some with a soft halo. Sizes are in pixels, as on the hand-marked prints.
  """

  count: tuple[int, int] = (1, 48)
  radius: tuple[float, float] = (0.7, 13.0)  # pixels; low ones are likelier
  opacity: tuple[float, float] = (0.5, 1.0)
  light: float = 0.3
  halo: float = 0.3  # probability of soft edges

  def __call__(self, key, photo, paper=None) -> artefact.Damaged:
    height, width = photo.shape[:2]
    most = self.count[1]
    draw = drawing.Draws(key)
    paper = artefact.under(draw, photo, paper)
    count = draw.count(self.count)
    place = drawing.scattered(draw, most, height, width, 3, 0.5, 0.15)
    # The largest of a print, and smaller ones around it.
    largest = draw.log_uniform((2.0, self.radius[1]))
    radius = self.radius[0] * (largest / self.radius[0]) ** (draw.unit(most) ** 2)
    row, column, y, x = drawing.around(place, 1 + math.ceil(1.6 * self.radius[1]))
    stretch = draw.log_uniform((0.7, 1.4), most, 1, 1)
    y, x = y * stretch, x / stretch
    outline = drawing.outline(draw, y, x, (0.35, 0.2, 0.15, 0.1, 0.08))
    edge = radius[:, None, None] * outline - jnp.sqrt(x * x + y * y)
    soft = jnp.where(draw.chance(self.halo), draw.uniform((0.15, 0.6)), 0.0)
    value = (edge / (1 + soft * radius[:, None, None]) + 0.5).clip(0, 1)
    value *= draw.uniform(self.opacity, most, 1, 1) * (np.arange(most) < count)[:, None, None]
    cover = drawing.place(jnp.zeros((height, width)), row, column, value)
    # Ink is black, blue or violet, rust and mould brown; bleach shows the paper.
    ink = 2 * draw.uniform((0.0, 0.35), 3) * jnp.array([1.0, 0.8, 0.9]) - 1
    rust = 2 * draw.uniform((0.15, 0.6)) * jnp.array([1.0, 0.7, 0.4]) - 1
    dark = jnp.where(draw.chance(0.3), ink, jnp.where(draw.chance(0.4), rust, artefact.dirt(draw)))
    colour = jnp.where(draw.chance(self.light), paper, dark)
    return artefact.Damaged(drawing.blend(photo, cover, colour), cover[..., None], {'count': count})


@dataclasses.dataclass(frozen=True)
class Mould:
  """Mould on a colour print: round orange spots, where the layers of cyan and magenta are eaten.

  A spot has a soft edge and often a ring or a darker core. What is light stays lighter, and in the
  dark a spot is brown. Of one hue a print, and of many sizes, in pixels.
  """

  count: tuple[int, int] = (1, 32)
  radius: tuple[float, float] = (2.0, 16.0)  # pixels; low ones are likelier
  opacity: tuple[float, float] = (0.35, 1.0)
  core: float = 0.4  # probability that spots have a darker middle
  ring: float = 0.4  # and a darker rim

  def __call__(self, key, photo, paper=None) -> artefact.Damaged:
    del paper
    height, width = photo.shape[:2]
    most = self.count[1]
    draw = drawing.Draws(key)
    count = draw.count(self.count)
    place = drawing.scattered(draw, most, height, width, 3, 0.5, 0.2)
    largest = draw.log_uniform((2 * self.radius[0], self.radius[1]))
    radius = self.radius[0] * (largest / self.radius[0]) ** (draw.unit(most) ** 1.5)
    row, column, y, x = drawing.around(place, 1 + math.ceil(1.6 * self.radius[1]))
    outline = drawing.outline(draw, y, x, (0.12, 0.08, 0.05, 0.03))
    r = jnp.sqrt(x * x + y * y) / (radius[:, None, None] * outline)
    there = (np.arange(most) < count)[:, None, None]
    opacity = draw.uniform(self.opacity, most, 1, 1)
    body = 1 - drawing.smoothstep(r, draw.uniform((0.5, 0.95)), 1.1)
    core = 1 - drawing.smoothstep(r, 0.0, draw.uniform((0.2, 0.45)))
    rim = jnp.exp(-(((r - 0.85) / 0.15) ** 2))
    deep = jnp.where(draw.chance(self.core), draw.uniform((0.3, 1.0)), 0.0) * core
    deep += jnp.where(draw.chance(self.ring), draw.uniform((0.2, 0.8)), 0.0) * rim * body
    empty = jnp.zeros((height, width))
    cover = drawing.place(empty, row, column, body * opacity * there)[..., None]
    darker = drawing.place(empty, row, column, deep * there)[..., None]
    # Shares of red, green and blue that are left of white, from yellow to red.
    hue = draw.unit()
    left = jnp.stack([draw.uniform((0.8, 1.0)), 0.75 - 0.4 * hue, draw.uniform((0.1, 0.45))])
    # In part what is left of the content, in part the spot's own.
    own, light = draw.uniform((0.3, 0.8)), (colour.luma(photo) + 1) / 2
    level = (own + (1 - own) * light) * (1 - 0.5 * darker)
    spots = 2 * level * left - 1
    photo = photo + cover * (spots.clip(-1, 1) - photo)
    return artefact.Damaged(photo, cover, {'count': count})


@dataclasses.dataclass(frozen=True)
class Gaps:
  """A torn print that was put together again: a strip of bare paper where its parts do not meet.

  Wider than a crack, along a side of the print more often than not; it may end inside the photo.
  """

  width: tuple[float, float] = (5.0, 40.0)  # pixels
  bend: tuple[float, float] = (0.0, 0.1)  # of its middle line, as a share of the shorter side
  uneven: tuple[float, float] = (0.1, 0.7)  # how far the width changes along it, as a share
  ragged: tuple[float, float] = (0.0, 3.0)  # pixels that its edges are frayed by
  oblique: float = 0.4  # share of gaps that do not follow a side of the print
  ends: float = 0.4  # probability that it narrows to nothing
  opacity: tuple[float, float] = (0.8, 1.0)
  light: float = 0.9

  def __call__(self, key, photo, paper=None) -> artefact.Damaged:
    height, width = photo.shape[:2]
    short = min(height, width)
    draw = drawing.Draws(key)
    paper = artefact.under(draw, photo, paper)
    upright = jnp.where(draw.chance(0.5), 0, np.pi / 2) + 0.1 * draw.normal()
    angle = jnp.where(draw.chance(self.oblique), draw.uniform((0, np.pi)), upright)
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    rows, columns = drawing.grid(height, width)
    centre = draw.uniform((-0.05, 1.05), 2) * jnp.array([height, width])
    y, x = rows - centre[0], columns - centre[1]

    # Functions of the position along the strip, one value a pixel.
    n = 2 * (height + width)
    slow, fast = draw.curve(n, 2, 9), draw.curve(n, 2, max(8, n // 12))
    middle = draw.uniform(self.bend) * short * (slow[0] + 0.15 * fast[0])
    wide = draw.log_uniform(self.width)
    breadth = wide * (1 + draw.uniform(self.uneven) * (slow[1] + 0.3 * fast[1])).clip(0, 2)
    start, length = draw.uniform((-0.5, 0.3)) * short, draw.uniform((0.2, 1.5)) * short
    narrowing = ((np.arange(n) - n // 2 - start) / length).clip(0, 1)
    breadth *= jnp.where(draw.chance(self.ends), narrowing, 1.0)

    spot = (jnp.round(y * cos - x * sin) + n // 2).astype(int)
    inside = breadth[spot] / 2 - jnp.abs(y * sin + x * cos - middle[spot])
    inside += draw.uniform(self.ragged) * draw.fractal(height, width, min(30, short / 6), 2)
    there = drawing.smoothstep(breadth[spot], 0.5, 2.0)
    cover = (inside + 0.5).clip(0, 1) * there * draw.uniform(self.opacity)
    colour = jnp.where(draw.chance(self.light), paper, artefact.dirt(draw))
    return artefact.Damaged(drawing.blend(photo, cover, colour), cover[..., None], {'width': wide})
