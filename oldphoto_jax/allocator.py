"""Freed memory stays with the process: without this, Linux clears it anew for every step.

XLA takes one buffer for all that a program holds meanwhile. glibc maps a buffer of more than 32 MiB
from the kernel at each call, which clears every page when it is first touched.
"""

import ctypes
import os

VARIABLE = 'OLDPHOTO_KEEP_MEMORY'  # OFF: glibc's own settings
OFF = 'off'
# Of malloc.h: the parameters of mallopt.
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8
_MOST = 2**31 - 1  # bytes that stay, at the end of the heap: the largest int of C


def keep_memory() -> bool:
  """Lets the C library keep freed memory for the next call, until the process ends.

  For processes that compute and end, such as a training: the memory of others stays at its peak.
  Call it before there are threads. It does nothing where the C library is not glibc, where the
  environment has settings for glibc's allocator already, or where OLDPHOTO_KEEP_MEMORY is `off`.

  Returns:
    Whether freed memory is kept.
  """
  users = 'glibc.malloc' in os.environ.get('GLIBC_TUNABLES', '') or any(
    name.startswith('MALLOC_') for name in os.environ
  )
  if users or os.environ.get(VARIABLE, '').lower() == OFF or not _is_glibc():
    return False
  mallopt = ctypes.CDLL(None).mallopt
  # One heap, from which also the threads of XLA take: other heaps end at 64 MiB.
  settings = ((_M_ARENA_MAX, 1), (_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, _MOST))
  return all(mallopt(*setting) == 1 for setting in settings)


def _is_glibc() -> bool:
  try:
    return os.confstr('CS_GNU_LIBC_VERSION').startswith('glibc')
  except (AttributeError, OSError, ValueError):  # not Unix, or another C library
    return False
