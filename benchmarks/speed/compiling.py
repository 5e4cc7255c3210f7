"""CPU seconds of tracing and compiling the recipes and the first train steps, as Markdown.

  python benchmarks/speed/compiling.py                     # all; minutes
  python benchmarks/speed/compiling.py print vae:vae_rx    # recipes, and CONFIG:STAGE

CPU seconds of all threads, which a busy machine changes least. The size of a program is that of
the optimised HLO: XLA compiles every fusion by itself, some 25 ms each, but those alike once.
"""

import importlib
import pathlib
import re
import sys
import time

import jax
import jax.numpy as jnp

from oldphoto_jax.degradation import names, recipes, worn
from oldphoto_jax.systems import frozen, repair, splits, triplet
from oldphoto_jax.training import parallel

RECIPES = ('wan2020', 'report', 'ageing', 'print', 'worn', 'sound')
STEPS = ('vae:vae_rx', 'vae:vae_y', 'vae:mapping', 'repair:repair')
SYSTEMS = {'vae': triplet, 'repair': repair}
BATCH, SIDE = 8, 96  # of the recipes
ROOT = pathlib.Path(__file__).parents[2]


def recipe(name):
  """A jitted recipe over a batch, and its arguments."""
  made = worn.Sound() if name == 'sound' else names.recipe(name)
  keys = jax.random.split(jax.random.key(0), BATCH)
  photos = jax.ShapeDtypeStruct((BATCH, SIDE, SIDE, 3), jnp.float32)
  return jax.jit(lambda keys, clean: recipes.degrade_batch(made, keys, clean)), (keys, photos)


def step(name, stage):
  """The train step of a config's defaults on one device, and its arguments."""
  config = importlib.import_module(f'configs.{name}').get_config()
  opened = SYSTEMS[name].stages(config, splits.stand_ins(config), frozen.UNTRAINED)[stage]()
  batches = opened.batches()
  example = next(batches)
  batches.close()
  key = jax.random.key(0)
  shape = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype)
  batch = {name: jax.ShapeDtypeStruct((1, *x.shape), x.dtype) for name, x in example.items()}
  program = parallel.train_step(opened.prepare, opened.train_step, jax.devices()[:1])
  state = jax.eval_shape(opened.init, key)
  return program, (state, jax.tree.map(shape, opened.constants), batch, shape(key))


def main(chosen):
  sys.path.insert(0, str(ROOT))  # for the configs
  jax.config.update('jax_enable_compilation_cache', False)
  print('| program | tracing CPU s | compiling CPU s | both | instructions | fusions |')
  print('|---|---|---|---|---|---|')
  for name in chosen or RECIPES + STEPS:
    program, arguments = step(*name.split(':')) if ':' in name else recipe(name)
    start = time.process_time()
    lowered = program.lower(*arguments)
    traced = time.process_time()
    text = lowered.compile().as_text()
    done = time.process_time()
    instructions, fusions = len(re.findall(r'^ +.* = ', text, re.M)), text.count(' fusion(')
    print(
      f'| {name} | {traced - start:.1f} | {done - traced:.1f} | {done - start:.1f} | '
      f'{instructions} | {fusions} |',
      flush=True,
    )


if __name__ == '__main__':
  main(sys.argv[1:])
