"""Compiled programs on disk: found again, and no trouble whatever happens to them."""

import json
import os
import pathlib
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from oldphoto_jax.restoring import compile_cache

# Prints what three programs give, and how many of them came from the cache.
PROGRAM = """
import json, sys
import jax, jax.numpy as jnp
from oldphoto_jax.restoring import compile_cache
limits = json.loads(sys.argv[1])
compile_cache.LEAST_SECONDS = 0
compile_cache.LARGEST = limits.get('largest', compile_cache.LARGEST)
found = []
jax.monitoring.register_event_listener(lambda name, **_: found.append(name))
folder = compile_cache.enable()
if 'file' in limits:  # no file can grow beyond it, as on a full disk
  import resource, signal
  signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
  resource.setrlimit(resource.RLIMIT_FSIZE, (limits['file'],) * 2)
values = [float(jax.jit(lambda x: jnp.sin(x * n).sum())(jnp.arange(8.0))) for n in (1, 2, 3)]
hits = found.count('/jax/compilation_cache/cache_hits')
print(json.dumps([str(folder) if folder else None, hits, values]))
"""


def start(cache, **limits):
  environment = os.environ | {compile_cache.VARIABLE: str(cache)}
  environment.pop('JAX_COMPILATION_CACHE_DIR', None)
  words = [sys.executable, '-c', PROGRAM, json.dumps(limits)]
  return subprocess.Popen(
    words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
  )


def end(process):
  """(folder, hits, values); nothing may have been said, as nothing is the user's concern."""
  out, said = process.communicate(timeout=120)
  assert process.returncode == 0 and not said, said
  return json.loads(out)


def entries(folder):
  return sorted(pathlib.Path(folder).glob('jit__lambda*-cache'))


@pytest.fixture(scope='module')
def filled(tmp_path_factory):
  """A cache that two processes filled at once: (root, folder, values)."""
  root = tmp_path_factory.mktemp('cache')
  (folder, _, values), second = (end(p) for p in [start(root), start(root)])
  assert second[0] == folder and second[2] == values
  assert len(entries(folder)) == 3
  return root, folder, values


def test_the_next_process_compiles_nothing(filled):
  root, folder, values = filled
  before = [path.read_bytes() for path in entries(folder)]
  again = end(start(root))
  assert again[1] >= 3 and again[2] == values
  assert [path.read_bytes() for path in entries(folder)] == before


def test_a_damaged_entry_and_an_incomplete_one_cost_a_compilation(filled):
  root, folder, values = filled
  _, cut, alone = entries(folder)
  content = cut.read_bytes()
  cut.write_bytes(content[: len(content) // 2])
  # Interrupted in the first of its two files, an hour ago.
  alone.with_name(alone.name.removesuffix('cache') + 'atime').unlink()
  alone.write_bytes(b'half')
  os.utime(alone, (time.time() - 3600,) * 2)
  _, hits, again = end(start(root))
  assert again == values and hits >= 1
  assert len(alone.read_bytes()) > 4  # compiled and kept anew
  cut.write_bytes(content)


def test_a_full_disk_and_a_folder_that_cannot_be_made(filled, tmp_path):
  _, _, values = filled
  folder, hits, there = end(start(tmp_path / 'full', file=100))
  assert folder and not hits and there == values
  (tmp_path / 'file').write_text('no folder')
  assert end(start(tmp_path / 'file'))[::2] == [None, values]


def test_it_stays_small(filled, tmp_path):
  _, folder, values = filled
  size = max(path.stat().st_size for path in entries(folder))
  folder, _, there = end(start(tmp_path, largest=2 * size))
  kept = [path.stat().st_size for path in pathlib.Path(folder).glob('*-cache')]
  assert there == values and kept and sum(kept) <= 2 * size


def test_a_program_is_traced_once(monkeypatch, tmp_path):
  monkeypatch.setattr(compile_cache, '_ours', lambda: tmp_path)
  calls = []

  @jax.jit
  def double(x):
    calls.append(x.shape)
    return 2 * x

  def run(key, n, **more):
    x = jnp.arange(float(n))
    program = compile_cache.traced(key, double, x, **more)
    np.testing.assert_array_equal(program.call(x), 2 * x)

  run('double', 3)
  jax.clear_caches()
  run('double', 3)
  assert calls == [(3,)]
  run('double', 4)
  (path, _) = sorted((tmp_path / compile_cache.TRACED).iterdir(), key=lambda x: x.stat().st_mtime)
  path.write_bytes(path.read_bytes()[:-1])
  jax.clear_caches()
  run('double', 3)
  assert calls == [(3,), (4,), (3,)]
  jax.clear_caches()
  run('other', 3, keep=2)
  assert len(calls) == 4 and len(list((tmp_path / compile_cache.TRACED).iterdir())) == 2
  monkeypatch.setattr(compile_cache, '_ours', lambda: None)
  assert compile_cache.traced('double', double, jnp.zeros(3)) is None


def test_where_it_lies(monkeypatch, tmp_path):
  monkeypatch.setattr(sys, 'platform', 'linux')
  monkeypatch.setenv('HOME', str(tmp_path))
  monkeypatch.delenv(compile_cache.VARIABLE, raising=False)
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'xdg'))
  assert compile_cache.user_folder() == tmp_path / 'xdg/oldphoto_jax/compiled'
  monkeypatch.setenv('XDG_CACHE_HOME', 'relative')
  assert compile_cache.user_folder() == tmp_path / '.cache/oldphoto_jax/compiled'
  monkeypatch.setenv(compile_cache.VARIABLE, str(tmp_path / 'own'))
  assert compile_cache.user_folder() == tmp_path / 'own'


def test_it_can_be_switched_off_and_leaves_the_users_own_alone(monkeypatch, tmp_path):
  monkeypatch.setenv(compile_cache.VARIABLE, 'off')
  assert compile_cache.enable() is None
  monkeypatch.setenv(compile_cache.VARIABLE, str(tmp_path / 'ours'))
  before = jax.config.jax_compilation_cache_dir
  jax.config.update('jax_compilation_cache_dir', '/theirs')
  try:
    assert compile_cache.enable() is None
  finally:
    jax.config.update('jax_compilation_cache_dir', before)
  assert not (tmp_path / 'ours').exists()
