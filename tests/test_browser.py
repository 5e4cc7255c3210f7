"""The page in a real browser, from dropping a photo to the pixels of the download.

Run with `make test-web`. The network is replaced by a few lines (serving_engine), so that what is
tested is the page and the server.
"""

import contextlib
import functools
import http.server
import io
import shutil
import threading

import numpy as np
import pytest
import serving_engine
from PIL import Image
from served import SIZE, STROKES, check, scratched, serving

from benchmarks.page import measure
from oldphoto_jax.photos import images, masks
from oldphoto_jax.serving import studio

CHROMIUM = next(
  filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), ''
)
playwright = pytest.importorskip('playwright.sync_api', reason='needs playwright: make test-web')
pytestmark = [
  pytest.mark.web,
  pytest.mark.skipif(not CHROMIUM, reason='needs Chromium, such as `apt install chromium`'),
]


@pytest.fixture(scope='module')
def browser():
  with playwright.sync_playwright() as tool:
    # Tests may run as root, for whom Chromium has no sandbox.
    yield tool.chromium.launch(executable_path=CHROMIUM, args=['--no-sandbox'])


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
  monkeypatch.setattr(studio, 'TILE', 128)


@pytest.fixture
def page(browser, tmp_path):
  with serving(tmp_path) as address, opened(browser, address) as page:
    yield page


@contextlib.contextmanager
def opened(browser, address, **options):
  """A page of its own visitor. Errors of its scripts, and requests elsewhere, fail the test."""
  context = browser.new_context(
    viewport={'width': 1280, 'height': 800}, accept_downloads=True, **options
  )
  context.set_default_timeout(15_000)
  page, wrong = context.new_page(), []
  page.on('pageerror', lambda error: wrong.append(str(error)))
  # Also what the policy forbids; but not each photo that the server refuses.
  complaint = lambda one: one.type == 'error' and not one.text.startswith('Failed to load resource')
  page.on('console', lambda one: complaint(one) and wrong.append(one.text))
  page.on('dialog', lambda dialog: (wrong.append('a dialog'), dialog.dismiss()))
  elsewhere = lambda request: not request.url.startswith((address, f'blob:{address}'))
  page.on('request', lambda request: elsewhere(request) and wrong.append(request.url))
  page.goto(address)
  page.wait_for_selector('.drop')
  try:
    yield page
  finally:
    context.close()
  assert not wrong


def payload(name='a.png', pixels=None, data=None):
  if data is None:
    buffer = io.BytesIO()
    pixels = serving_engine.photo(size=SIZE) if pixels is None else pixels
    Image.fromarray(pixels).save(buffer, 'PNG')
    data = buffer.getvalue()
  return {'name': name, 'mimeType': 'image/png', 'buffer': data}


def add(page, *files):
  page.set_input_files('#files', list(files))
  for file in files:
    card = page.locator('.card', has_text=file['name'])
    card.locator('.chip').first.wait_for()


def open_first(page):
  page.locator('.thumb').first.click()
  page.wait_for_selector('canvas')
  page.locator('.state', has_text='preview').wait_for()
  page.wait_for_timeout(300)


def on_canvas(page, x, y):
  """The place on the screen of a place on the photo, while the whole photo is shown."""
  area = page.locator('canvas').bounding_box()
  scale = min(area['width'] / SIZE[1], area['height'] / SIZE[0])
  left = area['x'] + (area['width'] - scale * SIZE[1]) / 2
  top = area['y'] + (area['height'] - scale * SIZE[0]) / 2
  return left + scale * x, top + scale * y


def brush(page, tool, *places):
  page.get_by_role('button', name=tool).click()
  page.mouse.move(*on_canvas(page, *places[0]))
  page.mouse.down()
  for place in places[1:]:
    page.mouse.move(*on_canvas(page, *place), steps=4)
  page.mouse.up()
  page.locator('.tools[aria-busy=false]').wait_for()  # it is saved


def restored(page):
  page.get_by_role('button', name='Restore', exact=True).or_(
    page.get_by_role('button', name='Restore again', exact=True)
  ).click()
  page.locator('.state', has_text='at full size').wait_for()


