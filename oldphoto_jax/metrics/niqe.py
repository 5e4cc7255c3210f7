"""NIQE: how far a photo's local statistics are from those of sharp, undamaged photos.

Mittal, Soundararajan, Bovik 2013, "Making a Completely Blind Image Quality Analyzer". It needs no
reference photo; lower is better. It was made for noise, blur and compression and knows nothing
about the content of a photo: a smooth invention can score better than honest grain.

The steps and constants are those of the authors' MATLAB code as ported in BasicSR
(basicsr/metrics/niqe.py), with MATLAB's antialiased bicubic halving between the two scales.
"""

import dataclasses
import os
import pathlib

import numpy as np
from scipy import ndimage, special

from oldphoto_jax.errors import WeightsError

BLOCK = 96  # pixels per side, at the first scale
_FEATURES = 36  # 18 per scale
_SHAPES = np.arange(0.2, 10.0005, 0.001)  # shape parameters that a fit chooses from
# E|x|^2 / E x^2 of a generalised Gaussian of each shape; it rises with the shape.
_RATIOS = special.gamma(2 / _SHAPES) ** 2 / (
  special.gamma(1 / _SHAPES) * special.gamma(3 / _SHAPES)
)
# MATLAB's imresize by 0.5: the cubic kernel (a = -0.5), stretched to eight pixels.
_HALVING = np.array([-3, -9, 29, 111, 111, 29, -9, -3]) / 256
# BT.601 as in MATLAB's rgb2ycbcr: 16 to 235.
_LUMA = np.array([65.481, 128.553, 24.966]) / 255


@dataclasses.dataclass(frozen=True, eq=False)
class Statistics:
  """Mean [36] and covariance [36, 36] of pristine photos' block features; the window [7, 7]."""

  mean: np.ndarray
  covariance: np.ndarray
  window: np.ndarray


def load(path: str | os.PathLike) -> Statistics:
  """Reads the authors' published statistics, in the format that BasicSR ships.

  Args:
    path: .npz with `mu_pris_param`, `cov_pris_param` and `gaussian_window`.

  Raises:
    WeightsError: if the file is missing or unreadable, or holds other arrays.
  """
  path = pathlib.Path(path)
  if not path.is_file():
    raise WeightsError(f'there is no file of NIQE statistics {path}')
  try:
    with np.load(path, allow_pickle=False) as file:
      names = ('mu_pris_param', 'cov_pris_param', 'gaussian_window')
      mean, covariance, window = (np.asarray(file[name], np.float64) for name in names)
      return Statistics(
        mean.reshape(_FEATURES), covariance.reshape(_FEATURES, _FEATURES), window.reshape(7, 7)
      )
  except Exception as error:  # a damaged file can raise anything
    raise WeightsError(
      f'{path} does not hold NIQE statistics (mu_pris_param, cov_pris_param, gaussian_window): '
      f'{error}'
    ) from error


def niqe(statistics: Statistics, photo: np.ndarray) -> float:
  """The score of one photo; lower is better.

  Args:
    statistics: see `load`.
    photo: uint8 [H, W, 3] RGB; it is cropped at the bottom and right to whole blocks of 96×96.

  Returns:
    The distance; nan if fewer than two blocks have any texture, so that there is no covariance.

  Raises:
    ValueError: for another shape or dtype, or fewer than two blocks.
  """
  if photo.dtype != np.uint8 or photo.ndim != 3 or photo.shape[-1] != 3:
    raise ValueError(f'NIQE takes uint8 [H, W, 3], not {photo.dtype} {photo.shape}')
  rows, columns = (side // BLOCK for side in photo.shape[:2])
  if rows * columns < 2:
    raise ValueError(
      f'NIQE needs at least two blocks of {BLOCK}×{BLOCK} pixels; this photo has '
      f'{photo.shape[0]}×{photo.shape[1]} pixels'
    )
  luma = np.rint(photo[: rows * BLOCK, : columns * BLOCK] @ _LUMA + 16)
  features = []
  for side in (BLOCK, BLOCK // 2):
    if side != BLOCK:
      luma = _half(luma)
    blocks = normalised(luma, statistics.window).reshape(rows, side, columns, side)
    features.append(_block_features(blocks.transpose(0, 2, 1, 3).reshape(-1, side, side)))
  features = np.concatenate(features, 1)
  whole = features[np.isfinite(features).all(1)]
  if len(whole) < 2:
    return float('nan')
  # The mean of a feature is over all blocks that define it, the covariance over complete blocks.
  difference = statistics.mean - np.nanmean(features, 0)
  covariance = (statistics.covariance + np.cov(whole, rowvar=False)) / 2
  return float(np.sqrt(difference @ np.linalg.pinv(covariance) @ difference))


def normalised(luma: np.ndarray, window: np.ndarray) -> np.ndarray:
  """Luma [H, W] minus its local mean, over its local standard deviation + 1 (equation 1)."""
  mean = ndimage.convolve(luma, window, mode='nearest')
  square = ndimage.convolve(luma**2, window, mode='nearest')
  values = (luma - mean) / (np.sqrt(np.abs(square - mean**2)) + 1)
  # Flat parts must be exactly 0: the fit of a rounding error would look like texture.
  return np.where(np.abs(values) < 1e-9, 0, values)


def fit_aggd(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Moment fits of asymmetric generalised Gaussians (Lasmar et al. 2009; equation 5 of NIQE).

  Args:
    values: [B, n], B samples of n values.

  Returns:
    Shape, left scale and right scale, [B] each; nan for a sample that is not on both sides of 0.
  """
  squares = values**2
  with np.errstate(invalid='ignore', divide='ignore'):
    left, right = (
      np.sqrt((squares * side).sum(1) / side.sum(1)) for side in (values < 0, values > 0)
    )
    ratio = np.abs(values).mean(1) ** 2 / squares.mean(1)
    skew = left / right
    ratio *= (skew**3 + 1) * (skew + 1) / (skew**2 + 1) ** 2
  # The nearest entry of a rising table.
  above = np.clip(np.searchsorted(_RATIOS, ratio), 1, len(_RATIOS) - 1)
  nearest = above - (ratio - _RATIOS[above - 1] < _RATIOS[above] - ratio)
  shape = np.where(np.isfinite(ratio), _SHAPES[nearest], np.nan)
  scale = np.sqrt(special.gamma(1 / shape) / special.gamma(3 / shape))
  return shape, left * scale, right * scale


def _block_features(blocks: np.ndarray) -> np.ndarray:
  """[B, side, side] -> [B, 18]: fits of the pixels and of four products of neighbours."""
  flat = blocks.reshape(len(blocks), -1)
  shape, left, right = fit_aggd(flat)
  features = [shape, (left + right) / 2]
  for shift in ((0, 1), (1, 0), (1, 1), (1, -1)):
    neighbours = np.roll(blocks, shift, (1, 2)).reshape(flat.shape)
    shape, left, right = fit_aggd(flat * neighbours)
    mean = (right - left) * special.gamma(2 / shape) / special.gamma(1 / shape)  # equation 8
    features += [shape, mean, left, right]
  return np.stack(features, 1)


def _half(luma: np.ndarray) -> np.ndarray:
  for axis in (0, 1):
    # Nine taps whose first is 0: eight around the point between two pixels.
    filtered = ndimage.correlate1d(luma, np.append(0, _HALVING), axis, mode='reflect')
    luma = filtered[::2] if axis == 0 else filtered[:, ::2]
  return luma
