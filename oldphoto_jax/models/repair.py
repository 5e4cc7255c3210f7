"""Finds damage, fills it and cleans the photo around it: one small U-Net for family prints.

Ours, not in Wan et al. 2020. The network sees the old photo, the same with its holes filled
smoothly (prefill), a mask of what is known to be damaged, and how far that mask is to be trusted.
Without a mask it cleans the photo and says where it is damaged; with one it fills what is marked.
It answers with what to add to the prefilled photo, and begins with adding nothing: what it has
not learnt it leaves alone.

A release may hold a second, smaller U-Net, the `finder`, which only had to find damage, and then
alone says what is damaged. Beside the photo it sees what SqueezeNet makes of it (Iandola et al.
2016), which has learnt from a million photos what things look like: a network that knows made-up
damage alone takes collars, leaves and glints for it (benchmarks/prints). A finder may be several
such U-Nets, which began apart and whose probabilities are averaged. A release may also hold a
`cleaner`, of the size of the first, which only had to clean. In the place of a mask it is told how
noisy the photo is: its neighbourhood cannot tell a pixel whether it is texture or noise, but noise
is everywhere.
"""

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax.traverse_util import flatten_dict, unflatten_dict
from jax import lax

from oldphoto_jax.colour import luma
from oldphoto_jax.metrics import psnr_ssim
from oldphoto_jax.models import tone
from oldphoto_jax.models.released import Networks
from oldphoto_jax.models.state import State, start
from oldphoto_jax.nn import averaging, features, layers, losses, noise, parameters
from oldphoto_jax.nn.cpu_convolution import depth_to_space, space_to_depth
from oldphoto_jax.nn.prefill import prefill

# Terms of weight 0 are not computed.
WEIGHTS = {
  'l1': 10.0,  # over all pixels whose true value is known
  'hole_l1': 1.0,  # over those of them in told holes
  'gradient': 0.25,  # of differences between neighbours in told holes
  'bce': 1.0,  # of the damage
  'dice': 0.3,
  'error': 0.05,  # of the scale of the error
}
PRIOR = 0.05  # share of damaged pixels, before anything is learnt
DAMAGED = 1e-3  # share of a photo that is damaged, from which on its Dice coefficient is a loss
SMOOTHING = 1e-4  # added to both halves of a Dice coefficient
WINDOW = 15  # pixels, over which `shown` compares what holes show with their prefill
FLAT = 1e-6  # added to the product of their variances: two gray levels each are no picture yet
SURE = -6.0  # logarithm of the smallest scale of error that is learnt: a third of a gray level


class RepairUNet(nn.Module):
  """Photo, prefilled photo [B, H, W, 3], mask, trust [B, H, W, 1] -> [B, H, W, 5].

  `maps` are those of another network at the sides of the levels, which are added to what each level
  begins with; none by default.

  The five channels are what to add to the prefilled photo, the logit of damage, and the logarithm
  of the scale of the error. Pixels are shuffled into channels first (2x2), so that level i works
  at 1/2**(i + 1) of the sides. Residual blocks without norms or pooled statistics: what becomes of
  a pixel depends on its neighbourhood, not on the size of photo or tile.
  """

  widths: tuple[int, ...] = (32, 64, 128, 192)
  blocks: int = 2
  dtype: Any = jnp.float32
  products: bool = True

  @nn.compact
  def __call__(self, photo, filled, mask, trust, maps=()):
    layers.check_multiple(photo.shape, 2 ** len(self.widths))

    def conv(x, width, name, size=3, stride=1):
      pad = (size - 1) // 2
      return layers.Conv(
        width, size, stride, pad, dtype=self.dtype, products=self.products, name=name
      )(x)

    def residual(x, width, name):
      names = [f'{name}_block{i}' for i in range(self.blocks)]
      if self.is_initializing():
        for block in names:
          x = layers.ResnetBlock(width, False, self.dtype, self.products, name=block)(x)
        return x
      # A loop, so that the block is compiled once.
      block = layers.ResnetBlock(width, False, self.dtype, self.products, parent=None)
      params = _stacked([self.get_variable('params', name) for name in names])
      return lax.scan(lambda x, p: (block.apply({'params': p}, x), None), x, params)[0]

    def seen(x, level):
      if not maps:
        return x
      return x + conv(maps[level].astype(self.dtype), self.widths[level], f'maps{level}', 1)

    x = space_to_depth(jnp.concatenate([photo, filled, mask, trust], -1))
    x = residual(seen(conv(x, self.widths[0], 'conv_in'), 0), self.widths[0], 'down0')
    skips = []
    for i, width in enumerate(self.widths[1:], 1):
      skips.append(x)
      x = layers.leaky_relu(seen(conv(x, width, f'down{i}', 4, 2), i))
      x = residual(x, width, f'down{i}')
    for i in reversed(range(len(skips))):
      width = self.widths[i]
      # Fewer channels before the enlargement: the same function, a quarter of the work.
      x = layers.double(conv(x, width, f'up{i}', 1)) + skips[i]
      x = residual(layers.leaky_relu(x), width, f'up{i}')
    x = conv(x, 20, 'conv_out').astype(jnp.float32)
    return depth_to_space(x)


