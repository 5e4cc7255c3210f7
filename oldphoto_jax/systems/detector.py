"""The scratch detector: one stage, trained on clean photos that a recipe damages."""

import pathlib
from collections.abc import Callable
from functools import partial

import numpy as np
from ml_collections import ConfigDict

from oldphoto_jax import data, weights
from oldphoto_jax.degradation import distractors
from oldphoto_jax.errors import ConfigError
from oldphoto_jax.evaluation.rows import Test
from oldphoto_jax.metrics import detection
from oldphoto_jax.models import detector
from oldphoto_jax.photos import images, sheets
from oldphoto_jax.restoring import detect
from oldphoto_jax.systems import build, frozen, splits, system
from oldphoto_jax.training import train

STAGE = 'detector'
SHEET_ROWS = 6


def model(config: ConfigDict) -> detector.Detector:
  """The model that a config describes.

  Raises:
    ConfigError: a setting is unknown, or the U-Net cannot take the crop.
  """
  m, c = config.model, config.detector
  net = detector.DetectorUNet(width=m.width, depth=m.depth, dtype=build.dtype(m.dtype))
  build.check_crops(config, net.multiple, least=2 * net.multiple)
  return detector.Detector(
    net=net,
    weights=build.weights(c.weights, detector.WEIGHTS),
    focal_gamma=c.focal_gamma,
    focal_alpha=c.focal_alpha,
    sync_batch_norm=c.sync_batch_norm,
    ema=c.ema,
    g_tx=build.adam(c, c.lr, c.steps),
  )


def stages(
  config: ConfigDict, photos: splits.Photos, networks: frozen.Networks
) -> dict[str, Callable[[], train.Stage]]:
  """The one stage; see system.trained."""
  del networks
  c, recipe = config.distractors, build.train_recipe(config, config.recipe)
  distracted = distractors.Distracted(recipe, lines=c.lines, border=c.border)
  return {
    STAGE: partial(
      build.stage,
      detector,
      model(config),
      config,
      photos,
      STAGE,
      stream=data.Photos(photos.train, build.crop(config.data)),
      prepare=build.prepare_pairs(distracted),
      prepare_eval=build.prepare_pairs(recipe),
      columns=('old', 'mask', 'found'),
      score='f1',
    )
  }


def release(config: ConfigDict, networks: frozen.Networks) -> weights.Weights:
  """The detector."""
  net = model(config)
  return weights.Weights(STAGE, detector.sizes(net), networks.of(STAGE, net, detector.init))


def check(config: ConfigDict) -> None:
  """Raises ConfigError for real old photos, whose damage nobody has marked."""
  if config.data.old:
    raise ConfigError(
      'the detector learns from known damage, and the photos of data.old have no masks: '
      'leave it empty'
    )


def evaluate(config: ConfigDict) -> str:
  """Scores the run's detector on the test photos, for each recipe of `evaluate.recipes`.

  The threshold is chosen on the validation photos, damaged by the same recipe. Without test photos,
  these are also scored. Writes evaluation.md, evaluation.json and a sheet for each recipe into the
  run's folder.

  Returns:
    The tables as Markdown.

  Raises:
    ConfigError: the crop does not fit, or all masks of a recipe are empty.
  """
  trained = weights.load_detector(config.workdir)
  size, folder = config.evaluate.crop, pathlib.Path(config.workdir)
  if size % trained.multiple:
    raise ConfigError(f'evaluate.crop is {size}, not a multiple of {trained.multiple}')
  mark = detect.marker(trained, [(size, size)])
  photos = splits.run_photos(config)
  val = build.tests(config, splits.first(photos.val, config.evaluate.limit))
  tests = val if photos.test is None else build.tests(config, splits.test_photos(config, photos))
  rows = []
  for known, test in zip(val, tests):
    counts, found = count(mark, known)
    threshold = detection.curve(counts).best_threshold
    if test is not known:
      counts, found = count(mark, test)
    rows.append(detection.Row(test.name, counts, threshold))
    sheets.save_png(folder / f'evaluation_{test.name}.png', _sheet(test, found))
  return detection.write(rows, trained.name, folder)


def count(
  mark: Callable[[np.ndarray], np.ndarray], test: Test
) -> tuple[np.ndarray, list[np.ndarray]]:
  """Counts the predicted probabilities of damage for each photo.

  Args:
    mark: of detect.marker.
    test: photos with their true masks.

  Returns:
    detection.count of each photo, [photos, 2, BINS], and the predictions for the first photos, for
    the sheet.
  """
  counts, first = [], []
  for old, mask in zip(test.old, test.mask):
    found = mark(images.to_float(images.Photo(old)))
    counts.append(detection.count(found, mask))
    if len(first) < SHEET_ROWS:
      first.append(found)
  return np.stack(counts), first


def _sheet(test: Test, found: list[np.ndarray]) -> np.ndarray:
  gray = lambda mask: sheets.from_float(2 * mask[..., 0] - 1)
  rows = [[old, gray(mask), gray(x)] for old, mask, x in zip(test.old, test.mask, found)]
  return sheets.grid(rows, ['old', 'true mask', 'found'], test.photos[: len(rows)])


SYSTEM = system.trained(
  STAGE, stages=stages, release=release, needed=(STAGE,), check=check, evaluate=evaluate
)
