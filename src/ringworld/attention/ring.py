"""Ring attention: exact attention over a sequence cut over the members of a ring.

Keys and values travel round the ring, stacked in one permute and in the compute type, while each member
attends to those that it holds (Ring Attention, arXiv 2310.01889). A member sends before it computes, so that
the two overlap, and no array is sent that nobody reads: R - 1 hops. The backward pass is a second ring, in
which the float32 gradients of keys and values follow them and go one hop more, home. Sequence axes of more
than one name form one ring.
"""

import functools
from typing import TypeVar

import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, Float32, Int32

from ringworld.attention.backends import kernel_for
from ringworld.attention.config import AttentionConfig
from ringworld.attention.inputs import axis_size, check_inputs
from ringworld.attention.layouts import check_divides
from ringworld.attention.merge import Partial, merge, nothing_seen
from ringworld.attention.visibility import MaskSpec
from ringworld.core.sharding import SEQ_AXES, spec

# A remat policy that saves these names keeps the backward pass from running the ring forward again.
OUT_NAME = "attention_out"
LSE_NAME = "attention_lse"

_TOKENS = spec("batch", "seq")
_Q = spec("batch", "seq", "heads", "head")
_KV = spec("batch", "seq", "kv_heads", "head")
_LSE = spec("batch", "heads", "seq")

Tree = TypeVar("Tree")
_Held = tuple[Array, Array]  # what travels: keys and values [2, batch, kv_heads, seq, head], and their order


def ring_attention(
    q: Float[Array, "batch seq heads head"],
    k: Float[Array, "batch seq kv_heads head"],
    v: Float[Array, "batch seq kv_heads head"],
    *,
    order: Int32[Array, "batch seq"],
    first: Int32[Array, "batch seq"],
    config: AttentionConfig,
) -> Float[Array, "batch seq heads head"]:
    """Return the attention of each token to the keys whose order lies in [first, order].

    Call it under a mesh of `core.mesh` (`jax.set_mesh`), with arrays sharded as `core.sharding.spec` says:
    batch, seq and heads. The tokens may be in any layout; the result is in the same one, in the type and
    sharding of `q`. Tokens with order -1 are padding: zeros, and zero gradients.

    Raises:
        InputError: types differ, heads or batch do not fit the mesh, or the layout does not divide the
        sequence.
    """
    check_inputs(q, k, v)
    check_divides(config.layout, seq=q.shape[1], members=axis_size(*SEQ_AXES))
    return _attention(q, k, v, order, first, config)


@functools.partial(jax.custom_vjp, nondiff_argnums=(5,))
def _attention(q: Array, k: Array, v: Array, order: Array, first: Array, config: AttentionConfig) -> Array:
    return _forward(q, k, v, order, first, config)[0]


def _forward(
    q: Array, k: Array, v: Array, order: Array, first: Array, config: AttentionConfig
) -> tuple[Array, Float32[Array, "batch heads seq"]]:
    ring = jax.shard_map(
        functools.partial(_ring_forward, config=config),
        in_specs=(_Q, _KV, _KV, _TOKENS, _TOKENS),
        out_specs=(_Q, _LSE),
    )
    return ring(q, k, v, order, first)


def _forward_rule(q: Array, k: Array, v: Array, order: Array, first: Array, config: AttentionConfig):
    out, lse = _forward(q, k, v, order, first, config)
    out, lse = checkpoint_name(out, OUT_NAME), checkpoint_name(lse, LSE_NAME)
    return out, (q, k, v, order, first, out, lse)


def _backward_rule(config: AttentionConfig, residuals: tuple[Array, ...], dout: Array):
    ring = jax.shard_map(
        functools.partial(_ring_backward, config=config),
        in_specs=(_Q, _KV, _KV, _TOKENS, _TOKENS, _Q, _LSE, _Q),
        out_specs=(_Q, _KV, _KV),
    )
    q, k, v, order, first, out, lse = residuals
    dq, dk, dv = ring(q, k, v, order, first, out, lse, dout)
    return dq, dk, dv, None, None


_attention.defvjp(_forward_rule, _backward_rule)


def _ring_forward(
    q: Array, k: Array, v: Array, order: Array, first: Array, *, config: AttentionConfig
) -> tuple[Array, Array]:
    q, k, v = _heads_first(q), _heads_first(k), _heads_first(v)
    hops = lax.axis_size(SEQ_AXES) - 1

    def attend(held: _Held) -> Partial:
        (k, v), k_order = held
        mask = MaskSpec(q_order=order, q_first=first, k_order=k_order)
        return kernel_for(config).forward(q, k, v, mask=mask, config=config)

    def step(_: Array, carry: tuple[Partial, _Held]) -> tuple[Partial, _Held]:
        total, held = carry
        arriving = _pass_on(held)
        return merge(total, attend(held)), arriving

    total, held = lax.fori_loop(0, hops, step, (nothing_seen(q), (jnp.stack([k, v]), order)))
    total = merge(total, attend(held))
    return _heads_first(total.out).astype(q.dtype), total.lse


def _ring_backward(
    q: Array,
    k: Array,
    v: Array,
    order: Array,
    first: Array,
    out: Array,
    lse: Array,
    dout: Array,
    *,
    config: AttentionConfig,
) -> tuple[Array, Array, Array]:
    q, k, v, out, dout = (_heads_first(x) for x in (q, k, v, out, dout))
    delta = jnp.sum(out.astype(jnp.float32) * dout.astype(jnp.float32), axis=-1)
    hops = lax.axis_size(SEQ_AXES) - 1

    def attend(held: _Held) -> tuple[Array, Array]:
        (k, v), k_order = held
        mask = MaskSpec(q_order=order, q_first=first, k_order=k_order)
        part = kernel_for(config).backward(q, k, v, dout, lse=lse, delta=delta, mask=mask, config=config)
        return part.dq, jnp.stack([part.dk, part.dv])

    def step(_: Array, carry: tuple[Array, Array, _Held]) -> tuple[Array, Array, _Held]:
        dq, dkv, held = carry
        arriving, dkv = _pass_on((held, dkv))
        dq_part, dkv_part = attend(held)
        return dq + dq_part, dkv + dkv_part, arriving

    held = (jnp.stack([k, v]), order)
    arriving = _pass_on(held) if hops else held
    dq, dkv = attend(held)
    if hops:
        dq, dkv, held = lax.fori_loop(1, hops, step, (dq, dkv, arriving))
        dkv = _pass_on(dkv)
        dq_part, dkv_part = attend(held)
        dq, dkv = dq + dq_part, _pass_on(dkv + dkv_part)
    dq, dk, dv = (_heads_first(x).astype(q.dtype) for x in (dq, *dkv))
    return dq, dk, dv


def _pass_on(tree: Tree) -> Tree:
    """Send to the next member what this one holds."""
    members = lax.axis_size(SEQ_AXES)
    to_next = [(member, (member + 1) % members) for member in range(members)]
    return jax.tree.map(lambda x: lax.ppermute(x, SEQ_AXES, to_next), tree)


def _heads_first(x: Array) -> Array:
    """Swap tokens and heads, either way."""
    return x.swapaxes(1, 2)
