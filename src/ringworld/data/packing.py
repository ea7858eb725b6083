"""Examples to packed sequences, with the numbers that keep them apart and count them alike.

Every example counts as it would alone in a padded sequence: each of the `n` text targets of an example that
carry loss has the weight `1 / n`, and the same for vision. The loss over a modality is
`sum(weight * nll) / sum(weight)`, a mean over examples. By option each target counts alike instead.
"""

from collections.abc import Iterable, Iterator, Sequence, Sized
from typing import Generic, Literal, TypeVar

import numpy as np
from jaxtyping import Bool, Int

from ringworld.core.padding import PADDING_ORDER
from ringworld.data.batch import PackedBatch, PackedRows
from ringworld.data.config import Longer
from ringworld.data.examples import Example

T = TypeVar("T", bound=Sized)


class Packer(Generic[T]):
    """Puts each piece into an open sequence with room, and closes the fullest when none has room.

    Sequences of 10 tokens, two of them open, pieces of length 6, 7, 4, 8, 9: 6 opens a sequence and 7
    another; 4 fills the first, which is closed; 8 opens one; 9 fits nowhere, so that the sequence of the 8 is
    closed for it. Where one has room for 4 and the next for 3, a piece of 3 goes into the one by first fit,
    and into the next, which it fills, by best fit.
    """

    def __init__(
        self, *, context_tokens: int, open_sequences: int, fit: Literal["first", "best"] = "first"
    ) -> None:
        self._context, self._most_open, self._fit = context_tokens, open_sequences, fit
        self._sequences: list[list[T]] = []
        self._rooms: list[int] = []

    @property
    def sequences(self) -> Sequence[Sequence[T]]:
        """Those that are still open."""
        return self._sequences

    def resume(self, sequences: Iterable[Sequence[T]]) -> None:
        """Continue with these open sequences."""
        self._sequences = [list(pieces) for pieces in sequences]
        self._rooms = [self._context - sum(map(len, pieces)) for pieces in self._sequences]

    def add(self, piece: T) -> list[T] | None:
        """Take one piece of at most `context_tokens`; return the sequence that was closed for it, if any."""
        tokens, rooms = len(piece), self._rooms
        assert 0 < tokens <= self._context, tokens
        fitting = [(room, index) for index, room in enumerate(rooms) if room >= tokens]
        if fitting:
            index = fitting[0][1] if self._fit == "first" else min(fitting)[1]
            self._sequences[index].append(piece)
            rooms[index] -= tokens
            return None if rooms[index] else self._close(index)
        if tokens == self._context:
            return [piece]
        self._sequences.append([piece])
        rooms.append(self._context - tokens)
        return self._close(rooms.index(min(rooms[:-1]))) if len(rooms) > self._most_open else None

    def _close(self, index: int) -> list[T]:
        del self._rooms[index]
        return self._sequences.pop(index)


