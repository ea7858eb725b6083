"""Results as the report shows them: a row for each cell, a column for each evaluation."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ringworld.core.results import Evaluation, Result

Modality = Literal["text", "vision"]
NEEDLES, HELD_OUT, FOUND = "needles", "held_out", "needles_found"


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One cell of one task over all evaluations."""

    metric: str
    cell: dict[str, Any]
    columns: list[Result | None]
    """One for each evaluation; None where it has no such cell."""

    @property
    def count(self) -> int:
        """What a value is a mean over, in the first evaluation that has the cell."""
        return next((one.count for one in self.columns if one is not None), 0)


def rows(evaluations: Sequence[Evaluation], *, task: str) -> list[Row]:
    """Set equal cells of a task side by side, in the order in which they first appear."""
    found: dict[tuple[Any, ...], Row] = {}
    for index, evaluation in enumerate(evaluations):
        for one in evaluation.results:
            if one.task == task:
                key = (one.metric, *sorted(one.cell.items()))
                empty = Row(metric=one.metric, cell=one.cell, columns=[None for _ in evaluations])
                found.setdefault(key, empty).columns[index] = one
    return list(found.values())


def losses(evaluations: Sequence[Evaluation], *, by: Literal["kind", "start"] | None) -> list[Row]:
    """Return the held-out losses of all examples together, or `by` kind or position."""
    names = {"context_tokens", *({"kind"} if by == "kind" else {"start", "stop"} if by else ())}
    return [
        row
        for row in rows(evaluations, task=HELD_OUT)
        if row.metric.endswith("_loss") and row.cell.keys() == names
    ]


def in_short(evaluation: Evaluation) -> dict[str, float]:
    """Return what an evaluation comes to: the loss of each modality, and the share of needles that was found.

    Example:
        `{"held_out_text_loss": 2.5, "needles_found": 0.75}`
    """
    short = {
        f"{HELD_OUT}_{row.metric}": result.value
        for row in losses([evaluation], by=None)
        for result in row.columns
        if result is not None and result.value is not None
    }
    share = found(one for one in evaluation.results if one.task == NEEDLES)
    return short if share is None else short | {FOUND: share}


def needle_maps(evaluation: Evaluation) -> dict[tuple[int, int], list[Result]]:
    """Return the cells of each needle grid, by the needles hidden and asked for."""
    grids: dict[tuple[int, int], list[Result]] = {}
    for one in evaluation.results:
        if one.task == NEEDLES:
            grids.setdefault((int(one.cell["needles"]), int(one.cell["asked"])), []).append(one)
    return grids


def found(cells: Iterable[Result]) -> float | None:
    """Return the share of all needles of a grid that was found; None where none was asked for."""
    measured = [(one.value, one.count) for one in cells if one.value is not None]
    asked = sum(count for _, count in measured)
    return sum(value * count for value, count in measured) / asked if asked else None
