"""`/v1/videos`: videos as jobs, which are begun, looked at while they are drawn, and fetched."""

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
from ringworld.serving.attachments import Attachments
from ringworld.serving.backend import Backend
from ringworld.serving.body import Body
from ringworld.serving.deadline import Deadline
from ringworld.serving.drawing import size_of
from ringworld.serving.errors import ApiError, api_error_of, unsupported
from ringworld.serving.exchange import Exchange
from ringworld.serving.form import Upload
from ringworld.serving.gate import Gate, type_of
from ringworld.serving.pictures import frame_png, mp4
from ringworld.serving.text_options import check_model
from ringworld.serving.video_request import REFERENCE, VideoRequest, fields_of

_MOST_LISTED = 100


@dataclass(kw_only=True, slots=True, eq=False)
class _Video:
    request: VideoRequest
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

    def __init__(self, backend: Backend, *, gate: Gate, attach: Callable[[Deadline], Attachments]) -> None:
        """Begin without any; `attach` returns what a request attaches, for its deadline."""
        self._backend, self._gate, self._attach = backend, gate, attach
        self._name, self._limits = backend.config.name, backend.config.limits
        self._world = backend.world
        self._videos: dict[str, _Video] = {}

    def routes(self) -> list[Route]:
        """Return the routes."""
        route = self._gate.route
        return [
            route("/v1/videos", self._create, method="POST"),
            route("/v1/videos", self._list),
            route("/v1/videos/sync", self._create_at_once, method="POST"),
            route("/v1/videos/{id}", self._get),
            route("/v1/videos/{id}", self._delete, method="DELETE"),
            route("/v1/videos/{id}/content", self._content),
            route("/v1/videos/{id}/frames/{index}", self._frame),
        ]

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

    async def _create(self, request: Request) -> Response:
        """Begin to draw a video, and describe it."""
        wanted = await self._read(request)
        self.forget_old()
        if len(self._videos) >= self._limits.max_videos:
            problem = f"{len(self._videos)} videos are kept, as many as may; delete one"
            raise ApiError(429, problem, kind="rate_limit_error", code="too_many_videos")
        exchange = self._backend.ask([wanted.drawn], deadline=request.state.deadline)
        video = _Video(request=wanted)
        self._videos[video.id] = video
        video.task = asyncio.get_running_loop().create_task(self._draw(video, exchange))
        return JSONResponse(self._described(video))

    async def _create_at_once(self, request: Request) -> Response:
        """Answer with a video once it is drawn."""
        video = _Video(request=await self._read(request))
        await self._finish(video, self._backend.ask([video.request.drawn], deadline=request.state.deadline))
        return Response(video.file, media_type="video/mp4")

    async def _list(self, request: Request) -> Response:
        query = Body.of_form(request.query_params, words=("after", "order"))
        limit, after = query.whole("limit", 20, least=1), query.value("after")
        self.forget_old()
        ids = [*self._videos]
        if query.text("order", "desc") != "asc":
            ids.reverse()
        start = 0 if after is None else ids.index(self._find(after).id) + 1
        listed = ids[start : start + min(limit, _MOST_LISTED)]
        return JSONResponse(
            {
                "object": "list",
                "data": [self._described(self._videos[id]) for id in listed],
                "first_id": listed[0] if listed else None,
                "last_id": listed[-1] if listed else None,
                "has_more": start + len(listed) < len(ids),
            }
        )

    async def _get(self, request: Request) -> Response:
        return JSONResponse(self._described(self._find(request.path_params["id"])))

    async def _delete(self, request: Request) -> Response:
        """Forget a video, which is drawn no further."""
        video = self._videos.pop(self._find(request.path_params["id"]).id)
        await _stop([video])
        return JSONResponse({"id": video.id, "object": "video.deleted", "deleted": True})

    async def _content(self, request: Request) -> Response:
        video = self._find(request.path_params["id"])
        if request.query_params.get("variant", "video") != "video":
            raise unsupported("variant", remedy="use video")
        if video.status != "completed":
            problem = f"video {video.id} is {video.status.replace('_', ' ')}"
            raise ApiError(409, problem, param="video_id", code="video_not_ready")
        return Response(video.file, media_type="video/mp4")

    async def _frame(self, request: Request) -> Response:
        """Answer with a frame as PNG; of the one that is being drawn, what is there."""
        path = Body.of_form(request.path_params, words=("id",))
        video, index = self._find(path.text("id")), path.whole("index", 0, least=0)
        if not 0 <= index * self._world.prompts.vocabulary.frame_tokens < len(video.ids):
            problem = f"there is nothing of frame {index} of {video.id}"
            raise ApiError(404, problem, kind="not_found_error")
        content = await asyncio.to_thread(frame_png, self._world.prompts, video.ids, index=index)
        return Response(content, media_type="image/png")

    async def _read(self, request: Request) -> VideoRequest:
        sent: Upload | None = None
        if type_of(request) == "multipart/form-data":
            form = await self._gate.form(request)
            for name in form.files.keys() - {REFERENCE}:
                raise unsupported(name)
            body, sent = fields_of(form), form.files.get(REFERENCE)
        else:
            body = await self._gate.body(request)
        check_model(body, self._name)
        attachments = self._attach(request.state.deadline)
        read = partial(VideoRequest.of, limits=self._limits, sent=sent, attachments=attachments)
        return await asyncio.to_thread(read, body, self._world)

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
        video.file = await asyncio.to_thread(_encoded, self._world, video.request, video.ids)

    def _find(self, id: str) -> _Video:
        video = self._videos.get(id)
        if video is None:
            problem = f"there is no video {id!r:.80}"
            raise ApiError(404, problem, kind="not_found_error", param="video_id", code="video_not_found")
        return video

    def _described(self, video: _Video) -> dict[str, Any]:
        request, drawn = video.request, video.request.drawn
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
            "prompt": request.prompt,
            "seconds": f"{request.seconds:g}",
            "size": size_of(self._world),
            "num_frames": drawn.frames,
            "given_frames": request.given_frames,
            "frames_drawn": tokens // self._world.prompts.vocabulary.frame_tokens,
            "fps": request.frames_per_second,
            "seed": drawn.sampling.seed,
            "guidance_scale": drawn.sampling.guidance_scale,
        }


def _encoded(world: World, request: VideoRequest, ids: Sequence[int]) -> bytes:
    frames = world.prompts.pixels(np.array(ids, np.int32))
    if request.after is not None:
        # As the model sees them, so that what it draws follows.
        tokenizer = world.prompts.seeing()
        frames = np.concatenate([tokenizer.decode(world.codes(video=request.after)), frames])
    return mp4(frames, frames_per_second=request.frames_per_second)


async def _stop(videos: Sequence[_Video]) -> None:
    for video in videos:
        if video.task is not None:
            video.task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await video.task
