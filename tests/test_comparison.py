"""The comparison: its statistics, what an interrupted one keeps, its rows, what it writes."""

import dataclasses
import json
import pathlib
import sys

import jax
import numpy as np
import pytest
from PIL import Image

from oldphoto_jax import data, weights
from oldphoto_jax.data import prints
from oldphoto_jax.dip.networks import Skip
from oldphoto_jax.dip.prior import Dip
from oldphoto_jax.errors import UserError, WeightsError
from oldphoto_jax.evaluation import tables
from oldphoto_jax.evaluation.judge import (
  METRICS,
  Judge,
  extra_scores,
  load_judge,
  missing_columns,
  score,
)
from oldphoto_jax.evaluation.results import compare, evaluate
from oldphoto_jax.evaluation.rows import Row, Test, Training, classical, moved, noise, nothing
from oldphoto_jax.metrics import psnr_ssim
from oldphoto_jax.models import pix2pix
from oldphoto_jax.restoring import engine, finding, restore
from oldphoto_jax.systems import build
from oldphoto_jax.systems import comparison as system
from oldphoto_jax.training import train

ROOT = pathlib.Path(__file__).resolve().parent.parent

# Statistics


def test_the_bootstrap_of_two_photos_is_known():
  # Means of two draws out of {0, 1}: 0, 1/2, 1 with probabilities 1/4, 1/2, 1/4.
  assert tables.bootstrap([0, 1], 0, 2000) == tables.Mean(0.5, 0.0, 1.0, 2)


def test_the_bootstrap_of_many_photos_is_near_the_normal_interval():
  values = np.random.default_rng(1).normal(3, 2, 400)
  found = tables.bootstrap(values, 0, 10_000)
  half = 1.96 * values.std() / 20
  assert found.mean == pytest.approx(values.mean())
  assert (found.low, found.high) == pytest.approx((found.mean - half, found.mean + half), abs=0.02)
  assert found == tables.bootstrap(values, 0, 10_000) != tables.bootstrap(values, 1, 10_000)


def test_photos_without_a_value_do_not_count():
  assert tables.bootstrap([np.nan, 2, np.inf], 0, 100) == tables.Mean(2.0, None, None, 1)
  assert tables.bootstrap([np.nan], 0, 100) == tables.Mean(None, None, None, 0)


def test_differences_are_paired():
  # Photos differ by tens of dB, the two rows by half a dB: only pairs show it.
  photos = np.linspace(10, 40, 30)
  found = tables.difference(photos[:20] + 0.5, photos, 0, 1000)
  assert (found.mean, found.low, found.high, found.n) == pytest.approx((0.5, 0.5, 0.5, 20))
  assert tables.improved(np.array([1.0, 2.0, 3.0]), np.array([1.0, 1.0, 4.0, 0.0])) == 1


def test_the_noise_of_a_photo_is_found():
  rng = np.random.default_rng(0)
  ramp = np.linspace(-1, 1, 120)[:, None, None] * np.ones((120, 131, 3))
  noisy = ramp + rng.normal(0, 0.1, ramp.shape)
  assert noise(noisy) == pytest.approx(0.1, rel=0.03)
  assert noise(ramp) == pytest.approx(0, abs=1e-12)


# Results


def a_test(n=3, size=24, truth=True):
  rng = np.random.default_rng(0)
  clean = [rng.integers(0, 256, (size, size, 3), np.uint8) for _ in range(n)]
  old = [np.clip(x.astype(int) + rng.integers(-40, 41, x.shape), 0, 255) for x in clean]
  mask = np.zeros((size, size, 1), np.float32)
  mask[3:6, 4:20] = 1
  old = [np.where(mask == 1, 255, x).astype(np.uint8) for x in old]
  names = [f'{i}.png' for i in range(n)]
  if not truth:
    return Test('old', names, old, reference=clean)
  return Test('report', names, old, clean, [mask] * n)


JUDGE = Judge(None, None, None, 'no files')


class Halfway:
  """Restores half of the way to mid gray, and counts."""

  def __init__(self):
    self.calls, self.weights = 0, []

  def open(self):
    return self.restore

  def restore(self, photo, weight):
    self.calls += 1
    self.weights.append(weight)
    return photo / 2

  def row(self, **fields):
    return Row(**{'label': 'half', 'open': self.open, 'identity': 'one'} | fields)


