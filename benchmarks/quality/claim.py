"""The paper's claim, tested: real old photos R and synthetic ones X share a latent space.

  python benchmarks/quality/claim.py OUT --real REAL --real-test REAL_TEST \\
    --photos PHOTOS --val VAL --niqe niqe_pris_params.npz [--seeds 0,1,2]

REAL, REAL_TEST   folders of real old photos, to learn from and to measure with
PHOTOS, VAL       folders of clean photos, likewise

Wan et al. 2020 say that a VAE of R and X, with a discriminator that draws their latents together,
lets a mapping that learns from X restore R (section 3.1). For each seed this trains one VAE of Y,
and for each of VARIANTS a VAE of R and X and a mapping, on IMAGES squares of CROP pixels a stage.
What is there is neither trained nor measured again, and what was stopped goes on. Then it measures,
on photos that were not learnt from:

- whether a linear classifier tells latents of R from latents of X (0.5: it cannot), and their
  Fréchet distance, before the mapping and after it. X is VAL with the damage of training, gray as
  the photos of R are. What the pictures show differs as well, so 0.5 is out of reach: the rows are
  to be compared with each other, and with `untrained`, an encoder of random weights;
- how well the VAE of R and X gives a photo of R back (PSNR);
- how well the system restores X (PSNR), and the NIQE of what it makes of R (lower is better).

Writes OUT/claim.json and OUT/claim.md: means over the seeds, and in brackets the lowest and the
highest; where there is one seed, it is stated alone. And OUT/claim.png: the latents of the first
seed, each photo a point, along the two directions in which they vary most.
"""

import argparse
import json
import pathlib
import subprocess
import sys
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from oldphoto_jax import data
from oldphoto_jax.degradation import photographic, recipes
from oldphoto_jax.metrics import domain_gap, niqe, psnr_ssim
from oldphoto_jax.models import mapping, vae
from oldphoto_jax.systems import build, frozen, triplet

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # for the configs
IMAGES, CROP, BATCH = 8000, 64, 4  # of each stage
SIDE = 256  # pixels of the squares that are measured with
STAGES = ('vae_rx', 'mapping')  # of each variant; the VAE of Y serves all
VARIANTS = {
  'R and X, latent discriminator': (),
  'R and X, ten times its weight': ('vae_rx.weights.latent_gan=1.0',),
  'R and X, without it': ('vae_rx.weights.latent_gan=0.0',),
  'X alone': ('vae_rx.weights.latent_gan=0.0', 'data.p_real=0.0'),
}
COLUMNS = {  # of the table, with their digits
  'told apart': 3,
  'told apart, mapped': 3,
  'distance': 3,
  'distance, mapped': 3,
  'R given back (dB)': 2,
  'X restored (dB)': 2,
  'NIQE of R restored': 2,
}


def train(folder: pathlib.Path, stages: tuple[str, ...], flags: list[str]) -> None:
  """Trains stages into a run folder, unless they are there."""
  command = [sys.executable, str(ROOT / 'launch.py'), '--config=configs/vae.py:cpu']
  command += [f'--config.workdir={folder}', f'--config.stages={",".join(stages)}']
  command += [f'--config.{stage}.steps={IMAGES // BATCH}' for stage in stages]
  command += [f'--config.{stage}.batch_size={BATCH}' for stage in stages]
  command += ['--config.train.evaluate_every=1000', f'--config.data.crop={CROP}', *flags]
  done = subprocess.run(command, cwd=ROOT, check=False)
  if done.returncode:
    raise SystemExit(done.returncode)  # its own message says why; 75: the same command goes on


def opened(folder: pathlib.Path) -> tuple[triplet.Models, frozen.Networks, ConfigDict]:
  """The models of a run, its trained networks, and its config."""
  from configs import vae as vae_config  # its settings may be newer than the run

  config = vae_config.get_config('cpu')
  with config.ignore_type():  # JSON has lists for tuples
    config.update(json.loads((folder / 'run.json').read_text())['config'])
  config.workdir = str(folder)
  return triplet.models(config), frozen.trained(config), config


def squares(folder: str) -> np.ndarray:
  """The middle of each photo of a folder, float32 [n, SIDE, SIDE, 3] in [-1, 1]."""
  batches = data.eval_batches(data.folder(folder), SIDE, 1)
  return np.concatenate([photographic.from_levels(batch['image']) for batch in batches])


def aged(recipe: recipes.Recipe, clean: np.ndarray) -> np.ndarray:
  """Clean photos damaged by a recipe, each with a key of its own."""
  age = jax.jit(lambda key, photo: recipes.degrade_batch(recipe, key[None], photo[None]).old[0])
  keys = jax.random.split(jax.random.key(0), len(clean))
  return np.stack([np.asarray(age(key, photo)) for key, photo in zip(keys, clean)])


