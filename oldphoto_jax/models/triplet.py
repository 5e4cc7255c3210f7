"""The released system of Wan et al. 2020: encoder of R and X, mapping, decoder of Y, extras."""

import dataclasses
import math
from functools import partial
from typing import Any

import jax

from oldphoto_jax.models import detector as detector_model
from oldphoto_jax.models import fusion, mapping, patch_attention, vae
from oldphoto_jax.models.released import Networks


@dataclasses.dataclass(frozen=True)
class Triplet:
  """The parts of a triplet system.

  Attributes:
    mapping: the mapping without masks, with the encoder and decoder around it.
    masked: the mapping with masks, which fills holes; its decoder has its own parameters.
    patched: the same for large photos, filling by copies of patches. It fills if there is no
      `masked`; see weights.with_patches.
    fused: the U-Net that corrects the old photo, guided by the others' result.
    detector: finds the holes.
  """

  mapping: mapping.Mapping
  masked: mapping.Mapping | None = None
  patched: mapping.Mapping | None = None
  fused: fusion.Fusion | None = None
  detector: detector_model.Detector | None = None


def init(model: Triplet, key: jax.Array) -> dict[str, Any]:
  """Random parameters in the layout of a release.

  {'rx': {'encoder'}, 'y': {'decoder'}, 'mapping'}; with `masked` also 'masked': {'y': {'decoder'},
  'mapping'}, with `patched` 'patched' like it, with `fused` 'fusion', with `detector` 'detector'.
  """
  t = model.mapping
  nets = vae.init_networks(t.encoder, t.decoder, *jax.random.split(key))
  decoder = {'decoder': nets['decoder']}
  params = {'rx': {'encoder': nets['encoder']}, 'y': decoder}
  params['mapping'] = mapping.init(model.mapping, key).g
  if model.masked is not None:
    params['masked'] = {'y': decoder, 'mapping': mapping.init(model.masked, key).g}
  if model.patched is not None:
    params['patched'] = {'y': decoder, 'mapping': mapping.init(model.patched, key).g}
  if model.fused is not None:
    params['fusion'] = fusion.init(model.fused, key).g
  if model.detector is not None:
    params['detector'] = detector_model.init(model.detector, key).released
  return params


def restore(model: Triplet, params: dict[str, Any], old: jax.Array) -> jax.Array:
  """Restores old photos [B, H, W, 3] in [-1, 1]; H and W multiples of `multiple(model)`."""
  if model.fused is not None:
    return fusion.restore(model.fused, params, old)
  return mapping.restore(model.mapping, params, old)


def fill(
  model: Triplet, params: dict[str, Any], old: jax.Array, mask: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Fills the holes of old photos, for a model with `masked` or `patched`.

  Args:
    model, params: the system.
    old: [B, H, W, 3] in [-1, 1].
    mask: [B, H, W, 1], above 0 = hole.

  Returns:
    (blind, seeing), [B, H, W, 3] each, see fusion.fill_twice. Without a fusion that sees holes both
    are the same.
  """
  if model.fused is not None and model.fused.masked is not None:
    return fusion.fill_twice(model.fused, params, old, mask)
  name = 'patched' if model.masked is None else 'masked'
  filler = model.patched if model.masked is None else model.masked
  return (mapping.restore(filler, {'rx': params['rx']} | params[name], old, mask),) * 2


def multiple(model: Triplet) -> int:
  """Sides of a photo must be multiples of this."""
  least = vae.DOWNSAMPLING if model.fused is None else model.fused.multiple
  if model.masked is None and model.patched is not None:  # all of the photo is in whole patches
    return math.lcm(least, patch_attention.MULTIPLE)
  return least


def sizes(model: Triplet) -> dict[str, Any]:
  """The sizes of the model that a weights file stores, as JSON values."""
  one = model.mapping.encoder
  sizes = {'width': one.width, 'latent': one.latent, 'blocks': one.blocks, 'norm': one.norm}
  sizes |= _mapping_sizes(model.mapping)
  if model.masked is not None:
    sizes['masked'] = _mapping_sizes(model.masked)
    names = ('mask_pool', 'scaled', 'attention', 'prefilled')
    sizes['masked'] |= {name: getattr(model.masked, name) for name in names}
  if model.patched is not None:
    sizes['patched'] = _mapping_sizes(model.patched)
    sizes['patched'] |= {'mask_pool': model.patched.mask_pool, 'grow': model.patched.grow}
  if model.fused is not None:
    fused = model.fused
    sizes['fusion'] = {'width': fused.width, 'depth': fused.depth, 'blocks': fused.blocks}
    sizes['fusion'] |= {'masked': fused.masked is not None, 'alone': fused.alone}
  if model.detector is not None:
    sizes['detector'] = detector_model.sizes(model.detector)
  return sizes


def from_sizes(sizes: dict[str, Any]) -> Triplet:
  """The model that `sizes` describes, for `restore` and `fill`.

  Raises:
    KeyError: if a size is missing.
  """
  one = vae.VAE(**{name: sizes[name] for name in ('width', 'latent', 'blocks', 'norm')})

  def between(sizes, **masked):
    t_sizes = {name: sizes[f't_{name}'] for name in ('width', 'blocks', 'residual')}
    return mapping.Mapping(one.encoder, one.decoder, **t_sizes, **masked)

  plain, masked, patched, fused, finder = between(sizes), None, None, None, None
  if (m := sizes.get('masked')) is not None:
    masked = between(
      m,
      masked=True,
      mask_pool=m['mask_pool'],
      scaled=m['scaled'],
      attention=m.get('attention', True),  # not in older files, as is the next one
      prefilled=m.get('prefilled', False),
    )
  if (p := sizes.get('patched')) is not None:
    patched = between(p, masked=True, patched=True, mask_pool=p['mask_pool'], grow=p['grow'])
  if 'fusion' in sizes:
    f = sizes['fusion']
    fused = fusion.Fusion(
      plain,
      masked if f['masked'] else None,
      width=f['width'],
      depth=f['depth'],
      blocks=f['blocks'],
      alone=f.get('alone', False),  # not in the files of version 0.1
    )
  if 'detector' in sizes:
    finder = detector_model.from_sizes(sizes['detector'])
  return Triplet(plain, masked, patched, fused, finder)


def networks(sizes: dict[str, Any]) -> Networks:
  """The functions for weights of these sizes; raises as `from_sizes`."""
  model = from_sizes(sizes)
  return Networks(
    partial(init, model),
    partial(restore, model),
    multiple(model),
    sizes['norm'],
    None if model.masked is None and model.patched is None else partial(fill, model),
  )


def _mapping_sizes(t: mapping.Mapping) -> dict[str, Any]:
  return {'t_width': t.width, 't_blocks': t.blocks, 't_residual': t.residual}
