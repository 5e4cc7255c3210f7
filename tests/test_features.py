"""VGG-19 and SqueezeNet against PyTorch and published check numbers; strict loading."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import skimage.data
from PIL import Image
from scipy import ndimage

from oldphoto_jax.metrics import perceptual
from oldphoto_jax.nn import features
from oldphoto_jax.weights import classifiers

VGG19_CONVOLUTIONS = {
  # torchvision's vgg19().features: (in, out) of the convolutions up to relu5_1.
  **{0: (3, 64), 2: (64, 64), 5: (64, 128), 7: (128, 128), 10: (128, 256), 12: (256, 256)},
  **{14: (256, 256), 16: (256, 256), 19: (256, 512), 21: (512, 512), 23: (512, 512)},
  **{25: (512, 512), 28: (512, 512)},
}


@pytest.fixture(scope='module')
def vgg19_state():
  rng = np.random.default_rng(0)
  state = {}
  for index, (n_in, n_out) in VGG19_CONVOLUTIONS.items():
    # He's scale, so that activations neither die nor grow over 13 layers.
    kernel = rng.standard_normal((n_out, n_in, 3, 3), np.float32) * np.sqrt(2 / (9 * n_in))
    state[f'features.{index}.weight'] = kernel.astype(np.float32)
    state[f'features.{index}.bias'] = rng.standard_normal(n_out, np.float32) * 0.1
  return state


@pytest.fixture(scope='module')
def vgg19_file(vgg19_state, tmp_path_factory):
  path = tmp_path_factory.mktemp('weights') / 'vgg19.npz'
  np.savez(path, **vgg19_state)
  return path


@pytest.fixture(scope='module')
def squeezenet_state():
  rng = np.random.default_rng(1)

  def layer(name, *shape):
    scale = np.sqrt(2 / np.prod(shape[:3]))
    return {
      f'{name}/kernel': (rng.standard_normal(shape) * scale).astype(np.float16),
      f'{name}/bias': (rng.standard_normal(shape[-1]) * 0.1).astype(np.float32),
    }

  state = layer('conv1', 7, 7, 3, 96)
  widths = [(96, 16, 64), (128, 16, 64), (128, 32, 128), (256, 32, 128), (256, 48, 192)]
  widths += [(384, 48, 192), (384, 64, 256), (512, 64, 256)]
  for i, (n_in, squeeze, expand) in enumerate(widths, 2):
    state |= layer(f'fire{i}/squeeze1x1', 1, 1, n_in, squeeze)
    state |= layer(f'fire{i}/expand1x1', 1, 1, squeeze, expand)
    state |= layer(f'fire{i}/expand3x3', 3, 3, squeeze, expand)
  return state | layer('conv10', 1, 1, 512, 1000)


@pytest.fixture(scope='module')
def squeezenet_file(squeezenet_state, tmp_path_factory):
  path = tmp_path_factory.mktemp('weights') / 'squeezenet.npz'
  np.savez(path, **squeezenet_state)
  return path


def photos(height, width):
  rng = np.random.default_rng(2)
  return rng.uniform(-1, 1, (2, height, width, 3)).astype(np.float32)


def assert_maps_and_gradient_equal_torch(network, torch_network, images):
  """Compares all maps, and the gradient of a sum over them with respect to the images."""
  torch = pytest.importorskip('torch')
  leaf = torch.from_numpy(images.transpose(0, 3, 1, 2).copy()).requires_grad_()
  expected = torch_network(torch, leaf)
  maps = jax.jit(network)(images)
  assert len(maps) == len(expected)
  for got, want in zip(maps, expected):
    want = want.detach().numpy().transpose(0, 2, 3, 1)
    np.testing.assert_allclose(got, want, atol=1e-5 * want.max(), rtol=1e-4)
  sum((x / x.detach().mean()).square().mean() for x in expected).backward()

  def loss(x):
    return sum(jnp.square(y / jax.lax.stop_gradient(y).mean()).mean() for y in network(x))

  want = leaf.grad.numpy().transpose(0, 2, 3, 1)
  np.testing.assert_allclose(
    jax.jit(jax.grad(loss))(images), want, atol=2e-4 * np.abs(want).max(), rtol=1e-3
  )


def test_vgg19_equals_torch(vgg19_state, vgg19_file):
  def torch_network(torch, x):
    maps = []
    for index in VGG19_CONVOLUTIONS:
      if index in (5, 10, 19, 28):
        x = torch.nn.functional.max_pool2d(x, 2, 2)
      weight, bias = (
        torch.from_numpy(vgg19_state[f'features.{index}.{part}']) for part in ('weight', 'bias')
      )
      x = torch.relu(torch.nn.functional.conv2d(x, weight, bias, padding=1))
      if index in (0, 5, 10, 19, 28):
        maps.append(x)
    return maps

  params = classifiers.load_vgg19(vgg19_file)
  assert_maps_and_gradient_equal_torch(
    lambda x: features.vgg19_features(params, x), torch_network, photos(35, 48)
  )


def squeezenet_logits(params, images):
  """Scores of ImageNet's 1000 classes, [N, 1000], by the rest of the network."""
  x = features.squeezenet_maps(params, images)['fire9']
  layer = {'kernel': params['conv10/kernel'], 'bias': params['conv10/bias']}
  return jax.nn.relu(features.conv(x, layer)).mean((1, 2))