@dataclasses.dataclass(frozen=True)
class Repair:
  """The U-Net, loss weights and optimiser.

  Attributes:
    widths: channels of each level, from half the sides on.
    blocks: residual blocks of a level, on the way down and on the way up.
    weights: of the loss terms, by name; see WEIGHTS.
    ema: decay of the moving average that is evaluated and released; 0: none.
    g_tx: optimiser.
    dtype: of the convolutions.
    tells: whether every other example of a training is told its damage.
    measures: whether it is a cleaner, which is told how noisy a photo is; then it must not `tell`.
    products: see nn.convolution.conv2d.
    squeezenet: whether it sees the maps of SqueezeNet. Then its parameters hold those of that
      network as `squeezenet`; nothing trains them. It has four levels at most.
    members: U-Nets that see the same and learn for themselves. The answer is their mean (deep
      ensembles, Lakshminarayanan et al. 2017). Of more than one, every leaf of the parameters, but
      for `squeezenet`, has them along its first axis.
    teacher: a trained network, from which this one learns what is damaged; None: from labels.
  """

  widths: tuple[int, ...] = (32, 64, 128, 192)
  blocks: int = 2
  weights: dict[str, float] = dataclasses.field(default_factory=WEIGHTS.copy)
  ema: float = 0.0
  g_tx: optax.GradientTransformation = optax.adam(1e-3)
  dtype: Any = jnp.float32
  tells: bool = True
  measures: bool = False
  products: bool = True
  squeezenet: bool = False
  members: int = 1
  teacher: 'Repair | None' = None

  @property
  def net(self) -> RepairUNet:
    return RepairUNet(self.widths, self.blocks, self.dtype, self.products)

  @property
  def multiple(self) -> int:
    """Sides of a photo must be multiples of this."""
    return 2 ** len(self.widths)


def init(model: Repair, key: jax.Array) -> State:
  """He's kernels, but zeros where a sum follows: nothing is added, and damage has its PRIOR.

  Zeros also in the second convolution of every residual block, whose features would else grow from
  block to block (Zhang et al. 2019, Fixup).
  """
  side = 2 * model.multiple
  photo, mask = jnp.zeros((1, side, side, 3)), jnp.zeros((1, side, side, 1))
  inputs = [photo, photo, mask, mask]
  if model.squeezenet:
    channels = features.SQUEEZENET_CHANNELS[: len(model.widths)]
    inputs.append([jnp.zeros((1, side >> i, side >> i, c)) for i, c in enumerate(channels, 1)])
  keys = [key] if model.members == 1 else jax.random.split(key, model.members)
  return start(model, together([_init_one(model, key, inputs) for key in keys]))


