"""The server of the page: what it keeps and refuses, and that it restores as the command does."""

import contextlib
import dataclasses
import io
import json
import os
import pathlib
import re
import threading
import time
import zipfile

import numpy as np
import pytest
import serving_engine
import test_kinds
from PIL import Image, ImageCms
from starlette.testclient import TestClient

from oldphoto_jax import cli
from oldphoto_jax.errors import OptionError, PhotoError
from oldphoto_jax.photos import decoding, formats, images
from oldphoto_jax.restoring import finding, restore
from oldphoto_jax.serving import app, box, brush, names, pictures, studio
from oldphoto_jax.serving.limits import Limits

HOST = '127.0.0.1:8765'
LIMITS = Limits()
SAFE = {'x-oldphoto': '1'}
SETTINGS = {
  'strength': 1.0,
  'tone': 0.6,
  'only_damage': False,
  'find': True,
  'every_picture': False,
}


def encoded(pixels, kind='PNG', **options):
  buffer = io.BytesIO()
  Image.fromarray(pixels).save(buffer, kind, **options)
  return buffer.getvalue()


@contextlib.contextmanager
def serving(work, limits=LIMITS, engine=serving_engine.make, folders=(), **setup):
  """A client of a running server."""
  photos = box.Box(work, limits)
  if folders:
    photos.add_folders(folders, skip=setup.get('out'))
  made = app.make(app.Setup(photos, engine, setup.pop('hosts', frozenset({HOST})), **setup))
  with TestClient(made, base_url=f'http://{HOST}', headers=SAFE) as client:
    yield client


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
  monkeypatch.setattr(studio, 'TILE', 128)


@pytest.fixture
def client(tmp_path):
  with serving(tmp_path / 'work', out=tmp_path / 'out') as client:
    yield client


def until(client, true, seconds=60):
  """The state, as soon as something is true of it."""
  end = time.monotonic() + seconds
  while time.monotonic() < end:
    state = client.get('/api/state').json()
    if true(state):
      return state
    time.sleep(0.01)
  raise AssertionError(state)


def idle(state):
  return state['work']['ready'] and not state['work']['now'] and not state['work']['waiting']


def add(client, name='a.png', data=None):
  data = encoded(serving_engine.photo()) if data is None else data
  answer = client.post('/api/photos', params={'name': name}, content=data)
  assert answer.status_code == 201, answer.text
  return answer.json()['id']


def restored(client, id):
  assert client.post('/api/restore', json={'ids': [id]}).status_code == 200
  until(client, idle)
  answer = client.get(f'/api/photos/{id}/download')
  assert answer.status_code == 200, answer.text
  return answer


def draw(client, id, *drawn, **settings):
  revision = client.get(f'/api/photos/{id}/edits').json()['revision']
  edits = {'revision': revision, 'settings': SETTINGS | settings, 'strokes': list(drawn)}
  answer = client.put(f'/api/photos/{id}/edits', json=edits)
  assert answer.status_code == 200, answer.text
  return answer.json()


def stroke(kind, *points, size=4):
  return {'kind': kind, 'size': size, 'points': list(points)}


def one(state):
  (photo,) = state['photos']
  return photo


# The way of a photo --------------------------------------------------------------------------


def test_a_photo_is_looked_at_and_restored_as_the_command_does(client, tmp_path):
  id = add(client, 'summer/a.png')
  found = one(until(client, idle))
  mask = np.zeros(serving_engine.SIZE, bool)
  mask[19:24, 9:-9] = True  # the scratch, widened by one pixel
  assert found['looked']['damaged'] == pytest.approx(mask.mean())
  assert found['looked']['noisy'] == 1
  assert found['result'] is None
  answer = restored(client, id)
  assert answer.headers['content-disposition'] == 'attachment; filename="a.png"'
  (tmp_path / 'in').mkdir()
  (tmp_path / 'in' / 'a.png').write_bytes(encoded(serving_engine.photo()))
  todo = restore.plan([tmp_path / 'in'], tmp_path / 'direct', save_masks=True)
  wishes = restore.Wishes(find=finding.THRESHOLD, tone=0.6)
  restore.restore_photos(serving_engine.make(), todo, wishes)
  # Files also say when they were made.
  pixels = np.asarray(Image.open(io.BytesIO(answer.content)))
  np.testing.assert_array_equal(pixels, images.read_rgb8(tmp_path / 'direct' / 'a.png'))
  shown = client.get(f'/api/photos/{id}/mask')
  assert images.read(tmp_path / 'direct' / 'masks' / 'a.png').pixels.max() == 255
  np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(shown.content))) > 0, mask)
  result = one(client.get('/api/state').json())['result']
  assert result['damaged'] == pytest.approx(mask.mean(), abs=1e-6)


