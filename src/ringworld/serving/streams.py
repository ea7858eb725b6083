"""Answers that come piece by piece, and those that wait for a client who may go away."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse

from ringworld.serving.errors import told_of
from ringworld.serving.exchange import Exchange

KEEP_ALIVE = ": keep-alive\n\n"
DONE = "data: [DONE]\n\n"
T = TypeVar("T")


def streamed(events: AsyncIterator[str], *, end: Callable[[], object]) -> Response:
    """Return events as they come, until one is an error; whenever they end, `end` is called."""
    headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
    return StreamingResponse(_ended(events, end), media_type="text/event-stream", headers=headers)


async def _ended(events: AsyncIterator[str], end: Callable[[], object]) -> AsyncIterator[str]:
    try:
        async for each in events:
            yield each
    except Exception as error:
        yield event(told_of(error).to_json())
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


async def unless_gone(work: Coroutine[Any, Any, T], request: Request) -> T:
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
