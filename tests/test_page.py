"""The before/after page: whole in one file, and safe with any file name."""

import base64
import html.parser
import io
import re

import numpy as np
from PIL import Image, ImageCms

from oldphoto_jax.photos import page


class Elements(html.parser.HTMLParser):
  """Lists the elements, and checks that each is closed."""

  def __init__(self, text):
    super().__init__()
    self.found, self.open = [], []
    self.feed(text)
    assert not self.open

  def handle_starttag(self, tag, attributes):
    self.found.append((tag, dict(attributes)))
    if tag not in ('img', 'input', 'meta'):
      self.open.append(tag)

  def handle_endtag(self, tag):
    assert self.open.pop() == tag

  def all(self, tag):
    return [attributes for name, attributes in self.found if name == tag]


def picture(uri):
  kind, data = re.fullmatch(r'data:image/(jpeg|png);base64,(.*)', uri).groups()
  image = Image.open(io.BytesIO(base64.b64decode(data)))
  assert image.format.lower() == kind
  return image


def write(tmp_path, entries, failures=(), side=1200, **options):
  figures = [page.figure(entry, side) for entry in entries]
  page.write_page(tmp_path / 'page.html', figures, failures, **options)
  text = (tmp_path / 'page.html').read_text(encoding='utf-8')
  return text, Elements(text)


def test_the_page_is_whole_and_asks_for_nothing(tmp_path):
  icc = ImageCms.ImageCmsProfile(ImageCms.createProfile('sRGB')).tobytes()
  before, after = np.zeros((60, 80, 3), np.uint8), np.full((60, 80, 3), 255, np.uint8)
  entries = (page.Entry(f'sub/{i}.png', before, after, icc=icc) for i in range(2))
  text, elements = write(tmp_path, entries, title='Gran & co', side=40)
  assert not re.search(r'https?:|//\w|@import|url\(', re.sub(r'base64,[^"]*', '', text))
  assert "default-src 'none'" in text
  assert '<h1>Gran &amp; co</h1>' in text
  assert '2 photos.' in text
  images = [picture(attributes['src']) for attributes in elements.all('img')]
  assert [image.size for image in images] == [(40, 30)] * 4
  assert [image.getpixel((9, 9))[0] for image in images] == [255, 0, 255, 0]  # after lies below
  assert all(image.info['icc_profile'] == icc for image in images)
  assert [a['alt'] for a in elements.all('img')[:2]] == ['After: 0.png', 'Before: 0.png']
  assert [a['aria-label'] for a in elements.all('input')] == ['Compare 0.png', 'Compare 1.png']


def test_mask_and_change_are_overlays(tmp_path):
  photo = np.zeros((30, 20, 3), np.uint8)
  mask = np.zeros((30, 20))
  mask[:15] = 1
  _, elements = write(tmp_path, [page.Entry('a.png', photo, photo, mask=mask, change=mask / 2)])
  overlays = [a for a in elements.all('img') if 'data-kind' in a]
  assert [a['data-kind'] for a in overlays] == ['mask', 'change']
  shown = [np.asarray(picture(a['src']))[..., 3] for a in overlays]
  assert [(alpha[0, 0], alpha[-1, -1]) for alpha in shown] == [(200, 0), (100, 0)]
  assert [a.get('data-shows') for a in elements.all('button')] == ['mask', 'change', None]


def test_failures_and_strange_names(tmp_path):
  photo = np.zeros((8, 8, 3), np.uint8)
  name = '<script>"\'\udcff.png'  # \udcff: a byte that is not UTF-8
  entry = page.Entry(name, photo, photo, note='a < b')
  text, elements = write(tmp_path, [entry], [(name, 'Is <empty>.')])
  assert len(elements.all('script')) == 1
  assert 'One photo could not be restored' in text
  assert '&lt;script&gt;&quot;&#x27;?.png</strong> Is &lt;empty&gt;.' in text
  assert '<p>a &lt; b</p>' in text
  assert 'No photo could be restored.' in write(tmp_path, [], [('a', 'b')])[0]


def test_a_report_is_whole_and_asks_for_nothing(tmp_path):
  rows = [['<first> row', '1.5 [1, 2]'], ['second', '–']]
  pair = np.zeros((2, 8, 12, 3), np.uint8)
  sections = [
    page.Section('A & B', 'Some text.', ['', 'score'], rows, np.zeros((30, 90, 3), np.uint8)),
    page.Section('C', '', ['', 'score'], rows[:1], entries=(page.Entry('a.png', *pair),)),
  ]
  page.write_report(tmp_path / 'page.html', sections, title='Comparison', lead='Of <all>.', side=45)
  text = (tmp_path / 'page.html').read_text(encoding='utf-8')
  elements = Elements(text)
  assert not re.search(r'https?:|//\w|@import|url\(', re.sub(r'base64,[^"]*', '', text))
  assert '<h2>A &amp; B</h2>' in text and 'Of &lt;all&gt;.' in text
  assert '<th>&lt;first&gt; row</th><td>1.5 [1, 2]</td>' in text
  assert len(elements.all('tr')) == 5 and len(elements.all('td')) == 3
  image, *compared = elements.all('img')
  assert picture(image['src']).size == (45, 15)
  assert [i['alt'] for i in compared] == ['After: a.png', 'Before: a.png']
  assert len(elements.all('script')) == 1
