"""The application: paths to what answers them, and what stands before each."""

import asyncio
import contextlib
import hmac
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from functools import partial
from typing import Any, TypeVar
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from ringworld.core.errors import InputError
from ringworld.core.files import parse_json
from ringworld.core.version import __version__
from ringworld.inference.engine.engine import Engine
from ringworld.inference.engine.sequence import GenerationRequest
from ringworld.inference.world import World
from ringworld.serving.asked import check_model
from ringworld.serving.body import Body
from ringworld.serving.chat import Chat, Speech, messages_of
from ringworld.serving.completions import Completions
from ringworld.serving.config import ServingConfig
from ringworld.serving.drawing import size_of
from ringworld.serving.errors import ApiError, told_of, unsupported
from ringworld.serving.exchange import Exchange
from ringworld.serving.files import Files
from ringworld.serving.form import Form, parse_form
from ringworld.serving.images import Images
from ringworld.serving.media import Media
from ringworld.serving.metrics import Metrics
from ringworld.serving.videos import VideoAsked, Videos
from ringworld.serving.web_page import NAMES, show_page

_OWN_NAMES = ("localhost", "127.0.0.1", "::1")
_CLOSED_REQUEST = 499  # what nginx calls a request whose client went away
T = TypeVar("T")
Handler = Callable[[Request], Awaitable[Response]]


