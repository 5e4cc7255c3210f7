"""Runs the server of `oldphoto serve` until it is interrupted."""

import contextlib
import functools
import os
import pathlib
import secrets
import socket
import threading
import webbrowser
from collections.abc import Iterable

import numpy as np
import uvicorn

from oldphoto_jax import weights
from oldphoto_jax.errors import ExitStatus, OptionError
from oldphoto_jax.restoring import engine, restore
from oldphoto_jax.serving import app, box, studio
from oldphoto_jax.serving.limits import Limits

PORT = 8765
LOOPBACK = ('127.0.0.1', 'localhost', '::1')


def default_work() -> pathlib.Path:
  """The folder of the box where none is given: among the user's data."""
  home = os.environ.get('LOCALAPPDATA') or os.environ.get('XDG_DATA_HOME')
  base = pathlib.Path(home) if home else pathlib.Path.home() / '.local' / 'share'
  return base / 'oldphoto' / 'box'


def serve(
  paths: Iterable[str | os.PathLike],
  *,
  source: str | os.PathLike,
  out: pathlib.Path | None,
  overwrite: bool,
  work: pathlib.Path,
  host: str,
  port: int | None,
  token: str | None,
  browser: bool,
  limits: Limits,
) -> ExitStatus:
  """Serves the page until Ctrl-C or SIGTERM.

  Args:
    paths: photos and folders that are in the box from the start, read where they are.
    source: weights.
    out: output folder, or None.
    overwrite: whether other files in it may be replaced.
    work: folder of the box.
    host: address to listen at.
    port: None: PORT, or any other if it is taken.
    token: which visitors need; made up where others than this machine can reach the server.
    browser: whether to open the page.
    limits: of what is taken.

  Raises:
    UserError: something that was given cannot work.
  """
  loaded = weights.read(source)
  restorer = loaded.restorer()
  paths = list(paths)
  listening = _listen(host, port)
  with contextlib.closing(listening):
    port = listening.getsockname()[1]
    if host not in LOOPBACK and token is None:
      token = secrets.token_urlsafe(24)
    photos = box.Box(work, limits)
    if paths:
      photos.add_folders(paths, skip=out)
    # At all of its addresses, a machine has names that it does not know: there the token suffices,
    # as a browser sends it only to the name at which it was got.
    everywhere = host in ('0.0.0.0', '::')
    hosts = None if everywhere else frozenset(_with_port(n, port) for n in {*LOOPBACK, host})
    compiled = functools.partial(_compiled, restorer)
    made_by = {'weights_sha256': loaded.sha256, 'tile': studio.TILE}
    setup = app.Setup(photos, compiled, hosts, token, out, overwrite, made_by)
    address = f'http://{_with_port(socket.gethostname() if everywhere else host, port)}/'
    address += f'?token={token}' if token else ''
    print(f'The page is at {address}\nPhotos stay on this computer. Ctrl-C ends.', flush=True)
    config = uvicorn.Config(
      app.make(setup),
      log_level='warning',
      access_log=False,  # the address holds the token once
      server_header=False,
      proxy_headers=False,
      ws='none',
      lifespan='on',
      limit_concurrency=64,
      timeout_keep_alive=15,
      timeout_graceful_shutdown=3,
    )
    server = uvicorn.Server(config)
    if browser:
      threading.Thread(target=_open, args=(server, address), daemon=True).start()
    with contextlib.suppress(KeyboardInterrupt):
      server.run(sockets=[listening])
  return ExitStatus.OK


def _listen(host: str, port: int | None) -> socket.socket:
  family = socket.AF_INET6 if ':' in host else socket.AF_INET
  for number in [port] if port is not None else [PORT, 0]:
    listening = socket.socket(family, socket.SOCK_STREAM)
    if os.name == 'posix':  # elsewhere it would let two servers share a port
      listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
      listening.bind((host, number))
      listening.listen(64)
      return listening
    except (OSError, OverflowError) as error:
      listening.close()
      problem = error
  raise OptionError(
    f'cannot listen at {host}, port {port or PORT} ({problem}); choose another --host or --port.'
  )


def _with_port(host: str, port: int) -> str:
  """The value of `Host` for an address."""
  name = f'[{host}]' if ':' in host else host.lower()
  return name if port == 80 else f'{name}:{port}'


def _compiled(restorer: restore.Restorer) -> engine.Engine:
  """The engine, with its programs compiled, so that the first photo need not wait for them."""
  made = engine.compiled(restorer, tile=studio.TILE)
  photo = np.zeros((studio.TILE, studio.TILE, 3), np.float32)
  mask = np.zeros((studio.TILE, studio.TILE, 1), np.float32)
  mask[: studio.TILE // 4, : studio.TILE // 4] = 1
  if not isinstance(made, engine.Layerwise):
    engined = studio.watched(made, studio.Tiles(0))
    restore.restore_array(engined, photo, mask, restore.Wishes(tone=restore.TONE))
  return made


def _open(server: uvicorn.Server, address: str) -> None:
  while not server.started and not server.should_exit:
    threading.Event().wait(0.05)
  if server.started:
    webbrowser.open(address)
