"""Originals and results in a store: fsspec's memory stands for s3:// and gs://."""

import hashlib
import json
import shutil

import fsspec
import numpy as np
import pytest
from copying import save
from test_manifest import Half

from oldphoto_jax import cli, weights
from oldphoto_jax.photos import images
from oldphoto_jax.restoring import remote

NAMES = ['a.png', 'box 1/b.png', 'box 1/ü.png', 'box 2/sub/c.png']


@pytest.fixture
def store(tmp_path, monkeypatch):
  """A store with photos in archive/scans; no temporary folder stays behind."""
  system = fsspec.filesystem('memory')
  system.store.clear()
  monkeypatch.setattr(weights, 'read', lambda path: Half())
  (tmp_path / 'scratch').mkdir()
  monkeypatch.setattr('tempfile.tempdir', str(tmp_path / 'scratch'))
  for i, name in enumerate(NAMES):
    path = save(tmp_path / 'scans' / name, seed=i)
    system.pipe_file(f'/archive/scans/{name}', path.read_bytes())
  yield system
  assert not list((tmp_path / 'scratch').iterdir())


@pytest.fixture
def say(capsys):
  def command(*words):
    try:
      code = cli.main([str(word) for word in words])
    except SystemExit as error:
      code = error.code
    shown = capsys.readouterr()
    assert '/scratch/' not in shown.out + shown.err  # nobody knows the temporary folders
    return code, shown.out, shown.err

  return command


RESTORE = ('restore', 'memory://archive/scans', '-o', 'memory://archive/restored')


def report(store, name='report.json'):
  return json.loads(store.cat_file(f'/archive/restored/{name}'))


def results(store):
  return sorted(path.removeprefix('/archive/restored/') for path in store.find('/archive/restored'))


def test_a_folder_of_a_store_is_restored_into_another(store, say, tmp_path):
  code, said, errors = say(*RESTORE)
  assert (code, errors) == (0, '')
  assert '[1/4] memory://archive/restored/a.png restored' in said
  assert '4 restored, 0 kept, 0 failed: see memory://archive/restored/report.json' in said
  assert results(store) == sorted([*NAMES, 'report.csv', 'report.json'])
  for name in NAMES:
    content = store.cat_file(f'/archive/restored/{name}')
    (tmp_path / 'one.png').write_bytes(content)
    before, after = (
      images.read_rgb8(path).astype(float)
      for path in (tmp_path / 'scans' / name, tmp_path / 'one.png')
    )
    assert np.abs(after - (before + 127.5) / 2).max() <= 1
    (entry,) = [entry for entry in report(store)['photos'] if entry['name'] == name]
    assert entry['input'] == f'memory://archive/scans/{name}' and entry['output'] == name
    assert entry['output_sha256'] == hashlib.sha256(content).hexdigest()

  assert say('status', 'memory://archive/restored')[0] == 0
  assert say('verify', 'memory://archive/restored')[0] == 0
  store.pipe_file('/archive/restored/a.png', b'other')
  store.rm_file('/archive/scans/box 1/b.png')
  code, _, errors = say('verify', 'memory://archive/restored')
  assert code == 1
  assert sorted(errors.splitlines()) == [
    'memory://archive/restored/a.png: changed',
    'memory://archive/scans/box 1/b.png: original missing',
  ]


def test_files_that_are_no_photos_are_nothing_to_do(store, say):
  store.pipe_file('/archive/scans/Thumbs.db', b'of a file manager')
  assert say(*RESTORE)[0] == 0
  code, _, errors = say(*RESTORE)
  assert code == 0 and 'nothing is left to do' in errors


def test_shards_share_a_store_and_go_on_without_fetching_what_is_done(store, say, monkeypatch):
  for number in (1, 2):
    assert say(*RESTORE, '--shard', f'{number}/2')[0] == 0
  assert set(NAMES) < set(results(store))
  assert say('status', 'memory://archive/restored')[1] == '4 done, 0 failed, 0 left\n'
  fetched = []
  get = type(store).get_file
  monkeypatch.setattr(type(store), 'get_file', lambda *a, **k: fetched.append(a[1]) or get(*a, **k))
  store.pipe_file('/archive/scans/new.png', store.cat_file('/archive/scans/a.png'))
  for number in (1, 2):
    assert say(*RESTORE, '--shard', f'{number}/2')[0] == 0
  assert [path for path in fetched if path.endswith('.png')] == ['/archive/scans/new.png']
  assert say('status', 'memory://archive/restored')[1] == '5 done, 0 failed, 0 left\n'
  assert say('verify', 'memory://archive/restored')[0] == 0


