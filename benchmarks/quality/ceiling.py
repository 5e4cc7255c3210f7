"""The loss of a photo in the VAE of Y by itself: no mapping into its latent can restore more.

  python benchmarks/quality/ceiling.py RUN --test PHOTOS

RUN is the folder of a triplet run (configs/vae.py). Clean photos, their middle 256x256 pixels, pass
encoder and decoder of the VAE of Y: without latent noise, with that of the run's training
(model.posterior_std), and with the reference's (1). Prints a table: means over photos, ± the
standard error.
"""

import argparse
import json
import pathlib
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from oldphoto_jax import data
from oldphoto_jax.degradation import photographic
from oldphoto_jax.metrics import psnr_ssim
from oldphoto_jax.models import vae
from oldphoto_jax.systems import frozen, triplet

CROP = 256


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('run', type=pathlib.Path)
  parser.add_argument('--test', type=pathlib.Path, required=True)
  args = parser.parse_args()
  config = ConfigDict(json.loads((args.run / 'run.json').read_text())['config'])
  config.workdir = str(args.run)
  model = triplet.models(config).y
  params = frozen.trained(config).of('vae_y', model, vae.init)
  source = data.folder(args.test)

  @partial(jax.jit, static_argnums=0)
  def reconstruct(std, image, ids):
    clean = photographic.from_levels(image)
    z = vae.encode(model, params, clean)
    noise = jax.vmap(lambda i: jax.random.normal(jax.random.key(i), z.shape[1:]))(ids)
    photo = vae.decode(model, params, z + std * noise)
    return psnr_ssim.psnr(photo, clean), psnr_ssim.ssim(photo, clean)

  print('| latent noise | PSNR (dB) | SSIM |\n|---|---|---|')
  for std in sorted({0.0, model.posterior_std, 1.0}):
    scores = []
    for batch in data.eval_batches(source, CROP, 4):
      rows = reconstruct(std, batch['image'], jnp.asarray(batch['id']))
      scores.append(np.stack(jax.device_get(rows))[:, batch['valid']])
    scores = np.concatenate(scores, 1)
    error = scores.std(1, ddof=1) / np.sqrt(scores.shape[1])
    print(f'| {std:g} | {scores[0].mean():.2f} ± {error[0]:.2f} ', end='')
    print(f'| {scores[1].mean():.3f} ± {error[1]:.3f} |')


if __name__ == '__main__':
  main()
