"""Requests to the engine, as an event loop waits for them."""

import asyncio
import contextlib
import time
from collections.abc import Sequence
from functools import partial

from ringworld.inference.engine.engine import Engine
from ringworld.inference.engine.sequence import GenerationRequest, Piece
from ringworld.serving.deadline import Deadline
from ringworld.serving.metrics import ServerMetrics


class Exchange:
    """What one HTTP request has asked of the engine, and what comes of it.

    Attributes:
        pieces: of each text, those that came so far.
    """

    def __init__(
        self,
        engine: Engine,
        requests: Sequence[GenerationRequest],
        *,
        metrics: ServerMetrics,
        deadline: Deadline,
    ) -> None:
        """Ask, for an answer until the deadline; call it in the event loop.

        Raises:
            InputError, Busy, Closed: as for `Engine.submit`; then nothing is asked.
        """
        self.pieces: list[list[Piece]] = [[] for _ in requests]
        self._left, self._deadline = len(requests), deadline
        self._queue: asyncio.Queue[tuple[int, Piece | BaseException]] = asyncio.Queue()
        self._metrics, self._last = metrics, [time.monotonic()] * len(requests)
        self._cancels = []
        loop = asyncio.get_running_loop()
        try:
            for i, request in enumerate(requests):
                self._cancels.append(engine.submit(request, partial(self._deliver, loop, i)))
        except BaseException:
            self.cancel()
            raise

    @property
    def finished(self) -> bool:
        """Whether nothing follows."""
        return not self._left

    async def next(self, *, seconds: float | None = None) -> tuple[int, Piece] | None:
        """Return the next piece and the text that it belongs to; None where none came for so long.

        Raises:
            ApiError: the time is over; all texts are cancelled.
            Exception: what ended one of the texts; the others are cancelled.
        """
        left = self._deadline.left_seconds
        try:
            i, piece = await asyncio.wait_for(
                self._queue.get(), left if seconds is None else min(left, seconds)
            )
        except TimeoutError:
            if self._deadline.left_seconds:
                return None
            self.cancel()
            raise self._deadline.over() from None
        if isinstance(piece, BaseException):
            self.cancel()
            raise piece
        now = time.monotonic()
        if piece.token is not None:
            is_first = not any(each.token for each in self.pieces[i])
            seconds_taken = self._metrics.first_token if is_first else self._metrics.next_token
            seconds_taken.observe(now - self._last[i])
            self._last[i] = now
        self.pieces[i].append(piece)
        self._left -= piece.finish is not None
        return i, piece

    def cancel(self) -> None:
        """Let the engine do nothing more for it."""
        for cancel in self._cancels:
            cancel()

    def _deliver(self, loop: asyncio.AbstractEventLoop, i: int, piece: Piece | BaseException) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed, and nobody waits
            loop.call_soon_threadsafe(self._queue.put_nowait, (i, piece))
