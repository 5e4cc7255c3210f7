"""The system repair: a network that finds, fills and cleans, and a small one that revives tones.

Two more are as the first, but have one task: a smaller `finder`, which also sees the maps of
SqueezeNet, and a `cleaner`.
"""

import dataclasses
from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.traverse_util import unflatten_dict
from ml_collections import ConfigDict

from oldphoto_jax import data, weights
from oldphoto_jax.data import prints
from oldphoto_jax.degradation import damage, distractors, examples, photographic, recipes, worn
from oldphoto_jax.errors import ConfigError
from oldphoto_jax.models import repair, state, tone
from oldphoto_jax.nn.prefill import prefill
from oldphoto_jax.systems import build, frozen, splits, system
from oldphoto_jax.training import train
from oldphoto_jax.weights import classifiers

PACKAGE = 'package'  # as finder.squeezenet or finder.teacher: that in the weights of the package
VISIBLE = 0.2  # in [-1, 1], least change by the damage of a print that is to be found
MARGIN = 4  # pixels around drawn damage in which a teacher's finds are no false alarms
EXACT = 0.67  # share of the masks that are as a person draws them; the others are as of a detector


def model(config: ConfigDict, stage: str = 'repair') -> repair.Repair:
  """The network that finds, fills and cleans; of 'finder' and 'cleaner', the one for one task.

  Raises:
    ConfigError: for a loss term that does not exist, or a crop or batch that does not fit.
  """
  m, c = config.model, config[stage]
  if stage == 'finder' and c.members < 1:
    raise ConfigError(f'finder.members is {c.members}: set 1 or more')
  net = repair.Repair(
    widths=tuple(c.widths if stage == 'finder' else m.widths),
    blocks=m.blocks,
    weights=build.weights(c.weights, repair.WEIGHTS),
    ema=c.ema,
    g_tx=optax.chain(optax.clip_by_global_norm(c.clip), build.adam(c, c.lr, c.steps)),
    dtype=build.dtype(m.dtype),
    tells=stage == 'repair',
    measures=stage == 'cleaner',
    squeezenet=stage == 'finder' and bool(c.squeezenet),
    members=c.members if stage == 'finder' else 1,
  )
  build.check_crops(config, net.multiple)
  if net.tells and c.batch_size % (2 * jax.device_count()):
    raise ConfigError(
      f'repair.batch_size is {c.batch_size}: every other example of a device gets a mask, so set '
      f'a multiple of {2 * jax.device_count()}'
    )
  return net


def tone_model(config: ConfigDict) -> tone.Tone:
  """The network that revives tones."""
  c = config.tone
  return tone.Tone(
    width=c.width,
    weights=build.weights(c.weights, tone.WEIGHTS),
    ema=c.ema,
    g_tx=optax.chain(optax.clip_by_global_norm(c.clip), build.adam(c, c.lr, c.steps)),
  )


def recipe(config: ConfigDict, shares: ConfigDict) -> recipes.Shares:
  """How clean photos are damaged: each by one recipe, as often as `shares` says.

  Raises:
    ConfigError: for an unknown recipe, or no shares at all.
  """
  d = config.distractors
  distracted = partial(distractors.Distracted, lines=d.lines, border=d.border)
  known = {
    'worn': distracted(build.recipe('worn', config.data.overlays)),
    'print': damage.Print(),
    'report': recipes.Report(),
    'wan2020': recipes.Wan2020(),
    'sound': distracted(worn.Sound()),
    'faded': worn.Faded(),
  }
  unknown = sorted(set(shares) - set(known))
  if unknown:
    raise ConfigError(
      f'there is no recipe {unknown[0]!r} in shares: choose from {", ".join(known)}'
    )
  used = {name: share for name, share in shares.items() if share > 0}
  if not used:
    raise ConfigError('all shares are 0: give at least one recipe a share')
  total = sum(used.values())
  return recipes.Shares(
    tuple(known[name] for name in used), tuple(share / total for share in used.values())
  )


