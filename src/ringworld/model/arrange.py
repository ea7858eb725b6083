"""Host arrays to device arrays, each token on the ring member that its layout names."""

import math
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from ringworld.attention.config import Layout
from ringworld.attention.layouts import permutation
from ringworld.core.sharding import SEQ_AXES, spec

BatchT = TypeVar("BatchT", bound=tuple[Any, ...])


def arrange(batch: BatchT, *, mesh: Mesh, layout: Layout) -> BatchT:
    """Return the same named tuple with its NumPy arrays [batch, seq] permuted and put on the mesh.

    Every process passes the whole batch and uploads only what its own devices hold.

    Example:
        Two members and the zigzag layout lay tokens 0 1 2 3 4 5 6 7 out as 0 1 6 7 | 2 3 4 5.

    Raises:
        InputError: the layout cannot cut the sequence into equal shares.
    """
    sharding = NamedSharding(mesh, spec("batch", "seq"))
    seq = np.shape(batch[0])[1]
    order = permutation(layout, seq=seq, members=math.prod(mesh.shape[axis] for axis in SEQ_AXES))

    def put(array: np.ndarray) -> jax.Array:
        def shard(index: tuple[slice, ...] | None) -> np.ndarray:
            assert index is not None
            rows, slots = index
            return array[rows][:, order[slots]]

        return jax.make_array_from_callback(array.shape, sharding, shard)

    return type(batch)(*(put(array) for array in batch))
