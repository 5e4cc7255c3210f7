"""The system dip, Deep Image Prior: a network is fitted to each photo, without any training."""

import dataclasses
import logging
import pathlib
from functools import partial

import jax
import numpy as np
from ml_collections import ConfigDict

from oldphoto_jax import data
from oldphoto_jax.dip import fit_files
from oldphoto_jax.dip.networks import ResNet, Skip, UNet
from oldphoto_jax.dip.prior import Dip, Emv
from oldphoto_jax.errors import ConfigError
from oldphoto_jax.evaluation import speed
from oldphoto_jax.photos import folders, images, masks
from oldphoto_jax.restoring import tasks
from oldphoto_jax.systems import system
from oldphoto_jax.training import runs, train

_log = logging.getLogger(__name__)

NETWORKS = {'skip': Skip, 'resnet': ResNet, 'unet': UNet}
RESTORED, SAMPLES, REPORT = 'restored', 'samples', 'report.md'
SAMPLE_SIDE, SAMPLE_SIGMA, SAMPLE_COUNT = 128, 25 / 255, 2  # a minute each on a laptop CPU


def settings(config: ConfigDict, channels: int) -> Dip:
  """The settings for fitting a photo with 3 channels or 1.

  Raises:
    ConfigError: the settings cannot work.
  """
  sizes = config.net.to_dict()
  kind = sizes.pop('kind')
  if kind not in NETWORKS:
    raise ConfigError(f'net.kind is {kind!r}: choose from {", ".join(NETWORKS)}')
  known = {field.name for field in dataclasses.fields(NETWORKS[kind])}
  unknown = sorted(set(sizes) - known)
  if unknown:
    raise ConfigError(f'a net of the kind {kind} has no {unknown[0]}: choose a variant with {kind}')
  net = NETWORKS[kind](**sizes, out_channels=channels)
  stop = Emv(**config.stop) if config.stop.patience else None
  try:
    return Dip(net, stop=stop, **config.fit)
  except ValueError as error:
    raise ConfigError(f'config.fit: {error}') from error


def check(config: ConfigDict) -> None:
  """Checks the settings and photos before a run's folder is made.

  Raises:
    ConfigError: there are several hosts, or settings contradict each other.
    PhotoError: there is no photo.
  """
  if jax.process_count() > 1:
    raise ConfigError(
      'photos are fitted on one host: start one run without --multihost on each host, with a '
      'folder of photos and a workdir of its own'
    )
  factor = settings(config, 3).factor
  if config.photos:
    folders.find_photos([config.photos], skip=config.workdir)
  elif config.masks or config.truths:
    raise ConfigError('masks and truths belong to photos: set config.photos as well')
  elif factor != 1:
    raise ConfigError(
      'the sample photos are for denoising, but fit.factor enlarges them: set config.photos'
    )
  for name in ('masks', 'truths'):
    if config[name] and not pathlib.Path(config[name]).exists():
      raise ConfigError(f'config.{name}: there is no folder {config[name]}')


def run(config: ConfigDict) -> None:
  """Restores the photos of a config, continuing an interrupted run.

  Writes restored/, report.json, report.md and curves/ into the run's folder.

  Raises:
    ConfigError: at the end, if a photo failed.
    PhotoError: nothing could be done; see fit_files.restore_files.
    train.Stopped: after SIGTERM, once a checkpoint is saved.
  """
  runs.start(config, SYSTEM.may_change)
  workdir = pathlib.Path(config.workdir)
  photos, truths = config.photos, config.truths
  if not photos:
    photos, truths = _samples(workdir / SAMPLES)
  mask = lambda path, photo: masks.read(masks.find(config.masks, path), photo.size)
  job = fit_files.Job(
    settings=partial(settings, config),
    name=f'configs/dip.py:{config.variant}',
    seed=config.seed,
    mask=mask if config.masks else None,
    truths=truths or None,
    paste=config.paste,
    gray=config.gray,
    max_side=config.max_side or None,
    max_seconds=3600 * config.max_hours,
    chunk=config.chunk,
    save_every=config.save_every,
    batch=config.batch,
    curves=True,
  )

  def progress(done: int, total: int, result: tasks.Result) -> None:
    if result.status == 'failed':
      _log.warning('[%d/%d] %s', done, total, result.message)
      return
    _log.info('[%d/%d] %s %s%s', done, total, result.output, result.status, _sentence(result))
    for warning in result.warnings:
      _log.warning('%s: %s', result.input, warning)

  with train.Terminated() as terminated:
    todo = fit_files.plan([photos], workdir / RESTORED, workdir)
    summary = fit_files.restore_files(
      job,
      todo,
      progress=progress,
      tell=_log.info,
      stop=lambda: terminated.requested,
    )
  table = report(summary.results)
  images.write_bytes(workdir / REPORT, table.encode(), overwrite=True)
  _log.info('see %s and %s\n%s', workdir / REPORT, workdir / RESTORED, table)
  if summary.exit_code:
    raise ConfigError(
      f'{summary.count("failed")} of {len(summary.results)} photos failed: '
      f'see {todo.report} for the reasons'
    )


