"""Which tokens of a packed sequence live on which ring member.

Correctness never depends on the layout: `order` and `first` travel with the tokens.

| layout | a member holds | good for | bad for |
|---|---|---|---|
| `contiguous` | one run of tokens | many short examples of like length | a long one |
| `zigzag` | an early and a late run | one example that fills the sequence | packed examples |
| `striped` | every R-th token (arXiv 2311.09431) | work counted in tokens | blocks, all half seen |
| `balanced` | chunks that `balance.deal` dealt | work counted in blocks, any lengths | |
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, get_args

import numpy as np
from jaxtyping import Int, Int64

from ringworld.attention.balance import CHUNK_TOKENS, deal, needed_divisor
from ringworld.attention.config import AttentionConfig, Layout, sequence_axes
from ringworld.attention.work import check_lengths
from ringworld.core.errors import InputError, not_a_choice
from ringworld.core.ranges import check_counts

MOST_TOKENS: Final = 2**31 - 1  # of a sequence: `order` and `first` have 32 bits


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Placement:
    """Which member holds which chunk of consecutive tokens; chunks are equal, and members hold as many."""

    seq: int
    """Tokens of the packed sequence."""
    members: int
    """R, the size of the ring."""
    holders: Int64[np.ndarray, " chunks"]
    """The member that holds each chunk."""

    def permutation(self) -> Int64[np.ndarray, " seq"]:
        """Return the token that each device slot holds; member m owns the m-th of R equal runs of slots."""
        chunks = np.argsort(self.holders, kind="stable")
        size = self.seq // self.holders.size
        return (chunks[:, None] * size + np.arange(size)).reshape(-1)


def place(
    layout: Layout,
    *,
    seq: int,
    members: int,
    lengths: Sequence[int] | None = None,
    chunk_tokens: int = CHUNK_TOKENS,
) -> Placement:
    """Return where the tokens of one packed sequence live.

    Example:
        For `seq=8, members=2, lengths=[4, 2, 2], chunk_tokens=1`, with a bar between the members:

        contiguous: 0 1 2 3 | 4 5 6 7
        zigzag:     0 1 6 7 | 2 3 4 5
        striped:    0 2 4 6 | 1 3 5 7
        balanced:   0 3 4 7 | 1 2 5 6

    Args:
        layout: how to place them.
        seq: tokens of the packed sequence.
        members: size of the ring.
        lengths: tokens of each example, in order; what they leave is padding. By default one example fills
            the sequence. Only `balanced` asks.
        chunk_tokens: tokens that `balanced` keeps together, best those of `config.kept_together_tokens`.

    Raises:
        InputError: the sequence does not divide into equal shares, the examples do not fit into it, or a
            number is below 1.
    """
    lengths = [seq] if lengths is None else lengths
    check_divides(layout, seq=seq, members=members)
    check_counts(chunk_tokens=chunk_tokens)
    check_lengths(lengths, seq=seq)
    ring = np.arange(members)
    match layout:
        case "contiguous":
            holders = ring
        case "zigzag":
            holders = np.concatenate([ring, ring[::-1]])
        case "striped":
            holders = np.tile(ring, seq // members)
        case "balanced":
            holders = deal(lengths, seq=seq, members=members, chunk_tokens=chunk_tokens)
    return Placement(seq=seq, members=members, holders=holders)


def permutation(
    layout: Layout, *, seq: int, members: int, lengths: Sequence[int] | None = None
) -> Int64[np.ndarray, "{seq}"]:
    """Return the token that each device slot holds: `place(...).permutation()`."""
    return place(layout, seq=seq, members=members, lengths=lengths).permutation()


def inverse(perm: Int64[np.ndarray, " seq"]) -> Int64[np.ndarray, " seq"]:
    """Return the device slot of each token: `x[perm][inverse(perm)]` is `x`."""
    slots = np.empty_like(perm)
    slots[perm] = np.arange(perm.size, dtype=np.int64)
    return slots


def example_lengths(order: Int[np.ndarray, " seq"], first: Int[np.ndarray, " seq"]) -> list[int]:
    """Return the tokens of each example of a packed sequence, before any layout.

    Example:
        order 0 1 2 3 4 -1 and first 0 0 0 3 3 0 are examples of 3 and 2 tokens.
    """
    begins = np.flatnonzero(order == first)
    return np.diff(begins, append=np.count_nonzero(order >= 0)).tolist()


def check_shares(config: AttentionConfig, *, seq: int, ring: int, ulysses: int) -> None:
    """Refuse a sequence that cannot be cut over these axes, or dealt to members whose tokens stay apart.

    Raises:
        InputError: `seq` is not a multiple of all members, or does not suit the layout.
    """
    apart = sequence_axes(config.strategy, ring=ring, ulysses=ulysses).tokens
    check_divides(config.layout, seq=seq, members=math.prod(apart))
    check_divides("contiguous", seq=seq, members=ring * ulysses)


def check_divides(layout: Layout, *, seq: int, members: int) -> None:
    """Refuse a sequence that the layout cannot cut into equal shares.

    Raises:
        InputError: there is no such layout, a number is below 1, or the sequence too long; or `seq` is not a
            multiple of `members`, or of twice that for zigzag; or for balanced, of `members` times a chunk.
    """
    if layout not in get_args(Layout):
        raise not_a_choice("layout", layout, choices=get_args(Layout))
    check_counts(seq=seq, members=members)
    if seq > MOST_TOKENS:
        raise InputError(
            what="sequence length",
            got=str(seq),
            expected=f"at most {MOST_TOKENS} tokens",
            remedy="Cut it into sequences of their own.",
        )
    parts = 2 * members if layout == "zigzag" else members
    if layout == "balanced":
        parts = needed_divisor(seq=seq, members=members)
    if seq % parts:
        raise InputError(
            what=f"sequence length for the {layout} layout",
            got=f"{seq} tokens over {members} members",
            expected=f"a multiple of {parts}",
            remedy=f"Use {-(-seq // parts) * parts} tokens, or another number of members or layout.",
        )
