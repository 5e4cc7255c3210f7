"""Fine-tuning of `repair` on the prints of one archive, with a verdict at the end.

The weights before training find damage on the archive's prints. What they are sure of becomes the
labels of these prints, what they doubt is ignored, and the shapes of the damage are laid over other
prints and clean photos, where the truth is known. A part of the prints is kept aside. On these,
both weights are compared (evaluation/verdict.py), and the new ones are released only if they win.
"""

import dataclasses
import hashlib
import json
import logging
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict
from PIL import Image
from scipy import ndimage

from oldphoto_jax import data, weights
from oldphoto_jax.data import prints
from oldphoto_jax.errors import ConfigError
from oldphoto_jax.evaluation import tables, verdict
from oldphoto_jax.photos import images, sheets
from oldphoto_jax.restoring import engine, finding
from oldphoto_jax.systems import repair
from oldphoto_jax.systems.system import System
from oldphoto_jax.training import runs

_log = logging.getLogger(__name__)

CANDIDATE = 'candidate.safetensors'  # the new weights, whatever the verdict
PRINTS = 'prints.json'  # the prints with which a run was begun: name -> SHA-256
LEAST_ASIDE = verdict.LEAST
PIECE = (30, 200)  # least pixels of a piece of damage that is laid over others; most pieces
DOUBT = verdict.DOUBT


def check(config: ConfigDict) -> None:
  """Checks the settings and the weights before anything is written.

  Raises:
    ConfigError: there is no folder of prints, or the weights are not of `repair`.
    WeightsError: the weights cannot be read.
  """
  if not config.data.old:
    raise ConfigError("data.old names the archive's prints: --config.data.old=SCANS")
  if config.data.labels or config.data.prints or config.data.overlays:
    raise ConfigError(
      'data.labels, data.prints and data.overlays are made from data.old here: leave them empty, '
      'or train without :archive'
    )
  if not 0 < config.archive.aside < 1:
    raise ConfigError(f'archive.aside is a share between 0 and 1, not {config.archive.aside}')
  _start(config)
  repair.SYSTEM.check(_own(config, _start(config), {}))


def run(config: ConfigDict) -> None:
  """Finds, trains, judges; see the module.

  Raises:
    ConfigError: there are too few prints, or no damage is found on them.
  """
  source = data.folder(config.data.old)
  _check_count(source, config)
  with runs.alone(config.workdir):
    runs.start(config, may_change=('archive.sheet', 'archive.resamples'))
    _same_prints(pathlib.Path(config.workdir) / PRINTS, source)
    _run(config, _start(config), _read(source, config.archive.longest))


def _run(config: ConfigDict, start: weights.Loaded, photos: 'Prints') -> None:
  folder = pathlib.Path(config.workdir)
  aside = _aside(len(photos), config)
  before = _engine(start, photos)
  found = [before.look(photo).probability.astype(np.float16) for photo in photos]
  used = [i for i in range(len(photos)) if i not in aside]
  places = _write_finds(folder / 'found', photos.some(used), [found[i] for i in used], config)
  repair.SYSTEM.modes['run'](_own(config, start, places))

  after = weights.read(folder / 'finetuned').weights
  card = {'run': config.to_json(), 'start': start.name}
  weights.save(folder / CANDIDATE, after, card=card)
  candidate = weights.read(folder / CANDIDATE)
  kept = photos.some(aside)
  made = lambda: verdict.trials(kept, [found[i] for i in aside], config.archive.strict, config.seed)
  new = _engine(candidate, photos)
  if any(True for _ in made()):
    old_scores, new_scores = verdict.scores(before, made()), verdict.scores(new, made())
    decided, judged = verdict.judge(old_scores, new_scores, config.seed, config.archive.resamples)
  else:
    decided, judged = verdict.EQUAL, []
  _write(folder, config, decided, judged, [start.name, candidate.name], len(aside))
  shown = kept.some(range(min(config.archive.sheet, len(kept))))
  sheet, key = verdict.blind_sheet(before, new, shown, shown.names, config.seed)
  sheets.save_png(folder / 'blind.png', sheet)
  images.write_bytes(folder / 'blind_key.json', json.dumps(key, indent=1).encode(), overwrite=True)
  released = folder / weights.FILE
  if decided == verdict.BETTER:
    weights.save(released, after, card=card)
    _log.info('the new weights are better: %s', released)
  else:
    released.unlink(missing_ok=True)  # of an earlier verdict
    _log.info('%s: keep %s; the new weights are in %s', decided, start.name, folder / CANDIDATE)


