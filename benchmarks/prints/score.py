"""Real prints: is the damage found, is it gone, and is the rest left alone?

  python benchmarks/prints/score.py --labels LABELS --prints PRINTS [--prints MORE] \\
    --sound SOUND --pairs PAIRS -o OUT [--weights RUN_OR_FILE] [--other NAME=RUN_OR_FILE]

LABELS    folder of hand-made masks NAME.png (0 sound, 128 undecidable, 255 damaged)
PRINTS    folders with the prints of these names; no print may have been trained on
SOUND     folder of sound photos: they are to come through as they are, and without the damage of
          the prints, where that is laid over them
PAIRS     folder of X_damaged.jpg, X_restored.jpg and X_mask.png (film scans and their retouching)

Writes prints.md and prints.json, and before.png/after.png of each print, to be looked at.
"""

import argparse
import json
import pathlib
import time
import types
from collections.abc import Callable

import cv2
import jax
import numpy as np
from PIL import Image
from scipy import ndimage
from skimage.restoration import inpaint

from oldphoto_jax import weights
from oldphoto_jax.data import prints
from oldphoto_jax.metrics import print_scores
from oldphoto_jax.nn import prefill
from oldphoto_jax.photos import folders, images, masks
from oldphoto_jax.restoring import detect, engine, finding, restore

Array = np.ndarray
# (photo [H, W, 3], true mask [H, W, 1]) -> (restored, probability of damage [H, W] or None).
Method = Callable[[Array, Array], tuple[Array, Array | None]]

prefilled = jax.jit(prefill.prefill)
FRAME = 15  # pixels along the border: worn edges weigh much in area


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--labels', required=True)
  parser.add_argument('--prints', required=True, action='append')
  parser.add_argument('--sound')
  parser.add_argument('--pairs')
  parser.add_argument('--weights', default=weights.SHIPPED)
  parser.add_argument('--other', action='append', default=[], metavar='NAME=RUN_OR_FILE')
  parser.add_argument('--only', help='rows to score, with semicolons between; default: all')
  parser.add_argument('-o', '--output', required=True, type=pathlib.Path)
  args = parser.parse_args()
  args.output.mkdir(parents=True, exist_ok=True)
  labelled = prints.prints([args.labels], args.prints)
  loaded = weights.read(args.weights)
  rows = {'do nothing': lambda photo, mask: (photo, None)}
  rows['Telea, true mask'] = lambda photo, mask: (telea(photo, mask), None)
  rows['biharmonic, true mask'] = lambda photo, mask: (biharmonic(photo, mask), None)
  rows['prefill, true mask'] = lambda photo, mask: (smooth(photo, mask), None)
  for name, path in (x.split('=', 1) for x in args.other):
    rows |= methods(name, weights.read(path))
  rows |= methods('repair', loaded)

  if args.only:
    rows = {name: rows[name] for name in args.only.split(';')}
  results = {'weights': loaded.name, 'prints': len(labelled), 'rows': {}}
  for name, method in rows.items():
    results['rows'][name] = scores(name, method, labelled, args.output)
    if args.sound:
      results['rows'][name]['sound'] = sound(method, args.sound)
      results['rows'][name]['moved'] = moved(method, args.sound, labelled)
    if args.pairs:
      results['rows'][name]['film'] = film(method, args.pairs)
    print(name, json.dumps(results['rows'][name]))
  (args.output / 'prints.json').write_text(json.dumps(results, indent=1))
  (args.output / 'prints.md').write_text(table(results))
  print(table(results))


def methods(name: str, loaded: weights.Loaded) -> dict[str, Method]:
  """Blind, and with the true mask, as `oldphoto restore` does; tones stay as they are."""
  restorer = loaded.restorer()
  # One shape for all prints: compiling takes longer than restoring them.
  system = engine.compiled(restorer, [(512, 512)], tile=512, max_shapes=1)
  detector = loaded.find_detector()
  mark = None if detector is None else detect.marker(detector)

  def blind(photo, mask):
    if restorer.look is not None:
      looked = system.look(photo)
      knowing = types.SimpleNamespace(  # the same engine, which does not look again
        look=lambda photo: looked,
        restore=system.restore,
        fill=system.fill,
        revive=system.revive,
        revives=system.revives,
      )
      done = restore.restore_array(knowing, photo, None, restore.Wishes(find=finding.THRESHOLD))
      return done.photo, looked.probability[..., 0]
    if mark is None:
      return restore.restore_array(system, photo).photo, None
    found = mark(photo)
    done = restore.restore_array(system, photo, masks.grow(found, 0.5))
    return done.photo, found[..., 0]

  def told(photo, mask):
    return restore.restore_array(system, photo, mask).photo, None

  def only(photo, mask):
    return restore.restore_array(system, photo, mask, restore.Wishes(only_damage=True)).photo, None

  return {
    f'{name}, blind': blind,
    f'{name}, true mask': told,
    f'{name}, true mask, only damage': only,
  }


