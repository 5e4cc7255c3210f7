"""The recipes of the comparison, restored by `oldphoto restore` without options, and with --tone 0.

  python benchmarks/prints/recipes.py --photos TEST [--squeezenet FILE] NAME=RUN_OR_FILE ...

PSNR in dB, mean over the central squares of 256 pixels of the photos in TEST. A mask is never told.
"""

import argparse
import dataclasses

import numpy as np

from oldphoto_jax import data, weights
from oldphoto_jax.evaluation import judge, rows
from oldphoto_jax.photos import images
from oldphoto_jax.restoring import engine, restore
from oldphoto_jax.systems import build

RECIPES = ('report', 'wan2020', 'print', 'worn')


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('weights', nargs='+', metavar='NAME=RUN_OR_FILE')
  parser.add_argument('--photos', required=True)
  parser.add_argument('--overlays', default='')
  parser.add_argument('--textures', default='')
  parser.add_argument('--squeezenet', default='')
  args = parser.parse_args()
  restorers = {
    name: weights.load_restorer(path) for name, path in (x.split('=', 1) for x in args.weights)
  }
  systems = {}
  for name, restorer in restorers.items():
    system, wishes = engine.compiled(restorer), restore.usual(restorer)
    systems[name] = system, wishes
    if restorer.correction is not None:
      systems[f'{name}, --tone 0'] = system, dataclasses.replace(wishes, tone=0.0)
  source, judging = data.folder(args.photos), judge.load_judge(args.squeezenet, '')
  print('| | ' + ' | '.join(['do nothing', *systems]) + ' |')
  print('|---' * (len(systems) + 2) + '|')
  for recipe in RECIPES:
    textures = '' if recipe == 'worn' else args.textures
    aged = build.recipe(recipe, args.overlays, textures)
    test = rows.age(aged, recipe, source, 256)
    cells = [scores(judging, test, test.old)]
    for system, wishes in systems.values():
      restored = []
      for old in test.old:
        values = restore.restore_array(system, images.to_float(images.Photo(old)), None, wishes)
        restored.append(np.rint((values.photo.clip(-1, 1) + 1) * 127.5).astype(np.uint8))
      cells.append(scores(judging, test, restored))
    print(f'| {recipe} | ' + ' | '.join(cells) + ' |', flush=True)


def scores(judging: judge.Judge, test: rows.Test, photos: list[np.ndarray]) -> str:
  """Mean PSNR, and the mean distance of SqueezeNet features if there is such a network."""
  each = [judge.score(judging, test, i, photo) for i, photo in enumerate(photos)]
  psnr = np.mean([s['psnr'] for s in each])
  if 'squeezenet' not in each[0]:
    return f'{psnr:.2f}'
  return f'{psnr:.2f} / {np.mean([s["squeezenet"] for s in each]):.3f}'


if __name__ == '__main__':
  main()
