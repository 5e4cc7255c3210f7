"""The manifest of an output folder: shards, kills, second runs, and what verify and status say."""

import collections
import csv
import errno
import hashlib
import io
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import filelock
import jax.numpy as jnp
import numpy as np
import pytest
from copying import copy, plan, save
from PIL import Image

from oldphoto_jax import cli, weights
from oldphoto_jax.errors import DiskFullError, PhotoError
from oldphoto_jax.photos import images
from oldphoto_jax.restoring import engine, folder, manifest, output_files, schedule, tasks


def report(out, name='report.json'):
  return json.loads((out / name).read_text())


def sha256(path):
  return hashlib.sha256(path.read_bytes()).hexdigest()


def every(out):
  """All entries of a folder's reports."""
  return manifest.merged(entry for found in manifest.read(out) for entry in found.photos)


@pytest.fixture
def say(capsys):
  """Runs a command line: (exit code, stdout, stderr)."""

  def command(*words):
    try:
      code = cli.main([str(word) for word in words])
    except SystemExit as error:  # argparse
      code = error.code
    shown = capsys.readouterr()
    return code, shown.out, shown.err

  return command


# What it says


def test_it_has_the_hashes_of_originals_and_outputs_and_the_settings(tmp_path):
  source, out = tmp_path / 'in', tmp_path / 'out'
  save(source / 'sub/ü, "a".png')
  (source / 'b.png').write_bytes(b'')
  copy(plan(source, out), strength=0.5)
  said = report(out)
  assert said['schema'] == 1 and said['software'].startswith('oldphoto_jax ')
  assert (said['strength'], said['total'], said['left'], said['shard']) == (0.5, 2, 0, None)
  bad, good = said['photos']
  assert good['name'] == good['output'] == 'sub/ü, "a".png'
  assert good['input'] == str(source / good['name'])
  for key, path in (('input', source / good['name']), ('output', out / good['name'])):
    assert good[f'{key}_sha256'] == sha256(path)
    assert good[f'{key}_bytes'] == path.stat().st_size
  assert said['runs'] == {good['run']: {k: said[k] for k in ('software', 'weights', 'strength')}}
  assert (bad['status'], bad['output'], bad['input_sha256']) == ('failed', None, None)
  rows = list(csv.DictReader(io.StringIO((out / 'report.csv').read_text())))
  assert [row['name'] for row in rows] == ['b.png', 'sub/ü, "a".png']
  assert rows[1]['output_sha256'] == good['output_sha256'] and rows[1]['size'] == '8 12'
  assert not list(out.glob('.*.journal'))


def test_what_was_done_before_stays_known(tmp_path):
  source, out = tmp_path / 'in', tmp_path / 'out'
  a, b = save(source / 'a.png'), save(source / 'b.png', seed=1)
  copy(plan(a, out), strength=1)
  first = report(out)['photos'][0]
  summary = copy(plan(source, out), strength=0.5)  # a is kept, b is new
  assert summary.made_otherwise == 1
  kept, new = report(out)['photos']
  assert kept['status'] == 'kept' and kept['mean'] == first['mean']
  assert (kept['run'], kept['time']) == (first['run'], first['time'])
  assert new['run'] != kept['run'] and report(out)['runs'].keys() == {new['run'], kept['run']}
  # Another folder into the same place, and an output that is no longer what it was.
  copy(plan(save(tmp_path / 'other/c.png', seed=2), out))
  assert [entry['name'] for entry in report(out)['photos']] == ['c.png', 'a.png', 'b.png']
  save(out / 'a.png', 9)
  copy(plan(a, out))
  entry = next(entry for entry in every(out) if entry['name'] == 'a.png')
  assert entry['run'] is None and 'mean' not in entry
  assert entry['warnings'] == [tasks.REPLACED]
  save(b, 11)
  (result,) = copy(plan(b, out)).results
  assert result.warnings == (tasks.CHANGED,)


@pytest.mark.parametrize('content', ['{"photos"', '[1]', '{"schema": 99, "photos": []}'])
def test_another_report_is_not_overwritten(tmp_path, content):
  photo, out = save(tmp_path / 'a.png'), tmp_path / 'out'
  out.mkdir()
  (out / 'report.json').write_text(content)
  with pytest.raises(PhotoError, match=r'cannot be read|no report of oldphoto|later version'):
    copy(plan(photo, out))
  assert (out / 'report.json').read_text() == content


