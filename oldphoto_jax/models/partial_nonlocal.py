"""The partial non-local block of Wan et al. 2020 (section 3.4): holes are filled from far away.

Masks are 1 = hole. Attention looks at sound positions only, and only holes get its answer, so an
empty mask makes the block the identity. Follows `NonLocalBlock2D_with_mask_Res` of the published
code, fusion "combine"; the branch that the paper calls local is the identity there.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from oldphoto_jax.nn import layers

REDUCTION = 4  # pixels of a photo to one position of the latent, each way
DIRECT = 64 * 64  # positions up to which the whole matrix of attention is held
TILE = 8  # side of the square of queries that is answered at once above that


def sound(mask, pool: str = 'max') -> jax.Array:
  """Positions of the latent under which nothing is lost: 1.0, else 0.0, [B, H/4, W/4, 1].

  Args:
    mask: [B, H, W, 1], above 0 = hole.
    pool: 'max': a position is lost with any of its 4x4 pixels. 'reference': as the published code
      samples, a bilinear and a nearest reduction, neither of which sees all pixels: a line of one
      pixel at column 4i + 3 is missed.

  Raises:
    ValueError: for sides that are no multiples of 4, or another `pool`.
  """
  layers.check_multiple(mask.shape, REDUCTION)
  b, h, w, _ = mask.shape
  cells = mask.reshape(b, h // REDUCTION, REDUCTION, w // REDUCTION, REDUCTION)
  if pool == 'max':
    lost = (cells > 0).any((2, 4))
    return 1.0 - lost[..., None]
  if pool == 'reference':
    # Halfway between pixels 4i + 1 and 4i + 2 (torch's bilinear, not antialiased), any value above
    # 0 being a hole; times pixel 4i of 1 - mask.
    lost = (cells[:, :, 1:3, :, 1:3] > 0).any((2, 4))
    return jnp.where(lost, 0.0, 1.0 - cells[:, :, 0, :, 0])[..., None]
  raise ValueError(f"mask_pool is 'max' or 'reference', not {pool!r}")


def attend(q, k, v, is_key, is_query) -> jax.Array:
  """softmax(q k^T) v over the keys of each photo, without scaling; float32 [B, h, w, C].

  Up to DIRECT positions the matrix of all pairs is held. Above, squares of TILE x TILE queries are
  answered one after another, so that memory grows with the number of positions and not with its
  square, also in the gradient; a square without any query is left out.

  Args:
    q, k, v: [B, h, w, C], float32.
    is_key: [B, h, w, 1] bool; a photo without any key gets zeros.
    is_query: [B, h, w, 1] bool, the positions whose answers are needed. The others' are 0 above
      DIRECT and computed all the same below.
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
    dtype: of the convolutions; logits and softmax are float32 always.
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
    if self.norm:  # whose statistics are of the whole map
      needed = jnp.broadcast_to(lost.any((1, 2), keepdims=True), lost.shape)
    else:
      reach = 2 * self.blocks  # positions that the refining convolutions see to either side
      window = (1, 2 * reach + 1, 2 * reach + 1, 1)
      needed = lax.reduce_window(lost, False, lax.bitwise_or, window, (1,) * 4, 'SAME')
    u = conv('W', attend(q, k, v, valid > 0, needed))
    u = layers.resnet_blocks(u, self.blocks, self.features, self.norm, self.dtype)
    # A choice and not a sum: what an unneeded position holds must not matter, not even a nan.
    return jnp.where(lost, (valid * x + (1 - valid) * u).astype(x.dtype), x)
