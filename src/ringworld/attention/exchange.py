"""What members exchange besides the hops of a ring: heads for tokens, or all of the keys.

Heads for tokens: members trade the tokens of most heads for the other tokens of the heads they keep.
Each then has all tokens of some heads, which need nothing from the others (DeepSpeed-Ulysses, arXiv
2309.14509); of grouped queries it keeps those that use its keys. These functions run on each device, inside
a shard_map. Each array travels separately: joining them in one message would take a copy of all.

Example:
    Heads a b, tokens 0 1 on one member and 2 3 on another:

    before: a0 a1 b0 b1 | a2 a3 b2 b3
    after:  a0 a1 a2 a3 | b0 b1 b2 b3
"""

from collections.abc import Sequence

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float32, Int32, Shaped

_SEQ = 3  # of keys and values stacked: [2, batch, kv_heads, seq, head]


def heads_for_tokens(
    *arrays: Shaped[Array, "batch seq _ _"], axes: tuple[str, ...]
) -> Sequence[Shaped[Array, "batch all_seq _ _"]]:
    """Turn arrays [batch, seq, heads, head] into [batch, seq x members, heads / members, head]."""
    return [_exchange(x, axes, cut=2, join=1) for x in arrays]


def tokens_for_heads(
    *arrays: Shaped[Array, "batch all_seq _ _"], axes: tuple[str, ...]
) -> Sequence[Shaped[Array, "batch seq _ _"]]:
    """Undo `heads_for_tokens`."""
    return [_exchange(x, axes, cut=1, join=2) for x in arrays]


def all_tokens(
    *tokens: Int32[Array, "batch seq"], axes: tuple[str, ...]
) -> Sequence[Int32[Array, "batch all_seq"]]:
    """Gather integers of tokens, such as their order, from all members."""
    if lax.axis_size(axes) == 1:
        return tokens
    return tuple(lax.all_gather(jnp.stack(tokens), axes, axis=2, tiled=True))


def all_keys(
    k: Shaped[Array, "batch kv_heads seq head"],
    v: Shaped[Array, "batch kv_heads seq head"],
    order: Int32[Array, "batch seq"],
    *,
    axes: tuple[str, ...],
) -> tuple[Shaped[Array, "batch kv_heads all_seq head"], Shaped[Array, "batch kv_heads all_seq head"], Array]:
    """Gather keys, values and the order of the keys from all members: one exchange instead of R - 1 hops.

    Keys and values travel stacked, in the compute type. Backward gathers them again instead of keeping them.
    """
    if not axes:
        return k, v, order
    k, v = lax.all_gather(jnp.stack([k, v]), axes, axis=_SEQ, tiled=True)
    return k, v, lax.all_gather(order, axes, axis=1, tiled=True)


def own_keys(
    dk: Float32[Array, "batch kv_heads all_seq head"],
    dv: Float32[Array, "batch kv_heads all_seq head"],
    *,
    axes: tuple[str, ...],
) -> Sequence[Float32[Array, "batch kv_heads seq head"]]:
    """Sum the gradients of gathered keys and values over all members, each of which keeps its own."""
    if not axes:
        return dk, dv
    return tuple(lax.psum_scatter(jnp.stack([dk, dv]), axes, scatter_dimension=_SEQ, tiled=True))


def _exchange(x: Array, axes: tuple[str, ...], *, cut: int, join: int) -> Array:
    if lax.axis_size(axes) == 1:
        return x
    return lax.all_to_all(x, axes, split_axis=cut, concat_axis=join, tiled=True)
