"""The paths of text: `/v1/chat/completions`, `/v1/completions`, `/tokenize` and `/detokenize`."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ringworld.core.errors import InputError
from ringworld.serving.backend import Backend
from ringworld.serving.body import Body
from ringworld.serving.chat import ChatRequest
from ringworld.serving.completions import Completions
from ringworld.serving.deadline import Deadline
from ringworld.serving.exchange import Exchange
from ringworld.serving.gate import Gate
from ringworld.serving.memories import Memories
from ringworld.serving.messages import ChatBackend, messages_of
from ringworld.serving.streams import DONE, KEEP_ALIVE, event, finished, streamed
from ringworld.serving.text_options import check_model

_Begun = tuple[ChatRequest | Completions, Exchange]


class Texts:
    """What answers those who ask for text, or for its tokens."""

    def __init__(self, backend: Backend, *, gate: Gate, chat: ChatBackend, memories: Memories) -> None:
        """Keep the model, what reads conversations, and what it remembers."""
        self._backend, self._gate, self._chat, self._memories = backend, gate, chat, memories
        self._name = backend.config.name

    def routes(self) -> list[Route]:
        """Return the routes."""
        route = partial(self._gate.route, method="POST")
        return [
            route("/tokenize", self._tokenize),
            route("/detokenize", self._detokenize),
            route("/v1/chat/completions", self._answer_chat),
            route("/v1/completions", self._answer_completions),
        ]

    async def _tokenize(self, request: Request) -> Response:
        body = await self._gate.body(request)
        ids = await asyncio.to_thread(self._ids, body, request.state.deadline)
        most = self._backend.world.generator.limits.max_context_tokens
        return JSONResponse({"tokens": ids, "count": len(ids), "max_model_len": most})

    def _ids(self, body: Body, deadline: Deadline) -> list[int]:
        prompts = self._backend.world.prompts
        if "messages" in body:
            messages = messages_of(body, self._chat, attachments=self._chat.attach(deadline))
            return self._chat.template.encode(messages).tolist()
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

    async def _answer_chat(self, request: Request) -> Response:
        body = await self._gate.body(request)
        check_model(body, self._name)
        deadline: Deadline = request.state.deadline
        chat = partial(
            ChatRequest,
            chat=self._chat,
            attachments=self._chat.attach(deadline),
            name=self._name,
            limits=self._backend.config.limits,
        )

        async def read() -> ChatRequest:
            if "memory" in body:
                await self._memories.recall(body.text("memory"), deadline=deadline)
            return await asyncio.to_thread(chat, body, self._backend.world)

        return await self._answer(read, request, stream=body.flag("stream"))

    async def _answer_completions(self, request: Request) -> Response:
        body = await self._gate.body(request)
        check_model(body, self._name)
        completions = partial(
            Completions, name=self._name, most_choices=self._backend.config.limits.max_choices
        )

        async def read() -> Completions:
            return await asyncio.to_thread(completions, body, self._backend.world)

        return await self._answer(read, request, stream=body.flag("stream"))

    async def _answer(
        self, read: Callable[[], Awaitable[ChatRequest | Completions]], request: Request, *, stream: bool
    ) -> Response:
        """Answer what `read` makes of a request; where that takes long, a stream begins before it is done."""
        deadline: Deadline = request.state.deadline

        async def begin() -> _Begun:
            texts = await read()
            return texts, self._backend.ask(texts.requests, deadline=deadline)

        if not stream:
            texts, exchange = await begin()
            await finished(exchange)
            # JSON, too: scores of all that was read and written may be megabytes.
            return await asyncio.to_thread(lambda: JSONResponse(texts.whole(exchange.pieces)))
        begun = asyncio.create_task(begin())
        try:
            await asyncio.wait([begun], timeout=self._backend.config.keep_alive_seconds)
            if begun.done():
                await begun  # What is wrong with it is an HTTP status, and no event yet.
        except BaseException:
            _end(begun, deadline)
            raise
        return streamed(self._events(begun, deadline), end=partial(_end, begun, deadline))

    async def _events(self, begun: "asyncio.Task[_Begun]", deadline: Deadline) -> AsyncIterator[str]:
        keep_alive = self._backend.config.keep_alive_seconds
        while not begun.done():
            if not deadline.left_seconds:
                raise deadline.over()
            yield KEEP_ALIVE
            await asyncio.wait([begun], timeout=min(keep_alive, deadline.left_seconds))
        texts, exchange = await begun
        # Of a stream whose last event has the usage, the others have null.
        untold = {"usage": None} if texts.options.include_usage else {}
        for opening in texts.opening():
            yield event(opening | untold)
        while not exchange.finished:
            found = await exchange.next(seconds=keep_alive)
            if found is None:
                yield KEEP_ALIVE
                continue
            i, _ = found
            pieces = exchange.pieces[i]
            chunk = partial(texts.chunk, i, pieces)
            yield event((await asyncio.to_thread(chunk) if texts.takes_long(pieces) else chunk()) | untold)
        if texts.options.include_usage:
            yield event(texts.closing(exchange.pieces))
        yield DONE


def _end(begun: "asyncio.Task[_Begun]", deadline: Deadline) -> None:
    """Let nothing more be done for a request, whether the engine is asked already or not."""
    deadline.end()
    begun.cancel()
    if begun.done() and not begun.cancelled() and begun.exception() is None:
        begun.result()[1].cancel()
