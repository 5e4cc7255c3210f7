"""The comparison of a config: trains or loads the systems, then scores them and writes reports."""

import dataclasses
import functools
import itertools
import json
import logging
import math
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from oldphoto_jax import data, weights
from oldphoto_jax.data import prints
from oldphoto_jax.dip import fit
from oldphoto_jax.dip.prior import Dip
from oldphoto_jax.errors import ConfigError
from oldphoto_jax.evaluation import speed, tables, verify
from oldphoto_jax.evaluation.judge import Judge, extra_scores, load_judge, missing_columns
from oldphoto_jax.evaluation.results import Results, compare
from oldphoto_jax.evaluation.rows import (
  NOTHING,
  Restore,
  Row,
  Test,
  Training,
  by_engine,
  classical,
  moved,
  nothing,
)
from oldphoto_jax.photos import images, masks, page, sheets
from oldphoto_jax.restoring import engine, restore
from oldphoto_jax.systems import build, cyclegan, dip, pix2pix, repair, splits, triplet
from oldphoto_jax.systems.system import System
from oldphoto_jax.training import runs, train

_log = logging.getLogger(__name__)

# What it trains or fits, and whose weights it takes.
SYSTEMS = {module.SYSTEM.name: module.SYSTEM for module in (pix2pix, cyclegan, triplet, dip)}
RELEASED = SYSTEMS | {repair.SYSTEM.name: repair.SYSTEM}
VERIFIED = 'verification.md'
JSON, MARKDOWN, PAGE, RESULTS = 'comparison.json', 'comparison.md', 'comparison.html', 'results'
OLD = 'old photos'
MASKED = ', true mask'  # ends the labels of rows that know where the damage is


def check(config: ConfigDict) -> None:
  """Checks the settings and files before hours of training.

  Raises:
    ConfigError: there are several hosts, or settings contradict each other.
    UserError: a file does not fit, or the settings of a system cannot work.
  """
  if jax.process_count() > 1:
    raise ConfigError(
      'the comparison runs on one host: train large systems on several hosts with their own '
      'configs, and name their weights in config.load'
    )
  names, more = _compared(config), _more(config)
  for name in names:
    if _loaded_path(config, name):
      weights.load(_loaded_path(config, name))
    elif config.systems[name].system not in SYSTEMS:
      raise ConfigError(
        f'the comparison cannot run the system {config.systems[name].system!r} of {name!r}'
      )
    else:
      own = own_config(config, name)
      SYSTEMS[own.system].check(own)
  for path in more.values():
    weights.load(path)
  build.recipe(config.evaluate.recipes)
  if config.reference not in (*names, *more, NOTHING):
    known = ', '.join([*names, *more, NOTHING])
    raise ConfigError(f'reference is {config.reference!r}: choose from {known}')
  if config.data.old_reference and not config.data.old_test:
    raise ConfigError('data.old_reference belongs to data.old_test: set data.old_test as well')
  if bool(config.data.labels_test) != bool(config.data.prints_test):
    raise ConfigError('data.labels_test and data.prints_test belong together: set both, or neither')
  for name in filter(None, build.names(config.evaluate.figure)):
    if name not in (*names, *more):
      raise ConfigError(
        f'evaluate.figure: there is no row {name!r}; choose from {", ".join([*names, *more])}'
      )
  _judge(config)


def run(config: ConfigDict) -> None:
  """Trains, restores, scores, and writes the tables, the grids and the page into the workdir.

  Raises:
    train.Stopped: after SIGTERM; the same command goes on.
    UserError: see `check`, or photos are missing.
  """
  if config.verify:
    return run_again(config)
  folder, judge = pathlib.Path(config.workdir), _judge(config)
  for column in missing_columns(judge, config.evaluate.crop):
    _log.info('no column %s', column)
  tests = _tests(config)
  rows = _rows(config)
  environment = runs.environment() | {'processor': speed.processor()}
  with train.Terminated() as terminated:
    results = compare(
      rows,
      tests,
      judge,
      folder / RESULTS,
      pictures=config.evaluate.pictures,
      commit=environment['commit'],
      stop=lambda: terminated.requested,
    )
  extra = {test.name: extra_scores(test, judge) for test in tests}
  report = tables.report(
    rows, tests, results, extra, config.reference, config.seed, config.evaluate.resamples
  )
  report = {'settings': settings(config), 'environment': environment} | report
  _write(folder, config, report, tests, results)


