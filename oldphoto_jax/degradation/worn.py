"""The recipe `worn`: a family print with creases, cracks, losses and blots, as a scanner sees it.

It differs from `print` in what a network learns of it. The content is softened and toned *before*
it is damaged, as a lens and a century do, and stays so in the answer: what has to be learnt is
where the damage is and what it hides, not how to sharpen or how to undo fading. Sizes are in
pixels of a training crop, for damage on scans of prints is as wide as on the hand-marked ones.
"""

import dataclasses

import jax
import jax.numpy as jnp

from oldphoto_jax.degradation import artefact, drawing, examples, photographic, recipes
from oldphoto_jax.degradation.ageing import Fading, PaperTexture, Yellowing
from oldphoto_jax.degradation.collected import Overlays
from oldphoto_jax.degradation.cracks import Cracks
from oldphoto_jax.degradation.patches import Blots, Gaps, Losses, Mould
from oldphoto_jax.degradation.scratches import Dust, Hairs, Scratches
from oldphoto_jax.degradation.stains import Foxing, Stains
from oldphoto_jax.degradation.tears import Corners, Flaking, Folds, Tears


@dataclasses.dataclass(frozen=True)
class Lens:
  """What a scanner or a smaller copy does to the content and the damage of a print alike.

  Without it the edges of damage are sharper than those of the content, and a network that looks for
  this finds no damage on real prints.
  """

  blur: tuple[float, tuple[float, float]] = (0.5, (0.3, 1.2))  # probability, sigma in pixels
  sharpening: tuple[float, tuple[float, float]] = (0.35, (0.3, 1.6))  # probability, amount
  radius: tuple[float, float] = (0.5, 1.5)  # of the sharpening, sigma in pixels

  def __call__(self, draw, *photos):
    """The same lens for all photos [H, W, 3], which stay in [-1, 1]."""
    seen = jnp.concatenate(photos, -1)
    probability, sigma = self.blur
    blurred = photographic.soft_blur(seen, draw.uniform(sigma))
    seen = jnp.where(draw.chance(probability), blurred, seen)
    probability, amount = self.sharpening
    amount = jnp.where(draw.chance(probability), draw.uniform(amount), 0.0)
    detail = seen - photographic.soft_blur(seen, draw.uniform(self.radius))
    seen = (seen + amount * detail).clip(-1, 1)
    return jnp.split(seen, len(photos), -1)


