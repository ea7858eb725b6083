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
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental.pallas import mosaic_gpu as plgpu
from jaxtyping import Array, BFloat16, Float32

from ringworld.attention.arithmetic import base_two
from ringworld.attention.blocks import (
    fill_heads,
    live_blocks,
    pad_mask,
    result_type,
    varying_as,
)
from ringworld.attention.config import AttentionConfig
from ringworld.attention.kernel import Gradients, Tiles
from ringworld.attention.merge import Partial
from ringworld.attention.pallas_hopper_kernels import (
    CONSUMERS,
    GRID,
    THREADS,
    Kept,
    KernelSettings,
    Pipeline,
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


class _HopperPass(NamedTuple):
    """A kernel, and what it has of shared memory besides the matrices that it works on."""

    kernel: Callable[..., None]
    rows: Literal["queries", "keys"]
    """Whose blocks stay, and whose shape the results have."""
    dimensions: tuple[int, ...]
    """Of each result, tokens being cut in two: 5, or 4 for one without head."""
    of_rows: tuple[Any, ...]
    """Types of the numbers of each row that stays."""
    of_tokens: tuple[tuple[Any, ...], tuple[Any, ...]]
    """Types of the numbers that are visited with each of two matrices."""
    scratch: tuple[Any, ...] = ()


_FORWARD = _HopperPass(
    kernel=forward_kernel,
    rows="queries",
    dimensions=(5, 4),
    of_rows=(jnp.int32, jnp.int32),
    of_tokens=((jnp.int32,), ()),
    scratch=(plgpu.Barrier(num_arrivals=CONSUMERS),),
)
_BACKWARD_Q = _HopperPass(
    kernel=backward_q_kernel,
    rows="queries",
    dimensions=(5,),
    of_rows=(jnp.float32, jnp.float32, jnp.int32, jnp.int32),
    of_tokens=((jnp.int32,), ()),
)
_BACKWARD_KV = _HopperPass(
    kernel=backward_kv_kernel,
    rows="keys",
    dimensions=(5, 5),
    of_rows=(jnp.int32,),
    of_tokens=((jnp.float32, jnp.int32, jnp.int32), (jnp.float32,)),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class HopperTile:
    """How a kernel is cut; the block that stays is 128 tokens, 64 for each consumer."""

    other: int
    """Tokens of a block that is visited, a multiple of 64."""
    stages: int
    """Blocks in shared memory at once."""


def choose_tiles(*, head: int) -> Tiles[HopperTile]:
    """Return tiles that spill no registers and fit in 227 KiB of shared memory.

    | head | tokens of a block that is visited, and stages: forward | backward_q | backward_kv |
    |---|---|---|---|
    | to 64 | 128, 4 | 128, 4 | 64, 4 |
    | to 128 | 128, 2 | 128, 2 | 64, 4 |

    The registers of a consumer hold two products and, backward for keys, two accumulators of 64 rows as well.
    Stages are a power of two, so that a step finds its stage without a division.
    """
    wide = HopperTile(other=128, stages=4 if head <= 64 else 2)
    return Tiles(forward=wide, backward_q=wide, backward_kv=HopperTile(other=64, stages=4))


def forward(
    q: BFloat16[Array, "batch heads q_seq head"],
    k: BFloat16[Array, "batch kv_heads kv_seq head"],
    v: BFloat16[Array, "batch kv_heads kv_seq head"],
    *,
    mask: MaskSpec,
    config: AttentionConfig,
    tiles: Tiles[HopperTile] | None = None,
    interpreter: Any = None,
) -> Partial:
    """Return attention of these queries to these keys alone; see `kernel.Kernel.forward`.

    The block limits of `config` are for kernels whose memory grows with blocks; here blocks have the sizes
    that the hardware needs, by default those of `choose_tiles`. `interpreter` is what jax interprets Mosaic
    GPU kernels by, which it does not export.
    """
    tile, interpreter = (tiles or choose_tiles(head=q.shape[3])).forward, _used(interpreter, config)
    return Partial(*_run(_FORWARD, (q,), (k, v), mask=mask, tile=tile, interpreter=interpreter))


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
    tiles: Tiles[HopperTile] | None = None,
    interpreter: Any = None,
) -> Gradients:
    """Return what these keys contribute to the gradients; see `kernel.Kernel.backward`, and `forward`."""
    tiles = tiles or choose_tiles(head=q.shape[3])
    of_queries, of_keys = (q, dout, base_two(lse), delta), (k, v)
    run = functools.partial(_run, of_queries=of_queries, of_keys=of_keys, mask=mask)
    interpreter = _used(interpreter, config)
    dk, dv = run(_BACKWARD_KV, tile=tiles.backward_kv, interpreter=interpreter)
    (dq,) = run(_BACKWARD_Q, tile=tiles.backward_q, interpreter=interpreter)
    return Gradients(dq=dq, dk=dk, dv=dv)


def _run(
    which: _HopperPass,
    of_queries: tuple[Array, ...],
    of_keys: tuple[Array, Array],
    *,
    mask: MaskSpec,
    tile: HopperTile,
    interpreter: Any,
) -> list[Array]:
    """Run a program for each block of queries, or of keys, of each head.

    Programs that run side by side should read the same blocks. So heads are grouped in sections whose blocks
    fit in the cache together, and each section starts with the blocks that have most to visit.

    The kernel takes references to `LiveBlocks`, to the mask and all other arrays, to results, and to scratch.
    """
    of_q = which.rows == "queries"
    q_block, kv_block = (_KEPT_ROWS, tile.other) if of_q else (tile.other, _KEPT_ROWS)
    q_cut, kv_cut = (ROWS, tile.other) if of_q else (tile.other, ROWS)
    mask = pad_mask(mask, q_block=q_block, kv_block=kv_block)
    live = live_blocks(mask, of=which.rows, q_block=q_block, kv_block=kv_block)
    mask = MaskSpec(*(_cut(x, 1, n) for x, n in zip(mask, (q_cut, q_cut, kv_cut))))
    queries = [fill_heads(x, q_block, head=_LANE) for x in of_queries]
    keys = [fill_heads(x, kv_block, head=_LANE) for x in of_keys]
    matrices = [x for x in queries if x.ndim == 4]
    kept, streamed = (matrices, keys) if of_q else (keys, matrices)
    queries = [x if x.ndim == 4 else _cut(x, 2, q_cut) for x in queries]

    operands = (live, mask, *queries, *keys)
    batch, heads, filled, filled_head = kept[0].shape
    shape = (batch, heads, filled // ROWS, ROWS, filled_head)
    types = [result_type(shape[:n], *jax.tree.leaves(operands)) for n in which.dimensions]
    kv_heads = min(heads, streamed[0].shape[1])
    bytes_of_head = sum(x.size * x.dtype.itemsize for x in streamed) // (batch * kv_heads)
    kv_heads_together = largest_divisor(kv_heads, limit=_CACHE_BYTES // bytes_of_head)
    heads_together = kv_heads_together * (heads // kv_heads)
    plan = KernelSettings(
        heads_together=heads_together,
        group=max(heads, streamed[0].shape[1]) // kv_heads,
        scale=of_keys[0].shape[3] ** -0.5,
        mode="compiled" if interpreter is None else "interpreted",
    )
    call = plgpu.kernel(
        functools.partial(which.kernel, plan=plan),
        out_type=types,
        scratch_types=(
            _kept(*kept, of_rows=which.of_rows),
            *(_pipeline(x, tile=tile, of_tokens=kinds) for x, kinds in zip(streamed, which.of_tokens)),
            *which.scratch,
        ),
        grid=(batch, heads // heads_together, live.some.shape[1] * heads_together),
        grid_names=GRID,
        num_threads=CONSUMERS + 1,
        thread_name=THREADS,
        kernel_name=which.kernel.__name__,
        compiler_params=plgpu.CompilerParams(
            approx_math=True, unsafe_no_auto_barriers=True, reduction_scratch_bytes=0
        ),
        interpret=interpreter,
    )
    # The call loses track of what its results vary over.
    results = (varying_as(x, declared) for x, declared in zip(call(*operands), types))
    _, _, seq, head = (of_queries if of_q else of_keys)[0].shape
    crop = (slice(None), slice(None), slice(seq), slice(head))
    return [x.reshape(batch, heads, filled, *x.shape[4:])[crop[: x.ndim - 1]] for x in results]


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


def _cut(x: Array, dimension: int, block: int) -> Array:
    """Split a dimension, whose length is a multiple of a block, in two."""
    return x.reshape(*x.shape[:dimension], -1, block, *x.shape[dimension + 1 :])
