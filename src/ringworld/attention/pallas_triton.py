"""Attention on NVIDIA GPUs from Ampere on: Pallas, lowered through Triton. The contract is in `kernel.py`.

It has not run on a GPU yet: the tests interpret it, and lower it for an A100.

Three kernels, each with one block that stays and a loop over the blocks that it has to visit
(FlashAttention-2, arXiv 2307.08691): for the output, for the gradient of queries, and for those of keys and
values, which sums over the heads of a group. Triton works on powers of two, so a head of 80 is computed as
64 and 16 numbers.
"""

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu
from jaxtyping import Array, Float32

from ringworld.attention.arithmetic import (
    LOG2_E,
    ROWS_WITH_COLUMNS,
    ROWS_WITH_ROWS,
    base_two,
    dot,
)
from ringworld.attention.blocks import (
    FLOOR,
    LiveBlocks,
    fill_heads,
    live_blocks,
    pad_mask,
    result_type,
    visit_live,
)
from ringworld.attention.config import AttentionConfig
from ringworld.attention.kernel import Gradients, OfKeys, OfQueries, Tiles
from ringworld.attention.merge import Partial
from ringworld.attention.visibility import MaskSpec, in_sight

_SMALLEST = 16  # of any side of a product


@dataclass(frozen=True, kw_only=True, slots=True)
class TritonTile:
    """How a kernel is cut and compiled."""

    q: int
    """Queries of one block, a power of two."""
    kv: int
    """Keys of one block, a power of two."""
    warps: int
    """Groups of 32 threads that share a block, a power of two."""
    stages: int
    """Blocks in flight at once."""


def choose_tiles(*, head: int, dtype: np.dtype) -> Tiles[TritonTile]:
    """Return tiles that spill few registers and fit in 99 KiB of shared memory, that of the smallest chips.

    | head | queries and keys of a block: forward | backward_q | backward_kv |
    |---|---|---|---|
    | to 64 | 128, 64 | 128, 64 | 64, 128 |
    | to 128 | 128, 64 | 128, 64 | 64, 64 |
    | above | 64, 32 | 32, 32 | 32, 32 |
    | any, float32 | 32, 32 | 32, 32 | 32, 32 |
    """
    small = TritonTile(q=32, kv=32, warps=8, stages=2)
    if dtype == jnp.float32:  # no matrix unit: the operands of a product are held in registers
        small = dataclasses.replace(small, stages=1)
        return Tiles(forward=small, backward_q=small, backward_kv=small)
    if head <= 64:
        return Tiles(
            forward=TritonTile(q=128, kv=64, warps=4, stages=3),
            backward_q=TritonTile(q=128, kv=64, warps=8, stages=2),
            backward_kv=TritonTile(q=64, kv=128, warps=8, stages=2),
        )
    if head <= 128:
        wide = TritonTile(q=128, kv=64, warps=8, stages=2)
        return Tiles(forward=wide, backward_q=wide, backward_kv=dataclasses.replace(wide, q=64))
    return Tiles(forward=dataclasses.replace(small, q=64), backward_q=small, backward_kv=small)


def forward(q: OfQueries, k: OfKeys, v: OfKeys, *, mask: MaskSpec, config: AttentionConfig) -> Partial:
    """Return attention of these queries to these keys alone; see `kernel.Kernel.forward`.

    The blocks of `config` are upper limits of those of `choose_tiles`.
    """
    tile = choose_tiles(head=q.shape[3], dtype=q.dtype).forward
    run = functools.partial(_run, rows="queries", dimensions=(4, 3), mask=mask, config=config)
    return Partial(*run(_forward_kernel, (q,), (k, v), tile=tile))


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
    """Return what these keys contribute to the gradients; see `kernel.Kernel.backward`, and `forward`."""
    tiles = choose_tiles(head=q.shape[3], dtype=q.dtype)
    of_queries, of_keys = (q, dout, base_two(lse), delta), (k, v)
    run = functools.partial(_run, of_queries=of_queries, of_keys=of_keys, mask=mask, config=config)
    dk, dv = run(_backward_kv_kernel, rows="keys", dimensions=(4, 4), tile=tiles.backward_kv)
    (dq,) = run(_backward_q_kernel, rows="queries", dimensions=(4,), tile=tiles.backward_q)
    return Gradients(dq=dq, dk=dk, dv=dv)


