"""Loss values equal those of the official code, through the weights that the models use."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from oldphoto_jax.models import mapping, vae
from oldphoto_jax.nn import losses


def nhwc(array):
  return jnp.asarray(array.transpose(0, 2, 3, 1))


@pytest.fixture(scope='module')
def reference(fixture):
  return fixture('bopbtl_losses')


def maps(reference, side):
  return [
    [nhwc(reference[f'input/{side}/{scale}/layer{i}']) for i in range(5)]
    for scale in ('full', 'half')
  ]


def test_terms_and_totals_equal_the_reference(reference):
  fake, real = maps(reference, 'fake'), maps(reference, 'real')
  levels = [
    [nhwc(reference[f'input/perceptual_{side}/{i}']) for i in range(5)] for side in ('fake', 'real')
  ]
  old, synthetic = (nhwc(reference[f'input/latent_disc_{x}']) for x in ('old', 'synthetic'))
  everyone = jnp.ones(len(old))
  terms = {
    'gan': losses.multiscale_lsgan(fake, 1.0),
    'feature_matching': losses.feature_matching(fake, real),
    'perceptual': losses.perceptual(*levels, (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1.0)),
    'kl': losses.kl(nhwc(reference['input/kl_latent'])),
    'latent_gan': losses.latent_lsgan(old, 1.0, everyone),
    'latent_l1': losses.l1(
      nhwc(reference['input/mapped_latent']), nhwc(reference['input/target_latent'])
    ),
  }
  d = losses.multiscale_lsgan(fake, 0.0), losses.multiscale_lsgan(real, 1.0)
  d_latent = (
    losses.latent_lsgan(old, 0.0, everyone),
    losses.latent_lsgan(synthetic, 1.0, everyone),
  )

  def some(*names):
    return {name: terms[name] for name in names}

  ours = {
    'gan_g': terms['gan'],
    'gan_d_fake': d[0],
    'gan_d_real': d[1],
    'gan_d_total': 0.5 * sum(d),
    'feature_matching': 10 * terms['feature_matching'],
    'kl': terms['kl'],
    'latent_l1_x60': 60 * terms['latent_l1'],
    'latent_gan_d_fake': d_latent[0],
    'latent_gan_d_real': d_latent[1],
    'latent_gan_d_total': 0.5 * sum(d_latent),
    'latent_gan_g': terms['latent_gan'],
    'perceptual': terms['perceptual'],
    'perceptual_x10': 10 * terms['perceptual'],
    'total_g_vae_synthetic_domain': losses.total(
      some('gan', 'feature_matching', 'perceptual', 'kl'), vae.WEIGHTS
    ),
    'total_g_vae_old_domain': losses.total(
      some('gan', 'feature_matching', 'perceptual', 'kl', 'latent_gan'), vae.WEIGHTS
    ),
    'total_g_mapping': losses.total(
      some('gan', 'feature_matching', 'perceptual', 'latent_l1'), mapping.WEIGHTS
    ),
  }
  expected = {k.removeprefix('output/') for k in reference if k.startswith('output/')}
  assert set(ours) == expected
  for name, value in ours.items():
    np.testing.assert_allclose(value, reference[f'output/{name}'], rtol=1e-5, err_msg=name)


def test_vanilla_gan_equals_binary_cross_entropy_and_stays_finite():
  logits = jnp.array([-3.0, 0.0, 2.0])
  p = jax.nn.sigmoid(logits)
  np.testing.assert_allclose(losses.vanilla_gan(logits, 1.0), -jnp.log(p).mean(), rtol=1e-5)
  np.testing.assert_allclose(losses.vanilla_gan(logits, 0.0), -jnp.log1p(-p).mean(), rtol=1e-5)
  np.testing.assert_allclose(losses.vanilla_gan(jnp.array([-200.0]), 1.0), 200.0)


def test_real_features_get_no_gradient():
  a = [[jnp.ones((1, 2, 2, 1)), jnp.ones((1, 2, 2, 1))]]
  b = jax.tree.map(lambda x: 2 * x, a)
  for loss in (
    losses.feature_matching,
    lambda x, y: losses.perceptual(x[0], y[0], (1.0, 1.0)),
  ):
    to_fake, to_real = jax.grad(loss, argnums=(0, 1))(a, b)
    assert any(jnp.any(x != 0) for x in jax.tree.leaves(to_fake))
    assert all(jnp.all(x == 0) for x in jax.tree.leaves(to_real))


@pytest.mark.parametrize(
  'mask',
  [[1, 0, 1, 1, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0, 0, 0], [0] * 8, [1] * 8],
  ids=['uneven', 'one device has them all', 'nobody', 'everybody'],
)
def test_masked_mean_of_parts_is_that_of_all(mask):
  """Also where a device holds no example of the domain, or none does."""
  values, mask = jnp.arange(8.0) + 1, jnp.array(mask)
  whole = losses.masked_mean(values, mask)
  assert jnp.isclose(whole, values[mask == 1].mean() if mask.any() else 0.0)
  parts = values.reshape(4, 2), mask.reshape(4, 2), jnp.full(4, mask.sum() / 4)
  means = jax.vmap(losses.masked_mean)(*parts)
  np.testing.assert_allclose(means.mean(), whole, rtol=1e-6)


def test_wrong_number_of_levels_is_an_error():
  with pytest.raises(ValueError, match='1 and 1 feature levels for 2 weights'):
    losses.perceptual([jnp.ones(1)], [jnp.ones(1)], (1.0, 1.0))
