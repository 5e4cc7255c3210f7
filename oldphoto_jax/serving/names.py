"""Names of files that a browser sends. They are shown and written, but never trusted."""

import pathlib
import unicodedata

from oldphoto_jax.errors import PhotoError
from oldphoto_jax.photos.formats import FORMATS

_FORBIDDEN = '<>:"|?*'  # on some file systems
# Names of devices on Windows, with any ending.
_DEVICES = {'con', 'prn', 'aux', 'nul', *(f'{d}{n}' for d in ('com', 'lpt') for n in range(1, 10))}
_LONGEST = 200  # bytes of a name; file systems allow 255, and `.gif` becomes `.gif.png`
_DEEPEST = 8  # folders


def cleaned(name: str) -> pathlib.PurePosixPath:
  """A relative path that stays below any folder it is joined to, as like `name` as possible.

  Folders are kept, but not `..`, drives, leading dots, control characters, or characters and
  device names that some file systems refuse.

  Raises:
    PhotoError: the name does not end like a photo.
  """
  parts = [_part(part) for part in name.replace('\\', '/').split('/')]
  parts = [part for part in parts if part]
  suffix = pathlib.PurePosixPath(parts[-1]).suffix if parts else ''
  if suffix.lower() not in FORMATS:
    shown = parts[-1] if parts else 'the file'
    raise PhotoError(f'{shown}: the name does not end like a photo ({", ".join(FORMATS)}).')
  return pathlib.PurePosixPath(*parts[-_DEEPEST:])


def _part(text: str) -> str:
  # Cc, Cf, Cs, Co, Cn: control and direction marks, halves of characters, and unassigned ones.
  text = unicodedata.normalize('NFC', text)
  kept = ''.join(
    '_' if c in _FORBIDDEN else c for c in text if not unicodedata.category(c).startswith('C')
  )
  kept = kept.lstrip('. ').rstrip('. ')
  stem, dot, suffix = kept.rpartition('.')
  stem, suffix = (stem, dot + suffix) if stem else (kept, '')
  if stem.split('.')[0].strip().lower() in _DEVICES:
    stem = f'_{stem}'
  while len((stem + suffix).encode()) > _LONGEST:
    stem, suffix = (stem[:-1], suffix) if stem else ('', suffix[:-1])
  return stem + suffix
