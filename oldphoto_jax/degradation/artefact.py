"""What an artefact is, and what artefacts share: paper, dirt, several of a kind on one photo.

Every artefact is a frozen dataclass of ranges. Calling it is a pure function of ONE photo,

    artefact(key, photo, paper) -> Damaged(photo, mask, drawn)

with the photo float32 [H, W, 3] in [-1, 1], the mask float32 [H, W, 1] in [0, 1] (1 = the content
is lost), and `drawn` the numbers that were drawn. `paper` [H, W, 3] is what shows where the
emulsion is gone; left out, it is drawn from the key, so an artefact also works alone.

Sizes are shares of the shorter side unless they say pixels: a fold is as large as its print,
while scratches, hairs and dust stay thin at any scan resolution. Curves are drawn by scattering a
narrow band of pixels around each of their points, so a photo with ten scratches costs the length
of the scratches and not ten distance maps. Everything else is a level set of smooth noise.

The ranges were set by eye beside old photographs; sizes of dust and hairs beside the shape
statistics of hand-drawn masks of real film scans (see `scratches`).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from oldphoto_jax.degradation import drawing


class Damaged(NamedTuple):
  """What an artefact did.

  photo: float32 [H, W, 3] in [-1, 1]. mask: float32 [H, W, 1] in [0, 1], 1 = content lost.
  drawn: the parameters that were drawn, arrays by name.
  """

  photo: jax.Array
  mask: jax.Array
  drawn: dict[str, jax.Array]


def repeat(draw, most, photo, step):
  """Runs step(its own Draws, photo) -> (photo, cover) as often as draw.count(most) says.

  The mask is the covers' largest.
  """
  each = draw.key()
  count = draw.count(most)

  def run(i, carry):
    photo, mask = carry
    photo, cover = step(drawing.Draws(jax.random.fold_in(each, i)), photo)
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
  texture = 1 + draw.uniform((0.01, 0.04)) * fibre(draw.key(), height, width)
  texture += 0.03 * draw.noise(height, width, 12)
  light = draw.uniform((0.76, 0.94)) * texture[..., None]
  return (2 * colour * light - 1).clip(-1, 245 / 127.5 - 1)


def fibre(key, height, width):
  """Fine noise with a little length to it, [height, width], standard deviation 1."""
  white = jax.random.uniform(key, (height, width), minval=-1)
  return white + jnp.roll(white, 1, 0) + jnp.roll(white, 1, 1)


def under(draw, photo, paper):
  """The paper under a photo: the one that is given, or one drawn for it, [H, W, 3] in [-1, 1]."""
  return draw_paper(draw.key(), *photo.shape[:2]) if paper is None else paper


def dirt(draw):
  """The colour of dirt and dark hairs: nearly black, a little brown; [3] in [-1, 1]."""
  return 2 * draw.uniform((0.03, 0.25)) * jnp.array([1.0, 0.92, 0.8]) - 1


def unmasked(photo, drawn):
  """`Damaged` of what leaves the content where it was."""
  return Damaged(photo, jnp.zeros_like(photo[..., :1]), drawn)
