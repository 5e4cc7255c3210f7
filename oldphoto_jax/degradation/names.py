"""The recipes by name. The names are known without JAX and NumPy, for the command line."""

import typing

from oldphoto_jax.errors import ConfigError

if typing.TYPE_CHECKING:
  import numpy as np

RECIPES = ('wan2020', 'report', 'ageing', 'print', 'worn', 'holes')


def recipe(names: str, overlays: 'np.ndarray | None' = None, textures: 'np.ndarray | None' = None):
  """Builds one of RECIPES, or a mixture from which each photo draws one.

  Args:
    names: a name of RECIPES, or several separated by commas.
    overlays: transparencies of drawn artefacts, uint8 [N, S, S], for `print`, `worn` and `holes`.
    textures: paper reliefs, uint8 [N, S, S], for `print` and `holes`.

  Returns:
    A recipes.Recipe.

  Raises:
    ConfigError: for an unknown name.
  """
  # Imported here, so that the names are available without JAX.
  from oldphoto_jax.degradation import collected, damage, recipes, worn

  a_print = damage.Print(
    overlays=None if overlays is None else (0.4, collected.Overlays(overlays)),
    textures=None if textures is None else (0.3, collected.Textures(textures)),
  )
  a_worn = worn.Worn(
    overlays=None if overlays is None else (0.25, collected.Overlays(overlays, size=(0.5, 1.6)))
  )
  plain = recipes.Wan2020(), recipes.Report(), recipes.Ageing()
  made = (*plain, a_print, a_worn, recipes.Holes(a_print))
  known = dict(zip(RECIPES, made, strict=True))
  parts = []
  for name in names.replace(' ', '').split(','):
    if name not in known:
      raise ConfigError(f'there is no recipe {name!r}: choose from {", ".join(RECIPES)}')
    parts.append(known[name])
  return parts[0] if len(parts) == 1 else recipes.Mixture(tuple(parts))
