"""The comparison: every system trained on the same photos, by the same budget, and scored alike.

python launch.py --config=configs/comparison.py           # small; anywhere, from nothing
python launch.py --config=configs/comparison.py:smoke     # tiny networks: does it all run?
python launch.py --config=configs/comparison.py:cpu       # hours on a few cores, your own photos
python launch.py --config=configs/comparison.py:paper     # the published sizes, for accelerators

A system that is not trained is trained into WORKDIR/NAME, one that was stopped goes on, one that is
done is loaded; weights from elsewhere are named with --config.load.NAME=PATH. What a photo scored
is kept below WORKDIR/results. Writes comparison.md, comparison.json, comparison.html and a grid a
recipe into WORKDIR.
"""

import ml_collections

from configs import cyclegan, dip, pix2pix, sections, vae

OWN = {'': '', 'smoke': 'tiny', 'cpu': 'cpu', 'paper': 'paper'}  # variant -> that of the systems


def get_config(variant=''):
  if variant not in OWN:
    raise ValueError(f'configs/comparison.py has no variant {variant!r}: smoke, cpu, paper')
  own = OWN[variant]
  c = ml_collections.ConfigDict()
  c.system = 'comparison'
  c.seed = 0  # of the training of all, of Deep Image Prior, of the test photos' damage
  c.workdir = 'runs/comparison'
  c.compare = 'pix2pix,cyclegan,triplet,dip'  # of `systems`, in the order of the tables
  c.reference = 'triplet'  # what the differences are to: a system, or 'do nothing'
  c.images = 8_000  # training images of each system, over all its stages; 0: as its config has it

  c.load = ml_collections.ConfigDict()  # runs or files of weights, instead of training
  c.load.pix2pix = ''
  c.load.cyclegan = ''
  c.load.triplet = ''
  c.more = ''  # further weights to compare: NAME=PATH,NAME=PATH

  c.data = sections.data()  # of all systems
  c.data.old_test = ''  # folder of real old photos to restore as well; there is no truth for them
  c.data.old_reference = ''  # what another system made of them, under the same names
  c.data.subset_val = 1
  c.data.subset_test = 2
  c.data.crop = 128  # a multiple of what the networks take

  c.recipe = 'wan2020,report,print'  # of all training; several: one is drawn per photo

  # Their own settings; seed, data, recipe, steps and workdir come from above. More systems may
  # be added here under names of their own.
  c.systems = ml_collections.ConfigDict()
  c.systems.pix2pix = pix2pix.get_config(own)
  c.systems.cyclegan = cyclegan.get_config(own)
  c.systems.triplet = vae.get_config(own)
  c.systems.triplet.stages = 'vae_rx,vae_y,mapping,mapping_masked,fusion'  # they share `images`
  c.systems.triplet.fusion.masked = True
  c.systems.dip = dip.get_config('denoise' if variant == 'paper' else 'small')

  c.evaluate = sections.evaluate()
  c.evaluate.recipes = 'report,wan2020,print'  # a table each
  c.evaluate.old_limit = 0  # of data.old_test, as `limit`
  c.evaluate.dip_photos = 2  # Deep Image Prior fits a network to each photo; 0: all
  c.evaluate.dip_masked = False  # a row of Deep Image Prior that knows the true mask
  c.evaluate.squeezenet = ''  # weights of SqueezeNet 1.0; '': no such column
  c.evaluate.lpips_alexnet = ''  # torchvision's AlexNet, for LPIPS; '': no such column
  c.evaluate.lpips_linear = ''  # and weights/v0.1/alex.pth of the package lpips
  c.evaluate.niqe = ''  # NIQE's statistics; '': no such column
  c.evaluate.pictures = 6  # photos of the grids and of the page
  c.evaluate.resamples = 10_000  # of the bootstrap

  return sections.variants(c, variant, {'smoke': (smoke,), 'cpu': (cpu,), 'paper': (paper,)})


def smoke(c):
  """Minutes: nothing is learnt, every part runs."""
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
  """Hours on two cores: 12,000 images of 128x128 for each system."""
  c.workdir = 'runs/comparison_cpu'
  c.images = 12_000
  c.data.subset_val = c.data.subset_test = 0
  c.systems.dip.fit.iterations = 2000
  c.evaluate.dip_photos = 2


def paper(c):
  """Each system as published, by its own length of training: not one budget, but its authors'."""
  c.workdir = 'runs/comparison_paper'
  c.images = 0
  c.data.crop = 256
  c.data.scale = (0.75, 0.75)
  c.data.threads = 16
  c.data.subset_val = c.data.subset_test = 0
  c.recipe = 'wan2020'
  c.evaluate.dip_photos = 0
  c.evaluate.dip_masked = True
