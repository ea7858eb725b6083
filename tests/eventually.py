"""Wait for what another thread does."""

import time
from collections.abc import Callable


def eventually(holds: Callable[[], object]) -> None:
    """Return once something holds, which it has to within half a minute."""
    until = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.01)