def run_row(row, test, folder, stop=lambda: False, pictures=2):
  return evaluate(
    row, test, JUDGE, folder, pictures=pictures, commit='c', opened=row.open, stop=stop
  )


def test_scores_are_of_8_bits_against_the_truth(tmp_path):
  test = a_test()
  found = run_row(Halfway().row(), test, tmp_path)
  restored = np.round(127.5 * ((test.old[1] / 127.5 - 1) / 2 + 1))
  np.testing.assert_array_equal(found.pictures[1], restored)
  error = (restored - test.truth[1]) ** 2
  inside = test.mask[1][..., 0] == 1
  for name, squares in (
    ('psnr', error),
    ('psnr_inside', error[inside]),
    ('psnr_outside', error[~inside]),
  ):
    assert found.scores[name][1] == pytest.approx(10 * np.log10(255**2 / squares.mean()), abs=1e-3)
  assert set(found.scores) == {'psnr', 'ssim', 'psnr_inside', 'psnr_outside'}
  assert found.photos == 3 and np.isfinite(found.seconds).all()


def test_what_is_known_is_not_restored_again(tmp_path):
  test, first, second = a_test(), Halfway(), Halfway()
  before = run_row(first.row(), test, tmp_path)
  after = run_row(second.row(), test, tmp_path)
  assert first.calls == 4  # the first call compiles, so it is timed anew
  assert second.calls == 0
  for name in before.scores:
    np.testing.assert_array_equal(before.scores[name], after.scores[name])
  np.testing.assert_array_equal(before.pictures, after.pictures)
  # A picture that was lost: only that photo.
  next(tmp_path.rglob('*.png')).unlink()
  again = Halfway()
  run_row(again.row(), test, tmp_path)
  assert again.calls == 2


def test_other_weights_photos_or_scores_are_restored_again(tmp_path):
  run_row(Halfway().row(), a_test(), tmp_path)
  for row, test in (
    ((half := Halfway()).row(identity='two'), a_test()),
    ((half2 := Halfway()).row(), dataclasses.replace(a_test(), truth=a_test().old)),
  ):
    run_row(row, test, tmp_path)
  assert half.calls == half2.calls == 4


def test_an_interrupted_comparison_goes_on(tmp_path):
  test, half = a_test(), Halfway()
  with pytest.raises(train.Stopped):
    run_row(half.row(), test, tmp_path, stop=lambda: half.calls >= 3)
  assert half.calls == 3  # two photos
  rest = Halfway()
  found = run_row(rest.row(), test, tmp_path)
  assert rest.calls == 2  # the third, and its repetition
  whole = run_row(Halfway().row(), test, tmp_path / 'other')
  np.testing.assert_array_equal(found.scores['psnr'], whole.scores['psnr'])


def test_a_broken_file_of_results_is_made_anew(tmp_path):
  run_row(Halfway().row(), a_test(), tmp_path)
  next(tmp_path.rglob('scores.json')).write_text('{"cut o')
  half = Halfway()
  run_row(half.row(), a_test(), tmp_path)
  assert half.calls == 4


def test_a_row_is_told_the_mask_only_if_it_is_to_be(tmp_path):
  blind, told = Halfway(), Halfway()
  run_row(blind.row(), a_test(), tmp_path)
  run_row(told.row(label='told', masked=True), a_test(), tmp_path)
  assert blind.weights == [None] * 4
  weight = told.weights[0]
  assert weight.shape == (24, 24, 1) and (weight == a_test().mask[0]).all()
  everywhere = dataclasses.replace(a_test(), mask=[np.ones((24, 24, 1), np.float32)] * 3)
  lost = Halfway()
  run_row(lost.row(label='lost', masked=True), everywhere, tmp_path)
  assert lost.weights == [None] * 4


def test_a_row_that_gives_no_photo_is_an_error(tmp_path):
  for bad in (lambda photo: photo * np.nan, lambda photo: photo[:5]):
    row = Row('bad', lambda bad=bad: lambda photo, weight: bad(photo), 'bad')
    with pytest.raises(WeightsError, match=r'for 0\.png'):
      run_row(row, a_test(), tmp_path)
  assert not list(tmp_path.rglob('scores.json'))


# Tables


def compared(tmp_path, tests):
  rows = [nothing(), Halfway().row(limit=2), Halfway().row(label='told', masked=True)]
  results = compare(rows, tests, JUDGE, tmp_path, pictures=2, commit='c')
  extra = {test.name: extra_scores(test, JUDGE) for test in tests}
  return results, tables.report(rows, tests, results, extra, 'told', 0, 100)


