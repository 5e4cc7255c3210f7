"""Distractors: structures of a scene that look like damage and that a detector must not mark.

Everyday photos contain few of them, and a detector that has never seen any marks wires, railings
and the borders of prints. They are drawn into the clean photo, so they are in no mask.
"""

import dataclasses

import jax
import jax.numpy as jnp

from oldphoto_jax.degradation import drawing, recipes


@dataclasses.dataclass(frozen=True)
class Distracted:
  """Draws distractors into some photos, then damages all photos by `recipe`.

  Lines come in parallel (wires, railings, blinds), never one at a time. A single line could just
  as well be a scratch, and would teach the detector to miss scratches. All ranges were set by eye.
  """

  recipe: recipes.Recipe
  lines: float = 0.15  # probability of a bundle of parallel lines
  border: float = 0.15  # probability of a straight edge beyond which the photo is flat
  count: tuple[int, int] = (2, 9)  # lines in a bundle
  spacing: tuple[float, float] = (4.0, 30.0)  # pixels between them
  half_width: tuple[float, float] = (0.3, 1.8)  # pixels
  opacity: tuple[float, float] = (0.3, 1.0)
  sag: float = 0.15  # largest bend of a line, as a share of the photo's side
  border_share: float = 0.15  # largest share of the side that a border takes

  def __call__(self, key, clean) -> recipes.Aged:
    lines_key, border_key, key = jax.random.split(key, 3)
    return self.recipe(key, self._with_border(border_key, self._with_lines(lines_key, clean)))

  def _with_lines(self, key, photo):
    keys = jax.random.split(key, 9)
    side = max(photo.shape[:2])
    along, across = _axes(photo.shape, drawing.uniform(keys[0], (0.0, jnp.pi)))
    bend = 4 * self.sag / side * drawing.uniform(keys[1], (-1.0, 1.0))
    across = across + bend * along**2 - side * drawing.uniform(keys[2], (-0.5, 0.5))
    spacing = drawing.uniform(keys[3], self.spacing)
    count = jax.random.randint(keys[4], (), self.count[0], self.count[1] + 1)
    nearest = jnp.clip(jnp.round(across / spacing), 0, count - 1)
    distance = jnp.abs(across - spacing * nearest)
    # A pixel is covered by the share of it that the line reaches.
    cover = jnp.clip(drawing.uniform(keys[5], self.half_width) + 0.5 - distance, 0, 1)
    drawn = jax.random.bernoulli(keys[6], self.lines)
    return _paint(photo, drawn * drawing.uniform(keys[7], self.opacity) * cover, keys[8])

  def _with_border(self, key, photo):
    keys = jax.random.split(key, 5)
    # Along one of the four sides, and slightly askew, as scanned prints are.
    angle = jnp.pi / 2 * jax.random.randint(keys[0], (), 0, 4) + drawing.uniform(
      keys[1], (-0.03, 0.03)
    )
    _, across = _axes(photo.shape, angle)
    side = min(photo.shape[:2])
    edge = side * (0.5 - drawing.uniform(keys[2], (0.0, self.border_share)))
    drawn = jax.random.bernoulli(keys[3], self.border)
    return _paint(photo, drawn * jnp.clip(across - edge + 0.5, 0, 1), keys[4])


def _axes(shape, angle):
  """Coordinates of each pixel along and across a direction, in pixels from the centre."""
  rows = (jnp.arange(shape[0]) - (shape[0] - 1) / 2)[:, None]
  columns = jnp.arange(shape[1]) - (shape[1] - 1) / 2
  cos, sin = jnp.cos(angle), jnp.sin(angle)
  return cos * columns + sin * rows, cos * rows - sin * columns


def _paint(photo, cover, key):
  """Blends one gray, light or dark, into [H, W, 3] with the opacity `cover` [H, W]."""
  # Black and white are more likely than mid gray.
  tone = jnp.cos(drawing.uniform(key, (0.0, jnp.pi)))
  return photo + cover[..., None] * (tone - photo)