# Shards, kills and second runs


def test_shards_are_disjoint_whole_even_and_known_by_name():
  names = [pathlib.PurePath(f'box {i // 100}/{i}.tif') for i in range(1000)]
  parts = [{n for n in names if manifest.Shard(k, 4).holds(n)} for k in range(1, 5)]
  assert set.union(*parts) == set(names) and sum(map(len, parts)) == 1000
  assert all(200 < len(part) < 300 for part in parts)  # 250 ± 3.7 sigma
  # The part must stay the same in all versions: it is the hash of the name.
  first = int(hashlib.sha256(b'a.jpg').hexdigest()[:16], 16)
  assert manifest.Shard(first % 7 + 1, 7).holds(pathlib.PurePath('a.jpg'))
  composed, decomposed = 'B\u00fc.jpg', 'Bu\u0308.jpg'
  holders = [
    [manifest.Shard(k, 50).holds(pathlib.PurePath(n)) for k in range(1, 51)]
    for n in (composed, decomposed)
  ]
  assert holders[0] == holders[1]


JOB = """
import pathlib, sys
sys.path.insert(0, sys.argv[1])
import copying
from oldphoto_jax.restoring import manifest
source, out, number = pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[3]), int(sys.argv[4])
copying.copy(copying.plan(source, out, manifest.Shard(number, 4)), 0.1)
"""


def test_four_processes_on_one_folder_one_of_them_killed(tmp_path, say):
  source, out = tmp_path / 'in', tmp_path / 'out'
  names = [f'{"ab"[i % 2]}/{i}.png' for i in range(40)]
  for i, name in enumerate(names):
    save(source / name, seed=i)
  here = str(pathlib.Path(__file__).parent)
  words = [sys.executable, '-c', JOB, here, str(source), str(out)]
  processes = [subprocess.Popen([*words, str(number)]) for number in (1, 2, 3, 4)]
  killed = manifest.Shard(2, 4)
  journal = out / '.report-2-of-4.json.journal'
  deadline = time.monotonic() + 300
  while not (journal.exists() and journal.read_bytes().count(b'\n') >= 3):
    assert time.monotonic() < deadline and processes[1].poll() is None
    time.sleep(0.02)
  processes[1].send_signal(signal.SIGKILL)
  assert [process.wait(300) for process in processes] == [0, -signal.SIGKILL, 0, 0]

  code, told, _ = say('status', out, '--json')
  told = json.loads(told)
  assert code == 1 and told['left'] > 0 and told['done'] + told['left'] == 40
  (job,) = [job for job in told['reports'] if not job['ended']]
  assert job['shard'] == '2/4' and job['left'] == told['left']
  assert 'it runs or was stopped' in say('status', out)[1]
  assert say('verify', out)[0] == 0  # of what was done, nothing is broken or lost

  summary = copy(plan(source, out, killed))
  assert summary.count('kept') >= 2 and summary.count('copied') >= told['left'] - 1
  assert say('status', out)[:2] == (0, '40 done, 0 failed, 0 left\n')
  assert say('verify', out)[:2] == (0, '40 photos: all files are as the report says.\n')
  assert collections.Counter(entry['name'] for entry in every(out)) == dict.fromkeys(names, 1)
  assert all('mean' in entry for entry in every(out) if entry['status'] == 'copied')
  # A job on all photos makes one report of the four.
  assert copy(plan(source, out)).count('kept') == 40
  assert len(report(out)['photos']) == 40 and report(out)['photos'][0]['mean'] > 0
  assert (report(out)['copied'], report(out)['kept']) == (0, 40)
  left_over = [path.name for path in out.rglob('.*') if not path.name.endswith('.lock')]
  assert len(left_over) <= 1  # the temporary file of the photo in work


def test_a_second_run_on_the_same_report_is_refused(tmp_path):
  source, out = tmp_path / 'in', tmp_path / 'out'
  save(source / 'a.png')
  todo = plan(source, out)

  def meanwhile(item):
    with pytest.raises(PhotoError, match=r'another run is writing report\.json'):
      copy(plan(source, out))
    copy(plan(source, out, manifest.Shard(1, 1)))  # a shard has a report of its own
    output_files.write(todo, images.read(item.path), item.output)  # its photo stays
    return tasks.Done((8, 12))

  assert folder.run(todo, schedule.each(meanwhile), {}, 'copied', '').count('copied') == 1


