"""Photos of a store are copied before a training: fsspec's memory stands for gs:// and s3://."""

import runpy

import fsspec
import numpy as np
import pytest
from copying import save
from PIL import Image
from test_data import vocdevkit

from oldphoto_jax import data
from oldphoto_jax.data import prints, stores, voc
from oldphoto_jax.errors import PhotoError
from oldphoto_jax.systems import splits

URL = 'memory://bucket/photos'


@pytest.fixture
def store(tmp_path, monkeypatch):
  """A store with three photos; `fetched` lists what was read of it."""
  memory = fsspec.filesystem('memory')
  memory.store.clear()
  (tmp_path / 'scratch').mkdir()
  monkeypatch.setattr('tempfile.tempdir', str(tmp_path / 'scratch'))
  for i, name in enumerate(('a.png', 'box/b.png', 'box/c.png')):
    memory.pipe_file(f'/bucket/photos/{name}', save(tmp_path / 'here' / name, seed=i).read_bytes())
  get, memory.fetched = memory.get_file, []

  def noted(path, *rest, **options):
    memory.fetched.append(path.removeprefix('/bucket/photos/'))
    return get(path, *rest, **options)

  monkeypatch.setattr(memory, 'get_file', noted)
  return memory


def test_a_copy_is_read_as_the_folder_is(store, tmp_path):
  here, there = data.folder(tmp_path / 'here'), data.folder(URL)
  assert there.names == here.names == ['a.png', 'box/b.png', 'box/c.png']
  for i in range(3):
    np.testing.assert_array_equal(there[i], here[i])
  assert not stores.local(tmp_path / 'here').is_relative_to(tmp_path / 'scratch')


def test_only_changes_are_fetched(store, tmp_path):
  stores.local(URL)
  assert sorted(store.fetched) == ['a.png', 'box/b.png', 'box/c.png']
  stores.local(f'{URL}/')
  assert len(store.fetched) == 3
  store.pipe_file('/bucket/photos/a.png', save(tmp_path / 'other.png', seed=7).read_bytes())
  store.rm_file('/bucket/photos/box/c.png')
  folder = stores.local(URL)
  assert store.fetched[3:] == ['a.png']
  assert (folder / 'a.png').read_bytes() == (tmp_path / 'other.png').read_bytes()
  assert data.folder(URL).names == ['a.png', 'box/b.png']


def test_an_interrupted_copy_goes_on(store, monkeypatch):
  get = store.get_file

  def fails(path, *rest, **options):
    if path.endswith('c.png'):
      raise OSError('the line is dead')
    return get(path, *rest, **options)

  with monkeypatch.context() as patch:
    patch.setattr(store, 'get_file', fails)
    with pytest.raises(PhotoError, match=r'box/c\.png cannot be read'):
      stores.local(URL)
  folder = stores.local(URL)
  assert 'box/c.png' in store.fetched
  for name in ('a.png', 'box/b.png', 'box/c.png'):
    assert (folder / name).read_bytes() == store.cat_file(f'/bucket/photos/{name}')


def test_what_is_not_there_or_does_not_fit_is_a_sentence(store, monkeypatch):
  with pytest.raises(PhotoError, match=r'memory://bucket/nothing: there is no file\.'):
    stores.local('memory://bucket/nothing')
  full = type('Usage', (), {'free': 10})
  monkeypatch.setattr(stores.shutil, 'disk_usage', lambda path: full)
  with pytest.raises(PhotoError, match='set TMPDIR to a larger disk'):
    stores.local(URL)
  assert not store.fetched


def test_a_name_does_not_lead_out_of_the_copy(store):
  store.store['/bucket/photos/../../evil.png'] = store.store['/bucket/photos/a.png']
  with pytest.raises(PhotoError, match='is no name of a file in a folder'):
    stores.local(URL)


def test_settings_may_name_a_store(store, tmp_path):
  """Photos, labels and a data set of TFDS; a training splits them as those of a folder."""
  config = runpy.run_path('configs/repair.py')['get_config']('tiny')
  config.data.photos, config.data.subset_val = URL, 1
  there = splits.photos(config.data, 0)
  config.data.photos = str(tmp_path / 'here')
  here = splits.photos(config.data, 0)
  assert [there.train.names, there.val.names] == [here.train.names, here.val.names]
  label = np.zeros(here.train[0].shape[:2], np.uint8)
  label[2:5] = prints.DAMAGED
  Image.fromarray(label).save(tmp_path / 'a.png')
  store.pipe_file('/bucket/labels/a.png', (tmp_path / 'a.png').read_bytes())
  read = prints.prints(['memory://bucket/labels'], [URL])
  assert read.names == ['a'] and (read.labels[0] == label).all()
  devkit = vocdevkit(tmp_path, {}, ['2008_000001', '2008_000002'])
  voc.write_tfds(devkit, tmp_path / 'tfds')
  store.put(f'{tmp_path}/tfds/', '/bucket/tfds/', recursive=True)
  photos = data.tfds_images('memory://bucket/tfds', voc.NAME, 'train')
  assert photos.names == ['2008_000001.jpg', '2008_000002.jpg'] and photos[1].shape == (20, 30, 3)
  with pytest.raises(PhotoError, match=r'memory://bucket/tfds/voc: there is no file'):
    data.tfds_images('memory://bucket/tfds', 'voc', 'train')
