"""The three kernels for TPU: the computation on one pair of blocks in vector memory.

Each follows a walk of `pallas_tpu_walk` and keeps the results of a row in the output block itself, which
stays in vector memory until the row changes. Scores are scaled in the exponent, to base 2 as in the hardware.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jaxtyping import Array

from ringworld.attention.arithmetic import LOG2_E, ROWS_WITH_COLUMNS, ROWS_WITH_ROWS, dot
from ringworld.attention.blocks import FLOOR
from ringworld.attention.pallas_tpu_walk import visit_at
from ringworld.attention.visibility import ALL, PART, MaskSpec, in_sight

LANES = 128

Mask = Callable[[Array], Array]


def forward(
    visits: jax.Ref,
    _: jax.Ref,
    q: jax.Ref,
    k: jax.Ref,
    v: jax.Ref,
    mask: MaskSpec,
    out: jax.Ref,
    lse: jax.Ref,
    highest: jax.Ref,
    weight: jax.Ref,
    *,
    scale: float,
) -> None:
    """Attend with running maximum and sum (FlashAttention-2, arXiv 2307.08691, algorithm 1).

    `highest` and `weight` [q_block, lanes] hold the maximum, the same in all lanes, and the sum, which is
    summed over lanes only at the end of the row.
    """
    visit = visit_at(pl.program_id(2), visits)

    @pl.when(visit.begins)
    def _start() -> None:
        out[...] = jnp.zeros(out.shape, out.dtype)
        highest[...] = jnp.full(highest.shape, FLOOR, highest.dtype)
        weight[...] = jnp.zeros(weight.shape, weight.dtype)

    def attend(masked: Mask) -> None:
        scores = masked(dot(q[...], k[...], ROWS_WITH_ROWS))
        before = highest[...]
        now = jnp.maximum(before, scores.max(axis=1, keepdims=True))
        kept = jnp.exp2((before - now) * (scale * LOG2_E))
        weights = jnp.exp2((scores - _over_lanes(now, scores.shape[1])) * (scale * LOG2_E))
        highest[...] = now
        weight[...] = kept * weight[...] + _sum_of_lane_groups(weights)
        values = dot(weights.astype(v.dtype), v[...], ROWS_WITH_COLUMNS)
        out[...] = _over_lanes(kept, values.shape[1]) * out[...] + values

    _attend(visit.visible, attend, lambda: _seen(mask))

    @pl.when(visit.ends)
    def _finish() -> None:
        total = weight[...].sum(axis=1, keepdims=True)
        out[...] = out[...] / jnp.where(total == 0, 1.0, total)
        log_total = jnp.where(total == 0, -jnp.inf, highest[...] * scale + jnp.log(total))
        lse[...] = log_total.T[:1]


def backward_q(
    visits: jax.Ref,
    _: jax.Ref,
    q: jax.Ref,
    k: jax.Ref,
    v: jax.Ref,
    mask: MaskSpec,
    dout: jax.Ref,
    lse: jax.Ref,
    delta: jax.Ref,
    dq: jax.Ref,
    *,
    scale: float,
) -> None:
    """Sum the gradients of a block of queries; `lse` is in base 2, and +inf where nothing is seen."""
    visit = visit_at(pl.program_id(2), visits)

    @pl.when(visit.begins)
    def _start() -> None:
        dq[...] = jnp.zeros(dq.shape, dq.dtype)

    def attend(masked: Mask) -> None:
        scores = masked(dot(q[...], k[...], ROWS_WITH_ROWS))
        weights = jnp.exp2(scores * (scale * LOG2_E) - lse[...].T)
        dweights = dot(dout[...], v[...], ROWS_WITH_ROWS)
        dscores = weights * (dweights - delta[...].T)
        dq[...] += dot(dscores.astype(k.dtype), k[...], ROWS_WITH_COLUMNS)

    _attend(visit.visible, attend, lambda: _seen(mask))

    @pl.when(visit.ends)
    def _finish() -> None:
        dq[...] *= scale


def backward_kv(
    visits: jax.Ref,
    _: jax.Ref,
    q: jax.Ref,
    k: jax.Ref,
    v: jax.Ref,
    mask: MaskSpec,
    dout: jax.Ref,
    lse: jax.Ref,
    delta: jax.Ref,
    dk: jax.Ref,
    dv: jax.Ref,
    *,
    scale: float,
) -> None:
    """Sum the gradients of a block of keys over the heads of its group and the queries that see it.

    Scores are transposed, [kv_block, q_block], so that no product needs a transposed operand, and `lse`
    and `delta` already lie along lanes.
    """
    visit, head = visit_at(pl.program_id(1), visits), pl.program_id(2)

    @pl.when(visit.begins & (head == 0))
    def _start() -> None:
        dk[...] = jnp.zeros(dk.shape, dk.dtype)
        dv[...] = jnp.zeros(dv.shape, dv.dtype)

    def attend(masked: Mask) -> None:
        scores = masked(dot(k[...], q[...], ROWS_WITH_ROWS))
        weights = jnp.exp2(scores * (scale * LOG2_E) - lse[...])
        dv[...] += dot(weights.astype(dout.dtype), dout[...], ROWS_WITH_COLUMNS)
        dweights = dot(v[...], dout[...], ROWS_WITH_ROWS)
        dscores = weights * (dweights - delta[...])
        dk[...] += dot(dscores.astype(q.dtype), q[...], ROWS_WITH_COLUMNS)

    def seen() -> Array:
        return in_sight(mask.k_order[...].T, order=mask.q_order[...], first=mask.q_first[...])

    _attend(visit.visible, attend, seen)

    @pl.when(visit.ends & (head == pl.num_programs(2) - 1))
    def _finish() -> None:
        dk[...] *= scale


def _seen(mask: MaskSpec) -> Array:
    """Return the mask of a pair of blocks, [q_block, kv_block]."""
    return in_sight(mask.k_order[...], order=mask.q_order[...].T, first=mask.q_first[...].T)


def _attend(visible: Array, attend: Callable[[Mask], None], seen: Callable[[], Array]) -> None:
    """Attend to the visible part of a pair of blocks, with a mask only where that is not all."""
    pl.when(visible == ALL)(lambda: attend(lambda scores: scores))
    pl.when(visible == PART)(lambda: attend(lambda scores: jnp.where(seen(), scores, -jnp.inf)))


def _over_lanes(x: Array, size: int) -> Array:
    """Widen or narrow values that are the same in all lanes."""
    return jnp.tile(x, (1, math.ceil(size / LANES)))[:, :size]


def _sum_of_lane_groups(x: Array) -> Array:
    """Sum [rows, groups x lanes] to [rows, lanes], without moving anything between lanes."""
    return sum((x[:, i : i + LANES] for i in range(LANES, x.shape[1], LANES)), x[:, :LANES])
