"""Trained networks as ONNX graphs for photos of any size: what other programs can load.

A graph takes RGB photos [1, 3, H, W] in [0, 1] and gives the same, so that programs which know
nothing of these networks can run them. Sides may be any: a graph repeats the last row and column
until they fit, and crops its result. Each function below follows the module of the same network in
models/, layer by layer; tests/test_export.py compares both.

Written by hand because the converters from JAX do not do: jax2onnx 0.17 (2026) needs an
orbax-checkpoint older than ours, and no converter from traced programs can follow nn.prefill, which
recurs until one pixel is left.
"""

import dataclasses
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from oldphoto_jax.errors import WeightsError
from oldphoto_jax.models import detector, gan_networks, pix2pix, repair
from oldphoto_jax.nn import features, noise, prefill
from oldphoto_jax.weights.file import DETECTOR, Loaded

OPSET = 17  # of May 2022; later ones add nothing that is needed here
LEVELS = (
  14  # halvings of the prefill: enough for sides of 2**14 = 16,384 pixels, more change nothing
)
NOTHING = types.MappingProxyType({})
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as detector.luma


@dataclasses.dataclass
class Graph:
  """A graph in the making. Values are known by their names."""

  onnx: Any  # the package
  nodes: list = dataclasses.field(default_factory=list)
  constants: list = dataclasses.field(default_factory=list)

  def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
    """Adds a node and returns its one output."""
    name = f'{kind.lower()}_{len(self.nodes)}'
    self.nodes.append(self.onnx.helper.make_node(kind, inputs, [name], name, **attributes))
    return name

  def const(self, value: Any, dtype: Any = np.float32) -> str:
    name = f'constant_{len(self.constants)}'
    array = np.ascontiguousarray(np.asarray(value, dtype))
    self.constants.append(self.onnx.numpy_helper.from_array(array, name))
    return name

  def ints(self, *values: int) -> str:
    return self.const(values, np.int64)

  # Arithmetic with numbers.

  def plus(self, x: str, number: float) -> str:
    return self.op('Add', x, self.const(number))

  def times(self, x: str, number: float) -> str:
    return self.op('Mul', x, self.const(number))

  # Layers, on NCHW.

  def conv(
    self, x: str, leaf: Mapping[str, Any], stride: int = 1, pad: int = 0, reflect: bool = False
  ) -> str:
    """layers.Conv."""
    if reflect:
      x, pad = self.op('Pad', x, self.ints(0, 0, pad, pad, 0, 0, pad, pad), mode='reflect'), 0
    kernel = np.asarray(leaf['kernel'])
    inputs = [x, self.const(kernel.transpose(3, 2, 0, 1))]
    if 'bias' in leaf:
      inputs.append(self.const(leaf['bias']))
    return self.op(
      'Conv', *inputs, kernel_shape=kernel.shape[:2], strides=[stride] * 2, pads=[pad] * 4
    )

  def conv_transpose(self, x: str, leaf: Mapping[str, Any]) -> str:
    """layers.ConvTranspose."""
    kernel = np.asarray(leaf['kernel'])
    inputs = [x, self.const(kernel[::-1, ::-1].transpose(2, 3, 0, 1))]
    if 'bias' in leaf:
      inputs.append(self.const(leaf['bias']))
    return self.op(
      'ConvTranspose',
      *inputs,
      kernel_shape=kernel.shape[:2],
      strides=[2, 2],
      pads=[1] * 4,
      output_padding=[kernel.shape[0] % 2] * 2,
    )

  def instance_norm(
    self, x: str, channels: int, epsilon: float, leaf: Mapping | None = None
  ) -> str:
    scale, bias = (np.ones(channels), np.zeros(channels))
    if leaf is not None:
      scale, bias = leaf['scale'], leaf['bias']
    return self.op('InstanceNormalization', x, self.const(scale), self.const(bias), epsilon=epsilon)

  def batch_norm(self, x: str, leaf: Mapping, stats: Mapping, epsilon: float) -> str:
    values = (leaf['scale'], leaf['bias'], stats['mean'], stats['var'])
    return self.op('BatchNormalization', x, *map(self.const, values), epsilon=epsilon)

  def leaky(self, x: str, slope: float = 0.2) -> str:
    return self.op('LeakyRelu', x, alpha=slope)

  def double(self, x: str) -> str:
    """layers.double."""
    return self.op(
      'Resize',
      x,
      '',
      self.const([1, 1, 2, 2]),
      mode='linear',
      coordinate_transformation_mode='half_pixel',
    )

  def residual(self, x: str, leaf: Mapping, norm: Callable[[str], str] = lambda x: x) -> str:
    """layers.ResnetBlock."""
    y = self.op('Relu', norm(self.conv(x, leaf['conv1'], pad=1, reflect=True)))
    return self.op('Add', x, norm(self.conv(y, leaf['conv2'], pad=1, reflect=True)))

  def concat(self, *x: str) -> str:
    return self.op('Concat', *x, axis=1)

  def channels(self, x: str, first: int, end: int) -> str:
    return self.op('Slice', x, self.ints(first), self.ints(end), self.ints(1))

  def sides(self, x: str) -> str:
    """Height and width, as two integers."""
    return self.op('Slice', self.op('Shape', x), self.ints(2), self.ints(4), self.ints(0))

  def crop(self, x: str, sides: str) -> str:
    return self.op('Slice', x, self.ints(0, 0), sides, self.ints(2, 3))

  def fit(self, x: str, multiple: int, least: int) -> str:
    """Repeats the last row and column up to the next multiple, and at least to `least` pixels."""
    sides, step = self.sides(x), self.ints(multiple)
    up = self.op('Div', self.op('Add', sides, self.ints(multiple - 1)), step)
    target = self.op('Max', self.op('Mul', up, step), self.ints(least))
    more = self.op('Sub', target, sides)
    return self.op(
      'Pad', x, self.op('Concat', self.ints(0, 0, 0, 0, 0, 0), more, axis=0), mode='edge'
    )

  def signed(self, x: str) -> str:
    """[0, 1] to [-1, 1]."""
    return self.plus(self.times(x, 2), -1)

  def unsigned(self, x: str) -> str:
    """[-1, 1] to [0, 1], clipped."""
    y = self.plus(self.times(x, 0.5), 0.5)
    return self.op('Clip', y, self.const(0), self.const(1))


