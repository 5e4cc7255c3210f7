"""When in doubt, less: which finds of damage are filled, and whether a photo needs cleaning."""

from collections.abc import Callable, Sequence

import numpy as np
from scipy import ndimage

from oldphoto_jax.errors import PhotoError
from oldphoto_jax.restoring import kinds, shapes

COARSER = (2, 4)  # how much smaller the copies are on which wide damage is sought
COARSEST = 128  # pixels of the shorter side that such a copy has at least: as in training
# A photo with a shorter side of at most so many pixels is also looked at twice as large: its cracks
# and specks are finer than on larger prints (benchmarks/prints).
SMALL = 400
THRESHOLD = 0.45  # probability of sure damage, of models.repair: see benchmarks/prints
# A photo that shows surely damaged pixels is damaged, and less sure ones are believed, too. In one
# with next to none only the surest count. The shares of pixels between which this changes: most
# prints with hand-marked damage have more than the second, most sound photos less than the first.
SURE, EVIDENCE = 0.8, (0.0004, 0.0015)
UNSURE = np.nextafter(np.float32(SURE), np.float32(0))
STRICTER = 0.1  # share of 1 - threshold that is left for a photo without such evidence
# The middle of a lost place looks less lost than its edge. What found pixels surround at the first
# share of its edge is damaged, too, if its probability is the second share of the threshold.
SURROUNDED, LIKELY = 0.7, 0.4
TRUST = 0.5  # how far the filling believes what was found: so models.repair has learnt it
GROW = 1  # pixels that a find is widened by: networks and people draw damage a little too thin
VISIBLE = 6 / 127.5  # mean change, of [-1, 1]: filling that changes less is not seen
# Noise is everywhere, and texture is not: how much a photo changes is measured where it changes
# least, in a tenth of its blocks. Below the first of these changes, of [-1, 1], it is sound and
# stays, from the second on it is cleaned. By the network that also finds and fills, noise of 15
# levels asks for 10, sound photos for 0.1 to 1.3 (one with noise for 2.4), curly fur among them,
# whose median is 5. A cleaner leaves sound photos alone (0.2 at most on BSDS, 0.7 for the one with
# noise), so it is believed earlier where it leaves at most this share of the noise.
NEEDED = 1.5 / 127.5, 3 / 127.5
NEEDED_OF_CLEANER, QUIETER = (0.4 / 127.5, 0.8 / 127.5), 0.8
BLOCK, BLOCKS = 16, 1000  # pixels of a side; how many are measured, about
LEAST_CHANGED = 0.1  # share of the blocks
PAPER = 0.85  # mean level, of [-1, 1], from which on a block may be a border, which shows no noise

# Share of the shorter side: what is found and is wider stays, as so wide a filling is made up. It
# may be a face that was lost, or a light window that was not.
WIDEST = 1 / 6
WIDEST_PIXELS = 24  # but so much is filled in small photos, too

# A search that marks more has failed. Marks by hand cover up to 0.46 of 62 real prints.
MOST = 0.5
MOST_IN_GRAIN = 0.15  # the same in strong grain, which looks like specks


