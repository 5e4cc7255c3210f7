"""Runs networks that need the whole photo on photos of any size: layer by layer, over all tiles.

Instance norm takes the mean and the variance of a map over the whole photo. A tile restored by
itself would be normalised by its own statistics: a dark tile and a light one would come out alike.
And at the bottom of a U-Net, the edge of a tile affects its middle. Therefore the layers up to a
norm are run on all tiles, which gives the statistics of that norm, before any tile goes on. Maps
that later layers need stay in the host's memory for the whole photo, and the device holds one tile
at a time. Every layer is computed once, except for maps that are too large to keep.

Networks need not be rewritten for this: the program that JAX traces is cut at the marks that
layers.instance_norm, layers.ResnetBlock and the batch norms of gan_networks leave in it. Steps that
must see the whole of a map, and are no norms, are known by the names of their jitted functions
(WHOLE). They run once over the map of the whole photo, so the device must hold it.
"""

import functools
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Var, jaxpr_as_fun

from oldphoto_jax.models import patch_attention
from oldphoto_jax.nn import layers
from oldphoto_jax.restoring import shapes, tiles

# Maps of up to this many bytes per pixel of the photo are kept: 32 channels of float32 at full
# resolution, 128 at half, 512 at a quarter. Larger ones are computed again when needed.
KEPT = 128

# Their arguments must be marked maps, and their result one map.
WHOLE = (patch_attention.copy_patches.__name__,)


