"""`/v1/videos`: videos as jobs, which are asked for, looked at while they are drawn, and fetched."""

import asyncio
import contextlib
import secrets
import time
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import numpy as np
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ringworld.inference.world import World
from ringworld.serving.asked import check_model
from ringworld.serving.backend import Backend
from ringworld.serving.body import Body
from ringworld.serving.deadline import Deadline
from ringworld.serving.drawing import size_of
from ringworld.serving.errors import ApiError, api_error_of, unsupported
from ringworld.serving.exchange import Exchange
from ringworld.serving.form import Upload
from ringworld.serving.gate import Gate, type_of
from ringworld.serving.pictures import frame_png, mp4
from ringworld.serving.shown import Shown
from ringworld.serving.video_asked import REFERENCE, VideoAsked, fields_of

_MOST_LISTED = 100


@dataclass(kw_only=True, slots=True, eq=False)
class _Video:
    asked: VideoAsked
    ids: "array[int]" = field(default_factory=lambda: array("i"))
    """Those that are drawn."""
    id: str = field(default_factory=lambda: f"video_{secrets.token_hex(16)}")
    created: int = field(default_factory=lambda: int(time.time()))
    status: Literal["queued", "in_progress", "completed", "failed"] = "queued"
    completed: int | None = None
    error: ApiError | None = None
    file: bytes = b""
    task: "asyncio.Task[None] | None" = None


