"""Attention of new tokens to keys that lie in pages, each sequence's in an order that its table tells.

A page is the same tokens of one sequence on all members, cut over them: its token `t` is on member
`t % members`. So nothing but queries and results moves, as in `attention.decode`, and which page lies where
in the pool does not matter to the result. Pages are brought together a run at a time, which bounds the memory
that this takes, and a sequence costs its own runs: sequences of like length are attended together.

    page of 4 tokens, members 2, table [[7, 2]]:

    member 0: page 7 holds tokens 0, 2; page 2 tokens 4, 6      member 1: page 7 holds 1, 3; page 2 holds 5, 7
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Int32

from ringworld.attention.backends import kernel_for, on_each_device
from ringworld.attention.config import AttentionConfig
from ringworld.attention.inputs import check_shardings
from ringworld.attention.int8_pages import Int8Numbers, StoredPages
from ringworld.attention.merge import Partial, merge, merge_over, nothing_seen
from ringworld.attention.visibility import MaskSpec
from ringworld.core.divisors import largest_divisor
from ringworld.core.mesh import mesh_device
from ringworld.core.sharding import SEQ_AXES, spec

_Q = spec("batch", "heads", None, "head")
_PAGES = spec(None, "kv_heads", "seq", "head")
_TOKENS = spec("batch", None)
_RUN_TOKENS = 128  # brought together at once, of each sequence; a core of a CPU keeps them in its cache
_LONG_RUN_TOKENS = 2048  # where many queries share them; and on an accelerator, to which each run is a launch
_TOGETHER = 4  # rows of a step whose runs are attended at once; the longest decides how many there are


def paged_attention(
    q: Float[Array, "batch heads q_seq head"],
    k: StoredPages,
    v: StoredPages,
    *,
    q_order: Int32[Array, "batch q_seq"],
    q_first: Int32[Array, "batch q_seq"],
    tables: Int32[Array, "batch width"],
    config: AttentionConfig,
) -> Float[Array, "batch heads q_seq head"]:
    """Return the attention of new tokens to keys of their sequence whose order lies in [q_first, q_order].

    Call it inside jit under a mesh of `core.mesh` whose batch axes have one member. Queries and the result
    are whole on every member of the sequence axes; the tokens of each page are sharded over them. What a row
    gives does not depend on other rows, to the bit.

    Args:
        q: new tokens, whose own keys are in their pages already.
        k: the pool of all pages; what is rounded is widened a run at a time.
        v: likewise.
        q_order: index of each new token in its sequence; -1 sees nothing.
        q_first: the first that it sees.
        tables: the pages of each sequence in order; what stands behind them is not read for a result.
        config: of the kernel.

    Raises:
        InputError: shardings do not match.
    """
    for x in jax.tree.leaves((k, v)):
        check_shardings(pages=(x, _spec_of(x)))
    check_shardings(
        q=(q, _Q), q_order=(q_order, _TOKENS), q_first=(q_first, _TOKENS), tables=(tables, _TOKENS)
    )
    attend = on_each_device(
        _attend,
        in_specs=(_Q, *jax.tree.map(_spec_of, (k, v)), _TOKENS, _TOKENS, _TOKENS),
        out_specs=_Q,
        config=config,
    )
    return attend(q, k, v, q_order, q_first, tables)


def _attend(
    q: Array,
    k: StoredPages,
    v: StoredPages,
    q_order: Array,
    q_first: Array,
    tables: Array,
    *,
    config: AttentionConfig,
) -> Array:
    members, member = jax.lax.axis_size(SEQ_AXES), jax.lax.axis_index(SEQ_AXES)
    # Equal on every member so far; the partial results are not.
    q, q_order, q_first, tables = jax.lax.pcast((q, q_order, q_first, tables), SEQ_AXES, to="varying")
    held = jax.tree.leaves(k)[0].shape[2]
    page = held * members
    short = max(1, (_RUN_TOKENS if mesh_device().platform == "cpu" else _LONG_RUN_TOKENS) // page)
    # Rows that are attended together share their runs, so how the keys of one are cut must not depend on the
    # others: only a row alone has long ones first.
    together = largest_divisor(len(q), limit=_TOGETHER) if q.shape[2] == 1 else 1
    long = short * max(1, _LONG_RUN_TOKENS // (short * page)) if q.shape[2] > 1 else short
    tables = jnp.pad(tables, ((0, 0), (0, -tables.shape[1] % long)))
    ranked = jnp.argsort(-q_order.max(axis=1))
    held_tokens = (jnp.arange(long * held) * members + member)[None]  # of as many tokens, on this member

    def attend_group(n: Array, total: Partial) -> Partial:
        rows = jax.lax.dynamic_slice_in_dim(ranked, n * together, together)
        order, first, table, queries = q_order[rows], q_first[rows], tables[rows], q[rows]
        kernel = kernel_for(config, queries=queries)

        def attend_run(j: Array, part: Partial, *, run: int) -> Partial:
            ids = jax.lax.dynamic_slice_in_dim(table, j * run, run, axis=1)
            index = j * run * page + held_tokens[:, : run * held]
            k_order = jnp.broadcast_to(index, (together, index.size))
            mask = MaskSpec(q_order=order, q_first=first, k_order=k_order.astype(jnp.int32))
            keys, values = (_joined(pool, ids, like=queries) for pool in (k, v))
            new = kernel.forward(queries, keys, values, mask=mask, config=config)
            return merge(part, new)

        longest, earliest = order.max() + 1, jnp.where(order < 0, order.max(), first).min()
        begin, end = jnp.maximum(earliest, 0) // page, -(-longest // page)
        part = nothing_seen(queries)
        if long > short:
            part = jax.lax.fori_loop(begin // long, end // long, partial(attend_run, run=long), part)
            begin = jnp.maximum(begin, end // long * long)
        part = jax.lax.fori_loop(begin // short, -(-end // short), partial(attend_run, run=short), part)
        return Partial(*(whole.at[rows].set(new) for whole, new in zip(total, part)))

    total = jax.lax.fori_loop(0, len(q) // together, attend_group, nothing_seen(q))
    return merge_over(total, SEQ_AXES).out.astype(q.dtype)


def _joined(
    pool: StoredPages, ids: Int32[Array, "batch run"], *, like: Array
) -> Float[Array, "batch kv_heads _ head"]:
    """Lay pages end to end, in the type of the queries."""

    def laid(x: Array) -> Array:
        heads = jnp.arange(x.shape[1], dtype=jnp.int32)
        found = x[ids[:, None, :], heads[None, :, None]]
        return found.reshape(*found.shape[:2], math.prod(found.shape[2:4]), *found.shape[4:])

    found = jax.tree.map(laid, pool)
    return found.to(like.dtype.name) if isinstance(found, Int8Numbers) else found


def _spec_of(x: Array) -> PartitionSpec:
    """Return how the pages of a pool are cut, or their scales, which have no dimension `head`."""
    return _PAGES if x.ndim == 4 else spec(None, "kv_heads", "seq")
