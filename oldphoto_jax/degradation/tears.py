"""Damage where the emulsion or the paper is gone: flakes, folds, tears, missing corners."""

import dataclasses
import math

import jax.numpy as jnp
import numpy as np
from jax import lax

from oldphoto_jax.degradation import artefact, drawing


def _flaked(photo, paper, cover):
  """Bares the paper under `cover` [H, W]; the edge of the emulsion throws a shadow on it."""
  # The emulsion is a layer and the light comes from the top left.
  shadow = (cover - jnp.roll(cover, (1, 1), (0, 1))).clip(0, 1)
  return drawing.blend(photo, cover, (paper + 1) * (1 - 0.22 * shadow[..., None]) - 1)


def _sharpness(short):
  # Slope of a threshold on fractal noise: emulsion turns to paper within about a pixel.
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
  # Wavering coordinates, so that no crack is straight.
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

  area: tuple[float, float] = (0.002, 0.12)  # approximate share of the photo that is gone
  patches: tuple[float, float] = (2.0, 5.0)  # hills per side of the noise that places the patches
  cells: tuple[float, float] = (16.0, 40.0)  # flakes along the shorter side
  cracks: float = 0.5  # probability that cracks show around the patches

  def __call__(self, key, photo, paper=None) -> artefact.Damaged:
    height, width = photo.shape[:2]
    short = min(height, width)
    draw = drawing.Draws(key)
    paper = artefact.under(draw, photo, paper)
    coarse, fine = (draw.noise(height, width, cells) for cells in self.patches)
    where = jnp.where(draw.chance(0.5), coarse, fine)
    cells = draw.log_uniform(self.cells)
    flake, crack = _crazed(draw, height, width, cells, self.cells[1])
    grain = draw.fractal(height, width, min(14, short / 8), 4)
    # Whole flakes come off, and crumbs along their edges.
    level = where + draw.uniform((0.1, 0.5)) * flake + draw.uniform((0.15, 0.5)) * grain
    # The threshold that leaves the wanted share of the photo above it.
    area = draw.log_uniform(self.area)
    bar = jnp.quantile(level[:: max(1, height // 64), :: max(1, width // 64)], 1 - area)
    cover = ((level - bar) * _sharpness(short) + 0.5).clip(0, 1)
    # Cracks continue around the patches and get finer with the distance.
    near = drawing.smoothstep(where - bar, -0.9, 0.2) * draw.chance(self.cracks)
    wide = 0.9 * near * (0.6 + 0.5 * grain) * max(1.0, short / 700)
    cracks = jnp.minimum(wide + 0.5 - crack, wide).clip(0, 1) * near
    cracks *= 1 - cover
    photo = drawing.blend(
      photo, 0.8 * cracks, jnp.where(draw.chance(0.5), paper, artefact.dirt(draw))
    )
    mask = jnp.maximum(cover, 0.8 * cracks)[..., None]
    return artefact.Damaged(_flaked(photo, paper, cover), mask, {'area': area})


@dataclasses.dataclass(frozen=True)
class Folds:
  """Creases: a light and a dark flank, a broken white ridge, flaked emulsion, small cross cracks.

  The flanks only change light and shade. Their content is still there, so the mask omits them.
  """

  count: tuple[int, int] = (1, 2)
  flank: tuple[float, float] = (0.006, 0.03)  # width of the light and of the dark side
  relief: tuple[float, float] = (0.08, 0.4)  # strength of their light and shade
  ridge: tuple[float, float] = (1.0, 3.6)  # width of the white line: pixels, for up to 700 per side
  flaked: tuple[float, float] = (0.0, 1.0)  # how much emulsion is gone beside the ridge
  oblique: float = 0.35  # share of folds that do not follow a side of the print

  def __call__(self, key, photo, paper=None) -> artefact.Damaged:
    draw = drawing.Draws(key)
    paper = artefact.under(draw, photo, paper)
    step = lambda draw, photo: self.one(draw, photo, paper)
    return artefact.repeat(draw, self.count, photo, step)

  def one(self, draw, photo, paper):
    """Adds a fold: see artefact.Several."""
    height, width = photo.shape[:2]
    short = min(height, width)
    upright = jnp.where(draw.chance(0.5), 0, np.pi / 2) + 0.05 * draw.normal()
    angle = jnp.where(draw.chance(self.oblique), draw.uniform((0, np.pi)), upright)
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    centre = draw.uniform((0.12, 0.88), 2) * jnp.array([height, width])
    rows, columns = drawing.grid(height, width)
    y, x = rows - centre[0], columns - centre[1]
    wobble = short * draw.noises(height, width, [(0.007, 5), (0.002, min(40, short / 3))])
    distance = y * sin + x * cos + wobble
    along = y * cos - x * sin

    # Functions of the position along the crease, one value per pixel.
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

    # Flakes: the closer to the ridge, the lower the threshold for the noise.
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

  Between 0 and `fibre` the torn paper shows, thinner and brighter than the rest. Behind the loss is
  the surface that the print lies on: a light scanner lid, black, or an album page.

  Returns:
    photo, cover [H, W].
  """
  height, width = level.shape
  short = min(height, width)
  behind = jnp.array([[0.86, 0.86, 0.85], [0.04, 0.04, 0.045], [0.58, 0.51, 0.42]])
  behind = 2 * behind[draw.below(3)] * draw.uniform((0.85, 1.05)) - 1 + 0.1 * (paper - paper.mean())
  torn = (level + 0.5).clip(0, 1)
  gone = (level - fibre + 0.5).clip(0, 1)
  # The print lies on top and throws a soft shadow on the surface behind it.
  shadow = 1 - 0.35 * jnp.exp(-(level - fibre).clip(0) / (0.006 * short + 1))
  behind = (behind + 1) * shadow[..., None] - 1
  # The paper gets thinner towards the loss.
  thin = 1 - 0.16 * (level / jnp.maximum(fibre, 1)).clip(0, 1)
  thin *= 1 + 0.08 * draw.noise(height, width, short / 3)
  bright = ((paper + 1) * 1.04 * thin[..., None] - 1).clip(-1, 245 / 127.5 - 1)
  return drawing.blend(drawing.blend(photo, torn, bright), gone, behind), torn


@dataclasses.dataclass(frozen=True)
class Tears:
  """Tears from a border: a rip that runs inward, or a missing bite.

  Tears are ragged at all scales. The torn edge shows the white fibre of the paper, more on one side
  of a rip than on the other.
  """

  count: tuple[int, int] = (1, 2)
  bite: float = 0.5  # share of bites; the others are rips
  depth: tuple[float, float] = (0.1, 0.6)  # of a rip; a bite has half of it
  width: tuple[float, float] = (0.1, 0.5)  # of a bite, to either side of its middle
  rip: tuple[float, float] = (0.01, 0.035)  # width of a rip at the border
  fibre: tuple[float, float] = (0.004, 0.025)  # width of the white edge

  def __call__(self, key, photo, paper=None) -> artefact.Damaged:
    draw = drawing.Draws(key)
    paper = artefact.under(draw, photo, paper)
    step = lambda draw, photo: self.one(draw, photo, paper)
    return artefact.repeat(draw, self.count, photo, step)

  def one(self, draw, photo, paper):
    """Adds a tear: see artefact.Several."""
    height, width = photo.shape[:2]
    short = min(height, width)
    # The distance from one of the four borders, and the position along it.
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

    # A bite: everything outside a ragged, lopsided arch.
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
  """Missing corners, torn off or worn away, with a ragged edge of fibre."""

  count: tuple[int, int] = (1, 3)
  size: tuple[float, float] = (0.03, 0.25)  # distance from the corner to the edge of the loss
  fibre: tuple[float, float] = (0.003, 0.02)

  def __call__(self, key, photo, paper=None) -> artefact.Damaged:
    height, width = photo.shape[:2]
    short = min(height, width)
    draw = drawing.Draws(key)
    paper = artefact.under(draw, photo, paper)
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
    return artefact.Damaged(photo, cover[..., None], {'count': count})
