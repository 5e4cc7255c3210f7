"""The scores of restored photos, all computed from 8-bit RGB."""

import dataclasses
import hashlib
import json
import pathlib
from typing import Any

import jax
import numpy as np

from oldphoto_jax.degradation import photographic
from oldphoto_jax.errors import ConfigError
from oldphoto_jax.evaluation.rows import Test
from oldphoto_jax.metrics import niqe, perceptual, psnr_ssim
from oldphoto_jax.restoring import shapes
from oldphoto_jax.weights import classifiers

TRUTH, REFERENCE = 'truth', 'reference'


@dataclasses.dataclass(frozen=True)
class Metric:
  """A column: its name in files, its title in tables, its digits, and its direction."""

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


@dataclasses.dataclass(frozen=True, eq=False)
class Judge:
  """The networks and statistics of the scores. A part that is None leaves its column out.

  Attributes:
    squeezenet: parameters of classifiers.load_squeezenet.
    lpips: parameters of classifiers.load_lpips.
    niqe: statistics of niqe.load.
    identity: digests of all files, for the key of the results.
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
    """The distance of a restored photo to that of another system; both are padded to few shapes."""
    if self.squeezenet is None and self.lpips is None:
      return {}
    shape = shapes.needed(photo.shape[:2], 1, tile=max(photo.shape), overlap=0)
    padded = (shapes.pad(x, shape)[None] for x in (photo, reference))
    found = _distances((self.squeezenet, self.lpips), *padded)
    return {name: float(value) for name, value in found.items()}

  def blind(self, photo) -> dict[str, float]:
    """Scores that need no truth; {} if the photo is too small for them."""
    rows, columns = (side // niqe.BLOCK for side in photo.shape[:2])
    if self.niqe is None or rows * columns < 2:
      return {}
    return {'niqe': niqe.niqe(self.niqe, photo)}


def load_judge(squeezenet: str, niqe_statistics: str, alexnet: str = '', linear: str = '') -> Judge:
  """Loads the networks and statistics of the scores.

  Args:
    squeezenet: path of classifiers.load_squeezenet, '' for none.
    niqe_statistics: path of niqe.load, '' for none.
    alexnet, linear: paths of classifiers.load_lpips, '' for none.

  Raises:
    UserError: a file does not fit, or only one of the two files of LPIPS is given.
  """
  if bool(alexnet) != bool(linear):
    raise ConfigError('LPIPS takes two files, AlexNet and the weights of its channels: give both')
  # Unchanged without LPIPS, so that stored results stay valid.
  used = [squeezenet, niqe_statistics] + [alexnet, linear] * bool(alexnet)
  return Judge(
    classifiers.load_squeezenet(squeezenet) if squeezenet else None,
    classifiers.load_lpips(alexnet, linear) if alexnet else None,
    niqe.load(niqe_statistics) if niqe_statistics else None,
    json.dumps([_file_digest(path) for path in used]),
  )


def missing_columns(judge: Judge, size: int) -> list[str]:
  """The columns that are missing for photos of `size` pixels per side, each with its reason."""
  missing = []
  if judge.squeezenet is None:
    missing.append('SqueezeNet distance (evaluate.squeezenet is not set)')
  if judge.lpips is None:
    missing.append('LPIPS (evaluate.lpips_alexnet and evaluate.lpips_linear are not set)')
  if judge.niqe is None:
    missing.append('NIQE (evaluate.niqe is not set)')
  elif (size // niqe.BLOCK) ** 2 < 2:
    missing.append(f'NIQE (photos of {size} pixels do not hold two blocks of {niqe.BLOCK})')
  if size < psnr_ssim.MS_SSIM_SIDE:
    missing.append(f'MS-SSIM (it needs {psnr_ssim.MS_SSIM_SIDE} pixels per side, not {size})')
  return missing


def score(judge: Judge, test: Test, i: int, restored: np.ndarray) -> dict[str, float | None]:
  """All scores of a restored photo, uint8 [H, W, 3]; None if there is nothing to measure."""
  if test.truth is not None:
    scores = judge.against_truth(restored, test.truth[i], test.mask[i])
  else:
    scores = judge.blind(restored)
    if test.reference is not None:
      scores |= judge.against_reference(restored, test.reference[i])
  return {name: value if np.isfinite(value) else None for name, value in scores.items()}


def extra_scores(test: Test, judge: Judge) -> dict[str, np.ndarray]:
  """NIQE of the truth or the reference, [N]; {} without NIQE."""
  for name, photos in ((TRUTH, test.truth), (REFERENCE, test.reference)):
    if photos is not None:
      values = [judge.blind(photo).get('niqe') for photo in photos]
      found = np.array([np.nan if value is None else value for value in values])
      return {} if np.isnan(found).all() else {name: found}
  return {}


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
