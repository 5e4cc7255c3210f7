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

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from oldphoto_jax.degradation import drawing, examples


class Damaged(NamedTuple):
  """The result of an artefact.

  photo: float32 [H, W, 3] in [-1, 1]. mask: float32 [H, W, 1] in [0, 1], 1 = content lost.
  drawn: the parameters that were drawn, arrays by name.
  """

  photo: jax.Array
  mask: jax.Array
  drawn: dict[str, jax.Array]


@runtime_checkable
class Several(Protocol):
  """An artefact of which a photo gets several: `count` of them, from fewest to most.

  `one(draw, photo, paper) -> (photo, cover [H, W])` adds one. See `repeat`.
  """

  count: tuple[int, int]

  def one(self, draw, photo, paper): ...


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


def lost(cover, change) -> jax.Array:
  """What an artefact marks by default: its own mask."""
  del change
  return cover


def nothing(cover, change) -> jax.Array:
  """What a surface marks: it hides nothing."""
  del change
  return jnp.zeros_like(cover)


class Layer(NamedTuple):
  """An artefact of a recipe.

  probability: how often a photo gets it. artefact: see the head of this file. allowed: bool,
  whether the photo may have it at all. mark: (mask of the artefact, how far it changed each
  pixel), [H, W, 1] both -> the mask of what it hides.
  """

  probability: float
  artefact: Callable[..., Damaged]
  allowed: jax.Array | bool = True
  mark: Callable = lost


def apply(draw, layers: Sequence[Layer], marked: Marked, paper) -> Marked:
  """Applies artefacts in turn, or does not, each by its probability.

  They are one loop with one generator of random numbers, which compiles in two thirds of the time
  of artefacts in a row with generators of their own.

  Args:
    draw: drawing.Draws.
    layers: in the order in which they come.
    marked: the photo so far.
    paper: see the head of this file.
  """
  height, width = marked.photo.shape[:2]
  keys = jnp.stack([draw.key() for _ in layers])
  chances = draw.unit(len(layers)) < np.array([layer.probability for layer in layers], np.float32)
  used = chances & jnp.stack([jnp.asarray(layer.allowed) for layer in layers])

  # Each of several artefacts of a kind is a step of its own.
  ends = [
    layer.artefact.count if isinstance(layer.artefact, Several) else (1, 1) for layer in layers
  ]
  several = [i for i, layer in enumerate(layers) if isinstance(layer.artefact, Several)]
  most = [most for _, most in ends]
  kind = np.repeat(np.arange(len(layers)), most)
  number = np.concatenate([np.arange(n) for n in most])
  counts = jnp.ones(len(kind), int)
  keys = keys[kind]
  if several:
    first = np.searchsorted(kind, several)
    each, drawn = jax.vmap(_begin)(keys[first], np.array([ends[i] for i in several]))
    among = np.flatnonzero(np.isin(kind, several))
    owner = np.searchsorted(several, kind[among])
    own = jax.vmap(jax.random.fold_in)(each[owner], number[among])
    # Gathered: a scatter is a loop, which takes longer to compile.
    place = np.arange(len(kind))
    place[among] = len(kind) + np.arange(len(among))
    keys = jnp.concatenate([keys, own])[place]
    counts = jnp.concatenate([counts, drawn[owner]])[place]

  marks = list(dict.fromkeys(layer.mark for layer in layers))
  length = max(drawing.BLOCK, min((height // 2 + 1) * (width // 2 + 1), _LONGEST))

  def step(carry, step):
    key, active, last, which, first, mark = step

    def run(carry):
      marked, before, cover = carry
      numbers = drawing.ahead(key, _BLOCKS, length)
      before = jnp.where(first, marked.photo, before)
      photo, covered = lax.switch(which, branches, numbers, marked.photo)
      cover = jnp.maximum(jnp.where(first, 0.0, cover), covered)
      change = jnp.abs(photo - before).max(-1, keepdims=True)
      # Several of a kind are one damage.
      hidden = jnp.where(last, lax.switch(mark, marks, cover, change), 0.0)
      shown = jnp.maximum(marked.shown, jnp.where(hidden > 0, change, 0.0))
      return Marked(photo, jnp.maximum(marked.mask, hidden), shown), before, cover

    return examples.when(active, run, carry), None

  branches = [partial(_add, layer.artefact, paper) for layer in layers]
  steps = (
    keys,
    used[kind] & (number < counts),
    number == counts - 1,
    kind,
    number == 0,
    np.array([marks.index(layers[i].mark) for i in kind.tolist()]),
  )
  (marked, _, _), _ = lax.scan(step, (marked, marked.photo, jnp.zeros_like(marked.mask)), steps)
  return marked


_BLOCKS = 10  # blocks of random numbers that `apply` draws ahead; the most of an artefact
_LONGEST = 129**2  # numbers in them, at most; larger blocks are drawn when they are needed


def _begin(key, ends):
  """What `repeat` draws first: the key of all steps, and their number between `ends` [2]."""
  draw = drawing.Draws(drawing.ahead(key, 2, 1))
  return draw.key(), draw.count(ends)


def _add(artefact, paper, numbers, photo):
  """The artefact, or one of several, on the photo: photo, cover [H, W, 1]."""
  if isinstance(artefact, Several):
    photo, cover = artefact.one(drawing.Draws(numbers), photo, paper)
    return photo, cover[..., None]
  return artefact(numbers, photo, paper)[:2]


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
  draw = drawing.Draws(drawing.ahead(key))
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
