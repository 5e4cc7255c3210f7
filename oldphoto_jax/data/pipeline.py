"""From sources to uint8 batches on this host: shuffled training streams and evaluation passes.

A training stream is one of `Photos`, `RealAndClean`, `Unpaired`. Position n of a stream is the same
example for any number of hosts, threads, worker processes or restarts. The shuffle of the epoch
gives the photo, and a numpy generator seeded by (seed, n) gives crop and flip. Every example has
`id` = n, from which the train step derives its random key.
"""

import dataclasses
import functools
import math
import sys
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import grain
import numpy as np
from absl import flags
from PIL import Image

from oldphoto_jax.data.sources import Source
from oldphoto_jax.errors import ConfigError, PhotoError


@dataclasses.dataclass(frozen=True)
class Crop:
  """A random square of a photo, by the rules of the official data loader of Wan et al. 2020.

  The photo is resized (bicubic) by a random factor from `scale`, or by a larger one if its short
  side would be below `size`. Then a random `size` x `size` square is cut out and flipped with
  probability `flip`. The paper uses `scale=(1, 1)`. Small crops of a large photo show little of it;
  a range such as (0.4, 1) shows more.
  """

  size: int = 256  # pixels
  scale: tuple[float, float] = (1.0, 1.0)
  flip: float = 0.5

  def __post_init__(self):
    low, high = self.scale
    if self.size < 1 or not 0 < low <= high or not 0 <= self.flip <= 1:
      raise ConfigError(
        f'a crop needs size >= 1, 0 < scale[0] <= scale[1], flip in [0, 1]: {self}.'
      )

  def __call__(self, rng: np.random.Generator, *photos: np.ndarray) -> list[np.ndarray]:
    """The same square of each photo (uint8 [H, W, 3], all of one size): uint8 [size, size, 3]."""
    height, width, _ = photos[0].shape
    resized = resized_sides(self.size, height, width, rng.uniform(*self.scale))
    top, left = (int(rng.integers(side - self.size + 1)) for side in resized)
    step = -1 if rng.random() < self.flip else 1
    squares = [_cut(photo, resized, top, left, self.size) for photo in photos]
    return [np.ascontiguousarray(square[:, ::step]) for square in squares]


def resized_sides(size: int, height: int, width: int, factor: float) -> list[int]:
  """Height and width of a photo resized by `factor`, or by more for a square of `size` pixels."""
  factor = max(factor, size / min(height, width))
  return [max(size, round(side * factor)) for side in (height, width)]


@dataclasses.dataclass(frozen=True)
class Photos:
  """Single photos: `image`. An epoch has every photo once."""

  source: Source
  crop: Crop = Crop()

  def __post_init__(self):
    _not_empty(self.source)

  def __len__(self) -> int:
    return len(self.source)

  def draw(self, photo: int, rng: np.random.Generator) -> dict[str, Any]:
    (image,) = self.crop(rng, self.source[photo])
    return {'image': image, 'photo': np.int32(photo)}


@dataclasses.dataclass(frozen=True)
class RealAndClean:
  """The mixture for the first VAE: `image` and `is_real`.

  With probability `p_real` an example is a real old photo drawn at random (domain R). Otherwise it
  is the next clean photo, which the train step degrades (domain X). An epoch has as many examples
  as there are clean photos (Wan et al. 2020, official data loader). `photo` is the index in `real`
  or in `clean`.
  """

  clean: Source
  real: Source
  crop: Crop = Crop()
  p_real: float = 0.5

  def __post_init__(self):
    _not_empty(self.clean, self.real)
    if not 0 <= self.p_real <= 1:
      raise ConfigError(f'p_real must be a probability from 0 to 1, not {self.p_real}.')

  def __len__(self) -> int:
    return len(self.clean)

  def draw(self, photo: int, rng: np.random.Generator) -> dict[str, Any]:
    is_real = rng.random() < self.p_real
    if is_real:
      photo = int(rng.integers(len(self.real)))
    (image,) = self.crop(rng, (self.real if is_real else self.clean)[photo])
    return {'image': image, 'is_real': np.bool_(is_real), 'photo': np.int32(photo)}


@dataclasses.dataclass(frozen=True)
class Unpaired:
  """Photos of two domains for CycleGAN: `image` from `photos`, `other` from `others`.

  An epoch has every photo of `photos` once. The other photo is drawn at random, with its own crop.
  """

  photos: Source
  others: Source
  crop: Crop = Crop()

  def __post_init__(self):
    _not_empty(self.photos, self.others)

  def __len__(self) -> int:
    return len(self.photos)

  def draw(self, photo: int, rng: np.random.Generator) -> dict[str, Any]:
    other_photo = int(rng.integers(len(self.others)))
    (image,) = self.crop(rng, self.photos[photo])
    (other,) = self.crop(rng, self.others[other_photo])
    return {
      'image': image,
      'other': other,
      'photo': np.int32(photo),
      'other_photo': np.int32(other_photo),
    }


