"""Attention on NVIDIA Hopper GPUs: Pallas, lowered through Mosaic GPU. The contract is in `kernel.py`.

It has not run on a GPU yet: the tests interpret it, and lower it for an H100.

Three kernels, each with one block that stays and a walk over the blocks that it has to visit
(FlashAttention-2, arXiv 2307.08691): for the output, for the gradient of queries, and for those of keys and
values, which sums over the heads of a group. Each uses what Hopper added: TMA copies, asynchronous WGMMA, and
register reallocation between warpgroups (FlashAttention-3, arXiv 2407.08608). Results are deterministic.

It supports only bfloat16 and heads of up to 128: float32 and heads of 256 go to `pallas_triton`. `backends`
does not choose it under CUDA 12.8 to 12.9.0, which miscompile masks.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jax.experimental.pallas import mosaic_gpu as plgpu
from jaxtyping import Array, BFloat16, Float32

from ringworld.attention.arithmetic import base_two
from ringworld.attention.blocks import (
    fill_blocks,
    live_for_keys,
    live_for_queries,
    pad_mask,
    result_type,
    varying_as,
)
from ringworld.attention.config import AttentionConfig
from ringworld.attention.kernel import Gradients
from ringworld.attention.merge import Partial
from ringworld.attention.pallas_hopper_kernels import (
    CONSUMERS,
    GRID,
    THREADS,
    Kept,
    Pipeline,
    Plan,
    backward_kv_kernel,
    backward_q_kernel,
    forward_kernel,
)
from ringworld.attention.pallas_hopper_products import ROWS
from ringworld.attention.visibility import MaskSpec
from ringworld.core.divisors import largest_divisor
from ringworld.core.errors import InputError

_KEPT_ROWS = CONSUMERS * ROWS
_LANE = 64  # numbers in a row of shared memory; a head takes whole rows
_CACHE_BYTES = 32 * 2**20  # of the 50 MB of the second-level cache


@dataclass(frozen=True, kw_only=True, slots=True)
class HopperTile:
    """How a kernel is cut; the block that stays is 128 tokens, 64 for each consumer."""

    other: int
    """Tokens of a block that is visited, a multiple of 64."""
    stages: int
    """Blocks in shared memory at once."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HopperTiles:
    """The tiles of the three kernels."""

    forward: HopperTile
    backward_q: HopperTile
    backward_kv: HopperTile


def choose_tiles(*, head: int) -> HopperTiles:
    """Return tiles that spill no registers and fit in 227 KiB of shared memory.

    | head | tokens of a block that is visited, and stages: forward | backward_q | backward_kv |
    |---|---|---|---|
    | to 64 | 128, 4 | 128, 4 | 64, 4 |
    | to 128 | 128, 2 | 128, 2 | 64, 4 |

    The registers of a consumer hold two products and, backward for keys, two accumulators of 64 rows as well.
    Stages are a power of two, so that a step finds its stage without a division.
    """
    wide = HopperTile(other=128, stages=4 if head <= 64 else 2)
    return HopperTiles(forward=wide, backward_q=wide, backward_kv=HopperTile(other=64, stages=4))


def forward(
    q: BFloat16[Array, "batch heads q_seq head"],
    k: BFloat16[Array, "batch kv_heads kv_seq head"],
    v: BFloat16[Array, "batch kv_heads kv_seq head"],
    *,
    mask: MaskSpec,
    config: AttentionConfig,
    tiles: HopperTiles | None = None,
    interpreter: Any = None,
) -> Partial:
    """Return attention of these queries to these keys alone; see `kernel.Kernel.forward`.

    Args:
        q: Queries.
        k: Keys.
        v: Values.
        mask: Which keys each query sees.
        config: Compiled or interpreted. Its block limits are for kernels whose memory grows with blocks; here
            blocks have the sizes that the hardware needs.
        tiles: How to cut the work; by default `choose_tiles`.
        interpreter: Jax's parameters for interpreting Mosaic GPU kernels, which it does not export.
    """
    q_seq, head = q.shape[2:]
    tile = (tiles or choose_tiles(head=head)).forward
    mask = pad_mask(mask, q_block=_KEPT_ROWS, kv_block=tile.other)
    live = live_for_queries(mask, q_block=_KEPT_ROWS, kv_block=tile.other)
    filled, k, v = _fill(q, _KEPT_ROWS), _fill(k, tile.other), _fill(v, tile.other)
    out, lse = _launch(
        forward_kernel,
        (*live, *_cut_mask(mask, q_block=ROWS, kv_block=tile.other), filled, k, v),
        results=(_cut_result(filled), _cut_result(filled[..., 0])),
        scratch=(
            _kept(filled, of_rows=(jnp.int32, jnp.int32)),
            _pipeline(k, tile=tile, of_tokens=(jnp.int32,)),
            _pipeline(v, tile=tile),
            plgpu.Barrier(num_arrivals=CONSUMERS),
        ),
        streamed=(k, v),
        scale=head**-0.5,
        interpreter=_used(interpreter, config),
    )
    out, lse = out.reshape(filled.shape), lse.reshape(filled.shape[:3])
    return Partial(out=out[:, :, :q_seq, :head], lse=lse[:, :, :q_seq])


