"""Deep Image Prior: no training, one network fitted to each photo, which stops by itself.

Variants: small (default), report, denoise, inpaint, hole, restoration, superres, superres8; their
networks, numbers and reasons are in oldphoto_jax/models/dip_presets.py. launch.py does not run this
file yet: `get_config` holds what oldphoto_jax.fit.fit_photos takes.
"""

import dataclasses
from functools import partial

import ml_collections

from oldphoto_jax.models import dip_presets

PRESETS = {
  '': dip_presets.small,
  'small': dip_presets.small,
  'report': dip_presets.report,
  'denoise': dip_presets.denoise,
  'inpaint': dip_presets.inpaint,
  'hole': dip_presets.hole,
  'restoration': dip_presets.restoration,
  'superres': dip_presets.superres,
  'superres8': partial(dip_presets.superres, 8),
}


def get_config(variant=''):
  if variant not in PRESETS:
    raise ValueError(f'{variant!r} is no variant of configs/dip.py: use one of {list(PRESETS)[1:]}')
  preset = PRESETS[variant]()

  c = ml_collections.ConfigDict()
  c.system = 'dip'
  c.preset = variant or 'small'
  c.seed = 0
  c.workdir = 'runs/dip'

  c.photos = ''  # folder of photos to restore
  c.masks = ''  # folder of masks under the photos' names, white = damaged; '': all pixels are known
  c.truths = ''  # folder of sound photos, for the PSNR curves and the report alone
  c.gray = False  # one channel
  c.max_side = 0  # fit larger photos at this size and paste only the damage back; 0: as they are
  c.max_hours = 24.0  # refuse longer fits of a photo

  c.chunk = 100  # iterations between two reports of progress
  c.save_every = 10  # chunks between two checkpoints

  # The preset's numbers, to be changed here or on the command line.
  c.fit = ml_collections.ConfigDict()
  for field in dataclasses.fields(preset):
    if field.name not in ('net', 'stop', 'factor'):
      c.fit[field.name] = getattr(preset, field.name)
  c.patience = getattr(preset.stop, 'patience', 0)  # of ES-EMV; 0: stop after fit.iterations
  return c
