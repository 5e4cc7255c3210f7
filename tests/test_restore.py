"""Folders in, folders out: originals safe, failures told, few programs for many sizes."""

import hashlib
import itertools
import json
import math
import os
from functools import partial

import jax.numpy as jnp
import numpy as np
import pytest
import tifffile
from PIL import Image

from oldphoto_jax.photos import images
from oldphoto_jax.restoring import engine, filling, restore, shapes, tiles


def random_array(*shape, dtype=np.uint8, seed=0):
  return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max + 1, shape, dtype)


def restorer(apply=lambda params, batch: batch * params, params=1.0, multiple=16):
  return engine.Restorer(apply, jnp.float32(params), multiple, 'test weights, sha256 0f')


def save(path, height=20, width=30, seed=0):
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.fromarray(random_array(height, width, 3, seed=seed)).save(path, lossless=True)
  return path


@pytest.fixture
def album(tmp_path):
  """Three photos, one of them broken, in two folders."""
  save(tmp_path / 'album/a.png', seed=1)
  save(tmp_path / 'album/sub/c.png', 40, 20, seed=2)
  (tmp_path / 'album/b.jpg').write_bytes(b'')
  return tmp_path / 'album'


def restore_photos(
  restorer,
  paths,
  out,
  overwrite=False,
  save_masks=False,
  tile=2048,
  overlap=64,
  strength=1.0,
  only_damage=False,
  **options,
):
  """As `oldphoto restore` does, in one call."""
  todo = restore.plan(paths, out, overwrite=overwrite, save_masks=save_masks)
  compiled = engine.compiled(restorer, todo.sizes, tile=tile, overlap=overlap)
  return restore.restore_photos(compiled, todo, restore.Wishes(strength, only_damage), **options)


def report(out):
  return json.loads((out / 'report.json').read_text())


def shown(folder):
  """The files in a folder, without the hidden one that keeps a second run away."""
  return sorted(name for name in os.listdir(folder) if not name.startswith('.'))


# Batches


def test_one_bad_file_is_told_and_the_rest_is_done(album, tmp_path):
  out = tmp_path / 'out'
  calls = []
  summary = restore_photos(
    restorer(), [album], out, progress=lambda done, total, result: calls.append((done, total))
  )
  assert [result.status for result in summary.results] == ['restored', 'failed', 'restored']
  assert (summary.exit_code, calls) == (1, [(1, 3), (2, 3), (3, 3)])
  assert shown(out) == ['a.png', 'report.csv', 'report.json', 'sub']
  for name in ('a.png', 'sub/c.png'):
    np.testing.assert_array_equal(images.read_rgb8(out / name), images.read_rgb8(album / name))

  told = report(out)
  assert told['weights'] == 'test weights, sha256 0f'
  assert (told['restored'], told['kept'], told['failed'], told['strength']) == (2, 0, 1, 1.0)
  good, bad, _ = told['photos']
  assert bad['message'] == f'{album / "b.jpg"}: the file is empty.'
  assert good['output'] == 'a.png'
  assert good['output_sha256'] == hashlib.sha256((out / 'a.png').read_bytes()).hexdigest()
  assert (good['size'], good['shape']) == ([20, 30], [128, 128])
  assert good['seconds'] > 0


def test_originals_are_untouched(album, tmp_path):
  def state():
    return [(p, p.read_bytes(), p.stat().st_mtime_ns) for p in album.rglob('*.*')]

  before = state()
  restore_photos(restorer(params=0.5), [album], tmp_path / 'out', overwrite=True)
  assert state() == before


def test_an_output_is_kept_unless_overwrite(album, tmp_path):
  out = tmp_path / 'out'
  restore_photos(restorer(), [album], out)
  first = (out / 'a.png').read_bytes()
  summary = restore_photos(restorer(params=0.5), [album], out)
  assert [result.status for result in summary.results] == ['kept', 'failed', 'kept']
  assert (out / 'a.png').read_bytes() == first
  assert report(out)['photos'][0]['output_sha256'] == hashlib.sha256(first).hexdigest()
  restore_photos(restorer(params=0.5), [album], out, overwrite=True)
  assert (out / 'a.png').read_bytes() != first


