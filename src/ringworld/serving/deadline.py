"""How long one HTTP request may take, from its first byte to its last."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from starlette.requests import ClientDisconnect

from ringworld.serving.errors import ApiError


class Deadline:
    """The time that is left for one request, of which fetching, decoding, reading and writing all take.

    It is over at once when the client leaves. Nothing ends a thread from outside, so what runs in one asks
    `check` now and then, or says by `ending` what ends it.
    """

    def __init__(self, seconds: float) -> None:
        """Begin now."""
        self._seconds, self._until = seconds, time.monotonic() + seconds
        self._ended = False
        self._ends: list[Callable[[], object]] = []
        self._lock = threading.Lock()

    @property
    def left_seconds(self) -> float:
        """0 where it is over."""
        return 0.0 if self._ended else max(0.0, self._until - time.monotonic())

    def over(self) -> ApiError:
        """Return the error of a request that was not finished by then."""
        problem = f"it was not finished within {self._seconds:g} s; ask for less at once"
        return ApiError(504, problem, kind="server_error", code="time_limit_exceeded")

    def end(self) -> None:
        """End what is done for the request, because nobody waits for it."""
        with self._lock:
            self._ended, ends, self._ends = True, self._ends, []
        for each in ends:
            each()

    def check(self) -> None:
        """Return where there is time left.

        Raises:
            ApiError: it is over.
            ClientDisconnect: nobody waits.
        """
        if self._ended:
            raise ClientDisconnect
        if not self.left_seconds:
            raise self.over()

    @contextmanager
    def ending(self, end: Callable[[], object]) -> Iterator[None]:
        """Have `end` called, from another thread, where nobody waits any more for what is done within.

        Raises:
            ApiError, ClientDisconnect: as for `check`; then nothing is to be done.
        """
        with self._lock:
            self.check()
            self._ends.append(end)
        try:
            yield
        finally:
            with self._lock:
                self._ends = [each for each in self._ends if each is not end]
