"""Where photos come from: folders, TFDS directories, scikit-image's samples.

A source is a picklable object with `len(source)`, `source.names` (a list, one name per photo),
`source[i]` (the photo as uint8 [H, W, 3], upright RGB) and `source.encoded(i)` (the bytes of the
stored file). The functions here build sources, choose from them and keep decoded photos in memory:

  photos = cached(folder('~/photos'))
  splits = subset(photos, seed=0, counts={'train': 400, 'val': 100, 'test': 50})  # the report's
  rows = manifest(splits)
"""

import concurrent.futures
import dataclasses
import functools
import hashlib
import importlib.resources
import logging
import os
import pathlib
import threading
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
from PIL import Image

from oldphoto_jax.data import stores
from oldphoto_jax.errors import ConfigError, PhotoError
from oldphoto_jax.photos import decoding, folders, formats, images

# The colour photographs inside scikit-image's wheel. Its other images are drawings, test patterns,
# microscopy, astronomy, gray textures, and motorcycle_right.png, the partner of the left one.
SAMPLES = ('astronaut.png', 'chelsea.png', 'coffee.png', 'motorcycle_left.png', 'rocket.jpg')


_log = logging.getLogger(__name__)


class Source(Protocol):
  """The interface of every source; for type annotations only."""

  @property
  def names(self) -> Sequence[str]: ...

  def __len__(self) -> int: ...

  def __getitem__(self, i: int) -> np.ndarray: ...

  def encoded(self, i: int) -> bytes: ...


@dataclasses.dataclass(frozen=True)
class Files:
  """Photo files below `root`; `unreadable` has a sentence about each skipped file."""

  root: pathlib.Path
  names: list[str]
  unreadable: list[str] = dataclasses.field(default_factory=list)

  def __len__(self) -> int:
    return len(self.names)

  def __getitem__(self, i: int) -> np.ndarray:
    return images.read_rgb8(self.root / self.names[i])

  def encoded(self, i: int) -> bytes:
    return (self.root / self.names[i]).read_bytes()


class Records:
  """The images of one split of a TFDS directory in ArrayRecord form, decoded without TensorFlow."""

  def __init__(self, directory: str, split: str):
    # Imported here: it takes half a second, and only this source needs it.
    import tensorflow_datasets as tfds

    self._arguments = directory, split
    builder = tfds.builder_from_directory(directory)
    file_format = builder.info.file_format
    if file_format is not tfds.core.FileFormat.ARRAY_RECORD:
      raise PhotoError(
        f'{directory} holds {file_format.value} files, which need TensorFlow: prepare the data set '
        'again with --file_format=array_record.'
      )
    features = builder.info.features
    if 'image' not in features:
      raise PhotoError(f'{directory} has no feature "image", only {sorted(features)}.')
    try:
      count = builder.info.splits[split].num_examples
    except (ValueError, KeyError) as error:
      raise ConfigError(
        f'{directory} has no split {split!r}: it has {sorted(builder.info.splits)}.'
      ) from error
    if count == 0:
      raise ConfigError(f'split {split!r} of {directory} holds no photos.')
    self._name_feature = 'image/filename' if 'image/filename' in features else None
    self._records = builder.as_data_source(split, decoders={'image': tfds.decode.SkipDecoding()})

  def __reduce__(self):
    return Records, self._arguments  # file handles stay in their process

  @functools.cached_property
  def names(self) -> list[str]:
    """The stored file names, or `split[i]` if the data set has none.

    The first access reads every record: names are not stored apart from the images.
    """
    if self._name_feature is None:
      return [f'{self._arguments[1]}[{i}]' for i in range(len(self))]
    return [self._records[i][self._name_feature].decode() for i in range(len(self))]

  def __len__(self) -> int:
    return len(self._records)

  def __getitem__(self, i: int) -> np.ndarray:
    try:  # as from a folder: of 16 bits, for example, Pillow would only keep white
      return images.to_rgb8(decoding.decode(self.encoded(i), '', images.MAX_PIXELS))
    except Exception as error:  # on damaged data, decoders can raise anything
      raise PhotoError(
        f'photo {i} of split {self._arguments[1]} in {self._arguments[0]} cannot be decoded: '
        'prepare the data set again.'
      ) from error

  def encoded(self, i: int) -> bytes:
    return self._records[i]['image']


@dataclasses.dataclass(frozen=True)
class Chosen:
  """The photos of a source with these `indices`, in that order."""

  source: Source
  indices: list[int]

  @property
  def names(self) -> list[str]:
    return [self.source.names[i] for i in self.indices]

  def __len__(self) -> int:
    return len(self.indices)

  def __getitem__(self, i: int) -> np.ndarray:
    return self.source[self.indices[i]]

  def encoded(self, i: int) -> bytes:
    return self.source.encoded(self.indices[i])


