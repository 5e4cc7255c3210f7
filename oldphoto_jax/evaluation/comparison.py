"""The comparison: rows that restore the same damaged photos, scores of each photo, tables of means.

A row is a label and a function. Every row gets the same arrays, and is scored by the same program
on what it would write: 8-bit RGB. What a photo scored is on disk as soon as it is known, so an
interrupted comparison goes on where it was.
"""

import dataclasses
import functools
import hashlib
import json
import logging
import os
import pathlib
import re
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from PIL import Image
from skimage import restoration

from oldphoto_jax import data
from oldphoto_jax.degradation import photographic, recipes
from oldphoto_jax.errors import ConfigError, WeightsError
from oldphoto_jax.metrics import niqe, perceptual, psnr_ssim
from oldphoto_jax.photos import images, masks, sheets
from oldphoto_jax.restoring import restore, shapes
from oldphoto_jax.restoring.engine import Engine, compiled
from oldphoto_jax.training import train
from oldphoto_jax.weights import classifiers

_log = logging.getLogger(__name__)

# (photo float32 [H, W, 3] in [-1, 1], what to fill float32 [H, W, 1] in [0, 1] or None) -> the
# restored photo, of the same shape and range.
Restore = Callable[[np.ndarray, np.ndarray | None], np.ndarray]

NOTHING, TRUTH, REFERENCE = 'do nothing', 'truth', 'reference'
CONFIDENCE = 0.95
_REPEATED = 10.0  # seconds up to which a first call, which compiles, is repeated for its time


@dataclasses.dataclass(frozen=True)
class Metric:
  """A column: its name in files, its title in tables, its digits, and which end is good."""

  name: str
  title: str
  digits: int
  higher_is_better: bool


METRICS = (
  Metric('psnr', 'PSNR (dB)', 2, True),
  Metric('ssim', 'SSIM', 3, True),
  Metric('ms_ssim', 'MS-SSIM', 3, True),
  Metric('lpips', 'LPIPS', 3, False),
  Metric('squeezenet', 'SqueezeNet distance', 3, False),
  Metric('niqe', 'NIQE', 2, False),
  Metric('psnr_inside', 'PSNR in mask', 2, True),
  Metric('psnr_outside', 'PSNR outside', 2, True),
)


@dataclasses.dataclass(frozen=True)
class Training:
  """What a row learnt from; None where it is not known.

  Attributes:
    images: training images, all stages together.
    seconds: of the training steps, without validations and breaks.
    photos: names of the folders or data sets.
    recipe: the degradations.
    crop: pixels a side of a training image.
    perceptual: the network of the perceptual loss term, '' for none. A score by the same network
      flatters the row.
  """

  images: int | None = None
  seconds: float | None = None
  photos: str | None = None
  recipe: str | None = None
  crop: int | None = None
  perceptual: str | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Row:
  """A way to restore photos.

  Attributes:
    label: unique.
    open: makes the function ready, in memory until it is dropped.
    identity: all that the restored photos depend on, such as a digest of weights and settings.
    masked: gets the true mask; left out where no truth is known.
    limit: restores the first photos alone; 0: all.
    parameters: numbers that were learnt; None where nothing is.
    training: what they were learnt from.
  """

  label: str
  open: Callable[[], Restore]
  identity: str
  masked: bool = False
  limit: int = 0
  parameters: int | None = None
  training: Training | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Test:
  """Photos to restore; all uint8 [H, W, 3], of any sizes.

  Attributes:
    name: the recipe, or another word for where the damage is from.
    photos: names.
    old: the damaged photos.
    truth: the sound ones, or None.
    mask: lost content, float32 [H, W, 1] in [0, 1], 1 = lost; with `truth`.
    reference: without `truth`: what another system made of `old`, to measure a distance to; or
      None.
  """

  name: str
  photos: list[str]
  old: list[np.ndarray]
  truth: list[np.ndarray] | None = None
  mask: list[np.ndarray] | None = None
  reference: list[np.ndarray] | None = None

  def digest(self, i: int) -> str:
    """Of everything that is known of photo i."""
    hashed = hashlib.sha256()
    for part in (self.old, self.truth, self.mask, self.reference):
      if part is not None:
        hashed.update(f'{part[i].shape} {part[i].dtype}'.encode() + part[i].tobytes())
    return hashed.hexdigest()


