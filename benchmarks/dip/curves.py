"""PSNR over the iterations of Deep Image Prior: its peak, where ES-EMV stops, and the end.

  python benchmarks/dip/curves.py --out FOLDER --side 256 --seeds 3 PHOTO PHOTO PHOTO
                                                                       # needs the extra `bench`

Denoising (normal noise of sigma 25/255, clipped) and in-painting (half of the pixels lost), on the
central square of each photo. Every photo is damaged once and fitted with several seeds, to the end
of `--iterations`; where ES-EMV would have stopped is read off the curve of the variance. Beside
them the classical methods of scikit-image: for noise non-local means, total variation and wavelets,
each with the strength that is best for this very photo (the truth chooses it, which favours them);
for lost pixels the biharmonic equation.

Writes FOLDER/curves.png, FOLDER/table.md and one .npz for each fit. A fit that is there already is
not repeated, and one that was interrupted goes on from its checkpoint: run the command again.
"""

import argparse
import dataclasses
import pathlib
import shutil
import time

import jax
import matplotlib
import numpy as np
from matplotlib import pyplot
from PIL import Image, ImageOps
from skimage import restoration

from oldphoto_jax.dip import fit, presets, prior

matplotlib.use('Agg')

SIGMA = 25 / 255
TASKS = ('denoise', 'inpaint')
NETS = {
  'small': {'denoise': presets.small, 'inpaint': presets.small},
  'wide': {'denoise': presets.denoise, 'inpaint': presets.inpaint},
}


def arguments() -> argparse.Namespace:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('photos', nargs='+', type=pathlib.Path)
  parser.add_argument('--out', required=True, type=pathlib.Path)
  parser.add_argument('--side', type=int, default=256)
  parser.add_argument('--net', choices=NETS, default='small')
  parser.add_argument('--tasks', nargs='+', choices=TASKS, default=TASKS)
  parser.add_argument('--iterations', type=int, default=3001)
  parser.add_argument('--patience', type=int, default=1000, help='of ES-EMV')
  parser.add_argument('--seeds', type=int, default=3)
  return parser.parse_args()


def read(path: pathlib.Path, side: int) -> np.ndarray:
  """The central square of a photo, [side, side, 3] in [0, 1]."""
  with Image.open(path) as image:
    image = ImageOps.fit(ImageOps.exif_transpose(image).convert('RGB'), (side, side), Image.LANCZOS)
  return np.asarray(image, np.float32) / 255


def damage(truth: np.ndarray, task: str) -> tuple[np.ndarray, np.ndarray]:
  """(damaged photo in [0, 1], mask [H, W] with 1 = lost), the same at every call."""
  rng = np.random.default_rng(0)
  mask = np.zeros(truth.shape[:2], np.float32)
  if task == 'denoise':
    return np.clip(truth + rng.normal(0, SIGMA, truth.shape), 0, 1).astype(np.float32), mask
  mask = (rng.random(mask.shape) < 0.5).astype(np.float32)
  return truth * (1 - mask[..., None]), mask


def psnr(image, truth) -> float:
  return float(-10 * np.log10(np.mean((image - truth) ** 2)))


def classical(task: str, image, mask, truth) -> dict[str, float]:
  """PSNR in dB of the classical methods."""
  if task == 'inpaint':
    filled = restoration.inpaint_biharmonic(image, mask > 0, channel_axis=-1)
    return {'biharmonic': psnr(np.clip(filled, 0, 1), truth)}
  axis = {'channel_axis': -1}
  candidates = {
    'non-local means': [
      restoration.denoise_nl_means(image, 5, 6, h * SIGMA, sigma=SIGMA, **axis)
      for h in (0.4, 0.6, 0.8, 1.0)
    ],
    'total variation': [
      restoration.denoise_tv_chambolle(image, weight=w, **axis) for w in (0.05, 0.08, 0.11, 0.15)
    ],
    'wavelets': [
      restoration.denoise_wavelet(image, sigma=s * SIGMA, convert2ycbcr=True, **axis)
      for s in (0.5, 0.75, 1.0)
    ],
  }
  return {name: max(psnr(x, truth) for x in images) for name, images in candidates.items()}