def test_the_report_and_its_tables(tmp_path):
  tests = [a_test(), a_test(truth=False)]
  results, report = compared(tmp_path, tests)
  rows = report['tests']['report']['rows']
  assert list(rows) == ['do nothing', 'half', 'told']
  assert rows['half']['photos'] == 2 and rows['told']['photos'] == 3
  pairs = rows['half']['minus told']['psnr']  # the same photos, restored alike
  assert (pairs['mean'], pairs['low'], pairs['high'], pairs['n']) == (0, 0, 0, 2)
  assert 'minus told' not in rows['told'] and 'improved' not in rows['do nothing']
  # Of photos without truth no row is told a mask, and there is nothing to be better than.
  assert list(report['tests']['old']['rows']) == ['do nothing', 'half']
  assert report['tests']['old']['rows']['half']['means'] == {}
  json.dumps(report, allow_nan=False)
  text = tables.markdown(tables.tables(report))
  line = next(line for line in text.splitlines() if line.startswith('| half | 2 | '))
  mean = rows['half']['means']['psnr']
  assert f'| {mean["mean"]:.2f} [{mean["low"]:.2f}, {mean["high"]:.2f}] |' in line
  assert 'MS-SSIM' not in text and 'NIQE' not in text  # not measured at 24 pixels, without files
  assert tables.grid(tests[0], results['report'], 2).ndim == 3
  # Two photos of the row 'half', an empty place for the third.
  assert tables.grid(tests[0], results['report'], 3).shape[0] > 3 * 24


# Rows


def test_the_classical_rows_remove_noise_and_lines():
  rng = np.random.default_rng(0)
  clean = np.linspace(-0.8, 0.8, 60)[:, None, None] * np.ones((60, 60, 3))
  old = (clean + rng.normal(0, 0.05, clean.shape)).astype(np.float32)
  old[28:31] = 1
  weight = np.zeros((60, 60, 1), np.float32)
  weight[27:32] = 1
  error = lambda photo, part=slice(None): np.abs(photo - clean)[part].mean()
  blind = classical(False).open()(old, None)
  told = classical(True).open()(old, weight)
  assert error(blind, slice(0, 20)) < 0.5 * error(old, slice(0, 20))
  assert error(blind, slice(28, 31)) > 0.5 > 0.1 > error(told, slice(28, 31))
  flat = np.zeros((20, 20, 3), np.float32)
  np.testing.assert_array_equal(classical(False).open()(flat, None), flat)


@pytest.fixture(scope='module')
def tiny(tmp_path_factory):
  """A run's folder with weights of a small pix2pix, and what its training logged."""
  sys.path.insert(0, str(ROOT))
  try:
    from configs import pix2pix as recipe
  finally:
    sys.path.pop(0)
  config = recipe.get_config('tiny')
  model = system.pix2pix.model(config)
  rng, shapes = np.random.default_rng(0), jax.eval_shape(lambda key: pix2pix.init(model, key), KEY)
  params = jax.tree.map(
    lambda s: rng.normal(0, 0.05, s.shape).astype(np.float32) ** 2, shapes.released
  )
  folder = tmp_path_factory.mktemp('run')
  found = weights.Weights('pix2pix', pix2pix.sizes(model), params)
  weights.save(folder / weights.FILE, found, card={'run': config.to_json()})
  (folder / 'pix2pix').mkdir()
  lines = [{'step': 2, 'images_per_second': 4.0}, {'step': 2, 'eval_psnr': 1.0}]
  lines += [{'step': 5, 'images_per_second': 8.0}]
  text = ''.join(json.dumps(line) + '\n' for line in lines)
  (folder / 'pix2pix' / 'metrics.jsonl').write_text(text)
  return folder


KEY = jax.random.key(0)


def config_of(*changes, variant='smoke'):
  sys.path.insert(0, str(ROOT))
  try:
    from configs import comparison as recipe
  finally:
    sys.path.pop(0)
  config = recipe.get_config(variant)
  config.update_from_flattened_dict(dict(changes))
  return config