def age(recipe: recipes.Recipe, name: str, source: data.Source, size: int, seed: int = 0) -> Test:
  """The middle squares of photos, each aged with fold_in(key(seed), its number)."""

  @jax.jit
  def step(image, i):
    key = jax.random.fold_in(jax.random.key(seed), i)
    return recipes.degrade_batch(recipe, key[None], photographic.from_levels(image))

  columns = {'old': [], 'clean': [], 'mask': []}
  for batch in data.eval_batches(source, size, 1):
    aged = jax.device_get(step(batch['image'], batch['id'][0]))
    columns['old'].append(sheets.from_float(aged.old[0]))
    columns['clean'].append(sheets.from_float(aged.clean[0]))
    columns['mask'].append(np.asarray(aged.mask[0], np.float32))
  return Test(name, list(source.names), columns['old'], columns['clean'], columns['mask'])


# Rows -------------------------------------------------------------------------------------------


def nothing() -> Row:
  """Returns the damaged photo."""
  return Row(NOTHING, lambda: lambda photo, weight: photo, NOTHING)


def classical(masked: bool) -> Row:
  """Non-local means of scikit-image with an estimated noise; with the true mask also in-painting.

  Biharmonic in-painting comes first, as a line would else be smoothed into its surroundings.
  Settings: patches of 5 pixels, distances up to 6, h = 0.8 sigma, as scikit-image's example for the
  fast mode with a known sigma.
  """

  def run(photo, weight):
    if weight is not None and weight.any():
      photo = biharmonic(photo, weight)
    sigma = noise(photo)
    means = restoration.denoise_nl_means(
      photo, 5, 6, 0.8 * sigma, fast_mode=True, sigma=sigma, channel_axis=-1
    )
    return means.astype(np.float32)

  label = 'biharmonic and non-local means, true mask' if masked else 'non-local means'
  return Row(label, lambda: run, 'nlm 5 6 0.8 fast', masked)


def biharmonic(photo: np.ndarray, weight: np.ndarray) -> np.ndarray:
  """`photo` [H, W, 3] with what `weight` [H, W, 1] marks filled smoothly from its edge."""
  filled = restoration.inpaint_biharmonic(
    photo, weight[..., 0] > 0, channel_axis=-1, split_into_regions=True
  )
  return (weight * np.clip(filled, -1, 1) + (1 - weight) * photo).astype(np.float32)


def noise(photo: np.ndarray) -> float:
  """Standard deviation of white noise in [H, W, C], the mean over channels.

  The median of the finest diagonal Haar coefficients over 0.6745 (Donoho and Johnstone 1994);
  scikit-image's `estimate_sigma` does this with a longer wavelet and needs PyWavelets.
  """
  height, width = photo.shape[0] // 2 * 2, photo.shape[1] // 2 * 2
  x = photo[:height, :width]
  diagonal = (x[::2, ::2] - x[1::2, ::2] - x[::2, 1::2] + x[1::2, 1::2]) / 2
  return float(np.median(np.abs(diagonal), (0, 1)).mean() / 0.6745)


def by_engine(engine: Engine) -> Restore:
  """Restores as `oldphoto restore` does."""
  return lambda photo, mask: restore.restore_array(engine, photo, mask).photo


def restoring(label: str, restorer: restore.Restorer) -> Row:
  """Restores by trained weights, without a mask."""
  return Row(label, lambda: by_engine(compiled(restorer)), restorer.name)