def copies(size: tuple[int, int]) -> list[tuple[int, int]]:
  """Height and width of the copies on which damage of a photo of this size is sought.

  The larger one of a small photo comes last; see SMALL.
  """
  height, width = size
  smaller = [(height // n, width // n) for n in COARSER if min(size) // n >= COARSEST]
  return [*smaller, (2 * height, 2 * width)] if min(size) <= SMALL else smaller


def on_copies(
  photo: np.ndarray, find: Callable[[Sequence[np.ndarray]], Sequence[np.ndarray]]
) -> tuple[np.ndarray | None, np.ndarray | None]:
  """What is found on copies of a photo: the most on smaller ones, and on one twice as large.

  Wide damage fills a network's view at full size, and is seen on a smaller copy.

  Args:
    photo: float32 [H, W, 3].
    find: photos of any size -> the probability of damage in each.

  Returns:
    [H, W, 1] each; None where there is no such copy.
  """
  size = photo.shape[:2]
  sizes = copies(size)
  if not sizes:
    return None, None
  found = list(find([shapes.resized(photo, *sides) for sides in sizes]))
  larger = shapes.resized(found.pop(), *size) if sizes[-1] > size else None
  if not found:
    return None, larger
  most, *others = (shapes.resized(one, *size) for one in found)
  for other in others:
    np.maximum(most, other, out=most)
  return most, larger


def joined(
  probability: np.ndarray, on_smaller: np.ndarray | None, on_larger: np.ndarray | None
) -> np.ndarray:
  """The probability of damage: the mean of that at full size and of the most `on_copies` found.

  What is sure only with the larger copy stays below SURE: it is no evidence of damage.
  """
  usual = probability if on_smaller is None else (probability + on_smaller) / 2
  if on_larger is None:
    return usual
  most = on_larger if on_smaller is None else np.maximum(on_smaller, on_larger)
  return np.minimum((probability + most) / 2, np.maximum(usual, UNSURE))


def widened(marked: np.ndarray) -> np.ndarray:
  """A mask [H, W, 1] widened by `GROW`, bool."""
  return ndimage.binary_dilation(marked[..., 0], np.ones((3, 3)), iterations=GROW)[..., None]


def decide(probability: np.ndarray, threshold: float) -> np.ndarray:
  """The mask of what is damaged.

  What has at least the threshold, widened by `GROW`, and what this surrounds: see SURROUNDED.

  Args:
    probability: float32 [H, W, 1].
    threshold: probability from which on a pixel is surely damaged, in a photo that is damaged; see
      `adapted`.

  Returns:
    float32 [H, W, 1], 0 or 1.
  """
  threshold = adapted(probability, threshold)
  found = widened(probability >= threshold)
  return _whole(found[..., 0], probability[..., 0], LIKELY * threshold)[..., None]


def _whole(found, probability, least):
  """The mask `found`, bool [H, W], with the pieces from `least` on that it surrounds, float32."""
  if not found.any():
    return found.astype(np.float32)
  pieces, count = ndimage.label((probability >= least) & ~found)
  edge = np.where(pieces, 0, ndimage.maximum_filter(pieces, 3))  # of which piece a pixel is an edge
  edges, shared = (np.bincount(x.ravel(), minlength=count + 1) for x in (edge, edge[found]))
  surrounded = shared >= SURROUNDED * np.maximum(edges, 1)
  surrounded[0] = False
  return (found | surrounded[pieces]).astype(np.float32)


def narrow(mask: np.ndarray) -> tuple[np.ndarray, str]:
  """The mask without places wider than WIDEST and WIDEST_PIXELS, and a sentence if there were any.

  Cracks that lead to such a place stay in the mask, but for a quarter of that width beside it.

  Args:
    mask: of `decide`.
  """
  marked, short = mask[..., 0] > 0, min(mask.shape[:2])
  half = round(max(WIDEST_PIXELS, WIDEST * short) / 2)
  # Chessboard distances: an upright square of this width fits in, or does not. The photo's edge
  # bounds a place as its other sides do.
  wide = ndimage.distance_transform_cdt(np.pad(marked, 1))[1:-1, 1:-1] > half
  if not wide.any():
    return mask, ''
  # Squares alone would leave the rim of a round place, and fill it with blocks.
  around = ndimage.distance_transform_cdt(~wide) <= half + half // 2
  sentence = f'What looked damaged and was over {2 * half} pixels wide stays; mark it by --mask.'
  return np.where(around[..., None], np.float32(0), mask), sentence


def failed(mask: np.ndarray, noise: float) -> str:
  """Why what was found cannot be damage, as a sentence; '' if it can.

  Args:
    mask: of `decide`.
    noise: of the photo, in levels of 255, as kinds.noise.
  """
  share = float(mask.mean())
  if share > MOST:
    return f'{share:.0%} of the picture looked like damage, so none was filled; mark it by --mask.'
  if share > MOST_IN_GRAIN and noise > kinds.GRAIN:
    return 'Its strong grain looked like damage, so none was filled; mark damage by --mask.'
  return ''


def adapted(probability: np.ndarray, threshold: float) -> float:
  """The threshold for this photo: stricter if there is little evidence that it is damaged."""
  share = float((probability >= SURE).mean())
  least, enough = np.log(EVIDENCE)
  doubt = 1 - np.clip((np.log(max(share, 1e-9)) - least) / (enough - least), 0, 1)
  return float(threshold + doubt * (1 - STRICTER) * (1 - threshold))


def worth_filling(photo: np.ndarray, filled: np.ndarray, mask: np.ndarray) -> np.ndarray:
  """The mask without the pieces that filling would hardly change: they may well be sound.

  Args:
    photo, filled: float32 [H, W, 3] in [-1, 1], before and after; a noisy photo after cleaning, as
      taking its noise away is no reason to fill.
    mask: float32 [H, W, 1].
  """
  pieces, count = ndimage.label(mask[..., 0] > 0, np.ones((3, 3)))
  if not count:
    return mask
  inside = np.nonzero(pieces)  # a small part of the photo
  of = pieces[inside]
  change = np.abs(filled[inside] - photo[inside]).max(-1)
  sizes = np.maximum(np.bincount(of, minlength=count + 1), 1)
  kept = np.bincount(of, change, count + 1) / sizes >= VISIBLE
  kept[0] = False
  return mask * kept[pieces][..., None]


def need(photo: np.ndarray, clean: np.ndarray, levels: tuple[float, float] = NEEDED) -> float:
  """How far a photo needs the cleaning that a network proposes: 0 not at all, 1 wholly.

  A network cleans everything a little. In a sound photo that costs texture and gains nothing.

  Args:
    photo, clean: float32 [H, W, 3] in [-1, 1], before and after; H and W at least BLOCK, or there
      is nothing to measure, and the photo is cleaned.
    levels: the changes at which it begins to need it, and needs all of it.

  Raises:
    PhotoError: `clean` has values that are not finite.
  """
  rows, columns = (n // BLOCK for n in photo.shape[:2])
  if not rows or not columns:
    return 1.0
  step = max(1, round((rows * columns / BLOCKS) ** 0.5))  # of a large photo, a grid of blocks

  def blocks(x: np.ndarray) -> np.ndarray:
    x = x[: rows * BLOCK].reshape(rows, BLOCK, *x.shape[1:])[::step]
    return x[:, :, : columns * BLOCK].reshape(len(x), BLOCK, columns, BLOCK, -1)[:, :, ::step]

  before = blocks(photo)
  change = np.abs(blocks(clean) - before).mean((1, 3, 4))
  inner = np.abs(before.mean((1, 3, 4))) < PAPER
  if not np.isfinite(change).all():
    raise PhotoError('the network gave values that are not finite; check its weights.')
  change = float(np.quantile(change[inner] if inner.any() else change, LEAST_CHANGED))
  least, most = levels
  return float(np.clip((change - least) / (most - least), 0, 1))
