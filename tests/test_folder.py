"""The job on a folder, whatever is done with its photos: planning, failures, the report."""

import json
import os
import pathlib
import threading

import jax
import numpy as np
import pytest
from PIL import Image

from oldphoto_jax.errors import ExitStatus, PhotoError
from oldphoto_jax.photos import images
from oldphoto_jax.restoring import folder, output_files, schedule, tasks


def save(path, height=8, width=12, seed=0):
  path.parent.mkdir(parents=True, exist_ok=True)
  pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
  Image.fromarray(pixels).save(path)
  return path


def plan(paths, out, **options):
  """A copy, and a picture of half the size that is not always made."""
  return folder.plan(
    paths,
    out,
    lambda name: {'copy': name},
    also=lambda name: {'half': 'halves' / name.with_suffix('.png')},
    **options,
  )


def run(todo, one=None, **options):
  def copy(item):
    photo = images.read(item.path)
    output_files.write(todo, photo, item.outputs['copy'])
    return tasks.Done(photo.size, ('A warning.',), {'mean': float(photo.pixels.mean())})

  work = schedule.each(one or copy)
  return folder.run(todo, work, {'head': 1}, 'copied', 'make it smaller', **options)


def report(out):
  return json.loads((out / 'report.json').read_text())


def test_planning_writes_nothing_and_reads_headers_once(tmp_path, monkeypatch):
  for i, name in enumerate(('a.png', 'sub/b.png', 'c.png')):
    save(tmp_path / 'in' / name, 8 + i)
  out = tmp_path / 'deep/out'
  save(out / 'c.png')
  before = sorted(tmp_path.rglob('*'))
  opened = []
  size = images.size
  monkeypatch.setattr(images, 'size', lambda path: opened.append(path.name) or size(path))
  todo = plan([tmp_path / 'in'], out)
  assert opened == ['a.png', 'b.png']  # c.png is kept
  assert [item.kept for item in todo.items] == [False, True, False]
  assert todo.sizes == [(8, 12), (9, 12)]
  assert sorted(tmp_path.rglob('*')) == before
  plan([tmp_path / 'in'], tmp_path / 'not/there')
  assert not (tmp_path / 'not').exists()


def test_the_report_has_what_became_of_each_photo(tmp_path):
  save(tmp_path / 'in/a.png')
  (tmp_path / 'in/b.png').write_bytes(b'')
  kept = save(tmp_path / 'out/c.png')
  save(tmp_path / 'in/c.png')
  seen = []
  summary = run(plan([tmp_path / 'in'], tmp_path / 'out'), progress=lambda *a: seen.append(a[:2]))
  assert summary.exit_code == ExitStatus.SOME_FAILED
  assert seen == [(1, 3), (2, 3), (3, 3)]
  said = report(tmp_path / 'out')
  assert (said['head'], said['copied'], said['kept'], said['failed']) == (1, 1, 1, 1)
  good, bad, old = said['photos']
  assert good['copy'] == 'a.png' and good['half'] is None
  assert good['warnings'] == ['A warning.'] and good['size'] == [8, 12] and good['mean'] > 0
  assert bad['message'] == f'{tmp_path / "in/b.png"}: the file is empty.' and bad['copy'] is None
  assert (old['status'], old['copy']) == ('kept', kept.name)


@pytest.mark.parametrize('error', [KeyboardInterrupt, AssertionError])
def test_an_interruption_or_a_bug_leaves_a_report_and_is_no_failed_photo(tmp_path, error):
  for name in ('a.png', 'b.png'):
    save(tmp_path / 'in' / name)
  todo = plan([tmp_path / 'in'], tmp_path / 'out')

  def one(item):
    if item.path.name == 'b.png':
      raise error
    output_files.write(todo, images.read(item.path), item.output)
    return tasks.Done((8, 12))

  with pytest.raises(error):
    run(todo, one)
  assert (report(tmp_path / 'out')['copied'], report(tmp_path / 'out')['failed']) == (1, 0)


def test_photos_overlap_in_their_order_and_a_bad_one_stops_no_other(tmp_path):
  for name in 'abcde':
    save(tmp_path / f'in/{name}.png')
  todo = plan([tmp_path / 'in'], tmp_path / 'out')
  read, written, together = [], [], threading.Event()

  def reading(item):
    read.append(item.path.stem)
    if item.path.stem == 'b':
      raise PhotoError(f'{item.path}: unreadable.')
    return images.read(item.path)

  def compute(item, photo, stop):
    if item.path.stem == 'c':
      raise PhotoError('not this one.')
    if item.path.stem == 'd':
      assert together.wait(60)  # until a photo before it is written
    return photo

  def finish(item, photo):
    assert len(read) - len(written) <= 4  # with those that failed
    output_files.write(todo, photo, item.output)
    written.append(item.path.stem)
    together.set()
    return tasks.Done(photo.size)

  work = schedule.staged(reading, compute, finish)
  summary = folder.run(todo, work, {}, 'copied', 'make it smaller')
  assert [result.status for result in summary.results] == [
    'copied', 'failed', 'failed', 'copied', 'copied'
  ]  # fmt: skip
  assert read == list('abcde') and written == list('ade')
  assert [result.message.split(': ')[1] for result in summary.results[1:3]] == [
    'unreadable.', 'not this one.'
  ]  # fmt: skip


