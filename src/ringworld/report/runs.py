"""Runs beside each other: what each reached, finished or not, in one table and one figure."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from ringworld.core.config import from_json
from ringworld.core.errors import InputError
from ringworld.core.files import read_json, read_jsonl
from ringworld.core.origin import ORIGIN_FILE, Origin, read_origin
from ringworld.core.results import Evaluation
from ringworld.core.tables import aligned
from ringworld.report import grids
from ringworld.report.plots import STYLE, running_mean
from ringworld.report.style import INK, LINES

METRICS, EVALUATIONS = "metrics.jsonl", "evaluation/*/evaluation.json"
_NONE = "-"
_LEVELS = ("", "*/", "*/*/")
"""Where runs are looked for below a folder."""
_STYLES = ("-", "--", ":")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class RunRecord:
    """What a run folder says; None where it says nothing."""

    name: str
    steps: int
    """Updates that have a row."""
    planned_steps: int | None
    stage: str
    """Of the last row."""
    tokens: int
    """Trained on, without padding."""
    seconds: float
    """Of the updates."""
    tokens_per_second: float | None
    """In the last stage."""
    mfu: float | None
    """Likewise, where the peak of the devices is known."""
    loss: float | None
    """Mean over the last tenth of the rows of the last stage, in nats a token."""
    held_out: Mapping[str, float]
    """Loss by modality, of the newest evaluation that measured some."""
    needles: float | None
    """Share found of all that were asked for, of the newest evaluation that asked."""
    skipped_steps: int
    curve: Float[np.ndarray, "_ 2"]
    """Tokens up to a row, and its loss."""
    rate: Float[np.ndarray, "_ 2"]
    """Tokens up to a row, and tokens a second."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class RunsReport:
    """Several runs."""

    runs: tuple[RunRecord, ...]
    problems: tuple[str, ...]
    """What could not be read, a sentence each."""

    def lines(self) -> list[str]:
        """Return a table, and then what could not be read."""
        titles = ("run", "stage", "steps", "tokens", "loss", "held-out text", "held-out vision")
        titles += ("needles", "skipped", "tokens/s", "MFU", "hours")
        rows = [
            (
                one.name,
                one.stage or _NONE,
                f"{one.steps:,}" + (f" of {one.planned_steps:,}" if one.planned_steps is not None else ""),
                f"{one.tokens:,}",
                _shown(one.loss, ".3f"),
                _shown(one.held_out.get("text"), ".3f"),
                _shown(one.held_out.get("vision"), ".3f"),
                _shown(one.needles, ".0%"),
                f"{one.skipped_steps:,}",
                _shown(one.tokens_per_second, ",.0f"),
                _shown(one.mfu, ".0%"),
                f"{one.seconds / 3600:.2f}",
            )
            for one in self.runs
        ]
        return [*aligned([titles, *rows], words=2), *self.problems]

    def figure(self) -> Figure:
        """Draw loss and tokens a second over the tokens trained on, a line for each run."""
        with matplotlib.rc_context(STYLE):
            figure = Figure(figsize=(8.4, 3.4), layout="constrained")
            loss, rate = figure.subplots(1, 2, width_ratios=[1.6, 1])
        for axes, name, label in ((loss, "curve", "training loss (nats)"), (rate, "rate", "tokens a second")):
            for index, one in enumerate(self.runs):
                values = getattr(one, name)
                if len(values):
                    axes.plot(
                        values[:, 0] / 1e6,
                        running_mean(values[:, 1]),
                        color=LINES[1 + index % (len(LINES) - 1)],
                        linestyle=_STYLES[index // (len(LINES) - 1) % len(_STYLES)],
                        linewidth=1.6,
                        label=one.name,
                    )
            axes.set_xlim(left=0)
            axes.set_ylim(0, 1.08 * max(axes.dataLim.ymax, 1e-3) if axes.lines else 1)
            axes.set_xlabel("tokens trained on (millions)")
            axes.set_ylabel(label)
        if loss.lines:
            figure.legend(
                *loss.get_legend_handles_labels(),
                loc="outside upper left",
                frameon=False,
                fontsize=9,
                labelcolor=INK,
                ncols=3,
            )
        return figure


def read_runs(folders: Sequence[Path]) -> RunsReport:
    """Read every run of some folders, however far it is.

    Args:
        folders: run folders, or those that hold some, up to two levels below.
    """
    found: dict[Path, str] = {}
    problems = []
    for folder in folders:
        below = list(_runs_of(folder))
        if not below:
            problems.append(f"{folder} is no run, and holds none")
        for path in below:
            inside = path.relative_to(folder)
            found.setdefault(path.resolve(), str(folder / inside) if len(folders) > 1 else str(inside))
    records = []
    for path, name in found.items():
        record, wrong = _record(path, name=path.name if name == "." else name)
        records.append(record)
        problems += wrong
    return RunsReport(runs=tuple(records), problems=tuple(problems))


def _runs_of(folder: Path) -> Iterator[Path]:
    for level in _LEVELS:
        yield from (path.parent for path in sorted(folder.glob(level + ORIGIN_FILE)) if _origin(path.parent))


def _origin(folder: Path) -> Origin | None:
    try:
        return read_origin(folder, kind="run")
    except (InputError, OSError):
        return None


def _record(folder: Path, *, name: str) -> tuple[RunRecord, list[str]]:
    """Return what a run says, and sentences on what of it cannot be read."""
    problems, rows, evaluations = [], [], []
    try:
        rows = [row for row in read_jsonl(folder / METRICS) if _number(row, "step") is not None]
    except (InputError, OSError) as error:
        problems.append(str(error))
    for path in sorted(folder.glob(EVALUATIONS)):
        try:
            measured = from_json(dict[str, Any], read_json(path), where=path)
            evaluations.append(from_json(Evaluation, measured.get("evaluation"), where=path))
        except (InputError, OSError) as error:
            problems.append(str(error))
    stages = list(dict.fromkeys(str(row.get("stage", "")) for row in rows))
    last = [row for row in rows if str(row.get("stage", "")) == stages[-1]]
    tokens, seconds = (sum(_number(row, key) or 0 for row in last) for key in ("tokens", "seconds"))
    timed = [(_number(row, "mfu"), _number(row, "seconds") or 0.0) for row in last]
    used = [(share * of, of) for share, of in timed if share is not None and of > 0]
    tail = [_number(row, "loss") for row in last[-max(1, len(last) // 10) :]]
    held_out, needles = _measured(evaluations, stages)
    total = np.cumsum([_number(row, "tokens") or 0 for row in rows])
    record = RunRecord(
        name=name,
        steps=int(max((_number(row, "step") or 0 for row in rows), default=0)),
        planned_steps=_planned(folder),
        stage=stages[-1] if stages else "",
        tokens=int(total[-1]) if len(total) else 0,
        seconds=sum((_number(row, "seconds") or 0.0 for row in rows), 0.0),
        tokens_per_second=tokens / seconds if seconds > 0 else None,
        mfu=sum(share for share, _ in used) / sum(of for _, of in used) if used else None,
        loss=_mean(tail),
        held_out=held_out,
        needles=needles,
        skipped_steps=int(max((_number(row, "skipped_steps") or 0 for row in rows), default=0)),
        curve=_points(total, rows, "loss"),
        rate=_points(total, rows, "tokens_per_second"),
    )
    return record, problems


def _measured(
    evaluations: Sequence[Evaluation], stages: Sequence[str]
) -> tuple[dict[str, float], float | None]:
    """Return held-out losses and the share of needles, each of the newest evaluation that has some."""

    def age(evaluation: Evaluation) -> tuple[int, float]:
        stage, when = (evaluation.label.get(name, "") for name in ("stage", "when"))
        number = stages.index(stage) if stage in stages else -1
        step = when.removeprefix("at ")
        return number, float(step) if step.isdecimal() else math.inf if when == "after" else -1

    newest: dict[str, float] = {}
    for one in sorted(evaluations, key=age):
        newest |= grids.in_short(one)
    needles = newest.pop(grids.FOUND, None)
    prefix = f"{grids.HELD_OUT}_"
    losses = {name.removeprefix(prefix).removesuffix("_loss"): value for name, value in newest.items()}
    return losses, needles


def _planned(folder: Path) -> int | None:
    """Return the steps of all stages, as the run was configured."""
    origin = _origin(folder)
    try:
        configured: Any = origin and origin.configuration
        return sum(int(stage["steps"]) for stage in configured["training"]["stages"])
    except (KeyError, TypeError, ValueError):  # of another version, or edited
        return None


def _points(total: np.ndarray, rows: Sequence[Mapping[str, Any]], name: str) -> Float[np.ndarray, "rows 2"]:
    points = [(at, value) for at, row in zip(total, rows) if (value := _number(row, name)) is not None]
    return np.array(points, np.float64).reshape(-1, 2)


def _number(row: Mapping[str, Any], name: str) -> float | None:
    value = row.get(name)
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _shown(value: float | None, form: str) -> str:
    return _NONE if value is None else format(value, form)
