"""One row of `metrics.jsonl`: what a step did, and how fast."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from ringworld.attention.config import Layout
from ringworld.attention.layouts import ring_efficiency
from ringworld.core.errors import InputError
from ringworld.data.batch import PackedBatch
from ringworld.training.step import StepOutput

METRICS_FILE = "metrics.jsonl"
TIMED = ("seconds", "tokens_per_second")
"""The only values that two runs of one configuration do not share."""


class BatchCounts(NamedTuple):
    """What a packed batch holds."""

    tokens: int
    """Without padding."""
    examples: int
    """Or pieces of longer ones."""
    ring_efficiency: float
    """Mean over rows of `layouts.ring_efficiency`; a row of padding alone counts as 1."""


def metrics_row(
    output: StepOutput, *, step: int, stage: str, counts: BatchCounts, seconds: float
) -> dict[str, Any]:
    """Return the row of one step; a modality without targets has the loss None.

    Raises:
        InputError: the loss or the gradient is not a finite number.
    """
    loss = output.loss
    row = {
        "step": step,
        "stage": stage,
        "loss": float(loss.loss),
        "text_loss": float(loss.text_loss) if int(loss.text_targets) else None,
        "vision_loss": float(loss.vision_loss) if int(loss.vision_targets) else None,
        "gradient_norm": float(output.gradient_norm),
        "learning_rate": float(output.learning_rate),
        "tokens": counts.tokens,
        "examples": counts.examples,
        "seconds": seconds,
        "tokens_per_second": counts.tokens / seconds,
        "ring_efficiency": counts.ring_efficiency,
    }
    _check_finite(row)
    return row


def count(batch: PackedBatch[np.ndarray], layout: Layout, *, members: int) -> BatchCounts:
    """Count what a batch holds.

    Args:
        batch: packed, in the order of the sequence, before any layout.
        layout: which tokens lie on which member.
        members: size of the ring.
    """
    lengths = [
        np.unique(first[order >= 0], return_counts=True)[1] for order, first in zip(batch.order, batch.first)
    ]
    seq = batch.order.shape[1]
    efficiencies = [
        1.0
        if members == 1 or not row.size
        else ring_efficiency(row.tolist(), layout, members=members, seq=seq)
        for row in lengths
    ]
    return BatchCounts(
        tokens=int(sum(row.sum() for row in lengths)),
        examples=sum(row.size for row in lengths),
        ring_efficiency=float(np.mean(efficiencies)),
    )


def _check_finite(row: Mapping[str, Any]) -> None:
    for name in ("loss", "gradient_norm"):
        if not math.isfinite(row[name]):
            raise InputError(
                what=f"{name} at step {row['step']} of stage {row['stage']}",
                got=str(row[name]),
                expected="a finite number",
                remedy="Lower the learning rate or lengthen the warm-up, and train in a new folder.",
            )
