"""SIGINT and SIGTERM as a request that a loop reads between two steps, or as an exception."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from ringworld.core.errors import Stopped

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """Holds back the first SIGINT or SIGTERM while it is entered; a second one acts at once.

    Outside the main thread, where Python takes no signals, it never asks to stop.
    """

    def __init__(self, *, says: str = "stopping after this step; once more stops at once") -> None:
        """Ask for nothing yet; `says` is what stands on stderr when a signal comes."""
        self._says = says
        self.signal: signal.Signals | None = None
        """The signal that came, if one did; it may change between two readings."""
        self._previous: dict[signal.Signals, object] = {}

    def __enter__(self) -> "StopRequest":
        """Install the handlers."""
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._note) for number in _SIGNALS}
        return self

    def __exit__(self, *error: object) -> None:
        """Restore the handlers that were there."""
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal = signal.Signals(number)
        self._restore()
        # Not print: a signal may interrupt one, and print cannot be entered twice.
        message = f"\n{self.signal.name}: {self._says}\n"
        os.write(2, message.encode())

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # pyright: ignore[reportArgumentType]
        self._previous = {}


@contextmanager
def terminable() -> Iterator[None]:
    """Make of a SIGTERM, which would end the process at once, an exception, as Python makes of a SIGINT.

    What the block has begun can then be cleared away. A handler that is installed already is left alone.

    Raises:
        Stopped: a SIGTERM came.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        raise Stopped("", number=signal.Signals(number))

    in_main = threading.current_thread() is threading.main_thread()
    if not in_main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
