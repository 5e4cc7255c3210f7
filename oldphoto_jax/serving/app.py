"""What the server answers: photos and settings go in and out. It restores nothing itself."""

import contextlib
import dataclasses
import importlib.resources
import json
import pathlib
import secrets
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any
from urllib.parse import quote

import numpy as np
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

import oldphoto_jax
from oldphoto_jax.errors import OptionError, PhotoError, UserError
from oldphoto_jax.photos import formats, images, masks
from oldphoto_jax.restoring import engine as engines
from oldphoto_jax.serving import box, brush, guard, pictures, saving, studio
from oldphoto_jax.serving.worker import Worker

TYPES = {'html': 'text/html', 'css': 'text/css', 'js': 'text/javascript', 'svg': 'image/svg+xml'}


@dataclasses.dataclass(frozen=True)
class Setup:
  """What an application is made of.

  Attributes:
    photos: the box.
    engine: loads and compiles the weights; called in the thread that restores.
    hosts, token: see guard.Guard.
    out: output folder; None: results are only downloaded.
    overwrite: whether other files in it may be replaced.
    made_by: what results depend on beside their settings, as restore.restore_photos takes it.
  """

  photos: box.Box
  engine: Callable[[], engines.Engine]
  hosts: frozenset[str] | None
  token: str | None = None
  out: pathlib.Path | None = None
  overwrite: bool = False
  made_by: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def page_files() -> dict[str, tuple[bytes, str]]:
  """The files that the browser gets: name -> (bytes, media type)."""
  files = {}
  for file in (importlib.resources.files('oldphoto_jax.serving') / 'page').iterdir():
    kind = TYPES.get(file.name.rpartition('.')[2])
    if kind:
      files[file.name] = (file.read_bytes(), kind)
  return files


