"""Who finds damage: `repair`, the finder that comes with it, and both.

  python -m benchmarks.prints.finders --labels LABELS --prints PRINTS --sound SOUND

LABELS, PRINTS  folders of labelled prints, with commas between
SOUND           folder of sound photos, in which nothing should be found

Prints a table. Whoever finds more in sound photos finds more of the damage, too, so F1 is compared
at the thresholds at which the same share of the sound photos is found, a mean over photos. Each
cell has the F1 over all pixels, the same without the print EXCEPT, and the mean by print.
"""

import argparse
from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.prints import variants
from oldphoto_jax import weights
from oldphoto_jax.data import prints
from oldphoto_jax.metrics import print_scores
from oldphoto_jax.models import repair
from oldphoto_jax.photos import folders, images
from oldphoto_jax.restoring import finding
from oldphoto_jax.systems import build

SHARES = (0.001, 0.002, 0.004, 0.008)  # of the sound photos
EXCEPT = 'inge_old_photo'  # which holds most of the false alarms

# What one photo has: arrays [H, W] by name.
Maps = dict[str, np.ndarray]
ROWS: dict[str, Callable[[Maps], np.ndarray]] = {
  '`repair`, all sizes': lambda m: m['repair joined'],
  'finder, full size alone': lambda m: m['finder'],
  '**finder, all sizes**': lambda m: m['finder joined'],
  'both, all sizes': lambda m: (m['repair joined'] + m['finder joined']) / 2,
  '`repair` at full size, finder at all': lambda m: (m['repair'] + m['finder joined']) / 2,
}


def joined(
  whole: np.ndarray, find: Callable[[np.ndarray], np.ndarray], photo: np.ndarray
) -> np.ndarray:
  """The probability [H, W] at full size and on copies, as restoring/finding.py joins them."""
  on_copies = finding.on_copies(photo, lambda copies: [find(copy)[..., None] for copy in copies])
  return finding.joined(whole[..., None], *on_copies)[..., 0]


def cell(
  sound: Sequence[np.ndarray], found: Sequence[np.ndarray], labelled: prints.Prints, share: float
) -> str:
  """The three F1 at the threshold at which this share of the sound photos is found."""
  low, high = 0.0, 1.0
  for _ in range(14):
    threshold = (low + high) / 2
    more = np.mean([(p >= threshold).mean() for p in sound]) > share
    low, high = (threshold, high) if more else (low, threshold)
  labels = variants.labels_of(labelled)
  counts = [print_scores.count(p >= threshold, label) for p, label in zip(found, labels)]
  others = [c for c, name in zip(counts, labelled.names) if name != EXCEPT]
  values = [sum(c, print_scores.Counts()).f1 for c in (counts, others)]
  values.append(print_scores.f1_by_print(found, labels, threshold)[1])
  return ' '.join(f'{value:.3f}' for value in values)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  for flag in ('labels', 'prints', 'sound'):
    parser.add_argument(f'--{flag}', required=True)
  parser.add_argument('--weights', default=weights.SHIPPED, help='with a finder')
  args = parser.parse_args()
  held = weights.load(args.weights)
  params = jax.tree.map(jnp.asarray, held.params)
  models = {
    'repair': repair.from_sizes(held.model),
    'finder': repair.from_sizes(held.model['finder']),
  }
  looks = {
    name: jax.jit(lambda photo, name=name: repair.look(models[name], params[name], photo)[:2])
    for name in models
  }

  def maps(photo8: np.ndarray) -> Maps:
    photo = images.to_float(images.Photo(photo8))
    found = {}
    for name, look in looks.items():
      find = partial(variants.probability, look)
      found[name] = find(photo)
      found[f'{name} joined'] = joined(found[name], find, photo)
    return {name: p.astype(np.float16) for name, p in found.items()}

  sound = [maps(images.read_rgb8(path)) for path, _ in folders.find_photos([args.sound])]
  labelled = prints.prints(build.names(args.labels), build.names(args.prints))
  found = [maps(photo) for photo in labelled.photos]
  print('| who finds | ' + ' | '.join(f'{share:.1%} of sound photos' for share in SHARES) + ' |')
  print('|---' * (len(SHARES) + 1) + '|')
  for name, row in ROWS.items():
    pair = [row(m) for m in sound], [row(m) for m in found]
    cells = [cell(*pair, labelled, share) for share in SHARES]
    print(f'| {name} | ' + ' | '.join(cells) + ' |', flush=True)


if __name__ == '__main__':
  main()
