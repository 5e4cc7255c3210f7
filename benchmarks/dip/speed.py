"""Time of one iteration of Deep Image Prior beside the same networks in PyTorch.

  python benchmarks/dip/speed.py --threads 2 --out speed.json     # needs the extra `torch`

The skip net of the denoising notebook (5 x 128, z 32) and the residual net (8 x 32, z 1) on one
photo, noise on z, MSE, Adam. Ours also tracks the variance for ES-EMV, which the plain PyTorch loop
does not. Weights are shared and the first outputs checked to agree; then the two run in turn, in
rounds of a few iterations, and the medians of the rounds are told. On a busy machine the wall
clock says little (PyTorch's threads wait for each other): the CPU time in brackets says more, best
with --threads 1. Last, four photos are fitted in turn and at once with the small net.
"""

import argparse
import dataclasses
import json
import os
import platform
import statistics
import time
from functools import partial


def arguments() -> argparse.Namespace:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--side', type=int, default=256, help='pixels, a multiple of 32')
  parser.add_argument('--rounds', type=int, default=5)
  parser.add_argument('--iterations', type=int, default=4, help='of each round')
  parser.add_argument('--threads', type=int, default=os.cpu_count())
  parser.add_argument('--photos', type=int, default=4)
  parser.add_argument('--out', default='', help='a JSON file for the figures')
  return parser.parse_args()


ARGS = arguments()
# XLA takes as many threads as it finds cores: choose them before JAX starts.
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: ARGS.threads])
os.environ['OMP_NUM_THREADS'] = str(ARGS.threads)

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402

from oldphoto_jax import fit  # noqa: E402
from oldphoto_jax.models import dip, dip_presets  # noqa: E402
from oldphoto_jax.models.dip_networks import ResNet, Skip  # noqa: E402

torch.set_num_threads(ARGS.threads)


# The networks in PyTorch, on parameters under our names -------------------------------------------


