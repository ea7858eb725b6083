"""Finitely many examples as one batch, packed or one to a row."""

from collections.abc import Iterable

import numpy as np

from ringworld.data.batch import PackedRows
from ringworld.data.examples import Example
from ringworld.data.packing import pack_sequences, piece_bounds, to_batch


def pieces(example: Example, *, context_tokens: int) -> list[Example]:
    """Cut an example as the loader does."""
    length = np.array([len(example)])
    bounds = piece_bounds(length, most=context_tokens, may_be_cut=example.cut == "tokens")
    return [example.part(start=start, stop=stop) for _, start, stop in bounds.tolist()]


def pack(
    examples: Iterable[Example], *, context_tokens: int, text_size: int, open_sequences: int = 16
) -> PackedRows:
    """Pack into as many rows as are needed."""
    cut = (piece for example in examples for piece in pieces(example, context_tokens=context_tokens))
    rows = list(pack_sequences(cut, context_tokens=context_tokens, open_sequences=open_sequences))
    return to_batch(rows, context_tokens=context_tokens, text_size=text_size)


def padded(examples: Iterable[Example], *, context_tokens: int, text_size: int) -> PackedRows:
    """Put each example into a row of its own: what packing must equal in loss and gradients."""
    rows = [[example] for example in examples]
    return to_batch(rows, context_tokens=context_tokens, text_size=text_size)
