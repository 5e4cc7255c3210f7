"""Which settings decide quality: short trainings that differ from a base in one of them.

  python benchmarks/quality/sweep.py OUT --squeezenet FILE --below RUN -- \\
    --config.data.photos=PHOTOS ...

RUN is the folder of a triplet run with its first three stages (configs/comparison.py:cpu leaves one
in WORKDIR/triplet); without one, the variants of the fusion and of the masked mapping are left out
by --only. What follows -- goes to every launch.py. Each variant is a comparison of its own,
`launch.py --config=configs/comparison.py:cpu`, with IMAGES training images, in OUT/NAME; one that
is there is not trained again, and one that was stopped goes on. Scores are of validation photos:
--config.data.test is that of data.val here, as settings are not chosen on test photos. Writes
OUT/sweep.md.
"""

import argparse
import json
import pathlib
import subprocess
import sys
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from oldphoto_jax.evaluation import rows, tables
from oldphoto_jax.systems import comparison

ROOT = pathlib.Path(__file__).resolve().parents[2]
IMAGES, CROP = 4000, 64  # of training
PHOTOS = 30
BELOW = ('vae_rx', 'vae_y', 'mapping')  # stages that a fusion or a masked mapping needs
RECIPES = ('report', 'wan2020', 'print')
TOLD = 'triplet, true mask'  # the row of what a masked mapping fills
TOLD_TESTS = ('report', 'print', rows.MOVED)  # those with holes


class Variant(NamedTuple):
  """A system to train, and its flags beside the common ones."""

  system: str
  base: str  # name of the variant that it is compared to
  row: str  # of the comparison, which is scored
  flags: tuple[str, ...]
  below: bool = False  # only the last stage is trained, on the stages of --below


def _vary(system: str, *settings: str, base: str = '', row: str = '', below: bool = False):
  flags = tuple(f'--config.systems.{system}.{setting}' for setting in settings)
  return Variant(system, base or system, row or system, flags, below)


def _fuse(*settings: str) -> Variant:
  fixed = 'stages=fusion', 'fusion.masked=False'
  return _vary('triplet', *fixed, *settings, base='fusion', row='triplet with fusion', below=True)


def _fill(*settings: str) -> Variant:
  fixed = 'stages=mapping_masked', 'fusion.masked=False'
  return _vary('triplet', *fixed, *settings, base='masked mapping', row=TOLD, below=True)


def _triplet(*settings: str) -> Variant:
  return _vary('triplet', f'stages={",".join(BELOW)}', 'fusion.masked=False', *settings)


VARIANTS = {
  'fusion': _fuse(),
  'fusion without triplet': _fuse('fusion.alone=True'),
  'fusion of half the width': _fuse('fusion.width=12'),
  'fusion with perceptual loss': _fuse('perceptual.network=squeezenet', 'perceptual.weights={}'),
  'pix2pix': _vary('pix2pix'),
  'pix2pix without discriminator': _vary('pix2pix', 'pix2pix.weights.gan=0.0'),
  'pix2pix with a tenth of L1': _vary('pix2pix', 'pix2pix.weights.l1=10.0'),
  'pix2pix at the rate 0.0002': _vary('pix2pix', 'pix2pix.lr=2e-4'),
  'pix2pix at the rate 0.001': _vary('pix2pix', 'pix2pix.lr=1e-3'),
  'cyclegan': _vary('cyclegan'),
  'cyclegan at the rate 0.0002': _vary('cyclegan', 'cyclegan.lr=2e-4'),
  'cyclegan at the rate 0.001': _vary('cyclegan', 'cyclegan.lr=1e-3'),
  'cyclegan without identity': _vary('cyclegan', 'cyclegan.lambda_identity=0.0'),
  'masked mapping': _fill(),
  'masked mapping without attention': _fill('mapping_masked.attention=False'),
  'masked mapping of smooth holes': _fill('mapping_masked.prefilled=True'),
  'masked mapping of smooth holes without attention': _fill(
    'mapping_masked.prefilled=True', 'mapping_masked.attention=False'
  ),
  'triplet': _triplet(),
  'triplet at half the rate': _triplet(*(f'{stage}.lr=5e-4' for stage in BELOW)),
  'triplet at twice the rate': _triplet(*(f'{stage}.lr=2e-3' for stage in BELOW)),
  'triplet without the latent discriminator': _triplet('vae_rx.weights.latent_gan=0.0'),
  'triplet with latent noise of 1': _triplet('model.posterior_std=1.0'),
  'triplet with instance norm': _triplet('model.norm=True'),
  'triplet with a quarter of the latent': _triplet('model.latent=16'),
}


