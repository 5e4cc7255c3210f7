"""Sources, the Grain pipeline, and Pascal VOC as a TFDS directory."""

import hashlib
import io
import json
import pickle
import re
import shutil

import grain
import numpy as np
import pytest
import tifffile
from etils import epath
from PIL import Image

from oldphoto_jax import data
from oldphoto_jax.data import sources, voc
from oldphoto_jax.errors import ConfigError, PhotoError


class Arrays:
  """A source in memory that counts how often it is read."""

  def __init__(self, photos):
    self.photos = photos
    self.names = [f'{i:03d}.png' for i in range(len(photos))]
    self.reads = 0

  def __len__(self):
    return len(self.photos)

  def __getitem__(self, i):
    self.reads += 1
    return self.photos[i].copy()

  def encoded(self, i):
    return self.photos[i].tobytes()


def textured(count, height=40, width=50, seed=0):
  """Noise photos, no two crops alike."""
  rng = np.random.default_rng(seed)
  return Arrays(list(rng.integers(0, 256, (count, height, width, 3), np.uint8)))


def flat(count, first=0, height=20, width=24):
  """Photo i has the one value first + i, so that a crop tells its photo."""
  return Arrays([np.full((height, width, 3), first + i, np.uint8) for i in range(count)])


def save(path, photo):
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.fromarray(photo).save(path)


def equal(a, b):
  assert a.keys() == b.keys()
  for name in a:
    np.testing.assert_array_equal(a[name], b[name], name)


# Sources


def test_folder_finds_photos_below_it_and_names_the_broken_ones(tmp_path):
  photo = textured(1).photos[0]
  save(tmp_path / 'b.PNG', photo)
  save(tmp_path / 'deep' / 'er' / 'a.webp', photo)
  save(tmp_path / 'gray.tiff', photo[..., 0])
  Image.fromarray(photo).convert('CMYK').save(tmp_path / 'ink.jpg')
  (tmp_path / 'notes.txt').write_text('not a photo')
  (tmp_path / 'empty.jpg').write_bytes(b'')
  (tmp_path / 'cut.jpg').write_bytes((tmp_path / 'ink.jpg').read_bytes()[:-200])
  found = data.folder(tmp_path)
  assert found.names == ['b.PNG', 'deep/er/a.webp', 'gray.tiff', 'ink.jpg']
  assert len(found.unreadable) == 2 and 'cut.jpg' in found.unreadable[0]
  assert len(found) == 4
  for i in range(4):
    assert found[i].shape == (40, 50, 3) and found[i].dtype == np.uint8
  np.testing.assert_array_equal(found[0], photo)
  np.testing.assert_array_equal(found[2], photo[..., :1].repeat(3, -1))
  assert found.encoded(0) == (tmp_path / 'b.PNG').read_bytes()
  np.testing.assert_array_equal(pickle.loads(pickle.dumps(found))[0], photo)


def test_folder_without_photos_is_an_error(tmp_path):
  with pytest.raises(PhotoError, match='not a folder'):
    data.folder(tmp_path / 'nowhere')
  (tmp_path / 'a.xcf').write_bytes(b'x')
  with pytest.raises(PhotoError, match=r'holds no photos: 1 files, none of them \.jpg'):
    data.folder(tmp_path)
  for name in 'abcdefg':
    (tmp_path / f'{name}.jpg').write_bytes(b'no photo')
  with pytest.raises(PhotoError, match=r'none of the 7 photos .*a\.jpg: .*e\.jpg: .* and 2 more'):
    data.folder(tmp_path)


def test_kinds_that_cannot_be_read_are_named(tmp_path, caplog):
  for name in ('a.pdf', 'b.PDF', 'c.psd'):
    (tmp_path / name).write_bytes(b'x')
  said = r'3 files in formats that cannot be read \(\.pdf, \.psd\): save them as \.png or \.jpg'
  with pytest.raises(PhotoError, match='holds no photos: 3 files, .*; ' + said):
    data.folder(tmp_path)
  save(tmp_path / 'd.png', textured(1).photos[0])
  assert data.folder(tmp_path).names == ['d.png']
  assert re.search(said, caplog.text)


