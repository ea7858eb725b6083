"""What sees what, from two integers a token: a query sees the keys whose order lies in [first, order].

| query (order, first) | key order | seen |
|---|---|---|
| (5, 3) | 3, 4, 5 | yes: the example so far |
| (5, 3) | 2 | no: another example |
| (5, 3) | 6 | no: the future |
| (5, 3) | -1 | no: padding is seen by nothing |
| (-1, 0) | any | no: padding sees nothing |
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int32

PADDING_ORDER = -1
_NEVER = np.int32(np.iinfo(np.int32).max)


class MaskSpec(NamedTuple):
    """The whole mask between some queries and some keys, or between blocks of them."""

    q_order: Int32[Array, "*dims q_seq"]
    q_first: Int32[Array, "*dims q_seq"]
    k_order: Int32[Array, "*dims kv_seq"]


def visible(spec: MaskSpec) -> Bool[Array, "*dims q_seq kv_seq"]:
    """Return the mask between one block of queries and one block of keys."""
    keys = spec.k_order[..., None, :]
    return (spec.q_first[..., None] <= keys) & (keys <= spec.q_order[..., None])


def blocks_with_something_visible(spec: MaskSpec) -> Bool[Array, "*dims q_blocks kv_blocks"]:
    """Return false for each pair of a block of queries and one of keys in which no query sees any key.

    It compares bounds: a pair may be called true whose bounds overlap while its tokens do not.

    Args:
        spec: integers of shapes [..., blocks, block].
    """
    first = jnp.where(spec.q_order == PADDING_ORDER, _NEVER, spec.q_first).min(-1)[..., :, None]
    key = jnp.where(spec.k_order == PADDING_ORDER, _NEVER, spec.k_order).min(-1)[..., None, :]
    last_query, last_key = spec.q_order.max(-1)[..., :, None], spec.k_order.max(-1)[..., None, :]
    return (first <= last_key) & (key <= last_query)
