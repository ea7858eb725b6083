"""All keys and values on every member at once, where memory allows: one exchange instead of R - 1 hops.

Keys and values are gathered stacked in one message and in the compute type. The backward pass gathers them
again instead of keeping them, and reduce-scatters their gradients in float32.

These functions run on each device, inside a shard_map. They have the contract of `kernel.Kernel`, for the
keys of all members of `axes` instead of one shard of them.
"""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Float32, Int32

from ringworld.attention.backends import kernel_for
from ringworld.attention.config import AttentionConfig
from ringworld.attention.kernel import Gradients
from ringworld.attention.merge import Partial
from ringworld.attention.visibility import MaskSpec

_SEQ = 3  # of keys and values stacked: [2, batch, kv_heads, seq, head]


def forward(
    q: Float[Array, "batch heads seq head"],
    k: Float[Array, "batch kv_heads seq head"],
    v: Float[Array, "batch kv_heads seq head"],
    *,
    order: Int32[Array, "batch seq"],
    first: Int32[Array, "batch seq"],
    axes: tuple[str, ...],
    config: AttentionConfig,
) -> Partial:
    """Return attention of this member's queries to the keys of all members."""
    k, v, k_order = _gathered(k, v, order, axes)
    mask = MaskSpec(q_order=order, q_first=first, k_order=k_order)
    return kernel_for(config, queries=q).forward(q, k, v, mask=mask, config=config)


def backward(
    q: Float[Array, "batch heads seq head"],
    k: Float[Array, "batch kv_heads seq head"],
    v: Float[Array, "batch kv_heads seq head"],
    dout: Float[Array, "batch heads seq head"],
    *,
    lse: Float32[Array, "batch heads seq"],
    delta: Float32[Array, "batch heads seq"],
    order: Int32[Array, "batch seq"],
    first: Int32[Array, "batch seq"],
    axes: tuple[str, ...],
    config: AttentionConfig,
) -> Gradients:
    """Return the gradients of this member's queries, keys and values, from the final `lse`."""
    k, v, k_order = _gathered(k, v, order, axes)
    mask = MaskSpec(q_order=order, q_first=first, k_order=k_order)
    kernel = kernel_for(config, queries=q)
    part = kernel.backward(q, k, v, dout, lse=lse, delta=delta, mask=mask, config=config)
    dkv = lax.psum_scatter(jnp.stack([part.dk, part.dv]), axes, scatter_dimension=_SEQ, tiled=True)
    return Gradients(dq=part.dq, dk=dkv[0], dv=dkv[1])


def _gathered(k: Array, v: Array, order: Array, axes: tuple[str, ...]) -> tuple[Array, Array, Array]:
    k, v = lax.all_gather(jnp.stack([k, v]), axes, axis=_SEQ, tiled=True)
    return k, v, lax.all_gather(order, axes, axis=1, tiled=True)