def synthetic(config: ConfigDict, clean: np.ndarray) -> np.ndarray:
  """X: clean photos with the damage of training."""
  return aged(build.train_recipe(config, config.recipe), clean)


def gray(photos: np.ndarray) -> np.ndarray:
  """Photos without their colours."""
  return np.asarray(jax.jit(photographic.gray)(photos))


def latents(model: Any, params: Any, photos: np.ndarray) -> np.ndarray:
  """Their latents, [n, h, w, C]."""
  encode = jax.jit(lambda photo: vae.encode(model, params, photo))
  return np.concatenate([np.asarray(encode(photo[None])) for photo in photos])


def describe(z: np.ndarray) -> np.ndarray:
  """Means and deviations of each photo's latents [n, h, w, C]: [n, 2 C]."""
  return np.concatenate([z.mean((1, 2)), z.std((1, 2))], -1)


def gap(ours: np.ndarray, others: np.ndarray) -> tuple[float, float]:
  """(told apart, Fréchet distance) of latents [n, h, w, C] of two kinds of photos."""
  kinds = ours, others
  vectors = [z.reshape(-1, z.shape[-1]) for z in kinds]
  owners = [np.arange(len(z)) for z in kinds]
  told = domain_gap.told_apart([describe(z) for z in kinds], owners)
  return told, domain_gap.frechet(*vectors)


def before_and_mapped(
  folder: pathlib.Path, real: np.ndarray, old: np.ndarray
) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
  """The latents of R and of X, and the same after the mapping; both kinds gray."""
  models, networks, _ = opened(folder)
  rx = networks.of('vae_rx', models.rx, vae.init)
  t = networks.of('mapping', models.mapping, mapping.init)
  translate = jax.jit(lambda z: mapping.translate(models.mapping, t, z, None))
  z_real, z_synthetic = (latents(models.rx, rx, gray(photos)) for photos in (real, old))
  mapped = [
    np.concatenate([np.asarray(translate(z[None])) for z in kind]) for kind in (z_real, z_synthetic)
  ]
  return (z_real, z_synthetic), (mapped[0], mapped[1])


def measure(
  folder: pathlib.Path, real: np.ndarray, clean: np.ndarray, statistics: niqe.Statistics
) -> dict[str, float]:
  """The COLUMNS of one variant of one seed; `real` are photos of R, `clean` are for X."""
  models, networks, config = opened(folder)
  rx = networks.of('vae_rx', models.rx, vae.init)
  y = networks.of('vae_y', models.y, vae.init)
  t = networks.of('mapping', models.mapping, mapping.init)
  old = synthetic(config, clean)
  latent, mapped = before_and_mapped(folder, real, old)
  before, after = gap(*latent), gap(*mapped)
  back = jax.jit(lambda z: vae.decode(models.rx, rx, z))
  restore = jax.jit(
    lambda photo: mapping.restore(models.mapping, {'rx': rx, 'y': y, 'mapping': t}, photo)
  )
  given = [np.asarray(back(z[None])) for z in latent[0]]
  return {
    'told apart': before[0],
    'told apart, mapped': after[0],
    'distance': before[1],
    'distance, mapped': after[1],
    'R given back (dB)': mean_psnr(given, gray(real)),
    'X restored (dB)': mean_psnr([np.asarray(restore(photo[None])) for photo in old], clean),
    'NIQE of R restored': mean_niqe(statistics, [restore(photo[None])[0] for photo in real]),
  }


def untrained(
  folder: pathlib.Path, real: np.ndarray, clean: np.ndarray, statistics: niqe.Statistics
) -> dict[str, float]:
  """What can be said of an encoder of random weights, and of doing nothing."""
  models, _, config = opened(folder)
  params = vae.init(models.rx, jax.random.key(config.seed)).g
  old = synthetic(config, clean)
  z = [latents(models.rx, params, gray(photos)) for photos in (real, old)]
  told, distance = gap(*z)
  nothing = mean_psnr([photo[None] for photo in old], clean)
  return {
    'told apart': told,
    'distance': distance,
    'X restored (dB)': nothing,
    'NIQE of R restored': mean_niqe(statistics, real),
  }


def mean_psnr(photos: list[np.ndarray], truth: np.ndarray) -> float:
  """Over photos [1, H, W, 3], in dB."""
  each = [psnr_ssim.psnr(photo, true[None])[0] for photo, true in zip(photos, truth)]
  return float(np.mean(each))