def test_without_locks_there_is_a_warning(tmp_path, monkeypatch, caplog):
  def none(lock):
    raise OSError(errno.ENOLCK, 'No locks available')

  monkeypatch.setattr(filelock.FileLock, 'acquire', none)
  copy(plan(save(tmp_path / 'in/a.png'), tmp_path / 'out'))
  assert 'this file system has no locks' in caplog.text
  assert len(report(tmp_path / 'out')['photos']) == 1


def test_what_another_run_has_done_meanwhile_is_kept(tmp_path):
  source, out = tmp_path / 'in', tmp_path / 'out'
  for name in ('a.png', 'b.png', 'c.png'):
    save(source / name)
  todo = plan(source, out)
  asked = []

  def one(item):
    asked.append(item.name.name)
    copy(plan(source, out, manifest.Shard(1, 1)))
    return tasks.Done((8, 12))

  summary = folder.run(todo, schedule.each(one), {}, 'copied', '')
  assert asked == ['a.png']
  assert [result.status for result in summary.results] == ['copied', 'kept', 'kept']
  assert len(every(out)) == 3


def test_a_line_that_a_kill_cut_off_costs_one_photo(tmp_path, monkeypatch):
  source, out = tmp_path / 'in', tmp_path / 'out'
  for name in ('a.png', 'b.png', 'c.png'):
    save(source / name)
  with monkeypatch.context() as patch:
    patch.setattr(manifest.Journal, 'finish', lambda self: None)  # as after SIGKILL
    copy(plan(source, out))
  journal = out / '.report.json.journal'
  journal.write_bytes(journal.read_bytes()[:-40])
  assert [entry['name'] for entry in every(out)] == ['a.png', 'b.png']
  copy(plan(source, out))
  assert ['mean' in entry for entry in report(out)['photos']] == [True, True, False]
  assert report(out)['photos'][2]['output_sha256'] == sha256(out / 'c.png')


def test_only_what_failed_is_tried_again(tmp_path, say):
  source, out = tmp_path / 'in', tmp_path / 'out'
  save(source / 'a.png')
  (source / 'b.png').write_bytes(b'')
  out.mkdir()
  with pytest.raises(PhotoError, match='says what has failed'):
    plan(source, out, only_failed=True)
  copy(plan(source, out))
  save(source / 'b.png')
  save(source / 'c.png')  # new, and left for later
  todo = plan(source, out, only_failed=True)
  assert [(item.name.name, item.kept) for item in todo.items] == [('a.png', True), ('b.png', False)]
  assert copy(todo).count('copied') == 1
  assert not (out / 'c.png').exists()
  code, said, _ = say('status', out)
  assert (code, '2 done, 0 failed, 1 left' in said) == (1, True)


def test_a_bad_photo_that_was_deleted_has_not_failed(tmp_path, say):
  source, out = tmp_path / 'in', tmp_path / 'out'
  save(source / 'a.png')
  (source / 'b.png').write_bytes(b'')
  copy(plan(source, out))
  assert say('status', out)[0] == 1
  (source / 'b.png').unlink()
  copy(plan(source, out))
  assert say('status', out)[:2] == (0, '1 done, 0 failed, 0 left\n')


def test_a_full_disk_stops_the_job_with_one_sentence(tmp_path, monkeypatch):
  source, out = tmp_path / 'in', tmp_path / 'out'
  for name in ('a.png', 'b.png', 'c.png'):
    save(source / name)
  full = []
  fsync = os.fsync

  def no_space(descriptor):
    if full:
      raise OSError(errno.ENOSPC, 'No space left on device')
    fsync(descriptor)

  monkeypatch.setattr(os, 'fsync', no_space)
  todo = plan(source, out)

  def one(item):
    full.extend([1] if item.name.name == 'b.png' else [])
    output_files.write(todo, images.read(item.path), item.output)
    return tasks.Done((8, 12))

  with pytest.raises(DiskFullError, match=r'the disk is full\. Photos done: 1; make room'):
    folder.run(todo, schedule.each(one), {}, 'copied', '')
  assert sorted(path.name for path in out.glob('[!.]*')) == ['a.png']
  full.clear()
  assert copy(plan(source, out)).count('kept') == 1
  assert len(report(out)['photos']) == 3


# The commands


