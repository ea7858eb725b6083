"""Blockwise attention in Pallas for TPU. The contract is in `kernel.py`.

It has not run on a TPU yet: the tests interpret it, and `make tpu` compiles it for v5e, v5p and v6e.

Each kernel walks over the pairs of blocks in which something is visible (`pallas_tpu_walk`), so that time is
proportional to what is visible, whatever the order of the tokens. The backward pass is two kernels, one that
keeps dq and one that keeps dk and dv (FlashAttention-2, arXiv 2307.08691): a single one would save two of
seven products, but would read and write all of dq in HBM for every block of keys.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float32

from ringworld.attention import pallas_tpu_kernels as kernels
from ringworld.attention.arithmetic import base_two
from ringworld.attention.blocks import even_block, fill_blocks, pad_mask, result_type
from ringworld.attention.config import TPU_KV_BLOCK_TOKENS, TPU_Q_BLOCK_TOKENS, AttentionConfig
from ringworld.attention.kernel import Gradients, OfKeys, OfQueries
from ringworld.attention.merge import Partial
from ringworld.attention.pallas_tpu_kernels import LANES
from ringworld.attention.pallas_tpu_walk import IndexMaps, maps_by_keys, maps_by_queries, walk_over
from ringworld.attention.visibility import MaskSpec, block_visibility

# A walk takes two integers a pair of blocks, of the 1 MiB of scalar memory that a core has.
MOST_PAIRS = 64 * 1024
# The default of 16 MiB is too little for products of float32; the smallest core has 64 MiB.
_VMEM_BYTES = 48 * 2**20


class _TpuPass(NamedTuple):
    """A kernel and what it works on."""

    kernel: Callable[..., None]
    rows: Literal["queries", "keys"]
    """The blocks whose results it keeps."""
    makes: tuple[Literal["q", "lse", "kv"], ...]
    """Its results, each by the name of what it is shaped like."""
    columns: int = 0
    """How many more values of each query it keeps, in all lanes."""


class _Cut(NamedTuple):
    """How a sequence is cut: into blocks, of which equal numbers make strips."""

    seq: int
    block: int
    strips: int

    @property
    def unit(self) -> int:
        """What the sequence is filled up to a multiple of, so that all strips are whole."""
        return self.block * self.strips

    def fill(self, x: Array) -> Array:
        """Fill up the last strip of [batch, heads, seq, ...]."""
        return fill_blocks(x, 2, self.unit)


_FORWARD = _TpuPass(kernel=kernels.forward, rows="queries", makes=("q", "lse"), columns=2)
_BACKWARD_Q = _TpuPass(kernel=kernels.backward_q, rows="queries", makes=("q",))
_BACKWARD_KV = _TpuPass(kernel=kernels.backward_kv, rows="keys", makes=("kv", "kv"))


def forward(
    q: OfQueries,
    k: OfKeys,
    v: OfKeys,
    *,
    mask: MaskSpec,
    config: AttentionConfig,
    most_pairs: int = MOST_PAIRS,
) -> Partial:
    """Return attention of these queries to these keys alone; see `kernel.Kernel.forward`.

    `most_pairs` limits the pairs of blocks of one walk: longer ones are made in strips.
    """
    cuts = q_cut, kv_cut = _cuts(q, k, config, most_pairs=most_pairs)
    mask = pad_mask(mask, q_block=q_cut.unit, kv_block=kv_cut.unit)
    q, k, v = q_cut.fill(q), kv_cut.fill(k), kv_cut.fill(v)

    def strip(q: Array, q_order: Array, q_first: Array) -> tuple[Array, ...]:
        part = mask._replace(q_order=q_order, q_first=q_first)
        return _run(_FORWARD, q, k, v, part, cuts=cuts, config=config)

    out, lse = _in_strips(strip, (q, mask.q_order, mask.q_first), q_cut)
    return Partial(out=out, lse=lse)


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
    most_pairs: int = MOST_PAIRS,
) -> Gradients:
    """Return what these keys contribute to the gradients; see `kernel.Kernel.backward`, and `forward`."""
    cuts = q_cut, kv_cut = _cuts(q, k, config, most_pairs=most_pairs)
    mask = pad_mask(mask, q_block=q_cut.unit, kv_block=kv_cut.unit)
    q, dout, lse, delta = (q_cut.fill(x) for x in (q, dout, base_two(lse), delta))
    k, v = kv_cut.fill(k), kv_cut.fill(v)
    run = functools.partial(_run, cuts=cuts, config=config)

    def strip_of_queries(q, dout, lse, delta, q_order, q_first) -> tuple[Array, ...]:
        part = mask._replace(q_order=q_order, q_first=q_first)
        return run(_BACKWARD_Q, q, k, v, part, dout, lse, delta)

    def strip_of_keys(k, v, k_order) -> tuple[Array, ...]:
        return run(_BACKWARD_KV, q, k, v, mask._replace(k_order=k_order), dout, lse, delta)

    (dq,) = _in_strips(strip_of_queries, (q, dout, lse, delta, mask.q_order, mask.q_first), q_cut)
    dk, dv = _in_strips(strip_of_keys, (k, v, mask.k_order), kv_cut)
    return Gradients(dq=dq, dk=dk, dv=dv)


def _run(
    which: _TpuPass,
    q: Array,
    k: Array,
    v: Array,
    mask: MaskSpec,
    *rest: Array,
    cuts: tuple[_Cut, _Cut],
    config: AttentionConfig,
) -> tuple[Array, ...]:
    """Run a kernel over whole blocks; `rest` is dout, lse and delta for the backward pass."""
    (batch, heads, q_seq, head), kv_heads = q.shape, k.shape[1]
    q_block, kv_block = (cut.block for cut in cuts)
    visible = block_visibility(
        MaskSpec(
            q_order=mask.q_order.reshape(batch, -1, q_block),
            q_first=mask.q_first.reshape(batch, -1, q_block),
            k_order=mask.k_order.reshape(batch, -1, kv_block),
        )
    )
    group = heads // kv_heads
    sizes = {"q_blocks": visible.shape[1], "kv_blocks": visible.shape[2], "group": group}
    if which.rows == "queries":
        walk, maps = walk_over(visible), maps_by_queries(**sizes)
        grid, semantics = (kv_heads, group, walk.steps), (pltpu.PARALLEL, pltpu.PARALLEL, pltpu.ARBITRARY)
    else:
        walk, maps = walk_over(visible.swapaxes(1, 2)), maps_by_keys(**sizes)
        grid, semantics = (kv_heads, walk.steps, group), (pltpu.PARALLEL, pltpu.ARBITRARY, pltpu.ARBITRARY)

    of_rest = ("q", "lse", "lse") if rest else ()
    specs = _specs(maps, q_block=q_block, kv_block=kv_block, head=head)
    shapes = {"q": q.shape, "kv": k.shape, "lse": (batch, heads, 1, q_seq)}
    # A row of tokens needs a dimension before it to be a row of lanes.
    arrays = (q, k, v, MaskSpec(*(x[:, None] for x in mask)))
    arrays += tuple(x if x.ndim == 4 else x[:, :, None] for x in rest)
    tokens: Any = (specs["q_tokens"], specs["q_tokens"], specs["k_tokens"])
    results = pl.pallas_call(
        functools.partial(which.kernel, scale=head**-0.5),
        [result_type(shapes[name], *jax.tree.leaves(arrays)) for name in which.makes],
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=2,
            grid=grid,
            in_specs=[
                specs["q"],
                specs["kv"],
                specs["kv"],
                MaskSpec(*tokens),
                *(specs[name] for name in of_rest),
            ],
            out_specs=[specs[name] for name in which.makes],
            scratch_shapes=[pltpu.VMEM((q_block, LANES), jnp.float32)] * which.columns,
        ),
        compiler_params=pltpu.CompilerParams(dimension_semantics=semantics, vmem_limit_bytes=_VMEM_BYTES),
        interpret=config.pallas_mode == "interpreted",
        name=f"attention_{which.kernel.__name__}",
    )(walk.visits, walk.fetches, *arrays)
    return tuple(x[:, :, 0] if name == "lse" else x for x, name in zip(results, which.makes))


def _specs(maps: IndexMaps, *, q_block: int, kv_block: int, head: int) -> dict[str, pl.BlockSpec]:
    """Return which block of each kind of array is fetched at a point of the grid."""

    def heads(index: Callable, block: int) -> pl.BlockSpec:
        return pl.BlockSpec((None, None, block, head), lambda *point: (*index(*point), 0))

    def rows(point: tuple) -> tuple:
        sequence, head, block = maps.queries(*point)
        return sequence, head, 0, block

    def tokens(index: Callable, block: int) -> pl.BlockSpec:
        return pl.BlockSpec((None, 1, block), lambda *point: (index(*point)[0], 0, index(*point)[2]))

    return {
        "q": heads(maps.queries, q_block),
        "kv": heads(maps.keys, kv_block),
        "lse": pl.BlockSpec((None, None, 1, q_block), lambda *point: rows(point)),
        "q_tokens": tokens(maps.queries, q_block),
        "k_tokens": tokens(maps.keys, kv_block),
    }


def _cuts(q: Array, k: Array, config: AttentionConfig, *, most_pairs: int) -> tuple[_Cut, _Cut]:
    """Cut queries and keys into blocks, and into strips so short that a walk over one fits its memory."""
    if config.pallas_mode == "interpreted":
        limits = config.most_q_tokens(), config.block_kv_tokens
    else:
        limits = TPU_Q_BLOCK_TOKENS, TPU_KV_BLOCK_TOKENS
    (batch, _, q_seq, _), kv_seq = q.shape, k.shape[2]
    q_block, kv_block = _block(q_seq, limits[0]), _block(kv_seq, limits[1])
    q_blocks, kv_blocks = math.ceil(q_seq / q_block), math.ceil(kv_seq / kv_block)
    strips = math.ceil(batch * q_blocks * kv_blocks / most_pairs)
    return (
        _Cut(seq=q_seq, block=q_block, strips=min(strips, q_blocks)),
        _Cut(seq=kv_seq, block=kv_block, strips=min(strips, kv_blocks)),
    )


def _block(seq: int, limit: int) -> int:
    """Return the tokens of a block: equal ones, as far as whole lanes allow."""
    return math.ceil(even_block(seq, limit) / LANES) * LANES


def _in_strips(
    attend: Callable[..., tuple[Array, ...]], arrays: tuple[Array, ...], cut: _Cut
) -> tuple[Array, ...]:
    """Attend with one strip of `arrays` after the other, and drop the padding."""

    def split(x: Array) -> Array:
        at = 1 if x.ndim == 2 else 2
        return jnp.moveaxis(x.reshape(*x.shape[:at], cut.strips, -1, *x.shape[at + 1 :]), at, 0)

    def join(x: Array) -> Array:
        x = jnp.moveaxis(x, 0, 2)
        return x.reshape(*x.shape[:2], -1, *x.shape[4:])

    if cut.strips == 1:
        results = attend(*arrays)
    else:
        parts = lax.map(lambda strip: attend(*strip), tuple(split(x) for x in arrays))
        results = tuple(join(x) for x in parts)
    return tuple(x[:, :, : cut.seq] for x in results)
