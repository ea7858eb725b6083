"""The ring: queries stay where they are, and keys and values travel past them, hop by hop.

Keys and values travel stacked in one permute and in the compute type, while each member attends to those that
it holds (Ring Attention, arXiv 2310.01889). A member sends before it computes, so that the two overlap, and
there are only R - 1 hops, since nobody reads what the last one would bring. A member that sees nothing of
what arrives passes it on and computes nothing. The backward pass is a second ring, in which the float32
gradients of keys and values follow them and take one more hop, home. Several axes form one ring.

These functions run on each device, inside a shard_map. They have the contract of `kernel.Kernel`, for the
keys of all members of `axes` instead of one shard of them.
"""

from typing import TypeVar

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float32

from ringworld.attention.backends import kernel_for
from ringworld.attention.config import AttentionConfig
from ringworld.attention.kernel import Gradients, OfKeys, OfQueries
from ringworld.attention.merge import Partial, merge, nothing_seen
from ringworld.attention.visibility import MaskSpec, sees_any

Tree = TypeVar("Tree")
_Held = tuple[Array, Array]  # what travels: keys and values [2, batch, kv_heads, seq, head], and their order


def forward(
    q: OfQueries, k: OfKeys, v: OfKeys, *, mask: MaskSpec, axes: tuple[str, ...], config: AttentionConfig
) -> Partial:
    """Return attention of this member's queries to the keys of all members."""
    hops = lax.axis_size(axes) - 1

    def attend(held: _Held) -> Partial:
        (k, v), k_order = held
        kernel = kernel_for(config, queries=q)
        return kernel.forward(q, k, v, mask=mask._replace(k_order=k_order), config=config)

    def merged(total: Partial, held: _Held) -> Partial:
        return lax.cond(
            sees_any(mask._replace(k_order=held[1])), lambda: merge(total, attend(held)), lambda: total
        )

    def step(_: Array, carry: tuple[Partial, _Held]) -> tuple[Partial, _Held]:
        total, held = carry
        arriving = _pass_on(held, axes)
        return merged(total, held), arriving

    held = (jnp.stack([k, v]), mask.k_order)
    if not hops:
        return attend(held)
    return merged(*lax.fori_loop(0, hops, step, (nothing_seen(q), held)))


def backward(
    q: OfQueries,
    k: OfKeys,
    v: OfKeys,
    dout: OfQueries,
    *,
    lse: Float32[Array, "batch heads q_seq"],
    delta: Float32[Array, "batch heads q_seq"],
    mask: MaskSpec,
    axes: tuple[str, ...],
    config: AttentionConfig,
) -> Gradients:
    """Return the gradients of this member's queries, keys and values, from the final `lse`."""
    hops = lax.axis_size(axes) - 1

    def attend(held: _Held) -> tuple[Array, Array]:
        (k, v), k_order = held
        kernel, part_of = kernel_for(config, queries=q), mask._replace(k_order=k_order)
        part = kernel.backward(q, k, v, dout, lse=lse, delta=delta, mask=part_of, config=config)
        return part.dq, jnp.stack([part.dk, part.dv])

    def add(dq: Array, dkv: Array, held: _Held) -> tuple[Array, Array]:
        # Outside of the branch, which would otherwise wait for the gradients that are still travelling.
        dq_part, dkv_part = lax.cond(
            sees_any(mask._replace(k_order=held[1])),
            lambda: attend(held),
            lambda: (jnp.zeros_like(dq), jnp.zeros_like(dkv)),
        )
        return dq + dq_part, dkv + dkv_part

    def step(_: Array, carry: tuple[Array, Array, _Held]) -> tuple[Array, Array, _Held]:
        dq, dkv, held = carry
        arriving, dkv = _pass_on((held, dkv), axes)
        return *add(dq, dkv, held), arriving

    held = (jnp.stack([k, v]), mask.k_order)
    arriving = _pass_on(held, axes) if hops else held
    dq, dkv = attend(held)
    if hops:
        dq, dkv, held = lax.fori_loop(1, hops, step, (dq, dkv, arriving))
        dq, dkv = add(dq, _pass_on(dkv, axes), held)
        dkv = _pass_on(dkv, axes)
    return Gradients(dq=dq, dk=dkv[0], dv=dkv[1])


def _pass_on(tree: Tree, axes: tuple[str, ...]) -> Tree:
    """Send to the next member what this one holds."""
    members = lax.axis_size(axes)
    to_next = [(member, (member + 1) % members) for member in range(members)]
    return jax.tree.map(lambda x: lax.ppermute(x, axes, to_next), tree)
