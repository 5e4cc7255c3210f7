"""A trained system, compiled, for photos of any size: what `restore`, `detect` and others run.

An engine takes and gives arrays, and hides how a photo goes through a network: padded to few
shapes, in overlapping tiles where it is large. There are three kinds. A `Tiled` one takes each tile
by itself. A `Layerwise` one is for networks that need the whole photo. A `Repairing` one also finds
damage and revives tones.
"""

import abc
import concurrent.futures
import dataclasses
import os
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from scipy import ndimage

from oldphoto_jax.models import tone
from oldphoto_jax.nn import noise
from oldphoto_jax.restoring import (
  filling,
  finding,
  layerwise,
  programs,
  shapes,
  tiles,
  toning,
)

# Tiles of repair. Of 1792x1280 pixels they take 1.4 CPU seconds a megapixel, of 512x512 1.2. With
# an overlap of 32 pixels the cleaned photo is within 73 dB of that in one tile, and finds differ in
# 0.004 % of the pixels; with 64, 76 dB and 0.003 % (two prints, tiles of 512).
TILE, OVERLAP = 1024, 32
MOST_WORKERS = 4  # tiles that are computed at once; each takes some 300 MiB


@dataclasses.dataclass(frozen=True, eq=False)
class Restorer:
  """A trained system, ready to be compiled."""

  # (params, photos float32 [B, H, W, 3] in [-1, 1]) -> the same shape and range; not jitted yet.
  apply: Callable[[Any, jax.Array], jax.Array]
  params: Any
  multiple: int  # H and W must be multiples of it
  name: str  # says which weights these are, in the report
  # The same for photos with holes, (params, photos, masks [B, H, W, 1], above 0 = hole, 1 if a
  # person says so) -> (blind, seeing), [B, H, W, 3] each: filled without and with a look at what
  # the holes show. A system with one filling gives it twice. None where the system has no networks
  # of its own for holes: they are filled with what it makes of the photo.
  fill: Callable[[Any, jax.Array, jax.Array], tuple[jax.Array, jax.Array]] | None = None
  # Whether it needs the whole photo: it has instance norms, or a receptive field that is larger
  # than the overlap of tiles.
  layerwise: bool = False
  # (params, photos) -> (restored photos, probability of damage [B, H, W, 1]) in one pass; None
  # where the system finds no damage itself.
  look: Callable[[Any, jax.Array], tuple[jax.Array, jax.Array]] | None = None
  # (params, thumbnails, weights [B, h, w, 1]) -> what models.tone.apply takes; None where it
  # leaves tones alone.
  correction: Callable[[Any, jax.Array, jax.Array], tuple[jax.Array, ...]] | None = None
  # `look` and `fill` in two parts, so that one program serves both. `answer`: (params, photos as
  # they are shown, the same with their holes prefilled, masks, trust in them [B, H, W, 1]) ->
  # (restored photos, probability of damage). `prefill`: (photos, masks) -> prefilled photos.
  # `shown`: (photos, prefilled photos, masks) -> photos as they are shown, which is as they are
  # where nobody said 1.
  answer: Callable[..., tuple[jax.Array, jax.Array]] | None = None
  prefill: Callable[[jax.Array, jax.Array], jax.Array] | None = None
  shown: Callable[[jax.Array, jax.Array, jax.Array], jax.Array] | None = None
  # (params, photos) -> the probability of damage by a network that only finds; None: there is none.
  find: Callable[[Any, jax.Array], jax.Array] | None = None
  # params -> those with which `answer` is the network that only cleans; None: there is none.
  cleaning: Callable[[Any], Any] | None = None
  # Identifies the functions above, so that their programs can be kept; '' if nothing does.
  key: str = ''


class Look(NamedTuple):
  """What a system makes of a photo of which nobody has said what is damaged.

  Attributes:
    clean: the restored photo, float32 [H, W, 3], not clipped.
    probability: of damage, float32 [H, W, 1]; None: the system finds none.
  """

  clean: np.ndarray
  probability: np.ndarray | None = None