def test_the_row_of_a_system_that_cannot_fill_is_one(tiny):
  (row,) = system.weights_rows('mine', tiny, system._programs)
  assert row.label == 'mine' and not row.masked
  assert row.training == Training(20, 2 * 4 / 4 + 3 * 4 / 8, 'sample photos', 'report', 32, '')
  params = weights.load(tiny).params
  assert row.parameters == sum(leaf.size for leaf in jax.tree.leaves(params['params']))


def test_weights_out_of_their_run_tell_the_planned_length(tiny, tmp_path):
  file = tmp_path / 'w.safetensors'
  file.write_bytes((tiny / weights.FILE).read_bytes())
  (row,) = system.weights_rows('mine', file, system._programs)
  assert (row.training.images, row.training.seconds) == (6 * 4, None)
  # Of several recipes by their shares, as repair has them.
  run = json.loads(weights.read(tiny).card['run'])
  run |= {'shares': {'worn': 0.5, 'print': 0.0, 'sound': 0.5}}
  del run['recipe']
  weights.save(file, weights.load(tiny), card={'run': json.dumps(run)})
  (row,) = system.weights_rows('mine', file, system._programs)
  assert row.training.recipe == 'worn + sound'
  # Of several runs, of which the last one cannot speak for all.
  weights.save(file, weights.load(tiny), card={'run': json.dumps(run), 'sources': 'its list'})
  (row,) = system.weights_rows('mine', file, system._programs)
  assert (row.training.images, row.training.photos) == (None, 'its list')
  weights.save(file, weights.load(tiny), card={})
  (row,) = system.weights_rows('mine', file, system._programs)
  assert row.training == Training()


def test_the_row_of_repair_looks_for_damage_as_the_command_does():
  shipped = weights.SHIPPED
  rows = {row.label: row for row in system.weights_rows('repair', shipped, system._programs)}
  masked = {'repair': False, 'repair, --tone 0': False}
  masked |= {f'{label}, true mask': True for label in masked}
  assert {label: row.masked for label, row in rows.items()} == masked
  assert len({row.identity for row in rows.values()}) == 2  # kept scores are of these defaults
  assert f'find {finding.THRESHOLD}' in rows['repair'].identity
  photo = data.sample_photos()[0][:256, :256].astype(np.float32) / 127.5 - 1
  photo += np.random.default_rng(0).normal(0, 0.12, photo.shape).astype(np.float32)
  photo[20:240:55, :] = 1  # white lines in noise, as in the recipe report
  restorer = weights.load_restorer(shipped)
  done = restore.restore_array(engine.compiled(restorer), photo, None, restore.usual(restorer))
  assert done.mask.any()
  np.testing.assert_array_equal(rows['repair'].open()(photo, None), done.photo)


# Real damage


def _prints(sides=((90, 120), (100, 90), (40, 200), (96, 96))):
  """Prints of one gray each, the second and the last one with a white scratch."""
  photos = [np.full((*side, 3), 40 + 30 * i, np.uint8) for i, side in enumerate(sides)]
  labels = [np.zeros(side, np.uint8) for side in sides]
  for i in (1, 3):
    photos[i][50:52, 8:40] = 250 - i
    labels[i][50:52, 8:40] = prints.DAMAGED
  labels[0][:, :30] = prints.IGNORED
  return prints.Prints([f'print{i}' for i in range(len(sides))], photos, labels)


def test_real_damage_is_moved_to_sound_places_whose_truth_is_known():
  labelled = _prints()
  test = moved(labelled, 64)
  assert test.photos == ['print0', 'print1', 'print3']  # the third one is too small
  for name, old, truth, mask in zip(test.photos, test.old, test.truth, test.mask):
    assert old.shape == truth.shape == (64, 64, 3) and mask.shape == (64, 64, 1)
    assert old.dtype == truth.dtype == np.uint8 and 40 <= mask.sum() <= 64
    inside = mask[..., 0] > 0
    np.testing.assert_array_equal(old[~inside], truth[~inside])
    own = 40 + 30 * int(name[-1])
    assert (truth[inside] == own).all()
    # The damage of the next print that has any.
    assert (old[inside] == {'print0': 249, 'print1': 247, 'print3': 249}[name]).all()
  again, other = moved(labelled, 64), moved(labelled, 64, seed=1)
  assert [test.digest(i) for i in range(3)] == [again.digest(i) for i in range(3)]
  assert [test.digest(i) for i in range(3)] != [other.digest(i) for i in range(3)]


