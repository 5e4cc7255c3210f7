"""Can real damage be told from the damage that the network learns from?

  python benchmarks/prints/gap.py --labels LABELS --prints PRINTS [--prints MORE] \\
    --squeezenet FILE [--overlays OVERLAYS] -o OUT

LABELS    folders with commas between, of hand-made masks NAME.png (see data/prints.py)
PRINTS    folders with the prints of these names

Squares of prints with real damage, beside sound squares of them that `worn` has damaged.
A linear classifier is shown the features of SqueezeNet in and around the damage, and is tested on
prints that it has not seen. Its accuracy is the figure of the gap: 0.5 if it cannot tell. The
same classifier is also given other halves of the real squares, as a check that chance is 0.5.
Writes gap.json and sheet.png, real above and made up below, to be looked at.
"""

import argparse
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
from scipy import ndimage

from oldphoto_jax.data import prints
from oldphoto_jax.degradation import photographic
from oldphoto_jax.metrics.domain_gap import told_apart
from oldphoto_jax.nn import features
from oldphoto_jax.systems import build
from oldphoto_jax.weights import classifiers

SIDE = 128  # pixels of a square
SHARES = 0.005, 0.3  # of its pixels that are damaged
EACH = 4  # squares of a print, of each kind
LEVELS = ('conv1', 'fire3', 'fire5')  # fine features: what is in the picture should not matter


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--labels', required=True)
  parser.add_argument('--prints', required=True, action='append')
  parser.add_argument('--squeezenet', required=True)
  parser.add_argument('--overlays', default='')
  parser.add_argument('-o', '--output', required=True, type=pathlib.Path)
  args = parser.parse_args()
  labelled = prints.prints(build.names(args.labels), args.prints)
  made_up = jax.jit(build.recipe('worn', args.overlays).over)
  real, false = [], []  # (print, square uint8 [SIDE, SIDE, 3], damage bool [SIDE, SIDE])
  for i, (photo, label) in enumerate(zip(labelled.photos, labelled.labels)):
    rng = np.random.default_rng(i)
    real += [(i, *square) for square in damaged(rng, photo, label)]
    false += [(i, *square) for square in damaged_anew(rng, photo, label, made_up)]
  network = classifiers.load_squeezenet(args.squeezenet)
  described = [
    np.stack([describe(network, *square[1:]) for square in kind]) for kind in (real, false)
  ]
  owners = [np.array([square[0] for square in kind]) for kind in (real, false)]
  halves = [owners[0] % 2 == k for k in (0, 1)]
  results = {
    'accuracy': told_apart(described, owners),
    'check': told_apart([described[0][h] for h in halves], [owners[0][h] // 2 for h in halves]),
    'squares': [len(real), len(false)],
    'prints': len(labelled),
  }
  args.output.mkdir(parents=True, exist_ok=True)
  (args.output / 'gap.json').write_text(json.dumps(results, indent=1))
  rows = [
    np.concatenate([square for _, square, _ in kind[:: max(1, len(kind) // 20)][:20]], 1)
    for kind in (real, false)
  ]
  width = min(row.shape[1] for row in rows)
  Image.fromarray(np.concatenate([row[:, :width] for row in rows])).save(args.output / 'sheet.png')
  print(json.dumps(results))


def squares(rng, photo, label):
  """Random squares of a print and of its label."""
  for _ in range(10 * EACH):
    if min(label.shape) < SIDE:
      return
    top, left = (rng.integers(n - SIDE + 1) for n in label.shape)
    here = slice(top, top + SIDE), slice(left, left + SIDE)
    yield photo[here], label[here]


def damaged(rng, photo, label):
  """At most EACH squares with real damage."""
  found = [
    (square, marks == prints.DAMAGED)
    for square, marks in squares(rng, photo, label)
    if SHARES[0] <= (marks == prints.DAMAGED).mean() <= SHARES[1]
  ]
  return found[:EACH]


def damaged_anew(rng, photo, label, made_up):
  """At most EACH squares of sound parts, damaged by `made_up`."""
  found = []
  for square, marks in squares(rng, photo, label):
    if len(found) == EACH:
      break
    if not marks.any():
      key = jax.random.key(int(rng.integers(2**31)))
      old = photographic.from_levels(jnp.asarray(square))
      aged = made_up(key, old, old)
      mask = np.asarray(aged.mask)[..., 0] >= 0.5
      if SHARES[0] <= mask.mean() <= SHARES[1]:
        found.append((np.asarray(photographic.to_levels(aged.old)).astype(np.uint8), mask))
  return found


def describe(network, square, damage) -> np.ndarray:
  """Means and deviations of SqueezeNet's features within four pixels of the damage."""
  maps = maps_of(network, jnp.asarray(square)[None])
  near = ndimage.binary_dilation(damage, iterations=4).astype(np.float32)
  values = []
  for x in maps:
    x = np.asarray(x)[0]
    weight = np.asarray(Image.fromarray(near).resize(x.shape[1::-1], Image.Resampling.BOX))
    weight = (weight / weight.sum())[..., None]
    mean = (weight * x).sum((0, 1))
    values += [mean, np.sqrt((weight * (x - mean) ** 2).sum((0, 1)))]
  return np.log1p(np.concatenate(values))


@jax.jit
def maps_of(network, photos):
  both = features.squeezenet_maps(network, photographic.from_levels(photos))
  return [both[name] for name in LEVELS]


if __name__ == '__main__':
  main()
