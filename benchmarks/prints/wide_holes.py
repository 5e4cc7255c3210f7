"""What fills wide holes: the prefill, `repair`, the triplet, or `repair` on top of the triplet?

  python benchmarks/prints/wide_holes.py --photos PHOTOS --triplet FILE --squeezenet FILE

In the middle square of each photo, one ellipse of a random shape is lost, and everyone is told
where. `repair` starts from a smooth filling of the hole (the prefill); here also from what the
masked mapping of a triplet makes of it. FILE are weights of a triplet with a masked mapping. Prints
a table: PSNR in the hole, and the SqueezeNet distance, which is of the whole square; with their
paired differences to the prefill, and 95 % intervals over photos.
"""

import argparse

import jax
import jax.numpy as jnp
import numpy as np

from oldphoto_jax import data, weights
from oldphoto_jax.degradation import photographic
from oldphoto_jax.evaluation import judge, tables
from oldphoto_jax.models import mapping
from oldphoto_jax.models import repair as model
from oldphoto_jax.models import triplet as triplet_model
from oldphoto_jax.photos import sheets

SIDE = 256
WIDTHS = ((16, 32), (32, 64), (64, 128))  # pixels; diameters of an ellipse are between the two


def ellipse(rng: np.random.Generator, low: int, high: int) -> np.ndarray:
  """float32 [SIDE, SIDE, 1], 1 inside an ellipse that lies wholly in the square."""
  radii = rng.uniform(low / 2, high / 2, 2)
  angle, reach = rng.uniform(0, np.pi), radii.max() + 2
  centre = rng.uniform(reach, SIDE - reach, 2)
  y, x = np.mgrid[:SIDE, :SIDE] - centre[:, None, None]
  u, v = np.cos(angle) * x + np.sin(angle) * y, np.cos(angle) * y - np.sin(angle) * x
  return ((u / radii[0]) ** 2 + (v / radii[1]) ** 2 < 1)[..., None].astype(np.float32)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--photos', required=True)
  parser.add_argument('--triplet', required=True)
  parser.add_argument('--squeezenet', required=True)
  parser.add_argument('--weights', default=weights.SHIPPED, help='of repair')
  args = parser.parse_args()
  repair = weights.load_restorer(args.weights)
  triplet = weights.load(args.triplet)
  masked = triplet_model.from_sizes(triplet.model).masked
  params = {'rx': triplet.params['rx'], **triplet.params['masked']}
  judging = judge.load_judge(args.squeezenet, '')

  def corrected(photo, start, mask):
    seen = model.shown(photo, start, mask > 0)
    answer, _ = repair.answer(repair.params, seen, start, mask, jnp.ones_like(mask))
    return jnp.where(mask > 0, answer, photo)

  @jax.jit
  def fillings(photo, mask):
    _, smooth = repair.starts(photo, mask)
    mapped = jnp.where(mask > 0, mapping.restore(masked, params, photo, mask), photo)
    return {
      'prefill': smooth,
      'repair': corrected(photo, smooth, mask),
      'masked mapping': mapped,
      'repair on the masked mapping': corrected(photo, mapped, mask),
    }

  columns = [f'{low} to {high} px: {what}' for low, high in WIDTHS for what in ('PSNR', 'distance')]
  cells: dict[str, list[str]] = {}
  for low, high in WIDTHS:
    scores: dict[str, list[tuple[float, float]]] = {}
    for batch in data.eval_batches(data.folder(args.photos), SIDE, 1):
      truth = batch['image'][0]
      mask = ellipse(np.random.default_rng([low, int(batch['id'][0])]), low, high)
      lost = np.where(mask > 0, 1.0, photographic.from_levels(truth)).astype(np.float32)
      for name, filled in fillings(lost[None], mask[None]).items():
        judged = judging.against_truth(sheets.from_float(np.asarray(filled[0])), truth, mask)
        scores.setdefault(name, []).append((judged['psnr_inside'], judged['squeezenet']))
    for name, values in scores.items():
      for own, base, digits in zip(zip(*values), zip(*scores['prefill']), (2, 4)):
        text = f'{np.mean(own):.{digits}f}'
        if name != 'prefill':
          d = tables.difference(np.array(own), np.array(base), 0, 10_000)
          text += f' ({d.mean:+.{digits}f} [{d.low:+.{digits}f}, {d.high:+.{digits}f}])'
        cells.setdefault(name, []).append(text)
  print('| | ' + ' | '.join(columns) + ' |\n' + '|---' * (len(columns) + 1) + '|')
  for name, row in cells.items():
    print(f'| {name} | ' + ' | '.join(row) + ' |')


if __name__ == '__main__':
  main()
