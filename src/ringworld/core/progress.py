"""What a long job shows: a bar and its numbers on a terminal, plain lines anywhere else."""

import itertools
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Literal, TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress
from rich.table import Table
from rich.text import Text

_SECONDS_BETWEEN_LINES = 10.0
_LEVELS = "▁▂▃▄▅▆▇█"
_CURVE_COLUMNS = 60
_NUMBERS_IN_A_LINE = 3
_LETTERS, _WHOLE = {1e15: "P", 1e12: "T", 1e9: "G", 1e6: "M"}, 1e3


class Progress:
    """Counts steps of one job, with the values that matter beside them and the time left.

    Example of a plain line: `train 4k: 120/400 steps, 6 s left, loss 3.21, tokens per second 5,120`. On a
    terminal a bar has the same, and below it stand the curve, where there is one, and all else that `update`
    is given:

        train 4k ━━━━━━━━━━━━━━╸━━━━━━━━━━━━━━━━━━ 120/400 0:00:06 loss 3.21, tokens per second 5,120
        loss  5.549 ██▇▆▅▄▃▃▂▂▂▁▁▁▁▁ 3.21
        gradient norm   0.8123   learning rate   0.0003   ring efficiency   0.97
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
        values: Sequence[str] = (),
        curve: Sequence[float] = (),
    ) -> None:
        """Start at `done` of `total` units, on stderr by default; one that is not shown writes nothing.

        Args:
            title: of the job.
            total: number of units.
            unit: what they are called.
            done: those that are done already.
            stream: where to write.
            shown: whether anything is written.
            values: names of those that stand beside the bar and in plain lines; by default all.
            curve: what the first of `values` was before.
        """
        self._shown = shown == "yes"
        self._title, self._total, self._unit = title, total, unit
        self._stream = stream or sys.stderr
        self._started, self._began_at, self._last_line = time.monotonic(), done, time.monotonic()
        self._values, self._curve = values, list(curve)
        self._line, self._others = "", dict[str, float]()
        self._live: Live | None = None
        if self._shown and self._stream.isatty():
            self._bar = RichProgress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[values]}"),
            )
            self._task = self._bar.add_task(title, total=total, completed=done, values="")
            self._live = Live(console=Console(file=self._stream), get_renderable=self._view)

    def __enter__(self) -> "Progress":
        """Show the bar."""
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Leave the bar as it stands, also after an error."""
        if self._live:
            self._live.stop()

    def begin(self, title: str, *, total: int, done: int = 0) -> None:
        """Begin another part of the job at `done` of `total` units, with its own rate and time left."""
        self._title, self._total = title, total
        self._started, self._began_at, self._line = time.monotonic(), done, ""
        if self._live:
            self._bar.reset(self._task, description=title, total=total, completed=done, values="")

    def per_second(self, done: int) -> float:
        """Return how many units were finished a second since the start, or the last `begin`."""
        return (done - self._began_at) / max(1e-9, time.monotonic() - self._started)

    def update(self, done: int, *, total: int | None = None, **values: float) -> None:
        """Show that `done` units are finished, with values such as `loss=3.2` beside them.

        Without values, those of the last time stay. `total` replaces the number of units where it was not
        known at the start.
        """
        self._total = total or self._total
        if values:
            self.show(values)
        if self._live:
            self._bar.update(self._task, completed=done, total=self._total, values=self._line)
            return
        now = time.monotonic()
        if not self._shown or (now - self._last_line < _SECONDS_BETWEEN_LINES and done < self._total):
            return
        self._last_line = now
        rate = (now - self._started) / max(1, done - self._began_at)
        left = f"{rate * (self._total - done):.0f} s left"
        line = ", ".join(part for part in (f"{done}/{self._total} {self._unit}", left, self._line) if part)
        print(f"{self._title}: {line}", file=self._stream, flush=True)

    def show(self, values: Mapping[str, float]) -> None:
        """Take new values, which the next `update` shows."""
        beside = {name: values[name] for name in self._values or values if name in values}
        self._line = ", ".join(f"{_words(name)} {_number(value)}" for name, value in beside.items())
        self._others = {name: value for name, value in values.items() if name not in beside}
        if self._values and self._values[0] in beside:
            self._curve.append(beside[self._values[0]])

    def _view(self) -> RenderableType:
        """Return what stands on a terminal: bar, curve, numbers."""
        parts: list[RenderableType] = [self._bar]
        if len(self._curve) > 1:
            line = curve(self._curve, columns=_CURVE_COLUMNS)
            name = _words(self._values[0])
            parts.append(Text(f"{name}  {_number(self._curve[0])} {line} {_number(self._curve[-1])}"))
        if self._others:
            numbers = Table.grid(padding=(0, 3))
            cells = [(_words(name), _number(value)) for name, value in self._others.items()]
            for start in range(0, len(cells), _NUMBERS_IN_A_LINE):
                numbers.add_row(*itertools.chain(*cells[start : start + _NUMBERS_IN_A_LINE]))
            parts.append(numbers)
        return Group(*parts)


def curve(values: Sequence[float], *, columns: int) -> str:
    """Return values as a line of so many blocks at most, each the mean of its share, from least to most.

    Example:
        `curve([5, 3, 2, 1, 1, 1], columns=3)` is `█▂▁`.
    """
    count = min(columns, len(values))
    edges = [len(values) * column // count for column in range(count + 1)]
    means = [sum(values[a:b]) / (b - a) for a, b in zip(edges, edges[1:])]
    least, most = min(means), max(means)
    highest = len(_LEVELS) - 1
    return "".join(_LEVELS[round(highest * (mean - least) / ((most - least) or 1))] for mean in means)


def _number(value: float) -> str:
    """Return four digits of a number: 0.0003, 3.21, 12,345, 3.41M."""
    for power, letter in _LETTERS.items():
        if abs(value) >= power:
            return f"{value / power:.4g}{letter}"
    return f"{value:,.0f}" if abs(value) >= _WHOLE else f"{value:.4g}"


def _words(name: str) -> str:
    return name.replace("_", " ")
