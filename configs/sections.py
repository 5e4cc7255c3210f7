"""Sections that all trained systems share. Each config then sets its own values."""

from collections.abc import Callable

import ml_collections


def data() -> ml_collections.ConfigDict:
  """Which photos, and how training images are cut from them."""
  d = ml_collections.ConfigDict()
  d.photos = ''  # folder of clean photos; '': the sample photos of scikit-image
  d.val = ''  # folder for validation; '': a tenth of data.photos
  d.test = ''  # folder for --mode=evaluate; '': the validation photos
  d.old = ''  # folder of real old photos (R); see the system's own config
  d.overlays = ''  # folder of drawn artefacts (PNG with transparency) for the recipe print
  d.textures = ''  # folder of paper textures for it
  d.tfds_dir = ''  # with tfds_name, e.g. 'voc/2012', and tfds_split: instead of a folder
  d.tfds_name = ''
  d.tfds_split = 'train'
  d.subset_train = 0  # photos chosen by the seed; 0: all. The student report: 400, 100, 50
  d.subset_val = 0
  d.subset_test = 0
  d.crop = 96  # pixels of a training image, a multiple of what the networks take
  d.scale = (0.4, 1.0)  # range of a random factor by which photos are shrunk before the crop
  d.flip = 0.5
  d.threads = 2
  d.workers = 0  # processes that decode; 0: threads of this one
  d.cache_gb = 1.0  # decoded photos kept in memory; clean and old photos get half each
  return d


def optimiser(
  steps: int,
  *,
  batch_size: int = 4,
  lr: float = 1e-3,
  b1: float = 0.9,
  b2: float = 0.999,
  decay: float = 0.5,
  ema: float = 0.99,
) -> ml_collections.ConfigDict:
  """How one stage learns: its length and its optimiser, Adam."""
  s = ml_collections.ConfigDict()
  s.steps = steps
  s.batch_size = batch_size  # over all devices
  s.lr = lr  # short runs without a strong GAN term tolerate five times the papers' rates
  s.b1 = b1
  s.b2 = b2
  s.decay = decay  # share of the steps over which the learning rates fall to 0
  s.ema = ema  # decay of the moving average that is evaluated and released; 0: no average
  return s


def train() -> ml_collections.ConfigDict:
  """How often to log and evaluate a training."""
  t = ml_collections.ConfigDict()
  t.log_every = 20
  t.evaluate_every = 250  # steps; also saves a checkpoint
  t.eval_batch = 8
  t.sheet_rows = 4
  t.tensorboard = False  # needs the extra `tensorboard`
  return t


def measure() -> ml_collections.ConfigDict:
  """Settings of --mode=compile and --mode=speed."""
  m = ml_collections.ConfigDict()
  m.output = ''  # file of the measurements; '': in the workdir
  m.topology = 'v5e:2x2'  # for compile: kind of chip and shape, as in v5e:4x4
  m.threads = 0  # for speed, on CPU; 0: one per core
  m.windows = 5  # for speed: number of timing windows; the median is reported
  m.window_seconds = 2.0
  return m


def evaluate() -> ml_collections.ConfigDict:
  """Settings of --mode=evaluate."""
  e = ml_collections.ConfigDict()
  e.recipes = 'wan2020,report'  # one table per recipe
  e.crop = 256  # pixels of the central square of a photo
  e.limit = 0  # photos; 0: all
  return e


def variants(
  config: ml_collections.ConfigDict,
  name: str,
  known: dict[str, tuple[Callable[[ml_collections.ConfigDict], None], ...]],
) -> ml_collections.ConfigDict:
  """Applies the variant that a command names after the colon, and locks the config.

  Args:
    config: the default, for ''.
    name: the name after the colon, or ''.
    known: name -> functions that change the config, in order.

  Raises:
    ValueError: there is no such variant.
  """
  if name and name not in known:
    raise ValueError(f'this config has no variant {name!r}: {", ".join(known)}')
  for change in known.get(name, ()):
    change(config)
  return config.lock()
