"""Packed batches from prepared data, endless, to train on.

The order follows from the seed and can be resumed. Examples of each name of the mixture are shuffled again in
every epoch, and Grain draws them, the names mixed by their shares. What is longer than the context and may be
cut is drawn piece by piece, so that the mixture counts what a packed sequence holds. The packing and its
state are our own: which pieces of which records are in sequences that are not full yet. Lengths are known
from the manifest, so that a piece is read only when its sequence is full, all pieces of a batch at once, and
a thread makes the next batch while one is trained on.
"""

import itertools
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import grain
import numpy as np

from ringworld.core.ahead import ahead
from ringworld.core.errors import InputError
from ringworld.data.batch import DrawnCounts, PackedRows
from ringworld.data.config import ClipConfig, MixtureConfig, PackingConfig, Split
from ringworld.data.drawable import Excerpt, Excerpts, drawable_of, rows_by
from ringworld.data.examples import Example
from ringworld.data.packing import Packer, to_batch
from ringworld.data.store import ALL_FRAMES, ExampleStore

_EVEN, _PACKING = MixtureConfig(), PackingConfig()
_ORDER = 2
"""Rises when the same seed gives another order."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Position:
    """Where a loader is, between two batches."""

    draws: int = 0
    """How often it has drawn."""
    open: Sequence[Sequence[Excerpt]] = ()
    """Packed sequences that are not full."""
    full: Sequence[Sequence[Excerpt]] = ()
    """Those that are, and in no batch yet."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Made:
    examples: list[list[Example]]
    """Of each row; none where it is not read."""
    packed: PackedRows
    after: _Position


