"""Thin or small damage: scratches, hairs, dust."""

import dataclasses
import math

import jax.numpy as jnp
import numpy as np

from oldphoto_jax.degradation import artefact, drawing


@dataclasses.dataclass(frozen=True)
class Scratches:
  """Scratches: thin curves of varying width and opacity, light (down to the paper) or dark (dirty).

  Most scratches of a photo run in one direction, as when a print is pushed over a table or a film
  through a camera. Some are broken into pieces, and some come in parallel bundles of up to four.
  """

  count: tuple[int, int] = (1, 20)
  length: tuple[float, float] = (0.06, 1.3)
  thickness: tuple[float, float] = (1.0, 3.8)  # pixels in the middle of a scratch; at most 4
  opacity: tuple[float, float] = (0.4, 1.0)
  light: float = 0.8  # probability that a photo's scratches are light
  bent: float = 0.15  # largest sag, as a share of the length
  broken: float = 0.5  # share of scratches in pieces
  bundled: float = 0.3  # share of groups of four that run in parallel

  def __call__(self, key, photo, paper=None) -> artefact.Damaged:
    height, width = photo.shape[:2]
    short = min(height, width)
    most, n = self.count[1], max(32, int(1.05 * self.length[1] * short))
    draw = drawing.Draws(key)
    paper = artefact.under(draw, photo, paper)
    count = draw.count(self.count, 1.4)

    # The scratches of a bundle share the draws of its first one and lie side by side.
    index = np.arange(most)
    bundled = draw.chance(self.bundled, most)[index // 4 * 4]
    leader = jnp.where(bundled, index // 4 * 4, index)
    aside = jnp.where(bundled, draw.uniform((-1, 1), most) * draw.uniform((0.01, 0.06)), 0) * short
    centre = draw.unit(most, 2)[leader] * jnp.array([height, width])
    length = draw.log_uniform(self.length, most)[leader] * short
    length *= jnp.where(bundled, draw.uniform((0.5, 1.0), most), 1.0)
    # One in four scratches has any direction; the others follow that of the photo.
    angle = draw.uniform((0, np.pi)) + 0.2 * draw.normal(most)
    angle = jnp.where(draw.chance(0.25, most), draw.uniform((0, np.pi), most), angle)[leader]
    sag = self.bent * draw.uniform((-1, 1), most)[leader] ** 3

    t = np.linspace(-0.5, 0.5, n, dtype=np.float32)
    shift = draw.uniform((-0.2, 0.2), most) * bundled
    along = (t + shift[:, None]) * length[:, None]
    wobble = 0.004 * short * draw.curve(n, most, 9) + 0.4 * draw.curve(n, most, n // 4)
    across = (sag * length)[:, None] * (4 * t**2 - 1) + wobble + aside[:, None]
    cos, sin = jnp.cos(angle)[:, None], jnp.sin(angle)[:, None]
    row = centre[:, :1] + along * sin + across * cos
    column = centre[:, 1:] + along * cos - across * sin

    # Tapered at the ends, pressed harder here and there.
    taper = drawing.smoothstep(0.5 - np.abs(t), 0.0, 0.2)
    pressure = 0.75 + 0.35 * draw.curve(n, most, 12)
    thickness = draw.log_uniform(self.thickness, most, 1)
    thickness = (thickness * pressure * (0.5 + 0.5 * taper)).clip(0.4, 4.0)
    gaps = 0.9 * draw.curve(n, most, 7) + 0.6 * draw.curve(n, most, 29)
    gaps += 0.4 * draw.curve(n, most, max(30, n // 5))
    bar = jnp.where(draw.chance(self.broken, most), draw.uniform((-0.5, 0.4), most), -3.0)
    opacity = draw.uniform(self.opacity, most, 1) * (0.55 + 0.45 * taper)
    opacity *= (0.8 + 0.25 * pressure).clip(0, 1) * drawing.smoothstep(
      gaps - bar[:, None], 0.0, 0.5
    )
    opacity = opacity.clip(0, 1) * (index < count)[:, None]

    # Mostly one polarity per photo: a print shows its paper, or a negative the dirt on its print.
    light = (draw.chance(self.light) ^ draw.chance(0.12, most))[leader][:, None]
    thickness *= jnp.where(light, 1.0, 0.7)  # dirt lies only at the bottom of a scratch
    points = jnp.stack([row, column], -1)
    bright = drawing.strokes(height, width, points, thickness, jnp.where(light, opacity, 0))
    dark = drawing.strokes(height, width, points, thickness, jnp.where(light, 0, 0.8 * opacity))
    photo = drawing.blend(drawing.blend(photo, dark, artefact.dirt(draw)), bright, paper)
    mask = jnp.maximum(bright, dark)[..., None]
    return artefact.Damaged(photo, mask, {'count': count, 'bundled': bundled.any()})


@dataclasses.dataclass(frozen=True)
class Hairs:
  """Hairs and lint: short curling threads, dark or light, from scanner glass or the enlarger.

  On film scans in which experts outlined the damage, hairs are 1 % to 12 % of the shorter side long
  (median 2.5 %) and 0.2 % wide, with up to 500 per frame. On scans of prints they are fewer and
  look longer.
  """

  count: tuple[int, int] = (1, 14)
  length: tuple[float, float] = (0.02, 0.35)  # at least 5 pixels
  thickness: tuple[float, float] = (0.8, 2.0)  # pixels, for up to 1200 per side; at most 4
  opacity: tuple[float, float] = (0.45, 0.95)
  light: float = 0.5  # probability that they are light, for all hairs of a photo
  curl: tuple[float, float] = (0.3, 3.0)  # radians that the direction swings to either side

  def __call__(self, key, photo, paper=None) -> artefact.Damaged:
    height, width = photo.shape[:2]
    short = min(height, width)
    most, n = self.count[1], max(12, int(1.1 * self.length[1] * short))
    draw = drawing.Draws(key)
    paper = artefact.under(draw, photo, paper)
    count = draw.count(self.count)
    length = jnp.maximum(draw.low(self.length, most, 1, power=1.4) * short, 5.0)
    curl = draw.log_uniform(self.curl, most, 1)
    direction = draw.uniform((0, 2 * np.pi), most, 1)
    direction += curl * (draw.curve(n, most, 4) + 0.35 * draw.curve(n, most, 10))
    points = jnp.stack([jnp.sin(direction), jnp.cos(direction)], -1)
    points = jnp.cumsum(points, 1) * (length / n)[..., None]
    centre = draw.unit(most, 2) * jnp.array([height, width])
    points += (centre - points[:, n // 2])[:, None]
    thickness = draw.log_uniform(self.thickness, most, 1) * max(1.0, short / 1200)
    thickness = (thickness * (1 + 0.3 * draw.curve(n, most, 8))).clip(0.4, 4.0)
    opacity = draw.uniform(self.opacity, most, 1) * (1 + 0.3 * draw.curve(n, most, 6))
    opacity = opacity.clip(0, 1) * (np.arange(most) < count)[:, None]
    cover = drawing.strokes(height, width, points, thickness, opacity)
    light = draw.chance(self.light)
    colour = jnp.where(light, paper, artefact.dirt(draw))
    return artefact.Damaged(
      drawing.blend(photo, cover, colour), cover[..., None], {'count': count, 'light': light}
    )


@dataclasses.dataclass(frozen=True)
class Dust:
  """Dust and dirt: specks of uneven outline, single and in clouds, light or dark.

  Sizes follow the same film scans as in `Hairs`: half of the specks are at most 0.3 % of the
  shorter side across, and 1 in 20 is larger than 0.9 %.
  """

  count: tuple[int, int] = (4, 240)
  radius: tuple[float, float] = (0.0013, 0.013)  # drawn at least about a pixel across
  opacity: tuple[float, float] = (0.45, 1.0)
  light: float = 0.6  # probability that most of a photo's specks are light
  clouded: float = 0.4  # share of the specks that lie near one of three centres

  def __call__(self, key, photo, paper=None) -> artefact.Damaged:
    height, width = photo.shape[:2]
    short, most = min(height, width), self.count[1]
    draw = drawing.Draws(key)
    paper = artefact.under(draw, photo, paper)
    count = draw.count(self.count)
    place = drawing.scattered(draw, most, height, width, 3, self.clouded, 0.12)
    radius = draw.low(self.radius, most, power=3.5) * short
    radius = jnp.maximum(radius, draw.uniform((0.55, 1.1), most))
    row, column, y, x = drawing.around(place, 1 + math.ceil(1.5 * max(self.radius[1] * short, 1.1)))
    outline = drawing.outline(draw, y, x, (0.5, 0.15, 0.15, 0.2, 0.12))
    edge = radius[:, None, None] * outline + 0.5 - jnp.sqrt(x * x + y * y)
    opacity = draw.uniform(self.opacity, most) * (np.arange(most) < count)
    value = edge.clip(0, 1) * opacity[:, None, None]
    light = draw.chance(self.light)
    bright = (light ^ draw.chance(0.1, most))[:, None, None]
    empty = jnp.zeros((height, width))
    light_cover = drawing.place(empty, row, column, jnp.where(bright, value, 0))
    dark_cover = drawing.place(empty, row, column, jnp.where(bright, 0, 0.85 * value))
    photo = drawing.blend(drawing.blend(photo, dark_cover, artefact.dirt(draw)), light_cover, paper)
    mask = jnp.maximum(light_cover, dark_cover)[..., None]
    return artefact.Damaged(photo, mask, {'count': count, 'light': light})
