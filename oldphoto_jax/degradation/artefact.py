"""The interface of artefacts and what they share: paper, dirt, several of a kind on one photo.

Every artefact is a frozen dataclass of ranges. Calling it is a pure function of ONE photo,

    artefact(key, photo, paper) -> Damaged(photo, mask, drawn)

The photo is float32 [H, W, 3] in [-1, 1], the mask float32 [H, W, 1] in [0, 1] (1 = the content is
lost), and `drawn` holds the numbers that were drawn. `paper` [H, W, 3] shows where the emulsion is
gone. Without it the artefact draws its own from the key.

Sizes are shares of the shorter side unless a comment says pixels. A fold is as large as its print,
while scratches, hairs and dust stay thin at any scan resolution. Curves are drawn by scattering a
narrow band of pixels around each of their points, so ten scratches cost their length and not ten
distance maps. Everything else is a level set of smooth noise.

The ranges were set by eye, by comparison with old photographs. The sizes of dust and hairs follow
shape statistics of hand-drawn masks of real film scans (see `scratches`).
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from oldphoto_jax.degradation import drawing


class Damaged(NamedTuple):
  """The result of an artefact.

  photo: float32 [H, W, 3] in [-1, 1]. mask: float32 [H, W, 1] in [0, 1], 1 = content lost.
  drawn: the parameters that were drawn, arrays by name.
  """

  photo: jax.Array
  mask: jax.Array
  drawn: dict[str, jax.Array]


class Marked(NamedTuple):
  """A photo that gets one artefact after the other.

  photo: float32 [H, W, 3] in [-1, 1]. mask: what it has lost so far, [H, W, 1] in [0, 1]. shown:
  the largest change that damage made to a value of each pixel, [H, W, 1].
  """

  photo: jax.Array
  mask: jax.Array
  shown: jax.Array


def unharmed(photo) -> Marked:
  """`Marked` before any artefact."""
  nothing = jnp.zeros_like(photo[..., :1])
  return Marked(photo, nothing, nothing)


def lost(damaged: Damaged, change) -> jax.Array:
  """What an artefact marks by default: its own mask."""
  del change
  return damaged.mask


def apply(draw, chosen, allowed, marked: Marked, paper, mark: Callable | None = lost) -> Marked:
  """Applies an artefact, or does not.

  Args:
    draw: drawing.Draws.
    chosen: (probability, artefact).
    allowed: bool, whether the photo may have this artefact at all.
    marked: the photo so far.
    paper: see the head of this file.
    mark: (result of the artefact, how far it changed each pixel) -> the mask of what it hides; None
      for surfaces, which hide nothing.
  """
  probability, artefact = chosen
  key = draw.key()

  def damage(photo, mask, shown):
    damaged = artefact(key, photo, paper)
    if mark is None:
      return damaged.photo, mask, shown
    change = jnp.abs(damaged.photo - photo).max(-1, keepdims=True)
    hidden = mark(damaged, change)
    shown = jnp.maximum(shown, jnp.where(hidden > 0, change, 0.0))
    return damaged.photo, jnp.maximum(mask, hidden), shown

  used = draw.chance(probability) & allowed
  return Marked(*lax.cond(used, damage, lambda *same: same, *marked))


def visible(marked: Marked, width: int, least: float, most: float) -> jax.Array:
  """The mask of what is lost and can be seen, 1 from half the opacity on.

  Damage begins to show between the changes `least` and `most`; `width` pixels beside it belong to
  it.
  """
  shown = drawing.smoothstep(drawing.widened(marked.shown, width), least, most)
  return (2 * marked.mask).clip(0, 1) * shown


def repeat(draw, most, photo, step):
  """Runs step(its own Draws, photo) -> (photo, cover) draw.count(most) times.

  The mask is the largest cover at each pixel.
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

  One tint per photo, from nearly neutral to cream, with fibres and soft mottling.
  """
  draw = drawing.Draws(key)
  green = draw.uniform((0.93, 1.0))
  colour = jnp.stack([jnp.ones(()), green, green ** draw.uniform((1.5, 3.0))])
  texture = 1 + draw.uniform((0.01, 0.04)) * fibre(draw.key(), height, width)
  texture += 0.03 * draw.noise(height, width, 12)
  light = draw.uniform((0.76, 0.94)) * texture[..., None]
  return (2 * colour * light - 1).clip(-1, 245 / 127.5 - 1)


def fibre(key, height, width):
  """Fine, slightly elongated noise, [height, width], standard deviation 1."""
  white = jax.random.uniform(key, (height, width), minval=-1)
  return white + jnp.roll(white, 1, 0) + jnp.roll(white, 1, 1)


def under(draw, photo, paper):
  """The given paper, or one drawn for the photo, [H, W, 3] in [-1, 1]."""
  return draw_paper(draw.key(), *photo.shape[:2]) if paper is None else paper


def dirt(draw):
  """The colour of dirt and dark hairs: nearly black, a little brown; [3] in [-1, 1]."""
  return 2 * draw.uniform((0.03, 0.25)) * jnp.array([1.0, 0.92, 0.8]) - 1


def unmasked(photo, drawn):
  """`Damaged` with an empty mask, for an artefact that loses no content."""
  return Damaged(photo, jnp.zeros_like(photo[..., :1]), drawn)
