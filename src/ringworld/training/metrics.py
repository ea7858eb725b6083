"""One row of `metrics.jsonl`: what the updates since the last row did, and how fast."""

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Array, Float32

from ringworld.core import steps
from ringworld.core.steps import METRICS_FILE as METRICS_FILE
from ringworld.core.steps import Interval
from ringworld.data.batch import DrawnCounts
from ringworld.model.arrange import PlacedBatch
from ringworld.model.config import Architecture
from ringworld.model.flops import training_flops
from ringworld.model.lora_config import LoraConfig
from ringworld.training.config import TrainingConfig
from ringworld.training.loss import POSITION_STARTS, LossOutput
from ringworld.training.step import StepOutput

TIMED = ("seconds", "data_wait_seconds", "tokens_per_second", "model_flops_per_second", "mfu")
"""The only values that two runs of one configuration do not share."""
_MODALITIES = ("text", "vision")
_NUMBERS = ("skipped_steps", "tokens", "examples", "model_flops_per_second", "ring_efficiency")


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


def metrics_row(
    output: StepOutput,
    *,
    stage: str,
    interval: Interval,
    architecture: Architecture,
    names: Sequence[str] = (),
    lora: LoraConfig | None = None,
    peak_flops_per_second: float | None = None,
) -> dict[str, Any]:
    """Return what the row of a step says beside `step`, `steps` and `seconds`.

    Losses, the number of tokens that they are over (`loss_tokens`) and their share of all that are no padding
    (`loss_token_share`), gradient norm and learning rate are those of the step; a modality without targets
    has the loss None, and so has what is not finite, of an update that was skipped. `skipped_steps` counts
    such updates since the run began. `text_loss_by_position` and `vision_loss_by_position` have the losses of
    tokens from a position in their examples on, up to the next one that is named (`loss.POSITION_STARTS`),
    where any carries loss. All else is summed over the interval that ends with the step, what
    `count` returned of its batches; rates are over its time. `model_flops_per_second` counts the tokens that
    are no padding, and nothing that is computed again; `mfu` is its share of the peak of all devices, or None
    where that is not known.
    `data_wait_seconds` is how long devices waited for batches, at most. `drawn_examples` and `drawn_tokens`
    are the shares that each of `names`, those of the mixture, has in the examples and in the tokens.
    """
    whole, drawn = len(BatchCounts._fields), len(names)
    loss, counts = output.loss, BatchCounts(*interval.counts[:whole])
    examples, tokens = interval.counts[whole : whole + drawn], interval.counts[whole + drawn :]
    flops = training_flops(architecture, tokens=counts.tokens, pairs=counts.pairs, lora=lora)
    rate = flops / interval.seconds
    loss_tokens = int(loss.text_targets) + int(loss.vision_targets)
    return {
        "stage": stage,
        "loss": _finite(loss.loss),
        "text_loss": _finite(loss.text_loss) if int(loss.text_targets) else None,
        "vision_loss": _finite(loss.vision_loss) if int(loss.vision_targets) else None,
        **{f"{name}_loss_by_position": _by_position(loss, index) for index, name in enumerate(_MODALITIES)},
        "gradient_norm": _finite(output.gradient_norm),
        "learning_rate": float(output.learning_rate),
        "loss_tokens": loss_tokens,
        "loss_token_share": loss_tokens / max(1, int(loss.tokens)),
        "skipped_steps": int(output.guard.skipped),
        "tokens": counts.tokens,
        "examples": counts.examples,
        "data_wait_seconds": interval.data_wait_seconds,
        "tokens_per_second": counts.tokens / interval.seconds,
        "model_flops_per_second": rate,
        "mfu": rate / peak_flops_per_second if peak_flops_per_second else None,
        "ring_efficiency": counts.ring_efficiency / interval.steps,
        "drawn_examples": _shares(names, examples),
        "drawn_tokens": _shares(names, tokens),
    }


def _shares(names: Sequence[str], counts: Sequence[int]) -> dict[str, float]:
    return {name: count / max(1, sum(counts)) for name, count in zip(names, counts)}


def _by_position(loss: LossOutput, modality: int) -> dict[str, float]:
    """Return the losses over a modality by where in their examples tokens are, where some carry loss."""
    losses, targets = np.asarray(loss.position_losses)[modality], np.asarray(loss.position_targets)[modality]
    return {
        str(start): float(one)
        for start, one, count in zip(POSITION_STARTS, losses, targets)
        if count and math.isfinite(one)
    }


def _finite(number: Float32[Array, ""]) -> float | None:
    value = float(number)
    return value if math.isfinite(value) else None


def check_rows(
    rows: Sequence[Mapping[str, Any]], config: TrainingConfig, *, logged_steps: int, where: Path
) -> None:
    """Check that the rows of the file `where` cover the steps of a run once each and name their stages.

    Raises:
        InputError: rows are missing, doubled, of another stage, or lack what `metrics_row` returns.
    """
    names = [stage.name for stage in config.stages]
    steps.check_rows(
        rows,
        logged_steps=logged_steps,
        where=where,
        stage_of=lambda step: names[bisect_left(config.boundaries, step) - 1],
        numbers=_NUMBERS,
    )


def count(pieces: Sequence[PlacedBatch], *, drawn: Mapping[str, DrawnCounts]) -> tuple[Any, ...]:
    """Count what the pieces of a batch hold, of equally many rows, and how evenly they are laid out.

    Returns:
        The `BatchCounts`, then the examples of each name that was drawn, then the tokens.
    """
    whole = BatchCounts(
        tokens=sum(piece.tokens for piece in pieces),
        examples=sum(piece.documents for piece in pieces),
        pairs=sum(piece.visible_pairs for piece in pieces),
        ring_efficiency=float(np.mean([piece.ring_efficiency for piece in pieces])),
    )
    of_names = drawn.values()
    return (*whole, *(of.examples for of in of_names), *(of.tokens for of in of_names))
