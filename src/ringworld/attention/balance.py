"""The `balanced` layout: chunks of tokens, dealt so that no step of the ring waits for one of its members.

The work of a ring is a table: visible pairs between the queries of one member and the keys of another. Each
step is a diagonal of it, and lasts as long as its largest entry. So the entries of a diagonal should be
equal, while all members hold as many tokens.

1. A long document, cut into 2 R pieces that go to members 0, 1, ... R-1, R-1, ... 1, 0, makes all entries
   equal: zigzag, for each document separately.
2. The rest of it, and shorter documents, are dealt chunk by chunk, the longest document first. A chunk goes
   to the member with the least work so far on the keys that the chunk will see, those of its document dealt
   before it. A candidate's cost also counts the work on its own keys, in proportion to how much of the
   document is still to come and will see them, and the chunks that it has.
3. Dealing leaves some member of each step with one chunk more than others. Where documents are so short that
   this matters, they may be better left side by side, in R runs, with work in the first step alone. Members
   with more work then exchange stretches of chunks with those that have less, where few pairs are cut.

A chunk is the largest side of a block of the kernel (`config.kept_together_tokens`), so that there are no
more blocks with something visible than in the sequence itself, as far as the shares of members allow. Sums
are exact whatever the order of addition, so that all hosts find the same layout.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Int64

from ringworld.attention.work import efficiency_of, work_of_chunks
from ringworld.core.divisors import largest_divisor

CHUNK_TOKENS = 256
_WANTED_CHUNKS, _MOST_CHUNKS = 4096, 16384
_UNITS = 16  # of a chunk: coarse enough for float64 to hold every sum
_LEFT_BY_DEALING = 0.5  # pairs of chunks that the slowest of a step has above the mean, at best
_FAIR = 0.75  # efficiency of runs above which exchanging stretches may be enough
_KEPT_BLOCKS = 0.9
_STRETCHES = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32)  # in chunks
_EXCHANGES = 4  # a member
_NOBODY = -1


def chunk_size(*, seq: int, members: int, chunk_tokens: int = CHUNK_TOKENS) -> int:
    """Return the tokens of a chunk: the largest divisor of a member's share up to `chunk_tokens`.

    A member has two chunks at least, and a sequence of more than 4,096 chunks has longer ones, so that
    dealing them takes no longer.

    | seq | members | chunk_tokens | chunk |
    |---|---|---|---|
    | 1M | 64 | 256 | 256 |
    | 4M | 64 | 256 | 1024 |
    | 3,000 | 3 | 256 | 250 |
    | 64 | 8 | 256 | 4 |
    """
    assert seq % members == 0, (seq, members)
    share = seq // members
    largest = min(_largest_chunk(seq, chunk_tokens), max(share // 2, 1))
    return largest_divisor(share, limit=largest)


def needed_divisor(*, seq: int, members: int) -> int:
    """Return what a sequence must be a multiple of: the members, or their product with a chunk.

    The second where no divisor of a share is a useful chunk: one of 16,411 tokens, a prime, would be dealt
    token by token.
    """
    if seq % members == 0 and seq // chunk_size(seq=seq, members=members) > _MOST_CHUNKS:
        return members * _largest_chunk(seq, CHUNK_TOKENS)
    return members


def _largest_chunk(seq: int, chunk_tokens: int) -> int:
    return chunk_tokens * -(-seq // (chunk_tokens * _WANTED_CHUNKS))


def deal(
    lengths: Sequence[int], *, seq: int, members: int, chunk_tokens: int = CHUNK_TOKENS
) -> Int64[np.ndarray, " chunks"]:
    """Return the member that holds each chunk of the sequence; every member holds as many.

    Example:
        Three documents of 4, 2 and 2 chunks over 2 members. The first is dealt in zigzag. In the second the
        queries of member 1 see keys of member 0, so in the third it is the other way round:

        0 1 1 0 | 0 1 | 1 0

    Args:
        lengths: tokens of each document of the packed sequence, in order; the rest is padding.
        seq: tokens of the packed sequence.
        members: size of the ring.
        chunk_tokens: most tokens of a chunk, except in very long sequences.
    """
    size = chunk_size(seq=seq, members=members, chunk_tokens=chunk_tokens)
    documents, chunks = np.asarray(lengths, np.int64), seq // size

    def efficiency(holders: Int64[np.ndarray, " _"], *, of: Literal["pairs", "blocks"] = "pairs") -> float:
        return efficiency_of(work_of_chunks(lengths, holders, seq=seq, members=members, of=of), lengths)

    runs = np.repeat(np.arange(members), chunks // members)
    as_it_is = efficiency(np.arange(members))
    candidates = [runs]
    chunk_pairs = (documents * (documents + 1) // 2).sum() / (members * size**2)
    if as_it_is < chunk_pairs / (chunk_pairs + _LEFT_BY_DEALING * members):
        candidates.append(_Dealer(members=members, chunks=chunks).deal(documents, chunk_tokens=size))
    if as_it_is >= _FAIR:
        evened = _evened_runs(documents, chunks=chunks, members=members, chunk_tokens=size)
        if efficiency(evened, of="blocks") >= _KEPT_BLOCKS * efficiency(runs, of="blocks"):
            candidates.append(evened)
    return max(candidates, key=efficiency)


class _Dealer:
    """The chunks of each member, and the work between members, while documents are dealt.

    Sizes are in units of a sixteenth of a chunk, work in their squares.
    """

    def __init__(self, *, members: int, chunks: int) -> None:
        self._members, self._share = members, chunks // members
        self._holders = np.full(chunks, _NOBODY)
        self._room = np.full(members, self._share)
        self._work = np.zeros((members, members))  # of queries, on keys
        self._on_keys = np.zeros(members)  # the same, summed over queries
        self._own = np.zeros(members)  # of queries on keys of the same chunk; infinite once a member is full

    def deal(
        self, lengths: Int64[np.ndarray, " documents"], *, chunk_tokens: int
    ) -> Int64[np.ndarray, " chunks"]:
        ends = np.cumsum(lengths)
        begins = ends - lengths
        start, last = begins // chunk_tokens, (ends - 1) // chunk_tokens
        lead = _in_units((start + 1) * chunk_tokens - begins, chunk_tokens)
        tail = _in_units(ends - last * chunk_tokens, chunk_tokens)
        long = np.flatnonzero((lengths > chunk_tokens) & (last > start))
        for i in long[np.argsort(-lengths[long], kind="stable")].tolist():
            whole = [_UNITS] * int(last[i] - start[i] - 1)
            self._deal_document(self._holders[start[i] : last[i] + 1], [int(lead[i]), *whole, int(tail[i])])
        self._holders[self._holders == _NOBODY] = np.repeat(np.arange(self._members), self._room)
        return self._holders

    def _deal_document(self, holders: Int64[np.ndarray, " chunks"], sizes: list[int]) -> None:
        """Fill in who holds the chunks of one document; neighboring documents may have dealt its ends."""
        if len(sizes) >= max(2 * self._members, self._share // 2):
            self._deal_in_zigzag(holders)
        work, on_keys, own, room = self._work, self._on_keys, self._own, self._room
        held, to_come = np.zeros(self._members), sum(sizes)
        for chunk, (size, member) in enumerate(zip(sizes, holders.tolist())):
            to_come -= size
            if member == _NOBODY:
                cost = work @ held
                cost += (to_come / self._members) * on_keys
                cost += (size / 2) * own
                member = int(cost.argmin())
                holders[chunk] = member
                room[member] -= 1
                if not room[member]:
                    own[member] = np.inf
            seen = size * held
            seen[member] += size * size / 2
            work[member] += seen
            on_keys += seen
            own[member] += size * size / 2
            held[member] += size

    def _deal_in_zigzag(self, holders: Int64[np.ndarray, " chunks"]) -> None:
        """Deal all but the last few chunks, in pieces of equal size."""
        free = np.flatnonzero(holders == _NOBODY)
        pieces = 2 * self._members
        size = min(free.size // pieces, int(self._room.min()) // 2)
        piece = np.arange(size * pieces) // max(size, 1)
        holders[free[: piece.size]] = np.minimum(piece, pieces - 1 - piece)
        self._room -= 2 * size
        self._own[self._room == 0] = np.inf


def _in_units(tokens: Int64[np.ndarray, " _"], chunk_tokens: int) -> Int64[np.ndarray, " _"]:
    return np.maximum((tokens * _UNITS + chunk_tokens // 2) // chunk_tokens, 1)


def _evened_runs(
    lengths: Int64[np.ndarray, " documents"], *, chunks: int, members: int, chunk_tokens: int
) -> Int64[np.ndarray, " chunks"]:
    """Give each member a run of chunks, and exchange stretches until all have about as much work."""
    ends = np.cumsum(lengths)
    borders = np.minimum(np.arange(chunks + 1) * chunk_tokens, ends[-1])
    document = np.minimum(np.searchsorted(ends, borders, side="right"), lengths.size - 1)
    before = borders - (ends - lengths)[document]
    # Visible pairs that a cut at each border separates, and those of the queries between two borders.
    parted = before * (ends[document] - borders)
    pairs = lengths * (lengths + 1) // 2
    work = np.diff((np.cumsum(pairs) - pairs)[document] + before * (before + 1) // 2)

    held = np.arange(chunks).reshape(members, -1)
    load = work[held].sum(axis=1)
    for _ in range(_EXCHANGES * members):
        most, least = int(load.argmax()), int(load.argmin())
        exchange = _best_exchange(held[most], held[least], work=work, parted=parted)
        if exchange is None:
            break
        here, there = exchange
        held[most, here], held[least, there] = held[least, there].copy(), held[most, here].copy()
        held[[most, least]] = np.sort(held[[most, least]], axis=1)
        load[[most, least]] = work[held[[most, least]]].sum(axis=1)
    holders = np.empty(chunks, np.int64)
    holders[held] = np.arange(members)[:, None]
    return holders


def _best_exchange(
    more: Int64[np.ndarray, " share"],
    less: Int64[np.ndarray, " share"],
    *,
    work: Int64[np.ndarray, " chunks"],
    parted: Int64[np.ndarray, " borders"],
) -> tuple[slice, slice] | None:
    """Return the stretches of two members' chunks whose exchange brings their work closest, if any does.

    A pair that an exchange separates counts twice: it is missing in one step, and waited for in another.
    """
    gap = int(work[more].sum() - work[less].sum()) // 2
    best, found = gap, None
    for size in _STRETCHES:
        if size > more.size // 2:
            break
        given, taken = (_stretches(chunks, size, work=work, parted=parted) for chunks in (more, less))
        left = abs(given[0][:, None] - taken[0] - gap) + 2 * (given[1][:, None] + taken[1])
        i, j = np.unravel_index(left.argmin(), left.shape)
        if left[i, j] < best:
            best, found = left[i, j], (slice(int(i), int(i) + size), slice(int(j), int(j) + size))
    return found


def _stretches(
    chunks: Int64[np.ndarray, " share"],
    size: int,
    *,
    work: Int64[np.ndarray, " chunks"],
    parted: Int64[np.ndarray, " borders"],
) -> tuple[Int64[np.ndarray, " stretches"], Int64[np.ndarray, " stretches"]]:
    """Return the work of all stretches of so many of a member's chunks, and the pairs that each parts."""
    total = np.cumsum(np.concatenate([[0], work[chunks]]))
    last = size - 1
    return total[size:] - total[:-size], parted[chunks[: chunks.size - last]] + parted[chunks[last:] + 1]
