"""How evenly a layout spreads the work of ring attention."""

from collections.abc import Sequence
from operator import index

import numpy as np
from jaxtyping import Int64, Integer

from ringworld.attention.balance import CHUNK_TOKENS
from ringworld.attention.config import Layout
from ringworld.attention.layouts import Placement, place
from ringworld.attention.work import check_lengths, efficiency_of, work_of_chunks, work_striped
from ringworld.core.ranges import check_counts

_NEVER = np.iinfo(np.int64).max


def ring_efficiency(
    lengths: Sequence[int] | Integer[np.ndarray, " examples"],
    layout: Layout,
    *,
    members: int,
    seq: int | None = None,
    block_tokens: int = 1,
    chunk_tokens: int = CHUNK_TOKENS,
) -> float:
    """Return the share of the machine that does useful work while each step waits for its slowest member.

    It is the total work over R x the sum over steps of the work of the slowest member. Work is the number of
    visible (query, key) pairs; at step t of the ring, member m holds the keys of member (m - t) mod R.

    With `block_tokens` above 1 a member takes as long as a kernel does that computes whole blocks of so many
    queries by so many keys. What is useful is counted in pairs all the same, so blocks that are half seen
    count against the layout.

    Args:
        lengths: tokens of each example of one packed sequence, in order; what they leave of `seq` is padding.
        layout: which tokens lie on which member.
        members: R, the size of the ring.
        seq: tokens of the packed sequence with padding; the sum of `lengths` by default.
        block_tokens: side of a block of the kernel.
        chunk_tokens: as for `layouts.place`.

    Raises:
        InputError: the layout does not divide `seq`, the examples do not fit into it, or a number is below 1.
    """
    lengths = list(map(index, lengths))
    seq = sum(lengths) if seq is None else seq
    placement = place(layout, seq=seq, members=members, lengths=lengths, chunk_tokens=chunk_tokens)
    return efficiency_of(ring_work(lengths, placement, block_tokens=block_tokens), lengths)


def total_balance(work: Int64[np.ndarray, "members members"]) -> float:
    """Return the mean over members of their work in all steps over the largest: what all-gather waits for."""
    totals = work.sum(axis=1)
    return float(totals.mean() / max(totals.max(), 1))


def ring_work(
    lengths: Sequence[int], placement: Placement, *, block_tokens: int = 1
) -> Int64[np.ndarray, "{placement.members} {placement.members}"]:
    """Return how many (query, key) pairs are visible between the queries of a member and the keys of another.

    Example:
        One example of 4 tokens, contiguous over 2 members: `[[3, 0], [4, 3]]`. In blocks of 2 tokens,
        `[[4, 0], [4, 4]]`.

    Args:
        lengths: tokens of each example, in order.
        placement: which member holds which token.
        block_tokens: above 1, pairs of every block in which any is visible, as far as the least and the
            largest order and first of its tokens tell, which is how kernels skip blocks.

    Raises:
        InputError: the examples do not fit into the sequence, or a block has no token.
    """
    seq, members = placement.seq, placement.members
    check_counts(block_tokens=block_tokens)
    check_lengths(lengths, seq=seq)
    if block_tokens > 1:
        return _work_in_blocks(lengths, placement, block_tokens=block_tokens)
    if placement.holders.size == seq and np.array_equal(placement.holders, np.arange(seq) % members):
        return work_striped(lengths, members=members)
    return work_of_chunks(lengths, placement.holders, seq=seq, members=members)


def _work_in_blocks(
    lengths: Sequence[int], placement: Placement, *, block_tokens: int
) -> Int64[np.ndarray, "{placement.members} {placement.members}"]:
    sizes = np.asarray(lengths, dtype=np.int64)
    order, first = np.arange(placement.seq), np.full(placement.seq, _NEVER)
    first[: sizes.sum()] = np.repeat(np.cumsum(sizes) - sizes, sizes)
    padding = first == _NEVER
    share = placement.seq // placement.members
    block_tokens = min(block_tokens, share)
    starts = np.arange(0, share, block_tokens)
    perm = placement.permutation()

    def of_blocks(
        values: Int64[np.ndarray, " seq"], extreme: np.ufunc
    ) -> Int64[np.ndarray, "members blocks"]:
        return extreme.reduceat(values[perm].reshape(placement.members, share), starts, axis=1)

    first_seen = of_blocks(first, np.minimum)
    last_query = of_blocks(np.where(padding, -1, order), np.maximum)
    first_key = of_blocks(np.where(padding, _NEVER, order), np.minimum)
    live = [
        ((first_seen[m][:, None, None] <= last_query) & (first_key <= last_query[m][:, None, None])).sum(
            axis=(0, 2)
        )
        for m in range(placement.members)
    ]
    return np.array(live) * block_tokens**2
