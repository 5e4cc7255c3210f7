"""The triplet system of Wan et al. 2020: VAE of R and X, VAE of Y, mapping T.

python launch.py --config=configs/vae.py              # small; anywhere, from nothing, in minutes
python launch.py --config=configs/vae.py:paper        # the published recipe, for accelerators
python launch.py --config=configs/vae.py:report       # the settings of the student report
python launch.py --config=configs/vae.py:cpu          # hours on a few cores, your own photos

Then, into the same folder, the second mapping, which fills scratches and holes:

python launch.py --config=configs/vae.py --config.stages=mapping_masked

and a path around the latent, which keeps detail that the published system loses:

python launch.py --config=configs/vae.py --config.stages=fusion
"""

import ml_collections

from configs import sections

STAGES = ('vae_rx', 'vae_y', 'mapping', 'vae_y_masked', 'mapping_masked', 'fusion')


def get_config(variant=''):
  c = ml_collections.ConfigDict()
  c.system = 'triplet'
  c.seed = 0
  c.workdir = 'runs/vae'
  # In this order. A stage that is trained later reads the checkpoints of the others. For photos
  # with holes there are mapping_masked and, with mapping_masked.own_y, vae_y_masked. Fusion comes
  # last.
  c.stages = 'vae_rx,vae_y,mapping'

  c.detector = ''  # run or weights of configs/detector.py, to release with the system
  c.half = False  # release the weights as float16, which halves their size

  c.data = sections.data()
  c.data.old = ''  # folder of real old photos (R); '': aged clean photos stand in for R
  c.data.crop = 96  # pixels, a multiple of 4
  c.data.p_real = 0.5  # share of R in the batches of the first VAE
  c.data.gray = 0.1  # probability that a photo of R or Y loses its colour

  c.recipe = 'wan2020,report'  # for X and the mapping; of several, one is drawn per photo

  c.model = ml_collections.ConfigDict()
  c.model.width = 32
  c.model.latent = 32
  c.model.blocks = 2  # residual blocks of an encoder or decoder
  c.model.norm = False  # the reference's instance norm loses the brightness of the photo
  c.model.t_residual = True
  c.model.t_width = 64
  c.model.t_blocks = 3
  c.model.d_width = 16
  c.model.d_layers = 3
  c.model.d_scales = 1
  c.model.mask_pool = 'max'  # or reference, which misses lines of one pixel
  c.model.scaled_attention = True  # by 1/sqrt(channels); the reference does not
  c.model.posterior_std = 0.1  # of the latent noise in training; 1 in the reference
  c.model.remat = False  # recompute residual blocks in the backward pass: less memory, more FLOPs
  c.model.dtype = 'float32'  # bfloat16 on accelerators; XLA's CPU backend gains nothing from it

  c.perceptual = ml_collections.ConfigDict()
  c.perceptual.network = 'vgg19'  # or 'squeezenet'
  c.perceptual.weights = ''  # path of its weights; '': no perceptual term

  for name, steps in (
    ('vae_rx', 400),
    ('vae_y', 400),
    ('mapping', 700),
    ('vae_y_masked', 400),
    ('mapping_masked', 700),
    ('fusion', 1000),
  ):
    c[name] = sections.optimiser(steps)
    c[name].accumulate = 1  # parts of a device's batch, processed in turn to save memory
    c[name].d_lr = 2e-4  # of the discriminators; fusion has none
  # Pixel losses only: in minutes a discriminator learns nothing useful.
  c.vae_rx.weights = dict(l1=10.0, kl=0.01, latent_gan=0.1)
  c.vae_y.weights = dict(l1=10.0, kl=0.01)
  c.vae_y_masked.weights = dict(l1=10.0, kl=0.01)
  c.mapping.weights = dict(l1=10.0, latent_l1=1.0)
  c.mapping_masked.weights = dict(l1=10.0, hole_l1=5.0, latent_l1=1.0)
  c.mapping_masked.recipe = 'print'
  c.mapping_masked.grow = (0, 3)  # pixels by which a mask exceeds the damage, smallest and largest
  c.mapping_masked.spectral = False  # True: spectral norm in the discriminator, as in the reference
  c.mapping_masked.own_y = False  # True: its own VAE of Y, vae_y_masked, as in the reference
  c.mapping_masked.warm_start = True  # from the trained mapping; False: from scratch, as published
  # True: fills by copies of patches instead of non-local attention, as the published code does with
  # --HR: for large photos and large holes.
  c.mapping_masked.patched = False
  c.mapping_masked.patch_blocks = 2  # residual blocks before, between and after the copies
  # To measure what fills: without the non-local block, or with holes that are smooth, not white.
  c.mapping_masked.attention = True
  c.mapping_masked.prefilled = False
  c.fusion.weights = dict(l1=10.0, hole_l1=2.0, perceptual=1.0)
  # Limit of the gradient norm. In the first steps it is a hundred times larger than later, which
  # Adam would remember for a thousand steps.
  c.fusion.clip = 1.0
  c.fusion.recipe = 'wan2020,report,print'
  c.fusion.grow = (0, 3)
  c.fusion.masked = False  # True: also gets the mask of the holes; needs mapping_masked
  c.fusion.alone = False  # True: sees only the old photo, to measure what the triplet contributes
  c.fusion.width = 24
  c.fusion.depth = 3
  c.fusion.blocks = 3

  c.train = sections.train()

  c.evaluate = sections.evaluate()
  c.measure = sections.measure()

  return sections.variants(
    c, variant, {'cpu': (cpu,), 'paper': (paper,), 'report': (paper, report), 'tiny': (tiny,)}
  )