class Answers:
  """What the server answers: a method for each address.

  Attributes:
    setup: what it is made of; `photos` and `limits` are its box, and the limits of that.
    cache: decoded photos.
    worker: restores in a thread of its own.
    files: what the browser gets, see page_files.
    id: a page notices by it that it speaks to another server.
  """

  def __init__(self, setup: Setup):
    self.setup, self.photos, self.limits = setup, setup.photos, setup.photos.limits
    self.cache = pictures.Cache(self.limits.decoded_bytes, self.limits.pixels)
    self.worker = Worker(self.photos, self._studio)
    self.files = page_files()
    self.id = secrets.token_hex(8)
    # Decoding, previews and packing are few at a time: each may need much memory.
    self._heavy = threading.BoundedSemaphore(2)

  def _studio(self) -> studio.Studio:
    return studio.Studio(self.photos, self.cache, self.setup.engine(), self.setup.made_by)

  def _find(self, request: Request) -> box.Entry:
    entry = self.photos.entry(request.path_params['id'])
    if entry is None:
      raise HTTPException(404, 'This photo is not in the box any more.')
    return entry

  async def _body(self, request: Request) -> dict[str, Any]:
    data = b''
    async for chunk in request.stream():
      data += chunk
      if len(data) > self.limits.request_bytes:
        raise HTTPException(413, f'The request has more than {self.limits.request_bytes} bytes.')
    try:
      value = json.loads(data)
    except ValueError:  # also text that is not UTF-8
      raise OptionError('the request is no JSON.') from None
    except RecursionError:
      raise OptionError('the request is nested too deeply.') from None
    if not isinstance(value, dict):
      raise OptionError('the request is no object.')
    return value

  async def _ids(self, request: Request) -> tuple[dict[str, Any], list[str]]:
    value = await self._body(request)
    ids = value.get('ids')
    if not isinstance(ids, list) or not all(isinstance(id, str) for id in ids):
      raise OptionError('the request names no photos.')
    return value, [id for id in ids if self.photos.entry(id)]

  async def _apart(self, function: Callable, *args) -> Any:
    """Runs a function that takes long in another thread."""

    def run():
      with self._heavy:
        return function(*args)

    return await run_in_threadpool(run)

  # The page ------------------------------------------------------------------------------------

  async def index(self, request: Request) -> Response:
    """The page."""
    data, kind = self.files['index.html']
    return Response(data, media_type=kind)

  async def file(self, request: Request) -> Response:
    """A file of the page."""
    name = request.path_params['name']
    if name not in self.files:
      raise HTTPException(404, 'There is no such file.')
    data, kind = self.files[name]
    return Response(data, media_type=kind)

  # What there is -------------------------------------------------------------------------------

  def _describe(self, entry: box.Entry) -> dict[str, Any]:
    result, edits = self.photos.result(entry), self.photos.edits(entry)
    looked = self.photos.looked(entry) or {}
    problem = entry.problem or self.worker.problem_of(entry.id)
    if not problem and result is None:  # what was restored since is no problem any more
      problem = looked.get('problem', '')
    return {
      'id': entry.id,
      'name': entry.name,
      'version': self.photos.version(entry.id),
      'height': entry.size and entry.size[0],
      'width': entry.size and entry.size[1],
      'mine': entry.source is not None,
      'problem': problem,
      'looked': looked if looked and 'problem' not in looked else None,
      'revision': edits.revision,
      'digest': edits.digest,
      'settings': dataclasses.asdict(edits.settings),
      'strokes': len(edits.strokes),
      'result': result,
    }

  async def state(self, request: Request) -> Response:
    """What changed since a version that the page knows, and what is being done."""
    try:
      since = int(request.query_params.get('since', '0'))
    except ValueError:
      raise OptionError('since is no number.') from None

    def collect():
      now = self.photos.changed
      changed = [e for e in self.photos.entries() if self.photos.version(e.id) > since]
      return {
        'version': now,
        'photos': [self._describe(entry) for entry in changed],
        'removed': self.photos.removed_since(since),
        'work': self.worker.state(),
        'out': None if self.setup.out is None else str(self.setup.out),
        'limits': {
          'bytes': self.limits.file_bytes,
          'photos': self.limits.photos,
          'endings': list(formats.FORMATS),
        },
        'finds': self.worker.studio is None or self.worker.studio.finds,
        'tile': pictures.TILE,
        'large': pictures.SIDES['large'],
        'software': f'oldphoto_jax {oldphoto_jax.__version__}',
        'server': self.id,
      }

    return JSONResponse(await run_in_threadpool(collect))

  # Photos in and out ---------------------------------------------------------------------------

  async def upload(self, request: Request) -> Response:
    """Takes a photo into the box."""
    name = request.query_params.get('name', '')
    target = self.photos.temporary / secrets.token_hex(16)
    try:
      size = 0
      with target.open('xb') as out:
        async for chunk in request.stream():
          size += len(chunk)
          if size > self.limits.file_bytes:
            raise HTTPException(
              413, f'The file is larger than the limit of {self.limits.file_bytes // 2**20} MB.'
            )
          await run_in_threadpool(out.write, chunk)
      entry = await self._apart(self.photos.add_upload, name, target)
    except ClientDisconnect:
      return Response(status_code=400)
    except OSError as error:
      raise PhotoError(f'the photo could not be stored ({error.strerror}).') from error
    finally:
      target.unlink(missing_ok=True)
    self.worker.look([entry.id])
    return JSONResponse({'id': entry.id}, 201)

  async def remove(self, request: Request) -> Response:
    """Removes photos from the box."""
    _, ids = await self._ids(request)
    for id in ids:
      self.worker.forget(id)
      if self.worker.studio is not None:
        self.worker.studio.forget(id)
      await run_in_threadpool(self.photos.remove, id)
    return JSONResponse({})

  async def download(self, request: Request) -> Response:
    """The newest result of a photo."""
    entry = self._find(request)
    restored = self.photos.restored(entry)
    if restored is None:
      raise HTTPException(404, 'This photo is not restored yet.')
    name = saving.out_names(self.photos.entries())[entry.id].name
    return FileResponse(restored, filename=name, media_type='application/octet-stream')

  async def mask(self, request: Request) -> Response:
    """What is filled, as a picture that `oldphoto restore --mask` takes."""
    entry = self._find(request)

    def drawn() -> bytes:
      edits = self.photos.edits(entry)
      base, settings = np.zeros((*entry.size, 1), np.float32), edits.settings
      if settings.find:
        base = studio.found(self.photos.place(entry), entry.size, settings.every_picture)
      values, _ = brush.draw(base, edits.strokes)
      return formats.encode(masks.to_photo(values), 'PNG')

    name = pathlib.PurePath(entry.name).with_suffix('.png').name
    headers = {'content-disposition': f"attachment; filename*=utf-8''{quote(name)}"}
    return Response(await self._apart(drawn), media_type='image/png', headers=headers)

  async def pack(self, request: Request) -> Response:
    """Packs results, and says where they can be fetched once."""
    _, ids = await self._ids(request)
    target = await self._apart(saving.zipped, self.photos, ids)
    return JSONResponse({'address': f'/api/packed/{target.stem}'})

  async def packed(self, request: Request) -> Response:
    """A packed file, which is removed after that."""
    target = self.photos.temporary / f'{request.path_params["ticket"]}.zip'
    if not request.path_params['ticket'].isalnum() or not target.exists():
      raise HTTPException(404, 'These photos were downloaded already.')
    gone = BackgroundTask(target.unlink, missing_ok=True)
    kind = 'application/zip'
    return FileResponse(target, filename='restored.zip', media_type=kind, background=gone)

  async def save(self, request: Request) -> Response:
    """Writes results into the output folder."""
    _, ids = await self._ids(request)
    if self.setup.out is None:
      raise OptionError('no output folder was given: start `oldphoto serve` with -o.')
    summary = await self._apart(saving.save, self.photos, ids, self.setup.out, self.setup.overwrite)
    return JSONResponse(
      {
        'saved': summary.count('restored') + summary.count('kept'),
        'problems': [r.message for r in summary.results if r.status == 'failed'],
        'out': str(self.setup.out),
      }
    )

  # Pictures ------------------------------------------------------------------------------------

  def _shown(self, entry: box.Entry, kind: str) -> pathlib.Path | None:
    """The file that a kind of picture is cut from at full size; None: there is none."""
    if kind == 'before':
      return self.photos.original(entry)
    if kind == 'after':
      return self.photos.restored(entry)
    settings = self.photos.edits(entry).settings
    found = self.photos.place(entry) / studio.FOUND[settings.every_picture]
    return found if settings.find and found.exists() else None

  async def small(self, request: Request) -> Response:
    """A small picture: before, after, or looked, what a first look made of it."""
    entry = self._find(request)
    kind, side = request.path_params['kind'], request.path_params['side']
    if kind not in ('before', 'after', 'looked') or side not in pictures.SIDES:
      raise HTTPException(404, 'There is no such picture.')
    place = self.photos.place(entry)
    if kind == 'after':
      restored = self.photos.restored(entry)
      if restored is None:
        raise HTTPException(404, 'This photo is not restored yet.')
      place = restored.parent
    path = place / f'{kind}-{side}.jpg'
    if not path.exists() and kind == 'before':
      original = self.photos.original(entry)

      def make_small():
        return pictures.jpeg(self.cache.small(original, pictures.SIDES[side]))

      return Response(await self._apart(make_small), media_type='image/jpeg')
    if not path.exists():
      raise HTTPException(404, 'There is no such picture yet.')
    return FileResponse(path, media_type='image/jpeg')

  async def stain(self, request: Request) -> Response:
    """What was found, red on nothing, as large as it is known or as the large small pictures."""
    entry = self._find(request)

    def draw() -> bytes:
      path = self._shown(entry, 'damage')
      if path is None and self.photos.edits(entry).settings.find:
        path = self.photos.place(entry) / studio.SMALL_MASK
      if path is None or not path.exists():
        return pictures.stained(np.zeros((1, 1), np.uint8))
      mask = pictures.shrunk(images.read(path), pictures.SIDES['large'])
      return pictures.stained(mask.pixels[..., 0])

    return Response(await self._apart(draw), media_type='image/png')

  async def tile(self, request: Request) -> Response:
    """A square of a photo, or of what was found in it, at one of its sizes."""
    entry, kind = self._find(request), request.path_params['kind']
    level, x, y = (request.path_params[name] for name in ('level', 'x', 'y'))
    if entry.size is None or level >= pictures.levels(entry.size):
      raise HTTPException(404, 'There is no such part of the photo.')
    path = self._shown(entry, kind) if kind in ('before', 'after', 'damage') else None
    if path is None or not path.exists():
      raise HTTPException(404, 'There is no such picture yet.')
    if kind == 'damage':
      data = await self._apart(self.cache.mask_tile, path, level, x, y)
      found = data and (data, 'image/png')
    else:
      found = await self._apart(self.cache.tile, path, level, x, y)
    if found is None:
      raise HTTPException(404, 'There is no such part of the photo.')
    return Response(found[0], media_type=found[1])

  async def preview(self, request: Request) -> Response:
    """What would become of a photo, as a small picture."""
    entry, value = self._find(request), await self._body(request)
    if self.worker.studio is None:
      raise OptionError('the program is still getting ready; try again in a moment.')
    wanted = _edits(value, entry, self.photos.edits(entry))
    data = await self._apart(self.worker.studio.preview, entry, wanted)
    return Response(data, media_type='image/jpeg')

  # What is wanted ------------------------------------------------------------------------------

  async def edits(self, request: Request) -> Response:
    """What is wanted of a photo; PUT changes it."""
    entry = self._find(request)
    if request.method == 'GET':
      now = self.photos.edits(entry)
    else:
      wanted = _edits(await self._body(request), entry, self.photos.edits(entry))
      try:
        now = await run_in_threadpool(self.photos.set_edits, entry, wanted)
      except box.Outdated:
        sentence = 'This photo was changed in another window; its newest state is shown now.'
        return JSONResponse({'error': sentence, 'edits': _json(self.photos.edits(entry))}, 409)
    return JSONResponse(_json(now))

  async def apply(self, request: Request) -> Response:
    """Gives the settings of one photo to others. Strokes belong to one photo."""
    value, ids = await self._ids(request)
    settings = box.settings(value.get('settings'))

    def give():
      for id in ids:
        entry = self.photos.entry(id)
        if entry is not None:
          with contextlib.suppress(box.Outdated):  # someone changes it at this very moment
            edits = dataclasses.replace(self.photos.edits(entry), settings=settings)
            self.photos.set_edits(entry, edits)

    await run_in_threadpool(give)
    return JSONResponse({})

  async def restore(self, request: Request) -> Response:
    """Lets photos wait to be restored."""
    _, ids = await self._ids(request)
    entries = (self.photos.entry(id) for id in ids)
    self.worker.restore([entry.id for entry in entries if entry and entry.size])
    return JSONResponse({})

  async def cancel(self, request: Request) -> Response:
    """Gives up restoring photos."""
    _, ids = await self._ids(request)
    self.worker.cancel(ids)
    return JSONResponse({})


