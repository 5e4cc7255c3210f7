"""A job that copies photos. It knows no network, so that a test of many processes is cheap."""

import time

import numpy as np
from PIL import Image

from oldphoto_jax.photos import images
from oldphoto_jax.restoring import folder, output_files, schedule, tasks


def save(path, height=8, width=12, seed=0):
  path.parent.mkdir(parents=True, exist_ok=True)
  pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
  Image.fromarray(pixels).save(path)
  return path


def copy(todo, seconds=0.0, **settings):
  def one(item):
    photo = images.read(item.path)
    time.sleep(seconds)
    output_files.write(todo, photo, item.output)
    return tasks.Done(photo.size, (), {'mean': round(float(photo.pixels.mean()), 3)})

  return folder.run(
    todo, schedule.each(one), {'weights': 'none', **settings}, 'copied', 'no advice'
  )


def plan(source, out, shard=None, **options):
  part = folder.Part(shard, options.pop('only_failed', False))
  return folder.plan([source], out, lambda name: {'output': name}, part=part, **options)
