"""Batches in parts: the same gradients in less memory. Of the models: see their own tests."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from oldphoto_jax.models import vae
from oldphoto_jax.nn import accumulation
from oldphoto_jax.training import parallel


def test_the_mean_over_parts_is_that_of_the_batch_and_keys_stay_with_their_examples(float64):
  batch = {'x': jnp.arange(24.0).reshape(6, 4)}
  keys = jax.random.split(jax.random.key(0), 6)

  def function(batch, keys):
    noise = jax.vmap(lambda key: jax.random.normal(key, (4,)))(keys)
    return {'a': (batch['x'] * noise).mean(0), 'b': batch['x'].mean()}

  whole = function(batch, keys)
  for parts in (1, 2, 3, 6):
    split = accumulation.mean_over_parts(function, parts, batch, keys)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-12), split, whole)


@pytest.mark.parametrize('parts', [0, -1, 4, 12])
def test_parts_that_are_not_equal_are_a_sentence(parts):
  with pytest.raises(ValueError, match='the 6 examples per step of a device cannot be split into'):
    accumulation.mean_over_parts(lambda batch, keys: batch.mean(), parts, jnp.zeros(6), None)


@pytest.mark.slow
def test_parts_need_the_memory_of_one():
  """Of the compiled train step: eight examples in eight parts beside all at once, and one alone."""
  weights = dict.fromkeys(vae.WEIGHTS, 0.0) | {'l1': 1.0}

  def temporaries(parts, examples):
    model = vae.VAE(width=8, latent=8, blocks=1, d_width=8, accumulate=parts, weights=weights)
    state = jax.eval_shape(partial(vae.init, model), jax.random.key(0))
    batch = {
      'image': jax.ShapeDtypeStruct((1, examples, 64, 64, 3), jnp.float32),
      'id': jax.ShapeDtypeStruct((1, examples), jnp.uint32),
    }
    step = parallel.train_step(lambda b, _: b, partial(vae.train_step, model), jax.devices()[:1])
    program = step.lower(state, {}, batch, jax.eval_shape(lambda: jax.random.key(0))).compile()
    return program.memory_analysis().temp_size_in_bytes

  whole, parts, one = temporaries(1, 8), temporaries(8, 8), temporaries(1, 1)
  assert parts < whole / 3
  assert parts < 2 * one
