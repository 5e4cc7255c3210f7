"""A client of the page's server, and what a page asks of it, for the tests of the server."""

import contextlib
import io
import time
from unittest import mock

import serving_engine
from PIL import Image
from starlette.testclient import TestClient

from oldphoto_jax.serving import app, box, studio
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
  with (
    mock.patch.object(studio, 'TILE', 128),  # several tiles in a small photo
    TestClient(made, base_url=f'http://{HOST}', headers=SAFE) as client,
  ):
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
