"""The command: what it writes, what it says, and its exit codes."""

import dataclasses
import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import oldphoto_jax
from oldphoto_jax import cli, weights
from oldphoto_jax.degradation import ageing, recipes, scratches
from oldphoto_jax.photos import images
from oldphoto_jax.restoring import degrade_files, detect, engine, restore
from oldphoto_jax.systems import build


def save(path, height=24, width=32, seed=0):
  path.parent.mkdir(parents=True, exist_ok=True)
  pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
  Image.fromarray(pixels).save(path)
  return path


@dataclasses.dataclass
class Half:
  """Weights that make a photo half as strong; see weights.Loaded."""

  file: str = 'half'
  found: object = None
  sha256: str = 64 * '0'

  def restorer(self):
    apply = lambda params, batch: batch * params
    return engine.Restorer(apply, jnp.float32(0.5), 16, 'half, sha256 0f')

  def find_detector(self):
    return self.found


@pytest.fixture
def run(monkeypatch, capsys):
  """Runs the command line; the weights called 'half' are Half."""

  def read(path):
    if path not in ('half', weights.SHIPPED):
      raise weights.WeightsError('this is no weights file.')
    return Half()

  monkeypatch.setattr(weights, 'read', read)

  def command(*words):
    try:
      code = cli.main([str(word) for word in words])
    except SystemExit as error:  # argparse
      code = error.code
    shown = capsys.readouterr()
    assert 'Traceback' not in shown.err
    return code, shown.out, shown.err

  return command


def test_restore_writes_photos_report_and_page(run, tmp_path):
  photo = save(tmp_path / 'in/sub/a.png')
  out = tmp_path / 'out'
  code, said, errors = run('restore', tmp_path / 'in', '-o', out, '--weights', 'half')
  assert (code, errors) == (0, '')
  assert f'[1/1] {out / "sub/a.png"} restored' in said
  assert '1 restored, 0 kept, 0 failed' in said
  values = images.to_float(images.read(photo))
  restored = images.read_rgb8(out / 'sub/a.png')
  assert np.abs(restored - 127.5 * (values / 2 + 1)).max() <= 0.5 + 1e-3
  assert json.loads((out / 'report.json').read_text())['weights'] == 'half, sha256 0f'
  assert 'sub/</span>a.png' in (out / 'before-after.html').read_text()

  sheet = images.read_rgb8(out / 'before-after.html.png')
  before, after = images.read_rgb8(photo), restored
  assert holds(sheet, before) and holds(sheet, after)

  code, said, _ = run('restore', tmp_path / 'in', '-o', out, '--weights', 'half')
  assert (code, '0 restored, 1 kept' in said) == (0, True)


def holds(sheet, picture):
  """Whether a sheet shows a picture somewhere, pixel by pixel."""
  windows = np.lib.stride_tricks.sliding_window_view(sheet, picture.shape)[:, :, 0]
  return (windows == picture).all((2, 3, 4)).any()


def test_without_weights_those_that_come_with_the_package_restore(run, tmp_path):
  code, _, errors = run('restore', save(tmp_path / 'a.png'), '-o', tmp_path / 'out')
  assert (code, errors) == (0, '')
  assert (tmp_path / 'out/a.png').exists()


def test_damage_is_looked_for_only_on_request(run, tmp_path, monkeypatch):
  def marker(detector, sizes):
    asked.append(sizes)
    return lambda photo: np.zeros((*photo.shape[:2], 1), np.float32)

  asked = []
  monkeypatch.setattr(detect, 'marker', marker)
  words = ['restore', save(tmp_path / 'a.png'), '-o', tmp_path / 'out', '--weights', 'half']
  assert run(*words)[0] == 0
  assert not asked
  for option in ('--find-damage', '--only-damage', '--save-mask'):
    code, _, errors = run(*words, option)
    assert code == 2
    assert f'{option} needs to know what is damaged, and half holds no detector' in errors
  monkeypatch.setattr(weights, 'read', lambda path: Half(found='its detector'))
  assert run(*words, '--overwrite', '--find-damage')[0] == 0
  assert asked == [[(24, 32)]]


def test_strength_tile_overwrite_and_no_page(run, tmp_path):
  photo = save(tmp_path / 'a.png', 100, 300)
  words = ['restore', photo, '-o', tmp_path / 'out', '--weights', 'half', '--no-page']
  assert run(*words)[0] == 0
  assert run(*words, '--overwrite', '--strength', 0, '--tile', 128)[0] == 0
  np.testing.assert_array_equal(images.read_rgb8(tmp_path / 'out/a.png'), images.read_rgb8(photo))
  assert json.loads((tmp_path / 'out/report.json').read_text())['photos'][0]['shape'] == [128, 128]
  visible = sorted(path.name for path in (tmp_path / 'out').glob('[!.]*'))
  assert visible == ['a.png', 'report.csv', 'report.json']