def test_a_first_look_finds_what_restoring_finds_or_says_that_it_saw_a_copy(client, monkeypatch):
  # An image of one byte a pixel: where damage is.
  marks = lambda id: np.asarray(
    Image.open(io.BytesIO(client.get(f'/api/photos/{id}/mask').content))
  )
  id = add(client)
  looked = one(until(client, idle))['looked']
  before = marks(id)
  restored(client, id)
  photo = one(client.get('/api/state').json())
  assert looked['whole'] and looked['damaged'] == pytest.approx(
    photo['result']['damaged'], abs=1e-6
  )
  assert before.any()
  np.testing.assert_array_equal(before, marks(id))

  monkeypatch.setattr(studio, 'LOOKED', 90)
  id = add(client, 'b.png')
  (photo,) = (p for p in until(client, idle)['photos'] if p['name'] == 'b.png')
  assert not photo['looked']['whole']
  assert marks(id).shape[:2] == serving_engine.SIZE


def test_strokes_mark_clear_and_protect(client):
  id = add(client)
  until(client, idle)
  before = serving_engine.photo()
  draw(
    client,
    id,
    stroke('clear', 0, 21.5, 45, 21.5, size=12),
    stroke('mark', 30, 40, 50, 40),
    stroke('protect', 40, 50, 80, 50, size=8),
    tone=0.0,
  )
  after = np.asarray(Image.open(io.BytesIO(restored(client, id).content)))
  assert (after[21, 60:75] == 128).all()  # the scratch is still filled here
  assert (after[21, 12:40] > 200).all()  # and here it is none: only cleaned
  assert (after[40, 31:50] == 128).all()  # marked by hand
  np.testing.assert_array_equal(after[47:53, 41:80], before[47:53, 41:80])
  assert (after[5] != before[5]).any()


def test_only_marks_by_hand_where_nothing_is_looked_for(client):
  id = add(client)
  until(client, idle)
  draw(client, id, stroke('mark', 30, 40, 50, 40), find=False, only_damage=True)
  before = serving_engine.photo()
  after = np.asarray(Image.open(io.BytesIO(restored(client, id).content)))
  changed = (after != before).any(-1)
  assert changed[39:41, 31:50].all()
  changed[37:44, 27:53] = False
  assert not changed.any()


def test_a_stroke_on_writing_erases_no_letters(client):
  """A search would take white paper for damage here; of writing, only what is drawn is filled."""
  page = np.repeat(test_kinds.page().pixels[..., :1], 3, -1)
  page = np.where(page > 200, np.uint8(255), page)
  id = add(client, data=encoded(page))
  assert one(until(client, idle))['looked']['kind'] == 'document'
  edits = draw(client, id, stroke('mark', 30, 40, 50, 40))
  shown = client.post(
    f'/api/photos/{id}/preview', json=edits | {'strokes': [stroke('mark', 30, 40, 50, 40)]}
  )
  after = np.asarray(Image.open(io.BytesIO(restored(client, id).content)))
  changed = (after != page).any(-1)
  assert changed[38:42, 32:48].all()
  changed[36:45, 26:54] = False
  assert not changed.any()
  shown = np.asarray(Image.open(io.BytesIO(shown.content))).astype(float)
  assert abs(shown[60:] - page[60:]).mean() < 10  # as JPEG changes edges


def test_what_was_only_found_is_believed_less_also_beside_strokes(tmp_path):
  trusted = []

  def engine():
    made = serving_engine.make()

    def run_fill(tile, marked):
      trusted.append(sorted(set(np.unique(marked)) - {0}))
      return made.run_fill(tile, marked)

    return dataclasses.replace(made, run_fill=run_fill)

  with serving(tmp_path, engine=engine) as client:
    id = add(client, data=encoded(serving_engine.photo(size=(120, 600))))
    until(client, idle)
    restored(client, id)
    assert {value for tile in trusted for value in tile} == {finding.TRUST}
    trusted.clear()
    draw(client, id, stroke('mark', 30, 80, 50, 80))
    restored(client, id)
  assert [finding.TRUST, 1.0] in trusted and [finding.TRUST] not in trusted
  # Tiles without a stroke are as before, so they are not even run again.


