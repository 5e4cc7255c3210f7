"""The server of the page: what it keeps, and that it restores as the command does."""

import io
import json
import os
import pathlib
import threading
import zipfile

import numpy as np
import pytest
import serving_engine
from PIL import Image, ImageCms
from serving_client import SETTINGS, add, draw, encoded, idle, one, restored, serving, stroke, until

from oldphoto_jax import cli
from oldphoto_jax.errors import OptionError, PhotoError
from oldphoto_jax.photos import decoding, formats, images
from oldphoto_jax.restoring import finding, restore
from oldphoto_jax.serving import app, box, pictures, studio
from oldphoto_jax.serving.limits import Limits


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
