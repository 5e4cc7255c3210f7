"""Compiled programs on disk, so that a command compiles once for a machine, not in every run.

JAX keeps the cache; this says where, and makes sure that it costs nothing but time if it fails.
"""

import contextlib
import hashlib
import os
import pathlib
import platform
import sys
import tempfile
import time
import warnings

import jax

VARIABLE = 'OLDPHOTO_CACHE'  # a folder for the cache, or OFF
OFF = 'off'
LARGEST = 512 << 20  # bytes on disk; the programs that were used least recently go first
LEAST_SECONDS = 0.1  # of compiling; what is faster is not kept
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
