"""The page and what it asks for, as an ASGI application; and who may ask."""

import asyncio
import functools
import importlib.resources
import pathlib
import secrets
import tempfile
import threading
import urllib.parse
from collections.abc import Callable, Mapping
from typing import Any

from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.datastructures import Headers, MutableHeaders, QueryParams
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pegan_jax.explorer import canvas, maps, photos, queries
from pegan_jax.gan import Completer
from pegan_jax.models import deepfill
from pegan_jax.sampling import Model
from pegan_jax.settings import UserError

LOOPBACK = ('127.0.0.1', 'localhost', '::1')
AT_ONCE = 2  # computations
LOOKED = 0.2  # seconds between two looks whether somebody waits
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' blob: data:; "
    "base-uri 'none'"
)
STATIC = importlib.resources.files('pegan_jax.explorer') / 'static'


def page(models: Mapping[str, Model], *, token: str | None = None, embedded: bool = False) -> ASGIApp:
    """The application for models, which it shows by these names.

    Args:
      token: what every request has to bring as `token` in its address; None: requests have to be for this machine, and
        to come from the page itself.
      embedded: inside a notebook, which may serve the page from an address of its own; needs a token.
    """
    routes = Routes(models)
    app = Starlette(
        routes=[
            Route('/', routes.index),
            Route('/api/models', routes.models),
            Route('/api/tile', routes.tile),
            Route('/api/save', routes.save),
            Route('/api/command', routes.command),
            Route('/api/picture', routes.picture),
            Route('/api/layers', routes.layers),
            Route('/api/layer', routes.layer),
            Route('/api/photo', routes.photo, methods=['POST']),
            Route('/api/fill', routes.fill, methods=['POST']),
            Mount('/static', StaticFiles(directory=str(STATIC))),
        ],
        exception_handlers={UserError: _refused, HTTPException: _not_there, Exception: _failed},
    )
    return Guard(app, token, embedded)


def _refused(request: Request, error: Exception) -> Response:
    return JSONResponse({'error': str(error)}, 400)


def _not_there(request: Request, error: HTTPException) -> Response:
    if error.status_code == 404:
        return JSONResponse({'error': f'nothing is at {request.url.path}; the page is at /.'}, 404)
    return JSONResponse({'error': str(error.detail)}, error.status_code)


def _failed(request: Request, error: Exception) -> Response:
    return JSONResponse({'error': f'a fault of the program, {type(error).__name__}; its terminal tells more.'}, 500)


class Guard:
    """Lets permitted requests pass, and forbids the page to load anything from elsewhere, or to be framed.

    Without it, any other page in the same browser could query this server, even by a name that it made resolve to it.
    """

    def __init__(self, app: ASGIApp, token: str | None, embedded: bool) -> None:
        self.app, self.token, self.embedded = app, token, embedded

    def refusal(self, headers: Headers, path: str, query: QueryParams) -> str | None:
        """Why a request may not pass; None: it may."""
        host, origin = headers.get('host', ''), headers.get('origin')
        try:
            name, asker = urllib.parse.urlsplit(f'//{host}').hostname, urllib.parse.urlsplit(origin or '').netloc
        except ValueError:
            return 'the Host or the Origin of the request is no address.'
        if self.token is None and name not in LOOPBACK:
            return f'this server answers on {LOOPBACK[0]} only, not as {host!r}; start it with --host to change that.'
        if not self.embedded:
            if origin is not None and asker != host:
                return f'requests from pages of {origin} are refused.'
            if path.startswith('/api/') and headers.get('sec-fetch-site', 'none') not in ('none', 'same-origin'):
                return 'requests from other pages are refused.'
        if self.token is not None and not path.startswith('/static/'):
            if not secrets.compare_digest(query.get('token', '').encode(), self.token.encode()):
                return 'the token is missing or wrong; open the whole address that the program printed.'
        return None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope['type'] != 'http':
            await self.app(scope, receive, send)
            return
        if reason := self.refusal(Headers(scope=scope), scope['path'], QueryParams(scope['query_string'])):
            await JSONResponse({'error': reason}, 403)(scope, receive, send)
            return

        began = False

        async def with_policy(message: Message) -> None:
            nonlocal began
            if message['type'] == 'http.response.start':
                began = True
                framed = '' if self.embedded else "; frame-ancestors 'none'"
                headers = MutableHeaders(scope=message)
                headers['content-security-policy'] = POLICY + framed
                headers['x-content-type-options'] = 'nosniff'
                headers['referrer-policy'] = 'no-referrer'
                headers['cache-control'] = 'no-store'
            await send(message)

        try:
            await self.app(scope, receive, with_policy)
        except asyncio.CancelledError:  # the server ends, and uvicorn would print where this was
            if began:
                raise
            await JSONResponse({'error': 'the server has been ended.'}, 503)(scope, receive, with_policy)