def prepare(
  clean: recipes.Recipe,
  over: Callable[[jax.Array, jax.Array, jax.Array], recipes.Aged] | None,
  p_over: float,
  p_retoned: float,
) -> Callable[[dict, jax.Array], dict]:
  """Batches of prints.CleanAndPrints as repair.train_step takes them.

  Args:
    clean: damages clean photos.
    over: Worn.over, for prints that are old already, with probability `p_over`; None if there are
      none.
    p_over: see `over`.
    p_retoned: probability that a print gets other tones first, so that few prints do for many; also
      one whose damage is moved.
  """

  def one(key, image, damaged, ignored, donor, moved, is_print):
    over_key, key, told_key, moved_key, *tone_keys = jax.random.split(key, 6)
    image, donor = photographic.from_levels(image), photographic.from_levels(donor)
    damaged, ignored, moved = (x.astype(jnp.float32) / 255 for x in (damaged, ignored, moved))

    # Clean photos keep their tones, and have no damage of their own.
    host = examples.when(is_print, partial(_retoned, p_retoned, tone_keys[0]), image)
    moved_here = moved * (1 - _widened(jnp.maximum(damaged, ignored), 2))

    def with_damage(photo):
      other = _retoned(p_retoned, tone_keys[1], donor)
      return _transplanted(moved_key, photo, other, moved, moved_here)

    photo = examples.when(moved.any(), with_damage, host)

    def new_photo():
      old, truth, mask = clean(key, photo)
      seen = jnp.abs(photo - host).max(-1, keepdims=True) > VISIBLE
      return old, truth, jnp.maximum(mask, moved * seen)

    def old_print():
      def damaged_again(carry):
        photo, truth, mask = carry
        more = over(key, photo, truth)
        return more.old, more.clean, jnp.maximum(mask, more.mask)

      used = jax.random.bernoulli(over_key, p_over)
      return examples.when(used, damaged_again, (photo, host, moved_here))

    if over is None:
      old, truth, mask = clean(key, image)
    else:
      old, truth, mask = examples.switch(is_print.astype(int), [new_photo, old_print])
    # Of a print, only what was damaged here has a true value; and nobody drew masks to the pixel.
    lost = jnp.maximum(mask, damaged)
    rim = lambda drawn: _widened(drawn, 1) * (1 - drawn) * (mask < 0.5)
    sound = 1 - jnp.maximum(_widened(damaged, 2), ignored)
    # Of a clean photo, all but what lies below the damage of a print.
    unseen = moved * (mask < 0.5)
    # It has no damage but what was laid over it, and a finder marks that a little wider.
    around = _widened((jnp.maximum(lost, moved) > 0).astype(jnp.float32), MARGIN)
    given, trust = _told(told_key, (lost > 0.25).astype(jnp.float32))
    return {
      'old': old,
      'clean': truth,
      'damage': lost,
      'known': jnp.where(is_print, sound * (mask > 0), 1 - _widened(moved, 2)),
      'judged': 1 - jnp.where(is_print, jnp.maximum(rim(damaged), ignored), unseen + rim(moved)),
      'sound': jnp.where(is_print, 0.0, 1 - around),
      'told': given,
      'trust': trust,
    }

  names = ('image', 'damaged', 'ignored', 'donor', 'moved', 'is_print')

  def prepare(batch, keys):
    return examples.each(one, keys, *(batch[name] for name in names))

  return prepare


def _retoned(p_retoned, key, photo):
  """A print [S, S, 3] as another paper, age or scanner might have shown it; ranges set by eye."""
  retoned_key, gray_key, gain_key, tint_key = jax.random.split(key, 4)
  gain, gamma, pivot, black, white = jax.random.uniform(gain_key, (5,))
  gray = jax.random.bernoulli(gray_key, 0.4)
  toned = photographic.desaturate(photo, jnp.where(gray, 1.0, 0.0))
  pivot = 0.6 * pivot - 0.3
  toned = (pivot + 2.5 ** (2 * gain - 1) * (toned - pivot)).clip(-1, 1)
  # A softer or faded paper reaches neither black nor white.
  toned = photographic.fade(toned, 0.25 * black**2, 1 - 0.3 * white**2, 1.6 ** (2 * gamma - 1))
  tint = jnp.exp(0.04 * jax.random.normal(tint_key, (3,)))
  toned = photographic.tint(toned, tint / tint.max())
  return jnp.where(jax.random.bernoulli(retoned_key, p_retoned), toned, photo)


def _transplanted(key, photo, donor, damaged, here):
  """A print [S, S, 3] with another's damage, [S, S, 1], on the pixels `here` of it.

  Half of the time in its own colours, as paint or bare paper; else by the change that it made to
  the donor, as a crease or a veil through which the content shows.
  """
  filled = prefill(donor[None], _widened(damaged, 1)[None] > 0)[0]
  covering = jax.random.bernoulli(key)
  change = jnp.where(covering, donor - photo, donor - filled)
  # A label ends at a pixel, the damage below it does not.
  return (photo + photographic.soft_blur(here, 0.5) * change).clip(-1, 1)