class Videos:
    """The videos of one server, in its memory; call it in the event loop."""

    def __init__(self, backend: Backend, *, gate: Gate, show: Callable[[Deadline], Shown]) -> None:
        """Begin without any; `show` begins to read what a request shows."""
        self._backend, self._gate, self._show = backend, gate, show
        self._name, self._limits = backend.config.name, backend.config.limits
        self._world = backend.world
        self._videos: dict[str, _Video] = {}

    def routes(self) -> list[Route]:
        """Return the routes."""
        route = self._gate.route
        return [
            route("/v1/videos", self._create_asked, method="POST"),
            route("/v1/videos", self._list_asked),
            route("/v1/videos/sync", self._draw_asked, method="POST"),
            route("/v1/videos/{id}", self._get_asked),
            route("/v1/videos/{id}", self._delete_asked, method="DELETE"),
            route("/v1/videos/{id}/content", self._content_asked),
            route("/v1/videos/{id}/frames/{index}", self._frame_asked),
        ]

    def create(self, asked: VideoAsked, *, deadline: Deadline) -> dict[str, Any]:
        """Begin to draw a video, and describe it.

        Raises:
            ApiError: as many are kept as may.
            InputError, Busy, Closed: as for `Engine.submit`.
        """
        self.forget_old()
        if len(self._videos) >= self._limits.max_videos:
            problem = f"{len(self._videos)} videos are kept, as many as may; delete one"
            raise ApiError(429, problem, kind="rate_limit_error", code="too_many_videos")
        exchange = self._backend.ask([asked.drawn], deadline=deadline)
        video = _Video(asked=asked)
        self._videos[video.id] = video
        video.task = asyncio.get_running_loop().create_task(self._draw(video, exchange))
        return self._described(video)

    async def draw(self, asked: VideoAsked, *, deadline: Deadline) -> bytes:
        """Return a video as MP4 once it is drawn; whoever is cancelled cancels it.

        Raises:
            InputError, Busy, Closed: as for `Engine.submit`.
            ApiError: it took too long.
        """
        video = _Video(asked=asked)
        await self._finish(video, self._backend.ask([asked.drawn], deadline=deadline))
        return video.file

    def get(self, id: str) -> dict[str, Any]:
        """Describe a video.

        Raises:
            ApiError: there is none.
        """
        return self._described(self._find(id))

    def list(self, *, limit: int, after: str | None, newest_first: bool) -> dict[str, Any]:
        """Describe some videos.

        Args:
            limit: most of them.
            after: the last that is known already.
            newest_first: whether they begin with the newest.

        Raises:
            ApiError: there is none of that id.
        """
        self.forget_old()
        ids = [*self._videos]
        ids = ids[::-1] if newest_first else ids
        start = 0 if after is None else ids.index(self._find(after).id) + 1
        shown = ids[start : start + min(limit, _MOST_LISTED)]
        return {
            "object": "list",
            "data": [self._described(self._videos[id]) for id in shown],
            "first_id": shown[0] if shown else None,
            "last_id": shown[-1] if shown else None,
            "has_more": start + len(shown) < len(ids),
        }

    async def delete(self, id: str) -> dict[str, Any]:
        """Forget a video, which is drawn no further.

        Raises:
            ApiError: there is none.
        """
        video = self._videos.pop(self._find(id).id)
        await _stop([video])
        return {"id": video.id, "object": "video.deleted", "deleted": True}

    def content(self, id: str) -> bytes:
        """Return a video as MP4.

        Raises:
            ApiError: there is none, or it is not drawn yet.
        """
        video = self._find(id)
        if video.status != "completed":
            problem = f"video {id} is {video.status.replace('_', ' ')}"
            raise ApiError(409, problem, param="video_id", code="video_not_ready")
        return video.file

    async def frame(self, id: str, *, index: int) -> bytes:
        """Return a frame as PNG; of the one that is being drawn, what is there.

        Raises:
            ApiError: there is no such video, or nothing of the frame yet.
        """
        ids = self._find(id).ids
        if not 0 <= index * self._world.prompts.vocabulary.frame_tokens < len(ids):
            raise ApiError(404, f"there is nothing of frame {index} of {id}", kind="not_found_error")
        return await asyncio.to_thread(frame_png, self._world.prompts, ids, index=index)

    def forget_old(self) -> None:
        """Delete the videos that were drawn and kept as long as they may be."""
        oldest = time.time() - self._limits.keep_seconds
        for id, video in [*self._videos.items()]:
            if video.completed is not None and video.completed < oldest:
                del self._videos[id]

    async def close(self) -> None:
        """Draw no further."""
        videos = [*self._videos.values()]
        self._videos.clear()
        await _stop(videos)

    async def _asked(self, request: Request) -> VideoAsked:
        sent: Upload | None = None
        if type_of(request) == "multipart/form-data":
            form = await self._gate.form(request)
            for name in form.files.keys() - {REFERENCE}:
                raise unsupported(name)
            body, sent = fields_of(form), form.files.get(REFERENCE)
        else:
            body = await self._gate.body(request)
        check_model(body, self._name)
        read = partial(
            VideoAsked.of, limits=self._limits, sent=sent, shown=self._show(request.state.deadline)
        )
        return await asyncio.to_thread(read, body, self._world)

    async def _create_asked(self, request: Request) -> Response:
        asked = await self._asked(request)
        return JSONResponse(self.create(asked, deadline=request.state.deadline))

    async def _draw_asked(self, request: Request) -> Response:
        asked = await self._asked(request)
        drawn = await self.draw(asked, deadline=request.state.deadline)
        return Response(drawn, media_type="video/mp4")

    async def _list_asked(self, request: Request) -> Response:
        query = Body.of_form(request.query_params, words=("after", "order"))
        return JSONResponse(
            self.list(
                limit=query.whole("limit", 20, least=1),
                after=query.text("after") if "after" in query else None,
                newest_first=query.text("order", "desc") != "asc",
            )
        )

    async def _get_asked(self, request: Request) -> Response:
        return JSONResponse(self.get(request.path_params["id"]))

    async def _delete_asked(self, request: Request) -> Response:
        return JSONResponse(await self.delete(request.path_params["id"]))

    async def _content_asked(self, request: Request) -> Response:
        return Response(self.content(request.path_params["id"]), media_type="video/mp4")

    async def _frame_asked(self, request: Request) -> Response:
        asked = Body.of_form(request.path_params, words=("id",))
        id, index = asked.text("id"), asked.whole("index", 0, least=0)
        return Response(await self.frame(id, index=index), media_type="image/png")

    async def _draw(self, video: _Video, exchange: Exchange) -> None:
        try:
            await self._finish(video, exchange)
            video.status = "completed"
        except Exception as error:
            video.error, video.status = api_error_of(error), "failed"
        finally:
            video.completed = int(time.time())

    async def _finish(self, video: _Video, exchange: Exchange) -> None:
        try:
            while not exchange.finished:
                found = await exchange.next()
                if found is not None and found[1].token is not None:
                    video.ids.append(found[1].token.id)
                video.status = "in_progress"
        finally:
            exchange.cancel()
        video.file = await asyncio.to_thread(_encoded, self._world, video.asked, video.ids)

    def _find(self, id: str) -> _Video:
        video = self._videos.get(id)
        if video is None:
            problem = f"there is no video {id!r:.80}"
            raise ApiError(404, problem, kind="not_found_error", param="video_id", code="video_not_found")
        return video

    def _described(self, video: _Video) -> dict[str, Any]:
        asked, drawn = video.asked, video.asked.drawn
        error, tokens = video.error, len(video.ids)
        keep = self._limits.keep_seconds
        return {
            "id": video.id,
            "object": "video",
            "model": self._name,
            "status": video.status,
            "progress": 100 * tokens // drawn.max_new_tokens,
            "created_at": video.created,
            "completed_at": video.completed,
            "expires_at": video.completed and int(video.completed + keep),
            "error": error and {"code": error.code or error.kind, "message": error.message},
            "prompt": asked.prompt,
            "seconds": f"{asked.seconds:g}",
            "size": size_of(self._world),
            "num_frames": drawn.frames,
            "given_frames": asked.given_frames,
            "frames_drawn": tokens // self._world.prompts.vocabulary.frame_tokens,
            "fps": asked.frames_per_second,
            "seed": drawn.sampling.seed,
            "guidance_scale": drawn.sampling.guidance_scale,
        }


def _encoded(world: World, asked: VideoAsked, ids: Sequence[int]) -> bytes:
    frames = world.prompts.pixels(np.array(ids, np.int32))
    if asked.after is not None:
        # As the model sees them, so that what it draws follows.
        tokenizer = world.prompts.seeing()
        frames = np.concatenate([tokenizer.decode(world.codes(video=asked.after)), frames])
    return mp4(frames, frames_per_second=asked.frames_per_second)


async def _stop(videos: Sequence[_Video]) -> None:
    for video in videos:
        if video.task is not None:
            video.task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await video.task
