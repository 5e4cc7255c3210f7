"""Files of weights, and the official checkpoints: what fits round-trips, the rest is refused."""

import dataclasses
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from oldphoto_jax import cli, weights
from oldphoto_jax.models import detector, mapping, triplet, vae
from oldphoto_jax.weights import bopbtl


def model(width=8):
  one = vae.VAE(width=width, latent=8, blocks=1, norm=False)
  return mapping.Mapping(one.encoder, one.decoder, width=16, blocks=1, residual=True)


@pytest.fixture(scope='module')
def trained():
  m = model()
  params = triplet.init(triplet.Triplet(m), jax.random.key(0))
  return weights.triplet(m, jax.device_get(params))


def test_a_saved_system_restores_as_the_one_in_memory(tmp_path, trained):
  path = tmp_path / weights.FILE
  weights.save(path, trained, card={'psnr': 1.5})
  photo = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (1, 16, 24, 3)), jnp.float32)
  expected = mapping.restore(model(), trained.params, photo)
  for named in (path, tmp_path):  # the file, or the run's folder
    restorer = weights.load_restorer(named)
    np.testing.assert_array_equal(restorer.apply(restorer.params, photo), expected)
    assert restorer.multiple == 4
    assert restorer.name.startswith('triplet weights.safetensors ')
  (tmp_path / 'new').touch()
  assert path.stat().st_mode == (tmp_path / 'new').stat().st_mode
  with safetensors.safe_open(path, 'numpy') as file:
    assert json.loads(file.metadata()['card']) == {'psnr': 1.5}


def test_a_file_is_read_once_for_restorer_and_detector(tmp_path, trained, monkeypatch):
  net = detector.Detector(net=detector.DetectorUNet(width=4, depth=1))
  found = detector.init(net, jax.random.key(1)).released
  marking = weights.Weights('detector', detector.sizes(net), jax.device_get(found))
  plain = weights.triplet(model(), trained.params)
  whole = weights.triplet(model(), trained.params, detector=marking)
  weights.save(tmp_path / 'plain', plain, card={})
  weights.save(tmp_path / 'whole', whole, card={'psnr': 1.5})
  weights.save(tmp_path / 'detector', marking, card={})
  read, times = pathlib.Path.read_bytes, []
  monkeypatch.setattr(pathlib.Path, 'read_bytes', lambda path: times.append(path) or read(path))
  loaded = weights.read(tmp_path / 'whole')
  assert loaded.restorer().name == loaded.detector().name == loaded.name
  assert times == [tmp_path / 'whole'] and loaded.card == {'psnr': 1.5}
  assert loaded.detector().multiple == 2 and len(loaded.digest) == 12
  plain = weights.read(tmp_path / 'plain')
  assert plain.find_detector() is None and plain.digest != loaded.digest
  with pytest.raises(weights.WeightsError, match='without a detector'):
    plain.detector()
  with pytest.raises(weights.WeightsError, match='holds a detector'):
    weights.read(tmp_path / 'detector').restorer()


def test_a_failed_save_leaves_the_old_file(tmp_path, trained):
  path = tmp_path / weights.FILE
  weights.save(path, trained, card={})
  before = path.read_bytes()
  with pytest.raises(TypeError):
    weights.save(path, trained, card={'not JSON': object()})
  assert path.read_bytes() == before
  assert [p.name for p in tmp_path.iterdir()] == [weights.FILE]


def test_a_place_that_cannot_be_written_is_a_sentence(tmp_path, trained):
  (tmp_path / 'file').write_text('')
  with pytest.raises(weights.WeightsError, match=r'cannot be written: .*; choose another place'):
    weights.save(tmp_path / 'file' / weights.FILE, trained, card={})