@pytest.mark.parametrize('where', ['compute', 'finish'])
def test_an_interruption_gives_up_what_is_computed_and_keeps_what_is_written(tmp_path, where):
  for name in 'abcd':
    save(tmp_path / f'in/{name}.png')
  todo = plan([tmp_path / 'in'], tmp_path / 'out')
  stopped = []

  def compute(item, photo, stop):
    if item.path.stem == 'c':
      if where == 'compute':
        raise KeyboardInterrupt
      stopped.append(stop.wait(60))
      raise RuntimeError('stopped')  # nobody waits for it
    return photo

  def finish(item, photo):
    if where == 'finish' and item.path.stem == 'b':
      raise KeyboardInterrupt
    output_files.write(todo, photo, item.output)
    return tasks.Done(photo.size)

  work = schedule.staged(lambda item: images.read(item.path), compute, finish)
  with pytest.raises(KeyboardInterrupt):
    folder.run(todo, work, {}, 'copied', 'make it smaller')
  done = 2 if where == 'compute' else 1
  assert report(tmp_path / 'out')['copied'] == done
  assert len(list((tmp_path / 'out').glob('*.png'))) == done
  assert stopped in ([], [True])


def test_too_little_memory_fails_one_photo_and_other_errors_of_jax_are_raised(tmp_path):
  save(tmp_path / 'a.png')
  todo = plan([tmp_path / 'a.png'], tmp_path / 'out')

  def raising(error):
    def one(item):
      raise error

    return run(todo, one).results[0].message

  full = jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes')
  for error in (MemoryError(), full):
    assert raising(error).endswith('enough memory for this photo; make it smaller.')
  with pytest.raises(jax.errors.JaxRuntimeError, match='INTERNAL'):
    raising(jax.errors.JaxRuntimeError('INTERNAL: a bug'))


def test_no_output_takes_the_place_of_another_or_of_an_original(tmp_path):
  save(tmp_path / 'in/a.png')
  save(tmp_path / 'in/a.webp')  # its half would be a.png, too
  save(tmp_path / 'in/halves/b.png')  # its copy would lie where the half of in/b.png does
  save(tmp_path / 'in/b.png')
  todo = plan([tmp_path / 'in'], tmp_path / 'out')
  problems = {item.name.as_posix(): item.problem for item in todo.items}
  assert [name for name, problem in problems.items() if problem] == ['a.webp', 'halves/b.png']
  assert run(todo).count('failed') == 2
  with pytest.raises(PhotoError, match='would replace an original'):
    plan([tmp_path / 'in/halves/b.png', tmp_path / 'in/a.webp'], tmp_path / 'in/halves')


def test_folders_that_cannot_be_written_are_refused_before_anything_is_done(tmp_path, monkeypatch):
  photo = save(tmp_path / 'a.png')
  for out, match in ((photo, 'must be a folder'), (photo / 'below', 'cannot be made')):
    with pytest.raises(PhotoError, match=match):
      plan([photo], out)
    with pytest.raises(PhotoError, match=match):
      plan([photo], tmp_path / 'out', folder=out)
  monkeypatch.setattr(os, 'access', lambda *_: False)  # root may write anywhere
  with pytest.raises(PhotoError, match='cannot write to this folder'):
    plan([photo], tmp_path / 'out')


def test_overwrite_does_all_again(tmp_path):
  save(tmp_path / 'in/a.png')
  out = tmp_path / 'out'
  run(plan([tmp_path / 'in'], out))
  save(tmp_path / 'in/a.png', seed=1)
  assert run(plan([tmp_path / 'in'], out)).count('kept') == 1
  assert run(plan([tmp_path / 'in'], out, overwrite=True)).count('copied') == 1
  np.testing.assert_array_equal(
    images.read_rgb8(out / 'a.png'), images.read_rgb8(tmp_path / 'in/a.png')
  )


def test_a_gif_becomes_a_png():
  names = [
    output_files.like_original(pathlib.PurePath(name)).as_posix() for name in ('x/a.gif', 'b.JPG')
  ]
  assert names == ['x/a.gif.png', 'b.JPG']
