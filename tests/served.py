"""The page's server in a thread, with the engine of serving_engine, for tests in browsers."""

import contextlib
import threading

import numpy as np
import serving_engine
import uvicorn

from oldphoto_jax.photos import images
from oldphoto_jax.restoring import restore
from oldphoto_jax.serving import app, box
from oldphoto_jax.serving.limits import Limits
from oldphoto_jax.serving.server import _listen

SIZE = 240, 360  # height and width of `flat`


@contextlib.contextmanager
def running(application, port=0):
  """The address of a server in a thread."""
  listening = _listen('127.0.0.1', port)
  port = listening.getsockname()[1]
  config = uvicorn.Config(application(port), log_level='error', lifespan='on')
  server = uvicorn.Server(config)
  thread = threading.Thread(target=server.run, kwargs={'sockets': [listening]})
  thread.start()
  try:
    yield f'http://127.0.0.1:{port}/'
  finally:
    server.should_exit = True
    thread.join()
    listening.close()


def serving(tmp_path, engine=serving_engine.make, **setup):
  """The address of a page whose box is in tmp_path/work, and its output folder tmp_path/out."""

  def application(port):
    photos = box.Box(tmp_path / 'work', Limits())
    hosts = frozenset({f'127.0.0.1:{port}'})
    return app.make(app.Setup(photos, engine, hosts, out=tmp_path / 'out', **setup))

  return running(application)


def scratched():
  """A photo of about (60, 70, 80), to know what is on the screen, with a white scratch."""
  noise = np.random.default_rng(0).integers(-3, 4, (*SIZE, 1))
  pixels = (np.array([60, 70, 80]) + noise).astype(np.uint8)
  pixels[100:104, 30:-30] = 255
  return pixels


# Strokes by their tool: along the beginning of the scratch, on sound pixels, and on others.
STROKES = {
  'Erase marks': ((20, 102), (100, 102)),
  'Mark damage': ((200, 200), (260, 200)),
  'Keep the original': ((280, 30), (340, 30)),
}


def check(pixels, mask, after):
  """That `scratched` was restored under the strokes STROKES, with this mask."""
  assert not mask[98:106, 40:90].any() and mask[100:104, 130:320].all()
  assert mask[200, 205:255].all()
  keep = np.zeros((*SIZE, 1), bool)
  keep[28:32, 285:335] = True  # on a small screen, a pointer's places are some pixels apart
  expected, _ = restore.restore_photo(
    serving_engine.make(), images.Photo(pixels), mask, restore.Wishes(tone=0.6), keep
  )
  differing = (after != expected.pixels).any(-1)
  assert not differing[:20].any() and not differing[45:].any()  # elsewhere than at the kept stroke
  np.testing.assert_array_equal(after[keep[..., 0]], pixels[keep[..., 0]])
