"""A state that is a number: each step adds the step's own number to it."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from functools import partial
from math import inf, nan
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from ringworld.core.checkpoint import Checkpoints
from ringworld.core.errors import Diverged, InputError, Stopped
from ringworld.core.files import append_jsonl, read_jsonl
from ringworld.core.steps import (
    CHECKPOINTS_FOLDER,
    METRICS_FILE,
    Batch,
    Interval,
    RunFiles,
    check_rows,
    run_steps,
)
from tests.core.full_disk import room_in_a_file

LAST = 10


def add(state: jax.Array, step: int) -> tuple[jax.Array, jax.Array]:
    return state + step, state


def run(
    out: Path,
    *,
    update: Callable[[jax.Array, int], tuple[jax.Array, Any]] = add,
    value: Callable[[Any], float] = float,
    initial: Any = 0,
    log_every: int = 3,
    checkpoint_every: int = 4,
    **options: Any,
) -> float:
    """Run what is left of ten steps, the batches of which count 2 tokens each."""
    initial = jnp.asarray(initial, jnp.int32)

    def batches(done: int) -> Iterator[Batch[int]]:
        for step in range(done + 1, LAST + 1):
            yield Batch(inputs=step, counts=(2, 0.5), loader_state={"drawn": step})

    with closing(Checkpoints(out / CHECKPOINTS_FOLDER)) as checkpoints:
        files = RunFiles(
            folder=out,
            checkpoints=checkpoints,
            log_every_steps=log_every,
            checkpoint_every_steps=checkpoint_every,
            check=check_rows,
        )
        start = files.resume(initial, begin=lambda: initial)
        assert (start.loader_state or {}).get("drawn", 0) == start.step
        state = run_steps(
            start,
            batches(start.step),
            last=LAST,
            files=files,
            update=update,
            row=lambda output, interval: {"value": value(output), "counts": interval.counts},
            title="numbers",
            total=LAST,
            shown=("value",),
            **options,
        )
    return int(state)


def rows(out: Path) -> list[dict[str, Any]]:
    return [
        {name: value for name, value in row.items() if name != "seconds"}
        for row in read_jsonl(out / METRICS_FILE)
    ]


ROWS = [
    {"step": 3, "steps": 3, "value": 3.0, "counts": [6, 1.5]},
    {"step": 6, "steps": 3, "value": 15.0, "counts": [6, 1.5]},
    {"step": 9, "steps": 3, "value": 36.0, "counts": [6, 1.5]},
    {"step": 10, "steps": 1, "value": 45.0, "counts": [2, 0.5]},
]


def saved(out: Path) -> list[str]:
    return sorted((path.name for path in (out / CHECKPOINTS_FOLDER).glob("*[0-9]")), key=int)


def test_rows_and_checkpoints_come_where_they_are_due_and_at_the_end(tmp_path: Path):
    assert run(tmp_path) == 55
    assert rows(tmp_path) == ROWS
    assert all(row["seconds"] > 0 for row in read_jsonl(tmp_path / METRICS_FILE))
    assert saved(tmp_path) == ["8", "10"]
    assert run(tmp_path) == 55
    assert rows(tmp_path) == ROWS


def test_outputs_are_read_only_where_a_row_or_a_checkpoint_is_due(tmp_path: Path):
    read = []

    def value(output: int) -> float:
        read.append(output)
        return float(output)

    run(tmp_path, update=lambda state, step: (state + step, step), value=value)
    assert read == [3, 4, 6, 8, 9, 10]


def test_what_is_measured_within_is_in_the_row_of_its_step_and_not_at_the_end(tmp_path: Path):
    measured = []

    def measure(state: jax.Array, step: int) -> dict[str, float]:
        measured.append(step)
        return {"measured": float(state)}

    run(tmp_path, measure=measure, measure_every_steps=5, log_every=4)
    assert measured == [5]
    assert [(row["step"], row.get("measured")) for row in rows(tmp_path)] == [
        (4, None),
        (5, 15.0),
        (8, None),
        (10, None),
    ]


@pytest.mark.parametrize("killed_at", [1, 4, 5, 7, 10])
def test_a_killed_run_ends_with_the_rows_of_one_that_was_not(tmp_path: Path, killed_at: int):
    def killed(state: jax.Array, step: int) -> tuple[jax.Array, jax.Array]:
        if step == killed_at:
            raise RuntimeError("killed")
        return add(state, step)

    with pytest.raises(RuntimeError, match="killed"):
        run(tmp_path, update=killed)
    assert run(tmp_path) == 55
    assert rows(tmp_path) == ROWS


def test_a_full_disk_ends_the_run_which_resumes_from_the_checkpoint_before(tmp_path: Path):
    """It is found by the steps that follow the one that was to be saved."""
    initial = jax.random.randint(jax.random.key(0), (2**16,), 0, 2**16)

    def full(state: jax.Array, step: int) -> tuple[jax.Array, jax.Array]:
        if step == 6:
            while not (tmp_path / CHECKPOINTS_FOLDER / "4").exists():
                time.sleep(0.01)
            stack.enter_context(room_in_a_file(2**14))
        return state + step, state

    with ExitStack() as stack, pytest.raises(InputError) as refusal:
        run(tmp_path, update=full, value=lambda state: float(state[0]), initial=initial, checkpoint_every=2)
    assert refusal.value.path == tmp_path / CHECKPOINTS_FOLDER / "6"
    assert saved(tmp_path)[-1] == "4"


def test_the_time_before_a_checkpoint_counts_in_the_next_row(tmp_path: Path):
    interval = {"steps": 2, "seconds": 1e6, "counts": [4, 1.0]}
    with closing(Checkpoints(tmp_path / CHECKPOINTS_FOLDER)) as checkpoints:
        checkpoints.save(2, jnp.int32(3), {"loader_state": {"drawn": 2}, "interval": interval})
    run(tmp_path)
    assert rows(tmp_path) == ROWS
    assert [row["seconds"] > 1e6 for row in read_jsonl(tmp_path / METRICS_FILE)] == [True] + 3 * [False]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("at_step", [2, 6, 8])
def test_a_signal_stops_after_its_step_which_is_saved(tmp_path: Path, number: signal.Signals, at_step: int):
    handler = signal.getsignal(number)

    def interrupted(state: jax.Array, step: int) -> tuple[jax.Array, jax.Array]:
        if step == at_step:
            os.kill(os.getpid(), number)
        return add(state, step)

    with pytest.raises(Stopped) as end:
        run(tmp_path, update=interrupted)
    assert end.value.number == number
    assert saved(tmp_path)[-1] == str(at_step)
    assert signal.getsignal(number) == handler
    assert run(tmp_path) == 55
    assert rows(tmp_path) == ROWS


def test_a_second_signal_acts_at_once(tmp_path: Path):
    def impatient(state: jax.Array, step: int) -> tuple[jax.Array, jax.Array]:
        if step == 2:
            held = signal.getsignal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
            while signal.getsignal(signal.SIGINT) == held:
                time.sleep(0.01)
            signal.raise_signal(signal.SIGINT)
        return add(state, step)

    with pytest.raises(KeyboardInterrupt) as end:
        run(tmp_path, update=impatient)
    assert not isinstance(end.value, Stopped)
    assert saved(tmp_path) == []


@pytest.mark.parametrize("found", [nan, inf])
def test_a_number_that_is_not_finite_reaches_no_file(tmp_path: Path, found: float):
    """At step 4 only a checkpoint is due."""
    with pytest.raises(Diverged) as end:
        run(
            tmp_path,
            update=lambda state, step: (state + step, step),
            value=lambda step: found if step == 4 else 0.0,
        )
    assert (end.value.name, end.value.step) == ("value", 4)
    assert [row["step"] for row in rows(tmp_path)] == [3]
    assert saved(tmp_path) == []


def test_rows_before_the_newest_checkpoint_are_checked_and_those_beyond_it_cut(tmp_path: Path):
    run(tmp_path)
    append_jsonl(tmp_path / METRICS_FILE, {"step": 11})
    assert run(tmp_path) == 55
    assert rows(tmp_path) == ROWS
    (tmp_path / METRICS_FILE).unlink()
    with pytest.raises(InputError) as refusal:
        run(tmp_path)
    assert refusal.value.path == tmp_path / METRICS_FILE


def test_a_checkpoint_of_another_version_is_named(tmp_path: Path):
    with closing(Checkpoints(tmp_path / CHECKPOINTS_FOLDER)) as checkpoints:
        checkpoints.save(4, jnp.int32(0), {"seconds": 3.0})
    with pytest.raises(InputError) as refusal:
        run(tmp_path)
    assert refusal.value.path == tmp_path / CHECKPOINTS_FOLDER / "4"


def rows_of(*steps: tuple[int, int], **others: Any) -> list[dict[str, Any]]:
    """Return rows that end with a step and hold so many."""
    return [{"step": step, "steps": held, "seconds": 0.5} | others for step, held in steps]


check = partial(check_rows, where=Path("metrics.jsonl"))
WHOLE = ((3, 3), (4, 1), (6, 2))


def test_rows_that_cover_each_step_once_are_accepted():
    check(rows_of(*WHOLE), logged_steps=6)
    check(rows_of(*((step, 1) for step in range(1, 7))), logged_steps=6)
    check(rows_of(*WHOLE[:1]), logged_steps=3)
    check([], logged_steps=0)


@pytest.mark.parametrize(
    "rows",
    [
        [],
        rows_of(*WHOLE[:2]),
        rows_of(*WHOLE[:2], *WHOLE[1:]),
        rows_of(WHOLE[0], WHOLE[2]),
        rows_of(*WHOLE, (7, 1)),
        rows_of((0, 0), *WHOLE),
        rows_of(*WHOLE, seconds=0.0),
        rows_of(*WHOLE, seconds="many"),
        [{"step": 6, "steps": 6}],
    ],
    ids=["none", "end", "double", "gap", "too many", "empty", "no time", "text", "no seconds"],
)
def test_rows_that_are_not_as_they_were_written_are_refused(rows: list[dict[str, Any]]):
    with pytest.raises(InputError) as refusal:
        check(rows, logged_steps=6)
    assert refusal.value.path == Path("metrics.jsonl")


def test_intervals_add_up_what_batches_count():
    assert Interval().plus((10, 0.5)).plus((20, 0.25)) == Interval(steps=2, counts=(30, 0.75))


def test_devices_that_are_done_before_the_next_batch_is_there_wait_for_it(tmp_path: Path):
    computed: list[jax.Array] = []

    def update(state: jax.Array, step: int) -> tuple[jax.Array, jax.Array]:
        computed.append(state + step)
        return state + step, computed[-1]

    def batches() -> Iterator[Batch[int]]:
        for step in range(1, 4):
            jax.block_until_ready(computed)
            yield Batch(inputs=step)

    waited: list[float] = []

    def row(output: jax.Array, interval: Interval) -> dict[str, Any]:
        waited.append(interval.data_wait_seconds)
        return {}

    with closing(Checkpoints(tmp_path / CHECKPOINTS_FOLDER)) as checkpoints:
        files = RunFiles(
            folder=tmp_path,
            checkpoints=checkpoints,
            log_every_steps=1,
            checkpoint_every_steps=9,
            check=check_rows,
        )
        run_steps(
            files.resume(jnp.int32(0), begin=lambda: jnp.int32(0)),
            batches(),
            last=3,
            files=files,
            update=update,
            row=row,
            title="numbers",
            total=3,
            shown=(),
        )
    assert [seconds > 0 for seconds in waited] == [True, True, False]  # none follows the last step
