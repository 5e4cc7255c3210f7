"""Does finding and filling damage help? Doing nothing, the detector's mask, the true mask.

  python benchmarks/detector/repair.py --weights RUN_OR_FILE --detector RUN_OR_FILE \
    --test TEST --pairs PAIRS -o OUT

print       photos of TEST, the middle 256x256 pixels, damaged by the recipe `print`
film pairs  PAIRS: X_damaged.jpg, X_restored.jpg (by hand) and X_mask.png, whole

Rows: the photo as it is; restored without masks; restored with filling, and damage filled alone
(--only-damage), each with the detector's mask and with the true one; the same filling by a
classical method (biharmonic inpainting of scikit-image). PSNR in dB over the pixels of the true
mask, over the others and over all, means over photos; "worse" counts photos whose whole PSNR is
below doing nothing's. Writes repair.md, repair.json and a sheet of each set into OUT.
"""

import argparse
import json
import pathlib
from collections.abc import Iterator
from functools import partial

import jax
import numpy as np
from skimage import restoration

from oldphoto_jax import data, weights
from oldphoto_jax.degradation import damage, photographic, recipes
from oldphoto_jax.metrics import psnr_ssim
from oldphoto_jax.photos import images, masks, sheets
from oldphoto_jax.restoring import detect, engine, restore

CROP, SHEET_ROWS = 256, 6
Example = tuple[str, np.ndarray, np.ndarray, np.ndarray]  # name, damaged, sound, true mask


@jax.jit
def age(image, ids):
  keys = jax.vmap(partial(jax.random.fold_in, jax.random.key(0)))(ids)
  return recipes.degrade_batch(damage.Print(), keys, photographic.from_levels(image))


def printed(folder: pathlib.Path) -> Iterator[Example]:
  """Middle squares of the photos that `print` damages, with the key of their number."""
  source = data.folder(folder)
  for batch in data.eval_batches(source, CROP, 4):
    aged = jax.device_get(age(batch['image'], batch['id']))
    for number, valid, *arrays in zip(batch['photo'], batch['valid'], *aged):
      if valid and arrays[2].any():  # a photo without damage has nothing to repair
        yield source.names[number], *arrays


def film_pairs(folder: pathlib.Path) -> Iterator[Example]:
  """Scans of damaged film, retouched by hand."""
  for path in sorted(folder.glob('*_damaged.jpg')):
    name = path.name.removesuffix('_damaged.jpg')
    damaged = images.read(path)
    sound = images.read(folder / f'{name}_restored.jpg')
    mask = masks.read(folder / f'{name}_mask.png', damaged.size)
    yield name, images.to_float(damaged), images.to_float(sound), mask


def scores(photo: np.ndarray, sound: np.ndarray, mask: np.ndarray) -> list[float]:
  """PSNR inside the mask, outside and whole."""
  a, b, m = photo[None], sound[None], (mask[None] > 0).astype(np.float32)
  whole = np.ones_like(m)
  return [float(psnr_ssim.psnr_inside(a, b, w)[0]) for w in (m, 1 - m, whole)]


def biharmonic(photo: np.ndarray, weight: np.ndarray) -> np.ndarray:
  """The photo with its damage filled smoothly from the edge."""
  filled = restoration.inpaint_biharmonic(photo, weight[..., 0] > 0, channel_axis=-1)
  return np.where(weight > 0, np.clip(filled, -1, 1), photo).astype(np.float32)


def repairs(
  restorer, detector, threshold: float, examples: list[Example]
) -> dict[str, list[np.ndarray]]:
  """Every row of the table: its name -> the photos."""
  sizes = [old.shape[:2] for _, old, _, _ in examples]
  mark = detect.marker(detector, sizes)
  system = engine.compiled(restorer, sizes)
  rows = {}
  for _, old, _, true in examples:
    photo = images.to_float(images.Photo(sheets.from_float(old)))
    found = masks.grow(mark(photo), threshold)
    known = masks.grow(true, threshold=0.25)

    def repair(mask, only_damage=False, system=system, old=old):
      wishes = restore.Wishes(only_damage=only_damage)
      return restore.restore_array(system, old, mask, wishes).photo

    row = {
      'do nothing': old,
      'restored without masks': repair(mask=None),
      "restored, detector's mask": repair(mask=found),
      'restored, true mask': repair(mask=known),
      "only damage, detector's mask": repair(mask=found, only_damage=True),
      'only damage, true mask': repair(mask=known, only_damage=True),
      "biharmonic, detector's mask": biharmonic(old, found),
      'biharmonic, true mask': biharmonic(old, known),
    }
    for name, values in row.items():
      rows.setdefault(name, []).append(values)
  return rows


def table(name: str, examples: list[Example], rows: dict[str, list[np.ndarray]]):
  """(Markdown, scores per row and photo)."""
  all_scores = {
    row: np.array([scores(x, sound, mask) for x, (_, _, sound, mask) in zip(photos, examples)])
    for row, photos in rows.items()
  }
  nothing = all_scores['do nothing'][:, 2]
  lines = [f'| {name}, {len(examples)} photos | in mask | outside | whole | worse |']
  lines += ['|---|---|---|---|---|']
  for row, values in all_scores.items():
    cells = ' | '.join(f'{np.nanmean(column):.2f}' for column in values.T)
    worse = '' if row == 'do nothing' else int((values[:, 2] < nothing).sum())
    lines.append(f'| {row} | {cells} | {worse} |')
  return '\n'.join(lines) + '\n', {row: values.tolist() for row, values in all_scores.items()}


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('--weights', required=True)
  parser.add_argument('--detector', help='default: the one inside --weights')
  parser.add_argument('--threshold', type=float, default=0.5, help='of the detector')
  parser.add_argument('--test', type=pathlib.Path, required=True)
  parser.add_argument('--pairs', type=pathlib.Path, required=True)
  parser.add_argument('-o', '--out', type=pathlib.Path, required=True)
  args = parser.parse_args()
  restorer = weights.load_restorer(args.weights)
  detector = weights.load_detector(args.detector or args.weights)
  args.out.mkdir(parents=True, exist_ok=True)
  texts, report = [f'{restorer.name}; {detector.name} at {args.threshold}\n'], {}
  for name, examples in (('print', printed(args.test)), ('film pairs', film_pairs(args.pairs))):
    examples = list(examples)
    rows = repairs(restorer, detector, args.threshold, examples)
    text, report[name] = table(name, examples, rows)
    texts.append(text)
    columns = {'old': rows['do nothing']} | {k: v for k, v in rows.items() if k != 'do nothing'}
    columns |= {'sound': [sound for _, _, sound, _ in examples]}
    grid = [
      [sheets.from_float(column[i]) for column in columns.values()]
      for i in range(min(SHEET_ROWS, len(examples)))
    ]
    labels = [example[0] for example in examples[:SHEET_ROWS]]
    picture = sheets.grid(grid, list(columns), labels)
    sheets.save_png(args.out / f'repair_{name.replace(" ", "_")}.png', picture)
  (args.out / 'repair.md').write_text('\n'.join(texts))
  (args.out / 'repair.json').write_text(json.dumps(report, indent=1))
  print('\n'.join(texts))


if __name__ == '__main__':
  main()