def _init_one(model, key, inputs):
  g = parameters.init_normal(model.net, key, *inputs, std=None)
  zeros = partial(jax.tree.map, jnp.zeros_like)
  g['conv_out'] = zeros(g['conv_out'])
  # Channels 3, 8, 13 and 18 of conv_out are the logits of damage of a block of 2x2 pixels.
  logit = jnp.log(PRIOR / (1 - PRIOR))
  g['conv_out']['bias'] = jnp.tile(jnp.array([0, 0, 0, 1, 0], jnp.float32) * logit, 4)
  for name, layer in g.items():
    if 'conv2' in layer:
      g[name] = layer | {'conv2': zeros(layer['conv2'])}
  return g


def together(members: Sequence[dict[str, Any]]) -> dict[str, Any]:
  """The parameters of a network with these members, without `squeezenet`."""
  return _stacked(members) if len(members) > 1 else members[0]


def trained(params: dict[str, Any]) -> dict[str, Any]:
  """The parameters of a network without those that nothing trains, `squeezenet`."""
  return {name: leaf for name, leaf in params.items() if name != 'squeezenet'}


def apart(model: Repair, params: dict[str, Any]) -> list[dict[str, Any]]:
  """The parameters of each member, without `squeezenet`."""
  params = trained(params)
  if model.members == 1:
    return [params]
  return [jax.tree.map(lambda leaf, i=i: leaf[i], params) for i in range(model.members)]


def _stacked(trees):
  return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def untrained_squeezenet() -> dict[str, Any]:
  """Zeros in the layout of the parameters `squeezenet`."""
  shapes = features.squeezenet_shapes()
  flat = {name: jnp.zeros(s) for name, s in shapes.items() if not name.startswith('conv10/')}
  return unflatten_dict(flat, sep='/')


def unmasked(params: dict[str, Any]) -> dict[str, Any]:
  """The parameters of a network that does not see what it gets as mask and trust."""
  kernel = jnp.asarray(params['conv_in']['kernel'])  # of 2x2 pixels with 8 channels each
  split = kernel.reshape(*kernel.shape[:2], 4, 8, kernel.shape[-1]).at[:, :, :, 6:].set(0)
  return params | {'conv_in': params['conv_in'] | {'kernel': split.reshape(kernel.shape)}}