def _told(key, holes):
  """The mask [S, S, 1] that a person or a detector would draw, and the trust in it [1, 1, 1].

  Some are exact but for a pixel of growth, and fully trusted. The others lack parts, are grown, and
  mark blobs of sound pixels.
  """
  keys = jax.random.split(key, 5)
  height, width, _ = holes.shape

  def patches(key, cells, share):
    """Blobs of a coarse noise that cover about `share` of the photo."""
    noise = jax.random.uniform(key, (cells, cells, 1))
    noise = jax.image.resize(noise, (height, width, 1), 'cubic')
    return (noise > jnp.quantile(noise, 1 - share)).astype(jnp.float32)

  drawn = holes * (1 - patches(keys[1], 8, 0.25))
  drawn = jnp.maximum(drawn, patches(keys[2], 14, 0.02))
  grown = _widened(drawn, 1)
  grown = jnp.where(jax.random.bernoulli(keys[3]), _widened(grown, 1), grown)
  rim = jnp.where(jax.random.bernoulli(keys[4]), _widened(holes, 1), holes)
  exact = jax.random.bernoulli(keys[0], EXACT)
  return jnp.where(exact, rim, grown), jnp.where(exact, 1.0, 0.5)[None, None, None]


def _widened(mask, pixels):
  side = 2 * pixels + 1
  return nn.max_pool(mask[None], (side, side), (1, 1), 'SAME')[0]


def prepare_eval(recipe: recipes.Recipe) -> Callable[[dict, jax.Array], dict]:
  """Validation photos, damaged by `recipe`."""
  pairs = build.prepare_pairs(recipe)

  def prepare(batch, keys):
    batch = pairs(batch, keys)
    return {'old': batch['old'], 'clean': batch['clean'], 'damage': batch['mask']}

  return prepare


def stages(
  config: ConfigDict, photos: splits.Photos, networks: frozen.Networks
) -> dict[str, Callable[[], train.Stage]]:
  """The stages; see system.trained."""

  def stage(name):
    source, init = stream(config, photos, name), started(config, name, networks)
    return repair_stage(config, photos, source, name, init)

  return {
    'finder': partial(stage, 'finder'),
    'repair': partial(stage, 'repair'),
    'cleaner': partial(stage, 'cleaner'),
    'tone': partial(_tone_stage, config, photos),
  }


def stream(
  config: ConfigDict, photos: splits.Photos, stage: str = 'repair'
) -> prints.CleanAndPrints:
  """The clean photos and labelled prints that a stage learns from; prints teach no cleaning.

  Raises:
    UserError: there are prints without labels, or they do not fit together.
  """
  d = config.data
  labelled = prints.NONE
  if d.labels and stage != 'cleaner':
    labelled = prints.prints(build.names(d.labels), build.names(d.prints))
  elif d.prints and not d.labels:
    raise ConfigError('data.prints has no labels: set data.labels, or leave both empty')
  return prints.CleanAndPrints(
    photos.train,
    labelled,
    build.crop(d),
    data.Crop(size=d.crop, scale=tuple(d.print_scale), flip=d.flip),
    d.p_print if len(labelled) else 0.0,
    d.p_transplant,
    d.p_transplant_clean,
  )


def repair_stage(
  config: ConfigDict,
  photos: splits.Photos,
  source: prints.CleanAndPrints,
  name: str = 'repair',
  init: Callable | None = None,
) -> train.Stage:
  """The stage 'repair', 'finder' or 'cleaner'.

  Args:
    config, photos: of the run.
    source: what it learns from.
    name: of the stage.
    init: key -> the state that it begins with; None: a network that has learnt nothing.
  """
  d = config.data
  shares = config.shares if name == 'repair' else config[name].shares
  net, mixture = model(config, name), recipe(config, shares)
  constants = squeezenet(config) if net.squeezenet else {}
  if name == 'finder' and config.finder.teacher:
    teacher, params = taught_by(config)
    net = dataclasses.replace(net, teacher=teacher)
    if constants and _same(constants['squeezenet'], params.get('squeezenet')):
      params = repair.trained(params)
    constants |= {'teacher': params}
  worn_prints = build.recipe('worn', d.overlays)
  assert isinstance(worn_prints, worn.Worn)
  over = worn_prints.over if len(source.prints) else None
  return build.stage(
    repair,
    net,
    config,
    photos,
    name,
    init=init,
    constants=constants,
    stream=source,
    prepare=prepare(mixture, over, d.p_over, d.p_retoned),
    prepare_eval=prepare_eval(worn_prints if shares.get('worn') else mixture),
    score='f1' if name == 'finder' else 'psnr',
    columns=('old', 'restored', 'told', 'clean', 'damage', 'found'),
  )