def telea(photo: Array, mask: Array) -> Array:
  """Telea 2004, as OpenCV has it, with its usual radius of three pixels: what people use."""
  levels = np.rint((photo + 1) * 127.5).astype(np.uint8)
  marked = (mask[..., 0] > 0).astype(np.uint8)
  filled = cv2.inpaint(np.ascontiguousarray(levels[..., ::-1]), marked, 3, cv2.INPAINT_TELEA)
  return np.where(mask > 0, filled[..., ::-1] / np.float32(127.5) - 1, photo)


def biharmonic(photo: Array, mask: Array) -> Array:
  """Damelin and Hoang 2018, as scikit-image has it."""
  holes = mask[..., 0] > 0
  filled = inpaint.inpaint_biharmonic(photo, holes, split_into_regions=True, channel_axis=-1)
  return filled.clip(-1, 1).astype(np.float32)


def smooth(photo: Array, mask: Array) -> Array:
  """The start of the network's filling: smooth from the rim, and the photo outside of the mask."""
  holes = mask > 0
  return np.asarray(prefilled(photo[None], holes[None]))[0] if holes.any() else photo


def scores(name: str, method: Method, labelled: prints.Prints, out: pathlib.Path) -> dict:
  """The scores of one method on labelled prints, and its pictures."""
  found, labels, rows, seconds, pixels = [], [], [], 0.0, 0
  transplants = []
  for i, (title, pixels8, label) in enumerate(
    zip(labelled.names, labelled.photos, labelled.labels)
  ):
    photo = images.to_float(images.Photo(pixels8))
    marked = as_label(label)
    true, maybe = marked.true, label != 0
    mask = true[..., None].astype(np.float32)
    start = time.process_time()
    after, probability = method(photo, mask)
    seconds, pixels = seconds + time.process_time() - start, pixels + true.size
    away = ~ndimage.binary_dilation(maybe, iterations=8)
    rows.append(
      {
        'print': title,
        'damaged': float(true.mean()),
        'left': print_scores.line_left(photo, after, true, away) if true.any() else np.nan,
        'texture': print_scores.texture_mismatch(after, true, ~maybe),
        'changed': print_scores.change_outside(photo, after, maybe),
      }
    )
    if probability is not None:
      found.append(probability)
      labels.append(marked)
    save(out / slug(name) / f'{title}.png', photo, after)
    transplants.append(transplanted(i, labelled, method))
  values = {
    'line left': mean(rows, 'left'),
    'texture mismatch': mean(rows, 'texture'),
    'changed outside': mean(rows, 'changed'),
    'harm rate': float(np.mean([print_scores.is_harmed(r['texture'], r['changed']) for r in rows])),
    'transplant in': float(np.nanmean([t[0] for t in transplants])),
    'transplant out': float(np.nanmean([t[1] for t in transplants])),
    'CPU seconds a megapixel': seconds / pixels * 1e6,
    'by print': rows,
  }
  if found:
    threshold, best = print_scores.best_threshold(found, labels)
    values['threshold'], values['F1'] = threshold, best.f1
    values['precision'], values['recall'] = best.precision, best.recall
    values['F1 without a frame'] = pooled(found, labels, threshold, 2, FRAME).f1
    values['F1, 0 px'] = print_scores.best_threshold(found, labels, 0)[1].f1
    decided = [decide(p) for p in found]
    values['F1 as decided'] = pooled(decided, labels, 0.5, 2, 0).f1
    values['F1 as decided, by print'] = print_scores.f1_by_print(decided, labels, 0.5)[1]
    each, values['F1 by print'] = print_scores.f1_by_print(found, labels, threshold)
    for row, f1 in zip(rows, each):
      row['F1'] = f1
  return values


def as_label(levels: Array) -> print_scores.Label:
  """A label of its levels: see data.prints."""
  return print_scores.Label(levels == prints.DAMAGED, levels != prints.IGNORED)


def decide(probability: Array) -> Array:
  """What `oldphoto restore` takes for damage, [H, W] in [0, 1]."""
  return finding.narrow(finding.decide(probability[..., None], finding.THRESHOLD))[0][..., 0]


def pooled(found, labels, threshold, tolerance, frame) -> print_scores.Counts:
  each = (print_scores.count(p >= threshold, m, tolerance, frame) for p, m in zip(found, labels))
  return sum(each, print_scores.Counts())


def transplanted(i: int, labelled: prints.Prints, method: Method) -> tuple[float, float]:
  """PSNR in and out of damage that was moved here from the next print."""
  host, label = labelled.photos[i], labelled.labels[i]
  donor = (i + 1) % len(labelled)
  source, damage = labelled.photos[donor], as_label(labelled.labels[donor]).true
  if not damage.any():
    return np.nan, np.nan
  source, host = (images.to_float(images.Photo(x)) for x in (source, host))
  sound = ~ndimage.binary_dilation(label != 0, iterations=6)
  rng = np.random.default_rng(i)
  moved, mask = print_scores.transplant(source, damage, host, sound, rng)
  if not mask.any():
    return np.nan, np.nan
  after, _ = method(moved, mask[..., None].astype(np.float32))
  outside = sound & ~ndimage.binary_dilation(mask, iterations=3)
  return print_scores.psnr_in(after, host, mask), print_scores.psnr_in(after, host, outside)