def curves(args, task: str, path: pathlib.Path, seed: int) -> dict[str, np.ndarray]:
  """PSNR and variance of one fit, from its file or else from fitting."""
  name = f'{task}-{args.net}-{args.side}-{args.iterations}-{path.stem}-{seed}'
  file, checkpoints = args.out / f'{name}.npz', args.out / 'checkpoints' / name
  if not file.is_file():
    truth = read(path, args.side)
    image, mask = damage(truth, task)
    settings = dataclasses.replace(
      NETS[args.net][task](),
      iterations=args.iterations,
      stop=prior.Emv(patience=args.iterations),  # to the end: what a stop would cost
    )
    start = time.perf_counter()

    def tell(progress):
      seconds = time.perf_counter() - start
      print(f'{name}: {progress.t[0]} iterations, {seconds:.0f} s', flush=True)

    (done,) = fit.fit_photos(
      settings,
      [2 * image - 1],
      [mask],
      jax.random.key(seed),
      truths=[2 * truth - 1],
      on_chunk=tell,
      folder=checkpoints,
    )
    # Written aside and renamed: an interrupted run leaves no half file.
    partial = file.with_suffix('.part.npz')
    np.savez_compressed(partial, psnr=done.curve['psnr'], variance=done.curve['variance'])
    partial.rename(file)
    shutil.rmtree(checkpoints)
  with np.load(file) as arrays:
    return dict(arrays)


def main():
  args = arguments()
  args.out.mkdir(parents=True, exist_ok=True)
  stop = prior.Emv(patience=args.patience)
  figure, axes = pyplot.subplots(
    len(args.tasks),
    len(args.photos),
    figsize=(4 * len(args.photos), 3 * len(args.tasks)),
    squeeze=False,
    sharex=True,
  )
  rows = []
  for i, task in enumerate(args.tasks):
    for axis, path in zip(axes[i], args.photos):
      truth = read(path, args.side)
      image, mask = damage(truth, task)
      scores = classical(task, image, mask, truth)
      found = []  # per seed: (iteration, PSNR) of peak, stop, end
      for seed in range(args.seeds):
        curve = curves(args, task, path, seed)
        chosen, _ = prior.detect(curve['variance'], stop)
        marks = (int(np.argmax(curve['psnr'])) + 1, chosen, len(curve['psnr']))
        found.append([(t, curve['psnr'][t - 1]) for t in marks])
        axis.plot(np.arange(1, len(curve['psnr']) + 1), curve['psnr'], lw=0.8, c=f'C{seed}')
        for (t, value), marker in zip(found[-1], '^os'):
          axis.plot(t, value, marker, c=f'C{seed}', mec='black')
      best = max(scores, key=scores.get)
      axis.axhline(scores[best], ls='--', c='gray', label=best)
      axis.set_title(f'{task}, {path.stem}', fontsize=8)
      axis.legend(fontsize=7, loc='lower right')
      found = np.array(found)  # [seeds, 3, 2]
      cells = [f'{found[:, k, 1].mean():.2f} ± {found[:, k, 1].std():.2f}' for k in range(3)]
      at = [f'{found[:, k, 0].mean():.0f}' for k in range(2)]
      rows.append(
        f'| {task} | {path.stem} | {psnr(image, truth):.2f} | {cells[0]} at {at[0]} | '
        f'{cells[1]} at {at[1]} | {cells[2]} | '
        + ', '.join(f'{name} {value:.2f}' for name, value in scores.items())
        + ' |'
      )
  for axis in axes[-1]:
    axis.set_xlabel('iteration')
  for axis in axes[:, 0]:
    axis.set_ylabel('PSNR, dB')
  figure.suptitle('▲ peak   ● stop of ES-EMV   ■ end', fontsize=9)
  figure.tight_layout()
  figure.savefig(args.out / 'curves.png', dpi=120)
  table = '\n'.join(
    [
      f'PSNR in dB at {args.side} px, {args.net} net, mean ± standard deviation over '
      f'{args.seeds} seeds; at: mean iteration; end: iteration {args.iterations}.',
      '',
      '| task | photo | damaged | peak | stop of ES-EMV | end | classical |',
      '|---|---|---|---|---|---|---|',
      *rows,
      '',
    ]
  )
  (args.out / 'table.md').write_text(table)
  print(table)


if __name__ == '__main__':
  main()
