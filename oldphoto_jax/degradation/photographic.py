"""Photographic damage: blur, noise, low resolution, JPEG, gray, fading, tone, grain, vignette.

Every function takes ONE photo, float32 [H, W, 3] in [-1, 1], and returns one of the same shape,
dtype and range. Strengths may be traced numbers, so a `jax.vmap` gives batches and a new strength
never recompiles. No function depends on the size of the batch: a key gives the same photo by
itself and in a batch.

In the reference, the operations of Wan et al. 2020 work on 8-bit photos (Pillow, OpenCV and libjpeg
through `Global/data/online_dataset_for_old_photos.py` of their repository). They do here too:
values are snapped to the 256 levels on the way in and out, rounded where Pillow and OpenCV round
and truncated where the reference truncates (after noise).
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

# Exact products keep values on the levels: TPU and GPU would otherwise use bfloat16 / TF32.
_EXACT = lax.Precision.HIGHEST

# JFIF 1.02 conversions by libjpeg's 16-bit fixed-point constants (jccolor.c, jdcolor.c); the luma
# is also Pillow's 'L'. On whole levels all sums stay below 2^24, so float32 is exact.
_LUMA = np.array([19595, 38470, 7471], np.float32) / 65536
_CB = np.array([-11058, -21710, 32768], np.float32) / 65536
_CR = np.array([32768, -27439, -5329], np.float32) / 65536
_CR_RED, _CB_GREEN, _CR_GREEN, _CB_BLUE = np.float32([91881, -22554, -46802, 116130]) / 65536


def to_levels(photo):
  """[-1, 1] -> the nearest of the levels 0, 1, ..., 255, as float32."""
  return jnp.clip(_half_up((photo + 1) * 127.5), 0, 255)


def from_levels(levels):
  """Levels in [0, 255] -> [-1, 1]; the inverse of `to_levels` on whole levels."""
  # One exact difference and one product: a compiler has nothing to contract, and 255 gives 1.
  return (levels - 127.5) * np.float32(1 / 127.5)


def _half_up(x):
  # Pillow, OpenCV and libjpeg add one half and truncate; jnp.round rounds halves to even.
  return jnp.floor(x + 0.5)


def _mix(rgb, weights):
  return rgb[..., 0] * weights[0] + rgb[..., 1] * weights[1] + rgb[..., 2] * weights[2]


def gray(photo):
  """The photo without colour, in three equal channels (Pillow's `convert('L')`)."""
  luma = _half_up(_mix(to_levels(photo), _LUMA))
  return from_levels(jnp.broadcast_to(luma[..., None], photo.shape))


# --- blur ----------------------------------------------------------------------------------------


def _gaussian_kernel(radius, sigma, reach):
  """2·radius + 1 weights that sum to one; those farther than `reach` from the centre are zero."""
  offset = jnp.arange(-radius, radius + 1)
  weight = jnp.exp(-0.5 * (offset / sigma) ** 2) * (jnp.abs(offset) <= reach)
  return weight / weight.sum()


def _separable(x, kernel):
  """Correlates [H, W, C] with kernel × kernel; the border mirrors without repeating the edge."""
  radius = kernel.shape[0] // 2
  height, width = x.shape[:2]
  x = jnp.pad(x, ((radius, radius), (radius, radius), (0, 0)), mode='reflect')
  # Shifted sums: a convolution with three channels is a slow path of XLA on CPU.
  x = sum(kernel[i] * x[i : i + height] for i in range(kernel.shape[0]))
  return sum(kernel[i] * x[:, i : i + width] for i in range(kernel.shape[0]))


def gaussian_blur(photo, size, sigma):
  """Gaussian blur as OpenCV's `GaussianBlur` on uint8, border reflect-101.

  Args:
    photo: [H, W, 3] in [-1, 1], sides of at least 4.
    size: side of the kernel in pixels, 3, 5 or 7.
    sigma: standard deviation in pixels.

  OpenCV also rounds the kernel to 8 bits. We do not, which moves a pixel by at most one level.
  """
  kernel = _gaussian_kernel(3, sigma, size // 2)
  return from_levels(_half_up(_separable(to_levels(photo), kernel)))


# --- noise ---------------------------------------------------------------------------------------


def _cut(levels):
  # The reference casts to uint8 without rounding: np.clip(image * 255, 0, 255).astype(np.uint8).
  return from_levels(jnp.floor(jnp.clip(levels, 0, 255)))


def gaussian_noise(photo, key, std):
  """Adds white Gaussian noise, independent per pixel and channel; `std` in 8-bit levels."""
  levels = to_levels(photo)
  return _cut(levels + std * jax.random.normal(key, levels.shape))


def speckle_noise(photo, key, std):
  """x + x·n with white Gaussian n of standard deviation std / 255: bright parts get more noise."""
  levels = to_levels(photo)
  return _cut(levels * (1 + std / 255 * jax.random.normal(key, levels.shape)))


def salt_pepper_noise(photo, key, amount, salt):
  """Sets a share `amount` of all values (pixel and channel) to white or black.

  Args:
    amount: share of the values that are set, in [0, 1].
    salt: share of white among them, in [0, 1].
  """
  levels = to_levels(photo)
  draw = jax.random.uniform(key, levels.shape)
  # One draw decides both: white below amount·salt, black from there to amount.
  levels = jnp.where(draw < amount, jnp.where(draw < amount * salt, 255.0, 0.0), levels)
  return from_levels(levels)


def noise(photo, key, kind, std, amount, salt):
  """`gaussian_noise` for `kind` 0, `speckle_noise` for 1, `salt_pepper_noise` for 2."""

  def normal(photo):
    levels, normal = to_levels(photo), jax.random.normal(key, photo.shape)
    return _cut(jnp.where(kind == 0, levels + std * normal, levels * (1 + std / 255 * normal)))

  impulses = lambda photo: salt_pepper_noise(photo, key, amount, salt)
  return lax.cond(kind == 2, impulses, normal, photo)


# --- low resolution ------------------------------------------------------------------------------


def _bicubic(x):
  """Keys' cubic with a = -0.5, as Pillow's BICUBIC (OpenCV's and torch's use -0.75)."""
  x = jnp.abs(x)
  near = (1.5 * x - 2.5) * x * x + 1
  far = ((-0.5 * x + 2.5) * x - 4) * x + 2
  return jnp.where(x < 1, near, jnp.where(x < 2, far, 0.0))


def _triangle(x):
  return jnp.maximum(1 - jnp.abs(x), 0.0)


def _resize_matrix(kernel, support, n, size_in, size_out):
  """Pillow's resize along one axis as a matrix [n, n]; only [size_out, size_in] of it is used.

  The sizes may be traced. For shrinking, the kernel is stretched by the ratio (antialiasing), as
  `ImagingResample` in Pillow's Resample.c does.
  """
  scale = size_in / size_out
  stretch = jnp.maximum(scale, 1.0)
  centre = (jnp.arange(n)[:, None] + 0.5) * scale
  column = jnp.arange(n)[None, :]
  first = jnp.maximum(jnp.floor(centre - support * stretch + 0.5), 0)
  last = jnp.minimum(jnp.floor(centre + support * stretch + 0.5), size_in)
  weight = kernel((column - centre + 0.5) / stretch)
  weight = jnp.where((column >= first) & (column < last), weight, 0.0)
  # Rows from size_out on are never read, but a division by zero in them would spread as nan.
  return weight / jnp.where(jnp.arange(n) < size_out, weight.sum(1), 1.0)[:, None]


def _nearest_matrix(n, size_in, size_out):
  # Pillow takes floor((i + 1/2) · size_in / size_out); in integers that is exact.
  source = (2 * jnp.arange(n) + 1) * size_in // (2 * size_out)
  return (jnp.arange(n)[None, :] == source[:, None]).astype(jnp.float32)


def low_resolution(photo, height, width, nearest):
  """Shrinks to height × width (bicubic) and enlarges back (nearest or bilinear), as in Pillow.

  Args:
    photo: [H, W, 3] in [-1, 1].
    height, width: integers in 1..H and 1..W.
    nearest: True for nearest-neighbour enlargement, False for bilinear.

  Pillow's bicubic widens its kernel when shrinking, unlike OpenCV's. As in Pillow, each of the four
  passes rounds to whole levels, width before height. (Pillow 13 swaps them if that saves time;
  earlier versions, and so the reference, do not.) Sizes are data here, so each pass is a product
  with a dense matrix: shapes stay fixed, and all backends are fast at it.
  """
  full_height, full_width = photo.shape[:2]

  def across(x, matrix):  # [H, 3, W] along W
    return _level(lax.dot_general(x, matrix, (((2,), (1,)), ((), ())), precision=_EXACT))

  def down(x, matrix):  # [H, 3, W] along H
    return _level(lax.dot_general(matrix, x, (((1,), (0,)), ((), ())), precision=_EXACT))

  def up(n, size):
    return jnp.where(
      nearest, _nearest_matrix(n, size, n), _resize_matrix(_triangle, 1.0, n, size, n)
    )

  x = to_levels(photo).transpose(0, 2, 1)
  x = across(x, _resize_matrix(_bicubic, 2.0, full_width, full_width, width))
  x = down(x, _resize_matrix(_bicubic, 2.0, full_height, full_height, height))
  x = across(x, up(full_width, width))
  x = down(x, up(full_height, height))
  return from_levels(x.transpose(0, 2, 1))


def _level(x):
  return jnp.clip(_half_up(x), 0, 255)


# --- JPEG ----------------------------------------------------------------------------------------

# ITU-T T.81 tables K.1 and K.2, row by row.
_LUMA_TABLE = np.array(
  [
    [16, 11, 10, 16, 24, 40, 51, 61],
    [12, 12, 14, 19, 26, 58, 60, 55],
    [14, 13, 16, 24, 40, 57, 69, 56],
    [14, 17, 22, 29, 51, 87, 80, 62],
    [18, 22, 37, 56, 68, 109, 103, 77],
    [24, 35, 55, 64, 81, 104, 113, 92],
    [49, 64, 78, 87, 103, 121, 120, 101],
    [72, 92, 95, 98, 112, 100, 103, 99],
  ]
)
_CHROMA_TABLE = np.array(
  [
    [17, 18, 24, 47, 99, 99, 99, 99],
    [18, 21, 26, 66, 99, 99, 99, 99],
    [24, 26, 56, 99, 99, 99, 99, 99],
    [47, 66, 99, 99, 99, 99, 99, 99],
    [99, 99, 99, 99, 99, 99, 99, 99],
    [99, 99, 99, 99, 99, 99, 99, 99],
    [99, 99, 99, 99, 99, 99, 99, 99],
    [99, 99, 99, 99, 99, 99, 99, 99],
  ]
)


def _dct_matrix():
  """The 8×8 DCT-II of T.81 A.3.3 on flattened blocks: coefficients = block @ matrix.T, [64, 64]."""
  k, i = np.meshgrid(np.arange(8), np.arange(8), indexing='ij')
  one = np.cos((2 * i + 1) * k * np.pi / 16) / 2
  one[0] /= np.sqrt(2)
  return np.kron(one, one).astype(np.float32)


_DCT = _dct_matrix()


def quantisation_tables(quality):
  """libjpeg's luma and chroma tables for a quality of 1..100, float32 [2, 8, 8].

  From `jpeg_quality_scaling` and `jpeg_add_quant_table` in libjpeg's jcparam.c, baseline.
  """
  quality = jnp.asarray(quality, jnp.int32)
  percent = jnp.where(quality < 50, 5000 // quality, 200 - 2 * quality)
  tables = (np.stack([_LUMA_TABLE, _CHROMA_TABLE]) * percent + 50) // 100
  return jnp.clip(tables, 1, 255).astype(jnp.float32)


def _pad_edge(plane, height, width):
  return jnp.pad(plane, ((0, height - plane.shape[0]), (0, width - plane.shape[1])), mode='edge')


def _multiple(n, of):
  return -(-n // of) * of


def _to_blocks(plane):
  height, width = plane.shape
  return plane.reshape(height // 8, 8, width // 8, 8).transpose(0, 2, 1, 3).reshape(-1, 64)


def _from_blocks(blocks, height, width):
  blocks = blocks.reshape(height // 8, width // 8, 8, 8)
  return blocks.transpose(0, 2, 1, 3).reshape(height, width)


def _halve(plane):
  """libjpeg's 2×2 box (`h2v2_downsample`): the rounding bias alternates 1, 2 along a row."""
  height, width = plane.shape[0] // 2, plane.shape[1] // 2
  total = plane.reshape(height, 2, width, 2).sum((1, 3))
  return jnp.floor((total + 1 + jnp.arange(width) % 2) / 4)


def _double(plane):
  """libjpeg's 'fancy' enlargement (`h2v2_fancy_upsample`): 3/4 the near, 1/4 the far sample."""
  height, width = plane.shape
  x = jnp.pad(plane, 1, mode='edge')
  near = 3 * x[1:-1]
  x = jnp.stack([near + x[:-2], near + x[2:]], 1).reshape(2 * height, width + 2)
  near = 3 * x[:, 1:-1]
  left, right = near + x[:, :-2] + 8, near + x[:, 2:] + 7
  return jnp.floor(jnp.stack([left, right], 2).reshape(2 * height, 2 * width) / 16)


def jpeg_coefficients(photo, quality):
  """The coefficients that libjpeg would store, and their quantisation steps.

  Both are float32 [blocks, 64] in row-major frequency order; the coefficients are whole numbers.
  Luma blocks come first (rows of blocks, ceil(H / 8) × ceil(W / 8)), then Cb, then Cr
  (ceil(H / 16) × ceil(W / 16) each).
  """
  levels = to_levels(photo)
  height, width = levels.shape[:2]
  luma = _half_up(_mix(levels, _LUMA))
  # libjpeg's rounding constant rounds exact halves of Cb and Cr down.
  cb = _half_up(_mix(levels, _CB) + (128 - 1 / 65536))
  cr = _half_up(_mix(levels, _CR) + (128 - 1 / 65536))

  # libjpeg pads rightward before halving and downward after it (jcprepct.c).
  rows, columns = _multiple(height, 8), _multiple(width, 8)
  half_rows, half_columns = _multiple(height, 16) // 2, _multiple(width, 16) // 2
  planes = [_pad_edge(luma, rows, columns)]
  for chroma in (cb, cr):
    half = _halve(_pad_edge(chroma, _multiple(height, 2), 2 * half_columns))
    planes.append(_pad_edge(half, half_rows, half_columns))

  blocks = [_to_blocks(plane) for plane in planes]
  tables = quantisation_tables(quality).reshape(2, 64)
  steps = jnp.concatenate(
    [jnp.broadcast_to(tables[min(i, 1)], block.shape) for i, block in enumerate(blocks)]
  )
  dct = jnp.dot(jnp.concatenate(blocks) - 128, _DCT.T, precision=_EXACT)
  # libjpeg's integer DCT yields eighths; halves round away from zero (jcdctmgr.c). In eighths the
  # division is exact, so a tie does not depend on the last bit of the matrix product.
  eighths = jnp.round(8 * dct)
  return jnp.sign(eighths) * jnp.floor(jnp.abs(eighths) / (8 * steps) + 0.5), steps


def jpeg(photo, quality):
  """The photo after JPEG compression by libjpeg's defaults (Pillow's `save(quality=...)`).

  YCbCr, 4:2:0, the standard tables scaled by `quality` (an integer 1..100), decoded with smooth
  chroma enlargement. Sides need not be multiples of 16. Entropy coding is lossless and left out.
  """
  height, width = photo.shape[:2]
  coefficients, steps = jpeg_coefficients(photo, quality)
  blocks = jnp.dot(coefficients * steps, _DCT, precision=_EXACT)
  blocks = jnp.clip(jnp.round(blocks) + 128, 0, 255)

  rows, columns = _multiple(height, 8), _multiple(width, 8)
  half_rows, half_columns = _multiple(height, 16) // 2, _multiple(width, 16) // 2
  n_luma, n_chroma = rows * columns // 64, half_rows * half_columns // 64
  luma = _from_blocks(blocks[:n_luma], rows, columns)[:height, :width]
  chroma = []
  for start in (n_luma, n_luma + n_chroma):
    half = _from_blocks(blocks[start : start + n_chroma], half_rows, half_columns)
    # The decoder knows the true size, so the enlargement must not see the padding.
    half = half[: -(-height // 2), : -(-width // 2)]
    chroma.append(_double(half)[:height, :width] - 128)
  cb, cr = chroma
  red = luma + _half_up(_CR_RED * cr)
  green = luma + _half_up(_CB_GREEN * cb + _CR_GREEN * cr)
  blue = luma + _half_up(_CB_BLUE * cb)
  return from_levels(jnp.clip(jnp.stack([red, green, blue], -1), 0, 255))


# --- ageing of prints ----------------------------------------------------------------------------
# These have no 8-bit reference, so they do not snap to the levels.


def soft_blur(photo, sigma):
  """Gaussian blur with 0 < sigma <= 1.5 pixels, cut off at four pixels, border reflect-101."""
  return _separable(photo, _gaussian_kernel(4, sigma, 4))


def desaturate(photo, amount):
  """Moves every pixel towards its luma: 0 keeps the colours, 1 leaves gray."""
  luma = _mix(photo, _LUMA)[..., None]
  return photo + amount * (luma - photo)


def fade(photo, black, white, gamma):
  """Loss of contrast: [0, 1] -> black + (white - black)·x^gamma, black and white in [0, 1].

  Silver and dyes lose density, so blacks turn gray; the paper darkens, so whites fall.
  """
  light = ((photo + 1) / 2).clip(0, 1)
  return 2 * (black + (white - black) * light**gamma) - 1


def tint(photo, colour):
  """The photo seen through a filter with the transmittances `colour`, float [3] in [0, 1]."""
  return (photo + 1) * colour - 1


def vignette(photo, strength):
  """Darkens the corners by `strength` (0 to 1), growing with the squared radius."""
  height, width = photo.shape[:2]
  y, x = jnp.linspace(-1, 1, height)[:, None], jnp.linspace(-1, 1, width)[None, :]
  return (photo + 1) * (1 - strength * (y**2 + x**2) / 2)[..., None] - 1


def film_grain(photo, key, std, size):
  """Adds silver grain: one noise field for all channels, correlated between neighbouring pixels.

  Args:
    std: standard deviation at mid gray, in 8-bit levels. It falls to zero at black and white,
      because grain noise is largest where about half of the grains are developed.
    size: sigma in pixels, 0 < size <= 1.5, of the Gaussian that correlates the field.
  """
  kernel = _gaussian_kernel(4, size, 4)
  field = _separable(jax.random.normal(key, photo.shape[:2])[..., None], kernel)
  field /= (kernel**2).sum()  # filtering white noise twice scales its standard deviation by this
  light = ((_mix(photo, _LUMA)[..., None] + 1) / 2).clip(0, 1)
  return photo + std / 127.5 * 2 * jnp.sqrt(light * (1 - light)) * field
