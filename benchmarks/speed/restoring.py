"""Seconds a megapixel of restoring a photo, with the weights of the package, by option.

  python benchmarks/speed/restoring.py PHOTO

Prints a table: wall-clock and CPU seconds a megapixel of `restore.restore_photo`, without decoding,
encoding and compiling, which the first of two calls does. The mask is that of the default.
"""

import argparse
import dataclasses
import os
import time

from oldphoto_jax import weights
from oldphoto_jax.photos import images
from oldphoto_jax.restoring import compile_cache, engine, restore


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('photo', help='path of a photo')
  compile_cache.enable()
  photo = images.read(parser.parse_args().photo)
  restorer = weights.load_restorer(weights.SHIPPED)
  system = engine.compiled(restorer, [photo.size])
  default = restore.usual(restorer)
  mask = restore.restore_photo(system, photo, None, default)[1].mask
  blind = dataclasses.replace(default, find=None)
  rows = (
    ('default', None, default),
    ('`--only-damage`', None, dataclasses.replace(default, only_damage=True)),
    ('`--no-find-damage`', None, blind),
    ('`--mask`', mask, blind),
  )
  share = 'none' if mask is None else f'{mask.mean():.2%}'
  height, width = photo.size
  print(f'{height}x{width}, {share} found damaged, load {os.getloadavg()[0]:.1f}', end='\n\n')
  print('| options | wall s a megapixel | CPU s a megapixel |')
  print('|---|---|---|')
  for name, given, wishes in rows:
    wall, cpu = time.perf_counter(), time.process_time()
    restore.restore_photo(system, photo, given, wishes)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    megapixels = height * width / 1e6
    print(f'| {name} | {wall / megapixels:.2f} | {cpu / megapixels:.2f} |', flush=True)


if __name__ == '__main__':
  main()
