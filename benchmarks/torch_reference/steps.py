"""Train steps and restoring in PyTorch, each from the numbers that our side started with.

Each function takes a `Job` and gives a `Program`. Everything in a job is numpy or a plain value,
kernels already in torch's layout, so that it can be sent to a process without JAX.
"""

import dataclasses
import random
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from benchmarks.torch_reference import networks as net


@dataclasses.dataclass(frozen=True)
class Job:
  """One stage: parameters, batch (NCHW, [-1, 1]), settings by the names of our model's fields."""

  g: Any
  d: Any
  frozen: Any
  batch: dict[str, Any]
  settings: dict[str, Any]
  adam: dict[str, float]  # lr, d_lr, b1, b2


@dataclasses.dataclass(frozen=True)
class Program:
  """`train` takes one step, `restore` restores the batch, `outputs` are compared with ours."""

  train: Callable[[], Any]
  restore: Callable[[], torch.Tensor]
  outputs: Callable[[], dict[str, torch.Tensor]]


def tensors(tree: Any, grad: bool = False) -> Any:
  """Nested dicts of arrays -> the same of tensors."""
  if isinstance(tree, dict):
    return {name: tensors(value, grad) for name, value in tree.items()}
  return torch.tensor(tree, requires_grad=grad)


def leaves(tree: Any) -> list[torch.Tensor]:
  if isinstance(tree, dict):
    return [leaf for value in tree.values() for leaf in leaves(value)]
  return [tree]


def _start(job: Job) -> tuple[Any, Any, Any, dict, Any, Any]:
  g, d, frozen = tensors(job.g, True), tensors(job.d, True), tensors(job.frozen)
  betas = (job.adam['b1'], job.adam['b2'])
  g_adam = torch.optim.Adam(leaves(g), job.adam['lr'], betas)
  d_adam = torch.optim.Adam(leaves(d), job.adam['d_lr'], betas) if d else None
  return g, d, frozen, tensors(job.batch), g_adam, d_adam


def _update(*players: tuple[torch.optim.Adam, torch.Tensor, Any]) -> None:
  """One step of each (optimiser, loss, parameters); all gradients are taken before the first step.

  A player's loss is differentiated only by its own parameters.
  """
  grads = [
    torch.autograd.grad(loss, leaves(params), allow_unused=True) for _, loss, params in players
  ]
  for (adam, _, params), own in zip(players, grads):
    for p, grad in zip(leaves(params), own):
      p.grad = grad
    adam.step()


def lsgan(logits, target):
  return (logits - target).square().mean()


def vanilla(logits, target):
  return (F.softplus(-logits) * target + F.softplus(logits) * (1 - target)).mean()


def multiscale_lsgan(scales, target):
  return sum(lsgan(maps[-1], target) for maps in scales)


def feature_matching(fake, real):
  total = 0.0
  for a, b in zip(fake, real):
    total = total + sum(F.l1_loss(x, y.detach()) for x, y in zip(a[:-1], b[:-1])) * 4 / (len(a) - 1)
  return total / len(fake)


def perceptual(params, fake, real, weights):
  with torch.no_grad():
    wanted = net.vgg19(params, real)
  maps = net.vgg19(params, fake)
  return sum(w * F.l1_loss(a, b) for a, b, w in zip(maps, wanted, weights))


def _of_one_domain(logits, target, mask):
  per_example = (logits - target).square().mean((1, 2, 3))
  return (per_example * mask).sum() / mask.sum().clamp(min=1)