def test_an_interrupted_run_goes_on(album, tmp_path):
  out = tmp_path / 'out'

  def interrupt(done, total, result):
    raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    restore_photos(restorer(), [album], out, progress=interrupt)
  assert shown(out) == ['a.png', 'report.csv', 'report.json']
  assert report(out)['restored'] == 1
  summary = restore_photos(restorer(), [album], out)
  assert [result.status for result in summary.results] == ['kept', 'failed', 'restored']


def test_output_folder_inside_the_input_is_not_restored_again(album):
  for _ in range(2):
    summary = restore_photos(restorer(), [album], album / 'restored')
    assert len(summary.results) == 3
  assert not (album / 'restored/restored').exists()


def test_replacing_an_original_is_refused(album, tmp_path):
  content = (album / 'a.png').read_bytes()
  (tmp_path / 'link').symlink_to(album)
  os.makedirs(tmp_path / 'hard')
  os.link(album / 'a.png', tmp_path / 'hard/a.png')
  save(tmp_path / 'other/album/a.png')
  for paths, out in [
    ([album], album),
    ([album / 'a.png'], album),
    ([album], tmp_path / 'link'),
    ([album / 'sub/c.png', album], tmp_path),  # album/a.png -> a.png of the folder album
    ([tmp_path / 'other/album', album / 'a.png'], tmp_path),  # the first replaces the second
    ([album / 'a.png'], tmp_path / 'hard'),
  ]:
    with pytest.raises(images.PhotoError, match='would replace an original'):
      restore_photos(restorer(params=0), paths, out, overwrite=True)
  assert (album / 'a.png').read_bytes() == content
  assert not (album / 'report.json').exists()


def test_bad_output_folders_and_arguments_are_refused(album, tmp_path, monkeypatch):
  (tmp_path / 'file').touch()
  with pytest.raises(images.PhotoError, match='must be a folder'):
    restore_photos(restorer(), [album], tmp_path / 'file')
  with pytest.raises(images.PhotoError, match='cannot be made'):
    restore_photos(restorer(), [album], tmp_path / 'file/below')
  with pytest.raises(ValueError, match='strength'):
    restore_photos(restorer(), [album], tmp_path / 'out', strength=1.5)
  with pytest.raises(ValueError, match='overlap'):
    restore_photos(restorer(), [album], tmp_path / 'out', tile=128, overlap=65)
  monkeypatch.setattr(os, 'access', lambda *_: False)  # root may write anywhere
  with pytest.raises(images.PhotoError, match='cannot write to this folder'):
    restore_photos(restorer(), [album], tmp_path / 'out')


def test_names_that_nearly_collide(tmp_path):
  for name in ['a.png', 'a.webp', 'b.png', 'B.png']:
    save(tmp_path / 'in' / name)
  Image.fromarray(random_array(9, 9)).save(tmp_path / 'in/a.gif')
  out = tmp_path / 'out'
  summary = restore_photos(restorer(), [tmp_path / 'in'], out)
  reports = ['report.csv', 'report.json']
  assert shown(out) == ['B.png', 'a.gif.png', 'a.png', 'a.webp', *reports]
  assert 'written as a.gif.png' in summary.results[1].warnings[0]
  (failed,) = [result for result in summary.results if result.status == 'failed']
  assert failed.message.startswith(f'{tmp_path / "in/b.png"}: its output would have the same name')


def test_what_the_file_was_it_stays(tmp_path):
  alpha = random_array(20, 30, dtype=np.uint16)
  deep = images.Photo(random_array(20, 30, 3, dtype=np.uint16), alpha=alpha, dpi=(300.0, 300.0))
  gray = images.Photo(np.repeat(random_array(20, 30, 1), 3, -1), gray=True)
  (tmp_path / 'in').mkdir()
  images.write(deep, tmp_path / 'in/deep.png')
  images.write(gray, tmp_path / 'in/gray.png')
  tint = restorer(lambda params, batch: batch * params * jnp.array([1, 0.5, 0])[None, None, None])
  restore_photos(tint, [tmp_path / 'in'], tmp_path / 'out')
  new = images.read(tmp_path / 'out/deep.png')
  assert (new.bits, new.dpi) == (16, pytest.approx((300, 300), rel=1e-3))
  np.testing.assert_array_equal(new.alpha, alpha)
  np.testing.assert_array_equal(new.pixels[..., 0], deep.pixels[..., 0])
  assert Image.open(tmp_path / 'out/gray.png').mode == 'L'


