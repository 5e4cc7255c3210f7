"""Takes results out of the box: into the output folder, as the command names them, or zipped."""

import contextlib
import hashlib
import os
import pathlib
import secrets
import unicodedata
import zipfile
from collections.abc import Iterable

from oldphoto_jax.errors import PhotoError
from oldphoto_jax.photos import images
from oldphoto_jax.restoring import folder, output_files, schedule, tasks
from oldphoto_jax.serving.box import Box, Entry, read_json, write_json

# What the report says of a photo, of what its result says.
_FACTS = ('weights', 'settings', 'shape', 'damaged', 'changed', 'brightness', 'tone', 'kind')
SAVED = 'saved.json'  # in the box: what was written into output folders, by its hash


def out_names(entries: Iterable[Entry]) -> dict[str, pathlib.PurePath]:
  """The path of each photo's result below the output folder, by id: like that of its original.

  If some file systems treat two names as equal, the later photo gets a number.
  """
  taken: set[str] = set()
  found = {}
  for entry in entries:
    like = output_files.like_original(pathlib.PurePath(entry.name))
    name, number = like, 1
    while (key := unicodedata.normalize('NFC', str(name)).casefold()) in taken:
      number += 1
      name = like.with_name(f'{like.stem}-{number}{like.suffix}')
    taken.add(key)
    found[entry.id] = name
  return found


def save(box: Box, ids: Iterable[str], out: pathlib.Path, overwrite: bool) -> folder.Summary:
  """Writes results into the output folder, with its report.json.

  A file that is there already is kept, unless it is what was saved from this box before.

  Raises:
    PhotoError: the folder cannot be made.
  """
  names, known = out_names(box.entries()), read_json(box.folder / SAVED) or {}
  root = out.resolve()
  items: list[tasks.Item] = []
  results: dict[pathlib.Path, tuple[Entry, pathlib.Path]] = {}
  for id in dict.fromkeys(ids):
    entry = box.entry(id)
    restored = entry and box.restored(entry)
    if restored is None:
      continue
    output = out / names[id]
    problem = ''
    source = box.original(entry)
    if not output.resolve().is_relative_to(root):  # a link in the output folder
      problem = f'{entry.name}: its place in the output folder leads out of it.'
    elif output.exists() and output.samefile(source):
      problem = f'{output}: the output would replace an original; choose another output folder.'
    same = output.is_file() and _sha256(output) == (box.result(entry) or {})['sha256']
    mine = output.is_file() and known.get(str(output)) == _sha256(output)
    if not same and not mine and output.exists() and not overwrite and not problem:
      problem = f'{output}: the file exists already and is kept.'
    results[source] = (entry, restored)
    items.append(tasks.Item(source, names[id], {'output': output}, kept=same, problem=problem))

  def one(item: tasks.Item) -> tasks.Done:
    entry, restored = results[item.path]
    images.make_folder(item.output.parent)
    modified = restored.stat().st_mtime_ns  # the date of the original
    images.write_bytes(item.output, restored.read_bytes(), overwrite=True, modified=modified)
    result = box.result(entry) or {}
    known[str(item.output)] = result['sha256']
    fields = {name: result[name] for name in _FACTS}
    return tasks.Done(entry.size, tuple(result['warnings']), fields)

  todo = folder.Plan(tuple(items), out, out, overwrite=True)
  try:
    return folder.run(todo, schedule.each(one), {}, 'restored', 'close other programs')
  finally:
    write_json(box.folder / SAVED, known)


def zipped(box: Box, ids: Iterable[str]) -> pathlib.Path:
  """A temporary file of results, under the names that `save` would give them.

  Raises:
    PhotoError: nothing was restored yet, or the file cannot be written.
  """
  names = out_names(box.entries())
  entries = [entry for id in dict.fromkeys(ids) if (entry := box.entry(id))]
  results = [(names[e.id], path) for e in entries if (path := box.restored(e))]
  if not results:
    raise PhotoError('none of these photos is restored yet.')
  target = box.temporary / f'{secrets.token_hex(16)}.zip'
  try:
    with zipfile.ZipFile(target, 'x', zipfile.ZIP_STORED) as archive:
      for name, path in results:
        archive.write(path, name.as_posix())
  except OSError as error:
    with contextlib.suppress(OSError):
      os.unlink(target)
    raise PhotoError(f'the photos could not be packed ({error.strerror}).') from error
  return target


def _sha256(path: pathlib.Path) -> str:
  with path.open('rb') as file:
    return hashlib.file_digest(file, 'sha256').hexdigest()
