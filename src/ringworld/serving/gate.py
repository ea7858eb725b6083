"""What stands before each answer: the host, the key, the size and the type of what was sent."""

import asyncio
import contextlib
import hmac
import re
from collections.abc import Callable, Coroutine
from typing import Any
from urllib.parse import urlsplit

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Match, Route

from ringworld.core.errors import InputError
from ringworld.core.files import parse_json
from ringworld.serving.body import Body
from ringworld.serving.config import ServingConfig
from ringworld.serving.deadline import Deadline
from ringworld.serving.errors import ApiError, refusal
from ringworld.serving.form import Form, parse_form
from ringworld.serving.metrics import ServerMetrics

_OWN_NAMES = ("localhost", "127.0.0.1", "::1")
_HOST = re.compile(r"(?:\[([0-9a-f:.]+)\]|([^\[\]:]*))(?::[0-9]*)?", re.IGNORECASE)
_MOST_BODIES = 16
"""Longest bodies that are held at once: 512 MiB, unless longer ones are taken."""
_CLOSED_REQUEST = 499  # what nginx calls a request whose client went away
Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class Gate:
    """The door of one server, through which all requests come."""

    def __init__(self, config: ServingConfig, *, metrics: ServerMetrics) -> None:
        """Keep who may ask, and how much."""
        self._config, self._metrics = config, metrics
        self._held_bytes = 0

    def route(self, path: str, handler: Handler, *, method: str = "GET", open_to_all: bool = False) -> Route:
        """Return the route of a path, whose errors are answered in OpenAI's form.

        Args:
            path: as Starlette writes it.
            handler: what answers.
            method: of HTTP.
            open_to_all: whether no key is asked.
        """

        async def answer(request: Request) -> Response:
            deadline = request.state.deadline = Deadline(self._config.limits.max_seconds)
            request.state.held_bytes, request.state.body_read = 0, asyncio.Event()
            try:
                async with asyncio.timeout(deadline.left_seconds):
                    self._check_host(request)
                    if not open_to_all:
                        self._check_key(request)
                    response = await _unless_gone(handler(request), request)
            except BaseException as error:
                is_late = isinstance(error, TimeoutError) and not deadline.left_seconds
                deadline.end()
                if isinstance(error, ClientDisconnect):
                    response = Response(status_code=_CLOSED_REQUEST)
                elif isinstance(error, Exception):
                    response = refusal(deadline.over() if is_late else error)
                else:
                    raise
            finally:
                self._held_bytes -= request.state.held_bytes
            self._metrics.requests.labels(path, response.status_code).inc()
            return response

        return Route(path, answer, methods=[method])

    async def no_such_path(self, request: Request, error: Exception) -> Response:
        """Answer what no route does; of a path that is known, say the methods that it has."""
        problem = f"{request.method} {request.url.path!r:.80} is nothing that this server answers"
        status = getattr(error, "status_code", 404)
        # Not by its path: whoever asks would choose the names of metrics.
        self._metrics.requests.labels("", status).inc()
        response = refusal(ApiError(status, problem, kind="not_found_error"))
        methods = {
            method
            for route in request.app.routes
            if isinstance(route, Route) and route.matches(request.scope)[0] is not Match.NONE
            for method in route.methods or ()
        }
        if methods:
            response.headers["Allow"] = ", ".join(sorted(methods))
        return response

    async def body(self, request: Request) -> Body:
        """Read a body of JSON.

        Raises:
            ApiError: it is too long, or not JSON.
        """
        if type_of(request) != "application/json":
            # Any page may send other types to any server, without asking.
            problem = f"content-type is {type_of(request)!r:.80}; send application/json"
            raise ApiError(415, problem, param="content-type")
        content = await self._bytes(request)
        try:
            # A long one takes seconds, in which nobody else would be answered.
            return await asyncio.to_thread(lambda: Body(parse_json(content.decode("utf-8"))))
        except ValueError as error:
            if isinstance(error, InputError):
                raise
            raise ApiError(400, f"the body is not JSON in UTF-8: {error}") from None

    async def form(self, request: Request) -> Form:
        """Read a body of a form, which a page of another site must not have sent.

        Raises:
            ApiError: it is too long, no form, or from another site.
        """
        if type_of(request) != "multipart/form-data":
            problem = f"content-type is {type_of(request)!r:.80}; send multipart/form-data"
            raise ApiError(415, problem, param="content-type")
        origin = request.headers.get("origin")
        if origin is not None and _netloc(origin) != request.headers.get("host"):
            problem = f"a form of {origin!r:.80} is not taken; send it from a page of this server"
            raise ApiError(403, problem, kind="permission_error")
        content = await self._bytes(request)
        return await asyncio.to_thread(parse_form, request.headers["content-type"], content)

    async def _bytes(self, request: Request) -> bytes:
        """Read a body, no more of it than is taken; until it is answered, it counts with those of others.

        Raises:
            ApiError: it is too long, or those of others leave no room for it.
        """
        most = self._config.limits.max_body_bytes
        too_long = ApiError(413, f"the body has more than {most} bytes", code="request_too_large")
        if int(request.headers.get("content-length", 0)) > most:
            raise too_long
        # One that comes in many small parts takes no more memory than it has bytes.
        content = bytearray()
        async for part in request.stream():
            content += part
            if len(content) > most:
                raise too_long
            request.state.held_bytes += len(part)
            self._held_bytes += len(part)
            if self._held_bytes > _MOST_BODIES * most:
                problem = "the bodies that are being answered have as many bytes as may; ask again later"
                raise ApiError(429, problem, kind="rate_limit_error", code="too_many_bytes")
        request.state.body_read.set()
        return bytes(content)

    def _check_host(self, request: Request) -> None:
        """Refuse what a page of another site sends to this machine by a name of its own (DNS rebinding)."""
        if not self._config.loopback or self._config.keys:
            return
        given = request.headers.get("host", _OWN_NAMES[0])
        # Of `request.url` it would be the server's own address where the header is malformed, as some names
        # are that browsers take, such as a{.example.org.
        named = _HOST.fullmatch(given)
        if named is None or (named[1] or named[2]).lower() not in (*_OWN_NAMES, self._config.host):
            problem = f"{given!r:.80} is none of this server's names; use {self._config.host}"
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


def type_of(request: Request) -> str:
    """Return the type of a body, without its parameters."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def _unless_gone(work: Coroutine[Any, Any, Response], request: Request) -> Response:
    """Wait for an answer.

    Raises:
        ClientDisconnect: the client does not wait for it any more, as is known once its body was read.
    """

    async def gone() -> Response:
        await request.state.body_read.wait()
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


def _netloc(origin: str) -> str | None:
    try:
        return urlsplit(origin).netloc
    except ValueError:  # such as http://[
        return None
