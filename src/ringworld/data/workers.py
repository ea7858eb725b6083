"""Shards made by several processes. A file that ends the process that reads it is quarantined."""

import multiprocessing
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from ringworld.core.compilation import keep_compiled_programs
from ringworld.data.making import ExampleMaker
from ringworld.data.shards import Shard, prepare_shard
from ringworld.data.sources import Source

OnFile = Callable[[Source], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardTask:
    """One shard that is to be made."""

    stem: Path
    """Where, without suffix."""
    sources: tuple[Source, ...]
    skipped: Mapping[str, str] = field(default_factory=dict)
    """Why files are not read again, by their names."""


def make_shards(
    tasks: Sequence[ShardTask], maker: ExampleMaker, *, workers: int, on_file: OnFile
) -> Iterator[tuple[ShardTask, Shard]]:
    """Make shards and yield each when it is on disk; their bytes do not depend on the number of workers.

    Args:
        tasks: what is to be made.
        maker: of the examples; each process gets a copy.
        workers: processes; with 1, this one does the work.
        on_file: called before each file is read.

    Raises:
        InputError: the disk is full.
    """
    if workers == 1:
        for task in tasks:
            yield task, prepare_shard(task.stem, task.sources, maker, skipped=task.skipped, on_file=on_file)
        return
    waiting = list(tasks)[::-1]
    pool = [_Worker(maker) for _ in range(min(workers, len(tasks)))]
    try:
        for worker in pool:
            worker.begin(waiting.pop())
        while busy := [worker for worker in pool if worker.task is not None]:
            for connection in wait([worker.connection for worker in busy]):
                worker = next(one for one in busy if one.connection is connection)
                assert worker.task is not None
                try:
                    kind, value = worker.connection.recv()
                except (EOFError, ConnectionResetError):
                    pool[pool.index(worker)] = again = _Worker(maker)
                    again.begin(worker.task_without_its_file())
                    continue
                if kind == "file":
                    on_file(worker.reads_next(value))
                elif kind == "error":
                    raise value
                else:
                    task, worker.task = worker.task, None
                    if waiting:
                        worker.begin(waiting.pop())
                    yield task, value
    finally:
        for worker in pool:
            worker.end()


class _Worker:
    """A process with a pipe of its own: where the other end is gone, either side ends."""

    def __init__(self, maker: ExampleMaker) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process: BaseProcess = context.Process(target=_work, args=(maker, theirs), daemon=True)
        self.process.start()
        theirs.close()
        self.task: ShardTask | None = None
        self.reads: Source | None = None

    def begin(self, task: ShardTask) -> None:
        self.task, self.reads = task, None
        self.connection.send(task)

    def reads_next(self, index: int) -> Source:
        """Take note of which file of its task it reads."""
        assert self.task is not None
        source = self.task.sources[index]
        self.reads = source
        return source

    def task_without_its_file(self) -> ShardTask:
        """Return the task of a process that ended, without the file that it read then."""
        self.process.join()
        assert self.task is not None
        if self.reads is None:
            raise RuntimeError(
                f"a process that prepares data ended with code {self.process.exitcode} before it read a file"
            )
        reason = f"{self.reads.path} ended the process that read it (exit code {self.process.exitcode})"
        return replace(self.task, skipped={**self.task.skipped, self.reads.relative: reason})

    def end(self) -> None:
        self.connection.close()
        self.process.terminate()
        self.process.join()


def _work(maker: ExampleMaker, connection: Connection) -> None:
    keep_compiled_programs()
    with suppress(EOFError, BrokenPipeError, KeyboardInterrupt):  # the parent is gone, or will tell
        while True:
            task: ShardTask = connection.recv()
            connection.send(_result(task, maker, connection))


def _result(task: ShardTask, maker: ExampleMaker, connection: Connection) -> tuple[str, Any]:
    index = {id(source): number for number, source in enumerate(task.sources)}
    try:
        shard = prepare_shard(
            task.stem,
            task.sources,
            maker,
            skipped=task.skipped,
            on_file=lambda source: connection.send(("file", index[id(source)])),
        )
    except (BrokenPipeError, KeyboardInterrupt):
        raise
    except Exception as error:
        return "error", error
    return "shard", shard
