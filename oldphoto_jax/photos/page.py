"""One HTML file with photos before and after, or with tables. Works offline and sends nothing."""

import base64
import dataclasses
import html
import io
import os
from collections.abc import Iterable, Sequence

import numpy as np
from PIL import Image

from oldphoto_jax.photos import images

_MASK_COLOUR = (226, 62, 40)
_CHANGE_COLOUR = (255, 170, 0)


@dataclasses.dataclass(frozen=True, eq=False)
class Entry:
  """One photo of the page."""

  name: str  # shown to the reader, such as the path below their folder
  before: np.ndarray  # uint8 [H, W, 3]
  after: np.ndarray  # uint8 [H, W, 3]
  icc: bytes | None = None  # colour profile of both
  mask: np.ndarray | None = None  # found damage, float [H, W] in [0, 1], 1 = damaged
  change: np.ndarray | None = None  # how much the photo changed, float [H, W] in [0, 1]
  note: str = ''  # a remark below the photo


def write_page(
  path: str | os.PathLike,
  figures: Sequence[str],
  failures: Sequence[tuple[str, str]] = (),
  *,
  title: str = 'Before and after',
) -> None:
  """Writes the page. An existing file is replaced.

  Args:
    path: the HTML file.
    figures: of `figure`, in the order shown.
    failures: (name of a photo, why it could not be restored).
    title: heading of the page.

  Raises:
    PhotoError: the file cannot be written.
  """
  parts = [_head(title, _lead(len(figures))), *figures, '</main>']
  if failures:
    count = 'One photo' if len(failures) == 1 else f'{len(failures)} photos'
    parts += [f'<section class="failed"><h2>{count} could not be restored</h2><ul>']
    for name, reason in failures:
      parts += [f'<li><strong>{_escape(name)}</strong> {_escape(reason)}</li>']
    parts += ['</ul><p>The original files are untouched.</p></section>']
  parts.append(_FOOT)
  # File names need not be valid Unicode; invalid parts are shown as '?'.
  images.write_bytes(path, '\n'.join(parts).encode('utf-8', 'replace'), overwrite=True)


@dataclasses.dataclass(frozen=True, eq=False)
class Section:
  """A table of a report, and a picture and photos to compare below it."""

  title: str
  text: str
  header: list[str]
  rows: list[list[str]]  # the first cell names the row
  picture: np.ndarray | None = None  # uint8 [H, W, 3]
  entries: tuple[Entry, ...] = ()


def write_report(
  path: str | os.PathLike,
  sections: Iterable[Section],
  *,
  title: str,
  lead: str,
  side: int = 1800,
) -> None:
  """Writes tables and pictures as one page. An existing file is replaced.

  Args:
    path: the HTML file.
    sections: in the order shown.
    title, lead: heading of the page and the text below it.
    side: pictures are shrunk to at most this many pixels per side.

  Raises:
    PhotoError: the file cannot be written.
  """
  parts = [_head(title, _escape(lead)).replace('<main>', '<main class="report">')]
  parts += [_section(section, side) for section in sections]
  parts += ['</main>', '<footer>Everything on this page is inside this one file.</footer>']
  parts += [f'<script>{_SCRIPT}</script>', '</body>', '</html>', '']
  images.write_bytes(path, '\n'.join(parts).encode('utf-8', 'replace'), overwrite=True)


def _section(section: Section, side: int) -> str:
  def cells(kind: str, line: list[str]) -> str:
    first, *others = (_escape(cell) for cell in line)
    return f'<tr><th>{first}</th>{"".join(f"<{kind}>{x}</{kind}>" for x in others)}</tr>'

  rows = ''.join(cells('td', line) for line in section.rows)
  picture = ''
  if section.picture is not None:
    source, alt = _jpeg(section.picture, None, side), _escape(f'Photos: {section.title}')
    picture = f'<img src="{source}" alt="{alt}">'
  figures = ''.join(figure(entry, side) for entry in section.entries)
  figures = f'<div class="figures">{figures}</div>' if figures else ''
  return f"""<section><h2>{_escape(section.title)}</h2>
<p>{_escape(section.text)}</p>
<div class="table"><table><thead>{cells('th', section.header)}</thead><tbody>{rows}</tbody></table>
</div>{picture}{figures}</section>"""