@dataclasses.dataclass(frozen=True)
class Worn:
  """Damages photos, and prints that are already old.

  The mask is 1 where the damage covers half or more of the content, and 0 where it cannot be seen,
  before the lens, which spreads it by a pixel or two.
  """

  unharmed: float = 0.2
  # Of the harmed photos: probability, and artefact.
  stains: tuple[float, Stains] = (0.12, Stains(strength=(0.1, 0.5)))
  foxing: tuple[float, Foxing] = (0.08, Foxing(count=(4, 60), radius=(0.006, 0.05)))
  folds: tuple[float, Folds] = (0.2, Folds(flank=(0.01, 0.07), ridge=(1.0, 6.0)))
  losses: tuple[float, Losses] = (0.3, Losses())
  gaps: tuple[float, Gaps] = (0.15, Gaps())
  flaking: tuple[float, Flaking] = (0.12, Flaking(cells=(6.0, 30.0)))
  cracks: tuple[float, Cracks] = (0.55, Cracks())
  scratches: tuple[float, Scratches] = (0.45, Scratches(light=0.75))
  blots: tuple[float, Blots] = (0.3, Blots())
  mould: tuple[float, Mould] = (0.12, Mould())
  overlays: tuple[float, Overlays] | None = None
  tears: tuple[float, Tears] = (0.1, Tears())
  corners: tuple[float, Corners] = (0.08, Corners())
  hairs: tuple[float, Hairs] = (0.2, Hairs(count=(1, 10), length=(0.08, 0.8)))
  dust: tuple[float, Dust] = (0.5, Dust(count=(2, 120), radius=(0.004, 0.035)))
  # What lies bare: paper of any brightness and smoothness, or the lid of the scanner.
  bare: tuple[float, float] = (-0.25, 0.2)  # added to the paper, of [-1, 1]
  lid: float = 0.2  # probability
  # The tone of old photos, which the answer keeps.
  gray: float = 0.6
  # Hard paper, and scans that were sharpened: leaves in the sun turn into white specks on black.
  contrast: tuple[float, tuple[float, float]] = (0.45, (1.1, 5.0))  # probability, gain
  sharpening: tuple[float, tuple[float, float]] = (0.2, (0.5, 2.0))  # probability, amount
  desaturation: tuple[float, float] = (0.0, 0.8)
  fading: tuple[float, Fading] = (
    0.6,
    Fading(black=(0.0, 0.25), white=(0.7, 1.0), gamma=(0.6, 1.3)),
  )
  yellowing: tuple[float, Yellowing] = (0.5, Yellowing())
  texture: tuple[float, PaperTexture] = (0.25, PaperTexture())
  soft: tuple[float, tuple[float, float]] = (0.75, (0.4, 1.5))  # sigma in pixels, at most 1.5
  # The scan, which the answer is without.
  damage_blur: tuple[float, float] = (0.3, 0.9)
  lens: Lens = Lens()
  grain: tuple[float, float] = (0.5, 8.0)  # std at mid gray, 8-bit levels
  more_grain: tuple[float, float] = (0.3, 3.0)  # of a print that has its own
  grain_size: tuple[float, float] = (0.4, 1.2)
  clean_scan: float = 0.25  # probability of neither grain nor JPEG
  jpeg: float = 0.6
  jpeg_quality: tuple[int, int] = (50, 97)

  def __call__(self, key, clean) -> recipes.Aged:
    """A photo, toned and soft -> that photo damaged and scanned."""
    recipes.check(clean)
    draw = drawing.Draws(drawing.ahead(key))
    paper = self._bare(draw, *clean.shape[:2])
    photo = self._tone(draw, clean)
    damaged, mask = self._damage(draw, photo, paper)
    damaged, photo = self.lens(draw, damaged, photo)
    return recipes.Aged(self._scanned(draw, damaged, self.grain), photo, mask)

  def over(self, key, photo, clean) -> recipes.Aged:
    """An old print with more damage on top, copied once more: a lens, a little grain, and JPEG.

    Its own tone, grain and damage stay.

    Args:
      photo: the print, [H, W, 3] in [-1, 1].
      clean: what it should be, which goes through the same lens; `photo` if nobody knows.
    """
    recipes.check(photo)
    draw = drawing.Draws(drawing.ahead(key))
    damaged, mask = self._damage(draw, photo, self._bare(draw, *photo.shape[:2]))
    damaged, clean = self.lens(draw, damaged, clean)
    return recipes.Aged(self._scanned(draw, damaged, self.more_grain), clean, mask)

  def _scanned(self, draw, photo, grain):
    """With grain and JPEG, or with neither."""
    scanned = ~draw.chance(self.clean_scan)
    grain = draw.low(grain, power=1.3)
    grainy = photographic.film_grain(photo, draw.key(), grain, draw.uniform(self.grain_size))
    photo = jnp.where(scanned, grainy, photo)
    least, most = self.jpeg_quality
    quality = least + draw.below(most + 1 - least)
    return examples.switch(
      (draw.chance(self.jpeg) & scanned).astype(int),
      [
        lambda photo: photographic.from_levels(photographic.to_levels(photo)),
        lambda photo: photographic.jpeg(photo, quality),
      ],
      photo,
    )

  def _bare(self, draw, height, width):
    paper = artefact.draw_paper(draw.key(), height, width)
    smooth = paper.mean((0, 1))
    paper = smooth + draw.uniform((0.0, 1.0)) * (paper - smooth) + draw.uniform(self.bare)
    # Lids are white, or black, or gray; and flat.
    lid = jnp.where(draw.chance(0.7), draw.uniform((0.85, 1.05)), draw.uniform((-1, 1)))
    return jnp.where(draw.chance(self.lid), lid, paper).clip(-1, 1)

  def _tone(self, draw, photo):
    without_colour = draw.chance(self.gray)
    photo = photographic.desaturate(
      photo, jnp.where(without_colour, 1.0, draw.uniform(self.desaturation))
    )
    photo = _on_hard_paper(draw, self.contrast, photo)

    def fading(key, photo, paper):
      faded = self.fading[1](key, photo, paper)
      # Silver has no dyes that fade apart.
      gray = photographic.desaturate(faded.photo, jnp.where(without_colour, 1.0, 0.0))
      return faded._replace(photo=gray)

    chosen = (self.fading[0], fading), self.texture, self.yellowing
    layers = [artefact.Layer(*one, mark=artefact.nothing) for one in chosen]
    photo = artefact.apply(draw, layers, artefact.unharmed(photo), None).photo
    probability, sigma = self.soft
    sigma = jnp.where(draw.chance(probability), draw.uniform(sigma), 0.2)
    photo = photographic.soft_blur(photo, sigma)
    probability, amount = self.sharpening
    amount = jnp.where(draw.chance(probability), draw.uniform(amount), 0.0)
    detail = photo - photographic.soft_blur(photo, draw.uniform((0.5, 1.5)))
    return (photo + amount * detail).clip(-1, 1)

  def _damage(self, draw, photo, paper):
    harmed = ~draw.chance(self.unharmed)
    show_through = lambda cover, change: drawing.smoothstep(change, 0.35, 0.55)
    chosen = (
      self.foxing,
      self.folds,
      self.losses,
      self.gaps,
      self.flaking,
      self.cracks,
      self.scratches,
      self.blots,
      self.mould,
      self.overlays,
      self.tears,
      self.corners,
      self.hairs,
      self.dust,
    )
    layers = [
      # The content shows through stains: they are damage where they are strong.
      artefact.Layer(*self.stains, harmed, show_through),
      *(artefact.Layer(*one, harmed) for one in chosen if one is not None),
    ]
    marked = artefact.apply(draw, layers, artefact.unharmed(photo), paper)
    # As sharp as the scanner, whatever the sharpness of the picture.
    change = photographic.soft_blur(marked.photo - photo, draw.uniform(self.damage_blur))
    return (photo + change).clip(-1, 1), artefact.visible(marked, 1, 0.05, 0.16)  # 6 to 20 levels


