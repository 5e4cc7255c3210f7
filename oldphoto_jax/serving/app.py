"""What the server answers. Photos and settings go in and out; the walk of a photo is elsewhere."""

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


def make(setup: Setup) -> guard.Guard:
  """The application, behind its guard. It works while its lifespan lasts."""
  photos, limits = setup.photos, setup.photos.limits
  cache = pictures.Cache(limits.decoded_bytes, limits.pixels)
  worker = Worker(photos, lambda: studio.Studio(photos, cache, setup.engine(), setup.made_by))
  files = page_files()
  # Decoding, previews and packing are few at a time: each may need much memory.
  heavy = threading.BoundedSemaphore(2)

  def find(request: Request) -> box.Entry:
    entry = photos.entry(request.path_params['id'])
    if entry is None:
      raise HTTPException(404, 'This photo is not in the box any more.')
    return entry

  async def body(request: Request) -> dict[str, Any]:
    data = b''
    async for chunk in request.stream():
      data += chunk
      if len(data) > limits.request_bytes:
        raise HTTPException(413, f'The request has more than {limits.request_bytes} bytes.')
    try:
      value = json.loads(data)
    except ValueError:  # also text that is not UTF-8
      raise OptionError('the request is no JSON.') from None
    except RecursionError:
      raise OptionError('the request is nested too deeply.') from None
    if not isinstance(value, dict):
      raise OptionError('the request is no object.')
    return value

  async def ids_of(request: Request) -> tuple[dict[str, Any], list[str]]:
    value = await body(request)
    ids = value.get('ids')
    if not isinstance(ids, list) or not all(isinstance(id, str) for id in ids):
      raise OptionError('the request names no photos.')
    return value, [id for id in ids if photos.entry(id)]

  async def apart(function: Callable, *args) -> Any:
    """Runs a function that takes long in another thread."""

    def run():
      with heavy:
        return function(*args)

    return await run_in_threadpool(run)

  # The page ------------------------------------------------------------------------------------

  async def index(request: Request) -> Response:
    data, kind = files['index.html']
    return Response(data, media_type=kind)

  async def file(request: Request) -> Response:
    name = request.path_params['name']
    if name not in files:
      raise HTTPException(404, 'There is no such file.')
    data, kind = files[name]
    return Response(data, media_type=kind)

  # What there is -------------------------------------------------------------------------------

  def describe(entry: box.Entry) -> dict[str, Any]:
    result, edits, looked = photos.result(entry), photos.edits(entry), photos.looked(entry)
    return {
      'id': entry.id,
      'name': entry.name,
      'version': photos.version(entry.id),
      'height': entry.size and entry.size[0],
      'width': entry.size and entry.size[1],
      'mine': entry.source is not None,
      'problem': entry.problem or (looked or {}).get('problem', '') or worker.problem_of(entry.id),
      'looked': looked if looked and 'problem' not in looked else None,
      'revision': edits.revision,
      'digest': edits.digest,
      'settings': dataclasses.asdict(edits.settings),
      'strokes': len(edits.strokes),
      'result': result,
    }

  async def state(request: Request) -> Response:
    try:
      since = int(request.query_params.get('since', '0'))
    except ValueError:
      raise OptionError('since is no number.') from None

    def collect():
      now = photos.changed
      changed = [e for e in photos.entries() if photos.version(e.id) > since]
      return {
        'version': now,
        'photos': [describe(entry) for entry in changed],
        'removed': photos.removed_since(since),
        'work': worker.state(),
        'out': None if setup.out is None else str(setup.out),
        'limits': {
          'bytes': limits.file_bytes,
          'photos': limits.photos,
          'endings': list(formats.FORMATS),
        },
        'finds': worker.studio is None or worker.studio.finds,
        'tile': pictures.TILE,
        'large': pictures.SIDES['large'],
        'software': f'oldphoto_jax {oldphoto_jax.__version__}',
        'server': server_id,
      }

    return JSONResponse(await run_in_threadpool(collect))

  # Photos in and out ---------------------------------------------------------------------------

  async def upload(request: Request) -> Response:
    name = request.query_params.get('name', '')
    target = photos.temporary / secrets.token_hex(16)
    try:
      size = 0
      with target.open('xb') as out:
        async for chunk in request.stream():
          size += len(chunk)
          if size > limits.file_bytes:
            raise HTTPException(
              413, f'The file is larger than the limit of {limits.file_bytes // 2**20} MB.'
            )
          await run_in_threadpool(out.write, chunk)
      entry = await apart(photos.add_upload, name, target)
    except ClientDisconnect:
      return Response(status_code=400)
    except OSError as error:
      raise PhotoError(f'the photo could not be stored ({error.strerror}).') from error
    finally:
      target.unlink(missing_ok=True)
    worker.look([entry.id])
    return JSONResponse({'id': entry.id}, 201)

  async def remove(request: Request) -> Response:
    _, ids = await ids_of(request)
    for id in ids:
      worker.forget(id)
      if worker.studio is not None:
        worker.studio.forget(id)
      await run_in_threadpool(photos.remove, id)
    return JSONResponse({})

  async def download(request: Request) -> Response:
    entry = find(request)
    restored = photos.restored(entry)
    if restored is None:
      raise HTTPException(404, 'This photo is not restored yet.')
    name = saving.out_names(photos.entries())[entry.id].name
    return FileResponse(restored, filename=name, media_type='application/octet-stream')

  async def mask(request: Request) -> Response:
    """What is filled, as a picture that `oldphoto restore --mask` takes."""
    entry = find(request)

    def drawn() -> bytes:
      edits = photos.edits(entry)
      base = np.zeros((*entry.size, 1), np.float32)
      if edits.settings.find:
        base = studio.found(photos.place(entry), entry.size)
      values, _ = brush.draw(base, edits.strokes)
      return formats.encode(masks.to_photo(values), 'PNG')

    name = pathlib.PurePath(entry.name).with_suffix('.png').name
    headers = {'content-disposition': f"attachment; filename*=utf-8''{quote(name)}"}
    return Response(await apart(drawn), media_type='image/png', headers=headers)

  async def pack(request: Request) -> Response:
    _, ids = await ids_of(request)
    target = await apart(saving.zipped, photos, ids)
    return JSONResponse({'address': f'/api/packed/{target.stem}'})

  async def packed(request: Request) -> Response:
    target = photos.temporary / f'{request.path_params["ticket"]}.zip'
    if not request.path_params['ticket'].isalnum() or not target.exists():
      raise HTTPException(404, 'These photos were downloaded already.')
    gone = BackgroundTask(target.unlink, missing_ok=True)
    kind = 'application/zip'
    return FileResponse(target, filename='restored.zip', media_type=kind, background=gone)

  async def save(request: Request) -> Response:
    _, ids = await ids_of(request)
    if setup.out is None:
      raise OptionError('no output folder was given: start `oldphoto serve` with -o.')
    summary = await apart(saving.save, photos, ids, setup.out, setup.overwrite)
    return JSONResponse(
      {
        'saved': summary.count('restored') + summary.count('kept'),
        'problems': [r.message for r in summary.results if r.status == 'failed'],
        'out': str(setup.out),
      }
    )

  # Pictures ------------------------------------------------------------------------------------

  def shown(entry: box.Entry, kind: str) -> pathlib.Path | None:
    """The file that a kind of picture is cut from at full size; None: there is none."""
    if kind == 'before':
      return photos.original(entry)
    if kind == 'after':
      return photos.restored(entry)
    found = photos.place(entry) / studio.FOUND
    return found if photos.edits(entry).settings.find and found.exists() else None

  async def small(request: Request) -> Response:
    """A small picture: before, after, or looked, what a first look made of it."""
    entry, kind, side = find(request), request.path_params['kind'], request.path_params['side']
    if kind not in ('before', 'after', 'looked') or side not in pictures.SIDES:
      raise HTTPException(404, 'There is no such picture.')
    place = photos.place(entry)
    if kind == 'after':
      restored = photos.restored(entry)
      if restored is None:
        raise HTTPException(404, 'This photo is not restored yet.')
      place = restored.parent
    path = place / f'{kind}-{side}.jpg'
    if not path.exists() and kind == 'before':
      original = photos.original(entry)

      def make_small():
        return pictures.jpeg(cache.small(original, pictures.SIDES[side]))

      return Response(await apart(make_small), media_type='image/jpeg')
    if not path.exists():
      raise HTTPException(404, 'There is no such picture yet.')
    return FileResponse(path, media_type='image/jpeg')

  async def stain(request: Request) -> Response:
    """What was found, red on nothing, as large as it is known or as the large small pictures."""
    entry = find(request)

    def draw() -> bytes:
      path = shown(entry, 'damage')
      if path is None and photos.edits(entry).settings.find:
        path = photos.place(entry) / studio.SMALL_MASK
      if path is None or not path.exists():
        return pictures.stained(np.zeros((1, 1), np.uint8))
      mask = pictures.shrunk(images.read(path), pictures.SIDES['large'])
      return pictures.stained(mask.pixels[..., 0])

    return Response(await apart(draw), media_type='image/png')

  async def tile(request: Request) -> Response:
    entry, kind = find(request), request.path_params['kind']
    level, x, y = (request.path_params[name] for name in ('level', 'x', 'y'))
    if entry.size is None or level >= pictures.levels(entry.size):
      raise HTTPException(404, 'There is no such part of the photo.')
    path = shown(entry, kind) if kind in ('before', 'after', 'damage') else None
    if path is None or not path.exists():
      raise HTTPException(404, 'There is no such picture yet.')
    if kind == 'damage':
      data = await apart(cache.mask_tile, path, level, x, y)
      found = data and (data, 'image/png')
    else:
      found = await apart(cache.tile, path, level, x, y)
    if found is None:
      raise HTTPException(404, 'There is no such part of the photo.')
    return Response(found[0], media_type=found[1])

  async def preview(request: Request) -> Response:
    entry, value = find(request), await body(request)
    if worker.studio is None:
      raise OptionError('the program is still getting ready; try again in a moment.')
    wanted = _edits(value, entry, photos.edits(entry))
    data = await apart(worker.studio.preview, entry, wanted)
    return Response(data, media_type='image/jpeg')

  # What is wanted ------------------------------------------------------------------------------

  async def edits(request: Request) -> Response:
    entry = find(request)
    if request.method == 'GET':
      now = photos.edits(entry)
    else:
      wanted = _edits(await body(request), entry, photos.edits(entry))
      try:
        now = await run_in_threadpool(photos.set_edits, entry, wanted)
      except box.Outdated:
        sentence = 'This photo was changed in another window; its newest state is shown now.'
        return JSONResponse({'error': sentence, 'edits': _json(photos.edits(entry))}, 409)
    return JSONResponse(_json(now))

  async def apply(request: Request) -> Response:
    """Gives the settings of one photo to others. Strokes belong to one photo."""
    value, ids = await ids_of(request)
    settings = box.settings(value.get('settings'))

    def give():
      for id in ids:
        entry = photos.entry(id)
        if entry is not None:
          with contextlib.suppress(box.Outdated):  # someone changes it at this very moment
            edits = dataclasses.replace(photos.edits(entry), settings=settings)
            photos.set_edits(entry, edits)

    await run_in_threadpool(give)
    return JSONResponse({})

  async def restore(request: Request) -> Response:
    _, ids = await ids_of(request)
    worker.restore([id for id in ids if photos.entry(id).size])
    return JSONResponse({})

  async def cancel(request: Request) -> Response:
    _, ids = await ids_of(request)
    worker.cancel(ids)
    return JSONResponse({})

  # All of it -----------------------------------------------------------------------------------

  @contextlib.asynccontextmanager
  async def lifespan(app: Starlette) -> AsyncIterator[None]:
    worker.start()
    try:
      yield
    finally:
      await run_in_threadpool(worker.stop)
      photos.close()

  async def sorry(request: Request, error: Exception) -> Response:
    return JSONResponse({'error': str(error)}, 422)

  async def refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({'error': error.detail}, error.status_code)

  server_id = secrets.token_hex(8)  # a page notices that it speaks to another server
  one = '/api/photos/{id}'
  routes = [
    Route('/', index),
    Route('/page/{name}', file),
    Route('/api/state', state),
    Route('/api/photos', upload, methods=['POST']),
    Route('/api/remove', remove, methods=['POST']),
    Route('/api/apply', apply, methods=['POST']),
    Route('/api/restore', restore, methods=['POST']),
    Route('/api/cancel', cancel, methods=['POST']),
    Route('/api/save', save, methods=['POST']),
    Route('/api/pack', pack, methods=['POST']),
    Route('/api/packed/{ticket}', packed),
    Route(f'{one}/edits', edits, methods=['GET', 'PUT']),
    Route(f'{one}/preview', preview, methods=['POST']),
    Route(f'{one}/download', download),
    Route(f'{one}/mask', mask),
    Route(f'{one}/damage', stain),
    Route(f'{one}/small/{{kind}}/{{side}}', small),
    Route(f'{one}/tile/{{kind}}/{{level:int}}/{{x:int}}/{{y:int}}', tile),
  ]
  app = Starlette(
    routes=routes,
    lifespan=lifespan,
    exception_handlers={UserError: sorry, HTTPException: refused},
  )
  return guard.Guard(app, setup.hosts, setup.token, limits.request_bytes, limits.file_bytes)


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