def shot(page, x, y):
  """The colour on the screen at a place of the photo."""
  picture = Image.open(io.BytesIO(page.screenshot()))
  return picture.convert('RGB').getpixel(tuple(round(v) for v in on_canvas(page, x, y)))


def test_the_whole_way_through(page, tmp_path):
  pixels = scratched()
  add(page, payload('gran.png', pixels))
  assert page.locator('.chip').first.inner_text().startswith('damage')
  open_first(page)
  for tool, places in STROKES.items():
    brush(page, tool, *places)
  page.get_by_role('button', name='Move', exact=True).click()
  restored(page)
  # The slider: before on the left, after on the right. The network reddens, and fills with gray.
  page.get_by_label('Compare before and after').focus()
  page.wait_for_timeout(400)
  assert abs(shot(page, 90, 30)[0] - 60) < 6
  assert abs(shot(page, 260, 60)[0] - 80) < 6
  for _ in range(40):
    page.keyboard.press('ArrowRight')
  page.wait_for_timeout(200)
  assert abs(shot(page, 260, 60)[0] - 60) < 6
  for _ in range(90):
    page.keyboard.press('ArrowLeft')
  page.wait_for_timeout(200)
  assert abs(shot(page, 90, 30)[0] - 80) < 6
  assert abs(shot(page, 230, 200)[0] - 128) < 6
  assert abs(shot(page, 310, 30)[0] - 60) < 6

  with page.expect_download() as marks:
    page.get_by_text('Download marks').click()
  with page.expect_download() as download:
    page.get_by_role('link', name='Download', exact=True).click()
  assert (marks.value.suggested_filename, download.value.suggested_filename) == ('gran.png',) * 2
  after = images.read_rgb8(_as_png(download.value, tmp_path / 'after.png'))
  mask = masks.read(_as_png(marks.value, tmp_path / 'mask.png'), SIZE)
  check(pixels, mask, after)

  page.get_by_role('button', name='Save to folder').click()
  page.get_by_text('One photo saved').wait_for()
  assert (tmp_path / 'out' / 'gran.png').read_bytes() == (tmp_path / 'after.png').read_bytes()


def _as_png(download, path):
  download.save_as(path)
  return path


def test_a_slider_shows_a_preview_and_then_the_whole_photo(page):
  add(page, payload(pixels=scratched()))
  open_first(page)
  restored(page)
  page.get_by_label('Clean', exact=True).fill('0')
  page.wait_for_timeout(800)
  assert abs(shot(page, 300, 60)[0] - 60) < 6
  page.locator('.state', has_text='at full size').wait_for()
  page.reload()
  page.wait_for_selector('canvas')
  assert page.get_by_label('Clean', exact=True).input_value() == '0'


def test_reload_in_the_middle_and_undo(page):
  add(page, payload())
  open_first(page)
  brush(page, 'Mark damage', (50, 150), (90, 150))
  brush(page, 'Mark damage', (50, 180), (90, 180))
  page.reload()
  page.wait_for_selector('canvas')
  undo, redo = (page.get_by_role('button', name=name) for name in ('Undo', 'Redo'))
  undo.click()
  undo.click()
  assert undo.is_disabled()
  redo.click()
  page.keyboard.press('Control+Shift+Z')
  assert redo.is_disabled() and undo.is_enabled()
  page.keyboard.press('Control+z')
  assert redo.is_enabled()


def test_cancel(browser, tmp_path):
  go = threading.Event()
  go.set()
  engine = lambda: serving_engine.make(lambda: go.wait(20))
  with serving(tmp_path, engine) as address, opened(browser, address) as page:
    add(page, payload())
    open_first(page)
    go.clear()
    brush(page, 'Mark damage', (50, 150), (90, 150))
    page.get_by_role('button', name='Restore', exact=True).click()
    page.get_by_role('button', name='Cancel').last.click()
    go.set()
    page.get_by_role('button', name='Restore', exact=True).wait_for()
    assert not page.get_by_role('link', name='Download', exact=True).is_visible()
    restored(page)