def _on_hard_paper(draw, contrast, photo):
  """With more contrast around a gray at random; `contrast`: its probability, and its gains."""
  probability, gain = contrast
  gain = jnp.where(draw.chance(probability), draw.uniform(gain), 1.0)
  pivot = draw.uniform((-0.4, 0.4))
  return (pivot + gain * (photo - pivot)).clip(-1, 1)


@dataclasses.dataclass(frozen=True)
class Sound:
  """A photo without damage: it is to stay as it is, its own softness, JPEG and fading included.

  Without such examples a network cleans everything, and takes texture for noise.
  """

  gray: float = 0.4
  contrast: tuple[float, tuple[float, float]] = (0.4, (1.1, 5.0))  # as of Worn
  fading: tuple[float, Fading] = (
    0.3,
    Fading(black=(0.0, 0.25), white=(0.7, 1.0), gamma=(0.6, 1.3)),
  )
  soft: tuple[float, tuple[float, float]] = (0.4, (0.3, 1.2))  # sigma in pixels, at most 1.5
  noise: tuple[float, float] = (0.0, 1.5)  # std, 8-bit levels: no eye sees it
  jpeg: float = 0.6
  jpeg_quality: tuple[int, int] = (75, 98)

  def __call__(self, key, clean) -> recipes.Aged:
    draw = drawing.Draws(key)
    gray = jnp.where(draw.chance(self.gray), 1.0, 0.0)
    photo = _on_hard_paper(draw, self.contrast, photographic.desaturate(clean, gray))
    probability, fading = self.fading
    faded = photographic.desaturate(fading(draw.key(), photo).photo, gray)
    photo = jnp.where(draw.chance(probability), faded, photo)
    probability, sigma = self.soft
    sigma = jnp.where(draw.chance(probability), draw.uniform(sigma), 0.1)
    photo = photographic.soft_blur(photo, sigma)
    noise = draw.uniform(self.noise) / 127.5 * jax.random.normal(draw.key(), photo.shape)
    least, most = self.jpeg_quality
    quality = least + draw.below(most + 1 - least)
    photo = examples.switch(
      draw.chance(self.jpeg).astype(int),
      [
        lambda photo: photographic.from_levels(photographic.to_levels(photo)),
        lambda photo: photographic.jpeg(photo, quality),
      ],
      photo + noise,
    )
    return recipes.Aged(photo, photo, jnp.zeros_like(photo[..., :1]))


