"""The page in a stock Firefox: the whole way of a photo, at the width of a desk and of a phone.

Run with `make test-web`. What the page does in detail is tested in test_browser.py.
"""

import io
import time
import zipfile

import numpy as np
import pytest
import served
import serving_engine
from PIL import Image

from oldphoto_jax.photos import images, masks
from oldphoto_jax.serving import studio

bidi = pytest.importorskip('bidi', reason='needs websockets: make test-web')
pytestmark = [
  pytest.mark.web,
  pytest.mark.skipif(
    not bidi.installed(), reason='needs Firefox 129 or newer, such as `apt install firefox-esr`'
  ),
]


@pytest.fixture(scope='module')
def page(tmp_path_factory):
  with bidi.firefox(tmp_path_factory.mktemp('firefox')) as page:
    yield page


@pytest.fixture
def address(tmp_path, monkeypatch, page):
  """Of a server; in the end, nothing may have gone wrong in the page."""
  monkeypatch.setattr(studio, 'TILE', 128)
  page.wrong.clear()
  page.requested.clear()
  page.asked.clear()
  with served.serving(tmp_path) as address:
    yield address
    page.run('null')  # the last events arrive
    wrong = list(page.wrong)  # what is cut off by leaving the page does not count
    page.goto('about:blank')
  here = (address, 'blob:', 'about:', 'data:')
  elsewhere = [url for url in page.requested if not url.startswith(here)]
  assert not wrong and not elsewhere


def on_canvas(page, place):
  """The place on the screen of a place on the photo, while the whole photo is shown."""
  (height, width), (x, y) = served.SIZE, place
  left, top, wide, high = page.box('canvas')
  scale = min(wide / width, high / height)
  return left + (wide - scale * width) / 2 + scale * x, top + (
    high - scale * height
  ) / 2 + scale * y


def colour(page, place):
  """The colour on the screen at a place of the photo, a moment later."""
  time.sleep(0.3)
  return page.picture().getpixel(tuple(map(round, on_canvas(page, place))))


def open_photo(page, name):
  page.shown('.card .chip')
  page.click(f'Open {name}')
  page.shown('.state', 'preview')
  page.run('new Promise((resolve) => setTimeout(resolve, 300))')


@pytest.mark.parametrize(
  ('width', 'height', 'pointer'), [(1280, 800, 'mouse'), (390, 844, 'touch')]
)
def test_the_whole_way_through(page, address, tmp_path, width, height, pointer):
  pixels, name = served.scratched(), f'gran{width}.png'
  Image.fromarray(pixels).save(tmp_path / name)
  page.resize(width, height)
  page.goto(address)
  page.shown('.drop')
  page.choose_files('#files', tmp_path / name)
  open_photo(page, name)
  assert page.run('document.documentElement.scrollWidth') <= width

  for tool, places in served.STROKES.items():
    page.click(tool)
    page.run('scrollTo(0, 0)')
    page.point([on_canvas(page, place) for place in places], pointer)
    page.shown('.tools[aria-busy=false]')
  page.reload()  # in the middle: what was drawn is there
  page.until(
    "[...document.querySelectorAll('button')].some(b => b.textContent === 'Undo' && !b.disabled)"
  )
  page.click('Restore')
  page.shown('.state', 'at full size')
  page.run('scrollTo(0, 0)')

  # Before on the left, after on the right. The network reddens, and fills with gray.
  left, right, filled, kept = (90, 30), (260, 60), (230, 200), (310, 30)
  page.click('Show marks')
  page.run('scrollTo(0, 0)')
  assert [round(colour(page, at)[0], -1) for at in (left, right, filled, kept)] == [60, 80, 130, 60]
  page.point([on_canvas(page, (180, 120)), on_canvas(page, (355, 120))], pointer)  # the line
  assert round(colour(page, right)[0], -1) == 60
  page.point([page.named('Compare before and after')])
  page.press(*['\ue011'])  # Home
  page.run('scrollTo(0, 0)')
  assert round(colour(page, left)[0], -1) == 80

  page.click('Download marks')
  mask = masks.read(page.downloaded(name), served.SIZE)
  page.downloaded(name).unlink()
  page.click('Download')
  served.check(pixels, mask, images.read_rgb8(page.downloaded(name)))


def test_dropped_files_and_a_folder(page, address, tmp_path):
  page.resize(1280, 800)
  page.goto(address)
  page.shown('.drop')
  buffer = io.BytesIO()
  Image.fromarray(serving_engine.photo()).save(buffer, 'PNG')
  data = list(buffer.getvalue())
  page.run(f"""((data) => {{
    const files = new DataTransfer();
    for (const name of ['a.png', 'b.png']) files.items.add(new File([data], name));
    document.body.dispatchEvent(
      new DragEvent('drop', {{dataTransfer: files, bubbles: true, cancelable: true}}));
  }})(new Uint8Array({data}))""")
  Image.fromarray(serving_engine.photo(1)).save(tmp_path / 'c.png')
  page.choose_files('#folder', tmp_path / 'c.png')  # as if it was all that the folder holds
  for name in ('a.png', 'b.png', 'c.png'):
    page.shown('.card', name)
  page.until("document.querySelectorAll('.chips:not(:empty)').length === 3")
  page.click('Restore all')
  page.until("document.querySelectorAll('.status.good').length === 3")
  page.click('Download')
  with zipfile.ZipFile(page.downloaded('restored.zip')) as archive:
    # Two are uploaded at a time, so any may come first.
    assert sorted(archive.namelist()) == ['a.png', 'b.png', 'c.png']
    after = np.asarray(Image.open(io.BytesIO(archive.read('a.png'))))
  assert (after[21, 60:75] == 128).all()  # the scratch is filled
  page.click('Choose all')
  page.click('Remove')
  page.until("!document.querySelector('.card')")
  (question,) = page.asked
  assert question.startswith('Remove 3 photos')


def test_what_the_policy_forbids_would_be_noticed(page, address):
  page.goto(address)
  page.run("""(() => {
    const image = new Image();
    image.src = 'http://127.0.0.1:9/';
    document.body.append(image);
    const style = document.createElement('style');
    document.body.append(style);
    style.textContent = 'p {}';
  })()""")
  page.until('new Promise((resolve) => setTimeout(() => resolve(true), 300))')
  text = ' '.join(page.wrong)
  assert 'policy: img-src' in text and 'policy: style-src' in text
  page.wrong.clear()
