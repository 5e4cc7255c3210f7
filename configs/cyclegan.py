"""CycleGAN (Zhu et al. 2017): translates old to clean photos and back, learnt without pairs.

python launch.py --config=configs/cyclegan.py          # small; anywhere, from nothing, in minutes
python launch.py --config=configs/cyclegan.py:cpu      # under an hour on two cores, your own photos
python launch.py --config=configs/cyclegan.py:paper    # the official recipe, for accelerators
python launch.py --config=configs/cyclegan.py:report   # the settings of the student report
"""

import ml_collections

from configs import sections


def get_config(variant=''):
  c = ml_collections.ConfigDict()
  c.system = 'cyclegan'
  c.seed = 0
  c.workdir = 'runs/cyclegan'

  c.data = sections.data()
  c.data.old = ''  # folder of real old photos (R) as X; '': X is made from other clean photos
  c.data.crop = 96  # pixels, a multiple of 4, or of 2**downs with a U-Net
  c.data.gray = 0.1  # probability that a photo of Y loses its colour, as those of X do

  c.recipe = 'wan2020,report'  # for X and validation; of several, one is drawn per photo

  c.model = ml_collections.ConfigDict()
  # The official generator is the resnet. In short runs the unet learns more: a step takes a third
  # of the time, and its outermost skip keeps the brightness that instance norm loses.
  c.model.generator = 'unet'  # or resnet
  c.model.width = 16
  c.model.blocks = 9  # of the resnet; official: 9, or 6 for 128x128 photos
  c.model.downs = 5  # this and the next three are for the unet, see configs/pix2pix.py
  c.model.bottleneck_norm = False
  c.model.rectify_skips = True
  c.model.dropout_levels = ()
  c.model.slope = 0.2  # of the leaky ReLU, also the discriminator's; TensorFlow tutorial: 0.3
  c.model.norm = 'instance'  # or instance_affine; also the discriminator's
  c.model.d_width = 16
  c.model.d_layers = 3  # patches of 70x70 pixels; 1: 16, 2: 34, 4: 142
  c.model.d_first_bias = True  # the tutorial has none
  c.model.dtype = 'float32'  # bfloat16 on accelerators; XLA's CPU backend gains nothing from it

  c.cyclegan = sections.optimiser(400, batch_size=2, lr=5e-4, b1=0.5)
  c.cyclegan.d_lr = 2e-4  # of the discriminators
  c.cyclegan.gan_loss = 'lsgan'  # or vanilla
  c.cyclegan.lambda_cycle = 10.0
  c.cyclegan.lambda_identity = 0.5  # times lambda_cycle
  c.cyclegan.halve_d = True  # a discriminator's loss is the mean of its two terms, not the sum
  c.cyclegan.pool_size = 50  # history of generated photos per domain, for the discriminators

  c.train = sections.train()
  c.train.evaluate_every = 200  # steps; also saves a checkpoint

  c.evaluate = sections.evaluate()
  c.measure = sections.measure()

  return sections.variants(
    c, variant, {'cpu': (cpu,), 'paper': (paper,), 'report': (paper, report), 'tiny': (tiny,)}
  )


def cpu(c):
  """38 minutes on two busy cores; 21.94 dB on the recipe report, 19.29 dB before (gans_cpu)."""
  c.workdir = 'runs/cyclegan_cpu'
  c.model.width = 32
  c.cyclegan.steps = 6000
  c.cyclegan.ema = 0.995
  c.train.evaluate_every = 500


def paper(c):
  """The official PyTorch code: resnet_9blocks, 100 + 100 epochs at batch size 1. For VOC 2012."""
  c.workdir = 'runs/cyclegan_paper'
  c.data.crop = 256
  c.data.scale = (0.75, 0.75)  # short side 375 to 281, like load_size 286, but in proportion
  c.data.threads = 16
  c.recipe = 'wan2020'
  c.model.generator = 'resnet'
  c.model.width = 64
  c.model.d_width = 64
  c.model.dtype = 'bfloat16'
  g = c.cyclegan
  g.batch_size = 1  # on n devices a multiple of n
  g.steps = 200 * 17125
  g.lr = g.d_lr = 2e-4
  g.ema = 0.0
  c.train.evaluate_every = 10_000
  c.train.eval_batch = 32


def report(c):
  """The student report, completed by the TensorFlow tutorial from which its code comes."""
  c.workdir = 'runs/cyclegan_report'
  c.data.subset_train, c.data.subset_val, c.data.subset_test = 400, 100, 50
  c.data.scale = (0.76, 0.76)  # jitter: 286x286, then a crop of 256
  c.data.gray = 0.0  # its recipe keeps the colour of clean photos
  c.recipe = 'report'
  c.model.generator = 'unet'  # the text also describes a ResNet; the code imports the U-Net
  c.model.downs = 8
  c.model.norm = 'instance_affine'
  c.model.bottleneck_norm = True  # a normalised 1x1 map is 0; kept as in the tutorial's U-Net
  c.model.slope = 0.3
  c.model.rectify_skips = False
  c.model.dropout_levels = (6, 7, 8)
  c.model.d_first_bias = False
  c.model.dtype = 'float32'
  g = c.cyclegan
  g.batch_size = 5  # over all devices; a multiple of their number, so 8 on 8
  g.steps = 30 * 400 // 5  # 30 epochs of 400 photos
  g.decay = 0.0
  g.gan_loss = 'vanilla'  # the form is not given; this is the tutorial's
  g.lambda_cycle = 8.0
  g.lambda_identity = 0.5  # not in the text, but in the tutorial's code; literally: 0
  g.pool_size = 0  # BUFFER_SIZE 1000 is a shuffle buffer, not a history
  c.train.evaluate_every = 400
  c.train.eval_batch = 10


def tiny(c):
  """For tests: seconds, with every loss term and the history."""
  c.data.crop = 32
  c.recipe = 'report'  # wan2020 takes longer to compile than the networks
  c.model.width = c.model.d_width = 4
  c.model.downs = 2
  c.model.d_layers = 1
  c.cyclegan.steps = 6
  c.cyclegan.batch_size = 4
  c.cyclegan.pool_size = 6
  c.train.log_every = 2
  c.train.evaluate_every = 3
  c.train.eval_batch = 4
  c.evaluate.crop = 64