class Stream(Protocol):
  """The interface of the streams; for type annotations only."""

  def __len__(self) -> int: ...

  def draw(self, photo: int, rng: np.random.Generator) -> dict[str, Any]: ...


def train_batches(
  stream: Stream,
  batch_size: int,
  seed: int,
  *,
  process: int = 0,
  processes: int = 1,
  threads: int = 2,
  prefetch: int = 4,
  workers: int = 0,
) -> 'Batches':
  """An endless iterator over this host's share of every global batch.

  Args:
    stream: the examples; each epoch visits its photos in a new order.
    batch_size: examples per step over all hosts. It may exceed an epoch.
    seed: of the order, crops and flips, 0 to 2**32 - 1.
    process, processes: this host and the number of hosts. Host 0 gets the first rows, so the same
      example reaches the same device however the devices are spread over hosts.
    threads: number that prepare batches ahead, in each worker or in this process.
    prefetch: batches kept ready, in each worker or in this process.
    workers: processes that make batches; 0 makes them in threads of this process. Scripts that use
      workers need an `if __name__ == '__main__':` guard.

  Returns:
    An iterator of dicts: the stream's fields stacked, images uint8 [batch_size / processes, size,
    size, 3]; `photo` int32, the index in the source; `id` uint32, the position in the global
    stream. `get_state()` is `{'next_example': n}`, the same on every host and for every number of
    hosts, threads and workers; `set_state` resumes exactly there.

  Raises:
    ConfigError: if the batch does not divide over the hosts.
  """
  share = _share(batch_size, process, processes)
  if workers and not flags.FLAGS.is_parsed():
    flags.FLAGS.mark_as_parsed()  # grain passes absl's flags to its workers and needs them parsed
  order = grain.MapDataset.source(_Order(len(stream), seed))
  examples = order.seed(seed).random_map(_Draw(stream))

  def batches_from(next_example: int) -> grain.DatasetIterator:
    rows = _HostRows(examples, next_example, batch_size, process * share, share)
    dataset = grain.MapDataset.source(rows).batch(share)
    dataset = dataset.to_iter_dataset(grain.ReadOptions(threads, max(threads, prefetch)))
    if workers:
      dataset = dataset.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers))
    return iter(dataset)

  return Batches(batches_from, batch_size)


class Batches(grain.DatasetIterator):
  """Iterator over batches whose state is one number: the position of the next example.

  Grain's own state counts batches and depends on the number of worker processes. This one does not,
  so a run can resume with a different batch size or machine and never repeat an `id`.
  """

  def __init__(self, batches_from: Callable[[int], grain.DatasetIterator], batch_size: int):
    super().__init__()
    self._batches_from = batches_from
    self._batch_size = batch_size
    self._next_example = 0
    self._batches = None  # opened late, so that a resumed run does not first decode from the start

  def __next__(self) -> dict[str, np.ndarray]:
    if self._batches is None:
      self._batches = self._batches_from(self._next_example)
    batch = next(self._batches)
    self._next_example += self._batch_size
    return batch

  def get_state(self) -> dict[str, int]:
    return {'next_example': self._next_example}

  def set_state(self, state: dict[str, int]) -> None:
    self.close()
    self._next_example = int(state['next_example'])

  def close(self) -> None:
    """Stops threads and workers; the next batch starts them again."""
    if self._batches is not None:
      self._batches.close()
    self._batches = None


