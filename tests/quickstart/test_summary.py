"""What the report says of a stage does not depend on how often its rows were written."""

from typing import Any

import pytest

from ringworld.quickstart.summary import stage_metrics
from tests.training.tiny_run import stage

STAGE = stage(steps=4, warmup_steps=0)
LEFT_OUT = {"video": 1}


def row(*, steps: int, tokens: int, seconds: float, efficiency: float, **others: Any) -> dict[str, Any]:
    row = {
        "stage": "short",
        "steps": steps,
        "tokens": tokens,
        "examples": 2 * steps,
        "seconds": seconds,
        "model_flops_per_second": 10.0 * tokens / seconds,
        "ring_efficiency": efficiency,
    }
    return row | others


EVERY = [
    row(steps=1, tokens=100, seconds=4.0, efficiency=1.0),
    row(steps=1, tokens=120, seconds=0.5, efficiency=0.5),
    row(steps=1, tokens=128, seconds=1.0, efficiency=0.75),
    row(steps=1, tokens=36, seconds=0.5, efficiency=0.25),
]
OTHER = row(steps=9, tokens=1, seconds=9.0, efficiency=0.0, stage="long")


@pytest.mark.parametrize(
    "rows",
    [
        EVERY,
        [row(steps=3, tokens=348, seconds=5.5, efficiency=0.75), EVERY[3]],
        [row(steps=4, tokens=384, seconds=6.0, efficiency=0.625)],
    ],
)
def test_a_stage_adds_up_whatever_the_steps_between_two_rows(rows):
    made = stage_metrics(STAGE, [*rows, OTHER], left_out=LEFT_OUT)
    assert (made.steps, made.tokens, made.examples, made.seconds) == (4, 384, 8, 6.0)
    assert made.fill == 384 / (4 * 4 * 32)
    assert made.ring_efficiency == pytest.approx(0.625)
    assert made.model_flops_per_second == pytest.approx(3840 / 6)
    assert made.left_out == LEFT_OUT
