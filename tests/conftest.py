"""Shared test set-up: four simulated devices, where the reference data lies, fixture loading."""

import os
import pathlib

# Before JAX starts its backend: a pmapped test needs more than one device.
os.environ.setdefault('JAX_PLATFORMS', 'cpu')
os.environ.setdefault('JAX_NUM_CPU_DEVICES', '4')
# Compiling is most of the time here, and the programs are tiny. The older emitter of fusions
# (--xla_cpu_use_fusion_emitters=false) compiles a train step three times as fast, but jaxlib 0.10.2
# then gives a wrong gradient in test_pix2pix.py. Flags that are given come last.
os.environ['XLA_FLAGS'] = f'--xla_backend_optimization_level=0 {os.environ.get("XLA_FLAGS", "")}'
# No test writes into the home folder of whoever runs it.
os.environ['OLDPHOTO_CACHE'] = 'off'
# Nor does one change the allocator of the tests after it.
os.environ['OLDPHOTO_KEEP_MEMORY'] = 'off'

import jax
import jax.numpy as jnp
import numpy as np
import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent


# They start processes or compile the largest programs. With several workers, each of which takes a
# file at a time, they come first: one that is left to the end would keep one worker busy alone.
LONG = (
  'test_launch', 'test_processes', 'test_triplet_models', 'test_damage', 'test_pix2pix',
  'test_cyclegan', 'test_train', 'test_detector', 'test_worn', 'test_fusion', 'test_comparison',
)  # fmt: skip


def pytest_collection_modifyitems(items) -> None:
  items.sort(key=lambda item: item.path.stem not in LONG)


def count_parameters(params) -> int:
  """How many numbers a tree of arrays holds."""
  return sum(leaf.size for leaf in jax.tree.leaves(params))


def _shared() -> pathlib.Path:
  return pathlib.Path(os.environ.get('OLDPHOTO_SHARED', ROOT.parent / 'shared'))


@pytest.fixture(scope='session')
def shared() -> pathlib.Path:
  """The folder of reference photos and weights; a user's clone has none, so the test skips."""
  if not (_shared() / 'data').is_dir():
    pytest.skip('no reference data: set OLDPHOTO_SHARED to a folder that holds data/')
  return _shared()


@pytest.fixture
def float64(monkeypatch):
  """Computes in float64 throughout, also where the code asks for float32.

  For tests that train one network by two programs, such as one device and four. They round
  differently, and where rounding turns the sign of an L1 term or of a ReLU's input, a gradient
  jumps: in float32 that happens every few steps, on each processor at different ones, and grows
  tenfold with each step. In float64 it does not happen, so that bounds can be close to rounding.
  Models still name their dtype: jnp.float64.
  """
  monkeypatch.setattr(jnp, 'float32', jnp.float64)
  with jax.enable_x64(True):
    yield


@pytest.fixture
def client(tmp_path):
  """A client of the page's server, with its box in tmp_path/work and its output in tmp_path/out."""
  from serving_client import serving

  with serving(tmp_path / 'work', out=tmp_path / 'out') as client:
    yield client


@pytest.fixture(scope='session')
def fixture():
  """Loads `NAME.npz`: parameters, inputs and outputs of an official PyTorch network.

  Small files live in tests/fixtures; the larger ones are read from the shared folder.
  """

  def load(name: str) -> dict[str, np.ndarray]:
    for folder in (ROOT / 'tests' / 'fixtures', _shared() / 'fixtures'):
      path = folder / f'{name}.npz'
      if path.is_file():
        with np.load(path) as file:
          arrays = {key: file[key] for key in file.files}
        return {
          key: value.astype(np.float32) if value.dtype == np.float16 else value
          for key, value in arrays.items()
        }
    pytest.skip(f'no fixture {name}.npz: set OLDPHOTO_SHARED to a folder that holds fixtures/')

  return load
