"""In what order a TPU kernel visits pairs of blocks.

A walk goes through the rows, the blocks whose results a kernel keeps, and in each row through the columns,
the blocks of the other side of which something is visible. Rows are blocks of queries, or of keys for the
gradients of keys. The walk is prefetched into scalar memory, from which index maps read which blocks to fetch
for the next visits, and its length is known only at run time: a pair in which nothing is visible is neither
computed nor fetched nor stepped over.

Example:
    Three rows of two columns, in which `ALL PART`, `NOTHING NOTHING` and `NOTHING PART` is visible:

    | step | row | column | | fetches column |
    |---|---|---|---|---|
    | 0 | 0 | 0 | first of its row, without a mask | 0 |
    | 1 | 0 | 1 | last of its row, with a mask | 1 |
    | 2 | 1 | | first and last of its row, whose zeros it writes | 1, which is there |
    | 3 | 2 | 1 | first and last of its row, with a mask | 1, which is there |
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Int32

from ringworld.attention.visibility import NOTHING

_END = np.int32(np.iinfo(np.int32).max)
# A visit in the bits of one integer: what is visible, if its row begins or ends, and above them its blocks.
_VISIBLE, _BEGINS, _ENDS = 3, 4, 8
_FLAG_BITS = 4


class Walk(NamedTuple):
    """The visits of a kernel, of which the first `steps` are made."""

    steps: Int32[Array, ""]
    visits: Int32[Array, " pairs"]
    """Of each step the row, and the fields of its `Visit`."""
    fetches: Int32[Array, " pairs"]
    """Of each step the column to fetch: where nothing is visible, that of the step before."""


class Visit(NamedTuple):
    """What a kernel has to do at one step."""

    visible: Int32[Array, ""]
    """`NOTHING`, `PART` or `ALL`."""
    begins: Array
    """Whether the row begins."""
    ends: Array
    """Whether the row ends."""


class IndexMaps(NamedTuple):
    """Index maps from a point of the grid, `visits` and `fetches` to a sequence, a head and a block."""

    queries: Callable[..., tuple[Array, Array, Array]]
    keys: Callable[..., tuple[Array, Array, Array]]


def walk_over(visible: Int32[Array, "batch rows columns"]) -> Walk:
    """Return the walk over what `visibility.block_visibility` finds visible."""
    _, rows, columns = visible.shape
    something = visible != NOTHING
    first_column = lax.broadcasted_iota(jnp.int32, visible.shape, 2) == 0
    visited = something | (first_column & ~something.any(axis=-1, keepdims=True))
    pair = lax.iota(jnp.int32, visible.size).reshape(visible.shape)
    # Sorting the visibility along with the pairs is cheaper than looking it up afterwards.
    ranked = lax.sort(jnp.where(visited, pair * 4 + visible, _END).reshape(-1), is_stable=False)
    pair, visible = ranked >> 2, ranked & 3
    row = pair // columns
    changes, edge = row[1:] != row[:-1], jnp.ones(1, bool)
    begins, ends = jnp.concatenate([edge, changes]), jnp.concatenate([changes, edge])
    fetched = lax.cummax(jnp.where((visible == NOTHING) | (ranked == _END), 0, pair))
    return Walk(
        steps=visited.sum(dtype=jnp.int32),
        visits=visible
        | jnp.where(begins, _BEGINS, 0)
        | jnp.where(ends, _ENDS, 0)
        | _join(row // rows, row % rows, rows) << _FLAG_BITS,
        fetches=_join(fetched // (rows * columns), fetched % columns, columns),
    )


def visit_at(step: Int32[Array, ""], visits: jax.Ref) -> Visit:
    """Return what a kernel has to do at a step."""
    visit = visits[step]
    return Visit(visible=visit & _VISIBLE, begins=visit & _BEGINS != 0, ends=visit & _ENDS != 0)


def maps_by_queries(*, q_blocks: int, kv_blocks: int, group: int) -> IndexMaps:
    """Return the index maps of a walk whose rows are queries, on the grid (kv_heads, group, steps)."""

    def queries(kv_head, one, step, visits, fetches):
        sequence, block = _split(visits[step] >> _FLAG_BITS, q_blocks)
        return sequence, kv_head * group + one, block

    def keys(kv_head, one, step, visits, fetches):
        sequence, block = _split(fetches[step], kv_blocks)
        return sequence, kv_head, block

    return IndexMaps(queries=queries, keys=keys)


def maps_by_keys(*, q_blocks: int, kv_blocks: int, group: int) -> IndexMaps:
    """Return the index maps of a walk whose rows are keys, on the grid (kv_heads, steps, group)."""

    def queries(kv_head, step, one, visits, fetches):
        sequence, block = _split(fetches[step], q_blocks)
        # Where nothing is visible, the block that was fetched last stays: that of the last of the group.
        one = jnp.where(visit_at(step, visits).visible == NOTHING, group - 1, one)
        return sequence, kv_head * group + one, block

    def keys(kv_head, step, one, visits, fetches):
        sequence, block = _split(visits[step] >> _FLAG_BITS, kv_blocks)
        return sequence, kv_head, block

    return IndexMaps(queries=queries, keys=keys)


def _join(sequence: Array, block: Array, blocks: int) -> Array:
    """Put two numbers into one by shifts: the scalar unit has no division."""
    return sequence << _bits(blocks) | block


def _split(joined: Array, blocks: int) -> tuple[Array, Array]:
    return joined >> _bits(blocks), joined & ((1 << _bits(blocks)) - 1)


def _bits(blocks: int) -> int:
    return (blocks - 1).bit_length()
