"""One row of `metrics.jsonl`: what the updates since the last row did, and how fast."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ringworld.attention.efficiency import ring_work
from ringworld.attention.layouts import Placement
from ringworld.attention.work import efficiency_of, visible_pairs
from ringworld.core.errors import InputError
from ringworld.model.config import ModelConfig
from ringworld.model.flops import training_flops
from ringworld.training.step import StepOutput

METRICS_FILE = "metrics.jsonl"
TIMED = ("seconds", "tokens_per_second", "model_flops_per_second")
"""The only values that two runs of one configuration do not share."""


class BatchCounts(NamedTuple):
    """What a packed batch holds."""

    tokens: int
    """Without padding."""
    examples: int
    """Or pieces of longer ones."""
    pairs: int
    """Of a query and a key that it sees."""
    ring_efficiency: float
    """Mean over rows of `efficiency.ring_efficiency`; a row of padding alone counts as 1."""


class Interval(NamedTuple):
    """What the updates since the last row of metrics took, so that rows that are far apart still add up."""

    steps: int = 0
    tokens: int = 0
    examples: int = 0
    pairs: int = 0
    ring_efficiency: float = 0.0
    """Mean over the steps."""
    seconds: float = 0.0

    def plus(self, counts: BatchCounts, *, seconds: float) -> "Interval":
        """Return the interval with one update more."""
        steps = self.steps + 1
        return Interval(
            steps=steps,
            tokens=self.tokens + counts.tokens,
            examples=self.examples + counts.examples,
            pairs=self.pairs + counts.pairs,
            ring_efficiency=self.ring_efficiency + (counts.ring_efficiency - self.ring_efficiency) / steps,
            seconds=self.seconds + seconds,
        )


def metrics_row(
    output: StepOutput, *, step: int, stage: str, interval: Interval, model: ModelConfig
) -> dict[str, Any]:
    """Return the row of a step.

    Losses, gradient norm and learning rate are those of the step itself, and a modality without targets has
    the loss None. All else is summed over the interval that ends with it; rates are over its time.
    `model_flops_per_second` counts what the tokens need that are no padding, and nothing that is computed
    again.

    Raises:
        InputError: the loss or the gradient is not a finite number.
    """
    loss = output.loss
    flops = training_flops(model, tokens=interval.tokens, pairs=interval.pairs)
    row = {
        "step": step,
        "stage": stage,
        "loss": float(loss.loss),
        "text_loss": float(loss.text_loss) if int(loss.text_targets) else None,
        "vision_loss": float(loss.vision_loss) if int(loss.vision_targets) else None,
        "gradient_norm": float(output.gradient_norm),
        "learning_rate": float(output.learning_rate),
        "steps": interval.steps,
        "tokens": interval.tokens,
        "examples": interval.examples,
        "seconds": interval.seconds,
        "tokens_per_second": interval.tokens / interval.seconds,
        "model_flops_per_second": flops / interval.seconds,
        "ring_efficiency": interval.ring_efficiency,
    }
    _check_finite(row)
    return row


def count(lengths: Sequence[Sequence[int]], placements: Sequence[Placement]) -> BatchCounts:
    """Count what a batch holds, and how evenly its rows are laid out.

    Args:
        lengths: of each row, the tokens of its examples.
        placements: of each row, where its tokens live.
    """
    examples = [length for row in lengths for length in row]
    efficiencies = [
        efficiency_of(ring_work(row, placement), row) if row else 1.0
        for row, placement in zip(lengths, placements)
    ]
    return BatchCounts(
        tokens=sum(examples),
        examples=len(examples),
        pairs=visible_pairs(examples),
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
