"""Which files of folders are photos, and what is said about the others."""

import os
import pathlib

import numpy as np
import pytest
from PIL import Image

from oldphoto_jax.errors import PhotoError
from oldphoto_jax.photos import folders, formats


def save(path, mask=False):
  path.parent.mkdir(parents=True, exist_ok=True)
  pixels = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)
  if mask:
    pixels = np.zeros((24, 32), np.uint8)
    pixels[4:8] = 255
  Image.fromarray(pixels).save(path)
  return path


def found(root, **options):
  """Names of the photos, and why others were left out."""
  photos, skipped = folders.find([root], **options)
  why = {str(path.relative_to(root)): reason for path, reason in skipped}
  return [relative.as_posix() for _, relative in photos], why


def test_all_usual_endings_are_taken_and_the_others_are_named(tmp_path):
  taken = ['a.JPEG', 'b.jfif', 'c.jpe', 'd.pnm', 'e.pgm', 'f.tga', 'g.jp2', 'h.avif', 'j.jxl']
  for name in [*taken, 'i.pdf', 'k.psd', 'notes.txt', 'none', '.hidden.jpg', '.git/f.jpg']:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).touch()
  names, why = found(tmp_path)
  assert names == taken
  assert why['i.pdf'] == '.pdf files are not read; save its pictures as PNG or TIFF'
  assert why['k.psd'] == '.psd files are not read; save it as TIFF'
  assert why['notes.txt'] == 'a name that ends in .txt is not that of a photo'
  assert set(why) == {'i.pdf', 'k.psd', 'notes.txt', 'none', '.hidden.jpg'}


def test_a_format_that_needs_another_package_is_named_with_it(tmp_path, monkeypatch):
  monkeypatch.setitem(formats._EXTRAS, 'HEIF', ('no_such_module', 'heif'))
  for name in ('a.heic', 'b.jpg'):
    (tmp_path / name).touch()
  names, why = found(tmp_path)
  assert names == ['b.jpg']
  assert why['a.heic'] == (".heic files need a further package: pip install 'oldphoto_jax[heif]'")


def test_links_stay_inside_the_folder(tmp_path):
  root = tmp_path / 'root'
  for name in ('b.jpg', '.git/annex/objects/1.jpg', 'sub/c.jpg'):
    save(root / name)
  outside = save(tmp_path / 'outside/h.jpg')
  (root / 'annexed.jpg').symlink_to('.git/annex/objects/1.jpg')
  (root / 'dangling.jpg').symlink_to(root / 'nothing.jpg')
  (root / 'link.jpg').symlink_to(outside)
  (root / 'link').symlink_to(outside.parent)
  (root / 'loop').symlink_to(root)
  names, why = found(root)
  assert names == ['annexed.jpg', 'b.jpg', 'sub/c.jpg']
  assert why == {
    'dangling.jpg': 'it links to a file that is not there',
    'link.jpg': 'it links to a file outside of the folder',
    'link': 'links to folders are not followed',
    'loop': 'links to folders are not followed',
  }


def test_folders_of_the_system_and_results_of_oldphoto_are_left_out(tmp_path):
  save(tmp_path / 'a.jpg')
  for name in ('@eaDir/a.jpg/SYNOPHOTO_THUMB_M.jpg', '$RECYCLE.BIN/S-1/$RX.jpg', 'done/a.jpg'):
    save(tmp_path / name)
  (tmp_path / 'done/report.json').write_text('{\n  "software": "oldphoto_jax 0.1.0",')
  names, why = found(tmp_path)
  assert names == ['a.jpg']
  assert set(why) == {'@eaDir', '$RECYCLE.BIN', 'done'}
  # Given by name, the results are photos, but not their masks and sheets.
  save(tmp_path / 'done/masks/a.png', mask=True)
  save(tmp_path / 'done/before-after.html.png')
  names, why = found(tmp_path / 'done')
  assert names == ['a.jpg']
  assert set(why) == {'masks', 'before-after.html.png', 'report.json'}


def test_masks_are_no_photos(tmp_path):
  for name in ('album/a.jpg', 'album/sub/b.tif', 'beside/c.jpg', 'carnival/masks/d.jpg'):
    save(tmp_path / name)
  for name in ('album/masks/a.png', 'album/Masks/sub/b.png', 'beside/c.png'):
    save(tmp_path / name, mask=True)
  names, why = found(tmp_path)
  assert names == ['album/a.jpg', 'album/sub/b.tif', 'beside/c.jpg', 'carnival/masks/d.jpg']
  assert set(why.values()) == {'it is a mask of a photo'} and len(why) == 3


def test_two_photos_of_one_name_are_both_photos(tmp_path):
  names = ['a.jpg', 'a.tif', 'b.png', 'b.tif']
  for name in names:
    save(tmp_path / name, mask=name[0] == 'b')  # line drawings, perhaps
  assert found(tmp_path)[0] == names


def test_a_folder_that_cannot_be_listed_costs_nothing_but_itself(tmp_path, monkeypatch, caplog):
  save(tmp_path / 'a.jpg')
  locked = tmp_path / 'locked'
  save(locked / 'b.jpg')
  scandir = os.scandir

  def refuse(path):  # root may list anything
    if pathlib.Path(path) == locked:
      raise PermissionError(13, 'Permission denied', str(locked))
    return scandir(path)

  monkeypatch.setattr(os, 'scandir', refuse)
  photos = folders.find_photos([tmp_path])
  assert [name.as_posix() for _, name in photos] == ['a.jpg']
  assert f'skipped {locked}: the folder cannot be listed (Permission denied).' in caplog.text


def test_several_paths(tmp_path):
  for name in ('x/a.jpg', 'y/a.jpg', 'c.jpg'):
    save(tmp_path / name)
  paths = [tmp_path / 'x', tmp_path / 'y', tmp_path / 'c.jpg', tmp_path / 'y/a.jpg']
  names = [str(relative) for _, relative in folders.find_photos(paths, skip=tmp_path / 'out')]
  assert names == ['x/a.jpg', 'y/a.jpg', 'c.jpg']
  with pytest.raises(PhotoError, match='no such file or folder'):
    folders.find_photos([tmp_path / 'z'])
  (tmp_path / 'empty').mkdir()
  with pytest.raises(PhotoError, match='no photo found'):
    folders.find_photos([tmp_path / 'empty'])


def test_two_folders_or_files_of_one_name_are_told_apart(tmp_path):
  for name in ('d1/scans/1.jpg', 'd2/scans/1.jpg', 'd2/other/2.jpg'):
    save(tmp_path / name)
  paths = [tmp_path / 'd1/scans', tmp_path / 'd2/scans', tmp_path / 'd2/other']
  names = [name.as_posix() for _, name in folders.find(paths).photos]
  assert names == ['d1/scans/1.jpg', 'd2/scans/1.jpg', 'other/2.jpg']
  names = [name.as_posix() for _, name in folders.find([p / '1.jpg' for p in paths[:2]]).photos]
  assert names == ['d1/scans/1.jpg', 'd2/scans/1.jpg']


def test_a_folder_to_skip_is_not_entered(tmp_path):
  for name in ('a.jpg', 'out/a.jpg', 'drawn/a.png'):
    save(tmp_path / name)
  assert found(tmp_path, skip=[tmp_path / 'out', tmp_path / 'drawn'])[0] == ['a.jpg']
