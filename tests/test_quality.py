"""The tables of benchmarks/quality."""

import numpy as np
import pytest

from benchmarks.quality import claim, realism, summary


def _report(psnr, nothing=20.0):
  """A comparison of one system on four photos, with the same scores on each recipe."""
  photos = np.array([-3.0, -1.0, 1.0, 3.0])  # how much easier than others a photo is
  rows = {
    'do nothing': {'psnr': nothing + photos, 'squeezenet': [0.5] * 4},
    'pix2pix': {'psnr': psnr + photos, 'squeezenet': [0.4] * 4},
  }
  test = {'photos': list('abcd'), 'rows': {name: {'scores': row} for name, row in rows.items()}}
  return {'tests': dict.fromkeys(summary.TESTS, test)}


def test_an_interval_over_seeds_is_wider_than_over_photos_alone():
  scores = np.array([-3.0, -1.0, 1.0, 3.0])
  _, low, high = summary.interval(np.stack([scores] * 3))
  _, lower, higher = summary.interval(np.stack([scores + shift for shift in (-4, 0, 4)]))
  assert lower < low - 1 and higher > high + 1
  # Photos that are all alike leave the seeds, and the other way round.
  assert summary.interval(np.full((3, 4), 7.0)) == (7, 7, 7)


def test_differences_are_between_the_same_photos_and_seeds():
  table = summary.table([_report(24, 20), _report(30, 26)], 'do nothing')
  row = table.splitlines()[-1].split(' | ')
  # 4 dB more for every photo of every seed, though photos and seeds differ by more than that.
  assert row[0] == '| pix2pix' and row[1].startswith('27.00 [')
  assert row[1].endswith('; +4.00 [+4.00, +4.00]') and row[2] == '0.400'
  assert ';' not in table.splitlines()[2]  # the reference itself


def test_rows_that_were_restored_for_fewer_photos_say_so():
  report = _report(24)
  for test in report['tests'].values():
    test['rows']['pix2pix']['scores'] = {'psnr': [24.0, 26.0], 'squeezenet': [0.4, 0.4]}
  row = summary.table([report], 'pix2pix').splitlines()[2]
  assert row.startswith('| do nothing | 20.00 [') and '; -7.00 [-7.00, -7.00]' in row
  row = summary.table([report], 'do nothing').splitlines()[-1]
  assert row.startswith('| pix2pix (2 photos) | 25.00 [24.00, 26.00]; +7.00')


def test_real_damage_is_scored_inside_of_it_and_one_photo_has_no_interval():
  report = _report(24)
  scores = {'psnr': [40.0], 'psnr_inside': [30.0], 'squeezenet': [0.1]}
  rows = {name: {'scores': scores} for name in report['tests']['report']['rows']}
  report['tests']['real damage'] = {'photos': ['e'], 'rows': rows}
  header, _, row, _ = summary.table([report]).splitlines()
  assert header.endswith('| real damage: PSNR in it (dB) | distance |')
  assert row.startswith('| do nothing | 20.00 [') and row.endswith('| 30.00 | 0.100 |')


def test_the_gap_between_latents():
  rng = np.random.default_rng(0)
  ours, like, other = (rng.normal(shift, 1, (60, 4, 4, 3)) for shift in (0, 0, 2))
  told, distance = claim.gap(ours, like)
  assert told < 0.65 and distance < 0.05
  told, distance = claim.gap(ours, other)
  assert told > 0.95 and distance == pytest.approx(4, abs=0.4)  # 3 * 2^2 by a spread of 3


def test_the_table_of_the_claim_has_the_range_of_the_seeds():
  seed = dict.fromkeys(claim.COLUMNS, 1.0)
  rows = {'nothing': [{'told apart': 0.25}], 'shared': [seed, seed | {'distance': 3.0}]}
  lines = claim.table(rows).splitlines()
  assert lines[2].startswith('| nothing | 0.250 |  |')
  assert '| 2.000 [1.000, 3.000] |' in lines[3] and '| 1.00 [1.00, 1.00] |' in lines[3]


def test_the_area_under_the_curve_counts_pairs():
  low, high = np.array([0.0, 1.0]), np.array([0.5, 1.0, 2.0])
  assert realism.area_under_curve(low, high) == pytest.approx(4.5 / 6)
  assert realism.area_under_curve(low, low) == 0.5
