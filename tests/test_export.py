"""oldphoto export: what other programs compute is what this package computes, at any size."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from oldphoto_jax import cli, weights
from oldphoto_jax.models import cyclegan, detector, gan_networks, pix2pix, repair
from oldphoto_jax.nn import noise
from oldphoto_jax.weights import file, onnx_graphs, stablehlo

SIZE = (45, 70)  # no multiple of anything


def loaded(system, model, sizes, init):
  """Random weights, so that every layer matters."""
  rng = np.random.default_rng(0)

  def draw(path, leaf):
    name, noise = path[-1].key, rng.normal(0, 1, leaf.shape)
    if name == 'kernel':
      noise = noise * np.sqrt(2 * leaf.shape[-1] / noise.size)
    around = {'scale': 1.0, 'var': 2.0}.get(name, 0.0)
    return (around + (1 if name == 'kernel' else 0.2) * noise).astype(np.float32)

  params = jax.tree_util.tree_map_with_path(draw, jax.eval_shape(init, jax.random.key(0)))
  return file.Loaded(pathlib.Path('w'), weights.Weights(system, sizes(model), params), {}, '0f')


def repairing():
  model = repair.Repair(widths=(4, 6, 8), blocks=1)
  init = lambda key: {'repair': repair.init(model, key).g}
  return loaded('repair', model, repair.sizes, init)


def finding():
  model, finder = (repair.Repair(widths=widths, blocks=1) for widths in ((4, 6), (2, 4)))
  init = lambda key: {'repair': repair.init(model, key).g, 'finder': repair.init(finder, key).g}
  sizes = lambda model: repair.sizes(model) | {'finder': repair.sizes(finder)}
  return loaded('repair', model, sizes, init)


def seeing():
  """As `finding`, but the finder sees the maps of SqueezeNet, and is two networks."""
  model = repair.Repair(widths=(4, 6), blocks=1)
  finder = repair.Repair(widths=(2, 4, 4, 6), blocks=1, squeezenet=True, members=2)

  def init(key):
    finds = repair.init(finder, key).g | {'squeezenet': repair.untrained_squeezenet()}
    return {'repair': repair.init(model, key).g, 'finder': finds}

  sizes = lambda model: repair.sizes(model) | {'finder': repair.sizes(finder)}
  return loaded('repair', model, sizes, init)


def cleaning():
  model = repair.Repair(widths=(4, 6, 8), blocks=1)
  init = lambda key: {name: repair.init(model, key).g for name in ('repair', 'cleaner')}
  return loaded('repair', model, lambda model: repair.sizes(model) | {'cleaner': True}, init)


def detecting():
  model = detector.Detector(net=detector.DetectorUNet(width=4, depth=2))
  return loaded('detector', model, detector.sizes, lambda k: detector.init(model, k).released)


def unet(**changes):
  net = gan_networks.GanUNet(width=4, downs=4, dropout_levels=(), **changes)
  model = pix2pix.Pix2Pix(generator=net)
  return loaded('pix2pix', model, pix2pix.sizes, lambda k: pix2pix.init(model, k).released)


def tutorial_unet():
  norm = gan_networks.INSTANCE_AFFINE
  return unet(norm=norm, bottleneck_norm=True, slope=0.3, rectify_skips=False)


def resnet():
  model = cyclegan.CycleGAN(generator=gan_networks.GanResNet(width=4, blocks=1))
  return loaded('cyclegan', model, cyclegan.sizes, lambda k: cyclegan.init(model, k).g['G'])


def photo_of(size):
  """RGB [H, W, 3] in [0, 1], not noise alone: shapes and slopes."""
  y, x = np.mgrid[: size[0], : size[1]] / 20
  planes = [np.sin(x + y), np.cos(2 * x - y), np.sign(np.sin(y * x))]
  noise = np.random.default_rng(1).normal(0, 0.05, (*size, 3))
  return np.clip(0.5 + 0.3 * np.stack(planes, -1) + noise, 0, 1).astype(np.float32)


def mask_of(size):
  mask = np.zeros((*size, 1), np.float32)
  mask[5:9] = 0.7
  mask[20:40, 30:44] = 0.5
  return mask


def fitted(x, multiple):
  """Sides that repeat the last row and column up to the next multiple, as the graphs do."""
  sides = (max(-(-n // multiple), 2) * multiple for n in x.shape[:2])
  more = [(0, side - n) for side, n in zip(sides, x.shape[:2])]
  return np.pad(x, (*more, (0, 0)), 'edge')


def run_onnx(data, **inputs):
  runtime = pytest.importorskip('onnxruntime')
  options = runtime.SessionOptions()
  options.intra_op_num_threads = 1
  session = runtime.InferenceSession(data, options, providers=['CPUExecutionProvider'])
  results = session.run(None, {k: x.transpose(2, 0, 1)[None] for k, x in inputs.items()})
  return [result[0].transpose(1, 2, 0) for result in results]


def ours(function, params, *inputs):
  results = jax.jit(function)(params, *(jnp.asarray(x)[None] for x in inputs))
  results = results if isinstance(results, tuple) else (results,)
  return [np.asarray(result[0]) for result in results]


def unsigned(x):
  return np.clip((x + 1) / 2, 0, 1)


@pytest.mark.parametrize(
  'system', [unet, tutorial_unet, resnet, detecting, repairing, finding, seeing]
)
def test_onnx_graphs_compute_what_the_networks_compute(system):
  pytest.importorskip('onnx')
  made = system()
  networks, photo = file.networks(made.weights), photo_of(SIZE)
  whole = fitted(photo, networks.multiple)
  name = {'repair': 'look', 'detector': 'detect'}.get(made.weights.system, 'restore')
  data = onnx_graphs.files(made)[f'{name}.onnx']
  results = run_onnx(data, photo=photo)
  function = networks.look or networks.apply
  expected = ours(function, made.weights.params, 2 * whole - 1)
  if name != 'detect':
    expected[0] = unsigned(expected[0])
  for result, x in zip(results, expected, strict=True):
    assert result.shape[:2] == SIZE and x.std() > 0.01
    np.testing.assert_allclose(result, x[: SIZE[0], : SIZE[1]], atol=1e-4)
  assert run_onnx(data, photo=photo_of((3, 131)))[0].shape[:2] == (3, 131)


def test_onnx_fills_what_a_mask_marks_from_its_own_prefill():
  pytest.importorskip('onnx')
  made = repairing()
  networks, photo, mask = file.networks(made.weights), photo_of(SIZE), mask_of(SIZE)
  whole = [fitted(x, networks.multiple) for x in (2 * photo - 1, mask)]
  (filled,) = run_onnx(onnx_graphs.files(made)['fill.onnx'], photo=photo, mask=mask)
  expected, _ = ours(networks.fill, made.weights.params, *whole)
  np.testing.assert_allclose(filled, unsigned(expected)[: SIZE[0], : SIZE[1]], atol=1e-3)


@pytest.mark.parametrize('system', [unet, resnet, detecting, repairing])
def test_stablehlo_computes_what_the_networks_compute_at_two_sizes(system):
  made = system()
  (data,) = stablehlo.files(made).values()
  networks, exported = file.networks(made.weights), jax.export.deserialize(bytearray(data))
  for size in ((32, 48), (64, 32)):
    photo = 2 * photo_of(size) - 1
    result = jax.tree.leaves(exported.call(photo[None]))
    expected = ours(networks.look or networks.apply, made.weights.params, photo)
    for a, b in zip(result, expected, strict=True):
      np.testing.assert_allclose(a[0], b, atol=1e-4)


def test_a_cleaner_has_a_file_of_its_own_and_cleans_where_no_damage_is_sought():
  pytest.importorskip('onnx')
  made, photo = cleaning(), photo_of((64, 96))
  params, networks = made.weights.params, file.networks(made.weights)
  (clean,) = ours(networks.apply, params, 2 * photo - 1)
  told = np.broadcast_to(noise.measure(2 * photo[None] - 1), (64, 96, 2))
  arguments = 2 * photo - 1, 2 * photo - 1, told[..., :1], told[..., 1:]
  expected = ours(networks.answer, networks.cleaning(params), *arguments)[0]
  np.testing.assert_allclose(clean, expected, atol=1e-4)
  assert np.abs(clean - ours(networks.look, params, 2 * photo - 1)[0]).max() > 0.01
  (by_onnx,) = run_onnx(onnx_graphs.files(made)['clean.onnx'], photo=photo)
  np.testing.assert_allclose(by_onnx, unsigned(clean), atol=1e-4)
  # The noise is that of the photo, not of the rows that are repeated up to a multiple.
  part = photo[:58, :75]
  (by_onnx,) = run_onnx(onnx_graphs.files(made)['clean.onnx'], photo=part)
  more = [(0, -n % networks.multiple) for n in part.shape[:2]]
  padded = np.pad(2 * part - 1, [*more, (0, 0)], 'edge')
  told = np.broadcast_to(noise.measure(2 * part[None] - 1), (*padded.shape[:2], 2))
  arguments = padded, padded, told[..., :1], told[..., 1:]
  expected = ours(networks.answer, networks.cleaning(params), *arguments)[0][:58, :75]
  np.testing.assert_allclose(by_onnx, unsigned(expected), atol=1e-4)
  exported = stablehlo.files(made)
  assert set(exported) == {'look.stablehlo', 'clean.stablehlo'}
  program = jax.export.deserialize(bytearray(exported['clean.stablehlo']))
  np.testing.assert_allclose(program.call(2 * photo[None] - 1)[0], clean, atol=1e-4)


def test_the_command_writes_all_or_nothing(tmp_path, capsys):
  pytest.importorskip('onnx')
  made = repairing()
  weights.save(tmp_path / 'w', made.weights, card={})
  words = ['export', '--weights', str(tmp_path / 'w'), '-o', str(tmp_path / 'out')]
  assert cli.main(words) == 2
  assert 'add --onnx, --stablehlo or both' in capsys.readouterr().err
  assert cli.main([*words, '--onnx']) == 0
  assert {path.name for path in (tmp_path / 'out').iterdir()} == {'look.onnx', 'fill.onnx'}
  (tmp_path / 'out' / 'fill.onnx').unlink()
  assert cli.main([*words, '--onnx']) == 2
  assert 'look.onnx exists already' in capsys.readouterr().err
  assert not (tmp_path / 'out' / 'fill.onnx').exists()
  assert cli.main([*words, '--onnx', '--overwrite']) == 0


def test_networks_without_such_a_form_are_refused():
  pytest.importorskip('onnx')
  triplet = file.Loaded(pathlib.Path('w'), weights.Weights('triplet', {}, {}), {}, '0f')
  made = unet()
  made.weights.model['test_dropout'] = True
  for form in (onnx_graphs, stablehlo):
    for wrong, words in ((triplet, 'the system triplet'), (made, 'draws random numbers')):
      with pytest.raises(weights.WeightsError, match=words):
        form.files(wrong)