def run_again(config: ConfigDict) -> None:
  """Runs the cheapest rows of a finished table again; nothing is trained. Writes verification.md.

  Raises:
    ConfigError: the settings or photos are not those of the table, or a number moved by more than
      verify.TOLERANCE.
  """
  report = verify.read(config.verify)
  for name in ('seed', 'test crop'):
    here, there = settings(config)[name], report['settings'].get(name)
    if here != there:
      setting = {'seed': 'seed', 'test crop': 'evaluate.crop'}[name]
      raise ConfigError(f'verify: the table was made with {setting}={there}, and this is {here}')
  judge, tests = _judge(config), _tests(config)
  rows = _rows(config, train_missing=False)
  chosen, left = verify.choose(report, rows, tests, config.verify_seconds)
  scores = verify.again(report, rows, tests, judge, chosen)
  text = tables.markdown([verify.table(report, scores, tests, left)])
  path = pathlib.Path(config.workdir) / VERIFIED
  images.make_folder(path.parent)
  images.write_bytes(path, text.encode(), overwrite=True)
  print(text)
  moved = [score for score in scores if score.verdict == verify.MOVED]
  if moved:
    most = max(moved, key=lambda score: score.largest / verify.TOLERANCE[score.metric])
    raise ConfigError(
      f'{len(moved)} of {len(scores)} numbers moved, most of all {most.metric} of {most.label} on '
      f'{most.test}, by {most.largest:.3g} on a photo: see {path}'
    )


def settings(config: ConfigDict) -> dict[str, Any]:
  """The settings that affect the numbers, without paths of this machine."""
  e = config.evaluate
  return {
    'seed': config.seed,
    'training images': config.images,
    'training crop': config.data.crop,
    'training recipe': config.recipe,
    'test crop': e.crop,
    'bootstrap resamples': e.resamples,
    'judge': _judge(config).identity,
    'Deep Image Prior': {name: config.systems.dip[name].to_dict() for name in ('net', 'fit')},
  }


# What is compared -------------------------------------------------------------------------------


def own_config(config: ConfigDict, name: str) -> ConfigDict:
  """A system's config with the shared photos, crop, recipe, seed and length, and its folder."""
  own = config.systems[name].copy_and_resolve_references()
  own.seed = config.seed
  if not _is_trained(own):
    return own
  own.workdir = str(pathlib.Path(config.workdir) / name)
  own.recipe = config.recipe
  own.evaluate.crop = config.evaluate.crop
  for field, value in config.data.items():
    # Real old photos go only to systems that mix them with others: they form no pairs, and would be
    # a different task for CycleGAN.
    takes_real = 'p_real' in own.data
    if field in own.data and (field != 'old' or takes_real):
      own.data[field] = value
  if config.images:
    stages = [own[s] for s in build.stage_names(own)]
    total = sum(stage.steps * stage.batch_size for stage in stages)
    for stage in stages:
      stage.steps = max(1, round(stage.steps * config.images / total))
      if 'recipe' in stage:  # instead of its system's
        stage.recipe = config.recipe
  return own


def _is_trained(own: ConfigDict) -> bool:
  """Whether a system learns and releases weights. Deep Image Prior does not."""
  return 'export' in SYSTEMS[own.system].modes


def trained(config: ConfigDict, name: str) -> pathlib.Path:
  """Trains a system, or continues its run. Returns the file of its weights."""
  own = own_config(config, name)
  system, folder = SYSTEMS[own.system], pathlib.Path(own.workdir)
  runs.check(own, system.may_change)
  file = folder / weights.FILE
  ends = [folder / s / 'checkpoints' / str(own[s].steps) for s in build.stage_names(own)]
  if not all(end.is_dir() for end in ends):
    _log.info('%s: training into %s', name, folder)
    system.modes['run'](own)
  elif not file.is_file() or file.stat().st_mtime < max(end.stat().st_mtime for end in ends):
    system.modes['export'](own)
  else:
    _log.info('%s: %s is complete', name, folder)
  return file