def test_a_changed_mask_runs_the_network_only_where_it_changed(tmp_path):
  count = [0]

  def tile():
    count[0] += 1

  with serving(tmp_path, engine=lambda: serving_engine.make(tile)) as client:
    id = add(client, data=encoded(serving_engine.photo(size=(300, 1000))))
    until(client, idle)
    draw(client, id, stroke('mark', 300, 200, 320, 200), stroke('mark', 980, 50, 985, 50))
    restored(client, id)
    before = count[0]
    draw(client, id, stroke('mark', 300, 200, 320, 200), stroke('mark', 980, 50, 985, 60))
    restored(client, id)
    assert count[0] == before + 1  # of three tiles
    assert before > 3


def test_a_preview_agrees_with_the_result(client):
  id = add(client)
  until(client, idle)
  restored(client, id)
  values = {'settings': SETTINGS | {'strength': 0.5, 'tone': 0.0}}
  preview = client.post(f'/api/photos/{id}/preview', json=values)
  assert preview.headers['content-type'] == 'image/jpeg'
  draw(client, id, strength=0.5, tone=0.0)
  after = np.asarray(Image.open(io.BytesIO(restored(client, id).content))).astype(float)
  shown = np.asarray(Image.open(io.BytesIO(preview.content))).astype(float)
  assert abs(after - shown).mean() < 6  # as JPEG changes noise
  assert abs(after.mean() - shown.mean()) < 0.5
  # With other strokes, the network runs on a small copy.
  values['strokes'] = [stroke('empty')]
  again = client.post(f'/api/photos/{id}/preview', json=values)
  shown = np.asarray(Image.open(io.BytesIO(again.content))).astype(float)
  assert shown[21, 20:70].mean() > 200


def test_a_preview_does_not_decode_the_photo_again(client, monkeypatch):
  id, read, paths = add(client), images.read, []
  until(client, idle)
  monkeypatch.setattr(
    images, 'read', lambda path, *rest: (paths.append(path), read(path, *rest))[1]
  )
  values = {'settings': SETTINGS, 'strokes': [stroke('mark', 30, 40, 50, 40)]}
  assert client.post(f'/api/photos/{id}/preview', json=values).status_code == 200
  assert paths and not any(path.stem == 'original' for path in paths)


