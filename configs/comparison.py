"""The comparison: all systems are trained on the same photos with the same budget, then scored.

python launch.py --config=configs/comparison.py           # small; anywhere, from nothing
python launch.py --config=configs/comparison.py:smoke     # tiny networks: does it all run?
python launch.py --config=configs/comparison.py:cpu       # hours on a few cores, your own photos
python launch.py --config=configs/comparison.py:paper     # the published sizes, for accelerators
python launch.py --config=configs/comparison.py:report    # the student report's study, likewise

Systems are trained into WORKDIR/NAME. A stopped one goes on, and a finished one is loaded. Other
weights are given by --config.load.NAME=PATH. The scores of each photo are stored in
WORKDIR/results. Writes comparison.md, comparison.json, comparison.html and one grid per recipe into
WORKDIR. With --config.verify=FILE, the cheapest rows of a finished comparison.json are run again.
"""

import ml_collections

from configs import cyclegan, dip, pix2pix, sections, vae

OWN = {
  '': '',
  'smoke': 'tiny',
  'cpu': 'cpu',
  'paper': 'paper',
  'report': 'report',
}  # variant -> the systems' variant


def get_config(variant=''):
  if variant not in OWN:
    raise ValueError(
      f'configs/comparison.py has no variant {variant!r}: {", ".join(filter(None, OWN))}'
    )
  own = OWN[variant]
  c = ml_collections.ConfigDict()
  c.system = 'comparison'
  c.seed = 0  # of training, of Deep Image Prior, and of the damage of test photos
  c.workdir = 'runs/comparison'
  # Of `systems`, in the order of the tables; '': only what `more` names.
  c.compare = 'pix2pix,cyclegan,triplet,dip'
  c.reference = 'triplet'  # row to compare the others with: a system, or 'do nothing'
  c.images = 8_000  # training images per system, over all its stages; 0: as in its own config

  # comparison.json of a finished table: its cheapest rows are run again, and nothing is trained.
  c.verify = ''
  c.verify_seconds = 120.0  # for restoring, by the times of that table

  c.load = ml_collections.ConfigDict()  # runs or files of weights, instead of training
  c.load.pix2pix = ''
  c.load.cyclegan = ''
  c.load.triplet = ''
  c.more = ''  # further weights to compare: NAME=PATH,NAME=PATH

  c.data = sections.data()  # for all systems
  c.data.old_test = ''  # folder of real old photos to restore too, without truth
  c.data.old_reference = ''  # the results of another system for them, with the same names
  # Folders, with commas between, of hand-made masks of damage on real prints, and of the prints of
  # these names: their damage is moved to sound places of others, as one more test.
  c.data.labels_test = ''
  c.data.prints_test = ''
  c.data.subset_val = 1
  c.data.subset_test = 2
  c.data.crop = 128  # a multiple of what the networks take

  c.recipe = 'wan2020,report,print'  # for all training; of several, one is drawn per photo

  # The systems' own settings. Seed, data, recipe, steps and workdir come from above. More systems
  # may be added under new names.
  c.systems = ml_collections.ConfigDict()
  c.systems.pix2pix = pix2pix.get_config(own)
  c.systems.cyclegan = cyclegan.get_config(own)
  c.systems.triplet = vae.get_config(own)
  c.systems.triplet.stages = 'vae_rx,vae_y,mapping,mapping_masked,fusion'  # they share `images`
  c.systems.triplet.fusion.masked = True
  presets = {'paper': 'denoise', 'report': 'report'}
  c.systems.dip = dip.get_config(presets.get(variant, 'small'))

  c.evaluate = sections.evaluate()
  c.evaluate.recipes = 'report,wan2020,print'  # one table per recipe
  c.evaluate.old_limit = 0  # photos of data.old_test; 0: all
  c.evaluate.dip_photos = 2  # Deep Image Prior fits a network to each photo; 0: all
  c.evaluate.dip_masked = False  # add a row of Deep Image Prior that knows the true mask
  c.evaluate.squeezenet = ''  # weights of SqueezeNet 1.0; '': no such column
  c.evaluate.lpips_alexnet = ''  # torchvision's AlexNet, for LPIPS; '': no such column
  c.evaluate.lpips_linear = ''  # and weights/v0.1/alex.pth of the package lpips
  c.evaluate.niqe = ''  # NIQE's statistics; '': no such column
  c.evaluate.figure = ''  # rows of a figure between input and target, one column each; '': none
  c.evaluate.pictures = 6  # photos in the grids and on the page
  c.evaluate.resamples = 10_000  # of the bootstrap

  return sections.variants(
    c, variant, {'smoke': (smoke,), 'cpu': (cpu,), 'paper': (paper,), 'report': (report,)}
  )


def smoke(c):
  """Minutes. Nothing is learnt, but every part runs."""
  c.workdir = 'runs/comparison_smoke'
  c.images = 24
  c.data.crop = 32
  c.recipe = 'report'  # the other recipes take longer to compile than the networks
  c.systems.triplet.stages = 'vae_rx,vae_y,mapping,mapping_masked'
  c.systems.triplet.fusion.masked = False
  c.systems.dip.fit.iterations = 4
  c.systems.dip.chunk = 2
  c.evaluate.recipes = 'report'
  c.evaluate.crop = 192  # the least that MS-SSIM and NIQE take
  c.evaluate.dip_photos = 1


def cpu(c):
  """12,000 images of 128x128 per system: hours on two cores.

  Measured (benchmarks/quality): training took 1006 s for pix2pix, 1815 s for CycleGAN and 2432 s
  for the triplet. PSNR on the recipe report: 24.54, 21.67 and 26.80 dB (with fusion), 19.29 dB for
  doing nothing.
  """
  c.workdir = 'runs/comparison_cpu'
  c.images = 12_000
  c.data.subset_val = c.data.subset_test = 0
  c.systems.dip.fit.iterations = 2000
  c.evaluate.dip_photos = 2


def paper(c):
  """Each system as published, with the length of training of its authors, not one budget."""
  c.workdir = 'runs/comparison_paper'
  c.images = 0
  c.data.crop = 256
  c.data.scale = (0.75, 0.75)
  c.data.threads = 16
  c.data.subset_val = c.data.subset_test = 0
  c.recipe = 'wan2020'
  c.evaluate.dip_photos = 0
  c.evaluate.dip_masked = True


def report(c):
  """The study of the student report: its photos, damage and settings, and its figure 13.

  They are those of the variants `report` of the systems. The triplet is trained here; the report
  took published weights (oldphoto import bopbtl gives them: --config.load.triplet=FILE).
  """
  c.workdir = 'runs/comparison_report'
  c.images = 0
  c.data.crop = 256
  c.data.scale = (0.76, 0.76)  # 286x286, then a crop of 256
  c.data.threads = 16
  c.data.subset_train, c.data.subset_val, c.data.subset_test = 400, 100, 50
  c.recipe = 'report'
  c.systems.triplet.stages = 'vae_rx,vae_y,mapping'
  c.systems.triplet.fusion.masked = False
  c.evaluate.recipes = 'report'
  c.evaluate.figure = 'triplet,dip,pix2pix,cyclegan'  # in the order of its ranking
  c.evaluate.dip_photos = 6  # those of the figure