def _compared(config: ConfigDict) -> list[str]:
  names = list(filter(None, build.names(config.compare)))
  for name in names:
    if name not in config.systems:
      known = ', '.join(config.systems)
      raise ConfigError(f'compare: there is no system {name!r}; choose from {known}')
  return names


def _more(config: ConfigDict) -> dict[str, str]:
  """Name -> path of further weights."""
  found = {}
  for part in filter(None, config.more.split(',')):
    name, equals, path = (x.strip() for x in part.partition('='))
    if not (name and equals and path) or name in found or name in config.systems:
      raise ConfigError(
        f'more: {part!r} is not NAME=PATH with a new name: separate several by commas'
      )
    found[name] = path
  return found


def _loaded_path(config: ConfigDict, name: str) -> str:
  return config.load.get(name, '')


def _rows(config: ConfigDict, train_missing: bool = True) -> list[Row]:
  """All rows, in the order of the tables.

  Systems that have no weights yet are trained, or left out without `train_missing`.
  """
  rows = [nothing(), classical(False), classical(True)]
  # One system at a time is in memory, because its rows follow each other.
  programs = functools.lru_cache(maxsize=1)(_programs)
  for name in _compared(config):
    if _loaded_path(config, name):
      rows += weights_rows(name, _loaded_path(config, name), programs)
    elif _is_trained(config.systems[name]) and not train_missing:
      file = pathlib.Path(config.workdir) / name / weights.FILE
      rows += weights_rows(name, file, programs) if file.is_file() else []
    elif _is_trained(config.systems[name]):
      rows += weights_rows(name, trained(config, name), programs)
    else:
      rows += _dip_rows(config, name)
  for name, path in _more(config).items():
    rows += weights_rows(name, path, programs)
  return rows


def _programs(path: str, with_fusion: bool):
  found = weights.load(path)
  if not with_fusion:
    found = weights.without_fusion(found)
  restorer = weights.restorer(found, path)
  return engine.compiled(restorer)


def weights_rows(name: str, path: str | pathlib.Path, programs: Callable) -> list[Row]:
  """The rows of a file of weights: without a mask, and with the true one if it can fill holes.

  A triplet system with a fusion has rows without the fusion, under `name`, and with it. One that
  revives tones has further rows in which it does not: the truth may be as faded as the old photo.

  Args:
    name: the label.
    path: a run's folder or a file.
    programs: (path, with fusion) -> its engine.compiled.

  Raises:
    WeightsError: see weights.load.
  """
  file = pathlib.Path(path)
  file = file / weights.FILE if file.is_dir() else file
  loaded = weights.read(path)
  whole = loaded.weights
  rows = []
  for fused in (False, True) if 'fusion' in whole.model else (False,):
    found = whole if fused else weights.without_fusion(whole)
    restorer = weights.restorer(found, name)
    usual = restore.usual(restorer)
    tones = (usual.tone, 0.0) if restorer.correction is not None else (0.0,)
    masks_told = (False, True) if restorer.fill is not None else (False,)
    for masked, tone in itertools.product(masks_told, tones):
      stages = RELEASED[found.system].behind(found, masked)
      kept = ', --tone 0' if tone < tones[0] else ''
      # What the photos depend on beside the weights, where that is not nothing.
      defaults = f' find {usual.find} tone {tone}' if usual.find is not None else ''
      rows.append(
        Row(
          label=f'{name}{" with fusion" * fused}{kept}{MASKED * masked}',
          open=functools.partial(
            _open, programs, str(file), fused, dataclasses.replace(usual, tone=tone)
          ),
          identity=f'{found.system} {loaded.digest}{" with fusion" * fused}{defaults}',
          masked=masked,
          parameters=_count(found, 'mapping_masked' in stages),
          training=training(file.parent, loaded.card, found.system, stages),
        )
      )
  return rows


def _open(programs: Callable, path: str, fused: bool, wishes: restore.Wishes) -> Restore:
  return by_engine(programs(path, fused), wishes)