def started(
  config: ConfigDict, stage: str, networks: frozen.Networks | None = None
) -> Callable[[jax.Array], state.State] | None:
  """An init of 'repair', 'finder' or 'cleaner' from trained parameters; None where there are none.

  They are those of the weights that `start` names. A first cleaner begins as the network that
  finds, fills and cleans: as that of these weights, or else of `networks`, those of the run.

  Raises:
    ConfigError: the weights of `start` are of another system.
    WeightsError: they do not fit.
  """
  net = model(config, stage)
  held = weights.load(config.start) if config.start else weights.Weights('repair', {}, {})
  if held.system != 'repair':
    raise ConfigError(f'start: {config.start} holds the system {held.system}, not repair')
  params = held.params.get(stage)
  if params is None and stage == 'cleaner':
    params = held.params.get('repair')
    if params is None and networks is not None and networks.has('repair'):
      params = networks.of('repair', model(config), repair.init)
    params = params and repair.unmasked(params)
  if params is None:
    return None
  params = repair.trained(params)
  like = jax.eval_shape(partial(repair.init, net), jax.random.key(0)).g
  weights.check_shapes(params, like, config.start)
  return lambda key: state.start(net, jax.tree.map(jnp.asarray, params))


def squeezenet(config: ConfigDict) -> dict[str, dict]:
  """The network whose maps a finder sees, as {'squeezenet': parameters}.

  Raises:
    WeightsError: the file of `finder.squeezenet` is missing, or does not hold it.
  """
  if config.finder.squeezenet == PACKAGE:
    return {'squeezenet': weights.load(weights.SHIPPED).params['finder']['squeezenet']}
  flat = classifiers.load_squeezenet(config.finder.squeezenet)
  flat = {name: leaf for name, leaf in flat.items() if not name.startswith('conv10/')}
  return {'squeezenet': unflatten_dict(flat, sep='/')}


def taught_by(config: ConfigDict) -> tuple[repair.Repair, dict]:
  """The finder of the weights `finder.teacher`, and its parameters.

  Raises:
    ConfigError: these weights have no finder, or a crop does not fit it.
    WeightsError: they cannot be read.
  """
  name = config.finder.teacher
  held = weights.load(weights.SHIPPED if name == PACKAGE else name)
  if 'finder' not in held.params:
    raise ConfigError(f'finder.teacher: {name} holds no finder; give weights of repair with one')
  teacher = repair.from_sizes(held.model['finder'])
  build.check_crops(config, teacher.multiple)
  return teacher, held.params['finder']


def _same(a, b) -> bool:
  alike = jax.tree.structure(a) == jax.tree.structure(b)
  return alike and jax.tree.all(jax.tree.map(np.array_equal, a, b))


def _tone_stage(config: ConfigDict, photos: splits.Photos) -> train.Stage:
  # A square of the side of a photo that is shrunk as far as it goes: nearly the whole photo.
  whole = data.Crop(size=tone.SIDE, scale=(0.01, 0.1), flip=config.data.flip)
  return build.stage(
    tone,
    tone_model(config),
    config,
    photos,
    'tone',
    stream=data.Photos(photos.train, whole),
    prepare=build.prepare_pairs(recipe(config, config.tone.shares)),
    prepare_eval=build.prepare_pairs(worn.Faded()),
    columns=('old', 'restored', 'clean'),
    eval_crop=tone.SIDE,
  )


def release(config: ConfigDict, networks: frozen.Networks) -> weights.Weights:
  """All networks. Without one for tones, these stay; what finder or cleaner do not, `repair` does.

  Those that were not trained here come from the weights of `start`, if they hold them.
  """
  net, sizes = model(config), {}
  params = {'repair': networks.of('repair', net, repair.init)}
  if networks.has('finder'):
    finder = model(config, 'finder')
    fixed = squeezenet(config) if finder.squeezenet else {}
    params['finder'] = networks.of('finder', finder, repair.init) | fixed
    sizes['finder'] = repair.sizes(finder)
  if networks.has('cleaner'):
    params['cleaner'] = networks.of('cleaner', model(config, 'cleaner'), repair.init)
    sizes['cleaner'] = True
  if networks.has('tone'):
    fading = tone_model(config)
    params['tone'] = networks.of('tone', fading, tone.init)
    sizes['tone'] = tone.sizes(fading)
  if config.start:
    held = weights.load(config.start)
    for name in sorted({'finder', 'cleaner', 'tone'} & set(held.params) - set(params)):
      params[name], sizes[name] = held.params[name], held.model[name]
  return weights.Weights('repair', repair.sizes(net) | sizes, params)


def check(config: ConfigDict) -> None:
  """Raises ConfigError for real old photos without labels, whose damage nobody has marked."""
  if config.data.old:
    raise ConfigError(
      'repair learns from damage that it knows: leave data.old empty, and give prints whose damage '
      'is marked as data.prints with data.labels'
    )


SYSTEM = system.trained('repair', stages=stages, release=release, needed=('repair',), check=check)