def test_the_host_is_the_most_sound_square(tmp_path):
  labelled = _prints()
  labelled.photos[0][:, :30] = 5  # not sound
  assert moved(labelled, 80).truth[0].min() == 40
  with pytest.raises(UserError, match='no room on any print'):
    system._moved(config_of(('evaluate.crop', 500), *_written(labelled, tmp_path)))


def _written(labelled, folder):
  """The settings for these prints, written into two folders."""
  for kind in 'labels', 'photos':
    (folder / kind).mkdir()
    for name, levels in zip(labelled.names, getattr(labelled, kind)):
      Image.fromarray(levels).save(folder / kind / f'{name}.png')
  return ('data.labels_test', str(folder / 'labels')), ('data.prints_test', str(folder / 'photos'))


def test_all_systems_share_photos_budget_and_seed():
  photos = (('data.photos', '/p'), ('data.old', '/o'))
  config = config_of(('seed', 7), ('images', 600), ('data.flip', 0.25), *photos)
  for name in ('pix2pix', 'cyclegan', 'triplet'):
    own = system.own_config(config, name)
    assert (own.seed, own.recipe, own.data.crop) == (7, 'report', 32)
    assert (own.data.flip, own.data.photos) == (0.25, '/p')
    assert own.data.old == ('/o' if name == 'triplet' else '')
    assert own.workdir == f'runs/comparison_smoke/{name}'
    stages = build.stage_names(own)
    assert len(stages) == (4 if name == 'triplet' else 1)
    assert sum(own[s].steps * own[s].batch_size for s in stages) == pytest.approx(600, abs=12)
  assert own.mapping_masked.recipe == own.fusion.recipe == 'report'
  assert config.systems.pix2pix.data.flip == 0.5  # the config itself is left as it was
  own = system.own_config(config_of(('images', 0)), 'cyclegan')
  assert own.cyclegan.steps == config.systems.cyclegan.cyclegan.steps


def test_deep_image_prior_is_a_fit_a_photo():
  config = config_of(('evaluate.dip_masked', True))
  blind, told = system._dip_rows(config, 'dip')
  assert (blind.label, told.label, told.masked) == ('dip', 'dip, true mask', True)
  assert blind.limit == 1 and blind.parameters > 1000
  net = Skip(down=(4,), up=(4,), skip=(0,), upsample=('nearest',), out_channels=3)
  fit = system._fit(Dip(net, input_depth=2, iterations=2, stop=None), 2, 0)
  photo = np.zeros((16, 20, 3), np.float32)
  restored = fit(photo, None)
  assert restored.shape == photo.shape
  np.testing.assert_array_equal(restored, fit(photo, None))
  half = np.zeros((16, 20, 1), np.float32)
  half[:8] = 1
  assert (fit(photo, half) != restored).any()


# The whole


