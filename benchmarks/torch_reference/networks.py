"""The networks as functions of parameters under our names: photos NCHW, kernels in torch's layout.

Layer by layer what oldphoto_jax/models has. It runs in a process of its own and needs no JAX.
"""

import itertools

import torch
import torch.nn.functional as F


def conv(p, x, stride=1, pad=0, mode='constant'):
  if pad and mode == 'reflect':
    x, pad = F.pad(x, [pad] * 4, mode='reflect'), 0
  return F.conv2d(x, p['kernel'], p.get('bias'), stride, pad)


def conv_transpose(p, x):
  """Doubles the sides; odd kernels have output padding 1."""
  return F.conv_transpose2d(
    x, p['kernel'], p.get('bias'), 2, 1, output_padding=p['kernel'].shape[-1] % 2
  )


def same(x):
  return x


def resnet_block(p, x, norm):
  y = F.relu(norm(conv(p['conv1'], x, 1, 1, 'reflect')))
  return x + norm(conv(p['conv2'], y, 1, 1, 'reflect'))


def _numbered(p, name):
  """The layers name0, name1, ... of `p`."""
  return [p[f'{name}{i}'] for i in itertools.takewhile(lambda i: f'{name}{i}' in p, range(100))]


# Triplet -----------------------------------------------------------------------------------------


def encode(p, x, norm):
  x = F.relu(norm(conv(p['conv_in'], x, 1, 3, 'reflect')))
  for layer in _numbered(p, 'down'):
    x = F.relu(norm(conv(layer, x, 2, 1)))
  for layer in _numbered(p, 'block'):
    x = resnet_block(layer, x, norm)
  return x


def decode(p, z, norm):
  for layer in _numbered(p, 'block'):
    z = resnet_block(layer, z, norm)
  for layer in _numbered(p, 'up'):
    z = F.relu(norm(conv_transpose(layer, z)))
  return torch.tanh(conv(p['conv_out'], z, 1, 3, 'reflect'))


def patch_maps(p, x):
  """All maps of a pix2pixHD discriminator of one scale; the last holds the logits."""
  maps, convs = [], _numbered(p, 'conv')
  for i, layer in enumerate(convs):
    x = conv(layer, x, 2 if i < len(convs) - 2 else 1, 2)
    if i < len(convs) - 1:
      x = F.leaky_relu(x if i == 0 else F.instance_norm(x), 0.2)
    maps.append(x)
  return maps


def multiscale(p, x):
  outputs = []
  for i, scale in enumerate(_numbered(p, 'scale')):
    x = x if i == 0 else F.avg_pool2d(x, 3, 2, 1, count_include_pad=False)
    outputs.append(patch_maps(scale, x))
  return outputs