def test_strength_blends(tmp_path):
  path = save(tmp_path / 'in/a.png')
  original = images.read_rgb8(path).astype(float)
  black = restorer(lambda params, batch: -jnp.ones_like(batch) * params)
  for strength in (0.0, 0.25, 1.0):
    restore_photos(black, [path], tmp_path / 'out', strength=strength, overwrite=True)
    blended = images.read_rgb8(tmp_path / 'out/a.png')
    assert np.abs(blended - (1 - strength) * original).max() <= 0.5 + 1e-4


@pytest.mark.parametrize('error', [MemoryError(), None])
def test_a_photo_that_cannot_be_restored_fails_alone(tmp_path, error):
  save(tmp_path / 'in/a.png')
  save(tmp_path / 'in/b.png', 200, 30)

  def apply(params, batch):
    if batch.shape[1] < 200:
      return batch
    if error:
      raise error
    return batch * jnp.nan

  summary = restore_photos(restorer(apply), [tmp_path / 'in'], tmp_path / 'out')
  assert [result.status for result in summary.results] == ['restored', 'failed']
  assert summary.results[1].message.startswith(str(tmp_path / 'in/b.png'))
  assert ('smaller tiles' if error else 'finite') in summary.results[1].message


# Shapes


def test_ten_sizes_take_four_programs(tmp_path):
  sizes = [(100, 150), (120, 90), (130, 190), (140, 60), (200, 300), (210, 310), (300, 200)]
  sizes += [(61, 63), (1, 1), (320, 260)]
  for i, size in enumerate(sizes):
    save(tmp_path / f'in/{i}.png', *size, seed=i)
  traced = []

  def apply(params, batch):
    traced.append(batch.shape)  # once a trace
    assert batch.dtype == jnp.float32
    return batch * params

  summary = restore_photos(restorer(apply, multiple=48), [tmp_path / 'in'], tmp_path / 'out')
  assert len(traced) == len(set(traced)) == 4
  assert all((batch, channels) == (1, 3) for batch, _, _, channels in traced)
  assert all(h % 48 == w % 48 == 0 for _, h, w, _ in traced)
  for i, (size, result) in enumerate(zip(sizes, summary.results)):
    assert result.size == size
    name = f'{i}.png'
    np.testing.assert_array_equal(
      images.read_rgb8(tmp_path / 'out' / name), images.read_rgb8(tmp_path / 'in' / name)
    )


def test_planned_shapes_hold_all_photos_with_little_padding():
  rng = np.random.default_rng(0)
  sizes = [tuple(size) for size in rng.integers(1, 1500, (40, 2)).tolist()]
  for count in (1, 3, 8):
    plan = shapes.plan(sizes, 16, max_shapes=count)
    assert len(plan.shapes) == count
    for size in sizes:
      shape = plan.shape(size)
      assert shape in plan.shapes
      assert shape[0] >= size[0] and shape[1] >= size[1]
  # Two like shapes are joined, not the odd one, and a common shape is not made to grow.
  sizes = [(256, 256)] * 9 + [(256, 320), (1024, 128)]
  two = lambda sizes: shapes.plan(sizes, 1, max_shapes=2).shapes
  assert two(sizes) == ((256, 320), (1024, 128))
  assert two(sizes[:10]) == ((256, 256), (256, 320))
  assert two([]) == ()


def test_buckets():
  assert [shapes.bucket(side, 1) for side in (1, 128, 129, 513, 2048, 2049)] == [
    128,
    128,
    192,
    640,
    2048,
    2560,
  ]
  assert shapes.bucket(129, 100) == 200
  ratios = [b / a for a, b in itertools.pairwise(shapes.LADDER)]
  assert max(ratios) <= 1.5
  assert shapes.needed((1000, 100), 16, 1000, 64) == (1024, 128)
  assert shapes.needed((3352, 2388), 16, 2048, 64) == (1728, 1248)  # two by two, not of 2048
  assert len(tiles.spans(3352, 1728, 64)) == len(tiles.spans(2388, 1248, 64)) == 2


def test_padding_reflects_and_repeats():
  padded = shapes.pad(np.arange(3.0).reshape(3, 1, 1), (9, 4))[:, :, 0]
  assert padded[:, 0].tolist() == [0, 1, 2, 1, 0, 1, 2, 1, 0]
  assert (padded == padded[:, :1]).all()


# Tiles


