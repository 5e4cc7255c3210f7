"""Networks, compiled for each shape when it is first needed, and called with NumPy arrays."""

import concurrent.futures
import copy
import dataclasses
import os
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from oldphoto_jax.restoring import compile_cache, shapes, toning

# LLVM's dearer passes make repair no faster, but take a quarter of its compiling.
CPU_OPTIONS = {'xla_backend_optimization_level': 1, 'xla_llvm_disable_expensive_passes': True}


class Program:
  """`apply`, compiled for each shape when it is first needed, or earlier; from and to NumPy.

  With a `key` that identifies it, what was traced is kept on disk: see compile_cache.traced.
  """

  def __init__(self, apply: Callable, params: Any, key: str = ''):
    on_cpu = jax.default_backend() == 'cpu'
    self._jit = partial(jax.jit, compiler_options=CPU_OPTIONS if on_cpu else None)
    self._apply, self._params, self._key = apply, jax.device_put(params), key
    self._compiled, self._lock = {}, threading.Lock()

  def of(self, params: Any) -> 'Program':
    """The same with other parameters of these shapes. What is compiled serves both."""
    other = copy.copy(self)
    other._params = jax.device_put(params)
    return other

  def __call__(self, *arrays: np.ndarray) -> Any:
    compiled = self.prepare(*(array.shape for array in arrays))
    arrays = (np.asarray(array, np.float32) for array in arrays)
    return jax.tree.map(np.asarray, compiled(self._params, *arrays))

  @property
  def shapes(self) -> list[tuple[tuple[int, ...], ...]]:
    """The shapes of the arrays that it was compiled for."""
    return list(self._compiled)

  def prepare(self, *sizes: tuple[int, ...]) -> Callable:
    """Compiles it for arrays of these shapes; waits if another thread is about to."""
    with self._lock:
      theirs = self._compiled.get(sizes)
      if theirs is None:
        future = self._compiled[sizes] = concurrent.futures.Future()
    if theirs is not None:
      return theirs.result()
    try:
      args = self._params, *(jax.ShapeDtypeStruct(size, jnp.float32) for size in sizes)
      jitted = self._jit(self._apply)
      if self._key and (program := compile_cache.traced(self._key, jitted, *args)):
        jitted = self._jit(program.call)
      future.set_result(jitted.lower(*args).compile())
    except BaseException as error:
      with self._lock:
        del self._compiled[sizes]  # the next one may have more luck, or more memory
      future.set_exception(error)
      raise
    return future.result()


@dataclasses.dataclass(frozen=True, eq=False)
class RepairPrograms:
  """What an engine.Repairing runs; see engine.Restorer."""

  answer: Program
  prefill: Program
  shown: Program
  correction: Program | None
  find: Program | None = None  # a network that only finds damage; None: there is none
  cleaner: Program | None = None  # `answer` by a network for noisy photos; None: there is none

  def look(self, photo: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    nothing = np.zeros_like(photo[..., :1])
    return self.answer(photo, photo, nothing, nothing)

  def clean(self, photo: np.ndarray, noise: np.ndarray) -> np.ndarray:
    assert self.cleaner is not None
    return self.cleaner(photo, photo, noise[..., :1], noise[..., 1:])[0]

  def fill(self, photo: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if not mask.any():
      return self.look(photo)
    holes = (mask > 0).astype(np.float32)
    trust = np.full_like(holes, mask.max())
    filled = self.prefill(photo, mask)
    # What was only found is shown as it is, so most photos never need this program.
    seen = self.shown(photo, filled, mask) if (mask >= 1).any() else photo
    return self.answer(seen, filled, holes, trust)

  def prepare(
    self, plan: shapes.Plan, size: tuple[int, int], *, find: bool, told: bool, revive: bool
  ) -> concurrent.futures.Executor:
    """Compiles what a photo of this size will probably need. Returns at once: threads do it.

    Args:
      plan: of the engine.
      size: height and width of the photo.
      find: whether damage is looked for.
      told: whether somebody marks it.
      revive: whether tones are revived.

    Returns:
      The threads. Their shutdown with cancel_futures leaves out what is not begun.
    """

    def of(shape, *channels):
      return ((1, *shape, c) for c in channels)

    shape = plan.shape(size)
    pool = concurrent.futures.ThreadPoolExecutor(os.cpu_count() or 1)
    pool.submit(self.answer.prepare, *of(shape, 3, 3, 1, 1))
    if find and self.find is not None:
      pool.submit(self.find.prepare, *of(shape, 3))
    if find or told:
      pool.submit(self.prefill.prepare, *of(shape, 3, 1))
    if told:
      pool.submit(self.shown.prepare, *of(shape, 3, 3, 1))
    if revive and self.correction is not None:
      pool.submit(self.correction.prepare, *of((toning.SIDE, toning.SIDE), 3, 1))
    return pool


def program(apply: Callable, params: Any) -> Callable:
  """`apply`, jitted for each shape, with its parameters on the device; from and to NumPy."""
  jitted, params = jax.jit(apply), jax.device_put(params)
  return lambda *arrays: jax.tree.map(np.asarray, jitted(params, *arrays))