def test_what_is_no_file_of_weights_is_refused_with_a_sentence(tmp_path, trained):
  def refused(match, path):
    with pytest.raises(weights.WeightsError, match=match):
      weights.load(path)

  refused('there is no file', tmp_path / 'nothing')
  refused('the run has not finished; launch.py --mode=export', tmp_path)
  (tmp_path / 'text').write_text('hello')
  refused('cannot be read as safetensors', tmp_path / 'text')
  safetensors.numpy.save_file({'a': np.zeros(3, np.float32)}, tmp_path / 'other')
  refused('is not a file of oldphoto_jax weights', tmp_path / 'other')
  sizes = dict(trained.model, width=16)
  weights.save(tmp_path / 'wrong', weights.Weights('triplet', sizes, trained.params), card={})
  refused(r'rx/encoder/conv_in/bias is \(8,\) in the file, but \(16,\) in', tmp_path / 'wrong')
  weights.save(tmp_path / 'old', weights.Weights('triplet', {'width': 8}, trained.params), card={})
  refused("size 'latent' of the triplet networks is missing", tmp_path / 'old')
  weights.save(tmp_path / 'new', weights.Weights('magic', {}, trained.params), card={})
  refused("the system 'magic' is unknown", tmp_path / 'new')
  sizes = {'generator': 'transformer', 'width': 4}
  weights.save(tmp_path / 'later', weights.Weights('cyclegan', sizes, {}), card={})
  refused("later: .*'transformer'", tmp_path / 'later')


# Official layout -----------------------------------------------------------------------------


@pytest.fixture
def official(tmp_path, fixture):
  """The official folder with networks of the fixtures' widths, and a function that writes it."""
  torch = pytest.importorskip('torch')
  root = tmp_path / 'repository' / 'Global' / 'checkpoints' / 'restoration'

  def parameters(name, keep=lambda key: True):
    file = fixture(name)
    state = {k.removeprefix('param/'): v for k, v in file.items() if k.startswith('param/')}
    return {k: torch.tensor(v) for k, v in state.items()}

  a_vae = parameters('bopbtl_vae')
  t = parameters('bopbtl_mapping_quality')
  # The mapping of the fixture has latents of 64 channels, the VAE of 16.
  t['model.0.weight'] = t['model.0.weight'][:, :16]
  t['model.23.weight'], t['model.23.bias'] = t['model.23.weight'][:16], t['model.23.bias'][:16]
  states = {'VAE_A_quality/latest_net_G.pth': a_vae, 'VAE_B_quality/latest_net_G.pth': a_vae}
  states['mapping_quality/latest_net_mapping_net.pth'] = t

  def write(changes=None):
    for name, state in (states | (changes or {})).items():
      (root / name).parent.mkdir(parents=True, exist_ok=True)
      torch.save(state, root / name)
    return tmp_path / 'repository'

  return write, states


def test_official_checkpoints_are_refused_where_a_key_or_shape_does_not_fit(official):
  write, states = official
  name = 'VAE_A_quality/latest_net_G.pth'
  # Latents of 16 channels grow to 32 in a T of this rule, those of the fixture to 128.
  with pytest.raises(weights.WeightsError, match='in the file'):
    bopbtl.import_triplet(write())
  lacking = {k: v for k, v in states[name].items() if k != 'encoder.1.weight'}
  with pytest.raises(weights.WeightsError, match=r"there is no 'encoder\.1\.weight'"):
    bopbtl.import_triplet(write({name: lacking}))
  more = states[name] | {'encoder.99.weight': states[name]['encoder.1.weight']}
  with pytest.raises(weights.WeightsError, match=r'no place for encoder\.99\.weight'):
    bopbtl.import_triplet(write({name: more}))


