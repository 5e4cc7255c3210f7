"""A scratch detector on three sets, beside a classical filter.

  python benchmarks/detector/evaluate.py --weights RUN_OR_FILE --val VAL --test TEST \
    --masks MASKS --pairs PAIRS -o OUT

print       photos of TEST, damaged by the recipe `print`; the middle 352x352 pixels
real masks  photos of TEST under the masks of MASKS: damage of film scans, drawn by hand
film pairs  PAIRS: X_damaged.jpg with X_mask.png, real scans and where their retoucher worked

Photos are looked at in their own resolution. The threshold is the best (F1) on photos of VAL that
`print` damages, the same for all sets; the columns behind it say what the best one of each set
would have been. `tolerance.md` has the best F1 with two pixels of tolerance. The filter is the
larger of white and black top-hat of the luma over a disk of radius 4: it finds what is thin and
lighter or darker than its surroundings. Writes evaluation.md, evaluation.json, tolerance.md and a
sheet of each set into OUT, and the same of the filter into OUT/top-hat.
"""

import argparse
import itertools
import pathlib
from collections.abc import Callable, Iterator

import jax
import numpy as np
from PIL import Image
from skimage import measure, morphology

from oldphoto_jax import data, weights
from oldphoto_jax.degradation import damage, photographic
from oldphoto_jax.evaluation.rows import age
from oldphoto_jax.metrics import detection, print_scores
from oldphoto_jax.photos import folders, images, masks, sheets
from oldphoto_jax.restoring import detect

CROP = 352
SHEET_ROWS = 6

Example = tuple[str, images.Photo, np.ndarray]  # name, damaged photo, its true mask [H, W, 1]


def printed(folder: pathlib.Path) -> Iterator[Example]:
  """Middle squares of the photos, damaged by `print` with the key of their number."""
  test = age(damage.Print(), 'print', data.folder(folder), CROP)
  for name, old, mask in zip(test.photos, test.old, test.mask):
    yield name, images.Photo(old), mask


def composited(folder: pathlib.Path, mask_folder: pathlib.Path) -> Iterator[Example]:
  """Whole photos under pieces of real masks, then scanned: blur, grain and JPEG, all mild."""
  drawn = [images.read(path).pixels[..., 0] > 0 for path, _ in folders.find_photos([mask_folder])]
  for i, (path, name) in enumerate(folders.find_photos([folder])):
    rng = np.random.default_rng([0, i])
    photo = images.to_float(images.read(path))
    mask = mask_piece(rng, drawn[i % len(drawn)], photo.shape[:2])
    old = scan(jax.random.key(i), rng, paint(rng, photo, mask))
    yield str(name), images.Photo(sheets.from_float(old)), mask[..., None]


def mask_piece(rng: np.random.Generator, drawn: np.ndarray, size: tuple[int, int]) -> np.ndarray:
  """A random piece of a mask of a scan, shrunk by 1.5 to 3, float [H, W] in [0, 1].

  Twice the covered share of a pixel, so that lines of one pixel survive the shrinking.
  """
  height, width = size
  if (height > width) != (drawn.shape[0] > drawn.shape[1]):
    drawn = drawn.T
  factor = min(rng.uniform(1.5, 3), drawn.shape[0] / height, drawn.shape[1] / width)
  rows, columns = int(factor * height), int(factor * width)
  top, left = (rng.integers(n - m + 1) for n, m in zip(drawn.shape, (rows, columns)))
  piece = Image.fromarray(np.float32(drawn[top : top + rows, left : left + columns]), 'F')
  covered = np.asarray(piece.resize((width, height), Image.Resampling.BOX))
  return np.clip(2 * covered, 0, 1)


def paint(rng: np.random.Generator, photo: np.ndarray, mask: np.ndarray) -> np.ndarray:
  """Covers the mask with light or dark, each spot in a tone of its own, with some texture."""
  spots = measure.label(mask > 0, connectivity=2)
  n = spots.max() + 1
  tones = np.where(rng.random(n) < 0.5, rng.uniform(0.5, 1, n), rng.uniform(-1, -0.5, n))
  opacity = rng.uniform(0.6, 1, n)
  texture = rng.normal(0, 0.1, mask.shape)
  tone = (tones[spots] + texture)[..., None]
  return photo + (mask * opacity[spots])[..., None] * (tone - photo)


