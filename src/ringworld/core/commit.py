"""When a checkpoint of which several processes write parts may get its name."""

import sys
import threading

from ringworld.core.processes import is_alone


class FailedElsewhere(RuntimeError):
    """Another process failed, and says why itself."""


class Commit:
    """A barrier to Orbax's threads: each waits until its own process says that all parts are there.

    A barrier among threads would keep those of the others waiting where one failed. So no thread waits for
    another process: the main threads tell each other how many parts are written, as `StopVote` does.
    """

    def __init__(self) -> None:
        """Begin in the main thread, which waits for nothing here."""
        self._main = threading.get_ident()
        self._changed = threading.Condition()
        self._begun, self._written, self._allowed, self._ended = 0, 0, 0, False

    @property
    def written(self) -> int:
        """How many checkpoints this process has written its part of."""
        return self._written

    def begin(self) -> None:
        """Expect that a part is written."""
        self._begun += 1

    def __call__(self, *, key: str, timeout_ms: int) -> None:
        """Return where the checkpoint may get its name; a thread calls this when its part is written.

        Raises:
            FailedElsewhere: it may not, since another process failed.
            TimeoutError: nobody said so in time.
        """
        if is_alone() or threading.get_ident() == self._main:
            return
        with self._changed:
            if sys.exc_info()[1] is not None:
                self.give_up()
            elif self._written < self._begun:
                self._written += 1
                self._changed.notify_all()
                told = self._changed.wait_for(
                    lambda: self._allowed >= self._written or self._ended, timeout_ms / 1000
                )
                if not told:
                    raise TimeoutError(f"the other processes did not come to {key}")
                if self._allowed < self._written:
                    raise FailedElsewhere(f"another process failed before {key}")

    def part_is_written(self) -> bool:
        """Wait for the part of this process, and return whether it could be written."""
        with self._changed:
            self._changed.wait_for(lambda: self._written == self._begun or self._ended)
            return not self._ended

    def allow(self, count: int) -> None:
        """Let the first so many checkpoints have their names, of which all parts are written."""
        with self._changed:
            self._allowed = max(self._allowed, count)
            self._changed.notify_all()

    def give_up(self) -> None:
        """Let nothing have a name any more, and no thread wait."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()
