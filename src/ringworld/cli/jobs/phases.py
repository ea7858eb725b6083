"""How long the parts of a run take, over all the calls that a run may need."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ringworld.core.files import read_json, write_json_atomic
from ringworld.evaluation.metrics import Phase


class Phases:
    """Times the parts of a run; of a part that an earlier call finished, it keeps the time of that call."""

    def __init__(self, folder: Path) -> None:
        """Keep the times in `folder`, one file a part."""
        self._folder = folder
        self._leaves: dict[str, Path] = {}

    @contextmanager
    def __call__(self, name: str, *, leaves: Path) -> Iterator[None]:
        """Time what is done inside, whose results are in the folder `leaves`."""
        print(f"{name} ...", file=sys.stderr, flush=True)
        started = time.monotonic()
        yield
        self._leaves[name] = leaves
        if not self._file(name).exists():
            write_json_atomic(self._file(name), {"seconds": time.monotonic() - started})

    def done(self) -> tuple[Phase, ...]:
        """Return the parts with their seconds, and the bytes that they left on disk."""
        return tuple(
            Phase(
                name=name,
                seconds=read_json(self._file(name))["seconds"],
                bytes=sum(path.stat().st_size for path in leaves.rglob("*") if path.is_file()),
            )
            for name, leaves in self._leaves.items()
        )

    def _file(self, name: str) -> Path:
        return self._folder / f"{name.replace(' ', '-')}.json"
