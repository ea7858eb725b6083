"""Host arrays to device arrays, each token on the ring member that its layout names, and back."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Int, Int64

from ringworld.attention import work
from ringworld.attention.config import AttentionConfig, kept_together_tokens, sequence_axes
from ringworld.attention.efficiency import ring_work
from ringworld.attention.layouts import Placement, check_shares, example_lengths, inverse, place
from ringworld.core.sharding import RING_AXIS, ULYSSES_AXIS, spec

BatchT = TypeVar("BatchT", bound=tuple[Any, ...])


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PlacedRow:
    """One packed sequence: its examples, and where its tokens live."""

    lengths: Sequence[int]
    """Tokens of each example, in order; the rest is padding."""
    placement: Placement

    def slots(self) -> Int64[np.ndarray, " seq"]:
        """Return the device slot of each token: what `arrange` laid out comes back in order by it."""
        return inverse(self.placement.permutation())

    @property
    def visible_pairs(self) -> int:
        """Pairs of a query and a key that it sees."""
        return work.visible_pairs(self.lengths)

    @property
    def ring_efficiency(self) -> float:
        """Total work over R x the sum over ring steps of the slowest member's; 1 where there is no work."""
        if not self.lengths:
            return 1.0
        return work.efficiency_of(ring_work(self.lengths, self.placement), self.lengths)


def placed_rows(
    order: Int[np.ndarray, "batch seq"],
    first: Int[np.ndarray, "batch seq"],
    *,
    attention: AttentionConfig,
    mesh: Mesh,
) -> list[PlacedRow]:
    """Return the examples of each row, which order and first tell, and where `place_rows` puts them."""
    lengths = [example_lengths(*row) for row in zip(order, first)]
    placements = place_rows(lengths, seq=order.shape[1], attention=attention, mesh=mesh)
    return [PlacedRow(lengths=row, placement=placement) for row, placement in zip(lengths, placements)]


def place_rows(
    lengths: Sequence[Sequence[int]], *, seq: int, attention: AttentionConfig, mesh: Mesh
) -> list[Placement]:
    """Return where the tokens of each row live, which may follow from the lengths of its examples.

    Only the members between which attention leaves tokens cut count: where it exchanges tokens for heads, the
    members of an exchange hold parts of one run.

    Args:
        lengths: of each row, the tokens of its examples in order; the rest is padding.
        seq: tokens of a row.
        attention: which layout, and for which blocks.
        mesh: what a row is cut over; the kernel of its devices tells what to keep together.

    Raises:
        InputError: a row cannot be cut over the mesh, or as the layout wants, or examples do not fit in it.
    """
    ring, ulysses = mesh.shape[RING_AXIS], mesh.shape[ULYSSES_AXIS]
    check_shares(attention, seq=seq, ring=ring, ulysses=ulysses)
    chunk_tokens = kept_together_tokens(attention, platform=mesh.devices.flat[0].platform)
    return [
        place(
            attention.layout,
            seq=seq,
            members=math.prod(sequence_axes(attention.strategy, ring=ring, ulysses=ulysses).tokens),
            lengths=row,
            chunk_tokens=chunk_tokens,
        )
        for row in lengths
    ]


def arrange(batch: BatchT, *, mesh: Mesh, placements: Sequence[Placement]) -> BatchT:
    """Return the same named tuple with its NumPy arrays [batch, seq] permuted and put on the mesh.

    Every process passes the whole batch and uploads only what its own devices hold.

    Example:
        Two members and the zigzag layout lay tokens 0 1 2 3 4 5 6 7 out as 0 1 6 7 | 2 3 4 5.

    Args:
        batch: arrays in the order of the sequence.
        mesh: where to.
        placements: of each row, where its tokens live.
    """
    sharding = NamedSharding(mesh, spec("batch", "seq"))
    tokens = np.stack([placement.permutation() for placement in placements])

    def put(array: np.ndarray) -> jax.Array:
        def shard(index: tuple[slice, ...] | None) -> np.ndarray:
            assert index is not None
            return np.take_along_axis(array[index[0]], tokens[index], axis=1)

        return jax.make_array_from_callback(array.shape, sharding, shard)

    return type(batch)(*(put(array) for array in batch))
