"""Converts Pascal VOC from its VOCdevkit folder into a TFDS directory, without TensorFlow.

  oldphoto tfds VOCdevkit ~/tensorflow_datasets

Then read it with `tfds_images('~/tensorflow_datasets', 'voc2012_photos', 'train')`. The data set
has its own name because it holds only photos and file names, while the official `voc/2012` also
has boxes and labels. The official one is read the same way if TFDS prepared it with
--file_format=array_record.
"""

import contextlib
import json
import os
import pathlib
import shutil
import tempfile
from collections.abc import Mapping, Sequence

from oldphoto_jax.data import sources
from oldphoto_jax.errors import PhotoError

NAME = 'voc2012_photos'
VERSION = '1.0.0'

# The lists in ImageSets/Main, and TFDS's names for their splits. trainval.txt joins the first two
# and is read only if they are missing.
SPLITS = {'train': 'train', 'val': 'validation', 'test': 'test'}


def write_tfds(vocdevkit: str | os.PathLike, data_dir: str | os.PathLike) -> dict[str, int]:
  """Writes the photos of VOC2012 as the TFDS data set `voc2012_photos`, and reads them back.

  The splits are `train`, `validation` and `test` as listed in ImageSets/Main, and `other` for the
  photos in JPEGImages that no list contains. (VOC2012 has 17,125 photos; train and validation list
  11,540.) Without ImageSets/Main all photos are `train`. The JPEG files are stored unchanged.

  Args:
    vocdevkit: the folder VOCdevkit, the folder VOC2012 in it, or the folder that holds VOCdevkit.
    data_dir: the folder of TFDS data sets; created if missing.

  Returns:
    The number of photos per split, as read back from the written files.

  Raises:
    PhotoError: if there are no photos, a listed photo is missing, a photo cannot be read, or the
      data set already exists.
    ValueError: if the photos read back differ from those written.

  After an error, nothing new is left in `data_dir`.
  """
  target = pathlib.Path(data_dir).expanduser() / NAME
  if target.exists():
    raise PhotoError(f'{target} already exists: remove it first, or choose another folder.')
  photos, splits = _splits(_voc2012(pathlib.Path(vocdevkit).expanduser()))
  made = _make_folders(target.parent)
  work = None
  try:
    # Written beside its final place under a temporary name: it appears whole or not at all.
    work = pathlib.Path(tempfile.mkdtemp(prefix=f'.{NAME}-', dir=target.parent))
    _write(work / VERSION, photos, splits)
    written = {split: [photos.names[i] for i in indices] for split, indices in splits.items()}
    read = {split: sources.Records(str(work / VERSION), split).names for split in splits}
    counts = {split: len(names) for split, names in read.items()}
    if read != written:
      raise ValueError(f'the photos of {list(splits)} could not all be read back, only {counts}.')
    work.chmod(0o755)  # mkdtemp makes private folders
    work.rename(target)
  except BaseException:
    if work is not None:
      shutil.rmtree(work, ignore_errors=True)
    with contextlib.suppress(OSError):
      for folder in made:
        folder.rmdir()
    raise
  return counts


def _voc2012(path: pathlib.Path) -> pathlib.Path:
  candidates = [path, path / 'VOC2012', path / 'VOCdevkit' / 'VOC2012']
  for candidate in candidates:
    if (candidate / 'JPEGImages').is_dir():
      return candidate
  raise PhotoError(
    f'no JPEGImages in {", ".join(map(str, candidates))}: give the folder VOCdevkit, which '
    'unpacking VOCtrainval_11-May-2012.tar creates.'
  )


def _splits(voc: pathlib.Path) -> tuple[sources.Files, dict[str, list[int]]]:
  """All photos in JPEGImages, and the indices of each split."""
  photos = sources.folder(voc / 'JPEGImages')
  if photos.unreadable:
    raise PhotoError(
      f'{len(photos.unreadable)} photos cannot be read; unpack VOC again or remove them: '
      f'{" ".join(photos.unreadable[:5])}'
    )
  index = {pathlib.PurePosixPath(name).stem: i for i, name in enumerate(photos.names)}
  if len(index) < len(photos):
    raise PhotoError(f'{photos.root} holds photos whose names differ only in suffix or folder.')
  lists = voc / 'ImageSets' / 'Main'
  found = {split: lists / f'{name}.txt' for name, split in SPLITS.items()}
  found = {split: path for split, path in found.items() if path.is_file()}
  if not found.keys() & {'train', 'validation'} and (lists / 'trainval.txt').is_file():
    found['train'] = lists / 'trainval.txt'
  if not found:
    return photos, {'train': list(range(len(photos)))}
  splits = {}
  rest = dict(index)
  for split, path in found.items():
    stems = path.read_text().split()
    missing = [stem for stem in stems if stem not in index]
    if missing:
      raise PhotoError(
        f'{path} lists {len(missing)} photos that are not in JPEGImages: {", ".join(missing[:5])}.'
      )
    if not stems:
      raise PhotoError(f'{path} is empty.')
    splits[split] = [index[stem] for stem in stems]
    for stem in stems:
      rest.pop(stem, None)
  if rest:
    splits['other'] = sorted(rest.values())
  return photos, splits


def _write(
  directory: pathlib.Path, photos: sources.Source, splits: Mapping[str, Sequence[int]]
) -> None:
  import tensorflow_datasets as tfds
  from array_record.python import array_record_module

  features = tfds.features.FeaturesDict(
    {
      'image': tfds.features.Image(shape=(None, None, 3), encoding_format='jpeg'),
      'image/filename': tfds.features.Text(),
    }
  )
  directory.mkdir()
  infos = []
  for split, indices in splits.items():
    # One photo per group: a random read decompresses a whole group.
    writer = array_record_module.ArrayRecordWriter(
      str(directory / f'{NAME}-{split}.array_record-00000-of-00001'), 'group_size:1'
    )
    size = 0
    for i in indices:
      record = features.serialize_example(
        features.encode_example({'image': photos.encoded(i), 'image/filename': photos.names[i]})
      )
      writer.write(record)
      size += len(record)
    writer.close()
    infos.append(
      dict(
        name=split,
        shardLengths=[str(len(indices))],
        numBytes=str(size),
        filepathTemplate='{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}',
      )
    )
  (directory / 'features.json').write_text(json.dumps(features.to_json()))
  (directory / 'dataset_info.json').write_text(
    json.dumps(
      dict(
        name=NAME,
        version=VERSION,
        description='Photos of Pascal VOC 2012, JPEG files unchanged, without boxes and labels.',
        fileFormat='array_record',
        splits=infos,
      )
    )
  )


def _make_folders(path: pathlib.Path) -> list[pathlib.Path]:
  """Makes a folder and its missing parents; returns the new folders, innermost first."""
  missing = [folder for folder in (path, *path.parents) if not folder.exists()]
  path.mkdir(parents=True, exist_ok=True)
  return missing
