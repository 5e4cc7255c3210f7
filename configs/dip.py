"""Deep Image Prior: no training; a network is fitted to each photo, and stops by itself.

python launch.py --config=configs/dip.py --config.photos=FOLDER                  # noise, grain
python launch.py --config=configs/dip.py --config.photos=FOLDER --config.masks=FOLDER  # and damage
python launch.py --config=configs/dip.py                        # two noisy sample photos, minutes

Variants: small (default, for CPUs), report, denoise, inpaint, hole, restoration, superres,
superres8; their networks, numbers and reasons are in oldphoto_jax/dip/presets.py.
Measured (benchmarks/dip): `small` takes 4 to 6 minutes for 256x256 pixels on two busy cores, and
reaches 25.6 to 28.9 dB for noise of sigma 25, with 3001 iterations.
"""

import dataclasses

import ml_collections

from configs import sections
from oldphoto_jax.systems.dip import PRESETS


def get_config(variant=''):
  variant = variant or 'small'
  if variant not in PRESETS:
    raise ValueError(f'configs/dip.py has no variant {variant!r}: choose from {", ".join(PRESETS)}')
  preset = PRESETS[variant]()

  c = ml_collections.ConfigDict()
  c.system = 'dip'
  c.preset = variant  # chosen after the colon: configs/dip.py:denoise
  c.seed = 0
  c.workdir = 'runs/dip'

  c.photos = ''  # folder of photos to restore, or one photo; '': noisy sample photos
  c.masks = ''  # folder of masks, named like the photos, white = damaged; '': all pixels are known
  c.truths = ''  # folder of undamaged photos, only for the PSNR curves and the report
  c.paste = True  # with masks, change only the masked pixels; False: the network's whole image
  c.gray = False  # fit and write one channel; gray files always have one
  c.max_side = 0  # fit larger photos at this size and paste only the damage back; 0: full size
  c.max_hours = 24.0  # refuse to start if a photo might take longer

  c.chunk = 100  # iterations per chunk
  c.save_every = 10  # chunks per checkpoint
  c.batch = 0  # photos that a device fits at once; 0: one on CPU, up to four on accelerators

  # The preset's numbers, which may be changed here or on the command line.
  c.fit = ml_collections.ConfigDict()
  for field in dataclasses.fields(preset):
    if field.name not in ('net', 'stop', 'factor'):
      c.fit[field.name] = getattr(preset, field.name)
  c.patience = getattr(preset.stop, 'patience', 0)  # of ES-EMV; 0: stop after fit.iterations
  c.measure = sections.measure()
  return c