def _lead(count: int) -> str:
  if count == 0:
    return 'No photo could be restored.'
  photos = 'One photo' if count == 1 else f'{count} photos'
  return f'{photos}. Drag across a picture to compare, or select it and press ← and →.'


def figure(entry: Entry, side: int = 1200) -> str:
  """A photo of the page as HTML, with pictures of at most `side` pixels per side."""
  height, width = entry.after.shape[:2]
  name, folder = _escape(os.path.basename(entry.name)), _escape(os.path.dirname(entry.name))
  overlays, buttons = [], []
  for kind, label, values, colour in (
    ('mask', 'Show damage', entry.mask, _MASK_COLOUR),
    ('change', 'Show changes', entry.change, _CHANGE_COLOUR),
  ):
    if values is not None:
      source = _overlay(values, colour, side)
      overlays.append(f'<img class="overlay" data-kind="{kind}" src="{source}" alt="" hidden>')
      buttons.append(f'<button type="button" data-shows="{kind}">{label}</button>')
  where = f'<span class="folder">{folder}/</span>' if folder else ''
  note = f'<p>{_escape(entry.note)}</p>' if entry.note else ''
  return f"""<figure>
<div class="compare" style="--ratio:{width / height:.4f}">
<img src="{_jpeg(entry.after, entry.icc, side)}" alt="After: {name}" draggable="false">
<span class="label right">After</span>
<div class="before">
<img src="{_jpeg(entry.before, entry.icc, side)}" alt="Before: {name}" draggable="false">
<span class="label left">Before</span>
</div>
{''.join(overlays)}
<input type="range" min="0" max="100" value="50" step="1" aria-label="Compare {name}">
<span class="handle" aria-hidden="true"></span>
</div>
<figcaption><div><strong>{where}{name}</strong>{note}</div>
<div class="buttons">{''.join(buttons)}<button type="button" data-larger>Larger</button></div>
</figcaption>
</figure>"""


def _escape(text: str) -> str:
  return html.escape(text, quote=True)


def _jpeg(pixels: np.ndarray, icc: bytes | None, side: int) -> str:
  image, buffer = Image.fromarray(pixels), io.BytesIO()
  image.thumbnail((side, side), Image.Resampling.LANCZOS)
  image.save(buffer, 'JPEG', quality=86, icc_profile=icc or b'')
  return _data_uri('image/jpeg', buffer.getvalue())


def _overlay(values: np.ndarray, colour: tuple[int, int, int], side: int) -> str:
  """Values in [0, 1] as a PNG of one colour. Larger values are more opaque."""
  alpha = np.rint(np.clip(np.asarray(values, np.float32), 0, 1) * 200).astype(np.uint8)
  flat = np.broadcast_to(np.array(colour, np.uint8), (*alpha.shape, 3))
  image, buffer = Image.fromarray(np.dstack([flat, alpha])), io.BytesIO()
  image.thumbnail((side, side), Image.Resampling.BOX)
  image.save(buffer, 'PNG')
  return _data_uri('image/png', buffer.getvalue())


def _data_uri(kind: str, data: bytes) -> str:
  return f'data:{kind};base64,{base64.b64encode(data).decode()}'


def _head(title: str, lead: str) -> str:
  # The policy lets the browser load nothing but what is inside this file.
  return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{_escape(title)}</title>
