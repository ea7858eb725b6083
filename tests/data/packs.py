"""Finitely many examples as one batch, packed or one to a row."""

from collections.abc import Iterable

import numpy as np

from ringworld.data.batch import PackedBatch
from ringworld.data.examples import Example
from ringworld.data.packing import pack_rows, to_batch


def pack(
    examples: Iterable[Example], *, context_tokens: int, text_size: int, open_rows: int = 16
) -> PackedBatch[np.ndarray]:
    """Pack into as many rows as are needed."""
    rows = list(pack_rows(examples, context_tokens=context_tokens, open_rows=open_rows))
    return to_batch(rows, context_tokens=context_tokens, text_size=text_size)


def padded(examples: Iterable[Example], *, context_tokens: int, text_size: int) -> PackedBatch[np.ndarray]:
    """Put each example into a row of its own: what packing must equal in loss and gradients."""
    rows = [[example] for example in examples]
    return to_batch(rows, context_tokens=context_tokens, text_size=text_size)
