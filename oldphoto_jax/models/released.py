"""The interface of a trained system, whatever networks it consists of."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax


class Networks(NamedTuple):
  """The functions of a released system; each model file makes them from the sizes it stored.

  Attributes:
    init: key -> parameters in the layout of a release; only their names and shapes matter here.
    apply: (params, photos [B, H, W, 3] in [-1, 1]) -> restored photos of the same shape and range;
      for a detector, the probability of damage [B, H, W, 1].
    multiple: H and W must be multiples of it.
    layerwise: whether the network needs the whole photo; see engine.Restorer.
    fill: see engine.Restorer; None: it fills no holes.
    look: (params, photos) -> (restored photos, probability of damage [B, H, W, 1]) in one pass;
      None: it finds no damage.
    answer: see engine.Restorer.
    prefill, shown: see engine.Restorer.
    find: see engine.Restorer.
    cleaning: see engine.Restorer.
    correction: (params, thumbnails, weights [B, h, w, 1]) -> arguments of models.tone.apply; None:
      it leaves tones as they are.
  """

  init: Callable[[jax.Array], Any]
  apply: Callable[[Any, jax.Array], jax.Array]
  multiple: int
  layerwise: bool
  fill: Callable[[Any, jax.Array, jax.Array], tuple[jax.Array, jax.Array]] | None = None
  look: Callable[[Any, jax.Array], tuple[jax.Array, jax.Array]] | None = None
  correction: Callable[[Any, jax.Array, jax.Array], tuple[jax.Array, ...]] | None = None
  answer: Callable[..., tuple[jax.Array, jax.Array]] | None = None
  prefill: Callable[[jax.Array, jax.Array], jax.Array] | None = None
  shown: Callable[[jax.Array, jax.Array, jax.Array], jax.Array] | None = None
  find: Callable[[Any, jax.Array], jax.Array] | None = None
  cleaning: Callable[[Any], Any] | None = None
