"""When in doubt, less: what is filled, and what is cleaned."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from oldphoto_jax.errors import PhotoError
from oldphoto_jax.restoring import detect, engine, finding, shapes, tiles


def _probability(*regions):
  """[30, 40, 1]: each region (rows, columns, value) on zeros."""
  probability = np.zeros((30, 40, 1), np.float32)
  for rows, columns, value in regions:
    probability[rows, columns] = value
  return probability


def test_wide_damage_is_found_on_a_smaller_copy_alike_by_detect_and_restore():
  # A network that sees only damage narrower than three pixels, white on black.
  def look_at(params, photos):
    rows = photos[..., :1].cumsum(1)
    narrow = rows[:, 3:] - rows[:, :-3] < 1  # not white in three rows
    return photos, (photos[..., :1] > 0) * jnp.pad(narrow, ((0, 0), (2, 1), (0, 0), (0, 0)))

  photo = np.full((320, 330, 3), -1, np.float32)
  photo[100:104] = 1
  restorer = engine.Restorer(None, None, 16, '', fill=look_at, look=look_at)
  found = engine.compiled(restorer).look(photo).probability
  assert found[101].max() == 0.5 and found[200].max() == 0  # the mean of 0 and 1
  detector = detect.Detector(lambda *args: look_at(*args)[1], None, 16, '', restorer)
  np.testing.assert_array_equal(detect.marker(detector)(photo), found)
  plain = dataclasses.replace(detector, system=None)
  assert detect.marker(plain)(photo)[101].max() == 0


def test_a_find_begins_and_ends_where_it_is_sure():
  faint_end = (slice(10, 11), slice(5, 30), 0.46), (slice(10, 11), slice(5, 12), 0.9)
  mask = finding.decide(_probability(*faint_end), 0.5)[..., 0]
  assert mask[9:12, 4:13].all() and mask.sum() == 3 * 9  # and a pixel around it
  assert finding.decide(_probability((slice(10, 12), slice(5, 30), 0.47)), 0.5).max() == 0


def test_the_likely_middle_of_a_lost_place_is_filled_with_it():
  edge, middle = (slice(5, 25), slice(10, 30), 0.9), (slice(9, 21), slice(14, 26))
  likely, sound = (
    finding.decide(_probability(edge, (*middle, value)), 0.5)[..., 0] for value in (0.25, 0.15)
  )
  assert likely[4:26, 9:31].all() and likely.sum() == 22 * 22
  assert sound[10:20, 15:25].max() == 0  # a frame of damage around a picture
  # Open to more than a quarter of its sides, it is no middle.
  beside = finding.decide(_probability(edge, (slice(5, 25), slice(20, 38), 0.25)), 0.5)[..., 0]
  assert beside[10, 15] == 1 and beside[10, 25:].max() == 0
  # The photo's edge bounds it as found pixels do.
  at_edge = finding.decide(
    _probability((slice(0, 20), slice(10, 30), 0.9), (slice(0, 12), slice(15, 25), 0.25)), 0.5
  )
  assert at_edge[0, 20, 0] == 1


def test_a_photo_without_evidence_of_damage_is_judged_strictly():
  weak = _probability((slice(2, 20), slice(2, 20), 0.7))
  assert finding.adapted(weak, 0.6) == pytest.approx(1 - finding.STRICTER * 0.4)
  assert finding.decide(weak, 0.6).max() == 0
  sure = weak.copy()
  sure[25, 5:15] = 0.95  # 10 of 1200 pixels
  assert finding.adapted(sure, 0.6) == pytest.approx(0.6)
  assert finding.decide(sure, 0.6)[5, 5, 0] == 1


def test_nothing_found_is_an_empty_mask():
  mask = finding.decide(_probability(), 0.5)
  assert mask.shape == (30, 40, 1) and mask.dtype == np.float32 and mask.max() == 0


def test_wide_places_stay_and_cracks_that_lead_to_them_do_not():
  mask = np.zeros((360, 400, 1), np.float32)
  mask[100:104, :150] = 1  # a crack
  mask[80:146, 150:230] = 1  # a place 66 pixels wide, more than a sixth of 360
  mask[:18] = 1  # a worn edge
  kept, sentence = finding.narrow(mask)
  assert kept[80:146, 150:230].max() == 0 and '60 pixels' in sentence
  assert kept[100:104, :120].all() and kept[:18].all()
  mask[80:90] = 0
  same, sentence = finding.narrow(mask)
  np.testing.assert_array_equal(same, mask)
  assert not sentence


@pytest.mark.parametrize('radius', [38, 50, 90])
def test_a_round_place_stays_without_a_rim_of_blocks(radius):
  rows, columns = np.mgrid[:300, :450]
  blob = np.hypot(rows - 150, columns - 225) <= radius
  crack = np.zeros_like(blob)
  crack[149:152] = True
  kept = finding.narrow((blob | crack)[..., None].astype(np.float32))[0][..., 0] > 0
  assert not (kept & blob).any()
  assert kept[149:152, :98].all() and kept[149:152, 352:].all()


def test_pieces_that_filling_hardly_changes_are_left_out():
  photo = np.zeros((30, 40, 3), np.float32)
  mask = _probability((slice(2, 6), slice(2, 6), 1.0), (slice(20, 24), slice(20, 24), 1.0))
  filled = photo.copy()
  filled[2:6, 2:6] += 0.5
  filled[20:24, 20:24] += 0.01
  kept = finding.worth_filling(photo, filled, mask)
  assert kept[2:6, 2:6].all() and kept[20:24, 20:24].max() == 0
  assert finding.worth_filling(photo, filled, np.zeros_like(mask)).max() == 0


def test_a_sound_photo_needs_no_cleaning_and_a_noisy_one_all_of_it():
  rng = np.random.default_rng(0)
  photo = rng.uniform(-0.5, 0.5, (90, 80, 3)).astype(np.float32)
  noisy = photo + rng.normal(0, 0.12, photo.shape).astype(np.float32)
  assert finding.need(photo, photo) == 0 and finding.need(photo, noisy) == 1
  textured = noisy.copy()
  textured[:32] = photo[:32]  # most of it changes a lot, but not all: no sign of noise
  assert finding.need(photo, textured) == 0
  framed, mended = photo.copy(), noisy.copy()
  framed[:32], mended[:32] = 1, 1  # nor is a white border one of its absence
  assert finding.need(framed, mended) == 1
  assert finding.need(photo[:12], photo[:12]) == 1  # too small to tell


def test_a_broken_network_is_told_and_gives_no_copies():
  photo = np.zeros((64, 64, 3), np.float32)
  broken = photo.copy()
  broken[5, 5] = np.nan
  with pytest.raises(PhotoError, match='not finite; check its weights'):
    finding.need(photo, broken)


def test_a_cleaner_is_believed_earlier():
  photo = np.zeros((64, 96, 3), np.float32)
  amounts = [
    finding.need(photo, photo + by / 127.5, finding.NEEDED_OF_CLEANER) for by in (0.3, 0.6, 0.9)
  ]
  np.testing.assert_allclose(amounts, (0, 0.5, 1), atol=1e-3)
  assert finding.need(photo, photo + 1.45 / 127.5) == 0


def test_small_copies_share_one_look_and_see_their_own_reflection():
  rng = np.random.default_rng(0)
  copies = [rng.uniform(size=(*size, 3)).astype(np.float32) for size in ((425, 300), (212, 150))]
  whole, places = shapes.together(copies, (896, 640))
  assert whole.shape == (896, 640, 3)
  for copy, (rows, columns) in zip(copies, places):
    np.testing.assert_array_equal(whole[rows, columns], copy)
    assert rows.start % tiles.GRID == 0 and columns.start == 0
    around = range(-shapes.GAP, copy.shape[0] + shapes.GAP)
    mirrored = np.pad(copy, ((shapes.GAP,) * 2, (0, 0), (0, 0)), 'reflect')
    inside = [i for i, row in enumerate(around) if 0 <= rows.start + row < 896]
    at = [rows.start + around[i] for i in inside]
    np.testing.assert_array_equal(whole[at, : copy.shape[1]], mirrored[inside])
  beside, places = shapes.together([copy.swapaxes(0, 1) for copy in copies], (640, 896))
  np.testing.assert_array_equal(beside, whole.swapaxes(0, 1))
  assert shapes.together(copies, (640, 400)) is None  # no room


def test_one_shape_serves_a_large_photo_and_its_copies():
  sizes = [(3352, 2388), (1676, 1194), (838, 597)]
  assert finding.copies(sizes[0]) == sizes[1:]
  plan = shapes.plan(sizes[:1], 16, tile=1024, overlap=32, copies=finding.copies)
  ((height, width),) = plan.shapes
  assert all(plan.shape(size) == (height, width) for size in sizes)
  covered = lambda h, w: sum(
    h * w * len(tiles.spans(size[0], h, 32)) * len(tiles.spans(size[1], w, 32)) for size in sizes
  )
  sides = range(512, 1025, 32)
  assert covered(height, width) == min(covered(h, w) for h in sides for w in sides)


def test_a_finder_alone_decides_at_all_sizes():
  """The first network takes all that is bright for damage, the finder only what is white."""
  from oldphoto_jax.restoring import restore

  photo = np.full((310, 320, 3), -0.5, np.float32)
  photo[50:60, 40:90] = 1.0  # a scratch
  photo[150:158, 40:90] = 0.6  # a bright ribbon
  looked, sought = [], []

  def run_look(tile):
    looked.append(tile.shape)
    return tile, (tile[..., :1] > 0.5) * np.float32(0.9)

  def run_find(tile):
    sought.append(tile.shape)
    return (tile[..., :1] > 0.8).astype(np.float32)

  def run_fill(tile, holes):
    return np.where(holes > 0, np.float32(0), tile), None

  plan = shapes.plan((), 16, tile=512)
  system = engine.Repairing(plan, 'fake', run_look, run_fill, run_find=run_find)
  assert finding.copies((310, 320)) == [(155, 160), (620, 640)]
  probability = system.look(photo).probability[..., 0]
  assert len(looked) == 1  # it cleans, as there is no cleaner
  assert len(sought) == 1 + 1 + 9  # the photo, its half, and tiles of it twice as large
  np.testing.assert_allclose(probability[53:57, 45:85], 1, atol=0.01)
  assert probability[145:165].max() == 0
  for only in (False, True):
    done = restore.restore_array(system, photo, None, restore.Wishes(1.0, only, find=0.55))
    assert done.mask[51:59, 41:89].min() == 1 and done.mask[150:158].max() == 0
    np.testing.assert_array_equal(done.photo[52:58, 42:88], 0)
    sound = done.mask[..., 0] == 0  # nothing else moves: this network cleans nothing
    np.testing.assert_array_equal(done.photo[sound], photo[sound])


def test_fine_damage_of_a_small_photo_is_found_at_twice_its_size():
  """By a network that sees lines from two pixels on."""

  def run_find(tile):
    bright = tile[:, :, :, :1] > 0
    return (bright & np.roll(bright, 1, 1)).astype(np.float32)

  def looked(side):
    photo = np.full((side, side, 3), -1, np.float32)
    photo[100] = 1  # a crack, one pixel wide
    plan = shapes.plan((), 16, tile=1024)
    system = engine.Repairing(plan, 'fake', lambda tile: (tile, tile), None, run_find=run_find)
    return system.look(photo).probability[..., 0]

  small, large = looked(finding.SMALL), looked(finding.SMALL + 1)
  assert small[100].min() > 0.1 and large.max() == 0
  assert small[:98].max() == small[103:].max() == 0
  assert finding.copies((finding.SMALL, 900)) == [(200, 450), (2 * finding.SMALL, 1800)]
  assert finding.copies((finding.SMALL + 1, 900)) == [(200, 450)]


def test_what_is_found_only_on_a_larger_copy_is_no_evidence_of_damage():
  sure, none = np.full((200, 200, 1), 1, np.float32), np.zeros((200, 200, 1), np.float32)
  # At full size, on smaller copies, on the larger one, and whether that is evidence.
  cases = [
    (sure, sure, none, True),
    (sure, None, sure, True),
    (sure, none, sure, False),
    (none, sure, sure, False),
    (0.7 * sure, None, sure, False),
  ]
  for full, smaller, larger, evidence in cases:
    found = finding.joined(full, smaller, larger)
    assert bool((found >= finding.SURE).all()) == bool((found >= finding.SURE).any()) == evidence
    strict = finding.adapted(found, finding.THRESHOLD) > finding.THRESHOLD
    assert strict != evidence
  likely = finding.joined(0.7 * sure, None, sure)
  assert likely.min() > finding.THRESHOLD  # where others are evidence, it is damage
  np.testing.assert_array_equal(finding.joined(sure, none, None), 0.5 * sure)


def test_a_search_that_failed_leaves_nothing_filled():
  from oldphoto_jax.restoring import restore

  photo = np.where(np.indices((200, 220)).sum(0)[..., None] % 3, 1.0, -0.5)
  photo = np.repeat(photo.astype(np.float32), 3, -1)

  def run_look(tile):
    return 0.9 * tile, (tile[..., :1] > 0).astype(np.float32)

  def run_fill(tile, holes):
    return np.where(holes > 0, np.float32(0), tile), None

  system = engine.Repairing(shapes.plan((), 16, tile=512), 'fake', run_look, run_fill)
  done = restore.restore_array(system, photo, None, restore.Wishes(find=0.55))
  assert done.mask.max() == 0 and 'looked like damage' in done.notes[0]
  assert np.abs(done.photo).min() > 0.35  # the filling is 0
