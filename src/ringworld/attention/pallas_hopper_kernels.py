"""The three kernels for Hopper, warp-specialized: what the warpgroups of one block do.

Two consumer warpgroups keep 64 rows each, and walk over the blocks of the other side that a list names. A
producer warpgroup copies these blocks by TMA into pipelines of stages in shared memory, ahead of the
consumers: it waits until both have freed a stage, and they wait until it is full. Registers are reallocated
from the producer to the consumers. No thread writes to memory that it reads, so that nothing else needs a
barrier.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu
from jaxtyping import Array

from ringworld.attention.arithmetic import LOG2_E, ROWS_WITH_COLUMNS, ROWS_WITH_ROWS
from ringworld.attention.blocks import FLOOR, LiveBlocks, visit_live
from ringworld.attention.config import PallasMode
from ringworld.attention.pallas_hopper_products import (
    ROWS,
    Product,
    add_product,
    add_products,
    full_row_values,
    load_column_values,
    load_row_values,
    over_columns,
    over_rows,
    product,
    products,
    zeros,
)
from ringworld.attention.visibility import MaskSpec, in_sight

CONSUMERS = 2
THREADS = "warpgroup"
GRID = ("batch", "section", "index")
# A multiprocessor has 512 registers for each thread of a warpgroup, allocated in multiples of eight.
_CONSUMER_REGISTERS, _PRODUCER_REGISTERS = 240, 24


@dataclass(frozen=True, kw_only=True, slots=True)
class KernelSettings:
    """What a kernel knows when it is compiled."""

    heads_together: int
    """Heads of a section of the grid, which run side by side and share the cache."""
    group: int
    """Heads of queries that share a head of keys."""
    scale: float
    """By which scores are multiplied."""
    mode: PallasMode
    """Whether the kernel is compiled."""


class Kept(NamedTuple):
    """Blocks that stay in shared memory, one for each consumer."""

    buffers: tuple[Any, ...]
    full: Any

    def fetch(self, consumer: Array, sources: Sequence[Any]) -> list[Any]:
        """Fetch what one consumer keeps, wait for it, and return it."""
        for source, buffer in zip(sources, self.buffers):
            plgpu.copy_gmem_to_smem(source, buffer.at[consumer], self.full.at[consumer])
        plgpu.barrier_wait(self.full.at[consumer])
        return [buffer.at[consumer] for buffer in self.buffers]


class Pipeline(NamedTuple):
    """Stages in shared memory, each of blocks that are copied and freed together."""

    buffers: tuple[Any, ...]
    full: Any
    free: Any

    def fetch(self, n: Array, sources: Sequence[Any]) -> None:
        """Fetch the blocks of step n as soon as their stage is free."""
        slot, stages = self.slot(n), self.buffers[0].shape[0]
        pl.when(n >= stages)(lambda: plgpu.barrier_wait(self.free.at[slot]))
        for source, buffer in zip(sources, self.buffers):
            plgpu.copy_gmem_to_smem(source, buffer.at[slot], self.full.at[slot])

    def wait(self, n: Array) -> None:
        """Wait for the blocks of step n."""
        plgpu.barrier_wait(self.full.at[self.slot(n)])

    def at(self, n: Array) -> list[Any]:
        """Return the blocks of step n."""
        return [buffer.at[self.slot(n)] for buffer in self.buffers]

    def release(self, n: Array) -> None:
        """Signal that a consumer is done with step n."""
        plgpu.barrier_arrive(self.free.at[self.slot(n)])

    def drain(self, steps: Array) -> None:
        """Wait until the last stages are free."""
        begin = jnp.maximum(steps - self.buffers[0].shape[0], 0)
        lax.fori_loop(begin, steps, lambda n, _: plgpu.barrier_wait(self.free.at[self.slot(n)]), None)

    def slot(self, n: Array) -> Array:
        """Return the stage of step n."""
        return lax.rem(n, self.buffers[0].shape[0])


class _Program:
    """Which block of which head this program works on, and the list of the blocks that it visits."""

    def __init__(self, live: LiveBlocks, *, together: int):
        self.batch, section, index = (lax.axis_index(name) for name in GRID)
        self.head = section * together + lax.rem(index, together)
        self.block = live.longest_first[self.batch, lax.div(index, together)]
        self.whole, self.some = live.whole[self.batch, self.block], live.some[self.batch, self.block]
        self._others = live.others

    def other(self, n: Array) -> Array:
        """Return the n-th block of the list."""
        return self._others[self.batch, self.block, n]

    def part(self, consumer: Array) -> Array:
        """Return which 64 rows of the sequence a consumer keeps."""
        return self.block * CONSUMERS + consumer


def forward_kernel(
    live: LiveBlocks,
    mask: MaskSpec,
    q: jax.Ref,
    k: jax.Ref,
    v: jax.Ref,
    out: jax.Ref,
    lse: jax.Ref,
    kept: Kept,
    k_pipeline: Pipeline,
    v_pipeline: Pipeline,
    matrix_unit: Any,
    *,
    plan: KernelSettings,
) -> None:
    """Attend with running maximum and sum (FlashAttention-2, algorithm 1), with exponentials to base 2.

    The consumers take turns at the matrix unit, so that one multiplies while the other exponentiates
    (FlashAttention-3, arXiv 2407.08608, section 3.1).
    """
    here = _Program(live, together=plan.heads_together)
    to_base_two, mode = plan.scale * LOG2_E, plan.mode

    def pass_turn() -> None:
        plgpu.barrier_arrive(matrix_unit)
        plgpu.barrier_wait(matrix_unit)

    def consume(consumer: Array) -> None:
        part = here.part(consumer)
        q_block, order, first = kept.fetch(
            consumer,
            [
                q.at[here.batch, here.head, pl.ds(part * ROWS, ROWS)],
                *(x.at[here.batch, part] for x in (mask.q_order, mask.q_first)),
            ],
        )

        def step(n: Array, carry: tuple[Array, Array, Array], *, masked: bool) -> tuple[Array, Array, Array]:
            total, weight, highest = carry
            (k_block, keys), (v_block,) = k_pipeline.at(n), v_pipeline.at(n)
            scores = product(Product(q_block, k_block, ROWS_WITH_ROWS), mode=mode, meanwhile=pass_turn)
            if masked:
                scores = jnp.where(_seen(keys, order=order, first=first, mode=mode), scores, -jnp.inf)
            k_pipeline.release(n)
            now = jnp.maximum(highest, scores.max(axis=1) * to_base_two)
            kept_share = jnp.exp2(highest - now)
            weights = jnp.exp2(scores * to_base_two - over_columns(now, scores.shape[1]))
            total *= over_columns(kept_share, total.shape[1])
            weight = weight * kept_share + weights.sum(axis=1)
            # All of this must run before the turn at the matrix unit, an order unknown to the compiler.
            total, weight, now, rounded = lax.optimization_barrier(
                (total, weight, now, weights.astype(v.dtype))
            )
            plgpu.barrier_arrive(matrix_unit)
            v_pipeline.wait(n)
            plgpu.barrier_wait(matrix_unit)

            def wait_for_keys() -> None:
                pl.when(n + 1 < here.some)(lambda: k_pipeline.wait(n + 1))

            total = add_product(
                total, Product(rounded, v_block, ROWS_WITH_COLUMNS), mode=mode, meanwhile=wait_for_keys
            )
            v_pipeline.release(n)
            return total, weight, now

        pl.when(here.some > 0)(lambda: k_pipeline.wait(jnp.int32(0)))
        pl.when(consumer == 1)(pass_turn)
        start = (
            zeros(v.shape[-1], mode=mode),
            full_row_values(0.0, mode=mode),
            full_row_values(FLOOR, mode=mode),
        )
        total, weight, highest = visit_live(step, start, whole=here.whole, some=here.some)
        pl.when(consumer == 0)(pass_turn)
        share = 1.0 / jnp.where(weight == 0, 1.0, weight)
        out[here.batch, here.head, part] = total * over_columns(share, total.shape[1])
        lse[here.batch, here.head, part] = jnp.where(
            weight == 0, -jnp.inf, highest * (1 / LOG2_E) + jnp.log(weight)
        )

    pipelines = (k_pipeline, v_pipeline)
    fetch = partial(_fetch_keys, here, k, v, mask.k_order, group=plan.group, pipelines=pipelines)
    _specialize(consume, fetch, steps=here.some, pipelines=pipelines)


def backward_q_kernel(
    live: LiveBlocks,
    mask: MaskSpec,
    q: jax.Ref,
    dout: jax.Ref,
    lse: jax.Ref,
    delta: jax.Ref,
    k: jax.Ref,
    v: jax.Ref,
    dq: jax.Ref,
    kept: Kept,
    k_pipeline: Pipeline,
    v_pipeline: Pipeline,
    *,
    plan: KernelSettings,
) -> None:
    """Sum the gradients of a block of queries over the keys that it sees."""
    here = _Program(live, together=plan.heads_together)
    mode = plan.mode

    def consume(consumer: Array) -> None:
        part = here.part(consumer)
        q_block, dout_block, lse_rows, delta_rows, order, first = kept.fetch(
            consumer,
            [
                *(x.at[here.batch, here.head, pl.ds(part * ROWS, ROWS)] for x in (q, dout)),
                *(x.at[here.batch, here.head, part] for x in (lse, delta)),
                *(x.at[here.batch, part] for x in (mask.q_order, mask.q_first)),
            ],
        )
        lse_rows, delta_rows = (load_row_values(x, mode=mode) for x in (lse_rows, delta_rows))

        def step(n: Array, total: Array, *, masked: bool) -> Array:
            (k_block, keys), (v_block,) = k_pipeline.at(n), v_pipeline.at(n)

            def weigh(scores: Array) -> Array:
                if masked:
                    scores = jnp.where(_seen(keys, order=order, first=first, mode=mode), scores, -jnp.inf)
                return jnp.exp2(scores * (plan.scale * LOG2_E) - over_columns(lse_rows, scores.shape[1]))

            k_pipeline.wait(n)
            v_pipeline.wait(n)
            weights, dweights = products(
                Product(q_block, k_block, ROWS_WITH_ROWS),
                weigh,
                Product(dout_block, v_block, ROWS_WITH_ROWS),
                mode=mode,
            )
            v_pipeline.release(n)
            dscores = weights * (dweights - over_columns(delta_rows, weights.shape[1]))
            total = add_product(
                total, Product(dscores.astype(k.dtype), k_block, ROWS_WITH_COLUMNS), mode=mode
            )
            k_pipeline.release(n)
            return total

        total = visit_live(step, zeros(k.shape[-1], mode=mode), whole=here.whole, some=here.some)
        dq[here.batch, here.head, part] = total * plan.scale

    pipelines = (k_pipeline, v_pipeline)
    fetch = partial(_fetch_keys, here, k, v, mask.k_order, group=plan.group, pipelines=pipelines)
    _specialize(consume, fetch, steps=here.some, pipelines=pipelines)


def backward_kv_kernel(
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
    kept: Kept,
    q_pipeline: Pipeline,
    dout_pipeline: Pipeline,
    *,
    plan: KernelSettings,
) -> None:
    """Sum the gradients of a block of keys over the queries that see it, and the heads of its group.

    Scores are transposed, [keys, queries], so that weights enter products in the layout that they have in
    registers. The heads of a group are visited one after another for each block of queries, whose mask they
    share.
    """
    here = _Program(live, together=plan.heads_together)
    mode = plan.mode

    def consume(consumer: Array) -> None:
        part = here.part(consumer)
        k_block, v_block, keys = kept.fetch(
            consumer,
            [
                *(x.at[here.batch, here.head, pl.ds(part * ROWS, ROWS)] for x in (k, v)),
                mask.k_order.at[here.batch, part],
            ],
        )

        def step(n: Array, totals: tuple[Array, Array], *, masked: bool) -> tuple[Array, Array]:
            (q_block, lse_row, order, first), (dout_block, delta_row) = q_pipeline.at(n), dout_pipeline.at(n)

            def weigh(scores: Array) -> Array:
                if masked:
                    seen = in_sight(
                        over_columns(load_row_values(keys, mode=mode), scores.shape[1]),
                        order=over_rows(load_column_values(order, mode=mode)),
                        first=over_rows(load_column_values(first, mode=mode)),
                    )
                    scores = jnp.where(seen, scores, -jnp.inf)
                lse_columns = over_rows(load_column_values(lse_row, mode=mode))
                return jnp.exp2(scores * (plan.scale * LOG2_E) - lse_columns)

            q_pipeline.wait(n)
            dout_pipeline.wait(n)
            weights, dweights = products(
                Product(k_block, q_block, ROWS_WITH_ROWS),
                weigh,
                Product(v_block, dout_block, ROWS_WITH_ROWS),
                mode=mode,
            )

            def dscores_with_queries() -> Product:
                dscores = weights * (dweights - over_rows(load_column_values(delta_row, mode=mode)))
                return Product(dscores.astype(q.dtype), q_block, ROWS_WITH_COLUMNS)

            weights_with_douts = Product(weights.astype(dout.dtype), dout_block, ROWS_WITH_COLUMNS)
            totals = add_products(totals, weights_with_douts, dscores_with_queries, mode=mode)
            dout_pipeline.release(n)
            q_pipeline.release(n)
            return totals

        start = (zeros(v.shape[-1], mode=mode), zeros(k.shape[-1], mode=mode))
        dv_total, dk_total = visit_live(
            step, start, whole=here.whole * plan.group, some=here.some * plan.group
        )
        dk[here.batch, here.head, part] = dk_total * plan.scale
        dv[here.batch, here.head, part] = dv_total

    def fetch(n: Array) -> None:
        block = here.other(lax.div(n, plan.group))
        head = here.head * plan.group + lax.rem(n, plan.group)
        rows = pl.ds(block * q_pipeline.buffers[0].shape[1], q_pipeline.buffers[0].shape[1])
        values = [q.at[here.batch, head, rows], lse.at[here.batch, head, block]]
        q_pipeline.fetch(n, [*values, *(x.at[here.batch, block] for x in (mask.q_order, mask.q_first))])
        dout_pipeline.fetch(n, [dout.at[here.batch, head, rows], delta.at[here.batch, head, block]])

    _specialize(consume, fetch, steps=here.some * plan.group, pipelines=(q_pipeline, dout_pipeline))


def _fetch_keys(
    here: _Program,
    k: Any,
    v: Any,
    k_order: Any,
    n: Array,
    *,
    group: int,
    pipelines: tuple[Pipeline, Pipeline],
) -> None:
    """Fetch the n-th block of keys and values that a program visits, as soon as its stages are free."""
    (k_pipeline, v_pipeline), block, head = pipelines, here.other(n), lax.div(here.head, group)
    keys = pl.ds(block * k_pipeline.buffers[0].shape[1], k_pipeline.buffers[0].shape[1])
    k_pipeline.fetch(n, [k.at[here.batch, head, keys], k_order.at[here.batch, block]])
    v_pipeline.fetch(n, [v.at[here.batch, head, keys]])


def _seen(keys: Any, *, order: Any, first: Any, mode: PallasMode) -> Array:
    """Return the mask of rows of queries and columns of keys, from their integers in shared memory."""
    # Loaded for each block that needs them: they would take registers in all others too.
    order, first = (over_columns(load_row_values(x, mode=mode), keys.shape[0]) for x in (order, first))
    return in_sight(over_rows(load_column_values(keys, mode=mode)), order=order, first=first)


def _specialize(
    consume: Callable[[Array], None],
    fetch: Callable[[Array], None],
    *,
    steps: Array,
    pipelines: tuple[Pipeline, ...],
) -> None:
    """Run each warpgroup as a consumer or as the producer."""
    warpgroup = lax.axis_index(THREADS)

    @pl.when(warpgroup < CONSUMERS)
    def _() -> None:
        plgpu.set_max_registers(_CONSUMER_REGISTERS, action="increase")
        consume(warpgroup)

    @pl.when(warpgroup == CONSUMERS)
    def _() -> None:
        plgpu.set_max_registers(_PRODUCER_REGISTERS, action="decrease")
        lax.fori_loop(0, steps, lambda n, _: fetch(n), None)
        for pipeline in pipelines:
            pipeline.drain(steps)
