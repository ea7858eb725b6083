"""What a long job shows: a bar on a terminal, plain lines anywhere else."""

import sys
import time
from typing import Literal, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

_SECONDS_BETWEEN_LINES = 10.0


class Progress:
    """Counts steps of one job, with the values that matter beside them and the time left.

    Example of a plain line: `train 4k: 120/400 steps, 6.3 s left, loss 3.21, tokens/s 5120`.
    """

    def __init__(
        self,
        title: str,
        *,
        total: int,
        unit: str,
        done: int = 0,
        stream: TextIO | None = None,
        shown: Literal["yes", "no"] = "yes",
    ) -> None:
        """Start at `done` of `total` units, on stderr by default; one that is not shown writes nothing."""
        self._shown = shown == "yes"
        self._title, self._total, self._unit = title, total, unit
        self._stream = stream or sys.stderr
        self._started, self._began_at, self._last_line = time.monotonic(), done, time.monotonic()
        self._bar: RichProgress | None = None
        if self._shown and self._stream.isatty():
            bar = RichProgress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[values]}"),
                console=Console(file=self._stream),
            )
            self._task = bar.add_task(title, total=total, completed=done, values="")
            self._bar = bar

    def __enter__(self) -> "Progress":
        """Show the bar."""
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Leave the bar as it stands, also after an error."""
        if self._bar:
            self._bar.stop()

    def begin(self, title: str, *, total: int, done: int = 0) -> None:
        """Begin another part of the job at `done` of `total` units, with its own rate and time left."""
        self._title, self._total = title, total
        self._started, self._began_at = time.monotonic(), done
        if self._bar:
            self._bar.reset(self._task, description=title, total=total, completed=done, values="")

    def per_second(self, done: int) -> float:
        """Return how many units were finished a second since the start, or the last `begin`."""
        return (done - self._began_at) / max(1e-9, time.monotonic() - self._started)

    def update(self, done: int, *, total: int | None = None, **values: float) -> None:
        """Show that `done` units are finished, with values such as `loss=3.2` beside them.

        `total` replaces the number of units where it was not known at the start.
        """
        self._total = total or self._total
        shown = ", ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in values.items())
        if self._bar:
            self._bar.update(self._task, completed=done, total=self._total, values=shown)
            return
        now = time.monotonic()
        if not self._shown or (now - self._last_line < _SECONDS_BETWEEN_LINES and done < self._total):
            return
        self._last_line = now
        rate = (now - self._started) / max(1, done - self._began_at)
        left = f"{rate * (self._total - done):.0f} s left"
        line = ", ".join(part for part in (f"{done}/{self._total} {self._unit}", left, shown) if part)
        print(f"{self._title}: {line}", file=self._stream, flush=True)
