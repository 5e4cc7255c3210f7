"""What a restoration does to a real print: scores that need its hand-made mask, and no truth.

Nobody knows what a damaged print looked like, so each score asks one honest question: is the damage
found, is its line gone, does the filling have the texture of its surroundings, and is the rest of
the photo left alone? Filling the holes again to compare with is not among them: it would call any
smooth filling perfect.
"""

import dataclasses
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from oldphoto_jax import colour

DAMAGED = 1e-3  # share of a print that is damage, from which on its F1 counts by print
WIDEST = 48  # pixels across damage that `line_energy` looks over
SHIFTS = 20  # sound places that the line energy of a print is compared with
MOVED = 4 / 127.5  # four levels of 8 bits: what an eye may notice
HARMED = {'texture': 0.9, 'changed': 0.02}  # from where on a print counts as harmed


class Label(NamedTuple):
  """What a person marked on a print: bool [H, W] each.

  true: where it is damaged. known: where that can be decided; other pixels count on neither side.
  """

  true: np.ndarray
  known: np.ndarray


@dataclasses.dataclass(frozen=True)
class Counts:
  """Pixels of one print or of many: those found near true damage, found, true near found, true."""

  right: int = 0
  found: int = 0
  hit: int = 0
  true: int = 0

  def __add__(self, other: 'Counts') -> 'Counts':
    return Counts(*(a + b for a, b in zip(dataclasses.astuple(self), dataclasses.astuple(other))))

  @property
  def precision(self) -> float:
    return self.right / max(self.found, 1)

  @property
  def recall(self) -> float:
    return self.hit / max(self.true, 1)

  @property
  def f1(self) -> float:
    """Of precision and recall; 1 where there is no damage and none was found."""
    if self.found == self.true == 0:
      return 1.0
    return 2 * self.precision * self.recall / max(self.precision + self.recall, 1e-9)


def count(found: np.ndarray, label: Label, tolerance: int = 2, frame: int = 0) -> Counts:
  """Compares found damage with a label.

  Args:
    found: bool [H, W].
    label: of the print.
    tolerance: pixels by which found damage may lie beside true damage, along both axes.
    frame: pixels along the border that are ignored, too: worn edges weigh much in area.
  """
  known = label.known
  if frame:
    inner = np.zeros_like(known)
    inner[frame:-frame, frame:-frame] = True
    known = known & inner
  true, found = label.true & known, found & known

  def near(mask: np.ndarray) -> np.ndarray:
    if not tolerance:
      return mask
    return ndimage.binary_dilation(mask, np.ones((3, 3), bool), iterations=tolerance)

  return Counts(
    int((found & near(true)).sum()),
    int(found.sum()),
    int((true & near(found)).sum()),
    int(true.sum()),
  )


def best_threshold(
  probabilities: Iterable[np.ndarray], labels: Iterable[Label], tolerance: int = 2
) -> tuple[float, Counts]:
  """The threshold, of 0.05 to 0.95, with the best F1 over the pixels of all prints, and that F1."""
  pairs = list(zip(probabilities, labels))
  thresholds = np.arange(1, 20) / 20
  counts = [sum((count(p >= t, m, tolerance) for p, m in pairs), Counts()) for t in thresholds]
  best = max(range(len(counts)), key=lambda i: counts[i].f1)
  return float(thresholds[best]), counts[best]


def f1_by_print(
  probabilities: Iterable[np.ndarray], labels: Iterable[Label], threshold: float
) -> tuple[list[float], float]:
  """The F1 of each print at a threshold, and the mean over the prints that are damaged.

  Damaged are those of which more than DAMAGED is: in the others, a speck decides between 0 and 1.
  """
  pairs = list(zip(probabilities, labels))
  each = [count(p >= threshold, label).f1 for p, label in pairs]
  damaged = [f1 for f1, (_, label) in zip(each, pairs) if label.true.mean() > DAMAGED]
  return each, float(np.mean(damaged))