def vae(job: Job) -> Program:
  """models.vae."""
  g, d, frozen, batch, g_adam, d_adam = _start(job)
  s, w, image = job.settings, job.settings['weights'], batch['image']
  norm = F.instance_norm if s['norm'] else net.same
  has_gan = w['gan'] > 0 or w['feature_matching'] > 0
  has_latent_gan = s['latent_gan'] and w['latent_gan'] > 0

  def train():
    z = net.encode(g['encoder'], image, norm)
    fake = net.decode(g['decoder'], z + s['posterior_std'] * torch.randn_like(z), norm)
    loss = w['kl'] * z.square().mean()
    if has_gan:
      on_fake, on_real = net.multiscale(d['image'], fake), net.multiscale(d['image'], image)
      loss = loss + w['gan'] * multiscale_lsgan(on_fake, 1.0)
      loss = loss + w['feature_matching'] * feature_matching(on_fake, on_real)
    if w['perceptual'] > 0 and s['feature_weights']:
      loss = loss + w['perceptual'] * perceptual(
        frozen['perceptual'], fake, image, s['feature_weights']
      )
    if w['l1'] > 0:
      loss = loss + w['l1'] * F.l1_loss(fake, image)
    if has_latent_gan:
      logits = net.patch_maps(d['latent'], z)[-1]
      loss = loss + w['latent_gan'] * _of_one_domain(logits, 1.0, batch['is_real'])
    d_loss = 0.0
    fake, z = fake.detach(), z.detach()
    if has_gan:
      d_loss = multiscale_lsgan(net.multiscale(d['image'], fake), 0.0)
      d_loss = d_loss + multiscale_lsgan(net.multiscale(d['image'], image), 1.0)
    if has_latent_gan:
      logits = net.patch_maps(d['latent'], z)[-1]
      d_loss = d_loss + _of_one_domain(logits, 0.0, batch['is_real'])
      d_loss = d_loss + _of_one_domain(logits, 1.0, 1 - batch['is_real'])
    judges = ((d_adam, 0.5 * d_loss, d),) if has_gan or has_latent_gan else ()
    _update((g_adam, loss, g), *judges)

  def restore():
    with torch.no_grad():
      return net.decode(g['decoder'], net.encode(g['encoder'], image, norm), norm)

  def outputs():
    found = {'restored': restore()}
    if has_gan:
      with torch.no_grad():
        found['judged'] = net.multiscale(d['image'], image)[0][-1]
    return found

  return Program(train, restore, outputs)


def mapping(job: Job) -> Program:
  """models.mapping, with mask where the batch has one."""
  g, d, frozen, batch, g_adam, d_adam = _start(job)
  s, w, clean = job.settings, job.settings['weights'], batch['clean']
  norm = F.instance_norm if s['norm'] else net.same
  has_gan = w['gan'] > 0 or w['feature_matching'] > 0
  mask = batch['mask'] if s['masked'] else None
  old = batch['old'] if mask is None else torch.where(mask > 0, 1.0, batch['old'])

  def translate(z):
    valid = None if mask is None else net.sound(mask, s['mask_pool'])
    return net.translate(g, z, norm, s['residual'], valid, s['scaled'])

  def judge(photo):
    return net.multiscale(d, torch.cat([old, photo], 1))

  def train():
    with torch.no_grad():
      z_x = net.encode(frozen['rx']['encoder'], old, norm)
      z_y = net.encode(frozen['y']['encoder'], clean, norm)
    z = translate(z_x)
    fake = net.decode(frozen['y']['decoder'], z, norm)
    loss = w['latent_l1'] * F.l1_loss(z, z_y)
    if has_gan:
      on_fake, on_real = judge(fake), judge(clean)
      loss = loss + w['gan'] * multiscale_lsgan(on_fake, 1.0)
      loss = loss + w['feature_matching'] * feature_matching(on_fake, on_real)
    if w['perceptual'] > 0 and s['feature_weights']:
      loss = loss + w['perceptual'] * perceptual(
        frozen['perceptual'], fake, clean, s['feature_weights']
      )
    if w['l1'] > 0:
      loss = loss + w['l1'] * F.l1_loss(fake, clean)
    if mask is not None and w['hole_l1'] > 0:
      holes, error = (mask > 0).float(), (fake - clean).abs().mean(1, keepdim=True)
      loss = loss + w['hole_l1'] * (error * holes).sum() / holes.sum().clamp(min=1)
    judges = ()
    if has_gan:
      d_loss = multiscale_lsgan(judge(fake.detach()), 0.0) + multiscale_lsgan(judge(clean), 1.0)
      judges = ((d_adam, 0.5 * d_loss, d),)
    _update((g_adam, loss, g), *judges)

  def restore():
    with torch.no_grad():
      z = net.encode(frozen['rx']['encoder'], old, norm)
      return net.decode(frozen['y']['decoder'], translate(z), norm)

  def outputs():
    found = {'restored': restore()}
    if has_gan:
      with torch.no_grad():
        found['judged'] = judge(clean)[0][-1]
    return found

  return Program(train, restore, outputs)


