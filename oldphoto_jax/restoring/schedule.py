"""In which order, and at the same time as which others, a job does its photos."""

import collections
import concurrent.futures
import itertools
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from oldphoto_jax.restoring.tasks import FAILURES, Done, Item

# Photos to process -> (photo, outcome, seconds) of each, in any order. An outcome is a Done, or an
# error of FAILURES.
Work = Callable[[Iterable[Item]], Iterator[tuple[Item, Done | Exception, float]]]


def each(one: Callable[[Item], Done]) -> Work:
  """The `work` of a job that processes one photo after the other.

  `one` reads a photo and writes its outputs. It may raise the errors in FAILURES.
  """

  def work(items: Iterable[Item]) -> Iterator[tuple[Item, Done | Exception, float]]:
    for item in items:
      yield item, *_attempt(one, item)

  return work


def staged(
  read: Callable[[Item], Any],
  compute: Callable[[Item, Any, threading.Event], Any],
  finish: Callable[[Item, Any], Done],
) -> Work:
  """The `work` of a job whose photos overlap: one is read and one written while one is computed.

  Photos begin and end in their order, and at most three are held at once. Each of the functions may
  raise the errors in FAILURES. An error or an interruption stops the job: what is written is
  written, and what is computed is given up.

  Args:
    read: photo -> its content. Runs in a thread.
    compute: (photo, content, stop) -> the result, which is not yet written. Runs in a thread, and
      should raise any error soon after `stop` is set.
    finish: (photo, result) -> what was written. Runs in the thread of the caller, whom Ctrl-C
      reaches at once.
  """

  def work(items: Iterable[Item]) -> Iterator[tuple[Item, Done | Exception, float]]:
    stop = threading.Event()
    reader, computer = (concurrent.futures.ThreadPoolExecutor(1) for _ in range(2))

    def computed(item, reading):
      content, seconds = reading.result()
      if isinstance(content, Exception):
        return content, seconds
      result, more = _attempt(compute, item, content, stop)
      return result, seconds + more

    def begun() -> Iterator[tuple[Item, concurrent.futures.Future]]:
      for item in items:
        reading = reader.submit(_attempt, read, item)
        yield item, computer.submit(computed, item, reading)

    coming = begun()
    try:
      ahead = collections.deque(itertools.islice(coming, 2))
      while ahead:
        item, computing = ahead.popleft()
        end, seconds = computing.result()
        ahead.extend(itertools.islice(coming, 1))  # is read while this one is written
        if not isinstance(end, Exception):
          end, more = _attempt(finish, item, end)
          seconds += more
        yield item, end, seconds
    finally:
      stop.set()
      for pool in (computer, reader):
        pool.shutdown(cancel_futures=True)

  return work


def _attempt(function: Callable, *args: Any) -> tuple[Any, float]:
  """What a function gives, or an error of FAILURES; and how many seconds it took."""
  start = time.perf_counter()
  try:
    end = function(*args)
  except FAILURES as error:
    end = error
  return end, time.perf_counter() - start