def cpu(c):
  """An hour or two on two cores; mapping_masked and fusion took another on shared ones.

  Measured (benchmarks/vae_cpu, mapping.steps=3500, without fusion): 67 minutes for three stages,
  22.03 dB on the recipe report, 19.29 dB before.
  """
  c.workdir = 'runs/vae_cpu'
  c.model.latent = 64
  c.model.t_width = 128
  for name, steps in (
    ('vae_rx', 1500),
    ('vae_y', 1500),
    ('mapping', 5000),
    ('vae_y_masked', 1500),
    ('mapping_masked', 3000),
    ('fusion', 6000),
  ):
    c[name].steps = steps
    c[name].ema = 0.995
  c.train.evaluate_every = 500


def paper(c):
  """Wan et al. 2020, as in their code. VOC 2012 has 17,125 photos; epochs are given in steps."""
  c.workdir = 'runs/vae_paper'
  c.data.crop = 256
  c.data.scale = (1.0, 1.0)
  c.data.threads = 16
  c.recipe = 'wan2020'
  c.model.width = 64
  c.model.latent = 64
  c.model.blocks = 4
  c.model.norm = True
  c.model.posterior_std = 1.0
  c.model.t_residual = False
  c.model.mask_pool = 'reference'
  c.model.scaled_attention = False
  c.model.t_width = 512
  c.model.t_blocks = 6
  c.model.d_width = 64
  c.model.d_scales = 2
  c.model.dtype = 'bfloat16'
  gan = dict(gan=1.0, feature_matching=10.0, perceptual=10.0)
  # Batches are the reference's totals over 4 GPUs, rounded to multiples of 8 for TPU hosts.
  for name, batch, lr, d_lr, b1, b2, epochs, decay in (
    ('vae_rx', 96, 2e-4, 2e-4, 0.5, 0.999, 200, 0.5),
    ('vae_y', 120, 2e-4, 2e-4, 0.5, 0.999, 200, 0.5),
    ('mapping', 80, 1e-4, 4e-4, 0.0, 0.9, 250, 0.4),  # TTUR
    ('vae_y_masked', 120, 2e-4, 2e-4, 0.5, 0.999, 200, 0.5),
    ('mapping_masked', 40, 2e-4, 2e-4, 0.5, 0.999, 250, 0.4),
    ('fusion', 80, 5e-4, 0.0, 0.9, 0.999, 100, 0.5),  # ours
  ):
    stage = c[name]
    stage.batch_size = batch
    stage.steps = epochs * 17125 // batch
    stage.lr, stage.d_lr, stage.b1, stage.b2, stage.decay = lr, d_lr, b1, b2, decay
    stage.ema = 0.0
  c.vae_rx.weights = dict(gan, kl=1.0, latent_gan=1.0)
  c.vae_y.weights = dict(gan, kl=1.0)
  c.vae_y_masked.weights = dict(gan, kl=1.0)
  c.mapping.weights = dict(gan, latent_l1=60.0)
  c.mapping_masked.weights = dict(gan, latent_l1=60.0)
  c.mapping_masked.recipe = 'holes'
  c.mapping_masked.grow = (0, 0)
  c.mapping_masked.own_y = True
  c.mapping_masked.spectral = True
  c.mapping_masked.warm_start = False
  c.fusion.width = 48
  c.fusion.weights = dict(l1=10.0, hole_l1=2.0, perceptual=1.0)
  c.train.evaluate_every = 2000
  c.train.eval_batch = 32


def report(c):
  """The student report: 400 / 100 / 50 photos of VOC 2012, its own damage, learning rate 2e-4."""
  c.workdir = 'runs/vae_report'
  c.data.subset_train, c.data.subset_val, c.data.subset_test = 400, 100, 50
  c.recipe = 'report'
  for name in STAGES:  # one setting for all stages, 100 + 100 epochs
    stage = c[name]
    stage.batch_size = 8  # not in the report; 400 photos give 50 steps per epoch
    stage.steps = 200 * 400 // 8
    stage.lr, stage.d_lr, stage.b1, stage.b2, stage.decay = 2e-4, 2e-4, 0.5, 0.999, 0.5


def tiny(c):
  """For tests: seconds, with every loss term and every stage."""
  c.data.crop = 32
  c.model.width = c.model.latent = c.model.d_width = 8
  c.model.blocks = c.model.t_blocks = 1
  c.model.t_width = 16
  for name in STAGES:
    c[name].steps = 6
    if name != 'fusion':
      c[name].weights = dict(c[name].weights, gan=1.0, feature_matching=10.0)
  c.fusion.width = 4
  c.fusion.recipe = 'report'
  c.mapping_masked.spectral = True
  c.mapping_masked.patch_blocks = 1
  c.mapping_masked.recipe = 'report'  # print takes longer to compile than the networks
  c.train.log_every = 2
  c.train.evaluate_every = 3
  c.train.eval_batch = 4
  c.evaluate.crop = 64
