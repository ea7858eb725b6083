"""Room for so many at once."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def room_in(room: threading.Semaphore, *, full: Exception) -> Iterator[None]:
    """Take room for one for a while.

    Raises:
        Exception: `full`, where there is none.
    """
    if not room.acquire(blocking=False):
        raise full
    try:
        yield
    finally:
        room.release()
