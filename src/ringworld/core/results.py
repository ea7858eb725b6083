"""What an evaluation measured, as rows: written by tasks, read by reports, known to neither."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """One number.

    Example:
        `Result(task="needles", metric="found", cell={"needles": 1, "asked": 1, "context_tokens": 4096,
        "depth_percent": 50.0}, value=0.75, count=12)`: 9 of 12 needles were found.
    """

    task: str
    metric: str
    cell: dict[str, int | float | str]
    """Where in the grid of its task it stands; empty for a task of one number."""
    value: float | None
    """None where nothing was measured."""
    count: int
    """What `value` is a mean over: answers, targets."""
    reason: str = ""
    """Why all of the cell, or a part of it, was not measured."""

    @property
    def where(self) -> str:
        """The cell in words: `context_tokens 4096, depth_percent 50.0`."""
        return ", ".join(f"{name} {value}" for name, value in self.cell.items())

    def __str__(self) -> str:
        """Return one line."""
        value = "not measured" if self.value is None else f"{self.value:.6g} ({self.count})"
        where = f" [{self.where}]" if self.cell else ""
        return f"{self.task} {self.metric}{where}: {value}" + (f"; {self.reason}" if self.reason else "")


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """All results of one model."""

    label: dict[str, str]
    """What was measured, in the order in which people say it: `{"when": "after", "stage": "4K"}`."""
    results: tuple[Result, ...]

    def lines(self) -> list[str]:
        """Return the results as lines to read."""
        return [str(result) for result in self.results]

    @property
    def name(self) -> str:
        """The label in words: `after 4K`."""
        return " ".join(self.label.values())
