"""One file of the user's, and what reads it."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ringworld.data.config import PrepareConfig, Split
from ringworld.data.quarantine import Quarantined
from ringworld.data.samples import Sample
from ringworld.data.sidecars import Sidecar

HELD_OUT_FOLDER = "held_out"


@dataclass(frozen=True, kw_only=True, slots=True)
class Span:
    """Records of a file that follow each other and can be read without those before."""

    start: int
    """Where they begin: a byte of lines and tars, a row group of Parquet."""
    before: int
    """Records that stand before them."""
    records: int
    """How many they are."""


class Reader(ABC):
    """One format of files: what samples a file of it holds."""

    name: str
    """What reports call such a file."""
    version: int = 1
    """Rises when what it yields changes, so that its files are read anew."""
    holds: Literal["one", "many"]
    """Whether a file is one sample (of a text perhaps its end besides) or many."""
    shows: Literal["text", "pictures", "either"]
    """What may be in its samples."""

    @abstractmethod
    def read(
        self, source: "Source", *, config: PrepareConfig, quarantined: list[Quarantined]
    ) -> Iterator[Sample]:
        """Yield the samples of a file; what of it cannot be used is appended to `quarantined`.

        The files of a sample's clips are there until the next sample is asked for. Of a file of many, each
        has the split that `ringworld.data.splits.split_of` gives for its content.

        Raises:
            InputError: nothing of the file can be used.
        """

    def spans(self, source: "Source", *, most_bytes: int) -> Iterator[Span]:
        """Yield spans of about so many bytes that hold all records of a file, in order, as they are found.

        They follow from the file alone, and what `read` yields of them, each by itself, is what it yields of
        the file. By default, as of a file of one sample, there are none, and the file is read as a whole.

        Raises:
            InputError: the file is damaged, or its parts cannot be read by themselves.
        """
        yield from ()

    def check(self, source: "Source", *, config: PrepareConfig) -> None:
        """Find out at little cost whether a file can be read; by default its first sample decides.

        Raises:
            InputError: it cannot.
        """
        next(self.read(source, config=config, quarantined=[]), None)


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """One file to learn from."""

    path: Path
    relative: str
    """Path below the folder that was named, with `/`."""
    reader: Reader
    dataset: str = ""
    """What a mixture calls the folder that was named: its own name."""
    split: Split = "train"
    samples: Literal["drawn", "as the file"] = "drawn"
    """Whether each of many is held out or not by its own content, where the file is not held out."""
    settled: tuple[tuple[str, Split], ...] = ()
    """Contents whose splits are not drawn, so that each has a file; see `ringworld.data.splits`."""
    sidecars: tuple[Path, ...] = ()
    """Files beside it that say something about it; see `ringworld.data.sidecars`."""
    said: Sidecar | None = None
    """What a manifest says of it, in place of sidecars."""
    left_out: frozenset[str] = frozenset()
    """Keys of its samples that another file holds as well; see `ringworld.data.duplicates`."""
    unread: str = ""
    """Why it is not read any more: it ended the process that read it, or held it up."""
    span: Span | None = None
    """The part of a large file that is meant; None is all of it. See `ringworld.data.division`."""

    @property
    def named(self) -> str:
        """What messages call it: its path, and which part of it is meant."""
        return f"{self.path}, from record {self.span.before + 1}" if self.span else str(self.path)


Files = tuple[Source, ...]


def version_of(path: Path) -> tuple[int, int] | None:
    """Return the size of a file and when it changed; None where it is gone, which shows when it is read."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_size, stat.st_mtime_ns
