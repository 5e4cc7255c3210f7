"""Scores of a damage detector against true masks: precision and recall at every threshold.

Pixels are pooled over all photos of a set. A photo without damage has no recall of its own, but
pixels found in it are false alarms of the set. A pixel is found if its probability reaches the
threshold, and damaged if its true mask is at least 1/2.
"""

import dataclasses
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from oldphoto_jax.errors import ConfigError

BINS = 1000  # bins of the probabilities
THRESHOLDS = tuple(round(0.05 * i, 2) for i in range(1, 20))


@dataclasses.dataclass(frozen=True)
class Curve:
  """Scores of one set of photos; arrays are [thresholds].

  Attributes:
    thresholds: of the probability.
    precision: share of the found pixels that are damaged; 1 if none is found.
    recall: share of the damaged pixels that are found.
    f1: harmonic mean of both.
    iou: damaged and found over damaged or found.
    average_precision: area under the precision-recall curve, over all BINS thresholds.
    damaged: share of the set's pixels that are damaged; the precision of marking at random.
    photos: number of photos.
  """

  thresholds: np.ndarray
  precision: np.ndarray
  recall: np.ndarray
  f1: np.ndarray
  iou: np.ndarray
  average_precision: float
  damaged: float
  photos: int

  @property
  def best_threshold(self) -> float:
    """The threshold with the highest F1."""
    return float(self.thresholds[np.argmax(self.f1)])


def count(found: np.ndarray, mask: np.ndarray) -> np.ndarray:
  """Counts one photo's pixels by probability: int64 [2, BINS], undamaged and damaged pixels.

  Args:
    found: probabilities in [0, 1], any shape.
    mask: the true damage in [0, 1], same shape.

  Raises:
    ValueError: if the shapes differ, or a probability is not in [0, 1].
  """
  if found.shape != mask.shape:
    raise ValueError(f'found has the shape {found.shape}, but the mask has {mask.shape}')
  if not (found.min() >= 0 and found.max() <= 1):  # so that NaN fails too
    raise ValueError('probabilities must be in [0, 1]')
  # Plus a ten-thousandth of a bin, so that float32(0.15) reaches bin 150.
  bins = np.minimum((found.astype(np.float64) * BINS + 1e-4).astype(np.int64), BINS - 1)
  damaged = mask >= 0.5
  return np.stack([np.bincount(bins[damaged == d], minlength=BINS) for d in (False, True)])


def curve(counts: np.ndarray, thresholds: Sequence[float] = THRESHOLDS) -> Curve:
  """The scores of a set from its photos' `count`s [photos, 2, BINS].

  Raises:
    ConfigError: if no pixel of the set is damaged, because recall is then undefined.
  """
  undamaged, damaged = counts.sum(0)
  if not damaged.sum():
    raise ConfigError('no pixel of the set is damaged, so there is nothing to find')
  # For every bin, the number of pixels in it or above.
  false, true = (np.cumsum(row[::-1])[::-1] for row in (undamaged, damaged))
  precision = np.where(true + false, true / np.maximum(true + false, 1), 1.0)
  recall = true / true[0]
  average = float(-(np.diff(recall, append=0.0) * precision).sum())
  at = np.rint(np.asarray(thresholds) * BINS).astype(int)
  true, false, precision, recall = true[at], false[at], precision[at], recall[at]
  missed = damaged.sum() - true
  return Curve(
    thresholds=np.asarray(thresholds),
    precision=precision,
    recall=recall,
    f1=2 * true / (2 * true + false + missed),
    iou=true / (true + false + missed),
    average_precision=average,
    damaged=float(damaged.sum() / counts.sum()),
    photos=len(counts),
  )


def spread(counts: np.ndarray, threshold: float, draws: int = 1000) -> tuple[float, float]:
  """The 95 % bootstrap interval of F1 at `threshold`; photos are resampled with seed 0."""
  at = round(threshold * BINS)
  above, damaged = counts[:, :, at:].sum(2), counts[:, 1].sum(1)
  drawn = np.random.default_rng(0).integers(len(counts), size=(draws, len(counts)))
  false, true = above[drawn].sum(1).T
  # Twice the pixels rightly found, over all found plus all damaged pixels.
  f1 = 2 * true / np.maximum(true + false + damaged[drawn].sum(1), 1)
  low, high = np.quantile(f1, (0.025, 0.975))
  return float(low), float(high)


@dataclasses.dataclass(frozen=True)
class Row:
  """One set of photos in a table."""

  name: str
  counts: np.ndarray  # [photos, 2, BINS]
  threshold: float  # chosen elsewhere, on validation photos


def markdown(rows: Sequence[Row]) -> str:
  """A table of the sets at their thresholds, then the curve of each set."""
  lines = [
    '| set | photos | damaged | threshold | F1 (95 %) | IoU | precision | recall | AP | best F1 |',
    '|---|---|---|---|---|---|---|---|---|---|',
  ]
  for row in rows:
    one, full = curve(row.counts, [row.threshold]), curve(row.counts)
    low, high = spread(row.counts, row.threshold)
    lines.append(
      f'| {row.name} | {one.photos} | {one.damaged:.2%} | {row.threshold:.2f} '
      f'| {one.f1[0]:.3f} ({low:.3f} to {high:.3f}) | {one.iou[0]:.3f} | {one.precision[0]:.3f} '
      f'| {one.recall[0]:.3f} | {full.average_precision:.3f} '
      f'| {full.f1.max():.3f} at {full.best_threshold:.2f} |'
    )
  for row in rows:
    full = curve(row.counts)
    lines += ['', f'{row.name}:', '', '| threshold | IoU | F1 | precision | recall |']
    lines.append('|---|---|---|---|---|')
    for values in zip(full.thresholds, full.iou, full.f1, full.precision, full.recall):
      lines.append('| {:.2f} | {:.3f} | {:.3f} | {:.3f} | {:.3f} |'.format(*values))
  return '\n'.join(lines) + '\n'


def write(rows: Sequence[Row], detector: str, folder: pathlib.Path) -> str:
  """Writes evaluation.json and evaluation.md into `folder`; returns the Markdown."""
  text = f'Damage found by {detector}; pixels are pooled over each set.\n\n{markdown(rows)}'
  folder.mkdir(parents=True, exist_ok=True)
  (folder / 'evaluation.md').write_text(text)
  report = {'detector': detector, 'sets': [_json(row) for row in rows]}
  (folder / 'evaluation.json').write_text(json.dumps(report, indent=1))
  return text


def _json(row: Row) -> dict[str, Any]:
  fields = dataclasses.asdict(curve(row.counts))
  lists = {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in fields.items()}
  chosen = {'threshold': row.threshold, 'f1_95_percent': spread(row.counts, row.threshold)}
  return {'set': row.name} | chosen | lists