def test_a_file_that_vanishes_raises_instead_of_hanging(tmp_path):
  save(tmp_path / 'a.png', textured(1).photos[0])
  batches = data.train_batches(data.Photos(data.folder(tmp_path), data.Crop(8)), 2, seed=0)
  (tmp_path / 'a.png').unlink()
  with pytest.raises((OSError, PhotoError), match=r'a\.png'):
    next(batches)


def test_sample_photos_are_colour_photographs():
  photos = data.sample_photos()
  assert len(photos) == 5
  for i in range(5):
    photo = photos[i].astype(int)
    assert min(photo.shape[:2]) >= 256
    assert np.ptp(photo, axis=-1).mean() > 10  # gray ones have equal channels


def test_cache_is_bounded_and_decodes_once():
  photos = textured(4)
  cache = data.cached(photos, max_bytes=3 * photos.photos[0].nbytes)
  for _ in range(3):
    for i in range(4):
      np.testing.assert_array_equal(cache[i], photos.photos[i])
  assert photos.reads == 4 + 2  # the fourth does not fit and is read each time
  assert not cache[0].flags.writeable
  copy = pickle.loads(pickle.dumps(cache))
  np.testing.assert_array_equal(copy[0], photos.photos[0])
  assert copy.source.reads == photos.reads + 1


def test_cache_leaves_the_arrays_of_its_source_alone():
  photos = [np.zeros((2, 2, 3), np.uint8)]
  assert not data.cached(photos)[0].flags.writeable
  photos[0][:] = 1


def test_subsets_are_disjoint_and_depend_on_seed_and_names_only():
  photos = flat(60)
  counts = {'train': 40, 'val': 10, 'test': 5}
  splits = data.subset(photos, 0, counts)
  assert {split: len(chosen) for split, chosen in splits.items()} == counts
  names = [name for chosen in splits.values() for name in chosen.names]
  assert len(set(names)) == 55
  for name, photo in zip(splits['val'].names, splits['val']):
    assert photo[0, 0, 0] == int(name[:3])

  backwards = flat(60)
  backwards.photos.reverse()
  backwards.names.reverse()
  again = data.subset(backwards, 0, counts)
  assert again['val'].names == splits['val'].names
  np.testing.assert_array_equal(again['val'][0], splits['val'][0])
  assert data.subset(photos, 1, counts)['val'].names != splits['val'].names
  # The seed means the same photos on every machine, in every version: do not change the hash.
  assert splits['test'].names == ['020.png', '013.png', '012.png', '043.png', '031.png']

  with pytest.raises(ConfigError, match='need 61 photos, but there are 60'):
    data.subset(photos, 0, {'train': 60, 'val': 1})
  with pytest.raises(ConfigError, match='at least one'):
    data.subset(photos, 0, {'train': 60, 'val': 0})


def test_manifest_holds_hashes_of_the_files(tmp_path):
  for i, photo in enumerate(textured(3, 20, 30).photos):
    save(tmp_path / f'{i}.png', photo)
  splits = data.subset(data.folder(tmp_path), 0, {'train': 2, 'val': 1})
  rows = json.loads(json.dumps(data.manifest(splits)))
  assert [row['split'] for row in rows] == ['train', 'train', 'val']
  assert {row['name'] for row in rows} == {'0.png', '1.png', '2.png'}
  for row in rows:
    assert row['sha256'] == hashlib.sha256((tmp_path / row['name']).read_bytes()).hexdigest()
    assert (row['width'], row['height']) == (30, 20)


# Crops and streams


