"""`/v1/images/generations`: images of a prompt, whole or as they are drawn."""

import asyncio
import base64
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ringworld.core.errors import InputError
from ringworld.inference.engine.sequence import Piece
from ringworld.inference.world import World
from ringworld.serving.backend import Backend
from ringworld.serving.body import Body
from ringworld.serving.drawing import drawing_of, size_of
from ringworld.serving.errors import unsupported
from ringworld.serving.exchange import Exchange
from ringworld.serving.gate import Gate
from ringworld.serving.pictures import frame_png
from ringworld.serving.streams import KEEP_ALIVE, finished, named_event, streamed
from ringworld.serving.text_options import check_model, usage

_MOST_IMAGES = 10
_MOST_PARTIAL = 3
_ONLY = {"response_format": "b64_json", "output_format": "png"}


class Images:
    """One request for images.

    Attributes:
        requests: to the engine, one an image.
        stream: whether parts are wanted before the whole.
        partial_at: tokens after each of which a part is shown.
    """

    def __init__(self, body: Body, world: World, *, most_choices: int) -> None:
        """Read the request.

        Raises:
            InputError: a field has another type or is out of range, or the model draws nothing.
            ApiError: a field is not supported, or images have another size.
        """
        self._world, self._created = world, int(time.time())
        for name, only in _ONLY.items():
            if body.text(name, only) != only:
                raise unsupported(name, remedy=f"use {only}")
        if "input_reference" in body:
            raise unsupported("input_reference", remedy="ask for a video")
        drawn = drawing_of(body, world, frames=1)
        count = body.whole("n", 1, least=1, most=min(_MOST_IMAGES, most_choices))
        self.requests = [replace(drawn, sample=i) for i in range(count)]
        self.stream = body.flag("stream")
        partial = body.whole("partial_images", 0, least=0, most=_MOST_PARTIAL)
        if self.stream and count > 1:
            raise InputError(
                f"n is {count}, but one image is streamed at a time",
                field="n",
                value=count,
                remedy="ask for each by itself, or without stream",
            )
        codes = world.prompts.vocabulary.codes_per_frame
        self.partial_at = [codes * i // (partial + 1) for i in range(1, partial + 1)]

    def whole(self, pieces: Sequence[Sequence[Piece]]) -> dict[str, Any]:
        """Return the response with all images; it decodes them, so call it in a thread."""
        return {
            "created": self._created,
            **self._form(),
            "data": [{"b64_json": self._picture(each)} for each in pieces],
            "usage": self._usage(pieces),
        }

    def partial(self, pieces: Sequence[Piece], *, index: int) -> dict[str, Any]:
        """Return the event of a part of the one image; likewise."""
        return {**self._event("partial_image", pieces), "partial_image_index": index}

    def completed(self, pieces: Sequence[Piece]) -> dict[str, Any]:
        """Return the event of the whole image; likewise."""
        return {**self._event("completed", pieces), "usage": self._usage([pieces])}

    def _event(self, kind: str, pieces: Sequence[Piece]) -> dict[str, Any]:
        return {
            "type": f"image_generation.{kind}",
            "created_at": self._created,
            **self._form(),
            "b64_json": self._picture(pieces),
        }

    def _form(self) -> dict[str, Any]:
        return {
            "size": size_of(self._world),
            "output_format": "png",
            "quality": "auto",
            "background": "opaque",
        }

    def _usage(self, pieces: Sequence[Sequence[Piece]]) -> dict[str, Any]:
        cost = usage(self.requests, pieces)
        read = cost["prompt_tokens"]
        return {
            "input_tokens": read,
            "output_tokens": cost["completion_tokens"],
            "total_tokens": cost["total_tokens"],
            "input_tokens_details": {"text_tokens": read, "image_tokens": 0},
        }

    def _picture(self, pieces: Sequence[Piece]) -> str:
        ids = [piece.token.id for piece in pieces if piece.token]
        return base64.b64encode(frame_png(self._world.prompts, ids, index=0)).decode()


class ImageRoutes:
    """What answers those who ask for images."""

    def __init__(self, backend: Backend, *, gate: Gate) -> None:
        """Keep the model."""
        self._backend, self._gate = backend, gate

    def routes(self) -> list[Route]:
        """Return the routes."""
        return [self._gate.route("/v1/images/generations", self._draw, method="POST")]

    async def _draw(self, request: Request) -> Response:
        body = await self._gate.body(request)
        check_model(body, self._backend.config.name)
        most = self._backend.config.limits.max_choices
        images = await asyncio.to_thread(Images, body, self._backend.world, most_choices=most)
        exchange = self._backend.ask(images.requests, deadline=request.state.deadline)
        if images.stream:
            return streamed(self._events(images, exchange), end=exchange.cancel)
        await finished(exchange)
        return JSONResponse(await asyncio.to_thread(images.whole, exchange.pieces))

    async def _events(self, images: Images, exchange: Exchange) -> AsyncIterator[str]:
        (pieces,) = exchange.pieces
        while not exchange.finished:
            if await exchange.next(seconds=self._backend.config.keep_alive_seconds) is None:
                yield KEEP_ALIVE
            elif len(pieces) in images.partial_at:
                index = images.partial_at.index(len(pieces))
                yield named_event(await asyncio.to_thread(images.partial, [*pieces], index=index))
        yield named_event(await asyncio.to_thread(images.completed, pieces))
