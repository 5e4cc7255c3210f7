"""The one thread that restores: photos wait in turn, tell their progress, and can be cancelled."""

import collections
import contextlib
import dataclasses
import logging
import statistics
import threading
import time
from collections.abc import Callable
from typing import Any

from oldphoto_jax.errors import PhotoError, UserError
from oldphoto_jax.serving import box
from oldphoto_jax.serving.studio import Studio

LOOK, RESTORE = 'look', 'restore'
WAITING = 'waiting.json'  # what is to be restored, so that a restarted server goes on
_log = logging.getLogger(__name__)


class Cancelled(Exception):
  """The visitor does not want it any more."""


@dataclasses.dataclass
class Job:
  """One photo that waits or is worked on.

  Attributes:
    kind: LOOK or RESTORE.
    id: of the photo.
    done, total: pixels; total 0: not begun.
    started: time.monotonic.
  """

  kind: str
  id: str
  done: int = 0
  total: int = 0
  started: float = 0.0
  cancelled: bool = False


class Worker:
  """Looks at photos and restores them, one after the other. First looks come first.

  Attributes:
    ready: whether the engine is loaded.
    problem: why it could not be loaded.
    studio: None before it is ready.
  """

  def __init__(self, photos: box.Box, make: Callable[[], Studio]):
    """`make` loads the weights; it is called in the worker's thread."""
    self._box, self._make = photos, make
    self._condition = threading.Condition()
    self._waiting: list[Job] = []
    self._now: Job | None = None
    self._stopping = False
    self._failed: dict[str, str] = {}
    # Seconds per pixel of the last tiles. Their median forgets the time that compiling takes.
    self._paces: collections.deque[float] = collections.deque(maxlen=15)
    self.studio: Studio | None = None
    self.problem = ''
    self._thread = threading.Thread(target=self._run, name='restoring', daemon=True)

  def start(self) -> None:
    """Takes up what waited when the last server ended, and begins."""
    for id in box.read_json(self._box.folder / WAITING) or []:
      if self._box.entry(id):
        self._waiting.append(Job(RESTORE, id))
    for entry in self._box.entries():
      if entry.problem == '' and self._box.looked(entry) is None:
        self._waiting.append(Job(LOOK, entry.id))
    self._thread.start()

  def stop(self) -> None:
    """Ends the thread after the tile that it is at. What waits goes on with the next server."""
    with self._condition:
      self._stopping = True
      self._condition.notify()
    self._thread.join(60)

  # Asking for work -----------------------------------------------------------------------------

  def look(self, ids: list[str]) -> None:
    """Asks for a first look at photos."""
    with self._condition:
      self._waiting += [Job(LOOK, id) for id in ids]
      self._condition.notify()

  def restore(self, ids: list[str]) -> None:
    """Asks for photos to be restored; one that is at work begins again, with its newest edits.

    A single photo comes before many: somebody is looking at it.

    Raises:
      UserError: too many photos wait.
    """
    with self._condition:
      if len(ids) == 1:  # in front of those that wait, even if it is one of them
        self._waiting = [job for job in self._waiting if job.id != ids[0] or job.kind == LOOK]
      known = {job.id for job in self._waiting if job.kind == RESTORE}
      new = [id for id in dict.fromkeys(ids) if id not in known]
      if len(known) + len(new) > self._box.limits.waiting:
        raise UserError(f'more than {self._box.limits.waiting} photos would wait; try again later.')
      if self._now and self._now.kind == RESTORE and self._now.id in new:
        self._now.cancelled = True
      jobs = [Job(RESTORE, id) for id in new]
      self._waiting = jobs + self._waiting if len(ids) == 1 else self._waiting + jobs
      for id in new:
        self._failed.pop(id, None)
        self._box.touch(id)
      self._save()
      self._condition.notify()

  def cancel(self, ids: list[str]) -> None:
    """Gives up photos that wait to be restored or are being restored."""
    with self._condition:
      for job in [*self._waiting, self._now]:
        if job and job.kind == RESTORE and job.id in ids:
          job.cancelled = True
          self._box.touch(job.id)
      self._waiting = [job for job in self._waiting if not job.cancelled]
      self._save()

  def forget(self, id: str) -> None:
    """Gives up all work on a photo that was removed."""
    with self._condition:
      self._waiting = [job for job in self._waiting if job.id != id]
      if self._now and self._now.id == id:
        self._now.cancelled = True
      self._failed.pop(id, None)
      self._save()

  def _save(self) -> None:
    jobs = [*([self._now] if self._now else []), *self._waiting]
    ids = [job.id for job in jobs if job.kind == RESTORE and not job.cancelled]
    box.write_json(self._box.folder / WAITING, ids)

  # What happens --------------------------------------------------------------------------------

  def state(self) -> dict[str, Any]:
    """What is being done, as JSON values."""
    with self._condition:
      now = self._now
      shown = now and {
        'kind': now.kind,
        'id': now.id,
        'share': min(0.99, now.done / now.total) if now.total else 0.0,
        'done': now.done,
        'total': now.total,
        'left': self._left(now),
      }
      return {
        'ready': self.studio is not None,
        'problem': self.problem,
        'now': shown,
        'waiting': [{'kind': job.kind, 'id': job.id} for job in self._waiting],
        'left': self._all_left(),
      }

  def problem_of(self, id: str) -> str:
    """Why the last try at a photo failed, or ''."""
    with self._condition:
      return self._failed.get(id, '')

  def _left(self, job: Job) -> float | None:
    """Seconds for the rest of a photo, or None if that cannot be said yet."""
    if len(self._paces) < 3 or not job.total:
      return None
    return max(0, job.total - job.done) * statistics.median(self._paces)

  def _all_left(self) -> float | None:
    """Seconds for all that waits."""
    if len(self._paces) < 3 or self.studio is None:
      return None
    entries = ((job, self._box.entry(job.id)) for job in self._waiting)
    pixels = sum(self._pixels(job, entry) for job, entry in entries if entry and entry.size)
    left = (self._left(self._now) or 0.0) if self._now else 0.0
    return left + pixels * statistics.median(self._paces)

  def _pixels(self, job: Job, entry: box.Entry) -> int:
    studio = self.studio
    return studio.pixels_to_look(entry) if job.kind == LOOK else studio.pixels_to_restore(entry)

  # The thread ----------------------------------------------------------------------------------

  def _run(self) -> None:
    try:
      studio = self._make()
    except Exception as error:
      self.problem = str(error)
      _log.exception('the weights could not be loaded')
      return
    self.studio = studio
    while True:
      with self._condition:
        while not self._stopping and not self._waiting:
          self._condition.wait()
        if self._stopping:
          return
        looks = (i for i, job in enumerate(self._waiting) if job.kind == LOOK)
        self._now = job = self._waiting.pop(next(looks, 0))
      entry = self._box.entry(job.id)
      if entry is not None:
        self._one(studio, job, entry)
        self._box.sweep(entry)
      with self._condition:
        self._now = None
        if not self._stopping:
          try:
            self._save()
          except PhotoError:  # such as a full disk: the queue goes on without
            _log.exception('what waits could not be saved')
      if self._box.entry(job.id):
        self._box.touch(job.id)

  def _one(self, studio: Studio, job: Job, entry: box.Entry) -> None:
    try:
      if entry.size is None:
        raise PhotoError(entry.problem or f'{entry.name}: the photo cannot be read.')
      job.total, job.started = self._pixels(job, entry), time.monotonic()
      last = job.started

      def tick(pixels: int) -> None:
        nonlocal last
        now = time.monotonic()
        with self._condition:
          if job.cancelled or self._stopping:
            raise Cancelled
          if now - job.started > self._box.limits.seconds:
            raise PhotoError(
              f'{entry.name}: it took more than {self._box.limits.seconds / 60:.0f} minutes; '
              'raise the limit with --minutes, or shrink the photo.'
            )
          job.done += pixels
          if now - last > 0.01:  # else the tile was known already
            self._paces.append((now - last) / pixels)
        last = now

      (studio.look if job.kind == LOOK else studio.restore)(entry, tick)
    except Cancelled:
      pass
    except Exception as error:
      failed = ''
      with self._condition:
        if not job.cancelled and not self._stopping:
          known = isinstance(error, UserError)
          said = str(error) if known else f'{entry.name}: something went wrong inside the program.'
          if isinstance(error, MemoryError):
            said = f'{entry.name}: there is not enough memory for this photo; close other programs.'
          failed = self._failed[job.id] = box.plain(
            UserError(said.removeprefix(f'{entry.name}: ')), self._box.original(entry), entry.name
          )
          if not known:
            _log.exception('%s could not be restored', entry.name)
      if job.kind == LOOK and failed:  # once is enough
        with contextlib.suppress(PhotoError):
          self._box.set_looked(entry, {'problem': failed})
