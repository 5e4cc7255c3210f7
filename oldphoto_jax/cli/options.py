"""Shared by the verbs: options, progress lines, and the sources of masks."""

import argparse
import json
import math
import os
import pathlib
import sys
import textwrap
import time
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from oldphoto_jax.errors import OptionError, PhotoError

if typing.TYPE_CHECKING:
  import numpy as np

  from oldphoto_jax.photos import images
  from oldphoto_jax.restoring import manifest


def verb(
  verbs,
  name: str,
  summary: str,
  description: str,
  examples: Sequence[str],
  usage: str = 'PHOTOS... -o OUT',
):
  """The parser of a verb, whose --help ends with examples."""
  lines = ''.join(f'\n  {example}' for example in examples)
  return verbs.add_parser(
    name,
    help=summary,
    usage=f'%(prog)s {usage} [OPTIONS]',
    description=textwrap.fill(description, 80),
    epilog=f'examples:{lines}',
    formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, max_help_position=24),
  )


def add_photos(parser: argparse.ArgumentParser, stores: bool = False) -> None:
  """Adds the photos, the output and which part of them. `stores`: they may be s3://... and such."""
  parser.add_argument(
    'photos',
    nargs='+',
    type=str if stores else local,
    metavar='PHOTOS',
    help='photos, or folders of photos',
  )
  add_output(parser, place if stores else local)
  parser.add_argument(
    '--shard', type=shard, metavar='K/N', help='do only part K of N, for N processes or machines'
  )
  parser.add_argument(
    '--only-failed', action='store_true', help='do only what failed before, by the report'
  )
  add_json(parser)


def add_json(parser: argparse.ArgumentParser) -> None:
  parser.add_argument('--json', action='store_true', help='print events as lines of JSON')


def part(args: argparse.Namespace):
  """The folder.Part that --shard and --only-failed name."""
  from oldphoto_jax.restoring import folder

  return folder.Part(args.shard, args.only_failed)


def add_output(parser: argparse.ArgumentParser, kind: Callable | None = None) -> None:
  parser.add_argument(
    '-o', '--output', required=True, type=kind or local, metavar='OUT', help='the output folder'
  )
  parser.add_argument(
    '--overwrite', action='store_true', help='replace files that exist in the output folder'
  )


def add_damage(parser: argparse.ArgumentParser, detector: str) -> None:
  """Adds options for the source of masks. `detector` describes the default detector."""
  parser.add_argument(
    '--mask',
    metavar='PICTURE',
    help='what to fill: a picture, white = damaged, or a folder of pictures named like the photos',
  )
  parser.add_argument('--detector', metavar='WEIGHTS', help=f'fill what this finds ({detector})')
  parser.add_argument(
    '--threshold',
    type=between(0, 1),
    metavar='T',
    help='fill what is damaged with probability T or more',
  )


def add_provenance(parser: argparse.ArgumentParser) -> None:
  parser.add_argument(
    '--no-provenance',
    dest='provenance',
    action='store_false',
    help='do not say in the photos how they were made',
  )


def add_page(parser: argparse.ArgumentParser) -> None:
  parser.add_argument(
    '--no-page',
    dest='page',
    action='store_false',
    help='write no before-after.html to compare the photos',
  )


def local(text: str) -> pathlib.Path:
  """Parses a path on a disk."""
  from oldphoto_jax.photos import places

  if places.is_remote(text):
    raise argparse.ArgumentTypeError(f'{text} is in a store, which only restore reads and writes')
  return pathlib.Path(text)


def place(text: str) -> pathlib.Path | str:
  """Parses the path of a folder, which stays a text if it is one of a store."""
  from oldphoto_jax.photos import places

  return text if places.is_remote(text) else pathlib.Path(text)


def add_cache(parser: argparse.ArgumentParser) -> None:
  """For verbs that compile; main.main reads it."""
  parser.add_argument(
    '--no-cache',
    dest='cache',
    action='store_false',
    help='keep no compiled programs for the next run',
  )


