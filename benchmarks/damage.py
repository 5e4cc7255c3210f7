"""How fast damage is made: photos per second for each artefact and for the recipe `print`.

  python benchmarks/damage.py                     # batches of 8 photos of 256x256
  python benchmarks/damage.py --only print --size 512

Batches run as in training: on CPU one photo after the other, on GPU and TPU all at once. Each
round has other keys, as the recipe draws which artefacts a photo gets. CPU milliseconds are those
of all threads, and say what a batch costs where other programs use the cores too.
"""

import argparse
import time

import jax
import numpy as np
from jax import lax

from oldphoto_jax.degradation import damage, photographic, recipes


def batch_of(artefact):
  """An artefact over a batch, in the form that `degrade_batch` gives a recipe."""
  return lambda keys, photos: lax.platform_dependent(
    keys,
    photos,
    cpu=lambda keys, photos: lax.map(lambda args: artefact(*args), (keys, photos)),
    default=lambda keys, photos: jax.vmap(artefact)(keys, photos),
  )


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--size', type=int, default=256, help='pixels per side')
  parser.add_argument('--batch', type=int, default=8)
  parser.add_argument('--rounds', type=int, default=12)
  parser.add_argument('--only', help='one artefact, or print, or wan2020')
  args = parser.parse_args()

  recipe = damage.Print()
  measured = {name: batch_of(artefact) for name, artefact in damage.artefacts(recipe).items()}
  for name, chosen in (('print', recipe), ('wan2020', recipes.Wan2020())):
    measured[name] = lambda keys, photos, chosen=chosen: recipes.degrade_batch(chosen, keys, photos)
  if args.only and args.only not in measured:
    parser.error(f'there is no {args.only!r}: choose from {", ".join(measured)}')

  levels = np.random.default_rng(0).integers(0, 256, (args.batch, args.size, args.size, 3))
  photos = jax.device_put(photographic.from_levels(levels.astype(np.float32)))
  print(f'{jax.devices()[0].device_kind}, {args.batch} photos of {args.size}x{args.size}')
  print(f'{"":10} {"compile s":>9} {"photos/s":>9} {"ms/photo":>9} {"CPU ms":>7}')
  for name, apply in measured.items():
    if args.only in (None, name):
      keys = jax.random.split(jax.random.key(0), (args.rounds + 1, args.batch))
      start = time.perf_counter()
      step = jax.jit(apply).lower(keys[0], photos).compile()
      compiling = time.perf_counter() - start
      jax.block_until_ready(step(keys[-1], photos))
      wall, cpu = [], []
      for i in range(args.rounds):
        clocks = time.perf_counter(), time.process_time()
        jax.block_until_ready(step(keys[i], photos))
        wall.append(time.perf_counter() - clocks[0])
        cpu.append(time.process_time() - clocks[1])
      # The median of the wall clock leaves out rounds that other programs held up; a mean of the
      # CPU time, as rounds differ in what they draw.
      each, busy = np.median(wall) / args.batch, np.mean(cpu) / args.batch
      print(
        f'{name:10} {compiling:9.1f} {1 / each:9.1f} {1e3 * each:9.2f} {1e3 * busy:7.2f}',
        flush=True,
      )


if __name__ == '__main__':
  main()
