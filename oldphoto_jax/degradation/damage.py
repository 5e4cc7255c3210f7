"""The recipe `print`: an old photograph on paper, damaged and scanned.

The artefacts are in scratches, tears, stains, ageing and collected; their interface is in artefact.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from oldphoto_jax.degradation import artefact, drawing, examples, photographic, recipes
from oldphoto_jax.degradation.ageing import Fading, PaperTexture, Yellowing
from oldphoto_jax.degradation.collected import Overlays, Textures
from oldphoto_jax.degradation.scratches import Dust, Hairs, Scratches
from oldphoto_jax.degradation.stains import Foxing, Smudges, Stains
from oldphoto_jax.degradation.tears import Corners, Flaking, Folds, Tears


@dataclasses.dataclass(frozen=True)
class Print:
  """An old print, damaged and scanned: the recipe `print`.

  The steps follow a print's life. Its dyes fade; it gets stains, folds, tears and scratches; it
  yellows; dust falls on the scanner's glass; the scan blurs it, adds grain and is stored as JPEG.
  Blur, grain and JPEG follow the damage, so no damage is pure white or cleanly cut. On average the
  result is softer than that of `Wan2020`.

  A share `unharmed` of the photos has no structured damage at all. The mask marks lost content:
  scratches, hairs, dust, flaked emulsion and folds, tears, corners, and the core of foxing. It
  leaves out stains, smudges, fading, yellowing and texture. It is the target for finding and
  filling: 1 from half the opacity on, and 0 where the damage happens to match the content's
  colour. With probability `gray`, `clean` loses its colour along with the old photo. Photos need
  sides of at least 16 pixels.
  """

  unharmed: float = 0.2
  # For harmed photos: probability and artefact.
  foxing: tuple[float, Foxing] = (0.12, Foxing())
  folds: tuple[float, Folds] = (0.4, Folds())
  flaking: tuple[float, Flaking] = (0.28, Flaking())
  scratches: tuple[float, Scratches] = (0.7, Scratches())
  tears: tuple[float, Tears] = (0.18, Tears())
  corners: tuple[float, Corners] = (0.18, Corners())
  hairs: tuple[float, Hairs] = (0.4, Hairs())
  dust: tuple[float, Dust] = (0.75, Dust())
  # For all photos.
  fading: tuple[float, Fading] = (0.7, Fading())
  texture: tuple[float, PaperTexture] = (0.5, PaperTexture())
  stains: tuple[float, Stains] = (0.25, Stains())
  smudges: tuple[float, Smudges] = (0.12, Smudges())
  yellowing: tuple[float, Yellowing] = (0.6, Yellowing())
  # Artefacts and surfaces from folders, if there are any (data.artefacts reads them).
  overlays: tuple[float, Overlays] | None = None  # for harmed photos
  textures: tuple[float, Textures] | None = None  # for all photos
  gray: float = 0.3  # probability that both photos lose their colour
  desaturation: tuple[float, float] = (0.0, 0.5)  # of the old photo
  blur: tuple[float, float] = (0.3, 1.0)  # sigma in pixels, at most 1.5
  grain: tuple[float, float] = (1.0, 6.0)  # std at mid gray, 8-bit levels
  grain_size: tuple[float, float] = (0.4, 1.0)  # sigma in pixels, at most 1.5
  scan_black: tuple[float, float] = (0.0, 0.06)
  scan_white: tuple[float, float] = (0.9, 0.99)
  jpeg: float = 0.7  # probability
  jpeg_quality: tuple[int, int] = (50, 97)  # both ends included

  def __call__(self, key, clean) -> recipes.Aged:
    recipes.check(clean)
    draw = drawing.Draws(drawing.ahead(key))
    paper = artefact.draw_paper(draw.key(), *clean.shape[:2])
    without_colour = draw.chance(self.gray)
    clean = jnp.where(without_colour, photographic.gray(clean), clean)
    harmed = ~draw.chance(self.unharmed)
    old = photographic.desaturate(clean, draw.uniform(self.desaturation))
    surface = lambda chosen: artefact.Layer(*chosen, mark=artefact.nothing)
    damage = lambda chosen: artefact.Layer(*chosen, allowed=harmed)

    def fading(key, photo, paper):
      faded = self.fading[1](key, photo, paper)
      # Silver has no dyes that fade at different rates; a gray print gets its tone from its paper.
      gray = photographic.desaturate(faded.photo, 1.0)
      return faded._replace(photo=jnp.where(without_colour, gray, faded.photo))

    layers = [
      make(chosen)
      for make, chosen in (
        (surface, (self.fading[0], fading)),
        (surface, self.texture),
        (surface, self.textures),
        (surface, self.stains),
        (damage, self.foxing),
        (surface, self.smudges),
        (damage, self.folds),
        (damage, self.flaking),
        (damage, self.scratches),
        (damage, self.overlays),
        (damage, self.tears),
        (damage, self.corners),
        (surface, self.yellowing),
        (damage, self.hairs),
        (damage, self.dust),
      )
      if chosen is not None
    ]
    marked = artefact.apply(draw, layers, artefact.unharmed(old), paper)
    mask = artefact.visible(marked, 2, 0.04, 0.16)  # 5 to 20 levels

    old = photographic.fade(
      marked.photo, draw.uniform(self.scan_black), draw.uniform(self.scan_white), jnp.ones(())
    )
    old = photographic.soft_blur(old, draw.uniform(self.blur))
    old = photographic.film_grain(
      old, draw.key(), draw.uniform(self.grain), draw.uniform(self.grain_size)
    )
    least, most = self.jpeg_quality
    quality = least + draw.below(most + 1 - least)
    old = examples.switch(
      draw.chance(self.jpeg).astype(int),
      [
        lambda old: photographic.from_levels(photographic.to_levels(old)),
        lambda old: photographic.jpeg(old, quality),
      ],
      old,
    )
    return recipes.Aged(old, clean, mask)


def artefacts(recipe: Any) -> dict[str, Callable[..., artefact.Damaged]]:
  """The artefacts of a recipe by the names of its fields, without their probabilities."""
  values = {field.name: getattr(recipe, field.name) for field in dataclasses.fields(recipe)}
  return {
    name: value[1]
    for name, value in values.items()
    if isinstance(value, tuple) and callable(value[1])
  }