@dataclasses.dataclass(frozen=True)
class Faded:
  """A photo whose tones have faded and yellowed, for learning to undo that; the mask is empty.

  The answer is the photo as it was; of a photo of one hue, gray or toned, one of that hue with its
  contrast: nobody can tell whether a brown print was made brown.
  """

  sound: float = 0.25  # probability that nothing has faded
  mono: float = 0.45  # probability of one hue
  toned: float = 0.6  # probability that a photo of one hue is toned, not gray
  fading: Fading = Fading(black=(0.0, 0.28), white=(0.62, 1.0), gamma=(0.6, 1.35), channels=0.05)
  yellowing: tuple[float, Yellowing] = (0.6, Yellowing(green=(0.78, 0.98)))
  cast: float = 0.12  # of each channel, standard deviation of the logarithm
  desaturation: tuple[float, float] = (0.0, 0.6)
  noise: tuple[float, float] = (0.0, 6.0)  # std, 8-bit levels

  def __call__(self, key, clean) -> recipes.Aged:
    draw = drawing.Draws(key)
    fading_key, yellowing_key, noise_key = draw.key(), draw.key(), draw.key()
    mono = draw.chance(self.mono)
    gray = photographic.desaturate(clean, jnp.ones(()))
    photo = jnp.where(mono, gray, clean)
    faded = self.fading(fading_key, photo).photo
    faded = photographic.desaturate(faded, jnp.where(mono, 1.0, draw.uniform(self.desaturation)))
    faded = photographic.tint(faded, jnp.exp(self.cast * draw.normal(3) * ~mono).clip(0, 1.1))
    yellow = self.yellowing[1](yellowing_key, faded).photo
    faded = jnp.where(draw.chance(self.yellowing[0]) & ~mono, yellow, faded)
    old = jnp.where(draw.chance(self.sound), photo, faded)
    # One hue: dark and light alike get less of blue (brown) or of red (blue).
    hue = jnp.where(draw.chance(0.75), jnp.array([0.0, 0.4, 1.0]), jnp.array([1.0, 0.4, 0.0]))
    power = draw.uniform((0.1, 0.9)) * (mono & draw.chance(self.toned)) * hue

    def toned(photo):
      light = ((photo + 1) / 2).clip(1e-4, 1)
      return 2 * light ** (1 + power) * (1 - 0.12 * power) - 1

    old = toned(old) + draw.uniform(self.noise) / 127.5 * jax.random.normal(noise_key, old.shape)
    old = photographic.from_levels(photographic.to_levels(old))
    return recipes.Aged(old, toned(photo), jnp.zeros_like(clean[..., :1]))