class Half:
  """Weights that make a photo half as strong; see weights.Loaded."""

  file, sha256 = 'half', 64 * '0'

  def restorer(self):
    apply = lambda params, batch: batch * params
    return engine.Restorer(apply, jnp.float32(0.5), 16, 'half 0000')

  def find_detector(self):
    return None


def mixed(place, count):
  """Photos of many kinds in several folders, one of them broken; their names."""
  names = []
  for i in range(count):
    ending = ('.jpg', '.png', '.tif', '.webp', '.bmp', '.JPG')[i % 6]
    path = place / f'box {i % 5}' / f'{"é" * (i % 3)}{i}{ending}'
    save(path, 9 + i % 4, 12, seed=i)
    if i % 7 == 0 and ending in ('.jpg', '.png'):
      Image.open(path).convert('L').save(path)
    names.append(path.relative_to(place).as_posix())
  (place / 'box 0/broken.jpg').write_bytes(b'no photo')
  return [*names, 'box 0/broken.jpg']


RESTORE = """
import sys, time
sys.path.insert(0, sys.argv[1])
import test_manifest
from oldphoto_jax import cli, weights
from oldphoto_jax.photos import images
weights.read = lambda path: test_manifest.Half()
read = images.read
images.read = lambda path, **options: time.sleep(0.05) or read(path, **options)
sys.exit(cli.main(sys.argv[2:]))
"""


