"""What kernels share: lists of the blocks to visit, and the walk over one; whole blocks; types of results.

Each block has its own list and walks it alone, so that blocks may be computed in any order.
"""

import functools
import math
from collections.abc import Callable
from typing import Final, Literal, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental.layout import Layout, with_layout_constraint
from jaxtyping import Array, Int32, Shaped

from ringworld.attention.visibility import ALL, NOTHING, PART, MaskSpec, block_visibility
from ringworld.core.padding import PADDING_ORDER

Carry = TypeVar("Carry")

# Below every score, yet finite: the difference of two is a number, and exp2 of one to any score is 0.
FLOOR: Final = -0.5 * float(jnp.finfo(jnp.float32).max)


class LiveBlocks(NamedTuple):
    """For each block, which blocks of the other side it has to visit.

    Example:
        A block of queries that sees all of the block of keys 1, part of 0 and 3, and nothing of 2:
        `others` 1 0 3 _, `whole` 1, `some` 3.
    """

    longest_first: Int32[Array, "batch blocks"]
    """The blocks from most to fewest visits: those that are started last should take least time."""
    others: Int32[Array, "batch blocks others"]
    """Blocks of the other side: first those to visit without a mask, then those with, then any."""
    whole: Int32[Array, "batch blocks"]
    """How many to visit without a mask."""
    some: Int32[Array, "batch blocks"]
    """How many to visit."""


def live_blocks(
    mask: MaskSpec, *, of: Literal["queries", "keys"], q_block: int, kv_block: int, rows: int = 1
) -> LiveBlocks:
    """Return for each block of queries the blocks of keys that it sees, or for one of keys those that see it.

    Args:
        mask: of lengths that are multiples of blocks.
        of: which blocks have lists.
        q_block: queries of a block.
        kv_block: keys of a block.
        rows: how many rows of the batch a block holds; the lists are then of so many rows each.
    """
    groups = mask.q_order.shape[0] // rows
    cut = (x.reshape(groups, rows, -1, n) for x, n in zip(mask, (q_block, q_block, kv_block)))
    by_row = block_visibility(MaskSpec(*cut))
    # A block that all rows see whole needs no mask, and one that none sees is skipped.
    sees = jnp.where((by_row == ALL).all(axis=1), ALL, jnp.minimum(by_row.max(axis=1), PART))
    sees = sees if of == "queries" else sees.swapaxes(1, 2)
    others = sees.shape[2]
    some = (sees != NOTHING).sum(axis=2, dtype=jnp.int32)
    ranked = lax.sort((ALL - sees) * others + lax.broadcasted_iota(jnp.int32, sees.shape, 2), dimension=2)
    return LiveBlocks(
        longest_first=jnp.argsort(-some, axis=1, stable=True).astype(jnp.int32),
        others=ranked % others,
        whole=(sees == ALL).sum(axis=2, dtype=jnp.int32),
        some=some,
    )


def visit_live(step: Callable[..., Carry], carry: Carry, *, whole: Array, some: Array) -> Carry:
    """Call `step(n, carry, masked=...)` for the n-th block of a list, and mask only those that need it."""
    carry = lax.fori_loop(0, whole, functools.partial(step, masked=False), carry)
    # From 0, not from `whole`, which varies over a mesh and would make the type of the counter do so too.
    return lax.fori_loop(0, some - whole, lambda n, carry: step(whole + n, carry, masked=True), carry)


def even_block(seq: int, limit: int) -> int:
    """Return the tokens of a block, up to a limit, so that all are of one size: 50 of 100 for 64."""
    return math.ceil(seq / math.ceil(seq / limit))


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


def fill_heads(
    x: Shaped[Array, "batch heads seq *head"], block: int, *, head: int
) -> Shaped[Array, "batch heads filled *filled_head"]:
    """Lengthen tokens to a multiple of a block, and the head, where there is one, to one of `head`."""
    x = fill_blocks(x, 2, block)
    return fill_blocks(x, 3, head) if x.ndim == 4 else x


def row_major(x: Shaped[Array, "*dims"]) -> Shaped[Array, "*dims"]:
    """Lay an array out in memory in the order of its dimensions.

    XLA may only record that dimensions were swapped, and then swap them in each block that a loop reads.
    """
    return with_layout_constraint(x, Layout(tuple(range(x.ndim))))


def result_type(shape: tuple[int, ...], *operands: Shaped[Array, "..."]) -> jax.ShapeDtypeStruct:
    """Return the type of a float32 result that varies over a mesh wherever one of its operands does."""
    varying = frozenset().union(*(jax.typeof(x).manual_axis_type.varying for x in operands))
    kind = jax.sharding.ManualAxisType(varying=varying)
    return jax.ShapeDtypeStruct(shape, jnp.float32, manual_axis_type=kind)


def varying_as(x: Shaped[Array, "*dims"], declared: jax.ShapeDtypeStruct) -> Shaped[Array, "*dims"]:
    """Let a result vary over a mesh as was declared, where the call that made it lost track of that."""
    missing = declared.manual_axis_type.varying - jax.typeof(x).manual_axis_type.varying
    return lax.pcast(x, tuple(sorted(missing)), to="varying") if missing else x