class Network:
  """A network compiled for photos of any size, whose instance norms see the whole photo.

  All other layers between two marks must be local, but for those of WHOLE: other attention would
  see only one tile, and dropout draws separately for each tile.
  """

  def __init__(self, apply: Callable[[Any, jax.Array], jax.Array], params: Any, grid: int):
    """`apply`: (params, [1, H, W, D]) -> [1, H, W, C], for H and W that are multiples of `grid`."""
    self._apply, self._params, self.grid = apply, jax.device_put(params), grid
    self._run = jax.jit(apply)
    self._run_padded = jax.jit(self._normalised_by_part)
    self._cut = functools.cache(self._trace)

  def __call__(self, photos: np.ndarray) -> np.ndarray:
    """The unchanged network: [1, H, W, D] to [1, H, W, C]."""
    return np.asarray(self._run(self._params, photos))

  def restore(self, photo: np.ndarray, shape: tuple[int, int], overlap: int) -> np.ndarray:
    """One photo of any size: float32 [H, W, D] to [H, W, C].

    Args:
      photo: norms take their statistics from it, without the padding.
      shape: the photo is padded to this height and width. A larger photo is split into tiles of
        this shape; layers on reduced maps use larger tiles, without more memory.
      overlap: pixels by which tiles overlap. If layers between two norms see no more than half of
        them to either side, tiling changes only the rounding.
    """
    height, width = size = photo.shape[:2]
    if height > shape[0] or width > shape[1]:
      padded = shapes.pad(photo, tuple(shapes.bucket(side, self.grid) for side in size))
      restored = self._in_tiles(padded, size, shape, overlap)
    elif size == tuple(shape):
      restored = self(photo[None])[0]
    else:
      padded = shapes.pad(photo, shape)[None]
      restored = np.asarray(self._run_padded(self._params, padded, np.array(size)))[0]
    return restored[:height, :width]

  def _in_tiles(
    self, padded: np.ndarray, size: tuple[int, int], tile: tuple[int, int], overlap: int
  ) -> np.ndarray:
    """`restore` for a photo of sides `size` that was padded to multiples of the grid."""
    whole = padded.shape[:2]
    shape = tuple(min(max(side, 2 * self.grid), end) for side, end in zip(tile, whole))
    plan = self._cut(shape, padded.shape[2])
    maps, moments = {}, {}
    for target in plan.targets:
      if plan.is_whole(target):
        done = self._over_whole(target, padded, size, maps)
        maps = {i: x for i, x in maps.items() if plan.last_use[i] > target} | {target: done}
        continue
      factor = plan.factor(target)
      cut = self._cut(tuple(min(factor * x, end) for x, end in zip(shape, whole)), padded.shape[2])
      reach = min(factor * overlap, min(cut.shape) - self.grid)
      run = functools.partial(self._on_tile, cut, target, padded, maps, moments)
      kept, parts = None, []
      for here, core in _places(whole, cut.shape, reach, self.grid):
        value, *statistics = run(*here, [np.clip(c, 0, end) for c, end in zip(core, size)])
        parts.append([np.asarray(x, np.float64) for x in statistics])
        if plan.is_kept(target) or target == plan.result:
          value = np.asarray(value)[0]
          if kept is None:
            scale = cut.shape[0] // value.shape[0]
            kept = np.empty((*(end // scale for end in whole), value.shape[-1]), value.dtype)
          into = tuple(slice(-(-a // scale), -(-b // scale)) for a, b in core)
          of = tuple(
            slice(x.start - y.start // scale, x.stop - y.start // scale) for x, y in zip(into, here)
          )
          kept[into] = value[of]
      if plan.is_norm(target):
        moments[target] = _pooled(parts)
      maps = {i: x for i, x in maps.items() if plan.last_use[i] > target}
      if kept is not None:
        maps[target] = kept
    return maps[plan.result]

  def _over_whole(self, target, padded, size, maps):
    """A target that a function of WHOLE makes, from maps of the whole photo: [h, w, C]."""
    whole = padded.shape[:2]
    function, arguments = self._cut(whole, padded.shape[2]).function(target)
    inputs = (
      _weights(shape, whole, [(0, side) for side in size]) if i not in maps else maps[i][None]
      for i, shape in arguments
    )
    return np.asarray(jax.jit(function)(*inputs)[0])[0]

  def _on_tile(self, cut, target, padded, maps, moments, rows, columns, core):
    """The value of a target on a tile; for a norm, also count, mean and variance of its core."""
    needed = cut.sources(target)
    photo = padded[None, rows, columns] if cut.photo in needed else None
    parts = {}
    for i in needed & maps.keys():
      scale = padded.shape[0] // maps[i].shape[0]
      part = [slice(x.start // scale, x.stop // scale) for x in (rows, columns)]
      parts[i] = maps[i][None, *part]
    start = np.array([rows.start, columns.start])
    core = np.asarray(core) - start[:, None]
    return cut.program(target)(self._params, photo, parts, moments, core)

  def _trace(self, shape: tuple[int, int], channels: int) -> '_Cut':
    photo = jax.ShapeDtypeStruct((1, *shape, channels), jnp.float32)
    return _Cut(jax.make_jaxpr(self._apply)(self._params, photo), shape)

  def _normalised_by_part(self, params, photos, size):
    """The network on padded photos, with statistics from the first `size` rows and columns."""
    closed = jax.make_jaxpr(self._apply)(params, photos)
    env = _environment(closed, params, photos)
    shape = photos.shape[1:3]
    for eqn in closed.jaxpr.eqns:
      kind = _mark(eqn)
      if kind == layers.MAP:
        x = env[eqn.invars[0]].astype(jnp.float32)
        weights = _weights(x.shape, shape, [(0, size[0]), (0, size[1])])
      if kind == layers.MEAN:
        mean = env[eqn.outvars[0]] = _mean(x, weights)
      elif kind == layers.VARIANCE:
        env[eqn.outvars[0]] = _mean((x - mean) ** 2, weights)
      elif kind == layers.INSIDE:
        area = [(0, size[0]), (0, size[1])]
        env[eqn.outvars[0]] = _weights(eqn.invars[0].aval.shape, shape, area)
      else:
        _evaluate(eqn, env)
    return env[closed.jaxpr.outvars[0]]


class _Cut:
  """The program of one tile, cut at its marks. Marks are numbered by their equation.

  Attributes:
    shape: height and width of the tile.
    photo: the number that stands for the tile itself.
    result: the number that stands for the program's result.
    targets: the values that are computed in turn: inputs of norms, sums of residual blocks, and the
      result.
    last_use: kept target -> the last target that needs it.
  """

  def __init__(self, closed: ClosedJaxpr, shape: tuple[int, int]):
    self.shape, self._closed, self._eqns = shape, closed, closed.jaxpr.eqns
    self._maker = {var: i for i, eqn in enumerate(self._eqns) for var in eqn.outvars}
    self._marks = {i: kind for i, eqn in enumerate(self._eqns) if (kind := _mark(eqn))}
    self.photo, self.result = -1, len(self._eqns)
    wholes = [i for i, eqn in enumerate(self._eqns) if eqn.params.get('name') in WHOLE]
    self._whole = {
      i: self._eqns[self._maker[eqn.invars[0]]]
      for i, eqn in enumerate(self._eqns)
      if i in self._marks and self._maker.get(eqn.invars[0]) in wholes
    }
    arguments = {self._maker[var] for eqn in self._whole.values() for var in eqn.invars}
    self._kept = arguments | self._whole.keys()  # whatever their size
    kinds = (layers.MAP, layers.CUT)
    self.targets = [i for i, kind in self._marks.items() if kind in kinds] + [self.result]
    self.sources = functools.cache(lambda target: self._path(target)[1])
    self.program = functools.cache(self._program)
    self.last_use = {i: target for target in self.targets for i in self.sources(target)}

  def is_norm(self, target: int) -> bool:
    """Whether a target is the input of a norm."""
    return self._marks.get(target) == layers.MAP

  def is_kept(self, target: int) -> bool:
    """Whether later targets need this one, and it is small enough to keep for the whole photo."""
    return target in self.last_use

  def is_whole(self, target: int) -> bool:
    """Whether the target is made by a function that must see the whole photo."""
    return target in self._whole

  def function(self, target: int) -> tuple[Callable, list[tuple[int, tuple[int, ...]]]]:
    """The function that makes such a target, and (mark, shape) of each of its arguments."""
    eqn = self._whole[target]
    return jaxpr_as_fun(eqn.params['jaxpr']), [(self._maker[v], v.aval.shape) for v in eqn.invars]

  def factor(self, target: int) -> int:
    """Factor by which the sides of tiles may be larger on the way to a target, a power of two."""
    most = max(map(self._bytes, self._maker))
    path, sources = self._path(target)
    variables = [x for i in {*path, *sources} - {self.photo} for x in self._eqns[i].outvars]
    return 2 ** int(math.log2(most / max(map(self._bytes, variables))) / 2)

  def _bytes(self, var: Var) -> float:
    """Bytes of a variable per pixel of the photo."""
    return math.prod(var.aval.shape) * var.aval.dtype.itemsize / math.prod(self.shape)

  def _variable(self, target: int) -> Var:
    if target == self.result:
      return self._closed.jaxpr.outvars[0]
    return self._eqns[target].invars[0]

  def _path(self, target: int) -> tuple[list[int], set[int]]:
    """The equations that lead to a target, and the marks (or the photo) from which they start."""
    path, sources, todo = set(), set(), [self._variable(target)]
    photo = self._closed.jaxpr.invars[-1]
    while todo:
      var = todo.pop()
      i = self._maker.get(var) if isinstance(var, Var) else None
      if var is photo:
        sources.add(self.photo)
      elif i is None or i in path:
        continue
      elif i in self._marks and (
        self._marks[i] in (layers.MEAN, layers.VARIANCE)
        or i in self._kept
        or self._bytes(var) <= KEPT
      ):
        sources.add(i)
      else:
        path.add(i)
        todo += self._eqns[i].invars
    return sorted(path), sources

  def _program(self, target: int) -> Callable:
    path, sources = self._path(target)

    @jax.jit
    def run(params, photo, maps, moments, core):
      env = _environment(self._closed, params, photo)
      for i, kind in self._marks.items():
        if kind == layers.MAP:
          norm = i
        if i in sources:
          at = {layers.MEAN: 0, layers.VARIANCE: 1}.get(kind)
          env[self._eqns[i].outvars[0]] = maps[i] if at is None else moments[norm][at]
      for i in path:
        _evaluate(self._eqns[i], env)
      value = env[self._variable(target)]
      if not self.is_norm(target):
        return (value,)
      x = value.astype(jnp.float32)
      weights = _weights(x.shape, self.shape, core)
      mean = _mean(x, weights)
      return value, weights.sum(), mean, _mean((x - mean) ** 2, weights)

    return run


def _mark(eqn: JaxprEqn) -> str | None:
  """The name of a mark; None for other equations."""
  name = eqn.params.get('name') if eqn.primitive.name == 'name' else None
  return name if name in layers.MARKS else None


def _environment(closed: ClosedJaxpr, params: Any, photo: jax.Array) -> dict[Var, Any]:
  jaxpr = closed.jaxpr
  arguments = [*jax.tree.leaves(params), photo]
  return dict(zip(jaxpr.constvars, closed.consts)) | dict(zip(jaxpr.invars, arguments))


def _evaluate(eqn: JaxprEqn, env: dict[Var, Any]) -> None:
  inputs = [x for x in eqn.invars if isinstance(x, Var)]
  alone = ClosedJaxpr(Jaxpr([], inputs, eqn.outvars, [eqn]), [])
  env.update(zip(eqn.outvars, jaxpr_as_fun(alone)(*(env[x] for x in inputs))))


def _weights(shape: Sequence[int], tile: tuple[int, int], core: Sequence) -> jax.Array:
  """[1, h, w, 1]: 1 inside the core ((top, bottom), (left, right)) of a tile, at a map's scale."""
  rows, columns = (
    (position >= start) & (position < end)
    for position, (start, end) in (
      (jnp.arange(n) * (side // n), c) for n, side, c in zip(shape[1:3], tile, core)
    )
  )
  return (rows[:, None] & columns)[None, :, :, None].astype(jnp.float32)


def _mean(x: jax.Array, weights: jax.Array) -> jax.Array:
  return (x * weights).sum((1, 2), keepdims=True) / jnp.maximum(weights.sum(), 1)


def _pooled(parts: Sequence[Sequence[np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
  """The overall mean and variance, from (count, mean, variance) of each part."""
  counts, means, variances = (np.stack(x) for x in zip(*parts))
  share = (counts / counts.sum()).reshape(-1, 1, 1, 1, 1)
  mean = (share * means).sum(0)
  variance = (share * (variances + (means - mean) ** 2)).sum(0)
  return mean.astype(np.float32), variance.astype(np.float32)


def _places(
  whole: tuple[int, int], shape: tuple[int, int], overlap: int, grid: int
) -> Iterator[tuple[tuple[slice, slice], tuple[tuple[int, int], ...]]]:
  """Tiles as (rows, columns), each with its core. The cores cover the photo without overlap."""
  sides = []
  for side, tile in zip(whole, shape):
    spans = tiles.spans(side, tile, overlap, grid)
    between = [(a_end + b_start) // 2 for (_, a_end), (b_start, _) in itertools.pairwise(spans)]
    sides.append(list(zip(spans, itertools.pairwise([0, *between, side]))))
  for (rows, row_core), (columns, column_core) in itertools.product(*sides):
    yield (slice(*rows), slice(*columns)), (row_core, column_core)
