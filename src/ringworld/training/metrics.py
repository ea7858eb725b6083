"""One row of `metrics.jsonl`: what the updates since the last row did, and how fast."""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ringworld.core.errors import InputError
from ringworld.core.files import reading
from ringworld.core.ranges import check_finite
from ringworld.model.arrange import PlacedRow
from ringworld.model.config import ModelConfig
from ringworld.model.flops import training_flops
from ringworld.training.config import TrainingConfig
from ringworld.training.step import StepOutput

METRICS_FILE = "metrics.jsonl"
TIMED = ("seconds", "tokens_per_second", "model_flops_per_second")
"""The only values that two runs of one configuration do not share."""
_SUMMED = ("tokens", "examples", "seconds", "model_flops_per_second", "ring_efficiency")


class BatchCounts(NamedTuple):
    """What a packed batch holds."""

    tokens: int
    """Without padding."""
    examples: int
    """Or pieces of longer ones."""
    pairs: int
    """Of a query and a key that it sees."""
    ring_efficiency: float
    """Mean over rows; a row of padding alone counts as 1."""


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
    finite = {name: row[name] for name in ("loss", "gradient_norm")}
    check_finite(finite, where=f"step {step} of stage {stage}")
    return row


def check_rows(
    rows: Sequence[Mapping[str, Any]], config: TrainingConfig, *, logged_steps: int, where: Path
) -> None:
    """Check that the rows of a run cover its steps up to `logged_steps` once each, in order.

    Example:
        Of stages of 4 and 2 steps, logged every 3 steps, the rows end with steps 3, 4 and 6. They cover
        1 to 3, 4, and 5 to 6.

    Raises:
        InputError: rows are missing, doubled, of another stage, or lack what `metrics_row` writes.
    """
    remedy = "Put the file back as it was written, or delete its folder and train again."

    def refuse(got: str) -> InputError:
        return InputError(
            what=str(where),
            got=got,
            expected=f"each step from 1 to {logged_steps} in one row, in order",
            remedy=remedy,
        )

    done = 0
    for row in rows:
        with reading(where, expected="rows of a training", damage=(KeyError, TypeError), remedy=remedy):
            first, step, stage = row["step"] - row["steps"] + 1, row["step"], row["stage"]
            sum(row[name] for name in _SUMMED)
            no_time = row["seconds"] <= 0
        if first != done + 1 or not first <= step <= logged_steps:
            raise refuse(f"a row of steps {first} to {step} after step {done}")
        of_steps = [config.stages[bisect_left(config.boundaries, at) - 1].name for at in (first, step)]
        if of_steps != [stage, stage]:
            raise refuse(f"a row of steps {first} to {step} that names the stage {stage!r}")
        if no_time:
            raise refuse(f"no time in the row of step {step}")
        done = step
    if done != logged_steps:
        raise refuse(f"no row of steps {done + 1} to {logged_steps}")


def count(rows: Sequence[PlacedRow]) -> BatchCounts:
    """Count what a batch holds, and how evenly its rows are laid out."""
    return BatchCounts(
        tokens=sum(sum(row.lengths) for row in rows),
        examples=sum(len(row.lengths) for row in rows),
        pairs=sum(row.visible_pairs for row in rows),
        ring_efficiency=float(np.mean([row.ring_efficiency for row in rows])),
    )
