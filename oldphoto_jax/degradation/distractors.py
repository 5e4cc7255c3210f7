"""Distractors: structures of a scene that look like damage and that a detector must not mark.

Everyday photos contain few of them, and a detector that has never seen any marks wires, railings
and the borders of prints. They are drawn into the clean photo, so they are in no mask.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

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
    # All numbers in three calls: each takes long to compile.
    lines, border = jax.vmap(lambda key: jax.random.split(key, 9))(
      jnp.stack([lines_key, border_key])
    )
    counts = jax.vmap(lambda key, low, high: jax.random.randint(key, (), low, high))(
      jnp.stack([lines[4], border[0]]),
      np.array([self.count[0], 0]),
      np.array([self.count[1] + 1, 4]),
    )
    drawn = jax.vmap(drawing.uniform)(
      jnp.stack([lines[0], *lines[1:4], *lines[5:9], *border[1:5]]),
      jnp.array(
        [
          (0.0, jnp.pi),
          (-1.0, 1.0),
          (-0.5, 0.5),
          self.spacing,
          self.half_width,
          (0.0, 1.0),
          self.opacity,
          (0.0, jnp.pi),
          (-0.03, 0.03),
          (0.0, self.border_share),
          (0.0, 1.0),
          (0.0, jnp.pi),
        ]
      ),
    )
    with_lines = self._with_lines(drawn[:8], counts[0], clean)
    return self.recipe(key, self._with_border(drawn[8:], counts[1], with_lines))

  def _with_lines(self, drawn, count, photo):
    angle, bend, move, spacing, half_width, chance, opacity, tone = drawn
    side = max(photo.shape[:2])
    along, across = _axes(photo.shape, angle)
    bend *= 4 * self.sag / side
    across = across + bend * along**2 - side * move
    nearest = jnp.clip(jnp.round(across / spacing), 0, count - 1)
    distance = jnp.abs(across - spacing * nearest)
    # A pixel is covered by the share of it that the line reaches.
    cover = jnp.clip(half_width + 0.5 - distance, 0, 1)
    return _paint(photo, (chance < self.lines) * opacity * cover, tone)

  def _with_border(self, drawn, side_of, photo):
    askew, share, chance, tone = drawn
    # Along one of the four sides, and slightly askew, as scanned prints are.
    _, across = _axes(photo.shape, jnp.pi / 2 * side_of + askew)
    edge = min(photo.shape[:2]) * (0.5 - share)
    return _paint(photo, (chance < self.border) * jnp.clip(across - edge + 0.5, 0, 1), tone)


def _axes(shape, angle):
  """Coordinates of each pixel along and across a direction, in pixels from the centre."""
  rows = (jnp.arange(shape[0]) - (shape[0] - 1) / 2)[:, None]
  columns = jnp.arange(shape[1]) - (shape[1] - 1) / 2
  cos, sin = jnp.cos(angle), jnp.sin(angle)
  return cos * columns + sin * rows, cos * rows - sin * columns


def _paint(photo, cover, tone):
  """Blends one gray, light or dark, into [H, W, 3] with the opacity `cover` [H, W].

  `tone` is uniform in 0..π, so that black and white are likelier than mid gray.
  """
  return photo + cover[..., None] * (jnp.cos(tone) - photo)