@pytest.mark.parametrize('centred', [False, True])
def test_squeezenet_equals_torch(squeezenet_state, squeezenet_file, centred):
  names = ['conv1', *(f'fire{i}' for i in range(2, 10))]
  pool = {'padding': 1} if centred else {'ceil_mode': True}

  def torch_network(torch, x):
    def conv(name, x, **kwargs):
      kernel = torch.from_numpy(squeezenet_state[f'{name}/kernel'].astype(np.float32))
      bias = torch.from_numpy(squeezenet_state[f'{name}/bias'])
      return torch.relu(torch.nn.functional.conv2d(x, kernel.permute(3, 2, 0, 1), bias, **kwargs))

    mean = torch.tensor([104.0, 117.0, 123.0])[None, :, None, None]
    if centred:
      x = torch.nn.functional.pad(x, (3, 3, 3, 3), mode='replicate')
    x = conv('conv1', (x.flip(1) + 1) * 127.5 - mean, stride=2)
    maps = [x]
    for name in names[1:]:
      if name in ('fire2', 'fire5', 'fire9'):
        x = torch.nn.functional.max_pool2d(x, 3, 2, **pool)
      x = conv(f'{name}/squeeze1x1', x)
      three = conv(f'{name}/expand3x3', x, padding=1)
      x = torch.cat([conv(f'{name}/expand1x1', x), three], 1)
      maps.append(x)
    if centred:
      named = dict(zip(names, maps))
      return [named[name] / scale for name, scale in features.PYRAMID.items()]
    return maps

  params = classifiers.load_squeezenet(squeezenet_file)

  def network(x):
    if centred:
      return features.squeezenet_pyramid(params, x)
    maps = features.squeezenet_maps(params, x)
    assert list(maps) == names
    return list(maps.values())

  # Odd, even and remainder cases of the ceil-mode pools.
  sides = (64, 80) if centred else (67, 70)
  assert_maps_and_gradient_equal_torch(network, torch_network, photos(*sides))


def test_maps_of_the_pyramid_lie_where_they_are_seen(squeezenet_file):
  params = classifiers.load_squeezenet(squeezenet_file)
  image = jnp.asarray(photos(64, 96))
  pyramid = features.squeezenet_pyramid(params, image)
  assert [m.shape[1:] for m in pyramid] == [
    *((32, 48, 96), (16, 24, 256), (8, 12, 512), (4, 6, 512))
  ]
  assert features.SQUEEZENET_CHANNELS == (96, 256, 512, 512)
  # Pixel i of conv1 sees the pixels 2i - 3 to 2i + 3 of the photo.
  inner = features.squeezenet_maps(params, image[:, 1:, 1:])['conv1']
  inner = inner / features.PYRAMID['conv1']
  np.testing.assert_allclose(pyramid[0][:, 2:-1, 2:-1], inner, rtol=1e-4, atol=1e-3)


