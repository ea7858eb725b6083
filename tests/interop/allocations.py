"""What a reader of hostile files may take."""

import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def allocating_at_most(size_bytes: int) -> Iterator[None]:
    """Check what Python and NumPy allocate, whether or not the system had given it."""
    tracemalloc.start()
    try:
        yield
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes <= size_bytes