class Server:
    """What answers the requests to one model.

    Attributes:
        app: for an ASGI server.
    """

    def __init__(self, world: World, engine: Engine, *, config: ServingConfig) -> None:
        """Join a model and its engine, which the caller closes."""
        self._world, self._engine, self._config = world, engine, config
        self._files = Files(limits=config.limits)
        self._metrics, self._speech, self._limits = (
            Metrics(engine),
            Speech(world, media=Media(world, limits=config.limits), files=self._files),
            config.limits,
        )
        self._drawn = Videos(world, engine, name=config.name, limits=config.limits, metrics=self._metrics)
        self._context = world.generator.limits.max_context_tokens
        self.app = Starlette(
            routes=[
                *(self._route(f"/{name}", show_page, open_to_all=True) for name in NAMES),
                self._route("/health", self._health, open_to_all=True),
                self._route("/version", self._version),
                self._route("/metrics", self._show_metrics),
                self._route("/v1/models", self._models),
                self._route("/v1/models/{name:path}", self._model),
                self._route("/tokenize", self._tokenize, method="POST"),
                self._route("/detokenize", self._detokenize, method="POST"),
                self._route("/v1/chat/completions", self._chat, method="POST"),
                self._route("/v1/completions", self._completions, method="POST"),
                self._route("/v1/files", self._add_file, method="POST"),
                self._route("/v1/files", self._list_files),
                self._route("/v1/files/{id}", self._file),
                self._route("/v1/files/{id}", self._delete_file, method="DELETE"),
                self._route("/v1/images/generations", self._images, method="POST"),
                self._route("/v1/videos", self._create_video, method="POST"),
                self._route("/v1/videos", self._list_videos),
                self._route("/v1/videos/sync", self._draw_video, method="POST"),
                self._route("/v1/videos/{id}", self._video),
                self._route("/v1/videos/{id}", self._delete_video, method="DELETE"),
                self._route("/v1/videos/{id}/content", self._video_content),
                self._route("/v1/videos/{id}/frames/{index:int}", self._video_frame),
            ],
            lifespan=self._lifespan,
            exception_handlers={404: _no_such_path, 405: _no_such_path},
        )

    @contextlib.asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        yield
        await self._drawn.close()
        self._files.close()

    def _route(self, path: str, handler: Handler, *, method: str = "GET", open_to_all: bool = False) -> Route:
        async def answer(request: Request) -> Response:
            try:
                self._check_host(request)
                if not open_to_all:
                    self._check_key(request)
                response = await handler(request)
            except ClientDisconnect:
                response = Response(status_code=_CLOSED_REQUEST)
            except Exception as error:
                response = _refusal(error)
            self._metrics.requests.labels(path, response.status_code).inc()
            return response

        return Route(path, answer, methods=[method])

    def _check_host(self, request: Request) -> None:
        """Refuse what a page of another site sends to this machine by a name of its own (DNS rebinding)."""
        if not self._config.loopback or self._config.keys:
            return
        host = request.url.hostname
        if host not in (*_OWN_NAMES, self._config.host):
            problem = f"{host!r:.80} is none of this server's names; use {self._config.host}"
            raise ApiError(403, problem, kind="permission_error")

    def _check_key(self, request: Request) -> None:
        if not self._config.keys:
            return
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        shown = given.encode() if scheme.lower() == "bearer" else b""
        # All of them, so that time tells nothing.
        matches = [hmac.compare_digest(shown, key.encode()) for key in self._config.keys]
        if not any(matches):
            problem = "this server wants a key; send it as `Authorization: Bearer KEY`"
            raise ApiError(401, problem, kind="authentication_error", code="invalid_api_key")

    async def _body(self, request: Request) -> Body:
        """Read a body of JSON.

        Raises:
            ApiError: it is too long, or not JSON.
        """
        if _type_of(request) != "application/json":
            # Any page may send other types to any server, without asking.
            problem = f"content-type is {_type_of(request)!r:.80}; send application/json"
            raise ApiError(415, problem, param="content-type")
        try:
            return Body(parse_json((await self._bytes(request)).decode("utf-8")))
        except ValueError as error:
            if isinstance(error, InputError):
                raise
            raise ApiError(400, f"the body is not JSON in UTF-8: {error}") from None

    async def _add_file(self, request: Request) -> Response:
        return JSONResponse(await asyncio.to_thread(self._files.add, await self._form(request)))

    async def _list_files(self, request: Request) -> Response:
        return JSONResponse(self._files.list())

    async def _file(self, request: Request) -> Response:
        return JSONResponse(self._files.get(request.path_params["id"]))

    async def _delete_file(self, request: Request) -> Response:
        return JSONResponse(self._files.delete(request.path_params["id"]))

    async def _form(self, request: Request) -> Form:
        """Read a body of a form, which a page of another site must not have sent.

        Raises:
            ApiError: it is too long, no form, or from another site.
        """
        if _type_of(request) != "multipart/form-data":
            problem = f"content-type is {_type_of(request)!r:.80}; send multipart/form-data"
            raise ApiError(415, problem, param="content-type")
        origin = request.headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != request.headers.get("host"):
            problem = f"a form of {origin!r:.80} is not taken; send it from a page of this server"
            raise ApiError(403, problem, kind="permission_error")
        return parse_form(request.headers["content-type"], await self._bytes(request))

    async def _bytes(self, request: Request) -> bytes:
        """Read a body, no more of it than is taken.

        Raises:
            ApiError: it is too long.
        """
        most = self._limits.max_body_bytes
        too_long = ApiError(413, f"the body has more than {most} bytes", code="request_too_large")
        if int(request.headers.get("content-length", 0)) > most:
            raise too_long
        parts, size = [], 0
        async for part in request.stream():
            parts.append(part)
            size += len(part)
            if size > most:
                raise too_long
        return b"".join(parts)

    async def _health(self, request: Request) -> Response:
        if self._engine.closed:
            raise ApiError(503, "the engine is closed", kind="server_error")
        return JSONResponse({"status": "ok"})

    async def _version(self, request: Request) -> Response:
        return JSONResponse({"version": __version__})

    async def _show_metrics(self, request: Request) -> Response:
        return Response(self._metrics.render(), media_type="text/plain; version=0.0.4")

    async def _models(self, request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [self._description()]})

    async def _model(self, request: Request) -> Response:
        check_model(Body({"model": request.path_params["name"]}), self._config.name)
        return JSONResponse(self._description())

    def _description(self) -> dict[str, Any]:
        return {
            "id": self._config.name,
            "object": "model",
            "created": 0,
            "owned_by": "ringworld",
            "max_model_len": self._context,
            "vision": self._vision(),
        }

    def _vision(self) -> dict[str, Any] | None:
        """Return what the model sees and draws; None where it is one of text alone."""
        watching = self._world.watching
        if self._world.prompts.frame_tokenizer is None:
            return None
        rate = watching.frames_per_second
        return {"size": size_of(self._world), "fps": rate, "max_frames": watching.max_frames}

    async def _tokenize(self, request: Request) -> Response:
        body = await self._body(request)
        ids = await asyncio.to_thread(self._ids, body)
        return JSONResponse({"tokens": ids, "count": len(ids), "max_model_len": self._context})

    def _ids(self, body: Body) -> list[int]:
        prompts = self._world.prompts
        if "messages" in body:
            return self._speech.template.encode(messages_of(body, self._speech)).tolist()
        text = body.text("prompt")
        if body.flag("add_special_tokens", default=True):
            return prompts.text(text).tolist()
        return prompts.tokenizer.encode(text)

    async def _detokenize(self, request: Request) -> Response:
        body = await self._body(request)
        ids = body.value("tokens")
        if not isinstance(ids, list) or not all(type(id) is int and 0 <= id < 2**31 for id in ids):
            raise InputError("tokens is no list of ids", field="tokens")
        return JSONResponse({"prompt": self._world.prompts.tokenizer.decode(ids)})

    async def _chat(self, request: Request) -> Response:
        return await self._generate(request, partial(Chat, speech=self._speech))

    async def _completions(self, request: Request) -> Response:
        return await self._generate(request, Completions)

    async def _generate(self, request: Request, kind: Callable[..., Chat | Completions]) -> Response:
        body = await self._body(request)
        check_model(body, self._config.name)
        asked = await asyncio.to_thread(
            kind, body, self._world, name=self._config.name, most_choices=self._limits.max_choices
        )
        exchange = self._ask(asked.requests)
        if asked.wanted.stream:
            return _streamed(self._events(asked, exchange))
        await _unless_gone(_finished(exchange), request)
        return JSONResponse(asked.whole(exchange.pieces))

    def _ask(self, requests: Sequence[GenerationRequest]) -> Exchange:
        return Exchange(self._engine, requests, metrics=self._metrics, seconds=self._limits.max_seconds)

    async def _events(self, asked: Chat | Completions, exchange: Exchange) -> AsyncIterator[str]:
        try:
            for opening in asked.opening():
                yield _event(opening)
            while not exchange.finished:
                found = await exchange.next(seconds=self._config.keep_alive_seconds)
                if found is None:
                    yield ": keep-alive\n\n"
                    continue
                i, piece = found
                yield _event(asked.chunk(i, piece, before=exchange.pieces[i][:-1]))
            if asked.wanted.include_usage:
                yield _event(asked.closing(exchange.pieces))
            yield "data: [DONE]\n\n"
        except Exception as error:
            yield _event(told_of(error).to_json())
        finally:
            exchange.cancel()

    async def _images(self, request: Request) -> Response:
        body = await self._body(request)
        check_model(body, self._config.name)
        most = self._limits.max_choices
        asked = await asyncio.to_thread(Images, body, self._world, most_choices=most)
        exchange = self._ask(asked.requests)
        if asked.stream:
            return _streamed(self._image_events(asked, exchange))
        await _unless_gone(_finished(exchange), request)
        return JSONResponse(await asyncio.to_thread(asked.whole, exchange.pieces))

    async def _image_events(self, asked: Images, exchange: Exchange) -> AsyncIterator[str]:
        (pieces,) = exchange.pieces
        try:
            while not exchange.finished:
                if await exchange.next(seconds=self._config.keep_alive_seconds) is None:
                    yield ": keep-alive\n\n"
                elif len(pieces) in asked.partial_at:
                    index = asked.partial_at.index(len(pieces))
                    yield _named(await asyncio.to_thread(asked.partial, [*pieces], index=index))
            yield _named(await asyncio.to_thread(asked.completed, pieces))
        except Exception as error:
            yield _event(told_of(error).to_json())
        finally:
            exchange.cancel()

    async def _video_asked(self, request: Request) -> VideoAsked:
        if _type_of(request) == "multipart/form-data":
            form = await self._form(request)
            for name in form.files:
                raise unsupported(name)
            body = Body.of_form(form.texts, words=("prompt", "model", "size"))
        else:
            body = await self._body(request)
        check_model(body, self._config.name)
        return await asyncio.to_thread(VideoAsked.of, body, self._world, limits=self._limits)

    async def _create_video(self, request: Request) -> Response:
        asked = await self._video_asked(request)
        return JSONResponse(self._drawn.create(asked))

    async def _draw_video(self, request: Request) -> Response:
        asked = await self._video_asked(request)
        return Response(await _unless_gone(self._drawn.draw(asked), request), media_type="video/mp4")

    async def _list_videos(self, request: Request) -> Response:
        query = Body.of_form(request.query_params, words=("after", "order"))
        return JSONResponse(
            self._drawn.list(
                limit=query.whole("limit", 20, least=1),
                after=query.text("after") if "after" in query else None,
                newest_first=query.text("order", "desc") != "asc",
            )
        )

    async def _video(self, request: Request) -> Response:
        return JSONResponse(self._drawn.get(request.path_params["id"]))

    async def _delete_video(self, request: Request) -> Response:
        return JSONResponse(await self._drawn.delete(request.path_params["id"]))

    async def _video_content(self, request: Request) -> Response:
        return Response(self._drawn.content(request.path_params["id"]), media_type="video/mp4")

    async def _video_frame(self, request: Request) -> Response:
        id, index = (request.path_params[name] for name in ("id", "index"))
        return Response(await self._drawn.frame(id, index=index), media_type="image/png")


