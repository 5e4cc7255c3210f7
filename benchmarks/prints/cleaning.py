"""How well noise, blur and compression are taken away, and what is taken from sound photos.

  python -m benchmarks.prints.cleaning --photos PHOTOS --prints PRINTS [--weights FILE ...]

The middle squares of PHOTOS, damaged by `report` and `wan2020`, and as they are; and the middle
squares of PRINTS, real ones (enlarged where they are smaller). No damage is looked for, and no
tones are revived. `repair` is the network that also finds and fills, `cleaner` the one that only
cleans, each on every photo; the third row is what `oldphoto restore` does: the cleaner where a
photo needs it, and `repair` where what is left needs it.
"""

import argparse
from collections.abc import Callable, Sequence
from functools import partial

import jax
import numpy as np

from oldphoto_jax import data, weights
from oldphoto_jax.evaluation import rows
from oldphoto_jax.metrics import psnr_ssim
from oldphoto_jax.models import repair
from oldphoto_jax.photos import images
from oldphoto_jax.restoring import engine
from oldphoto_jax.systems import build

SIDE = 256


def scores(
  clean: Callable[[np.ndarray], np.ndarray], old: Sequence[np.ndarray], truth: Sequence[np.ndarray]
) -> np.ndarray:
  """PSNR of each cleaned photo; `clean` is of one, float32 [H, W, 3] in [-1, 1]."""
  levels = lambda photo: images.to_float(images.Photo(photo))
  pairs = ((clean(levels(photo)), levels(true)) for photo, true in zip(old, truth))
  return np.array([psnr_ssim.psnr(a[None], b[None])[0] for a, b in pairs])


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--photos', required=True)
  parser.add_argument('--prints', required=True)
  parser.add_argument('--weights', nargs='+', default=[weights.SHIPPED])
  args = parser.parse_args()
  photos = data.folder(args.photos)
  sound, real = (
    [batch['image'][0] for batch in data.eval_batches(source, SIDE, 1)]
    for source in (photos, data.folder(args.prints))
  )
  tests = {
    name: rows.age(build.recipe(name, '', ''), name, photos, SIDE) for name in ('report', 'wan2020')
  }
  print(
    '| | report | wan2020 | sound: mean, worst | real prints: mean, worst |\n|---|---|---|---|---|'
  )

  def show(name: str, clean: Callable[[np.ndarray], np.ndarray]) -> None:
    cells = [f'{scores(clean, test.old, test.truth).mean():.2f}' for test in tests.values()]
    same = [scores(clean, squares, squares) for squares in (sound, real)]
    cells += [f'{values.mean():.1f}, {values.min():.1f}' for values in same]
    print(f'| {name} | ' + ' | '.join(cells) + ' |', flush=True)

  show('do nothing', lambda photo: photo)
  for file in args.weights:
    loaded = weights.read(file)
    params, model = loaded.weights.params, repair.from_sizes(loaded.weights.model)
    look = jax.jit(lambda photo, own, model=model: repair.look(model, own, photo)[0])
    alone = jax.jit(lambda photo, own, model=model: repair.clean(model, own, photo))
    one = lambda apply, own, photo: np.asarray(apply(photo[None], own)[0])
    show(f'{loaded.name}: `repair`', partial(one, look, params['repair']))
    if 'cleaner' in params:
      show(f'{loaded.name}: cleaner', partial(one, alone, params['cleaner']))
    show(f'{loaded.name}: as used', engine.compiled(loaded.restorer()).restore)


if __name__ == '__main__':
  main()
