"""Real old prints with hand-made masks of damage, and clean photos, in one training stream."""

import dataclasses
import functools
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from oldphoto_jax.data import stores
from oldphoto_jax.data.pipeline import Crop
from oldphoto_jax.data.sources import Source
from oldphoto_jax.errors import PhotoError
from oldphoto_jax.photos import folders, images

IGNORED, DAMAGED = 128, 255  # levels of a label; 0 is sound
SEEN = 0.005  # share of a square from which on it shows damage
WORTH_MOVING = 0.002  # share of a print that is damaged, from which on its damage is transplanted


@dataclasses.dataclass(frozen=True)
class Prints:
  """Prints and their labels, decoded and kept in memory.

  Attributes:
    names: of the labels, without suffix.
    photos: uint8 [H, W, 3] each.
    labels: uint8 [H, W] each: 0 sound, IGNORED undecidable, DAMAGED.
  """

  names: Sequence[str]
  photos: Sequence[np.ndarray]
  labels: Sequence[np.ndarray]

  def __len__(self) -> int:
    return len(self.names)

  @functools.cached_property
  def donors(self) -> Sequence[int]:
    """The prints whose damage is worth moving to others."""
    shares = [(label == DAMAGED).mean() for label in self.labels]
    return [i for i, share in enumerate(shares) if share >= WORTH_MOVING]

  @functools.cached_property
  def marks(self) -> Sequence[np.ndarray]:
    """The labels as pictures, uint8 [H, W, 3], so that they are cut and resized with the photos.

    The first channel is 255 where damaged, the second one where undecidable, the third one 0.
    """
    levels = (DAMAGED, IGNORED, -1)
    return [
      np.stack([255 * (label == level).astype(np.uint8) for level in levels], -1)
      for label in self.labels
    ]


NONE = Prints((), (), ())


def prints(labels: Sequence[str | os.PathLike], photos: Sequence[str | os.PathLike]) -> Prints:
  """Reads the labels NAME.png of folders, and the photo of the same name of each.

  Args:
    labels: folders of labels; where two hold the same name, the first one counts.
    photos: folders in which the photos are looked for, with their sub-folders.

  Raises:
    PhotoError: a folder is missing or holds no label, or a label has no photo or another size.
  """
  files = {}
  for folder in labels:
    folder = stores.local(folder)
    found = sorted(folder.glob('*.png')) if folder.is_dir() else []
    if not found:
      raise PhotoError(f'{folder}: there is no label NAME.png in it; give a folder of labels.')
    files = {file.stem: file for file in found} | files
  candidates = {}
  places = [stores.local(folder) for folder in photos]
  for path, _ in folders.find_photos(places):
    candidates.setdefault(path.stem, path)
  read, masks = [], []
  for name in sorted(files):
    if name not in candidates:
      raise PhotoError(f'{files[name]}: there is no photo {name} for this label.')
    photo = images.read_rgb8(candidates[name])
    label = images.read_rgb8(files[name])[..., 0]
    if not np.isin(label, (0, IGNORED, DAMAGED)).all():
      raise PhotoError(
        f'{files[name]}: a label has the levels 0 (sound), {IGNORED} (undecidable) and {DAMAGED} '
        '(damaged) only; save it without smoothing.'
      )
    if label.shape != photo.shape[:2]:
      raise PhotoError(
        f'{files[name]}: the label is {label.shape[1]}x{label.shape[0]} and its photo '
        f'{photo.shape[1]}x{photo.shape[0]}; they have to be of one size.'
      )
    read.append(photo)
    masks.append(label)
  return Prints(sorted(files), read, masks)


@dataclasses.dataclass(frozen=True)
class CleanAndPrints:
  """Clean photos, and with probability `p_print` a labelled print in the place of one.

  Every example has `image`, `is_print`, and uint8 [size, size, 1] `damaged` and `ignored`, 255
  where they are true: 0 everywhere for clean photos. An epoch is every clean photo once. `photo`
  counts in the clean photos or in the prints. With probability `p_transplant` a print, and with
  `p_transplant_clean` a clean photo, comes with a square of another print, `donor`, whose damage
  `moved` is to be laid over it; else both are 0.

  Attributes:
    tries: squares cut from a print until one shows damage, at most; the last one is taken.
    p_sought: probability that damage is sought at all, else the first square is taken.
  """

  clean: Source
  prints: Prints
  crop: Crop = Crop()
  print_crop: Crop = Crop()
  p_print: float = 0.4
  p_transplant: float = 0.0
  p_transplant_clean: float = 0.0
  tries: int = 4
  p_sought: float = 0.7

  def __len__(self) -> int:
    return len(self.clean)

  def draw(self, photo: int, rng: np.random.Generator) -> dict[str, Any]:
    is_print = bool(rng.random() < self.p_print)
    donor = moved = None
    if is_print:
      photo = int(rng.integers(len(self.prints)))
      donors = self.prints.donors
      if donors and rng.random() < self.p_transplant:
        donor, moved = self._cut_donor(rng)
        tries = 1  # any part of a print takes damage
      else:
        tries = self.tries if rng.random() < self.p_sought else 1
      image, label = self._cut_print(photo, rng, tries)
    else:
      (image,) = self.crop(rng, self.clean[photo])
      label = np.zeros_like(image)
      # Without a share nothing is drawn: streams of before stay as they were.
      if self.p_transplant_clean and self.prints.donors and rng.random() < self.p_transplant_clean:
        donor, moved = self._cut_donor(rng)
    if donor is None:
      donor = moved = np.zeros_like(image)
    return {
      'image': image,
      'damaged': label[..., :1],
      'ignored': label[..., 1:2],
      'donor': donor,
      'moved': moved[..., :1],
      'is_print': np.bool_(is_print),
      'photo': np.int32(photo),
    }

  def _cut_donor(self, rng):
    donors = self.prints.donors
    return self._cut_print(donors[int(rng.integers(len(donors)))], rng, self.tries)

  def _cut_print(self, photo, rng, tries):
    marks = self.prints.marks[photo]
    for _ in range(tries):
      image, cut = self.print_crop(rng, self.prints.photos[photo], marks)
      cut = 255 * (cut >= 128).astype(np.uint8)
      if cut[..., 0].mean() > SEEN * 255:
        break
    # Damage has no direction.
    if rng.random() < 0.5:
      image, cut = image[::-1], cut[::-1]
    if rng.random() < 0.5:
      image, cut = image.swapaxes(0, 1), cut.swapaxes(0, 1)
    return np.ascontiguousarray(image), np.ascontiguousarray(cut)
