"""Damage of prints: scratches, hairs, dust, folds, tears, missing corners, stains, fading, paper.

Every artefact is a frozen dataclass of ranges. Calling it is a pure function of ONE photo,

    artefact(key, photo, paper) -> Damaged(photo, mask, drawn)

with the photo float32 [H, W, 3] in [-1, 1], the mask float32 [H, W, 1] in [0, 1] (1 = the content
is lost), and `drawn` the numbers that were drawn. `paper` [H, W, 3] is what shows where the
emulsion is gone; left out, it is drawn from the key, so an artefact also works alone. `Print` is
the recipe that puts them together.

Sizes are shares of the shorter side unless they say pixels: a fold is as large as its print,
while scratches, hairs and dust stay thin at any scan resolution. Curves are drawn by scattering a
narrow band of pixels around each of their points, so a photo with ten scratches costs the length
of the scratches and not ten distance maps. Everything else is a level set of smooth noise.

The ranges were set by eye beside old photographs; sizes of dust and hairs beside the shape
statistics of hand-drawn masks of real film scans (see `Dust` and `Hairs`).
"""

import dataclasses
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from oldphoto_jax.degradation import drawing, photographic, recipes


class Damaged(NamedTuple):
  """What an artefact did.

  photo: float32 [H, W, 3] in [-1, 1]. mask: float32 [H, W, 1] in [0, 1], 1 = content lost.
  drawn: the parameters that were drawn, arrays by name.
  """

  photo: jax.Array
  mask: jax.Array
  drawn: dict[str, jax.Array]


def _repeat(step, count, photo):
  """Runs step(i, photo) -> (photo, cover) `count` times; the covers' largest, as a mask."""

  def run(i, carry):
    photo, mask = carry
    photo, cover = step(i, photo)
    return photo, jnp.maximum(mask, cover)

  photo, mask = lax.fori_loop(0, count, run, (photo, jnp.zeros(photo.shape[:2])))
  return Damaged(photo, mask[..., None], {'count': count})


def draw_paper(key, height, width):
  """Paper under the emulsion: off-white, [height, width, 3] in [-1, 1], never above level 245.

  One tint a photo, from nearly neutral to cream; fibres and a soft mottling.
  """
  draw = drawing.Draws(key)
  green = draw.uniform((0.93, 1.0))
  colour = jnp.stack([jnp.ones(()), green, green ** draw.uniform((1.5, 3.0))])
  texture = 1 + draw.uniform((0.01, 0.04)) * _fibre(draw.key(), height, width)
  texture += 0.03 * draw.noise(height, width, 12)
  light = draw.uniform((0.76, 0.94)) * texture[..., None]
  return (2 * colour * light - 1).clip(-1, 245 / 127.5 - 1)


def _fibre(key, height, width):
  """Fine noise with a little length to it, [height, width], standard deviation 1."""
  white = jax.random.uniform(key, (height, width), minval=-1)
  return white + jnp.roll(white, 1, 0) + jnp.roll(white, 1, 1)


def _under(draw, photo, paper):
  return draw_paper(draw.key(), *photo.shape[:2]) if paper is None else paper


def _dirt(draw):
  """The colour of dirt and dark hairs: nearly black, a little brown; [3] in [-1, 1]."""
  return 2 * draw.uniform((0.03, 0.25)) * jnp.array([1.0, 0.92, 0.8]) - 1


