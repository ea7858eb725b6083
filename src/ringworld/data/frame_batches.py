"""Frames to codes, a whole batch at a time, beside the thread that reads the next ones."""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int32, UInt8

BATCH_FRAMES = 32
"""Frames that are encoded at once. A frame tokenizer takes as long for fewer, which it pads."""
Codes = Int32[np.ndarray, "frames codes"]


@runtime_checkable
class FrameEncoder(Protocol):
    """What preparation needs of `ringworld.vision.frame_tokenizer.FrameTokenizer`."""

    @property
    def resolution(self) -> int:
        """Side of a frame in pixels."""
        ...

    @property
    def fingerprint(self) -> str:
        """What changes when a weight does."""
        ...

    def encode(self, frames: UInt8[np.ndarray, "frames side side 3"]) -> Codes:
        """Return the codes of each frame."""
        ...


class FrameBatches:
    """Encodes frames in the order in which they are added, those of several short clips in one batch.

    A thread encodes a batch while the caller adds the frames of the next, which then waits for the former. So
    which frames have codes follows from how many were added, and not from how fast that goes.

    Example, with batches of 32: after 32 frames none has codes, after 64 the first 32 have, after 70 and
    `flush` all.
    """

    def __init__(self, encoder: FrameEncoder | None, *, batch_frames: int = BATCH_FRAMES) -> None:
        """Take what encodes; None where no frame is ever added."""
        self._encoder, self._batch_frames = encoder, batch_frames
        self._thread = ThreadPoolExecutor(1)
        self._pending: list[UInt8[np.ndarray, "side side 3"]] = []
        self._running: Future[Codes] | None = None
        self._codes: dict[int, Int32[np.ndarray, " codes"]] = {}
        self._kept_from = 0
        self.added = self.encoded = 0
        """How many frames were added, and how many of them have codes."""

    def add(self, frame: UInt8[np.ndarray, "side side 3"]) -> int:
        """Take one frame, and return its number, counted from 0."""
        self._pending.append(frame)
        self.added += 1
        if len(self._pending) == self._batch_frames:
            self._begin()
        return self.added - 1

    def flush(self) -> None:
        """Encode all that was added, in a batch that is not whole."""
        self._begin()
        self._finish()

    def codes(self, numbers: Sequence[int]) -> Codes:
        """Return the codes of some frames; all of them are encoded, and none is forgotten."""
        return np.stack([self._codes[number] for number in numbers])

    def forget(self, *, before: int) -> None:
        """Keep no codes any longer of the frames before a number, all of which are encoded."""
        for number in range(self._kept_from, before):
            del self._codes[number]
        self._kept_from = max(self._kept_from, before)

    def close(self) -> None:
        """End the thread, which may finish its batch."""
        self._thread.shutdown(cancel_futures=True)

    def _begin(self) -> None:
        self._finish()
        if self._pending:
            assert self._encoder is not None
            frames, self._pending = np.stack(self._pending), []
            self._running = self._thread.submit(self._encoder.encode, frames)

    def _finish(self) -> None:
        running, self._running = self._running, None
        if running is None:
            return
        try:
            made = running.result()
        except ValueError as error:  # which would be said of the file that is read now
            raise RuntimeError(f"frames cannot be encoded ({error})") from error
        for codes in made:
            self._codes[self.encoded] = codes
            self.encoded += 1
