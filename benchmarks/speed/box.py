"""A box of scans: how busy `oldphoto restore` keeps the cores, and what memory it takes.

  python benchmarks/speed/box.py PHOTOS [--scans 100] [--megapixels 12] [-- --only-damage ...]

Writes SCANS JPEG files, each a photo of PHOTOS in turn, enlarged to so many megapixels, with the
fine noise of a scanner. Then restores that folder by a process of its own, from its start to its
end, and prints wall time, CPU time, the share of the cores that was busy, and the peak of memory.
What follows -- goes to `oldphoto restore`. On a machine that does other things the share says
little: the table has the load before.
"""

import argparse
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import time

import numpy as np
from PIL import Image

from oldphoto_jax.photos import folders

NOISE = 2.0  # levels of 255, standard deviation
QUALITY = 92  # of JPEG, as scanners write it


def scan(path: pathlib.Path, megapixels: float, seed: int) -> Image.Image:
  """A photo as a scanner of that resolution would give it."""
  photo = Image.open(path).convert('RGB')
  factor = (megapixels * 1e6 / (photo.width * photo.height)) ** 0.5
  size = round(photo.width * factor), round(photo.height * factor)
  levels = np.asarray(photo.resize(size, Image.Resampling.BICUBIC), np.float32)
  noise = np.random.default_rng(seed).normal(0, NOISE, levels.shape).astype(np.float32)
  return Image.fromarray(np.rint(levels + noise).clip(0, 255).astype(np.uint8))


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('photos', type=pathlib.Path)
  parser.add_argument('--scans', type=int, default=100)
  parser.add_argument('--megapixels', type=float, default=12.0)
  parser.epilog = 'What follows -- are options of `oldphoto restore`.'
  # argparse would take them for its own options.
  at = sys.argv.index('--') if '--' in sys.argv else len(sys.argv)
  args, options = parser.parse_args(sys.argv[1:at]), sys.argv[at + 1 :]
  photos = [path for path, _ in folders.find_photos([args.photos])]
  with tempfile.TemporaryDirectory() as folder:
    scans, out = pathlib.Path(folder) / 'scans', pathlib.Path(folder) / 'out'
    scans.mkdir()
    for i in range(args.scans):
      one = scan(photos[i % len(photos)], args.megapixels, i)
      one.save(scans / f'{i:03d}.jpg', quality=QUALITY)
    load, start = os.getloadavg()[0], time.perf_counter()
    command = [sys.executable, '-m', 'oldphoto_jax', 'restore', str(scans), '-o', str(out)]
    subprocess.run([*command, *options], check=True, stdout=subprocess.DEVNULL)
    wall = time.perf_counter() - start
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = sum(path.suffix == '.jpg' for path in out.iterdir())
  if done != args.scans:
    raise SystemExit(f'{args.scans - done} of {args.scans} scans were not restored.')
  cpu, cores = used.ru_utime + used.ru_stime, len(os.sched_getaffinity(0))
  total = args.scans * args.megapixels
  print('| scans | megapixels | wall s a megapixel | CPU s a megapixel | cores busy | peak GiB |')
  print('|---|---|---|---|---|---|')
  print(
    f'| {args.scans} | {args.megapixels:g} | {wall / total:.2f} | {cpu / total:.2f} '
    f'| {cpu / (wall * cores):.0%} of {cores} | {used.ru_maxrss / 2**20:.2f} |'
  )
  print(f'\nload before: {load:.1f}')


if __name__ == '__main__':
  main()