@dataclasses.dataclass(frozen=True)
class Pairs:
  """Photos before and after their restoration, as photos of six channels: before, then after.

  Everything that cuts, chooses or keeps photos treats both alike. Attributes are sources of the
  same length; photo i of one belongs to photo i of the other.
  """

  before: Source
  after: Source

  @property
  def names(self) -> Sequence[str]:
    return self.after.names

  def __len__(self) -> int:
    return len(self.after)

  def __getitem__(self, i: int) -> np.ndarray:
    return np.concatenate([self.before[i], self.after[i]], -1)

  def encoded(self, i: int) -> bytes:
    return self.before.encoded(i) + self.after.encoded(i)


class Cached:
  """A source whose decoded photos stay in memory, up to `max_bytes` per process.

  Nothing is ever evicted. Every epoch visits every photo once, so no order of eviction would be
  better: the photos that fit are read from memory, and the others are decoded each time.
  """

  def __init__(self, source: Source, max_bytes: int):
    self.source = source
    self.max_bytes = max_bytes
    self._photos = {}
    self._bytes = 0
    self._lock = threading.Lock()

  def __reduce__(self):
    return Cached, (self.source, self.max_bytes)  # a worker process fills its own cache

  @property
  def names(self) -> Sequence[str]:
    return self.source.names

  def __len__(self) -> int:
    return len(self.source)

  def __getitem__(self, i: int) -> np.ndarray:
    photo = self._photos.get(i)
    if photo is None:
      # A view, because the array may belong to the source and must stay writeable.
      photo = self.source[i].view()
      photo.flags.writeable = False
      with self._lock:
        if i not in self._photos and self._bytes + photo.nbytes <= self.max_bytes:
          self._photos[i] = photo
          self._bytes += photo.nbytes
    return photo

  def encoded(self, i: int) -> bytes:
    return self.source.encoded(i)


def folder(path: str | os.PathLike) -> Files:
  """All photos in a folder and its sub-folders; hidden files are ignored.

  Every file is decoded once to check that it is complete, JPEG at an eighth of its size. Unreadable
  files are skipped, named in one log line and listed in `.unreadable`.

  Returns:
    A source whose names are the paths relative to `path`, sorted.

  Raises:
    PhotoError: if `path` is not a folder, or holds no readable photo.
  """
  root, names = _photo_names(path)
  sizes = _sizes([root / name for name in names])
  readable = [name for name, size in zip(names, sizes) if not isinstance(size, str)]
  unreadable = [size for size in sizes if isinstance(size, str)]
  if not readable:
    raise PhotoError(f'{root}: none of the {len(names)} photos can be read. {_some(unreadable)}')
  if unreadable:
    _log.warning(
      '%s: %d photos can be read; %d files cannot be read and are skipped. %s',
      root,
      len(readable),
      len(unreadable),
      _some(unreadable, 20),
    )
  return Files(root, readable, unreadable)


def pairs(path: str | os.PathLike) -> Pairs:
  """The pairs of a folder: PATH/before/NAME and PATH/after/NAME, with any ending.

  Raises:
    PhotoError: a folder is missing or holds no readable photo, a photo has no partner or several,
      or partners differ in size.
  """
  root = stores.local(path)
  before, after = (folder(root / kind) for kind in ('before', 'after'))
  by_stem = {}
  for source in (before, after):
    found = {}
    for i, name in enumerate(source.names):
      stem = os.path.splitext(name)[0]
      if stem in found:
        raise PhotoError(f'{source.root}: two photos are called {stem}; keep one.')
      found[stem] = i
    by_stem[source.root] = found
  olds, news = by_stem[before.root], by_stem[after.root]
  for one, other, place in ((olds, news, after.root), (news, olds, before.root)):
    alone = sorted(one.keys() - other.keys())
    if alone:
      raise PhotoError(
        f'{place}: {len(alone)} photos have no partner here, such as {alone[0]}; each photo in '
        'before/ and after/ needs one of the same name.'
      )
  stems = sorted(news)
  for stem in stems:
    paths = before.root / before.names[olds[stem]], after.root / after.names[news[stem]]
    old, new = map(images.size, paths)
    if old != new:
      raise PhotoError(
        f'{paths[0]} is {old[1]}x{old[0]} and {paths[1]} {new[1]}x{new[0]}; both must show the '
        'same in the same size.'
      )
  return Pairs(
    Files(before.root, [before.names[olds[stem]] for stem in stems]),
    Files(after.root, [after.names[news[stem]] for stem in stems]),
  )


def tfds_images(data_dir: str | os.PathLike, name: str, split: str) -> Records:
  """The images of a prepared TFDS data set, e.g. `tfds_images(data_dir, 'voc/2012', 'train')`.

  Reads any data set with a feature `image` that TFDS prepared as ArrayRecord, and those written by
  `write_tfds`. `split` may be a TFDS slice or sum: 'train[:400]', 'train+validation'.

  Raises:
    PhotoError: if the data set is missing, or its files need TensorFlow.
    ConfigError: if the split is missing or empty.
  """
  directory = stores.local(f'{os.fspath(data_dir)}/{name}')
  versions = [
    path.parent
    for path in (*directory.glob('dataset_info.json'), *directory.glob('*/dataset_info.json'))
  ]
  if not versions:
    raise PhotoError(
      f'{directory} holds no prepared data set: make one from a VOCdevkit folder with '
      '`oldphoto tfds`, or prepare it with TFDS and --file_format=array_record.'
    )

  def version(path):
    """1.10.0 as [1, 10, 0], so that it comes after 1.9.0."""
    return [int(part) for part in path.name.split('.') if part.isdecimal()]

  return Records(str(max(versions, key=version)), split)


