"""Would more labelled prints help? What is found after learning from a share of them.

  python -m benchmarks.prints.label_curve OUT --photos CLEAN --train-labels LABELS \\
    --train-prints PRINTS --labels LABELS --prints PRINTS [--overlays OVERLAYS]

The folders are those of variants.py. For each share of SHARES, a network that only has to find
learns from nothing, as long as the others, from the same clean photos and from that share of the
prints; a smaller share is a part of a larger one. The networks have half the width of the one that
ships, so that they come further in a given time. Writes OUT/SHARE.json, and prints a table of the
F1 of what is found on the other prints. What was measured is not measured again.
"""

import argparse
import dataclasses
import json
import pathlib
from collections.abc import Callable

import jax
import numpy as np
from ml_collections import ConfigDict

from benchmarks.prints import variants
from configs import repair as repair_config
from oldphoto_jax.data import prints
from oldphoto_jax.models import repair
from oldphoto_jax.systems import build, splits
from oldphoto_jax.systems import repair as repair_system
from oldphoto_jax.training import train

SHARES = (0.0, 0.5, 0.8, 1.0)
WIDTHS = (16, 32, 64, 96)
STEPS = 2500


def part(labelled: prints.Prints, share: float) -> prints.Prints:
  """The first `share` of the prints, in an order that is the same for every share."""
  order = np.random.default_rng(0).permutation(len(labelled))
  chosen = sorted(order[: round(share * len(labelled))])
  pick = lambda things: [things[i] for i in chosen]
  return prints.Prints(pick(labelled.names), pick(labelled.photos), pick(labelled.labels))


def learned(
  config: ConfigDict, photos: splits.Photos, labelled: prints.Prints, folder: pathlib.Path
) -> Callable[[jax.Array], tuple[jax.Array, jax.Array]]:
  """Trains a finder in `folder`, and returns its look at photos [1, H, W, 3]: see variants.f1."""
  source = repair_system.stream(config, photos)
  # What is not a print is a clean photo, whose damage is made up.
  p_print = config.data.p_print if len(labelled) else 0.0
  source = dataclasses.replace(source, prints=labelled, p_print=p_print)
  stage = repair_system.repair_stage(config, photos, source, 'finder')
  trained = train.train(stage, folder, config.seed).released | stage.constants
  model = repair_system.model(config, 'finder')
  return jax.jit(lambda photo: repair.look(model, trained, photo)[:2])


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('out', type=pathlib.Path)
  for flag in ('photos', 'train-labels', 'train-prints', 'labels', 'prints'):
    parser.add_argument(f'--{flag}', required=True)
  parser.add_argument('--overlays', default='')
  parser.add_argument('--steps', type=int, default=STEPS)
  parser.add_argument('--seed', type=int, default=0)
  args = parser.parse_args()
  config = repair_config.get_config('cpu')
  config.seed = args.seed
  config.data.photos, config.data.overlays = args.photos, args.overlays
  config.data.labels, config.data.prints = args.train_labels, args.train_prints
  config.model.widths = WIDTHS
  config.finder.steps, config.finder.ema, config.finder.lr = args.steps, 0.99, 1e-3
  config.finder.members = 1
  config.train.evaluate_every = args.steps
  photos = splits.photos(config.data, config.seed)
  whole = prints.prints(build.names(args.train_labels), build.names(args.train_prints))
  measured = prints.prints(build.names(args.labels), build.names(args.prints))
  args.out.mkdir(parents=True, exist_ok=True)
  print('| share of the labels | prints | F1 | F1 by print |\n|---|---|---|---|')
  for share in SHARES:
    labelled, file = part(whole, share), args.out / f'{share}.json'
    if not file.exists():
      look = learned(config, photos, labelled, args.out / str(share))
      file.write_text(json.dumps(variants.f1(look, measured)))
    scores = json.loads(file.read_text())
    cells = [f'{share:.0%}', str(len(labelled))]
    cells += [f'{scores[name]:.3f}' for name in ('F1', 'F1 by print')]
    print('| ' + ' | '.join(cells) + ' |', flush=True)


if __name__ == '__main__':
  main()
