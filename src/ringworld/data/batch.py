"""The batch that the train step takes."""

from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

ArrayT = TypeVar("ArrayT")


class PackedBatch(NamedTuple, Generic[ArrayT]):
    """Packed sequences, one a row; every field is [batch, seq], NumPy on the host or jax on the devices.

    Two examples, of 3 and 2 tokens, in a row of 6, every token of them carrying loss:

        tokens          7  8  9  7  5  0
        targets         8  9  0  5  0  0
        order           0  1  2  3  4 -1
        first           0  0  0  3  3  0
        text_weights   .5 .5  0  1  0  0
    """

    tokens: ArrayT
    """int32 ids; 0 at padding."""
    targets: ArrayT
    """int32: the next id of the same example; 0 where there is none."""
    order: ArrayT
    """int32: index in the packed sequence; -1 at padding, which nothing sees."""
    first: ArrayT
    """int32: index at which the token's example begins; 0 at padding."""
    text_weights: ArrayT
    """float32: weight of the target in the loss over text; sums to 1 over each example that has text loss."""
    vision_weights: ArrayT
    """float32: the same over vision codes."""


if not TYPE_CHECKING:
    # beartype cannot check a generic NamedTuple; a plain one can be checked, and be subscripted all the same.
    _doc = PackedBatch.__doc__
    PackedBatch = NamedTuple("PackedBatch", list(PackedBatch.__annotations__.items()))
    PackedBatch.__doc__ = _doc