def _count(found: weights.Weights, masked: bool) -> int:
  """Number of parameters that a row uses, without running statistics of batch norm."""
  unused = {'detector', 'batch_stats'} | (set() if masked else {'masked'})
  used = {k: v for k, v in found.params.items() if k not in unused}
  return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(used))


def training(
  folder: pathlib.Path, card: dict[str, Any], system: str, stages: Sequence[str]
) -> Training:
  """The training behind weights, from the folder of the run or else from the weights' card.

  Args:
    folder: if it is a run, it holds a metrics.jsonl in the folder of each stage.
    card: card of the weights. Its 'run' is the config as JSON. With 'sources', which say what they
      learnt from, it is only the last of several runs, and does not know how many images they saw.
    system: system of the weights.
    stages: names of the stages.
  """
  own = json.loads(card['run']) if 'run' in card else None
  if own is None or own.get('system') != system:
    return Training()
  if 'vae_y_masked' in stages and not own['mapping_masked']['own_y']:
    stages = tuple(s for s in stages if s != 'vae_y_masked')
  logs = {s: folder / s / 'metrics.jsonl' for s in stages}
  if all(log.is_file() for log in logs.values()):
    measured = [_measured(log, own[s]['batch_size']) for s, log in logs.items()]
    total, seconds = (sum(values) for values in zip(*measured))
  else:
    total, seconds = sum(own[s]['steps'] * own[s]['batch_size'] for s in stages), None
  if 'sources' in card:
    total = seconds = None
  d, network = own['data'], own.get('perceptual', {})
  used = network.get('weights') and any(own[s]['weights'].get('perceptual') for s in stages)
  sections = (own, *(own[s] for s in stages))
  recipes = [section['recipe'] for section in sections if 'recipe' in section]
  recipes += [name for name, share in own.get('shares', {}).items() if share]
  return Training(
    images=total,
    seconds=seconds,
    photos=card.get('sources')
    or d['tfds_name']
    or pathlib.PurePath(d.get('pairs') or d['photos']).name
    or 'sample photos',
    recipe=' + '.join(dict.fromkeys(recipes)),
    crop=d['crop'],
    perceptual=network['network'] if used else '',
  )


def _measured(log: pathlib.Path, batch_size: int) -> tuple[int, float]:
  """Number of images and seconds of a stage's training, from its metrics.jsonl."""
  lines = [json.loads(line) for line in log.read_text().splitlines()]
  before, seconds = 0, 0.0
  for line in lines:
    if 'images_per_second' in line:
      seconds += (line['step'] - before) * batch_size / line['images_per_second']
      before = line['step']
  return before * batch_size, seconds


def _dip_rows(config: ConfigDict, name: str) -> list[Row]:
  prior = dip.settings(config.systems[name], 3)
  chunk, e = config.systems[name].chunk, config.evaluate
  parameters = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(_dip_shapes(prior)))
  return [
    Row(
      label=f'{name}{MASKED * masked}',
      open=functools.partial(_fit, prior, chunk, config.seed),
      identity=f'{prior} seed {config.seed}',
      masked=masked,
      limit=e.dip_photos,
      parameters=parameters,
    )
    for masked in ((False, True) if e.dip_masked else (False,))
  ]


def _dip_shapes(prior: Dip):
  z = jax.ShapeDtypeStruct((1, 256, 256, prior.input_depth), np.float32)
  return jax.eval_shape(prior.net.init, jax.random.key(0), z)['params']


def _fit(prior: Dip, chunk: int, seed: int) -> Restore:
  """Restores by the network's whole image. Masked pixels count as unknown."""

  def one(photo, weight):
    (found,) = fit.fit_photos(
      prior, [photo], None if weight is None else [weight], jax.random.key(seed), chunk=chunk
    )
    return found.image

  return one


# What it is compared on -------------------------------------------------------------------------


def _judge(config: ConfigDict) -> Judge:
  e = config.evaluate
  return load_judge(e.squeezenet, e.niqe, e.lpips_alexnet, e.lpips_linear)


def _tests(config: ConfigDict) -> list[Test]:
  """The test photos under every recipe, then real damage, then real old photos."""
  opened = splits.photos(config.data, config.seed)
  tests = build.tests(config, splits.test_photos(config, opened))
  if config.data.labels_test:
    tests.append(_moved(config))
  if config.data.old_test:
    tests.append(_old(config))
  return tests


