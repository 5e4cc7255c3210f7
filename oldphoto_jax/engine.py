"""A trained system, compiled, for photos of any size: what `restore`, `detect` and others run.

An engine takes and gives arrays, and hides how a photo goes through a network: padded to few
shapes, in overlapping tiles where it is large. There are two kinds. A `Tiled` one takes each tile
by itself. A `Layerwise` one is for networks that need the whole photo.
"""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from oldphoto_jax import filling, layerwise, shapes, tiles


@dataclasses.dataclass(frozen=True, eq=False)
class Restorer:
  """A trained system, ready to be compiled."""

  # (params, photos float32 [B, H, W, 3] in [-1, 1]) -> the same shape and range; not jitted yet.
  apply: Callable[[Any, jax.Array], jax.Array]
  params: Any
  multiple: int  # H and W must be multiples of it
  name: str  # says which weights these are, in the report
  # The same for photos with holes, (params, photos, masks [B, H, W, 1], above 0 = hole) -> (blind,
  # seeing), [B, H, W, 3] each: filled without and with a look at what the holes show. A system with
  # one filling gives it twice. None where the system has no networks of its own for holes: they are
  # filled with what it makes of the photo.
  fill: Callable[[Any, jax.Array, jax.Array], tuple[jax.Array, jax.Array]] | None = None
  # Whether it needs the whole photo: it has instance norms, or a receptive field that is larger
  # than the overlap of tiles.
  layerwise: bool = False


class Engine(Protocol):
  """What restores photos of any size, float32 [H, W, 3] in [-1, 1]."""

  @property
  def plan(self) -> shapes.Plan:
    """The shapes that are compiled, each when it is first needed."""

  @property
  def name(self) -> str:
    """Says which weights these are, in the report."""

  def restore(self, photo: np.ndarray) -> np.ndarray:
    """The restored photo [H, W, 3], not clipped."""

  def fill(self, photo: np.ndarray, around: np.ndarray, holes: np.ndarray) -> np.ndarray:
    """What belongs into the holes of a photo, so that it fits into what is around them.

    Args:
      photo: float32 [H, W, 3].
      around: what the filling is put into, such as the restored photo, [H, W, 3].
      holes: bool [H, W, 1]; somewhere, and not everywhere.

    Returns:
      float32 [H, W, 3]; its values outside of the holes do not matter.
    """


@dataclasses.dataclass(frozen=True, eq=False)
class Tiled:
  """An engine of jitted programs, which see one tile at a time."""

  plan: shapes.Plan
  name: str
  run: Callable[[np.ndarray], np.ndarray]  # [1, h, w, 3] -> [1, h, w, C]
  # ([1, h, w, 3], [1, h, w, 1]) -> (blind, seeing), [1, h, w, 3] each.
  run_fill: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]] | None = None

  def restore(self, photo: np.ndarray) -> np.ndarray:
    return self._in_tiles(self.run, photo, self.plan.shape(photo.shape[:2]), self.plan.overlap)

  def fill(self, photo: np.ndarray, around: np.ndarray, holes: np.ndarray) -> np.ndarray:
    return filling.into(around, holes, *self.fillings(photo, holes))

  def fillings(self, photo: np.ndarray, holes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(blind, seeing) of the whole photo, not yet matched to anything."""
    x = np.concatenate([photo, holes], -1)  # one array, so that tiles cut the holes, too
    both = self._in_tiles(self._fill_tile, x, filling.tile_shape(holes), filling.OVERLAP)
    return both[..., :3], both[..., 3:]

  def _fill_tile(self, tile: np.ndarray) -> np.ndarray:
    photo, holes = tile[..., :3], tile[..., 3:]
    return np.concatenate(self.run_fill(photo, holes) if holes.any() else (photo, photo), -1)

  def _in_tiles(self, run, x: np.ndarray, shape: tuple[int, int], overlap: int) -> np.ndarray:
    def one(rows: slice, columns: slice) -> np.ndarray:
      part = x[rows, columns]
      return run(shapes.pad(part, shape)[None])[0, : part.shape[0], : part.shape[1]]

    return tiles.blend(one, x.shape[:2], shape, overlap, self.plan.grid)


@dataclasses.dataclass(frozen=True, eq=False)
class Layerwise:
  """An engine of networks that see the whole photo: each layer runs over all tiles."""

  plan: shapes.Plan
  name: str
  network: layerwise.Network  # [1, h, w, 3] -> [1, h, w, 3]
  filler: layerwise.Network  # [1, h, w, 4], the last channel above 0 in holes -> [1, h, w, 6]

  def restore(self, photo: np.ndarray) -> np.ndarray:
    return self._through(self.network, photo)

  def fill(self, photo: np.ndarray, around: np.ndarray, holes: np.ndarray) -> np.ndarray:
    return filling.into(around, holes, *self.fillings(photo, holes))

  def fillings(self, photo: np.ndarray, holes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """See Tiled."""
    both = self._through(self.filler, np.concatenate([photo, holes], -1))
    return both[..., :3], both[..., 3:]

  def _through(self, network: layerwise.Network, x: np.ndarray) -> np.ndarray:
    return network.restore(x, self.plan.shape(x.shape[:2]), self.plan.overlap)


def compiled(
  restorer: Restorer,
  sizes: Iterable[tuple[int, int]] = (),
  *,
  tile: int = 2048,
  overlap: int = 64,
  max_shapes: int = 4,
) -> Tiled | Layerwise:
  """The engine of a trained system.

  Args:
    restorer: the system.
    sizes: height and width of the photos to come, so that few programs serve them all. A photo of
      another size takes a shape of its own.
    tile: photos with a side longer than this are cut into tiles of it, to spare memory.
    overlap: pixels over which neighbouring tiles are blended.
    max_shapes: number of programs to compile at most for `sizes`.

  Raises:
    ValueError: `overlap` is not from 1 to half of the tile.
  """
  plan = shapes.plan(sizes, restorer.multiple, tile=tile, overlap=overlap, max_shapes=max_shapes)
  params = jax.device_put(restorer.params)
  if restorer.layerwise:

    def apply_fill(params, x):
      if restorer.fill is None:
        fillings = (restorer.apply(params, x[..., :3]),) * 2
      else:
        fillings = restorer.fill(params, x[..., :3], x[..., 3:])
      return jnp.concatenate(fillings, -1)

    networks = (layerwise.Network(f, params, plan.grid) for f in (restorer.apply, apply_fill))
    return Layerwise(plan, restorer.name, *networks)
  run = program(restorer.apply, params)
  if restorer.fill is None:  # what is compiled for photos serves their holes, too
    return Tiled(plan, restorer.name, run, lambda photos, holes: (run(photos),) * 2)
  return Tiled(plan, restorer.name, run, program(restorer.fill, params))


def program(apply: Callable, params: Any) -> Callable:
  """`apply`, jitted for each shape, with its parameters on the device; from and to NumPy."""
  jitted, params = jax.jit(apply), jax.device_put(params)
  return lambda *arrays: jax.tree.map(np.asarray, jitted(params, *arrays))
