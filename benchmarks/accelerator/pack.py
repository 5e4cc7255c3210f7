"""Packs photos for a machine without network into one file: see README.md.

python -m benchmarks.accelerator.pack -o data.zip --photos CLEAN --labels MASKS --prints PRINTS
"""

import argparse
import io
import pathlib
import sys
import zipfile

from PIL import Image

from oldphoto_jax.errors import PhotoError, UserError
from oldphoto_jax.photos import folders, images

LARGEST = 40 << 20  # bytes, of the packed file
KINDS = ('photos', 'val', 'labels', 'prints', 'overlays')
EXACT = ('labels', 'overlays')  # kept as they are: levels have a meaning, or there is transparency
QUALITY = 92


def pack(path: pathlib.Path, sources: dict[str, str], side: int) -> int:
  """Writes a ZIP of folders KIND/NAME, whose photos are JPEGs of at most `side` pixels a side.

  Prints stay as large as they are, as their labels have the same size.

  Returns:
    The bytes of the file.

  Raises:
    PhotoError: a folder holds no photo, or the file would be larger than LARGEST.
  """
  with zipfile.ZipFile(path, 'w', zipfile.ZIP_STORED) as packed:
    for kind, folder in sources.items():
      for file, _ in folders.find_photos(folder.split(',')):
        if kind in EXACT:
          packed.write(file, f'{kind}/{file.name}')
          continue
        photo = Image.fromarray(images.read_rgb8(file))
        if kind != 'prints':
          photo.thumbnail((side, side), Image.Resampling.LANCZOS)
        held = io.BytesIO()
        photo.save(held, 'JPEG', quality=QUALITY)
        packed.writestr(f'{kind}/{file.stem}.jpg', held.getvalue())
  size = path.stat().st_size
  if size > LARGEST:
    path.unlink()
    raise PhotoError(
      f'{path} would have {size >> 20} MiB, and {LARGEST >> 20} are the most: lower --side, or '
      'give fewer photos.'
    )
  return size


def main(argv: list[str] | None = None) -> int:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('-o', '--output', type=pathlib.Path, required=True)
  parser.add_argument('--side', type=int, default=640, help='pixels of the longer side at most')
  for kind in KINDS:
    parser.add_argument(f'--{kind}', help='folders, with commas between')
  args = parser.parse_args(argv)
  sources = {kind: value for kind in KINDS if (value := getattr(args, kind))}
  try:
    size = pack(args.output, sources, args.side)
  except UserError as error:
    print(error, file=sys.stderr)
    return 2
  print(f'{args.output}: {size / 2**20:.1f} MiB')
  return 0


if __name__ == '__main__':
  sys.exit(main())
