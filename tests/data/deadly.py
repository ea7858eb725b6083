"""Files that end or hold up the process that reads them, as a defect of a decoder does; without jax."""

import os
import time
from collections.abc import Iterator

from ringworld.data.config import PrepareConfig
from ringworld.data.quarantine import Quarantined
from ringworld.data.samples import Sample
from ringworld.data.sources import Files, Reader, Source, Span
from ringworld.data.workers import OnFile

CODE = 9


class Deadly(Reader):
    """Ends the process."""

    name, holds, shows = "deadly", "one", "text"

    def read(
        self, source: Source, *, config: PrepareConfig, quarantined: list[Quarantined]
    ) -> Iterator[Sample]:
        os._exit(CODE)


class DeadlyPart(Reader):
    """Of three records, each of which is a part of a large file, the second ends the process."""

    name, holds, shows = "deadly part", "many", "text"

    def spans(self, source: Source, *, most_bytes: int) -> Iterator[Span]:
        yield from (Span(start=at, before=at, records=1) for at in range(3))

    def read(
        self, source: Source, *, config: PrepareConfig, quarantined: list[Quarantined]
    ) -> Iterator[Sample]:
        at = source.span.start if source.span else 0
        if at == 1:
            os._exit(CODE)
        yield Sample(key=f"{source.relative}#{at + 1}", split="train", text=f"The old man walks {at} times.")


def name_slowly(index: int, files: Files, on_file: OnFile) -> list[str]:
    """Return the names of files that are read; `slow` gives signs of life, `hung` none."""
    read: list[str] = []
    for source in files:
        on_file(source)
        if source.unread:
            continue
        for _ in range(20):
            if source.relative == "hung":
                time.sleep(60)
            if source.relative == "slow":
                time.sleep(0.1)
                on_file(source)
        read.append(source.relative)
    return read