def eval_batches(
  source: Source,
  size: int,
  batch_size: int,
  *,
  process: int = 0,
  processes: int = 1,
  threads: int = 2,
) -> grain.IterDataset:
  """Every photo once, in order, for `for batch in eval_batches(...)`; may be iterated again.

  Args:
    source: the photos.
    size: side in pixels of the square in the middle of a photo. Photos with a smaller short side
      are first enlarged (bicubic).
    batch_size: examples per batch over all hosts.
    process, processes: this host and the number of hosts.
    threads: number that prepare batches ahead.

  Returns:
    Dicts with `image` uint8 [batch_size / processes, size, size, 3], `photo` int32, `id` uint32
    (the same number, used as the key of a synthetic degradation) and `valid` bool. `valid` is False
    where a repeated photo fills up the last batch. Every host gets the same number of batches.

  Raises:
    PhotoError: if there are no photos.
    ConfigError: if the batch does not divide over the hosts, or `size` is below 1.
  """
  share = _share(batch_size, process, processes)
  _not_empty(source)
  if size < 1:
    raise ConfigError(f'size must be at least 1 pixel, not {size}.')
  batches = -(-len(source) // batch_size)
  examples = grain.MapDataset.range(batches * batch_size).map(_Middle(source, size))
  rows = _HostRows(examples, 0, batch_size, process * share, share)
  dataset = grain.MapDataset.source(rows).batch(share)
  return dataset.to_iter_dataset(grain.ReadOptions(threads, 2 * threads))


@functools.lru_cache(maxsize=16)
def _permutation(seed: int, epoch: int, length: int) -> np.ndarray:
  # Raw bits, because numpy promises that they stay the same in every version.
  return np.argsort(np.random.Philox(key=[seed, epoch]).random_raw(length), kind='stable')


@dataclasses.dataclass(frozen=True)
class _Order:
  """Position in the endless stream -> (position, photo); each epoch has its own order.

  Grain's shuffle() is not used: its time grows with 1 / length, to 3 ms per example for 10 photos.
  """

  length: int
  seed: int

  def __len__(self) -> int:
    return sys.maxsize // 2  # grain adds to it

  def __getitem__(self, position: int) -> tuple[int, int]:
    epoch, place = divmod(int(position), self.length)
    return position, int(_permutation(self.seed, epoch, self.length)[place])


@dataclasses.dataclass(frozen=True)
class _Draw(grain.transforms.RandomMap):
  stream: Stream

  def random_map(self, element: tuple[int, int], rng: np.random.Generator) -> dict[str, Any]:
    position, photo = element
    return self.stream.draw(photo, rng) | {'id': np.uint32(position & 0xFFFFFFFF)}


@dataclasses.dataclass(frozen=True)
class _Middle(grain.transforms.Map):
  """Position in an evaluation pass -> example."""

  source: Source
  size: int

  def map(self, position: int) -> dict[str, Any]:
    # Filled with a photo, not zeros: metrics of a flat image can be NaN, and 0 * NaN is NaN.
    photo = min(position, len(self.source) - 1)
    return {
      'image': self._square(self.source[photo]),
      'photo': np.int32(photo),
      'id': np.uint32(photo),
      'valid': np.bool_(position < len(self.source)),
    }

  def _square(self, photo: np.ndarray) -> np.ndarray:
    height, width, _ = photo.shape
    resized = resized_sides(self.size, height, width, 1.0)
    top, left = ((side - self.size) // 2 for side in resized)
    return np.ascontiguousarray(_cut(photo, resized, top, left, self.size))


@dataclasses.dataclass(frozen=True)
class _HostRows:
  """Local example number -> example: this host's rows of every global batch from `start` on."""

  examples: grain.MapDataset
  start: int
  batch_size: int
  first_row: int
  rows: int

  def __len__(self) -> int:
    return (len(self.examples) - self.start) // self.batch_size * self.rows

  def __getitem__(self, i: int) -> dict[str, Any]:
    batch, row = divmod(int(i), self.rows)
    return self.examples[self.start + batch * self.batch_size + self.first_row + row]


def _cut(photo: np.ndarray, resized: Sequence[int], top: int, left: int, size: int) -> np.ndarray:
  """The square at (top, left) of the photo resized to `resized` = (height, width), bicubic.

  Only the square is computed: a 20 x 5000 photo enlarged to a short side of 256 would have 16
  million pixels. Pillow's `box` reads beyond its edges, so the result equals resizing and then
  cropping.
  """
  if photo.shape[:2] == tuple(resized):
    return photo[top : top + size, left : left + size]
  if photo.shape[2] > 3:  # of sources.Pairs
    both = np.split(photo, photo.shape[2] // 3, 2)
    return np.concatenate([_cut(one, resized, top, left, size) for one in both], 2)
  parts, box = [], []
  for start, stored, wanted in zip((top, left), photo.shape, resized):
    step = stored / wanted
    first, last = start * step, min(stored, (start + size) * step)
    reach = 2 * max(1, step) + 1  # of the bicubic kernel, in stored pixels
    part = slice(max(0, int(first - reach)), min(stored, math.ceil(last + reach)))
    parts.append(part)  # Pillow copies its input: the whole photo would cost more than the resize
    box.append((first - part.start, last - part.start))
  (y0, y1), (x0, x1) = box
  image = Image.fromarray(np.ascontiguousarray(photo[parts[0], parts[1]]))
  return np.asarray(image.resize((size, size), Image.Resampling.BICUBIC, (x0, y0, x1, y1)))


def _share(batch_size: int, process: int, processes: int) -> int:
  if batch_size < 1 or batch_size % processes:
    raise ConfigError(
      f'a batch of {batch_size} does not divide over {processes} hosts: choose a multiple of '
      f'{processes}.'
    )
  if not 0 <= process < processes:
    raise ValueError(f'process {process} is not one of the {processes} hosts.')
  return batch_size // processes


def _not_empty(*sources) -> None:
  if any(len(source) == 0 for source in sources):
    raise PhotoError('a source holds no photos.')