def test_crop_equals_resizing_the_whole_photo_and_cutting():
  photo = textured(1, 90, 131).photos[0]
  crop = data.Crop(32, scale=(0.2, 2.0), flip=0.0)
  for seed in range(40):
    (square,) = crop(np.random.default_rng(seed), photo)
    rng = np.random.default_rng(seed)
    factor = max(rng.uniform(0.2, 2.0), 32 / 90)
    height, width = round(90 * factor), round(131 * factor)
    top, left = rng.integers(height - 31), rng.integers(width - 31)
    whole = Image.fromarray(photo).resize((width, height), Image.Resampling.BICUBIC)
    expected = np.asarray(whole)[top : top + 32, left : left + 32]
    assert np.abs(square.astype(int) - expected).max() <= 1


def test_crop_without_scale_cuts_the_stored_pixels():
  photo = np.arange(20 * 30, dtype=np.uint16).reshape(20, 30, 1).view(np.uint8)
  photo = np.concatenate([photo, photo[..., :1]], axis=-1)  # channels 0 and 1 tell the position
  flips = 0
  places = set()
  for seed in range(200):
    (square,) = data.Crop(16)(np.random.default_rng(seed), photo)
    place = square[..., 0].astype(int) + 256 * square[..., 1].astype(int)
    flipped = place[0, 0] > place[0, -1]
    flips += flipped
    place = place[:, ::-1] if flipped else place
    top, left = divmod(place[0, 0], 30)
    places.add((top, left))
    np.testing.assert_array_equal(
      place, np.add.outer(np.arange(16) * 30, np.arange(16)) + place[0, 0]
    )
  assert 70 < flips < 130
  assert {top for top, _ in places} == set(range(5))
  assert {left for _, left in places} == set(range(15))


@pytest.mark.parametrize(('height', 'width'), [(1, 1), (3, 4000), (300, 7), (16, 16)])
def test_crop_enlarges_photos_that_are_too_small(height, width):
  photo = textured(1, height, width).photos[0]
  (square,) = data.Crop(16)(np.random.default_rng(0), photo)
  assert square.shape == (16, 16, 3) and square.flags.c_contiguous
  (image,) = [batch['image'] for batch in data.eval_batches(Arrays([photo]), 16, 1)]
  assert image.shape == (1, 16, 16, 3)


def test_batches_of_one():
  ones = data.train_batches(data.Photos(textured(5), data.Crop(16)), 1, seed=0)
  two = next(data.train_batches(data.Photos(textured(5), data.Crop(16)), 2, seed=0))
  images = np.concatenate([next(ones)['image'] for _ in range(2)])
  np.testing.assert_array_equal(images, two['image'])


def test_photos_stream_shapes_and_types():
  batch = next(data.train_batches(data.Photos(textured(5), data.Crop(16)), 4, seed=0))
  assert {name: (array.shape, array.dtype) for name, array in batch.items()} == {
    'image': ((4, 16, 16, 3), np.uint8),
    'photo': ((4,), np.int32),
    'id': ((4,), np.uint32),
  }


def test_real_and_clean_mix_as_asked():
  clean, real = flat(30), flat(7, first=100)
  stream = data.RealAndClean(clean, real, data.Crop(8), p_real=0.3)
  assert len(stream) == 30
  batches = data.train_batches(stream, 500, seed=0)
  batch = next(batches)
  assert batch['is_real'].dtype == np.bool_
  assert 0.24 < batch['is_real'].mean() < 0.36  # 3 standard deviations
  np.testing.assert_array_equal(batch['image'][:, 0, 0, 0], batch['photo'] + 100 * batch['is_real'])
  assert set(batch['photo'][batch['is_real']]) == set(range(7))
  assert set(batch['photo'][~batch['is_real']]) == set(range(30))
  for p_real in (0.0, 1.0):
    batch = next(data.train_batches(data.RealAndClean(clean, real, data.Crop(8), p_real), 9, 0))
    assert (batch['is_real'] == bool(p_real)).all()
  with pytest.raises(ConfigError, match='probability'):
    data.RealAndClean(clean, real, p_real=50)


