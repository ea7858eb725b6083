"""Which tokens of a packed sequence live on which ring member, and how evenly that spreads the work.

Correctness never depends on the layout: `order` and `first` travel with the tokens. Zigzag balances one long
causal sequence (each member holds an early and a late chunk); striped balances any mixture of lengths at a
block size of one token (Striped Attention, arXiv 2311.09431) at the price of blocks that are all half
visible.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int64

from ringworld.attention.config import Layout
from ringworld.core.errors import InputError


def permutation(layout: Layout, *, seq: int, members: int) -> Int64[np.ndarray, "{seq}"]:
    """Return the token that each device slot holds; member m owns the m-th of `members` equal runs of slots.

    Example:
        For `seq=8, members=2`, with a bar between the members:

        contiguous: 0 1 2 3 | 4 5 6 7
        zigzag:     0 1 6 7 | 2 3 4 5
        striped:    0 2 4 6 | 1 3 5 7

    Raises:
        InputError: the sequence does not divide into equal shares.
    """
    check_divides(layout, seq=seq, members=members)
    tokens = np.arange(seq, dtype=np.int64)
    if layout == "contiguous":
        return tokens
    if layout == "striped":
        return tokens.reshape(-1, members).T.reshape(-1)
    chunks = tokens.reshape(2 * members, -1)
    early, late = chunks[:members], chunks[members:][::-1]
    return np.stack([early, late], axis=1).reshape(-1)


def inverse(perm: Int64[np.ndarray, " seq"]) -> Int64[np.ndarray, " seq"]:
    """Return the device slot of each token: `x[perm][inverse(perm)]` is `x`."""
    slots = np.empty_like(perm)
    slots[perm] = np.arange(perm.size, dtype=np.int64)
    return slots


def check_divides(layout: Layout, *, seq: int, members: int) -> None:
    """Refuse a sequence that the layout cannot cut into equal shares.

    Raises:
        InputError: `seq` is not a multiple of `members`, or of twice that for zigzag.
    """
    parts = 2 * members if layout == "zigzag" else members
    if seq % parts:
        raise InputError(
            what=f"sequence length for the {layout} layout",
            got=f"{seq} tokens over {members} ring members",
            expected=f"a multiple of {parts}",
            remedy=f"Use {-(-seq // parts) * parts} tokens, or another ring size or layout.",
        )


def ring_efficiency(lengths: Sequence[int], layout: Layout, *, members: int, seq: int | None = None) -> float:
    """Return the share of the machine that works while the slowest member of each step is waited for.

    It is the total work over R x the sum over steps of the work of the slowest member. Work is the number of
    visible (query, key) pairs; at step t of the ring, member m holds the keys of member (m - t) mod R.

    Args:
        lengths: tokens of each example of one packed sequence, in order; what they leave of `seq` is padding.
        layout: which tokens lie on which member.
        members: R, the size of the ring.
        seq: tokens of the packed sequence with padding; the sum of `lengths` by default.

    Raises:
        InputError: the layout does not divide `seq`, or the examples do not fit into it.
    """
    work = ring_work(lengths, layout, members=members, seq=seq)
    step = (np.arange(members)[:, None] - np.arange(members)) % members
    slowest = np.array([work[step == t].max() for t in range(members)])
    return float(work.sum() / max(members * slowest.sum(), 1))


def ring_work(
    lengths: Sequence[int], layout: Layout, *, members: int, seq: int | None = None
) -> Int64[np.ndarray, "{members} {members}"]:
    """Return how many (query, key) pairs are visible between the queries of a member and the keys of another.

    A query at place i of an example that begins at f sees, on a member, as many keys as that member has
    tokens in [f, i]: a difference of two entries of a running count. Time and memory are of order seq x
    members.

    Example:
        One example of 4 tokens, contiguous over 2 members: `[[3, 0], [4, 3]]`.
    """
    tokens = sum(lengths)
    seq = tokens if seq is None else seq
    if tokens > seq or min(lengths, default=1) < 1:
        raise InputError(
            what="example lengths",
            got=f"{tokens} tokens in all, the shortest {min(lengths, default=0)}",
            expected=f"lengths of at least 1 that fill {seq} tokens at most",
            remedy="Pack fewer examples, or raise the context length.",
        )
    member = inverse(permutation(layout, seq=seq, members=members)) // (seq // members)
    sizes = np.asarray(lengths, dtype=np.int64)
    first = np.repeat(np.cumsum(sizes) - sizes, sizes)
    work = np.empty((members, members), dtype=np.int64)
    for keys in range(members):
        held = np.concatenate([[0], np.cumsum(member[:tokens] == keys)])
        seen = held[1:] - held[first]
        work[:, keys] = np.bincount(member[:tokens], weights=seen, minlength=members)
    return work
