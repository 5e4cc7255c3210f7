"""The rows of a comparison, which are ways to restore photos, and the tests that they restore."""

import dataclasses
import hashlib
from collections.abc import Callable

import jax
import numpy as np
from scipy import ndimage
from skimage import restoration

from oldphoto_jax import data
from oldphoto_jax.data import prints
from oldphoto_jax.degradation import photographic, recipes
from oldphoto_jax.metrics import print_scores
from oldphoto_jax.photos import images, sheets
from oldphoto_jax.restoring import restore
from oldphoto_jax.restoring.engine import Engine, compiled

# (photo float32 [H, W, 3] in [-1, 1], what to fill float32 [H, W, 1] in [0, 1] or None) -> the
# restored photo, of the same shape and range.
Restore = Callable[[np.ndarray, np.ndarray | None], np.ndarray]

NOTHING = 'do nothing'
MOVED = 'real damage'  # name of the test of `moved`
MARGIN = 6  # pixels around marks in which nothing counts as sound


@dataclasses.dataclass(frozen=True)
class Training:
  """The training of a row; unknown values are None.

  Attributes:
    images: training images, over all stages.
    seconds: duration of the training steps, without validation and interruptions.
    photos: names of the folders or data sets.
    recipe: how training photos were damaged.
    crop: pixels per side of a training image.
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
    open: loads the function, which stays in memory until it is dropped.
    identity: everything that the restored photos depend on, as a digest of weights and settings.
    masked: whether it gets the true mask; such rows skip tests without truth.
    limit: number of photos to restore, from the first one on; 0: all.
    parameters: number of learnt parameters; None if nothing is learnt.
    training: how they were learnt.
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
  """Photos to restore: uint8 [H, W, 3], of any sizes.

  Attributes:
    name: the recipe, or another word for the source of the damage.
    photos: names of the photos.
    old: the damaged photos.
    truth: the undamaged photos, or None.
    mask: lost content, float32 [H, W, 1] in [0, 1], 1 = lost. Given together with `truth`.
    reference: only without `truth`: the results of another system, to measure a distance to.
  """

  name: str
  photos: list[str]
  old: list[np.ndarray]
  truth: list[np.ndarray] | None = None
  mask: list[np.ndarray] | None = None
  reference: list[np.ndarray] | None = None

  def digest(self, i: int) -> str:
    """A hash of everything that is known about photo i."""
    hashed = hashlib.sha256()
    for part in (self.old, self.truth, self.mask, self.reference):
      if part is not None:
        hashed.update(f'{part[i].shape} {part[i].dtype}'.encode() + part[i].tobytes())
    return hashed.hexdigest()


def age(recipe: recipes.Recipe, name: str, source: data.Source, size: int, seed: int = 0) -> Test:
  """The central squares of photos, each aged with the key fold_in(key(seed), its number)."""

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


def given(source: data.Source, size: int) -> Test:
  """The central squares of data.Pairs. Nobody knows what they lost, so their masks are empty."""
  old, truth = [], []
  for batch in data.eval_batches(source, size, 1):
    old.append(batch['image'][0, ..., :3])
    truth.append(batch['image'][0, ..., 3:])
  empty = [np.zeros((size, size, 1), np.float32)] * len(old)
  return Test('pairs', list(source.names), old, truth, empty)


def moved(labelled: prints.Prints, size: int, seed: int = 0) -> Test:
  """Real damage of prints, moved to sound places of others, where the truth is known.

  Of each print the square with the most sound pixels is the host, and the next print with damage
  the donor. Outside of the mask, the truth is the print as it is: a system that cleans it is not
  rewarded, so the PSNR in the mask is what counts. Prints with a side below `size`, and those on
  which no piece of damage finds a place, are left out.

  Args:
    labelled: prints with hand-made masks.
    size: pixels per side of a square.
    seed: of pieces and places, with the number of the print.
  """
  names, old, truth, masks = [], [], [], []
  for i, label in enumerate(labelled.labels):
    donors = [n for n in labelled.donors if n != i]
    if min(label.shape) < size or not donors:
      continue
    donor = min(donors, key=lambda n: (n - i) % len(labelled))
    sound = ~ndimage.binary_dilation(label != 0, iterations=MARGIN)
    here = _most(sound, size)
    levels = labelled.photos[i][here], labelled.photos[donor]
    host, source = (images.to_float(images.Photo(x)) for x in levels)
    damage, rng = labelled.labels[donor] == prints.DAMAGED, np.random.default_rng([seed, i])
    damaged, placed = print_scores.transplant(source, damage, host, sound[here], rng)
    if placed.any():
      names.append(labelled.names[i])
      old.append(sheets.from_float(damaged))
      truth.append(levels[0])
      masks.append(placed[..., None].astype(np.float32))
  return Test(MOVED, names, old, truth, masks)


def _most(marked: np.ndarray, size: int) -> tuple[slice, slice]:
  """The square [size, size] with the most pixels of a mask [H, W]; the first one of several."""
  sums = np.pad(np.cumsum(np.cumsum(marked, 0), 1), ((1, 0), (1, 0)))
  inside = sums[size:, size:] - sums[:-size, size:] - sums[size:, :-size] + sums[:-size, :-size]
  top, left = np.unravel_index(inside.argmax(), inside.shape)
  return slice(top, top + size), slice(left, left + size)


def nothing() -> Row:
  """Returns the damaged photo."""
  return Row(NOTHING, lambda: lambda photo, weight: photo, NOTHING)


def classical(masked: bool) -> Row:
  """Non-local means of scikit-image with estimated noise, and inpainting if the mask is known.

  Biharmonic inpainting comes first; otherwise a line would be smoothed into its surroundings.
  Settings: patches of 5 pixels, distances up to 6, h = 0.8 sigma, as in scikit-image's example for
  the fast mode with a known sigma.
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
  """`photo` [H, W, 3], with the pixels that `weight` [H, W, 1] marks filled from their edge."""
  filled = restoration.inpaint_biharmonic(
    photo, weight[..., 0] > 0, channel_axis=-1, split_into_regions=True
  )
  return (weight * np.clip(filled, -1, 1) + (1 - weight) * photo).astype(np.float32)


def noise(photo: np.ndarray) -> float:
  """Standard deviation of white noise in [H, W, C], averaged over channels.

  The median of the finest diagonal Haar coefficients over 0.6745 (Donoho and Johnstone 1994);
  scikit-image's `estimate_sigma` uses a longer wavelet and needs PyWavelets.
  """
  height, width = photo.shape[0] // 2 * 2, photo.shape[1] // 2 * 2
  x = photo[:height, :width]
  diagonal = (x[::2, ::2] - x[1::2, ::2] - x[::2, 1::2] + x[1::2, 1::2]) / 2
  return float(np.median(np.abs(diagonal), (0, 1)).mean() / 0.6745)


def by_engine(engine: Engine, wishes: restore.Wishes = restore.PLAIN) -> Restore:
  """Restores photos as `oldphoto restore` does with these wishes."""
  return lambda photo, mask: restore.restore_array(engine, photo, mask, wishes).photo


def restoring(label: str, restorer: restore.Restorer) -> Row:
  """Restores with trained weights, without a mask."""
  wishes = restore.usual(restorer)
  return Row(label, lambda: by_engine(compiled(restorer), wishes), restorer.name)