def piece_bounds(
    units: Int[np.ndarray, " examples"],
    *,
    most: Int[np.ndarray, " examples"] | int,
    may_be_cut: Bool[np.ndarray, " examples"] | bool,
    longer: Longer = "split",
) -> Int[np.ndarray, "pieces 3"]:
    """Return which parts of examples are packed: example, start and stop of each piece.

    | example | pieces |
    |---|---|
    | of at most `most` units | itself |
    | longer, and may be cut | consecutive ones of `most` units, fewer in the last; or as `longer` says |
    | longer, and may not be cut | none |
    | of which `most` is 0 | none |

    With `most=4`, examples of 6 and 3 units that may be cut give `0 0 4`, `0 4 6` and `1 0 3`; others `1 0 3`
    alone.

    Args:
        units: how long each example is: in tokens, or in frames where it is cut between frames.
        most: units of a piece.
        may_be_cut: whether an example may.
        longer: whether such a one has several pieces, the first of them alone, or none.
    """
    size = np.broadcast_to(np.asarray(most), units.shape)
    counts = np.where(size > 0, -(-units // np.maximum(size, 1)), 0)
    counts = np.where((counts > 1) & ~np.asarray(may_be_cut), 0, counts)
    if longer != "split":
        counts = np.where(counts > 1, int(longer == "truncate"), counts)
    example = np.repeat(np.arange(len(units)), counts)
    start = (np.arange(len(example)) - np.repeat(np.cumsum(counts) - counts, counts)) * size[example]
    stop = np.minimum(start + size[example], units[example])
    return np.stack([example, start, stop], axis=1)


def pack_sequences(
    pieces: Iterable[Example],
    *,
    context_tokens: int,
    open_sequences: int,
    fit: Literal["first", "best"] = "first",
) -> Iterator[list[Example]]:
    """Yield packed sequences as they fill; those that are still open follow at the end."""
    packer = Packer[Example](context_tokens=context_tokens, open_sequences=open_sequences, fit=fit)
    for piece in pieces:
        if closed := packer.add(piece):
            yield closed
    yield from map(list, packer.sequences)


def to_batch(
    sequences: Sequence[Sequence[Example]],
    *,
    context_tokens: int,
    text_size: int,
    weights: Literal["example", "token"] = "example",
) -> PackedRows:
    """Lay the examples of each packed sequence end to end, one to a row of the batch.

    With `text_size=100`, a sequence of 12, and two examples: a question of two tokens with the answer `30 2`,
    and a request of two tokens for an image of one frame (codes 103, 100, end of vision 109), then
    `</vision>` 4:

        tokens          1 20 30   2  1  40 103 100 109  4  0  0
        targets        20 30  2   0 40 103 100 109   4  0  0  0
        order           0  1  2   3  4   5   6   7   8  9 -1 -1
        first           0  0  0   0  4   4   4   4   4  4  0  0
        text_weights    0 .5 .5   0  0   0   0   0   0  0  0  0
        vision_weights  0  0  0   0  0 1/3 1/3 1/3   0  0  0  0

    Args:
        sequences: of each, the examples; together at most `context_tokens` long.
        context_tokens: length of a packed sequence.
        text_size: ids from here on are vision.
        weights: whether the weights of an example sum to 1, as above, or each is 1.

    Returns:
        Arrays [len(sequences), context_tokens], with the lengths of the examples.
    """
    shape = (len(sequences), context_tokens)
    batch = PackedBatch(
        tokens=np.zeros(shape, np.int32),
        targets=np.zeros(shape, np.int32),
        order=np.full(shape, PADDING_ORDER, np.int32),
        first=np.zeros(shape, np.int32),
        text_weights=np.zeros(shape, np.float32),
        vision_weights=np.zeros(shape, np.float32),
    )
    for index, examples in enumerate(sequences):
        if examples:
            _lay(examples, PackedBatch(*(field[index] for field in batch)), text_size, weights)
    return PackedRows(batch=batch, lengths=[list(map(len, examples)) for examples in sequences])


def _lay(
    examples: Sequence[Example], into: PackedBatch, text_size: int, weights: Literal["example", "token"]
) -> None:
    lengths = np.array([len(example) for example in examples])
    stops = np.cumsum(lengths)
    starts, used = stops - lengths, int(stops[-1])
    assert used <= len(into.tokens), "a packed sequence overflows"
    np.concatenate([example.tokens for example in examples], out=into.tokens[:used])
    into.targets[: used - 1] = into.tokens[1:used]
    into.targets[stops - 1] = 0
    into.order[:used] = np.arange(used)
    into.first[:used] = np.repeat(starts, lengths)
    with_loss = np.zeros(used, bool)
    np.concatenate([example.loss for example in examples], out=with_loss)
    with_loss[:-1], with_loss[stops - 1] = with_loss[1:], False
    is_vision = into.targets[:used] >= text_size
    for counted, shares in (
        (with_loss & ~is_vision, into.text_weights),
        (with_loss & is_vision, into.vision_weights),
    ):
        shares[:used] = counted
        if weights == "example":
            targets = np.add.reduceat(counted, starts, dtype=np.int64)
            shares[:used] *= np.repeat(np.float32(1) / np.maximum(targets, 1).astype(np.float32), lengths)