def test_two_tabs(page):
  add(page, payload())
  open_first(page)
  other = page.context.new_page()
  other.goto(page.url)
  other.wait_for_selector('canvas')
  brush(page, 'Mark damage', (50, 150), (90, 150))
  undo = other.get_by_role('button', name='Undo')
  for _ in range(80):
    if undo.is_enabled():
      break
    other.wait_for_timeout(100)
  assert undo.is_enabled()  # the second window has the stroke of the first
  undo.click()
  first = page.get_by_role('button', name='Undo')
  for _ in range(80):
    if first.is_disabled():
      break
    page.wait_for_timeout(100)
  assert first.is_disabled()


def test_a_broken_file_and_hostile_names(page):
  page.set_input_files('#files', [payload('broken.png', data=b'nothing'), payload('ok.png')])
  page.get_by_text('broken.png: this is not a photo').wait_for()
  hostile = '<img src=x onerror=alert(1)>.png'
  page.set_input_files('#files', [payload(hostile), payload('"><script>alert(2)</script>.png')])
  page.get_by_text('img src=x onerror=alert(1)_').first.wait_for()
  page.locator('.card .chip').nth(2).wait_for()
  assert not page.locator('img[src=x]').count()
  assert page.locator('.card').count() == 3


def test_another_page_gets_and_changes_nothing(browser, page, tmp_path):
  add(page, payload())
  open_first(page)
  id = page.url.rpartition('/')[2]
  address = page.url.partition('#')[0]
  (tmp_path / 'evil').mkdir()
  (tmp_path / 'evil' / 'index.html').write_text(f"""
    <body><img id="i" src="{address}api/photos/{id}/small/before/small"
      onload="document.title += ' seen'" onerror="document.title += ' hidden'">
    <script>
      const body = JSON.stringify({{ids: ['{id}']}});
      const all = [
        fetch('{address}api/remove', {{method: 'POST', body, mode: 'no-cors'}}),
        fetch('{address}api/remove', {{method: 'POST', body, headers: {{'X-Oldphoto': '1'}}}}),
        fetch('{address}api/state').then((answer) => answer.text())
          .then(() => document.title += ' read'),
      ];
      Promise.allSettled(all).then(() => document.title += ' done');
    </script>""")
  handler = functools.partial(_Quiet, directory=tmp_path / 'evil')
  with http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler) as server:
    threading.Thread(target=server.serve_forever, daemon=True).start()
    context = browser.new_context()
    evil = context.new_page()
    evil.goto(f'http://127.0.0.1:{server.server_port}/')
    for _ in range(100):
      if {'done', 'hidden'} <= set(evil.title().split()):
        break
      evil.wait_for_timeout(50)
    title = evil.title()
    context.close()
    server.shutdown()
  assert 'seen' not in title and 'read' not in title and 'done' in title
  page.get_by_role('link', name='All photos').click()
  page.wait_for_timeout(300)
  assert page.locator('.card').count() == 1


class _Quiet(http.server.SimpleHTTPRequestHandler):
  def log_message(self, *args):
    pass


def test_all_by_keyboard(page):
  add(page, payload())
  page.locator('.card .name').focus()
  page.keyboard.press('Enter')
  page.wait_for_selector('canvas')
  page.locator('.state', has_text='preview').wait_for()
  page.locator('canvas').focus()
  page.keyboard.press('b')
  assert page.get_by_role('button', name='Mark damage').get_attribute('aria-pressed') == 'true'
  page.keyboard.press('Space')
  for _ in range(6):
    page.keyboard.press('ArrowRight')
  page.keyboard.press('Space')
  assert page.get_by_role('button', name='Undo').is_enabled()
  page.keyboard.press('r')
  page.locator('.state', has_text='at full size').wait_for()
  page.keyboard.press('Escape')
  page.locator('.card', has_text='restored').wait_for()
  assert page.evaluate('document.activeElement.className') == 'name'  # back where one was


