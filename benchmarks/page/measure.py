"""How long a visitor of `oldphoto serve` waits, and how much memory the server takes.

  python benchmarks/page/measure.py                    # 12 megapixels
  python benchmarks/page/measure.py --size 8000x6000 --no-restore

Needs the extra `browser`, Chromium and Linux. A server of its own is started, with an empty box and
the shipped weights. Times are of the browser's clock, from what a person does to what is seen: a
picture counts as seen two frames after it was drawn on the page's canvas.
"""

import argparse
import contextlib
import dataclasses
import os
import pathlib
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image

from oldphoto_jax.data import sources

# Before the page's own scripts: long tasks, and pictures as they come to the screen. A preview is a
# `blob:`; the others are named by their addresses.
WATCH = """
window.longTasks = [];
new PerformanceObserver((list) => {
  for (const task of list.getEntries()) longTasks.push(task.duration);
}).observe({type: 'longtask', buffered: true});
addEventListener('click', (event) => { window.clicked = event.timeStamp; }, true);
window.seen = new Map(); // milliseconds when a picture was first on the screen, by its address
const drawImage = CanvasRenderingContext2D.prototype.drawImage;
CanvasRenderingContext2D.prototype.drawImage = function (image, ...where) {
  if (image.src && !seen.has(image.src)) {
    seen.set(image.src, Infinity);
    const now = () => seen.set(image.src, performance.now());
    requestAnimationFrame(() => requestAnimationFrame(now));
  }
  return drawImage.call(this, image, ...where);
};
"""
# Moves a slider, and waits for the next preview.
MOVE = """async ([name, value]) => {
  const input = document.getElementById(name);
  const before = new Set(seen.keys());
  const start = performance.now();
  input.value = value;
  input.dispatchEvent(new Event('input'));
  for (;;) {
    await new Promise(requestAnimationFrame);
    const next = [...seen].find(([address]) => address.startsWith('blob:') && !before.has(address));
    if (next?.[1] < Infinity) return next[1] - start;
    if (performance.now() > start + 60000) throw new Error('no preview came');
  }
}"""
PAINT = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime"
SLIDERS = {'strength': (40, 70, 55, 90, 65), 'tone': (20, 80, 50, 35, 95)}


@dataclasses.dataclass(frozen=True)
class Figure:
  """Something that was measured once or several times.

  Attributes:
    name: of what.
    unit: of the values.
    values: one of each time.
  """

  name: str
  unit: str
  values: tuple[float, ...]


