from dataclasses import replace
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import pytest

from ringworld.attention.layouts import place
from ringworld.core.errors import InputError
from ringworld.core.steps import Interval
from ringworld.data.batch import DrawnCounts
from ringworld.model.arrange import PlacedBatch
from ringworld.training.guard import Guard
from ringworld.training.loss import POSITION_STARTS, LossOutput
from ringworld.training.metrics import BatchCounts, check_rows, count, metrics_row
from ringworld.training.step import StepOutput
from tests.training.tiny_run import MODEL, stage, training


def row_of(
    *, vision_targets: int, loss: float = 1.5, peak_flops_per_second: float | None = None
) -> dict[str, Any]:
    losses = LossOutput(
        loss=jnp.float32(loss),
        text_loss=jnp.float32(1.5),
        vision_loss=jnp.float32(0),
        text_targets=jnp.int32(3),
        vision_targets=jnp.int32(vision_targets),
        tokens=jnp.int32(12),
        position_losses=jnp.zeros((2, len(POSITION_STARTS))).at[0, :3].set(jnp.array([loss, 0, 2])),
        position_targets=jnp.zeros((2, len(POSITION_STARTS)), jnp.int32).at[0, :3].set(jnp.array([1, 0, 2])),
    )
    output = StepOutput(
        loss=losses,
        gradient_norm=jnp.float32(2),
        learning_rate=jnp.float32(0.5),
        step=jnp.int32(7),
        guard=replace(Guard.new(), skipped=jnp.int32(3)),
    )
    counts = BatchCounts(tokens=4, examples=1, pairs=8, ring_efficiency=0.5)
    others = BatchCounts(tokens=6, examples=2, pairs=12, ring_efficiency=1.0)
    # Of two names, one example each and then two of the first; of their tokens 4, 0 and 1, 5.
    interval = Interval().plus((*counts, 1, 1, 4, 0)).plus((*others, 2, 0, 1, 5))
    interval = interval._replace(seconds=0.5, data_wait_seconds=0.125)
    names = ("text", "in/chat")
    return metrics_row(
        output,
        stage="4k",
        interval=interval,
        architecture=MODEL,
        names=names,
        peak_flops_per_second=peak_flops_per_second,
    )


def test_a_row_holds_the_losses_of_a_step_and_the_sums_of_its_interval():
    assert row_of(vision_targets=0) == {
        "stage": "4k",
        "loss": 1.5,
        "text_loss": 1.5,
        "vision_loss": None,
        "text_loss_by_position": {"0": 1.5, "1024": 2.0},
        "vision_loss_by_position": {},
        "gradient_norm": 2.0,
        "learning_rate": 0.5,
        "loss_tokens": 3,
        "loss_token_share": 0.25,
        "skipped_steps": 3,
        "tokens": 10,
        "examples": 3,
        "data_wait_seconds": 0.125,
        "tokens_per_second": 20.0,
        # Forward and backward are 3 times forward, in half a second. Each of 2 layers has 2 x 16 x 16 weights
        # for queries and output, 2 x 16 x 8 for keys and values, 3 x 16 x 32 for the rest; the head 16 x 32.
        "model_flops_per_second": 6.0 * (10 * 2 * (2 * 2304 + 512) + 20 * 4 * 2 * 16),
        "mfu": None,
        "ring_efficiency": 0.75,
        "drawn_examples": {"text": 0.75, "in/chat": 0.25},
        "drawn_tokens": {"text": 0.5, "in/chat": 0.5},
    }
    assert row_of(vision_targets=4)["vision_loss"] == 0
    known = row_of(vision_targets=0, peak_flops_per_second=1e7)
    assert known["mfu"] == known["model_flops_per_second"] / 1e7


def test_a_loss_that_is_not_finite_is_none():
    without = {"loss": None, "text_loss_by_position": {"1024": 2.0}}
    assert row_of(vision_targets=0, loss=float("nan")) == row_of(vision_targets=0) | without


def rows_of(*steps: tuple[int, int], names: str = "aaaabb") -> list[dict[str, Any]]:
    """Return rows that end with a step and hold so many."""
    return [
        row_of(vision_targets=0) | {"step": step, "steps": held, "seconds": 0.5, "stage": names[step - 1]}
        for step, held in steps
    ]


STAGES = training(stages=(stage("a", steps=4, warmup_steps=0), stage("b", steps=2, warmup_steps=0)))
WHOLE = ((3, 3), (4, 1), (6, 2))


def check(rows: list[dict[str, Any]]) -> None:
    check_rows(rows, STAGES, logged_steps=6, where=Path("metrics.jsonl"))


def test_rows_that_name_the_stages_of_their_steps_are_accepted():
    check(rows_of(*WHOLE))


@pytest.mark.parametrize(
    "rows",
    [
        rows_of(*WHOLE[:2]),
        rows_of((3, 3), (6, 3)),
        rows_of(*WHOLE, names="aaaaac"),
        [row | {"stage": ["a"]} for row in rows_of(*WHOLE)],
        [row | {"tokens": "many"} for row in rows_of(*WHOLE)],
        [{name: value for name, value in row.items() if name != "examples"} for row in rows_of(*WHOLE)],
    ],
    ids=["missing", "two stages in one row", "another stage", "no name", "no number", "no examples"],
)
def test_rows_of_another_run_are_refused(rows: list[dict[str, Any]]):
    with pytest.raises(InputError) as refusal:
        check(rows)
    assert refusal.value.path == Path("metrics.jsonl")


def test_the_pieces_of_a_batch_are_counted_together():
    # One example of 4 tokens, contiguous over 2 members: 10 of 2 x (3 + 4) pairs. Two of 2: all of 2 x 3.
    pieces = [
        PlacedBatch(arrays=(), lengths=[row], placements=[place("contiguous", seq=4, members=2, lengths=row)])
        for row in ([4], [2, 2], [])
    ]
    drawn = {"text": DrawnCounts(examples=1, tokens=4), "chat": DrawnCounts(examples=2, tokens=4)}
    *whole, a, b, c, d = count(pieces, drawn=drawn)
    counts = BatchCounts(*whole)
    assert (a, b, c, d) == (1, 2, 4, 4)
    assert (counts.tokens, counts.examples, counts.pairs) == (8, 3, 10 + 3 + 3)
    assert counts.ring_efficiency == pytest.approx((10 / 14 + 1 + 1) / 3)