def mean_niqe(statistics: niqe.Statistics, photos: Any) -> float:
  """Over photos [H, W, 3] in [-1, 1] that have enough texture for it."""
  levels = (np.rint((np.asarray(photo).clip(-1, 1) + 1) * 127.5) for photo in photos)
  return float(np.nanmean([niqe.niqe(statistics, photo.astype(np.uint8)) for photo in levels]))


def draw(path: pathlib.Path, folders: dict[str, pathlib.Path], real, clean) -> None:
  """The figure: for each variant its latents, and below them those after the mapping."""
  import matplotlib

  matplotlib.use('Agg')
  import matplotlib.pyplot as plt

  figure, rows = plt.subplots(
    2, len(folders), figsize=(3 * len(folders), 5.6), layout='constrained', squeeze=False
  )
  for column, (name, folder) in enumerate(folders.items()):
    old = synthetic(opened(folder)[2], clean)
    for axes, kinds in zip(rows[:, column], before_and_mapped(folder, real, old)):
      described = [describe(z) for z in kinds]
      together = np.concatenate(described)
      centre, deviation = together.mean(0), together.std(0) + 1e-6
      _, _, directions = np.linalg.svd((together - centre) / deviation, full_matrices=False)
      for kind, label in zip(described, ('R', 'X')):
        x, y = ((kind - centre) / deviation @ directions[:2].T).T
        axes.scatter(x, y, s=9, alpha=0.7, label=label)
      axes.set(xticks=[], yticks=[])
    rows[0, column].set_title(name, fontsize=9)
  rows[0, 0].set_ylabel('latents')
  rows[1, 0].set_ylabel('after the mapping')
  rows[0, 0].legend()
  figure.savefig(path, dpi=110)


def table(rows: dict[str, list[dict[str, float]]]) -> str:
  """Markdown: of each row, the mean over its seeds with the lowest and the highest."""
  lines = ['| | ' + ' | '.join(COLUMNS) + ' |', '|---' * (len(COLUMNS) + 1) + '|']
  for name, seeds in rows.items():
    cells = []
    for column, digits in COLUMNS.items():
      values = [seed[column] for seed in seeds if column in seed]
      text = f'{np.mean(values):.{digits}f}' if values else ''
      if len(values) > 1:
        text += f' [{min(values):.{digits}f}, {max(values):.{digits}f}]'
      cells.append(text)
    lines.append(f'| {name} | ' + ' | '.join(cells) + ' |')
  return '\n'.join(lines) + '\n'


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('out', type=pathlib.Path)
  for name in ('real', 'real-test', 'photos', 'val', 'niqe'):
    parser.add_argument(f'--{name}', required=True)
  parser.add_argument('--seeds', default='0,1,2')
  args = parser.parse_args()
  out = args.out.resolve()
  real, clean = squares(args.real_test), squares(args.val)
  statistics = niqe.load(args.niqe)
  rows: dict[str, list[dict[str, float]]] = {}
  folders: dict[str, pathlib.Path] = {}  # of the first seed
  for seed in build.names(args.seeds):
    flags = [f'--config.seed={seed}', f'--config.data.old={pathlib.Path(args.real).resolve()}']
    flags += [f'--config.data.photos={pathlib.Path(args.photos).resolve()}']
    flags += [f'--config.data.val={pathlib.Path(args.val).resolve()}']
    shared = out / f'seed{seed}' / 'y'
    train(shared, ('vae_y',), flags)
    for name, settings in VARIANTS.items():
      folder = out / f'seed{seed}' / name.replace(',', '').replace(' ', '_')
      folder.mkdir(parents=True, exist_ok=True)
      if not (folder / 'vae_y').exists():
        (folder / 'vae_y').symlink_to(shared / 'vae_y')
      train(folder, STAGES, flags + [f'--config.{setting}' for setting in settings])
      folders.setdefault(name, folder)
      wanted = {'measured': (name, measure)}
      if name == next(iter(VARIANTS)):
        wanted = {'untrained': ('untrained; do nothing', untrained)} | wanted
      for file, (row, function) in wanted.items():
        kept = folder / f'{file}.json'
        if not kept.exists():
          kept.write_text(json.dumps(function(folder, real, clean, statistics)))
        rows.setdefault(row, []).append(json.loads(kept.read_text()))
      (out / 'claim.json').write_text(json.dumps(rows, indent=1) + '\n')
      (out / 'claim.md').write_text(table(rows))
  draw(out / 'claim.png', folders, real, clean)
  print(table(rows))


if __name__ == '__main__':
  main()
