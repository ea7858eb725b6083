"""How long the parts of a run take, over all the calls that a run may need."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ringworld.core.config import read_as, to_json
from ringworld.core.files import write_json_atomic
from ringworld.report.schema import Phase


@dataclass(frozen=True, kw_only=True, slots=True)
class _Spent:
    """What one part took so far."""

    seconds: float = 0.0
    """Of the calls that ended, killed ones included."""
    began: float | None = None
    """When the call began that runs now, or was killed: seconds since the epoch."""
    finished: bool = False


class Phases:
    """Times the parts of a run, each summed over all calls up to the one that finished it.

    A call that is killed cannot write its time. It counts from its beginning, which it wrote, up to the
    newest file that it left.
    """

    def __init__(self, folder: Path) -> None:
        """Keep the times in `folder`, one file a part."""
        self._folder = folder
        self._leaves: dict[str, Path] = {}

    @contextmanager
    def __call__(self, name: str, *, leaves: Path) -> Iterator[None]:
        """Time what is done inside, whose results are in the folder `leaves`."""
        print(f"{name} ...", file=sys.stderr, flush=True)
        self._leaves[name] = leaves
        before = self._read(name)
        if before.finished:
            yield
            return
        seconds = before.seconds
        if before.began is not None:
            seconds += max(0.0, _newest(leaves) - before.began)
        self._write(name, _Spent(seconds=seconds, began=time.time()))
        started, finished = time.monotonic(), False
        try:
            yield
            finished = True
        finally:
            self._write(name, _Spent(seconds=seconds + time.monotonic() - started, finished=finished))

    def done(self) -> tuple[Phase, ...]:
        """Return the parts with their seconds, and the bytes that they left on disk."""
        return tuple(
            Phase(
                name=name,
                seconds=self._read(name).seconds,
                bytes=sum(path.stat().st_size for path in leaves.rglob("*") if path.is_file()),
            )
            for name, leaves in self._leaves.items()
        )

    def _read(self, name: str) -> _Spent:
        file = self._file(name)
        return read_as(_Spent, file) if file.exists() else _Spent()

    def _write(self, name: str, spent: _Spent) -> None:
        write_json_atomic(self._file(name), to_json(spent))

    def _file(self, name: str) -> Path:
        return self._folder / f"{name.replace(' ', '-')}.json"


def _newest(folder: Path) -> float:
    """Return when the newest file below a folder was written, in seconds since the epoch; 0 without any."""
    return max((path.stat().st_mtime for path in folder.rglob("*") if path.is_file()), default=0.0)
