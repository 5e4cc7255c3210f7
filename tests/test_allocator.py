"""Freed memory is kept for the next call, where the C library can and the user lets it."""

import os
import subprocess
import sys

import pytest

from oldphoto_jax import allocator

# Takes, fills and frees 96 MiB, as a call of a program does. The settings last as long as a
# process, so each case has one of its own.
CALLS = """
import ctypes, resource
from oldphoto_jax import allocator
kept = allocator.keep_memory()
c = ctypes.CDLL(None)
c.malloc.restype, c.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
c.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
def call():
  buffer = c.malloc(96 << 20)
  c.memset(buffer, 1, 96 << 20)
  c.free(buffer)
call()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(3):
  call()
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""

pytestmark = pytest.mark.skipif(not allocator._is_glibc(), reason='the C library is not glibc')


def calls(**variables):
  """What keep_memory said, and page faults of three calls."""
  own = ('MALLOC_', 'GLIBC_', allocator.VARIABLE)
  clean = {name: value for name, value in os.environ.items() if not name.startswith(own)}
  done = subprocess.run(
    [sys.executable, '-c', CALLS], env=clean | variables, capture_output=True, text=True, check=True
  )
  kept, faults = done.stdout.split()
  return kept == 'True', int(faults)


def test_a_call_takes_the_memory_of_the_one_before():
  kept, faults = calls()
  assert kept and faults < 100


@pytest.mark.parametrize(
  'variable',
  [
    {'OLDPHOTO_KEEP_MEMORY': 'off'},
    {'MALLOC_ARENA_MAX': '2'},
    {'GLIBC_TUNABLES': 'glibc.malloc.arena_max=2'},
  ],
)
def test_the_users_own_settings_stay(variable):
  kept, faults = calls(**variable)
  assert not kept and faults > 1000