def look(model: Repair, params: Any, photo: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Cleans a photo of which nothing is known, and finds its damage.

  Args:
    params: State.released.
    photo: [B, H, W, 3] in [-1, 1]; H and W multiples of `model.multiple`.

  Returns:
    The clean photo [B, H, W, 3] in [-1, 1], the probability of damage [B, H, W, 1], and the scale
    of the error that is expected [B, H, W, 1], in units of [-1, 1].
  """
  nothing = jnp.zeros_like(photo[..., :1])
  residual, logit, scale = _answers(model, params, photo, photo, nothing, nothing)
  clean, probability = photo + residual.mean(0), jax.nn.sigmoid(logit).mean(0)
  return jnp.clip(clean, -1, 1), probability, jnp.exp(scale).mean(0)


def fill(
  model: Repair, params: Any, photo: jax.Array, mask: jax.Array, trust: jax.Array | float = 1.0
) -> jax.Array:
  """Fills what `mask` marks, and cleans the rest.

  Args:
    params, photo: as for `look`.
    mask: [B, H, W, 1] in [0, 1], 1 = damaged.
    trust: how far to believe the mask, 1 a person's, 0.5 a detector's; a number or [B, 1, 1, 1].

  Returns:
    [B, H, W, 3] in [-1, 1].
  """
  trust = jnp.broadcast_to(trust, mask.shape).astype(photo.dtype)
  return answer(model, params, *starts(photo, mask * trust), mask, trust)[0]


def clean(model: Repair, params: Any, photo: jax.Array) -> jax.Array:
  """Cleans a photo by a cleaner, [B, H, W, 3] in [-1, 1]; arguments as for `look`."""
  return answer(model, params, photo, photo, *_levels(photo))[0]


def _levels(photo: jax.Array) -> list[jax.Array]:
  """The noise as the mask and the trust that a cleaner gets, [B, H, W, 1] each."""
  levels = jnp.broadcast_to(noise.measure(photo)[:, None, None], (*photo.shape[:3], 2))
  return jnp.split(levels, 2, -1)


def starts(photo: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
  """What `answer` takes of a photo with holes, [B, H, W, 3] each: as it is shown, and prefilled.

  Args:
    photo: as for `look`.
    mask: [B, H, W, 1], above 0 = hole, 1 = a person says so, and what it shows is lost.
  """
  filled = prefill(photo, mask > 0)
  return shown(photo, filled, mask >= 1), filled


def shown(photo: jax.Array, filled: jax.Array, lost: jax.Array) -> jax.Array:
  """The photo, but of what is `lost` only what agrees with its surroundings; [B, H, W, 3].

  Through a faint crease or a stain the content shows; paint and bare paper hide it, and what they
  show misleads the network. So each hole is shown as far as its luma correlates with the prefill
  there (Pearson, over what is lost in a window); the rest is the prefill. Ours; measured in
  benchmarks/prints. What a detector found may be sound, and is shown as it is.

  Args:
    photo, filled: of `starts`.
    lost: bool [B, H, W, 1].
  """
  # Most photos have only what was found, and nothing to hide.
  return lax.cond(lost.any(), _hidden, lambda photo, *_: photo, photo, filled, lost)


def _hidden(photo, filled, lost):
  lost = lost.astype(photo.dtype)
  a, b = (x.mean(-1, keepdims=True) * lost for x in (photo, filled))
  # Planes, as in prefill.
  sums = jnp.concatenate([lost, a, b, a * a, b * b, a * b], -1).transpose(0, 3, 1, 2)
  for window in ((1, 1, WINDOW, 1), (1, 1, 1, WINDOW)):
    sums = lax.reduce_window(sums, 0.0, lax.add, window, (1, 1, 1, 1), 'SAME')
  count, *sums = jnp.split(sums.transpose(0, 2, 3, 1), 6, -1)
  a, b, aa, bb, ab = (x / jnp.maximum(count, 1) for x in sums)
  spread = jnp.maximum(aa - a * a, 0) * jnp.maximum(bb - b * b, 0)
  agreement = jnp.clip((ab - a * b) / jnp.sqrt(spread + FLAT), 0, 1)
  return photo + lost * (1 - agreement) * (filled - photo)


def answer(
  model: Repair, params: Any, seen: jax.Array, filled: jax.Array, mask: jax.Array, trust: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """`look` and `fill` by one program: given the photo twice and an empty mask it is `look`.

  Args:
    params, mask: as for `fill`.
    seen, filled: of `starts`, [B, H, W, 3].
    trust: [B, H, W, 1].

  Returns:
    The restored photo [B, H, W, 3] in [-1, 1], and the probability of damage [B, H, W, 1].
  """
  residual, logit, _ = _answers(model, params, seen, filled, mask, trust)
  return jnp.clip(filled + residual.mean(0), -1, 1), jax.nn.sigmoid(logit).mean(0)


def _answers(model, params, photo, filled, mask, trust):
  """Residual, logit and scale of each member, [members, B, H, W, C]."""
  inputs = [photo, filled, mask, trust]
  if model.squeezenet:
    flat = flatten_dict(params['squeezenet'], sep='/')
    maps = features.squeezenet_pyramid(flat, photo)[: len(model.widths)]
    inputs.append(lax.stop_gradient(maps))
    params = trained(params)
  one = lambda params: model.net.apply({'params': params}, *inputs)
  # A loop, so that a member is compiled once.
  out = lax.map(one, params) if model.members > 1 else one(params)[None]
  return out[..., :3], out[..., 3:4], out[..., 4:]


def train_step(
  model: Repair, state: State, constants: Any, batch: dict[str, jax.Array], keys: jax.Array
) -> tuple[State, dict[str, jax.Array]]:
  """One update, as one device of the axis averaging.AXIS sees it.

  Every other example is told its damage, if the model `tells`; the others have to find it.

  Args:
    model: hyper-parameters.
    state: replicated.
    constants: 'squeezenet', if the model sees its maps; 'teacher', the released parameters of the
      model's teacher, if it has one, without 'squeezenet' if both see the same maps, which are then
      computed once.
    batch: 'old' and 'clean' [b, S, S, 3] in [-1, 1], b even; 'damage' [b, S, S, 1] in [0, 1], what
      has to be found; 'known' [b, S, S, 1], 1 where `clean` is true, and 'judged' where `damage`
      is; 'told' [b, S, S, 1] in [0, 1], the mask that a told example gets, and 'trust'
      [b, 1, 1, 1] in it. For a model with a teacher also 'sound', of `taught`.
    keys: unused: this step draws nothing.

  Returns:
    The new state, and every loss term by name (unweighted) with the gradient norm.
  """
  del keys
  if model.teacher is not None:
    shared = _fixed(constants) if model.teacher.squeezenet else {}
    teacher = shared | constants['teacher']
    batch = batch | taught(model.teacher, teacher, batch['old'], batch['sound'])
  batch = _with_prefilled(batch) if model.tells else _without_masks(batch, model.measures)
  counts = {
    name: averaging.pmean(batch[name].sum() / batch[name].size)
    for name in ('known', 'judged', 'holes')
  }

  def loss(g):
    terms = loss_terms(model, g | _fixed(constants), batch, counts)
    return losses.total(terms, model.weights), terms

  grad, terms = averaging.pmean(jax.grad(loss, has_aux=True)(state.g))
  return state.apply(model, grad), terms | {'norm': averaging.global_norm(grad)}


def _fixed(constants):
  """The constants that are parameters of the network itself, not of its teacher."""
  return {name: leaf for name, leaf in constants.items() if name != 'teacher'}


def taught(
  teacher: Repair, params: Any, photo: jax.Array, sound: jax.Array
) -> dict[str, jax.Array]:
  """What a teacher finds, in the place of what was labelled: 'damage' and 'judged' [B, H, W, 1].

  Distillation (Hinton et al. 2015): one network learns the probabilities of several. The teacher
  also looks at the photo's mirror image in gray, and the two answers are averaged (data
  distillation, Radosavovic et al. 2018): together they are better than either (benchmarks/prints).
  Its false alarms are not learnt where it is known that there is no damage.

  Args:
    teacher, params: as for `look`.
    photo: [B, H, W, 3] in [-1, 1].
    sound: [B, H, W, 1], 1 where nothing is damaged for certain, else 0.
  """
  gray = jnp.broadcast_to(luma(photo), photo.shape)
  found = look(teacher, params, photo)[1]
  mirrored = look(teacher, params, gray[:, :, ::-1])[1][:, :, ::-1]
  damage = lax.stop_gradient((1 - sound) * (found + mirrored) / 2)
  return {'damage': damage, 'judged': jnp.ones_like(damage)}


def _with_prefilled(batch):
  """Adds 'seen', 'filled', 'mask' and 'trust' as the network gets them; odd examples: no mask."""
  told = jnp.where(batch['told'][0::2] > 0.05, batch['told'][0::2], 0.0)
  old = batch['old']
  trust = jnp.broadcast_to(batch['trust'][0::2], told.shape)
  seen, filled = starts(old[0::2], told * trust)
  rows = lambda a, b: jnp.stack([a, b], 1).reshape(-1, *a.shape[1:])
  nothing = jnp.zeros_like(told)
  mask = rows(told, nothing)
  return batch | {
    'seen': rows(seen, old[1::2]),
    'filled': rows(filled, old[1::2]),
    'mask': mask,
    'trust': rows(trust, nothing),
    'holes': mask * batch['known'],
  }


def _without_masks(batch, measures):
  nothing, old = jnp.zeros_like(batch['told']), batch['old']
  mask, trust = _levels(old) if measures else (nothing, nothing)
  return batch | {'seen': old, 'filled': old, 'mask': mask, 'trust': trust, 'holes': nothing}


def loss_terms(model: Repair, g, batch, counts) -> dict[str, jax.Array]:
  """The terms that have a weight, by name; of several members, their means.

  `counts`: mean over all devices of 'known', 'judged' and 'holes', by which sums are divided.
  """
  answers = _answers(model, g, *(batch[name] for name in ('seen', 'filled', 'mask', 'trust')))
  terms = jax.vmap(partial(_loss_terms, model, batch, counts))(*answers)
  return {name: term.mean() for name, term in terms.items()}


def _loss_terms(model, batch, counts, residual, logit, scale):
  answer, clean, known = batch['filled'] + residual, batch['clean'], batch['known']
  error = jnp.abs(answer - clean).mean(-1, keepdims=True)

  def mean(x, name, weight):
    return (x * weight).mean() / jnp.maximum(counts[name], 1e-4)

  terms = {}
  if model.weights['l1'] > 0:
    terms['l1'] = mean(error, 'known', known)
  if model.weights['hole_l1'] > 0:
    terms['hole_l1'] = mean(error, 'holes', batch['holes'])
  if model.weights['gradient'] > 0:
    wrong = answer - clean
    terms['gradient'] = 0.0
    for axis in (1, 2):
      step = jnp.abs(jnp.diff(wrong, axis=axis)).mean(-1, keepdims=True)
      n = step.shape[axis]
      weight = jax.lax.slice_in_dim(batch['holes'], 0, n, axis=axis)
      weight *= jax.lax.slice_in_dim(known, 1, n + 1, axis=axis)
      terms['gradient'] += mean(step, 'holes', weight)
  if model.weights['bce'] > 0:
    cost = optax.sigmoid_binary_cross_entropy(logit, batch['damage'])
    terms['bce'] = mean(cost, 'judged', batch['judged'])
  if model.weights['dice'] > 0:
    terms['dice'] = dice(jax.nn.sigmoid(logit), batch['damage'], batch['judged'])
  if model.weights['error'] > 0:
    # The likelihood of a Laplace distribution (Kendall and Gal 2017); it moves the scale only.
    # Sound photos have no error at all: without a smallest scale, one bad pixel would then outweigh
    # all else in the gradient.
    scale = jnp.maximum(scale, SURE)
    likelihood = jax.lax.stop_gradient(error) * jnp.exp(-scale) + scale
    terms['error'] = mean(likelihood, 'known', known)
  return terms


def dice(found, damage, judged) -> jax.Array:
  """1 - 2 sum(p m) / (sum(p^2) + sum(m^2)) of each photo (Milletari et al. 2016), averaged.

  Over the pixels that are `judged`. Photos with less than DAMAGED count as 0: all that this loss
  could teach there is to mark nothing, faster than anything else.
  """
  mean = lambda x: (x * judged).mean((1, 2, 3))
  both, p, m = mean(found * damage), mean(found * found), mean(damage * damage)
  cost = 1 - (2 * both + SMOOTHING) / (p + m + SMOOTHING)
  return jnp.where(mean(damage) >= DAMAGED, cost, 0.0).mean()


def eval_step(
  model: Repair, state: State, constants: Any, batch: dict[str, jax.Array]
) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
  """Looks at the batch without masks, then fills its true damage.

  Returns:
    Per-example scores [b]: 'psnr' without a mask, 'psnr_told' with the true one, 'psnr_old' of
    doing nothing, 'f1' of the damage found with probability 1/2 or more; images {'old', 'restored',
    'told', 'clean', 'damage', 'found'} [b, S, S, 3] in [-1, 1].
  """
  params = state.released | _fixed(constants)
  old, truth, damage = batch['old'], batch['clean'], batch['damage']
  restored, found, _ = look(model, params, old)
  if model.measures:
    told = restored = clean(model, params, old)
  else:
    told = fill(model, params, old, (damage > 0.25).astype(old.dtype))
  psnr = lambda photo: psnr_ssim.psnr(photo, truth)
  mean = lambda x: x.mean((1, 2, 3), dtype=jnp.float32)
  marked, true = found >= 0.5, damage >= 0.5
  scores = {
    'psnr': psnr(restored),
    'psnr_told': psnr(told),
    'psnr_old': psnr(old),
    'f1': (2 * mean(marked & true) + SMOOTHING) / (mean(marked) + mean(true) + SMOOTHING),
  }
  gray = lambda x: jnp.broadcast_to(2 * x - 1, old.shape)
  images = {'old': old, 'restored': restored, 'told': told, 'clean': truth}
  return scores, images | {'damage': gray(damage), 'found': gray(found)}


def sizes(model: Repair) -> dict[str, Any]:
  """What a file of weights has to say about the network, as JSON values."""
  sizes = {'widths': list(model.widths), 'blocks': model.blocks}
  if model.squeezenet:
    sizes['squeezenet'] = True
  return sizes | {'members': model.members} if model.members > 1 else sizes


def from_sizes(sizes: dict[str, Any]) -> Repair:
  """The model that `sizes` describes, to restore with.

  Raises:
    KeyError: if a size is missing.
  """
  return Repair(
    widths=tuple(sizes['widths']),
    blocks=sizes['blocks'],
    squeezenet=sizes.get('squeezenet', False),
    members=sizes.get('members', 1),
  )


def networks(sizes: dict[str, Any]) -> Networks:
  """What weights of these sizes can do; see `from_sizes` for what it raises."""
  model = from_sizes(sizes)
  finder = from_sizes(sizes['finder']) if 'finder' in sizes else None
  if finder is not None:  # so small a network gains a tenth by products, and compiles for longer
    finder = dataclasses.replace(finder, products=False)
  cleans = sizes.get('cleaner', False)
  fading = tone.from_sizes(sizes['tone']) if 'tone' in sizes else None

  def init_all(key):
    params = {'repair': init(model, key).g}
    if finder is not None:
      params['finder'] = init(finder, key).g
      if finder.squeezenet:
        params['finder'] |= {'squeezenet': untrained_squeezenet()}
    if cleans:
      params['cleaner'] = init(model, key).g
    return params if fading is None else params | {'tone': tone.init(fading, key).g}

  def find(params, photo):
    return look(finder, params['finder'], photo)[1]

  def look_at(params, photo):
    clean, found, _ = look(model, params['repair'], photo)
    return clean, found if finder is None else find(params, photo)

  def restore(params, photo):
    if cleans:
      return clean(model, params['cleaner'], photo)
    return look(model, params['repair'], photo)[0]

  def fill_holes(params, photo, mask):
    trust = mask.max((1, 2, 3), keepdims=True)
    holes = (mask > 0).astype(photo.dtype)
    return (fill(model, params['repair'], photo, holes, trust),) * 2

  def correction(params, thumbnail, weight):
    return tone.correction(fading, params['tone'], thumbnail, weight)

  return Networks(
    init=init_all,
    apply=restore,
    multiple=max(net.multiple for net in (model, finder) if net is not None),
    layerwise=False,
    fill=fill_holes,
    look=look_at,
    correction=None if fading is None else correction,
    answer=lambda params, *arrays: answer(model, params['repair'], *arrays),
    prefill=lambda photo, mask: prefill(photo, mask > 0),
    shown=lambda photo, filled, mask: shown(photo, filled, mask >= 1),
    find=None if finder is None else find,
    cleaning=(lambda params: params | {'repair': params['cleaner']}) if cleans else None,
  )
