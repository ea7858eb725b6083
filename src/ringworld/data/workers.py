"""Files read by several processes. One that ends the process that reads it is quarantined."""

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Generic, TypeVar

from ringworld.data.sources import Source

Files = tuple[Source, ...]
OnFile = Callable[[Source], None]
Result = TypeVar("Result")
Work = Callable[[int, Files, OnFile], Result]
"""What is done with the files of a group, given its index; it calls `OnFile` before it reads each, and reads
none that is `unread`."""


def read_in_processes(
    groups: Sequence[Files], work: Work[Result], *, workers: int, on_file: OnFile = lambda source: None
) -> Iterator[tuple[int, Files, Result]]:
    """Yield the index of each group, its files, and what came of them, in the order in which they are done.

    A file that ends the process that reads it is marked as `unread`, and its group is begun again.

    Args:
        groups: files that are read one after the other.
        work: a function that can be pickled; each process gets a copy.
        workers: processes, one at least.
        on_file: called before each file is read.

    Raises:
        Exception: what `work` raises.
    """
    waiting = list(enumerate(groups))[::-1]
    pool = [_Worker(work) for _ in range(min(workers, len(groups)))]
    try:
        for worker in pool:
            worker.begin(*waiting.pop())
        while busy := [worker for worker in pool if worker.files]:
            for connection in wait([worker.connection for worker in busy]):
                worker = next(one for one in busy if one.connection is connection)
                try:
                    kind, value = worker.connection.recv()
                except (EOFError, ConnectionResetError):
                    pool[pool.index(worker)] = again = _Worker(work)
                    again.begin(worker.index, worker.files_after_its_end())
                    continue
                if kind == "file":
                    on_file(worker.reads_next(value))
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

    def begin(self, index: int, files: Files) -> None:
        self.index, self.files, self._reads = index, files, None
        self.connection.send((index, files))

    def reads_next(self, number: int) -> Source:
        """Take note of which of its files it reads."""
        self._reads = number
        return self.files[number]

    def files_after_its_end(self) -> Files:
        """Return the files of a process that ended, with a mark on the one that it read then."""
        self.process.join()
        code = self.process.exitcode
        if self._reads is None:
            raise RuntimeError(f"a process that prepares data ended with code {code} before it read a file")
        at, files = self._reads, self.files
        reason = f"{files[at].path} ended the process that read it (exit code {code})"
        return (*files[:at], replace(files[at], unread=reason), *files[at + 1 :])

    def end(self) -> None:
        self.connection.close()
        self.process.terminate()
        self.process.join()


def _serve(work: Work[Any], connection: Connection) -> None:
    with suppress(EOFError, BrokenPipeError, KeyboardInterrupt):  # the parent is gone, or will tell
        while True:
            index, files = connection.recv()
            connection.send(_result(work, index, files, connection))


def _result(work: Work[Any], index: int, files: Files, connection: Connection) -> tuple[str, Any]:
    numbers = {id(source): number for number, source in enumerate(files)}
    try:
        return "done", work(index, files, lambda source: connection.send(("file", numbers[id(source)])))
    except (BrokenPipeError, KeyboardInterrupt):
        raise
    except Exception as error:
        return "error", error