def test_the_same_command_gives_the_same_json_but_for_timings(tiny, tmp_path):
  old, reference = tmp_path / 'old', tmp_path / 'reference'
  for folder, value in ((old, 90), (reference, 120)):
    folder.mkdir()
    Image.fromarray(np.full((40, 30, 3), value, np.uint8)).save(folder / 'a.png')
  damage = _written(_prints(), tmp_path)
  reports = []
  for i in range(2):
    # A mistyped folder leaves nothing behind; the corrected command then runs.
    workdir = ('workdir', str(tmp_path / f'run{i}'))
    with pytest.raises(UserError, match='there is no folder /nowhere'):
      system.run(config_of(workdir, ('data.photos', '/nowhere')))
    assert not (tmp_path / f'run{i}').exists()
    config = config_of(
      workdir,
      ('compare', 'pix2pix'),
      ('reference', 'pix2pix'),
      ('load.pix2pix', str(tiny)),
      ('more', f'again={tiny / weights.FILE}'),
      ('evaluate.crop', 64),
      ('evaluate.pictures', 1),
      ('evaluate.figure', 'again,pix2pix'),
      ('data.old_test', str(old)),
      ('data.old_reference', str(reference)),
      *damage,
    )
    system.check(config)
    system.run(config)
    written = (tmp_path / f'run{i}' / 'comparison.json').read_text()
    assert str(tmp_path) not in written  # no path of this machine
    reports.append(json.loads(written))
  assert all(report.pop('timings') for report in reports)
  assert reports[0] == reports[1]
  rows = reports[0]['tests']['report']['rows']
  assert next(iter(rows)) == 'do nothing' and list(rows)[-2:] == ['pix2pix', 'again']
  assert rows['again']['minus pix2pix']['psnr']['mean'] == 0  # the same weights
  assert rows['pix2pix']['photos'] == len(reports[0]['tests']['report']['photos']) == 2
  assert reports[0]['systems']['pix2pix']['training']['images'] == 20
  moved_damage = reports[0]['tests']['real damage']['rows']
  assert moved_damage['do nothing']['photos'] == 3
  assert moved_damage['do nothing']['means']['psnr_outside']['mean'] == psnr_ssim.MAX_PSNR
  inside = (moved_damage[name]['means']['psnr_inside']['mean'] for name in list(moved_damage)[:3])
  nothing_, _, told = inside
  assert told > 40 > nothing_  # a flat print is filled well where its damage is known
  for name in (
    'comparison.md',
    'comparison.html',
    'grid_report.png',
    'grid_old_photos.png',
    'figure_report.png',
  ):
    assert (tmp_path / 'run0' / name).stat().st_size > 200
  assert '| pix2pix | 2 |' in (tmp_path / 'run0' / 'comparison.md').read_text()
  assert (tmp_path / 'run0' / 'comparison.html').read_text().count('After: pix2pix') == 3
  text = (tmp_path / 'run0' / 'comparison.md').read_text()
  assert '| seed | 0 |' in text and f'| row: again | {rows_identity(reports[0])} |' in text
  # Its cheapest rows are run again: the same numbers, and one that was changed is found.
  table = tmp_path / 'run0' / 'comparison.json'
  config.workdir, config.verify = str(tmp_path / 'verified'), str(table)
  system.run(config)
  said = (tmp_path / 'verified' / 'verification.md').read_text()
  assert ' 0 moved' in said and 'report: the same bits' in said
  assert '| report | pix2pix | psnr | 2 |' in said
  changed = json.loads(table.read_text())
  changed['tests']['report']['rows']['do nothing']['scores']['psnr'][1] += 0.5
  changed['systems']['again']['identity'] = 'pix2pix 0123456789ab'
  times = changed['timings']['seconds per photo']
  for test_name, rows in times.items():  # not what a busy machine took
    times[test_name] = {label: 1.0 for label in rows}
  times['report']['do nothing'] = 0.0
  table.write_text(json.dumps(changed))
  config.verify_seconds = 0.0  # the cheapest row alone
  with pytest.raises(UserError, match=r'1 of \d numbers moved, most of all psnr of do noth'):
    system.run(config)
  said = (tmp_path / 'verified' / 'verification.md').read_text()
  assert 'again: pix2pix' in said and '| 0.5 | 0.05 | moved |' in said
  config.seed = 1
  with pytest.raises(UserError, match='made with seed=0, and this is 1'):
    system.run(config)


def rows_identity(report):
  """Of the row 'again': the system, and the start of the hash of its file."""
  name, digest = report['systems']['again']['identity'].split()
  assert name == 'pix2pix' and len(digest) == 12
  return f'{name} {digest}'


def test_the_study_of_the_student_report_is_one_command():
  config = config_of(variant='report')
  for name, images in (('pix2pix', 6000 * 10), ('cyclegan', 30 * 400)):
    own = system.own_config(config, name)
    stage = own[name]
    assert own.recipe == 'report' and stage.steps * stage.batch_size == images
    assert (own.data.subset_train, own.data.subset_val, own.data.subset_test) == (400, 100, 50)
  assert system.own_config(config, 'triplet').mapping.lr == 2e-4
  assert system.own_config(config, 'dip').fit.iterations == 3001
  changed = config_of(('evaluate.figure', 'triplet,bm3d'), variant='report')
  with pytest.raises(UserError, match="no row 'bm3d'"):
    system.check(changed)


def test_the_figure_has_the_columns_of_the_report(tmp_path):
  tests = [a_test(), a_test(truth=False)]
  results, _ = compared(tmp_path, tests)
  columns = {}
  for test in tests:
    picture = tables.figure(test, results[test.name], ['half'], 2)
    columns[test.name] = round(picture.shape[1] / 32)
  assert columns['report'] > columns['old']  # the target
  missing = tables.figure(tests[0], results['report'], ['half', 'told'], 3)
  assert missing.shape[1] > tables.figure(tests[0], results['report'], ['half'], 3).shape[1]


