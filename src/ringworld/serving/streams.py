"""Answers that come piece by piece."""

import json
from collections.abc import AsyncIterator, Callable
from typing import Any

from starlette.responses import Response, StreamingResponse

from ringworld.serving.errors import api_error_of
from ringworld.serving.exchange import Exchange

KEEP_ALIVE = ": keep-alive\n\n"
DONE = "data: [DONE]\n\n"


def streamed(events: AsyncIterator[str], *, end: Callable[[], object]) -> Response:
    """Return events as they come, until one is an error; whenever they end, `end` is called."""
    headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
    return StreamingResponse(_ended(events, end), media_type="text/event-stream", headers=headers)


async def _ended(events: AsyncIterator[str], end: Callable[[], object]) -> AsyncIterator[str]:
    try:
        async for each in events:
            yield each
    except Exception as error:
        yield event(api_error_of(error).to_json())
    finally:
        end()


def event(content: dict[str, Any]) -> str:
    """Return an event."""
    return f"data: {json.dumps(content, separators=(',', ':'))}\n\n"


def named_event(content: dict[str, Any]) -> str:
    """Return an event that says its type in a line of its own too, as those of images do."""
    return f"event: {content['type']}\n{event(content)}"


async def finished(exchange: Exchange) -> None:
    """Wait until nothing follows; whoever is cancelled cancels it."""
    try:
        while not exchange.finished:
            await exchange.next()
    finally:
        exchange.cancel()
