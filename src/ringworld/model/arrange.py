"""Packed batches from the host to the devices, each token on the ring member of its layout, and back."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Shaped

from ringworld.attention import work
from ringworld.attention.config import AttentionConfig
from ringworld.attention.efficiency import ring_work
from ringworld.attention.layouts import Placement, place_rows
from ringworld.core.processes import fetched
from ringworld.core.sharding import RING_AXIS, ULYSSES_AXIS, spec

BatchT = TypeVar("BatchT", bound=tuple)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PlacedBatch(Generic[BatchT]):
    """A batch on the devices, and what is known of it on the host."""

    arrays: BatchT
    """[batch, seq], each token in the slot that the layout gives it."""
    lengths: Sequence[Sequence[int]]
    """Of each row, the tokens of its documents in order; the rest is padding."""
    placements: Sequence[Placement]
    """Of each row, where its tokens live."""

    def restore(self, x: Shaped[jax.Array, "batch seq *rest"]) -> Shaped[np.ndarray, "batch seq *rest"]:
        """Fetch a result for each token, in the order of the sequence; every process does."""
        slots = np.stack([placement.slot_of_token() for placement in self.placements])
        return fetched(x)[np.arange(len(slots))[:, None], slots]

    @property
    def tokens(self) -> int:
        """Number of tokens without padding."""
        return sum(map(sum, self.lengths))

    @property
    def documents(self) -> int:
        """Number of documents, or pieces of longer ones."""
        return sum(map(len, self.lengths))

    @property
    def visible_pairs(self) -> int:
        """Number of pairs of a query and a key that it sees."""
        return sum(map(work.visible_pairs, self.lengths))

    @property
    def ring_efficiency(self) -> float:
        """Total work over R x the sum over ring steps of the slowest member's: its mean over rows.

        A row of padding alone counts as 1.
        """
        return float(np.mean([_efficiency(*row) for row in zip(self.lengths, self.placements)]))


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the tokens of packed batches live on a mesh.

    Example:
        >>> layout = Layout(config.attention, mesh=mesh)
        >>> placed = layout.place((tokens, order, first), lengths=[[5, 3], [8]])
        >>> losses = placed.restore(score(model, *placed.arrays))
    """

    attention: AttentionConfig
    """Which layout, and for which strategy, kernel and blocks."""
    mesh: Mesh = field(kw_only=True)
    """What a row is cut over."""

    def rows_here(self, count: int) -> list[int]:
        """Return which of so many rows of a batch, or parts of them, lie on devices of this process."""
        sharding = NamedSharding(self.mesh, spec("batch", "seq"))
        here = sharding.addressable_devices_indices_map((count, self.mesh.size)).values()
        return sorted({row for index in here if index is not None for row in range(count)[index[0]]})

    def place(self, batch: BatchT, lengths: Sequence[Sequence[int]]) -> PlacedBatch[BatchT]:
        """Put NumPy arrays [batch, seq], in the order of the sequence, on the mesh.

        Every process passes the whole batch, of which only the rows of `rows_here` count, and uploads what
        its own devices hold.

        Example:
            Two members and the zigzag layout lay tokens 0 1 2 3 4 5 6 7 out as 0 1 6 7 | 2 3 4 5.

        Args:
            batch: a tuple or named tuple of arrays.
            lengths: of each row, the tokens of its documents in order; the rest is padding.

        Raises:
            InputError: a row cannot be cut over the mesh in this layout, or documents do not fit in it.
        """
        assert len(lengths) == len(batch[0]), (len(lengths), len(batch[0]))
        placements = place_rows(
            lengths,
            self.attention,
            seq=batch[0].shape[1],
            ring=self.mesh.shape[RING_AXIS],
            ulysses=self.mesh.shape[ULYSSES_AXIS],
            platform=self.mesh.devices.flat[0].platform,
        )
        tokens = np.stack([placement.token_of_slot() for placement in placements])
        sharding = NamedSharding(self.mesh, spec("batch", "seq"))

        def put(array: np.ndarray) -> jax.Array:
            def shard(index: tuple[slice, ...] | None) -> np.ndarray:
                assert index is not None
                return np.take_along_axis(array[index[0]], tokens[index], axis=1)

            return jax.make_array_from_callback(array.shape, sharding, shard)

        return PlacedBatch(arrays=jax.tree.map(put, batch), lengths=lengths, placements=placements)


def _efficiency(lengths: Sequence[int], placement: Placement) -> float:
    return work.efficiency_of(ring_work(lengths, placement), lengths) if lengths else 1.0