def backward(
    q: BFloat16[Array, "batch heads q_seq head"],
    k: BFloat16[Array, "batch kv_heads kv_seq head"],
    v: BFloat16[Array, "batch kv_heads kv_seq head"],
    dout: BFloat16[Array, "batch heads q_seq head"],
    *,
    lse: Float32[Array, "batch heads q_seq"],
    delta: Float32[Array, "batch heads q_seq"],
    mask: MaskSpec,
    config: AttentionConfig,
    tiles: HopperTiles | None = None,
    interpreter: Any = None,
) -> Gradients:
    """Return what these keys contribute to the gradients; see `kernel.Kernel.backward`.

    Args:
        q: Queries.
        k: Keys.
        v: Values.
        dout: Cotangents of the final output.
        lse: Log-sum-exp over all keys of the sequence.
        delta: Sum over head of `dout` times the final output.
        mask: Which keys each query sees.
        config: Compiled or interpreted, as for `forward`.
        tiles: How to cut the work; by default `choose_tiles`.
        interpreter: As for `forward`.
    """
    tiles = tiles or choose_tiles(head=q.shape[3])
    of_queries = (q, dout, base_two(lse), delta)
    interpreter = _used(interpreter, config)
    dk, dv = _backward_kv(of_queries, k, v, mask=mask, tile=tiles.backward_kv, interpreter=interpreter)
    dq = _backward_q(of_queries, k, v, mask=mask, tile=tiles.backward_q, interpreter=interpreter)
    return Gradients(dq=dq, dk=dk, dv=dv)


def _backward_q(
    of_queries: tuple[Array, ...],
    k: Array,
    v: Array,
    *,
    mask: MaskSpec,
    tile: HopperTile,
    interpreter: Any,
) -> Array:
    q_seq, head = of_queries[0].shape[2:]
    mask = pad_mask(mask, q_block=_KEPT_ROWS, kv_block=tile.other)
    live = live_for_queries(mask, q_block=_KEPT_ROWS, kv_block=tile.other)
    q, dout, lse, delta = (_fill(x, _KEPT_ROWS) for x in of_queries)
    k, v = _fill(k, tile.other), _fill(v, tile.other)
    per_query = (_cut(x, 2, ROWS) for x in (lse, delta))
    (dq,) = _launch(
        backward_q_kernel,
        (*live, *_cut_mask(mask, q_block=ROWS, kv_block=tile.other), q, dout, *per_query, k, v),
        results=(_cut_result(q),),
        scratch=(
            _kept(q, dout, of_rows=(jnp.float32, jnp.float32, jnp.int32, jnp.int32)),
            _pipeline(k, tile=tile, of_tokens=(jnp.int32,)),
            _pipeline(v, tile=tile),
        ),
        streamed=(k, v),
        scale=head**-0.5,
        interpreter=interpreter,
    )
    return dq.reshape(q.shape)[:, :, :q_seq, :head]


def _backward_kv(
    of_queries: tuple[Array, ...],
    k: Array,
    v: Array,
    *,
    mask: MaskSpec,
    tile: HopperTile,
    interpreter: Any,
) -> tuple[Array, Array]:
    kv_seq, head = k.shape[2:]
    mask = pad_mask(mask, q_block=tile.other, kv_block=_KEPT_ROWS)
    live = live_for_keys(mask, q_block=tile.other, kv_block=_KEPT_ROWS)
    q, dout, lse, delta = (_fill(x, tile.other) for x in of_queries)
    k, v = _fill(k, _KEPT_ROWS), _fill(v, _KEPT_ROWS)
    per_query = (_cut(x, 2, tile.other) for x in (lse, delta))
    results = _launch(
        backward_kv_kernel,
        (*live, *_cut_mask(mask, q_block=tile.other, kv_block=ROWS), q, dout, *per_query, k, v),
        results=(_cut_result(k), _cut_result(v)),
        scratch=(
            _kept(k, v, of_rows=(jnp.int32,)),
            _pipeline(q, tile=tile, of_tokens=(jnp.float32, jnp.int32, jnp.int32)),
            _pipeline(dout, tile=tile, of_tokens=(jnp.float32,)),
        ),
        streamed=(q, dout),
        scale=head**-0.5,
        interpreter=interpreter,
    )
    dk, dv = (x.reshape(k.shape)[:, :, :kv_seq, :head] for x in results)
    return dk, dv


