"""A stock Firefox, driven by WebDriver BiDi (https://w3c.github.io/webdriver-bidi/), for tests.

Playwright needs its own Firefox, or one newer than Debian's, and Selenium needs geckodriver, which
Debian does not have. Firefox itself speaks BiDi over a web socket since version 129.
"""

import base64
import contextlib
import io
import json
import pathlib
import re
import shutil
import subprocess
import time

from PIL import Image
from websockets.sync.client import connect

PREFERENCES = {
  'browser.download.folderList': 2,  # into browser.download.dir
  'browser.download.useDownloadDir': True,
  'browser.download.always_ask_before_handling_new_types': False,
  'browser.helperApps.neverAsk.saveToDisk': 'application/octet-stream,image/png,application/zip',
  'browser.shell.checkDefaultBrowser': False,
  'datareporting.policy.dataSubmissionEnabled': False,
  'dom.disable_beforeunload': True,
  'network.captive-portal-service.enabled': False,
  'network.connectivity-service.enabled': False,
  'remote.active-protocols': 1,  # BiDi alone
}
# Violations of the page's policy do not come as entries of the log.
WATCH = """() => addEventListener('securitypolicyviolation',
  (event) => console.error(`policy: ${event.violatedDirective} ${event.blockedURI}`))"""


def installed() -> str:
  """The path of Firefox, or ''."""
  return next(filter(None, map(shutil.which, ('firefox', 'firefox-esr'))), '')


@contextlib.contextmanager
def firefox(folder: pathlib.Path):
  """A page of a new Firefox, which keeps its profile and its downloads in `folder`."""
  profile, downloads = folder / 'profile', folder / 'downloads'
  for place in (profile, downloads):
    place.mkdir(parents=True)
  preferences = PREFERENCES | {'browser.download.dir': str(downloads)}
  lines = (f'user_pref({json.dumps(k)}, {json.dumps(v)});' for k, v in preferences.items())
  (profile / 'user.js').write_text('\n'.join(lines))
  command = [installed(), '--headless', '--no-remote', '--profile', str(profile)]
  log = folder / 'firefox.log'
  with log.open('w') as out:
    process = subprocess.Popen([*command, '--remote-debugging-port=0'], stdout=out, stderr=out)
  try:
    with connect(f'{_address(log)}/session', max_size=None, open_timeout=30) as socket:
      yield Page(socket, downloads)
  finally:
    process.terminate()
    process.wait(30)


def _address(log: pathlib.Path) -> str:
  end = time.monotonic() + 60
  while time.monotonic() < end:
    if found := re.search(r'BiDi listening on (ws://\S+)', log.read_text()):
      return found[1]
    time.sleep(0.05)
  raise AssertionError(f'Firefox has not started: {log.read_text()}')