async def _finished(exchange: Exchange) -> None:
    try:
        while not exchange.finished:
            await exchange.next()
    finally:
        exchange.cancel()


async def _unless_gone(work: Coroutine[Any, Any, T], request: Request) -> T:
    """Wait for what is asked.

    Raises:
        ClientDisconnect: nobody waits for it any more.
    """

    async def gone() -> Any:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        raise ClientDisconnect

    tasks = [asyncio.ensure_future(each) for each in (work, gone())]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return await min(done, key=tasks.index)
    finally:
        for task in tasks:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await task


def _streamed(events: AsyncIterator[str]) -> Response:
    headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
    return StreamingResponse(events, media_type="text/event-stream", headers=headers)


def _type_of(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def _named(content: dict[str, Any]) -> str:
    """Return an event that says its type in a line of its own too, as those of images do."""
    return f"event: {content['type']}\n{_event(content)}"


def _event(content: dict[str, Any]) -> str:
    return f"data: {json.dumps(content, separators=(',', ':'))}\n\n"


def _refusal(error: BaseException) -> Response:
    told = told_of(error)
    headers = {"WWW-Authenticate": "Bearer"} if told.status == 401 else {}
    headers |= {"Retry-After": "1"} if told.status == 429 else {}
    return JSONResponse(told.to_json(), status_code=told.status, headers=headers)


async def _no_such_path(request: Request, error: Exception) -> Response:
    problem = f"{request.method} {request.url.path!r:.80} is nothing that this server answers"
    status = getattr(error, "status_code", 404)
    return _refusal(ApiError(status, problem, kind="not_found_error"))