def test_a_large_photo_is_restored_in_tiles_of_one_shape(tmp_path):
  path = save(tmp_path / 'in/a.png', 700, 1300)
  traced = []

  def apply(params, batch):
    traced.append(batch.shape)
    return -batch * params

  restore_photos(restorer(apply), [path], tmp_path / 'out', tile=640, overlap=32)
  assert traced == [(1, 512, 512, 3)]  # two by three, not of 640
  np.testing.assert_array_equal(
    images.read_rgb8(tmp_path / 'out/a.png'), 255 - images.read_rgb8(path)
  )


def test_tiles_are_blended_without_a_seam():
  # Each tile answers with a constant of its own: only a blend can make that continuous.
  answers = iter([0.0, 1.0, 0.5])
  run = lambda batch: np.full_like(batch, next(answers))
  photo = np.zeros((128, 300, 3), np.float32)
  restored = engine.Tiled(shapes.plan([], 1, tile=128, overlap=32), '', run).restore(photo)
  assert restored.shape == photo.shape
  line = restored[0, :, 0]
  assert (line[0], line[150], line[-1]) == (0, 1, 0.5)
  assert np.abs(np.diff(line)).max() < 0.07
  np.testing.assert_array_equal(restored, np.broadcast_to(line[None, :, None], restored.shape))


@pytest.mark.parametrize(
  ('side', 'tile'), [(300, 128), (129, 128), (128, 128), (50, 128), (30, 32)]
)
def test_tiles_cover_every_pixel_and_overlap_enough(side, tile):
  spans = tiles.spans(side, tile, 32)
  assert (spans[0][0], spans[-1][1]) == (0, side)
  assert all(a_end - b_start >= 32 for (_, a_end), (b_start, _) in itertools.pairwise(spans))
  assert all(start % tiles.GRID == 0 for start, _ in spans)
  assert len(spans) <= (1 if side <= tile else math.ceil((side - 32) / (tile - 32)) + 1)


# Masks -------------------------------------------------------------------------------------------


def half_mask(path, photo):
  """The upper left quarter is damaged, its last column by half."""
  mask = np.zeros((*photo.size, 1), np.float32)
  mask[:10, :15] = 1
  mask[:10, 14] = 0.5
  return mask


def filler(around=1.0):
  """Makes photos half as strong, holes black, and `around` times as strong what is around them."""
  apply = lambda params, batch: batch * params
  one = lambda params, batch, holes: jnp.where(holes > 0, -1, batch * around) * (2 * params)
  fill = lambda *args: (one(*args),) * 2
  return engine.Restorer(apply, jnp.float32(0.5), 16, 'test', fill=fill)


def test_damage_is_filled_and_the_rest_restored(tmp_path):
  photo = save(tmp_path / 'a.png')
  before = images.to_float(images.read(photo))
  restore_photos(filler(0.75), [photo], tmp_path / 'out', mask=half_mask, strength=0.5)
  after = images.to_float(images.read(tmp_path / 'out/a.png'))
  assert (after[:10, :14] == -1).all()
  np.testing.assert_allclose(after[10:], 0.75 * before[10:], atol=1 / 127)
  np.testing.assert_allclose(after[:10, 14], -0.5 + 0.375 * before[:10, 14], atol=1 / 127)


def test_holes_are_filled_in_tiles_of_their_own_where_there_are_any():
  """Whatever the tiles of restoring are; a network that looks at a whole tile shows them."""
  photo = np.random.default_rng(0).uniform(-1, 1, (600, 300, 3)).astype(np.float32)
  mask = np.zeros((600, 300, 1), np.float32)
  mask[20:24, 10:290] = mask[560:590, 200:250] = 1
  seen = []

  def run_fill(tile, holes):
    seen.append((tile.shape, holes.shape))
    return (np.broadcast_to(tile.mean((1, 2), keepdims=True), tile.shape),) * 2

  def restored(tile):
    plan = shapes.plan([], 16, tile=tile, overlap=16)
    system = engine.Tiled(plan, '', lambda x: 0.9 * x, run_fill)
    return restore.restore_array(system, photo, mask).photo

  np.testing.assert_allclose(restored(tile=128), restored(tile=640), atol=1e-6)
  # Of the eight tiles of either photo, four have a hole.
  assert seen == [((1, 256, 256, 3), (1, 256, 256, 1))] * 8


