"""What the server of the page refuses: other pages, broken files, too much, names as paths."""

import json
import re

import numpy as np
import pytest
import serving_engine
from serving_client import add, encoded, idle, restored, serving, until

from oldphoto_jax.serving import app, names
from oldphoto_jax.serving.limits import Limits


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