def line_energy(photo: np.ndarray, mask: np.ndarray) -> float:
  """How far the middle of the marked lines and spots stands out from both of their sides.

  The mean, over the ridge of the mask, of |2 middle - side - other side| in luma, taken across the
  mask where it is narrowest, two pixels beyond its edges.

  Args:
    photo: float32 [H, W, 3] in [-1, 1].
    mask: bool [H, W].

  Returns:
    In units of [-1, 1]; nan where nothing of the mask is narrow enough.
  """
  luma = colour.luma(photo)[..., 0]
  across = _across(mask)
  if not len(across):
    return float('nan')
  middle, one, other = (luma[tuple(across[:, i].T)] for i in range(3))
  return float(np.abs(2 * middle - one - other).mean())


def line_left(old: np.ndarray, new: np.ndarray, mask: np.ndarray, sound: np.ndarray) -> float:
  """The share of the lines' energy that is left: 0 gone, 1 untouched, below 0 smoother than sound.

  What sound places of the same photo have under shifted copies of the mask is taken off both.

  Args:
    old, new: float32 [H, W, 3] in [-1, 1], before and after.
    mask: bool [H, W], the damage.
    sound: bool [H, W], where the photo is known to be sound.

  Returns:
    nan where the damage does not stand out in the old photo, or no sound place is found.
  """
  base = _sound_energy(old, mask, sound)
  before, after = line_energy(old, mask), line_energy(new, mask)
  if not before - base > 0.02:
    return float('nan')
  return (after - base) / (before - base)


def texture_mismatch(photo: np.ndarray, mask: np.ndarray, sound: np.ndarray) -> float:
  """|log(deviation in the damage / deviation around it)|: smearing is not rewarded.

  The deviation is of the fine texture: the photo less its mean over 5x5 pixels. Around means 4 to
  12 pixels away, where the photo is sound. nan where there is too little of either.
  """
  luma = colour.luma(photo)[..., 0]
  fine = luma - ndimage.uniform_filter(luma, 5)
  away = ndimage.distance_transform_edt(~mask)
  ring = (away >= 4) & (away <= 12) & sound
  if mask.sum() < 50 or ring.sum() < 50:
    return float('nan')
  return float(abs(np.log((fine[mask].std() + 1e-3) / (fine[ring].std() + 1e-3))))


def change_outside(old: np.ndarray, new: np.ndarray, mask: np.ndarray) -> float:
  """The share of pixels away from damage that moved by more than four levels.

  A change of tone is no harm: a value counts only if it is away from its old value and also from
  the closest monotone curve of its channel.

  Args:
    old, new: float32 [H, W, 3] in [-1, 1].
    mask: bool [H, W], all that may be damaged; it is widened by 6 pixels.
  """
  outside = ~ndimage.binary_dilation(mask, np.ones((3, 3), bool), iterations=6)
  if outside.sum() < 100:
    return float('nan')
  moved = np.zeros(int(outside.sum()))
  for c in range(3):
    before, after = old[..., c][outside], new[..., c][outside]
    toned = np.abs(after - _monotone(before, after))
    moved = np.maximum(moved, np.minimum(toned, np.abs(after - before)))
  return float((moved > MOVED).mean())


def is_harmed(texture: float, changed: float) -> bool:
  """Whether a print was made worse in one of the two ways that are measured."""
  return bool(texture > HARMED['texture'] or changed > HARMED['changed'])


def transplant(
  damaged: np.ndarray,
  mask: np.ndarray,
  host: np.ndarray,
  host_sound: np.ndarray,
  rng: np.random.Generator,
  most: int = 12,
) -> tuple[np.ndarray, np.ndarray]:
  """Real damage of one print, moved to sound places of another, whose pixels are known.

  Args:
    damaged: the print that has the damage, float32 [H, W, 3] in [-1, 1].
    mask: bool [H, W], the damage.
    host: float32 [h, w, 3].
    host_sound: bool [h, w].
    rng: chooses pieces and places.
    most: pieces that are moved.

  Returns:
    The host with the damage, and the mask of it, bool [h, w].
  """
  photo, placed = host.copy(), np.zeros(host.shape[:2], bool)
  pieces, count_ = ndimage.label(mask, np.ones((3, 3)))
  boxes = ndimage.find_objects(pieces)
  order = sorted(range(count_), key=lambda i: -int((pieces[boxes[i]] == i + 1).sum()))
  order = order[: 4 * most]
  rng.shuffle(order)
  done = 0
  for i in order:
    rows, columns = (slice(max(s.start - 1, 0), s.stop + 1) for s in boxes[i])
    piece = pieces[rows, columns] == i + 1
    height, width = piece.shape
    if height >= host.shape[0] or width >= host.shape[1]:
      continue
    for _ in range(20):
      top, left = rng.integers(host.shape[0] - height), rng.integers(host.shape[1] - width)
      here = slice(top, top + height), slice(left, left + width)
      if host_sound[here][piece].all() and not placed[here][piece].any():
        # The damage's own colour where it hides all, and the host's texture as far as it shows.
        photo[here] = np.where(piece[..., None], damaged[rows, columns], photo[here])
        placed[here] |= piece
        done += 1
        break
    if done == most:
      break
  return photo, placed