def test_a_failed_photo_gives_exit_code_1_and_one_line(run, tmp_path):
  save(tmp_path / 'in/a.png')
  (tmp_path / 'in/b.png').write_bytes(b'')
  code, said, errors = run('restore', tmp_path / 'in', '-o', tmp_path / 'out', '--weights', 'half')
  assert code == 1
  assert errors == f'[2/2] {tmp_path / "in/b.png"}: the file is empty.\n'
  assert '1 restored, 0 kept, 1 failed' in said
  assert 'The file is empty.' in (tmp_path / 'out/before-after.html').read_text()


def test_nothing_done_gives_exit_code_2_and_one_sentence(run, tmp_path):
  photo = save(tmp_path / 'in/a.png')
  for words, says in [
    (['restore', photo, '-o', tmp_path / 'out', '--weights', 'x'], 'no weights file'),
    (['restore', tmp_path / 'no', '-o', tmp_path / 'out', '--weights', 'half'], 'no such file'),
    (['restore', photo, '-o', tmp_path / 'in', '--weights', 'half'], 'replace an original'),
    (['degrade', tmp_path / 'no', '-o', tmp_path / 'out', '--recipe', 'ageing'], 'no such file'),
    (['restore', photo, '-o', tmp_path, '--weights', 'half', '--strength', '2'], 'from 0 to 1'),
    (['restore', photo, '-o', tmp_path, '--weights', 'half', '--tile', '9'], '128 or more'),
    (['restore', photo, '-o', tmp_path, '--weights', 'half', '--tone', '.5'], 'revives no tones'),
    (['degrade', photo, '-o', tmp_path, '--recipe', 'other'], 'invalid choice'),
    (['degrade', photo, '-o', tmp_path, '--recipe', 'ageing', '--copies', '0'], '1 or more'),
    ([], 'required'),
  ]:
    code, said, errors = run(*words)
    assert (code, said) == (2, '')
    assert says in errors
    assert errors.startswith('usage') or errors.count('\n') == 1
  assert os.listdir(tmp_path) == ['in']
  assert os.listdir(tmp_path / 'in') == ['a.png']


def test_interrupt(run, tmp_path, monkeypatch):
  def interrupt(*_, **__):
    raise KeyboardInterrupt

  monkeypatch.setattr(restore, 'restore_photos', interrupt)
  photo = save(tmp_path / 'a.png')
  code, _, errors = run('restore', photo, '-o', tmp_path / 'out', '--weights', 'half')
  assert (code, 'interrupted' in errors) == (130, True)


def test_help_waits_for_no_large_package():
  code = (
    'import sys; from oldphoto_jax import cli; cli.parser(); '
    'sys.exit(", ".join({"jax", "numpy", "scipy", "PIL"} & set(sys.modules)) or None)'
  )
  done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=False)
  assert done.returncode == 0, done.stderr


def test_version_and_module():
  words = [sys.executable, '-m', 'oldphoto_jax', '--version']
  done = subprocess.run(words, capture_output=True, text=True, check=False)
  assert (done.returncode, done.stdout) == (0, f'oldphoto {oldphoto_jax.__version__}\n')


VERBS = ['restore', 'dip', 'detect', 'degrade', 'status', 'verify', 'samples', 'tfds', 'import']


@pytest.mark.parametrize('verb', VERBS)
def test_help_fits_a_screen_and_its_examples_can_be_typed(run, verb, monkeypatch):
  monkeypatch.setenv('COLUMNS', '80')
  code, said, _ = run(verb, '--help')
  assert code == 0 and said.count('\n') <= 48
  _, examples = said.split('examples:\n')
  for line in examples.splitlines():
    program, *words = line.split()
    assert (program, words[0]) == ('oldphoto', verb)
    assert cli.parser().parse_args(words).run


def test_a_bug_keeps_its_traceback(run, tmp_path, monkeypatch):
  def bug(*_, **__):
    raise ValueError('shapes do not match')

  monkeypatch.setattr(restore, 'restore_array', bug)
  with pytest.raises(ValueError, match='shapes do not match'):
    run('restore', save(tmp_path / 'a.png'), '-o', tmp_path / 'out', '--weights', 'half')


