"""Loss on examples that were never trained on, by modality, by kind of example and by position in it."""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, Int32

from ringworld.data.loader import KindOnce
from ringworld.evaluation.metrics import HeldOutLoss, KindLoss, PositionLoss


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
    """Weighted sums by kind of example and bin of position."""

    def __init__(self, kinds: int, bins: int) -> None:
        shape = (kinds, bins)
        self.weight, self.loss, self.targets = np.zeros(shape), np.zeros(shape), np.zeros(shape, np.int64)

    def add(self, nll: np.ndarray, weights: np.ndarray, bins: np.ndarray, *, kind: int) -> None:
        counted = weights > 0
        size = self.weight.shape[1]
        self.weight[kind] += np.bincount(bins[counted], weights[counted], minlength=size)
        self.loss[kind] += np.bincount(bins[counted], weights[counted] * nll[counted], minlength=size)
        self.targets[kind] += np.bincount(bins[counted], minlength=size)

    def part(self, *index: int | slice) -> tuple[float | None, int]:
        """Return the mean loss and the number of targets of some kinds and bins."""
        weight = self.weight[index].sum()
        mean = float(self.loss[index].sum() / weight) if weight else None
        return mean, int(self.targets[index].sum())


def held_out_loss(
    scorer: Scorer,
    kinds: Sequence[KindOnce],
    *,
    context_tokens: int,
    position_edges: Sequence[int],
) -> HeldOutLoss:
    """Score packed batches.

    Args:
        scorer: the engine.
        kinds: held-out examples, kind by kind; their batches are used up.
        context_tokens: length of every row.
        position_edges: rising positions, the first 0; the last bin reaches up to the end of the context.

    Example:
        In contexts of 100 tokens, the edges `(0, 16, 64, 256)` give the bins 0-16, 16-64 and 64-100.
    """
    edges = [edge for edge in position_edges if edge < context_tokens] + [context_tokens]
    text, vision = (_Sums(len(kinds), len(edges) - 1) for _ in range(2))
    for index, kind in enumerate(kinds):
        for batch in kind.batches:
            nll = scorer.score(batch.tokens, batch.targets, order=batch.order, first=batch.first)
            bins = _bins(batch.order, batch.first, edges=edges)
            text.add(nll, batch.text_weights, bins, kind=index)
            vision.add(nll, batch.vision_weights, bins, kind=index)

    def part(*index: int | slice) -> dict[str, Any]:
        (text_loss, text_targets), (vision_loss, vision_targets) = text.part(*index), vision.part(*index)
        return {
            "text_loss": text_loss,
            "vision_loss": vision_loss,
            "text_targets": text_targets,
            "vision_targets": vision_targets,
        }

    every = slice(None)
    return HeldOutLoss(
        context_tokens=context_tokens,
        **part(every, every),
        by_kind=tuple(KindLoss(kind=kind.kind, **part(i, every)) for i, kind in enumerate(kinds)),
        by_position=tuple(
            PositionLoss(start=start, stop=stop, **part(every, i))
            for i, (start, stop) in enumerate(zip(edges[:-1], edges[1:]))
        ),
    )


def _bins(
    order: Int32[np.ndarray, "batch seq"], first: Int32[np.ndarray, "batch seq"], *, edges: Sequence[int]
) -> np.ndarray:
    return np.searchsorted(edges, np.maximum(order - first, 0), side="right") - 1
