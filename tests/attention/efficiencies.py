"""The efficiency of a layout in one call, for tests."""

from collections.abc import Sequence

from ringworld.attention.balance import CHUNK_TOKENS
from ringworld.attention.config import LayoutName
from ringworld.attention.efficiency import ring_work
from ringworld.attention.layouts import place
from ringworld.attention.work import efficiency_of


def ring_efficiency(
    lengths: Sequence[int],
    layout: LayoutName,
    *,
    members: int,
    seq: int | None = None,
    block_tokens: int = 1,
    chunk_tokens: int = CHUNK_TOKENS,
) -> float:
    """Return the share of the machine that does useful work while each step waits for its slowest member."""
    seq = sum(lengths) if seq is None else seq
    placement = place(layout, seq=seq, members=members, lengths=lengths, chunk_tokens=chunk_tokens)
    return efficiency_of(ring_work(lengths, placement, block_tokens=block_tokens), lengths)