def sound(method: Method, folder: str) -> dict:
  """PSNR of sound photos to themselves: mean and worst."""
  values = []
  for path, _ in folders.find_photos([folder]):
    photo = images.to_float(images.Photo(images.read_rgb8(path)))
    after, _ = method(photo, np.zeros_like(photo[..., :1]))
    values.append(print_scores.psnr_in(after, photo, np.ones(photo.shape[:2], bool)))
  return {'mean': float(np.mean(values)), 'worst': float(np.min(values)), 'photos': len(values)}


def moved(method: Method, folder: str, labelled: prints.Prints) -> dict:
  """Sound photos with the damage of prints: is it found, and are the photos nearer to themselves?

  The labelled prints are gray or brown, sound photos may be in colour. Each gets one to twelve
  pieces of the damage of a print.

  Returns:
    'before' and 'after', mean PSNR; with a search, 'F1', 'precision' and 'recall' as decided.
  """
  before, after, found, labels = [], [], [], []
  for i, (path, _) in enumerate(folders.find_photos([folder])):
    photo = images.to_float(images.Photo(images.read_rgb8(path)))
    everywhere = np.ones(photo.shape[:2], bool)
    donor = labelled.donors[i % len(labelled.donors)]
    source, damage = labelled.photos[donor], as_label(labelled.labels[donor]).true
    source = images.to_float(images.Photo(source))
    rng = np.random.default_rng(i)
    old, mask = print_scores.transplant(source, damage, photo, everywhere, rng, 1 + i % 12)
    new, probability = method(old, mask[..., None].astype(np.float32))
    before.append(print_scores.psnr_in(old, photo, everywhere))
    after.append(print_scores.psnr_in(new, photo, everywhere))
    if probability is not None:
      found.append(decide(probability))
      labels.append(print_scores.Label(mask, everywhere))
  values = {'before': float(np.mean(before)), 'after': float(np.mean(after))}
  if found:
    counts = pooled(found, labels, 0.5, 2, 0)
    values |= {'F1': counts.f1, 'precision': counts.precision, 'recall': counts.recall}
  return values


def film(method: Method, folder: str) -> dict:
  """PSNR of film scans against their retouching, whole and in the mask: means over the scans."""
  whole, inside = [], []
  for path in sorted(pathlib.Path(folder).glob('*_damaged.jpg')):
    name = path.name.removesuffix('_damaged.jpg')
    old, truth = (
      images.to_float(images.Photo(images.read_rgb8(p)))
      for p in (path, path.with_name(f'{name}_restored.jpg'))
    )
    mask = images.read_rgb8(path.with_name(f'{name}_mask.png'))[..., :1] > 127
    after = method(old, mask.astype(np.float32))[0].clip(-1, 1)
    whole.append(print_scores.psnr_in(after, truth, np.ones(mask.shape[:2], bool)))
    inside.append(print_scores.psnr_in(after, truth, mask[..., 0]))
  return {'whole': float(np.mean(whole)), 'inside': float(np.mean(inside)), 'scans': len(whole)}


def mean(rows: list[dict], name: str) -> float:
  return float(np.nanmean([row[name] for row in rows]))


def slug(name: str) -> str:
  return name.replace(', ', '-').replace(' ', '_')


def save(path: pathlib.Path, before: Array, after: Array) -> None:
  path.parent.mkdir(exist_ok=True)
  both = np.concatenate([before, after.clip(-1, 1)], 1)
  Image.fromarray(np.rint((both + 1) * 127.5).astype(np.uint8)).save(path)


def table(results: dict) -> str:
  """All rows as Markdown."""
  columns = ('line left', 'texture mismatch', 'changed outside', 'harm rate', 'transplant in')
  columns += ('transplant out', 'F1', 'F1 by print', 'F1 as decided', 'F1 as decided, by print')
  columns += ('F1 without a frame', 'F1, 0 px', 'threshold', 'CPU seconds a megapixel')
  lines = [f'{results["prints"]} labelled prints, {results["weights"]}.', '']
  extra = ['sound: mean / worst dB', 'damage moved to them: dB, F1', 'film: whole / in mask dB']
  lines += ['| | ' + ' | '.join([*columns, *extra]) + ' |', '|---' * (len(columns) + 4) + '|']
  for name, row in results['rows'].items():
    cells = [f'{row[c]:.3f}' if c in row else '' for c in columns]
    s, m, f = row.get('sound'), row.get('moved'), row.get('film')
    cells.append(f'{s["mean"]:.1f} / {s["worst"]:.1f}' if s else '')
    cells.append(f'{m["after"]:.1f}' + (f', {m["F1"]:.3f}' if 'F1' in m else '') if m else '')
    cells.append(f'{f["whole"]:.2f} / {f["inside"]:.2f}' if f else '')
    lines.append(f'| {name} | ' + ' | '.join(cells) + ' |')
  return '\n'.join(lines) + '\n'


if __name__ == '__main__':
  main()
