"""Packed batches from prepared data: endless, to train on, and each example once, to evaluate.

The endless order follows from the seed and can be resumed. Grain draws the examples: those of each name of
the mixture are shuffled again in every epoch, and names are mixed by their shares. What is longer than the
context and may be cut is drawn piece by piece, so that the mixture counts what a row holds. The packing and
its state are our own: which pieces of which records are in rows that are not full yet.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import grain
import numpy as np
from jaxtyping import Int

from ringworld.core.errors import InputError
from ringworld.data.batch import PackedRows
from ringworld.data.config import ClipConfig, MixtureConfig, PackingConfig, Split
from ringworld.data.examples import Example
from ringworld.data.packing import FirstFit, pack_rows, piece_bounds, to_batch
from ringworld.data.store import ALL_FRAMES, ExampleStore

_EVEN, _PACKING = MixtureConfig(), PackingConfig()
_READ = grain.ReadOptions(num_threads=2, prefetch_buffer_size=16)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Piece:
    """An example or a part of one."""

    reference: tuple[int, int, int]
    """Row of the manifest, start and stop: where to read it again."""
    example: Example

    def __len__(self) -> int:
        return len(self.example)


class PackedLoader:
    """An endless iterator of batches of prepared data."""

    left_out: dict[str, int]
    """Examples that are longer than the context and cannot be cut, by name; they are never drawn."""
    unmatched: tuple[str, ...]
    """Names of the mixture that no example has."""

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
    ) -> None:
        """Start at the first batch.

        Args:
            data_dir: what `prepare` wrote.
            split: which examples.
            context_tokens: length of a row.
            batch_sequences: rows of a batch, all of which every process reads; each uploads its own part.
            seed: of the order of examples.
            mixture: how often examples of each name are drawn; names without any that fit are left out.
            clips: which of the prepared frames of each clip are drawn.
            packing: how rows are filled.

        Raises:
            InputError: there is no prepared data, or none of it fits.
        """
        store = ExampleStore(data_dir)
        self._store, self._context, self._batch, self._clips = store, context_tokens, batch_sequences, clips
        named = _named(store, split, mixture, by="name")
        drawable, self.left_out = _drawable(store, named, mixture, clips, context_tokens, split=split)
        self.unmatched = tuple(name for name, share in mixture.ratios.items() if share and name not in named)
        parts = [
            grain.MapDataset.source(of_name.tolist()).shuffle(seed=seed + index).repeat()
            for index, of_name in enumerate(drawable.values())
        ]
        mixed = grain.MapDataset.mix(parts, weights=[mixture.share(name) for name in drawable])
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
            "clips": asdict(clips),
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
        text_size = self._store.dataset.vocabulary.text_size
        return to_batch(self.next_rows(), context_tokens=self._context, text_size=text_size)

    def next_rows(self) -> list[list[Example]]:
        """Return the examples of the next batch, row by row, as they are before they are laid end to end.

        Raises:
            InputError: a record is damaged.
        """
        while len(self._full) < self._batch:
            if row := self._packer.add(next(self._draws)):
                self._full.append(row)
        rows, self._full = self._full[: self._batch], self._full[self._batch :]
        return [[piece.example for piece in row] for row in rows]

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
        row, start, stop = reference
        example = self._store.read(row, clips=self._clips, start=start, stop=stop)
        return Piece(reference=(row, start, stop), example=example)


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
    whole = replace(mixture, shortest_tokens=0)
    named = _named(store, split, whole, by="kind")
    drawable, left_out = _drawable(store, named, whole, clips, context_tokens, split=split)

    def batches(kind: str) -> Iterator[PackedRows]:
        bounds = drawable.get(kind, np.zeros((0, 3), int))
        chosen = np.unique(np.linspace(0, len(bounds) - 1, min(len(bounds), most_examples), dtype=int))
        examples = (
            store.read(row, clips=clips, start=start, stop=stop)
            for row, start, stop in bounds[chosen].tolist()
        )
        rows = pack_rows(examples, context_tokens=context_tokens, open_rows=packing.open_rows)
        while some := list(itertools.islice(rows, batch_sequences)):
            some += [[] for _ in range(batch_sequences - len(some))]
            text_size = store.dataset.vocabulary.text_size
            yield to_batch(some, context_tokens=context_tokens, text_size=text_size)

    return tuple(KindOnce(kind=kind, batches=batches(kind), left_out=many) for kind, many in left_out.items())


def _named(
    store: ExampleStore, split: Split, mixture: MixtureConfig, *, by: Literal["name", "kind"]
) -> dict[str, Int[np.ndarray, " _"]]:
    """Return the rows of a split that a mixture draws: by its names in their order, or by kind."""
    datasets, kinds = store.column("dataset"), store.column("kind")
    of_split = store.column("split") == split
    found: dict[str, Any] = dict.fromkeys(mixture.ratios if by == "name" else (), None)
    for dataset, kind in sorted(set(zip(datasets[of_split], kinds[of_split]))):
        if (name := mixture.name_of(dataset, kind)) is not None:
            rows = of_split & (datasets == dataset) & (kinds == kind)
            key = name if by == "name" else kind
            found[key] = rows if found.get(key) is None else found[key] | rows
    return {name: np.flatnonzero(rows) for name, rows in found.items() if rows is not None}


def _drawable(
    store: ExampleStore,
    named: Mapping[str, Int[np.ndarray, " _"]],
    mixture: MixtureConfig,
    clips: ClipConfig,
    context_tokens: int,
    *,
    split: Split,
) -> tuple[dict[str, Int[np.ndarray, "_ 3"]], dict[str, int]]:
    """Return what can be drawn of each name (row, start, stop), and how many examples are too long."""
    lengths, cuts, words = store.lengths(clips), store.column("cut"), store.column("words")
    frame_tokens = store.dataset.vocabulary.frame_tokens
    drawable, left_out = {}, {}
    for name, rows in named.items():
        rows = rows[lengths[rows] >= mixture.shortest_tokens]
        units, most = lengths[rows], np.full(len(rows), context_tokens)
        footage = cuts[rows] == "frames"
        if footage.any():
            of_footage = rows[footage]
            units[footage] = store.frames_at_rate(of_footage, clips)
            room = np.maximum(0, context_tokens - words[of_footage]) // frame_tokens
            most[footage] = np.minimum(room, clips.max_frames or context_tokens)
        bounds = piece_bounds(units, most=most, may_be_cut=cuts[rows] != "never")
        left_out[name] = len(rows) - len(np.unique(bounds[:, 0]))
        if len(bounds):
            drawable[name] = np.column_stack([rows[bounds[:, 0]], bounds[:, 1:]])
    if not drawable:
        of_split = store.column("split") == split
        there = sorted(set(zip(store.column("dataset")[of_split], store.column("kind")[of_split])))
        shortest = lengths[of_split].min() if of_split.any() else 0
        raise InputError(
            f"no {split} example of {', '.join(mixture.ratios) or 'any kind'} has {mixture.shortest_tokens} "
            f"to {context_tokens} tokens (the shortest of any kind has {shortest})",
            field="mixture",
            value=mixture,
            remedy="use a longer context, fewer frames a clip, another mixture or more data; there are "
            f"examples of {', '.join(f'{dataset}/{kind}' for dataset, kind in there) or 'nothing'}",
        )
    return drawable, left_out