def psnr_in(photo: np.ndarray, truth: np.ndarray, mask: np.ndarray) -> float:
  """PSNR of values in [-1, 1] over the pixels of a mask, bool [H, W]; nan where it is empty."""
  if not mask.any():
    return float('nan')
  return float(10 * np.log10(4 / max(float(((photo - truth)[mask] ** 2).mean()), 4e-6)))


def _across(mask: np.ndarray) -> np.ndarray:
  """[n, 3, 2]: pixels on the ridge of a mask, and the pixels beyond its edges on both sides."""
  depth = ndimage.distance_transform_edt(mask)
  ridge = mask & (depth >= ndimage.maximum_filter(depth, 3) - 0.25)
  height, width = mask.shape
  places = np.argwhere(ridge)
  best = np.full(len(places), WIDEST + 1)
  found = np.zeros((len(places), 3, 2), int)
  for step in ((0, 1), (1, 0), (1, 1), (1, -1)):
    ends = []
    for sign in (1, -1):
      at, length = places.copy(), np.zeros(len(places), int)
      going = np.ones(len(places), bool)
      for _ in range(WIDEST):
        at[going] += sign * np.array(step)
        length[going] += 1
        inside = (at >= 0).all(1) & (at[:, 0] < height) & (at[:, 1] < width)
        going &= inside
        going[going] = mask[tuple(at[going].T)]
        if not going.any():
          break
      ends.append((length, sign))
    total = ends[0][0] + ends[1][0]
    sides = [places + (length + 1)[:, None] * sign * np.array(step) for length, sign in ends]
    fits = np.ones(len(places), bool)
    for side in sides:
      fits &= (side >= 0).all(1) & (side[:, 0] < height) & (side[:, 1] < width)
    better = fits & (total < best)
    best[better] = total[better]
    found[better] = np.stack([places, *sides], 1)[better]
  return found[best <= WIDEST]


def _sound_energy(photo: np.ndarray, mask: np.ndarray, sound: np.ndarray) -> float:
  """The line energy of sound places under shifted copies of the mask; nan where there are none."""
  rng = np.random.default_rng(0)
  energies = []
  for _ in range(6 * SHIFTS):
    shift = [int(rng.integers(-side // 2, side // 2 + 1)) for side in mask.shape]
    moved = np.roll(mask, shift, (0, 1)) & sound
    if moved.sum() < 0.3 * mask.sum():
      continue
    energies.append(line_energy(photo, moved))
    if len(energies) == SHIFTS:
      break
  energies = [e for e in energies if np.isfinite(e)]
  return float(np.mean(energies)) if energies else float('nan')


def _monotone(x: np.ndarray, y: np.ndarray) -> np.ndarray:
  """The values at `x` of the closest non-decreasing function of x to y, in 64 steps of equal size.

  Medians of the steps, then pooled where they fall (pool adjacent violators).
  """
  edges = np.quantile(x, np.linspace(0, 1, 65))
  bins = np.clip(np.searchsorted(edges, x, side='right') - 1, 0, 63)
  blocks = []  # [sum of weighted medians, weight, steps]
  centres = []
  for i in range(64):
    inside = bins == i
    if inside.any():
      centres.append(np.median(x[inside]))
      blocks.append([np.median(y[inside]) * inside.sum(), inside.sum(), 1])
      while len(blocks) > 1 and blocks[-2][0] / blocks[-2][1] > blocks[-1][0] / blocks[-1][1]:
        total, weight, steps = blocks.pop()
        blocks[-1] = [blocks[-1][0] + total, blocks[-1][1] + weight, blocks[-1][2] + steps]
  values = np.concatenate([np.full(steps, total / weight) for total, weight, steps in blocks])
  return np.interp(x, centres, values)