def test_a_folder_is_listed_once(run, tmp_path, monkeypatch, caplog):
  save(tmp_path / 'in/a.png')
  (tmp_path / 'in/b.pdf').touch()
  nothing = lambda detector, sizes: lambda photo: np.zeros((*photo.shape[:2], 1), np.float32)
  monkeypatch.setattr(detect, 'marker', nothing)
  monkeypatch.setattr(weights, 'read', lambda path: Half(found='its detector'))
  assert run('restore', tmp_path / 'in', '-o', tmp_path / 'out', '--find-damage')[0] == 0
  assert len([record for record in caplog.records if '.pdf' in record.getMessage()]) == 1


def test_weights_are_read_once(run, tmp_path, monkeypatch):
  read = []
  monkeypatch.setattr(weights, 'read', lambda path: read.append(path) or Half(found='a detector'))
  nothing = lambda detector, sizes: lambda photo: np.zeros((*photo.shape[:2], 1), np.float32)
  monkeypatch.setattr(detect, 'marker', nothing)
  photo = save(tmp_path / 'a.png')
  assert run('restore', photo, '-o', tmp_path / 'out', '--weights', 'w', '--find-damage')[0] == 0
  assert read == ['w']


@pytest.mark.parametrize('recipe', ['wan2020', 'report', 'ageing'])
def test_degrade_writes_copies_masks_and_a_sheet(run, tmp_path, recipe):
  photo = save(tmp_path / 'in/sub/a.jpg', 40, 56)
  out = tmp_path / 'out'
  words = ['degrade', tmp_path / 'in', '-o', out, '--recipe', recipe, '--copies', 2]
  assert run(*words)[0] == 0
  copies = [images.read_rgb8(out / f'old-{copy}/sub/a.png') for copy in (1, 2)]
  assert all(copy.shape == (40, 56, 3) for copy in copies)
  assert (copies[0] != copies[1]).any()
  assert (copies[0] != images.read_rgb8(photo)).any()
  for copy, old in enumerate(copies, 1):
    path = out / f'mask-{copy}/sub/a.png'
    assert path.exists() == (recipe == 'report')
    if path.exists():  # lines that are white but for the noise
      mask = images.read(path)
      assert mask.gray and set(np.unique(mask.pixels)) == {0, 255}
      assert old[mask.pixels[..., 0] == 255].mean() > 225
  assert images.size(out / 'contact-sheet-1.png')[1] > 3 * 56


def test_degrade_print_shows_each_artefact_alone(run, tmp_path, monkeypatch):
  @dataclasses.dataclass(frozen=True)
  class Light:  # compiles at once
    dust: tuple = (1.0, scratches.Dust(count=(3, 9)))
    yellowing: tuple = (1.0, ageing.Yellowing())

    def __call__(self, key, clean):
      old, mask, _ = self.dust[1](key, clean)
      return recipes.Aged(old, clean, mask)

  asked = []
  monkeypatch.setattr(build, 'recipe', lambda name, *paths: asked.append(paths) or Light())
  save(tmp_path / 'in/a.png', 40, 56)
  words = ['degrade', tmp_path / 'in', '-o', tmp_path / 'out', '--copies', 1, '--textures', 'paper']
  assert run(*words, '--recipe', 'print')[0] == 0
  assert asked == [('', 'paper')]
  assert images.read(tmp_path / 'out/mask-1/a.png').gray
  sheets = sorted(path.name for path in (tmp_path / 'out').glob('artefact-*'))
  assert sheets == ['artefact-dust.png', 'artefact-yellowing.png']
  assert images.size(tmp_path / 'out/artefact-dust.png')[1] > 5 * 256
  code, _, errors = run(*words, '--recipe', 'ageing')
  assert (code, 'belong to --recipe print' in errors) == (2, True)