def _start(config: ConfigDict) -> weights.Loaded:
  loaded = weights.read(config.start or weights.SHIPPED)
  if loaded.weights.system != 'repair':
    raise ConfigError(f'start: {config.start} holds the system {loaded.weights.system}, not repair')
  return loaded


def _own(config: ConfigDict, start: weights.Loaded, places: dict[str, str]) -> ConfigDict:
  """The config of the training, by systems/repair.py."""
  own = config.copy_and_resolve_references()
  with own.unlocked():
    del own.archive
  own.system, own.stages = 'repair', 'repair'
  own.workdir = str(pathlib.Path(config.workdir) / 'finetuned')
  own.start = str(start.file)
  own.model.widths = tuple(start.weights.model['widths'])
  own.model.blocks = start.weights.model['blocks']
  own.data.old = ''
  for name, place in places.items():
    own.data[name] = place
  if not config.data.photos and not config.data.tfds_name:
    # The sample photos are five: nearly all examples are of the archive.
    own.data.p_print = config.archive.p_print_alone
  return own


@dataclasses.dataclass(frozen=True, eq=False)
class Prints(Sequence):
  """Prints, float32 [H, W, 3] in [-1, 1], which are kept as uint8.

  Attributes:
    names: of the files.
    levels: uint8 [H, W, 3] each, shrunk to at most `archive.longest` pixels.
  """

  names: tuple[str, ...]
  levels: tuple[np.ndarray, ...]

  def __len__(self) -> int:
    return len(self.levels)

  def __getitem__(self, i):
    return images.to_float(images.Photo(self.levels[i]))

  def some(self, chosen: Iterable[int]) -> 'Prints':
    """Those of these numbers."""
    chosen = list(chosen)
    return Prints(tuple(self.names[i] for i in chosen), tuple(self.levels[i] for i in chosen))


def _check_count(source: data.Source, config: ConfigDict) -> None:
  least = 2 * LEAST_ASIDE
  if len(source) < least:
    raise ConfigError(
      f'data.old: {config.data.old} holds {len(source)} prints; at least {least} are needed, to '
      'learn from some and to judge by others'
    )


def _read(source: data.Source, longest: int) -> Prints:
  photos = (source[i] for i in range(len(source)))
  levels = (sheets.thumbnail(x, longest) if max(x.shape) > longest else x for x in photos)
  return Prints(tuple(source.names), tuple(levels))


def _same_prints(path: pathlib.Path, source: data.Source) -> None:
  """Writes down the prints of a run, or sees that it goes on with the same.

  Otherwise prints that were learnt from could be among those that it is judged by.

  Raises:
    ConfigError: it was begun with other prints.
  """
  digest = lambda i: hashlib.sha256(source.encoded(i)).hexdigest()
  now = {name: digest(i) for i, name in enumerate(source.names)}
  if not path.exists():
    images.write_bytes(path, json.dumps(now, indent=1).encode())
    return
  before = json.loads(path.read_text())
  names = before.keys() | now.keys()
  changed = sorted(name for name in names if before.get(name) != now.get(name))
  if changed:
    raise ConfigError(
      f'{path.parent} holds a run with other prints ({len(changed)} were added, changed or '
      f'removed, such as {changed[0]}): put them back as they were, or choose another folder with '
      '--config.workdir'
    )


def _aside(count: int, config: ConfigDict) -> list[int]:
  """The prints that nothing is learnt from."""
  share = round(config.archive.aside * count)
  order = np.random.default_rng(config.seed).permutation(count)
  return sorted(int(i) for i in order[: min(max(share, LEAST_ASIDE), count - LEAST_ASIDE)])


