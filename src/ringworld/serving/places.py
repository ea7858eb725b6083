"""Room for so many at once."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def place_of(places: threading.Semaphore, *, full: Exception) -> Iterator[None]:
    """Take a place for a while.

    Raises:
        Exception: `full`, where all are taken.
    """
    if not places.acquire(blocking=False):
        raise full
    try:
        yield
    finally:
        places.release()