def conv(p, x, stride=1, pad='reflect'):
  x = F.pad(x, [p['kernel'].shape[-1] // 2] * 4, mode=pad)
  return F.conv2d(x, p['kernel'], p.get('bias'), stride)


def norm(p, x):
  return F.batch_norm(x, None, None, p['scale'], p['bias'], training=True)


def block(p, x, stride=1):
  return F.leaky_relu(norm(p['norm'], conv(p['conv'], x, stride)), 0.2)


def skip(net: Skip, p, z):
  x, branches = z, []
  for i in range(len(net.down)):
    branches.append(block(p[f'skip_{i}'], x))
    x = block(p[f'down_{i}'], block(p[f'halve_{i}'], x, 2))
  for i in reversed(range(len(net.down))):
    x = F.interpolate(x, scale_factor=2, mode=net.upsample[i], align_corners=False)
    x = norm(p[f'norm_{i}'], torch.cat([branches[i], x], 1))
    x = block(p[f'mix_{i}'], block(p[f'up_{i}'], x))
  return torch.sigmoid(conv(p['out'], x))


def resnet(net: ResNet, p, z):
  x = F.leaky_relu(conv(p['first'], z), 0.2)
  for i in range(net.blocks):
    y = norm(p[f'block_{i}_norm1'], conv(p[f'block_{i}_conv1'], x, pad='constant'))
    y = conv(p[f'block_{i}_conv2'], F.leaky_relu(y, 0.2), pad='constant')
    x = x + norm(p[f'block_{i}_norm2'], y)
  return torch.sigmoid(conv(p['out'], norm(p['last_norm'], conv(p['last'], x, pad='constant'))))


def to_torch(params):
  """Our parameters as PyTorch ones, kernels (out, in, h, w)."""

  def convert(a):
    a = np.asarray(a)
    a = a.transpose(3, 2, 0, 1) if a.ndim == 4 else a
    return torch.tensor(np.ascontiguousarray(a), requires_grad=True)

  return jax.tree.map(convert, params)


# Timing -------------------------------------------------------------------------------------------


def compare(settings: dip.Dip, forward) -> dict[str, float]:
  """Seconds of an iteration, ours and PyTorch's: medians of the wall clock and of CPU time."""
  rng, key = np.random.default_rng(0), jax.random.key(0)
  image = rng.uniform(size=(ARGS.side, ARGS.side, 3)).astype(np.float32)
  ones = jnp.ones((ARGS.side, ARGS.side, 1))
  photo = dip.Photo(jnp.asarray(image), ones, ones)
  state = jax.jit(partial(dip.init, settings))(photo, key)

  weights = to_torch(state.params)
  z = torch.tensor(np.asarray(state.z).transpose(2, 0, 1)[None].copy())
  target = torch.tensor(image.transpose(2, 0, 1)[None].copy())
  ours = np.asarray(jax.jit(partial(dip.result, settings))(state))
  with torch.no_grad():
    theirs = forward(settings.net, weights, z)[0].permute(1, 2, 0).numpy()
  if np.abs(ours - theirs).max() > 1e-4 * np.abs(theirs).max():
    raise SystemExit('the two networks do not agree on the same weights')

  run = jax.jit(partial(dip.run, settings, ARGS.iterations), donate_argnums=2)
  adam = torch.optim.Adam(jax.tree.leaves(weights), lr=settings.learning_rate)

  def torch_round():
    for _ in range(ARGS.iterations):
      adam.zero_grad()
      output = forward(settings.net, weights, z + settings.reg_noise_std * torch.randn_like(z))
      F.mse_loss(output, target).backward()
      adam.step()

  state, _ = jax.block_until_ready(run(photo, key, state))
  torch_round()
  times = {name: [] for name in ('ours', 'torch', 'ours_cpu', 'torch_cpu')}
  for _ in range(ARGS.rounds):
    for name in ('ours', 'torch'):
      wall, cpu = time.perf_counter(), time.process_time()
      if name == 'ours':
        state, _ = jax.block_until_ready(run(photo, key, state))
      else:
        torch_round()
      times[name].append((time.perf_counter() - wall) / ARGS.iterations)
      times[f'{name}_cpu'].append((time.process_time() - cpu) / ARGS.iterations)
  return {name: statistics.median(values) for name, values in times.items()}


def photos_per_hour(together: bool) -> float:
  """Photos an hour with the small net and all of its iterations, from the time of a few."""
  settings = dip_presets.small()
  rng = np.random.default_rng(0)
  photos = [rng.uniform(-1, 1, (ARGS.side, ARGS.side, 3)) for _ in range(ARGS.photos)]
  few = dataclasses.replace(settings, iterations=(ARGS.rounds + 1) * ARGS.iterations, stop=None)
  times = []
  fit.fit_photos(
    few,
    photos,
    None,
    jax.random.key(0),
    chunk=ARGS.iterations,
    on_chunk=lambda _: times.append(time.perf_counter()),
    devices=jax.local_devices()[:1],
    together=together,
  )
  seconds = statistics.median(np.diff(times)) / ARGS.iterations * settings.iterations
  return 3600 * ARGS.photos / seconds


def main():
  wide = dip_presets.denoise()
  iterations = 10**6  # no photo may be done while it is timed
  cases = {
    'skip 5x128': (dataclasses.replace(wide, ema=0.0, iterations=iterations), skip),
    'ResNet 8x32': (
      dip.Dip(ResNet(), input_depth=1, iterations=iterations, reg_noise_std=0.03),
      resnet,
    ),
  }
  figures = {name: compare(*case) for name, case in cases.items()}
  print(f'| {ARGS.side} px, seconds an iteration (of CPU) | ours | PyTorch | ratio |')
  print('|---|---|---|---|')
  for name, seconds in figures.items():
    ours, theirs = (
      f'{seconds[who]:.3f} ({seconds[who + "_cpu"]:.3f})' for who in ('ours', 'torch')
    )
    print(f'| {name} | {ours} | {theirs} | {seconds["torch"] / seconds["ours"]:.2f} |')
  rates = {
    name: photos_per_hour(together) for name, together in (('in turn', False), ('at once', True))
  }
  print(
    f'\n| {ARGS.photos} photos, small net, {dip_presets.small().iterations} iterations | an hour |'
  )
  print('|---|---|')
  for name, rate in rates.items():
    print(f'| {name} | {rate:.2f} |')
  record = {
    'arguments': vars(ARGS),
    'seconds_per_iteration': figures,
    'photos_per_hour': rates,
    'versions': {'jax': jax.__version__, 'torch': torch.__version__},
    'machine': f'{platform.processor() or platform.machine()}, {ARGS.threads} threads',
    'date': time.strftime('%Y-%m-%d'),
  }
  if ARGS.out:
    with open(ARGS.out, 'w') as file:
      json.dump(record, file, indent=1)


if __name__ == '__main__':
  main()
