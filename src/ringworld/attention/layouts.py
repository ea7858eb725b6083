"""Which tokens of a packed sequence live on which member of the ring, without importing jax.

Correctness never depends on the layout: `order` and `first` travel with the tokens.

| layout | a member holds | good for | bad for |
|---|---|---|---|
| `contiguous` | one run of tokens | many short documents of similar length | a long one |
| `zigzag` | an early and a late run | one document that fills the sequence | packed documents |
| `striped` | every R-th token (arXiv 2311.09431) | work counted in tokens | blocks, all half visible |
| `balanced` | chunks that `balance.deal` dealt | work counted in blocks, any lengths | |
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, get_args

import numpy as np
from jaxtyping import Int64

from ringworld.attention.balance import CHUNK_TOKENS, deal, needed_divisor
from ringworld.attention.config import AttentionConfig, LayoutName, kept_together_tokens, sequence_axes
from ringworld.attention.work import check_lengths
from ringworld.core.errors import InputError, not_a_choice
from ringworld.core.ranges import check_number

MOST_TOKENS: Final = 2**31 - 1  # of a sequence: `order` and `first` have 32 bits


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Placement:
    """Which member holds which chunk of consecutive tokens; all chunks, and all shares, are equally long.

    Example:
        Two members and the zigzag layout: member 0 holds tokens 0 1 6 7, and member 1 holds 2 3 4 5, so that
        `token_of_slot` is 0 1 6 7 2 3 4 5 and `slot_of_token` is 0 1 4 5 6 7 2 3.
    """

    seq: int
    """Tokens of the packed sequence."""
    members: int
    """R, the size of the ring."""
    holders: Int64[np.ndarray, " chunks"]
    """The member that holds each chunk."""

    def token_of_slot(self) -> Int64[np.ndarray, " seq"]:
        """Return the token that each device slot holds; member m owns the m-th of R equal runs of slots."""
        chunks = np.argsort(self.holders, kind="stable")
        size = self.seq // self.holders.size
        return (chunks[:, None] * size + np.arange(size)).reshape(-1)

    def slot_of_token(self) -> Int64[np.ndarray, " seq"]:
        """Return the device slot of each token, which brings what is laid out back into order."""
        return np.argsort(self.token_of_slot(), kind="stable")


def place(
    layout: LayoutName,
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
        lengths: tokens of each document, in order; the rest is padding. By default one document fills the
            sequence. Only `balanced` uses them.
        chunk_tokens: tokens that `balanced` keeps together, best those of `config.kept_together_tokens`.

    Raises:
        InputError: the sequence does not divide into equal shares, the documents do not fit into it, or a
            number is below 1.
    """
    lengths = [seq] if lengths is None else lengths
    check_divides(layout, seq=seq, members=members)
    check_number("chunk_tokens", chunk_tokens, least=1)
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


def place_rows(
    lengths: Sequence[Sequence[int]],
    config: AttentionConfig,
    *,
    seq: int,
    ring: int,
    ulysses: int,
    platform: str,
) -> list[Placement]:
    """Return where the tokens of each row of a batch live on a mesh.

    Only members whose tokens stay apart count: devices that exchange tokens for heads hold parts of one run.

    Args:
        lengths: of each row, the tokens of its documents in order; the rest is padding.
        config: which layout, and for which kernel and blocks.
        seq: tokens of a row.
        ring: size of that axis of the mesh.
        ulysses: size of that axis of the mesh.
        platform: of the devices of the mesh, such as "tpu".

    Raises:
        InputError: a row cannot be cut over the mesh in this layout, or documents do not fit in it.
    """
    check_shares(config, seq=seq, ring=ring, ulysses=ulysses)
    members = _members_apart(config, ring=ring, ulysses=ulysses)
    chunk_tokens = kept_together_tokens(config, platform=platform)
    options = {"seq": seq, "members": members, "chunk_tokens": chunk_tokens}
    return [place(config.layout, lengths=row, **options) for row in lengths]


def check_shares(config: AttentionConfig, *, seq: int, ring: int, ulysses: int) -> None:
    """Refuse a sequence that cannot be cut over these axes in the layout of `config`.

    Raises:
        InputError: `seq` is not a multiple of all members, or does not suit the layout.
    """
    check_divides(config.layout, seq=seq, members=_members_apart(config, ring=ring, ulysses=ulysses))
    check_divides("contiguous", seq=seq, members=ring * ulysses)


def filled_length(config: AttentionConfig, *, seq: int, ring: int, ulysses: int) -> int:
    """Return the least number of tokens from `seq` on that can be cut: 16 for 13 in zigzag over 4 members."""
    members = _members_apart(config, ring=ring, ulysses=ulysses)
    for _ in range(2):  # whether `balanced` needs a multiple of chunks follows from a length that divides
        multiple = math.lcm(_needed_multiple(config.layout, seq=seq, members=members), ring * ulysses)
        seq = -(-seq // multiple) * multiple
    return seq


def check_divides(layout: LayoutName, *, seq: int, members: int) -> None:
    """Refuse a sequence that the layout cannot cut into equal shares.

    Raises:
        InputError: there is no such layout, a number is below 1, or the sequence too long; or `seq` is not a
            multiple of `members`, or of twice that for zigzag; or for balanced, of `members` times a chunk.
    """
    if layout not in get_args(LayoutName):
        raise not_a_choice("layout", layout, choices=get_args(LayoutName))
    check_number("members", members, least=1)
    check_number("seq", seq, least=1, most=MOST_TOKENS, remedy="cut longer input into several sequences")
    multiple = _needed_multiple(layout, seq=seq, members=members)
    if seq % multiple:
        longer = -(-seq // multiple) * multiple
        raise InputError(
            f"{members} devices cannot share {seq} tokens in the {layout} layout",
            field="seq",
            value=seq,
            remedy=f"use a multiple of {multiple}, such as {longer}, or another number of devices or layout",
            suggested=longer,
        )


def _needed_multiple(layout: LayoutName, *, seq: int, members: int) -> int:
    match layout:
        case "zigzag":
            return 2 * members
        case "balanced":
            return needed_divisor(seq=seq, members=members)
        case _:
            return members


def _members_apart(config: AttentionConfig, *, ring: int, ulysses: int) -> int:
    """Return between how many members the tokens stay cut while attention is computed."""
    return math.prod(sequence_axes(config.strategy, ring=ring, ulysses=ulysses).tokens)
