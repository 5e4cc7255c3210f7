"""Artefacts of the whole print: fading, yellowing and the paper's surface. Nothing is masked."""

import dataclasses

import jax.numpy as jnp
import numpy as np

from oldphoto_jax.degradation import artefact, drawing, photographic


@dataclasses.dataclass(frozen=True)
class Fading:
  """Loss of density per channel, stronger in some places and towards the borders; empty mask."""

  black: tuple[float, float] = (0.0, 0.18)  # where black goes, of full scale
  white: tuple[float, float] = (0.82, 1.0)
  gamma: tuple[float, float] = (0.7, 1.2)
  channels: float = 0.035  # how far the three dyes differ in black, white and gamma
  uneven: tuple[float, float] = (0.0, 0.7)  # share of the fading that depends on the place

  def __call__(self, key, photo, paper=None) -> artefact.Damaged:
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
    return artefact.unmasked(photo, {'black': black, 'white': white, 'gamma': gamma})


@dataclasses.dataclass(frozen=True)
class Yellowing:
  """The paper and the gelatine turn yellow to brown, unevenly; empty mask."""

  green: tuple[float, float] = (0.85, 0.98)  # share of green that is still reflected,
  blue: tuple[float, float] = (1.8, 3.5)  # and of blue, as a power of the share of green
  uneven: tuple[float, float] = (0.0, 0.8)

  def __call__(self, key, photo, paper=None) -> artefact.Damaged:
    draw = drawing.Draws(key)
    green = draw.uniform(self.green)
    colour = jnp.stack([green**0.25, green, green ** draw.uniform(self.blue)])
    place = draw.uniform(self.uneven) * draw.noise(*photo.shape[:2], 3)[..., None]
    return artefact.unmasked(
      photographic.tint(photo, colour ** (1 + place).clip(0)), {'colour': colour}
    )


@dataclasses.dataclass(frozen=True)
class PaperTexture:
  """The surface of the print under a slanting light: matt grain, linen, or silk; empty mask."""

  strength: tuple[float, float] = (0.01, 0.05)
  period: tuple[float, float] = (0.008, 0.02)  # of linen and silk; at least 3 pixels

  def __call__(self, key, photo, paper=None) -> artefact.Damaged:
    height, width = photo.shape[:2]
    draw = drawing.Draws(key)
    relief = artefact.fibre(draw.key(), height, width)
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
    kind = draw.below(4)  # 0 linen, 1 silk, 2 and 3 plain matt
    pattern = jnp.where(kind == 0, linen, jnp.where(kind == 1, silk, 0.0))
    worn = 0.7 + 0.4 * draw.noise(height, width, 4)
    strength = draw.uniform(self.strength)
    gain = 1 + strength * (0.6 * matt + 0.4 * pattern * worn)
    return artefact.unmasked(drawing.shade(photo, gain), {'kind': kind, 'strength': strength})
