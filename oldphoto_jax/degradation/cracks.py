"""Networks of cracks: broken emulsion that branches, flakes and runs on across a print."""

import dataclasses

import jax.numpy as jnp
import numpy as np

from oldphoto_jax.degradation import artefact, drawing

REACH = 8  # pixels around a curve that `level` looks at


def level(height, width, points, half_width, alive):
  """How far inside of thick curves every pixel lies, in pixels: float32 [height, width].

  Positive inside, negative outside, -REACH where no curve is near.

  Args:
    points: [K, N, 2], (row, column) in pixels, neighbours at most one pixel apart on either axis.
    half_width: [K, N], pixels, at most REACH - 2.
    alive: bool [K, N]; elsewhere a curve has a gap.
  """
  step = jnp.gradient(points, axis=1)
  step /= jnp.maximum(jnp.linalg.norm(step, axis=-1, keepdims=True), 1e-6)
  steep = jnp.abs(step[..., :1]) > jnp.abs(step[..., 1:])
  across = jnp.where(steep, jnp.array([0, 1]), jnp.array([1, 0]))[:, :, None]
  offset = jnp.arange(-REACH, REACH + 1)[:, None] * across
  pixel = jnp.round(points).astype(int)[:, :, None] + offset
  away = pixel - points[:, :, None]
  distance = jnp.abs(away[..., 0] * step[:, :, None, 1] - away[..., 1] * step[:, :, None, 0])
  inside = jnp.where(alive[..., None], half_width[..., None] - distance, -float(REACH))
  empty = jnp.full((height, width), -float(REACH))
  return drawing.place(empty, pixel[..., 0], pixel[..., 1], inside)


@dataclasses.dataclass(frozen=True)
class Cracks:
  """Cracks that wander over the print, with branches and branches of these.

  Each crack keeps its direction but for slow turns and fine jags; branches leave it at 30 to 70
  degrees and are thinner. The emulsion flakes off along it in lobes, and its edges are ragged.
  Beside a light crack lies a lit and a shaded flank, as where a fold was pressed. What a crack
  looks like was set by eye beside the hand-marked cracks of real prints.
  """

  count: tuple[int, int] = (1, 4)
  branches: tuple[int, int] = (0, 12)
  twigs: tuple[int, int] = (0, 10)  # branches of branches
  width: tuple[float, float] = (0.8, 9.0)  # pixels in the middle; low ones are likelier
  turn: tuple[float, float] = (0.1, 0.9)  # radians that the direction swings to either side
  jag: tuple[float, float] = (0.2, 0.7)  # the same of fine jags
  flaked: tuple[float, float] = (0.0, 1.6)  # width that lobes add, as a share
  gaps: tuple[float, float] = (-1.2, 0.1)  # bar that a crack's on/off noise has to pass
  opacity: tuple[float, float] = (0.45, 1.0)
  light: float = 0.78  # probability that a print's cracks show the paper, not dirt
  relief: tuple[float, float] = (0.0, 0.25)  # light and shade of the flanks

  def __call__(self, key, photo, paper=None) -> artefact.Damaged:
    height, width = photo.shape[:2]
    short = min(height, width)
    draw = drawing.Draws(key)
    paper = artefact.under(draw, photo, paper)
    size = jnp.array([height, width])
    n = int(1.5 * short)
    base = draw.low(self.width, power=1.8)
    turn, jag = draw.uniform(self.turn), draw.uniform(self.jag)

    def walk(start, heading, length, k):
      """From `start` [k, 2] in the direction `heading` [k]: (points [k, n, 2], headings [k, n])."""
      heading = heading[:, None] + turn * draw.curve(n, k, 5) + jag * draw.curve(n, k, n // 6)
      step = jnp.stack([jnp.sin(heading), jnp.cos(heading)], -1)
      there = jnp.arange(n) < length[:, None]
      # A crack that has ended stays where it is.
      return start[:, None] + jnp.cumsum(step * there[..., None], 1), heading, there

    def leave(parents, alive, count, k, share):
      """`k` branches from random places of the first `count` of `parents`, and which are there."""
      points, heading, there = parents
      which = jnp.floor(draw.unit(k) * jnp.maximum(count, 1)).astype(int)
      place = draw.below(n, k)
      lean = draw.sign(k) * draw.uniform((0.5, 1.25), k)
      length = draw.log_uniform((0.06, 0.6), k) * short * share
      walked = walk(points[which, place], heading[which, place] + lean, length, k)
      return walked, there[which, place] & alive[which]

    most = self.count[1]
    # Mains start anywhere, also beyond the border, and head for the middle more often than not.
    start = draw.uniform((-0.15, 1.15), most, 2) * size
    towards = draw.uniform((0.2, 0.8), most, 2) * size - start
    heading = jnp.arctan2(towards[:, 0], towards[:, 1])
    mains = walk(start, heading, draw.uniform((0.3, 1.5), most) * short, most)
    counts = draw.count(self.count, 1.5), draw.count(self.branches), draw.count(self.twigs)
    alive_mains = jnp.arange(most) < counts[0]
    branches, on_main = leave(mains, alive_mains, counts[0], self.branches[1], 1.0)
    alive_branches = (jnp.arange(self.branches[1]) < counts[1]) & on_main
    twigs, on_branch = leave(branches, alive_branches, counts[1], self.twigs[1], 0.5)
    alive_twigs = (jnp.arange(self.twigs[1]) < counts[2]) & on_branch
    alive = jnp.concatenate([alive_mains, alive_branches, alive_twigs])
    points, _, there = (jnp.concatenate(parts) for parts in zip(mains, branches, twigs))
    k = len(alive)
    thinner = np.repeat([1.0, 0.6, 0.4], [most, self.branches[1], self.twigs[1]])
    wide = jnp.maximum(base * thinner * draw.log_uniform((0.5, 1.6), k), 0.7)[:, None]
    along = 1 + 0.35 * draw.curve(n, k, 6)
    lobes = draw.curve(n, k, max(4, n // 14)).clip(0) ** 2 * draw.uniform(self.flaked)
    half = (wide * along * (1 + 2 * lobes) / 2).clip(0.3, REACH - 2.0)
    held = draw.curve(n, k, 7) + 0.7 * draw.curve(n, k, n // 5) > draw.uniform(self.gaps, k, 1)
    alive = alive[:, None] & there & held

    inside = level(height, width, points, half, alive)
    ragged = draw.fractal(height, width, min(50, short / 3), 2)
    inside += draw.uniform((0.0, 0.5)) * jnp.minimum(base, 4.0) * ragged * 0.5
    worn = draw.uniform(self.opacity) * (1 + 0.35 * draw.noise(height, width, 9))
    cover = (inside + 0.5).clip(0, 1) * worn.clip(0, 1)

    flank = jnp.exp(-((jnp.abs(inside) / (1.0 + 0.8 * base)) ** 2)) * (inside > 0.5 - REACH)
    lit = flank - jnp.roll(flank, (2, 1), (0, 1))
    photo = drawing.shade(photo, 1 + draw.uniform(self.relief) * lit)
    colour = jnp.where(draw.chance(self.light), paper, artefact.dirt(draw))
    return artefact.Damaged(
      drawing.blend(photo, cover, colour), cover[..., None], {'count': counts[0], 'width': base}
    )