def photo(width: int, height: int) -> np.ndarray:
  """A grainy photo with scratches, uint8 [H, W, 3]: a sample photo, enlarged; always the same."""
  sample = Image.fromarray(sources.sample_photos()[0])
  enlarged = sample.resize((width, height), Image.Resampling.BICUBIC)
  random = np.random.default_rng(0)
  # In strips: noise of all of it at once would take more memory than what is measured.
  pixels = np.array(enlarged)
  for strip in np.array_split(pixels, 16):
    grain = random.normal(0, 8, strip.shape[:2]).astype(np.float32)[..., None]
    strip[:] = (strip + grain).clip(0, 255).astype(np.uint8)
  for x in random.integers(0, width, 12):
    pixels[:, x : x + max(2, width // 800)] = 245
  return pixels


@contextlib.contextmanager
def server(box: pathlib.Path) -> Iterator[tuple[str, Callable[[], float]]]:
  """A running `oldphoto serve`: its address, and the most memory that it had so far, in MB."""
  command = [sys.executable, '-m', 'oldphoto_jax', 'serve', '--no-browser', '--port', '0']
  process = subprocess.Popen(
    [*command, '--work', str(box)], stdout=subprocess.PIPE, text=True, start_new_session=True
  )
  try:
    for line in process.stdout:
      if found := re.search(r'http://\S+', line):
        break
    else:
      raise SystemExit('The server did not start.')
    status = pathlib.Path(f'/proc/{process.pid}/status')
    peak = lambda: int(re.search(r'VmHWM:\s+(\d+)', status.read_text())[1]) / 1024
    yield found[0], peak
  finally:
    process.send_signal(signal.SIGINT)
    process.wait(60)


def measured(page, address: str, path: pathlib.Path, restoring: bool) -> Iterator[Figure]:
  """What is measured in a page of Playwright while a photo goes through.

  Args:
    page: empty.
    address: of the server.
    path: of the photo, which is not in the box yet.
    restoring: whether the photo is restored, and previews are measured once more after that.
  """
  page.set_default_timeout(300_000)
  page.add_init_script(WATCH)
  opened = []
  for _ in range(5):
    page.goto(address)
    page.locator('.drop').wait_for()
    until(page, f'{PAINT} > 0')  # the browser may record it later than the page is there
    opened.append(page.evaluate(PAINT))
  yield Figure('first paint', 'ms', tuple(opened))
  page.locator('.ready').wait_for(state='hidden')  # the weights are loaded

  start = page.evaluate('performance.now()')
  since = lambda: page.evaluate('performance.now()') - start
  page.set_input_files('#files', path)
  until(page, "document.querySelector('.thumb img[src]')?.naturalWidth > 0")
  yield Figure('dropped, to its picture in the box', 'ms', (since(),))
  page.locator('.chips:not(:empty)').wait_for()
  yield Figure('dropped, to what a first look found', 'ms', (since(),))

  page.locator('.thumb').click()
  until(page, "[...seen].some(([a, when]) => a.includes('/looked/') && when < Infinity)")
  waited = page.evaluate("[...seen].find(([a]) => a.includes('/looked/'))[1] - clicked")
  yield Figure('clicked, to before and after on the screen', 'ms', (waited,))
  yield from previews(page, 'before it was restored')
  if restoring:
    start = page.evaluate('performance.now()')
    page.get_by_role('button', name='Restore', exact=True).click()
    page.locator('.state', has_text='at full size').wait_for()
    yield Figure('restored', 'ms', (since(),))
    yield from previews(page, 'after it was restored')
  page.locator('canvas').focus()
  for key in '1--0':  # single pixels in the middle, further out, and whole
    page.keyboard.press(key)
    page.wait_for_timeout(700)
  # Tasks count from 50 ms on.
  tasks = (0, *page.evaluate('longTasks'))
  yield Figure('longest task of the page', 'ms', (max(tasks),))


def until(page, script: str) -> None:
  """Waits until an expression is true. Playwright's own way is forbidden by the page's policy."""
  page.evaluate(f'async () => {{ while (!({script})) await new Promise(requestAnimationFrame); }}')


def previews(page, when: str) -> Iterator[Figure]:
  """Of each slider, from its movement to the new preview on the screen."""
  for name, values in SLIDERS.items():
    times = tuple(page.evaluate(MOVE, [name, value]) for value in values)
    yield Figure(f'preview after {name}, {when}', 'ms', times)


def table(figures: list[Figure]) -> str:
  """The figures in Markdown: least, median and most."""
  lines = ['| | | least | median | most |', '|---|---|---|---|---|']
  for one in figures:
    shown = (min(one.values), statistics.median(one.values), max(one.values))
    cells = (
      [f'{value:,.0f}' for value in shown] if len(one.values) > 1 else ['', f'{shown[1]:,.0f}', '']
    )
    lines.append(f'| {one.name} | {one.unit} | {" | ".join(cells)} |')
  return '\n'.join(lines)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
  parser.add_argument('--size', default='4000x3000', help='width x height of the photo')
  parser.add_argument('--no-restore', dest='restore', action='store_false')
  args = parser.parse_args()
  width, height = map(int, args.size.split('x'))
  from playwright.sync_api import sync_playwright

  chromium = shutil.which('chromium') or shutil.which('chromium-browser')
  if chromium is None:
    parser.error('there is no Chromium; install it, such as by `apt install chromium`.')
  with tempfile.TemporaryDirectory() as folder, sync_playwright() as tool:
    path = pathlib.Path(folder, 'photo.jpg')
    Image.fromarray(photo(width, height)).save(path, quality=92)
    with server(pathlib.Path(folder, 'box')) as (address, peak):
      # Root has no sandbox in Chromium.
      options = ['--no-sandbox'] if os.geteuid() == 0 else []
      browser = tool.chromium.launch(executable_path=chromium, args=options)
      figures = []
      for figure in measured(browser.new_page(), address, path, args.restore):
        print(f'{figure.name}: {figure.values} {figure.unit}', flush=True)
        figures.append(figure)
      figures.append(Figure('most memory of the server', 'MB', (peak(),)))
      browser.close()
  print(f'\n{args.size}, {os.cpu_count()} cores\n\n{table(figures)}')


if __name__ == '__main__':
  main()
