"""Puts a network that train.py has trained into the weights that it started from.

  python -m benchmarks.accelerator.join WEIGHTS TRAINED OUTPUT

WEIGHTS   what `--start` was
TRAINED   a file of train.py; of its networks, the one of its stage is taken
OUTPUT    the weights to write, in 16 bits; the metadata are those of WEIGHTS
"""

import argparse
import pathlib
import sys

from oldphoto_jax import weights
from oldphoto_jax.errors import UserError, WeightsError


def join(before: weights.Loaded, trained: weights.Loaded) -> weights.Weights:
  """The weights `before` with the network that was trained.

  Raises:
    WeightsError: `trained` is no file of train.py, or the networks do not fit together.
  """
  stage = trained.card.get('stage')
  if stage not in trained.weights.params:
    raise WeightsError(f'{trained.file} is not of benchmarks/accelerator/train.py')
  params = dict(before.weights.params) | {stage: trained.weights.params[stage]}
  if stage == 'repair':
    sizes = {name: before.weights.model[name] for name in params if name in before.weights.model}
    sizes |= {name: trained.weights.model[name] for name in ('widths', 'blocks')}
  else:
    sizes = dict(before.weights.model) | {stage: trained.weights.model[stage]}
  joined = weights.Weights('repair', sizes, params)
  weights.check(joined, f'{before.file} with {trained.file}')
  return joined


def main(words: list[str] | None = None) -> int:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  for name in ('weights', 'trained', 'output'):
    parser.add_argument(name, type=pathlib.Path)
  args = parser.parse_args(words)
  try:
    before, trained = weights.read(args.weights), weights.read(args.trained)
    weights.save(args.output, join(before, trained), card=before.card, half=True)
  except UserError as error:
    print(f'join: {error}', file=sys.stderr)
    return 2
  print(f'{args.output}: {weights.read(args.output).name}')
  return 0


if __name__ == '__main__':
  sys.exit(main())
