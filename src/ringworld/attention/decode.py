"""Attention of a few new tokens to a long cache that stays where it is.

Each member attends to the keys that it holds, and the partial results are merged by two reductions whose size
is that of the queries, not of the context (Tree Attention, arXiv 2408.04093).
"""

import jax
from jaxtyping import Array, Float, Int32

from ringworld.attention.backends import kernel_for, on_each_device
from ringworld.attention.config import AttentionConfig
from ringworld.attention.inputs import axis_size, check_inputs, check_shardings, check_tokens
from ringworld.attention.layouts import check_divides
from ringworld.attention.merge import merge_over
from ringworld.attention.visibility import MaskSpec
from ringworld.core.sharding import SEQ_AXES, spec

_Q = spec("batch", "heads", None, "head")
_KV = spec("batch", "kv_heads", "seq", "head")
_Q_TOKENS = spec("batch", None)
_TOKENS = spec("batch", "seq")


def decode_attention(
    q: Float[Array, "batch heads q_seq head"],
    k: Float[Array, "batch kv_heads kv_seq head"],
    v: Float[Array, "batch kv_heads kv_seq head"],
    *,
    q_order: Int32[Array, "batch q_seq"],
    q_first: Int32[Array, "batch q_seq"],
    k_order: Int32[Array, "batch kv_seq"],
    config: AttentionConfig,
) -> Float[Array, "batch heads q_seq head"]:
    """Return the attention of new tokens to the cached keys whose order lies in [q_first, q_order].

    Call it under a mesh of `core.mesh`. Heads stand before tokens, as in the cache, so that nothing of its
    size is transposed. Queries and the result are whole on every member of the sequence axes; keys, values
    and `k_order` are sharded over them. Empty slots of the cache have order -1. Several queries a row are a
    chunk of a prompt whose own keys are in the cache already.

    Raises:
        InputError: types, shapes or shardings do not match, or heads, batch or the slots of the cache do not
            divide over the mesh.
    """
    by_token = q.swapaxes(1, 2), k.swapaxes(1, 2), v.swapaxes(1, 2)
    check_inputs(*by_token)
    check_tokens({"q_order": q_order, "q_first": q_first}, like=by_token[0])
    check_tokens({"k_order": k_order}, like=by_token[1])
    check_divides("contiguous", seq=k.shape[2], members=axis_size(*SEQ_AXES))
    check_shardings(q=(q, _Q), k=(k, _KV), v=(v, _KV))
    check_shardings(q_order=(q_order, _Q_TOKENS), q_first=(q_first, _Q_TOKENS), k_order=(k_order, _TOKENS))
    attend = on_each_device(
        _attend, in_specs=(_Q, _KV, _KV, _Q_TOKENS, _Q_TOKENS, _TOKENS), out_specs=_Q, config=config
    )
    return attend(q, k, v, q_order, q_first, k_order)


def _attend(
    q: Array, k: Array, v: Array, q_order: Array, q_first: Array, k_order: Array, *, config: AttentionConfig
) -> Array:
    # Equal on every member so far; the partial results are not.
    q, q_order, q_first = jax.lax.pcast((q, q_order, q_first), SEQ_AXES, to="varying")
    mask = MaskSpec(q_order=q_order, q_first=q_first, k_order=k_order)
    part = kernel_for(config, queries=q).forward(q, k, v, mask=mask, config=config)
    return merge_over(part, SEQ_AXES).out.astype(q.dtype)
