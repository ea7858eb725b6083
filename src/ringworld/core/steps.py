"""The step loop of every training: rows of metrics, checkpoints, and a stop between two steps.

After a kill at any moment `RunFiles.resume` restores the newest checkpoint and cuts the rows beyond it, and
`run_steps` writes equal ones again.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from operator import add
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import jax

from ringworld.core.checkpoint import Checkpoints, Restored
from ringworld.core.errors import Diverged, InputError, Stopped
from ringworld.core.files import append_jsonl, keep_jsonl, read_jsonl, reading, sync
from ringworld.core.processes import by_writer, is_writer
from ringworld.core.progress import Progress
from ringworld.core.stop import StopRequest
from ringworld.core.stop_vote import StopVote
from ringworld.core.tracker import Tracker

METRICS_FILE, CHECKPOINTS_FOLDER = "metrics.jsonl", "checkpoints"
State = TypeVar("State")
Inputs = TypeVar("Inputs")
Output = TypeVar("Output")


class Interval(NamedTuple):
    """What the updates since the last row of metrics took, so that rows that are far apart still add up."""

    steps: int = 0
    seconds: float = 0.0
    """Between synchronizations with the devices; those of an update appear with the next one."""
    counts: tuple[Any, ...] = ()
    """Sums of what the batches count."""
    data_wait_seconds: float = 0.0
    """Of `seconds`, those in which the devices had nothing to do but to wait for a batch, at most."""

    def plus(self, counts: tuple[Any, ...]) -> "Interval":
        """Return the interval with one more update."""
        sums = tuple(map(add, self.counts, counts)) if self.counts else counts
        return self._replace(steps=self.steps + 1, counts=sums)

    def waited(self, seconds: float) -> "Interval":
        """Return the interval with more time in which devices waited for a batch."""
        return self._replace(data_wait_seconds=self.data_wait_seconds + seconds)


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch(Generic[Inputs]):
    """What one update takes, ready for the devices while they still compute the one before."""

    inputs: Inputs
    counts: tuple[Any, ...] = ()
    """What it holds, such as tokens; summed over the interval of a row."""
    loader_state: Mapping[str, Any] | None = None
    """JSON of the loader after this batch and no other, so that a resumed run draws the next one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Resumed(Generic[State]):
    """Where a run is."""

    step: int
    """Updates done."""
    state: State
    loader_state: Mapping[str, Any] | None = None
    """After the batch of that step."""
    interval: Interval = Interval()
    """Since the last row."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunFiles:
    """Rows of metrics and checkpoints in the folder of one run; they agree with each other after any kill."""

    folder: Path
    checkpoints: Checkpoints
    log_every_steps: int
    checkpoint_every_steps: int
    check: Callable[..., None]
    """`check_rows`, or what calls it with the same arguments."""
    tracker: Tracker = field(default_factory=Tracker)
    """What else gets the rows."""

    @property
    def metrics(self) -> Path:
        """Return the file of the rows."""
        return self.folder / METRICS_FILE

    def log(self, values: dict[str, Any]) -> None:
        """Add a row; of several processes one does."""
        if is_writer():
            append_jsonl(self.metrics, values)
            self.tracker.log(values)

    def column(self, name: str) -> list[float]:
        """Return what the rows so far say by a name, where it is a number."""
        found = [row.get(name) for row in read_jsonl(self.metrics)]
        return [one for one in found if isinstance(one, (int, float)) and math.isfinite(one)]

    def sync(self) -> None:
        """Wait until the rows are on the disk: a checkpoint never outlives those before it."""
        if is_writer():
            sync(self.metrics)

    def resume(self, abstract: Any, *, begin: Callable[[], State]) -> Resumed[State]:
        """Restore the newest checkpoint that is whole, or begin; rows beyond it are cut.

        Args:
            abstract: like the state, with shapes, dtypes and shardings.
            begin: returns the state to begin with, where there is no checkpoint.

        Raises:
            InputError: every checkpoint is damaged, or the rows up to it are not those that were written.
        """
        resumed = self.checkpoints.restore(abstract, read=self._resumed) or Resumed(step=0, state=begin())

        def cut() -> None:
            keep_jsonl(self.metrics, lambda row: row["step"] <= resumed.step)
            logged_steps = resumed.step - resumed.interval.steps
            self.check(read_jsonl(self.metrics), logged_steps=logged_steps, where=self.metrics)

        by_writer(cut)
        return resumed

    def _resumed(self, restored: Restored) -> Resumed[Any]:
        meta, path = restored.meta, self.checkpoints.directory / str(restored.step)
        with reading(path, expected="a checkpoint of this version", damage=(KeyError, TypeError)):
            interval = Interval(**meta["interval"] | {"counts": tuple(meta["interval"]["counts"])})
            loader_state = meta["loader_state"]
        return Resumed(step=restored.step, state=restored.tree, loader_state=loader_state, interval=interval)


def run_steps(
    start: Resumed[State],
    batches: Iterator[Batch[Inputs]],
    *,
    last: int,
    files: RunFiles,
    update: Callable[[State, Inputs], tuple[State, Output]],
    row: Callable[[Output, Interval], dict[str, Any]],
    title: str,
    total: int,
    shown: Sequence[str],
    measure: Callable[[State, int], Mapping[str, float]] = lambda state, step: {},
    measure_every_steps: int = 0,
) -> State:
    """Run the steps after `start` up to `last`, whose state is on disk when this returns.

    The host waits for the devices where a row or a checkpoint is due, or something is measured, and otherwise
    only for the step before the last, so that no more than two steps are queued when a signal asks to stop.
    Of several processes, each of which runs every step, one writes the rows, and all of them stop after the
    same step, also where one fails to read a batch or to write; see `StopVote`.

    Args:
        start: the state, and what was not yet logged of it.
        batches: those of the steps that are left.
        last: the last step, always logged and saved.
        files: where rows and checkpoints go, and how often.
        update: dispatches one step; it may take over the memory of the state.
        row: returns what a row holds beside `step`, `steps` and `seconds`.
        title: what the run is called.
        total: the step that the progress bar ends with.
        shown: names of values of a row that stand beside the bar, the first of which a terminal draws; all
            others stand below.
        measure: returns, of the state after a step, what the row of that step holds besides.
        measure_every_steps: how often; 0 is never, nor after the last step or where a signal stops the run.

    Raises:
        Diverged: a value of a row is NaN or infinite; neither row nor checkpoint is written.
        InputError: there was no room on the disk, or what `batches` raised, in any of the processes.
        Stopped: on SIGINT or SIGTERM, after the step was finished and saved.
    """
    state, interval = start.state, start.interval
    if start.step == last:
        return state
    batch, output, values, vote = next(batches), None, {}, StopVote()
    shows = "yes" if is_writer() else "no"
    progress = Progress(
        title,
        total=total,
        unit="steps",
        done=start.step,
        shown=shows,
        values=shown,
        curve=files.column(shown[0]) if shown and is_writer() else (),
    )
    with StopRequest() as stop, progress:
        mark = time.perf_counter()
        for step in range(start.step + 1, last + 1):
            before = output
            state, output = update(state, batch.inputs)
            interval = interval.plus(batch.counts)
            following = batch
            if step < last:
                # The devices compute while the host prepares what they need next.
                asked_at = time.perf_counter()
                with vote.held():
                    following = next(batches)
                if _is_computed(output):
                    interval = interval.waited(time.perf_counter() - asked_at)
            jax.block_until_ready(before)
            with vote.held():
                files.checkpoints.check()
            asked = vote.agreed(
                stop.signal, last=step == last, behind=(state, output), written=files.checkpoints.written
            )
            files.checkpoints.allow(vote.written)
            measures = measure_every_steps and step % measure_every_steps == 0 and step < last and not asked
            logs = measures or step == last or step % files.log_every_steps == 0
            saves = step == last or bool(asked) or step % files.checkpoint_every_steps == 0
            if logs or saves:
                jax.block_until_ready((state, output))
                interval = interval._replace(seconds=interval.seconds + time.perf_counter() - mark)
                values = {"step": step, "steps": interval.steps, "seconds": interval.seconds}
                values |= row(output, interval)
                if measures:
                    values |= measure(state, step)
                _refuse_infinite(values, step=step, of=title)
                if logs:
                    with vote.held():
                        files.log(values)
                    interval = Interval()
                if saves:
                    with vote.held():
                        files.sync()
                    vote.settle()
                    beside = {"loader_state": batch.loader_state, "interval": interval._asdict()}
                    files.checkpoints.save(step, state, beside)
                if asked or step == last:
                    files.checkpoints.wait()
                if asked:
                    message = f"{asked.name} after step {step}, saved: the same command resumes there"
                    raise Stopped(message, number=asked)
                mark = time.perf_counter()
                progress.show(_numbers(values))
            progress.update(step)
            batch = following
    return state


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """Return what is shown of a row."""
    return {
        name: value
        for name, value in values.items()
        if isinstance(value, (int, float)) and name not in ("step", "steps")
    }


def _is_computed(output: Any) -> bool:
    arrays: list[Any] = [leaf for leaf in jax.tree.leaves(output) if isinstance(leaf, jax.Array)]
    return all(array.is_ready() for array in arrays)


def check_rows(
    rows: Sequence[Mapping[str, Any]],
    *,
    logged_steps: int,
    where: Path,
    stage_of: Callable[[int], str] | None = None,
    numbers: Sequence[str] = (),
) -> None:
    """Check that the rows of a run cover its steps up to `logged_steps` once each, in order.

    Example:
        Of stages of 4 and 2 steps, logged every 3 steps, the rows end with steps 3, 4 and 6. They cover
        1 to 3, 4, and 5 to 6.

    Args:
        rows: as `run_steps` writes them.
        logged_steps: the last step that has a row.
        where: the file of the rows.
        stage_of: returns the stage of a step, where rows name theirs.
        numbers: names of values that every row must hold.

    Raises:
        InputError: rows are missing, doubled, of another stage, or lack what is written.
    """

    def refuse(problem: str) -> InputError:
        remedy = "put the file back as it was written, or delete its folder and train again"
        return InputError(f"{where} {problem}", path=where, remedy=remedy)

    done = 0
    for row in rows:
        for name in ("step", "steps", "seconds", *numbers):
            if not isinstance(row.get(name), (int, float)):
                raise refuse(f"has no number {name} in the row after step {done}")
        step, since = row["step"], row["step"] - row["steps"] + 1
        if since != done + 1 or not since <= step <= logged_steps:
            raise refuse(
                f"holds a row of steps {since} to {step} after step {done}, of {logged_steps} in all"
            )
        if stage_of and [row.get("stage")] * 2 != [stage_of(since), stage_of(step)]:
            raise refuse(f"holds a row of steps {since} to {step} with the stage {row.get('stage')!r}")
        if row["seconds"] <= 0:
            raise refuse(f"has no time in the row of step {step}")
        done = step
    if done != logged_steps:
        raise refuse(f"has no row of steps {done + 1} to {logged_steps}")


def _refuse_infinite(values: Mapping[str, Any], *, step: int, of: str) -> None:
    for name, value in values.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise Diverged(name, value=value, step=step, of=of)
