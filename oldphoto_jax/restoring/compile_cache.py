"""Compiled programs on disk, so that a command compiles once for a machine, not in every run.

JAX keeps the cache; this says where, and makes sure that it costs nothing but time if it fails.
"""

import contextlib
import functools
import hashlib
import os
import pathlib
import platform
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jaxlib
from jax import export

VARIABLE = 'OLDPHOTO_CACHE'  # a folder for the cache, or OFF
OFF = 'off'
LARGEST = 512 << 20  # bytes on disk; the programs that were used least recently go first
LEAST_SECONDS = 0.1  # of compiling; what is faster is not kept
TRACED, MOST_TRACED = 'traced', 64  # folder of traced programs, and how many; 71 KiB one of repair
UNFINISHED = 60  # seconds after which an entry that is still incomplete was interrupted


def enable() -> pathlib.Path | None:
  """Lets JAX keep compiled programs in the user's cache folder from now on.

  Does nothing if the environment variable OLDPHOTO_CACHE is `off`, if the user has told JAX where
  to keep its cache, or if the folder cannot be written.

  Returns:
    The folder; None if nothing is kept by this call.
  """
  users = getattr(jax.config, 'jax_compilation_cache_dir', None)  # declared at run time
  if os.environ.get(VARIABLE, '').lower() == OFF or users:
    return None
  try:
    folder = user_folder() / _processor()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # what lies in it is run
    with tempfile.TemporaryFile(dir=folder) as file:
      file.write(b'full or read-only?')
    _sweep(folder)
  except (OSError, RuntimeError):  # RuntimeError: there is no home folder
    return None
  jax.config.update('jax_compilation_cache_dir', str(folder))
  jax.config.update('jax_compilation_cache_max_size', LARGEST)
  jax.config.update('jax_persistent_cache_min_compile_time_secs', LEAST_SECONDS)
  jax.config.update('jax_persistent_cache_min_entry_size_bytes', -1)
  # XLA's own caches beside it are for GPUs; their paths would make every folder a new key.
  jax.config.update('jax_persistent_cache_enable_xla_caches', 'none')
  # An entry that cannot be read or written costs a compilation, which is no news for the user.
  warnings.filterwarnings('ignore', message='Error (reading|writing) persistent compilation cache')
  return folder


def traced(
  key: str, jitted: Callable, *args: Any, keep: int = MOST_TRACED
) -> export.Exported | None:
  """The program that `jitted` traces of `args`, kept on disk beside what it is compiled to.

  Tracing takes half a second a program, which a start from a warm cache need not spend.

  Args:
    key: identifies the function, apart from the code of this package and the versions of JAX.
    jitted: the function.
    args: arrays, or their shapes.
    keep: number of programs on disk at most.

  Returns:
    The program, whose `call` gives what `jitted` gives; None if `enable` has not chosen a folder.
  """
  folder = _ours()
  if folder is None:
    return None
  shapes = jax.tree.map(lambda x: (x.shape, str(x.dtype)), args)
  words = repr((key, shapes, jax.__version__, jaxlib.__version__, _code(), jax.default_backend()))
  path = folder / TRACED / hashlib.sha256(words.encode()).hexdigest()
  with contextlib.suppress(Exception):  # a program that cannot be read is traced
    digest, data = (whole := path.read_bytes())[:32], whole[32:]
    if hashlib.sha256(data).digest() == digest:
      os.utime(path)
      return export.deserialize(bytearray(data))
  program = export.export(jitted)(*args)
  with contextlib.suppress(OSError):
    data = program.serialize()
    path.parent.mkdir(mode=0o700, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
      file.write(hashlib.sha256(data).digest() + data)
    os.replace(file.name, path)
    newest = sorted(path.parent.iterdir(), key=lambda x: x.stat().st_mtime, reverse=True)
    for old in newest[keep:]:
      old.unlink(missing_ok=True)
  return program


def _ours() -> pathlib.Path | None:
  """The folder of the cache, if it is the one that `enable` chooses."""
  users = getattr(jax.config, 'jax_compilation_cache_dir', None)
  with contextlib.suppress(RuntimeError):
    folder = user_folder() / _processor()
    if users == str(folder):
      return folder
  return None


@functools.cache
def _code() -> str:
  """Identifies the code of all networks: another version must not find the programs of this one."""
  root = pathlib.Path(__file__).parent.parent
  files = sorted(path for room in ('models', 'nn') for path in (root / room).glob('*.py'))
  files.append(root / 'colour.py')
  return hashlib.sha256(b''.join(path.read_bytes() for path in files)).hexdigest()


def user_folder() -> pathlib.Path:
  """Where the caches of this user belong: OLDPHOTO_CACHE, or a folder of the platform's own.

  Raises:
    RuntimeError: there is no home folder.
  """
  if os.environ.get(VARIABLE):
    return pathlib.Path(os.environ[VARIABLE])
  if sys.platform == 'win32' and os.environ.get('LOCALAPPDATA'):
    base = pathlib.Path(os.environ['LOCALAPPDATA'])
  elif sys.platform == 'darwin':
    base = pathlib.Path.home() / 'Library' / 'Caches'
  else:
    base = pathlib.Path(os.environ.get('XDG_CACHE_HOME', ''))
    if not base.is_absolute():  # as the XDG Base Directory Specification has it
      base = pathlib.Path.home() / '.cache'
  return base / 'oldphoto_jax' / 'compiled'


def _processor() -> str:
  """Identifies the kind of processor, which JAX's keys do not: a home folder may serve several."""
  what = [platform.machine(), platform.processor()]
  with contextlib.suppress(OSError):
    lines = pathlib.Path('/proc/cpuinfo').read_text().splitlines()
    what += sorted({line for line in lines if line.startswith(('flags', 'model name', 'Features'))})
  return hashlib.sha256('\n'.join(what).encode()).hexdigest()[:12]


def _sweep(folder: pathlib.Path) -> None:
  """Removes what an interrupted process left, which JAX would neither use nor replace.

  JAX writes NAME-cache, and NAME-atime after it; if one of them is missing, it cannot make room.
  """
  names = {path.name for path in folder.iterdir()}
  for name in names:
    stem, _, kind = name.rpartition('-')
    other = {'cache': 'atime', 'atime': 'cache'}.get(kind)
    if other and f'{stem}-{other}' not in names:
      path = folder / name
      with contextlib.suppress(FileNotFoundError):  # another process may sweep, too
        if time.time() - path.stat().st_mtime > UNFINISHED:
          path.unlink()
