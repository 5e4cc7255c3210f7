"""Which of two fillings should a pixel believe? filling.AGREEMENT, chosen here.

  python benchmarks/detector/agreement.py --weights RUN_OR_FILE --photos VALIDATION --pairs PAIRS

print   the first photos of VALIDATION, middle 256x256 pixels, damaged by the recipe `print`
film    PAIRS as in repair.py, whole
opaque  the first photos again, with white lines and ellipses on half of them, dark on the others

Only holes are filled, with the true mask. PSNR in dB over the pixels of the mask, then over all;
means over photos. Prints a table in Markdown.
"""

import argparse
import itertools
import pathlib

import jax
import numpy as np
from repair import Example, biharmonic, film_pairs, printed, scores
from skimage import draw

from oldphoto_jax import data, weights
from oldphoto_jax.degradation import photographic
from oldphoto_jax.photos import masks
from oldphoto_jax.restoring import engine, filling

PRINTED, OPAQUE, CROP = 16, 8, 256
AGREEMENTS = (0.2, 0.3, 0.4, 0.6, 0.9)


def opaque(folder: pathlib.Path):
  """Sound photos with opaque lines, 3 pixels wide, and ellipses drawn on them."""
  source = data.folder(folder)
  batch = next(iter(data.eval_batches(source, CROP, OPAQUE)))
  sound = jax.device_get(photographic.from_levels(batch['image']))
  for i, photo in enumerate(sound):
    rng = np.random.default_rng(i)
    mask = np.zeros((CROP, CROP, 1), np.float32)
    for _ in range(4):
      ends = rng.integers(0, CROP, 4)
      rows, columns = draw.line(*ends)
      for dy, dx in itertools.product((-1, 0, 1), repeat=2):
        mask[np.clip(rows + dy, 0, CROP - 1), np.clip(columns + dx, 0, CROP - 1)] = 1
    for _ in range(3):
      row, column = rng.integers(20, CROP - 20, 2)
      radii = rng.integers(4, 16, 2)
      mask[draw.ellipse(row, column, *radii, shape=(CROP, CROP), rotation=rng.uniform(0, 3))] = 1
    level = 1.0 if i % 2 == 0 else -0.8
    yield source.names[batch['photo'][i]], np.where(mask > 0, level, photo), photo, mask


def rows(system: engine.Engine, example: Example) -> dict[str, list[float]]:
  """(PSNR in mask, whole) by the name of a row."""
  _, old, sound, true = example
  weight = masks.grow(true, threshold=0.25)
  holes = weight > 0
  blind, seeing = (filling.match(x, old, holes) for x in system.fillings(old, holes))
  filled = {'masked mapping': blind, 'fusion': seeing}
  for agreement in AGREEMENTS:
    filled[f'both, {agreement}'] = filling.believe(blind, seeing, agreement)
  photos = {'do nothing': old}
  photos |= {name: weight * x + (1 - weight) * old for name, x in filled.items()}
  photos['biharmonic inpainting'] = biharmonic(old, weight)
  return {name: scores(x, sound, true)[::2] for name, x in photos.items()}


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('--weights', required=True)
  parser.add_argument('--photos', type=pathlib.Path, required=True)
  parser.add_argument('--pairs', type=pathlib.Path, required=True)
  args = parser.parse_args()
  system = engine.compiled(weights.load_restorer(args.weights))
  sets = {
    'print': itertools.islice(printed(args.photos), PRINTED),
    'film': film_pairs(args.pairs),
    'opaque': opaque(args.photos),
  }
  means = {}
  for name, examples in sets.items():
    found = [rows(system, example) for example in examples]
    means[name] = {row: np.mean([x[row] for x in found], axis=0) for row in found[0]}
  print('| | ' + ' | '.join(means) + ' |\n|' + '---|' * (len(means) + 1))
  for row in means['print']:
    cells = (', '.join(f'{value:.2f}' for value in column[row]) for column in means.values())
    print(f'| {row} | ' + ' | '.join(cells) + ' |')


if __name__ == '__main__':
  main()