def test_squeezenet_check_numbers(shared):
  params = classifiers.load_squeezenet(shared / 'data/weights/squeezenet1_0_fp16.npz')
  image = Image.open(shared / 'data/photos/val/101085.jpg').convert('RGB').crop((0, 0, 227, 227))
  images = jnp.asarray(np.asarray(image)[None].astype(np.float32) / 127.5 - 1)
  means = {k: float(v.mean()) for k, v in features.squeezenet_maps(params, images).items()}
  expected = [22.640, 86.134, 177.472, 130.484, 220.928, 90.072, 69.382, 17.847, 13.421]
  np.testing.assert_allclose(list(means.values()), expected, atol=2e-3)
  logits = np.asarray(squeezenet_logits(params, images)[0])
  order = np.argsort(-logits)[:5]
  assert order.tolist() == [863, 796, 643, 652, 615]
  np.testing.assert_allclose(logits[order], [20.852, 20.077, 19.580, 18.936, 17.899], atol=2e-3)


def test_squeezenet_levels_weigh_alike(shared):
  params = classifiers.load_squeezenet(shared / 'data/weights/squeezenet1_0_fp16.npz')
  files = sorted((shared / 'data/photos/train').iterdir())[::20]
  crops = [Image.open(file).convert('RGB').crop((40, 40, 240, 240)) for file in files]
  images = jnp.asarray(np.stack(crops).astype(np.float32) / 127.5 - 1)
  means = [float(x.mean()) for x in features.squeezenet_features(params, images)]
  np.testing.assert_allclose(means, 1, atol=0.25)


def test_features_shapes(vgg19_file, squeezenet_file):
  images = jnp.zeros((1, 64, 96, 3))
  params = classifiers.load_squeezenet(squeezenet_file)
  maps = jax.eval_shape(lambda x: features.squeezenet_features(params, x), images)
  assert [x.shape[1:] for x in maps] == [
    *((29, 45, 96), (14, 22, 128), (7, 11, 256), (7, 11, 384), (3, 5, 512))
  ]
  params = classifiers.load_vgg19(vgg19_file)
  maps = jax.eval_shape(lambda x: features.vgg19_features(params, x), images)
  assert [x.shape[1:] for x in maps] == [
    *((64, 96, 64), (32, 48, 128), (16, 24, 256), (8, 12, 512), (4, 6, 512))
  ]


def test_vgg19_reads_torch_and_safetensors_files(vgg19_state, vgg19_file, tmp_path):
  torch = pytest.importorskip('torch')
  from safetensors.numpy import save_file

  # A torchvision file has more than the loss needs.
  state = vgg19_state | {
    'features.30.weight': np.zeros((512, 512, 3, 3), np.float32),
    'classifier.6.bias': np.zeros(1000, np.float32),
  }
  torch.save({k: torch.from_numpy(v) for k, v in state.items()}, tmp_path / 'vgg19.pth')
  save_file(vgg19_state, tmp_path / 'vgg19.safetensors')
  expected = classifiers.load_vgg19(vgg19_file)
  for name in ('vgg19.pth', 'vgg19.safetensors'):
    params = classifiers.load_vgg19(tmp_path / name)
    assert jax.tree.structure(params) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, params, expected)


def test_a_pickle_with_code_is_not_run(tmp_path):
  torch = pytest.importorskip('torch')

  class Evil:
    def __reduce__(self):
      return (tmp_path.joinpath('ran').touch, ())

  torch.save({'features.0.weight': Evil()}, tmp_path / 'vgg19.pth')
  with pytest.raises(classifiers.WeightsError, match='cannot be read'):
    classifiers.load_vgg19(tmp_path / 'vgg19.pth')
  assert not (tmp_path / 'ran').exists()


def test_wrong_files_are_refused_with_a_reason(squeezenet_state, tmp_path):
  def refused(match, state=None, name='weights.npz', load=classifiers.load_squeezenet):
    if state is not None:
      np.savez(tmp_path / name, **state)
    with pytest.raises(classifiers.WeightsError, match=match):
      load(tmp_path / name)

  refused('there is no file', name='absent.npz')
  refused(
    'missing: fire3/expand1x1/bias',
    {k: v for k, v in squeezenet_state.items() if k != 'fire3/expand1x1/bias'},
  )
  refused('unknown: extra', squeezenet_state | {'extra': np.zeros(1)})
  refused(r'conv1/bias \(3,\) instead of \(96,\)', squeezenet_state | {'conv1/bias': np.zeros(3)})
  refused('missing: features.0.bias', squeezenet_state, load=classifiers.load_vgg19)
  (tmp_path / 'weights.npz').write_bytes(b'not an archive')
  refused('cannot be read as a .npz')
  (tmp_path / 'weights.h5').write_bytes(b'')
  refused('weight files end in', name='weights.h5')


