"""Puts finders that were trained in runs of their own into weights, as members of one.

  python -m benchmarks.prints.stack WEIGHTS OUTPUT RUN...

WEIGHTS   of the system repair: their other networks and metadata are kept
OUTPUT    the weights to write, in 16 bits
RUN       work folders of configs/repair.py with a trained stage `finder`, all of the same sizes
"""

import argparse
import dataclasses
import json
import pathlib
import sys

import jax
import numpy as np
from ml_collections import ConfigDict

from oldphoto_jax import weights
from oldphoto_jax.errors import UserError, WeightsError
from oldphoto_jax.models import repair
from oldphoto_jax.systems import frozen
from oldphoto_jax.systems import repair as repair_system


def finder(run: pathlib.Path) -> tuple[repair.Repair, dict]:
  """The finder of a run and its parameters, those of SqueezeNet as well.

  Raises:
    WeightsError: `run` is no work folder of configs/repair.py.
    CheckpointError: it has no trained finder.
  """
  try:
    config = ConfigDict(json.loads((run / 'run.json').read_text())['config'])
  except (OSError, ValueError, KeyError) as error:
    raise WeightsError(f'{run} is not the work folder of a run: {error}') from None
  if config.get('system') != 'repair' or 'finder' not in config:
    raise WeightsError(f'{run} is not a run of configs/repair.py with a stage finder')
  config.workdir = str(run)  # it may have been moved
  config.finder.members = config.finder.get('members', 1)  # runs of before know only one
  model = repair_system.model(config, 'finder')
  params = jax.device_get(frozen.trained(config).of('finder', model, repair.init))
  fixed = repair_system.squeezenet(config) if model.squeezenet else {}
  return model, params | fixed


def stack(before: weights.Weights, finders: list[tuple[repair.Repair, dict]]) -> weights.Weights:
  """The weights `before` with one finder, whose members are those of all `finders`.

  Raises:
    WeightsError: their sizes differ, they do not see the same maps, or `before` is of another
      system.
  """
  if before.system != 'repair':
    raise WeightsError(f'the weights hold the system {before.system}, not repair')
  model, first = finders[0]
  alike = lambda other: {**repair.sizes(other), 'members': 1}
  if any(alike(other) != alike(model) for other, _ in finders):
    raise WeightsError('the finders have different sizes: their runs need the same config.finder')
  maps = lambda params: {name: leaf for name, leaf in params.items() if name == 'squeezenet'}
  fixed, each = maps(first), []
  for one, params in finders:
    if not all(map(np.array_equal, *map(jax.tree.leaves, (maps(params), fixed)))):
      raise WeightsError('the finders see the maps of different networks')
    each += repair.apart(one, params)
  sizes = repair.sizes(dataclasses.replace(model, members=len(each)))
  made = weights.Weights(
    'repair',
    {**before.model, 'finder': sizes},
    {**before.params, 'finder': repair.together(each) | fixed},
  )
  weights.check(made, 'the weights with these finders')
  return made


def main(words: list[str] | None = None) -> int:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('weights', type=pathlib.Path)
  parser.add_argument('output', type=pathlib.Path)
  parser.add_argument('runs', type=pathlib.Path, nargs='+')
  args = parser.parse_args(words)
  try:
    before = weights.read(args.weights)
    made = stack(before.weights, [finder(run) for run in args.runs])
    weights.save(args.output, made, card=before.card, half=True)
  except UserError as error:
    print(f'stack: {error}', file=sys.stderr)
    return 2
  print(f'{args.output}: {weights.read(args.output).name}')
  return 0


if __name__ == '__main__':
  sys.exit(main())