# --- scratches, hairs, dust ----------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Scratches:
  """Scratches: thin curves of varying width and opacity, light (to the paper) or dark (dirty).

  Most of a photo's run in one direction, as a print is pushed over a table or a film through a
  camera; some are broken into pieces, some come in parallel bundles of up to four.
  """

  count: tuple[int, int] = (1, 20)
  length: tuple[float, float] = (0.06, 1.3)
  thickness: tuple[float, float] = (1.0, 3.8)  # pixels, in the middle of a scratch; at most 4
  opacity: tuple[float, float] = (0.4, 1.0)
  light: float = 0.8  # probability that a photo's are light
  bent: float = 0.15  # largest sag as a share of the length
  broken: float = 0.5  # share of scratches in pieces
  bundled: float = 0.3  # share of groups of four that run in parallel

  def __call__(self, key, photo, paper=None) -> Damaged:
    height, width = photo.shape[:2]
    short = min(height, width)
    most, n = self.count[1], max(32, int(1.05 * self.length[1] * short))
    draw = drawing.Draws(key)
    paper = _under(draw, photo, paper)
    count = draw.count(self.count, 1.4)

    # A bundle's scratches take the draws of its first one, and stand side by side.
    index = np.arange(most)
    bundled = draw.chance(self.bundled, most)[index // 4 * 4]
    leader = jnp.where(bundled, index // 4 * 4, index)
    aside = jnp.where(bundled, draw.uniform((-1, 1), most) * draw.uniform((0.01, 0.06)), 0) * short
    centre = draw.unit(most, 2)[leader] * jnp.array([height, width])
    length = draw.log_uniform(self.length, most)[leader] * short
    length *= jnp.where(bundled, draw.uniform((0.5, 1.0), most), 1.0)
    # Around one direction a photo, but any direction for one in four.
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

    # Mostly of one polarity a photo: a print shows its paper, or a negative its print's dirt.
    light = (draw.chance(self.light) ^ draw.chance(0.12, most))[leader][:, None]
    thickness *= jnp.where(light, 1.0, 0.7)  # dirt lies in the bottom of a scratch only
    points = jnp.stack([row, column], -1)
    bright = drawing.strokes(height, width, points, thickness, jnp.where(light, opacity, 0))
    dark = drawing.strokes(height, width, points, thickness, jnp.where(light, 0, 0.8 * opacity))
    photo = drawing.blend(drawing.blend(photo, dark, _dirt(draw)), bright, paper)
    mask = jnp.maximum(bright, dark)[..., None]
    return Damaged(photo, mask, {'count': count, 'bundled': bundled.any()})


@dataclasses.dataclass(frozen=True)
class Hairs:
  """Hairs and lint: short curling threads, dark or light, from scanner glass or the enlarger.

  On film scans whose damage experts outlined, hairs are 1 % to 12 % of the shorter side long
  (median 2.5 %) and 0.2 % wide, and up to 500 lie on a frame; on a print's scan they are fewer
  and look longer.
  """

  count: tuple[int, int] = (1, 14)
  length: tuple[float, float] = (0.02, 0.35)  # at least 5 pixels
  thickness: tuple[float, float] = (0.8, 2.0)  # pixels at up to 1200 a side, at most 4
  opacity: tuple[float, float] = (0.45, 0.95)
  light: float = 0.5  # probability that they are light; all of a photo are alike
  curl: tuple[float, float] = (0.3, 3.0)  # radians that the direction swings to either side

  def __call__(self, key, photo, paper=None) -> Damaged:
    height, width = photo.shape[:2]
    short = min(height, width)
    most, n = self.count[1], max(12, int(1.1 * self.length[1] * short))
    draw = drawing.Draws(key)
    paper = _under(draw, photo, paper)
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
    colour = jnp.where(light, paper, _dirt(draw))
    return Damaged(
      drawing.blend(photo, cover, colour), cover[..., None], {'count': count, 'light': light}
    )


def _scattered(draw, most, height, width, clouds, share, spread):
  """Places [most, 2] in pixels: all over the photo, or (a share) near one of a few centres."""
  size = jnp.array([height, width])
  place = draw.unit(most, 2) * size
  centres = draw.unit(clouds, 2)[draw.below(clouds, most)] * size
  near = centres + spread * min(height, width) * draw.normal(most, 2)
  return jnp.where(draw.chance(share, most, 1), near, place)


def _around(place, reach):
  """Pixels of the squares around places [K, 2]: row, column, and both offsets, [K, S, S] each."""
  offset = np.arange(-reach, reach + 1)
  corner = jnp.floor(place).astype(int)
  row, column = jnp.broadcast_arrays(
    (corner[:, 0, None] + offset)[:, :, None], (corner[:, 1, None] + offset)[:, None, :]
  )
  return row, column, row - place[:, 0, None, None], column - place[:, 1, None, None]


def _outline(draw, y, x, strengths):
  """The radius of blobs in the direction of (y, x), [K, H, W]: 1 plus waves of 2, 3, ... a turn.

  `strengths` are the waves' largest heights; each blob draws its own.
  """
  shape = (y.shape[0], 1, 1)
  r = jnp.sqrt(y * y + x * x) + 1e-6
  cos, sin = x / r, y / r
  c, s, outline = cos, sin, 1.0
  for most in strengths:
    c, s = c * cos - s * sin, s * cos + c * sin  # of one more time the angle
    height, phase = most * draw.unit(*shape), draw.uniform((0, 2 * np.pi), *shape)
    outline += height * (c * jnp.cos(phase) + s * jnp.sin(phase))
  return outline


@dataclasses.dataclass(frozen=True)
class Dust:
  """Dust and dirt: specks of uneven outline, single and in clouds, light or dark.

  Sizes after the same film scans as `Hairs`: half of the specks are at most 0.3 % of the shorter
  side across, 1 in 20 more than 0.9 %.
  """

  count: tuple[int, int] = (4, 240)
  radius: tuple[float, float] = (0.0013, 0.013)  # at least about a pixel across is drawn
  opacity: tuple[float, float] = (0.45, 1.0)
  light: float = 0.6  # probability that most of a photo's specks are light
  clouded: float = 0.4  # share of the specks that keep near to one of three centres

  def __call__(self, key, photo, paper=None) -> Damaged:
    height, width = photo.shape[:2]
    short, most = min(height, width), self.count[1]
    draw = drawing.Draws(key)
    paper = _under(draw, photo, paper)
    count = draw.count(self.count)
    place = _scattered(draw, most, height, width, 3, self.clouded, 0.12)
    radius = draw.low(self.radius, most, power=3.5) * short
    radius = jnp.maximum(radius, draw.uniform((0.55, 1.1), most))
    row, column, y, x = _around(place, 1 + math.ceil(1.5 * max(self.radius[1] * short, 1.1)))
    outline = _outline(draw, y, x, (0.5, 0.15, 0.15, 0.2, 0.12))
    edge = radius[:, None, None] * outline + 0.5 - jnp.sqrt(x * x + y * y)
    opacity = draw.uniform(self.opacity, most) * (np.arange(most) < count)
    value = edge.clip(0, 1) * opacity[:, None, None]
    light = draw.chance(self.light)
    bright = (light ^ draw.chance(0.1, most))[:, None, None]
    empty = jnp.zeros((height, width))
    light_cover = drawing.place(empty, row, column, jnp.where(bright, value, 0))
    dark_cover = drawing.place(empty, row, column, jnp.where(bright, 0, 0.85 * value))
    photo = drawing.blend(drawing.blend(photo, dark_cover, _dirt(draw)), light_cover, paper)
    mask = jnp.maximum(light_cover, dark_cover)[..., None]
    return Damaged(photo, mask, {'count': count, 'light': light})


# --- flaked emulsion, folds, tears, corners ------------------------------------------------------


def _flaked(photo, paper, cover):
  """Lays the paper bare where `cover` [H, W] says; inside, the emulsion's edge throws a shadow."""
  # The emulsion is a layer and the light comes from the top left.
  shadow = (cover - jnp.roll(cover, (1, 1), (0, 1))).clip(0, 1)
  return drawing.blend(photo, cover, (paper + 1) * (1 - 0.22 * shadow[..., None]) - 1)


def _sharpness(short):
  # Of a threshold on fractal noise: the flank from emulsion to paper takes about a pixel.
  return max(4.0, 0.09 * short)


def _crazed(draw, height, width, cells, most):
  """Emulsion broken into small polygons, about `cells` <= `most` along the shorter side.

  Returns:
    A number in [-1, 1] for each polygon, and the distance in pixels from the nearest crack, both
    [height, width].
  """
  short = min(height, width)
  side = jnp.maximum(short / cells, 4.0)
  rows, columns = (math.ceil(n / max(short / most, 4.0)) + 2 for n in (height, width))
  seeds = draw.uniform((0.1, 0.9), 2, rows * columns)
  values = draw.uniform((-1, 1), rows * columns)
  y, x = drawing.grid(height, width)
  # Wavering coordinates: no crack is straight.
  y = y / side + 0.5 + 0.25 * draw.noise(height, width, min(2 * most, short / 3))
  x = x / side + 0.5 + 0.25 * draw.noise(height, width, min(2 * most, short / 3))
  i, j = jnp.floor(y).astype(int), jnp.floor(x).astype(int)

  def compare(n, nearest):
    value, first, second = nearest
    row, column = (i + n // 3 - 1).clip(0, rows - 1), (j + n % 3 - 1).clip(0, columns - 1)
    cell = row * columns + column
    distance = jnp.hypot(row + seeds[0][cell] - y, column + seeds[1][cell] - x)
    value = jnp.where(distance < first, values[cell], value)
    return value, jnp.minimum(first, distance), jnp.maximum(first, jnp.minimum(second, distance))

  far = jnp.full((height, width), 9.0)
  value, first, second = lax.fori_loop(0, 9, compare, (jnp.zeros((height, width)), far, far))
  return value, (second - first) / 2 * side


@dataclasses.dataclass(frozen=True)
class Flaking:
  """Patches where the emulsion has crazed and come off in flakes, and the paper shows."""

  area: tuple[float, float] = (0.002, 0.12)  # about the share of the photo that is gone
  patches: tuple[float, float] = (2.0, 5.0)  # hills of the noise that says where, a side
  cells: tuple[float, float] = (16.0, 40.0)  # flakes along the shorter side
  cracks: float = 0.5  # probability that cracks show around the patches

  def __call__(self, key, photo, paper=None) -> Damaged:
    height, width = photo.shape[:2]
    short = min(height, width)
    draw = drawing.Draws(key)
    paper = _under(draw, photo, paper)
    coarse, fine = (draw.noise(height, width, cells) for cells in self.patches)
    where = jnp.where(draw.chance(0.5), coarse, fine)
    cells = draw.log_uniform(self.cells)
    flake, crack = _crazed(draw, height, width, cells, self.cells[1])
    grain = draw.fractal(height, width, min(14, short / 8), 4)
    # Whole flakes go, and crumbs along their edges.
    level = where + draw.uniform((0.1, 0.5)) * flake + draw.uniform((0.15, 0.5)) * grain
    # The bar that leaves the wanted share of the photo above it.
    area = draw.log_uniform(self.area)
    bar = jnp.quantile(level[:: max(1, height // 64), :: max(1, width // 64)], 1 - area)
    cover = ((level - bar) * _sharpness(short) + 0.5).clip(0, 1)
    # Cracks run on around the patches, finer the farther they are.
    near = drawing.smoothstep(where - bar, -0.9, 0.2) * draw.chance(self.cracks)
    wide = 0.9 * near * (0.6 + 0.5 * grain) * max(1.0, short / 700)
    cracks = jnp.minimum(wide + 0.5 - crack, wide).clip(0, 1) * near
    cracks *= 1 - cover
    photo = drawing.blend(photo, 0.8 * cracks, jnp.where(draw.chance(0.5), paper, _dirt(draw)))
    mask = jnp.maximum(cover, 0.8 * cracks)[..., None]
    return Damaged(_flaked(photo, paper, cover), mask, {'area': area})


@dataclasses.dataclass(frozen=True)
class Folds:
  """Creases: a light and a dark flank, a broken white ridge, flaked emulsion, small cross cracks.

  The flanks are light and shade, with the content still there: they are not in the mask.
  """

  count: tuple[int, int] = (1, 2)
  flank: tuple[float, float] = (0.006, 0.03)  # width of the light and of the dark side
  relief: tuple[float, float] = (0.08, 0.4)  # strength of their light and shade
  ridge: tuple[float, float] = (1.0, 3.6)  # pixels at up to 700 a side: the white line
  flaked: tuple[float, float] = (0.0, 1.0)  # how much emulsion is gone beside the ridge
  oblique: float = 0.35  # share that is not along a side of the print

  def __call__(self, key, photo, paper=None) -> Damaged:
    draw = drawing.Draws(key)
    paper = _under(draw, photo, paper)
    folds = draw.key()
    return _repeat(
      lambda i, photo: self._fold(drawing.Draws(jax.random.fold_in(folds, i)), photo, paper),
      draw.count(self.count),
      photo,
    )

  def _fold(self, draw, photo, paper):
    height, width = photo.shape[:2]
    short = min(height, width)
    upright = jnp.where(draw.chance(0.5), 0, np.pi / 2) + 0.05 * draw.normal()
    angle = jnp.where(draw.chance(self.oblique), draw.uniform((0, np.pi)), upright)
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    centre = draw.uniform((0.12, 0.88), 2) * jnp.array([height, width])
    rows, columns = drawing.grid(height, width)
    y, x = rows - centre[0], columns - centre[1]
    wobble = 0.007 * short * draw.noise(height, width, 5)
    wobble += 0.002 * short * draw.noise(height, width, min(40, short / 3))
    distance = y * sin + x * cos + wobble
    along = y * cos - x * sin

    # Functions of the place along the crease, one value a pixel.
    n = 2 * (height + width)
    place = np.arange(n) - n // 2
    start = draw.uniform((-1.6, 0.0)) * short
    end = start + draw.uniform((0.9, 3.0)) * short
    inside = drawing.smoothstep(place, start - 0.1 * short, start + 0.1 * short)
    inside *= 1 - drawing.smoothstep(place, end - 0.1 * short, end + 0.1 * short)
    strength = (inside * (0.75 + 0.5 * draw.curve(n, 1, 9)[0])).clip(0, 1.2)
    broken = draw.curve(n, 1, max(8, n // 12))[0] + 0.6 * draw.curve(n, 1, n // 3)[0]
    spot = (jnp.round(along) + n // 2).astype(int)
    strong, broken = strength[spot], broken[spot]

    flank = draw.log_uniform(self.flank) * short
    far = jnp.abs(distance) / flank
    side = jnp.tanh(2.0 * distance / jnp.maximum(flank, 1)) * draw.sign()
    slope = side * jnp.exp(-far * (1 + 0.6 * side))  # the lit flank is narrower
    relief = draw.uniform(self.relief) * strong * slope * drawing.smoothstep(6 - far, 0, 2)
    photo = drawing.shade(photo, jnp.where(far < 6, 1 + relief, 1.0))

    # The ridge: broken where the emulsion held.
    ridge = draw.log_uniform(self.ridge) * max(1.0, short / 700) * (0.8 + 0.4 * broken)
    worn = drawing.smoothstep(broken + draw.uniform((0.0, 1.5)), 0.0, 0.5) * strong.clip(0, 1)
    ridge = jnp.minimum(ridge / 2 + 0.5 - jnp.abs(distance), ridge).clip(0, 1) * worn

    # Flakes: the closer to the ridge, the lower the bar that the noise has to take.
    flaked = draw.uniform(self.flaked)
    grain = draw.fractal(height, width, min(26, short / 8), 4)
    flake, _ = _crazed(draw, height, width, 40.0, 40.0)
    grain = 0.75 * grain + 0.4 * flake
    reach = flank * draw.uniform((0.5, 1.6))
    near = jnp.exp(-((distance / reach) ** 2)) * strong.clip(0, 1)
    bar = 1.3 - (0.4 + 1.2 * flaked) * near - 0.25 * broken * near
    flakes = ((grain - bar) * _sharpness(short) + 0.5).clip(0, 1) * (near > 0.02)

    # Small cracks that leave the crease at steep angles.
    m, k = 12 + int(0.08 * short), 48
    foot = draw.uniform((-0.8, 0.8), k, 1) * short
    length = draw.uniform((0.3, 1.0), k, 1) * jnp.minimum(3 * flank, 0.9 * m)
    t = np.linspace(-1, 1, m, dtype=np.float32)
    go = length * (t / 2 + draw.uniform((-0.5, 0.5), k, 1))
    lean = 0.45 * draw.normal(k, 1)
    a = foot + go * jnp.sin(lean) + 0.12 * length * draw.curve(m, k, 4)
    d = go * jnp.cos(lean)
    points = jnp.stack([centre[0] + a * cos + d * sin, centre[1] - a * sin + d * cos], -1)
    there = strength[(jnp.round(foot) + n // 2).astype(int)]
    faint = draw.uniform((-0.4, 1.0)).clip(0, 1) * there * draw.uniform((0.0, 0.8), k, 1)
    fine = draw.uniform((0.4, 1.2), k, 1)
    cracks = drawing.strokes(
      height, width, points, jnp.broadcast_to(fine, (k, m)), faint * jnp.sqrt(1 - np.abs(t))
    )

    bare = jnp.maximum(ridge, flakes)
    photo = drawing.blend(_flaked(photo, paper, bare), cracks * (1 - bare), paper)
    return photo, jnp.maximum(bare, cracks)


def _torn(draw, photo, paper, level, fibre):
  """Removes the print where `level` [H, W] (pixels inside the loss) is above `fibre` [H, W].

  Between 0 and `fibre` the torn paper shows, thinner and brighter than the rest; behind the loss
  lies what the print lies on: a light scanner lid, black, or an album page.

  Returns:
    photo, cover [H, W].
  """
  height, width = level.shape
  short = min(height, width)
  behind = jnp.array([[0.86, 0.86, 0.85], [0.04, 0.04, 0.045], [0.58, 0.51, 0.42]])
  behind = 2 * behind[draw.below(3)] * draw.uniform((0.85, 1.05)) - 1 + 0.1 * (paper - paper.mean())
  torn = (level + 0.5).clip(0, 1)
  gone = (level - fibre + 0.5).clip(0, 1)
  # The print lies on top: it throws a soft shadow on what is behind it.
  shadow = 1 - 0.35 * jnp.exp(-(level - fibre).clip(0) / (0.006 * short + 1))
  behind = (behind + 1) * shadow[..., None] - 1
  # The tear thins the paper towards the loss.
  thin = 1 - 0.16 * (level / jnp.maximum(fibre, 1)).clip(0, 1)
  thin *= 1 + 0.08 * draw.noise(height, width, short / 3)
  bright = ((paper + 1) * 1.04 * thin[..., None] - 1).clip(-1, 245 / 127.5 - 1)
  return drawing.blend(drawing.blend(photo, torn, bright), gone, behind), torn


@dataclasses.dataclass(frozen=True)
class Tears:
  """Tears from a border: a rip that runs inward, or a bite that is missing.

  Ragged at all scales; the torn edge shows the white fibre of the paper, on one side of a rip
  more than on the other.
  """

  count: tuple[int, int] = (1, 2)
  bite: float = 0.5  # share of bites; the others are rips
  depth: tuple[float, float] = (0.1, 0.6)  # a rip's; a bite's is half of it
  width: tuple[float, float] = (0.1, 0.5)  # of a bite to either side of its middle
  rip: tuple[float, float] = (0.01, 0.035)  # of a rip, at the border
  fibre: tuple[float, float] = (0.004, 0.025)  # width of the white edge

  def __call__(self, key, photo, paper=None) -> Damaged:
    draw = drawing.Draws(key)
    paper = _under(draw, photo, paper)
    tears = draw.key()
    return _repeat(
      lambda i, photo: self._tear(drawing.Draws(jax.random.fold_in(tears, i)), photo, paper),
      draw.count(self.count),
      photo,
    )

  def _tear(self, draw, photo, paper):
    height, width = photo.shape[:2]
    short = min(height, width)
    # From one of the four borders: the distance from it, and the place along it.
    side = draw.below(4)
    rows, columns = drawing.grid(height, width)
    upright = side % 2 == 0
    inward = jnp.where(upright, rows, columns)
    inward = jnp.where(side < 2, inward, jnp.where(upright, height, width) - 1 - inward)
    along = jnp.where(upright, columns, rows)
    centre = draw.uniform((0.1, 0.9)) * jnp.where(upright, width, height)
    depth = draw.log_uniform(self.depth) * short
    lean = draw.uniform((-0.7, 0.7))
    jag = draw.fractal(height, width, 6, 4, 2.7)

    # A rip: a wedge around a wandering middle line, measured across.
    n = height + width
    path = 0.05 * draw.curve(n, 1, 12)[0] + 0.008 * draw.curve(n, 1, n // 12)[0]
    middle = centre + lean * inward + short * (path - path[0])[inward.astype(int)]
    half = draw.log_uniform(self.rip) * short / 2
    away = (along - middle) * lax.rsqrt(1 + lean**2)
    rip = half * (1 - inward / depth) - jnp.abs(away) + 0.4 * half * jag
    rip = jnp.where(inward < depth, rip, -9.0)
    # More fibre on one side of the gap.
    gap = half * draw.uniform((0.2, 2.2))
    rip_fibre = gap + 0.6 * half * jnp.tanh(draw.sign() * away / jnp.maximum(half, 1))

    # A bite: all that lies outside of a ragged, lopsided arch.
    breadth = draw.log_uniform(self.width) * short
    place = (along - centre - 0.6 * lean * inward) / breadth
    arch = (1 - jnp.abs(place) ** draw.uniform((0.8, 2.0))).clip(-1, 1)
    wide = draw.noise(height, width, 4)
    bite = 0.5 * depth * (arch + 0.4 * wide) - inward + 0.05 * short * jag
    bite *= lax.rsqrt(1 + (depth / breadth * jnp.minimum(jnp.abs(place), 1.0)) ** 2)
    edge = draw.log_uniform(self.fibre) * short
    bite_fibre = edge * (0.9 + 1.1 * draw.noise(height, width, 9)) + 0.8

    is_bite = draw.chance(self.bite)
    level = jnp.where(is_bite, bite, rip)
    fibre = jnp.where(is_bite, bite_fibre, rip_fibre).clip(0)
    return _torn(draw, photo, paper, level, fibre)


@dataclasses.dataclass(frozen=True)
class Corners:
  """Missing corners: torn off or worn away, with a ragged fibre edge."""

  count: tuple[int, int] = (1, 3)
  size: tuple[float, float] = (0.03, 0.25)  # distance of the loss's edge from the corner
  fibre: tuple[float, float] = (0.003, 0.02)

  def __call__(self, key, photo, paper=None) -> Damaged:
    height, width = photo.shape[:2]
    short = min(height, width)
    draw = drawing.Draws(key)
    paper = _under(draw, photo, paper)
    count = draw.count(self.count)
    jag = draw.fractal(height, width, 5, 4, 2.7)
    rows, columns = drawing.grid(height, width)
    level = jnp.full((height, width), -9.0)
    angle = draw.uniform((0.35, 1.2), 4)
    size = draw.low(self.size, 4, power=1.4) * short
    order = jnp.argsort(draw.unit(4))
    for i in range(4):
      y = rows if i < 2 else height - 1 - rows
      x = columns if i % 2 == 0 else width - 1 - columns
      loss = size[i] - y * jnp.sin(angle[i]) - x * jnp.cos(angle[i])
      loss += 0.25 * jnp.minimum(size[i], 0.12 * short) * jag
      level = jnp.maximum(level, jnp.where(order[i] < count, loss, -9.0))
    edge = draw.log_uniform(self.fibre) * short
    fibre = (edge * (0.9 + 0.9 * draw.noise(height, width, 9)) + 0.6).clip(0)
    photo, cover = _torn(draw, photo, paper, level, fibre)
    return Damaged(photo, cover[..., None], {'count': count})


# --- stains, foxing, smudges ---------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Stains:
  """Stains and water rings: a tinted blot, a darker rim, sharp outside and soft inside.

  The content is still there, so the mask is low: at most a quarter.
  """

  count: tuple[int, int] = (1, 3)
  radius: tuple[float, float] = (0.06, 0.5)
  strength: tuple[float, float] = (0.07, 0.4)  # density inside; the rim has up to four times it
  bleached: float = 0.2  # share that takes density away instead

  def __call__(self, key, photo, paper=None) -> Damaged:
    draw = drawing.Draws(key)
    paper = _under(draw, photo, paper)
    stains = draw.key()
    return _repeat(
      lambda i, photo: self._stain(drawing.Draws(jax.random.fold_in(stains, i)), photo, paper),
      draw.count(self.count),
      photo,
    )

  def _stain(self, draw, photo, paper):
    height, width = photo.shape[:2]
    short = min(height, width)
    centre = draw.uniform((-0.1, 1.1), 2) * jnp.array([height, width])
    radius = draw.log_uniform(self.radius) * short
    stretch = draw.log_uniform((0.7, 1.4))
    rows, columns = drawing.grid(height, width)
    y, x = (rows - centre[0]) * stretch, (columns - centre[1]) / stretch
    outline = _outline(draw, y[None], x[None], (0.25, 0.2, 0.12, 0.1, 0.08, 0.05))[0] - 1
    outline += 0.2 * draw.noise(height, width, 4) + 0.09 * draw.noise(height, width, 14)
    outline += 0.03 * draw.noise(height, width, min(50, short / 3))
    # Pixels inside the outline; the noise moves it by a share of the radius.
    level = radius * (1 + outline) - jnp.sqrt(y * y + x * x)
    body = jax.nn.sigmoid(level / (0.5 + 0.02 * short * draw.unit() ** 2))
    rim = body * jnp.exp(-level.clip(0) / (draw.log_uniform((0.006, 0.035)) * short))
    cloud = 0.75 + 0.3 * draw.noise(height, width, 7)
    strength = draw.uniform(self.strength)
    density = strength * body * (0.5 * cloud + 1.6 * draw.uniform((0.3, 1.0)) * rim)
    # Brown: blue suffers most.
    colour = jnp.array([0.55, 0.95, 1.5]) ** draw.uniform((0.3, 1.0))
    brown = drawing.shade(photo, jnp.exp(-1.6 * density[..., None] * colour))
    pale = photo + 1.2 * density[..., None] * (paper - photo)
    return jnp.where(draw.chance(self.bleached), pale, brown), (density / 2).clip(0, 0.25)


@dataclasses.dataclass(frozen=True)
class Foxing:
  """Foxing: rusty spots with soft edges, in clusters; the larger ones have a halo."""

  count: tuple[int, int] = (15, 160)
  radius: tuple[float, float] = (0.002, 0.016)  # at least 0.8 pixels
  strength: tuple[float, float] = (0.3, 1.1)  # density of the strongest spots

  def __call__(self, key, photo, paper=None) -> Damaged:
    height, width = photo.shape[:2]
    short, most = min(height, width), self.count[1]
    draw = drawing.Draws(key)
    count = draw.count(self.count)
    place = _scattered(draw, most, height, width, 4, 0.5, 0.15)
    radius = jnp.maximum(draw.low(self.radius, most, 1, 1) * short, 0.8)
    row, column, y, x = _around(place, 1 + math.ceil(2 * max(self.radius[1] * short, 1)))
    outline = _outline(draw, y, x, (0.35, 0.2, 0.15))
    r = jnp.sqrt(x * x + y * y) / (radius * outline)
    value = 0.75 * (1 - drawing.smoothstep(r, 0.3, 1.1)) + 0.25 * (
      1 - drawing.smoothstep(r, 0.6, 2.0)
    )
    value *= draw.uniform((0.4, 1.0), most, 1, 1) * draw.uniform(self.strength)
    value *= (np.arange(most) < count)[:, None, None]
    cover = drawing.place(jnp.zeros((height, width)), row, column, value)
    gain = jnp.exp(-cover[..., None] * jnp.array([0.35, 0.75, 1.3]))
    return Damaged(
      drawing.shade(photo, gain), (0.7 * cover[..., None]).clip(0, 1), {'count': count}
    )


@dataclasses.dataclass(frozen=True)
class Smudges:
  """Smudges as of fingers: ridges that curve around a core, inside a soft and patchy oval.

  The content is still there, so the mask is low: at most a fifth.
  """

  count: tuple[int, int] = (1, 3)
  radius: tuple[float, float] = (0.04, 0.12)
  strength: tuple[float, float] = (0.08, 0.28)
  light: float = 0.5  # share of light ones

  def __call__(self, key, photo, paper=None) -> Damaged:
    draw = drawing.Draws(key)
    smudges = draw.key()
    return _repeat(
      lambda i, photo: self._smudge(drawing.Draws(jax.random.fold_in(smudges, i)), photo),
      draw.count(self.count),
      photo,
    )

  def _smudge(self, draw, photo):
    height, width = photo.shape[:2]
    short = min(height, width)
    centre = draw.unit(2) * jnp.array([height, width])
    radius = draw.log_uniform(self.radius) * short
    angle = draw.uniform((0, np.pi))
    rows, columns = drawing.grid(height, width)
    y, x = (rows - centre[0]) / radius, (columns - centre[1]) / radius
    u = x * jnp.cos(angle) + y * jnp.sin(angle)
    v = (y * jnp.cos(angle) - x * jnp.sin(angle)) / 1.35
    warp = 0.12 * draw.noise(height, width, 18)
    # Ridges: arches around a core below the middle, about nine to the radius as on a finger.
    core = draw.uniform((0.1, 0.6))
    arches = jnp.sqrt(u * u * 1.2 + (v + core) ** 2 * 0.8 + 0.01) + warp
    ridges = 0.5 + 0.5 * jnp.sin(2 * np.pi * draw.uniform((7, 10)) * arches)
    ridges = jnp.where(radius > 24, ridges, 0.6)  # finer than the pixels: only the grease shows
    oval = 1 - drawing.smoothstep(u * u + v * v + 0.5 * warp, 0.55, 1.05)
    patchy = drawing.smoothstep(draw.noise(height, width, 14), -0.7, 0.4)
    cover = oval * patchy * (0.25 + 0.75 * ridges) * draw.uniform(self.strength)
    pale = drawing.blend(photo, 0.6 * cover, 0.8)
    photo = jnp.where(draw.chance(self.light), pale, drawing.shade(photo, 1 - cover))
    return photo, cover.clip(0, 0.2)


# --- fading, yellowing, paper texture ------------------------------------------------------------


def _unmasked(photo, drawn):
  return Damaged(photo, jnp.zeros_like(photo[..., :1]), drawn)


@dataclasses.dataclass(frozen=True)
class Fading:
  """Loss of density per channel, stronger in some places and towards the borders; empty mask."""

  black: tuple[float, float] = (0.0, 0.18)  # where black goes, of full scale
  white: tuple[float, float] = (0.82, 1.0)
  gamma: tuple[float, float] = (0.7, 1.2)
  channels: float = 0.035  # how far the three dyes differ in all of these
  uneven: tuple[float, float] = (0.0, 0.7)  # share of the fading that depends on the place

  def __call__(self, key, photo, paper=None) -> Damaged:
    height, width = photo.shape[:2]
    draw = drawing.Draws(key)
    differ = self.channels * draw.normal(3, 3)
    black = (draw.uniform(self.black) + differ[0]).clip(0, 0.4)
    white = (draw.uniform(self.white) + differ[1]).clip(0.6, 1)
    gamma = draw.uniform(self.gamma) * (1 + differ[2])
    faded = photographic.fade(photo, black, white, gamma)
    rows, columns = drawing.grid(height, width)
    border = jnp.maximum((2 * rows / height - 1) ** 4, (2 * columns / width - 1) ** 4)
    place = 0.5 + 0.35 * draw.noise(height, width, 3) + 0.4 * (border - 0.3)
    amount = 1 - draw.uniform(self.uneven) * (1 - place.clip(0, 1))
    photo = photo + amount[..., None] * (faded - photo)
    return _unmasked(photo, {'black': black, 'white': white, 'gamma': gamma})


@dataclasses.dataclass(frozen=True)
class Yellowing:
  """The paper and the gelatine turn yellow to brown, unevenly; empty mask."""

  green: tuple[float, float] = (0.85, 0.98)  # share of green that is still reflected,
  blue: tuple[float, float] = (1.8, 3.5)  # and of blue, as a power of the share of green
  uneven: tuple[float, float] = (0.0, 0.8)

  def __call__(self, key, photo, paper=None) -> Damaged:
    draw = drawing.Draws(key)
    green = draw.uniform(self.green)
    colour = jnp.stack([green**0.25, green, green ** draw.uniform(self.blue)])
    place = draw.uniform(self.uneven) * draw.noise(*photo.shape[:2], 3)[..., None]
    return _unmasked(photographic.tint(photo, colour ** (1 + place).clip(0)), {'colour': colour})


@dataclasses.dataclass(frozen=True)
class PaperTexture:
  """The surface of the print under a slanting light: matt grain, linen, or silk; empty mask."""

  strength: tuple[float, float] = (0.01, 0.05)
  period: tuple[float, float] = (0.008, 0.02)  # of linen and silk; at least 3 pixels

  def __call__(self, key, photo, paper=None) -> Damaged:
    height, width = photo.shape[:2]
    draw = drawing.Draws(key)
    relief = _fibre(draw.key(), height, width)
    matt = 0.6 * (relief - jnp.roll(relief, (1, 1), (0, 1)))
    turn = draw.uniform((-0.2, 0.2))
    rows, columns = drawing.grid(height, width)
    y = rows * jnp.cos(turn) + columns * jnp.sin(turn)
    x = columns * jnp.cos(turn) - rows * jnp.sin(turn)
    rate = 2 * np.pi / jnp.maximum(draw.log_uniform(self.period) * min(height, width), 3.0)
    warp = 0.4 * draw.noise(height, width, 20)
    linen = jnp.sin(rate * y + warp) + jnp.sin(rate * x - warp)
    # A hexagonal lattice of bumps: three waves at 60 degrees.
    half, high = 0.5 * rate * x, 0.866 * rate * y
    silk = jnp.cos(rate * x) + jnp.cos(half + high) + jnp.cos(half - high)
    kind = draw.below(4)  # two of four are matt only
    pattern = jnp.where(kind == 0, linen, jnp.where(kind == 1, silk, 0.0))
    worn = 0.7 + 0.4 * draw.noise(height, width, 4)
    strength = draw.uniform(self.strength)
    gain = 1 + strength * (0.6 * matt + 0.4 * pattern * worn)
    return _unmasked(drawing.shade(photo, gain), {'kind': kind, 'strength': strength})


# --- drawn artefacts and textures ----------------------------------------------------------------


@dataclasses.dataclass(frozen=True, eq=False)
class Overlays:
  """Artefacts drawn by others, turned, mirrored, scaled and moved at random; light or dark.

  Equal only to itself, as the arrays cannot be hashed: build one, and use it again.
  """

  alpha: np.ndarray  # uint8 [N, S, S], 255 = covers the photo
  count: tuple[int, int] = (1, 3)
  size: tuple[float, float] = (0.3, 0.9)  # side of the drawing
  opacity: tuple[float, float] = (0.4, 1.0)
  light: float = 0.7  # probability that they are light

  def __call__(self, key, photo, paper=None) -> Damaged:
    draw = drawing.Draws(key)
    paper = _under(draw, photo, paper)
    colour = jnp.where(draw.chance(self.light), paper, _dirt(draw))
    drawings = draw.key()

    def lay(i, photo):
      cover = self._cover(drawing.Draws(jax.random.fold_in(drawings, i)), *photo.shape[:2])
      return drawing.blend(photo, cover, colour), cover

    return _repeat(lay, draw.count(self.count), photo)

  def _cover(self, draw, height, width):
    alpha = jnp.asarray(self.alpha)[draw.below(len(self.alpha))].astype(jnp.float32) / 255
    alpha = jnp.where(draw.chance(0.5), alpha.T, alpha)
    size = draw.uniform(self.size) * min(height, width)
    scale = size / alpha.shape[0] * jnp.where(draw.chance(0.5, 2), 1.0, -1.0)  # negative: mirrored
    middle = draw.uniform((0.1, 0.9), 2) * jnp.array([height, width])
    move = middle - scale * alpha.shape[0] / 2
    moved = [_sampled(n, alpha.shape[0], scale[i], move[i]) for i, n in enumerate((height, width))]
    cover = drawing.product(moved[0], alpha, moved[1].T)
    # The ringing and the rounding of a product must not touch the rest of the photo.
    cover = jnp.where(cover > 1 / 255, cover, 0.0).clip(0, 1)
    return cover * draw.uniform(self.opacity)


def _sampled(n, size, scale, move):
  """Linear resampling of `size` values as a matrix [n, size]: value i goes to scale·i + move."""
  place = (jnp.arange(n)[:, None] + 0.5 - move) / scale - 0.5
  width = jnp.maximum(1 / jnp.abs(scale), 1.0)  # shrinking averages
  return (1 - jnp.abs(place - np.arange(size)) / width).clip(0) / width


@dataclasses.dataclass(frozen=True, eq=False)
class Textures:
  """Photographed or drawn surfaces, mirrored, turned and tiled; empty mask.

  Equal only to itself, as the arrays cannot be hashed.
  """

  relief: np.ndarray  # uint8 [N, S, S] around 128
  strength: tuple[float, float] = (0.015, 0.08)  # light and shade at one standard deviation

  def __call__(self, key, photo, paper=None) -> Damaged:
    height, width = photo.shape[:2]
    draw = drawing.Draws(key)
    relief = jnp.asarray(self.relief)[draw.below(len(self.relief))].astype(jnp.float32) / 32 - 4
    relief = jnp.where(draw.chance(0.5), relief.T, relief) * draw.sign()
    size = relief.shape[0]

    def mirrored(n):
      # There and back again, from a random start: no seams, however large the photo is.
      place = (np.arange(n) + draw.below(2 * size)) % (2 * size)
      return jnp.minimum(place, 2 * size - 1 - place)

    relief = relief[mirrored(height)][:, mirrored(width)]
    strength = draw.log_uniform(self.strength)
    photo = drawing.shade(photo, 1 + strength * relief)
    return _unmasked(photo, {'strength': strength})


# --- the recipe ----------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Print:
  """An old print, damaged and scanned: the recipe `print`.

  In the order of a print's life: its dyes fade, it gets stains, folds, tears and scratches, it
  yellows, dust falls on the scanner's glass, and the scan blurs it, adds grain and is stored as
  JPEG. As all of this comes after the damage, no damage is pure white or cleanly cut. Softer than
  `Wan2020` on average.

  A share `unharmed` of the photos carries no structured damage at all. The mask is that of lost
  content: scratches, hairs, dust, flaked emulsion and folds, tears, corners, and the core of
  foxing; not stains, smudges, fading, yellowing or texture. It says what has to be found and
  filled: 1 from half the opacity on, and 0 where the damage has the content's own colour by
  chance. `clean` loses its colour along with the old photo with probability `gray`. Sides of at
  least 16 pixels.
  """

  unharmed: float = 0.2
  # Of the harmed photos: probability, and artefact.
  foxing: tuple[float, Foxing] = (0.12, Foxing())
  folds: tuple[float, Folds] = (0.4, Folds())
  flaking: tuple[float, Flaking] = (0.28, Flaking())
  scratches: tuple[float, Scratches] = (0.7, Scratches())
  tears: tuple[float, Tears] = (0.18, Tears())
  corners: tuple[float, Corners] = (0.18, Corners())
  hairs: tuple[float, Hairs] = (0.4, Hairs())
  dust: tuple[float, Dust] = (0.75, Dust())
  # And of all photos.
  fading: tuple[float, Fading] = (0.7, Fading())
  texture: tuple[float, PaperTexture] = (0.5, PaperTexture())
  stains: tuple[float, Stains] = (0.25, Stains())
  smudges: tuple[float, Smudges] = (0.12, Smudges())
  yellowing: tuple[float, Yellowing] = (0.6, Yellowing())
  # Artefacts and surfaces from folders (data.artefacts reads them), where there are any.
  overlays: tuple[float, Overlays] | None = None  # of the harmed photos
  textures: tuple[float, Textures] | None = None  # of all photos
  gray: float = 0.3  # both photos lose their colour
  desaturation: tuple[float, float] = (0.0, 0.5)  # of the old photo
  blur: tuple[float, float] = (0.3, 1.0)  # sigma in pixels, at most 1.5
  grain: tuple[float, float] = (1.0, 6.0)  # std at mid gray, 8-bit levels
  grain_size: tuple[float, float] = (0.4, 1.0)  # sigma in pixels, at most 1.5
  scan_black: tuple[float, float] = (0.0, 0.06)
  scan_white: tuple[float, float] = (0.9, 0.99)
  jpeg: float = 0.7
  jpeg_quality: tuple[int, int] = (50, 97)  # both ends included

  def __call__(self, key, clean) -> recipes.Aged:
    recipes.check(clean)
    draw = drawing.Draws(key)
    paper = draw_paper(draw.key(), *clean.shape[:2])
    without_colour = draw.chance(self.gray)
    clean = jnp.where(without_colour, photographic.gray(clean), clean)
    harmed = ~draw.chance(self.unharmed)
    old = photographic.desaturate(clean, draw.uniform(self.desaturation))
    mask = shown = jnp.zeros_like(clean[..., :1])

    def apply(chosen, masked, old, mask, shown):
      probability, artefact = chosen
      key = draw.key()

      def damage(old, mask, shown):
        damaged = artefact(key, old, paper)
        if masked:
          change = jnp.abs(damaged.photo - old).max(-1, keepdims=True)
          mask = jnp.maximum(mask, damaged.mask)
          shown = jnp.maximum(shown, jnp.where(damaged.mask > 0, change, 0.0))
        return damaged.photo, mask, shown

      used = draw.chance(probability) & (harmed | (not masked))
      return lax.cond(used, damage, lambda *same: same, old, mask, shown)

    old, mask, shown = apply(self.fading, False, old, mask, shown)
    # Silver has no dyes that fade apart; a gray print gets its tone from its paper.
    old = jnp.where(without_colour, photographic.desaturate(old, 1.0), old)
    for chosen, masked in (
      (self.texture, False),
      (self.textures, False),
      (self.stains, False),
      (self.foxing, True),
      (self.smudges, False),
      (self.folds, True),
      (self.flaking, True),
      (self.scratches, True),
      (self.overlays, True),
      (self.tears, True),
      (self.corners, True),
      (self.yellowing, False),
      (self.hairs, True),
      (self.dust, True),
    ):
      if chosen is not None:
        old, mask, shown = apply(chosen, masked, old, mask, shown)

    # Between 5 and 20 levels damage begins to show; two pixels beside it belong to it.
    mask = (2 * mask).clip(0, 1) * drawing.smoothstep(drawing.widened(shown, 2), 0.04, 0.16)

    old = photographic.fade(
      old, draw.uniform(self.scan_black), draw.uniform(self.scan_white), jnp.ones(())
    )
    old = photographic.soft_blur(old, draw.uniform(self.blur))
    old = photographic.film_grain(
      old, draw.key(), draw.uniform(self.grain), draw.uniform(self.grain_size)
    )
    least, most = self.jpeg_quality
    quality = least + draw.below(most + 1 - least)
    old = lax.cond(
      draw.chance(self.jpeg),
      lambda old: photographic.jpeg(old, quality),
      lambda old: photographic.from_levels(photographic.to_levels(old)),
      old,
    )
    return recipes.Aged(old, clean, mask)


def artefacts(recipe: Print) -> dict[str, Callable[..., Damaged]]:
  """The artefacts of a recipe by the names of its fields, without their probabilities."""
  values = {field.name: getattr(recipe, field.name) for field in dataclasses.fields(recipe)}
  return {
    name: value[1]
    for name, value in values.items()
    if isinstance(value, tuple) and callable(value[1])
  }
