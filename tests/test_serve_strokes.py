"""Strokes and settings of the page: what they do to a photo, and to its mask."""

import dataclasses
import io

import numpy as np
import pytest
import serving_engine
import test_kinds
from PIL import Image
from serving_client import SETTINGS, add, draw, encoded, idle, one, restored, serving, stroke, until

from oldphoto_jax.restoring import finding
from oldphoto_jax.serving import brush


def test_strokes_mark_clear_and_protect(client):
  id = add(client)
  until(client, idle)
  before = serving_engine.photo()
  draw(
    client,
    id,
    stroke('clear', 0, 21.5, 45, 21.5, size=12),
    stroke('mark', 30, 40, 50, 40),
    stroke('protect', 40, 50, 80, 50, size=8),
    tone=0.0,
  )
  after = np.asarray(Image.open(io.BytesIO(restored(client, id).content)))
  assert (after[21, 60:75] == 128).all()  # the scratch is still filled here
  assert (after[21, 12:40] > 200).all()  # and here it is none: only cleaned
  assert (after[40, 31:50] == 128).all()  # marked by hand
  np.testing.assert_array_equal(after[47:53, 41:80], before[47:53, 41:80])
  assert (after[5] != before[5]).any()


def test_only_marks_by_hand_where_nothing_is_looked_for(client):
  id = add(client)
  until(client, idle)
  draw(client, id, stroke('mark', 30, 40, 50, 40), find=False, only_damage=True)
  before = serving_engine.photo()
  after = np.asarray(Image.open(io.BytesIO(restored(client, id).content)))
  changed = (after != before).any(-1)
  assert changed[39:41, 31:50].all()
  changed[37:44, 27:53] = False
  assert not changed.any()


def test_a_stroke_on_writing_erases_no_letters(client):
  """A search would take white paper for damage here; of writing, only what is drawn is filled."""
  page = np.repeat(test_kinds.page().pixels[..., :1], 3, -1)
  page = np.where(page > 200, np.uint8(255), page)
  id = add(client, data=encoded(page))
  assert one(until(client, idle))['looked']['kind'] == 'document'
  edits = draw(client, id, stroke('mark', 30, 40, 50, 40))
  shown = client.post(
    f'/api/photos/{id}/preview', json=edits | {'strokes': [stroke('mark', 30, 40, 50, 40)]}
  )
  after = np.asarray(Image.open(io.BytesIO(restored(client, id).content)))
  changed = (after != page).any(-1)
  assert changed[38:42, 32:48].all()
  changed[36:45, 26:54] = False
  assert not changed.any()
  shown = np.asarray(Image.open(io.BytesIO(shown.content))).astype(float)
  assert abs(shown[60:] - page[60:]).mean() < 10  # as JPEG changes edges


def test_what_was_only_found_is_believed_less_also_beside_strokes(tmp_path):
  trusted = []

  def engine():
    made = serving_engine.make()

    def run_fill(tile, marked):
      trusted.append(sorted(set(np.unique(marked)) - {0}))
      return made.run_fill(tile, marked)

    return dataclasses.replace(made, run_fill=run_fill)

  with serving(tmp_path, engine=engine) as client:
    id = add(client, data=encoded(serving_engine.photo(size=(120, 600))))
    until(client, idle)
    restored(client, id)
    assert {value for tile in trusted for value in tile} == {finding.TRUST}
    trusted.clear()
    draw(client, id, stroke('mark', 30, 80, 50, 80))
    restored(client, id)
  assert [finding.TRUST, 1.0] in trusted and [finding.TRUST] not in trusted


def test_a_changed_mask_runs_the_network_only_where_it_changed(tmp_path):
  count = [0]

  def tile():
    count[0] += 1

  with serving(tmp_path, engine=lambda: serving_engine.make(tile)) as client:
    id = add(client, data=encoded(serving_engine.photo(size=(300, 1000))))
    until(client, idle)
    draw(client, id, stroke('mark', 300, 200, 320, 200), stroke('mark', 980, 50, 985, 50))
    restored(client, id)
    before = count[0]
    draw(client, id, stroke('mark', 300, 200, 320, 200), stroke('mark', 980, 50, 985, 60))
    restored(client, id)
    assert count[0] == before + 1  # of three tiles
    assert before > 3


