"""Pictures and films that were sent, to codes, which are remembered."""

import hashlib
import json
import tempfile
import threading
from typing import Literal, NamedTuple

import numpy as np

from ringworld.core.errors import Busy, InputError
from ringworld.core.ranges import Bounds
from ringworld.inference.config import WatchingConfig
from ringworld.inference.world import World
from ringworld.serving.body import Body
from ringworld.serving.config import LEAST_RATE, MOST_RATE, ServingLimits
from ringworld.serving.deadline import Deadline
from ringworld.serving.decoder import run_decoder
from ringworld.serving.errors import ApiError
from ringworld.serving.room import room_in

Kind = Literal["image", "video", "any"]
_NAMED = {"image": "the image", "video": "the video", "any": "the file"}
_CODES = {"limits.frame_pixels": "too_many_pixels", "limits.duration_seconds": "video_too_long"}
_AT_ONCE = 2
"""Decoders, each of which may use its memory and all cores."""
_MOST_WAITING = 16
"""Files that wait for one."""
_MOST_KNOWN_BYTES = 2**26
"""Of the codes of files that were drawn or shown before."""
_CHECK_SECONDS = 0.1


class _SentFile(NamedTuple):
    """A file, and what it was shown as."""

    sha256: bytes
    shown: tuple[Kind, WatchingConfig] | None
    """None for one that the model drew, which is shown as whatever it is."""


class Media:
    """What a model is shown by those who ask."""

    def __init__(
        self, world: World, *, limits: ServingLimits, most_known_bytes: int = _MOST_KNOWN_BYTES
    ) -> None:
        """Keep the model, the limits, and how many bytes of codes are remembered."""
        self._world, self._limits = world, limits
        self._decoders = threading.BoundedSemaphore(_AT_ONCE)
        self._room = threading.BoundedSemaphore(_AT_ONCE + _MOST_WAITING)
        self._most_known_bytes = most_known_bytes
        # What was used last stands last.
        self._known: dict[_SentFile, np.ndarray] = {}
        self._known_bytes = 0
        self._remembering = threading.Lock()

    def watching(self, body: Body) -> WatchingConfig:
        """Return how a request has films watched: `max_frames` at most, spread over the length, at `fps`.

        What it leaves out is as the model folder says.

        Raises:
            InputError: a field has another type or is out of range.
            ApiError: there are too many frames.
        """
        default, most = self._world.watching, self._limits.max_frames
        if "max_frames" in body and body.whole("max_frames", 1, least=1) > most:
            problem = f"max_frames is {body.value('max_frames')}, of {most} at most"
            raise ApiError(400, problem, param="max_frames", code="too_many_frames")
        rates: Bounds = {"least": LEAST_RATE, "most": MOST_RATE} if "fps" in body else {}
        return WatchingConfig(
            max_frames=body.whole("max_frames", default.max_frames, least=1),
            frames_per_second=body.number("fps", default.frames_per_second, **rates),
        )

    def codes(
        self,
        content: bytes,
        *,
        kind: Kind,
        field: str,
        deadline: Deadline,
        watching: WatchingConfig | None = None,
    ) -> np.ndarray:
        """Return the codes of the frames of a file, [frames, codes]; otherwise as `frames`.

        A file that was drawn, or shown as the same kind and watched alike, is decoded no more while its codes
        are remembered.
        """
        name = hashlib.sha256(content).digest()
        shown: tuple[Kind, WatchingConfig] = kind, watching or self._world.watching
        with self._remembering:
            for key in (_SentFile(name, None), _SentFile(name, shown)):
                if (known := self._known.pop(key, None)) is not None:
                    self._known[key] = known
                    return known
        frames = self.frames(content, kind=kind, field=field, deadline=deadline, watching=watching)
        codes = self._world.codes(video=frames)
        self._remember(_SentFile(name, shown), codes)
        return codes

    def remember(self, content: bytes, codes: np.ndarray) -> None:
        """Let a file that the model drew have the codes that it drew, when it is shown again."""
        self._remember(_SentFile(hashlib.sha256(content).digest(), None), codes)

    def _remember(self, shown: _SentFile, codes: np.ndarray) -> None:
        """Remember codes in place of those that were used longest ago."""
        with self._remembering:
            before = self._known.pop(shown, None)
            self._known_bytes += codes.nbytes - (0 if before is None else before.nbytes)
            self._known[shown] = codes
            while self._known_bytes > self._most_known_bytes:
                self._known_bytes -= self._known.pop(next(iter(self._known))).nbytes

    def frames(
        self,
        content: bytes,
        *,
        kind: Kind,
        field: str,
        deadline: Deadline,
        watching: WatchingConfig | None = None,
    ) -> np.ndarray:
        """Return the frames of a file as the model watches it; it takes long, so call it in a thread.

        Args:
            content: the file.
            kind: what it is to be; what is inside decides whether it is.
            field: of the request, which errors name.
            deadline: of the request.
            watching: how a film is watched; None is as the model folder says.

        Raises:
            InputError: it cannot be read, or the model sees nothing.
            ApiError: it has too many pixels, lasts too long, or takes too much time, or too much memory.
            Busy: as many files wait as may.
            ClientDisconnect: nobody waits for it any more.
        """
        self._world.prompts.seeing()
        with room_in(self._room, full=Busy(waiting=_MOST_WAITING)):
            while not self._decoders.acquire(timeout=_CHECK_SECONDS):
                deadline.check()
            try:
                with tempfile.NamedTemporaryFile(prefix="ringworld-") as file:
                    file.write(content)
                    file.flush()
                    how = watching or self._world.watching
                    return self._decoded(file.name, kind=kind, field=field, deadline=deadline, watching=how)
            finally:
                self._decoders.release()

    def _decoded(
        self, path: str, *, kind: Kind, field: str, deadline: Deadline, watching: WatchingConfig
    ) -> np.ndarray:
        resolution = self._world.prompts.seeing().resolution
        request = {
            "path": path,
            "kind": kind,
            "resolution": resolution,
            "most_frames": watching.max_frames,
            "frames_per_second": watching.frames_per_second,
        }
        line, _, content = run_decoder(
            request, limits=self._limits, name=_NAMED[kind], field=field, deadline=deadline
        ).partition(b"\n")
        answer = json.loads(line)
        if "frames" in answer:
            shape = answer["frames"], resolution, resolution, 3
            return np.frombuffer(content, np.uint8).reshape(shape)
        # Our name for the file tells nobody anything.
        problem = answer["problem"].replace(path, _NAMED[kind])
        if answer["field"] in _CODES:
            raise ApiError(400, problem, param=field, code=_CODES[answer["field"]])
        raise InputError(problem, field=field, remedy=answer["remedy"])