def _run(
    kernel: Callable[..., None],
    of_queries: tuple[Array, ...],
    of_keys: tuple[Array, Array],
    *,
    rows: Literal["queries", "keys"],
    dimensions: tuple[int, ...],
    mask: MaskSpec,
    config: AttentionConfig,
    tile: TritonTile,
) -> list[Array]:
    """Run a program for each block of queries, or of keys, of each head, those with most to visit first.

    The kernel takes references to `LiveBlocks` and the mask of its sequence, to what its head, or the heads
    of its group, have of the other arrays, and to results. These are shaped like the `rows`, whose blocks
    stay: of 4 dimensions, or of 3 without head.
    """
    q, k = of_queries[0], of_keys[0]
    tile = _within(tile, config, q_seq=q.shape[2], kv_seq=k.shape[2])
    mask = pad_mask(mask, q_block=tile.q, kv_block=tile.kv)
    queries = [fill_heads(x, tile.q, head=_SMALLEST) for x in of_queries]
    keys = [fill_heads(x, tile.kv, head=_SMALLEST) for x in of_keys]
    live, kept, like = live_blocks(mask, of=rows, q_block=tile.q, kv_block=tile.kv), queries[0], q
    if rows == "keys":
        kept, like = keys[0], k
        queries = [x.reshape(*k.shape[:2], -1, *x.shape[2:]) for x in queries]
    (batch, heads), operands = kept.shape[:2], (*queries, *keys)
    types = [result_type(kept.shape[:n], *live, *mask, *operands) for n in dimensions]

    def of_sequence(x: Array) -> pl.BlockSpec:
        return pl.BlockSpec((None, *x.shape[1:]), lambda _, h, b: (b, *[0] * (x.ndim - 1)))

    def of_head(x: Array | jax.ShapeDtypeStruct) -> pl.BlockSpec:
        rest, share = x.shape[2:], heads // x.shape[1]
        return pl.BlockSpec((None, None, *rest), lambda _, h, b: (b, h // share, *(0 for _ in rest)))

    results = pl.pallas_call(
        functools.partial(kernel, tile=tile, scale=q.shape[3] ** -0.5),
        grid=(live.some.shape[1], heads, batch),
        in_specs=[*jax.tree.map(of_sequence, (live, mask)), *map(of_head, operands)],
        out_specs=[of_head(x) for x in types],
        out_shape=types,
        compiler_params=plgpu.CompilerParams(num_warps=tile.warps, num_stages=tile.stages),
        interpret=config.pallas_mode == "interpreted",
    )(live, mask, *operands)
    crop = (slice(None), slice(None), slice(like.shape[2]), slice(like.shape[3]))
    return [x[crop[: x.ndim]] for x in results]


def _forward_kernel(
    live: LiveBlocks,
    mask: MaskSpec,
    q: jax.Ref,
    k: jax.Ref,
    v: jax.Ref,
    out: jax.Ref,
    lse: jax.Ref,
    *,
    tile: TritonTile,
    scale: float,
) -> None:
    """Attend with running maximum and sum (FlashAttention-2, algorithm 1), with exponentials to base 2."""
    i = live.longest_first[pl.program_id(0)]
    rows = pl.ds(i * tile.q, tile.q)
    order, first = mask.q_order[rows][:, None], mask.q_first[rows][:, None]
    q_parts = _parts(q, rows)

    def step(n: Array, carry: tuple[list[Array], Array, Array], *, masked: bool):
        total, weight, highest = carry
        keys = pl.ds(live.others[i, n] * tile.kv, tile.kv)
        scores = _sum_of_products(q_parts, _parts(k, keys))
        if masked:
            scores = jnp.where(
                in_sight(mask.k_order[keys][None, :], order=order, first=first), scores, -jnp.inf
            )
        now = jnp.maximum(highest, scores.max(axis=1) * (scale * LOG2_E))
        kept = jnp.exp2(highest - now)
        weights = jnp.exp2(scores * (scale * LOG2_E) - now[:, None])
        total = [
            kept[:, None] * x + dot(weights.astype(v.dtype), values, ROWS_WITH_COLUMNS)
            for x, values in zip(total, _parts(v, keys))
        ]
        return total, kept * weight + weights.sum(axis=1), now

    start = (
        [jnp.zeros(x.shape, jnp.float32) for x in q_parts],
        jnp.zeros((tile.q,), jnp.float32),
        jnp.full((tile.q,), FLOOR, jnp.float32),
    )
    total, weight, highest = visit_live(step, start, whole=live.whole[i], some=live.some[i])
    _store(out, rows, [x / jnp.where(weight == 0, 1.0, weight)[:, None] for x in total])
    lse[rows] = jnp.where(weight == 0, -jnp.inf, (highest + jnp.log2(weight)) / LOG2_E)


def _backward_q_kernel(
    live: LiveBlocks,
    mask: MaskSpec,
    q: jax.Ref,
    dout: jax.Ref,
    lse: jax.Ref,
    delta: jax.Ref,
    k: jax.Ref,
    v: jax.Ref,
    dq: jax.Ref,
    *,
    tile: TritonTile,
    scale: float,
) -> None:
    """Sum the gradients of a block of queries over the keys that it sees."""
    i = live.longest_first[pl.program_id(0)]
    rows = pl.ds(i * tile.q, tile.q)
    order, first = mask.q_order[rows][:, None], mask.q_first[rows][:, None]
    lse_rows, delta_rows = lse[rows][:, None], delta[rows][:, None]
    q_parts, dout_parts = _parts(q, rows), _parts(dout, rows)

    def step(n: Array, total: list[Array], *, masked: bool) -> list[Array]:
        keys = pl.ds(live.others[i, n] * tile.kv, tile.kv)
        k_parts = _parts(k, keys)
        scores = _sum_of_products(q_parts, k_parts)
        if masked:
            scores = jnp.where(
                in_sight(mask.k_order[keys][None, :], order=order, first=first), scores, -jnp.inf
            )
        weights = jnp.exp2(scores * (scale * LOG2_E) - lse_rows)
        dweights = _sum_of_products(dout_parts, _parts(v, keys))
        dscores = (weights * (dweights - delta_rows)).astype(k.dtype)
        return [x + dot(dscores, part, ROWS_WITH_COLUMNS) for x, part in zip(total, k_parts)]

    start = [jnp.zeros(x.shape, jnp.float32) for x in q_parts]
    total = visit_live(step, start, whole=live.whole[i], some=live.some[i])
    _store(dq, rows, [x * scale for x in total])


def _backward_kv_kernel(
    live: LiveBlocks,
    mask: MaskSpec,
    q: jax.Ref,
    dout: jax.Ref,
    lse: jax.Ref,
    delta: jax.Ref,
    k: jax.Ref,
    v: jax.Ref,
    dk: jax.Ref,
    dv: jax.Ref,
    *,
    tile: TritonTile,
    scale: float,
) -> None:
    """Sum the gradients of a block of keys over the heads of its group and the queries that see it.

    Scores are transposed, [keys, queries], so that weights enter products in the layout that they have in
    registers.
    """
    j = live.longest_first[pl.program_id(0)]
    keys = pl.ds(j * tile.kv, tile.kv)
    keys_order = mask.k_order[keys][:, None]
    k_parts, v_parts = _parts(k, keys), _parts(v, keys)

    def step(n: Array, total: tuple[list[Array], list[Array]], *, head: Array, masked: bool):
        dk_total, dv_total = total
        rows = pl.ds(live.others[j, n] * tile.q, tile.q)
        q_parts, dout_parts = _parts(q, head, rows), _parts(dout, head, rows)
        scores = _sum_of_products(k_parts, q_parts)
        if masked:
            order, first = mask.q_order[rows][None, :], mask.q_first[rows][None, :]
            scores = jnp.where(in_sight(keys_order, order=order, first=first), scores, -jnp.inf)
        weights = jnp.exp2(scores * (scale * LOG2_E) - lse[head, rows][None, :])
        dweights = _sum_of_products(v_parts, dout_parts)
        dscores = (weights * (dweights - delta[head, rows][None, :])).astype(q.dtype)
        weights = weights.astype(dout.dtype)
        return (
            [x + dot(dscores, part, ROWS_WITH_COLUMNS) for x, part in zip(dk_total, q_parts)],
            [x + dot(weights, part, ROWS_WITH_COLUMNS) for x, part in zip(dv_total, dout_parts)],
        )

    def over_head(head: Array, total: tuple[list[Array], list[Array]]):
        return visit_live(functools.partial(step, head=head), total, whole=live.whole[j], some=live.some[j])

    zeros = [jnp.zeros(x.shape, jnp.float32) for x in k_parts]
    dk_total, dv_total = lax.fori_loop(0, q.shape[0], over_head, (zeros, zeros))
    _store(dk, keys, [x * scale for x in dk_total])
    _store(dv, keys, dv_total)


def _parts(x: jax.Ref, *tokens) -> list[Array]:
    """Load a block [tokens, head] in pieces along head whose sizes are powers of two."""
    return [x[*tokens, piece] for piece in _pieces(x.shape[-1])]


def _store(x: jax.Ref, tokens, parts: list[Array]) -> None:
    for piece, part in zip(_pieces(x.shape[-1]), parts):
        x[tokens, piece] = part


def _pieces(head: int) -> list:
    """Return 0..64 and 64..80 for a head of 80."""
    sizes = [1 << bit for bit in reversed(range(head.bit_length())) if head & 1 << bit]
    return [pl.ds(sum(sizes[:n]), size) for n, size in enumerate(sizes)]


def _sum_of_products(a: list[Array], b: list[Array]) -> Array:
    return functools.reduce(jnp.add, (dot(x, y, ROWS_WITH_ROWS) for x, y in zip(a, b)))


def _within(tile: TritonTile, config: AttentionConfig, *, q_seq: int, kv_seq: int) -> TritonTile:
    """Shrink a tile to the blocks that `config` allows and to the sequence."""
    q = min(tile.q, pl.next_power_of_2(q_seq), _power_of_two(config.most_q_tokens()))
    kv = min(tile.kv, pl.next_power_of_2(kv_seq), _power_of_two(config.block_kv_tokens))
    return dataclasses.replace(tile, q=max(q, _SMALLEST), kv=max(kv, _SMALLEST))


def _power_of_two(limit: int) -> int:
    return 1 << limit.bit_length() - 1
