"""Artefacts and surfaces from drawings or photographs in folders."""

import dataclasses

import jax.numpy as jnp
import numpy as np

from oldphoto_jax.degradation import artefact, drawing


@dataclasses.dataclass(frozen=True, eq=False)
class Overlays:
  """Drawn artefacts, transposed, mirrored, scaled and moved at random; light or dark.

  An instance equals only itself, because its arrays cannot be hashed: build one and reuse it.
  """

  alpha: np.ndarray  # uint8 [N, S, S], 255 covers the photo
  count: tuple[int, int] = (1, 3)
  size: tuple[float, float] = (0.3, 0.9)  # side of the drawing
  opacity: tuple[float, float] = (0.4, 1.0)
  light: float = 0.7  # probability of light artefacts

  def __call__(self, key, photo, paper=None) -> artefact.Damaged:
    draw = drawing.Draws(key)
    paper = artefact.under(draw, photo, paper)
    colour = jnp.where(draw.chance(self.light), paper, artefact.dirt(draw))

    def lay(draw, photo):
      cover = self._cover(draw, *photo.shape[:2])
      return drawing.blend(photo, cover, colour), cover

    return artefact.repeat(draw, self.count, photo, lay)

  def _cover(self, draw, height, width):
    alpha = jnp.asarray(self.alpha)[draw.below(len(self.alpha))].astype(jnp.float32) / 255
    alpha = jnp.where(draw.chance(0.5), alpha.T, alpha)
    size = draw.uniform(self.size) * min(height, width)
    scale = size / alpha.shape[0] * jnp.where(draw.chance(0.5, 2), 1.0, -1.0)  # negative: mirrored
    middle = draw.uniform((0.1, 0.9), 2) * jnp.array([height, width])
    move = middle - scale * alpha.shape[0] / 2
    moved = [_sampled(n, alpha.shape[0], scale[i], move[i]) for i, n in enumerate((height, width))]
    cover = drawing.product(moved[0], alpha, moved[1].T)
    # The ringing and rounding of the product must not touch the rest of the photo.
    cover = jnp.where(cover > 1 / 255, cover, 0.0).clip(0, 1)
    return cover * draw.uniform(self.opacity)


def _sampled(n, size, scale, move):
  """Linear resampling of `size` values as a matrix [n, size]: value i moves to scale·i + move."""
  place = (jnp.arange(n)[:, None] + 0.5 - move) / scale - 0.5
  width = jnp.maximum(1 / jnp.abs(scale), 1.0)  # shrinking averages
  return (1 - jnp.abs(place - np.arange(size)) / width).clip(0) / width


@dataclasses.dataclass(frozen=True, eq=False)
class Textures:
  """Photographed or drawn surfaces, transposed, inverted and tiled in mirror image; empty mask.

  An instance equals only itself, because its arrays cannot be hashed.
  """

  relief: np.ndarray  # uint8 [N, S, S] around 128
  strength: tuple[float, float] = (0.015, 0.08)  # relative change of light at one std of relief

  def __call__(self, key, photo, paper=None) -> artefact.Damaged:
    height, width = photo.shape[:2]
    draw = drawing.Draws(key)
    relief = jnp.asarray(self.relief)[draw.below(len(self.relief))].astype(jnp.float32) / 32 - 4
    relief = jnp.where(draw.chance(0.5), relief.T, relief) * draw.sign()
    size = relief.shape[0]

    def mirrored(n):
      # Back and forth from a random start: no seams, however large the photo is.
      place = (np.arange(n) + draw.below(2 * size)) % (2 * size)
      return jnp.minimum(place, 2 * size - 1 - place)

    relief = relief[mirrored(height)][:, mirrored(width)]
    strength = draw.log_uniform(self.strength)
    photo = drawing.shade(photo, 1 + strength * relief)
    return artefact.unmasked(photo, {'strength': strength})