def test_squeezenet_distance_equals_its_formula(squeezenet_file):
  params = classifiers.load_squeezenet(squeezenet_file)
  a, b = photos(40, 53)[:, None]
  levels = [jax.jit(features.squeezenet_maps)(params, x) for x in (a, b)]
  distances = []
  for name in ('conv1', 'fire3', 'fire5', 'fire6', 'fire7', 'fire8', 'fire9'):
    x, y = (np.asarray(level[name][0], np.float64) for level in levels)
    cosine = (x * y).sum(-1) / (np.linalg.norm(x, axis=-1) * np.linalg.norm(y, axis=-1))
    distances.append((2 - 2 * cosine).mean())
  one, other = np.concatenate([a, a, b]), np.concatenate([b, a, a])
  found = jax.jit(perceptual.squeezenet_distance)(params, one, other)
  np.testing.assert_allclose(found, np.mean(distances) * np.array([1, 0, 1]), rtol=1e-4, atol=1e-6)


def test_squeezenet_distance_grows_with_blur(shared):
  params = classifiers.load_squeezenet(shared / 'data/weights/squeezenet1_0_fp16.npz')
  photo = np.asarray(skimage.data.astronaut()[:96, 180:276], np.float32) / 127.5 - 1
  blurred = np.stack([ndimage.gaussian_filter(photo, (s, s, 0)) for s in (0, 0.7, 1.5, 3)])
  distances = jax.jit(perceptual.squeezenet_distance)(params, np.stack([photo] * 4), blurred)
  assert distances[0] == 0 and (np.diff(distances) > 0.02).all() and distances[3] < 1


def test_lpips_equals_its_network_in_torch(tmp_path):
  torch = pytest.importorskip('torch')
  rng = np.random.default_rng(3)
  layers = ((0, 3, 64, 11), (3, 64, 192, 5), (6, 192, 384, 3), (8, 384, 256, 3), (10, 256, 256, 3))
  network, linear = {'classifier.1.bias': np.zeros(4, np.float32)}, {}
  for i, (index, n_in, n_out, size) in enumerate(layers):
    kernel = rng.standard_normal((n_out, n_in, size, size)) * np.sqrt(2 / (n_in * size**2))
    network[f'features.{index}.weight'] = kernel.astype(np.float32)
    network[f'features.{index}.bias'] = rng.standard_normal(n_out).astype(np.float32) * 0.1
    linear[f'lin{i}.model.1.weight'] = rng.uniform(0, 1, (1, n_out, 1, 1)).astype(np.float32)
  np.savez(tmp_path / 'alexnet.npz', **network)
  np.savez(tmp_path / 'linear.npz', **linear)
  params = classifiers.load_lpips(tmp_path / 'alexnet.npz', tmp_path / 'linear.npz')
  a, b = photos(47, 64)[:, None]

  def maps(photo):
    conv, relu = torch.nn.functional.conv2d, torch.nn.functional.relu
    shift, scale = (
      torch.tensor(v)[None, :, None, None] for v in ([-0.030, -0.088, -0.188], [0.458, 0.448, 0.45])
    )
    x, found = (torch.from_numpy(photo.transpose(0, 3, 1, 2).copy()) - shift) / scale, []
    for (index, *_), stride, pad in zip(layers, (4, 1, 1, 1, 1), (2, 2, 1, 1, 1)):
      if index in (3, 6):
        x = torch.nn.functional.max_pool2d(x, 3, 2)
      layer = [torch.from_numpy(network[f'features.{index}.{what}']) for what in ('weight', 'bias')]
      x = relu(conv(x, *layer, stride, pad))
      found.append(x / (x.pow(2).sum(1, keepdim=True).sqrt() + 1e-10))
    return found

  weights = map(torch.from_numpy, linear.values())
  expected = sum((w * (x - y) ** 2).sum(1).mean() for w, x, y in zip(weights, maps(a), maps(b)))
  np.testing.assert_allclose(perceptual.lpips(params, a, b), [expected.item()], rtol=1e-4)
  # Two rows of one batch: equal up to rounding, squared.
  np.testing.assert_allclose(perceptual.lpips(params, a, a), [0], atol=1e-9)
  with pytest.raises(classifiers.WeightsError, match='missing: lin0'):
    classifiers.load_lpips(tmp_path / 'alexnet.npz', tmp_path / 'alexnet.npz')