def shard(text: str) -> 'manifest.Shard':
  """Parses K/N, with 1 <= K <= N."""
  from oldphoto_jax.restoring import manifest

  number, slash, count = text.partition('/')
  if not (slash and number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
    raise argparse.ArgumentTypeError(f'{text} is not K/N with K from 1 to N, such as 2/4')
  return manifest.Shard(int(number), int(count))


def share(text: str) -> float:
  """Parses a number from 0 to 1."""
  value = float(text)
  if not 0 <= value <= 1:
    raise argparse.ArgumentTypeError(f'{text} is not from 0 to 1')
  return value


def between(low: float, high: float) -> Callable[[str], float]:
  """Parses a number between the two limits."""

  def number(text: str) -> float:
    value = float(text)
    if not low < value < high:
      raise argparse.ArgumentTypeError(f'{text} is not between {low} and {high}')
    return value

  return number


def least(smallest: int) -> Callable[[str], int]:
  """Parses a whole number that is at least `smallest`."""

  def number(text: str) -> int:
    value = int(text)
    if value < smallest:
      raise argparse.ArgumentTypeError(f'{text} is not {smallest} or more')
    return value

  return number


Damage = Callable[[pathlib.Path, 'images.Photo'], 'np.ndarray']


def marked_by_user(path: str) -> Damage:
  """(path of a photo, photo) -> its mask, read from --mask."""
  from oldphoto_jax.photos import masks

  if not os.path.exists(path):
    raise OptionError(f'{path}: there is no such mask or folder.')
  return lambda photo_path, photo: masks.read(masks.find(path, photo_path), photo.size)


def marked_by_detector(detector, sizes: Sequence[tuple[int, int]], threshold: float) -> Damage:
  """(path of a photo, photo) -> its mask, around the damage that a detect.Detector finds."""
  from oldphoto_jax.photos import images, masks
  from oldphoto_jax.restoring import detect

  mark = detect.marker(detector, sizes)

  def marked(path: pathlib.Path, photo: 'images.Photo') -> 'np.ndarray':
    mask = masks.grow(mark(images.to_float(photo)), threshold)
    if mask.min() > 0:
      raise PhotoError(
        'the detector takes the whole photo for damage, so nothing is left to restore it from; '
        'mark damage by --mask, or leave it with --no-find-damage.'
      )
    return mask

  return marked


def reports(folder: str) -> 'list[manifest.Report]':
  """manifest.read of a folder, which may be one of a store."""
  from oldphoto_jax.photos import places
  from oldphoto_jax.restoring import manifest, remote

  if not places.is_remote(folder):
    return manifest.read(pathlib.Path(folder))
  with remote.reports(folder) as local:
    return manifest.read(local)


def emit(event: Mapping[str, Any], rename: Callable[[str], str] = str) -> None:
  """Prints an event of --json: docs/restoring.md describes them. For `rename`, see `progress`."""
  print(rename(json.dumps(event)), flush=True)


def progress(
  todo, as_json: bool, note: Callable = lambda result: '', rename: Callable[[str], str] = str
) -> Callable[[int, int, object], None]:
  """Prints a line for each photo of a folder.Plan.

  Args:
    todo: the plan.
    as_json: print events, of which the first is printed at once.
    note: adds text to the line of a processed photo.
    rename: what is printed -> the same with the paths that a user knows; see remote.Mirror.
  """
  from oldphoto_jax.restoring import manifest

  start, worked = time.perf_counter(), 0
  if as_json:
    emit(
      {
        'event': 'start',
        'schema': manifest.SCHEMA,
        'total': len(todo.items),
        'shard': todo.shard and str(todo.shard),
        'output': str(todo.out),
      },
      rename,
    )

  def show(done: int, total: int, result) -> None:
    nonlocal start, worked
    if as_json:
      entry = result.entry(todo.folder)
      emit({'event': 'photo', 'done': done, 'total': total, **entry}, rename)
      return
    if result.status == 'kept':  # no measure of the time that others take
      start = time.perf_counter()
    else:
      worked += 1
    if result.status == 'failed':
      print(f'[{done}/{total}] {rename(result.message)}', file=sys.stderr)
      return
    left = (time.perf_counter() - start) / max(worked, 1) * (total - done)
    wait = f', about {math.ceil(left / 60)} min left' if left > 60 else ''
    output = rename(str(result.output))
    print(f'[{done}/{total}] {output} {result.status}{note(result)}{wait}', flush=True)
    for warning in result.warnings:
      print(f'  {warning}', file=sys.stderr)

  return show


def conclude(todo, summary, done: str, as_json: bool, rename: Callable[[str], str] = str) -> None:
  """Prints how many photos have each status.

  Args:
    todo, as_json, rename: as for `progress`.
    summary: of the job.
    done: the status of a processed photo.
  """
  counts = {status: summary.count(status) for status in (done, 'kept', 'failed')}
  if as_json:
    end = {'left': todo.left, 'report': str(todo.report), 'exit_code': int(summary.exit_code)}
    emit({'event': 'end', **counts, **end}, rename)
    return
  others = summary.made_otherwise
  if others:
    print(
      f'Kept photos that were made with other weights or settings: {others}. --overwrite does them '
      'again.',
      file=sys.stderr,
    )
  text = ', '.join(f'{count} {status}' for status, count in counts.items())
  print(f'{text}: see {rename(str(todo.report))}')
