"""Is the latent discriminator of Wan et al. a judge of made-up damage?

  python -m benchmarks.quality.realism OUT --real-test REAL_TEST --val VAL [--overlays OVERLAYS]

OUT holds the trainings of claim.py, REAL_TEST and VAL are as there. For each seed, the latent
discriminator of `R and X, latent discriminator` sees photos of R that it has not learnt from, and
the same clean photos under each recipe, all gray. Prints a table, means over the seeds [lowest,
highest]:

- its score, 0 for R and 1 for X as it was trained;
- how often it takes a random photo of R for older than one of the recipe (area under the curve;
  0.5: it cannot tell, and the recipe would pass for real);
- and how often a linear classifier of the same latents tells the two kinds apart.
"""

import argparse
import pathlib

import jax
import numpy as np

from benchmarks.quality import claim
from oldphoto_jax.models import vae
from oldphoto_jax.systems import build
from oldphoto_jax.training import checkpoints

RECIPES = ('report', 'wan2020', 'print', 'worn')
FOLDER = 'R_and_X_latent_discriminator'  # of claim.py, in the folder of a seed


def discriminator(folder: pathlib.Path) -> tuple[vae.VAE, vae.State]:
  """The VAE of R and X of a run with its state, which has the discriminators."""
  models, _, _ = claim.opened(folder)
  like = jax.eval_shape(lambda key: vae.init(models.rx, key), jax.random.key(0))
  return models.rx, checkpoints.newest(folder / 'vae_rx' / 'checkpoints', like)


def scores(model: vae.VAE, state: vae.State, z: np.ndarray) -> np.ndarray:
  """What the discriminator says of latents [n, h, w, C]: for each photo, the mean of its map."""

  @jax.jit
  def judge(z):
    maps = model.latent_discriminator.apply({'params': state.d['latent']}, z)
    return maps[-1].mean((1, 2, 3))

  return np.concatenate([np.asarray(judge(photo[None])) for photo in z])


def area_under_curve(low: np.ndarray, high: np.ndarray) -> float:
  """The share of pairs in which a value of `high` exceeds one of `low`; ties count half."""
  difference = high[:, None] - low[None]
  return float((difference > 0).mean() + 0.5 * (difference == 0).mean())


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('out', type=pathlib.Path)
  parser.add_argument('--real-test', required=True)
  parser.add_argument('--val', required=True)
  parser.add_argument('--overlays', default='')
  args = parser.parse_args()
  real, clean = claim.squares(args.real_test), claim.squares(args.val)
  made_up = {'sound': claim.gray(clean)}
  for name in RECIPES:
    made_up[name] = claim.gray(claim.aged(build.recipe(name, args.overlays), clean))
  found: dict[str, list[tuple[float, ...]]] = {}
  for folder in sorted(args.out.glob(f'seed*/{FOLDER}')):
    model, state = discriminator(folder)
    z_real = claim.latents(model, state.released, claim.gray(real))
    of_real = scores(model, state, z_real)
    found.setdefault('real photos', []).append((float(of_real.mean()),))
    for name, photos in made_up.items():
      z = claim.latents(model, state.released, photos)
      of_recipe = scores(model, state, z)
      told, _ = claim.gap(z_real, z)
      row = float(of_recipe.mean()), area_under_curve(of_real, of_recipe), told
      found.setdefault(name, []).append(row)
  print('| | score | right in pairs | told apart by a classifier |\n|---|---|---|---|')
  for name, seeds in found.items():
    cells = [
      f'{np.mean(values):.2f} [{min(values):.2f}, {max(values):.2f}]' for values in zip(*seeds)
    ]
    print(f'| {name} | ' + ' | '.join(cells) + ' |' * (4 - len(cells)))


if __name__ == '__main__':
  main()
