"""Settings of Deep Image Prior for each job, from the official notebooks and the student report.

The notebooks stop after a fixed number of iterations. Here that number is the maximum, and ES-EMV
stops earlier: runs with the same settings differ too much for a fixed number (issue 85 of the
official repository). `channels` is 3, or 1 for gray photos.
"""

from oldphoto_jax.dip.networks import ResNet, Skip
from oldphoto_jax.dip.prior import Dip, Emv
from oldphoto_jax.errors import ConfigError

WIDE = (128,) * 5
NEAREST, BILINEAR = ('nearest',) * 5, ('bilinear',) * 5


def small(channels: int = 3) -> Dip:
  """For CPUs: the net of the notebook's JPEG example, with a quarter of the others' parameters."""
  net = Skip(
    down=(8, 16, 32, 64, 128),
    up=(8, 16, 32, 64, 128),
    skip=(0, 0, 0, 4, 4),  # no branches at the fine scales, where they would pass the noise
    upsample=BILINEAR,
    out_channels=channels,
  )
  return Dip(
    net,
    input_depth=3,
    iterations=2400,  # denoising.ipynb, snail
    reg_noise_std=1 / 30,
    # Half the default patience makes a run of minutes. The burn-in is long because the first images
    # are nearly flat and vary little: one of six fits (benchmarks/dip) kept a minimum at iteration
    # 109, 12 dB below its best, for 300 iterations.
    stop=Emv(burn_in=500, patience=500),
    ema=0.99,
  )


def report(channels: int = 3) -> Dip:
  """The settings of the student report: the residual net, always 3001 iterations.

  Its learning rate is 0.01; the notebook has 0.001 for this net. Its "noise parameter True" has no
  effect in the official code, so there is none here.
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

  It has no branches, and coordinates as z, so that holes are filled from the coarse scales.
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
    raise ConfigError(
      f'super-resolution has published settings for factors 4 and 8, not {factor}: choose one'
    )
  return Dip(
    Skip(WIDE, WIDE, (4,) * 5, BILINEAR, out_channels=channels),
    iterations=2000 if factor == 4 else 4000,
    reg_noise_std=0.03 if factor == 4 else 0.05,
    factor=factor,
  )
