"""The batch that the train step takes, and what the packer knows of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32, Int32


class PackedBatch(NamedTuple):
    """Packed sequences, one a row: arrays of NumPy on the host, or of jax on the devices.

    Two examples, of 3 and 2 tokens, in a row of 6, every token of them carrying loss:

        tokens          7  8  9  7  5  0
        targets         8  9  0  5  0  0
        order           0  1  2  3  4 -1
        first           0  0  0  3  3  0
        text_weights   .5 .5  0  1  0  0
    """

    tokens: Int32[Any, "batch seq"]
    """Ids; 0 at padding."""
    targets: Int32[Any, "batch seq"]
    """The next id of the same example; 0 where there is none."""
    order: Int32[Any, "batch seq"]
    """Index in the packed sequence; -1 at padding, which nothing sees."""
    first: Int32[Any, "batch seq"]
    """Index at which the token's example begins; 0 at padding."""
    text_weights: Float32[Any, "batch seq"]
    """Weight of the target in the loss over text; sums to 1 over each example that has text loss."""
    vision_weights: Float32[Any, "batch seq"]
    """The same over vision codes."""


class DrawnCounts(NamedTuple):
    """How much was drawn under one name of a mixture."""

    examples: int
    """Or pieces of longer ones."""
    tokens: int


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PackedRows:
    """A packed batch on the host, with the lengths that the packer gave it."""

    batch: PackedBatch
    lengths: Sequence[Sequence[int]]
    """Of each row, the tokens of its examples in order; the rest of the row is padding."""
    drawn: Mapping[str, "DrawnCounts"] = field(default_factory=dict)
    """What is of each name of a mixture; empty where nobody mixed."""

    def split(self, parts: int) -> "list[PackedRows]":
        """Cut the rows into equally many consecutive ones; what was drawn is known of the whole alone."""
        fields = zip(*(np.split(array, parts) for array in self.batch))
        rows = len(self.lengths) // parts
        return [
            PackedRows(batch=PackedBatch(*part), lengths=self.lengths[i * rows : (i + 1) * rows])
            for i, part in enumerate(fields)
        ]
