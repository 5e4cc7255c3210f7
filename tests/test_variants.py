"""Scripts of benchmarks/prints: variants of `repair`, shares of labels, wide holes, cleaning."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.prints import cleaning, finders, label_curve, stack, variants, wide_holes
from oldphoto_jax import errors, weights
from oldphoto_jax.data import prints
from oldphoto_jax.models import repair

SMALL = dict(widths=(4, 8), blocks=1)


def _variant(name, **settings):
  # In the place of a triplet: photos of one gray level, which is its only parameter.
  return variants.Variant(**SMALL, name=name, photo_of=lambda p, x: jnp.full_like(x, p), **settings)


@pytest.mark.parametrize('name', variants.VARIANTS)
def test_each_begins_by_changing_nothing(name):
  variant = _variant(name)
  g = variants.init(variant, jnp.float32(0.5), jax.random.key(0)).g
  photo = jax.random.uniform(jax.random.key(1), (2, 32, 32, 3), minval=-1)
  clean, found, _ = repair.look(variant, g, photo)
  np.testing.assert_array_equal(clean, photo)
  np.testing.assert_allclose(found, repair.PRIOR, rtol=1e-4)


def test_biases_count_for_nothing_but_logit_and_scale():
  variant = _variant(variants.UNBIASED)
  g = jax.tree.map(
    lambda x: 0.1 * jax.random.normal(jax.random.key(x.size), x.shape),
    variants.init(variant, None, jax.random.key(0)).g,
  )
  black = jnp.zeros((1, 16, 16, 3))
  clean, found, _ = repair.look(variant, g, black)
  np.testing.assert_array_equal(clean, black)  # the photo is scaled, and so is the answer
  assert np.abs(np.asarray(found) - 0.5).max() > 1e-3


def test_the_triplets_photo_is_for_those_who_are_told_nothing():
  variant = _variant(variants.GUIDED, blind=(1, 2))
  g = variants.init(variant, jnp.float32(0.5), jax.random.key(0)).g
  kernel = g['unet']['conv_out']['kernel']
  g['unet']['conv_out']['kernel'] = jax.random.normal(jax.random.key(2), kernel.shape)
  photo = jax.random.uniform(jax.random.key(1), (4, 16, 16, 3), minval=-1)

  def clean(level):
    return repair.look(variant, g | {'triplet': jnp.float32(level)}, photo)[0]

  same = [np.array_equal(a, b) for a, b in zip(clean(0.5), clean(-0.5))]
  assert same == [True, False, True, False]


def test_a_print_is_looked_at_in_tiles_of_one_shape():
  shapes = set()

  def look(tile):
    shapes.add(tile.shape)
    return None, tile[..., :1]

  photo = np.random.default_rng(0).uniform(-1, 1, (300, 200, 3)).astype(np.float32)
  np.testing.assert_array_equal(variants.probability(look, photo), photo[..., 0])
  assert shapes == {(1, variants.TILE, variants.TILE, 3)}


def test_the_damage_found_is_scored_by_its_probability():
  marked = np.zeros((300, 200), np.uint8)
  marked[100:140, 60:120] = prints.DAMAGED
  photo = np.repeat(marked[..., None], 3, -1)
  labelled = prints.Prints(['a'], [photo], [marked])
  seeing = lambda tile: (None, (tile[..., :1] + 1) / 2)
  blind = lambda tile: (None, np.full_like(tile[..., :1], 0.01))
  assert variants.f1(seeing, labelled) == {'F1': 1.0, 'F1 by print': 1.0}
  assert variants.f1(blind, labelled) == {'F1': 0.0, 'F1 by print': 0.0}


def test_a_smaller_share_of_the_prints_is_a_part_of_a_larger_one():
  names = [f'{i}' for i in range(20)]
  labelled = prints.Prints(names, names, names)
  parts = [set(label_curve.part(labelled, share).names) for share in label_curve.SHARES]
  assert [len(part) for part in parts] == [0, 10, 16, 20]
  assert parts[0] < parts[1] < parts[2] < parts[3]


def test_an_ellipse_has_its_width_and_lies_in_the_square():
  for low, high in wide_holes.WIDTHS:
    for seed in range(20):
      hole = wide_holes.ellipse(np.random.default_rng(seed), low, high)[..., 0]
      assert not hole[[0, -1]].any() and not hole[:, [0, -1]].any()
      area = np.pi / 4 * np.array([low, high]) ** 2
      assert 0.9 * area[0] < hole.sum() < 1.1 * area[1]


def test_networks_are_compared_where_as_much_of_sound_photos_is_found():
  sound = [np.linspace(0, 1, 10_000).reshape(100, 100)]  # of which a tenth is from 0.9 on
  marked = np.zeros((100, 100), np.uint8)
  marked[40:60, 40:60] = prints.DAMAGED
  right, wrong = np.where(marked, 0.95, 0.85), np.where(marked, 0.85, 0.95)
  names = ['a', finders.EXCEPT]
  labelled = prints.Prints(names, names, [marked, marked])
  cell = lambda found, share: finders.cell(sound, found, labelled, share)
  assert cell([right, right], 0.1) == '1.000 1.000 1.000'
  assert cell([right, wrong], 0.1).split()[1] == '1.000'  # without the second print
  assert cell([right, wrong], 0.1).split()[0] < '0.5'
  assert cell([right, right], 0.01) == '0.000 0.000 0.000'  # the threshold is 0.99


def test_cleaned_photos_are_scored_by_their_levels():
  square = np.random.default_rng(0).integers(20, 200, (32, 32, 3), np.uint8)
  values = cleaning.scores(lambda x: x + 2 / 127.5, [square, square], [square, square + 2])
  np.testing.assert_allclose(values, [20 * np.log10(255 / 2), 60], rtol=1e-5)


def test_finders_become_members_of_one(tmp_path, capsys):
  one, two, other = (
    repair.Repair(**sizes) for sizes in (SMALL, SMALL | {'members': 2}, {'widths': (4, 6)})
  )
  new = lambda model, seed: jax.device_get(repair.init(model, jax.random.key(seed)).g)
  finders_of = [(model, new(model, seed)) for seed, model in enumerate((one, two))]
  before = weights.Weights('repair', repair.sizes(one), {'repair': new(one, 5)})
  made = stack.stack(before, finders_of)
  assert made.model == before.model | {'finder': repair.sizes(one) | {'members': 3}}
  photo = jax.random.uniform(jax.random.key(1), (1, 32, 32, 3), minval=-1)
  moved = lambda params: jax.tree.map(lambda leaf: leaf + 0.1, params)
  joint = weights.restorer(stack.stack(before, [(m, moved(p)) for m, p in finders_of]), 'test')
  each = [
    repair.look(one, moved(params), photo)[1]
    for model, params in finders_of
    for params in repair.apart(model, params)
  ]
  np.testing.assert_allclose(joint.find(joint.params, photo), np.mean(each, 0), atol=1e-5)
  alone = stack.stack(before, finders_of[:1])
  jax.tree.map(np.testing.assert_array_equal, alone.params['finder'], finders_of[0][1])
  with pytest.raises(errors.WeightsError, match='different sizes'):
    stack.stack(before, [finders_of[0], (other, new(other, 0))])
  weights.save(tmp_path / 'w', before, card={})
  assert stack.main([str(tmp_path / 'w'), str(tmp_path / 'out'), str(tmp_path)]) == 2
  assert 'is not the work folder of a run' in capsys.readouterr().err
  for run, says in (('{', 'is not the work folder'), ('{"config": {}}', 'not a run of configs')):
    (tmp_path / 'run.json').write_text(run)
    assert stack.main([str(tmp_path / 'w'), str(tmp_path / 'out'), str(tmp_path)]) == 2
    assert says in capsys.readouterr().err
  with pytest.raises(errors.WeightsError, match='the system triplet'):
    stack.stack(dataclasses.replace(before, system='triplet'), finders_of)
  assert not (tmp_path / 'out').exists()
