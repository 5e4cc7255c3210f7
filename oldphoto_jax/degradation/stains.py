"""Damage that lies over the content: stains, foxing, smudges."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np

from oldphoto_jax.degradation import artefact, drawing


@dataclasses.dataclass(frozen=True)
class Stains:
  """Stains and water rings: a tinted blot with a darker rim, sharp outside and soft inside.

  The content is still there, so the mask is at most 1/4.
  """

  count: tuple[int, int] = (1, 3)
  radius: tuple[float, float] = (0.06, 0.5)
  strength: tuple[float, float] = (0.07, 0.4)  # density inside; the rim has up to four times that
  bleached: float = 0.2  # share of stains that lighten instead

  def __call__(self, key, photo, paper=None) -> artefact.Damaged:
    draw = drawing.Draws(key)
    paper = artefact.under(draw, photo, paper)
    step = lambda draw, photo: self.one(draw, photo, paper)
    return artefact.repeat(draw, self.count, photo, step)

  def one(self, draw, photo, paper):
    """Adds a stain: see artefact.Several."""
    height, width = photo.shape[:2]
    short = min(height, width)
    centre = draw.uniform((-0.1, 1.1), 2) * jnp.array([height, width])
    radius = draw.log_uniform(self.radius) * short
    stretch = draw.log_uniform((0.7, 1.4))
    rows, columns = drawing.grid(height, width)
    y, x = (rows - centre[0]) * stretch, (columns - centre[1]) / stretch
    outline = drawing.outline(draw, y[None], x[None], (0.25, 0.2, 0.12, 0.1, 0.08, 0.05))[0] - 1
    outline += draw.noises(height, width, [(0.2, 4), (0.09, 14), (0.03, min(50, short / 3))])
    # Distance inside the outline, in pixels; noise moves the outline by a share of the radius.
    level = radius * (1 + outline) - jnp.sqrt(y * y + x * x)
    body = jax.nn.sigmoid(level / (0.5 + 0.02 * short * draw.unit() ** 2))
    rim = body * jnp.exp(-level.clip(0) / (draw.log_uniform((0.006, 0.035)) * short))
    cloud = 0.75 + 0.3 * draw.noise(height, width, 7)
    strength = draw.uniform(self.strength)
    density = strength * body * (0.5 * cloud + 1.6 * draw.uniform((0.3, 1.0)) * rim)
    # Brown: blue loses most.
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

  def __call__(self, key, photo, paper=None) -> artefact.Damaged:
    height, width = photo.shape[:2]
    short, most = min(height, width), self.count[1]
    draw = drawing.Draws(key)
    count = draw.count(self.count)
    place = drawing.scattered(draw, most, height, width, 4, 0.5, 0.15)
    radius = jnp.maximum(draw.low(self.radius, most, 1, 1) * short, 0.8)
    row, column, y, x = drawing.around(place, 1 + math.ceil(2 * max(self.radius[1] * short, 1)))
    outline = drawing.outline(draw, y, x, (0.35, 0.2, 0.15))
    r = jnp.sqrt(x * x + y * y) / (radius * outline)
    value = 0.75 * (1 - drawing.smoothstep(r, 0.3, 1.1)) + 0.25 * (
      1 - drawing.smoothstep(r, 0.6, 2.0)
    )
    value *= draw.uniform((0.4, 1.0), most, 1, 1) * draw.uniform(self.strength)
    value *= (np.arange(most) < count)[:, None, None]
    cover = drawing.place(jnp.zeros((height, width)), row, column, value)
    gain = jnp.exp(-cover[..., None] * jnp.array([0.35, 0.75, 1.3]))
    return artefact.Damaged(
      drawing.shade(photo, gain), (0.7 * cover[..., None]).clip(0, 1), {'count': count}
    )


@dataclasses.dataclass(frozen=True)
class Smudges:
  """Finger smudges: ridges that curve around a core, inside a soft and patchy oval.

  The content is still there, so the mask is at most 1/5.
  """

  count: tuple[int, int] = (1, 3)
  radius: tuple[float, float] = (0.04, 0.12)
  strength: tuple[float, float] = (0.08, 0.28)
  light: float = 0.5  # share of light smudges

  def __call__(self, key, photo, paper=None) -> artefact.Damaged:
    draw = drawing.Draws(key)
    step = lambda draw, photo: self.one(draw, photo, paper)
    return artefact.repeat(draw, self.count, photo, step)

  def one(self, draw, photo, paper):
    """Adds a smudge: see artefact.Several."""
    del paper
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
    # Ridges: arches around a core below the middle, about nine per radius, as on a finger.
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
