"""Folders and files of object stores, such as gs://bucket/scans, by fsspec."""

import contextlib
import os
import pathlib
from collections.abc import Iterator
from typing import Any

from oldphoto_jax.errors import OptionError, PhotoError
from oldphoto_jax.photos import images

EXTRAS = {'s3': 's3', 's3a': 's3', 'gs': 'gs', 'gcs': 'gs'}  # protocol -> extra of this package


def is_remote(path: str) -> bool:
  """Whether a path names a place of fsspec: PROTOCOL://..."""
  return '://' in path


class Place:
  """A folder, or a single file, of a store or of a local disk.

  Attributes:
    url: as it was given, without a slash at its end.
    system: its file system.
    root: the same in the words of its file system.
  """

  def __init__(self, url: str):
    protocol, _, _ = url.partition('://')
    url = url if is_remote(url) else os.path.abspath(url)
    self.url = url.rstrip('/')
    try:
      import fsspec

      self.system, root = fsspec.core.url_to_fs(url)
    except ImportError as error:
      extra = EXTRAS.get(protocol)
      advice = f"pip install 'oldphoto_jax[{extra}]'" if extra else images.reason(error)
      raise OptionError(f'{url}: {protocol}:// needs a further package: {advice}.') from error
    except Exception as error:  # ValueError of fsspec, and whatever a store raises
      raise OptionError(f'{url}: the store cannot be used ({images.reason(error)}).') from error
    self.root = root.rstrip('/')

  def path(self, name: str) -> str:
    return f'{self.root}/{name}'

  @contextlib.contextmanager
  def told(self, what: str) -> Iterator[None]:
    """Makes a sentence of what a store raises, which is of all kinds."""
    try:
      yield
    except (PhotoError, OptionError):
      raise
    except Exception as error:
      raise PhotoError(f'{self.url}: {what} ({images.reason(error)}).') from error

  def files(self) -> dict[str, dict[str, Any]]:
    """Names of all files below the folder, and what the store says about each, such as its `size`.

    Raises:
      PhotoError: it cannot be listed, or a name would lead out of the folder.
    """
    with self.told('the folder cannot be listed'):
      found = self.system.find(self.root, detail=True)
    files = {}
    for path, info in found.items():
      name = path.removeprefix(self.root).lstrip('/') or path.rpartition('/')[2]
      parts = name.split('/')
      if '..' in parts or '.' in parts or '' in parts:  # a key may be any text
        raise PhotoError(f'{self.url}: {name} is no name of a file in a folder; rename it.')
      files[name] = info
    return files

  def get(self, name: str, to: pathlib.Path) -> bool:
    """Fetches a file. False: there is none."""
    with self.told(f'{name} cannot be read'):
      if not self.system.exists(self.path(name)):
        return False
      to.parent.mkdir(parents=True, exist_ok=True)
      self.system.get_file(self.path(name), str(to))
    return True

  def put(self, content: bytes, name: str) -> None:
    """Writes a file, completely or not at all. A store has no folders that must be made."""
    if not is_remote(self.url):
      images.make_folder(pathlib.Path(self.path(name)).parent)
      images.write_bytes(self.path(name), content, overwrite=True)
      return
    with self.told(f'{name} cannot be written'):
      self.system.pipe_file(self.path(name), content)
