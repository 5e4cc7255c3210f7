"""Deep Image Prior: photos per hour on one device, fitted in turn and at once.

  python benchmarks/dip/together.py --threads 2

For the small net with all its iterations, estimated from the time of a few. To compare an iteration
with PyTorch: `python -m benchmarks.torch_reference.compare --config=configs/dip.py:denoise`.
"""

import argparse
import dataclasses
import os
import statistics
import time

import jax
import numpy as np

from oldphoto_jax.dip import fit, presets
from oldphoto_jax.evaluation import speed

ROUNDS, ITERATIONS = 5, 4


def photos_per_hour(count: int, side: int, together: bool) -> float:
  settings = presets.small()
  rng = np.random.default_rng(0)
  photos = [rng.uniform(-1, 1, (side, side, 3)) for _ in range(count)]
  few = dataclasses.replace(settings, iterations=(ROUNDS + 1) * ITERATIONS, stop=None)
  times = []
  fit.fit_photos(
    few,
    photos,
    None,
    jax.random.key(0),
    chunk=ITERATIONS,
    on_chunk=lambda _: times.append(time.perf_counter()),
    devices=jax.local_devices()[:1],
    together=together,
  )
  seconds = statistics.median(np.diff(times)) / ITERATIONS * settings.iterations
  return 3600 * count / seconds


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--side', type=int, default=256, help='pixels, a multiple of 32')
  parser.add_argument('--threads', type=int, default=os.cpu_count())
  parser.add_argument('--photos', type=int, default=4)
  args = parser.parse_args()
  speed.prepare_process(args.threads)
  iterations = presets.small().iterations
  print(f'| {args.photos} photos of {args.side} px, small net, {iterations} iterations | an hour |')
  print('|---|---|')
  for name, together in (('one after another', False), ('at once (vmap)', True)):
    print(f'| {name} | {photos_per_hour(args.photos, args.side, together):.1f} |')


if __name__ == '__main__':
  main()