def files(loaded: Loaded) -> dict[str, bytes]:
  """The graphs of trained weights: name of the file -> what it holds.

  `repair` becomes look.onnx and fill.onnx, with a cleaner also clean.onnx, a detector detect.onnx,
  and pix2pix and CycleGAN restore.onnx.

  Raises:
    WeightsError: the package onnx is missing, or these networks have no such form.
  """
  try:
    import onnx
  except ImportError:
    raise WeightsError(
      "writing ONNX needs the package onnx: pip install 'oldphoto_jax[export]'"
    ) from None
  weights, written = loaded.weights, {}
  if weights.system == 'repair':
    model, params = repair.from_sizes(weights.model), weights.params
    finder = repair.from_sizes(weights.model['finder']) if 'finder' in weights.model else None
    parts = {
      'look': (
        lambda g, x: _look(g, model, finder, params, x),
        {'photo': 3},
        {'clean': 3, 'damage': 1},
      ),
      'fill': (
        lambda g, x, mask: _fill(g, model, params['repair'], x, mask),
        {'photo': 3, 'mask': 1},
        {'filled': 3},
      ),
    }
    if weights.model.get('cleaner'):
      parts['clean'] = (
        # The noise is that of the photo, without what it is padded with.
        lambda g, x: (_clean(g, model, params['cleaner'], x, g.fit('photo', 1, 4 * noise.BLOCK)),),
        {'photo': 3},
        {'clean': 3},
      )
    multiple = max(net.multiple for net in (model, finder) if net is not None)
  elif weights.system == DETECTOR:
    net = detector.from_sizes(weights.model).net
    parts = {
      'detect': (lambda g, x: _detect(g, net, weights.params, x), {'photo': 3}, {'damage': 1})
    }
    multiple = net.multiple
  elif weights.system in ('pix2pix', 'cyclegan'):
    generator = gan_networks.from_sizes(weights.model)
    parts = {
      'restore': (
        lambda g, x: _generate(g, generator, weights, x),
        {'photo': 3},
        {'restored': 3},
      )
    }
    multiple = generator.multiple
  else:
    raise WeightsError(
      f'{loaded.file} holds the system {weights.system}, which has no ONNX form: export repair, a '
      'detector, pix2pix or cyclegan'
    )
  for name, (build, inputs, outputs) in parts.items():
    graph = Graph(onnx)
    size = graph.sides('photo')
    fitted = [graph.fit(x, multiple, max(2 * multiple, 4 * noise.BLOCK)) for x in inputs]
    made = build(graph, *fitted)
    for output, value in zip(outputs, made):
      graph.nodes.append(
        onnx.helper.make_node('Identity', [graph.crop(value, size)], [output], output)
      )
    describe = lambda name, channels: onnx.helper.make_tensor_value_info(
      name, onnx.TensorProto.FLOAT, [1, channels, 'height', 'width']
    )
    infos = [[describe(*item) for item in names.items()] for names in (inputs, outputs)]
    body = onnx.helper.make_graph(graph.nodes, f'oldphoto {name}', *infos, graph.constants)
    model_file = onnx.helper.make_model(
      body, opset_imports=[onnx.helper.make_opsetid('', OPSET)], producer_name='oldphoto_jax'
    )
    model_file.ir_version = 8  # that of the opset, for older programs
    onnx.helper.set_model_props(model_file, {'weights': loaded.name})
    onnx.checker.check_model(model_file)
    written[f'{name}.onnx'] = model_file.SerializeToString()
  return written


