"""What the kernels for GPU share: lists of the blocks to visit, and arrays that fill whole blocks.

A GPU runs a program for each block, in no fixed order, so each program gets its own list and walks it alone.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float32, Int32, Shaped

from ringworld.attention.visibility import ALL, NOTHING, PADDING_ORDER, MaskSpec, block_visibility

# Below every score, yet finite: the difference of two is a number, and exp2 of one to any score is 0.
FLOOR = -0.5 * float(jnp.finfo(jnp.float32).max)
LOG2_E = math.log2(math.e)


class LiveBlocks(NamedTuple):
    """For each block, which blocks of the other side it has to visit.

    Example:
        A block of queries that sees all of the block of keys 1, part of 0 and 3, and nothing of 2:
        `others` 1 0 3 _, `whole` 1, `some` 3.
    """

    turns: Int32[Array, "batch blocks"]
    """The blocks from most to fewest visits: what is started last should end soon."""
    others: Int32[Array, "batch blocks others"]
    """Blocks of the other side: first those to visit without a mask, then those with, then any."""
    whole: Int32[Array, "batch blocks"]
    """How many to visit without a mask."""
    some: Int32[Array, "batch blocks"]
    """How many to visit."""


def live_for_queries(mask: MaskSpec, *, q_block: int, kv_block: int) -> LiveBlocks:
    """Return for each block of queries the blocks of keys that it sees; lengths are multiples of blocks."""
    return _listed(block_visibility(_cut(mask, q_block, kv_block)))


def live_for_keys(mask: MaskSpec, *, q_block: int, kv_block: int) -> LiveBlocks:
    """Return for each block of keys the blocks of queries that see it; lengths are multiples of blocks."""
    return _listed(block_visibility(_cut(mask, q_block, kv_block)).swapaxes(1, 2))


def pad_mask(mask: MaskSpec, *, q_block: int, kv_block: int) -> MaskSpec:
    """Fill up the last blocks with padding."""
    return MaskSpec(
        q_order=fill_blocks(mask.q_order, 1, q_block, fill=PADDING_ORDER),
        q_first=fill_blocks(mask.q_first, 1, q_block),
        k_order=fill_blocks(mask.k_order, 1, kv_block, fill=PADDING_ORDER),
    )


def fill_blocks(
    x: Shaped[Array, "..."], dimension: int, block: int, *, fill: int = 0
) -> Shaped[Array, "..."]:
    """Lengthen one dimension to a multiple of a block."""
    missing = -x.shape[dimension] % block
    if not missing:
        return x
    return jnp.pad(x, [(0, missing if d == dimension else 0) for d in range(x.ndim)], constant_values=fill)


def base_two(lse: Float32[Array, "..."]) -> Float32[Array, "..."]:
    """Return `lse` as exp2 needs it: +inf for a query that sees nothing, whose weights are then 0."""
    return jnp.where(lse == -jnp.inf, jnp.inf, lse * LOG2_E)


def float32_like(x: Shaped[Array, "..."], shape: tuple[int, ...]) -> jax.ShapeDtypeStruct:
    """Return the type of a result that varies over the mesh as `x` does."""
    return jax.ShapeDtypeStruct(shape, jnp.float32, manual_axis_type=jax.typeof(x).manual_axis_type)


def _cut(mask: MaskSpec, q_block: int, kv_block: int) -> MaskSpec:
    batch = mask.q_order.shape[0]
    return MaskSpec(
        q_order=mask.q_order.reshape(batch, -1, q_block),
        q_first=mask.q_first.reshape(batch, -1, q_block),
        k_order=mask.k_order.reshape(batch, -1, kv_block),
    )


def _listed(sees: Int32[Array, "batch blocks others"]) -> LiveBlocks:
    others = sees.shape[2]
    some = (sees != NOTHING).sum(axis=2, dtype=jnp.int32)
    ranked = lax.sort((ALL - sees) * others + lax.broadcasted_iota(jnp.int32, sees.shape, 2), dimension=2)
    return LiveBlocks(
        turns=jnp.argsort(-some, axis=1, stable=True).astype(jnp.int32),
        others=ranked % others,
        whole=(sees == ALL).sum(axis=2, dtype=jnp.int32),
        some=some,
    )
