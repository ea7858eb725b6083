"""`/v1/memories`: conversations with what was read of them, on disk, where the next start finds them."""

import asyncio
import re
import secrets
import shutil
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ringworld.core.errors import Busy, InputError
from ringworld.core.origin import read_origin
from ringworld.inference.memory import Memory
from ringworld.serving.backend import Backend
from ringworld.serving.body import Body
from ringworld.serving.deadline import Deadline
from ringworld.serving.errors import ApiError
from ringworld.serving.gate import Gate
from ringworld.serving.messages import ChatBackend, messages_of
from ringworld.serving.text_options import check_model
from ringworld.text.templates import Message

_ID = re.compile(r"memory_[0-9a-f]{32}")
_LONGEST_NAME = 200
_MOST_WAITING = 16


class _OneByOne:
    """Lets one after the other move a whole context, and no more than some wait."""

    def __init__(self) -> None:
        self._alone, self._waiting = asyncio.Semaphore(1), 0

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        if self._waiting >= _MOST_WAITING:
            raise Busy(waiting=self._waiting)
        self._waiting += 1
        try:
            async with self._alone:
                yield
        finally:
            self._waiting -= 1


class Memories:
    """The memories of one folder; those of other models in it are not shown, and stay."""

    def __init__(self, backend: Backend, *, gate: Gate) -> None:
        """Keep the model and the folder."""
        self._backend, self._gate = backend, gate
        self._keeping, self._recalling = _OneByOne(), _OneByOne()

    def routes(self, chat: ChatBackend) -> "list[Route]":
        """Return the routes; `chat` reads what is to be kept."""
        route = self._gate.route
        return [
            route("/v1/memories", partial(self._create, chat=chat), method="POST"),
            route("/v1/memories", self._list),
            route("/v1/memories/{id}", self._get),
            route("/v1/memories/{id}", self._delete, method="DELETE"),
        ]

    def messages(self, id: str) -> Sequence[Message]:
        """Return the conversation of a memory.

        Raises:
            ApiError: there is none, or it cannot be used.
        """
        return self._open(id).messages

    async def recall(self, id: str, *, deadline: Deadline) -> None:
        """Put a memory into the cache, where a question about it finds it.

        Raises:
            ApiError: there is none, or it cannot be used, or time is over.
            Busy: as many wait as may.
            Closed: as for `Engine.submit`.
        """
        async with self._recalling.alone():
            await asyncio.to_thread(self._recall, id, deadline)

    def _recall(self, id: str, deadline: Deadline) -> None:
        folder, backend = self._find(id), self._backend
        with _naming(id, folder):
            backend.world.recall(folder, engine=backend.engine, check=deadline.check)

    async def _create(self, request: Request, *, chat: ChatBackend) -> Response:
        body = await self._gate.body(request)
        check_model(body, self._backend.config.name)
        name = body.text("name", "memory")[:_LONGEST_NAME]
        async with self._keeping.alone():
            keep = partial(self._keep, body, chat, name=name, deadline=request.state.deadline)
            return JSONResponse(await asyncio.to_thread(keep))

    def _keep(self, body: Body, chat: ChatBackend, *, name: str, deadline: Deadline) -> dict[str, Any]:
        folder, most = self._root(), self._backend.config.limits.max_memories
        count = sum(1 for _ in _kept_in(folder))
        if count >= most:
            problem = f"{count} memories are kept, as many as may; delete one"
            raise ApiError(429, problem, kind="rate_limit_error", code="too_many_memories")
        messages = messages_of(body, chat, attachments=chat.attach(deadline))
        id, backend = f"memory_{secrets.token_hex(16)}", self._backend
        with _naming(id, folder / id):
            memory = backend.world.keep(
                messages, folder / id, engine=backend.engine, name=name, check=deadline.check
            )
        return _described(id, memory)

    async def _list(self, request: Request) -> Response:
        return JSONResponse(await asyncio.to_thread(self._all))

    def _all(self) -> dict[str, Any]:
        found = []
        for id in _kept_in(self._root()):
            try:
                found.append(_described(id, self._open(id)))
            except ApiError:  # of another model, damaged, or deleted meanwhile
                continue
        return {"object": "list", "data": sorted(found, key=lambda each: each["created_at"])}

    async def _get(self, request: Request) -> Response:
        id = request.path_params["id"]
        memory = await asyncio.to_thread(self._open, id)
        said = [{"role": message.role, "content": _content(message)} for message in memory.messages]
        return JSONResponse(_described(id, memory) | {"messages": said})

    async def _delete(self, request: Request) -> Response:
        id = request.path_params["id"]
        await asyncio.to_thread(self._forget, id)
        return JSONResponse({"id": id, "object": "memory.deleted", "deleted": True})

    def _forget(self, id: str) -> None:
        folder = self._find(id)
        with _naming(id, folder):
            read_origin(folder, kind="memory")
        with suppress(FileNotFoundError):  # another request deletes it, too
            shutil.rmtree(folder)

    def _open(self, id: str) -> Memory:
        folder = self._find(id)
        with _naming(id, folder):
            model = self._backend.world.generator.remembering
            return Memory.open(folder, model=model.of_cache(self._backend.engine.cache_type))

    def _find(self, id: str) -> Path:
        """Return the folder of a memory; what is asked for is a name of ours, and never a path."""
        folder = self._root() / id if _ID.fullmatch(id) else None
        if folder is None or not folder.is_dir() or folder.is_symlink():
            problem = f"there is no memory {id!r:.80}"
            raise ApiError(404, problem, kind="not_found_error", param="memory", code="memory_not_found")
        return folder

    def _root(self) -> Path:
        folder = self._backend.config.memory_folder
        if folder is None:
            problem = "this server keeps no memories; it must be started with a memory folder"
            raise ApiError(400, problem, param="memory", code="memories_not_kept")
        return folder


def _kept_in(folder: Path) -> Iterator[str]:
    return (
        (each.name for each in folder.iterdir() if _ID.fullmatch(each.name)) if folder.is_dir() else iter(())
    )


def _content(message: Message) -> str | list[dict[str, Any]]:
    """Return what a message says, with what it shows in its place, by the number of its frames.

    Example:
        A film after "Who enters?" gives `[{"type": "text", "text": "Who enters?"}, {"type": "video",
        "frames": 8}]`, and a text alone itself.
    """
    if not message.clips:
        return message.text
    return [
        {"type": "text", "text": part}
        if isinstance(part, str)
        else {"type": "video" if len(part) > 1 else "image", "frames": len(part)}
        for part in message.content
    ]


def _described(id: str, memory: Memory) -> dict[str, Any]:
    return {
        "id": id,
        "object": "memory",
        "name": memory.name,
        "created_at": int(memory.created),
        "tokens": len(memory.ids),
        "bytes": memory.size_bytes,
    }


@contextmanager
def _naming(id: str, folder: Path) -> Iterator[None]:
    """Name the files of a memory that cannot be used by its id, since clients do not see paths."""
    try:
        yield
    except InputError as error:
        if error.path is None:
            raise
        message = str(error).replace(str(folder), id)
        raise ApiError(400, message, param="memory", code="memory_not_usable") from None
