"""Blockwise attention in plain XLA: every backend, and the default on a CPU. The contract is in `kernel.py`.

A block of queries walks over the blocks of keys that it sees whole, and then over those that need a mask
(FlashAttention-2, arXiv 2307.08691), so that time is proportional to what is visible, and memory to one pair
of blocks, plus an integer for each pair. Where queries are few, as in decoding, a block holds several rows of
the batch, and is skipped if none of them sees it. Where simulated devices share the cores of a CPU, it holds
few heads.
"""

from collections.abc import Callable
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float32, Shaped

from ringworld.attention.arithmetic import precision_for
from ringworld.attention.blocks import (
    FLOOR,
    LiveBlocks,
    even_block,
    fill_blocks,
    live_blocks,
    pad_mask,
    row_major,
    visit_live,
)
from ringworld.attention.config import AttentionConfig
from ringworld.attention.kernel import Gradients, OfKeys, OfQueries
from ringworld.attention.merge import Partial
from ringworld.attention.visibility import MaskSpec, visible
from ringworld.core.divisors import largest_divisor
from ringworld.core.mesh import mesh_device

Carry = TypeVar("Carry")

_SEQ = 2  # of queries, keys and values [batch, heads, seq, head]
_WIDEST_TOKENS = 2048  # of a block of keys that few queries see
_CORE_BYTES = 2**18  # of the scores of a block, so that they and their exponentials stay in a core's cache
_CORES_BYTES = 2**21  # where one device has all cores, whose threads XLA keeps busy with large products only


class _Group(NamedTuple):
    """Which rows and heads a block has, counted in groups of them."""

    rows: Array
    heads: Array


class _Side(NamedTuple):
    """How the queries, or the keys, of an array [batch, heads, seq, ...] are cut into blocks."""

    rows: int
    """Rows of the batch that a block has."""
    head_groups: int
    """Blocks that together have all heads."""
    tokens: int
    """Tokens of each row that a block has."""

    def heads(self, x: Array) -> int:
        """Return how many heads of an array a block has."""
        return x.shape[1] // self.head_groups

    def block(self, x: Array, at: _Group, n: Array, *, dimension: int = _SEQ) -> Array:
        """Return block n of these rows and heads."""
        return lax.dynamic_slice(x, self._start(x, at, n, dimension), self._sizes(x, dimension))

    def put(self, x: Array, block: Array, at: _Group, n: Array) -> Array:
        """Replace block n of these rows and heads."""
        return lax.dynamic_update_slice(x, block.reshape(self._sizes(x, _SEQ)), self._start(x, at, n, _SEQ))

    def of_tokens(self, x: Array, at: _Group, n: Array) -> Array:
        """Return block n of an array [batch, seq], which all heads share."""
        return lax.dynamic_slice(x, (at.rows * self.rows, n * self.tokens), (self.rows, self.tokens))

    def _start(self, x: Array, at: _Group, n: Array, dimension: int) -> list[Array]:
        starts = [jnp.zeros_like(n)] * x.ndim
        starts[0], starts[1] = at.rows * self.rows, at.heads * self.heads(x)
        starts[dimension] = n * self.tokens
        return starts

    def _sizes(self, x: Array, dimension: int) -> list[int]:
        sizes = [self.rows, self.heads(x), *x.shape[2:]]
        sizes[dimension] = self.tokens
        return sizes


class _Sums(NamedTuple):
    """Over keys, of exponentials of their scores less the highest: times the values, and alone."""

    out: Float32[Array, "rows kv_heads q head"]
    weight: Float32[Array, "rows kv_heads q"]
    highest: Float32[Array, "rows kv_heads q"]