def run(name: str, out: pathlib.Path, below: pathlib.Path | None, squeezenet: str, more: list[str]):
  """Trains and scores one variant: the rows of its comparison, by recipe."""
  variant, folder = VARIANTS[name], out / name.replace(' ', '_')
  file = folder / comparison.JSON
  if not file.exists():
    if variant.below:
      for stage in BELOW:
        link = folder / 'triplet' / stage
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.exists():
          link.symlink_to((below / stage).resolve())
    flags = [
      '--config=configs/comparison.py:cpu',
      f'--config.workdir={folder}',
      f'--config.compare={variant.system}',
      f'--config.reference={variant.system}',
      f'--config.images={IMAGES}',
      f'--config.data.crop={CROP}',
      f'--config.evaluate.limit={PHOTOS}',
      f'--config.evaluate.recipes={",".join(RECIPES)}',
      f'--config.evaluate.squeezenet={squeezenet}',
    ]
    flags += [flag.format(squeezenet) for flag in variant.flags]
    command = [sys.executable, str(ROOT / 'launch.py'), *flags, *more]
    done = subprocess.run(command, cwd=ROOT, check=False)
    if done.returncode:
      raise SystemExit(done.returncode)  # its own message says why; 75: the same command goes on
  return json.loads(file.read_text())


def table(reports: dict[str, dict]) -> str:
  """One row per variant, with paired differences to its base.

  PSNR and distance on each recipe; of those that fill, in a table of their own, PSNR in the holes
  of the tests that have some.
  """
  told = {name: report for name, report in reports.items() if VARIANTS[name].row == TOLD}
  blind = {name: report for name, report in reports.items() if name not in told}
  parts = []
  if blind:
    parts.append(_table(blind, RECIPES, {'psnr': ('PSNR', 2), 'squeezenet': ('distance', 3)}))
  if told:
    tests = [t for t in TOLD_TESTS if all(t in report['tests'] for report in told.values())]
    columns = {'psnr_inside': ('PSNR in holes', 2), 'squeezenet': ('distance', 3)}
    parts.append(_table(told, tests, columns))
  return '\n\n'.join(parts)


def _table(reports: dict[str, dict], tests: Sequence[str], columns: dict[str, tuple]) -> str:
  def scores(name: str, test: str, metric: str) -> np.ndarray:
    values = reports[name]['tests'][test]['rows'][VARIANTS[name].row]['scores'][metric]
    return np.array(values, float)  # None, of a photo without holes, becomes nan

  def cell(name: str, test: str, metric: str, digits: int) -> str:
    own, base = scores(name, test, metric), VARIANTS[name].base
    text = f'{np.nanmean(own):.{digits}f}'
    if base == name:
      return text
    others = scores(base, test, metric)
    both = np.isfinite(own) & np.isfinite(others)
    d = tables.difference(own[both], others[both], 0, 10_000)
    return f'{text} ({d.mean:+.{digits}f} [{d.low:+.{digits}f}, {d.high:+.{digits}f}])'

  header = ['', *(f'{test}: {title}' for test in tests for title, _ in columns.values())]
  lines = ['| ' + ' | '.join(header) + ' |', '|---' * len(header) + '|']
  for name in reports:
    cells = [
      cell(name, test, metric, digits) for test in tests for metric, (_, digits) in columns.items()
    ]
    lines.append('| ' + ' | '.join([name, *cells]) + ' |')
  return '\n'.join(lines)


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('out', type=pathlib.Path)
  parser.add_argument(
    '--below', type=pathlib.Path, help='run of a triplet, for the fusion and what fills'
  )
  parser.add_argument('--squeezenet', required=True, help='weights of SqueezeNet 1.0')
  parser.add_argument('--only', default='', help='names of variants with commas between')
  parser.epilog = 'What follows -- are flags of launch.py.'
  # argparse would take them for its own options.
  at = sys.argv.index('--') if '--' in sys.argv else len(sys.argv)
  a, more = parser.parse_args(sys.argv[1:at]), sys.argv[at + 1 :]
  names = [name.strip() for name in a.only.split(',')] if a.only else list(VARIANTS)
  unknown = sorted(set(names) - set(VARIANTS))
  if unknown:
    raise SystemExit(f'there is no variant {unknown[0]!r}: choose from {", ".join(VARIANTS)}')
  if not a.below and any(VARIANTS[name].below for name in names):
    raise SystemExit('the fusion and what fills need --below RUN; --only leaves them out')
  out = a.out.resolve()
  reports = {}
  for name in names:
    reports[name] = run(name, out, a.below, a.squeezenet, more)
    bases = {base for base in (VARIANTS[n].base for n in reports)}
    if bases <= set(reports):
      (out / 'sweep.md').write_text(table(reports) + '\n')
  print(table(reports))


if __name__ == '__main__':
  main()
