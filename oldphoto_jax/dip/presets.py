"""Settings of Deep Image Prior for each job, after the official notebooks and the student report.

Where a notebook stops after a fixed number of iterations, that number is the cap here and ES-EMV
stops earlier: runs with the same settings differ too much for a fixed number (issue 85 of the
official repository). `channels` is 3, or 1 for gray photos.
"""

from oldphoto_jax.dip.networks import ResNet, Skip
from oldphoto_jax.dip.prior import Dip, Emv
from oldphoto_jax.errors import ConfigError

WIDE = (128,) * 5
NEAREST, BILINEAR = ('nearest',) * 5, ('bilinear',) * 5


def small(channels: int = 3) -> Dip:
  """The net of the notebook's JPEG example, a quarter of the others' parameters: for CPUs."""
  net = Skip(
    down=(8, 16, 32, 64, 128),
    up=(8, 16, 32, 64, 128),
    skip=(0, 0, 0, 4, 4),  # no branches at the fine scales, which is where the noise would pass
    upsample=BILINEAR,
    out_channels=channels,
  )
  return Dip(
    net,
    input_depth=3,
    iterations=2400,  # denoising.ipynb, snail
    reg_noise_std=1 / 30,
    # Half the default patience: a run of minutes. The long burn-in because the first images, nearly
    # flat, vary little: of six fits (benchmarks/dip) one kept a minimum at iteration 109, 12 dB
    # below its best, for 300 iterations.
    stop=Emv(burn_in=500, patience=500),
    ema=0.99,
  )


def report(channels: int = 3) -> Dip:
  """What the student report ran: the residual net, 3001 iterations whatever happens.

  Its learning rate is 0.01, the notebook's for this net 0.001; its "noise parameter True" does
  nothing in the official code, so there is none here.
  """
  return Dip(
    ResNet(out_channels=channels),
    input_depth=1,
    learning_rate=0.01,
    iterations=3001,
    stop=None,
  )


def denoise(channels: int = 3) -> Dip:
  """denoising.ipynb, F16 with noise of sigma 25."""
  return Dip(
    Skip(WIDE, WIDE, (4,) * 5, BILINEAR, out_channels=channels),
    iterations=3000,  # the paper stops at 1800
    reg_noise_std=1 / 30,  # 1/20 at sigma 50
    ema=0.99,
  )


def inpaint(channels: int = 3) -> Dip:
  """inpainting.ipynb, text over a photo: thin damage such as scratches."""
  return Dip(
    Skip(WIDE, WIDE, WIDE, NEAREST, out_channels=channels),
    iterations=6001,
    reg_noise_std=0.03,
  )


def hole(channels: int = 3) -> Dip:
  """inpainting.ipynb, the vase: large holes, such as tears and lost corners.

  No branches and coordinates as z, so that what fills a hole comes from the coarse scales.
  """
  return Dip(
    Skip(WIDE, WIDE, (0,) * 5, NEAREST, out_channels=channels),
    input='meshgrid',
    input_depth=2,
    iterations=5001,
    reg_noise_std=0.03,
  )


def restoration(channels: int = 3) -> Dip:
  """restoration.ipynb: half of the pixels lost at random."""
  return Dip(
    Skip(WIDE, WIDE, (4,) * 5, BILINEAR, out_channels=channels),
    learning_rate=0.001,
    iterations=11_000,
    reg_noise_std=0.03,
  )


def superres(factor: int = 4, channels: int = 3) -> Dip:
  """super-resolution.ipynb, for factors 4 and 8."""
  if factor not in (4, 8):
    raise ConfigError(f'super-resolution by 4 or 8 has published settings, {factor} has not')
  return Dip(
    Skip(WIDE, WIDE, (4,) * 5, BILINEAR, out_channels=channels),
    iterations=2000 if factor == 4 else 4000,
    reg_noise_std=0.03 if factor == 4 else 0.05,
    factor=factor,
  )
