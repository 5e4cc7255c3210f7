"""The scratch detector (Wan et al. 2020, section 3.3): a U-Net that marks damage.

python launch.py --config=configs/detector.py           # small; anywhere, from nothing, in minutes
python launch.py --config=configs/detector.py:cpu       # for a few cores, your own photos
python launch.py --config=configs/detector.py:paper     # the published network, for accelerators

Then: oldphoto detect PHOTOS -o OUT --weights runs/detector
"""

import ml_collections

from configs import sections


def get_config(variant=''):
  c = ml_collections.ConfigDict()
  c.system = 'detector'
  c.seed = 0
  c.workdir = 'runs/detector'

  c.data = sections.data()
  c.data.old = ''  # stays empty: the damage of real old photos is not marked
  c.data.crop = 192  # pixels, a multiple of 2**depth
  c.data.scale = (0.5, 1.0)  # range of a random factor by which photos are shrunk before the crop

  c.recipe = 'print'  # the masks to learn; of several, one is drawn per photo
  c.distractors = ml_collections.ConfigDict()
  c.distractors.lines = 0.15  # probability of wires or railings in a training photo, not damage
  c.distractors.border = 0.15  # and of a print's border

  c.model = ml_collections.ConfigDict()
  c.model.width = 16
  c.model.depth = 4
  c.model.dtype = 'float32'  # bfloat16 on accelerators; XLA's CPU backend gains nothing from it

  c.detector = sections.optimiser(500, decay=0.6)
  c.detector.weights = dict(bce=1.0, dice=1.0)  # or dict(focal=..., dice=...)
  c.detector.focal_gamma = 2.0
  c.detector.focal_alpha = 0.25
  c.detector.sync_batch_norm = False  # batch norm over the photos of all devices

  c.train = sections.train()
  c.train.sheet_rows = 6

  c.evaluate = sections.evaluate()
  c.measure = sections.measure()
  c.evaluate.recipes = 'print'  # one table per recipe
  c.evaluate.crop = 352

  return sections.variants(c, variant, {'cpu': (cpu,), 'paper': (paper,), 'tiny': (tiny,)})


def cpu(c):
  """For a few cores. It took 85 minutes on one shared core: benchmarks/detector."""
  c.workdir = 'runs/detector_cpu'
  c.model.width = 12
  c.detector.steps = 6000
  c.detector.lr = 2e-3
  c.detector.ema = 0.998
  c.train.evaluate_every = 1000


def paper(c):
  """The published network. Its training was never released, so the rest is ours. For VOC 2012."""
  c.workdir = 'runs/detector_paper'
  c.data.crop = 256
  c.data.scale = (0.6, 1.0)
  c.data.threads = 16
  c.model.width = 64
  c.model.dtype = 'bfloat16'
  s = c.detector
  s.batch_size = 64
  s.steps = 60 * 17125 // 64
  s.lr = 5e-4
  s.ema = 0.999
  c.train.evaluate_every = 2000
  c.train.eval_batch = 64


def tiny(c):
  """For tests: seconds."""
  c.data.crop = 32
  c.recipe = 'report'  # print takes longer to compile than the network
  c.model.width = 4
  c.model.depth = 1
  c.detector.steps = 6
  c.detector.weights = dict(bce=1.0, dice=1.0, focal=1.0)
  c.train.log_every = 2
  c.train.evaluate_every = 3
  c.train.eval_batch = 4
  c.evaluate.recipes = 'report'
  c.evaluate.crop = 64
