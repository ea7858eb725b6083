"""Loss on examples that were never trained on, by modality, by kind of example and by position in it."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ringworld.core.errors import InputError
from ringworld.core.ranges import check_range
from ringworld.core.results import Result
from ringworld.data.batch import PackedRows
from ringworld.evaluation.task import EvaluationData, Item, Outcome, Subject, Task, Unmeasured

NAME = "held_out"
_MODALITIES = ("text", "vision")
_Batch = tuple[str, PackedRows]


@dataclass(frozen=True, kw_only=True, slots=True)
class HeldOutConfig:
    """How held-out loss is measured."""

    examples_per_kind: int = 256
    """Most held-out examples of each kind; where there are more, evenly spread ones are measured."""
    position_edges: tuple[int, ...] = (0, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576)
    """Positions inside an example, in tokens, at which a bin of the loss by position begins or ends."""

    def __post_init__(self) -> None:
        """Refuse no examples and edges that do not rise."""
        edges = self.position_edges
        rising = all(a < b for a, b in zip(edges[:-1], edges[1:]))
        check_range(self, "examples_per_kind", least=1, of="held_out")
        if not (len(edges) >= 2 and rising and edges[0] == 0):
            problem = f"position_edges is {edges}, but must begin at 0 and rise"
            raise InputError(problem, field="held_out.position_edges", value=edges)

    @property
    def longest_context_tokens(self) -> int:
        """Nothing is asked: packed sequences are as long as the data says."""
        return 0

    def build(self, subject: Subject, *, data: EvaluationData) -> "HeldOutTask":
        """Open the held-out examples of prepared data."""
        from ringworld.data.read_once import read_once  # which imports jax

        if data.folder is None:
            raise InputError(
                "held-out loss needs examples", field="data", remedy="name the folder that prepare wrote"
            )
        kinds, reason = (), ""
        try:
            kinds = read_once(
                data.folder,
                split="held_out",
                context_tokens=data.context_tokens,
                batch_sequences=data.batch_sequences,
                mixture=data.mixture,
                clips=data.clips,
                most_examples=self.examples_per_kind,
                packing=data.packing,
            )
        except InputError as error:
            reason = str(error)
        return HeldOutTask(
            self,
            {kind.kind: kind.batches for kind in kinds},
            context_tokens=data.context_tokens,
            too_long={kind.kind: kind.left_out for kind in kinds if kind.left_out},
            reason=reason,
        )


class HeldOutTask(Task[_Batch]):
    """Packed batches, each scored once.

    Losses are negative log-likelihoods in nats a target, each modality over its own ids, weighted as in
    training.
    """

    name = NAME

    def __init__(
        self,
        config: HeldOutConfig,
        batches: Mapping[str, Iterable[PackedRows]],
        *,
        context_tokens: int,
        too_long: Mapping[str, int],
        reason: str = "",
    ) -> None:
        """Take held-out examples, kind by kind.

        Args:
            config: where bins of positions begin and end; the last one reaches up to the end of the context.
            batches: the examples, by kind; iterated over once.
            context_tokens: length of every packed sequence.
            too_long: how many examples of a kind are longer than that and cannot be cut.
            reason: why there is no example, if there is none.

        Example:
            In contexts of 100 tokens, the edges `(0, 16, 64, 256)` give the bins 0-16, 16-64 and 64-100.
        """
        self._batches, self._too_long, self._reason = batches, too_long, reason
        self._context_tokens = context_tokens
        self._edges = [edge for edge in config.position_edges if edge < context_tokens] + [context_tokens]

    def items(self) -> Iterator[Item[_Batch]]:
        """Yield the batches."""
        for kind, batches in self._batches.items():
            for index, packed in enumerate(batches):
                yield Item(key=f"{kind} {index}", tokens=packed.batch.tokens.size, content=(kind, packed))

    def score(self, subject: Subject, items: Sequence[Item[_Batch]]) -> Iterator[Outcome | Unmeasured]:
        """Yield, of each batch and modality, weights, weighted losses and targets by bin of position."""
        for item in items:
            kind, packed = item.content
            batch = packed.batch
            nll = subject.score(
                batch.tokens, batch.targets, order=batch.order, first=batch.first, lengths=packed.lengths
            )
            if not np.isfinite(nll[batch.text_weights + batch.vision_weights > 0]).all():
                yield Unmeasured(reason="the loss of a target is NaN or infinite")
                continue
            position = np.maximum(batch.order - batch.first, 0)
            bins = np.searchsorted(self._edges, position, side="right") - 1
            sums = {}
            for modality, weights in zip(_MODALITIES, (batch.text_weights, batch.vision_weights)):
                counted = weights > 0
                sums[modality] = [
                    np.bincount(bins[counted], values[counted], minlength=len(self._edges) - 1).tolist()
                    for values in (weights, weights * nll, np.ones_like(weights))
                ]
            yield {"kind": kind, **sums}

    def aggregate(self, outcomes: Mapping[str, Outcome | Unmeasured]) -> Iterator[Result]:
        """Return the mean loss of all, by kind and by position, and how many examples are too long."""
        base: dict[str, Any] = {"context_tokens": self._context_tokens}
        reasons = [one.reason for one in outcomes.values() if isinstance(one, Unmeasured)]
        if reason := "".join(reasons[:1]) or self._reason:
            yield Result(task=NAME, metric="loss", cell=base, value=None, count=0, reason=reason)
            return
        names, bins = list(self._batches), list(zip(self._edges[:-1], self._edges[1:]))
        sums = {modality: np.zeros((3, len(names), len(bins))) for modality in _MODALITIES}
        for outcome in outcomes.values():
            assert not isinstance(outcome, Unmeasured)
            for modality, summed in sums.items():
                summed[:, names.index(outcome["kind"])] += outcome[modality]
        every = slice(None)
        cells: list[tuple[dict[str, Any], tuple[int | slice, int | slice]]] = [({}, (every, every))]
        cells += [({"kind": name}, (i, every)) for i, name in enumerate(names)]
        cells += [({"start": start, "stop": stop}, (every, i)) for i, (start, stop) in enumerate(bins)]
        for cell, index in cells:
            for modality, summed in sums.items():
                weight, loss, targets = (part[index].sum() for part in summed)
                if targets:
                    yield Result(
                        task=NAME,
                        metric=f"{modality}_loss",
                        cell={**base, **cell},
                        value=float(loss / weight),
                        count=int(targets),
                    )
        for kind, many in self._too_long.items():
            cell = {**base, "kind": kind}
            yield Result(task=NAME, metric="too_long", cell=cell, value=float(many), count=many)
