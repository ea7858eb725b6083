"""Files read by several processes. One that ends the process that reads it, or holds it up, is given up."""

import multiprocessing
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Generic, TypeVar

from ringworld.data.sources import Files, Source

OnFile = Callable[[Source], None]
Result = TypeVar("Result")
Work = Callable[[int, Files, OnFile], Result]
"""What is done with the files of a group, given its index; it calls `OnFile` before it reads each, and again
as a sign of life while it does, and reads none that is `unread`."""
SILENT_SECONDS = 600.0
"""A file without a sign of life for so long, as a frame, a sample or a batch of words, is given up."""
_BETWEEN_SIGNS_SECONDS = 1.0
_INTERRUPTED, _ALONE = 128 + signal.SIGINT, 1
"""Exit codes of a process that is interrupted, and of one whose parent is gone."""
_STOPPED = (_INTERRUPTED, *(-number for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)))
"""Exit codes of a process that somebody stopped: no file is at fault."""


def read_in_processes(
    groups: Sequence[Files],
    work: Work[Result],
    *,
    workers: int,
    on_file: OnFile = lambda source: None,
    on_unread: OnFile = lambda source: None,
    silent_seconds: float = SILENT_SECONDS,
) -> Iterator[tuple[int, Files, Result]]:
    """Yield the index of each group, its files, and what came of them, in the order in which they are done.

    A file that ends the process that reads it, or gives no sign of life for too long, is marked as `unread`,
    and its group is begun again.

    Args:
        groups: files that are read one after the other.
        work: a function that can be pickled; each process gets a copy.
        workers: processes, one at least.
        on_file: called with a file that begins to be read, and with each sign of life of it.
        on_unread: called with each file that is marked.
        silent_seconds: how long a file may take from one sign of life to the next.

    Raises:
        RuntimeError: a process was stopped, or ended before it read a file.
        Exception: what `work` raises.
    """
    waiting = list(enumerate(groups))[::-1]
    pool = [_Worker(work) for _ in range(min(workers, len(groups)))]
    try:
        for worker in pool:
            worker.begin(*waiting.pop())
        while busy := [worker for worker in pool if worker.files]:
            ready = wait([worker.connection for worker in busy], timeout=_BETWEEN_SIGNS_SECONDS)
            for worker in busy:
                if worker.connection not in ready:
                    worker.end_if_silent(silent_seconds)
            for connection in ready:
                worker = next(one for one in busy if one.connection is connection)
                try:
                    kind, value = worker.connection.recv()
                except (EOFError, ConnectionResetError):
                    files, unread = worker.files_after_its_end()
                    on_unread(unread)
                    pool[pool.index(worker)] = again = _Worker(work)
                    again.begin(worker.index, files)
                    continue
                if kind == "file":
                    on_file(worker.reads(value))
                elif kind == "error":
                    raise value
                else:
                    done = (worker.index, worker.files, value)
                    worker.files = ()
                    if waiting:
                        worker.begin(*waiting.pop())
                    yield done
    finally:
        for worker in pool:
            worker.end()


class _Worker(Generic[Result]):
    """A process with a pipe of its own: where the other end is gone, either side ends."""

    def __init__(self, work: Work[Result]) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process: BaseProcess = context.Process(target=_serve, args=(work, theirs), daemon=True)
        self.process.start()
        theirs.close()
        self.index, self.files = 0, Files()
        """What it is at; no files where it waits."""
        self._reads: int | None = None
        self._heard = time.monotonic()
        self._silent = 0.0
        """Seconds for which it was waited for in vain, once it is given up."""

    def begin(self, index: int, files: Files) -> None:
        self.index, self.files, self._reads = index, files, None
        self.connection.send((index, files))

    def reads(self, number: int) -> Source:
        """Take note of a sign of life of one of its files."""
        self._heard, self._reads = time.monotonic(), number
        return self.files[number]

    def end_if_silent(self, seconds: float) -> None:
        """End the process where the file that it reads gave no sign of life for so long."""
        if self._reads is not None and time.monotonic() - self._heard > seconds:
            self._silent = seconds
            self.process.kill()

    def files_after_its_end(self) -> tuple[Files, Source]:
        """Return the files of a process that ended, with a mark on that which it read then, and this one."""
        self.process.join()
        code = self.process.exitcode
        if self._reads is None or code in _STOPPED:
            # Each imports the script of its parent, where it prepares data again if nothing keeps it from it.
            early = 'before it read a file; a script prepares data below `if __name__ == "__main__":`'
            when = early if self._reads is None else "since it was stopped"
            raise RuntimeError(f"a process that prepares data ended with code {code} {when}")
        at, files = self._reads, self.files
        reason = f"{files[at].named} ended the process that read it (exit code {code})"
        if self._silent:
            reason = f"{files[at].named} was given up: nothing came of it for {self._silent:.0f} s"
        unread = replace(files[at], unread=reason)
        return (*files[:at], unread, *files[at + 1 :]), unread

    def end(self) -> None:
        self.connection.close()
        self.process.terminate()
        self.process.join()


def _serve(work: Work[Any], connection: Connection) -> None:
    try:
        while True:
            index, files = connection.recv()
            connection.send(_result(work, index, files, connection))
    except KeyboardInterrupt:
        sys.exit(_INTERRUPTED)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        sys.exit(_ALONE)


def _result(work: Work[Any], index: int, files: Files, connection: Connection) -> tuple[str, Any]:
    numbers = {id(source): number for number, source in enumerate(files)}
    told, told_at = -1, 0.0

    def tell(source: Source) -> None:
        nonlocal told, told_at
        number, now = numbers[id(source)], time.monotonic()
        if number != told or now - told_at >= _BETWEEN_SIGNS_SECONDS:
            told, told_at = number, now
            try:
                connection.send(("file", number))
            except OSError:
                sys.exit(_ALONE)  # through whatever quarantines errors of files: this is none

    try:
        return "done", work(index, files, tell)
    except Exception as error:
        return "error", error