def test_a_lost_machine_costs_what_was_done_since_the_journal(store, say, monkeypatch):
  put = remote.Place.put

  def dies(self, content, name):
    if name == 'box 1/ü.png':
      raise SystemExit(9)
    put(self, content, name)

  with monkeypatch.context() as patch:  # the journal has not been put yet
    patch.setattr(remote.Place, 'put', dies)
    patch.setattr(remote.Mirror, 'put_report', lambda self: None)
    assert say(*RESTORE)[0] == 9
  assert results(store) == ['a.png', 'box 1/b.png']  # both are done once more
  put_report, told = remote.Mirror.put_report, []

  def twice(self):
    if len(told) < 2:
      told.append(1)
      put_report(self)

  with monkeypatch.context() as patch:  # after each photo, but not at the end
    patch.setattr(remote, 'JOURNAL_EVERY', 0)
    patch.setattr(remote.Place, 'put', dies)
    patch.setattr(remote.Mirror, 'put_report', twice)
    assert say(*RESTORE)[0] == 9
  assert results(store) == ['.report.json.journal', 'a.png', 'box 1/b.png']
  assert say('status', RESTORE[3])[1].endswith('2 done, 0 failed, 2 left\n')
  code, said, _ = say(*RESTORE)
  assert (code, said.count(' restored')) == (0, 2 + 1)  # and the line at the end
  assert len(report(store)['photos']) == 4 and say('verify', RESTORE[3])[0] == 0
  assert '.report.json.journal' not in results(store)


def test_a_result_that_cannot_be_put_is_not_done(store, say, monkeypatch):
  put = type(store).pipe_file

  def refuses(self, path, value, **options):
    if path.endswith('restored/a.png'):
      raise ConnectionError('the store is closed')
    put(self, path, value, **options)

  with monkeypatch.context() as patch:
    patch.setattr(type(store), 'pipe_file', refuses)
    code, _, errors = say(*RESTORE)
  assert code == 1 and 'a.png cannot be written (the store is closed)' in errors
  assert say(*RESTORE)[0] == 0
  assert say('verify', RESTORE[3])[0] == 0 and len(report(store)['photos']) == 4


def test_local_originals_and_a_broken_one(store, say, tmp_path):
  (tmp_path / 'scans/broken.png').write_bytes(b'no photo')
  words = ('restore', tmp_path / 'scans', '-o', 'memory://archive/restored', '--json')
  code, said, _ = say(*words)
  events = [json.loads(line) for line in said.splitlines()]
  assert code == 1 and events[-1]['failed'] == 1
  (bad,) = [event for event in events if event.get('status') == 'failed']
  assert bad['input'] == str(tmp_path / 'scans/broken.png')
  assert bad['message'].startswith(f'{tmp_path / "scans/broken.png"}: ')
  save(tmp_path / 'scans/broken.png')
  assert say(*words)[0] == 0  # tried again, and nothing else
  assert len(report(store)['photos']) == 5


def test_results_may_lie_among_the_originals_or_on_a_disk(store, say, tmp_path):
  words = ('restore', 'memory://archive/scans', '-o')
  for _ in range(2):
    assert say(*words, 'memory://archive/scans/restored')[0] == 0
  assert not store.exists('/archive/scans/restored/restored')
  assert say(*words, tmp_path / 'here')[0] == 0
  assert (tmp_path / 'here/box 2/sub/c.png').exists()
  assert say('restore', 'memory://archive/scans/a.png', '-o', tmp_path / 'one')[0] == 0
  assert (tmp_path / 'one/a.png').exists()


@pytest.mark.parametrize(
  ('words', 'sentence'),
  [
    (('restore', 'memory://archive/no', '-o', 'memory://out'), 'there is no photo'),
    (('restore', 'memory://archive/scans', '-o', 'memory://archive/scans/'), 'replace originals'),
    (('restore', 'moon://a', '-o', 'out'), 'moon'),
    ((*RESTORE, '--save-mask'), '--save-mask needs an output folder on a disk'),
    ((*RESTORE[:2], 'memory://other', *RESTORE[2:]), 'one folder at a time'),
    (('detect', *RESTORE[1:]), 'in a store, which only restore reads and writes'),
    (('status', 'memory://archive/no'), 'cannot be listed'),
  ],
)
def test_what_cannot_work_is_a_sentence(store, say, words, sentence):
  code, said, errors = say(*words)
  assert (code, said) == (2, '') and sentence in errors
  assert not results(store)


def test_a_name_cannot_lead_out_of_the_folder(store, say):
  store.store['/archive/scans/../../evil.png'] = store.store['/archive/scans/a.png']
  code, _, errors = say(*RESTORE)
  assert code == 2 and 'is no name of a file in a folder' in errors


def test_a_disk_that_is_too_small_is_told(store, say, monkeypatch):
  usage = shutil.disk_usage('/')
  monkeypatch.setattr(shutil, 'disk_usage', lambda path: usage._replace(free=10))
  code, _, errors = say(*RESTORE)
  assert code == 2 and 'do not fit' in errors and 'TMPDIR' in errors
