"""The parts that both pix2pix and CycleGAN build from their configs."""

from collections.abc import Callable
from typing import Any

from ml_collections import ConfigDict

from oldphoto_jax.models import gan_networks
from oldphoto_jax.nn import losses
from oldphoto_jax.systems import build

NORMS = {
  'batch': gan_networks.BATCH,
  'batch_tf': gan_networks.BATCH_TF,
  'instance': gan_networks.INSTANCE,
  'instance_affine': gan_networks.INSTANCE_AFFINE,
}
GAN_LOSSES = {'vanilla': losses.vanilla_gan, 'lsgan': losses.lsgan}


def norm(name: str) -> gan_networks.Norm:
  """One of NORMS.

  Raises:
    ConfigError: for another name.
  """
  return _one_of(NORMS, name, 'model.norm')


def gan_loss(name: str) -> Callable:
  """One of GAN_LOSSES.

  Raises:
    ConfigError: for another name.
  """
  return _one_of(GAN_LOSSES, name, 'gan_loss')


def unet(config: ConfigDict) -> gan_networks.GanUNet:
  """The U-Net that a section `model` describes."""
  return gan_networks.GanUNet(
    width=config.width,
    downs=config.downs,
    norm=norm(config.norm),
    bottleneck_norm=config.bottleneck_norm,
    slope=config.slope,
    rectify_skips=config.rectify_skips,
    dropout_levels=tuple(config.dropout_levels),
    dtype=build.dtype(config.dtype),
  )


def resnet(config: ConfigDict) -> gan_networks.GanResNet:
  """The residual generator that a section `model` describes."""
  return gan_networks.GanResNet(config.width, config.blocks, build.dtype(config.dtype))


def discriminator(config: ConfigDict) -> gan_networks.GanPatchDiscriminator:
  """The patch discriminator that a section `model` describes."""
  return gan_networks.GanPatchDiscriminator(
    width=config.d_width,
    n_layers=config.d_layers,
    norm=norm(config.norm),
    slope=config.slope,
    first_bias=config.d_first_bias,
    dtype=build.dtype(config.dtype),
  )


def _one_of(choices: dict[str, Any], name: str, what: str) -> Any:
  if name not in choices:
    raise build.ConfigError(f'{what} is one of {", ".join(choices)}, not {name!r}')
  return choices[name]