def _moved(config: ConfigDict) -> Test:
  places = (build.names(config.data[name]) for name in ('labels_test', 'prints_test'))
  labelled = prints.prints(*places)
  test = moved(labelled, config.evaluate.crop, config.seed)
  if not test.photos:
    raise ConfigError(
      'data.labels_test: there is no room on any print to move real damage to; give prints of at '
      f'least {config.evaluate.crop} pixels a side (evaluate.crop), two of them with damage'
    )
  _log.info('%s: %d of %d prints', test.name, len(test.photos), len(labelled))
  return test


def _old(config: ConfigDict) -> Test:
  source = data.folder(config.data.old_test)
  count = min(config.evaluate.old_limit or len(source), len(source))
  names, old = list(source.names[:count]), [source[i] for i in range(count)]
  if not config.data.old_reference:
    return Test(OLD, names, old)
  reference = []
  for name, photo in zip(names, old):
    path = masks.find_named(config.data.old_reference, source.root / name, 'reference')
    reference.append(images.read_rgb8(path))
    if reference[-1].shape != photo.shape:
      raise ConfigError(f'{path} and its photo {source.root / name} differ in size: replace it')
  return Test(OLD, names, old, reference=reference)


# What is written --------------------------------------------------------------------------------


def _write(
  folder: pathlib.Path,
  config: ConfigDict,
  report: dict[str, Any],
  tests: list[Test],
  results: dict[str, dict[str, Results]],
) -> None:
  images.write_bytes(folder / JSON, json.dumps(report, indent=1).encode(), overwrite=True)
  written, lead = tables.tables(report), _lead(config, report)
  text = f'# Comparison\n\n{lead}\n\n{tables.markdown(written)}'
  images.write_bytes(folder / MARKDOWN, text.encode(), overwrite=True)
  sections = [page.Section(t.title, t.text, t.header, t.rows) for t in written]
  for test in tests:
    grid = tables.grid(test, results[test.name], config.evaluate.pictures)
    name = f'grid_{test.name.replace(" ", "_")}.png'
    sheets.save_png(folder / name, grid)
    if config.evaluate.figure:
      columns = build.names(config.evaluate.figure)
      figure = tables.figure(test, results[test.name], columns, config.evaluate.pictures)
      sheets.save_png(folder / name.replace('grid', 'figure'), figure)
    place = next(i for i, s in enumerate(sections) if s.title == test.name)
    shown = _entries(test, results[test.name], config)
    sections[place] = dataclasses.replace(sections[place], picture=grid, entries=shown)
  page.write_report(folder / PAGE, sections, title='Comparison', lead=lead)
  _log.info('see %s and %s\n%s', folder / PAGE, folder / MARKDOWN, text)


def _entries(test: Test, results: dict[str, Results], config: ConfigDict) -> tuple[page.Entry, ...]:
  """The first photos, damaged and restored by the last row of the reference without a mask."""
  rows = [r for r in (config.reference, f'{config.reference} with fusion') if r in results]
  if not rows or config.reference == NOTHING:
    return ()
  count = min(config.evaluate.pictures, len(results[rows[-1]].pictures))
  return tuple(
    page.Entry(name, before=old, after=restored, note=f'After: {rows[-1]}')
    for name, old, restored in zip(test.photos[:count], test.old, results[rows[-1]].pictures)
  )


def _lead(config: ConfigDict, report: dict[str, Any]) -> str:
  e, environment = config.evaluate, report['environment']
  text = (
    f'Central {e.crop}x{e.crop} of each test photo, damaged with fold_in(key({config.seed}), its '
    f'number). PSNR, SSIM and MS-SSIM are computed on 8-bit RGB over the whole frame. Bootstrap '
    f'with {e.resamples} resamples, seed {config.seed}. '
  )
  if e.squeezenet:
    text += 'The SqueezeNet distance is LPIPS without its learnt weights, so it is not LPIPS. '
  text += 'Rows with the true mask know where content is lost, which no user does. '
  return f'{text}Code: commit {environment["commit"]}; {environment["devices"][1]}.'


SYSTEM = System('comparison', {'run': run}, check)