def sound(mask, pool):
  """[B, 1, H, W], above 0 = hole -> [B, 1, H/4, W/4], 1 where nothing is lost."""
  if pool == 'max':
    return 1 - F.max_pool2d((mask > 0).float(), 4)
  b, _, h, w = mask.shape
  cells = mask.reshape(b, h // 4, 4, w // 4, 4)
  lost = (cells[:, :, 1:3, :, 1:3] > 0).any(4).any(2)
  return torch.where(lost, 0.0, 1 - cells[:, :, 0, :, 0])[:, None]


def nonlocal_block(p, x, valid, norm, scaled):
  b, c, h, w = x.shape
  q, k, v = (conv(p[name], x).flatten(2) for name in ('theta', 'phi', 'g'))  # [B, C, h w]
  logits = q.float().mT @ k.float()
  if scaled:
    logits = logits / c**0.5
  logits = logits.masked_fill(valid.flatten(2) == 0, float('-inf'))
  weights = torch.softmax(logits, -1).nan_to_num()  # a photo that is one hole gets zeros
  u = (weights @ v.float().mT).mT.reshape(b, c, h, w)
  u = conv(p['W'], u)
  for layer in _numbered(p, 'block'):
    u = resnet_block(layer, u, norm)
  return torch.where(valid < 1, valid * x + (1 - valid) * u, x)


def translate(p, z, norm, residual, valid=None, scaled=False):
  """T; `valid` for the masked one."""
  x = z
  for layer in _numbered(p, 'up'):
    x = F.relu(norm(conv(layer, x, 1, 1)))
  if valid is not None:
    x = nonlocal_block(p['nonlocal'], x, valid, norm, scaled)
  for layer in _numbered(p, 'block'):
    x = resnet_block(layer, x, norm)
  for layer in _numbered(p, 'down'):
    x = F.relu(norm(conv(layer, x, 1, 1)))
  x = conv(p['conv_out'], x, 1, 1)
  return z + x if residual else x


def vgg19(p, x):
  """relu1_1, 2_1, 3_1, 4_1, 5_1 of torchvision's VGG-19."""
  maps = []
  for index in (0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28):
    if index in (5, 10, 19, 28):
      x = F.max_pool2d(x, 2)
    x = F.relu(conv(p[f'features.{index}'], x, 1, 1))
    if index in (0, 5, 10, 19, 28):
      maps.append(x)
  return maps


# pix2pix and CycleGAN ----------------------------------------------------------------------------


def normalise(p, x, norm):
  """Batch norm by this batch, or instance norm, with scale and bias where `p` has them."""
  p = p or {}
  if norm['batch']:
    return F.batch_norm(x, None, None, p['scale'], p['bias'], True, 0.0, norm['epsilon'])
  return F.instance_norm(x, None, None, p.get('scale'), p.get('bias'), eps=norm['epsilon'])


def unet(p, x, h, dropout):
  """gan_networks.GanUNet with the sizes `h` (gan_networks.sizes)."""
  skips, downs = [], h['downs']
  up = F.relu if h['rectify_skips'] else lambda x: F.leaky_relu(x, h['slope'])
  for level in range(1, downs + 1):
    x = conv(p[f'down{level}'], x if level == 1 else F.leaky_relu(x, h['slope']), 2, 1)
    if 1 < level < downs or (level == downs and h['bottleneck_norm']):
      x = normalise(p.get(f'down{level}_norm'), x, h['norm'])
    skips.append(x)
  x = up(skips.pop())
  for level in range(downs, 1, -1):
    x = normalise(p.get(f'up{level}_norm'), conv_transpose(p[f'up{level}'], x), h['norm'])
    if dropout and level in h['dropout_levels']:
      x = F.dropout(x, h['dropout_rate'])
    x = torch.cat([up(skips.pop()), F.relu(x)], 1)
  return torch.tanh(conv_transpose(p['up1'], x))


def resnet(p, x):
  """gan_networks.GanResNet."""
  norm = F.instance_norm
  x = F.relu(norm(conv(p['conv_in'], x, 1, 3, 'reflect')))
  for layer in _numbered(p, 'down'):
    x = F.relu(norm(conv(layer, x, 2, 1)))
  for layer in _numbered(p, 'block'):
    x = resnet_block(layer, x, norm)
  for layer in _numbered(p, 'up'):
    x = F.relu(norm(conv_transpose(layer, x)))
  return torch.tanh(conv(p['conv_out'], x, 1, 3, 'reflect'))


def patch_logits(p, x, h):
  """gan_networks.GanPatchDiscriminator with `h` = {'norm', 'slope'}."""
  convs = _numbered(p, 'conv')
  for i, layer in enumerate(convs[:-1]):
    x = conv(layer, x, 2 if i < len(convs) - 2 else 1, 1)
    if i > 0:
      x = normalise(p.get(f'norm{i}'), x, h['norm'])
    x = F.leaky_relu(x, h['slope'])
  return conv(convs[-1], x, 1, 1)


# Deep Image Prior --------------------------------------------------------------------------------


def _dip_conv(p, x, stride=1):
  return conv(p, x, stride, p['kernel'].shape[-1] // 2, 'reflect')


def _dip_norm(p, x):
  return F.batch_norm(x, None, None, p['scale'], p['bias'], True)


def _dip_block(p, x, stride=1):
  return F.leaky_relu(_dip_norm(p['norm'], _dip_conv(p['conv'], x, stride)), 0.2)


def skip(p, z, upsample):
  """dip_networks.Skip; `upsample` has the mode of each level."""
  x, branches = z, []
  for i in range(len(upsample)):
    branches.append(_dip_block(p[f'skip_{i}'], x))
    x = _dip_block(p[f'down_{i}'], _dip_block(p[f'halve_{i}'], x, 2))
  for i in reversed(range(len(upsample))):
    smooth = {'align_corners': False} if upsample[i] == 'bilinear' else {}
    x = F.interpolate(x, scale_factor=2, mode=upsample[i], **smooth)
    x = _dip_norm(p[f'norm_{i}'], torch.cat([branches[i], x], 1))
    x = _dip_block(p[f'mix_{i}'], _dip_block(p[f'up_{i}'], x))
  return torch.sigmoid(_dip_conv(p['out'], x))


def residual(p, z):
  """dip_networks.ResNet."""
  x = F.leaky_relu(_dip_conv(p['first'], z), 0.2)
  for i in itertools.takewhile(lambda i: f'block_{i}_conv1' in p, range(100)):
    y = _dip_norm(p[f'block_{i}_norm1'], conv(p[f'block_{i}_conv1'], x, 1, 1))
    y = conv(p[f'block_{i}_conv2'], F.leaky_relu(y, 0.2), 1, 1)
    x = x + _dip_norm(p[f'block_{i}_norm2'], y)
  x = _dip_norm(p['last_norm'], conv(p['last'], x, 1, 1))
  return torch.sigmoid(_dip_conv(p['out'], x))
