"""Which query sees which key, from two integers a token: it sees the keys whose order lies in [first, order].

| query (order, first) | key order | seen |
|---|---|---|
| (5, 3) | 3, 4, 5 | yes: its document so far |
| (5, 3) | 2 | no: another document |
| (5, 3) | 6 | no: the future |
| (5, 3) | -1 | no: padding is seen by nothing |
| (-1, 0) | any | no: padding sees nothing |

For a block of queries and a block of keys, the bounds of their integers decide without a mask:

| sees | when | what a kernel does |
|---|---|---|
| `NOTHING` | every query ends before the first key, or begins after the last | skips the pair |
| `ALL` | every query begins by the first key and ends at the last or later | applies no mask |
| `PART` | otherwise | computes the mask of this pair |
"""

from typing import Final, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int32

from ringworld.core.padding import PADDING_ORDER

NOTHING: Final = 0
PART: Final = 1
ALL: Final = 2
_NEVER = np.int32(np.iinfo(np.int32).max)


class MaskSpec(NamedTuple):
    """The whole mask between some queries and some keys, or between blocks of them.

    `first` is never negative; padding has order -1 and first 0.
    """

    q_order: Int32[Array, "*dims q_seq"]
    q_first: Int32[Array, "*dims q_seq"]
    k_order: Int32[Array, "*dims kv_seq"]


def visible(spec: MaskSpec) -> Bool[Array, "*dims q_seq kv_seq"]:
    """Return the mask between one block of queries and one block of keys."""
    return in_sight(spec.k_order[..., None, :], order=spec.q_order[..., None], first=spec.q_first[..., None])


def in_sight(
    keys: Int32[Array, "..."], *, order: Int32[Array, "..."], first: Int32[Array, "..."]
) -> Bool[Array, "..."]:
    """Return whether queries see keys, given the integers of both in shapes that broadcast."""
    return (first <= keys) & (keys <= order)


def sees_any(spec: MaskSpec) -> Bool[Array, ""]:
    """Return whether any query may see any key, as far as the bounds of their integers show."""
    one_block = MaskSpec(*(x[..., None, :] for x in spec))
    return (block_visibility(one_block) != NOTHING).any()


def block_visibility(spec: MaskSpec) -> Int32[Array, "*dims q_blocks kv_blocks"]:
    """Return `NOTHING`, `PART` or `ALL` for each block of queries and each block of keys.

    `ALL` is exact. A pair in which nothing is visible may be called `PART`, but not where each block is a run
    of consecutive tokens, with padding behind it or not.

    Args:
        spec: integers of shapes [..., blocks, block].

    Example:
        Queries of order 4 5 with first 0 3, keys of order 2 3: `PART`, since 5 sees 3 but not 2.
    """
    first, last = spec.q_first[..., :, None, :], spec.q_order[..., :, None, :]
    keys = spec.k_order[..., None, :, :]
    earliest = jnp.where(last == PADDING_ORDER, _NEVER, first).min(-1)
    first_key, last_key = jnp.where(keys == PADDING_ORDER, _NEVER, keys).min(-1), keys.max(-1)
    some = (earliest <= last_key) & (first_key <= last.max(-1))
    every = (first.max(-1) <= keys.min(-1)) & (last_key <= last.min(-1))
    # What sees everything sees something.
    return some.astype(jnp.int32) + every.astype(jnp.int32)