class PackedLoader:
    """An endless iterator of batches of prepared data."""

    names: tuple[str, ...]
    """What is drawn: names of the mixture of which there are examples that fit."""
    left_out: dict[str, int]
    """Examples that are longer than the context and are not cut, by name; they are never drawn."""
    truncated: dict[str, int]
    """Tokens, or frames of what is cut between frames, behind the end of what is drawn of an example, by
    name."""
    unmatched: tuple[str, ...]
    """Names of the mixture of which there is no example, or none between its lengths."""

    def __init__(
        self,
        data_dir: Path,
        *,
        split: Split,
        context_tokens: int,
        batch_sequences: int,
        seed: int,
        mixture: MixtureConfig = _EVEN,
        clips: ClipConfig = ALL_FRAMES,
        packing: PackingConfig = _PACKING,
        rows: Collection[int] | None = None,
    ) -> None:
        """Start at the first batch.

        Args:
            data_dir: what `prepare` wrote.
            split: which examples.
            context_tokens: length of a packed sequence.
            batch_sequences: how many of them are the rows of a batch.
            seed: of the order of examples.
            mixture: how much is drawn of each name; names without any example that fits are left out.
            clips: which of the prepared frames of each clip are drawn.
            packing: how packed sequences are filled.
            rows: indices of those of a batch that are read, as one of several processes needs them. Of the
                others the lengths are known, and the arrays hold padding. By default all.

        Raises:
            InputError: there is no prepared data, or none of it fits.
        """
        store = ExampleStore(data_dir)
        self._store, self._context, self._batch = store, context_tokens, batch_sequences
        self._clips, self._packing, self._rows = clips, packing, rows
        named = rows_by(store, split, mixture, by="name")
        drawable = drawable_of(
            store, named, mixture, clips, context_tokens, longer=packing.longer, split=split
        )
        self.names = tuple(drawable.pieces)
        self.left_out, self.truncated = drawable.left_out, drawable.truncated
        there = {name for name in named if name in drawable.pieces or drawable.left_out[name]}
        self.unmatched = tuple(name for name, share in mixture.ratios.items() if share and name not in there)
        parts = [
            Excerpts(index, of_name, seed=seed) for index, of_name in enumerate(drawable.pieces.values())
        ]
        self._mixed = grain.MapDataset.mix(parts, weights=drawable.weights(mixture))
        # What must be the same for a state to mean the same.
        self._identity = {
            "order": _ORDER,
            "data": store.fingerprint,
            "split": split,
            "context_tokens": context_tokens,
            "batch_sequences": batch_sequences,
            "mixture": asdict(mixture),
            "clips": asdict(clips),
            "packing": asdict(packing),
            "seed": seed,
        }
        self._start_at(_Position())

    def __iter__(self) -> "PackedLoader":
        return self

    def __next__(self) -> PackedRows:
        """Return the next batch of [batch_sequences, context_tokens].

        Raises:
            InputError: a record is damaged.
        """
        return self._next().packed

    def next_rows(self) -> list[list[Example]]:
        """Return the examples of each row of the next batch, as they are before they are laid end to end.

        Of a row that is not read there are none.

        Raises:
            InputError: a record is damaged.
        """
        return self._next().examples

    def get_state(self) -> dict[str, Any]:
        """Return a JSON value from which `set_state` resumes with exactly the batch that would come next."""
        at = self._at
        return {
            "identity": self._identity,
            "draws": at.draws,
            "open": [[piece.to_json() for piece in pieces] for pieces in at.open],
            "full": [[piece.to_json() for piece in pieces] for pieces in at.full],
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
        kept = {
            name: [[Excerpt(*piece) for piece in pieces] for pieces in state[name]]
            for name in ("open", "full")
        }
        self._start_at(_Position(draws=state["draws"], **kept))

    def close(self) -> None:
        """End the thread that makes the next batch."""
        self._made.close()

    def _next(self) -> _Made:
        made = next(self._made)
        self._at = made.after
        return made

    def _start_at(self, at: _Position) -> None:
        self._at = at
        # Without self: a thread that held it would keep it, and itself, alive.
        batches = _batches(
            at,
            draws=self._mixed,
            store=self._store,
            names=self.names,
            context_tokens=self._context,
            batch_sequences=self._batch,
            clips=self._clips,
            packing=self._packing,
            rows=self._rows,
        )
        self._made = ahead(batches, most=1)


def _batches(
    at: _Position,
    *,
    draws: grain.MapDataset[Excerpt],
    store: ExampleStore,
    names: Sequence[str],
    context_tokens: int,
    batch_sequences: int,
    clips: ClipConfig,
    packing: PackingConfig,
    rows: Collection[int] | None,
) -> Iterator[_Made]:
    """Yield the batches that follow a position."""
    apart = packing.together == "name"
    packers = [
        Packer[Excerpt](context_tokens=context_tokens, open_sequences=packing.open_sequences, fit=packing.fit)
        for _ in (names if apart else names[:1])
    ]
    for index, packer in enumerate(packers):
        packer.resume(pieces for pieces in at.open if not apart or pieces[0].name == index)
    count, full = at.draws, list(at.full)
    while True:
        while len(full) < batch_sequences:
            piece = draws[count]
            assert piece is not None, "nothing is filtered"
            if closed := packers[piece.name if apart else 0].add(piece):
                full.append(closed)
            count += 1
        batch, full = full[:batch_sequences], full[batch_sequences:]
        needed = [pieces if rows is None or index in rows else [] for index, pieces in enumerate(batch)]
        parts = [(piece.row, piece.start, piece.stop) for pieces in needed for piece in pieces]
        read = store.read_all(parts, clips=clips)
        examples = [list(itertools.islice(read, len(pieces))) for pieces in needed]
        packed = to_batch(
            examples,
            context_tokens=context_tokens,
            text_size=store.dataset.vocabulary.text_size,
            weights=packing.weights,
        )
        yield _Made(
            examples=examples,
            packed=replace(
                packed,
                lengths=[[piece.tokens for piece in pieces] for pieces in batch],
                drawn=_count([piece for pieces in batch for piece in pieces], names),
            ),
            after=_Position(
                draws=count,
                open=[[*pieces] for packer in packers for pieces in packer.sequences],
                full=[*full],
            ),
        )


def _count(pieces: Sequence[Excerpt], names: Sequence[str]) -> dict[str, DrawnCounts]:
    of = np.array([piece.name for piece in pieces])
    examples = np.bincount(of, minlength=len(names))
    tokens = np.bincount(of, weights=[piece.tokens for piece in pieces], minlength=len(names))
    return {
        name: DrawnCounts(examples=int(many), tokens=int(long))
        for name, many, long in zip(names, examples, tokens)
    }
