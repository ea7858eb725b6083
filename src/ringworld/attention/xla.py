"""Blockwise attention in plain XLA: every backend, and the default on a CPU. The contract is in `kernel.py`.

The pairs of blocks in which something is visible are listed first, those that need no mask before the others,
and one loop runs over each part of that list, so that time is proportional to what is visible, in each row of
a batch apart, and memory to one pair of blocks.
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Float32

from ringworld.attention.config import AttentionConfig
from ringworld.attention.kernel import Gradients
from ringworld.attention.merge import Partial, merge, nothing_seen, of_scores
from ringworld.attention.visibility import (
    ALL,
    NOTHING,
    PADDING_ORDER,
    PART,
    MaskSpec,
    block_visibility,
    visible,
)

Total = TypeVar("Total")


class _Tiling(NamedTuple):
    """How many rows of the batch, queries and keys make a block, and how many heads the keys have."""

    rows: int
    q_block: int
    kv_block: int
    kv_heads: int


def forward(
    q: Float[Array, "batch heads q_seq head"],
    k: Float[Array, "batch kv_heads kv_seq head"],
    v: Float[Array, "batch kv_heads kv_seq head"],
    *,
    mask: MaskSpec,
    config: AttentionConfig,
) -> Partial:
    """Return attention of these queries to these keys alone, as `kernel.Kernel.forward` says."""
    tiling = _tiling(q.shape, k.shape, config)
    qs, ks, vs = _q_blocks(q, tiling), _kv_blocks(k, tiling), _kv_blocks(v, tiling)
    masks = _mask_blocks(mask, tiling)

    def attend(total: Partial, i: Array, j: Array, seen: Array | None) -> Partial:
        v_block = _at(vs, j)
        scores = _dot("rhgqd,rhkd->rhgqk", _at(qs, i), _at(ks, j)) * q.shape[-1] ** -0.5
        if seen is not None:
            scores = jnp.where(seen[:, None, None], scores, -jnp.inf)
        part = of_scores(scores, lambda weights: _dot("rhgqk,rhkd->rhgqd", weights.astype(v.dtype), v_block))
        out, lse = merge(Partial(out=_at(total.out, i), lse=_at(total.lse, i)), part)
        return Partial(out=_put(total.out, out, i), lse=_put(total.lse, lse, i))

    total = _for_each_pair(masks, attend, nothing_seen(qs))
    return Partial(out=_join(total.out, q.shape), lse=_join(total.lse, q.shape[:-1]))


def backward(
    q: Float[Array, "batch heads q_seq head"],
    k: Float[Array, "batch kv_heads kv_seq head"],
    v: Float[Array, "batch kv_heads kv_seq head"],
    dout: Float[Array, "batch heads q_seq head"],
    *,
    lse: Float32[Array, "batch heads q_seq"],
    delta: Float32[Array, "batch heads q_seq"],
    mask: MaskSpec,
    config: AttentionConfig,
) -> Gradients:
    """Return what these keys contribute to the gradients, as `kernel.Kernel.backward` says."""
    tiling, scale = _tiling(q.shape, k.shape, config), q.shape[-1] ** -0.5
    qs, ks, vs = _q_blocks(q, tiling), _kv_blocks(k, tiling), _kv_blocks(v, tiling)
    douts = _q_blocks(dout, tiling)
    # +inf for a query that sees nothing: exp(-inf - inf) is 0 where exp(-inf - -inf) is not a number.
    lses = _q_blocks(jnp.where(lse == -jnp.inf, jnp.inf, lse), tiling)
    deltas = _q_blocks(delta, tiling)
    masks = _mask_blocks(mask, tiling)

    # Keys before queries, and dq as its transpose: then no product has to transpose a block of scores.
    def attend(total: Gradients, i: Array, j: Array, seen: Array | None) -> Gradients:
        q_block, k_block, dout_block = _at(qs, i), _at(ks, j), _at(douts, i)
        scores = _dot("rhkd,rhgqd->rhkgq", k_block, q_block) * scale
        if seen is not None:
            scores = jnp.where(seen.swapaxes(1, 2)[:, None, :, None], scores, -jnp.inf)
        weights = jnp.exp(scores - _at(lses, i)[:, :, None])
        dweights = _dot("rhkd,rhgqd->rhkgq", _at(vs, j), dout_block)
        dscores = (weights * (dweights - _at(deltas, i)[:, :, None])).astype(q.dtype)
        return Gradients(
            dq=_add(total.dq, _dot("rhkd,rhkgq->rhdgq", k_block, dscores), i),
            dk=_add(total.dk, _dot("rhkgq,rhgqd->rhkd", dscores, q_block), j),
            dv=_add(total.dv, _dot("rhkgq,rhgqd->rhkd", weights.astype(q.dtype), dout_block), j),
        )

    transposed = jnp.moveaxis(qs, -1, 3)
    zeros = Gradients(*(jnp.zeros_like(x, dtype=jnp.float32) for x in (transposed, ks, vs)))
    total = _for_each_pair(masks, attend, zeros)
    dq = _join(jnp.moveaxis(total.dq, 3, -1), q.shape)
    return Gradients(dq=dq * scale, dk=_join(total.dk, k.shape) * scale, dv=_join(total.dv, v.shape))


def _tiling(q_shape: tuple[int, ...], k_shape: tuple[int, ...], config: AttentionConfig) -> _Tiling:
    """Choose blocks of equal sizes; where queries are few, a block takes more rows and more keys."""
    batch, _, q_seq, _ = q_shape
    q_block = _even(q_seq, config.block_q_tokens)
    room = max(1, config.block_q_tokens // q_block)
    rows = max(divisor for divisor in range(1, min(batch, room) + 1) if batch % divisor == 0)
    kv_block = _even(k_shape[2], config.block_kv_tokens * (room // rows))
    return _Tiling(rows=rows, q_block=q_block, kv_block=kv_block, kv_heads=k_shape[1])


def _even(seq: int, limit: int) -> int:
    return math.ceil(seq / math.ceil(seq / limit))


def _for_each_pair(mask: MaskSpec, attend: Callable[..., Total], start: Total) -> Total:
    """Run `attend(total, i, j, seen)` over the blocks of queries i and keys j in which something is visible.

    `seen` is their mask, [rows, q_block, kv_block], or None where all is visible.
    """
    by_row = block_visibility(jax.tree.map(lambda x: x.swapaxes(1, 2), mask))
    # A block holds several rows: what all of them see whole needs no mask, what none sees is skipped.
    sees = jnp.where((by_row == ALL).all(axis=1), ALL, jnp.minimum(by_row.max(axis=1), PART))
    _, q_blocks, kv_blocks = sees.shape
    mask = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), mask)

    def masked(total: Total, i: Array, j: Array) -> Total:
        order, first, keys = _at(mask.q_order, i), _at(mask.q_first, i), _at(mask.k_order, j)
        return attend(total, i, j, visible(MaskSpec(q_order=order, q_first=first, k_order=keys)))

    def unmasked(total: Total, i: Array, j: Array) -> Total:
        return attend(total, i, j, None)

    if sees.size == 1:
        return masked(start, jnp.int32(0), jnp.int32(0))
    pairs = lax.sort((ALL - sees.reshape(-1)) * sees.size + lax.iota(jnp.int32, sees.size)) % sees.size
    whole, some = (x.sum(dtype=jnp.int32) for x in (sees == ALL, sees != NOTHING))

    def step(n: Array, total: Total, attend: Callable[[Total, Array, Array], Total]) -> Total:
        i = pairs[n] // kv_blocks
        return attend(total, i, i // q_blocks * kv_blocks + pairs[n] % kv_blocks)

    total = lax.fori_loop(0, whole, functools.partial(step, attend=unmasked), start)
    return lax.fori_loop(whole, some, functools.partial(step, attend=masked), total)


def _cut(x: Array, rows: int, *, dimension: int, block: int, fill: int = 0) -> Array:
    """Cut batch and one dimension: [groups, blocks, rows, ..., block, ...], padded with `fill` at the end."""
    batch, seq = x.shape[0], x.shape[dimension]
    blocks = math.ceil(seq / block)
    padding = [(0, blocks * block - seq if d == dimension else 0) for d in range(x.ndim)]
    x = jnp.pad(x, padding, constant_values=fill)
    x = x.reshape(batch // rows, rows, *x.shape[1:dimension], blocks, block, *x.shape[dimension + 1 :])
    return jnp.moveaxis(x, dimension + 1, 1)


def _q_blocks(x: Array, tiling: _Tiling) -> Array:
    """Cut [batch, heads, seq, ...] into [groups x blocks, rows, kv_heads, group, block, ...]."""
    x = x.reshape(x.shape[0], tiling.kv_heads, -1, *x.shape[2:])
    x = _cut(x, tiling.rows, dimension=3, block=tiling.q_block)
    return x.reshape(-1, *x.shape[2:])


def _kv_blocks(x: Array, tiling: _Tiling) -> Array:
    """Cut [batch, kv_heads, seq, head] into [groups x blocks, rows, kv_heads, block, head]."""
    x = _cut(x, tiling.rows, dimension=2, block=tiling.kv_block)
    return x.reshape(-1, *x.shape[2:])


def _mask_blocks(mask: MaskSpec, tiling: _Tiling) -> MaskSpec:
    """Cut [batch, seq] into [groups, blocks, rows, block]."""
    return MaskSpec(
        q_order=_cut(mask.q_order, tiling.rows, dimension=1, block=tiling.q_block, fill=PADDING_ORDER),
        q_first=_cut(mask.q_first, tiling.rows, dimension=1, block=tiling.q_block),
        k_order=_cut(mask.k_order, tiling.rows, dimension=1, block=tiling.kv_block, fill=PADDING_ORDER),
    )


def _join(x: Array, shape: tuple[int, ...]) -> Array:
    """Undo a cut: blocks to an array of `shape` [batch, heads, seq, ...], without what was padded."""
    tail = len(shape) - 3
    x = x.reshape(shape[0] // x.shape[1], -1, *x.shape[1:])
    x = jnp.moveaxis(x, 1, x.ndim - 2 - tail)
    return x.reshape(*shape[:2], -1, *shape[3:])[:, :, : shape[2]]


def _dot(subscripts: str, a: Array, b: Array) -> Array:
    def product(a: Array, b: Array) -> Array:
        # Without "highest" an accelerator would round float32 operands to bfloat16 or TF32.
        precision = lax.Precision.HIGHEST if a.dtype == jnp.float32 else None
        return jnp.einsum(subscripts, a, b, precision=precision, preferred_element_type=jnp.float32)

    def widened(a: Array, b: Array) -> Array:
        return product(a.astype(jnp.float32), b.astype(jnp.float32))

    if a.dtype == jnp.float32:
        return product(a, b)
    # XLA on a CPU cannot run every product of bfloat16 that sums in float32.
    return lax.platform_dependent(a, b, cpu=widened, default=product)


def _at(x: Array, i: Array) -> Array:
    return lax.dynamic_index_in_dim(x, i, keepdims=False)


def _put(x: Array, block: Array, i: Array) -> Array:
    return lax.dynamic_update_index_in_dim(x, block, i, 0)


def _add(x: Array, block: Array, i: Array) -> Array:
    return _put(x, _at(x, i) + block, i)