class Engine(Protocol):
  """What restores photos of any size, float32 [H, W, 3] in [-1, 1]."""

  @property
  def plan(self) -> shapes.Plan:
    """The shapes that are compiled, each when it is first needed."""

  @property
  def name(self) -> str:
    """Says which weights these are, in the report."""

  @property
  def revives(self) -> bool:
    """Whether tones are revived by a step of their own, so that cleaning must not move them."""

  def restore(self, photo: np.ndarray) -> np.ndarray:
    """The restored photo [H, W, 3], not clipped."""

  def look(self, photo: np.ndarray) -> Look:
    """The restored photo, and what may be damaged in it."""

  def fill(self, photo: np.ndarray, around: np.ndarray, holes: np.ndarray) -> np.ndarray:
    """What belongs into the holes of a photo, so that it fits into what is around them.

    Args:
      photo: float32 [H, W, 3].
      around: what the filling is put into, such as the restored photo, [H, W, 3].
      holes: float32 [H, W, 1], how far each pixel is believed to be lost: 0 not at all, 1 by a
        person, finding.TRUST by a search. Above 0 somewhere, and not everywhere.

    Returns:
      float32 [H, W, 3]; its values outside of the holes do not matter.
    """

  def revive(
    self, photo: np.ndarray, mask: np.ndarray | None, strength: float
  ) -> tuple[np.ndarray, float]:
    """The photo with its tones revived, and how far: 0 not at all, 1 wholly.

    Args:
      photo: float32 [H, W, 3] in [-1, 1].
      mask: float32 [H, W, 1], damage, whose tones do not count; None: there is none.
      strength: 1 does all that the system thinks right, 0 nothing.
    """


