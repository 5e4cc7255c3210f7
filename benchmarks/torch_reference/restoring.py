"""Seconds a megapixel of restoring by the published networks: ours, and PyTorch's in turn.

  python -m benchmarks.torch_reference.restoring [--side 512] [--threads 2]

One photo of SIDE x SIDE, float32, random weights of the published sizes: the pipeline of Wan et al.
without and with a mask, pix2pix and CycleGAN. As compare.py in all else, which also takes the extra
`torch`. What `repair` takes is told by benchmarks/speed/restoring.py.
"""

import argparse
from functools import partial
from types import ModuleType

import jax
from ml_collections import ConfigDict

from benchmarks.torch_reference import compare
from configs import cyclegan as cyclegan_config
from configs import pix2pix as pix2pix_config
from configs import vae as vae_config
from oldphoto_jax.evaluation import speed
from oldphoto_jax.systems import cyclegan, frozen, pix2pix, splits, triplet

# Name in the table -> config, system, stage.
SYSTEMS: dict[str, tuple[ModuleType, ModuleType, str]] = {
  'Wan et al.': (vae_config, triplet, 'mapping'),
  'Wan et al., with a mask': (vae_config, triplet, 'mapping_masked'),
  'pix2pix': (pix2pix_config, pix2pix, 'pix2pix'),
  'CycleGAN': (cyclegan_config, cyclegan, 'cyclegan'),
}
WINDOWS = speed.Windows(count=5, seconds=2.0)


def published(module: ModuleType, stage: str, side: int) -> ConfigDict:
  """The published sizes, for one photo of `side` pixels."""
  config = module.get_config('paper')
  config.data.crop, config.data.photos = side, ''
  config[stage].batch_size = 1
  if 'dtype' in config.model:
    config.model.dtype = 'float32'
  if stage == 'mapping_masked':
    config.mapping_masked.spectral = False  # of the discriminator, which restores nothing
  return config


def row(name: str, side: int, threads: int) -> compare.Row:
  """Both sides of one system, once their outputs are found to agree."""
  module, system, stage_name = SYSTEMS[name]
  config = published(module, stage_name, side)
  opened = system.stages(config, splits.stand_ins(config), frozen.UNTRAINED)
  stage = opened[stage_name]()
  state = jax.jit(stage.init)(jax.random.key(0))
  constants = jax.device_put(stage.constants)
  batch, _ = compare.prepared(stage)
  model = stage.train_step.args[0]
  restore, make, job = compare.pair(config[stage_name], model, state, constants, batch)
  ours = compare.repeat(compare.only_restored(restore), state, constants, batch)
  with compare.torch_process(threads, 'cpu', make, job) as (ask, outputs):
    compare.check(name, compare.outputs(restore, state, constants, batch), outputs)
    theirs = partial(ask, 'restore')
    half = compare.has_bfloat16()
    return compare.measured(name, 'restore', 1, side, 1, ours, theirs, WINDOWS, half)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--side', type=int, default=512, help='a multiple of 256')
  parser.add_argument('--threads', type=int, default=speed.cores())
  args = parser.parse_args()
  jax.config.update('jax_platforms', 'cpu')
  megapixels = args.side**2 / 1e6
  print('| system | ours s | PyTorch s | PyTorch bfloat16 s | ratio |\n|---|---|---|---|---|')
  for name in SYSTEMS:
    x = row(name, args.side, args.threads)
    times = (x.ours, x.torch, x.torch_bfloat16)
    cells = ['none' if ms is None else f'{ms / 1e3 / megapixels:.2f}' for ms in times]
    ratio = f'{x.ratio:.2f} ({x.least:.2f} to {x.most:.2f})'
    print(f'| {name} | {" | ".join(cells)} | {ratio} |', flush=True)


if __name__ == '__main__':
  main()