# Scores -----------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, eq=False)
class Judge:
  """What photos are scored with; a part that is None leaves its column out.

  Attributes:
    squeezenet: parameters of classifiers.load_squeezenet.
    lpips: parameters of classifiers.load_lpips.
    niqe: statistics of niqe.load.
    identity: of all, for the key of results.
  """

  squeezenet: Any
  lpips: Any
  niqe: niqe.Statistics | None
  identity: str

  def against_truth(self, photo, truth, mask) -> dict[str, float]:
    """Scores of a restored photo; both uint8 [H, W, 3], mask float32 [H, W, 1]."""
    networks = (self.squeezenet, self.lpips)
    scores = _against_truth(networks, photo[None], truth[None], mask[None])
    return {name: float(value) for name, value in scores.items()} | self.blind(photo)

  def against_reference(self, photo, reference) -> dict[str, float]:
    """The distance of a restored photo to another system's, padded alike to few shapes."""
    if self.squeezenet is None and self.lpips is None:
      return {}
    shape = shapes.needed(photo.shape[:2], 1, tile=max(photo.shape))
    padded = (shapes.pad(x, shape)[None] for x in (photo, reference))
    found = _distances((self.squeezenet, self.lpips), *padded)
    return {name: float(value) for name, value in found.items()}

  def blind(self, photo) -> dict[str, float]:
    """Scores that need no truth; none for a photo that is too small for them."""
    rows, columns = (side // niqe.BLOCK for side in photo.shape[:2])
    if self.niqe is None or rows * columns < 2:
      return {}
    return {'niqe': niqe.niqe(self.niqe, photo)}


def judge(squeezenet: str, niqe_statistics: str, alexnet: str = '', linear: str = '') -> Judge:
  """Loads what scores need.

  Args:
    squeezenet: path of classifiers.load_squeezenet, '' for none.
    niqe_statistics: path of niqe.load, '' for none.
    alexnet, linear: paths of classifiers.load_lpips, '' for none.

  Raises:
    UserError: a path is given and the file does not fit, or only one of LPIPS' two.
  """
  if bool(alexnet) != bool(linear):
    raise ConfigError('LPIPS takes two files, AlexNet and the weights of its channels: give both')
  # Without LPIPS as it always was, so that kept results stay valid.
  used = [squeezenet, niqe_statistics] + [alexnet, linear] * bool(alexnet)
  return Judge(
    classifiers.load_squeezenet(squeezenet) if squeezenet else None,
    classifiers.load_lpips(alexnet, linear) if alexnet else None,
    niqe.load(niqe_statistics) if niqe_statistics else None,
    json.dumps([_file_digest(path) for path in used]),
  )


def missing_columns(judge: Judge, size: int) -> list[str]:
  """What a table of photos of `size` pixels a side will not have, and why."""
  missing = []
  if judge.squeezenet is None:
    missing.append('SqueezeNet distance (evaluate.squeezenet is not set)')
  if judge.lpips is None:
    missing.append('LPIPS (evaluate.lpips_alexnet and evaluate.lpips_linear are not set)')
  if judge.niqe is None:
    missing.append('NIQE (evaluate.niqe is not set)')
  elif (size // niqe.BLOCK) ** 2 < 2:
    missing.append(f'NIQE (photos of {size} pixels hold no two blocks of {niqe.BLOCK})')
  if size < psnr_ssim.MS_SSIM_SIDE:
    missing.append(f'MS-SSIM (it needs {psnr_ssim.MS_SSIM_SIDE} pixels a side, not {size})')
  return missing


def _file_digest(path: str) -> str:
  return hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest() if path else ''


@jax.jit
def _against_truth(networks, photo, truth, mask):
  a, b = photographic.from_levels(photo), photographic.from_levels(truth)
  scores = {
    'psnr': psnr_ssim.psnr(a, b),
    'ssim': psnr_ssim.ssim(a, b),
    'psnr_inside': psnr_ssim.psnr_inside(a, b, mask),
    'psnr_outside': psnr_ssim.psnr_inside(a, b, 1 - mask),
  }
  if min(photo.shape[1:3]) >= psnr_ssim.MS_SSIM_SIDE:
    scores['ms_ssim'] = psnr_ssim.ms_ssim(a, b)
  return {name: value[0] for name, value in scores.items()} | _distances(networks, photo, truth)


@jax.jit
def _distances(networks, photo, reference):
  squeezenet, lpips = networks
  a, b = map(photographic.from_levels, (photo, reference))
  found = {}
  if lpips is not None:
    found['lpips'] = perceptual.lpips(lpips, a, b)[0]
  if squeezenet is not None:
    found['squeezenet'] = perceptual.squeezenet_distance(squeezenet, a, b)[0]
  return found


# Results ----------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, eq=False)
class Results:
  """Of one row on one test.

  Attributes:
    photos: number of photos, the first ones of the test.
    scores: metric -> one value a photo, [photos]; nan where there is nothing to measure.
    seconds: of restoring, one a photo; nan where the call also compiled.
    pictures: the first restored photos, uint8.
    commits: of the code that computed them.
  """

  photos: int
  scores: dict[str, np.ndarray]
  seconds: np.ndarray
  pictures: list[np.ndarray]
  commits: set[str]


def evaluate(
  row: Row,
  test: Test,
  judge: Judge,
  folder: str | os.PathLike,
  *,
  pictures: int,
  commit: str | None,
  opened: Callable[[], Restore],
  stop: Callable[[], bool] = lambda: False,
) -> Results:
  """Restores and scores the photos of a test that `folder` has no results of yet.

  Args:
    row, test, judge: who restores what, and by what it is scored.
    folder: keeps results a file of JSON a row and test, and pictures.
    pictures: number of restored photos to keep as PNG.
    commit: of this code.
    opened: gives the row's function; called only where something is to be restored.
    stop: asked after each photo.

  Raises:
    train.Stopped: if `stop` said so before the end.
    WeightsError: a restored photo is not finite.
  """
  key = hashlib.sha256(json.dumps([row.label, row.identity, judge.identity]).encode()).hexdigest()
  place = pathlib.Path(folder) / _slug(test.name) / f'{_slug(row.label)}-{key[:12]}'
  file = place / 'scores.json'
  known = _read(file)
  count = min(row.limit or len(test.photos), len(test.photos))
  records, fresh = [], True
  for i in range(count):
    digest = test.digest(i)
    picture = place / f'{digest[:12]}.png'
    record = known.get(digest)
    if record is None or (i < pictures and not picture.is_file()):
      restored, seconds = _restore(row, test, i, opened(), fresh)
      fresh = False
      scores = score(judge, test, i, restored)
      record = {'photo': test.photos[i], 'scores': scores, 'seconds': seconds, 'commit': commit}
      place.mkdir(parents=True, exist_ok=True)
      if i < pictures:
        sheets.save_png(picture, restored)
      known[digest] = record
      images.write_bytes(file, json.dumps(known, indent=1).encode(), overwrite=True)
      if stop() and i + 1 < count:
        _log.warning('%s on %s: stopped; the same command goes on', row.label, test.name)
        raise train.Stopped
    records.append((picture, record))
  commits = {str(record['commit']) for _, record in records}
  if commits - {str(commit)}:
    _log.warning(
      '%s on %s: results of commits %s are kept; delete %s to compute them anew',
      row.label,
      test.name,
      ', '.join(sorted(commits)),
      place,
    )
  names = [m.name for m in METRICS if any(m.name in record['scores'] for _, record in records)]
  return Results(
    photos=count,
    scores={name: _values(record['scores'].get(name) for _, record in records) for name in names},
    seconds=_values(record['seconds'] for _, record in records),
    pictures=[np.asarray(Image.open(path).convert('RGB')) for path, _ in records[:pictures]],
    commits=commits,
  )


def score(judge: Judge, test: Test, i: int, restored: np.ndarray) -> dict[str, float | None]:
  """All scores of a restored photo uint8 [H, W, 3]; None where there is nothing to measure."""
  if test.truth is not None:
    scores = judge.against_truth(restored, test.truth[i], test.mask[i])
  else:
    scores = judge.blind(restored)
    if test.reference is not None:
      scores |= judge.against_reference(restored, test.reference[i])
  return {name: value if np.isfinite(value) else None for name, value in scores.items()}


def _restore(
  row: Row, test: Test, i: int, function: Restore, first: bool
) -> tuple[np.ndarray, float | None]:
  """The restored photo, uint8, and the seconds it took or None for a long first call."""
  photo = images.to_float(images.Photo(test.old[i]))
  weight = None
  if row.masked:
    # No margin as for a mask that was found or drawn: it costs more of the photo than it saves.
    # Biharmonic filling of four photos, whole frame: 22.8 instead of 21.0 dB (recipe report), 17.4
    # instead of 17.3 (print).
    weight = masks.grow(test.mask[i], threshold=0.05, pixels=0, feather=0)
    if weight.min() > 0:  # nothing is left to fill it from
      weight = None
  start = time.perf_counter()
  restored = function(photo, weight)
  seconds = time.perf_counter() - start
  if first:
    if seconds <= _REPEATED:
      start = time.perf_counter()
      restored = function(photo, weight)
      seconds = time.perf_counter() - start
    else:
      seconds = None
  if restored.shape != photo.shape or not np.isfinite(restored).all():
    raise WeightsError(
      f'{row.label} makes of {test.photos[i]} ({test.name}) no photo of its shape with finite '
      'values: its weights are broken'
    )
  return sheets.from_float(restored), seconds


def _read(file: pathlib.Path) -> dict[str, dict]:
  """The records of a file by the photo's digest; none where there is no file."""
  try:
    return json.loads(file.read_text())
  except FileNotFoundError:
    return {}
  except ValueError:
    _log.warning('%s cannot be read and is made anew', file)
    return {}


def _slug(text: str) -> str:
  return re.sub(r'[^a-z0-9]+', '_', text.lower()).strip('_') or 'row'


def _values(values) -> np.ndarray:
  return np.array([np.nan if value is None else value for value in values], np.float64)


# Statistics -------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Mean:
  """A mean over `n` photos and its 95 % interval; None where there are too few photos."""

  mean: float | None
  low: float | None
  high: float | None
  n: int


def bootstrap(values: np.ndarray, seed: int, resamples: int) -> Mean:
  """The mean of the finite values, with the percentile bootstrap's interval over them.

  Efron 1979: means of `resamples` draws with replacement, their 2.5 % and 97.5 % quantiles. The
  interval is of the choice of photos alone; it knows nothing of a system trained anew.

  Args:
    values: [N], one a photo; of two values or more an interval is made.
    seed, resamples: of the draws.
  """
  values = np.asarray(values, np.float64)
  values = values[np.isfinite(values)]
  n = len(values)
  if n == 0:
    return Mean(None, None, None, 0)
  if n == 1:
    return Mean(float(values[0]), None, None, 1)
  drawn = np.random.default_rng(seed).integers(n, size=(resamples, n))
  tail = (1 - CONFIDENCE) / 2
  low, high = np.quantile(values[drawn].mean(1), (tail, 1 - tail))
  return Mean(float(values.mean()), float(low), float(high), n)


def difference(ours: np.ndarray, reference: np.ndarray, seed: int, resamples: int) -> Mean:
  """`bootstrap` of the differences on the photos that both have, which are the first ones."""
  n = min(len(ours), len(reference))
  return bootstrap(ours[:n] - reference[:n], seed, resamples)


def improved(ours: np.ndarray, nothing: np.ndarray) -> int:
  """On how many photos the PSNR is above that of doing nothing."""
  return int((ours > nothing[: len(ours)]).sum())


# Tables -----------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Table:
  """Text for people; the first column names the row."""

  title: str
  text: str
  header: list[str]
  rows: list[list[str]]


def markdown(tables: Sequence[Table]) -> str:
  """All tables, each below its title and text."""
  parts = []
  for table in tables:
    lines = [table.header, ['---'] * len(table.header), *table.rows]
    parts.append(f'## {table.title}\n\n{table.text}\n\n' if table.text else f'## {table.title}\n\n')
    parts.append(''.join(f'| {" | ".join(_cell(x) for x in line)} |\n' for line in lines) + '\n')
  return ''.join(parts)


def _cell(text: str) -> str:
  return text.replace('|', r'\|')


def report(
  rows: Sequence[Row],
  tests: Sequence[Test],
  results: dict[str, dict[str, Results]],
  extra: dict[str, dict[str, np.ndarray]],
  reference: str,
  seed: int,
  resamples: int,
) -> dict[str, Any]:
  """Everything that was measured, as JSON values; what a clock says lies under 'timings'.

  Args:
    rows: in the order of the tables.
    tests: likewise.
    results: test -> label -> results.
    extra: test -> scores, NIQE alone, of the truth or of the other system's photos.
    reference: the label that differences are to.
    seed, resamples: of the bootstrap.
  """

  def numbers(mean: Mean) -> dict[str, Any]:
    return {k: v if k == 'n' else _round(v) for k, v in dataclasses.asdict(mean).items()}

  def of(test: Test, label: str) -> dict[str, Any]:
    mine, found = results[test.name][label], {}
    found['photos'], found['commits'] = mine.photos, sorted(mine.commits)
    found['means'] = {k: numbers(bootstrap(v, seed, resamples)) for k, v in mine.scores.items()}
    base = results[test.name].get(reference)
    if base is not None and label != reference:
      found[f'minus {reference}'] = {
        k: numbers(difference(v, base.scores[k], seed, resamples))
        for k, v in mine.scores.items()
        if k in base.scores
      }
    if 'psnr' in mine.scores and label != NOTHING:
      found['improved'] = improved(mine.scores['psnr'], results[test.name][NOTHING].scores['psnr'])
    found['scores'] = {k: [_round(x) for x in v] for k, v in mine.scores.items()}
    return found

  def training(row: Row) -> dict[str, Any] | None:
    if row.training is None:
      return None
    fields = dataclasses.asdict(row.training)
    fields.pop('seconds')
    return fields

  return {
    'reference': reference,
    'confidence': CONFIDENCE,
    'systems': {
      row.label: {
        'identity': row.identity,
        'parameters': row.parameters,
        'true mask': row.masked,
        'training': training(row),
      }
      for row in rows
    },
    'tests': {
      test.name: {
        'photos': test.photos,
        'digest': hashlib.sha256(
          ''.join(test.digest(i) for i in range(len(test.photos))).encode()
        ).hexdigest(),
        'rows': {row.label: of(test, row.label) for row in rows if row.label in results[test.name]},
        'niqe': {
          name: numbers(bootstrap(values, seed, resamples))
          for name, values in extra[test.name].items()
        },
      }
      for test in tests
    },
    'timings': {
      'seconds per photo': {
        test.name: {label: _median(r.seconds) for label, r in results[test.name].items()}
        for test in tests
      },
      'training seconds': {
        row.label: None if row.training is None else _round(row.training.seconds) for row in rows
      },
    },
  }


def tables(report: dict[str, Any]) -> list[Table]:
  """The tables of a `report`: systems, then of every test the scores and the differences."""
  reference, made = report['reference'], [_systems(report)]
  for name, test in report['tests'].items():
    rows = test['rows']
    columns = [m for m in METRICS if any(_mean(r['means'], m.name) for r in rows.values())]
    with_truth = any('psnr' in row['means'] for row in rows.values())
    header = ['', 'photos', *(f'{m.title} {"↑" if m.higher_is_better else "↓"}' for m in columns)]
    header += ['improved'] * with_truth + ['s per photo']
    lines = []
    for label, row in rows.items():
      seconds = report['timings']['seconds per photo'][name][label]
      line = [label, str(row['photos'])]
      line += [_interval(_mean(row['means'], m.name), m.digits) for m in columns]
      if with_truth:
        line.append(str(row.get('improved', '')))
      lines.append([*line, '' if seconds is None else f'{seconds:.3f}'])
    text = f'Means over photos [{CONFIDENCE:.0%} bootstrap interval over photos].'
    if not with_truth:
      text += " There is no truth: the distance is to the reference, the other system's photos."
    for label, mean in test['niqe'].items():
      text += f' NIQE of the {label}: {_interval(mean, 2)}.'
    made.append(Table(name, text, header, lines))

    header = ['', 'photos', *(m.title for m in columns)]
    lines = []
    for label, row in rows.items():
      paired = row.get(f'minus {reference}')
      if paired is not None:
        shared = max((mean['n'] for mean in paired.values()), default=0)
        cells = [_interval(_mean(paired, m.name), m.digits, sign='+') for m in columns]
        lines.append([label, str(shared), *cells])
    if lines:
      text = f'Row minus {reference}, on the photos that both have: mean [interval].'
      made.append(Table(f'{name}: differences to {reference}', text, header, lines))
  return made


def _systems(report: dict[str, Any]) -> Table:
  header = ['', 'parameters', 'training images', 'training s', 'photos', 'recipe', 'crop']
  header += ['perceptual loss']
  lines = []
  for label, system in report['systems'].items():
    training = system['training'] or {}
    seconds = report['timings']['training seconds'][label]
    cells = [system['parameters'], training.get('images'), None if seconds is None else seconds]
    cells = ['' if x is None else f'{x:,.0f}' for x in cells]
    cells += [training.get(x) for x in ('photos', 'recipe', 'crop', 'perceptual')]
    lines.append([label, *('' if x is None else str(x) for x in cells)])
  text = (
    'What each row learnt from. Seconds are of training steps on the machine that trained it; an '
    'empty cell is not known, or there is none.'
  )
  return Table('Systems', text, header, lines)


def _mean(means: dict[str, dict], name: str) -> dict | None:
  found = means.get(name)
  return None if found is None or found['mean'] is None else found


def _interval(mean: dict | None, digits: int, sign: str = '') -> str:
  if mean is None or mean['mean'] is None:
    return '–'
  text = f'{mean["mean"]:{sign}.{digits}f}'
  if mean['low'] is None:
    return text
  return f'{text} [{mean["low"]:{sign}.{digits}f}, {mean["high"]:{sign}.{digits}f}]'


def _round(value: float | None) -> float | None:
  """Six digits; None for what is not finite, which JSON has no word for."""
  return None if value is None or not np.isfinite(value) else round(float(value), 6)


def _median(seconds: np.ndarray) -> float | None:
  known = seconds[np.isfinite(seconds)]
  return _round(np.median(known)) if len(known) else None


def grid(test: Test, results: dict[str, Results], rows: int) -> np.ndarray:
  """The first photos: damaged, what every row made of it, and the truth or the reference."""
  rows = min(rows, len(test.photos))
  columns = {'damaged': test.old}
  columns |= {label: r.pictures for label, r in results.items() if label != NOTHING}
  if test.truth is not None:
    columns[TRUTH] = test.truth
  elif test.reference is not None:
    columns[REFERENCE] = test.reference
  lines = [
    [column[i] if i < len(column) else None for column in columns.values()] for i in range(rows)
  ]
  return sheets.grid(lines, list(columns), test.photos[:rows])


def extra_scores(test: Test, judge: Judge) -> dict[str, np.ndarray]:
  """NIQE of the truth or of the reference, [N]; nothing without NIQE."""
  for name, photos in ((TRUTH, test.truth), (REFERENCE, test.reference)):
    if photos is not None:
      values = [judge.blind(photo).get('niqe') for photo in photos]
      return {name: _values(values)} if any(v is not None for v in values) else {}
  return {}


def compare(
  rows: Sequence[Row],
  tests: Sequence[Test],
  judge: Judge,
  folder: str | os.PathLike,
  *,
  pictures: int,
  commit: str | None,
  stop: Callable[[], bool] = lambda: False,
) -> dict[str, dict[str, Results]]:
  """Results of all rows on all tests, test -> label; one row at a time is in memory.

  Arguments as `evaluate`; rows with masks are left out of tests without.
  """
  results = {test.name: {} for test in tests}
  for row in rows:
    opened = functools.cache(row.open)
    for test in tests:
      if row.masked and test.mask is None:
        continue
      start = time.perf_counter()
      results[test.name][row.label] = evaluate(
        row, test, judge, folder, pictures=pictures, commit=commit, opened=opened, stop=stop
      )
      _log.info('%s: %s, %.0f s', test.name, row.label, time.perf_counter() - start)
  return results
