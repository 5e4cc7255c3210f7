"""Deep Image Prior: no training; a network is fitted to each photo, and stops by itself.

python launch.py --config=configs/dip.py --config.photos=FOLDER                  # noise, grain
python launch.py --config=configs/dip.py --config.photos=FOLDER --config.masks=FOLDER  # and damage
python launch.py --config=configs/dip.py                        # two noisy sample photos, minutes

Measured (benchmarks/dip): the default takes 4 to 6 minutes for 256x256 pixels on two busy cores,
and reaches 25.6 to 28.9 dB for noise of sigma 25, with 3001 iterations.

Other variants have the settings of the official notebooks: denoise, inpaint, hole, library,
restoration, superres, superres8; and report those of the student report. The notebooks stop after a
fixed number of iterations. Here that number is the maximum, and ES-EMV stops earlier: runs with the
same settings differ too much for a fixed number (issue 85 of the official repository).
"""

import ml_collections

from configs import sections


def get_config(variant=''):
  c = ml_collections.ConfigDict()
  c.system = 'dip'
  c.variant = variant or 'small'  # names these settings in reports
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

  # The net of the notebook's JPEG example, with a quarter of the others' parameters: for CPUs. No
  # branches at the fine scales, where they would pass the noise.
  c.net = skip((8, 16, 32, 64, 128), (0, 0, 0, 4, 4), 'bilinear')

  c.fit = ml_collections.ConfigDict()
  c.fit.input = 'noise'  # or meshgrid, the coordinates of the pixels
  c.fit.input_depth = 3  # channels of the input; 2 for a meshgrid
  c.fit.input_scale = 0.1  # of the noise, from 0 to this
  c.fit.learning_rate = 0.01
  c.fit.iterations = 2400  # at most; denoising.ipynb, snail
  c.fit.reg_noise_std = 1 / 30  # of the noise added to the input, fresh at every iteration
  c.fit.param_noise = False  # also disturb the parameters at every iteration
  c.fit.ema = 0.99  # decay of the mean of the outputs that is the result; 0: no mean
  c.fit.factor = 1  # super-resolution by this factor, an even number

  # ES-EMV: see dip.prior.Emv. Half of the usual patience makes a run of minutes. The burn-in is
  # long because the first images are nearly flat and vary little: one of six fits (benchmarks/dip)
  # kept a minimum at iteration 109, 12 dB below its best, for 300 iterations.
  c.stop = dict(alpha=0.1, burn_in=500, patience=500)  # patience 0: only after all iterations
  c.measure = sections.measure()
  variants = {
    'small': (),
    'report': (report,),
    'denoise': (published, denoise),
    'inpaint': (published, inpaint),
    'hole': (published, hole),
    'library': (published, library),
    'restoration': (published, restoration),
    'superres': (published, superres),
    'superres8': (published, superres, superres8),
  }
  return sections.variants(c, variant, variants)


def skip(widths, branches, upsample):
  """The hourglass: channels of the scales, and of their branches; the finest comes first."""
  modes = (upsample,) * len(widths)
  return ml_collections.ConfigDict(
    dict(kind='skip', down=widths, up=widths, skip=branches, upsample=modes)
  )


def published(c):
  """What most notebooks share."""
  c.net = skip((128,) * 5, (4,) * 5, 'bilinear')
  c.fit.input_depth = 32
  c.fit.reg_noise_std = 0.03
  c.fit.ema = 0.0
  c.stop = dict(alpha=0.1, burn_in=100, patience=1000)


def report(c):
  """The student report: the residual net, always 3001 iterations.

  Its learning rate is 0.01; the notebook has 0.001 for this net. Its "noise parameter True" has no
  effect in the official code, so there is none here.
  """
  published(c)
  c.net = ml_collections.ConfigDict(dict(kind='resnet', features=32, blocks=8))
  c.fit.input_depth = 1
  c.fit.iterations = 3001
  c.fit.reg_noise_std = 0.0
  c.stop.patience = 0


def denoise(c):
  """denoising.ipynb, F16 with noise of sigma 25."""
  c.fit.iterations = 3000  # the paper stops at 1800
  c.fit.reg_noise_std = 1 / 30  # 1/20 at sigma 50
  c.fit.ema = 0.99


def inpaint(c):
  """inpainting.ipynb, text over a photo: thin damage such as scratches."""
  c.net = skip((128,) * 5, (128,) * 5, 'nearest')
  c.fit.iterations = 6001


def hole(c):
  """inpainting.ipynb, the vase: large holes, such as tears and lost corners.

  It has no branches, and coordinates as input, so that holes are filled from the coarse scales.
  """
  c.net = skip((128,) * 5, (0,) * 5, 'nearest')
  c.fit.input = 'meshgrid'
  c.fit.input_depth = 2
  c.fit.iterations = 5001


def library(c):
  """inpainting.ipynb, the library, with the U-Net."""
  c.net = ml_collections.ConfigDict(dict(kind='unet', widths=(8, 16, 32, 64, 128, 128)))
  c.fit.input_depth = 1
  c.fit.learning_rate = 0.001
  c.fit.iterations = 3001
  c.fit.reg_noise_std = 0.0


def restoration(c):
  """restoration.ipynb: half of the pixels lost at random."""
  c.fit.learning_rate = 0.001
  c.fit.iterations = 11_000


def superres(c):
  """super-resolution.ipynb, factor 4."""
  c.fit.iterations = 2000
  c.fit.factor = 4


def superres8(c):
  """super-resolution.ipynb, factor 8."""
  c.fit.iterations = 4000
  c.fit.reg_noise_std = 0.05
  c.fit.factor = 8