def _launch(
    kernel: Callable[..., None],
    operands: tuple[Array, ...],
    *,
    results: tuple[tuple[int, ...], ...],
    scratch: tuple[Any, ...],
    streamed: tuple[Array, Array],
    scale: float,
    interpreter: Any,
) -> tuple[Array, ...]:
    """Run a program for each block of each head of the results.

    Programs that run side by side should read the same blocks. So heads are grouped in sections whose blocks
    fit in the cache together, and each section starts with the blocks that have most to visit.

    Args:
        kernel: Takes references to all of the operands and results, and to scratch.
        operands: `LiveBlocks`, and what else the kernel works on.
        results: Shapes [batch, heads, ...].
        scratch: What each program has of shared memory.
        streamed: Operands [batch, heads, ...] whose blocks are visited.
        scale: By which scores are multiplied.
        interpreter: None to compile it.
    """
    batch, heads = results[0][:2]
    types = [result_type(shape, *operands) for shape in results]
    kv_heads = min(heads, streamed[0].shape[1])
    bytes_of_head = sum(x.size * x.dtype.itemsize for x in streamed) // (batch * kv_heads)
    kv_heads_together = largest_divisor(kv_heads, limit=_CACHE_BYTES // bytes_of_head)
    heads_together = kv_heads_together * (heads // kv_heads)
    plan = Plan(
        heads_together=heads_together,
        group=max(heads, streamed[0].shape[1]) // kv_heads,
        scale=scale,
        mode="compiled" if interpreter is None else "interpreted",
    )
    call = plgpu.kernel(
        functools.partial(kernel, plan=plan),
        out_type=types,
        scratch_types=scratch,
        grid=(batch, heads // heads_together, operands[0].shape[1] * heads_together),
        grid_names=GRID,
        num_threads=CONSUMERS + 1,
        thread_name=THREADS,
        kernel_name=kernel.__name__,
        compiler_params=plgpu.CompilerParams(
            approx_math=True, unsafe_no_auto_barriers=True, reduction_scratch_bytes=0
        ),
        interpret=interpreter,
    )
    # The call loses track of what its results vary over.
    return tuple(varying_as(x, declared) for x, declared in zip(call(*operands), types))


def _used(interpreter: Any, config: AttentionConfig) -> Any:
    """Return the interpreter, or None where the kernel is compiled.

    Raises:
        InputError: the kernel is to be interpreted, and there is no interpreter.
    """
    if config.pallas_mode == "compiled":
        return None
    if interpreter is None:
        raise InputError(
            "pallas_hopper cannot be interpreted, since jax exports no interpreter of Mosaic GPU kernels",
            field="pallas_mode",
            value="interpreted",
            remedy="use another kernel, or pass the kernel an interpreter as the tests do",
        )
    return interpreter


def _kept(*arrays: Array, of_rows: tuple[Any, ...]) -> Kept:
    """Return scratch for the blocks that stay, and for values of these types for each of their rows."""
    numbers = (plgpu.SMEM((CONSUMERS, ROWS), dtype) for dtype in of_rows)
    return Kept(
        buffers=(*(_matrix((CONSUMERS, ROWS, x.shape[-1])) for x in arrays), *numbers),
        full=plgpu.Barrier(num_arrivals=len(arrays) + len(of_rows), num_barriers=CONSUMERS),
    )


def _pipeline(x: Array, *, tile: HopperTile, of_tokens: tuple[Any, ...] = ()) -> Pipeline:
    """Return scratch for the blocks of an array, and for values of these types for each of their tokens."""
    numbers = (plgpu.SMEM((tile.stages, tile.other), dtype) for dtype in of_tokens)
    return Pipeline(
        buffers=(_matrix((tile.stages, tile.other, x.shape[-1])), *numbers),
        full=plgpu.Barrier(num_arrivals=1 + len(of_tokens), num_barriers=tile.stages),
        free=plgpu.Barrier(num_arrivals=CONSUMERS, num_barriers=tile.stages),
    )


def _matrix(shape: tuple[int, ...]) -> Any:
    """Return shared memory in the order in which the matrix unit reads it."""
    transforms = (plgpu.TilingTransform((8, _LANE)), plgpu.SwizzleTransform(2 * _LANE))
    return plgpu.SMEM(shape, jnp.bfloat16, transforms=transforms)


def _fill(x: Array, block: int) -> Array:
    """Fill up the last block of tokens of [batch, heads, seq, ...], and head to whole rows."""
    x = fill_blocks(x, 2, block)
    return fill_blocks(x, 3, _LANE) if x.ndim == 4 else x


def _cut_mask(mask: MaskSpec, *, q_block: int, kv_block: int) -> MaskSpec:
    return MaskSpec(
        q_order=_cut(mask.q_order, 1, q_block),
        q_first=_cut(mask.q_first, 1, q_block),
        k_order=_cut(mask.k_order, 1, kv_block),
    )


def _cut(x: Array, dimension: int, block: int) -> Array:
    """Split a dimension, whose length is a multiple of a block, in two."""
    return x.reshape(*x.shape[:dimension], -1, block, *x.shape[dimension + 1 :])


def _cut_result(x: Array) -> tuple[int, ...]:
    """Return the shape of a result like [batch, heads, seq, ...], cut into what a consumer keeps."""
    batch, heads, seq, *rest = x.shape
    return batch, heads, seq // ROWS, ROWS, *rest
