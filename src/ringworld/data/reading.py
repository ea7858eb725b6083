"""By whom the user's files are read: this process, or others, which a file may end."""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Literal

from ringworld.core.ranges import check_number
from ringworld.data.progress import FileCount, OnProgress, Phase
from ringworld.data.sources import Files, version_of
from ringworld.data.unread import UnreadFiles
from ringworld.data.workers import Result, Work, read_in_processes

_BYTES_A_WORKER = 16 * 2**20
"""A worker takes seconds to start, in which another reads so much."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """Which processes read files, which files are not read any more, and to whom progress is told."""

    workers: int | None = 1
    """Processes; with 1, this one reads. With None as many as there are cores, where there is enough to read
    for each."""
    by: Literal["any", "others"] = "any"
    """Whether this process may read, too: what ended a process would end it."""
    unread: UnreadFiles = field(default_factory=UnreadFiles)
    on_progress: OnProgress = lambda done: None

    def __post_init__(self) -> None:
        """Refuse to read with no process at all."""
        if self.workers is not None:
            check_number("workers", self.workers, least=1)

    def of(self, paths: Iterable[Path]) -> "Reading":
        """Return the same with a number of processes, where it hangs on how much there is to read."""
        if self.workers is not None:
            return self
        size = sum(version[0] for version in map(version_of, {*paths}) if version)
        return replace(self, workers=max(1, min(os.cpu_count() or 1, size // _BYTES_A_WORKER)))

    def count(self, phase: Phase, *, total: int, before: int = 0) -> FileCount:
        """Return what counts the files of a phase; see `progress.FileCount`."""
        return FileCount(phase, total=total, before=before, on_progress=self.on_progress)

    def read(
        self, groups: Sequence[Files], work: Work[Result], *, count: FileCount
    ) -> Iterator[tuple[int, Files, Result]]:
        """Yield the index of each group, its files, and what came of them, as they are done.

        Args:
            groups: files that are read one after the other.
            work: what reads them; see `workers.Work`.
            count: is told of each file that is begun, and by the caller of those that are done.

        Raises:
            Exception: what `work` raises.
        """
        groups = [tuple(map(self.unread.marked, group)) for group in groups]
        workers = self.of(source.path for group in groups for source in group).workers
        assert workers is not None
        at_once = max(1, min(workers, len(groups)))
        begins = partial(count.begins, at_once=at_once)
        if workers > 1 or self.by == "others":
            yield from read_in_processes(
                groups, work, workers=at_once, on_file=begins, on_unread=self.unread.add
            )
            return
        for index, files in enumerate(groups):
            yield index, files, work(index, files, begins)
