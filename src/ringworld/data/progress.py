"""How far preparation is, phase by phase."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ringworld.data.sources import Source, Span

Phase = Literal["finding", "splitting", "dividing", "comparing", "trying", "making"]
"""What is done with the files: videos are told from images, contents are hashed to be held out or not, large
files are divided, words are compared with those of others, files are read without being used where one ended
a process before, and examples are made."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Done:
    """How many files, or parts of large ones, of a phase are done."""

    phase: Phase
    files: int
    total: int
    before: int = 0
    """Of `files`, those that an earlier run did."""
    quarantined: int = 0
    """Files and parts of files, of the shards that this run made."""


OnProgress = Callable[[Done], None]


class FileCount:
    """Counts the files of one phase."""

    def __init__(self, phase: Phase, *, total: int, on_progress: OnProgress, before: int = 0) -> None:
        """Begin where `before` files of `total` are done already."""
        self._phase: Phase = phase
        self._total, self._before, self._on_progress = total, before, on_progress
        self._begun: set[tuple[Path, Span | None]] = set()
        self._done = self._whole = before
        self._quarantined = 0
        self._show(before)

    def begins(self, source: Source, *, at_once: int = 1) -> None:
        """Take note that a file is begun, perhaps again; of those at most `at_once` are not done."""
        if (part := (source.path, source.span)) not in self._begun:
            self._begun.add(part)
            self._show(self._before + len(self._begun) - at_once)

    def ends(self, files: int = 1, *, quarantined: int = 0) -> None:
        """Take note of files that are done, and of what of them is in the quarantine."""
        self._whole += files
        self._quarantined += quarantined
        self._show(self._whole)

    def _show(self, done: int) -> None:
        self._done = max(self._done, done)
        if self._total:
            self._on_progress(
                Done(
                    phase=self._phase,
                    files=self._done,
                    total=self._total,
                    before=self._before,
                    quarantined=self._quarantined,
                )
            )