def test_unpaired_draws_both_domains_alone():
  stream = data.Unpaired(flat(10), flat(20, first=100), data.Crop(8))
  batch = next(data.train_batches(stream, 200, seed=0))
  np.testing.assert_array_equal(batch['image'][:, 0, 0, 0], batch['photo'])
  np.testing.assert_array_equal(batch['other'][:, 0, 0, 0], batch['other_photo'] + 100)
  assert len(set(zip(batch['photo'], batch['other_photo']))) > 100
  assert set(batch['other_photo']) == set(range(20))


def test_bad_settings_are_sentences():
  with pytest.raises(PhotoError, match='no photos'):
    data.Photos(Arrays([]))
  with pytest.raises(PhotoError, match='no photos'):
    data.RealAndClean(flat(3), Arrays([]))
  with pytest.raises(PhotoError, match='no photos'):
    data.eval_batches(Arrays([]), 16, 4)
  with pytest.raises(ConfigError, match='scale'):
    data.Crop(16, scale=(1.0, 0.5))
  with pytest.raises(ConfigError, match='6 does not divide over 4 hosts'):
    data.train_batches(data.Photos(flat(3)), 6, 0, processes=4)
  with pytest.raises(ValueError, match='process 2 is not one of the 2 hosts'):
    data.train_batches(data.Photos(flat(3)), 6, 0, process=2, processes=2)


# The stream


