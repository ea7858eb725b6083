"""How many requests are answered at once."""

import asyncio
import contextlib

from starlette.types import ASGIApp, Receive, Scope, Send

from ringworld.serving.errors import ApiError, refusal
from ringworld.serving.metrics import ServerMetrics

_ALWAYS = ("/health", "/metrics")
"""Paths of those who look after the server, most of all where it is full."""


class InFlight:
    """Counts the requests that are being answered, streams to their end, and refuses one more than may be."""

    def __init__(self, app: ASGIApp, *, most: int, most_seconds: float, metrics: ServerMetrics) -> None:
        """Begin with none.

        Args:
            app: answers them.
            most: at once.
            most_seconds: for one; beyond them a client that reads no further loses its place.
            metrics: count those that are refused.
        """
        self._app, self._most, self._most_seconds, self._metrics = app, most, most_seconds, metrics
        self._count = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http" or scope["path"] in _ALWAYS:
            await self._app(scope, receive, send)
            return
        if self._count >= self._most:
            problem = f"{self._count} requests are being answered, as many as may; ask again later"
            refused = refusal(ApiError(429, problem, kind="rate_limit_error", code="too_many_requests"))
            self._metrics.requests.labels("", refused.status_code).inc()
            await refused(scope, receive, send)
            return
        self._count += 1
        try:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._app(scope, receive, send), self._most_seconds)
        finally:
            self._count -= 1
