"""Folders of object stores, such as s3://bucket/scans, as places of originals and of results.

A job runs on a local disk, and knows no stores. What is left to do is fetched first, each result is
put into its place as soon as it is done, and the report at the end. Between, the journal of the
report is put there once a minute, so that a lost machine costs little.
"""

import contextlib
import dataclasses
import hashlib
import json
import pathlib
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from oldphoto_jax.errors import OptionError, PhotoError
from oldphoto_jax.photos import formats
from oldphoto_jax.photos.places import Place
from oldphoto_jax.restoring import manifest

if TYPE_CHECKING:  # it needs JAX, and `oldphoto status` does not
  from oldphoto_jax.restoring.folder import Item, Result

  Show = Callable[[int, int, Result], None]

JOURNAL_EVERY = 60  # seconds


@dataclasses.dataclass(frozen=True)
class Mirror:
  """Local folders that stand for a place of originals and one of results.

  Attributes:
    photos: what is left to do, fetched.
    out: folder of the results, and of the report.
    source, target: what these stand for.
    shard: the part of the photos.
  """

  photos: pathlib.Path
  out: pathlib.Path
  source: Place
  target: Place
  shard: manifest.Shard | None

  def put_results(self, item: 'Item', *_: object) -> None:
    """Puts the results of a photo into their place; called before the report says that it is done.

    Raises:
      PhotoError: they cannot be written.
    """
    for path in filter(pathlib.Path.exists, item.outputs.values()):
      self.target.put(path.read_bytes(), path.relative_to(self.out).as_posix())

  def progress(self, show: 'Show') -> 'Show':
    """`show`, after a photo is cleared away, and the journal put into its place now and then."""
    told = time.monotonic()

    def after(done: int, total: int, result: 'Result') -> None:
      nonlocal told
      if result.status != 'failed':  # a disk holds the originals of a shard, not all its results
        for path in map(pathlib.Path, (result.input, *filter(None, result.outputs.values()))):
          if path.is_relative_to(self.photos.parent):  # only ever the copies
            path.unlink(missing_ok=True)
      if time.monotonic() - told > JOURNAL_EVERY:
        self.put_report()
        told = time.monotonic()
      show(done, total, result)

    return after

  def rename(self, text: str) -> str:
    """A text or JSON that names files, with the places that they stand for."""
    for folder, place in ((self.photos, self.source), (self.out, self.target)):
      # In JSON, a path is escaped letter by letter, so its beginning can be replaced.
      for written in {str(folder), json.dumps(str(folder))[1:-1]}:
        text = text.replace(written, place.url)
    return text

  def put_report(self) -> None:
    """Puts the report and its journal into the place of the results, as far as they exist."""
    for name in _report_names(self.shard):
      path = self.out / name
      if path.exists():
        text = path.read_text('utf-8', 'surrogateescape')
        self.target.put(self.rename(text).encode('utf-8', 'surrogateescape'), name)
      elif name.endswith('.journal'):
        with self.target.told(f'{name} cannot be removed'):
          if self.target.system.exists(self.target.path(name)):
            self.target.system.rm_file(self.target.path(name))


@contextlib.contextmanager
def mirror(
  source: str, target: str, shard: manifest.Shard | None, overwrite: bool
) -> Iterator[Mirror]:
  """Fetches what is left to do of a folder, and at the end puts the report where the results are.

  A photo is done if the report at `target` says so. The local folders are in the folder for
  temporary files (TMPDIR), and go away at the end.

  Args:
    source: folder of the originals; of a store, or local.
    target: folder of the results; of a store, or local.
    shard: the part of the photos; None: all.
    overwrite: whether all is done again.

  Raises:
    OptionError: a store cannot be used, or one place lies in the other.
    PhotoError: a file cannot be read or written, there is no room for the originals, or no file.
  """
  here, there = Place(source), Place(target)
  if type(here.system) is type(there.system) and here.root == there.root:
    raise OptionError(f'{target}: results would replace originals; choose another output folder.')
  work = pathlib.Path(tempfile.mkdtemp(prefix='oldphoto-'))
  made = Mirror(work / 'photos', work / 'out', here, there, shard)
  try:
    for place in (made.photos, made.out):
      place.mkdir()
    done = set()
    for name in _report_names(shard):
      there.get(name, made.out / name)
    before = manifest.read_one(made.out, manifest.report_name(shard))
    if before is not None and not overwrite:
      done = {entry['name'] for entry in before.photos if manifest.is_done(entry)}
    _fetch(made, done)
    try:
      yield made
    finally:
      made.put_report()
  finally:
    shutil.rmtree(work, ignore_errors=True)


def _fetch(made: Mirror, done: set[str]) -> None:
  here, there = made.source, made.target
  inside = ''
  if type(here.system) is type(there.system) and there.root.startswith(f'{here.root}/'):
    inside = f'{there.root.removeprefix(here.root).lstrip("/")}/'  # results among the originals
  wanted = {
    name: info['size'] or 0
    for name, info in here.files().items()
    if not any(part.startswith('.') for part in name.split('/'))
    and not (inside and name.startswith(inside))
  }
  is_photo = lambda name: pathlib.PurePath(name).suffix.lower() in formats.FORMATS
  if not any(map(is_photo, wanted)):
    raise PhotoError(f'{here.url}: there is no photo.')
  wanted = {
    name: size
    for name, size in wanted.items()
    if name not in done and (made.shard is None or made.shard.holds(pathlib.PurePosixPath(name)))
  }
  if not any(map(is_photo, wanted)):
    return  # what is no photo is only fetched to be named beside photos
  need, free = sum(wanted.values()), shutil.disk_usage(made.photos).free
  if need > 0.8 * free:
    raise PhotoError(
      f'{here.url}: {need / 1e9:.1f} GB of originals do not fit into the folder for temporary '
      f'files, where {free / 1e9:.1f} GB are free; make smaller parts with --shard, or set TMPDIR '
      'to a larger disk.'
    )
  single = here.system.isfile(here.root)
  for name in wanted:
    to = made.photos / name
    to.parent.mkdir(parents=True, exist_ok=True)
    with here.told(f'{name} cannot be read'):
      here.system.get_file(here.root if single else here.path(name), str(to))


def _report_names(shard: manifest.Shard | None) -> tuple[str, ...]:
  name = manifest.report_name(shard)
  return name, str(pathlib.PurePath(name).with_suffix('.csv')), f'.{name}.journal'


@contextlib.contextmanager
def reports(url: str) -> Iterator[pathlib.Path]:
  """A local folder with all reports of a place of results, and their journals."""
  place = Place(url)
  with tempfile.TemporaryDirectory(prefix='oldphoto-') as work:
    folder = pathlib.Path(work)
    with place.told('the folder cannot be listed'):
      found = [path.rpartition('/')[2] for path in place.system.ls(place.root, detail=False)]
    for name in found:
      if name.lstrip('.').startswith('report') and name.endswith(('.json', '.journal')):
        place.get(name, folder / name)
    yield folder


def identify(url: str) -> manifest.File | None:
  """manifest.identify of a file of a store."""
  import fsspec

  try:
    with fsspec.open(url, 'rb') as file:
      digest, size = hashlib.sha256(), 0
      while block := file.read(1 << 20):
        digest.update(block)
        size += len(block)
      return manifest.File(size, digest.hexdigest())
  except Exception:  # stores raise errors of all kinds
    return None
