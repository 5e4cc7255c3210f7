"""The networks against the official PyTorch ones: outputs, parameter counts, initial values."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import count_parameters
from dip_torch import from_torch, torch_names

from oldphoto_jax.dip.networks import ResNet, Skip, UNet, upsample

FIXTURES = {
  'dip_skip': Skip((16,) * 5, (16,) * 5, (4,) * 5, ('bilinear',) * 5),
  'dip_skip_inpaint': Skip((16,) * 5, (16,) * 5, (16,) * 5, ('nearest',) * 5),
  'dip_skip_noskip': Skip(
    (8, 12, 16, 16), (8, 12, 16, 16), (0,) * 4, ('nearest',) * 4, kernel_down=5, up_1x1=False
  ),
  'dip_resnet': ResNet(),
  'dip_unet': UNet((4, 8, 16, 32, 64, 64)),
}


def library_skip(depth):
  widths = (16, 32, 64, 128, 128, 128)[:depth]
  return Skip(widths, widths, (0,) * depth, ('nearest',) * depth, kernel_down=5, up_1x1=False)


WIDE = (128,) * 5
NEAREST, BILINEAR = ('nearest',) * 5, ('bilinear',) * 5
SNAIL, KATE = (8, 16, 32, 64, 128), (16, 32, 64, 128, 128)
# Every network of the official notebooks.
NOTEBOOKS = {
  'inpaint_vase': Skip(WIDE, WIDE, (0,) * 5, NEAREST),
  'inpaint_kate_text': Skip(WIDE, WIDE, WIDE, NEAREST),
  'inpaint_library_skip_depth2': library_skip(2),
  'inpaint_library_skip_depth4': library_skip(4),
  'inpaint_library_skip_depth6': library_skip(6),
  'inpaint_library_UNET': UNet(),
  'inpaint_library_ResNet': ResNet(),
  'denoise_F16_sr_skip128_4': Skip(),
  'denoise_snail': Skip(SNAIL, SNAIL, (0, 0, 0, 4, 4), BILINEAR),
  'restoration_barbara_gray': Skip(out_channels=1),
  'restoration_kate98': Skip(KATE, KATE, (0,) * 5, BILINEAR, average_pool=True),
  'flash_noflash': Skip(upsample=('nearest',) * 2 + ('bilinear',) * 3),
}


def parameters(net, side, depth):
  z = jax.ShapeDtypeStruct((1, side, side, depth), jnp.float32)
  return jax.eval_shape(net.init, jax.random.key(0), z)['params']


def run(net, z):
  return jax.jit(net.apply)(jax.jit(net.init)(jax.random.key(0), z), z)


@pytest.mark.parametrize('name', FIXTURES)
def test_outputs_equal_the_reference(fixture, name):
  net, arrays = FIXTURES[name], fixture(name)
  state_dict = {k.removeprefix('param/'): v for k, v in arrays.items() if k.startswith('param/')}
  params = from_torch(net, state_dict)
  z = arrays['input/z'].transpose(0, 2, 3, 1)
  image = np.asarray(jax.jit(net.apply)({'params': params}, z)).transpose(0, 3, 1, 2)
  expected = arrays['output/image']
  assert np.abs(image - expected).max() <= 1e-4 * np.abs(expected).max()


def test_state_dicts_of_all_notebooks_fit(shared):
  path = shared / 'reference' / 'state_dicts' / 'dip_state_dicts.json'
  notebooks = json.loads(path.read_text())
  assert set(notebooks) == set(NOTEBOOKS)
  for name, net in NOTEBOOKS.items():
    keys = notebooks[name]['state_dict']
    params = from_torch(net, {key: np.zeros(shape, np.float16) for key, shape in keys})
    assert count_parameters(params) == notebooks[name]['params'], name


def test_parameter_counts():
  # As above, for a clone without the reference data.
  for name, depth, count in (
    ('inpaint_kate_text', 32, 3_002_627),
    ('inpaint_library_skip_depth6', 1, 2_996_467),
    ('inpaint_library_UNET', 1, 1_616_315),
    ('inpaint_library_ResNet', 1, 158_979),
    ('restoration_kate98', 32, 1_027_379),
  ):
    assert count_parameters(parameters(NOTEBOOKS[name], 256, depth)) == count


def test_from_torch_is_strict(fixture):
  arrays = fixture('dip_resnet')
  good = {k.removeprefix('param/'): v for k, v in arrays.items() if k.startswith('param/')}
  for bad in (
    {k: v for k, v in good.items() if k != 'model.5.3.weight'},
    {k: v for k, v in good.items() if k != 'model.0.1.weight'},
    good | {'model.13.weight': np.zeros(3)},
    good | {'model.5.3.weight': np.zeros((32, 32, 1, 3))},
  ):
    with pytest.raises(ValueError, match='model'):
      from_torch(ResNet(), bad)
  with pytest.raises(ValueError, match='no weights'):
    from_torch(UNet(), good)


@pytest.mark.parametrize(
  'net',
  [
    Skip((8, 8), (8, 8), (4, 0), ('nearest', 'bilinear'), average_pool=True, out_channels=1),
    Skip((8,), (8,), (4,), ('nearest',), pad_mode='constant', kernel_skip=3),
    UNet((4, 8)),
  ],
  ids=['average', 'zeros', 'unet'],
)
def test_output_is_an_image(net):
  z = jax.random.uniform(jax.random.key(1), (1, 24, 16, 5))
  image = run(net, z)
  assert image.shape == (1, 24, 16, net.out_channels) and image.dtype == jnp.float32
  assert image.min() > 0 and image.max() < 1 and image.std() > 1e-3


def test_odd_sides_are_cropped_to_the_smaller_map():
  net = Skip((4,), (4,), (4,), ('bilinear',))
  z = jnp.ones((1, 13, 16, 2))
  assert run(net, z).shape == (1, 13, 16, 3)


@pytest.mark.parametrize('mode', ['nearest', 'bilinear'])
def test_upsample_equals_image_resize(mode):
  x = jax.random.normal(jax.random.key(0), (2, 3, 5, 4))
  np.testing.assert_allclose(upsample(x, mode), jax.image.resize(x, (2, 6, 10, 4), mode), atol=1e-6)
  one = jnp.ones((1, 1, 1, 1))
  assert (upsample(one, mode) == 1).all()


def test_initial_values_are_those_of_pytorch():
  # Uniform with bound 1/sqrt(fan-in): the extremes come close to it, the spread is bound/sqrt(3).
  z, key = jnp.zeros((1, 16, 16, 32)), jax.random.key(0)
  skip = jax.jit(Skip((64, 64), (64, 64), (4, 4), ('nearest',) * 2).init)(key, z)['params']
  unet = jax.jit(UNet((16, 32)).init)(key, z)['params']
  for leaf, fan_in in (
    (skip['halve_0']['conv']['kernel'], 32 * 9),
    (skip['up_1']['conv']['kernel'], 68 * 9),
    (skip['mix_0']['conv']['kernel'], 64),
    (skip['up_1']['conv']['bias'], 68 * 9),
    (unet['up_0']['kernel'], 16 * 16),  # outputs x kernel: PyTorch's count for transposed kernels
    (unet['down_1_conv2']['kernel'], 32 * 9),
  ):
    bound = fan_in**-0.5
    assert 0.9 * bound < jnp.abs(leaf).max() <= bound
    assert abs(leaf.std() / (bound / 3**0.5) - 1) < (0.03 if leaf.size > 1000 else 0.2)
  kernels = [skip[f'{name}_1']['conv']['kernel'] for name in ('down', 'halve')]
  assert not np.allclose(*kernels)


def test_small_maps_raise_a_sentence():
  # Six scales with 5x5 kernels: 128 px ends in a map of 2 px, which reflection by 2 cannot pad.
  net = library_skip(6)
  parameters(net, 256, 1)
  with pytest.raises(ValueError, match='too small for reflection padding'):
    parameters(net, 128, 1)
  with pytest.raises(ValueError, match='at least 64'):
    parameters(UNet(), 32, 1)
  with pytest.raises(ValueError, match='multiples of 32'):
    parameters(UNet(), 72, 1)


def test_wrong_settings_raise_a_sentence():
  with pytest.raises(ValueError, match='one entry for each scale'):
    parameters(Skip(down=(8, 8)), 64, 1)
  with pytest.raises(ValueError, match='nearest'):
    parameters(Skip(upsample=('cubic',) * 5), 64, 1)


def test_torch_names_are_one_to_one():
  for net in NOTEBOOKS.values():
    names = torch_names(net)
    assert len(set(names.values())) == len(names)
