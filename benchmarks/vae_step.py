"""One train step of the VAE beside the same step in PyTorch, alternating in one run.

  python benchmarks/vae_step.py            # needs the extra `torch`

64 channels, 128x128, batch 4, float32, reconstruction L1 and Adam only, two threads. The two
networks share their weights, and their first losses are checked to agree. Prints the median
milliseconds of each and their ratio.
"""

import os

os.environ.setdefault('XLA_FLAGS', '--xla_cpu_multi_thread_eigen=true')
os.environ.setdefault('OMP_NUM_THREADS', '2')

import statistics
import time
from functools import partial

import jax
import numpy as np
import optax
import torch
from torch import nn

from oldphoto_jax import layers, weights
from oldphoto_jax.models import vae

BATCH, SIDE, STEPS, ROUNDS = 4, 128, 4, 8


class ResnetBlock(nn.Module):
  def __init__(self, c):
    super().__init__()
    self.conv_block = nn.Sequential(
      nn.ReflectionPad2d(1), nn.Conv2d(c, c, 3), nn.InstanceNorm2d(c), nn.ReLU(True),
      nn.ReflectionPad2d(1), nn.Conv2d(c, c, 3), nn.InstanceNorm2d(c),
    )  # fmt: skip

  def forward(self, x):
    return x + self.conv_block(x)


class TorchVAE(nn.Module):
  """The layer lists of the reference, so that state-dict keys are the official ones."""

  def __init__(self, c=64):
    super().__init__()

    def act():
      return nn.InstanceNorm2d(c), nn.ReLU(True)

    self.encoder = nn.Sequential(
      nn.ReflectionPad2d(3), nn.Conv2d(3, c, 7), *act(),
      nn.Conv2d(c, c, 4, 2, 1), *act(), nn.Conv2d(c, c, 4, 2, 1), *act(),
      *[ResnetBlock(c) for _ in range(4)],
    )  # fmt: skip
    self.decoder = nn.Sequential(
      *[ResnetBlock(c) for _ in range(4)],
      nn.ConvTranspose2d(c, c, 4, 2, 1), *act(), nn.ConvTranspose2d(c, c, 4, 2, 1), *act(),
      nn.ReflectionPad2d(3), nn.Conv2d(c, 3, 7), nn.Tanh(),
    )  # fmt: skip

  def forward(self, x):
    return self.decoder(self.encoder(x))


def main():
  torch.set_num_threads(2)
  torch.manual_seed(0)
  x = np.random.default_rng(0).uniform(-1, 1, (BATCH, SIDE, SIDE, 3)).astype(np.float32)

  net = TorchVAE()
  for name, p in net.named_parameters():
    if name.endswith('weight'):
      nn.init.normal_(p, 0, 0.02)
  params = weights.bopbtl_vae({k: v.detach().numpy() for k, v in net.state_dict().items()})

  terms = dict.fromkeys(vae.WEIGHTS, 0.0) | {'l1': 1.0}
  model = vae.VAE(weights=terms, posterior_std=0.0)
  state = vae.init(model, jax.random.key(0))
  state = state.replace(g=params, g_opt=model.g_tx.init(params))
  step = jax.pmap(
    partial(vae.train_step, model),
    axis_name=layers.AXIS,
    in_axes=(None, None, 0, 0),
    out_axes=None,
    donate_argnums=0,
  )
  batch, keys = {'image': x[None]}, jax.random.split(jax.random.key(1), BATCH)[None]

  tx = torch.tensor(x).permute(0, 3, 1, 2).contiguous()
  adam = torch.optim.Adam(net.parameters(), 2e-4, betas=(0.5, 0.999))

  def torch_step():
    adam.zero_grad(set_to_none=True)
    loss = (net(tx) - tx).abs().mean()
    loss.backward()
    adam.step()
    return loss

  state, metrics = step(state, {}, batch, keys)
  ours, theirs = float(metrics['l1']), float(torch_step().detach())
  assert abs(ours - theirs) < 1e-4 * theirs, (ours, theirs)
  print(f'first loss: ours {ours:.6f}, PyTorch {theirs:.6f}; optax {optax.__version__}')

  times = {'ours': [], 'torch': []}
  for _ in range(ROUNDS):
    start = time.perf_counter()
    for _ in range(STEPS):
      state, metrics = step(state, {}, batch, keys)
    jax.block_until_ready(state)
    times['ours'].append((time.perf_counter() - start) / STEPS * 1e3)
    start = time.perf_counter()
    for _ in range(STEPS):
      torch_step()
    times['torch'].append((time.perf_counter() - start) / STEPS * 1e3)
  ratios = [a / b for a, b in zip(times['ours'], times['torch'])]
  for name, values in times.items():
    print(f'{name:6s} {statistics.median(values):7.1f} ms a step (median of {ROUNDS} windows)')
  print(f'ratio ours / PyTorch float32: {statistics.median(ratios):.2f}')
  versions = f'jax {jax.__version__}, torch {torch.__version__}'
  print(f'window ratios: {min(ratios):.2f} to {max(ratios):.2f}; {versions}')


if __name__ == '__main__':
  main()