def test_of_two_fillings_the_seeing_one_is_believed_where_they_agree():
  photo = np.random.default_rng(0).uniform(-0.5, 0.0, (128, 128, 3)).astype(np.float32)
  mask = np.zeros((128, 128, 1), np.float32)
  mask[40:50, 40:60] = mask[80:90, 40:60] = 1
  seeing = photo + 0.1
  seeing[80:90, 40:60] = 1  # an opaque tear
  run_fill = lambda tile, holes: (photo[None], seeing[None])
  system = engine.Tiled(shapes.plan([], 16), '', lambda x: x, run_fill)
  repaired = restore.restore_array(system, photo, mask).photo
  # Both fillings are moved to what is around the holes.
  np.testing.assert_allclose(repaired[40:50, 40:60], photo[40:50, 40:60], atol=0.02)
  np.testing.assert_allclose(repaired[80:90, 40:60], photo[80:90, 40:60], atol=0.1)
  near, far = filling.believe(np.zeros((1, 2, 3)), np.array([[[0.04] * 3, [2.0] * 3]]))[0]
  assert near[0] > 0.039 and abs(far[0]) < 1e-9


def test_tiles_of_large_holes_show_what_is_around_them():
  holes = np.zeros((3000, 900, 1), bool)
  holes[100:104] = True
  assert filling.tile_shape(holes) == (256, 256)
  holes[200:401, 300:501] = True  # the farthest pixel is 101 from the edge
  assert filling.tile_shape(holes) == (448, 448)
  assert filling.tile_shape(holes[:130]) == (192, 256)
  assert filling.tile_shape(holes[:130, :100]) == (192, 128)
  holes[100:2900, :899] = True
  assert filling.tile_shape(holes) == (2048, 1024)


@pytest.mark.parametrize('tile', [16, 2048])
@pytest.mark.parametrize('dtype', [np.uint8, np.uint16])
def test_only_damage_keeps_every_other_pixel(tmp_path, dtype, tile):
  pixels = random_array(20, 30, 3, dtype=dtype)
  path, out = tmp_path / 'a.png', tmp_path / 'out'
  images.write(images.Photo(pixels), path)
  summary = restore_photos(
    filler(), [path], out, mask=half_mask, only_damage=True, save_masks=True, tile=tile, overlap=4
  )
  after = images.read(out / 'a.png').pixels
  assert after.dtype == dtype
  saved = images.read_rgb8(out / 'masks/a.png')[..., 0]
  np.testing.assert_array_equal(after[saved == 0], pixels[saved == 0])
  assert (after[:10, :14] == 0).all() and (saved == 0).sum() == 20 * 30 - 150
  (result,) = summary.results
  assert (result.fields['damaged'], result.outputs['mask']) == (0.25, str(out / 'masks/a.png'))


@pytest.mark.parametrize('dtype', [np.uint8, np.uint16])
def test_kept_pixels_stay_to_the_level(dtype):
  photo = images.Photo(random_array(20, 32, 3, dtype=dtype))
  mask, keep = np.zeros((20, 32, 1), np.float32), np.zeros((20, 32, 1), bool)
  mask[:10], keep[5:15] = 1, True
  system = engine.compiled(filler(around=0.5))
  plain, _ = restore.restore_photo(system, photo, mask)
  kept, _ = restore.restore_photo(system, photo, mask, keep=keep)
  np.testing.assert_array_equal(kept.pixels[5:15], photo.pixels[5:15])
  np.testing.assert_array_equal(kept.pixels[:5], plain.pixels[:5])
  np.testing.assert_array_equal(kept.pixels[15:], plain.pixels[15:])
  assert (plain.pixels[5:15] != photo.pixels[5:15]).any(-1).mean() > 0.9


def test_systems_without_networks_for_holes_give_what_they_make_of_the_photo(tmp_path):
  """Which is moved to fit what is around it."""
  pixels = np.full((20, 30, 3), 200, np.uint8)
  pixels[:10, :15] = 100
  path = tmp_path / 'a.png'
  Image.fromarray(pixels).save(path)
  half = restorer(params=0.5)
  restore_photos(half, [path], tmp_path / 'out', mask=half_mask, only_damage=True)
  after = images.read_rgb8(tmp_path / 'out/a.png').astype(np.float32)
  halved = (pixels[:10, :14] - 127.5) / 2 + 127.5
  np.testing.assert_allclose(after[:10, :14], halved + (200 - 127.5) / 2, atol=0.6)
  np.testing.assert_array_equal(after[10:], 200)


