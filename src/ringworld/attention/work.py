"""How much of the attention of a packed sequence lies between any two members of a ring."""

from collections.abc import Iterable, Sequence
from operator import index
from typing import Literal

import numpy as np
from jaxtyping import Int64

from ringworld.core.errors import InputError


def visible_pairs(lengths: Iterable[int]) -> int:
    """Return the number of (query, key) pairs that are visible in documents of these lengths.

    Example:
        `visible_pairs([2, 3])` is 3 + 6 = 9.
    """
    exact = map(index, lengths)  # integers of NumPy would wrap
    return sum(length * (length + 1) // 2 for length in exact)


def attention_flops(pairs: int, *, heads: int, head: int, backward: bool) -> int:
    """Return the FLOPs of attention to so many visible pairs.

    Forward takes two products of a query with a key or value; backward takes five, since a kernel that keeps
    no scores recomputes them (FlashAttention-2, arXiv 2307.08691).

    Args:
        pairs: visible pairs of a query and a key.
        heads: heads of queries.
        head: size of a head.
        backward: count the gradients as well as the values.
    """
    products = 2 + 5 if backward else 2
    return 2 * products * pairs * heads * head


def check_lengths(lengths: Sequence[int], *, seq: int) -> None:
    """Refuse documents that do not fit into a packed sequence.

    Raises:
        InputError: a length is below 1, or together they exceed `seq`.
    """
    tokens, shortest = sum(lengths), min(lengths, default=1)
    if tokens > seq or shortest < 1:
        short = f"a document of {shortest} tokens" if shortest < 1 else f"documents of {tokens} tokens in all"
        raise InputError(
            f"{short} cannot be packed into a sequence of {seq} tokens",
            field="lengths",
            value=list(lengths),
            remedy="pack fewer documents, each of at least one token, or raise the context length",
        )


def work_of_chunks(
    lengths: Sequence[int],
    holders: Int64[np.ndarray, " chunks"],
    *,
    seq: int,
    members: int,
    of: Literal["pairs", "blocks"] = "pairs",
) -> Int64[np.ndarray, "{members} {members}"]:
    """Count the visible pairs of a query that one member holds and a key that another does.

    A sequence of `seq` tokens in equal chunks cuts a document into parts. A part of x tokens sees, on each
    member, x times the tokens that this member holds of earlier parts, and x (x + 1) / 2 pairs within
    itself. Time and memory are of order chunks x members; every sum is exact.

    Example:
        One document of 4 tokens in two chunks, held by members 0 and 1: `[[3, 0], [4, 3]]`; of blocks,
        `[[4, 0], [4, 4]]`.

    Args:
        lengths: tokens of each document, in order.
        holders: the member that holds each chunk.
        seq: tokens of the sequence.
        members: size of the ring.
        of: `blocks` counts every pair of two chunks between which anything is visible.
    """
    chunk_tokens = seq // holders.size
    sizes = np.asarray(lengths, dtype=np.int64)
    ends = np.cumsum(sizes)
    begins = ends - sizes
    parts = (ends - 1) // chunk_tokens - begins // chunk_tokens + 1
    document = np.repeat(np.arange(sizes.size), parts)
    first_part = np.repeat(np.cumsum(parts) - parts, parts)
    chunk = begins[document] // chunk_tokens + np.arange(document.size) - first_part
    tokens = np.minimum(ends[document], (chunk + 1) * chunk_tokens) - np.maximum(
        begins[document], chunk * chunk_tokens
    )
    own = tokens * (tokens + 1) // 2
    if of == "blocks":
        tokens = np.full_like(tokens, chunk_tokens)
        own = chunk_tokens**2 * np.diff(chunk, prepend=-1).clip(max=1)
    member = holders[chunk]
    work = np.zeros((members, members), dtype=np.int64)
    np.add.at(work, (member, member), own)

    # Documents within one chunk see no other; leaving them out bounds memory where there are many.
    cut = np.flatnonzero(parts[document] > 1)
    if cut.size:
        first_part = np.searchsorted(cut, first_part[cut])
        tokens, member = tokens[cut], member[cut]
        # 32 bits hold the tokens of any sequence; only the products need more.
        held = np.zeros((cut.size + 1, members), dtype=np.int32)
        held[np.arange(cut.size) + 1, member] = tokens
        np.cumsum(held, axis=0, out=held)
        seen = (held[:-1] - held[first_part]) * tokens[:, None]
        by_member = np.argsort(member, kind="stable")
        present, at = np.unique(member[by_member], return_index=True)
        work[present] += np.add.reduceat(seen[by_member], at, axis=0)
    return work


def work_striped(lengths: Sequence[int], *, members: int) -> Int64[np.ndarray, "{members} {members}"]:
    """Count the same where every R-th token of the sequence belongs to the same member.

    Counted from the member of a document's first token, member i holds c of its tokens, and the k-th of these
    (from 0) sees k + 1 tokens of a member up to i, and k of one after it: c (c - 1) / 2 pairs in all, and c
    more where the keys' member is not after i. So time does not depend on the tokens.

    Example:
        One document of 3 tokens over 2 members: `[[3, 1], [1, 1]]`.
    """
    sizes = np.asarray(lengths, dtype=np.int64)
    offset = np.arange(members)
    held = (sizes[:, None] - offset + members - 1) // members
    begin = (np.cumsum(sizes) - sizes) % members
    work = np.zeros((members, members), dtype=np.int64)
    for one in np.unique(begin):
        c = held[begin == one]
        at_least, more = (c * (c - 1) // 2).sum(axis=0), c.sum(axis=0)
        between = at_least[:, None] + np.where(offset <= offset[:, None], more[:, None], 0)
        holder = (one + offset) % members
        work[np.ix_(holder, holder)] += between
    return work


def by_step(work: Int64[np.ndarray, "members members"]) -> Int64[np.ndarray, "members members"]:
    """Return the work of each member at each step: at step t, member m holds the keys of (m - t) mod R."""
    member = np.arange(len(work))
    return work[member[:, None], (member[:, None] - member) % len(work)]


def efficiency_of(work: Int64[np.ndarray, "members members"], lengths: Sequence[int]) -> float:
    """Return the visible pairs over R x the sum over steps of the slowest member's work.

    It is 0 where there are no pairs.
    """
    return visible_pairs(lengths) / max(len(work) * int(by_step(work).max(axis=0).sum()), 1)
