"""Keys and values of the tokens so far, sharded over the sequence axes; they never move.

Slots are numbered across members: slot `s` is on member `s % members`, at index `s // members` of its shard.
A prompt of `n` tokens, in whatever layout, fills slots 0 to n - 1, each token where it is already, and new
tokens go to one member after the other. Which slot holds which token does not matter to the result, because
`order` says what may see it.

    members 2, slots 8, a prompt of 4 in the zigzag layout, then 1 new token:

    member 0: token 0, token 3, token 4, -        member 1: token 1, token 2, -, -
"""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int32, Shaped

from ringworld.core.sharding import SEQ_AXES, spec
from ringworld.model.config import Architecture


class KVCache(eqx.Module):
    """One array of keys and one of values a layer, so that a step writes each in place.

    Heads stand before slots, as the products of attention want them, so that no step transposes the cache.
    `order` is -1 where a slot is empty. The number of slots is a multiple of the members of the sequence
    axes.
    """

    keys: tuple[Float[Array, "batch kv_heads slots head"], ...]
    values: tuple[Float[Array, "batch kv_heads slots head"], ...]
    order: Int32[Array, "batch slots"]

    @staticmethod
    def init(architecture: Architecture, *, batch: int, slots: int, compute: str) -> "KVCache":
        """Return an empty cache in the compute type, under the mesh that is set."""
        shape = (batch, architecture.kv_heads, slots, architecture.head)
        where = spec("batch", "kv_heads", "seq", "head")

        def empty() -> tuple[Float[Array, "batch kv_heads slots head"], ...]:
            return tuple(jnp.zeros(shape, compute, out_sharding=where) for _ in range(architecture.layers))

        order = jnp.full((batch, slots), -1, jnp.int32, out_sharding=spec("batch", "seq"))
        return KVCache(keys=empty(), values=empty(), order=order)


def padded_length(tokens: int, *, members: int) -> int:
    """Return the least number of tokens, of a prompt or of slots, that every layout can cut over `members`.

    Example:
        `padded_length(13, members=4)` is 16.
    """
    return -(-max(tokens, 1) // (2 * members)) * (2 * members)


def fill(
    stored: Shaped[Array, "..."], prompt: Shaped[Array, "..."], *, slot: Int32[Array, ""]
) -> Shaped[Array, "..."]:
    """Write tokens, sharded over the sequence axes as the cache is, into `seq` slots. Nothing moves.

    Args:
        stored: Keys or values `[batch, kv_heads, slots, head]`, or orders `[batch, slots]`.
        prompt: The same with `seq` for `slots`.
        slot: The first that is written, a multiple of the members; as many as `seq` follow it.
    """
    axis = _slot_dimension(stored)

    def write(
        stored: Shaped[Array, "..."], prompt: Shaped[Array, "..."], slot: Int32[Array, ""]
    ) -> Shaped[Array, "..."]:
        index = slot // jax.lax.axis_size(SEQ_AXES)
        return jax.lax.dynamic_update_slice_in_dim(stored, prompt, index, axis=axis)

    return jax.shard_map(write, out_specs=jax.typeof(stored).sharding.spec)(stored, prompt, slot)


@partial(jax.jit, static_argnames="slots")
def grow(cache: KVCache, *, slots: int) -> KVCache:
    """Return a cache of more slots; each token keeps its own, on the member where it is."""

    def lengthen(stored: Shaped[Array, "..."]) -> Shaped[Array, "..."]:
        axis = _slot_dimension(stored)

        def local(stored: Shaped[Array, "..."]) -> Shaped[Array, "..."]:
            more = slots // jax.lax.axis_size(SEQ_AXES) - stored.shape[axis]
            widths = [(0, more if d == axis else 0) for d in range(stored.ndim)]
            return jnp.pad(stored, widths, constant_values=-1 if stored.dtype == jnp.int32 else 0)

        return jax.shard_map(local, out_specs=jax.typeof(stored).sharding.spec)(stored)

    return jax.tree.map(lengthen, cache)


@partial(jax.jit, donate_argnames="cache")
def forget(cache: KVCache, *, kept: Int32[Array, ""]) -> KVCache:
    """Empty the slots of all tokens but the first `kept` of each row."""
    order = jnp.where(cache.order < kept, cache.order, -1)
    return KVCache(keys=cache.keys, values=cache.values, order=order)


def append(
    stored: Shaped[Array, "..."], new: Shaped[Array, "..."], *, slot: Int32[Array, ""]
) -> Shaped[Array, "..."]:
    """Write new tokens into slots `slot` and following; each owner writes its own.

    Args:
        stored: Keys or values `[batch, kv_heads, slots, head]`, or orders `[batch, slots]`.
        new: The same with `new` for `slots`, whole on every member of the sequence axes.
        slot: Where the first new token goes.
    """
    axis = _slot_dimension(stored)

    def local(
        stored: Shaped[Array, "..."], new: Shaped[Array, "..."], slot: Int32[Array, ""]
    ) -> Shaped[Array, "..."]:
        members, member = jax.lax.axis_size(SEQ_AXES), jax.lax.axis_index(SEQ_AXES)

        def write(i: Int32[Array, ""], stored: Shaped[Array, "..."]) -> Shaped[Array, "..."]:
            owner, index = (slot + i) % members, (slot + i) // members
            token = jax.lax.dynamic_slice_in_dim(new, i, 1, axis=axis)
            # A branch, not a select: XLA fuses a select and its write into every reader, and then keeps the
            # old cache and copies all of it at every step.
            return jax.lax.cond(
                owner == member,
                lambda: jax.lax.dynamic_update_slice_in_dim(stored, token, index, axis=axis),
                lambda: stored,
            )

        if new.shape[axis] == 1:
            return write(jnp.int32(0), stored)
        return jax.lax.fori_loop(0, new.shape[axis], write, stored)

    return jax.shard_map(local, out_specs=jax.typeof(stored).sharding.spec)(stored, new, slot)


def _slot_dimension(stored: Shaped[Array, "..."]) -> int:
    return stored.ndim - 2 if stored.ndim == 4 else stored.ndim - 1
