"""The sizes of the mesh axes, without importing jax."""

import math
from dataclasses import dataclass, fields

from ringworld.core.ranges import check_range


@dataclass(frozen=True, kw_only=True, slots=True)
class MeshConfig:
    """How many devices lie along each mesh axis; their product is the number of devices."""

    data: int = 1
    """Copies of the model that see different sequences."""
    fsdp: int = 1
    """FSDP shards: weights and the batch are split over them."""
    ring: int = 1
    """Members of the ring over which each sequence is cut."""
    ulysses: int = 1
    """Members of the head-parallel sequence axis."""
    tensor: int = 1
    """Devices over which heads, feed-forward width and vocabulary are cut."""

    def __post_init__(self) -> None:
        """Refuse sizes below one."""
        names = (field.name for field in fields(self))
        check_range(self, *names, of="mesh", least=1, remedy="use 1 for an axis that the run does not cut")

    @property
    def shape(self) -> tuple[int, ...]:
        """Axis sizes in the order data, fsdp, ring, ulysses, tensor."""
        return tuple(getattr(self, field.name) for field in fields(self))

    @property
    def devices(self) -> int:
        """Number of devices that the mesh needs."""
        return math.prod(self.shape)

    @property
    def sequence_members(self) -> int:
        """Number of pieces into which each sequence is cut."""
        return self.ring * self.ulysses

    @property
    def batch_members(self) -> int:
        """Number of pieces into which a batch of sequences is cut."""
        return self.data * self.fsdp

    @property
    def weight_members(self) -> int:
        """Number of pieces into which the spread dimension of a weight is cut."""
        return self.fsdp * self.ring * self.ulysses
