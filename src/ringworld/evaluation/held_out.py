"""Loss on examples that were never trained on, by modality and by position in the example."""

from collections.abc import Iterable, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, Int32

from ringworld.data.batch import PackedBatch
from ringworld.evaluation.metrics import HeldOutLoss, PositionLoss


@runtime_checkable
class Scorer(Protocol):
    """What gives the loss of every target: the engine."""

    def score(
        self,
        tokens: Int32[np.ndarray, "batch seq"],
        targets: Int32[np.ndarray, "batch seq"],
        *,
        order: Int32[np.ndarray, "batch seq"],
        first: Int32[np.ndarray, "batch seq"],
    ) -> Float32[np.ndarray, "batch seq"]:
        """Return the negative log-likelihood of each target in nats."""
        ...


class _Sums:
    """Weighted sums by bin of position; the bins cover every position of a context."""

    def __init__(self, bins: int) -> None:
        self.weight = np.zeros(bins)
        self.loss = np.zeros(bins)
        self.targets = np.zeros(bins, np.int64)

    def add(self, nll: np.ndarray, weights: np.ndarray, bins: np.ndarray) -> None:
        counted = weights > 0
        size = len(self.weight)
        self.weight += np.bincount(bins[counted], weights[counted], minlength=size)
        self.loss += np.bincount(bins[counted], weights[counted] * nll[counted], minlength=size)
        self.targets += np.bincount(bins[counted], minlength=size)

    def mean(self, index: slice) -> float | None:
        weight = self.weight[index].sum()
        return float(self.loss[index].sum() / weight) if weight else None


def held_out_loss(
    scorer: Scorer, batches: Iterable[PackedBatch[np.ndarray]], *, position_edges: Sequence[int]
) -> HeldOutLoss:
    """Score packed batches.

    Args:
        scorer: the engine.
        batches: held-out batches [batch, seq], all of one length, at least one.
        position_edges: rising positions, the first 0; the last bin reaches up to the end of the context.

    Example:
        In contexts of 100 tokens, the edges `(0, 16, 64, 256)` give the bins 0-16, 16-64 and 64-100.
    """
    text, vision, context_tokens, edges = None, None, 0, []
    for batch in batches:
        if text is None or vision is None:
            context_tokens = batch.tokens.shape[1]
            edges = [edge for edge in position_edges if edge < context_tokens] + [context_tokens]
            text, vision = _Sums(len(edges) - 1), _Sums(len(edges) - 1)
        nll = scorer.score(batch.tokens, batch.targets, order=batch.order, first=batch.first)
        bins = _bins(batch.order, batch.first, edges=edges)
        text.add(nll, batch.text_weights, bins)
        vision.add(nll, batch.vision_weights, bins)
    assert text is not None and vision is not None, "no held-out batch"
    return HeldOutLoss(
        context_tokens=context_tokens,
        text_loss=text.mean(slice(None)),
        vision_loss=vision.mean(slice(None)),
        text_targets=int(text.targets.sum()),
        vision_targets=int(vision.targets.sum()),
        by_position=tuple(
            PositionLoss(
                start=start,
                stop=stop,
                text_loss=text.mean(slice(i, i + 1)),
                vision_loss=vision.mean(slice(i, i + 1)),
                text_targets=int(text.targets[i]),
                vision_targets=int(vision.targets[i]),
            )
            for i, (start, stop) in enumerate(zip(edges[:-1], edges[1:]))
        ),
    )


def _bins(
    order: Int32[np.ndarray, "batch seq"], first: Int32[np.ndarray, "batch seq"], *, edges: Sequence[int]
) -> np.ndarray:
    return np.searchsorted(edges, np.maximum(order - first, 0), side="right") - 1
