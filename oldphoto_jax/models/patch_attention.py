"""The high-resolution mapping of Wan et al. 2020, which fills holes by copies of other patches.

It is `Mapping_Model_with_mask_2` and `Patch_Attention_4` of the published code, which the paper
does not describe. At three scales, each patch of the latent that is mostly hole becomes a copy of
the most similar patch that is not. Similarity is the cosine of whole patches, and the copy is hard:
no gradient flows through the choice, but one flows through the copied values.

The published code holds a matrix of all pairs of patches, 16 GiB for 2048x2048 pixels. Here blocks
of patches are compared one after another, so that memory grows linearly with the photo.
"""

import functools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from oldphoto_jax.nn import layers

SIZES = (8, 4, 2)  # positions of the latent per side of a patch, at the three scales
LOST = 0.6  # a patch is masked if more than this share of it is hole
BLOCK = 4096  # positions in the patches that are compared at once, on either side
MULTIPLE = 32  # photos whose sides are multiples of this are cut into whole patches


def holes(mask: jax.Array, shape: Sequence[int]) -> jax.Array:
  """1.0 at positions of the latent that are holes, else 0.0, [B, *shape, 1].

  As in the published code, a position is a hole if the mask, reduced bilinearly without
  antialiasing, is above 0 there. It misses pixels between its samples: at a quarter of the sides,
  all but the middle 2x2 of each 4x4. Widen masks of thin lines before, or use
  partial_nonlocal.sound.

  Args:
    mask: [B, H, W, 1], above 0 = hole.
    shape: height and width of the latent.
  """
  lost = mask > 0
  for axis, side in zip((1, 2), shape):
    whole = mask.shape[axis]
    # The sample of position i is at (i + 1/2) whole / side - 1/2. Fractions are exact: a weight
    # that rounding lifts above 0 would spread the hole.
    twice = np.maximum((2 * np.arange(side) + 1) * whole - side, 0)
    first, rest = np.divmod(twice, 2 * side)
    second = np.minimum(np.where(rest > 0, first + 1, first), whole - 1)
    lost = jnp.take(lost, first, axis) | jnp.take(lost, second, axis)
  return lost.astype(jnp.float32)


def cut(x: jax.Array, size: int) -> jax.Array:
  """[h, w, C] -> its whole patches of size x size positions, row by row, [P, size * size * C]."""
  rows, columns, channels = x.shape[0] // size, x.shape[1] // size, x.shape[2]
  x = x[: rows * size, : columns * size].reshape(rows, size, columns, size, channels)
  return x.swapaxes(1, 2).reshape(rows * columns, -1)


