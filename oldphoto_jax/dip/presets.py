"""Settings of Deep Image Prior that `oldphoto dip` chooses from; configs/dip.py has their reasons.

`channels` is 3, or 1 for gray photos.
"""

from oldphoto_jax.dip.networks import Skip
from oldphoto_jax.dip.prior import Dip, Emv

WIDE, NARROW = (128,) * 5, (8, 16, 32, 64, 128)
NEAREST, BILINEAR = ('nearest',) * 5, ('bilinear',) * 5


def small(channels: int = 3) -> Dip:
  """For CPUs: minutes instead of hours."""
  return Dip(
    Skip(NARROW, NARROW, (0, 0, 0, 4, 4), BILINEAR, out_channels=channels),
    input_depth=3,
    iterations=2400,
    reg_noise_std=1 / 30,
    stop=Emv(burn_in=500, patience=500),
    ema=0.99,
  )


def denoise(channels: int = 3) -> Dip:
  """denoising.ipynb."""
  return Dip(
    Skip(WIDE, WIDE, (4,) * 5, BILINEAR, out_channels=channels),
    iterations=3000,
    reg_noise_std=1 / 30,
    ema=0.99,
  )


def inpaint(channels: int = 3) -> Dip:
  """inpainting.ipynb: thin damage."""
  return Dip(
    Skip(WIDE, WIDE, WIDE, NEAREST, out_channels=channels),
    iterations=6001,
    reg_noise_std=0.03,
  )
