from pathlib import Path
from typing import Any

import jax.numpy as jnp
import pytest

from ringworld.attention.layouts import place
from ringworld.core.errors import InputError
from ringworld.model.arrange import PlacedRow
from ringworld.training.loss import LossOutput
from ringworld.training.metrics import BatchCounts, Interval, check_rows, count, metrics_row
from ringworld.training.step import StepOutput
from tests.training.tiny_run import MODEL, stage, training


def row_of(*, loss: float, vision_targets: int) -> dict[str, Any]:
    value = jnp.float32(loss)
    losses = LossOutput(
        loss=value,
        text_loss=value,
        vision_loss=jnp.float32(0),
        text_targets=jnp.int32(3),
        vision_targets=jnp.int32(vision_targets),
    )
    output = StepOutput(loss=losses, gradient_norm=jnp.float32(2), learning_rate=jnp.float32(0.5))
    interval = Interval().plus(
        BatchCounts(tokens=10, examples=3, pairs=20, ring_efficiency=0.75), seconds=0.5
    )
    return metrics_row(output, step=7, stage="4k", interval=interval, model=MODEL)


def test_a_row_says_what_a_step_did():
    assert row_of(loss=1.5, vision_targets=0) == {
        "step": 7,
        "stage": "4k",
        "loss": 1.5,
        "text_loss": 1.5,
        "vision_loss": None,
        "gradient_norm": 2.0,
        "learning_rate": 0.5,
        "steps": 1,
        "tokens": 10,
        "examples": 3,
        "seconds": 0.5,
        "tokens_per_second": 20.0,
        # Forward and backward are 3 times forward, in half a second. Each of 2 layers has 2 x 16 x 16 weights
        # for queries and output, 2 x 16 x 8 for keys and values, 3 x 16 x 32 for the rest; the head 16 x 32.
        "model_flops_per_second": 6.0 * (10 * 2 * (2 * 2304 + 512) + 20 * 4 * 2 * 16),
        "ring_efficiency": 0.75,
    }
    assert row_of(loss=1.5, vision_targets=4)["vision_loss"] == 0


def test_an_interval_sums_its_updates_and_averages_their_efficiency():
    whole = Interval()
    for efficiency, seconds in ((1.0, 0.5), (0.5, 1.5), (0.75, 1.0)):
        counts = BatchCounts(tokens=10, examples=3, pairs=20, ring_efficiency=efficiency)
        whole = whole.plus(counts, seconds=seconds)
    assert whole == (3, 30, 9, 60, 0.75, 3.0)


def test_a_loss_that_is_not_a_number_stops_the_run():
    with pytest.raises(InputError, match="loss at step 7 of stage 4k: got nan.*learning rate"):
        row_of(loss=float("nan"), vision_targets=0)


def rows_of(*steps: tuple[int, int], names: str = "aaaabb") -> list[dict[str, Any]]:
    """Return rows that end with a step and hold so many."""
    return [
        row_of(loss=1.0, vision_targets=0) | {"step": step, "steps": held, "stage": names[step - 1]}
        for step, held in steps
    ]


STAGES = training(stages=(stage("a", steps=4, warmup_steps=0), stage("b", steps=2, warmup_steps=0)))
WHOLE = ((3, 3), (4, 1), (6, 2))


def check(rows: list[dict[str, Any]], *, logged_steps: int = 6) -> None:
    check_rows(rows, STAGES, logged_steps=logged_steps, where=Path("metrics.jsonl"))


def test_rows_that_cover_each_step_once_are_taken():
    check(rows_of(*WHOLE))
    check(rows_of(*((step, 1) for step in range(1, 7))))
    check(rows_of(*WHOLE[:1]), logged_steps=3)
    check([], logged_steps=0)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([], "got no row of steps 1 to 6, expected each step from 1 to 6.*Put the file back"),
        (rows_of(*WHOLE[:2]), "no row of steps 5 to 6"),
        (rows_of(*WHOLE[:2], *WHOLE[1:]), "a row of steps 4 to 4 after step 4"),
        (rows_of(WHOLE[0], WHOLE[2]), "a row of steps 5 to 6 after step 3"),
        (rows_of(*WHOLE, (7, 1), names="aaaabbb"), "a row of steps 7 to 7 after step 6"),
        (rows_of((0, 0), *WHOLE), "a row of steps 1 to 0 after step 0"),
        (rows_of((3, 3), (6, 3)), "a row of steps 4 to 6 that names the stage 'b'"),
        (rows_of(*WHOLE, names="aaaaac"), "a row of steps 5 to 6 that names the stage 'c'"),
        ([{"step": 6, "steps": 6, "stage": "a"}], "damaged file .*tokens.*Put the file back"),
        ([rows_of((3, 3))[0] | {"tokens": "many"}], "damaged file"),
        ([rows_of((3, 3))[0] | {"seconds": 0.0}], "no time in the row of step 3"),
    ],
)
def test_rows_that_are_not_as_they_were_written_are_refused(rows, said):
    with pytest.raises(InputError, match=rf"metrics\.jsonl: .*{said}"):
        check(rows)


def test_a_batch_is_counted_by_its_own_examples():
    # One example of 4 tokens, contiguous over 2 members: 10 of 2 x (3 + 4) pairs. Two of 2: all of 2 x 3.
    rows = [
        PlacedRow(lengths=row, placement=place("contiguous", seq=4, members=2, lengths=row))
        for row in ([4], [2, 2], [])
    ]
    counts = count(rows)
    assert (counts.tokens, counts.examples, counts.pairs) == (8, 3, 10 + 3 + 3)
    assert counts.ring_efficiency == pytest.approx((10 / 14 + 1 + 1) / 3)