def sources(x: jax.Array, hole: jax.Array, inside: jax.Array, size: int) -> jax.Array:
  """For each whole patch, the number of the patch whose content it gets: int32 [P].

  A masked patch gets the most similar patch that is not masked, the first of equals; any other
  keeps its own content, and so do all if there is nothing to copy.

  Args:
    x: [h, w, C].
    hole: [h, w, 1], 1 = hole.
    inside: [h, w, 1], 0 beyond the photo. What lies wholly beyond is not copied.
    size: positions per side of a patch.
  """
  x = lax.stop_gradient(x).astype(jnp.float32)
  patches, share = cut(x, size), cut(hole, size).mean(-1)
  count = len(patches)
  masked = share > LOST
  is_key = ~masked & (cut(inside, size) > 0).any(-1)
  block = min(max(BLOCK // size**2, 1), count)
  queries = jnp.argsort(~masked, stable=True)  # masked patches first

  def unit(patches):
    norm = jnp.linalg.norm(patches, axis=-1, keepdims=True)
    return patches / jnp.maximum(norm, 1e-12)

  def answer(i, found):
    # The last block is moved back to fit; it answers some queries again, with the same result.
    asked = lax.dynamic_slice(queries, (i * block,), (block,))
    query = unit(patches[asked])

    def compare(j, best):
      score, at = best
      start = jnp.minimum(j * block, count - block)
      key = unit(lax.dynamic_slice(patches, (start, 0), (block, patches.shape[1])))
      valid = lax.dynamic_slice(is_key, (start,), (block,))
      cosine = jnp.matmul(query, key.T, precision=lax.Precision.HIGHEST)
      cosine = jnp.where(valid, cosine, -jnp.inf)
      here = cosine.argmax(-1)
      top = jnp.take_along_axis(cosine, here[:, None], -1)[:, 0]
      better = top > score  # strictly: the first of equals stays
      return jnp.where(better, top, score), jnp.where(better, start + here, at)

    none = jnp.full(block, -jnp.inf), asked
    _, at = lax.fori_loop(0, -(-count // block), compare, none)
    return found.at[asked].set(jnp.where(masked[asked], at, asked))

  blocks = -(-masked.sum() // block)  # only as many as there are masked patches
  return lax.fori_loop(0, blocks, answer, jnp.arange(count))


# The name by which restoring/layerwise.py knows that this must see the whole photo.
@functools.partial(jax.jit, static_argnames=('size', 'zero_strip'))
def copy_patches(
  x: jax.Array, hole: jax.Array, inside: jax.Array, size: int, zero_strip: bool
) -> jax.Array:
  """`x` with its masked patches replaced by copies of other ones; see `sources`.

  Args:
    x: [B, h, w, C].
    hole, inside: [B, h, w, 1].
    size: positions per side of a patch.
    zero_strip: rows and columns beyond the last whole patch become 0 if any patch is masked, as in
      the published code. They show as a border at the right and bottom of photos whose sides are no
      multiples of 32. False: they stay.
  """

  def of_photo(x, hole, inside):
    height, width, channels = x.shape
    rows, columns = height // size, width // size
    if rows * columns == 0:
      return x
    copied = cut(x, size)[sources(x, hole, inside, size)]
    copied = copied.reshape(rows, columns, size, size, channels).swapaxes(1, 2)
    copied = copied.reshape(rows * size, columns * size, channels)
    if copied.shape == x.shape:
      return copied
    any_masked = (cut(hole, size).mean(-1) > LOST).any()
    rest = jnp.where(any_masked & zero_strip, jnp.zeros_like(x), x)
    return rest.at[: rows * size, : columns * size].set(copied)

  return jax.vmap(of_photo)(x, hole, inside)


class PatchAttention(nn.Module):
  """Latent [B, h, w, features] and its holes [B, h, w, 1] -> the same shape as the latent.

  A residual block, `copy_patches` of its result, and a 3x3 convolution (zero padding) of the
  latent, the copies and the holes together. There is no norm, no activation and no sum: without
  holes it is not the identity.
  """

  features: int
  size: int
  norm: bool = True
  zero_strip: bool = False
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, z, hole, inside):
    x = layers.ResnetBlock(self.features, self.norm, self.dtype, name='block')(z)
    copied = copy_patches(x, hole, inside, self.size, self.zero_strip)
    copied = checkpoint_name(copied, layers.CUT)
    together = jnp.concatenate([z, copied, hole.astype(z.dtype)], -1)
    return layers.Conv(self.features, 3, pad=1, dtype=self.dtype, name='combine')(together)


class PatchT(nn.Module):
  """T with copied patches: latent [B, h, w, latent] and its holes -> latent of the clean photo.

  As mapping.T, but its residual blocks come in four groups of `blocks`, with a PatchAttention
  between one group and the next, from large patches to small ones. All three see the same holes.
  """

  width: int = 512
  latent: int = 64
  blocks: int = 2
  norm: bool = True
  residual: bool = False
  zero_strip: bool = False
  dtype: Any = jnp.float32
  remat: bool = False

  @nn.compact
  def __call__(self, z, hole):
    """`hole` is [B, h, w, 1], 1 = hole."""
    channels = [min(self.latent * 2**i, self.width) for i in range(5)]
    norm = layers.instance_norm if self.norm else lambda x: x
    hole = checkpoint_name(hole, layers.CUT)
    inside = checkpoint_name(jnp.ones_like(hole), layers.INSIDE)
    block = nn.remat(layers.ResnetBlock) if self.remat else layers.ResnetBlock

    def group(x, g):
      for i in range(g * self.blocks, (g + 1) * self.blocks):
        x = block(channels[-1], self.norm, self.dtype, name=f'block{i}')(x)
      return x

    x = z
    for i, features in enumerate(channels[1:]):
      x = layers.Conv(features, 3, pad=1, dtype=self.dtype, name=f'up{i}')(x)
      x = nn.relu(norm(x))
    x = group(x, 0)
    for g, size in enumerate(SIZES):
      copying = PatchAttention(
        channels[-1], size, self.norm, self.zero_strip, self.dtype, name=f'copy{size}'
      )
      x = group(copying(x, hole, inside), g + 1)
    for i, features in enumerate(channels[-2:0:-1]):
      x = layers.Conv(features, 3, pad=1, dtype=self.dtype, name=f'down{i}')(x)
      x = nn.relu(norm(x))
    x = layers.Conv(self.latent, 3, pad=1, dtype=self.dtype, name='conv_out')(x)
    x = x.astype(jnp.float32)
    return z + x if self.residual else x