def test_official_checkpoints_import_and_restore(tmp_path, capsys):
  """The published sizes, written in the official layout from our own random parameters."""
  torch = pytest.importorskip('torch')
  one = vae.VAE()
  rx, y = (vae.init(one, jax.random.key(i)).g for i in range(2))
  t_model = mapping.Mapping(one.encoder, one.decoder)
  t = mapping.init(t_model, jax.random.key(2)).g
  masked = mapping.init(dataclasses.replace(t_model, masked=True), jax.random.key(3)).g
  root = tmp_path / 'Global' / 'checkpoints' / 'restoration'

  def conv(key, leaf, transposed=False):
    kernel = np.asarray(leaf['kernel'])
    kernel = (
      kernel[::-1, ::-1].transpose(2, 3, 0, 1) if transposed else kernel.transpose(3, 2, 0, 1)
    )
    return {f'{key}.weight': torch.tensor(kernel.copy()), f'{key}.bias': torch.tensor(leaf['bias'])}

  def block(key, leaf):
    return conv(f'{key}.conv_block.1', leaf['conv1']) | conv(f'{key}.conv_block.5', leaf['conv2'])

  def vae_state(g):
    e, d = jax.device_get((g['encoder'], g['decoder']))
    state = conv('encoder.1', e['conv_in'])
    state |= conv('encoder.4', e['down0']) | conv('encoder.7', e['down1'])
    for i in range(4):
      state |= block(f'encoder.{10 + i}', e[f'block{i}']) | block(f'decoder.{i}', d[f'block{i}'])
    state |= conv('decoder.4', d['up0'], True) | conv('decoder.7', d['up1'], True)
    return state | conv('decoder.11', d['conv_out'])

  t = jax.device_get(t)
  t_state = {}
  for i in range(4):
    t_state |= conv(f'model.{3 * i}', t[f'up{i}'])
  for i in range(6):
    t_state |= block(f'model.{12 + i}', t[f'block{i}'])
  for i in range(3):
    t_state |= conv(f'model.{18 + 3 * i}', t[f'down{i}'])
  t_state |= conv('model.27', t['conv_out'])
  masked = jax.device_get(masked)
  masked_state = {}
  for i in range(4):
    masked_state |= conv(f'before_NL.{3 * i}', masked[f'up{i}'])
  for name in ('g', 'theta', 'phi', 'W'):
    masked_state |= conv(f'NL.{name}', masked['nonlocal'][name])
  for i in range(3):
    masked_state |= block(f'NL.res_block.{i}', masked['nonlocal'][f'block{i}'])
    masked_state |= conv(f'after_NL.{6 + 3 * i}', masked[f'down{i}'])
  for i in range(6):
    masked_state |= block(f'after_NL.{i}', masked[f'block{i}'])
  masked_state |= conv('after_NL.15', masked['conv_out'])

  def save(states):
    for name, state in states.items():
      (root / name).parent.mkdir(parents=True)
      torch.save(state, root / name)

  save(
    {
      'VAE_A_quality/latest_net_G.pth': vae_state(rx),
      'VAE_B_quality/latest_net_G.pth': vae_state(y),
      'mapping_quality/latest_net_mapping_net.pth': t_state,
    }
  )
  out = tmp_path / 'official.safetensors'
  words = ['import', 'bopbtl', str(tmp_path), '-o', str(out)]
  assert cli.main(words) == 0
  assert 'the masked branch is left out' in capsys.readouterr().out
  assert 'masked' not in weights.load(out).model

  save(
    {
      'VAE_B_scratch/latest_net_G.pth': vae_state(rx),
      'mapping_scratch/latest_net_mapping_net.pth': masked_state,
    }
  )
  assert cli.main(words) == 0
  said = capsys.readouterr().out
  assert 'the masked branch' not in said
  assert 'the high-resolution branch is left out' in said and 'the detector is left out' in said
  loaded = weights.load(out)
  assert loaded.model['masked']['mask_pool'] == 'reference'
  expected = {'rx': {'encoder': rx['encoder']}, 'y': {'decoder': y['decoder']}, 'mapping': t}
  expected['masked'] = {'y': {'decoder': rx['decoder']}, 'mapping': masked}
  jax.tree.map(np.testing.assert_array_equal, loaded.params, jax.device_get(expected))
  assert (loaded.model['t_width'], loaded.model['t_blocks'], loaded.model['norm']) == (512, 6, True)


def test_import_without_the_files_is_a_sentence(tmp_path, capsys):
  code = cli.main(['import', 'bopbtl', str(tmp_path), '-o', str(tmp_path / 'out')])
  assert code == 2
  assert 'lacks VAE_A_quality/latest_net_G.pth' in capsys.readouterr().err
  assert not (tmp_path / 'out').exists()