class _Schedule(NamedTuple):
    """Which blocks of keys each block of queries of a group of rows sees."""

    queries: _Side
    keys: _Side
    mask: MaskSpec
    live: LiveBlocks

    @property
    def is_of_one_token(self) -> bool:
        """Whether there is one block of a query of all rows and heads, and one of keys."""
        return self.live.others.size == self.queries.head_groups == self.queries.tokens == 1

    def over_queries(self, visit: Callable[[_Group, Array, Carry], Carry], carry: Carry) -> Carry:
        """Call `visit(at, i, carry)` for each block i of queries of all rows and heads."""
        row_groups, blocks = self.live.some.shape
        head_groups = self.queries.head_groups

        def visit_nth(n: Array, carry: Carry) -> Carry:
            at = _Group(rows=n // (head_groups * blocks), heads=n // blocks % head_groups)
            return visit(at, n % blocks, carry)

        return lax.fori_loop(0, row_groups * head_groups * blocks, visit_nth, carry)

    def over_keys(
        self, at: _Group, i: Array, step: Callable[[Carry, Array, Array | None], Carry], carry: Carry
    ) -> Carry:
        """Call `step(carry, j, seen)` for each block j of keys that block i of queries sees.

        `seen` is their mask [rows, queries, keys], or None where all is visible.
        """
        order, first = (self.queries.of_tokens(x, at, i) for x in (self.mask.q_order, self.mask.q_first))

        def visit(n: Array, carry: Carry, *, masked: bool) -> Carry:
            j = self.live.others[at.rows, i, n]
            if not masked:
                return step(carry, j, None)
            keys = self.keys.of_tokens(self.mask.k_order, at, j)
            return step(carry, j, visible(MaskSpec(q_order=order, q_first=first, k_order=keys)))

        return visit_live(visit, carry, whole=self.live.whole[at.rows, i], some=self.live.some[at.rows, i])


def forward(q: OfQueries, k: OfKeys, v: OfKeys, *, mask: MaskSpec, config: AttentionConfig) -> Partial:
    """Return attention of these queries to these keys alone; see `kernel.Kernel.forward`."""
    schedule, scale = _schedule(q, k, mask, config), q.shape[-1] ** -0.5
    queries, keys = schedule.queries, schedule.keys
    if schedule.is_of_one_token:
        return _of_one_token(q, k, v, mask=mask)
    qs = fill_blocks(q, _SEQ, queries.tokens)
    ks, vs = (fill_blocks(x, _SEQ, keys.tokens) for x in (k, v))
    # Products would transpose each block of keys; for one block of queries a copy of all keys costs more.
    columns = row_major(ks.swapaxes(2, 3)) if qs.shape[_SEQ] > queries.tokens else None

    def attend(at: _Group, i: Array, whole: Partial) -> Partial:
        q_block = _by_key_head(queries.block(qs, at, i), keys.heads(k))

        def step(total: _Sums, j: Array, seen: Array | None) -> _Sums:
            if columns is None:
                scores = _dot("rhqd,rhkd->rhqk", q_block, keys.block(ks, at, j))
            else:
                scores = _dot("rhqd,rhdk->rhqk", q_block, keys.block(columns, at, j, dimension=3))
            if seen is not None:
                scores = jnp.where(_for_group(seen, scores.shape[2]), scores, -jnp.inf)
            new = _weighted(scores, keys.block(vs, at, j), least=total.highest, scale=scale)
            kept = jnp.exp((total.highest - new.highest) * scale)
            return _Sums(
                out=kept[..., None] * total.out + new.out,
                weight=kept * total.weight + new.weight,
                highest=new.highest,
            )

        nothing = jnp.zeros_like(q_block, dtype=jnp.float32)
        start = _Sums(out=nothing, weight=nothing[..., 0], highest=nothing[..., 0] + FLOOR)
        out, lse = _normalized(schedule.over_keys(at, i, step, start), scale=scale)
        return Partial(out=queries.put(whole.out, out, at, i), lse=queries.put(whole.lse, lse, at, i))

    zeros = jnp.zeros_like(qs, dtype=jnp.float32)
    whole = schedule.over_queries(attend, Partial(out=zeros, lse=zeros[..., 0]))
    return Partial(*(x[:, :, : q.shape[_SEQ]] for x in whole))


def _of_one_token(q: OfQueries, k: OfKeys, v: OfKeys, *, mask: MaskSpec) -> Partial:
    """Return `forward` of one block of keys, whose time would be that of walking a list of it."""
    scale = q.shape[-1] ** -0.5
    scores = _dot("rhqd,rhkd->rhqk", _by_key_head(q, k.shape[1]), k)
    scores = jnp.where(_for_group(visible(mask), scores.shape[2]), scores, -jnp.inf)
    out, lse = _normalized(_weighted(scores, v, least=FLOOR, scale=scale), scale=scale)
    return Partial(out=out.reshape(q.shape), lse=lse.reshape(q.shape[: _SEQ + 1]))


def _weighted(scores: Array, v: Array, *, least: Array | float, scale: float) -> _Sums:
    """Return sums over a block of keys, relative to the highest score, or to `least` if that is higher."""
    highest = jnp.maximum(scores.max(axis=-1), least)
    weights = jnp.exp((scores - highest[..., None]) * scale)
    out = _dot("rhqk,rhkd->rhqd", weights.astype(v.dtype), v)
    return _Sums(out=out, weight=weights.sum(axis=-1), highest=highest)


def _normalized(total: _Sums, *, scale: float) -> Partial:
    unseen = total.weight == 0
    return Partial(
        out=total.out / jnp.where(unseen, 1, total.weight)[..., None],
        lse=jnp.where(unseen, -jnp.inf, total.highest * scale + jnp.log(total.weight)),
    )


def backward(
    q: OfQueries,
    k: OfKeys,
    v: OfKeys,
    dout: OfQueries,
    *,
    lse: Float32[Array, "batch heads q_seq"],
    delta: Float32[Array, "batch heads q_seq"],
    mask: MaskSpec,
    config: AttentionConfig,
) -> Gradients:
    """Return what these keys contribute to the gradients; see `kernel.Kernel.backward`."""
    schedule, scale = _schedule(q, k, mask, config), q.shape[-1] ** -0.5
    queries, keys = schedule.queries, schedule.keys
    # +inf for a query that sees nothing: exp(-inf - inf) is 0 where exp(-inf - -inf) is not a number.
    lse = jnp.where(lse == -jnp.inf, jnp.inf, lse)
    qs, douts, lses, deltas = (fill_blocks(x, _SEQ, queries.tokens) for x in (q, dout, lse, delta))
    ks, vs = (fill_blocks(x, _SEQ, keys.tokens) for x in (k, v))

    # Keys before queries, and dq as its transpose: then no product has to transpose a block of scores.
    def attend(at: _Group, i: Array, total: Gradients) -> Gradients:
        q_block, dout_block, lse_block, delta_block = (
            _by_key_head(queries.block(x, at, i), keys.heads(k)) for x in (qs, douts, lses, deltas)
        )
        q_columns, dout_columns = q_block.swapaxes(2, 3), dout_block.swapaxes(2, 3)

        def step(carry: tuple[Array, ...], j: Array, seen: Array | None) -> tuple[Array, ...]:
            dq, dk, dv = carry
            k_block, v_block = keys.block(ks, at, j), keys.block(vs, at, j)
            scores = _dot("rhkd,rhdq->rhkq", k_block, q_columns) * scale
            if seen is not None:
                scores = jnp.where(_for_group(seen, scores.shape[3]).swapaxes(2, 3), scores, -jnp.inf)
            weights = jnp.exp(scores - lse_block[:, :, None])
            dweights = _dot("rhkd,rhdq->rhkq", v_block, dout_columns)
            dscores = (weights * (dweights - delta_block[:, :, None]) * scale).astype(q.dtype)
            dk_part = _dot("rhkq,rhqd->rhkd", dscores, q_block)
            dv_part = _dot("rhkq,rhqd->rhkd", weights.astype(q.dtype), dout_block)
            return (
                dq + _dot("rhkd,rhkq->rhdq", k_block, dscores),
                keys.put(dk, keys.block(dk, at, j) + dk_part, at, j),
                keys.put(dv, keys.block(dv, at, j) + dv_part, at, j),
            )

        nothing = jnp.zeros_like(q_columns, dtype=jnp.float32)
        dq, dk, dv = schedule.over_keys(at, i, step, (nothing, total.dk, total.dv))
        return Gradients(dq=queries.put(total.dq, dq.swapaxes(2, 3), at, i), dk=dk, dv=dv)

    zeros = Gradients(*(jnp.zeros_like(x, dtype=jnp.float32) for x in (qs, ks, vs)))
    total = schedule.over_queries(attend, zeros)
    return Gradients(*(x[:, :, : like.shape[_SEQ]] for x, like in zip(total, (q, k, v))))


def _schedule(q: Array, k: Array, mask: MaskSpec, config: AttentionConfig) -> _Schedule:
    """Choose blocks of equal sizes; where queries are few, a block takes more rows and more keys."""
    batch, q_seq, kv_seq = q.shape[0], q.shape[_SEQ], k.shape[_SEQ]
    most = config.most_q_tokens(all_cores=_has_all_cores())
    q_block = even_block(q_seq, most)
    room = max(1, most // q_block)
    rows = largest_divisor(batch, limit=room)
    widened = min(config.block_kv_tokens * (room // rows), _WIDEST_TOKENS)
    kv_block = even_block(kv_seq, max(config.block_kv_tokens, widened))
    mask = pad_mask(mask, q_block=q_block, kv_block=kv_block)
    heads, kv_heads = q.shape[1], k.shape[1]
    together = _heads_together(kv_heads, head_bytes=4 * rows * (heads // kv_heads) * q_block * kv_block)
    head_groups = kv_heads // together
    return _Schedule(
        queries=_Side(rows=rows, head_groups=head_groups, tokens=q_block),
        keys=_Side(rows=rows, head_groups=head_groups, tokens=kv_block),
        mask=mask,
        live=live_blocks(mask, of="queries", q_block=q_block, kv_block=kv_block, rows=rows),
    )


def _heads_together(kv_heads: int, *, head_bytes: int) -> int:
    """Return how many heads of keys a block holds, given the bytes of the scores of one.

    A core of a CPU should keep the scores and their exponentials in its cache, of at least one head of keys
    with all its queries. An accelerator is only busy with large products.
    """
    if mesh_device().platform != "cpu":
        return kv_heads
    return largest_divisor(kv_heads, limit=(_CORES_BYTES if _has_all_cores() else _CORE_BYTES) // head_bytes)


def _has_all_cores() -> bool:
    """Return whether the device is a CPU whose cores no other device of the mesh has."""
    alone = min(jax.sharding.get_abstract_mesh().size, jax.local_device_count()) <= 1
    return alone and mesh_device().platform == "cpu"


def _by_key_head(x: Shaped[Array, "rows heads q *rest"], kv_heads: int) -> Shaped[Array, "rows _ _ *rest"]:
    """Lay the queries of the heads that share keys end to end: [rows, kv_heads, group x queries, ...]."""
    return x.reshape(x.shape[0], kv_heads, -1, *x.shape[3:])


def _for_group(seen: Bool[Array, "rows q kv"], group_q: int) -> Bool[Array, "rows 1 {group_q} kv"]:
    """Repeat a mask for the heads that share keys, whose queries lie end to end."""
    return jnp.tile(seen, (1, group_q // seen.shape[1], 1))[:, None]


def _dot(subscripts: str, a: Array, b: Array) -> Array:
    def product(a: Array, b: Array) -> Array:
        return jnp.einsum(subscripts, a, b, precision=precision_for(a), preferred_element_type=jnp.float32)

    def widened(a: Array, b: Array) -> Array:
        return product(a.astype(jnp.float32), b.astype(jnp.float32))

    if a.dtype == jnp.float32:
        return product(a, b)
    # XLA on a CPU cannot run every product of bfloat16 that sums in float32.
    return lax.platform_dependent(a, b, cpu=widened, default=product)