def test_degrade_depends_on_seed_and_name_alone(run, tmp_path, monkeypatch):
  def light(key, clean):  # compiles at once
    return recipes.Aged(jax.random.uniform(key, clean.shape), clean, 0 * clean[..., :1])

  monkeypatch.setattr(recipes, 'Ageing', lambda: light)
  save(tmp_path / 'in/a.png')
  words = ['degrade', '--recipe', 'ageing', '--copies', 1]
  run(*words, tmp_path / 'in', '-o', tmp_path / 'one')
  save(tmp_path / 'in/0.png')
  (tmp_path / 'in/b.png').write_bytes(b'')
  save(tmp_path / 'in/a.webp')
  code, _, errors = run(*words, tmp_path / 'in', '-o', tmp_path / 'two')
  assert code == 1
  assert 'b.png: the file is empty.' in errors
  assert 'a.webp: its output would have the same name' in errors
  run(*words, tmp_path / 'in/a.png', '-o', tmp_path / 'three', '--seed', 1)
  one, two, three = (
    (tmp_path / name / 'old-1/a.png').read_bytes() for name in ('one', 'two', 'three')
  )
  assert one == two != three
  sheet = (tmp_path / 'one/contact-sheet-1.png').read_bytes()
  code, said, errors = run(*words, tmp_path / 'in/a.png', '-o', tmp_path / 'one', '--seed', 1)
  assert (code, '0 aged, 1 kept' in said) == (0, True)
  assert 'made with other weights or settings: 1.' in errors  # the seed
  assert (tmp_path / 'one/old-1/a.png').read_bytes() == one
  assert (tmp_path / 'one/contact-sheet-1.png').read_bytes() == sheet
  report = json.loads((tmp_path / 'two/report.json').read_text())
  assert (report['recipe'], report['aged'], report['failed']) == ('ageing', 2, 2)
  assert run(*words, tmp_path / 'in/a.png', '-o', tmp_path / 'one', '--overwrite')[0] == 0


def test_degrade_killed_between_a_mask_and_its_copy_goes_on(run, tmp_path, monkeypatch):
  def light(key, clean):  # compiles at once
    lost = jax.random.uniform(key, (*clean.shape[:2], 1)) > 0.5
    return recipes.Aged(jnp.where(lost, 1.0, clean), clean, lost.astype(jnp.float32))

  monkeypatch.setattr(recipes, 'Ageing', lambda: light)
  for i in range(3):
    save(tmp_path / f'in/{i}.png', seed=i)
  words = ['degrade', '--recipe', 'ageing', '--copies', 2, tmp_path / 'in', '-o']
  run(*words, tmp_path / 'whole')
  write, written = images.write, []

  def stop(photo, path, **options):
    if len(written) == 5:  # mask-1, old-1, mask-2, old-2 of the first photo, mask-1 of the second
      raise KeyboardInterrupt
    written.append(path)
    write(photo, path, **options)

  with monkeypatch.context() as patch:
    patch.setattr(images, 'write', stop)
    assert run(*words, tmp_path / 'cut')[0] == 130
  assert '2 left' in run('status', tmp_path / 'cut')[1]
  code, said, _ = run(*words, tmp_path / 'cut')
  assert (code, '2 aged, 1 kept' in said) == (0, True)
  made = {
    path.relative_to(tmp_path / 'whole'): path.read_bytes()
    for path in (tmp_path / 'whole').rglob('*.png')
  }
  assert len(made) == 3 * 2 * 2 + 1
  for path, content in made.items():
    assert (tmp_path / 'cut' / path).read_bytes() == content
  assert run('verify', tmp_path / 'cut')[0] == 0


def test_degrade_pads_where_there_are_many_sizes(tmp_path):
  paths = [save(tmp_path / f'{i}.png', 20 + 9 * i, 60, seed=i) for i in range(5)]
  sizes = [images.size(path) for path in paths]
  assert degrade_files._shapes(sizes[:4]) == [(20, 60), (29, 60), (38, 60), (47, 60)]
  assert degrade_files._shapes(sizes) == [(128, 128)]
  photo = images.read(paths[4])

  def age(key, clean):
    assert clean.shape == (128, 128, 3)
    return recipes.Aged(clean, clean, np.zeros_like(clean[..., :1]))

  old, mask = degrade_files._age(age, None, photo, [(128, 128)])
  np.testing.assert_array_equal(old.pixels, photo.pixels)
  assert mask is None


def test_a_dry_run_says_what_would_be_done_and_writes_nothing(run, tmp_path):
  for name in ('a.png', 'done.png', 'drawn/a.png'):
    save(tmp_path / 'in' / name)
  save(tmp_path / 'out/done.png')
  (tmp_path / 'in/bad.jpg').write_bytes(b'')
  (tmp_path / 'in/letter.pdf').touch()
  before = sorted(tmp_path.rglob('*'))
  words = ['restore', tmp_path / 'in', '-o', tmp_path / 'out', '--dry-run', '--weights', 'half']
  code, said, _ = run(*words, '--mask', tmp_path / 'in/drawn')
  assert code == 1
  assert f'restores: {tmp_path}/in/a.png (32 x 24) -> {tmp_path}/out/a.png' in said
  assert f'keeps: {tmp_path}/out/done.png' in said
  assert f'fails: {tmp_path}/in/bad.jpg: the file is empty.' in said
  assert f'skips: {tmp_path}/in/letter.pdf: .pdf files are not read; save its pictures' in said
  assert '1 to restore (0.0 megapixels), 1 kept, 1 would fail, 1 skipped. Nothing was' in said
  assert 'without filling and compiling, as a square of 256 x 256 pixels takes' in said
  assert sorted(tmp_path.rglob('*')) == before


