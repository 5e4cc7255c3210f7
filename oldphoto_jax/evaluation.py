"""How well a trained system restores photos whose clean version is known, beside doing nothing."""

import dataclasses
import functools
import json
import pathlib
from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np

from oldphoto_jax import metrics, restore, sheets
from oldphoto_jax.degradation import photographic, recipes


@dataclasses.dataclass(frozen=True)
class Table:
  """Scores of one recipe: per photo, in the order of `photos`.

  Attributes:
    recipe: its name.
    photos: names.
    psnr, ssim: of the restored photos against the clean ones, [N].
    psnr_old, ssim_old: of the damaged photos (doing nothing), [N].
    sheet: uint8 image: old | restored | clean of the first photos.
  """

  recipe: str
  photos: list[str]
  psnr: np.ndarray
  ssim: np.ndarray
  psnr_old: np.ndarray
  ssim_old: np.ndarray
  sheet: np.ndarray


def evaluate(
  restorer: restore.Restorer,
  recipe: recipes.Recipe,
  recipe_name: str,
  batches: Iterable[dict[str, np.ndarray]],
  names: list[str],
  seed: int = 0,
  sheet_rows: int = 6,
) -> Table:
  """Ages every photo with the key of its number, restores it and scores both.

  Args:
    restorer: the system.
    recipe, recipe_name: the degradation.
    batches: of data.eval_batches; sides multiples of `restorer.multiple`.
    names: of the photos, in the order of their `photo` numbers.
    seed: of the degradation.
    sheet_rows: photos shown in the sheet.

  Returns:
    Scores by the protocol of oldphoto_jax.metrics, PSNR capped at metrics.MAX_PSNR.
  """

  @jax.jit
  def step(params, image, ids):
    keys = jax.vmap(functools.partial(jax.random.fold_in, jax.random.key(seed)))(ids)
    aged = recipes.degrade_batch(recipe, keys, photographic.from_levels(image))
    restored = restorer.apply(params, aged.old)
    scores = {
      'psnr': jnp.minimum(metrics.psnr(restored, aged.clean), metrics.MAX_PSNR),
      'ssim': metrics.ssim(restored, aged.clean),
      'psnr_old': jnp.minimum(metrics.psnr(aged.old, aged.clean), metrics.MAX_PSNR),
      'ssim_old': metrics.ssim(aged.old, aged.clean),
    }
    return scores, (aged.old, restored, aged.clean)

  columns, rows, photos = {}, [], []
  for batch in batches:
    scores, images = jax.device_get(step(restorer.params, batch['image'], batch['id']))
    valid = batch['valid']
    photos += [names[i] for i in batch['photo'][valid]]
    for name, values in scores.items():
      columns.setdefault(name, []).append(values[valid])
    for row in zip(*(image[valid] for image in images)):
      if len(rows) < sheet_rows:
        rows.append([sheets.from_float(image) for image in row])
  sheet = sheets.grid(rows, ['old', 'restored', 'clean'], photos[: len(rows)])
  return Table(
    recipe_name, photos, **{k: np.concatenate(v) for k, v in columns.items()}, sheet=sheet
  )


def write(tables: list[Table], restorer_name: str, folder: pathlib.Path) -> str:
  """Writes evaluation.json, evaluation.md and a sheet a recipe into `folder`; returns the table."""
  lines = [
    f'Restored by {restorer_name}; means over photos, ± the standard error.',
    '',
    '| degradation | photos | | PSNR (dB) | SSIM | photos improved |',
    '|---|---|---|---|---|---|',
  ]
  for table in tables:
    better = int((table.psnr > table.psnr_old).sum())
    n = len(table.photos)
    for label, psnr, ssim, improved in (
      ('do nothing', table.psnr_old, table.ssim_old, ''),
      ('restored', table.psnr, table.ssim, f'{better} of {n}'),
    ):
      lines.append(
        f'| {table.recipe} | {n} | {label} | {_mean(psnr, 2)} | {_mean(ssim, 3)} | {improved} |'
      )
  text = '\n'.join(lines) + '\n'
  folder.mkdir(parents=True, exist_ok=True)
  (folder / 'evaluation.md').write_text(text)
  rows = []
  for table in tables:
    sheets.save_png(folder / f'evaluation_{table.recipe}.png', table.sheet)
    fields = {k: v.tolist() for k, v in vars(table).items() if isinstance(v, np.ndarray)}
    fields.pop('sheet')
    rows.append({'recipe': table.recipe, 'photos': table.photos} | fields)
  report = {'restorer': restorer_name, 'tables': rows}
  (folder / 'evaluation.json').write_text(json.dumps(report, indent=1))
  return text


def _mean(values: np.ndarray, digits: int) -> str:
  error = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else float('nan')
  return f'{values.mean():.{digits}f} ± {error:.{digits}f}'