def _engine(loaded: weights.Loaded, photos: Prints) -> engine.Repairing:
  """In tiles of 512 pixels, as few programs serve all prints then."""
  sizes = [photo.shape[:2] for photo in photos.levels]
  return engine.compiled(loaded.restorer(), sizes, tile=512, max_shapes=2)


def _write_finds(
  folder: pathlib.Path,
  photos: Sequence[np.ndarray],
  found: Sequence[np.ndarray],
  config: ConfigDict,
) -> dict[str, str]:
  """Writes prints, labels and shapes of damage. Returns the settings of data that name them.

  Raises:
    ConfigError: nothing was found.
  """
  strict, pieces, labelled = config.archive.strict, [], 0
  for place in ('prints', 'labels', 'overlays'):
    images.make_folder(folder / place)
    for old in (folder / place).glob('*.png'):  # of an earlier run with other prints
      old.unlink()
  for i, (photo, probability) in enumerate(zip(photos, found)):
    mask = finding.decide(probability, strict)[..., 0] > 0
    if mask.all():
      continue
    doubted = ndimage.binary_dilation(probability[..., 0] >= DOUBT, iterations=2) & ~mask
    label = np.where(mask, prints.DAMAGED, np.where(doubted, prints.IGNORED, 0)).astype(np.uint8)
    _save(folder / 'prints' / f'{i:05d}.png', sheets.from_float(photo))
    _save(folder / 'labels' / f'{i:05d}.png', label)
    pieces += _pieces(mask)
    labelled += int(mask.any())
  if not labelled:
    raise ConfigError(
      f'data.old: no damage was found with a probability of {strict} or more on {len(found)} '
      'prints, so there is nothing to learn; mark some by hand and train with data.labels'
    )
  _log.info('damage was found on %d of %d prints to learn from', labelled, len(found))
  places = {'labels': str(folder / 'labels'), 'prints': str(folder / 'prints')}
  pieces.sort(key=lambda piece: -int(piece.sum()))
  for i, piece in enumerate(pieces[: PIECE[1]]):
    side = max(piece.shape) + 2
    square = np.zeros((side, side, 4), np.uint8)
    top, left = ((side - n) // 2 for n in piece.shape)
    square[top : top + piece.shape[0], left : left + piece.shape[1], 3] = 255 * piece
    _save(folder / 'overlays' / f'{i:05d}.png', square)
  return places | ({'overlays': str(folder / 'overlays')} if pieces else {})


def _pieces(mask: np.ndarray) -> list[np.ndarray]:
  """The connected pieces of a mask that are large enough, each bool in its box."""
  labels, _ = ndimage.label(mask, np.ones((3, 3)))
  boxes = ndimage.find_objects(labels)
  cut = [labels[box] == i for i, box in enumerate(boxes, 1)]
  return [piece for piece in cut if piece.sum() >= PIECE[0]]


def _save(path: pathlib.Path, pixels: np.ndarray) -> None:
  Image.fromarray(pixels).save(path)


def _write(
  folder: pathlib.Path,
  config: ConfigDict,
  decided: str,
  judged: list[verdict.Judged],
  names: list[str],
  aside: int,
) -> None:
  """verdict.md for people and verdict.json for programs."""
  text = tables.markdown([verdict.table(decided, judged, aside)])
  images.write_bytes(folder / 'verdict.md', text.encode(), overwrite=True)
  record: dict[str, Any] = {
    'verdict': decided,
    'before': names[0],
    'after': names[1],
    'seed': config.seed,
    'scores': {
      j.criterion.name: {
        'before': j.before,
        'after': j.after,
        'difference': j.difference.mean,
        'interval': [j.difference.low, j.difference.high],
        'prints': j.difference.n,
        'sure': None if np.isnan(j.sure) else j.sure,
        'verdict': j.verdict,
      }
      for j in judged
    },
  }
  images.write_bytes(folder / 'verdict.json', json.dumps(record, indent=1).encode(), overwrite=True)
  print(text)


SYSTEM = System('archive', {'run': run}, check)
