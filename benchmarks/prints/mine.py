"""Hard negatives: sound photos in which the network finds damage, as labelled prints to learn from.

  python benchmarks/prints/mine.py PHOTOS [PHOTOS ...] -o OUT [--weights RUN_OR_FILE] [--count 150]

PHOTOS    folders of sound photos that may be trained on
OUT       gets photos/NAME.png, squares around the worst false alarms, every other one gray as
          prints are, and labels/NAME.png, all sound

Learn from them with --config.data.labels=LABELS,OUT/labels --config.data.prints=PRINTS,OUT/photos
"""

import argparse
import pathlib

import numpy as np
from PIL import Image
from scipy import ndimage

from oldphoto_jax import weights
from oldphoto_jax.photos import folders, images
from oldphoto_jax.restoring import engine, shapes

SIZE = 448  # pixels of the shorter side at which a photo is searched
PROBABLE = 0.4  # from here on a find is a false alarm: what is filled begins at 0.45
SIDE = 256  # pixels of a square: twice a training crop, which is cut from it at any scale
LEAST = 40  # pixels of false alarm in a square that is worth keeping


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('photos', nargs='+')
  parser.add_argument('-o', '--output', required=True, type=pathlib.Path)
  parser.add_argument('--weights', default=weights.SHIPPED)
  parser.add_argument('--count', type=int, default=150, help='squares at most')
  args = parser.parse_args()
  for name in ('photos', 'labels'):
    (args.output / name).mkdir(parents=True)  # which refuses a folder that is there
  system = engine.compiled(weights.read(args.weights).restorer(), [(512, 512)], tile=512)
  squares = []
  for path, _ in folders.find_photos(args.photos):
    photo = images.read_rgb8(path)
    factor = min(1, SIZE / min(photo.shape[:2]))
    sides = [round(factor * n) for n in photo.shape[:2]]
    squares.append((*worst(system, shapes.resized(photo, *sides)), path.stem))
  squares.sort(key=lambda square: -square[0])
  for i, (alarms, square, name) in enumerate(squares[: args.count]):
    if alarms >= LEAST:
      picture = Image.fromarray(square)
      picture = picture.convert('L') if i % 2 else picture
      picture.save(args.output / 'photos' / f'{name}.png')
      label = np.zeros(square.shape[:2], np.uint8)
      Image.fromarray(label).save(args.output / 'labels' / f'{name}.png')
      print(f'{name}: {alarms} pixels')


def worst(system: engine.Repairing, photo: np.ndarray) -> tuple[int, np.ndarray]:
  """Pixels of false alarm in the worst square of a sound photo [H, W, 3], and that square."""
  photo8 = np.rint(photo).astype(np.uint8)
  probability = system.look(images.to_float(images.Photo(photo8))).probability
  alarms = (probability[..., 0] >= PROBABLE).astype(np.float32)
  sides = [min(SIDE, n) for n in alarms.shape]
  density = ndimage.uniform_filter(alarms, sides, mode='constant')
  # The centres of squares that lie wholly inside.
  inner = tuple(slice(side // 2, n - (side - 1) // 2) for side, n in zip(sides, alarms.shape))
  row, column = np.unravel_index(np.argmax(density[inner]), density[inner].shape)
  square = (slice(row, row + sides[0]), slice(column, column + sides[1]))
  return int(alarms[square].sum()), photo8[square]


if __name__ == '__main__':
  main()
