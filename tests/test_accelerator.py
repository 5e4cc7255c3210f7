"""The scripts for a machine with an accelerator, in miniature on a CPU."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from PIL import Image

from benchmarks.accelerator import check, join, pack, train
from configs import repair as configs
from oldphoto_jax import weights
from oldphoto_jax.models import repair, state


@pytest.fixture(scope='module')
def packed(tmp_path_factory):
  folder = tmp_path_factory.mktemp('packed')
  rng = np.random.default_rng(0)
  for kind, count in (('photos', 4), ('val', 2)):
    (folder / kind).mkdir()
    for i in range(count):
      pixels = rng.integers(0, 256, (90, 120, 3)).astype(np.uint8)
      Image.fromarray(pixels).save(folder / kind / f'{i}.png')
  words = ['-o', f'{folder}/data.zip', '--side', '100']
  assert pack.main([*words, '--photos', f'{folder}/photos', '--val', f'{folder}/val']) == 0
  return folder / 'data.zip'


def run(packed, place, *more):
  """Trains to a number of steps; the weights, and what was said."""
  words = [str(packed), '-o', str(place), '--batch', '8', '--look', '1', '--tiny', '--every', '0']
  words += ['--threads', '1', '--dtype', 'float32', *more]
  assert train.main(words) == 0
  return weights.read(train.newest(place))


@pytest.mark.slow
def test_training_goes_on_with_its_optimiser_and_its_examples(
  packed, tmp_path, capsys, monkeypatch
):
  whole = run(packed, tmp_path / 'whole', '--steps', '4', '--ahead', '2')
  monkeypatch.setattr(train, 'PART', 4000)  # so that the state has several files
  place = tmp_path / 'cut'
  assert run(packed, place, '--steps', '2', '--ahead', '1').card['step'] == 2
  assert 'repair-000000002.safetensors: ' in capsys.readouterr().out
  last = run(packed, place, '--steps', '4', '--ahead', '1')
  assert 'going on from step 2' in capsys.readouterr().out
  assert last.card['step'] == 4 and last.weights.system == 'repair'
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), last.weights.params,
    whole.weights.params,
  )  # fmt: skip
  names = {path.name.partition('.')[0] for path in place.glob('*.state-*')}
  assert names == {'repair-000000004'} and len(list(place.glob('*.safetensors'))) == 1
  for path in place.glob('*.state-*'):
    path.unlink()
  assert run(packed, place, '--steps', '5', '--ahead', '1').card['step'] == 5
  assert 'the optimiser begins anew' in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize('stage', ['finder', 'cleaner'])
def test_a_network_is_trained_beside_the_one_that_it_starts_from(packed, tmp_path, stage):
  first = run(packed, tmp_path / 'repair', '--steps', '1', '--ahead', '1')
  file = str(train.newest(tmp_path / 'repair'))
  more = ('--ahead', '1', '--stage', stage, '--start', file, '--set', f'{stage}.clip=2')
  for steps in ('1', '2'):  # the first begins anew, the second goes on
    both = run(packed, tmp_path / 'both', '--steps', steps, *more)
    assert both.card['step'] == int(steps) and both.weights.model[stage]
    assert json.loads(both.card['config'])[stage]['clip'] == 2
    jax.tree.map(
      np.testing.assert_array_equal, both.weights.params['repair'], first.weights.params['repair']
    )


def test_a_trained_network_comes_back_into_what_it_started_from(tmp_path, capsys, monkeypatch):
  model = repair.Repair(widths=(4, 8), blocks=1)
  other = repair.Repair(widths=(4, 6), blocks=1)
  new = lambda model, seed: jax.device_get(repair.init(model, jax.random.key(seed)).g)
  params = {name: new(model, 0) for name in ('repair', 'cleaner')} | {'finder': new(model, 1)}
  sizes = repair.sizes(model) | {'finder': repair.sizes(model), 'cleaner': True}
  weights.save(tmp_path / 'all', weights.Weights('repair', sizes, params), card={'a': 1})
  loaded = weights.read(tmp_path / 'all')
  config = configs.get_config('tiny')
  config.finder.widths, config.finder.members = other.widths, 1
  released = new(other, 2)
  numbers = sum(leaf.size for leaf in jax.tree.leaves(params))
  monkeypatch.setattr(train, 'LARGEST', (1 << 20) + 3 * numbers // 2)
  begun = state.start(other, released)
  file = train.save(tmp_path, config, begun, loaded, 'finder', 3, 0.0, train.Position(0, {}))
  kept = weights.read(file).weights
  assert set(kept.params) == {'repair', 'finder'} and 'cleaner' not in kept.model
  out = tmp_path / 'joined'
  assert join.main([str(tmp_path / 'all'), str(file), str(out)]) == 0
  joined = weights.read(out)
  assert joined.card == {'a': 1} and joined.weights.model['finder'] == repair.sizes(other)
  params['finder'] = released
  half = jax.tree.map(lambda x: x.astype(np.float16).astype(np.float32), params)
  jax.tree.map(np.testing.assert_array_equal, joined.weights.params, half)
  assert join.main([str(tmp_path / 'all'), str(tmp_path / 'all'), str(out)]) == 2
  assert 'is not of benchmarks/accelerator/train.py' in capsys.readouterr().err


def test_a_setting_that_is_none_is_refused(packed, tmp_path, capsys):
  words = [str(packed), '-o', str(tmp_path), '--tiny', '--set']
  for wrong in ('data.p_prints=0.5', 'data.p_print=much', 'data.p_print', 'data.p_print="0.5"'):
    assert train.main([*words, wrong]) == 2
    assert f'--set {wrong}: give a setting of configs/repair.py' in capsys.readouterr().err


def state_of(shape):
  model = repair.Repair(ema=0.9)
  return state.start(model, {'kernel': jnp.ones(shape)}).replace(step=jnp.int32(7))


def test_a_state_travels_in_small_parts(tmp_path, monkeypatch):
  monkeypatch.setattr(train, 'PART', 1000)
  path = tmp_path / 'repair-000000007.safetensors'
  begun = state_of((10, 12))
  train.save_state(path, begun, train.Position(3, {'next_example': 56}), half=False)
  parts = sorted(tmp_path.iterdir())
  assert len(parts) >= 2 and all(part.stat().st_size <= 1000 for part in parts)
  loaded, position = train.load_state(path, state_of((10, 12)))
  assert position == train.Position(3, {'next_example': 56}) and loaded.step == 7
  jax.tree.map(np.testing.assert_array_equal, loaded, begun.replace(ema=None))
  with pytest.raises(train.CheckpointError, match='different network'):
    train.load_state(path, state_of((12, 10)))
  parts[-1].write_bytes(b'?' * len(parts[-1].read_bytes()))
  with pytest.raises(train.CheckpointError, match='cannot be read'):
    train.load_state(path, begun)
  parts[0].unlink()
  assert train.load_state(path, begun) is None


def test_a_large_state_is_rounded_to_half_its_size(tmp_path):
  path, begun = tmp_path / 'repair-000000007.safetensors', state_of((100, 12))
  tiny = jax.tree.map(lambda x: x + 1e-12 if x.dtype == jnp.float32 else x, begun.g_opt)
  begun = begun.replace(g=jax.tree.map(lambda x: x / 3, begun.g), g_opt=tiny)
  train.save_state(path, begun, train.Position(0, {}), half=True)
  (part,) = tmp_path.iterdir()
  assert part.stat().st_size < 2 * 3 * 1200 + 1000
  loaded, _ = train.load_state(path, begun)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=4e-3), loaded, begun.replace(ema=None)
  )
  assert {x.dtype for x in jax.tree.leaves(loaded.g)} == {np.dtype('float32')}


def test_a_slower_step_goes_a_part_of_the_way():
  model = repair.Repair(ema=0.9, g_tx=optax.adam(0.1))
  before = state.start(model, {'kernel': jnp.ones(3)}).replace(step=jnp.int32(100))
  grad = {'kernel': jnp.array([1.0, -2.0, 0.5])}
  slow = repair.Repair(ema=0.9, g_tx=optax.adam(0.025))
  expected = before.apply(slow, grad)
  found = train.slowed(before, before.apply(model, grad), 0.25, 0.9)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), found, expected)


def test_the_rate_falls_at_the_end_of_the_time():
  gone = (0.0, 0.75, 0.875, 1.0, 1.1)
  assert [train.falling(x, 0.25) for x in gone] == [1, 1, 0.5, 0, 0]
  assert [train.falling(x, 0.0) for x in gone] == [1] * 5


@pytest.mark.parametrize(('flag', 'value'), [('--decay', '1.5'), ('--ahead', '0')])
def test_a_flag_out_of_range_is_a_sentence(packed, tmp_path, capsys, flag, value):
  assert train.main([str(packed), '-o', str(tmp_path), '--tiny', flag, value]) == 2
  assert flag in (said := capsys.readouterr().err) and value in said


def test_a_finder_alone_is_a_sentence(packed, tmp_path, capsys):
  words = [str(packed), '-o', str(tmp_path / 'new'), '--tiny', '--stage', 'finder']
  assert train.main(words) == 2
  assert 'name these by --start' in capsys.readouterr().err


def test_two_packed_files_with_one_name_are_a_sentence(packed, tmp_path, capsys):
  words = [str(packed), str(packed), '-o', str(tmp_path), '--tiny']
  assert train.main(words) == 2
  assert 'is in an earlier file, too' in capsys.readouterr().err


@pytest.mark.slow
def test_training_ends_with_its_time_and_learns_from_prints(packed, tmp_path):
  rng = np.random.default_rng(1)
  for kind, levels in (('labels', (0, 128, 255)), ('prints', range(256))):
    (tmp_path / kind).mkdir()
    for name in 'ab':
      pixels = rng.choice(levels, (80, 70)).astype(np.uint8)
      Image.fromarray(pixels).save(tmp_path / kind / f'{name}.png')
  words = ['--labels', f'{tmp_path}/labels', '--prints', f'{tmp_path}/prints']
  assert pack.main(['-o', f'{tmp_path}/prints.zip', *words]) == 0
  place = tmp_path / 'out'
  words = [str(packed), f'{tmp_path}/prints.zip', '-o', str(place), '--tiny', '--batch', '8']
  words += ['--dtype', 'float32', '--threads', '1', '--minutes', '0.02', '--decay', '0.5']
  assert train.main(words) == 0  # compiling takes longer than the time
  saved = weights.read(train.newest(place))
  assert saved.card['step'] >= 1
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(saved.weights.params))


def test_data_that_is_no_zip_is_a_sentence(tmp_path, capsys):
  (tmp_path / 'data.zip').write_text('no')
  assert train.main([f'{tmp_path}/data.zip', '-o', str(tmp_path)]) == 2
  assert 'zip' in capsys.readouterr().err


def test_a_packed_file_stays_small(packed, tmp_path, monkeypatch, capsys):
  monkeypatch.setattr(pack, 'LARGEST', 100)
  words = ['-o', f'{tmp_path}/a.zip', '--photos', str(packed.parent / 'photos')]
  assert pack.main(words) == 2
  assert 'lower --side' in capsys.readouterr().err and not (tmp_path / 'a.zip').exists()


def test_two_photos_of_one_name_are_a_sentence(packed, tmp_path, capsys):
  folder = packed.parent / 'photos'
  words = ['-o', f'{tmp_path}/a.zip', '--photos', f'{folder},{packed.parent}/val']
  assert pack.main(words) == 2
  assert 'would both be photos/0.jpg' in capsys.readouterr().err
  assert not list(tmp_path.iterdir())  # nothing half-written


def test_a_section_that_fails_leaves_the_next_ones(tmp_path):
  def fails():
    raise RuntimeError('no such instruction')

  plan = iter([('a', fails), ('b', lambda: {'x': 1.5})])
  assert check.run(tmp_path / 'm.json', plan, 60) == 1
  written = json.loads((tmp_path / 'm.json').read_text())
  assert 'no such instruction' in written['a']['failed'] and written['b'] == {'x': 1.5}


def test_an_unknown_section_is_a_sentence(tmp_path, capsys):
  assert check.main(['-o', str(tmp_path / 'm.json'), '--tiny', '--only', 'device,dpi']) == 2
  assert "no section 'dpi': choose from device, agreement" in capsys.readouterr().err
  assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_check_in_miniature(tmp_path):
  path = tmp_path / 'm.json'
  assert check.main(['-o', str(path), '--tiny', '--minutes', '30']) == 0
  written = json.loads(path.read_text())
  assert written['agreement']['prefill'] == 0 and written['agreement']['gradient'] < 1e-4
  assert written['restoring']['megapixels_per_second'] > 0
  assert written['device']['tflops_float32'] > 0
  assert {step['stage'] for step in written['repair float32']} == {'repair', 'tone'}
