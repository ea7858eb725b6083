"""Where rows of metrics go besides `metrics.jsonl`: TensorBoard or Weights & Biases, by optional packages.

Neither can end a run, and nothing is read back from them: `metrics.jsonl` is what a run resumes by.
"""

import importlib
import math
import os
import secrets
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Literal

from ringworld.core.errors import InputError
from ringworld.core.files import write_text_atomic

TrackerName = Literal["none", "tensorboard", "wandb"]
_PACKAGES: Final = {"tensorboard": "tensorboardX", "wandb": "wandb"}
_SECONDS_BETWEEN_FLUSHES = 10
_PROJECT = "ringworld"
_Log = Callable[[int, Mapping[str, float]], object]


class Tracker:
    """Gets the rows of a run until it fails, since it is only looked at."""

    def __init__(
        self, name: str = "none", *, log: _Log | None = None, close: Callable[[], object] | None = None
    ) -> None:
        """Keep what writes numbers at a step and what ends it; without them nothing happens."""
        self._name, self._log, self._close = name, log, close

    def log(self, row: Mapping[str, Any]) -> None:
        """Write the numbers of a row at its `step`, those of a part as `part/name`; all else is left out."""
        numbers = dict(_numbers(row))
        with self._given_up_if_it_fails():
            if self._log is not None:
                self._log(row["step"], numbers)

    def close(self) -> None:
        """Let it write what it holds back."""
        with self._given_up_if_it_fails():
            if self._close is not None:
                self._close()

    @contextmanager
    def _given_up_if_it_fails(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # of a package that is not ours
            _report(self._name, error)
            self._log = self._close = None


def check_tracker(name: TrackerName) -> None:
    """Refuse a tracker whose package is missing, before anything is computed.

    Raises:
        InputError: it is not installed, or does not import.
    """
    if name == "none":
        return
    try:
        importlib.import_module(_PACKAGES[name])
    except ImportError as error:
        raise InputError(
            f"training.tracker is {name}, which needs the package {_PACKAGES[name]} ({error})",
            field="training.tracker",
            value=name,
            remedy=f"pip install 'ringworld[{name}]'",
        ) from error


@contextmanager
def tracking(name: TrackerName, *, folder: Path, after_step: int, configuration: Any) -> Iterator[Tracker]:
    """Open a tracker, and close it in the end; one that cannot be opened is given up.

    Args:
        name: which.
        folder: of the run, in which TensorBoard's events are under `tensorboard/`, and those of Weights &
            Biases under `wandb/`, until `wandb sync` sends them; `$WANDB_MODE=online` sends them at once.
        after_step: the step that the run resumes after; TensorBoard hides later ones of an earlier call.
        configuration: JSON that Weights & Biases shows beside the run.
    """
    tracker = Tracker()
    try:
        if name == "tensorboard":
            tracker = _tensorboard(folder, after_step=after_step)
        elif name == "wandb":
            tracker = _wandb(folder, configuration=configuration)
    except Exception as error:  # such as of a server that does not answer
        _report(name, error)
    try:
        yield tracker
    finally:
        tracker.close()


def _tensorboard(folder: Path, *, after_step: int) -> Tracker:
    writer = importlib.import_module(_PACKAGES["tensorboard"]).SummaryWriter(
        logdir=str(folder / "tensorboard"),
        purge_step=after_step + 1,
        flush_secs=_SECONDS_BETWEEN_FLUSHES,
    )

    def log(step: int, numbers: Mapping[str, float]) -> None:
        for name, value in numbers.items():
            writer.add_scalar(name, value, step)

    return Tracker("tensorboard", log=log, close=writer.close)


def _wandb(folder: Path, *, configuration: Any) -> Tracker:
    wandb = importlib.import_module(_PACKAGES["wandb"])
    id_file = folder / "wandb" / "id.txt"
    if not id_file.exists():
        write_text_atomic(id_file, secrets.token_hex(8))
    run = wandb.init(
        project=_PROJECT,
        name=folder.resolve().name,
        id=id_file.read_text(),
        resume="allow",
        dir=str(folder),
        mode=os.environ.get("WANDB_MODE", "offline"),
        config=configuration,
        settings=wandb.Settings(silent=True, console="off"),
    )
    # Steps of its own never fall, but those of a run that resumes do.
    run.define_metric("*", step_metric="step")
    return Tracker("wandb", log=lambda step, numbers: run.log({**numbers, "step": step}), close=run.finish)


def _report(name: str, error: Exception) -> None:
    line = f"{name} failed ({error}) and gets nothing more; metrics.jsonl has every row"
    print(line, file=sys.stderr, flush=True)


def _numbers(row: Mapping[str, Any], *, of: str = "") -> Iterator[tuple[str, float]]:
    for name, value in row.items():
        if isinstance(value, Mapping):
            yield from _numbers(value, of=f"{of}{name}/")
        elif _is_number(value):
            yield f"{of}{name}", float(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
