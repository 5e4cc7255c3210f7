"""The repair networks: find damage on prints, fill it, clean around it; and revive tones.

python launch.py --config=configs/repair.py            # small; anywhere, from nothing, in minutes
python launch.py --config=configs/repair.py:cpu        # hours on a few cores, your own photos
python launch.py --config=configs/repair.py:archive --config.data.old=SCANS  # hours; one archive

Labelled prints are folders of masks NAME.png (0 sound, 128 undecidable, 255 damaged) and of the
photos with these names: --config.data.labels=MASKS --config.data.prints=PHOTOS
"""

import ml_collections

from configs import sections


def get_config(variant=''):
  c = ml_collections.ConfigDict()
  c.system = 'repair'
  c.seed = 0
  c.workdir = 'runs/repair'
  c.stages = 'finder,repair,cleaner,tone'
  c.start = ''  # weights of this system to learn on from; '': from nothing

  c.data = sections.data()
  c.data.old = ''  # stays empty: real prints come with labels
  c.data.labels = ''  # folders of masks of real damage, with commas between; '': none
  c.data.prints = ''  # folders with the prints of these masks
  c.data.p_print = 0.4  # share of the examples that are labelled prints
  c.data.p_over = 0.6  # share of these that are damaged once more
  c.data.p_transplant = 0.4  # share of these that get the damage of another print
  c.data.p_transplant_clean = 0.0  # share of the clean photos that do
  c.data.p_retoned = 0.7  # share of the prints whose tones are changed first
  c.data.print_scale = (0.4, 1.2)  # as data.scale, of prints
  c.data.crop = 128  # pixels, a multiple of 2**levels
  c.data.scale = (0.25, 1.0)  # photos are shrunk by a random factor first: more content in a crop

  # How often each recipe damages a clean photo.
  # print: its fading is not this network's to undo.
  c.shares = dict(worn=0.3, print=0.0, report=0.3, wan2020=0.22, sound=0.18)
  c.distractors = ml_collections.ConfigDict()
  c.distractors.lines = 0.15  # probability of wires or railings in a training photo, not damage
  c.distractors.border = 0.15  # and of the border of a print

  c.model = ml_collections.ConfigDict()
  c.model.widths = (32, 64, 128, 192)  # channels of each level, from half the sides on
  c.model.blocks = 2  # residual blocks of a level, down and up
  c.model.dtype = 'float32'  # bfloat16 on accelerators; XLA's CPU backend gains nothing from it

  # Constant, then down over the last fifth: a run may be cut at any time by fewer steps.
  c.repair = sections.optimiser(500, batch_size=8, b2=0.99, decay=0.2)
  c.repair.clip = 1.0  # global norm of the gradient
  # A hole's pixel weighs a few times as much as another: benchmarks/prints.
  c.repair.weights = dict(l1=10.0, hole_l1=1.0, gradient=0.25, bce=1.0, dice=0.3, error=0.05)

  # Smaller networks, which only have to find. They also see the maps of SqueezeNet 1.0: of a file,
  # or 'package', as in the weights of the package; '': they do not.
  c.finder = sections.optimiser(500, batch_size=8, lr=1e-3, b2=0.99, decay=0.2)
  c.finder.squeezenet = 'package'
  c.finder.members = 2  # which learn from the same examples, and decide together
  # Weights whose finder it learns from, or 'package'; '': from labels. Where a clean photo is
  # sound, it learns that from the photo.
  c.finder.teacher = ''
  c.finder.widths = (16, 32, 64, 96)
  c.finder.clip = 1.0
  c.finder.shares = dict(worn=0.5, print=0.0, report=0.12, wan2020=0.12, sound=0.26)
  c.finder.weights = dict(bce=1.0, dice=0.3)

  # A network of the size of `repair`, which begins as it and then only has to clean.
  c.cleaner = sections.optimiser(500, batch_size=8, lr=4e-4, b2=0.99, decay=0.2)
  c.cleaner.clip = 1.0
  c.cleaner.shares = dict(worn=0.0, print=0.0, report=0.38, wan2020=0.4, sound=0.22)
  c.cleaner.weights = dict(l1=10.0)

  c.tone = sections.optimiser(3000, batch_size=16, b2=0.99)  # minutes, whatever the machine
  c.tone.width = 128
  # As shares above. What is noisy or gray, but not faded, teaches to leave tones alone.
  c.tone.shares = dict(faded=0.45, print=0.25, wan2020=0.15, report=0.1, sound=0.05)
  c.tone.clip = 1.0
  c.tone.weights = dict(log_mse=1.0)

  c.train = sections.train()
  c.train.sheet_rows = 8

  c.evaluate = sections.evaluate()
  c.evaluate.recipes = 'report,wan2020,print'
  c.measure = sections.measure()

  return sections.variants(c, variant, {'cpu': (cpu,), 'archive': (archive,), 'tiny': (tiny,)})


def cpu(c):
  """240,000 examples for `repair`, some 7 CPU-hours at the 9 per CPU-second seen on AVX-512.

  48,000 squares for the finder, 96,000 for the cleaner and 48,000 thumbnails come on top.
  """
  c.workdir = 'runs/repair_cpu'
  c.repair.steps = 30000
  c.repair.ema = 0.999
  c.finder.steps = 6000
  c.finder.ema = 0.998
  c.cleaner.steps = 12000
  c.cleaner.ema = 0.998
  c.train.evaluate_every = 1000


def archive(c):
  """48,000 examples: 1.5 CPU-hours at the speed of `cpu`. Ends with a verdict: systems/archive.py.

  data.old is the folder of the archive's prints, start the weights to learn on from ('': those of
  the package), data.photos good photos, if there are any. The networks have the sizes of `start`.
  """
  c.system = 'archive'
  c.workdir = 'runs/archive'
  c.stages = 'repair'
  c.repair.steps = 6000
  c.repair.lr = 1e-4  # a tenth of what trains from nothing
  c.repair.ema = 0.999
  c.train.evaluate_every = 1000
  c.archive = ml_collections.ConfigDict()
  c.archive.aside = 0.3  # share of the prints that nothing is learnt from, to judge by
  c.archive.strict = 0.8  # probability of damage from which on a find is a label
  c.archive.longest = 2000  # pixels; larger scans are shrunk to this
  c.archive.p_print_alone = 0.9  # as data.p_print, where there are no good photos
  c.archive.sheet = 12  # prints on the blind sheet
  c.archive.resamples = 10_000  # of the bootstrap


def tiny(c):
  """Seconds: for tests."""
  c.data.crop = 32
  c.shares = dict(report=0.5, sound=0.5)
  c.model.widths = (4, 8)
  c.model.blocks = 1
  c.repair.steps = 4
  c.repair.batch_size = 8
  c.finder.squeezenet = ''
  c.finder.widths = (4, 8)
  c.finder.steps = 2
  c.finder.batch_size = 4
  c.finder.shares = dict(report=0.5, sound=0.5)
  c.cleaner.steps = 2
  c.cleaner.batch_size = 4
  c.cleaner.shares = dict(report=0.5, sound=0.5)
  c.tone.steps = 4
  c.tone.batch_size = 4
  c.tone.shares = dict(faded=1.0)
  c.train.log_every = 2
  c.train.evaluate_every = 2
  c.train.eval_batch = 4
  c.evaluate.recipes = 'report'
  c.evaluate.crop = 64