# Networks ----------------------------------------------------------------------------------------


def _repair_unet(
  g: Graph, model: repair.Repair, params, photo, filled, mask, trust, maps: Sequence[str] = ()
) -> str:
  """repair.RepairUNet."""

  def blocks(x, name):
    for i in range(model.blocks):
      x = g.residual(x, params[f'{name}_block{i}'])
    return x

  def seen(x, level):
    return g.op('Add', x, g.conv(maps[level], params[f'maps{level}'])) if maps else x

  x = g.op('SpaceToDepth', g.concat(photo, filled, mask, trust), blocksize=2)
  x = blocks(seen(g.conv(x, params['conv_in'], pad=1), 0), 'down0')
  skips = []
  for i in range(1, len(model.widths)):
    skips.append(x)
    x = blocks(g.leaky(seen(g.conv(x, params[f'down{i}'], 2, 1), i)), f'down{i}')
  for i in reversed(range(len(skips))):
    x = g.op('Add', g.double(g.conv(x, params[f'up{i}'])), skips[i])
    x = blocks(g.leaky(x), f'up{i}')
  return g.op('DepthToSpace', g.conv(x, params['conv_out'], pad=1), blocksize=2)


def _squeezenet_pyramid(g: Graph, params, photo: str) -> list[str]:
  """features.squeezenet_pyramid."""

  def layer(x, leaf, **places):
    return g.op('Relu', g.conv(x, leaf, **places))

  x = g.op('Gather', g.times(g.plus(photo, 1), 127.5), g.ints(2, 1, 0), axis=1)
  x = g.op('Sub', x, g.const(features.BGR_MEAN.reshape(1, 3, 1, 1)))
  x = g.op('Pad', x, g.ints(0, 0, 3, 3, 0, 0, 3, 3), mode='edge')
  maps = {'conv1': layer(x, params['conv1'], stride=2)}
  for name in features.FIRES:
    before = next(reversed(maps))
    x = maps[before]
    if before in features.POOL_AFTER:
      x = g.op('MaxPool', x, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    x = layer(x, params[name]['squeeze1x1'])
    wide = (layer(x, params[name][f'expand{n}x{n}'], pad=n // 2) for n in (1, 3))
    maps[name] = g.concat(*wide)
  return [g.times(maps[name], 1 / scale) for name, scale in features.PYRAMID.items()]


def _look(
  g: Graph, model: repair.Repair, finder: repair.Repair | None, params, photo: str
) -> tuple[str, str]:
  """repair.look, without the scale of the error; a finder says what is damaged."""
  photo = g.signed(photo)
  nothing = g.times(g.channels(photo, 0, 1), 0)
  out = _repair_unet(g, model, params['repair'], photo, photo, nothing, nothing)
  clean = g.unsigned(g.op('Add', photo, g.channels(out, 0, 3)))
  found = lambda out: g.op('Sigmoid', g.channels(out, 3, 4))
  if finder is None:
    return clean, found(out)
  nets = params['finder']
  maps = _squeezenet_pyramid(g, nets['squeezenet'], photo) if finder.squeezenet else ()
  outs = (
    _repair_unet(g, finder, net, photo, photo, nothing, nothing, maps)
    for net in repair.apart(finder, nets)
  )
  return clean, g.op('Mean', *map(found, outs))


def _clean(g: Graph, model: repair.Repair, params, photo: str, measured: str) -> str:
  """repair.clean of a photo that is as noisy as `measured`."""
  photo, measured = g.signed(photo), g.signed(measured)
  half = g.op('AveragePool', measured, kernel_shape=[2, 2], strides=[2, 2])
  nothing = g.times(g.channels(photo, 0, 1), 0)
  levels = (g.op('Add', nothing, _noise(g, x)) for x in (measured, half))
  out = _repair_unet(g, model, params, photo, photo, *levels)
  return g.unsigned(g.op('Add', photo, g.channels(out, 0, 3)))


def _noise(g: Graph, photo: str) -> str:
  """noise.measure at one size, [1]."""

  def of_blocks(x, side):
    x = g.op('AveragePool', x, kernel_shape=[side, side], strides=[side, side])
    return g.op('Reshape', g.op('ReduceMean', x, axes=[1], keepdims=1), g.ints(-1))

  haar = np.broadcast_to(np.array([[0.5, -0.5], [-0.5, 0.5]]), (3, 1, 2, 2))
  diagonal = g.op('Conv', photo, g.const(haar), group=3, strides=[2, 2])
  power = of_blocks(g.op('Mul', diagonal, diagonal), noise.BLOCK)
  shown = g.op('Less', g.op('Abs', of_blocks(photo, 2 * noise.BLOCK)), g.const(noise.CLIPPED))
  power = g.op('Where', shown, power, g.const(np.inf))
  number = g.op('ReduceSum', g.op('Cast', shown, to=g.onnx.TensorProto.FLOAT), keepdims=1)
  place = g.times(g.op('Max', g.plus(number, -1), g.const(0)), noise.QUIET)
  sorted_, order = f'sorted_{len(g.nodes)}', f'order_{len(g.nodes)}'
  g.nodes.append(
    g.onnx.helper.make_node('TopK', [power, g.op('Shape', power)], [sorted_, order], largest=0)
  )
  least = g.op('Gather', sorted_, g.op('Cast', place, to=g.onnx.TensorProto.INT64))
  least = g.op('Where', g.op('Greater', number, g.const(0)), least, g.const(0))
  return g.op('Min', g.times(g.op('Sqrt', least), 1 / noise.LOUD), g.const(1))


def _fill(g: Graph, model: repair.Repair, params, photo: str, mask: str) -> tuple[str]:
  """repair.fill; the largest value of the mask says how far it is to be trusted."""
  photo, holes = g.signed(photo), g.op('Greater', mask, g.const(0))
  filled = _prefill(g, photo, holes)
  marked = g.op('Cast', holes, to=g.onnx.TensorProto.FLOAT)
  trust = g.op('ReduceMax', mask, axes=[1, 2, 3], keepdims=1)
  trust = g.op('Add', g.times(mask, 0), trust)
  out = _repair_unet(g, model, params, _shown(g, photo, filled, mask), filled, marked, trust)
  return (g.unsigned(g.op('Add', filled, g.channels(out, 0, 3))),)


def _shown(g: Graph, photo: str, filled: str, mask: str) -> str:
  """repair.shown, of what a mask marks as lost."""
  lost = g.op('Cast', g.op('Not', g.op('Less', mask, g.const(1))), to=g.onnx.TensorProto.FLOAT)
  mean = lambda x: g.op('Mul', g.op('ReduceMean', x, axes=[1], keepdims=1), lost)
  times = lambda x, y: g.op('Mul', x, y)
  a, b = mean(photo), mean(filled)
  sums = g.concat(lost, a, b, times(a, a), times(b, b), times(a, b))
  half = repair.WINDOW // 2
  sums = g.op(
    'AveragePool',
    sums,
    kernel_shape=[repair.WINDOW] * 2,
    pads=[half] * 4,
    count_include_pad=1,
  )
  sums = g.times(sums, repair.WINDOW**2)
  # The number of lost pixels in a window is whole, but for rounding.
  count = g.op('Max', g.channels(sums, 0, 1), g.const(1))
  a, b, aa, bb, ab = (g.op('Div', g.channels(sums, i, i + 1), count) for i in range(1, 6))
  spread = lambda xx, x: g.op('Max', g.op('Sub', xx, times(x, x)), g.const(0))
  both = g.plus(times(spread(aa, a), spread(bb, b)), repair.FLAT)
  agreement = g.op('Div', g.op('Sub', ab, times(a, b)), g.op('Sqrt', both))
  hidden = g.op('Sub', g.const(1), g.op('Clip', agreement, g.const(0), g.const(1)))
  return g.op('Add', photo, times(times(lost, hidden), g.op('Sub', filled, photo)))


def _prefill(g: Graph, photo: str, holes: str) -> str:
  """prefill.prefill."""
  float32 = g.onnx.TensorProto.FLOAT
  inside = g.op('Cast', holes, to=float32)
  known = g.op('Sub', g.const(1), inside)
  cross = np.array([[0, 1, 0], [1, 0, 1], [0, 1, 0]])

  def neighbours(x, weight, middle):
    """`weight` times the sum of the four neighbours, and `middle` times the pixel."""
    kernel = weight * cross + middle * np.diag([0, 1, 0])
    x = g.op('Pad', x, g.ints(0, 0, 1, 1, 0, 0, 1, 1), mode='edge')
    return g.op('Conv', x, g.const(np.broadcast_to(kernel, (3, 1, 3, 3))), group=3)

  def push_pull(sums, weight, levels):
    means = g.op('Div', sums, g.op('Max', weight, g.const(1e-6)))
    if levels == 0:
      return g.op('Where', g.op('Greater', weight, g.const(0)), means, g.const(0))
    # One row and column of zeros more: without effect where sides are even.
    both = g.op('Pad', g.concat(sums, weight), g.ints(0, 0, 0, 0, 0, 0, 1, 1))
    both = g.op('AveragePool', both, kernel_shape=[2, 2], strides=[2, 2])
    both = g.times(both, 4)
    total = g.channels(both, 3, 4)
    least = g.op('Max', total, g.const(1))
    coarse = push_pull(
      g.op('Div', g.channels(both, 0, 3), least), g.op('Div', total, least), levels - 1
    )
    finer = g.crop(g.double(coarse), g.sides(sums))
    rest = g.op('Sub', g.const(1), weight)
    return g.op('Add', g.op('Mul', weight, means), g.op('Mul', rest, finer))

  filled = g.op('Where', holes, push_pull(g.op('Mul', photo, known), known, LEVELS), photo)
  for _ in range(prefill.SWEEPS):
    filled = g.op('Where', holes, neighbours(filled, 0.25, 0), filled)

  def operator(x):
    for _ in range(2):
      x = neighbours(x, 1, -4)
    return g.op('Mul', inside, x)

  def dot(a, b):
    return g.op('ReduceSum', g.op('Mul', a, b), g.ints(2, 3), keepdims=1)

  def ratio(a, b):
    return g.op('Div', a, g.op('Max', b, g.const(1e-20)))

  x, residual = filled, g.op('Neg', operator(filled))
  direction, size = residual, dot(residual, residual)
  for _ in range(prefill.STEPS):
    image = operator(direction)
    length = ratio(size, dot(direction, image))
    x = g.op('Add', x, g.op('Mul', length, direction))
    residual = g.op('Sub', residual, g.op('Mul', length, image))
    new = dot(residual, residual)
    direction = g.op('Add', residual, g.op('Mul', ratio(new, size), direction))
    size = new
  return x


def _detect(g: Graph, net: detector.DetectorUNet, released, photo: str) -> tuple[str]:
  """detector.detect."""
  params, stats = released['params'], released['batch_stats']

  def block(x, name):
    x = g.conv(x, params[name], pad=1, reflect=True)
    norm = f'{name}_norm'
    return g.leaky(g.batch_norm(x, params[norm], stats[norm], gan_networks.BATCH.epsilon))

  def blur_pool(x, channels):
    kernel = np.outer([1, 2, 1], [1, 2, 1]) / 16
    x = g.op('Pad', x, g.ints(0, 0, 1, 1, 0, 0, 0, 0), mode='reflect')
    kernel = g.const(np.broadcast_to(kernel, (channels, 1, 3, 3)))
    return g.op('Conv', x, kernel, group=channels, strides=[2, 2])

  luma = g.op('Conv', g.signed(photo), g.const(np.reshape(LUMA, (1, 3, 1, 1))))
  x = g.leaky(g.conv(luma, params['conv_in'], pad=3, reflect=True))
  skips = []
  for i in range(net.depth):
    skips.append(x)
    x = blur_pool(block(x, f'pool{i}'), net.width * 2**i)
    x = block(block(x, f'down{i}_conv1'), f'down{i}_conv2')
  for i in reversed(range(net.depth)):
    x = g.concat(g.conv(g.double(x), params[f'up{i}'], pad=1, reflect=True), skips[i])
    x = block(block(x, f'up{i}_conv1'), f'up{i}_conv2')
  return (g.op('Sigmoid', g.conv(x, params['conv_out'], pad=1, reflect=True)),)


def _generate(g: Graph, net, weights, photo: str) -> tuple[str]:
  """pix2pix.restore, or CycleGAN's generator.

  Raises:
    WeightsError: the generator draws random numbers.
  """
  if weights.model.get('test_dropout'):
    raise WeightsError(
      'these weights restore with dropout, which draws random numbers: export weights without '
      'test_dropout'
    )
  params, stats = weights.params, {}
  if weights.system == 'pix2pix':
    params, stats = weights.params['params'], weights.params.get('batch_stats', {})
    if pix2pix.from_sizes(weights.model).test_batch_statistics:
      net = net.clone(norm=dataclasses.replace(net.norm, batch=False))
  elif 'params' in params:
    params = params['params']
  x = g.signed(photo)
  if isinstance(net, gan_networks.GanResNet):
    return (g.unsigned(_gan_resnet(g, net, params, x)),)
  return (g.unsigned(_gan_unet(g, net, params, stats, x)),)


def _gan_unet(g: Graph, net: gan_networks.GanUNet, params, stats, x: str) -> str:
  """gan_networks.GanUNet without dropout."""
  channels = [min(net.width * 2**i, 8 * net.width) for i in range(net.downs)]

  def normalised(x, name, features):
    if net.norm.batch:
      return g.batch_norm(x, params[name], stats[name], net.norm.epsilon)
    return g.instance_norm(x, features, net.norm.epsilon, params.get(name, NOTHING))

  def up(x):
    return g.op('Relu', x) if net.rectify_skips else g.leaky(x, net.slope)

  skips = []
  for level, width in enumerate(channels, 1):
    x = x if level == 1 else g.leaky(x, net.slope)
    x = g.conv(x, params[f'down{level}'], 2, 1)
    if 1 < level < net.downs or (level == net.downs and net.bottleneck_norm):
      x = normalised(x, f'down{level}_norm', width)
    skips.append(x)
  x = up(skips.pop())
  for level in range(net.downs, 1, -1):
    x = g.conv_transpose(x, params[f'up{level}'])
    x = normalised(x, f'up{level}_norm', channels[level - 2])
    x = g.concat(up(skips.pop()), g.op('Relu', x))
  return g.op('Tanh', g.conv_transpose(x, params['up1']))


def _gan_resnet(g: Graph, net: gan_networks.GanResNet, params, x: str) -> str:
  """gan_networks.GanResNet."""

  def norm(features):
    return lambda x: g.instance_norm(x, features, 1e-5)

  x = g.op('Relu', norm(net.width)(g.conv(x, params['conv_in'], pad=3, reflect=True)))
  for i in range(2):
    x = g.op('Relu', norm(net.width * 2 ** (i + 1))(g.conv(x, params[f'down{i}'], 2, 1)))
  for i in range(net.blocks):
    x = g.residual(x, params[f'block{i}'], norm(4 * net.width))
  for i in range(2):
    x = g.op('Relu', norm(net.width * 2 ** (1 - i))(g.conv_transpose(x, params[f'up{i}'])))
  return g.op('Tanh', g.conv(x, params['conv_out'], pad=3, reflect=True))