def scan(key: jax.Array, rng: np.random.Generator, photo: np.ndarray) -> np.ndarray:
  """Soft blur, grain and JPEG; photos come in many sizes, so it runs as it is, uncompiled."""
  photo = photographic.soft_blur(np.float32(np.clip(photo, -1, 1)), rng.uniform(0.4, 0.8))
  photo = photographic.film_grain(photo, key, rng.uniform(2, 5), 0.6)
  return np.asarray(photographic.jpeg(photo, int(rng.integers(75, 96))))


def film_pairs(folder: pathlib.Path) -> Iterator[Example]:
  """Scans of real film with the masks of their retouching."""
  for path in sorted(folder.glob('*_damaged.jpg')):
    photo = images.read(path)
    name = path.name.removesuffix('_damaged.jpg')
    yield name, photo, masks.read(folder / f'{name}_mask.png', photo.size)


def top_hat(photo: np.ndarray) -> np.ndarray:
  """The classical filter, of [H, W, 3] in [-1, 1]: [H, W, 1], 1 = 128 levels off what is around."""
  luma = np.asarray(Image.fromarray(sheets.from_float(photo)).convert('L'))
  disk = morphology.disk(4)
  light, dark = morphology.white_tophat(luma, disk), morphology.black_tophat(luma, disk)
  return np.clip(np.maximum(light, dark)[..., None] / np.float32(128), 0, 1)


def measure_set(
  mark: Callable[[np.ndarray], np.ndarray], examples: Iterator[Example]
) -> tuple[np.ndarray, np.ndarray, str]:
  """Counts [photos, 2, BINS], a sheet of the first (photo, true mask, found), and `tolerant`."""
  counts, rows, names, found_all, labels = [], [], [], [], []
  for name, photo, truth in examples:
    found = mark(images.to_float(photo))
    counts.append(detection.count(found, truth))
    found_all.append(found[..., 0].astype(np.float16))
    true = truth[..., 0] >= 0.5
    labels.append(print_scores.Label(true, np.ones_like(true)))
    if len(rows) < SHEET_ROWS:
      gray = [sheets.from_float(2 * m[..., 0] - 1) for m in (truth, found)]
      rows.append([images.to_rgb8(photo), *gray])
      names.append(name)
  sheet = sheets.grid(rows, ['photo', 'true mask', 'found'], names)
  return np.stack(counts), sheet, tolerant(found_all, labels)


def tolerant(found: list[np.ndarray], labels: list[print_scores.Label]) -> str:
  """Threshold, F1, precision and recall at the best threshold, with two pixels of tolerance."""
  threshold, best = print_scores.best_threshold(found, labels)
  return f'{threshold:.2f} | {best.f1:.3f} | {best.precision:.3f} | {best.recall:.3f}'


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  for name in ('val', 'test', 'masks', 'pairs'):
    parser.add_argument(f'--{name}', type=pathlib.Path, required=True)
  parser.add_argument('--weights', required=True)
  parser.add_argument('-o', '--output', type=pathlib.Path, required=True)
  parser.add_argument('--limit', type=int, help='only the first photos of each set')
  args = parser.parse_args()
  some = lambda examples: itertools.islice(examples, args.limit)

  detector = weights.load_detector(args.weights)
  sizes = [images.size(path) for path, _ in folders.find_photos([args.test, args.pairs])]
  mark = detect.marker(detector, [*sizes, (CROP, CROP)])
  for name, marker, folder in (
    (detector.name, mark, args.output),
    ('top-hat', top_hat, args.output / 'top-hat'),
  ):
    counts, *_ = measure_set(marker, some(printed(args.val)))
    threshold = detection.curve(counts).best_threshold
    rows, lines = [], ['| | threshold | F1, 2 px | precision | recall |', '|---|---|---|---|---|']
    for title, examples in (
      ('print', printed(args.test)),
      ('real masks', composited(args.test, args.masks)),
      ('film pairs', film_pairs(args.pairs)),
    ):
      counts, sheet, near = measure_set(marker, some(examples))
      rows.append(detection.Row(title, counts, threshold))
      lines.append(f'| {title} | {near} |')
      folder.mkdir(parents=True, exist_ok=True)
      sheets.save_png(folder / f'{title.replace(" ", "_")}.png', sheet)
    (folder / 'tolerance.md').write_text('\n'.join(lines) + '\n')
    print(detection.write(rows, name, folder), *lines, sep='\n')


if __name__ == '__main__':
  main()
