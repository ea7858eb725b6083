"""The paths of text: `/v1/chat/completions`, `/v1/completions`, `/tokenize` and `/detokenize`."""

import asyncio
from collections.abc import AsyncIterator
from functools import partial

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ringworld.core.errors import InputError
from ringworld.serving.asked import check_model
from ringworld.serving.backend import Backend
from ringworld.serving.body import Body
from ringworld.serving.chat import Chat, Speech, messages_of
from ringworld.serving.completions import Completions
from ringworld.serving.exchange import Exchange
from ringworld.serving.gate import Gate
from ringworld.serving.memories import Memories
from ringworld.serving.streams import DONE, KEEP_ALIVE, event, finished, streamed, unless_gone


class Texts:
    """What answers those who ask for text, or for its tokens."""

    def __init__(self, backend: Backend, *, gate: Gate, speech: Speech, memories: Memories) -> None:
        """Keep the model, how it is spoken to, and what it remembers."""
        self._backend, self._gate, self._speech, self._memories = backend, gate, speech, memories
        self._name = backend.config.name

    def routes(self) -> list[Route]:
        """Return the routes."""
        route = partial(self._gate.route, method="POST")
        return [
            route("/tokenize", self._tokenize),
            route("/detokenize", self._detokenize),
            route("/v1/chat/completions", self._chat),
            route("/v1/completions", self._completions),
        ]

    async def _tokenize(self, request: Request) -> Response:
        body = await self._gate.body(request)
        ids = await asyncio.to_thread(self._ids, body)
        most = self._backend.world.generator.limits.max_context_tokens
        return JSONResponse({"tokens": ids, "count": len(ids), "max_model_len": most})

    def _ids(self, body: Body) -> list[int]:
        prompts = self._backend.world.prompts
        if "messages" in body:
            return self._speech.template.encode(messages_of(body, self._speech)).tolist()
        text = body.text("prompt")
        if body.flag("add_special_tokens", default=True):
            return prompts.text(text).tolist()
        return prompts.tokenizer.encode(text)

    async def _detokenize(self, request: Request) -> Response:
        body = await self._gate.body(request)
        return JSONResponse({"prompt": await asyncio.to_thread(self._text, body)})

    def _text(self, body: Body) -> str:
        ids = body.value("tokens")
        if not isinstance(ids, list) or not all(type(id) is int and 0 <= id < 2**31 for id in ids):
            raise InputError("tokens is no list of ids", field="tokens")
        return self._backend.world.prompts.tokenizer.decode(ids)

    async def _chat(self, request: Request) -> Response:
        body = await self._gate.body(request)
        check_model(body, self._name)
        if "memory" in body:
            await self._memories.recall(body.text("memory"))
        limits = self._backend.config.limits
        asked = partial(Chat, speech=self._speech, name=self._name, limits=limits)
        return await self._answer(await asyncio.to_thread(asked, body, self._backend.world), request)

    async def _completions(self, request: Request) -> Response:
        body = await self._gate.body(request)
        check_model(body, self._name)
        asked = partial(Completions, name=self._name, most_choices=self._backend.config.limits.max_choices)
        return await self._answer(await asyncio.to_thread(asked, body, self._backend.world), request)

    async def _answer(self, asked: Chat | Completions, request: Request) -> Response:
        exchange = self._backend.ask(asked.requests, deadline=request.state.deadline)
        if asked.wanted.stream:
            return streamed(self._events(asked, exchange), exchange)
        await unless_gone(finished(exchange), request)
        return JSONResponse(await asyncio.to_thread(asked.whole, exchange.pieces))

    async def _events(self, asked: Chat | Completions, exchange: Exchange) -> AsyncIterator[str]:
        for opening in asked.opening():
            yield event(opening)
        while not exchange.finished:
            found = await exchange.next(seconds=self._backend.config.keep_alive_seconds)
            if found is None:
                yield KEEP_ALIVE
                continue
            i, _ = found
            say = partial(asked.chunk, i, exchange.pieces[i])
            yield event(await asyncio.to_thread(say) if asked.draws else say())
        if asked.wanted.include_usage:
            yield event(asked.closing(exchange.pieces))
        yield DONE