def test_a_photo_without_damage_is_copied_and_a_jpeg_with_damage_says_what_moves(tmp_path):
  photo, out = save(tmp_path / 'a.jpg'), tmp_path / 'out'
  none = lambda path, photo: np.zeros((*photo.size, 1), np.float32)
  restore_photos(filler(), [photo], out, mask=none, only_damage=True)
  assert (out / 'a.jpg').read_bytes() == photo.read_bytes()
  summary = restore_photos(filler(), [photo], out, mask=half_mask, only_damage=True, overwrite=True)
  assert 'JPEG is compressed again' in summary.results[0].warnings[0]


def test_a_mask_of_the_whole_photo_is_refused_with_a_sentence(tmp_path):
  photo = save(tmp_path / 'a.png')
  everything = lambda path, photo: np.ones((*photo.size, 1), np.float32)
  summary = restore_photos(filler(), [photo], tmp_path / 'out', mask=everything)
  assert 'mask covers the whole photo' in summary.results[0].message
  with pytest.raises(ValueError, match='without masks there is no damage'):
    restore_photos(filler(), [photo], tmp_path / 'out', only_damage=True)


def test_every_page_gets_a_mask_of_its_own(tmp_path):
  pages = [random_array(20, 30, 3, seed=i) for i in range(2)]
  tifffile.imwrite(tmp_path / 'a.tif', pages[0], photometric='rgb')
  tifffile.imwrite(tmp_path / 'a.tif', pages[1], photometric='rgb', append=True)
  out = tmp_path / 'out'
  restore_photos(
    filler(), [tmp_path / 'a.tif'], out, mask=half_mask, only_damage=True, all_pages=True
  )
  restored = images.read(out / 'a.tif', all_pages=True)
  for page, before in zip((restored, *restored.pages), pages):
    assert (page.pixels[:10, :14] != before[:10, :14]).any()
    np.testing.assert_array_equal(page.pixels[10:], before[10:])


def test_a_saved_mask_that_was_corrected_by_hand_is_kept_and_told(tmp_path):
  photo, out = save(tmp_path / 'a.png'), tmp_path / 'out'
  again = partial(restore_photos, filler(), [photo], out, mask=half_mask, save_masks=True)
  assert not again().results[0].warnings
  (out / 'a.png').unlink()
  assert not again().results[0].warnings  # the same mask
  mask = out / 'masks/a.png'
  painted = images.read_rgb8(mask) * 0
  painted[2:5] = 255
  Image.fromarray(painted).save(mask)
  before = mask.read_bytes()
  (out / 'a.png').unlink()
  assert 'is kept' in again().results[0].warnings[0]
  assert mask.read_bytes() == before
  again(overwrite=True)
  assert mask.read_bytes() != before


def test_a_copy_that_another_shard_has_made_is_kept(tmp_path):
  photo, out = save(tmp_path / 'a.jpg'), tmp_path / 'out'

  def meanwhile(path, photo):
    out.mkdir(exist_ok=True)
    (out / 'a.jpg').write_bytes(path.read_bytes())
    return np.zeros((*photo.size, 1), np.float32)

  summary = restore_photos(filler(), [photo], out, mask=meanwhile, only_damage=True)
  assert summary.results[0].status == 'restored'


def test_a_hole_that_holds_a_whole_tile_is_filled_from_a_smaller_copy():
  """A tile of nothing but hole would show the network nothing."""
  seen = []

  def fill(tile, mask):
    seen.append(float(mask.mean()))
    known = tile[mask[..., 0] == 0]
    return np.where(mask > 0, known.mean(0) if len(known) else 0, tile), tile

  plan = shapes.plan([(640, 640)], 16, tile=128, overlap=16, max_shapes=1)
  system = engine.Repairing(plan, 'test', None, fill)
  photo = np.full((640, 640, 3), 0.5, np.float32)
  holes = np.zeros((640, 640, 1), np.float32)
  holes[:400, :400] = 1
  photo[:400, :400] = -1  # the bare scanner
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(shapes, 'LADDER', [128])
    filled = system.fill(photo, photo, holes)
  np.testing.assert_allclose(filled, 0.5, atol=1e-5)
  assert max(seen) < 1


@pytest.mark.parametrize(
  ('name', 'value'), [('strength', 1.5), ('tone', -0.1), ('find', 60.0), ('find', 0)]
)
def test_wishes_out_of_range_are_refused(name, value):
  with pytest.raises(ValueError, match=f'{name} is {value}; '):
    restore.Wishes(**{name: value})