class Routes:
    """What is at the addresses of `page`."""

    def __init__(self, models: Mapping[str, Model]) -> None:
        self._models, self._photos = dict(models), photos.Photos()
        self._turn, self._filling, self._saving = asyncio.Semaphore(AT_ONCE), asyncio.Lock(), asyncio.Lock()

    def _model(self, request: Request) -> Model:
        index = queries.whole(request.query_params, 'model', 0, len(self._models) - 1, 0)
        return list(self._models.values())[index]

    async def _compute(self, request: Request, work: Callable[[], Any], respond: Callable[[Any], Response]) -> Response:
        """respond(work()), computed in a thread when it is its turn; not at all if nobody waits for it any longer."""
        async with self._turn:
            if await request.is_disconnected():
                return Response(status_code=499)
            return respond(await asyncio.to_thread(work))

    async def _compute_alone(
        self,
        request: Request,
        lock: asyncio.Lock,
        busy: str,
        work: Callable[[threading.Event], Any],
        respond: Callable[[Any], Response],
    ) -> Response:
        """respond(work(stop)), computed in a thread by the holder of the lock; not at all if nobody waits for it.

        stop is set when nobody waits for it any longer, or the server ends; what looks at it ends early.
        Raises: UserError, with the words of `busy`, while another one holds the lock.
        """
        if lock.locked():
            raise UserError(f'{busy}, maybe from another tab; try again when that is done.')
        stop = threading.Event()
        async with lock:
            if await request.is_disconnected():
                return Response(status_code=499)
            task = asyncio.create_task(asyncio.to_thread(work, stop))
            try:
                while not (await asyncio.wait([task], timeout=LOOKED))[0]:
                    if await request.is_disconnected():
                        stop.set()
            except asyncio.CancelledError:
                stop.set()
                raise
            return Response(status_code=499) if stop.is_set() and task.exception() else respond(task.result())

    async def index(self, request: Request) -> Response:
        return FileResponse(str(STATIC / 'index.html'))

    async def models(self, request: Request) -> Response:
        return JSONResponse([describe(name, model) for name, model in self._models.items()])

    async def tile(self, request: Request) -> Response:
        model, query = self._model(request), request.query_params
        style, place = queries.style(query), maps.view(query, tile=True)
        maps.frame(model)
        return await self._compute(request, lambda: maps.tile(model, style, place), _png)

    async def save(self, request: Request) -> Response:
        model, query = self._model(request), request.query_params
        style, place, bits = queries.style(query), maps.view(query), 16 if query.get('bits') == '16' else 8

        def work(stop: threading.Event) -> tempfile.TemporaryDirectory:
            folder = tempfile.TemporaryDirectory(prefix='pegan_jax-')
            try:
                maps.save(model, style, place, pathlib.Path(folder.name) / 'view.png', bits, stop)
            except BaseException:
                folder.cleanup()
                raise
            return folder

        def respond(folder: tempfile.TemporaryDirectory) -> Response:
            path, background = pathlib.Path(folder.name) / 'view.png', BackgroundTask(folder.cleanup)
            return FileResponse(path, filename='view.png', background=background)

        return await self._compute_alone(request, self._saving, 'another file is being computed', work, respond)

    async def command(self, request: Request) -> Response:
        query = request.query_params
        if 'file' in query:
            return JSONResponse({'cli': self._fill_command(query), 'python': None})
        model = self._model(request)
        if model.sampler.pixelwise:
            bits = 16 if query.get('bits') == '16' else 8
            return JSONResponse(maps.command(model, queries.style(query), maps.view(query), bits))
        return JSONResponse(canvas.command(model, queries.style(query), canvas.place(query)))

    async def picture(self, request: Request) -> Response:
        model, query = self._model(request), request.query_params
        style, place = queries.style(query), canvas.place(query)
        return await self._compute(request, lambda: canvas.picture(model, style, place), _png)

    async def layers(self, request: Request) -> Response:
        model, query = self._model(request), request.query_params
        style, place = queries.style(query), canvas.place(query)
        return await self._compute(request, lambda: canvas.table(model, style, place), JSONResponse)

    async def layer(self, request: Request) -> Response:
        model, query = self._model(request), request.query_params
        style, place = queries.style(query), canvas.place(query)
        kind = queries.one_of(query, 'kind', ('channels', 'spectrum'))
        name, channel = query.get('layer', ''), queries.whole(query, 'channel', 0, 10**5, 0)
        return await self._compute(
            request, lambda: canvas.layer_picture(model, style, place, name, kind, channel), _png
        )

    # Inpainting

    async def photo(self, request: Request) -> Response:
        data = await _body(request)

        def load() -> tuple[str, photos.Picture, bytes]:
            name, picture = self._photos.add(data)
            return name, picture, photos.shown(picture)

        name, _, data = await asyncio.to_thread(load)
        return Response(data, media_type='image/png', headers={'x-photo': name})

    def _filler(self, query: QueryParams) -> Model | None:
        """The model of a query; None for `model=biharmonic`."""
        if query.get('model') == 'biharmonic':
            return None
        index = queries.whole(query, 'model', 0, len(self._models) - 1)
        model = list(self._models.values())[index]
        model.completer  # noqa: B018  raises for others
        return model

    async def fill(self, request: Request) -> Response:
        query = request.query_params
        model = self._filler(query)
        photo, chosen = self._photos.get(query.get('photo', '')), photos.strategy(query)
        hole, lines = photos.planes(await _body(request), photo.pixels.shape[:2])
        work = functools.partial(photos.fill, model, photo, hole, lines, chosen, query.get('flow') == '1')
        busy = 'another photograph is being filled'
        return await self._compute_alone(request, self._filling, busy, lambda stop: work(), _png)

    def _fill_command(self, query: QueryParams) -> str:
        shown = [query.get(word) == '1' for word in ('sketch', 'flow')]
        return photos.command(self._filler(query), photos.strategy(query), query['file'], *shown)


def _png(data: bytes) -> Response:
    return Response(data, media_type='image/png')


async def _body(request: Request) -> bytes:
    """The body of a request. Raises: UserError for more than MAX_BYTES."""
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > photos.MAX_BYTES:
            raise UserError(f'the file has more than {photos.MAX_BYTES >> 20} MB; make it smaller before.')
        parts.append(part)
    return b''.join(parts)


def describe(name: str, model: Model) -> dict:
    """What the page has to know about a model."""
    about = {
        'name': name, 'system': model.config.system, 'step': model.step, 'size': model.size,
        'channels': model.config.data.channels,
    }  # fmt: skip
    sampler = model.gan.sampler
    if isinstance(sampler, Completer):
        return about | {
            'view': 'photo',
            'guided': sampler.guided,
            'attention': isinstance(model.config.model, deepfill.Config),
        }
    about |= {
        'labels': model.gan.c_dim,
        'classes': model.classes,
        'truncation': sampler.w_avg is not None,
        'layers': sampler.num_ws,
        'blend': sampler.draw([0]).dtype.kind == 'f',
    }
    if sampler.pixelwise:
        return about | {'view': 'map'} | maps.describe(model)
    return about | {'view': 'canvas'} | canvas.describe(model)