<style>{_STYLE}</style>
<noscript><style>{_STYLE_WITHOUT_SCRIPT}</style></noscript>
</head>
<body>
<header>
<h1>{_escape(title)}</h1>
<p>{lead}</p>
</header>
<main>"""


_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"

_STYLE = """
:root {
  --paper: #f6f1e9; --card: #fffdf9; --ink: #2d2620; --soft: #746659; --line: #e3d9cb;
  --accent: #8a4b1f; --bad: #a3341f; --shadow: 0 1px 2px #4a30181a, 0 8px 24px #4a301814;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #191512; --card: #241f1a; --ink: #efe7dc; --soft: #ab9d8d; --line: #3b332b;
    --accent: #e3a56d; --bad: #f08a72; --shadow: 0 1px 2px #0006, 0 8px 24px #0004;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; max-width: 100rem; padding: 2.5rem clamp(1rem, 4vw, 3.5rem) 3rem;
  background: var(--paper); color: var(--ink);
  font: 1rem/1.5 system-ui, -apple-system, 'Segoe UI', Roboto, 'Noto Sans', sans-serif;
}
h1, h2 {
  font-family: 'Iowan Old Style', 'Palatino Linotype', Palatino, Georgia, 'DejaVu Serif', serif;
  font-weight: 600; line-height: 1.15; margin: 0;
}
h1 { font-size: clamp(2rem, 5vw, 3rem); letter-spacing: -0.01em; }
header p { color: var(--soft); margin: .6rem 0 0; max-width: 44rem; }
main {
  display: grid; gap: 1.75rem; margin-top: 2rem; align-items: start;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 25rem), 1fr));
}
figure {
  margin: 0; background: var(--card); border: 1px solid var(--line); border-radius: 14px;
  box-shadow: var(--shadow); overflow: hidden;
}
figure.larger { grid-column: 1 / -1; }
figure.larger .compare { width: min(100%, 86vh * var(--ratio)); }
.compare {
  --at: 50%; position: relative; overflow: hidden; margin: 0 auto;
  aspect-ratio: var(--ratio);
  cursor: ew-resize; touch-action: pan-y; user-select: none; -webkit-user-select: none;
}
.compare img { position: absolute; inset: 0; width: 100%; height: 100%; display: block; }
.compare img[hidden] { display: none; }
.before { position: absolute; inset: 0; clip-path: inset(0 calc(100% - var(--at)) 0 0); }
.label {
  position: absolute; top: .75rem; padding: .15rem .65rem; border-radius: 99px;
  background: #1c1612b8; border: 1px solid #fff4; color: #fff;
  font-size: .8rem; font-weight: 600;
}
.left { left: .75rem; }
.right { right: .75rem; }
.compare input { position: absolute; inset: 0; opacity: 0; margin: 0; pointer-events: none; }
.handle {
  position: absolute; top: 0; bottom: 0; left: var(--at); width: 2px; margin-left: -1px;
  background: #fff; box-shadow: 0 0 6px #0008; pointer-events: none;
}
.handle::after {
  content: '‹ ›'; position: absolute; top: 50%; left: 50%; translate: -50% -50%;
  width: 2.75rem; height: 2.75rem; border-radius: 50%; background: #fff; color: #3a2c20;
  font: 700 1.25rem/2.5rem system-ui, sans-serif; text-align: center; box-shadow: 0 1px 8px #0007;
}
.compare input:focus-visible ~ .handle::after { outline: 4px solid var(--accent); }
figcaption {
  display: flex; flex-wrap: wrap; gap: .5rem 1rem; padding: .8rem 1rem .9rem;
  align-items: center; justify-content: space-between; overflow-wrap: anywhere;
}
figcaption > div:first-child { flex: 1 1 14rem; }
figcaption strong, .failed strong { font-weight: 600; }
figcaption p { margin: .15rem 0 0; color: var(--soft); font-size: .875rem; }
.folder { color: var(--soft); font-weight: 400; }
.buttons { display: flex; flex-wrap: wrap; gap: .5rem; }
button {
  font: inherit; font-size: .875rem; color: var(--accent); background: none; cursor: pointer;
  border: 1px solid var(--line); border-radius: 99px; padding: .3rem .85rem; min-height: 2.25rem;
}
button:hover, button[aria-pressed='true'] { border-color: var(--accent); }
button[aria-pressed='true'] { background: var(--accent); color: var(--card); }
button:focus-visible { outline: 3px solid var(--accent); outline-offset: 2px; }
.failed {
  margin-top: 2.5rem; padding: 1.25rem 1.5rem; background: var(--card);
  border: 1px solid var(--line); border-left: 5px solid var(--bad); border-radius: 14px;
}
.failed h2 { font-size: 1.3rem; }
.failed ul { margin: .75rem 0; padding-left: 1.2rem; overflow-wrap: anywhere; }
.failed p { margin: 0; color: var(--soft); }
main.report { display: block; }
.report section { margin: 2.5rem 0; }
.report section p { color: var(--soft); max-width: 60rem; }
.figures {
  display: grid; gap: 1.75rem; margin-top: 1.75rem; align-items: start;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 20rem), 1fr));
}
.report section > img { display: block; max-width: 100%; margin-top: 1.25rem; border-radius: 8px; }
.table { overflow-x: auto; border: 1px solid var(--line); border-radius: 10px; }
table { border-collapse: collapse; width: 100%; background: var(--card); font-size: .875rem; }
th, td { padding: .45rem .8rem; text-align: right; border-bottom: 1px solid var(--line); }
th { font-weight: 600; }
td { font-variant-numeric: tabular-nums; white-space: nowrap; }
th:first-child { text-align: left; min-width: 10rem; }
tbody tr:last-child > * { border-bottom: 0; }
footer { margin-top: 2.5rem; color: var(--soft); font-size: .875rem; }
@media (max-width: 40rem) { [data-larger] { display: none; } }
@media print { .buttons { display: none; } figure { break-inside: avoid; box-shadow: none; } }
"""

_STYLE_WITHOUT_SCRIPT = """
.compare { aspect-ratio: auto; }
.compare img, .before { position: static; clip-path: none; }
.handle, .buttons, .label { display: none; }
"""

_SCRIPT = """
for (const box of document.querySelectorAll('.compare')) {
  const range = box.querySelector('input');
  const show = () => {
    box.style.setProperty('--at', range.value + '%');
    range.setAttribute('aria-valuetext', range.value + ' percent before');
  };
  const follow = (event) => {
    const place = box.getBoundingClientRect();
    range.value = 100 * (event.clientX - place.left) / place.width;
    show();
  };
  range.addEventListener('input', show);
  box.addEventListener('pointerdown', (event) => {
    if (event.button !== 0) return;
    event.preventDefault();
    box.setPointerCapture(event.pointerId);
    range.focus({preventScroll: true});
    follow(event);
  });
  box.addEventListener('pointermove', (event) => {
    if (box.hasPointerCapture(event.pointerId)) follow(event);
  });
  show();
}
for (const button of document.querySelectorAll('button')) {
  const figure = button.closest('figure');
  button.setAttribute('aria-pressed', 'false');
  button.addEventListener('click', () => {
    const on = button.getAttribute('aria-pressed') !== 'true';
    button.setAttribute('aria-pressed', on);
    if (button.dataset.shows) {
      figure.querySelector(`[data-kind=${button.dataset.shows}]`).hidden = !on;
    } else {
      figure.classList.toggle('larger', on);
      button.textContent = on ? 'Smaller' : 'Larger';
      figure.scrollIntoView({block: 'nearest'});
    }
  });
}
"""

_FOOT = f"""<footer>Everything on this page is inside this one file. It works without the internet
and sends nothing anywhere. A restored photo is a good guess, not a record: keep the original.
</footer>
<script>{_SCRIPT}</script>
</body>
</html>
"""