def measure(config: ConfigDict) -> None:
  """Measures an iteration and estimates a whole fit."""
  plan, prior = system.windows(config), settings(config, 3)
  peak = speed.matmul_peak(plan)
  steps = [speed.measure_fit(config.variant, prior, side, peak, plan) for side in speed.SIDES]
  restoring = [speed.restoring_of_fit(step, prior) for step in steps]
  system.write_speed(config, peak, steps, restoring)


def report(results: tuple[tasks.Result, ...]) -> str:
  """A Markdown table with one row per photo; with truths, PSNR in dB and the loss by stopping."""
  with_truth = any('psnr' in result.fields for result in results)
  header = ['photo', 'fitted at', 'iterations', 'chosen', 'seconds']
  if with_truth:
    header += ['PSNR before', 'PSNR written', 'network, chosen', 'network, best', 'lost']
  rows = []
  for result in results:
    name = pathlib.Path(result.output or result.input).name.replace('|', r'\|')
    if result.status == 'failed':
      rows.append([name, 'failed'] + [''] * (len(header) - 2))
      continue
    fit = result.fields
    if 'iteration' not in fit:
      rows.append([name, 'not fitted'] + [''] * (len(header) - 2))
      continue
    cells = [name, '{1}x{0}'.format(*fit['shape']), fit['iterations'], fit['iteration']]
    cells += [f'{result.seconds:.0f}']
    if with_truth:
      cells += [
        f'{fit["psnr_before"]:.2f}' if 'psnr_before' in fit else '',
        f'{fit["psnr"]:.2f}',
        f'{fit["psnr_chosen"]:.2f}',
        f'{fit["psnr_best"]:.2f} at {fit["best"]}',
        f'{fit["psnr_best"] - fit["psnr_chosen"]:.2f}',
      ]
    rows.append(cells)
  lines = [header, ['---'] * len(header), *rows]
  return ''.join('| ' + ' | '.join(str(cell) for cell in line) + ' |\n' for line in lines)


def _sentence(result: tasks.Result) -> str:
  """The part of a log line about a fit."""
  fit = result.fields
  if 'iteration' not in fit:
    return ''
  text = f': iteration {fit["iteration"]} of {fit["iterations"]}, {result.seconds:.0f} s'
  if 'psnr' not in fit:
    return text
  return (
    f'{text}, {fit["psnr"]:.2f} dB; the best iteration was {fit["best"]}, '
    f'{fit["psnr_best"] - fit["psnr_chosen"]:.2f} dB better'
  )


def _samples(folder: pathlib.Path) -> tuple[str, str]:
  """Writes noisy sample photos and the clean ones: (folder of photos, folder of truths)."""
  _log.info(
    'photos is not set: denoising %d sample photos of scikit-image, reduced in size, sigma %.0f',
    SAMPLE_COUNT,
    255 * SAMPLE_SIGMA,
  )
  source = data.sample_photos()
  rng = np.random.default_rng(0)
  for i, name in enumerate(source.names[:SAMPLE_COUNT]):
    photo = source[i]
    side = min(photo.shape[:2])
    top, left = ((length - side) // 2 for length in photo.shape[:2])
    values = photo[top : top + side, left : left + side].astype(np.float32)
    clean = np.asarray(jax.image.resize(values, (SAMPLE_SIDE, SAMPLE_SIDE, 3), 'linear'))
    noisy = clean + rng.normal(0, 255 * SAMPLE_SIGMA, clean.shape)
    for kind, pixels in (('noisy', noisy), ('clean', clean)):
      path = folder / kind / f'{pathlib.PurePath(name).stem}.png'
      if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        levels = np.clip(np.rint(pixels), 0, 255).astype(np.uint8)
        images.write(images.Photo(levels), path)
  return str(folder / 'noisy'), str(folder / 'clean')


SYSTEM = system.System(
  'dip',
  {'run': run, 'speed': measure},
  check,
  # What the check of the size advises to change, and how photos are spread over devices.
  may_change=('max_hours', 'max_side', 'batch', 'save_every'),
)
