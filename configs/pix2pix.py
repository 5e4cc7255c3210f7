"""pix2pix (Isola et al. 2017): a U-Net from old to clean photos, with a patch discriminator.

python launch.py --config=configs/pix2pix.py           # small; anywhere, from nothing, in minutes
python launch.py --config=configs/pix2pix.py:cpu       # under an hour on two cores, your own photos
python launch.py --config=configs/pix2pix.py:paper     # the official recipe, for accelerators
python launch.py --config=configs/pix2pix.py:report    # what the student report actually ran
"""

import ml_collections

from configs import sections


def get_config(variant=''):
  c = ml_collections.ConfigDict()
  c.system = 'pix2pix'
  c.seed = 0
  c.workdir = 'runs/pix2pix'

  c.data = sections.data()
  c.data.old = ''  # stays empty: pix2pix learns from pairs, and real old photos have none
  c.data.pairs = ''  # folder of before/ and after/ with equal names, instead of data.photos
  c.data.crop = 128  # pixels, a multiple of 2**downs

  c.recipe = 'wan2020,report'  # for the input; of several, one is drawn per photo; not for pairs

  c.model = ml_collections.ConfigDict()
  c.model.width = 32
  c.model.downs = 6  # photos are padded to multiples of 2**downs; official: 8 or 7
  c.model.norm = 'batch'  # batch_tf (epsilon 1e-3, momentum 0.99), instance, instance_affine
  c.model.bottleneck_norm = False  # with a 1x1 bottleneck, it needs two photos per device
  c.model.slope = 0.2  # of the leaky ReLU; TensorFlow tutorial: 0.3
  c.model.rectify_skips = True  # ReLU on the skips (official); the tutorial has none
  c.model.dropout_levels = (5,)  # official: 5 to downs - 1; paper, tutorial: the three innermost
  c.model.d_width = 16
  c.model.d_layers = 3  # patches of 70x70 pixels; 1: 16, 2: 34, 4: 142
  c.model.d_first_bias = True  # the tutorial has none
  c.model.dtype = 'float32'  # bfloat16 on accelerators; XLA's CPU backend gains nothing from it
  c.model.test_dropout = False  # official: True, dropout stays on when restoring
  c.model.test_batch_statistics = False  # official: True, statistics of the photo itself

  c.pix2pix = sections.optimiser(400, b1=0.5)
  c.pix2pix.d_lr = 2e-4  # of the discriminator
  c.pix2pix.weights = dict(gan=1.0, l1=100.0)  # gan=0: no discriminator
  c.pix2pix.gan_loss = 'vanilla'  # or lsgan
  c.pix2pix.halve_d = True  # D's loss is the mean of its two terms; tutorial: their sum
  c.pix2pix.alternate = True  # G learns from the updated D; the tutorial updates both at once
  c.pix2pix.sync_batch_norm = False  # batch norm over the photos of all devices

  c.train = sections.train()
  c.train.evaluate_every = 200  # steps; also saves a checkpoint

  c.evaluate = sections.evaluate()
  c.measure = sections.measure()

  return sections.variants(
    c, variant, {'cpu': (cpu,), 'paper': (paper,), 'report': (paper, report), 'tiny': (tiny,)}
  )


def cpu(c):
  """50 minutes on two busy cores; 26.41 dB on the recipe report, 19.29 dB before (gans_cpu)."""
  c.workdir = 'runs/pix2pix_cpu'
  c.pix2pix.steps = 8000
  c.pix2pix.lr = 5e-4
  c.pix2pix.ema = 0.995
  c.train.evaluate_every = 500


def paper(c):
  """The official PyTorch code: unet_256, 100 + 100 epochs at batch size 1. For VOC 2012."""
  c.workdir = 'runs/pix2pix_paper'
  c.data.crop = 256
  c.data.scale = (0.75, 0.75)  # short side 375 to 281, like load_size 286, but in proportion
  c.data.threads = 16
  c.recipe = 'wan2020'
  c.model.width = 64
  c.model.downs = 8
  c.model.dropout_levels = (5, 6, 7)
  c.model.d_width = 64
  c.model.dtype = 'bfloat16'
  c.model.test_dropout = True
  c.model.test_batch_statistics = True
  p = c.pix2pix
  p.batch_size = 1  # n on n devices: each then normalises by one photo, like the reference
  p.steps = 200 * 17125
  p.lr = p.d_lr = 2e-4
  p.ema = 0.0
  c.train.evaluate_every = 10_000
  c.train.eval_batch = 32


def report(c):
  """The student report, together with its notebook, which is the TensorFlow tutorial."""
  c.workdir = 'runs/pix2pix_report'
  c.data.subset_train, c.data.subset_val, c.data.subset_test = 400, 100, 50  # it ran 499 + 50
  c.data.scale = (0.76, 0.76)  # jitter: 286x286, then a crop of 256
  c.recipe = 'report'
  c.model.downs = 8  # the text says 7 downs and 6 ups, the notebook has 8 and 7 + 1
  c.model.norm = 'batch_tf'
  c.model.bottleneck_norm = True
  c.model.slope = 0.3  # Keras' default; the text says LeakyReLU only
  c.model.rectify_skips = False
  c.model.dropout_levels = (6, 7, 8)
  c.model.d_layers = 3  # "4 layers" in the text are the hidden ones
  c.model.d_first_bias = False
  c.model.dtype = 'float32'
  c.model.test_batch_statistics = False  # it used those of ten photos; one loses its bottleneck
  p = c.pix2pix
  p.steps = 6000  # "6000 epochs" were steps, 150 epochs of 400 photos
  p.batch_size = 10  # over all devices; a multiple of their number, so 8 or 16 on 8
  p.decay = 0.0
  p.gan_loss = 'vanilla'  # "sigmoid last layer" in the text, logits in the notebook
  p.halve_d = False
  p.alternate = False
  c.train.evaluate_every = 1000
  c.train.eval_batch = 10


def tiny(c):
  """For tests: seconds, with every loss term."""
  c.data.crop = 32
  c.recipe = 'report'  # wan2020 takes longer to compile than the networks
  c.model.width = c.model.d_width = 4
  c.model.downs = 3
  c.model.dropout_levels = (2,)
  c.model.d_layers = 1
  c.pix2pix.steps = 6
  c.train.log_every = 2
  c.train.evaluate_every = 3
  c.train.eval_batch = 4
  c.evaluate.crop = 64
