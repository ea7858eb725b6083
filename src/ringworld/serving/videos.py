"""`/v1/videos`: videos as jobs, which are asked for, looked at while they are drawn, and fetched."""

import asyncio
import contextlib
import secrets
import time
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from ringworld.inference.engine.engine import Engine
from ringworld.inference.engine.sequence import GenerationRequest
from ringworld.inference.world import World
from ringworld.serving.body import Body
from ringworld.serving.config import ServingLimits
from ringworld.serving.drawing import drawing_of, size_of
from ringworld.serving.errors import ApiError, told_of
from ringworld.serving.exchange import Exchange
from ringworld.serving.metrics import Metrics
from ringworld.serving.pictures import frame_png, mp4

_LEAST_RATE, _MOST_RATE = 0.01, 120.0
_MOST_SECONDS = 1e6
_MOST_LISTED = 100


@dataclass(frozen=True, kw_only=True, slots=True)
class VideoAsked:
    """What a request for a video says."""

    prompt: str
    drawn: GenerationRequest
    frames_per_second: float

    @property
    def seconds(self) -> float:
        """Length of the video."""
        return self.drawn.frames / self.frames_per_second

    @staticmethod
    def of(body: Body, world: World, *, limits: ServingLimits) -> "VideoAsked":
        """Read the request; frames are as many as the model watches where neither they nor seconds are given.

        Raises:
            InputError: a field has another type or is out of range, or the model draws nothing.
            ApiError: a field is not supported, frames have another size, or there are too many.
        """
        world.prompts.seeing()
        rate = body.number("fps", world.watching.frames_per_second, least=_LEAST_RATE, most=_MOST_RATE)
        if "num_frames" in body or "seconds" not in body:
            name, frames = "num_frames", body.whole("num_frames", world.watching.max_frames, least=1)
        else:
            name, frames = (
                "seconds",
                max(1, round(body.number("seconds", 0.0, above=0, most=_MOST_SECONDS) * rate)),
            )
        if frames > limits.max_frames:
            problem = f"{name} asks for {frames} frames, of {limits.max_frames} at most"
            raise ApiError(400, problem, param=name, code="too_many_frames")
        drawn = drawing_of(body, world, frames=frames)
        return VideoAsked(prompt=body.text("prompt"), drawn=drawn, frames_per_second=rate)


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

    def __init__(
        self, world: World, engine: Engine, *, name: str, limits: ServingLimits, metrics: Metrics
    ) -> None:
        """Begin without any; `name` is what requests call the model."""
        self._name = name
        self._world, self._engine, self._limits, self._metrics = world, engine, limits, metrics
        self._videos: dict[str, _Video] = {}

    def create(self, asked: VideoAsked) -> dict[str, Any]:
        """Begin to draw a video, and describe it.

        Raises:
            ApiError: as many are kept as may.
            InputError, Busy, Closed: as for `Engine.submit`.
        """
        self._forget_old()
        if len(self._videos) >= self._limits.max_videos:
            problem = f"{len(self._videos)} videos are kept, as many as may; delete one"
            raise ApiError(429, problem, kind="rate_limit_error", code="too_many_videos")
        exchange = self._ask(asked)
        video = _Video(asked=asked)
        self._videos[video.id] = video
        video.task = asyncio.get_running_loop().create_task(self._draw(video, exchange))
        return self._described(video)

    async def draw(self, asked: VideoAsked) -> bytes:
        """Return a video as MP4 once it is drawn; whoever is cancelled cancels it.

        Raises:
            InputError, Busy, Closed: as for `Engine.submit`.
            ApiError: it took too long.
        """
        video = _Video(asked=asked)
        await self._finish(video, self._ask(asked))
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
        self._forget_old()
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

    async def close(self) -> None:
        """Draw no further."""
        videos = [*self._videos.values()]
        self._videos.clear()
        await _stop(videos)

    def _ask(self, asked: VideoAsked) -> Exchange:
        seconds = self._limits.max_seconds
        return Exchange(self._engine, [asked.drawn], metrics=self._metrics, seconds=seconds)

    async def _draw(self, video: _Video, exchange: Exchange) -> None:
        try:
            await self._finish(video, exchange)
            video.status = "completed"
        except Exception as error:
            video.error, video.status = told_of(error), "failed"
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
        rate = video.asked.frames_per_second
        video.file = await asyncio.to_thread(_encoded, self._world, video.ids, frames_per_second=rate)

    def _find(self, id: str) -> _Video:
        video = self._videos.get(id)
        if video is None:
            problem = f"there is no video {id!r:.80}"
            raise ApiError(404, problem, kind="not_found_error", param="video_id", code="video_not_found")
        return video

    def _forget_old(self) -> None:
        oldest = time.time() - self._limits.keep_seconds
        for id, video in [*self._videos.items()]:
            if video.completed is not None and video.completed < oldest:
                del self._videos[id]

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
            "frames_drawn": tokens // self._world.prompts.vocabulary.frame_tokens,
            "fps": asked.frames_per_second,
            "seed": drawn.sampling.seed,
            "guidance_scale": drawn.sampling.guidance_scale,
        }


def _encoded(world: World, ids: Sequence[int], *, frames_per_second: float) -> bytes:
    return mp4(world.prompts.pixels(np.array(ids, np.int32)), frames_per_second=frames_per_second)


async def _stop(videos: Sequence[_Video]) -> None:
    for video in videos:
        if video.task is not None:
            video.task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await video.task