def sample_photos() -> Files:
  """Five colour photographs that come with scikit-image, so there is no download.

  Their short sides have 300 to 512 pixels. They are public domain or CC0, except the motorcycle,
  which is from the Middlebury 2014 stereo benchmark and states no licence.

  Raises:
    PhotoError: if the installed scikit-image lacks one of them.
  """
  root = pathlib.Path(str(importlib.resources.files('skimage'))) / 'data'
  missing = [name for name in SAMPLES if not (root / name).is_file()]
  if missing:
    raise PhotoError(
      f'this scikit-image does not include {", ".join(missing)}: install the version that '
      'pyproject.toml names, or train on a folder of photos.'
    )
  return Files(root, list(SAMPLES))


def cached(source: Source, max_bytes: int = 2**30) -> Cached:
  """Keeps decoded photos in memory: 1 GiB holds 2,300 photos of 481x321 pixels.

  This pays if the CPU also trains: a crop costs a tenth of decoding a 481x321 JPEG.
  """
  return Cached(source, max_bytes)


def subset(source: Source, seed: int, counts: Mapping[str, int]) -> dict[str, Chosen]:
  """Disjoint random choices from a source, e.g. {'train': 400, 'val': 100, 'test': 50}.

  The photos are ordered by a hash of seed and name and dealt out in the order of `counts`. The
  choice therefore depends only on the seed and the set of names.

  Raises:
    ConfigError: if a count is below 1, or there are too few photos.
  """
  wanted = sum(counts.values())
  if any(count < 1 for count in counts.values()):
    raise ConfigError(f'every split needs at least one photo, not {dict(counts)}.')
  if wanted > len(source):
    raise ConfigError(
      f'the splits {dict(counts)} need {wanted} photos, but there are {len(source)}.'
    )
  names = list(source.names)
  order = sorted(range(len(names)), key=lambda i: (_digest(f'{seed}/{names[i]}'.encode()), i))
  splits = {}
  start = 0
  for split, count in counts.items():
    splits[split] = Chosen(source, order[start : start + count])
    start += count
  return splits


def manifest(splits: Mapping[str, Source]) -> list[dict]:
  """One row per photo for a run's folder: name, split, sha256 of the file, width, height."""
  rows = []
  for split, source in splits.items():
    for i, name in enumerate(source.names):
      height, width, _ = source[i].shape
      sha256 = _digest(source.encoded(i))
      rows.append(dict(name=name, split=split, sha256=sha256, width=width, height=height))
  return rows


def _digest(data: bytes) -> str:
  return hashlib.sha256(data).hexdigest()


def _photo_names(path) -> tuple[pathlib.Path, list[str]]:
  """The folder, and the sorted relative names of the files in it that look like photos."""
  root = stores.local(path)
  if not root.is_dir():
    raise PhotoError(f'{root} is not a folder.')
  files = [file.relative_to(root) for file in root.rglob('*') if file.is_file()]
  files = [file for file in files if not any(part.startswith('.') for part in file.parts)]
  kinds = [file.suffix.lower() for file in files if folders.unread(file.suffix.lower())]
  names = [
    file.as_posix()
    for file in files
    if file.suffix.lower() in formats.FORMATS and file.suffix.lower() not in kinds
  ]
  unread = (
    f'{len(kinds)} files in formats that cannot be read ({", ".join(sorted(set(kinds)))}): '
    'save them as .png or .jpg'
  )
  if not names:
    raise PhotoError(
      f'{root} holds no photos: {len(files)} files, none of them {" ".join(formats.FORMATS)}'
      + (f'; {unread}.' if kinds else '.')
    )
  if kinds:
    _log.warning('%s: skipping %s.', root, unread)
  return root, sorted(names)


def _sizes(paths: Sequence[pathlib.Path]) -> list[tuple[int, int] | str]:
  """(height, width) of each upright photo, or a sentence on why it cannot be read completely."""
  with concurrent.futures.ThreadPoolExecutor() as pool:
    return list(pool.map(_size, paths))


def _size(path: pathlib.Path) -> tuple[int, int] | str:
  try:
    size = images.size(path)
    if not _whole_jpeg(path):
      images.read_rgb8(path)
    return size
  except images.PhotoError as error:
    return str(error)


def _whole_jpeg(path: pathlib.Path) -> bool:
  """Whether the file is a JPEG that decodes to its end; does not compute all of its pixels."""
  try:
    with Image.open(path, formats=['JPEG']) as image:
      image.draft(None, (1, 1))  # reads every coefficient, but decodes at an eighth of the size
      image.load()
    return True
  except Exception:  # reading the photo then reports the fault in a sentence
    return False


def _some(names: Sequence, limit: int = 5) -> str:
  more = f' and {len(names) - limit} more' if len(names) > limit else ''
  return ', '.join(map(str, names[:limit])) + more
