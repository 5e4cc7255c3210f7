"""Deep Image Prior: no training, one network fitted to each photo, which stops by itself.

python launch.py --config=configs/dip.py --config.photos=FOLDER                  # noise, grain
python launch.py --config=configs/dip.py --config.photos=FOLDER --config.masks=FOLDER  # and damage
python launch.py --config=configs/dip.py                        # two noisy sample photos, minutes

Variants: small (default, for CPUs), report, denoise, inpaint, hole, restoration, superres,
superres8; their networks, numbers and reasons are in oldphoto_jax/models/dip_presets.py.
"""

import dataclasses

import ml_collections

from configs import sections
from oldphoto_jax.systems.dip import PRESETS


def get_config(variant=''):
  variant = variant or 'small'
  if variant not in PRESETS:
    raise ValueError(f'{variant!r} is no variant of configs/dip.py: use one of {list(PRESETS)}')
  preset = PRESETS[variant]()

  c = ml_collections.ConfigDict()
  c.system = 'dip'
  c.preset = variant  # chosen behind the colon: configs/dip.py:denoise
  c.seed = 0
  c.workdir = 'runs/dip'

  c.photos = ''  # folder of photos to restore, or one photo; '': noisy sample photos
  c.masks = ''  # folder of masks under the photos' names, white = damaged; '': all pixels are known
  c.truths = ''  # folder of sound photos, for the PSNR curves and the report alone
  c.paste = True  # with masks, change the masked pixels alone; False: the network's whole image
  c.gray = False  # fit and write one channel; files that are gray always are
  c.max_side = 0  # fit larger photos at this size and paste only the damage back; 0: as they are
  c.max_hours = 24.0  # refuse to begin where a photo might take longer

  c.chunk = 100  # iterations between two looks at the devices
  c.save_every = 10  # chunks between two checkpoints
  c.batch = 0  # photos that a device fits at once; 0: one on CPU, up to four on accelerators

  # The preset's numbers, to be changed here or on the command line.
  c.fit = ml_collections.ConfigDict()
  for field in dataclasses.fields(preset):
    if field.name not in ('net', 'stop', 'factor'):
      c.fit[field.name] = getattr(preset, field.name)
  c.patience = getattr(preset.stop, 'patience', 0)  # of ES-EMV; 0: stop after fit.iterations
  c.measure = sections.measure()
  return c
