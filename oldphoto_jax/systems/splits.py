"""The photos of a run: opened, split, and written down, so that it goes on with the same ones."""

import dataclasses
import json
import logging
import pathlib
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from oldphoto_jax import data
from oldphoto_jax.data import sources
from oldphoto_jax.errors import ConfigError
from oldphoto_jax.photos import places
from oldphoto_jax.training import parallel

_log = logging.getLogger(__name__)

MANIFEST = 'manifest.json'
Manifest = list[dict[str, Any]]  # rows of data.manifest


@dataclasses.dataclass(frozen=True)
class Photos:
  """The sources of a run. `old` is None without real old photos."""

  train: data.Source
  val: data.Source
  test: data.Source | None
  old: data.Source | None


def photos(config: ConfigDict, seed: int, before: Manifest | None = None) -> Photos:
  """Opens the photos that `config` (section `data`) names, and splits them.

  Args:
    config: the section.
    seed: of the split.
    before: the manifest of the run that goes on. Its photos stay in their splits and in their
      order, and those that were added since are not used: a log line names them.

  Raises:
    UserError: a folder is missing or empty, or holds too few photos for the split.
  """
  for name in ('photos', 'val', 'test', 'old'):
    path = config[name]  # a store is asked when its photos are opened
    if path and not places.is_remote(path) and not pathlib.Path(path).expanduser().is_dir():
      raise ConfigError(f'data.{name}: there is no folder {config[name]}')
  pairs = config.get('pairs')
  folder = data.pairs if pairs else data.folder
  if config.tfds_name:
    source = data.tfds_images(config.tfds_dir, config.tfds_name, config.tfds_split)
  elif pairs or config.photos:
    source = folder(pairs or config.photos)
  else:
    _log.info('data.photos is not set: training on the sample photos of scikit-image')
    source = data.sample_photos()
  test = folder(config.test) if config.test else None
  if before is not None:
    opened = {'train': source, 'test': test or source}
    opened['val'] = folder(config.val) if config.val else source
    if config.old:
      opened['old'] = data.folder(config.old)
    kept = _as_before(opened, before, bool(config.subset_train))
    train_photos, val, test = (kept.get(split) for split in ('train', 'val', 'test'))
    old = kept.get('old')
  elif config.val:
    train_photos, val = source, folder(config.val)
    if config.subset_train:
      train_photos = data.subset(source, seed, {'train': config.subset_train})['train']
  else:
    # A tenth for validation, at most 100 as in the student report.
    n_val = config.subset_val or min(100, max(1, len(source) // 10))
    counts = {'train': config.subset_train or len(source) - n_val - config.subset_test}
    counts |= {'val': n_val} | ({'test': config.subset_test} if config.subset_test else {})
    if counts['train'] < 1:
      raise ConfigError(
        f'{len(source)} photos are too few to hold out {n_val + config.subset_test}: add photos, '
        'or set data.val to a separate folder'
      )
    splits = data.subset(source, seed, counts)
    train_photos, val = splits['train'], splits['val']
    test = test or splits.get('test')
  if before is None:
    old = data.folder(config.old) if config.old else None
  # Training and old photos share the memory.
  limit = int(config.cache_gb * 2**30) // (1 if old is None else 2)
  return Photos(
    train=data.cached(train_photos, limit),
    val=val,
    test=test,
    old=old and data.cached(old, limit),
  )


def _as_before(
  opened: Mapping[str, data.Source], before: Manifest, chosen: bool
) -> dict[str, data.Source]:
  """The splits of a manifest.

  Args:
    opened: the photos from which each split was taken.
    before: the manifest.
    chosen: whether the splits were only a part of the photos, so that others are no news.
  """
  kept, used = {}, {}
  for split in dict.fromkeys(row['split'] for row in before):
    source = opened[split]
    index = {name: i for i, name in enumerate(source.names)}
    names = [row['name'] for row in before if row['split'] == split]
    missing = [name for name in names if name not in index]
    if missing:
      raise ConfigError(
        f'{len(missing)} photos of the split {split} are gone since the run began, such as '
        f'{missing[0]}: put them back, or begin another run with --config.workdir'
      )
    kept[split] = sources.Chosen(source, [index[name] for name in names])
    used.setdefault(id(source), (source, set()))[1].update(names)
  for source, names in () if chosen else used.values():
    added = [name for name in source.names if name not in names]
    if added:
      _log.warning(
        '%d photos were added since the run began, such as %s: it goes on without them, so that '
        'its split stays. To learn from them, begin another run.',
        len(added),
        added[0],
      )
  return kept


def run_photos(config: ConfigDict) -> Photos:
  """The photos of the run in `config.workdir`, in the splits that it began with; else as `photos`.

  Raises:
    UserError: see `photos`; or the run's manifest is damaged.
  """
  path = pathlib.Path(config.workdir) / MANIFEST
  before = None
  if path.exists():
    try:
      before = json.loads(path.read_text())
    except ValueError as error:
      raise ConfigError(
        f'{path} is damaged: restore it from a backup, or choose another folder with '
        '--config.workdir'
      ) from error
  return photos(config.data, config.seed, before)


def test_photos(config: ConfigDict, opened: Photos) -> data.Source:
  """The photos to score: the first `evaluate.limit` of the test or else the validation photos."""
  return first(opened.val if opened.test is None else opened.test, config.evaluate.limit)


def first(source: data.Source, limit: int) -> data.Source:
  """The first `limit` photos of a source, or all for 0. Each keeps its number and so its key."""
  return sources.Chosen(source, list(range(min(limit, len(source))))) if limit else source


def stand_ins(config: ConfigDict) -> Photos:
  """Sample photos instead of those that a run's config names.

  The compiled program of a stage does not depend on its photos, only on whether there are old ones.
  """
  source = data.sample_photos()
  if config.data.get('pairs'):
    source = data.Pairs(source, source)
  return Photos(train=source, val=source, test=None, old=source if config.data.old else None)


def write_manifest(photos: Photos, workdir: str) -> None:
  """Writes manifest.json: every photo of the run with its split, size and hash.

  If the run goes on, it is there already. A log line then names photos that have changed since.
  """
  if not parallel.is_main():
    return
  splits = {'train': photos.train, 'val': photos.val, 'test': photos.test, 'old': photos.old}
  rows = data.manifest({name: source for name, source in splits.items() if source is not None})
  path = pathlib.Path(workdir) / MANIFEST
  if not path.exists():
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix('.part')
    temporary.write_text(json.dumps(rows, indent=1))
    temporary.replace(path)
    return
  known = {(row['split'], row['name']): row['sha256'] for row in json.loads(path.read_text())}
  changed = [row['name'] for row in rows if known.get((row['split'], row['name'])) != row['sha256']]
  if changed:
    _log.warning(
      '%d photos have changed since the run began, such as %s: the run goes on with them as they '
      'are now',
      len(changed),
      changed[0],
    )
