"""What of prepared examples a stage can draw: by the names of its mixture, between lengths, in pieces."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import grain
import numpy as np
from jaxtyping import Bool, Int, Shaped

from ringworld.core.errors import InputError
from ringworld.data.config import ClipConfig, Longer, MixtureConfig, Split
from ringworld.data.packing import piece_bounds
from ringworld.data.store import ExampleStore


@dataclass(frozen=True, slots=True)
class Excerpt:
    """An example or a part of one, before it is read."""

    name: int
    """Index of its name in the mixture."""
    row: int
    """Of the manifest."""
    start: int
    """Token, or frame of what is cut between frames."""
    stop: int
    tokens: int

    def __len__(self) -> int:
        return self.tokens

    def to_json(self) -> list[int]:
        """Return its numbers, of which `Excerpt(*numbers)` makes it again."""
        return [self.name, self.row, self.start, self.stop, self.tokens]


class Excerpts(grain.MapDataset[Excerpt]):
    """The pieces of one name without an end, in a new order each epoch.

    The shuffle of Grain needs no memory, but walks over 2^16 numbers where there are few.
    """

    def __init__(self, name: int, numbers: Int[np.ndarray, "pieces 4"], *, seed: int) -> None:
        """Take the index of the name, and row, start, stop and tokens of each piece."""
        super().__init__()
        self._name, self._numbers, self._seed = name, numbers, seed
        self._epoch, self._order = -1, np.zeros(0, int)

    def __len__(self) -> int:
        return sys.maxsize

    def __getitem__(self, index: int) -> Excerpt:
        epoch, at = divmod(index, len(self._numbers))
        if epoch != self._epoch:
            draw = np.random.default_rng((self._seed, self._name, epoch))
            self._epoch, self._order = epoch, draw.permutation(len(self._numbers))
        return Excerpt(self._name, *self._numbers[self._order[at]].tolist())


def rows_by(
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


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Drawable:
    """What of prepared examples fits into a context."""

    pieces: dict[str, Int[np.ndarray, "_ 4"]]
    """Of each name: row, start, stop and tokens."""
    left_out: dict[str, int]
    """Examples of each name that are too long."""
    truncated: dict[str, int]
    """Tokens of each name behind the end of what is drawn; frames, of what is cut between frames."""

    def weights(self, mixture: MixtureConfig) -> list[float]:
        """Return how often a piece of each name is drawn, relative to those of others.

        By tokens, two names of the same share whose pieces have 100 and 1,000 tokens on the average are drawn
        10 to 1. As each piece comes once an epoch, their tokens are as many after each.
        """
        shares = {name: mixture.share(name) for name in self.pieces}
        if mixture.by == "examples":
            return list(shares.values())
        return [share / self.pieces[name][:, 3].mean() for name, share in shares.items()]


def drawable_of(
    store: ExampleStore,
    named: Mapping[str, Int[np.ndarray, " _"]],
    mixture: MixtureConfig,
    clips: ClipConfig,
    context_tokens: int,
    *,
    longer: Longer,
    split: Split,
) -> Drawable:
    """Return what can be drawn of each name.

    Args:
        store: of the examples.
        named: rows of the manifest.
        mixture: between which lengths documents and videos are drawn.
        clips: which of the prepared frames of each clip are drawn.
        context_tokens: length of a packed sequence.
        longer: what becomes of what is longer and may be cut.
        split: of these rows, for the error.

    Raises:
        InputError: nothing fits.
    """
    lengths, wanted = store.lengths(clips), _wanted(store, mixture, clips)
    cuts, words = store.column("cut"), store.column("words")
    frame_tokens = store.dataset.vocabulary.frame_tokens
    found = Drawable(pieces={}, left_out={}, truncated={})
    for name, rows in named.items():
        rows = rows[wanted[rows]]
        units, most = lengths[rows], np.full(len(rows), context_tokens)
        footage = cuts[rows] == "frames"
        if footage.any():
            of_footage = rows[footage]
            units[footage] = store.frames_at_rate(of_footage, clips)
            room = np.maximum(0, context_tokens - words[of_footage]) // frame_tokens
            most[footage] = np.minimum(room, clips.max_frames or context_tokens)
        bounds = piece_bounds(units, most=most, may_be_cut=cuts[rows] != "never", longer=longer)
        index, size = bounds[:, 0], bounds[:, 2] - bounds[:, 1]
        found.left_out[name] = len(rows) - len(np.unique(index))
        found.truncated[name] = int(units[index].sum() - size.sum()) if longer == "truncate" else 0
        if len(bounds):
            tokens = np.where(footage[index], words[rows[index]] + size * frame_tokens, size)
            found.pieces[name] = np.column_stack([rows[index], bounds[:, 1:], tokens])
    if not found.pieces:
        raise _nothing_fits(store, mixture, lengths, context_tokens, split=split)
    return found


def _wanted(store: ExampleStore, mixture: MixtureConfig, clips: ClipConfig) -> Bool[np.ndarray, " examples"]:
    """Return which examples are of documents, and of videos, of the lengths that a mixture draws."""
    tokens, seconds = store.document_lengths(clips), store.video_seconds()
    of_tokens = _between(tokens, mixture.shortest_tokens, mixture.longest_tokens)
    of_seconds = _between(seconds, mixture.shortest_seconds, mixture.longest_seconds)
    return (of_tokens | store.shows_clips()) & (of_seconds | (seconds == 0))


def _between(
    lengths: Shaped[np.ndarray, " examples"], shortest: float, longest: float
) -> Bool[np.ndarray, " examples"]:
    """Return which lengths are between two bounds, of which the upper one is none where it is 0."""
    return (lengths >= shortest) & (lengths <= (longest or np.inf))


def _nothing_fits(
    store: ExampleStore, mixture: MixtureConfig, lengths: np.ndarray, context_tokens: int, *, split: Split
) -> InputError:
    of_split = store.column("split") == split
    there = sorted(set(zip(store.column("dataset")[of_split], store.column("kind")[of_split])))
    shortest = lengths[of_split].min() if of_split.any() else 0
    most_tokens = f" in documents of at most {mixture.longest_tokens}" if mixture.longest_tokens else ""
    seconds = (mixture.shortest_seconds, mixture.longest_seconds or np.inf)
    of_videos = f" in videos of {seconds[0]:g} to {seconds[1]:g} s" if seconds != (0, np.inf) else ""
    return InputError(
        f"no {split} example of {', '.join(mixture.ratios) or 'any kind'} has {mixture.shortest_tokens} "
        f"to {context_tokens} tokens{most_tokens}{of_videos} (the shortest of any kind has {shortest})",
        field="mixture",
        value=mixture,
        remedy="use a longer context, fewer frames a clip, another mixture or more data; there are "
        f"examples of {', '.join(f'{dataset}/{kind}' for dataset, kind in there) or 'nothing'}",
    )
