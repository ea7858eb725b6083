"""Heads for tokens: members trade the tokens of most heads for the other tokens of the heads they keep.

Each then has all tokens of some heads, which need nothing of the others (DeepSpeed-Ulysses, arXiv
2309.14509); of grouped queries it keeps those that use its keys. These functions run on each device, inside
a shard_map; the arrays of one call have one type, and travel in one message.

Example:
    Heads a b, tokens 0 1 on one member and 2 3 on another:

    before: a0 a1 b0 b1 | a2 a3 b2 b3
    after:  a0 a1 a2 a3 | b0 b1 b2 b3
"""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int32


def heads_for_tokens(
    *arrays: Float[Array, "batch _ seq _"], axes: tuple[str, ...]
) -> Sequence[Float[Array, "batch _ all_seq _"]]:
    """Turn arrays [batch, heads, seq, head] into [batch, heads / members, seq x members, head]."""
    members = lax.axis_size(axes)
    if members == 1:
        return arrays
    by_member = [x.reshape(x.shape[0], members, -1, *x.shape[2:]) for x in arrays]
    sent = _merged(jnp.concatenate(by_member, axis=2))
    received = lax.all_to_all(sent, axes, split_axis=1, concat_axis=2, tiled=True)
    return jnp.split(received, _ends([x.shape[2] for x in by_member]), axis=1)


def tokens_for_heads(
    *arrays: Float[Array, "batch _ all_seq _"], axes: tuple[str, ...]
) -> Sequence[Float[Array, "batch _ seq _"]]:
    """Undo `heads_for_tokens`."""
    members = lax.axis_size(axes)
    if members == 1:
        return arrays
    sent = jnp.concatenate(arrays, axis=1)
    received = lax.all_to_all(sent, axes, split_axis=2, concat_axis=1, tiled=True)
    received = received.reshape(sent.shape[0], members, -1, *received.shape[2:])
    return [_merged(x) for x in jnp.split(received, _ends([x.shape[1] for x in arrays]), axis=2)]


def all_tokens(
    *tokens: Int32[Array, "batch seq"], axes: tuple[str, ...]
) -> Sequence[Int32[Array, "batch all_seq"]]:
    """Return what belongs to tokens rather than heads, such as their order, for the tokens of all members."""
    if lax.axis_size(axes) == 1:
        return tokens
    return tuple(lax.all_gather(jnp.stack(tokens), axes, axis=2, tiled=True))


def _merged(by_member: Array) -> Array:
    batch, _, _, *rest = by_member.shape
    return by_member.reshape(batch, -1, *rest)


def _ends(sizes: Sequence[int]) -> Sequence[int]:
    return np.cumsum(sizes)[:-1].tolist()