@pytest.mark.parametrize(
  ('changes', 'sentence'),
  [
    ([('compare', 'pix2pix,moon')], "no system 'moon'"),
    ([('reference', 'moon')], "reference is 'moon'"),
    ([('load.pix2pix', '/nowhere')], '/nowhere'),
    ([('more', 'mine=/nowhere')], '/nowhere'),
    ([('more', '/nowhere')], 'NAME=PATH'),
    ([('more', 'pix2pix=/nowhere')], 'with a new name'),
    ([('evaluate.recipes', 'report,moon')], "no recipe 'moon'"),
    ([('evaluate.squeezenet', '/nowhere.npz')], '/nowhere.npz'),
    ([('evaluate.niqe', '/nowhere.npz')], '/nowhere.npz'),
    ([('data.old_reference', '/nowhere')], 'set data.old_test as well'),
    ([('data.labels_test', '/nowhere')], 'belong together'),
    ([('data.crop', 36)], 'multiple'),
    ([('systems.dip.net.kind', 'moon')], "net.kind is 'moon'"),
  ],
  ids=lambda x: str(x) if isinstance(x, list) else '',
)
def test_wrong_settings_are_a_sentence_before_any_training(changes, sentence):
  with pytest.raises(UserError, match=sentence):
    system.check(config_of(*changes))


def test_references_have_the_names_and_sizes_of_their_photos(tmp_path):
  for folder, side in (('old', 20), ('reference', 21)):
    (tmp_path / folder).mkdir()
    Image.new('RGB', (side, side)).save(tmp_path / folder / 'a.png')
  folders = ('data.old_test', tmp_path / 'old'), ('data.old_reference', tmp_path / 'reference')
  config = config_of(*((name, str(path)) for name, path in folders))
  with pytest.raises(build.ConfigError, match='differ in size'):
    system._old(config)
  (tmp_path / 'reference' / 'a.png').rename(tmp_path / 'reference' / 'b.png')
  with pytest.raises(ValueError, match=r'no reference of that name'):
    system._old(config)


def test_columns_without_their_files_are_named():
  judge = load_judge('', '')
  assert judge.squeezenet is None and judge.niqe is None
  missing = [sentence.split(' (')[0] for sentence in missing_columns(judge, 64)]
  assert missing == ['SqueezeNet distance', 'LPIPS', 'NIQE', 'MS-SSIM']
  assert len(missing_columns(judge, 176)) == 3
  with pytest.raises(ValueError, match='two files'):
    load_judge('', '', alexnet='alexnet.pth')


def test_all_columns_with_their_files(shared, tmp_path):
  folder = shared / 'data' / 'weights'
  alexnet, linear, channels = {}, {}, 3  # zeros: its numbers are tested in test_features.py
  for i, (index, width, size) in enumerate(
    ((0, 64, 11), (3, 192, 5), (6, 384, 3), (8, 256, 3), (10, 256, 3))
  ):
    alexnet[f'features.{index}.weight'] = np.zeros((width, channels, size, size), np.float32)
    alexnet[f'features.{index}.bias'] = np.ones(width, np.float32)
    linear[f'lin{i}.model.1.weight'] = np.ones((1, width, 1, 1), np.float32)
    channels = width
  np.savez(tmp_path / 'alexnet.npz', **alexnet)
  np.savez(tmp_path / 'linear.npz', **linear)
  names = ('squeezenet1_0_fp16.npz', 'niqe_pris_params.npz')
  own = (tmp_path / 'alexnet.npz', tmp_path / 'linear.npz')
  judge = load_judge(*(str(folder / name) for name in names), *map(str, own))
  assert missing_columns(judge, 192) == []
  assert len(missing_columns(judge, 180)) == 1  # NIQE takes two blocks
  test = a_test(1, 192)
  scores = score(judge, test, 0, test.truth[0])
  assert scores['psnr'] == psnr_ssim.MAX_PSNR == scores['psnr_inside']
  assert scores['ssim'] == scores['ms_ssim'] == 1 and scores['squeezenet'] == 0
  assert scores['niqe'] > 3
  assert set(scores) == {m.name for m in METRICS}
  # Without truth: the distance to the other system's photo, and what needs none.
  blind = score(judge, a_test(1, 192, truth=False), 0, test.old[0])
  assert set(blind) == {'lpips', 'squeezenet', 'niqe'} and blind['squeezenet'] > 0.01
