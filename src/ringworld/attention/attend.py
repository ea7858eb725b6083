"""Attention over a sequence that is cut over the mesh: the one function that a model calls.

Every strategy has two steps, either of which may be empty: members of some axes exchange heads for tokens,
and over the others keys and values go round a ring or are gathered (`config.sequence_axes`). So there is only
one backward pass, which starts from the `out` and `lse` that are saved under the names below.
"""

import functools

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Int32

from ringworld.attention import ring
from ringworld.attention.backends import on_each_device
from ringworld.attention.blocks import row_major
from ringworld.attention.config import AttentionConfig, SequenceAxes, sequence_axes
from ringworld.attention.exchange import all_keys, all_tokens, heads_for_tokens, own_keys, tokens_for_heads
from ringworld.attention.inputs import (
    axis_size,
    check_inputs,
    check_self_attention,
    check_shardings,
    check_tokens,
)
from ringworld.attention.layouts import check_shares
from ringworld.attention.visibility import MaskSpec
from ringworld.core.sharding import BATCH_AXES, RING_AXIS, TENSOR_AXIS, ULYSSES_AXIS, spec

# With a remat policy that saves these names, the backward pass does not run the forward pass again.
OUT_NAME = "attention_out"
LSE_NAME = "attention_lse"

_TOKENS = spec("batch", "seq")
_Q = spec("batch", "seq", "heads", "head")
_KV = spec("batch", "seq", "kv_heads", "head")


def attention(
    q: Float[Array, "batch seq heads head"],
    k: Float[Array, "batch seq kv_heads head"],
    v: Float[Array, "batch seq kv_heads head"],
    *,
    order: Int32[Array, "batch seq"],
    first: Int32[Array, "batch seq"],
    config: AttentionConfig,
) -> Float[Array, "batch seq heads head"]:
    """Return the attention of each token to the keys whose order lies in [first, order].

    Call it under a mesh of `core.mesh` (`jax.set_mesh`), with arrays sharded by batch, seq and heads as in
    `core.sharding.spec`. The tokens may be in any layout; the result has the same layout, and the type and
    sharding of `q`. Tokens with order -1 are padding: their outputs and gradients are zero, if their values
    are finite. `api.attention` takes arrays in plain order, on no particular device.

    Raises:
        InputError: shapes, types or shardings do not match, heads or batch do not divide over the mesh, the
            layout does not divide the sequence, or the kernel does not support such heads or devices.
    """
    check_inputs(q, k, v, head_axes=(TENSOR_AXIS, *_axes(config).heads))
    check_self_attention(q, k)
    check_tokens({"order": order, "first": first}, like=q)
    check_shares(config, seq=q.shape[1], ring=axis_size(RING_AXIS), ulysses=axis_size(ULYSSES_AXIS))
    check_shardings(q=(q, _Q), k=(k, _KV), v=(v, _KV), order=(order, _TOKENS), first=(first, _TOKENS))
    return _attention(q, k, v, order, first, config)


@functools.partial(jax.custom_vjp, nondiff_argnums=(5,))
def _attention(q: Array, k: Array, v: Array, order: Array, first: Array, config: AttentionConfig) -> Array:
    return _forward_rule(q, k, v, order, first, config)[0]


def _forward_rule(q: Array, k: Array, v: Array, order: Array, first: Array, config: AttentionConfig):
    attend = on_each_device(
        _local_forward,
        in_specs=(_Q, _KV, _KV, _TOKENS, _TOKENS),
        out_specs=(_Q, _lse_spec(config)),
        config=config,
    )
    out, lse = attend(q, k, v, order, first)
    out, lse = checkpoint_name(out, OUT_NAME), checkpoint_name(lse, LSE_NAME)
    return out, (q, k, v, order, first, out, lse)


def _backward_rule(config: AttentionConfig, residuals: tuple[Array, ...], dout: Array):
    attend = on_each_device(
        _local_backward,
        in_specs=(_Q, _KV, _KV, _TOKENS, _TOKENS, _Q, _lse_spec(config), _Q),
        out_specs=(_Q, _KV, _KV),
        config=config,
    )
    q, k, v, order, first, out, lse = residuals
    dq, dk, dv = attend(q, k, v, order, first, out, lse, dout)
    return dq, dk, dv, None, None


_attention.defvjp(_forward_rule, _backward_rule)


def _axes(config: AttentionConfig) -> SequenceAxes[str]:
    return sequence_axes(config.strategy, ring=RING_AXIS, ulysses=ULYSSES_AXIS)


def _lse_spec(config: AttentionConfig) -> PartitionSpec:
    """Return how `lse` [batch, heads, seq] is sharded: as the kernel returns it."""
    axes = _axes(config)
    return PartitionSpec(BATCH_AXES, (TENSOR_AXIS, *axes.heads), axes.tokens)


def _local_forward(
    q: Array, k: Array, v: Array, order: Array, first: Array, *, config: AttentionConfig
) -> tuple[Array, Array]:
    axes = _axes(config)
    q, k, v = map(_heads_first, heads_for_tokens(q, k, v, axes=axes.heads))
    order, first = all_tokens(order, first, axes=axes.heads)
    gathered, hops = _gathered_axes(config)
    k, v, k_order = all_keys(k, v, order, axes=gathered)
    mask = MaskSpec(q_order=order, q_first=first, k_order=k_order)
    out, lse = ring.forward(q, k, v, mask=mask, axes=hops, config=config)
    (out,) = tokens_for_heads(_heads_first(out.astype(q.dtype)), axes=axes.heads)
    return out, lse


def _local_backward(
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
) -> tuple[Array, ...]:
    axes = _axes(config)
    delta = jnp.sum(out.astype(jnp.float32) * dout.astype(jnp.float32), axis=-1, keepdims=True)
    of_heads = heads_for_tokens(q, k, v, dout, delta, axes=axes.heads)
    q, k, v, dout, delta = map(_heads_first, of_heads)
    order, first = all_tokens(order, first, axes=axes.heads)
    gathered, hops = _gathered_axes(config)
    k, v, k_order = all_keys(k, v, order, axes=gathered)
    mask = MaskSpec(q_order=order, q_first=first, k_order=k_order)
    final = {"lse": lse, "delta": delta[..., 0]}
    dq, dk, dv = ring.backward(q, k, v, dout, **final, mask=mask, axes=hops, config=config)
    gradients = (dq, *own_keys(dk, dv, axes=gathered))
    return tuple(tokens_for_heads(*(_heads_first(x.astype(q.dtype)) for x in gradients), axes=axes.heads))


def _gathered_axes(config: AttentionConfig) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return over which axes keys are gathered, and over which they go round a ring."""
    tokens = _axes(config).tokens
    return (tokens, ()) if config.strategy == "all_gather" else ((), tokens)


def _heads_first(x: Array) -> Array:
    """Swap tokens and heads, either way."""
    return row_major(x.swapaxes(1, 2))
