"""Whether weights that were trained further restore an archive better, and how sure that is.

Nobody knows what the archive's damaged prints looked like. Therefore real damage of one print is
moved to sound places of another, where the truth is known, and both weights restore it without
being told where it is. Prints that took part in the training must not be among them.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import ndimage

from oldphoto_jax.evaluation import tables
from oldphoto_jax.metrics import print_scores
from oldphoto_jax.photos import sheets
from oldphoto_jax.restoring import finding, restore
from oldphoto_jax.restoring.engine import Engine

BETTER, WORSE, EQUAL = 'better', 'worse', 'no difference'
DONORS = 3  # prints whose damage is moved to each print
DOUBT = 0.1  # probability of damage below which a place counts as sound
LEAST = 3  # prints with moved damage, below which no verdict is given


@dataclasses.dataclass(frozen=True)
class Criterion:
  """A score by which the weights are compared; more is better.

  Attributes:
    name: of the score.
    title: what it says, for people.
    margin: smallest mean difference that counts; smaller ones are of no use to anybody.
  """

  name: str
  title: str
  margin: float


CRITERIA = (
  Criterion('psnr', 'PSNR inside moved damage (dB)', 0.1),
  Criterion('f1', 'F1 of finding moved damage', 0.01),
  Criterion('kept', 'share of sound pixels that stay', 0.002),
)


class Judged(NamedTuple):
  """One criterion: after minus before.

  Attributes:
    criterion: which.
    before, after: means over prints.
    difference: the mean paired difference with its interval.
    sure: share of the bootstrap's resamples with a difference above 0.
    verdict: BETTER, WORSE or EQUAL.
  """

  criterion: Criterion
  before: float
  after: float
  difference: tables.Mean
  sure: float
  verdict: str


class Trial(NamedTuple):
  """A print with damage that was moved to it.

  Attributes:
    host: number of the print.
    photo, truth: float32 [H, W, 3] in [-1, 1], with and without the moved damage.
    placed: bool [H, W], the moved damage.
    sound: bool [H, W], where the print is sound.
  """

  host: int
  photo: np.ndarray
  truth: np.ndarray
  placed: np.ndarray
  sound: np.ndarray


def trials(
  photos: Sequence[np.ndarray], found: Sequence[np.ndarray], strict: float, seed: int
) -> Iterator[Trial]:
  """Damage of each print, moved to up to DONORS others; one at a time, as all take much memory.

  Args:
    photos: float32 [H, W, 3] in [-1, 1].
    found: probability of damage [H, W, 1], by the weights before training: neither of the two may
      choose what it is judged by, and those found it without having learnt from these prints.
    strict: probability from which on something counts as damage.
    seed: of pieces and places.
  """
  masks = [finding.decide(p, strict)[..., 0] > 0 for p in found]
  sound = [~ndimage.binary_dilation(p[..., 0] >= DOUBT, iterations=4) for p in found]
  donors = [i for i, mask in enumerate(masks) if mask.any() and not mask.all()]
  for host, photo in enumerate(photos):
    rng = np.random.default_rng([seed, host])
    for donor in rng.permutation([i for i in donors if i != host])[:DONORS]:
      damaged, placed = print_scores.transplant(
        photos[donor], masks[donor], photo, sound[host], rng
      )
      if placed.any():
        yield Trial(host, damaged, photo, placed, sound[host])


def scores(engine: Engine, made: Iterable[Trial]) -> dict[str, np.ndarray]:
  """What an engine reaches, by the names of CRITERIA: one value per print that has trials.

  It restores as `oldphoto restore` does, but leaves tones.
  """
  wishes = restore.Wishes(find=finding.THRESHOLD)
  of_host: dict[int, list[tuple[float, ...]]] = {}
  for trial in made:
    done = restore.restore_array(engine, trial.photo, None, wishes)
    label = print_scores.Label(trial.placed, trial.placed | trial.sound)
    counts = print_scores.count(done.mask[..., 0] > 0, label)
    damaged = trial.placed | ~trial.sound
    changed = print_scores.change_outside(trial.photo, done.photo, damaged)
    inside = print_scores.psnr_in(done.photo, trial.truth, trial.placed)
    of_host.setdefault(trial.host, []).append((inside, counts.f1, 1 - changed))
  values = np.array([np.mean(of_host[host], 0) for host in sorted(of_host)])
  return {c.name: values[:, i] for i, c in enumerate(CRITERIA)}


def judge(
  before: dict[str, np.ndarray], after: dict[str, np.ndarray], seed: int, resamples: int = 10_000
) -> tuple[str, list[Judged]]:
  """The verdict, and the criteria behind it.

  BETTER: the damage is filled better, and nothing is worse. WORSE: something is worse, and nothing
  better. Otherwise EQUAL. A criterion counts if the 95 % interval of its paired difference over
  prints leaves out 0, and the mean reaches its margin.
  """
  judged = []
  for c in CRITERIA:
    change = after[c.name] - before[c.name]
    change = change[np.isfinite(change)]
    mean = tables.bootstrap(change, seed, resamples)
    verdict, sure = EQUAL, float('nan')
    if mean.n >= LEAST:
      drawn = np.random.default_rng(seed).integers(mean.n, size=(resamples, mean.n))
      sure = float((change[drawn].mean(1) > 0).mean())
      if mean.low > 0 and mean.mean >= c.margin:
        verdict = BETTER
      elif mean.high < 0 and mean.mean <= -c.margin:
        verdict = WORSE
    means = (float(np.nanmean(x[c.name])) for x in (before, after))
    judged.append(Judged(c, *means, mean, sure, verdict))
  verdicts = {j.criterion.name: j.verdict for j in judged}
  if verdicts['psnr'] == BETTER and WORSE not in verdicts.values():
    return BETTER, judged
  if WORSE in verdicts.values() and BETTER not in verdicts.values():
    return WORSE, judged
  return EQUAL, judged


def table(verdict: str, judged: Sequence[Judged], aside: int) -> tables.Table:
  """The verdict for people."""
  n = max((j.difference.n for j in judged), default=0)
  if n < LEAST:
    why = f'No verdict: only {n} prints could take moved damage, and {LEAST} are needed.'
  else:
    why = {
      BETTER: 'They fill the damage better and make nothing worse: use them.',
      WORSE: 'They make something worse and nothing better: keep the old ones.',
      EQUAL: 'No difference that can be relied on: keep the old ones.',
    }[verdict]
  text = (
    f'**The new weights: {verdict}.** {why} Judged by {n} of {aside} prints that were kept aside; '
    'damage of one print was moved to sound places of others, where the truth is known. Intervals '
    'are over prints (paired bootstrap, 95 %).'
  )
  header = [
    'score, more is better',
    'before',
    'after',
    'difference',
    'sure to be above 0',
    'verdict',
  ]
  lines = []
  for j in judged:
    d = j.difference
    interval = '' if d.low is None else f' [{d.low:+.4f}, {d.high:+.4f}]'
    change = '–' if d.mean is None else f'{d.mean:+.4f}{interval}'
    sure = '–' if np.isnan(j.sure) else f'{j.sure:.1%}'
    row = [j.criterion.title, f'{j.before:.4f}', f'{j.after:.4f}', change, sure, j.verdict]
    lines.append(row)
  return tables.Table('Verdict', text, header, lines)


def blind_sheet(
  before: Engine, after: Engine, photos: Sequence[np.ndarray], names: Sequence[str], seed: int
) -> tuple[np.ndarray, dict[str, Any]]:
  """Prints beside both restorations in random order, and the key: name -> which one is new.

  Look at it, choose A or B for each print, and only then read the key.
  """
  rng, rows, key = np.random.default_rng(seed), [], {}
  wishes = restore.Wishes(find=finding.THRESHOLD)
  for name, photo in zip(names, photos):
    pair: list[np.ndarray] = []
    for engine in (before, after):
      pair.append(restore.restore_array(engine, photo, None, wishes).photo)
    new_first = bool(rng.integers(2))
    shown = [photo, *(pair[::-1] if new_first else pair)]
    rows.append([sheets.thumbnail(sheets.from_float(x), 480) for x in shown])
    key[name] = 'A' if new_first else 'B'
  return sheets.grid(rows, ['print', 'A', 'B'], list(names)), {'new weights': key}