def make(setup: Setup) -> guard.Guard:
  """The application, behind its guard. It works while its lifespan lasts."""
  answers, one = Answers(setup), '/api/photos/{id}'

  @contextlib.asynccontextmanager
  async def lifespan(app: Starlette) -> AsyncIterator[None]:
    answers.worker.start()
    try:
      yield
    finally:
      await run_in_threadpool(answers.worker.stop)
      setup.photos.close()

  routes = [
    Route('/', answers.index),
    Route('/page/{name}', answers.file),
    Route('/api/state', answers.state),
    Route('/api/photos', answers.upload, methods=['POST']),
    Route('/api/remove', answers.remove, methods=['POST']),
    Route('/api/apply', answers.apply, methods=['POST']),
    Route('/api/restore', answers.restore, methods=['POST']),
    Route('/api/cancel', answers.cancel, methods=['POST']),
    Route('/api/save', answers.save, methods=['POST']),
    Route('/api/pack', answers.pack, methods=['POST']),
    Route('/api/packed/{ticket}', answers.packed),
    Route(f'{one}/edits', answers.edits, methods=['GET', 'PUT']),
    Route(f'{one}/preview', answers.preview, methods=['POST']),
    Route(f'{one}/download', answers.download),
    Route(f'{one}/mask', answers.mask),
    Route(f'{one}/damage', answers.stain),
    Route(f'{one}/small/{{kind}}/{{side}}', answers.small),
    Route(f'{one}/tile/{{kind}}/{{level:int}}/{{x:int}}/{{y:int}}', answers.tile),
  ]
  app = Starlette(
    routes=routes,
    lifespan=lifespan,
    exception_handlers={UserError: _sorry, HTTPException: _refused},
  )
  limits = answers.limits
  return guard.Guard(app, setup.hosts, setup.token, limits.request_bytes, limits.file_bytes)


async def _sorry(request: Request, error: Exception) -> Response:
  return JSONResponse({'error': str(error)}, 422)


async def _refused(request: Request, error: Exception) -> Response:
  assert isinstance(error, HTTPException)
  return JSONResponse({'error': error.detail}, error.status_code)


def _edits(value: dict[str, Any], entry: box.Entry, before: box.Edits) -> box.Edits:
  """Edits of JSON values. Raises OptionError if they are none."""
  revision = value.get('revision', before.revision)
  if not isinstance(revision, int) or entry.size is None:
    raise OptionError('the revision is no number, or the photo cannot be read.')
  drawn = before.strokes
  if 'strokes' in value:
    drawn = brush.parse(value['strokes'], entry.size)
  return box.Edits(revision, box.settings(value.get('settings')), drawn)


def _json(edits: box.Edits) -> dict[str, Any]:
  return {
    'revision': edits.revision,
    'settings': dataclasses.asdict(edits.settings),
    'strokes': [dataclasses.asdict(stroke) for stroke in edits.strokes],
  }