def pix2pix(job: Job) -> Program:
  """models.pix2pix."""
  g, d, _, batch, g_adam, d_adam = _start(job)
  s, w, old, clean = job.settings, job.settings['weights'], batch['old'], batch['clean']
  gan = lsgan if s['lsgan'] else vanilla

  def judge(photo):
    return net.patch_logits(d, torch.cat([old, photo], 1), s['discriminator'])

  def train():
    fake = net.unet(g, old, s['generator'], dropout=True)

    judges = ()
    if w['gan'] > 0:
      d_loss = gan(judge(fake.detach()), 0.0) + gan(judge(clean), 1.0)
      judges = ((d_adam, (0.5 if s['halve_d'] else 1.0) * d_loss, d),)
    if s['alternate']:
      _update(*judges)
      judges = ()
    loss = w['l1'] * F.l1_loss(fake, clean)
    if w['gan'] > 0:
      loss = loss + w['gan'] * gan(judge(fake), 1.0)
    _update((g_adam, loss, g), *judges)

  def restore():
    with torch.no_grad():
      return net.unet(g, old, s['generator'], dropout=False)

  def outputs():
    with torch.no_grad():
      return {'restored': restore(), 'judged': judge(clean)}

  return Program(train, restore, outputs)


def cyclegan(job: Job) -> Program:
  """models.cyclegan, with the official history of generated photos."""
  g, d, _, batch, g_adam, d_adam = _start(job)
  s, w, x, y = job.settings, job.settings['weights'], batch['old'], batch['clean']
  gan = lsgan if s['lsgan'] else vanilla
  pools = {'X': [], 'Y': []}
  rng = random.Random(0)

  def translate(params, photos):
    if s['generator']['generator'] == 'resnet':
      return net.resnet(params, photos)
    return net.unet(params, photos, s['generator'], dropout=True)

  def judge(params, photos):
    return net.patch_logits(params, photos, s['discriminator'])

  def exchange(pool, photos):
    if not s['pool_size']:
      return photos
    given = []
    for photo in photos:
      if len(pool) < s['pool_size']:
        pool.append(photo.clone())
        given.append(photo)
      elif rng.random() < 0.5:
        place = rng.randrange(s['pool_size'])
        given.append(pool[place])
        pool[place] = photo.clone()
      else:
        given.append(photo)
    return torch.stack(given)

  def train():
    loss = 0.0
    if w['identity_G'] > 0:
      fake_y, same_y = translate(g['G'], torch.cat([x, y])).chunk(2)
      fake_x, same_x = translate(g['F'], torch.cat([y, x])).chunk(2)
      loss = w['identity_G'] * F.l1_loss(same_y, y) + w['identity_F'] * F.l1_loss(same_x, x)
    else:
      fake_y, fake_x = translate(g['G'], x), translate(g['F'], y)
    loss = loss + w['gan_G'] * gan(judge(d['D_Y'], fake_y), 1.0)
    loss = loss + w['gan_F'] * gan(judge(d['D_X'], fake_x), 1.0)
    loss = loss + w['cycle_X'] * F.l1_loss(translate(g['F'], fake_y), x)
    loss = loss + w['cycle_Y'] * F.l1_loss(translate(g['G'], fake_x), y)
    old_x, old_y = exchange(pools['X'], fake_x.detach()), exchange(pools['Y'], fake_y.detach())
    d_loss = gan(judge(d['D_X'], x), 1.0) + gan(judge(d['D_X'], old_x), 0.0)
    d_loss = d_loss + gan(judge(d['D_Y'], y), 1.0) + gan(judge(d['D_Y'], old_y), 0.0)
    _update((g_adam, loss, g), (d_adam, (0.5 if s['halve_d'] else 1.0) * d_loss, d))

  def restore():
    with torch.no_grad():
      if s['generator']['generator'] == 'resnet':
        return net.resnet(g['G'], x)
      return net.unet(g['G'], x, s['generator'], dropout=False)

  def outputs():
    with torch.no_grad():
      return {'restored': restore(), 'judged': judge(d['D_X'], x)}

  return Program(train, restore, outputs)


def dip(job: Job) -> Program:
  """Iterations of models.dip: noise on z, MSE, Adam. The residual net if no scale doubles."""
  g, _, _, batch, adam, _ = _start(job)
  z, image, s = batch['z'], batch['image'], job.settings

  def network(z):
    return net.skip(g, z, s['upsample']) if s['upsample'] else net.residual(g, z)

  def train():
    for _ in range(s['iterations']):
      x = network(z + s['reg_noise_std'] * torch.randn_like(z))
      _update((adam, F.mse_loss(x, image), g))

  def restore():
    with torch.no_grad():
      return network(z)

  return Program(train, restore, lambda: {'restored': restore()})
