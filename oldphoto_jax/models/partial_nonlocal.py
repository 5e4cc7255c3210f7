"""The partial non-local block of Wan et al. 2020 (section 3.4), which fills holes from far away.

Masks are 1 = hole. Attention looks only at intact positions, and only holes get its result, so an
empty mask makes the block the identity. It follows `NonLocalBlock2D_with_mask_Res` of the published
code, fusion "combine". The branch that the paper calls local is the identity there.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from oldphoto_jax.nn import layers

REDUCTION = 4  # pixels of a photo per position of the latent, on each axis
DIRECT = 64 * 64  # positions up to which the whole attention matrix is held
TILE = 8  # above that: side of the square of queries that is answered at once


def sound(mask, pool: str = 'max') -> jax.Array:
  """1.0 at the positions of the latent that have lost no pixel, else 0.0, [B, H/4, W/4, 1].

  Args:
    mask: [B, H, W, 1], above 0 = hole.
    pool: 'max': a position is lost if any of its 4x4 pixels is. 'reference': as in the published
      code, by a bilinear and a nearest reduction. Neither sees all pixels: a line of one pixel at
      column 4i + 3 is missed.

  Raises:
    ValueError: if a side is not a multiple of 4, or for another `pool`.
  """
  layers.check_multiple(mask.shape, REDUCTION)
  b, h, w, _ = mask.shape
  cells = mask.reshape(b, h // REDUCTION, REDUCTION, w // REDUCTION, REDUCTION)
  if pool == 'max':
    lost = (cells > 0).any((2, 4))
    return 1.0 - lost[..., None]
  if pool == 'reference':
    # The value halfway between pixels 4i + 1 and 4i + 2 (torch's bilinear, not antialiased) is a
    # hole if above 0. Elsewhere pixel 4i of 1 - mask counts (torch's nearest).
    lost = (cells[:, :, 1:3, :, 1:3] > 0).any((2, 4))
    return jnp.where(lost, 0.0, 1.0 - cells[:, :, 0, :, 0])[..., None]
  raise ValueError(f"mask_pool must be 'max' or 'reference', not {pool!r}")


def attend(q, k, v, is_key, is_query) -> jax.Array:
  """softmax(q k^T) v over the keys of each photo, without scaling; float32 [B, h, w, C].

  Up to DIRECT positions the matrix of all pairs is held. Above, squares of TILE x TILE queries are
  answered one after another, so that memory grows linearly with the number of positions, also in
  the gradient. Squares without a query are skipped.

  Args:
    q, k, v: [B, h, w, C], float32.
    is_key: [B, h, w, 1] bool; a photo without keys gets zeros.
    is_query: [B, h, w, 1] bool, the positions that need an answer. The others are 0 above DIRECT
      positions and are computed anyway up to DIRECT.
  """

  def answer(q, k, v, is_key):
    logits = jnp.where(is_key, q @ k.T, -jnp.inf)
    # A photo without keys: -inf - 0 instead of -inf - -inf.
    top = lax.stop_gradient(logits.max(-1, keepdims=True))
    weights = jnp.exp(logits - jnp.where(jnp.isfinite(top), top, 0))
    total = weights.sum(-1, keepdims=True)
    return (weights @ v) / jnp.where(total > 0, total, 1)

  def of_photo(q, k, v, is_key, is_query):
    h, w, c = q.shape
    k, v, is_key = k.reshape(-1, c), v.reshape(-1, c), is_key.reshape(-1)
    if h * w <= DIRECT:
      return answer(q.reshape(-1, c), k, v, is_key).reshape(h, w, c)
    rows, columns = -(-h // TILE), -(-w // TILE)

    def squares(x):
      x = jnp.pad(x, ((0, rows * TILE - h), (0, columns * TILE - w), (0, 0)))
      x = x.reshape(rows, TILE, columns, TILE, -1).swapaxes(1, 2)
      return x.reshape(rows * columns, TILE * TILE, -1)

    @jax.checkpoint
    def of_square(square):
      q, is_query = square
      return lax.cond(is_query.any(), lambda: answer(q, k, v, is_key), lambda: jnp.zeros_like(q))

    y = lax.map(of_square, (squares(q), squares(is_query)))
    y = y.reshape(rows, columns, TILE, TILE, c).swapaxes(1, 2)
    return y.reshape(rows * TILE, columns * TILE, c)[:h, :w]

  with jax.default_matmul_precision('float32'):
    if q.shape[1] * q.shape[2] <= DIRECT:
      return jax.vmap(of_photo)(q, k, v, is_key, is_query)
    return lax.map(lambda photo: of_photo(*photo), (q, k, v, is_key, is_query))


class PartialNonLocal(nn.Module):
  """valid * x + (1 - valid) * refine(W(attention)): [B, h, w, features] to the same.

  Attributes:
    features: channels of x, of the attention and of the refining residual blocks.
    blocks: residual blocks after the attention.
    norm: instance norms in those blocks.
    scaled: divide the logits by sqrt(features) (Vaswani et al. 2017); the reference does not.
    dtype: of the convolutions; logits and softmax are always float32.
  """

  features: int
  blocks: int = 3
  norm: bool = True
  scaled: bool = False
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x, valid):
    """valid: [B, h, w, 1], 1 where nothing is lost (see `sound`)."""

    def conv(name, x):
      return layers.Conv(self.features, 1, dtype=self.dtype, name=name)(x)

    q, k, v = (conv(name, x).astype(jnp.float32) for name in ('theta', 'phi', 'g'))
    if self.scaled:
      q = q / self.features**0.5
    lost = valid < 1
    if self.norm:  # its statistics are of the whole map
      needed = jnp.broadcast_to(lost.any((1, 2), keepdims=True), lost.shape)
    else:
      reach = 2 * self.blocks  # positions that the refining convolutions see to either side
      window = (1, 2 * reach + 1, 2 * reach + 1, 1)
      needed = lax.reduce_window(lost, False, lax.bitwise_or, window, (1,) * 4, 'SAME')
    u = conv('W', attend(q, k, v, valid > 0, needed))
    u = layers.resnet_blocks(u, self.blocks, self.features, self.norm, self.dtype)
    # A choice instead of a sum: the value of an unneeded position must not matter, even if nan.
    return jnp.where(lost, (valid * x + (1 - valid) * u).astype(x.dtype), x)