@pytest.mark.parametrize('scheme', ['light', 'dark'])
def test_a_phone_and_a_screen_reader(browser, tmp_path, scheme):
  options = {'color_scheme': scheme, 'has_touch': True}
  with serving(tmp_path) as address, opened(browser, address, **options) as page:
    page.set_viewport_size({'width': 390, 'height': 844})
    add(page, payload(), payload('a name that is rather long for a phone.png'))
    for place in ('box', 'photo'):
      if place == 'photo':
        open_first(page)
        for name in ('Before', 'Quick preview'):
          assert page.locator('.tag', has_text=name).bounding_box()['width'] > 40
      assert page.evaluate('document.documentElement.scrollWidth') <= 390
      for one in page.locator('button:visible, .button:visible, .check:visible').all():
        area = one.bounding_box()
        assert min(area['height'], area['width']) >= 36, one.inner_text()
      unnamed = page.evaluate("""[...document.querySelectorAll('button, a, input, canvas')]
        .filter((one) => one.checkVisibility() && one.getAttribute('aria-hidden') !== 'true')
        .filter((one) => !(one.textContent.trim() || one.getAttribute('aria-label')
          || one.labels?.length)).map((one) => one.outerHTML)""")
      assert unnamed == []
    assert page.evaluate(_CONTRAST) >= 4.5
    # A finger draws.
    page.get_by_role('button', name='Mark damage').tap()
    page.touchscreen.tap(*on_canvas(page, 180, 120))
    page.get_by_role('button', name='Undo').wait_for()
    assert page.get_by_role('button', name='Undo').is_enabled()


# The least contrast (WCAG 2.2, 1.4.3) of texts that do not lie on pictures.
_CONTRAST = """(() => {
  const parse = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
    .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = (one) => {
    for (; one; one = one.parentElement) {
      const colour = parse(getComputedStyle(one).backgroundColor);
      if (colour.length === 3 || colour[3] === 1) return colour;
    }
    return [255, 255, 255];
  };
  const texts = 'p, h1, h2, h3, button, label, span, output, summary';
  const ratios = [...document.querySelectorAll(texts)]
    .filter((one) => one.checkVisibility() && one.textContent.trim() && !one.disabled
      && !one.closest('.unseen, .stage, :disabled'))
    .map((one) => [light(parse(getComputedStyle(one).color)), light(ground(one))])
    .map(([a, b]) => (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05));
  return Math.min(...ratios);
})()"""


def test_a_large_photo_is_shown_in_parts(browser, tmp_path):
  pixels = np.zeros((1500, 2000, 3), np.uint8)
  pixels[:, :, 0] = np.arange(2000) % 200
  with serving(tmp_path) as address, opened(browser, address) as page:
    fetched = []
    page.on('request', lambda request: '/tile/' in request.url and fetched.append(request.url))
    page.set_input_files('#files', [payload('large.png', pixels)])
    page.locator('.thumb').first.wait_for()
    page.locator('.chip', has_text='about').or_(page.locator('.chip', has_text='found')).wait_for()
    page.locator('.thumb').first.click()
    page.wait_for_selector('canvas')
    page.get_by_text('In the whole photo, less or more damage may be found').wait_for()
    page.wait_for_timeout(500)
    assert not fetched  # the small picture suffices
    page.locator('canvas').focus()
    page.keyboard.press('1')
    page.wait_for_timeout(1500)
    assert 0 < len(fetched) < 40
    assert all('/before/0/' in address for address in fetched)


def test_waits_are_measured(browser, tmp_path):
  Image.fromarray(measure.photo(400, 300)).save(tmp_path / 'photo.jpg')
  with serving(tmp_path) as address, contextlib.closing(browser.new_page()) as page:
    figures = list(measure.measured(page, address, tmp_path / 'photo.jpg', restoring=True))
  assert all(value > 0 for one in figures[:-1] for value in one.values)
  assert len([one for one in figures if one.name.startswith('preview after')]) == 4
  assert all(f'| {one.name} | {one.unit} |' in measure.table(figures) for one in figures)


def test_the_page_comes_back_with_the_server(browser, tmp_path):
  with serving(tmp_path) as address, opened(browser, address) as page:
    add(page, payload())
    open_first(page)
    restored(page)
  with serving(tmp_path) as address, opened(browser, address) as page:
    page.locator('.card', has_text='restored').wait_for()
    page.locator('.thumb').first.click()
    page.locator('.state', has_text='at full size').wait_for()
