"""Packed batches from prepared data, each example once, to evaluate."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ringworld.data.batch import PackedRows
from ringworld.data.config import ClipConfig, MixtureConfig, PackingConfig, Split
from ringworld.data.drawable import drawable_of, rows_by
from ringworld.data.packing import pack_sequences, to_batch
from ringworld.data.store import ALL_FRAMES, ExampleStore

_PACKING = PackingConfig()


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class KindOnce:
    """Examples of one kind, each once, or evenly spread ones where there are too many."""

    kind: str
    batches: Iterator[PackedRows]
    """Of [batch_sequences, context_tokens]; the last rows of the last one may be empty."""
    left_out: int
    """Examples that are longer than the context and cannot be cut."""


def read_once(
    data_dir: Path,
    *,
    split: Split,
    context_tokens: int,
    batch_sequences: int,
    mixture: MixtureConfig,
    most_examples: int,
    clips: ClipConfig = ALL_FRAMES,
    packing: PackingConfig = _PACKING,
) -> tuple[KindOnce, ...]:
    """Open each kind of prepared data as finitely many packed batches, the same ones at every call.

    Of each kind of which `mixture` draws any, at most `most_examples` are read; a piece of an example that is
    cut counts as one. Other arguments are those of `PackedLoader`.

    Raises:
        InputError: there is no prepared data, or none of it fits.
    """
    store = ExampleStore(data_dir)
    whole = MixtureConfig(ratios=mixture.ratios)
    named = rows_by(store, split, whole, by="kind")
    drawable = drawable_of(store, named, whole, clips, context_tokens, longer=packing.longer, split=split)

    def batches(kind: str) -> Iterator[PackedRows]:
        bounds = drawable.pieces.get(kind, np.zeros((0, 4), int))
        chosen = np.unique(np.linspace(0, len(bounds) - 1, min(len(bounds), most_examples), dtype=int))
        examples = (
            store.read(row, clips=clips, start=start, stop=stop)
            for row, start, stop, _ in bounds[chosen].tolist()
        )
        packed = pack_sequences(
            examples, context_tokens=context_tokens, open_sequences=packing.open_sequences, fit=packing.fit
        )
        while some := list(itertools.islice(packed, batch_sequences)):
            some += [[] for _ in range(batch_sequences - len(some))]
            text_size = store.dataset.vocabulary.text_size
            yield to_batch(some, context_tokens=context_tokens, text_size=text_size, weights=packing.weights)

    left_out = drawable.left_out.items()
    return tuple(KindOnce(kind=kind, batches=batches(kind), left_out=many) for kind, many in left_out)
