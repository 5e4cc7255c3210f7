"""Reviving the tones of a photo: what models.tone learnt, on photos of any size."""

import numpy as np

from oldphoto_jax.restoring import shapes

SIDE = 64  # pixels of the thumbnail whose statistics decide
FRAME = 0.03  # share of each side that may be border or worn edge, and does not count
# Gates from the first on begin to count, from the second on wholly: of sound photos few reach the
# first, of faded ones most the second (benchmarks/prints).
GATE = (0.5, 0.9)
BAND = 1 << 20  # pixels that are corrected at once, to bound the memory


def thumbnail(photo: np.ndarray, mask: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
  """A small square picture of the photo, and how far its pixels count.

  Args:
    photo: float32 [H, W, 3] in [-1, 1].
    mask: float32 [H, W, 1], damage; None: there is none.

  Returns:
    float32 [1, SIDE, SIDE, 3] and [1, SIDE, SIDE, 1].
  """
  small = shapes.resized(photo, SIDE, SIDE)
  weight = np.ones((SIDE, SIDE, 1), np.float32)
  if mask is not None:
    weight -= shapes.resized(mask, SIDE, SIDE)
  frame = round(FRAME * SIDE)
  inner = np.zeros_like(weight)
  inner[frame : SIDE - frame, frame : SIDE - frame] = 1
  return small[None], (weight * inner)[None]


def conviction(gate: float) -> float:
  """How far a correction is applied, of the gate that the network gives: 0 unless it is sure."""
  least, most = GATE
  return gate * float(np.clip((gate - least) / (most - least), 0, 1))


def correct(
  photo: np.ndarray, knots: np.ndarray, matrix: np.ndarray, gate: float, largest: float
) -> np.ndarray:
  """models.tone.apply of one photo, in bands of rows: float32 [H, W, 3] in [-1, 1].

  Args:
    photo: float32 [H, W, 3] in [-1, 1].
    knots: what the curves add at equal steps from black to white, [3, n].
    matrix: what is added to the identity, [3, 3].
    gate: how far the correction is applied, in [0, 1].
    largest: change of a value at most.
  """
  place = np.linspace(-1, 1, knots.shape[1])
  result = np.empty_like(photo)
  rows = max(1, BAND // photo.shape[1])
  for top in range(0, photo.shape[0], rows):
    band = photo[top : top + rows]
    curved = np.stack(
      [band[..., c] + np.interp(band[..., c], place, knots[c]) for c in range(3)], -1
    )
    change = curved + curved @ matrix.T - band
    result[top : top + rows] = band + gate * change.clip(-largest, largest)
  return result.clip(-1, 1)
