"""Packed batches from prepared data: endless, to train on, and each example once, to evaluate.

The endless order follows from the seed and can be resumed. Grain draws the examples: each kind is shuffled
again in every epoch, and kinds are mixed by weight. A document that is longer than the context is drawn piece
by piece, so that the mixture counts what a row holds. The packing and its state are our own: which pieces of
which records are in rows that are not full yet.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import grain
import numpy as np
from jaxtyping import Int

from ringworld.core.errors import InputError
from ringworld.data.batch import PackedRows
from ringworld.data.config import Kind, MixtureConfig, PackingConfig, Split
from ringworld.data.examples import Example
from ringworld.data.packing import FirstFit, pack_rows, piece_bounds, to_batch
from ringworld.data.store import ExampleStore

_EVEN, _PACKING = MixtureConfig(), PackingConfig()
_READ = grain.ReadOptions(num_threads=2, prefetch_buffer_size=16)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Piece:
    """A record or a part of one."""

    reference: tuple[int, int, int]
    """Record, start and stop: where to read it again."""
    example: Example

    def __len__(self) -> int:
        return len(self.example)


class PackedLoader:
    """An endless iterator of batches of prepared data."""

    left_out: dict[Kind, int]
    """Examples that are longer than the context and cannot be cut, by kind; they are never drawn."""

    def __init__(
        self,
        data_dir: Path,
        *,
        split: Split,
        context_tokens: int,
        batch_sequences: int,
        seed: int,
        mixture: MixtureConfig = _EVEN,
        packing: PackingConfig = _PACKING,
    ) -> None:
        """Start at the first batch.

        Args:
            data_dir: what `prepare` wrote.
            split: which examples.
            context_tokens: length of a row.
            batch_sequences: rows of a batch, all of which every process reads; each uploads its own part.
            seed: of the order of examples.
            mixture: how often each kind is drawn; kinds without examples that fit are left out.
            packing: how rows are filled.

        Raises:
            InputError: there is no prepared data, or none of it fits.
        """
        store = ExampleStore(data_dir)
        self._store, self._context, self._batch = store, context_tokens, batch_sequences
        drawable, self.left_out = _drawable(store, split, mixture, context_tokens)
        shares = [mixture.weights[kind] for kind in drawable]
        kinds = [
            grain.MapDataset.source(of_kind.tolist()).shuffle(seed=seed + index).repeat()
            for index, of_kind in enumerate(drawable.values())
        ]
        mixed = grain.MapDataset.mix(kinds, weights=shares)
        self._draws = iter(mixed.map(self._read).to_iter_dataset(_READ))
        self._packer = FirstFit[Piece](context_tokens=context_tokens, open_rows=packing.open_rows)
        self._full: list[list[Piece]] = []
        # What must be the same for a state to mean the same.
        self._identity = {
            "data": store.fingerprint,
            "split": split,
            "context_tokens": context_tokens,
            "batch_sequences": batch_sequences,
            "mixture": asdict(mixture),
            "packing": asdict(packing),
            "seed": seed,
        }

    def __iter__(self) -> "PackedLoader":
        return self

    def __next__(self) -> PackedRows:
        """Return the next batch of [batch_sequences, context_tokens].

        Raises:
            InputError: a record is damaged.
        """
        while len(self._full) < self._batch:
            if row := self._packer.add(next(self._draws)):
                self._full.append(row)
        rows, self._full = self._full[: self._batch], self._full[self._batch :]
        return to_batch(
            [[piece.example for piece in row] for row in rows],
            context_tokens=self._context,
            text_size=self._store.dataset.vocabulary.text_size,
        )

    def get_state(self) -> dict[str, Any]:
        """Return a JSON value from which `set_state` resumes with exactly the batch that would come next."""
        return {
            "identity": self._identity,
            "draws": self._draws.get_state(),
            "open": [[list(piece.reference) for piece in row] for row in self._packer.rows],
            "full": [[list(piece.reference) for piece in row] for row in self._full],
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Resume from where `get_state` was called.

        Raises:
            InputError: the state is of other data or another configuration.
        """
        differing = [name for name, value in self._identity.items() if state["identity"].get(name) != value]
        if differing:
            raise InputError(
                f"the saved state of the data loader belongs to a run whose {', '.join(differing)} differs",
                field="loader",
                value=differing,
                remedy="restore the data and configuration of that run, or start a new run in another folder",
            )
        self._draws.set_state(state["draws"])
        self._packer.rows = [[self._read(reference) for reference in row] for row in state["open"]]
        self._full = [[self._read(reference) for reference in row] for row in state["full"]]

    def _read(self, reference: Sequence[int]) -> Piece:
        record, start, stop = reference
        example = self._store.read(record).cut(start=start, stop=stop)
        return Piece(reference=(record, start, stop), example=example)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class KindOnce:
    """Examples of one kind, each once, or evenly spread ones where there are too many."""

    kind: Kind
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
    packing: PackingConfig = _PACKING,
) -> tuple[KindOnce, ...]:
    """Open each kind of prepared data as finitely many packed batches, the same ones at every call.

    Of each kind in `mixture`, of which the rest is ignored, at most `most_examples` are read; a piece of a
    document that is longer than a row counts as one. Other arguments are those of `PackedLoader`.

    Raises:
        InputError: there is no prepared data, or none of it fits.
    """
    store = ExampleStore(data_dir)
    drawable, left_out = _drawable(store, split, replace(mixture, shortest_tokens=0), context_tokens)

    def batches(kind: Kind) -> Iterator[PackedRows]:
        bounds = drawable.get(kind, np.zeros((0, 3), int))
        chosen = np.unique(np.linspace(0, len(bounds) - 1, min(len(bounds), most_examples), dtype=int))
        examples = (store.read(record).cut(start=a, stop=b) for record, a, b in bounds[chosen].tolist())
        rows = pack_rows(examples, context_tokens=context_tokens, open_rows=packing.open_rows)
        while some := list(itertools.islice(rows, batch_sequences)):
            some += [[] for _ in range(batch_sequences - len(some))]
            text_size = store.dataset.vocabulary.text_size
            yield to_batch(some, context_tokens=context_tokens, text_size=text_size)

    return tuple(KindOnce(kind=kind, batches=batches(kind), left_out=many) for kind, many in left_out.items())


def _drawable(
    store: ExampleStore, split: Split, mixture: MixtureConfig, context_tokens: int
) -> tuple[dict[Kind, Int[np.ndarray, "_ 3"]], dict[Kind, int]]:
    """Return what can be drawn of each kind (record, start, stop), and how many records are too long."""
    kind_column, tokens = store.column("kind"), store.column("tokens")
    of_split = store.column("split") == split
    drawable, left_out = {}, {}
    for kind in mixture.weights:
        records = np.flatnonzero(of_split & (kind_column == kind) & (tokens >= mixture.shortest_tokens))
        bounds = piece_bounds(tokens[records], kind=kind, context_tokens=context_tokens)
        left_out[kind] = len(records) - len(np.unique(bounds[:, 0]))
        if len(bounds):
            drawable[kind] = np.column_stack([records[bounds[:, 0]], bounds[:, 1:]])
    if not drawable:
        shortest = tokens[of_split].min() if of_split.any() else 0
        raise InputError(
            f"no {split} example of the kinds {', '.join(mixture.weights)} has {mixture.shortest_tokens} to "
            f"{context_tokens} tokens (the shortest of any kind has {shortest})",
            field="mixture",
            value=mixture,
            remedy="use a longer context, another mixture or more data",
        )
    return drawable, left_out
