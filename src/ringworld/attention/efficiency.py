"""How evenly a layout spreads the work of ring attention."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int64

from ringworld.attention.layouts import Placement
from ringworld.attention.work import check_lengths, work_of_chunks, work_striped
from ringworld.core.ranges import check_number

_NEVER = np.iinfo(np.int64).max


def total_balance(work: Int64[np.ndarray, "members members"]) -> float:
    """Return the mean over members of their total work over the largest: the efficiency of all-gather."""
    totals = work.sum(axis=1)
    return float(totals.mean() / max(totals.max(), 1))


def ring_work(
    lengths: Sequence[int], placement: Placement, *, block_tokens: int = 1
) -> Int64[np.ndarray, "{placement.members} {placement.members}"]:
    """Return how many (query, key) pairs are visible between the queries of a member and the keys of another.

    At step t of the ring, member m holds the keys of member (m - t) mod R; `work.efficiency_of` gives the
    share of the machine that does useful work while each step waits for its slowest member.

    Example:
        One document of 4 tokens, contiguous over 2 members: `[[3, 0], [4, 3]]`. In blocks of 2 tokens,
        `[[4, 0], [4, 4]]`.

    Args:
        lengths: tokens of each document, in order.
        placement: which member holds which token.
        block_tokens: above 1, count all pairs of every block of so many queries by so many keys in which any
            is visible, as far as the least and the largest order and first of its tokens show. That is how
            kernels skip blocks, and how long they take.

    Raises:
        InputError: the documents do not fit into the sequence, or a block has no token.
    """
    seq, members = placement.seq, placement.members
    check_number("block_tokens", block_tokens, least=1)
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
    tokens = placement.token_of_slot()

    def of_blocks(
        values: Int64[np.ndarray, " seq"], extreme: np.ufunc
    ) -> Int64[np.ndarray, "members blocks"]:
        return extreme.reduceat(values[tokens].reshape(placement.members, share), starts, axis=1)

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
