"""Packs photos for a machine without network into one file: see README.md.

python -m benchmarks.accelerator.pack -o data.zip --photos CLEAN --labels MASKS --prints PRINTS
"""

import argparse
import io
import os
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
    The bytes of the file, which appears only when it is whole.

  Raises:
    PhotoError: a folder holds no photo, two photos of a kind have one name, or the file would be
      larger than LARGEST.
  """
  temporary = path.with_name(f'.{path.name}')
  try:
    with zipfile.ZipFile(temporary, 'w', zipfile.ZIP_STORED) as packed:
      for kind, folder in sources.items():
        _pack_kind(packed, kind, folder, side)
    size = temporary.stat().st_size
    if size > LARGEST:
      raise PhotoError(
        f'{path} would have {size >> 20} MiB, and {LARGEST >> 20} are the most: lower --side, or '
        'give fewer photos.'
      )
    os.replace(temporary, path)
  finally:
    temporary.unlink(missing_ok=True)
  return size


def _pack_kind(packed: zipfile.ZipFile, kind: str, folder: str, side: int) -> None:
  taken = {}
  for file, _ in folders.find_photos(folder.split(',')):
    name = f'{kind}/{file.name}' if kind in EXACT else f'{kind}/{file.stem}.jpg'
    if name in taken:
      raise PhotoError(f'{file} and {taken[name]} would both be {name}: rename one of them.')
    taken[name] = file
    if kind in EXACT:
      packed.write(file, name)
      continue
    photo = Image.fromarray(images.read_rgb8(file))
    if kind != 'prints':
      photo.thumbnail((side, side), Image.Resampling.LANCZOS)
    held = io.BytesIO()
    photo.save(held, 'JPEG', quality=QUALITY)
    packed.writestr(name, held.getvalue())


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
  except (UserError, OSError) as error:
    print(error, file=sys.stderr)
    return 2
  print(f'{args.output}: {size / 2**20:.1f} MiB')
  return 0


if __name__ == '__main__':
  sys.exit(main())
