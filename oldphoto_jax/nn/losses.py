"""Loss terms by the papers' names: pure functions from arrays to float32 scalars (or per example).

Every mean runs over all elements unless stated otherwise. Loss fixtures of the reference codes pin
the values (tests/test_losses.py).
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

Maps = Sequence[jax.Array]


def l1(a, b) -> jax.Array:
  """Mean absolute difference."""
  return jnp.abs(a.astype(jnp.float32) - b.astype(jnp.float32)).mean()


def lsgan(logits, target: float) -> jax.Array:
  """mean((logits - target)^2), the least-squares GAN loss (Mao et al. 2017) of one map.

  Unlike optax.l2_loss it has no factor of 1/2.
  """
  return jnp.square(logits.astype(jnp.float32) - target).mean()


def vanilla_gan(logits, target: float) -> jax.Array:
  """Mean binary cross-entropy of logits against a constant target of 0 or 1."""
  x = logits.astype(jnp.float32)
  return (jax.nn.softplus(-x) * target + jax.nn.softplus(x) * (1 - target)).mean()


def multiscale_lsgan(scales: Sequence[Maps], target: float) -> jax.Array:
  """`lsgan` of the last map of every scale, summed over scales (pix2pixHD `GANLoss`)."""
  return sum(lsgan(maps[-1], target) for maps in scales)


def feature_matching(fake: Sequence[Maps], real: Sequence[Maps]) -> jax.Array:
  """Mean L1 between discriminator features: all maps of a scale except the last.

  Averaged over scales. Within a scale each of its n + 1 inner maps has the weight 4 / (n + 1)
  (pix2pixHD: `D_weights = 1 / num_D`, `feat_weights = 4 / (n_layers_D + 1)`). No gradient reaches
  `real`. The reference's factor of 10 is the term's weight, not part of the term.
  """
  total = 0.0
  for fake_maps, real_maps in zip(fake, real):
    inner = len(fake_maps) - 1
    for a, b in zip(fake_maps[:-1], real_maps[:-1]):
      total += 4.0 / inner * l1(a, jax.lax.stop_gradient(b))
  return total / len(fake)


def perceptual(fake: Maps, clean: Maps, weights: Sequence[float]) -> jax.Array:
  """Weighted sum over feature levels of mean L1 (Johnson et al. 2016). No gradient to `clean`.

  Raises:
    ValueError: if the numbers of levels and weights differ.
  """
  if not len(fake) == len(clean) == len(weights):
    raise ValueError(f'{len(fake)} and {len(clean)} feature levels for {len(weights)} weights')
  return sum(w * l1(a, jax.lax.stop_gradient(b)) for a, b, w in zip(fake, clean, weights))


def kl(latent) -> jax.Array:
  """mean(z^2): KL of N(z, 1) from N(0, 1) without the factor 1/2, as in the bopbtl code."""
  return jnp.square(latent.astype(jnp.float32)).mean()


def masked_mean(values, mask, count=None) -> jax.Array:
  """Mean of the `values` whose `mask` is 1 (same shape); 0 if there are none.

  With a batch split over devices or accumulation steps, pass the mean count of ones per part as
  `count`. The mean of the parts' results is then that of the whole batch. A part without any ones
  neither divides by zero nor weighs as much as a full one.
  """
  mask = mask.astype(jnp.float32)
  count = mask.sum() if count is None else count
  # Not a maximum with 1: the mean count per part may lie between 0 and 1.
  return (values.astype(jnp.float32) * mask).sum() / jnp.where(count > 0, count, 1)


def latent_lsgan(logits, target: float, mask, count=None) -> jax.Array:
  """`lsgan` over the examples of one domain: `logits` [B, h, w, 1], `mask` [B] in {0, 1}.

  `count` as in `masked_mean`.
  """
  per_example = jnp.square(logits.astype(jnp.float32) - target).mean((1, 2, 3))
  return masked_mean(per_example, mask, count)


def total(losses: dict[str, jax.Array], weights: dict[str, float]) -> jax.Array:
  """Sum of weights[k] * losses[k] over the terms that were computed."""
  return sum(weights[name] * value for name, value in losses.items())
