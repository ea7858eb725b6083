"""What other threads leave for the one of an engine."""

import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from ringworld.core.errors import Busy
from ringworld.inference.engine.programs import Programs
from ringworld.inference.engine.scheduler import Scheduler
from ringworld.inference.engine.sequence import LiveSequence

T = TypeVar("T")


class Closed(RuntimeError):
    """The engine was closed before a request was finished, or emptied its cache after an error."""


@dataclass(frozen=True, slots=True)
class Job:
    """What is to be done on the engine's thread, between two rounds."""

    call: Callable[[Scheduler, Programs], Any]
    done: Future[Any] = field(default_factory=Future)

    def run(self, scheduler: Scheduler, programs: Programs) -> None:
        """Do it, unless whoever asked has cancelled it; whoever waits gets the result or the error."""
        if not self.done.set_running_or_notify_cancel():
            return
        try:
            self.done.set_result(self.call(scheduler, programs))
        except Exception as error:
            self.done.set_exception(error)

    def end(self, error: Exception) -> None:
        """Let whoever waits get an error in place of what it would have given."""
        if self.done.set_running_or_notify_cancel():
            self.done.set_exception(error)


class Inbox:
    """Sequences and jobs, until the engine's thread takes them.

    Attributes:
        closed: whether nothing more is accepted.
    """

    def __init__(self, *, max_waiting: int) -> None:
        """Begin with nothing; so many sequences may wait, here and in the scheduler."""
        self.closed = False
        self._max_waiting = max_waiting
        self._sequences: deque[LiveSequence] = deque()
        self._jobs: list[Job] = []
        self._changed = threading.Condition()

    def __len__(self) -> int:
        """Return how many sequences there are."""
        return len(self._sequences)

    def put(self, sequence: LiveSequence, *, others: Callable[[], int]) -> None:
        """Leave a sequence; `others` is how many wait elsewhere.

        Raises:
            Busy: as many wait as may.
            Closed: nothing more is accepted.
        """
        with self._open():
            waiting = len(self._sequences) + others()
            if waiting >= self._max_waiting:
                raise Busy(waiting=waiting)
            self._sequences.append(sequence)
            self._changed.notify()

    def ask(self, call: Callable[[Scheduler, Programs], T]) -> Future[T]:
        """Leave a job, and return what it will give.

        Raises:
            Closed: nothing more is accepted.
        """
        job = Job(call)
        with self._open():
            self._jobs.append(job)
            self._changed.notify()
        return job.done

    def take(self, waiting: deque[LiveSequence], *, wait: bool) -> list[Job]:
        """Put all sequences behind those that are `waiting`, and return all jobs.

        Args:
            waiting: of the scheduler.
            wait: whether to wait until there is something, or the inbox is closed.
        """
        with self._changed:
            while wait and not (self.closed or self._sequences or self._jobs):
                self._changed.wait()
            waiting.extend(self._sequences)
            self._sequences.clear()
            jobs, self._jobs = self._jobs, []
        return jobs

    def close(self) -> None:
        """Accept nothing more."""
        with self._changed:
            self.closed = True
            self._changed.notify()

    @contextmanager
    def _open(self) -> Iterator[None]:
        with self._changed:
            if self.closed:
                raise Closed("the engine is closed")
            yield
