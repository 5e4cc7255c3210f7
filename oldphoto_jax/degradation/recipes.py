"""Recipes: named mixtures of damage that turn a clean photo and a key into an old photo.

A recipe is a frozen dataclass of strengths and probabilities. Calling it is a pure function
`recipe(key, clean) -> Aged` of ONE photo, ready for `jax.vmap` and `jax.jit`. `degrade_batch` is
the fast way to process a batch.

A key gives the same photo by itself and in any batch. Between two compiled programs (vmapped or
not, CPU or GPU) the last bit of a float may differ, which can move a pixel across a rounding edge
by one level; JPEG may spread that over a block. Vmapped and mapped programs on CPU, over 48 photos
of 128×128 per recipe, differed in no value for `Report` and `Ageing`, and in 0.02 % of the values
for `Wan2020`.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from oldphoto_jax.degradation import drawing, examples, photographic


class Aged(NamedTuple):
  """A training example made from a clean photo.

  old: the damaged photo, float32 [H, W, 3] in [-1, 1], on the grid of 8-bit levels.
  clean: the photo that a restorer should return, [H, W, 3] in [-1, 1].
  mask: 1 where the content is lost and not just degraded, float32 [H, W, 1] in [0, 1].
  """

  old: jax.Array
  clean: jax.Array
  mask: jax.Array


Recipe = Callable[[jax.Array, jax.Array], Aged]


def degrade_batch(recipe: Recipe, keys, clean) -> Aged:
  """Ages a batch: keys [B], clean [B, H, W, 3] -> Aged with a leading B. See examples.each."""
  return examples.each(recipe, keys, clean)


@dataclasses.dataclass(frozen=True)
class Wan2020:
  """The degradation of Wan et al. 2020, following their code: domain X of the triplet.

  Source: `online_add_degradation_v2` and `PairOldPhotos` in the official repository's
  `Global/data/online_dataset_for_old_photos.py`. Blur, noise, low resolution and JPEG are applied
  in random order, each with a probability. At the end the pair sometimes loses its colour. The
  defaults are theirs. The reference degrades the full photo before cropping; we degrade what we
  are given, usually a crop.

  No content is lost, so the mask is empty. Photos need sides of at least 16 pixels.
  """

  probability: float = 0.7  # of each of the four operations
  blur_sigma: tuple[float, float] = (1.0, 5.0)  # pixels; kernel side 3, 5 or 7
  noise_std: tuple[float, float] = (5.0, 50.0)  # 8-bit levels; Gaussian and speckle
  impulse_amount: tuple[float, float] = (0.0, 0.01)  # share of values; salt and pepper
  impulse_salt: tuple[float, float] = (0.3, 0.8)  # share of white among them
  smallest: float = 0.5  # low resolution: smallest side as a share of the full one
  jpeg_quality: tuple[int, int] = (40, 100)  # both ends included
  gray: float = 0.1  # probability that BOTH photos lose their colour

  def __call__(self, key, clean) -> Aged:
    check(clean)
    steps = self.steps(key)
    keys = jax.random.split(jax.random.fold_in(key, 1), 5)
    # All numbers in three calls: compiling a call takes longer than compiling a blur.
    own = jax.vmap(lambda key: jax.random.split(key, 4))(keys[:3])
    blur, noise, small = own
    unit = jax.vmap(jax.random.uniform)(jnp.stack([blur[1], noise[1], noise[2], small[2], keys[4]]))
    height, width = clean.shape[:2]
    least, most = self.jpeg_quality
    whole = jax.vmap(lambda key, low, high: jax.random.randint(key, (), low, high))(
      jnp.stack([blur[0], noise[0], small[0], small[1], keys[3]]),
      np.array([0, 0, int(height * self.smallest), int(width * self.smallest), least]),
      np.array([3, 3, height + 1, width + 1, most + 1]),
    )
    within = lambda unit, ends: unit * (np.float32(ends[1]) - np.float32(ends[0])) + ends[0]
    operations = [
      lambda photo: photo,
      lambda photo: photographic.gaussian_blur(
        photo, 3 + 2 * whole[0], within(unit[0], self.blur_sigma)
      ),
      lambda photo: photographic.noise(
        photo,
        noise[3],
        whole[1],
        within(unit[1], self.noise_std),
        within(unit[1], self.impulse_amount),
        within(unit[2], self.impulse_salt),
      ),
      lambda photo: photographic.low_resolution(photo, whole[2], whole[3], unit[3] < 0.5),
      lambda photo: photographic.jpeg(photo, whole[4]),
    ]
    # A loop instead of four switches in a row compiles every operation only once.
    old = lax.fori_loop(0, 4, lambda i, photo: examples.switch(steps[i], operations, photo), clean)

    without_colour = unit[4] < self.gray
    old = jnp.where(without_colour, photographic.gray(old), old)
    clean = jnp.where(without_colour, photographic.gray(clean), clean)
    return Aged(old, clean, jnp.zeros_like(clean[..., :1]))

  def steps(self, key):
    """The operations that the recipe applies under this key, in order, int32 [4].

    0 stands for nothing, 1 for blur, 2 for noise, 3 for low resolution, 4 for JPEG.
    """
    order_key, used_key = jax.random.split(jax.random.fold_in(key, 0))
    order = 1 + jax.random.permutation(order_key, 4)
    return jnp.where(jax.random.bernoulli(used_key, self.probability, (4,)), order, 0)


@dataclasses.dataclass(frozen=True)
class Report:
  """The student report's synthetic damage: gray at random, straight white lines, noise.

  Order and noise follow the report's notebooks (2022, Wand on ImageMagick 6.9.7 Q16). They draw
  lines with random ends, one pixel wide and not smoothed. Then they add `noise('gaussian')` twice,
  the second time when the pair is put together, and resize to 256×256. The noise has a standard
  deviation of 0.078125 of full scale (`TauGaussian` of magick/gem.c; its signal-dependent part is
  0.00006), or 19.9 levels per pass. The resize (Lanczos) multiplies it by 0.528 for Pascal VOC's
  usual 500×375, measured on white noise with Pillow. We draw at the final size, because lines that
  shrink with the photo would fade to gray; hence sigma = 10.5. The notebooks convert the photo to
  gray before adding noise, so the noise of a gray photo is gray. The report gives no share of gray
  photos; 0.1 is that of Wan et al.

  The mask marks the lines.
  """

  sigma: float = 10.5  # 8-bit levels per pass
  passes: int = 2
  gray: float = 0.1  # probability that only the old photo loses its colour
  lines: tuple[int, int] = (1, 30)  # fewest and most, both included

  def __call__(self, key, clean) -> Aged:
    check(clean)
    gray_key, count_key, ends_key, noise_key = jax.random.split(key, 4)
    height, width = clean.shape[:2]
    without_colour = jax.random.bernoulli(gray_key, self.gray)
    old = jnp.where(without_colour, photographic.gray(clean), clean)

    least, most = self.lines
    count = jax.random.randint(count_key, (), least, most + 1)
    ends = jax.random.randint(ends_key, (most, 2, 2), 0, jnp.array([height, width]))
    mask = line_mask(ends, count, height, width)
    old = jnp.where(mask, 1.0, old)

    def add_noise(i, old):
      noise = jax.random.normal(jax.random.fold_in(noise_key, i), old.shape)
      noise = jnp.where(without_colour, noise[..., :1], noise)
      return _snap(old + self.sigma / 127.5 * noise)

    old = lax.fori_loop(0, self.passes, add_noise, _snap(old))
    return Aged(old, clean, mask.astype(jnp.float32))


@dataclasses.dataclass(frozen=True)
class Ageing:
  """A faded print: the stand-in for real old photos (domain R) if none are given.

  It differs from `Wan2020` on purpose; otherwise an encoder could not tell the domains apart, and
  aligning them would be pointless. Tones change continuously, one correlated grain field is shared
  by all channels, and there is no resampling or JPEG. Fading and vignette bracket measurements of
  50 photos from 1860-1930 at the Library of Congress: 1st percentile 13 to 46, 99th 163 to 242,
  median 91 to 221, of 255, without the outer 5 % at either end. The other ranges were set by eye.

  No content is lost, so the mask is empty.
  """

  desaturation: tuple[float, float] = (0.3, 1.0)
  blur: tuple[float, float] = (0.3, 1.3)  # sigma in pixels, at most 1.5
  black: tuple[float, float] = (0.0, 0.2)  # where black goes, of full scale
  white: tuple[float, float] = (0.7, 1.0)  # where white goes
  gamma: tuple[float, float] = (0.6, 1.2)  # below 1 lightens the middle tones
  yellowing: float = 0.8  # probability; the others are neutral copies
  green: tuple[float, float] = (0.82, 0.97)  # share of green that the yellowed paper reflects,
  blue: tuple[float, float] = (1.8, 3.5)  # and of blue, as a power of the share of green
  vignette: tuple[float, float] = (0.0, 0.4)  # darkening of the corners
  grain: tuple[float, float] = (2.0, 9.0)  # std at mid gray, 8-bit levels
  grain_size: tuple[float, float] = (0.4, 1.2)  # sigma in pixels, at most 1.5

  def __call__(self, key, clean) -> Aged:
    check(clean)
    keys = jax.random.split(key, 12)
    # The third is of the grain.
    ends = jnp.array(
      [
        self.desaturation,
        self.blur,
        (0.0, 1.0),
        self.grain,
        self.grain_size,
        self.black,
        self.white,
        self.gamma,
        self.green,
        self.blue,
        (0.0, 1.0),
        self.vignette,
      ]
    )
    drawn = jax.vmap(drawing.uniform)(keys, ends)
    old = photographic.desaturate(clean, drawn[0])
    old = photographic.soft_blur(old, drawn[1])
    old = photographic.film_grain(old, keys[2], drawn[3], drawn[4])
    old = photographic.fade(old, *drawn[5:8])
    green = drawn[8]
    paper = jnp.stack([jnp.ones(()), green, green ** drawn[9]])
    paper = jnp.where(drawn[10] < self.yellowing, paper, jnp.ones(3))
    old = photographic.tint(old, paper)
    old = photographic.vignette(old, drawn[11])
    return Aged(_snap(old), clean, jnp.zeros_like(clean[..., :1]))


@dataclasses.dataclass(frozen=True)
class Mixture:
  """Each photo draws one of `recipes`, all equally likely."""

  recipes: tuple[Recipe, ...]

  def __call__(self, key, clean) -> Aged:
    choice_key, key = jax.random.split(key)
    choice = jax.random.randint(choice_key, (), 0, len(self.recipes))
    return examples.switch(choice, self.recipes, key, clean)


@dataclasses.dataclass(frozen=True)
class Shares:
  """Each photo draws one of `recipes`, by their shares, which sum to 1."""

  recipes: tuple[Recipe, ...]
  shares: tuple[float, ...]

  def __call__(self, key, clean) -> Aged:
    choice_key, key = jax.random.split(key)
    bars = jnp.cumsum(jnp.array(self.shares[:-1]))
    choice = (jax.random.uniform(choice_key) >= bars).sum()
    return examples.switch(choice, self.recipes, key, clean)


@dataclasses.dataclass(frozen=True)
class Holes:
  """Pure white holes on top of all degradation, as the reference trains the masked mapping.

  Source: `PairOldPhotos_with_hole` in the official repository's
  `Global/data/online_dataset_for_old_photos.py`. It reads masks from files that were never
  released; here the masks are the lost content of another recipe. The mask is binary.
  """

  masks: Recipe  # its mask, where at least 1/2, gives the holes; its photo is not used
  degradation: Recipe = Wan2020()
  empty: float = 0.5  # probability of no holes

  def __call__(self, key, clean) -> Aged:
    mask_key, empty_key, key = jax.random.split(key, 3)
    aged = self.degradation(key, clean)
    holes = (self.masks(mask_key, clean).mask >= 0.5) & ~jax.random.bernoulli(empty_key, self.empty)
    return Aged(jnp.where(holes, 1.0, aged.old), aged.clean, holes.astype(jnp.float32))


def line_mask(ends, count, height, width):
  """Straight lines one pixel wide, not smoothed: bool [height, width, 1].

  A line steps along its longer axis and has exactly one pixel at each step, the nearest to the
  segment: max(|dy|, |dx|) + 1 pixels in all (Bresenham's line, up to the choice at ties).

  Args:
    ends: int32 [N, 2, 2], both ends of each line as (row, column).
    count: how many of the N lines are drawn.
  """
  start, step = ends[:, 0, :, None], (ends[:, 1] - ends[:, 0])[:, :, None]
  drawn = jnp.arange(ends.shape[0])[:, None] < count
  shallow = jnp.abs(step[:, 0]) <= jnp.abs(step[:, 1])

  def crossing(along, across, n):
    # For every position on one axis, the line's pixel on the other; in integers, so exact.
    sign = jnp.where(step[:, along] < 0, -1, 1)
    length = jnp.abs(step[:, along])
    position = sign * (jnp.arange(n) - start[:, along])
    inside = (position >= 0) & (position <= length)
    twice = 2 * jnp.maximum(length, 1)
    pixel = start[:, across] + (2 * step[:, across] * position + length) // twice
    return pixel, inside & drawn

  row, on_column = crossing(1, 0, width)
  column, on_row = crossing(0, 1, height)
  rows, columns = jnp.arange(height)[:, None], jnp.arange(width)
  hit = (row[:, None, :] == rows) & (on_column & shallow)[:, None, :]
  hit |= (column[:, :, None] == columns) & (on_row & ~shallow)[:, :, None]
  return hit.any(0)[..., None]


def check(clean) -> None:
  """Raises ValueError for anything but one photo of at least 16 pixels per side."""
  if clean.ndim != 3 or clean.shape[-1] != 3 or min(clean.shape[:2]) < 16:
    raise ValueError(
      f'a recipe takes one photo [H, W, 3] of at least 16 pixels per side, not {clean.shape}; '
      'for a batch use degrade_batch'
    )


def _snap(photo):
  return photographic.from_levels(photographic.to_levels(photo))