class Page:
  """One page.

  Attributes:
    wrong: what its scripts, and the browser on its behalf, complain of.
    requested: addresses.
    asked: what its dialogs asked; the answer is yes.
  """

  def __init__(self, socket, downloads: pathlib.Path):
    self._socket, self._number, self.downloads = socket, 0, downloads
    self.wrong: list[str] = []
    self.requested: list[str] = []
    self.asked: list[str] = []
    # Dialogs are answered below: Firefox's own answer waits for the click that opened them to end.
    self._send('session.new', capabilities={'alwaysMatch': {'unhandledPromptBehavior': 'ignore'}})
    (tree,) = self._send('browsingContext.getTree')['contexts']
    self._context = tree['context']
    self._send(
      'session.subscribe',
      events=['log.entryAdded', 'network.beforeRequestSent', 'browsingContext.userPromptOpened'],
    )
    self._send('script.addPreloadScript', functionDeclaration=WATCH)

  def _post(self, method: str, **values) -> int:
    self._number += 1
    message = {'id': self._number, 'method': method, 'params': values}
    self._socket.send(json.dumps(message))
    return self._number

  def _send(self, method: str, **values):
    number = self._post(method, **values)
    while True:
      answer = json.loads(self._socket.recv(timeout=60))
      if answer['type'] == 'event':
        self._event(answer['method'], answer['params'])
      elif answer['type'] == 'error':
        raise AssertionError(f'{method}: {answer["error"]}: {answer["message"]}')
      elif answer['id'] == number:
        return answer['result']

  def _event(self, method: str, values) -> None:
    if method == 'log.entryAdded' and values['level'] in ('error', 'warn'):
      self.wrong.append(values['text'])
    elif method == 'network.beforeRequestSent':
      self.requested.append(values['request']['url'])
    elif method == 'browsingContext.userPromptOpened':
      self.asked.append(values['message'])
      self._post('browsingContext.handleUserPrompt', context=self._context, accept=True)

  def resize(self, width: int, height: int) -> None:
    size = {'width': width, 'height': height}
    self._send('browsingContext.setViewport', context=self._context, viewport=size)

  def goto(self, address: str) -> None:
    self._send('browsingContext.navigate', context=self._context, url=address, wait='complete')

  def reload(self) -> None:
    self._send('browsingContext.reload', context=self._context, wait='complete')

  def run(self, script: str, **more):
    """The JSON value of a JavaScript expression, whose promise is awaited."""
    target = {'context': self._context}
    text = f'(async () => JSON.stringify(await ({script})) ?? "null")()'
    answer = self._send(
      'script.evaluate', expression=text, target=target, awaitPromise=True, **more
    )
    assert answer['type'] == 'success', f'{script}: {answer["exceptionDetails"]["text"]}'
    return json.loads(answer['result']['value'])

  def until(self, script: str, seconds: float = 15.0):
    """The value of an expression, as soon as it is true."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
      if value := self.run(script):
        return value
      time.sleep(0.05)
    raise AssertionError(f'{script}: still not true')

  def shown(self, selector: str, text: str = '') -> None:
    """Waits for an element with this text in it."""
    self.until(f"""[...document.querySelectorAll({json.dumps(selector)})].some((one) =>
      one.checkVisibility() && one.textContent.includes({json.dumps(text)}))""")

  def choose_files(self, selector: str, *paths: pathlib.Path) -> None:
    """Chooses files in an input of files."""
    target = {'context': self._context}
    found = self._send(
      'script.evaluate',
      expression=f'document.querySelector({json.dumps(selector)})',
      target=target,
      awaitPromise=False,
    )
    element = {'sharedId': found['result']['sharedId']}
    files = [str(path) for path in paths]
    self._send('input.setFiles', context=self._context, element=element, files=files)

  def box(self, selector: str) -> tuple[float, float, float, float]:
    """Left, top, width and height of an element on the screen, after it was scrolled to."""
    return self.run(f"""((one) => {{
      one.scrollIntoView({{block: 'nearest'}});
      const {{left, top, width, height}} = one.getBoundingClientRect();
      return [left, top, width, height];
    }})(document.querySelector({json.dumps(selector)}))""")

  def named(self, name: str) -> tuple[float, float]:
    """The middle of the visible button, link or field of this name, which is scrolled to."""
    return self.until(f"""((one) => {{
      if (!one || one.disabled) return null;
      one.scrollIntoView({{block: 'center'}});
      const {{left, top, width, height}} = one.getBoundingClientRect();
      return [left + width / 2, top + height / 2];
    }})([...document.querySelectorAll('button, a, input, summary')].find((one) =>
      one.checkVisibility() && [one.textContent.trim(), one.getAttribute('aria-label'),
        one.labels?.[0]?.textContent.trim()].includes({json.dumps(name)})))""")

  def click(self, name: str) -> None:
    self.point([self.named(name)])

  def point(self, places, kind: str = 'mouse') -> None:
    """Presses a pointer at the first place and moves it over the others; kind: mouse or touch."""
    moves = [{'type': 'pointerMove', 'x': x, 'y': y, 'duration': 30} for x, y in places]
    down, up = ({'type': name, 'button': 0} for name in ('pointerDown', 'pointerUp'))
    actions = [moves[0], down, *moves[1:], up]
    source = {'type': 'pointer', 'id': kind, 'parameters': {'pointerType': kind}}
    self._send(
      'input.performActions', context=self._context, actions=[source | {'actions': actions}]
    )

  def press(self, *keys: str) -> None:
    actions = [{'type': f'key{way}', 'value': key} for key in keys for way in ('Down', 'Up')]
    source = {'type': 'key', 'id': 'keys', 'actions': actions}
    self._send('input.performActions', context=self._context, actions=[source])

  def picture(self) -> Image.Image:
    """What is on the screen."""
    answer = self._send('browsingContext.captureScreenshot', context=self._context)
    return Image.open(io.BytesIO(base64.b64decode(answer['data']))).convert('RGB')

  def downloaded(self, name: str) -> pathlib.Path:
    """The file that was downloaded under this name, as soon as it is whole."""
    path, end = self.downloads / name, time.monotonic() + 15
    while time.monotonic() < end:
      part = path.with_name(f'{name}.part')
      if path.exists() and path.stat().st_size and not part.exists():
        return path
      time.sleep(0.05)
    raise AssertionError(f'{name} was not downloaded: {list(self.downloads.iterdir())}')
