"""Pictures that are no continuous-tone photos, told by a few squares of their pixels.

A system that has learnt from photos takes the dots of a printed screen, strong grain and letters
for damage or noise. These pictures are recognised and left as they are. The limits lie between
made-up pages, dithers, drawings and screens of 3 to 8 pixels on the one side, and 168 photos and
old prints on the other.
"""

import dataclasses

import numpy as np
from scipy import ndimage

from oldphoto_jax.photos import images

LEAST = 64  # pixels: of smaller pictures there is too little to tell
TWO_LEVELS = 0.995  # share of the pixels that have one of two shades, in a picture without grays
SQUARES = 5  # looked at, in each direction
_SIDE = 128  # pixels of a square for spectra
_PATCH = 16  # pixels of a patch: letters and flat areas
LOWEST = 0.07  # cycles per pixel: slower patterns belong to the photo
# Natural logarithm of power: how far a screen stands out of the spectrum. Screens reached 9.7 and
# more, one print 6.7, and all other photos 4.4 and less.
SCREEN = 8.0
PAPER = 0.85  # share of the patches that show paper, on a page of writing; photos: 0
# Share of the patches that are flat but not empty, in drawings and on screens; photos: up to 0.04.
FLAT = 0.5
# Standard deviation, in levels of 255, of noise that is taken for damage; photos: up to 10.4.
GRAIN = 15.0


@dataclasses.dataclass(frozen=True)
class Kind:
  """What a picture is, if it is no continuous-tone photo.

  Attributes:
    name: for the report.
    sentence: for the user.
    period: of a printed screen, in pixels.
  """

  name: str
  sentence: str
  period: float = 0.0


def recognise(photo: images.Photo) -> Kind | None:
  """What a picture is; None: a photo, or a picture that is too small to tell."""
  height, width = photo.size
  if min(height, width) < LEAST:
    return None
  gray = _gray(photo)
  if two_levels(gray) >= TWO_LEVELS:
    return Kind('bilevel', 'The picture has no grays, but two shades only; it is left as it is.')
  if paper(gray) >= PAPER:
    return Kind('document', 'The picture looks like a page of writing; it is left as it is.')
  strength, period = screen(gray)
  if strength >= SCREEN:
    sentence = (
      f'The picture is printed in a screen of dots, about {period:.1f} pixels apart; it is left as '
      'it is. --descreen removes the screen first.'
    )
    return Kind('screen', sentence, period)
  if flat(gray) >= FLAT:
    return Kind('drawing', 'The picture looks like a drawing or screenshot; it is left as it is.')
  return None


def _gray(photo: images.Photo) -> np.ndarray:
  """Green, which weighs most in brightness: float32 [H, W] in levels of 255."""
  return photo.pixels[..., 1].astype(np.float32) * (255 / np.iinfo(photo.pixels.dtype).max)


def _squares(gray: np.ndarray, side: int) -> np.ndarray:
  """Squares [n, side, side], evenly spread over the picture."""
  side = min(side, *gray.shape)
  tops, lefts = (
    np.unique(np.linspace(0, length - side, SQUARES).round().astype(int)) for length in gray.shape
  )
  return np.stack([gray[y : y + side, x : x + side] for y in tops for x in lefts])


def two_levels(gray: np.ndarray) -> float:
  """Share of the pixels that have one of the two most frequent levels."""
  counts = np.bincount(_squares(gray, _SIDE).round().astype(np.uint8).ravel(), minlength=256)
  return float(np.sort(counts)[-2:].sum() / counts.sum())


def screen(gray: np.ndarray) -> tuple[float, float]:
  """How far a regular pattern of dots stands out, and its period in pixels.

  A screen has the same frequencies everywhere. The logarithms of the power spectra of squares are
  averaged, which evens out what differs between them, and a peak is measured from the median of
  frequencies as high. Frequencies along one axis do not count: lines of scanners and blocks of JPEG
  files have them.
  """
  squares = _squares(gray, _SIDE)
  squares = squares[squares.std((1, 2)) > 2]  # not the lid of the scanner
  if len(squares) < 4:
    return 0.0, 0.0
  side = squares.shape[1]
  window = np.hanning(side)[:, None] * np.hanning(side)
  squares = squares - squares.mean((1, 2), keepdims=True)
  power = np.log(np.abs(np.fft.rfft2(squares * window)) ** 2 + 1).mean(0)
  y, x = np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None]
  radius = np.hypot(y, x)
  ring = (radius * 24).astype(int)
  level = ndimage.median(power, ring, np.arange(ring.max() + 1))[ring]
  axis = 1.5 / side
  counts = (radius >= LOWEST) & (np.abs(y) > axis) & (x > axis)
  above = np.where(counts, power - level, 0)
  best = np.unravel_index(above.argmax(), above.shape)
  return float(above[best]), float(1 / radius[best])


def _patches(gray: np.ndarray) -> np.ndarray:
  squares = _squares(gray, _SIDE)
  n = squares.shape[1] // _PATCH
  cut = squares[:, : n * _PATCH, : n * _PATCH]
  return cut.reshape(len(cut), n, _PATCH, n, _PATCH).swapaxes(2, 3).reshape(-1, _PATCH, _PATCH)


def paper(gray: np.ndarray) -> float:
  """Share of the patches of which a third or more is paper, if there is dark writing on it.

  Paper is the most frequent level, with all within 12 levels, and must be light. 0 if hardly any
  patch has writing.
  """
  patches = _patches(gray)
  level = np.bincount(patches.round().astype(np.uint8).ravel(), minlength=256).argmax()
  if level < 128:
    return 0.0
  on_paper = (np.abs(patches - level) <= 12).mean((1, 2))
  dark = (patches < level - 80).mean((1, 2))
  written = ((dark > 0.02) & (on_paper > 1 / 3)).mean()
  return float((on_paper > 1 / 3).mean()) if written > 0.15 else 0.0


def flat(gray: np.ndarray) -> float:
  """Share of the patches with something in them whose pixels mostly equal their neighbours."""
  patches = _patches(gray)
  patches = patches[np.ptp(patches, (1, 2)) > 8]
  if not len(patches):
    return 0.0
  equal = (np.diff(patches, axis=1)[:, :, :-1] == 0) & (np.diff(patches, axis=2)[:, :-1] == 0)
  return float((equal.mean((1, 2)) > 0.6).mean())


def noise(gray: np.ndarray) -> float:
  """Standard deviation of the noise, in levels of 255; 0 where a side has no three pixels.

  Immerkær, "Fast noise variance estimation" (1996), with the median instead of the mean, which
  cracks do not move.
  """
  if min(gray.shape) < 3:
    return 0.0
  kernel = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)
  found = [ndimage.convolve(square, kernel)[1:-1, 1:-1] for square in _squares(gray, _SIDE)]
  return float(np.median(np.abs(found)) / 0.6745 / 6)


def without_screen(values: np.ndarray, period: float) -> np.ndarray:
  """A picture [H, W, 3] whose dots, `period` pixels apart, are blurred into shades."""
  return ndimage.gaussian_filter(values, (0.5 * period, 0.5 * period, 0), mode='reflect')
