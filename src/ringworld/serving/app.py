"""The application: one model behind the routes of its nouns."""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ringworld.core.version import __version__
from ringworld.inference.engine.engine import Engine
from ringworld.inference.world import World
from ringworld.serving.attachments import Attachments
from ringworld.serving.backend import Backend
from ringworld.serving.config import ServingConfig
from ringworld.serving.deadline import Deadline
from ringworld.serving.errors import ApiError
from ringworld.serving.fetch import Fetch
from ringworld.serving.files import Files
from ringworld.serving.gate import Gate
from ringworld.serving.images import ImageRoutes
from ringworld.serving.in_flight import InFlight
from ringworld.serving.media import Media
from ringworld.serving.memories import Memories
from ringworld.serving.messages import ChatBackend
from ringworld.serving.metrics import ServerMetrics
from ringworld.serving.models import Models
from ringworld.serving.texts import Texts
from ringworld.serving.videos import Videos
from ringworld.serving.web_page import NAMES, show_page

_THREADS = 64
"""More than files that may wait for a decoder or be fetched, so that nobody waits for a thread."""
_SWEEP_SECONDS = 60.0
_GRACE_SECONDS = 60.0
"""For sending what a request that took all of its time is answered."""


class Server:
    """What answers the requests to one model.

    Attributes:
        app: for an ASGI server.
    """

    def __init__(
        self,
        world: World,
        engine: Engine,
        *,
        config: ServingConfig,
        fetch: Callable[..., Fetch] = Fetch,
    ) -> None:
        """Join a model and its engine, which the caller closes; `fetch` begins to fetch for a request."""
        self._engine, self._metrics = engine, ServerMetrics(engine)
        self._keep_seconds = config.limits.keep_seconds
        gate = Gate(config, metrics=self._metrics)
        backend = Backend(world=world, engine=engine, config=config, metrics=self._metrics)
        self._files = Files(gate, limits=config.limits)
        memories = Memories(backend, gate=gate)
        media = Media(world, limits=config.limits)
        fetching = threading.BoundedSemaphore(config.limits.max_fetches)

        def attach(deadline: Deadline) -> Attachments:
            fetches = fetch(config, room=fetching, deadline=deadline) if config.allow_host else None
            return Attachments(media, files=self._files, fetch=fetches, deadline=deadline)

        chat = ChatBackend(world, engine.size, attach=attach, remembered=memories.messages)
        self._videos = Videos(backend, gate=gate, attach=attach)
        self.app = Starlette(
            routes=[
                *(gate.route(f"/{name}", show_page, open_to_all=True) for name in NAMES),
                gate.route("/health", self._health, open_to_all=True),
                gate.route("/version", self._version),
                gate.route("/metrics", self._show_metrics),
                *Models(backend, gate=gate).routes(),
                *Texts(backend, gate=gate, chat=chat, memories=memories).routes(),
                *memories.routes(chat),
                *self._files.routes(),
                *ImageRoutes(backend, gate=gate).routes(),
                *self._videos.routes(),
            ],
            middleware=[
                Middleware(
                    InFlight,
                    most=config.limits.max_requests,
                    most_seconds=config.limits.max_seconds + _GRACE_SECONDS,
                    metrics=self._metrics,
                )
            ],
            lifespan=self._lifespan,
            exception_handlers={404: gate.no_such_path, 405: gate.no_such_path},
        )
        # A redirect would name whatever host the client named.
        self.app.router.redirect_slashes = False

    @contextlib.asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(_THREADS))
        sweeping = asyncio.create_task(self._sweep())
        yield
        sweeping.cancel()
        await self._videos.close()
        self._files.close()

    async def _sweep(self) -> None:
        """Delete what is kept too long, also where nobody asks for it."""
        while True:
            await asyncio.sleep(min(_SWEEP_SECONDS, self._keep_seconds))
            self._files.forget_old()
            self._videos.forget_old()

    async def _health(self, request: Request) -> Response:
        if self._engine.closed:
            raise ApiError(503, "the engine is closed", kind="server_error")
        return JSONResponse({"status": "ok"})

    async def _version(self, request: Request) -> Response:
        return JSONResponse({"version": __version__})

    async def _show_metrics(self, request: Request) -> Response:
        return Response(self._metrics.render(), media_type="text/plain; version=0.0.4")