class _Cleaning(abc.ABC):
  """What engines share whose systems neither find damage nor revive tones."""

  revives: ClassVar[bool] = False

  @abc.abstractmethod
  def restore(self, photo: np.ndarray) -> np.ndarray:
    """See Engine."""

  @abc.abstractmethod
  def fillings(self, photo: np.ndarray, holes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(blind, seeing) of the whole photo, not yet matched to anything."""

  def look(self, photo: np.ndarray) -> Look:
    return Look(self.restore(photo))

  def revive(
    self, photo: np.ndarray, mask: np.ndarray | None, strength: float
  ) -> tuple[np.ndarray, float]:
    return photo, 0.0

  def fill(self, photo: np.ndarray, around: np.ndarray, holes: np.ndarray) -> np.ndarray:
    return filling.into(around, holes > 0, *self.fillings(photo, holes))


@dataclasses.dataclass(frozen=True, eq=False)
class Tiled(_Cleaning):
  """An engine of jitted programs, which see one tile at a time."""

  plan: shapes.Plan
  name: str
  run: Callable[[np.ndarray], np.ndarray]  # [1, h, w, 3] -> [1, h, w, C]
  # ([1, h, w, 3], [1, h, w, 1]) -> (blind, seeing), [1, h, w, 3] each.
  run_fill: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]] | None = None

  def restore(self, photo: np.ndarray) -> np.ndarray:
    return in_tiles(self.run, photo, self.plan, self.plan.shape(photo.shape[:2]))[0]

  def fillings(self, photo: np.ndarray, holes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    x = np.concatenate([photo, holes], -1)  # one array, so that tiles cut the holes, too
    (both,) = in_tiles(self._fill_tile, x, self.plan, filling.tile_shape(holes), filling.OVERLAP)
    return both[..., :3], both[..., 3:]

  def _fill_tile(self, tile: np.ndarray) -> np.ndarray:
    photo, holes = tile[..., :3], tile[..., 3:]
    return np.concatenate(self.run_fill(photo, holes) if holes.any() else (photo, photo), -1)


@dataclasses.dataclass(frozen=True, eq=False)
class Layerwise(_Cleaning):
  """An engine of networks that see the whole photo: each layer runs over all tiles."""

  plan: shapes.Plan
  name: str
  network: layerwise.Network  # [1, h, w, 3] -> [1, h, w, 3]
  filler: layerwise.Network  # [1, h, w, 4], the last channel above 0 in holes -> [1, h, w, 6]

  def restore(self, photo: np.ndarray) -> np.ndarray:
    return self._through(self.network, photo)

  def fillings(self, photo: np.ndarray, holes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    both = self._through(self.filler, np.concatenate([photo, holes], -1))
    return both[..., :3], both[..., 3:]

  def _through(self, network: layerwise.Network, x: np.ndarray) -> np.ndarray:
    return network.restore(x, self.plan.shape(x.shape[:2]), self.plan.overlap)


@dataclasses.dataclass(frozen=True, eq=False)
class Repairing:
  """An engine of a network that finds damage, fills it and cleans around it, in tiles.

  What it fills comes from the photo itself, so nothing has to be matched to what is around.

  Attributes:
    run_look: (photo) -> (restored photo, probability of damage), of a tile [1, h, w, C].
    run_fill: (photo, mask) -> the photo with its holes filled, and another result, which is not
      used.
    run_find: (photo) -> probability of damage, by a network that only finds; None: `run_look` does.
    run_clean: (photo, nn.noise.measure of the whole photo, [1, h, w, 2]) -> restored photo, by a
      network that only cleans; None: `run_look` does.
  """

  plan: shapes.Plan
  name: str
  run_look: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
  run_fill: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
  # (thumbnail, weight) -> (knots, matrix, gate); None: tones stay.
  run_correction: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, ...]] | None = None
  revives: ClassVar[bool] = True
  programs: 'programs.RepairPrograms | None' = (
    None  # what the above run, where they share a program
  )
  workers: int = 1  # tiles that are computed at once
  run_find: Callable[[np.ndarray], np.ndarray] | None = None
  run_clean: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None

  def restore(self, photo: np.ndarray) -> np.ndarray:
    return self._clean_and_find(photo)[0] if self.run_clean is None else self._cleaned(photo)

  def need(self, part: np.ndarray) -> float:
    """How far a photo needs cleaning, by a part of it that fits into a tile: from 0 to 1."""
    shape = self.plan.shape(part.shape[:2])
    if self.run_clean is None:
      return finding.need(part, in_tiles(self.run_look, part, self.plan, shape)[0])
    return _need_of_cleaner(part, in_tiles(self._cleaner(part), part, self.plan, shape)[0])

  def look(self, photo: np.ndarray) -> Look:
    photo = self._cleaned(photo)  # first: damage is told from noise without it
    seek = self.run_find or (lambda tile: self.run_look(tile)[1])
    shape = self.plan.shape(photo.shape[:2])

    def find(copies: Sequence[np.ndarray]) -> list[np.ndarray]:
      return find_in(seek, copies, self.plan, shape, self.workers)

    if self.run_find is None:
      clean, whole = self._clean_and_find(photo)
      return Look(clean, finding.joined(whole, *finding.on_copies(photo, find)))
    clean = photo if self.run_clean is not None else self._clean_and_find(photo)[0]
    if self.workers == 1 or any(side > most for side, most in zip(photo.shape, shape)):
      return Look(clean, finding.joined(find([photo])[0], *finding.on_copies(photo, find)))
    with concurrent.futures.ThreadPoolExecutor(1) as pool:  # a small photo beside its copies
      looking = pool.submit(find, [photo])
      on_copies = finding.on_copies(photo, find)
      return Look(clean, finding.joined(looking.result()[0], *on_copies))

  def _clean_and_find(self, photo: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """By the network that does both; where there is a cleaner, it has cleaned."""
    shape = self.plan.shape(photo.shape[:2])
    clean, probability = in_tiles(self.run_look, photo, self.plan, shape, workers=self.workers)
    if self.run_clean is not None:
      return photo, probability
    return _blended(photo, clean, finding.need(photo, clean)), probability

  def _cleaned(self, photo: np.ndarray) -> np.ndarray:
    """By the network that only cleans, if there is one, as far as the photo's middle needs it."""
    if self.run_clean is None:
      return photo
    shape = self.plan.shape(photo.shape[:2])
    starts = (max(0, (whole - side) // 2) for whole, side in zip(photo.shape, shape))
    middle = tuple(slice(start, start + side) for start, side in zip(starts, shape))
    part = photo[middle]
    cleaner = self._cleaner(part)
    clean = in_tiles(cleaner, part, self.plan, shape)[0]  # one tile
    amount = _need_of_cleaner(part, clean)
    if amount > 0 and part.shape != photo.shape:
      clean = in_tiles(cleaner, photo, self.plan, shape, workers=self.workers)[0]
    return _blended(photo, clean, amount)

  def _cleaner(self, part: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """`run_clean` for tiles of a photo that is as noisy as this part of it."""
    run, levels = self.run_clean, noise.measure(part[None])[:, None, None]
    assert run is not None
    return lambda tile: run(tile, np.broadcast_to(levels, (*tile.shape[:3], 2)))

  def _shape_for(self, holes: np.ndarray) -> tuple[int, int]:
    """The tiles of `look`, which have a program, unless a hole is too wide for them."""
    shape, least = self.plan.shape(holes.shape[:2]), filling.tile_shape(holes, filling.REPAIR_SIDE)
    wide = any(side < min(need, n) for side, need, n in zip(shape, least, holes.shape))
    return least if wide else shape

  def fill(self, photo: np.ndarray, around: np.ndarray, holes: np.ndarray) -> np.ndarray:
    return filling.grained(self._filled(photo, holes), around, holes > 0, self.workers)

  def _filled(self, photo: np.ndarray, holes: np.ndarray) -> np.ndarray:
    shape = self._shape_for(holes)
    if _fits_in(holes, shape):
      # A tile of nothing but hole tells nothing: its inside comes from a copy of half the size.
      half = tuple(-(-side // 2) for side in holes.shape[:2])
      small, marked = shapes.resized(photo, *half), shapes.resized(holes, *half) > 0.01
      small = self._filled(small, np.where(marked, holes.max(), np.float32(0)))
      photo = np.where(holes > 0, shapes.resized(small, *holes.shape[:2]), photo)

    def run(rows: slice, columns: slice) -> tuple[np.ndarray] | None:
      marked = holes[rows, columns]
      if not marked.any() or marked.all():
        return None
      part = (shapes.pad(x, shape)[None] for x in (photo[rows, columns], marked))
      return (self.run_fill(*part)[0][0, : marked.shape[0], : marked.shape[1]],)

    return tiles.blend(
      run,
      photo.shape[:2],
      shape,
      self.plan.overlap,
      self.plan.grid,
      base=photo,
      workers=self.workers,
    )[0]

  def revive(
    self, photo: np.ndarray, mask: np.ndarray | None, strength: float
  ) -> tuple[np.ndarray, float]:
    if self.run_correction is None or strength == 0:
      return photo, 0.0
    knots, matrix, gate = (x[0] for x in self.run_correction(*toning.thumbnail(photo, mask)))
    amount = strength * toning.conviction(float(gate))
    if amount == 0:
      return photo, 0.0
    return toning.correct(photo, knots, matrix, amount, tone.LARGEST), amount


def _fits_in(holes: np.ndarray, shape: tuple[int, int]) -> bool:
  """Whether a tile of this shape may lie in a hole of a photo, whole."""
  inside = (holes[..., 0] > 0).astype(np.uint8)
  if inside.sum() < shape[0] * shape[1]:
    return False
  return bool(ndimage.minimum_filter(inside, shape, mode='constant').any())


def _need_of_cleaner(photo: np.ndarray, clean: np.ndarray) -> float:
  """finding.need of what a cleaner proposes, [H, W, 3]: less is asked for where noise falls.

  Where it does not, the cleaner sharpens, and old prints are soft without any damage. Between, the
  levels go over into each other, so that rounding decides nothing.
  """
  before, after = (float(noise.measure(x[None])[0, 0]) for x in (photo, clean))
  left = after / before if before > 0 else 1.0
  late = np.clip((left - finding.QUIETER) / (1 - finding.QUIETER), 0, 1)
  early, usual = np.array(finding.NEEDED_OF_CLEANER), np.array(finding.NEEDED)
  return finding.need(photo, clean, tuple(early + late * (usual - early)))


def _blended(photo: np.ndarray, clean: np.ndarray, amount: float) -> np.ndarray:
  """`clean` by this amount; at 0 and 1 a pass over the photo is saved."""
  if amount == 1:
    return clean
  return photo + amount * (clean - photo) if amount > 0 else photo


class Stopped(Exception):
  """What an engine of `stoppable` was computing is no longer wanted."""


def stoppable(engine: Engine, stop: threading.Event) -> Engine:
  """The engine, which raises Stopped before the next tile once `stop` is set.

  An engine that goes layer by layer, or is none of this module, stays as it is: it ends its photo.
  """

  def of(run: Callable) -> Callable:
    def run_one(*arrays):
      if stop.is_set():
        raise Stopped
      return run(*arrays)

    return run_one

  if isinstance(engine, Repairing):
    return each_run(engine, lambda run, name: of(run))
  if isinstance(engine, Tiled):
    fill = engine.run_fill and of(engine.run_fill)
    return dataclasses.replace(engine, run=of(engine.run), run_fill=fill)
  return engine


def each_run(engine: Repairing, of: Callable[[Callable, str], Callable]) -> Repairing:
  """The engine with `of` (what runs a tile, its name) in the place of all that runs tiles."""
  names = 'look', 'fill', 'find', 'clean'
  runs = {f'run_{name}': getattr(engine, f'run_{name}') for name in names}
  new = {name: of(run, name.removeprefix('run_')) for name, run in runs.items() if run}
  return dataclasses.replace(engine, **new)


def in_tiles(
  run: Callable[[np.ndarray], np.ndarray | tuple[np.ndarray, ...]],
  x: np.ndarray,
  plan: shapes.Plan,
  shape: tuple[int, int],
  overlap: int | None = None,
  workers: int = 1,
) -> tuple[np.ndarray, ...]:
  """`run` over [H, W, D] in tiles of `shape`, each padded to it, blended where they overlap.

  Returns:
    An array for each that `run` gives.
  """

  def one(rows: slice, columns: slice) -> tuple[np.ndarray, ...]:
    part = x[rows, columns]
    made = run(shapes.pad(part, shape)[None])
    arrays = made if isinstance(made, tuple) else (made,)
    return tuple(array[0, : part.shape[0], : part.shape[1]] for array in arrays)

  overlap = plan.overlap if overlap is None else overlap
  return tiles.blend(one, x.shape[:2], shape, overlap, plan.grid, workers=workers)


def find_in(
  find: Callable[[np.ndarray], np.ndarray],
  copies: Sequence[np.ndarray],
  plan: shapes.Plan,
  shape: tuple[int, int],
  workers: int = 1,
) -> list[np.ndarray]:
  """What `find`, [1, h, w, 3] -> [1, h, w, 1], gives for each of a photo's copies [H, W, 3].

  In tiles of `shape`; small copies share one.
  """
  if len(copies) > 1 and (packed := shapes.together(copies, shape)):
    found = find(packed[0][None])[0]
    return [found[place] for place in packed[1]]
  return [in_tiles(find, copy, plan, shape, workers=workers)[0] for copy in copies]


def compiled(
  restorer: Restorer,
  sizes: Iterable[tuple[int, int]] = (),
  *,
  tile: int = 2048,
  overlap: int | None = None,
  max_shapes: int = 4,
) -> Tiled | Layerwise | Repairing:
  """The engine of a trained system.

  Args:
    restorer: the system.
    sizes: height and width of the photos to come, so that few programs serve them all. A photo of
      another size takes a shape of its own.
    tile: photos with a side longer than this are cut into tiles of it, to spare memory. Those of
      a Repairing engine are at most of TILE pixels a side, as it computes several at once.
    overlap: pixels over which neighbouring tiles are blended; None: what the system needs.
    max_shapes: number of programs to compile at most for `sizes`.

  Raises:
    ValueError: `overlap` is not from 1 to half of the tile.
  """
  repairs = restorer.look is not None
  if overlap is None:
    overlap = OVERLAP if repairs else 64
  plan = shapes.plan(
    sizes,
    restorer.multiple,
    tile=min(tile, TILE) if repairs else tile,
    overlap=overlap,
    max_shapes=max_shapes,
    copies=finding.copies if repairs else lambda size: (),
  )
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
  if restorer.answer is not None:

    def kept(name: str, apply: Callable, params: Any) -> programs.Program:
      return programs.Program(apply, params, restorer.key and f'{name} {restorer.key}')

    answer = kept('answer', restorer.answer, params)
    ready = programs.RepairPrograms(
      answer,
      kept('prefill', lambda _, *arrays: restorer.prefill(*arrays), None),
      kept('shown', lambda _, *arrays: restorer.shown(*arrays), None),
      restorer.correction and kept('correction', restorer.correction, params),
      restorer.find and kept('find', restorer.find, params),
      restorer.cleaning and answer.of(restorer.cleaning(params)),
    )
    return Repairing(
      plan,
      restorer.name,
      ready.look,
      ready.fill,
      ready.correction,
      ready,
      _workers(),
      ready.find,
      ready.clean if ready.cleaner else None,
    )
  if restorer.look is not None:
    looking, filler, correction = (
      f and programs.program(f, params) for f in (restorer.look, restorer.fill, restorer.correction)
    )
    return Repairing(plan, restorer.name, looking, filler, correction)
  run = programs.program(restorer.apply, params)
  if restorer.fill is None:  # what is compiled for photos serves their holes, too
    return Tiled(plan, restorer.name, run, lambda photos, holes: (run(photos),) * 2)
  return Tiled(plan, restorer.name, run, programs.program(restorer.fill, params))


def _workers() -> int:
  """How many tiles are computed at once: a program alone keeps 60 to 90 % of two cores busy."""
  if jax.default_backend() != 'cpu':
    return 2  # one is copied while the other is computed
  cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1
  return min(cores, MOST_WORKERS)
