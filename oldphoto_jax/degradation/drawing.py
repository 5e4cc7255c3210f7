"""Tools for drawing damage: random numbers from one key, smooth noise, thin curves, blending.

Photos are float32 [H, W, 3] in [-1, 1], covers float32 [H, W] in [0, 1]. Everything runs inside
jit, and one key gives the same photo on all backends.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


def uniform(key, ends):
  """One number, uniform between the ends."""
  low, high = ends
  return jax.random.uniform(key, (), minval=low, maxval=high)


BLOCK = 2048  # numbers that `Draws` draws at a time, or more where more are asked for at once
KEYS = 24  # keys that `ahead` draws: XLA compiles what has the same shapes only once


class Ahead(NamedTuple):
  """What `Draws` would draw from a key, drawn ahead: the same numbers.

  Every generator in a program takes as long to compile as ten drawn shapes, so a recipe draws for
  all of its artefacts in one place.

  key: for what goes beyond. keys: [K], the first fresh keys. blocks: [B, N], the first N numbers
  of each of the first B keys.
  """

  key: jax.Array
  keys: jax.Array
  blocks: jax.Array


def ahead(key, blocks: int = 2, length: int = BLOCK) -> Ahead:
  """Draws ahead: see Ahead."""
  fresh = jax.vmap(lambda i: jax.random.fold_in(key, i))(np.arange(1, KEYS + 1))
  return Ahead(key, fresh, jax.vmap(lambda k: jax.random.uniform(k, (length,)))(fresh[:blocks]))


class Draws:
  """Random numbers from one key, each handed out once.

  An artefact uses one generator. Compiling one for each of its thirty or so numbers would take ten
  times as long as the rest of the artefact. The key may come with numbers that were drawn `ahead`.
  """

  def __init__(self, key: 'jax.Array | Ahead'):
    self._ahead = key if isinstance(key, Ahead) else None
    self._key = key.key if isinstance(key, Ahead) else key
    self._block, self._used = jnp.zeros(0), 0
    self._blocks = 0

  def key(self):
    """A fresh key, for noise as large as the photo."""
    self._blocks += 1
    if self._ahead is not None and self._blocks <= len(self._ahead.keys):
      return self._ahead.keys[self._blocks - 1]
    return jax.random.fold_in(self._key, self._blocks)

  def unit(self, *shape):
    """Uniform in [0, 1)."""
    n = math.prod(shape)
    if self._used + n > self._block.size:
      self._block, self._used = self._next(n), 0
    self._used += n
    return self._block[self._used - n : self._used].reshape(shape)

  def _next(self, n):
    """A fresh block of at least n numbers."""
    key = self.key()
    if self._ahead is not None:
      blocks, length = self._ahead.blocks.shape
      if self._blocks <= blocks and n <= length:
        return self._ahead.blocks[self._blocks - 1, : max(n, BLOCK)]
    return jax.random.uniform(key, (max(n, BLOCK),))

  def uniform(self, ends, *shape):
    """Uniform between the ends."""
    return ends[0] + (ends[1] - ends[0]) * self.unit(*shape)

  def low(self, ends, *shape, power=2.0):
    """Between the ends on a logarithmic scale; a higher power favours low numbers."""
    return ends[0] * (ends[1] / ends[0]) ** (self.unit(*shape) ** power)

  def log_uniform(self, ends, *shape):
    """Uniform on a logarithmic scale."""
    return self.low(ends, *shape, power=1.0)

  def count(self, ends, power=2.0):
    """An integer, both ends included; a higher power favours low numbers."""
    low, high = ends
    return low + jnp.floor((high + 1 - low) * self.unit() ** power).astype(int)

  def chance(self, probability, *shape):
    """True with this probability."""
    return self.unit(*shape) < probability

  def below(self, n, *shape):
    """An integer in 0..n-1."""
    return jnp.floor(n * self.unit(*shape)).astype(int)

  def sign(self, *shape):
    """-1 or 1."""
    return jnp.where(self.unit(*shape) < 0.5, -1.0, 1.0)

  def normal(self, *shape):
    """Standard normal, within about 4 standard deviations."""
    return np.sqrt(2).astype(np.float32) * lax.erf_inv(1.9999 * self.unit(*shape) - 0.99995)

  def noise(self, height, width, cells):
    """Smooth noise in about [-1, 1], [height, width]: `cells` hills along the shorter side.

    Value noise: uniform numbers on a coarse grid, enlarged with a cubic kernel.
    """
    return self.noises(height, width, [(1.0, cells)])

  def noises(self, height, width, parts):
    """The sum of smooth noises: (height of the hills, cells) of each."""
    short = min(height, width)
    # One product for all: a product takes as long to compile as the rest of an artefact.
    grids, down, across = [], [], []
    for high, cells in parts:
      rows, columns = (max(2, round(cells * side / short) + 1) for side in (height, width))
      grids.append(high * self.uniform((-1, 1), rows, columns))
      down.append(enlarging(height, rows))
      across.append(enlarging(width, columns))
    return product(
      np.concatenate(down, 1), jax.scipy.linalg.block_diag(*grids), np.concatenate(across, 1).T
    )

  def fractal(self, height, width, cells, octaves, finer=2.0):
    """Octaves of smooth noise in about [-1, 1], each half as high and `finer` times as fine."""
    limit = min(height, width) / 2
    scale = 1.4 / (2 - 0.5 ** (octaves - 1))
    return self.noises(
      height, width, [(scale * 0.5**i, min(cells * finer**i, limit)) for i in range(octaves)]
    )

  def curve(self, n, count, knots):
    """`count` smooth functions of one variable in about [-1, 1], [count, n]."""
    values = self.uniform((-1, 1), count, knots)
    # Gathered, because a dense matrix as in `noise` would have n times `knots` entries.
    places, weights = (np.stack(x) for x in zip(*cubic(n, knots)))
    return (values[:, places] * weights).sum(1)


def product(*matrices):
  """The product of all matrices, in full float32."""
  # For the same photo on all backends: GPU and TPU would multiply in TF32 and bfloat16.
  return functools.reduce(functools.partial(jnp.matmul, precision=lax.Precision.HIGHEST), matrices)


def cubic(n, knots):
  """Cubic enlargement of `knots` values to n (Keys, a = -0.5): four pairs of indices and weights.

  The first and last values lie on the ends and repeat beyond them.
  """
  place = np.linspace(0, knots - 1, n)
  first = np.floor(place).astype(int) - 1
  for knot in range(4):
    x = np.abs(place - (first + knot))
    near, far = (1.5 * x - 2.5) * x * x + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2
    weight = np.where(x < 1, near, np.where(x < 2, far, 0)).astype(np.float32)
    yield (first + knot).clip(0, knots - 1), weight


@functools.lru_cache(maxsize=64)
def enlarging(n, knots):
  """`cubic` as a matrix, float32 [n, knots]."""
  matrix = np.zeros((n, knots), np.float32)
  for knot, weight in cubic(n, knots):
    np.add.at(matrix, (np.arange(n), knot), weight)
  return matrix


def smoothstep(x, low, high):
  """0 up to `low`, 1 from `high` on, a cubic in between."""
  x = ((x - low) / (high - low)).clip(0, 1)
  return x * x * (3 - 2 * x)


def blend(photo, cover, colour):
  """Covers the photo with a colour; where `cover` [H, W] is 0 the photo stays bit-identical."""
  cover = cover[..., None]
  return jnp.where(cover > 0, photo + cover * (colour - photo), photo)


def shade(photo, gain):
  """Multiplies the light by `gain` [H, W] or [H, W, 3]; gain 1 keeps the photo bit-identical."""
  gain = gain if gain.ndim == 3 else gain[..., None]
  return jnp.where(gain == 1, photo, ((photo + 1) * gain - 1).clip(-1, 1))


def place(cover, row, column, value):
  """Raises `cover` [H, W] to each value where it is lower; pixels outside are ignored."""
  height, width = cover.shape
  inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
  # A negative index would count from the end; one past the end is dropped.
  return cover.at[jnp.where(inside, row, height), column].max(value, mode='drop')


def widened(x, radius):
  """The largest value of the square around each pixel, [H, W, 1]."""
  height, width = x.shape[:2]
  x = jnp.pad(x, ((radius, radius), (radius, radius), (0, 0)))
  x = functools.reduce(jnp.maximum, [x[i : i + height] for i in range(2 * radius + 1)])
  return functools.reduce(jnp.maximum, [x[:, i : i + width] for i in range(2 * radius + 1)])


def grid(height, width):
  """Row and column of every pixel: float32 [height, 1] and [1, width]."""
  return jnp.arange(height, dtype=jnp.float32)[:, None], jnp.arange(width, dtype=jnp.float32)[None]


def strokes(height, width, points, thickness, opacity):
  """Thin curves, antialiased: float32 [height, width], the largest opacity at each pixel.

  Args:
    points: [K, N, 2], (row, column) in pixels; neighbours at most one pixel apart on either axis.
    thickness: [K, N], pixels, at most 4; below 1 a curve gets fainter rather than thinner.
    opacity: [K, N] in [0, 1]; 0 ends or breaks a curve.
  """
  step = jnp.gradient(points, axis=1)
  step /= jnp.maximum(jnp.linalg.norm(step, axis=-1, keepdims=True), 1e-6)
  steep = jnp.abs(step[..., :1]) > jnp.abs(step[..., 1:])
  # Offsets run across the curve's main axis; the distance to a pixel is measured from the tangent.
  across = jnp.where(steep, jnp.array([0, 1]), jnp.array([1, 0]))[:, :, None]
  offset = jnp.arange(-4, 5)[:, None] * across
  pixel = jnp.round(points).astype(int)[:, :, None] + offset
  away = pixel - points[:, :, None]
  distance = jnp.abs(away[..., 0] * step[:, :, None, 1] - away[..., 1] * step[:, :, None, 0])
  edge = thickness[..., None] / 2 + 0.5 - distance
  value = jnp.minimum(edge, thickness[..., None]).clip(0, 1) * opacity[..., None]
  return place(jnp.zeros((height, width)), pixel[..., 0], pixel[..., 1], value)


def scattered(draw, most, height, width, clouds, share, spread):
  """Places [most, 2] in pixels: anywhere, or, for a share of them, near one of `clouds` centres."""
  size = jnp.array([height, width])
  place = draw.unit(most, 2) * size
  centres = draw.unit(clouds, 2)[draw.below(clouds, most)] * size
  near = centres + spread * min(height, width) * draw.normal(most, 2)
  return jnp.where(draw.chance(share, most, 1), near, place)


def around(place, reach):
  """Row, column and both offsets of the pixels in squares around places [K, 2], [K, S, S] each."""
  offset = np.arange(-reach, reach + 1)
  corner = jnp.floor(place).astype(int)
  row, column = jnp.broadcast_arrays(
    (corner[:, 0, None] + offset)[:, :, None], (corner[:, 1, None] + offset)[:, None, :]
  )
  return row, column, row - place[:, 0, None, None], column - place[:, 1, None, None]


def outline(draw, y, x, strengths):
  """The radius of blobs towards (y, x), [K, H, W]: 1 plus waves with 2, 3, ... periods per turn.

  `strengths` are the largest heights of the waves; each blob draws its own heights.
  """
  shape = (y.shape[0], 1, 1)
  r = jnp.sqrt(y * y + x * x) + 1e-6
  cos, sin = x / r, y / r
  c, s, outline = cos, sin, 1.0
  for most in strengths:
    c, s = c * cos - s * sin, s * cos + c * sin  # of the next multiple of the angle
    height, phase = most * draw.unit(*shape), draw.uniform((0, 2 * np.pi), *shape)
    outline += height * (c * jnp.cos(phase) + s * jnp.sin(phase))
  return outline
