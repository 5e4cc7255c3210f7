"""Estimates how long a fit of Deep Image Prior takes: timed on a small photo, scaled by area."""

import dataclasses
import functools
import time
from typing import Any

import jax
import jax.numpy as jnp

from oldphoto_jax.dip import prior
from oldphoto_jax.dip.fit import canvas
from oldphoto_jax.dip.prior import Dip, Photo
from oldphoto_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Speed:
  """A measured speed: seconds of one iteration on a photo of height x width."""

  seconds: float
  height: int
  width: int


def program(settings: Dip, iterations: int) -> Any:
  """`iterations` iterations as a fit runs them, (photo, key, state) -> (state, curve), jitted.

  It never stops, because a finished photo would be skipped and cost nothing.
  """
  never = 2**30
  stop = settings.stop and dataclasses.replace(settings.stop, patience=never)
  settings = dataclasses.replace(settings, iterations=never, stop=stop)
  return jax.jit(functools.partial(prior.run, settings, iterations), donate_argnums=2)


def arguments(settings: Dip, height: int, width: int) -> tuple[Photo, jax.Array, prior.State]:
  """A photo, a key and a state for `program`; times do not depend on their values."""
  channels, key = settings.net.out_channels, jax.random.key(0)
  height, width = canvas(settings, [(height, width)])
  ones = jnp.ones((height, width, 1))
  photo = Photo(jnp.full((height, width, channels), 0.5), ones, ones)
  # Zeros need no program of their own, as `prior.init` would.
  shapes = jax.eval_shape(functools.partial(prior.init, settings), photo, key)
  return photo, key, jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)


def measure(settings: Dip, height: int, width: int, iterations: int = 2) -> Speed:
  """Times `iterations` iterations on one photo and device, after a first call that compiles."""
  run = program(settings, iterations)
  photo, key, state = arguments(settings, height, width)
  state, _ = jax.block_until_ready(run(photo, key, state))
  start = time.perf_counter()
  jax.block_until_ready(run(photo, key, state))
  return Speed((time.perf_counter() - start) / iterations, *photo.real.shape[:2])


def estimate(settings: Dip, speed: Speed, height: int, width: int) -> float:
  """Seconds of a whole fit without early stopping: `speed` scaled by the area."""
  h, w = canvas(settings, [(height, width)])
  return speed.seconds * h * w / (speed.height * speed.width) * settings.iterations


def check_time(settings: Dip, speed: Speed, height: int, width: int, limit: float) -> str:
  """A sentence about how long the fit of a height x width photo takes at most.

  Args:
    limit: seconds.

  Raises:
    UserError: it takes longer than `limit`. Names the size that would not.
  """
  seconds = estimate(settings, speed, height, width)
  text = (
    f'a {width}x{height} photo takes at most {duration(seconds)}: {settings.iterations} '
    f'iterations, timed at {speed.width}x{speed.height} and scaled by the area'
  )
  if seconds <= limit:
    return text
  long = max(height, width)
  fits = [
    side
    for side in range(settings.net.multiple, long, max(settings.net.multiple, 16))
    if estimate(settings, speed, *(round(s * side / long) for s in (height, width))) <= limit
  ]
  advice = f'reduce its longer side to {fits[-1]} px' if fits else 'fit fewer iterations'
  raise UserError(f'{text}, over the limit of {duration(limit)}; {advice}')


def duration(seconds: float) -> str:
  """Text in seconds, minutes or hours."""
  if seconds < 100:
    return f'{seconds:.0f} s'
  if seconds < 6000:
    return f'{seconds / 60:.0f} min'
  return f'{seconds / 3600:.1f} h'