def test_two_windows_do_not_overwrite_each_other(client):
  id = add(client)
  edits = {'revision': 0, 'settings': SETTINGS, 'strokes': [stroke('mark', 1, 1)]}
  assert client.put(f'/api/photos/{id}/edits', json=edits).status_code == 200
  answer = client.put(f'/api/photos/{id}/edits', json=edits | {'strokes': []})
  assert answer.status_code == 409
  assert len(answer.json()['edits']['strokes']) == 1
  until(client, idle)


def test_settings_for_many_leave_strokes(client):
  ids = [add(client, f'{n}.png') for n in range(2)]
  draw(client, ids[1], stroke('mark', 1, 1))
  client.post('/api/apply', json={'ids': ids, 'settings': SETTINGS | {'tone': 0.25}})
  edits = [client.get(f'/api/photos/{id}/edits').json() for id in ids]
  assert [e['settings']['tone'] for e in edits] == [0.25, 0.25]
  assert [len(e['strokes']) for e in edits] == [0, 1]
  until(client, idle)


@pytest.mark.parametrize(
  'edits',
  [
    {},
    {'settings': SETTINGS | {'strength': 2}},
    {'settings': SETTINGS | {'strength': True}},
    {'settings': SETTINGS | {'more': 1}},
    {'settings': SETTINGS, 'strokes': 'x'},
    {'settings': SETTINGS, 'strokes': [{'kind': 'boom'}]},
    {'settings': SETTINGS, 'strokes': [stroke('mark', 1)]},
    {'settings': SETTINGS, 'strokes': [stroke('mark', 1, 'a')]},
    {'settings': SETTINGS, 'strokes': [stroke('mark', 1, 1e30)]},
    {'settings': SETTINGS, 'strokes': [stroke('mark', 1, 1, size=1e9)]},
    {'settings': SETTINGS, 'strokes': [stroke('mark', 1, 1, size=-1)]},
    {'settings': SETTINGS, 'revision': 'x'},
  ],
)
def test_edits_are_checked(client, edits):
  id = add(client)
  answer = client.put(f'/api/photos/{id}/edits', json=edits)
  assert answer.status_code == 422, answer.text
  for text in (b'', b'[', b'[1]', b'\xff', b'[' * 100_000):
    assert client.put(f'/api/photos/{id}/edits', content=text).status_code == 422
  assert client.get(f'/api/photos/{id}/edits').json()['revision'] == 0
  until(client, idle)


def test_strokes_are_discs_along_a_line():
  base = np.zeros((40, 60, 1), np.float32)
  base[30:] = 1
  drawn = brush.parse([stroke('mark', 10, 10, 40, 20, size=7)], (40, 60))
  mask, keep = brush.draw(base, drawn)
  y, x = np.mgrid[:40, :60] + 0.5
  along = np.clip(((x - 10) * 30 + (y - 10) * 10) / 1000, 0, 1)
  distance = np.hypot(x - 10 - 30 * along, y - 10 - 10 * along)
  assert mask[distance < 2.5].all()
  assert not mask[(distance > 4.5) & (y < 30)].any()
  assert mask[30:].all() and not keep.any()
  # At half the size, half the stroke.
  half, _ = brush.draw(np.zeros((20, 30, 1), np.float32), drawn, 0.5)
  assert half.sum() == pytest.approx((distance < 3.5).sum() / 4, rel=0.25)
  # The last stroke counts.
  for kinds, expected in (
    (('mark', 'protect'), (0, True)),
    (('protect', 'mark'), (1, False)),
    (('protect', 'clear'), (0, False)),
    (('mark', 'empty'), (0, False)),
  ):
    drawn = brush.parse([stroke(kind, 5, 5) for kind in kinds], (40, 60))
    mask, keep = brush.draw(base, drawn)
    assert (mask[5, 5, 0], keep[5, 5, 0]) == expected
    assert mask[35, 5, 0] == ('empty' not in kinds)