def test_depth_profile_tags_and_gray_stay(client):
  icc = ImageCms.ImageCmsProfile(ImageCms.createProfile('sRGB')).tobytes()
  pixels = serving_engine.photo(dtype=np.uint16)
  title = ('tEXt', b'Title\0Oma')
  photo = images.Photo(pixels, icc=icc, dpi=(300.0, 300.0), parts=(title,))
  data = formats.encode(photo, 'PNG')
  id = add(client, 'deep.png', data)
  state = until(client, idle)
  assert one(state)['looked']['bits'] == 16
  content = restored(client, id).content
  after = decoding.decode(content, '.png', 10**6)
  assert (after.bits, after.icc) == (16, icc)
  assert title in after.parts
  small = Image.open(io.BytesIO(client.get(f'/api/photos/{id}/small/before/small').content))
  assert small.info['icc_profile'] == icc
  tile = client.get(f'/api/photos/{id}/tile/before/0/0/0')
  tile = Image.open(io.BytesIO(tile.content))
  assert tile.info['icc_profile'] == icc
  np.testing.assert_array_equal(np.asarray(tile), (pixels.astype(np.uint32) + 128) // 257)


def test_tiles_are_the_pixels(client):
  pixels = serving_engine.photo(size=(700, 1100))
  id = add(client, data=encoded(pixels))
  address = f'/api/photos/{id}/tile/before'
  tile = lambda *place: np.asarray(
    Image.open(io.BytesIO(client.get('/'.join(map(str, (address, *place)))).content))
  )
  np.testing.assert_array_equal(tile(0, 1, 0), pixels[:512, 512:1024])
  np.testing.assert_array_equal(tile(0, 2, 1), pixels[512:, 1024:])
  assert tile(1, 0, 0).shape == (350, 512, 3)
  assert tile(2, 0, 0).shape == (175, 275, 3)
  for place in ('0/3/0', '0/0/2', '3/0/0', '0/0/99999999999999999999', '99/0/0'):
    assert client.get(f'{address}/{place}').status_code == 404, place
  until(client, idle)


# Files in and out ----------------------------------------------------------------------------


def test_save_writes_into_the_output_folder_once(client, tmp_path):
  out = tmp_path / 'out'
  ids = [add(client, name) for name in ('a.png', 'A.PNG', 'sub/a.png')]
  until(client, idle)
  client.post('/api/restore', json={'ids': ids})
  until(client, idle)
  out.mkdir()
  (out / 'a.png').write_bytes(b'mine')
  answer = client.post('/api/save', json={'ids': ids}).json()
  assert answer['saved'] == 2
  assert answer['problems'] == [f'{out / "a.png"}: the file exists already and is kept.']
  assert (out / 'a.png').read_bytes() == b'mine'
  assert sorted(p.relative_to(out).as_posix() for p in out.rglob('*.[pP]*')) == [
    'A-2.PNG',
    'a.png',
    'sub/a.png',
  ]
  # What was saved from here is replaced by what is newer.
  draw(client, ids[2], strength=0.0, tone=0.0)
  newer = restored(client, ids[2]).content
  assert client.post('/api/save', json={'ids': ids[2:]}).json()['saved'] == 1
  assert (out / 'sub' / 'a.png').read_bytes() == newer
  report = json.loads((out / 'report.json').read_text())
  assert report['photos'][0]['settings']['strength'] == 0


def test_an_original_is_never_replaced(tmp_path):
  scans = tmp_path / 'scans'
  scans.mkdir()
  data = encoded(serving_engine.photo())
  (scans / 'a.png').write_bytes(data)
  with serving(tmp_path / 'work', folders=[scans], out=scans, overwrite=True) as client:
    id = one(until(client, idle))['id']
    restored(client, id)
    answer = client.post('/api/save', json={'ids': [id]}).json()
    assert 'would replace an original' in answer['problems'][0]
    client.post('/api/remove', json={'ids': [id]})
  assert (scans / 'a.png').read_bytes() == data


def test_all_results_in_one_download(client):
  ids = [add(client, name) for name in ('a.png', 'sub/b.png')]
  until(client, idle)
  assert client.post('/api/pack', json={'ids': ids}).status_code == 422
  client.post('/api/restore', json={'ids': ids})
  until(client, idle)
  address = client.post('/api/pack', json={'ids': ids}).json()['address']
  answer = client.get(address)
  with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
    assert archive.namelist() == ['a.png', 'sub/b.png']
    assert archive.read('a.png') == client.get(f'/api/photos/{ids[0]}/download').content
  assert client.get(address).status_code == 404  # a temporary file, removed


def test_nothing_is_lost_when_the_server_is_killed(tmp_path):
  started, go = threading.Event(), threading.Event()

  def slow():
    started.set()
    go.wait(10)

  go.set()
  with serving(tmp_path, engine=lambda: serving_engine.make(slow)) as client:
    ids = [add(client, name) for name in ('a.png', 'b.png')]
    until(client, idle)
    draw(client, ids[0], stroke('mark', 30, 40, 50, 40))
    done = restored(client, ids[0]).content
    draw(client, ids[0], stroke('mark', 30, 40, 50, 40), stroke('clear', 1, 1))
    # As after a power cut: half an upload, half a result, and a photo that waits.
    (tmp_path / 'temporary' / 'x').write_bytes(b'half')
    (tmp_path / 'photos' / 'torn').mkdir()
    (tmp_path / 'photos' / ids[0] / 'result-torn').mkdir()
    draw(client, ids[1], stroke('mark', 20, 50, 30, 50))
    started.clear()
    go.clear()
    client.post('/api/restore', json={'ids': [ids[1]]})
    assert started.wait(10)
    threading.Timer(0.2, go.set).start()  # the server ends after this tile
  with serving(tmp_path) as client:
    state = until(client, idle)
    assert sorted(photo['name'] for photo in state['photos']) == ['a.png', 'b.png']
    assert client.get(f'/api/photos/{ids[0]}/download').content == done
    assert len(client.get(f'/api/photos/{ids[0]}/edits').json()['strokes']) == 2
    assert client.get(f'/api/photos/{ids[1]}/download').status_code == 200  # it went on
    assert not list((tmp_path / 'temporary').iterdir())
    assert not list((tmp_path / 'photos').glob('*torn*/*torn*'))


def test_a_changed_original_is_looked_at_again(tmp_path):
  scans = tmp_path / 'scans'
  scans.mkdir()
  (scans / 'a.png').write_bytes(encoded(serving_engine.photo()))
  with serving(tmp_path / 'work', folders=[scans]) as client:
    id = one(until(client, idle))['id']
    restored(client, id)
  (scans / 'a.png').write_bytes(encoded(serving_engine.photo(1, size=(50, 80))))
  with serving(tmp_path / 'work', folders=[scans]) as client:
    photo = one(until(client, idle))
    assert (photo['height'], photo['width'], photo['result']) == (50, 80, None)


def test_what_was_made_of_a_changed_or_missing_original_stays(tmp_path):
  scans, work = tmp_path / 'scans', tmp_path / 'work'
  scans.mkdir()
  (scans / 'a.png').write_bytes(encoded(serving_engine.photo()))
  with serving(work, folders=[scans]) as client:
    until(client, idle)
  (scans / 'a.png').write_bytes(encoded(serving_engine.photo(1)))
  with serving(work) as client:
    id = one(until(client, idle))['id']
    restored(client, id)
  for _ in range(2):
    with serving(work) as client:
      assert one(until(client, idle))['result']
  os.rename(scans, tmp_path / 'unplugged')
  with serving(work) as client:
    photo = one(until(client, idle))
    assert photo['result'] and 'its original is not there' in photo['problem']
    assert client.get(f'/api/photos/{id}/download').status_code == 200
  os.rename(tmp_path / 'unplugged', scans)
  with serving(work) as client:
    photo = one(until(client, idle))
    assert photo['result'] and not photo['problem']


def test_two_servers_do_not_share_a_box(tmp_path):
  with serving(tmp_path), pytest.raises(PhotoError, match='another `oldphoto serve`'):
    box.Box(tmp_path, Limits())


def test_removed_photos_leave_nothing(client, tmp_path):
  id = add(client)
  until(client, idle)
  restored(client, id)
  version = client.get('/api/state').json()['version']
  client.post('/api/remove', json={'ids': [id]})
  assert not list((tmp_path / 'work' / 'photos').iterdir())
  state = client.get('/api/state', params={'since': version}).json()
  assert state['removed'] == [id]
  assert client.get(f'/api/photos/{id}/download').status_code == 404


# The queue -----------------------------------------------------------------------------------


def test_cancel_and_progress(tmp_path):
  started, go = threading.Event(), threading.Event()

  def slow():
    started.set()
    go.wait(10)

  go.set()
  with serving(tmp_path, engine=lambda: serving_engine.make(slow)) as client:
    ids = [add(client, f'{n}.png') for n in range(2)]
    until(client, idle)
    started.clear()
    go.clear()
    draw(client, ids[0], stroke('mark', 30, 40, 50, 40))  # else the tiles are known already
    client.post('/api/restore', json={'ids': ids})
    assert started.wait(10)
    work = client.get('/api/state').json()['work']
    assert (work['now']['id'], work['now']['kind']) == (ids[0], 'restore')
    assert 0 < work['now']['share'] < 1
    assert [job['id'] for job in work['waiting']] == ids[1:]
    # The photo that somebody looks at comes before those that many wait for.
    more = [add(client, f'{n}.png') for n in range(2, 4)]
    client.post('/api/restore', json={'ids': more})
    client.post('/api/restore', json={'ids': more[1:]})
    waiting = client.get('/api/state').json()['work']['waiting']
    restoring = [job['id'] for job in waiting if job['kind'] == 'restore']
    assert restoring == [more[1], ids[1], more[0]]
    client.post('/api/cancel', json={'ids': ids + more})
    go.set()
    until(client, idle)
    for id in ids + more:
      assert client.get(f'/api/photos/{id}/download').status_code == 404
    assert not list(tmp_path.glob('photos/*/result-*'))
    assert restored(client, ids[0]).content


def test_a_photo_that_takes_too_long_fails_in_plain_words(tmp_path):
  with serving(tmp_path, Limits(seconds=0.0)) as client:
    id = add(client)
    state = until(client, idle)
    assert 'a.png: it took more than' in one(state)['problem']
    client.post('/api/restore', json={'ids': [id]})
    assert 'raise the limit' in one(until(client, idle))['problem']


def test_a_first_look_that_failed_is_forgotten_once_a_photo_is_restored(tmp_path):
  fails = [MemoryError]

  def tile():
    if fails:
      raise fails.pop()

  with serving(tmp_path, engine=lambda: serving_engine.make(tile)) as client:
    id = add(client)
    assert 'there is not enough memory for this photo' in one(until(client, idle))['problem']
    restored(client, id)
    assert one(until(client, idle))['problem'] == ''


def test_a_mask_all_over_fails_in_plain_words(client):
  id = add(client)
  until(client, idle)
  draw(client, id, stroke('mark', 0, 60, 180, 60, size=400))
  client.post('/api/restore', json={'ids': [id]})
  assert one(until(client, idle))['problem'].startswith('a.png: its mask covers the whole photo')


def test_weights_that_cannot_be_loaded_are_said(tmp_path):
  def broken():
    raise OptionError('the weights are broken.')

  with serving(tmp_path, engine=broken) as client:
    state = until(client, lambda state: state['work']['problem'])
    assert state['work']['problem'] == 'the weights are broken.'


def test_two_windows_do_not_overwrite_each_other(client):
  id = add(client)
  edits = {'revision': 0, 'settings': SETTINGS, 'strokes': [stroke('mark', 1, 1)]}
  assert client.put(f'/api/photos/{id}/edits', json=edits).status_code == 200
  answer = client.put(f'/api/photos/{id}/edits', json=edits | {'strokes': []})
  assert answer.status_code == 409
  assert len(answer.json()['edits']['strokes']) == 1
  until(client, idle)


def test_settings_for_many_leave_strokes(client):
  ids = [add(client, f'{n}.png') for n in range(2)]
  draw(client, ids[1], stroke('mark', 1, 1))
  client.post('/api/apply', json={'ids': ids, 'settings': SETTINGS | {'tone': 0.25}})
  edits = [client.get(f'/api/photos/{id}/edits').json() for id in ids]
  assert [e['settings']['tone'] for e in edits] == [0.25, 0.25]
  assert [len(e['strokes']) for e in edits] == [0, 1]
  until(client, idle)


# What is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize('host', ['evil.example', 'evil.example:8765', '127.0.0.1', ''])
def test_other_hosts_are_refused(client, host):
  assert client.get('/api/state', headers={'host': host}).status_code == 421


@pytest.mark.parametrize(
  'headers',
  [
    {'origin': 'http://evil.example'},
    {'origin': 'null'},
    {'origin': 'http://127.0.0.1:9999'},
    {'sec-fetch-site': 'cross-site'},
    {'sec-fetch-site': 'same-site'},
  ],
)
def test_other_pages_are_refused(client, headers):
  id = add(client)
  until(client, idle)
  for method, path in (
    ('POST', '/api/remove'),
    ('GET', '/api/state'),
    ('GET', f'/api/photos/{id}/small/before/small'),
  ):
    assert client.request(method, path, headers=headers, json={'ids': [id]}).status_code == 403
  assert client.get(f'/api/photos/{id}/small/before/small').status_code == 200


def test_forms_of_other_pages_cannot_change_anything(client):
  id = add(client)
  until(client, idle)
  client.headers.pop('x-oldphoto')
  for path in ('/api/remove', '/api/photos?name=b.png', '/api/restore'):
    assert client.post(path, content=json.dumps({'ids': [id]})).status_code == 403
  # A browser asks before it sends that header for another page, and gets no permission.
  asked = client.options('/api/remove', headers={'origin': 'http://evil.example'})
  assert not any(name.startswith('access-control') for name in asked.headers)
  assert len(client.get('/api/state').json()['photos']) == 1


def test_other_computers_need_the_token(tmp_path):
  with serving(tmp_path, token='secret', hosts=None) as client:
    for path in ('/', '/?token=wrong', '/?token=', '/api/state', '/api/state?token=secret'):
      assert client.get(path, follow_redirects=False).status_code == 403, path
    client.cookies.set('oldphoto-8765', 'wrong')
    assert client.get('/').status_code == 403
    client.cookies.clear()
    answer = client.get('/?token=secret', follow_redirects=False)
    assert (answer.status_code, answer.headers['location']) == (303, '/')
    assert {'HttpOnly', 'SameSite=strict'} <= set(answer.headers['set-cookie'].split('; '))
    client.cookies.set('oldphoto-8765', 'secret')
    assert client.get('/').status_code == 200
    assert client.get('/api/state', headers={'cookie': 'a=\x01;;=;oldphoto'}).status_code == 403


def test_each_answer_forbids_scripts_from_elsewhere(client):
  for path in ('/', '/api/state', '/page/main.js', '/nothing'):
    answer = client.get(path)
    policy = answer.headers['content-security-policy']
    assert "default-src 'none'" in policy and "script-src 'self'" in policy
    assert 'unsafe' not in policy
    assert answer.headers['x-content-type-options'] == 'nosniff'
    assert answer.headers['cache-control'] == 'no-store'


def test_the_page_asks_for_nothing_elsewhere():
  files = app.page_files()
  assert {'index.html', 'style.css', 'main.js', 'words.js'} <= set(files)
  for name, (data, _) in files.items():
    text = data.decode().replace('http://www.w3.org/2000/svg', '')
    assert not re.search(r'https?:|//\w+\.\w|@import|sendBeacon|WebSocket|\beval\(', text), name
  page = files['index.html'][0].decode()
  assert not re.search(r'<script(?![^>]*\bsrc=)|\son\w+=|style=|javascript:', page)


@pytest.mark.parametrize(
  ('name', 'data', 'message'),
  [
    ('a.png', b'', 'the file is empty'),
    ('a.svg', b'<svg/>', 'does not end like a photo'),
    ('', b'x', 'does not end like a photo'),
    ('a.png', b'<html><script>', 'this is not a photo'),
  ],
)
def test_broken_files_are_refused_in_plain_words(client, tmp_path, name, data, message):
  answer = client.post('/api/photos', params={'name': name}, content=data)
  assert answer.status_code == 422
  assert message in answer.json()['error']
  assert str(tmp_path) not in answer.json()['error']
  assert not list((tmp_path / 'work' / 'photos').iterdir())
  assert not list((tmp_path / 'work' / 'temporary').iterdir())


def test_a_file_that_breaks_off_fails_alone(client):
  whole = encoded(serving_engine.photo())
  broken = add(client, 'broken.png', whole[: len(whole) // 2])
  add(client, 'good.png')
  client.post('/api/restore', json={'ids': [broken]})
  photos = {p['name']: p for p in until(client, idle)['photos']}
  assert photos['broken.png']['problem'].startswith('broken.png: ')
  assert photos['good.png']['looked'] and not photos['good.png']['problem']


def test_limits_of_bytes_pixels_photos_and_queue(tmp_path):
  data = encoded(serving_engine.photo())
  limits = Limits(file_bytes=len(data), pixels=120 * 180, photos=2, waiting=1, request_bytes=1000)
  post = lambda data, name='b.png': client.post('/api/photos', params={'name': name}, content=data)
  with serving(tmp_path, limits) as client:
    assert post(data + b'x').status_code == 413
    chunks = iter([data, b'x'])  # without a length in its head
    assert post(chunks).status_code == 413
    big = encoded(np.zeros((121, 180, 3), np.uint8))
    answer = post(big)
    assert answer.status_code == 422
    assert '180 x 121 pixels are more than the limit' in answer.json()['error']
    ids = [add(client, f'{n}.png') for n in range(2)]
    answer = post(data)
    assert answer.status_code == 422 and 'the limit' in answer.json()['error']
    until(client, idle)
    assert client.post('/api/restore', json={'ids': ids}).status_code == 422
    assert client.post('/api/restore', json={'ids': ['x' * 2000]}).status_code == 413
    assert not list((tmp_path / 'temporary').iterdir())
  small = Limits(box_bytes=len(data) + 1)
  with serving(tmp_path / 'b', small) as client:
    add(client)
    assert 'the box is full' in post(data).json()['error']
    until(client, idle)


HOSTILE = [
  ('../../etc/a.png', 'etc/a.png'),
  ('/etc/a.png', 'etc/a.png'),
  ('..\\..\\a.png', 'a.png'),
  ('C:\\Users\\a.png', 'C_/Users/a.png'),
  ('.hidden.png', 'hidden.png'),
  ('con.png', '_con.png'),
  ('a\0b\n.png', 'ab.png'),
  ('photo\u202egnp.exe.png', 'photognp.exe.png'),
  ('a<b>|"?*.png', 'a_b_____.png'),
  ('sub/./../b.png', 'sub/b.png'),
  ('x' * 300 + '.jpeg', 'x' * 195 + '.jpeg'),
  ('Großmutter é.PNG', 'Großmutter é.PNG'),
  ('<img src=x onerror=alert(1)>.png', '_img src=x onerror=alert(1)_.png'),
]


@pytest.mark.parametrize(('name', 'clean'), HOSTILE)
def test_names_are_cleaned(name, clean):
  assert str(names.cleaned(name)) == clean


def test_names_are_never_paths(client, tmp_path):
  ids = [add(client, name) for name, _ in HOSTILE if name.lower().endswith('.png')]
  until(client, idle)
  client.post('/api/restore', json={'ids': ids})
  until(client, idle)
  answer = client.post('/api/save', json={'ids': ids}).json()
  assert answer == {'saved': len(ids), 'problems': [], 'out': str(tmp_path / 'out')}
  known = {p.name for p in (tmp_path / 'work' / 'photos').rglob('*')}
  assert not any('con' in name or 'img' in name for name in known)
  assert {p.name for p in tmp_path.iterdir()} == {'work', 'out'}
  for path in ('/page/../app.py', '/page/%2e%2e%2fapp.py', '/api/packed/..%2flock'):
    assert client.get(path).status_code == 404


def test_a_link_in_the_output_folder_is_not_followed_out(client, tmp_path):
  id = add(client, 'sub/a.png')
  until(client, idle)
  restored(client, id)
  (tmp_path / 'out').mkdir()
  (tmp_path / 'elsewhere').mkdir()
  (tmp_path / 'out' / 'sub').symlink_to(tmp_path / 'elsewhere')
  answer = client.post('/api/save', json={'ids': [id]}).json()
  assert 'leads out of it' in answer['problems'][0]
  assert not list((tmp_path / 'elsewhere').iterdir())


@pytest.mark.parametrize(
  'edits',
  [
    {},
    {'settings': SETTINGS | {'strength': 2}},
    {'settings': SETTINGS | {'strength': True}},
    {'settings': SETTINGS | {'more': 1}},
    {'settings': SETTINGS, 'strokes': 'x'},
    {'settings': SETTINGS, 'strokes': [{'kind': 'boom'}]},
    {'settings': SETTINGS, 'strokes': [stroke('mark', 1)]},
    {'settings': SETTINGS, 'strokes': [stroke('mark', 1, 'a')]},
    {'settings': SETTINGS, 'strokes': [stroke('mark', 1, 1e30)]},
    {'settings': SETTINGS, 'strokes': [stroke('mark', 1, 1, size=1e9)]},
    {'settings': SETTINGS, 'strokes': [stroke('mark', 1, 1, size=-1)]},
    {'settings': SETTINGS, 'revision': 'x'},
  ],
)
def test_edits_are_checked(client, edits):
  id = add(client)
  answer = client.put(f'/api/photos/{id}/edits', json=edits)
  assert answer.status_code == 422, answer.text
  for text in (b'', b'[', b'[1]', b'\xff', b'[' * 100_000):
    assert client.put(f'/api/photos/{id}/edits', content=text).status_code == 422
  assert client.get(f'/api/photos/{id}/edits').json()['revision'] == 0
  until(client, idle)


# Parts ---------------------------------------------------------------------------------------


def test_strokes_are_discs_along_a_line():
  base = np.zeros((40, 60, 1), np.float32)
  base[30:] = 1
  drawn = brush.parse([stroke('mark', 10, 10, 40, 20, size=7)], (40, 60))
  mask, keep = brush.draw(base, drawn)
  y, x = np.mgrid[:40, :60] + 0.5
  along = np.clip(((x - 10) * 30 + (y - 10) * 10) / 1000, 0, 1)
  distance = np.hypot(x - 10 - 30 * along, y - 10 - 10 * along)
  assert mask[distance < 2.5].all()
  assert not mask[(distance > 4.5) & (y < 30)].any()
  assert mask[30:].all() and not keep.any()
  # At half the size, half the stroke.
  half, _ = brush.draw(np.zeros((20, 30, 1), np.float32), drawn, 0.5)
  assert half.sum() == pytest.approx((distance < 3.5).sum() / 4, rel=0.25)
  # The last stroke counts.
  for kinds, expected in (
    (('mark', 'protect'), (0, True)),
    (('protect', 'mark'), (1, False)),
    (('protect', 'clear'), (0, False)),
    (('mark', 'empty'), (0, False)),
  ):
    drawn = brush.parse([stroke(kind, 5, 5) for kind in kinds], (40, 60))
    mask, keep = brush.draw(base, drawn)
    assert (mask[5, 5, 0], keep[5, 5, 0]) == expected
    assert mask[35, 5, 0] == ('empty' not in kinds)


def test_a_gray_photo_is_shown_gray():
  gray = np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), 3, -1)
  data = pictures.jpeg(images.Photo(gray, gray=True))
  assert Image.open(io.BytesIO(data)).mode == 'L'


def test_the_command_says_what_is_missing(monkeypatch, capsys, tmp_path):
  monkeypatch.setitem(__import__('sys').modules, 'uvicorn', None)
  assert cli.main(['serve']) == 2
  assert "pip install 'oldphoto_jax[web]'" in capsys.readouterr().err


def test_the_page_is_in_the_package():
  root = pathlib.Path(app.__file__).parent / 'page'
  assert {path.name for path in root.iterdir()} == set(app.page_files())