@pytest.mark.parametrize('processes', [1, 2, 4])
def test_the_global_stream_does_not_depend_on_the_number_of_hosts(processes):
  stream = data.RealAndClean(textured(5), textured(2, seed=1), data.Crop(16, (0.5, 1.5)))
  one = data.train_batches(stream, 8, seed=3, threads=1)
  hosts = [
    data.train_batches(stream, 8, seed=3, process=i, processes=processes, threads=3)
    for i in range(processes)
  ]
  for _ in range(4):  # 32 examples, 6 epochs
    shares = [next(host) for host in hosts]
    assert all(len(share['id']) == 8 // processes for share in shares)
    joined = {name: np.concatenate([share[name] for share in shares]) for name in shares[0]}
    equal(joined, next(one))


def test_each_epoch_is_a_new_order_of_all_photos_and_ids_never_repeat():
  batches = data.train_batches(data.Photos(flat(10), data.Crop(8)), 4, seed=0)
  drawn = [next(batches) for _ in range(10)]
  photos = np.concatenate([batch['photo'] for batch in drawn]).reshape(4, 10)
  for epoch in photos:
    assert sorted(epoch) == list(range(10))
  assert len({tuple(epoch) for epoch in photos}) == 4
  np.testing.assert_array_equal(np.concatenate([batch['id'] for batch in drawn]), np.arange(40))
  # A resumed run needs the same order in every version: do not change it.
  assert list(photos[0]) == [0, 2, 9, 1, 8, 5, 4, 3, 6, 7]
  other = next(data.train_batches(data.Photos(flat(10), data.Crop(8)), 4, seed=1))
  assert (other['photo'] != drawn[0]['photo']).any()


def test_crops_of_one_photo_differ_from_epoch_to_epoch():
  batch = next(data.train_batches(data.Photos(textured(1), data.Crop(16)), 6, seed=0))
  assert (batch['photo'] == 0).all()
  assert len({image.tobytes() for image in batch['image']}) == 6


def test_resume_is_exact():
  stream = data.Photos(textured(5), data.Crop(16))
  batches = data.train_batches(stream, 4, seed=0)
  next(batches)
  next(batches)
  state = json.loads(json.dumps(batches.get_state()))
  assert state == {'next_example': 8}
  expected = [next(batches) for _ in range(3)]

  fresh = data.train_batches(stream, 4, seed=0, threads=1, prefetch=1)
  fresh.set_state(state)
  for batch in expected:
    equal(next(fresh), batch)

  batches.set_state(state)  # back in time, with batches already made ahead
  equal(next(batches), expected[0])

  # On two hosts.
  shares = [data.train_batches(stream, 4, seed=0, process=i, processes=2) for i in range(2)]
  for share in shares:
    share.set_state(state)
  joined = [next(share)['image'] for share in shares]
  np.testing.assert_array_equal(np.concatenate(joined), expected[0]['image'])


def test_another_batch_size_goes_on_without_repeating():
  stream = data.Photos(flat(5), data.Crop(8))
  batches = data.train_batches(stream, 4, seed=0)
  next(batches)
  other = data.train_batches(stream, 3, seed=0)
  other.set_state(batches.get_state())
  np.testing.assert_array_equal(next(other)['id'], [4, 5, 6])


def test_grain_checkpoints_hold_the_state(tmp_path):
  stream = data.Photos(textured(5), data.Crop(16))
  batches = data.train_batches(stream, 4, seed=0)
  next(batches)
  handler = grain.checkpoint.CheckpointHandler()
  handler.save(epath.Path(tmp_path), batches)
  expected = next(batches)
  fresh = handler.restore(epath.Path(tmp_path), data.train_batches(stream, 4, seed=0))
  equal(next(fresh), expected)


def test_worker_processes_make_the_same_batches():
  stream = data.Photos(data.cached(data.sample_photos()), data.Crop(32))
  inside = data.train_batches(stream, 4, seed=0)
  workers = data.train_batches(stream, 4, seed=0, workers=2)
  for _ in range(3):
    equal(next(workers), next(inside))
  state = workers.get_state()
  expected = {name: np.array(array) for name, array in next(workers).items()}
  workers.close()
  inside.set_state(state)
  equal(next(inside), expected)


# Evaluation


@pytest.mark.parametrize('processes', [1, 2])
@pytest.mark.parametrize('count', [1, 4, 7])
def test_evaluation_counts_every_photo_once(count, processes):
  source = flat(count, first=50)
  seen = []
  hosts = [
    list(data.eval_batches(source, 16, 4, process=i, processes=processes)) for i in range(processes)
  ]
  assert len({len(batches) for batches in hosts}) == 1
  for batches in hosts:
    for batch in batches:
      assert batch['image'].shape == (4 // processes, 16, 16, 3)
      assert batch['image'].dtype == np.uint8 and batch['valid'].dtype == np.bool_
      np.testing.assert_array_equal(batch['id'], batch['photo'])
      np.testing.assert_array_equal(batch['image'][:, 0, 0, 0], 50 + batch['photo'])
      seen += list(batch['photo'][batch['valid']])
  assert sorted(seen) == list(range(count))


def test_evaluation_cuts_the_middle_and_can_be_repeated():
  photo = textured(1, 20, 31).photos[0]
  batches = data.eval_batches(Arrays([photo]), 16, 1)
  for _ in range(2):
    (batch,) = batches
    np.testing.assert_array_equal(batch['image'][0], photo[2:18, 7:23])


# Pascal VOC


def vocdevkit(path, lists, names):
  """A VOCdevkit folder with photos of these names and lists in ImageSets/Main."""
  root = path / 'VOCdevkit' / 'VOC2012'
  for i, name in enumerate(names):
    save(root / 'JPEGImages' / f'{name}.jpg', np.full((20, 30, 3), 10 * i, np.uint8))
  for split, stems in lists.items():
    file = root / 'ImageSets' / 'Main' / f'{split}.txt'
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(''.join(f'{stem}\n' for stem in stems))
  return path / 'VOCdevkit'


def test_voc_round_trip(tmp_path):
  names = [f'2008_{i:06d}' for i in range(7)]
  lists = {'train': names[:3], 'val': names[3:5], 'trainval': names[:5]}
  devkit = vocdevkit(tmp_path, lists, names)
  counts = voc.write_tfds(devkit, tmp_path / 'new' / 'data')
  assert counts == {'train': 3, 'validation': 2, 'other': 2}
  assert [path.name for path in (tmp_path / 'new' / 'data').iterdir()] == ['voc2012_photos']

  photos = data.tfds_images(tmp_path / 'new' / 'data', 'voc2012_photos', 'validation')
  assert photos.names == ['2008_000003.jpg', '2008_000004.jpg']
  file = devkit / 'VOC2012' / 'JPEGImages' / '2008_000004.jpg'
  assert photos.encoded(1) == file.read_bytes()
  assert photos[1].shape == (20, 30, 3) and (photos[1] == 40).all()
  assert pickle.loads(pickle.dumps(photos)).names == photos.names

  both = data.tfds_images(tmp_path / 'new' / 'data', 'voc2012_photos', 'train[1:]+other')
  assert [name[-5] for name in both.names] == ['1', '2', '5', '6']
  splits = data.subset(both, 0, {'train': 3, 'val': 1})
  assert len(data.manifest(splits)) == 4
  batch = next(data.train_batches(data.Photos(splits['train'], data.Crop(16)), 3, seed=0))
  assert batch['image'].shape == (3, 16, 16, 3)


def test_16_bits_in_a_tfds_set_are_those_of_the_folder(tmp_path):
  devkit = vocdevkit(tmp_path, {}, ['a'])
  place = devkit / 'VOC2012' / 'JPEGImages'
  levels = np.linspace(0, 65535, 20 * 30).reshape(20, 30).astype(np.uint16)
  Image.fromarray(levels).save(place / 'gray.png')
  tifffile.imwrite(place / 'colour.tif', np.dstack([levels, levels[::-1], levels]))
  voc.write_tfds(devkit, tmp_path)
  photos = data.tfds_images(tmp_path, 'voc2012_photos', 'train')
  shown = {name: photos[i] for i, name in enumerate(photos.names)}
  expected = np.rint(levels / 257)
  np.testing.assert_array_equal(shown['gray.png'], np.repeat(expected[..., None], 3, -1))
  np.testing.assert_array_equal(shown['colour.tif'][..., 1], expected[::-1])
  folder = data.folder(place)
  for i, name in enumerate(folder.names):
    np.testing.assert_array_equal(shown[name], folder[i])


@pytest.mark.parametrize('lists', [{}, {'trainval': ['a', 'b']}])
def test_voc_is_read_by_tfds_itself(tmp_path, lists):
  import tensorflow_datasets as tfds

  voc.write_tfds(vocdevkit(tmp_path, lists, ['a', 'b']), tmp_path)
  source = tfds.data_source('voc2012_photos', split='train', data_dir=tmp_path)
  assert [example['image/filename'] for example in source] == [b'a.jpg', b'b.jpg']
  assert source[1]['image'].shape == (20, 30, 3)


def test_voc_never_writes_an_empty_or_partial_set(tmp_path):
  target = tmp_path / 'new' / 'data'
  (tmp_path / 'VOCdevkit' / 'VOC2012' / 'JPEGImages').mkdir(parents=True)
  with pytest.raises(PhotoError, match='holds no photos'):
    voc.write_tfds(tmp_path, target)
  with pytest.raises(PhotoError, match='no JPEGImages in'):
    voc.write_tfds(tmp_path / 'nowhere', target)
  devkit = vocdevkit(tmp_path, {'train': ['a', 'gone']}, ['a', 'b'])
  with pytest.raises(PhotoError, match=r'train\.txt lists 1 photos .*: gone'):
    voc.write_tfds(devkit, target)
  vocdevkit(tmp_path, {'train': []}, [])
  with pytest.raises(PhotoError, match=r'train\.txt is empty'):
    voc.write_tfds(devkit, target)
  vocdevkit(tmp_path, {'train': ['a']}, [])
  broken = devkit / 'VOC2012' / 'JPEGImages' / 'c.jpg'
  broken.write_bytes(b'no photo')
  with pytest.raises(PhotoError, match=r'1 photos cannot be read.*c\.jpg'):
    voc.write_tfds(devkit, target)
  broken.unlink()
  assert not (tmp_path / 'new').exists()
  voc.write_tfds(devkit, target)
  with pytest.raises(PhotoError, match='already exists'):
    voc.write_tfds(devkit, target)


def test_voc_leaves_nothing_behind_when_reading_back_fails(tmp_path, monkeypatch):
  devkit = vocdevkit(tmp_path, {}, ['a', 'b'])

  class Short(sources.Records):
    names = ('a.jpg',)

  monkeypatch.setattr(sources, 'Records', Short)
  with pytest.raises(ValueError, match=r"only \{'train': 1\}"):
    voc.write_tfds(devkit, tmp_path / 'new' / 'data')
  assert not (tmp_path / 'new').exists()


def test_the_official_voc_of_tfds_is_read(tmp_path):
  """A directory with the features of TFDS's own `voc/2012`, boxes and labels included."""
  import tensorflow_datasets as tfds
  from array_record.python import array_record_module

  features = tfds.builder('voc/2012', data_dir=tmp_path / 'none').info.features
  jpeg = io.BytesIO()
  Image.fromarray(np.full((20, 30, 3), 90, np.uint8)).save(jpeg, 'jpeg')
  box = tfds.features.BBox(0.1, 0.2, 0.5, 0.6)
  example = {
    'image': jpeg.getvalue(),
    'image/filename': '2007_000027.jpg',
    'objects': [
      dict(label='cat', pose='left', bbox=box, is_truncated=False, is_difficult=True),
      dict(label='dog', pose='left', bbox=box, is_truncated=True, is_difficult=False),
    ],
    'labels': ['cat', 'dog'],
    'labels_no_difficult': ['dog'],
  }
  for version in ('5.0.0', '10.0.0', '9.0.0'):
    directory = tmp_path / 'voc' / '2012' / version
    directory.mkdir(parents=True)
    count = 3 if version == '10.0.0' else 1
    file = directory / 'voc-train.array_record-00000-of-00001'
    writer = array_record_module.ArrayRecordWriter(str(file), 'group_size:1')
    for _ in range(count):
      writer.write(features.serialize_example(features.encode_example(example)))
    writer.close()
    split = dict(
      name='train',
      shardLengths=[str(count)],
      numBytes='1000',
      filepathTemplate='{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}',
    )
    info = dict(
      name='voc',
      version=version,
      configName='2012',
      fileFormat='array_record',
      splits=[split],
    )
    (directory / 'dataset_info.json').write_text(json.dumps(info))
    (directory / 'features.json').write_text(json.dumps(features.to_json()))
  photos = data.tfds_images(tmp_path, 'voc/2012', 'train')
  assert len(photos) == 3  # the newest version
  assert photos.names[0] == '2007_000027.jpg'
  assert photos.encoded(2) == jpeg.getvalue()
  assert photos[2].shape == (20, 30, 3) and (photos[2] == 90).all()
  assert len(data.tfds_images(tmp_path, 'voc/2012/5.0.0', 'train')) == 1

  with pytest.raises(ConfigError, match=r"no split 'test'.*\['train'\]"):
    data.tfds_images(tmp_path, 'voc/2012', 'test')
  with pytest.raises(ConfigError, match='holds no photos'):
    data.tfds_images(tmp_path, 'voc/2012', 'train[:0]')
  with pytest.raises(PhotoError, match='no prepared data set'):
    data.tfds_images(tmp_path, 'coco', 'train')
  shutil.rmtree(tmp_path / 'voc' / '2012' / '10.0.0')
  info['fileFormat'] = 'tfrecord'
  (directory / 'dataset_info.json').write_text(json.dumps(info))
  with pytest.raises(PhotoError, match='tfrecord files, which need TensorFlow'):
    data.tfds_images(tmp_path, 'voc/2012', 'train')
