"""Examples to packed sequences, with the numbers that keep them apart and count them alike.

Every example counts as it would alone in a padded row: each of the `n` text targets of an example that carry
loss has the weight `1 / n`, and the same for vision. The loss over a modality is
`sum(weight * nll) / sum(weight)`, a mean over examples.
"""

from collections.abc import Iterable, Iterator, Sequence, Sized
from typing import Generic, TypeVar

import numpy as np
from jaxtyping import Bool, Float32, Int

from ringworld.core.padding import PADDING_ORDER
from ringworld.data.batch import PackedBatch, PackedRows
from ringworld.data.examples import Example

T = TypeVar("T", bound=Sized)


class FirstFit(Generic[T]):
    """Puts each piece into the first open row with room, and closes the fullest row when none has room.

    Rows of 10 tokens, two of them open, pieces of length 6, 7, 4, 8, 9: 6 opens a row and 7 another; 4 fills
    the first, which is closed; 8 opens a row; 9 fits nowhere, so that the row of the 8 is closed for it.
    """

    def __init__(self, *, context_tokens: int, open_rows: int) -> None:
        self._context, self._open_rows = context_tokens, open_rows
        self.rows: list[list[T]] = []
        """Those that are still open."""

    def add(self, piece: T) -> list[T] | None:
        """Take one piece of at most `context_tokens`; return the row that was closed for it, if any."""
        assert 0 < len(piece) <= self._context, len(piece)
        rooms = [self._context - sum(map(len, row)) for row in self.rows]
        for index, room in enumerate(rooms):
            if len(piece) <= room:
                self.rows[index].append(piece)
                return self.rows.pop(index) if len(piece) == room else None
        if len(piece) == self._context:
            return [piece]
        self.rows.append([piece])
        return self.rows.pop(rooms.index(min(rooms))) if len(self.rows) > self._open_rows else None


def piece_bounds(
    units: Int[np.ndarray, " examples"],
    *,
    most: Int[np.ndarray, " examples"] | int,
    may_be_cut: Bool[np.ndarray, " examples"] | bool,
) -> Int[np.ndarray, "pieces 3"]:
    """Return which parts of examples go into rows: example, start and stop of each piece.

    | example | pieces |
    |---|---|
    | of at most `most` units | itself |
    | longer, and may be cut | consecutive ones of `most` units, fewer in the last |
    | longer, and may not be cut | none |
    | of which `most` is 0 | none |

    With `most=4`, examples of 6 and 3 units that may be cut give `0 0 4`, `0 4 6` and `1 0 3`; others `1 0 3`
    alone.

    Args:
        units: how long each example is: in tokens, or in frames where it is cut between frames.
        most: units of a piece.
        may_be_cut: whether an example may.
    """
    size = np.broadcast_to(np.asarray(most), units.shape)
    counts = np.where(size > 0, -(-units // np.maximum(size, 1)), 0)
    counts = np.where((counts > 1) & ~np.asarray(may_be_cut), 0, counts)
    example = np.repeat(np.arange(len(units)), counts)
    start = (np.arange(len(example)) - np.repeat(np.cumsum(counts) - counts, counts)) * size[example]
    stop = np.minimum(start + size[example], units[example])
    return np.stack([example, start, stop], axis=1)


def pack_rows(pieces: Iterable[Example], *, context_tokens: int, open_rows: int) -> Iterator[list[Example]]:
    """Yield packed rows as they fill; those that are still open follow at the end."""
    packer = FirstFit[Example](context_tokens=context_tokens, open_rows=open_rows)
    for piece in pieces:
        if row := packer.add(piece):
            yield row
    yield from packer.rows


def to_batch(rows: Sequence[Sequence[Example]], *, context_tokens: int, text_size: int) -> PackedRows:
    """Lay the examples of each row end to end.

    With `text_size=100`, rows of 12, and two examples: a question of two tokens with the answer `30 2`, and a
    request of two tokens for an image of one frame (codes 103, 100, end of vision 109), then `</vision>` 4:

        tokens          1 20 30   2  1  40 103 100 109  4  0  0
        targets        20 30  2   0 40 103 100 109   4  0  0  0
        order           0  1  2   3  4   5   6   7   8  9 -1 -1
        first           0  0  0   0  4   4   4   4   4  4  0  0
        text_weights    0 .5 .5   0  0   0   0   0   0  0  0  0
        vision_weights  0  0  0   0  0 1/3 1/3 1/3   0  0  0  0

    Args:
        rows: of each row, the examples; together at most `context_tokens` long.
        context_tokens: length of a row.
        text_size: ids from here on are vision.

    Returns:
        Arrays [len(rows), context_tokens], with the lengths of the examples.
    """
    shape = (len(rows), context_tokens)
    batch = PackedBatch(
        tokens=np.zeros(shape, np.int32),
        targets=np.zeros(shape, np.int32),
        order=np.full(shape, PADDING_ORDER, np.int32),
        first=np.zeros(shape, np.int32),
        text_weights=np.zeros(shape, np.float32),
        vision_weights=np.zeros(shape, np.float32),
    )
    for index, row in enumerate(rows):
        start = 0
        for example in row:
            _lay(example, PackedBatch(*(field[index] for field in batch)), start, text_size)
            start += len(example)
    return PackedRows(batch=batch, lengths=[[len(example) for example in row] for row in rows])


def _lay(example: Example, row: PackedBatch, start: int, text_size: int) -> None:
    stop = start + len(example)
    assert stop <= len(row.tokens), "a row overflows"
    targets, with_loss = example.tokens[1:], example.loss[1:]
    is_vision = targets >= text_size
    row.tokens[start:stop] = example.tokens
    row.targets[start : stop - 1] = targets
    row.order[start:stop] = np.arange(start, stop)
    row.first[start:stop] = start
    row.text_weights[start : stop - 1] = _shares(with_loss & ~is_vision)
    row.vision_weights[start : stop - 1] = _shares(with_loss & is_vision)


def _shares(with_loss: Bool[np.ndarray, " targets"]) -> Float32[np.ndarray, " targets"]:
    return with_loss.astype(np.float32) / np.float32(max(int(with_loss.sum()), 1))