@pytest.mark.parametrize('count', [30, pytest.param(300, marks=pytest.mark.slow)])
def test_a_mixed_folder_in_two_shards_killed_resumed_and_verified(
  tmp_path, say, monkeypatch, count
):
  source, out = tmp_path / 'in', tmp_path / 'out'
  names = mixed(source, count)
  words = ['restore', str(source), '-o', str(out), '--weights', 'half']
  first = [*words, '--shard', '1/2']
  here = str(pathlib.Path(__file__).parent)
  for stop, code in ((signal.SIGKILL, -signal.SIGKILL), (signal.SIGTERM, 75)):
    there = len(list(out.rglob('*.*')))
    process = subprocess.Popen(
      [sys.executable, '-c', RESTORE, here, *first], stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 300
    while len(list(out.rglob('*.*'))) < there + 5:
      assert time.monotonic() < deadline and process.poll() is None
      time.sleep(0.02)
    process.send_signal(stop)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == code, errors
  assert 'stopped by SIGTERM; the same command goes on' in errors
  assert report(out, 'report-1-of-2.json')['left'] > 0  # written at the end
  assert 'Not begun: shard 2/2.' in say('status', out)[1]

  monkeypatch.setattr(weights, 'read', lambda path: Half())
  codes = {say(*words, '--shard', shard)[0] for shard in ('1/2', '2/2')}
  assert codes == {0, 1}  # one of them has the broken photo
  assert not (out / 'before-after.html').exists()
  code, said, _ = say('status', out)
  assert (code, f'{count} done, 1 failed, 0 left' in said) == (1, True)
  assert say('verify', out)[:2] == (0, f'{count} photos: all files are as the report says.\n')
  entries = {entry['name']: entry for entry in every(out)}
  assert sorted(entries) == sorted(names) and len(every(out)) == len(names)
  for name in names[:-1]:
    before, after = (images.read_rgb8(place / name).astype(int) for place in (source, out))
    assert np.abs(after - (before + 127.5) / 2).mean() < 12  # JPEG and WebP are lossy
    assert entries[name]['input_sha256'] == sha256(source / name)


def test_verify_tells_what_is_missing_and_changed(tmp_path, say):
  source, out = tmp_path / 'in', tmp_path / 'out'
  for i, name in enumerate(('a.png', 'b.png', 'c.png', 'd.png')):
    save(source / name, seed=i)
  copy(plan(source, out))
  assert say('verify', out)[0] == 0
  (out / 'a.png').unlink()
  stamp = (out / 'b.png').stat()
  save(out / 'b.png', seed=9)
  os.utime(out / 'b.png', ns=(stamp.st_atime_ns, stamp.st_mtime_ns))  # dates do not hide it
  save(source / 'c.png', seed=9)
  (source / 'd.png').unlink()
  code, said, errors = say('verify', out)
  assert code == 1
  assert errors.splitlines() == [
    f'{out / "a.png"}: missing',
    f'{out / "b.png"}: changed',
    f'{source / "c.png"}: original changed',
    f'{source / "d.png"}: original missing',
  ]
  assert said == '4 photos: 1 missing, 1 changed, 1 original changed, 1 original missing.\n'
  code, said, _ = say('verify', out, '--no-originals', '--json')
  events = [json.loads(line) for line in said.splitlines()]
  assert [event.get('problem') for event in events] == ['missing', 'changed', None]
  assert events[-1] == {
    'event': 'end', 'photos': 4, 'missing': 1, 'changed': 1, 'exit_code': 1,
  }  # fmt: skip


def test_folders_can_be_moved(tmp_path, say):
  source, out = tmp_path / 'in', tmp_path / 'out'
  save(source / 'sub/a.png')
  copy(plan(source, out))
  out, source = out.rename(tmp_path / 'elsewhere'), source.rename(tmp_path / 'archive')
  assert say('verify', out)[0] == 1
  assert say('verify', out, '--originals', source)[0] == 0


def test_without_a_report_there_is_a_sentence(tmp_path, say):
  for verb in ('status', 'verify'):
    for place in (tmp_path, tmp_path / 'no'):
      code, said, errors = say(verb, place)
      assert (code, said, errors.count('\n')) == (2, '', 1)


def test_events_are_lines_of_json(tmp_path, say, monkeypatch):
  monkeypatch.setattr(weights, 'read', lambda path: Half())
  source, out = tmp_path / 'in', tmp_path / 'out'
  save(source / 'a.png')
  (source / 'b.png').write_bytes(b'')
  words = ['restore', source, '-o', out, '--json']
  code, said, errors = say(*words)
  start, a, b, end = [json.loads(line) for line in said.splitlines()]
  assert (code, errors) == (1, '')
  assert (start['event'], start['schema'], start['total']) == ('start', 1, 2)
  assert (a['event'], a['done'], a['total'], a['status']) == ('photo', 1, 2, 'restored')
  assert a['output_sha256'] == sha256(out / 'a.png')
  assert b['message'].endswith('b.png: the file is empty.')
  assert {key: end[key] for key in ('event', 'restored', 'kept', 'failed', 'exit_code')} == {
    'event': 'end', 'restored': 1, 'kept': 0, 'failed': 1, 'exit_code': 1,
  }  # fmt: skip
  code, said, errors = say('restore', tmp_path / 'no', '-o', out, '--json')
  assert json.loads(said) == {
    'event': 'error', 'message': f'{tmp_path / "no"}: there is no such file or folder.',
    'exit_code': 2,
  }  # fmt: skip
  assert errors.count('\n') == 1
  assert say('restore', source, '-o', out, '--shard', '3/2')[0] == 2


def test_photos_say_how_they_were_made_unless_not_wanted(tmp_path, say, monkeypatch):
  monkeypatch.setattr(weights, 'read', lambda path: Half())
  photo, out = save(tmp_path / 'a.png'), tmp_path / 'out'
  assert say('restore', photo, '-o', out)[0] == 0
  xmp = images.read(out / 'a.png').xmp.decode()
  assert 'digitalsourcetype/algorithmicallyEnhanced' in xmp
  assert f'weights=half 0000; weights_sha256={64 * "0"}; strength=1.0' in xmp
  first = (out / 'a.png').read_bytes()
  assert say('restore', photo, '-o', out, '--overwrite')[0] == 0
  assert (out / 'a.png').read_bytes() == first
  assert say('restore', photo, '-o', out, '--overwrite', '--no-provenance')[0] == 0
  assert images.read(out / 'a.png').xmp is None


def test_each_page_of_a_file_says_how_it_was_made(tmp_path, say, monkeypatch):
  monkeypatch.setattr(weights, 'read', lambda path: Half())
  pages = [Image.fromarray(np.full((20, 24, 3), level, np.uint8)) for level in (200, 100)]
  pages[0].save(tmp_path / 'a.tif', save_all=True, append_images=pages[1:])
  words = ['restore', tmp_path / 'a.tif', '-o', tmp_path / 'out', '--every-picture']
  assert say(*words, '--pages', 'all')[0] == 0
  photo = images.read(tmp_path / 'out/a.tif', all_pages=True)
  for page in (photo, *photo.pages):
    assert page.xmp.count(b'algorithmicallyEnhanced') == 1
  assert len(photo.pages) == 1
