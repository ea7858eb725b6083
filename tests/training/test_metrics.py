from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from ringworld.core.errors import InputError
from ringworld.data.batch import PackedBatch
from ringworld.training.loss import LossOutput
from ringworld.training.metrics import BatchCounts, count, metrics_row
from ringworld.training.step import StepOutput


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
    return metrics_row(output, step=7, stage="4k", counts=BatchCounts(10, 3, 0.75), seconds=0.5)


def test_a_row_says_what_a_step_did():
    assert row_of(loss=1.5, vision_targets=0) == {
        "step": 7,
        "stage": "4k",
        "loss": 1.5,
        "text_loss": 1.5,
        "vision_loss": None,
        "gradient_norm": 2.0,
        "learning_rate": 0.5,
        "tokens": 10,
        "examples": 3,
        "seconds": 0.5,
        "tokens_per_second": 20.0,
        "ring_efficiency": 0.75,
    }
    assert row_of(loss=1.5, vision_targets=4)["vision_loss"] == 0


def test_a_loss_that_is_not_a_number_stops_the_run():
    with pytest.raises(InputError, match="loss at step 7 of stage 4k: got nan.*learning rate"):
        row_of(loss=float("nan"), vision_targets=0)


def test_a_batch_is_counted_by_its_own_examples():
    # One example of 4 tokens, contiguous over 2 members: 10 of 2 x (3 + 4) pairs. Two of 2: all of 2 x 3.
    order = np.array([[0, 1, 2, 3], [0, 1, 2, 3], [-1, -1, -1, -1]], np.int32)
    first = np.array([[0, 0, 0, 0], [0, 0, 2, 2], [0, 0, 0, 0]], np.int32)
    zeros = np.zeros((3, 4), np.float32)
    batch = PackedBatch(order, order, order, first, zeros, zeros)
    counts = count(batch, "contiguous", members=2)
    assert (counts.tokens, counts.examples) == (8, 3)
    assert counts.ring_efficiency == pytest.approx((10 / 14 + 1 + 1) / 3)