def test_a_photo_under_another_name_is_restored_with_a_warning(run, tmp_path):
  os.rename(save(tmp_path / 'a.png'), tmp_path / 'a.jpg')
  code, said, errors = run('restore', tmp_path / 'a.jpg', '-o', tmp_path / 'out')
  assert (code, '1 restored' in said) == (0, True)
  assert 'The content is PNG though the name ends in .jpg; it is written as PNG.' in errors
  with Image.open(tmp_path / 'out/a.jpg') as image:
    assert image.format == 'PNG'


def test_all_pages_of_a_tiff_are_restored_on_request(run, tmp_path):
  pages = [Image.fromarray(np.full((20, 24, 3), level, np.uint8)) for level in (200, 100)]
  pages[0].save(tmp_path / 'a.tif', save_all=True, append_images=pages[1:])
  words = ['restore', tmp_path / 'a.tif', '-o', tmp_path / 'out', '--weights', 'half']
  code, _, errors = run(*words, '--pages', 'all')
  assert (code, errors) == (0, '')
  with Image.open(tmp_path / 'out/a.tif') as image:
    levels = []
    for page in range(image.n_frames):
      image.seek(page)
      levels.append(image.getpixel((5, 5))[0])
  assert levels == [164, 114]
  code, _, errors = run(*words, '--overwrite')
  assert 'The file holds 2 pictures; only the first one is used.' in errors
  assert '--mask marks damage on one page' in run(*words, '--pages', 'all', '--mask', 'm.png')[2]


def test_restore_fills_what_a_mask_marks_and_leaves_the_rest(run, tmp_path):
  photo = save(tmp_path / 'in/a.png')
  mask = np.zeros((24, 32), np.uint8)
  mask[5:9, 10:20] = 255
  (tmp_path / 'masks').mkdir()
  Image.fromarray(mask).save(tmp_path / 'masks/a.png')
  out = tmp_path / 'out'
  words = ['restore', photo, '-o', out, '--weights', 'half', '--mask', tmp_path / 'masks']
  code, _, errors = run(*words, '--only-damage', '--save-mask')
  assert (code, errors) == (0, '')
  before, after = images.read_rgb8(photo), images.read_rgb8(out / 'a.png')
  np.testing.assert_array_equal((before != after).any(-1) & (mask == 0), False)
  assert (before[mask > 0] != after[mask > 0]).any(-1).mean() > 0.9
  np.testing.assert_array_equal(images.read_rgb8(out / 'masks/a.png')[..., 0], mask)
  page = (out / 'before-after.html').read_text()
  assert 'data-shows="mask"' in page and 'data-shows="change"' in page


def test_restore_says_what_is_wrong_with_masks(run, tmp_path):
  photo, out = save(tmp_path / 'a.png'), tmp_path / 'out'
  words = ['restore', photo, '-o', out, '--weights', 'half']
  code, _, errors = run(*words, '--only-damage')
  assert code == 2 and '--only-damage needs to know what is damaged' in errors
  code, _, errors = run(*words, '--mask', tmp_path / 'nothing')
  assert code == 2 and 'there is no such mask or folder' in errors
  code, _, errors = run(*words, '--mask', save(tmp_path / 'm.png', 24, 30))
  assert code == 1 and 'the mask is 30x24 and its photo 32x24' in errors
  code, _, errors = run(*words, '--detector', tmp_path / 'nothing')
  assert code == 2 and 'there is no file of weights' in errors
  code, _, errors = run(*words, '--mask', tmp_path / 'm.png', '--detector', 'd')
  assert code == 2 and 'choose one' in errors
  for other in (('--mask', tmp_path / 'm.png'), ('--no-find-damage',)):
    code, _, errors = run(*words, '--threshold', '0.7', *other)
    assert code == 2 and '--threshold needs a search for damage' in errors


def test_a_detector_that_marks_everything_is_told(run, tmp_path, monkeypatch):
  everything = lambda photo: np.ones((*photo.shape[:2], 1), np.float32)
  monkeypatch.setattr(detect, 'marker', lambda detector, sizes: everything)
  monkeypatch.setattr(weights, 'read', lambda path: Half(found='its detector'))
  words = ['restore', save(tmp_path / 'a.png'), '-o', tmp_path / 'out', '--weights', 'half']
  code, _, errors = run(*words, '--find-damage')
  assert code == 1 and 'the detector takes the whole photo for damage' in errors
