"""Cross entropy of two softmaxes over one head, a block of tokens at a time, with its own backward.

No array of size seq x vocab exists. Backward computes the scores of a block again from the saved
log-sum-exp; the gradient of the head is summed over blocks on each device, in float32, and reduced over
devices once.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32, Int32

from ringworld.core.divisors import largest_divisor
from ringworld.core.sharding import DATA_AXIS, MESH_AXES, TENSOR_AXIS, WEIGHT_AXES, spec

_HIDDEN = spec("batch", "seq", "embed")
_HEAD = spec("weight", "vocab")
_TOKEN = spec("batch", "seq")


class _Sizes(NamedTuple):
    text_vocab: int
    block_tokens: int


def cross_entropy(
    hidden: Float[Array, "batch seq embed"],
    head: Float[Array, "embed vocab"],
    targets: Int32[Array, "batch seq"],
    *,
    text_vocab: int,
    block_tokens: int = 512,
) -> Float32[Array, "batch seq"]:
    """Return the negative log-likelihood of each target, in nats, among the ids of its own modality.

    | target | is normalized over |
    |---|---|
    | `0 <= t < text_vocab` | ids `[0, text_vocab)` |
    | `text_vocab <= t` | ids `[text_vocab, vocab)` |
    | `t < 0` | nothing: the loss is 0 and has no gradient |

    This equals the two heads of LWM, one for each modality. Call it inside jit, under `jax.set_mesh`.

    Args:
        hidden: The residual stream after the last norm; its type is the type of the matrix products, which
            add in float32.
        head: Float32 master weights; cast to the type of `hidden` and gathered here.
        targets: Next ids, sharded as the first two dimensions of `hidden`.
        text_vocab: Number of text ids; the rest of the vocabulary is vision.
        block_tokens: Tokens of a device whose scores exist at one time (the largest divisor not above it).
    """
    assert text_vocab <= head.shape[1], (head.shape, text_vocab)
    with jax.named_scope("cross_entropy"):
        sizes = _Sizes(text_vocab=text_vocab, block_tokens=block_tokens)
        return _cross_entropy(sizes, hidden, jax.reshard(head, _HEAD), targets)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _cross_entropy(
    sizes: _Sizes,
    hidden: Float[Array, "batch seq embed"],
    head: Float[Array, "embed vocab"],
    targets: Int32[Array, "batch seq"],
) -> Float32[Array, "batch seq"]:
    return _forward(sizes, hidden, head, targets)[0]


def _forward(sizes, hidden, head, targets):
    local: Callable[..., tuple[Array, Array]] = partial(_local_losses, sizes)
    mapped = jax.shard_map(local, in_specs=(_HIDDEN, _HEAD, _TOKEN), out_specs=(_TOKEN, _TOKEN))
    losses, lse = mapped(hidden, head, targets)
    return losses, (hidden, head, targets, lse)


def _backward(sizes, saved, cotangent):
    local: Callable[..., tuple[Array, Array]] = partial(_local_gradients, sizes)
    mapped = jax.shard_map(
        local,
        in_specs=(_HIDDEN, _HEAD, _TOKEN, _TOKEN, _TOKEN),
        out_specs=(_HIDDEN, _HEAD),
    )
    hidden, head, targets, lse = saved
    return *mapped(hidden, head, targets, lse, cotangent), None


_cross_entropy.defvjp(_forward, _backward)


def _local_losses(
    sizes: _Sizes,
    hidden: Float[Array, "batch seq embed"],
    head: Float[Array, "embed_shard vocab_shard"],
    targets: Int32[Array, "batch seq"],
) -> tuple[Float32[Array, "batch seq"], Float32[Array, "batch seq"]]:
    """Return loss and log-sum-exp of the tokens of one device."""
    gathered = _gathered(head, hidden)

    def one_block(block: tuple[Array, Array]) -> tuple[Float32[Array, " tokens"], Float32[Array, " tokens"]]:
        x, target = block
        scores, is_target = _scores(x, gathered, target, text_vocab=sizes.text_vocab)
        top = jax.lax.pmax(jnp.max(scores, axis=1), TENSOR_AXIS)
        total = jax.lax.psum(jnp.sum(jnp.exp(scores - top[:, None]), axis=1), TENSOR_AXIS)
        at_target = jax.lax.psum(jnp.sum(jnp.where(is_target, scores, 0), axis=1), TENSOR_AXIS)
        lse = top + jnp.log(total)
        return jnp.where(target >= 0, lse - at_target, 0), lse

    losses, lse = jax.lax.map(one_block, _blocks(sizes, hidden, targets))
    return losses.reshape(targets.shape), lse.reshape(targets.shape)


def _local_gradients(
    sizes: _Sizes,
    hidden: Float[Array, "batch seq embed"],
    head: Float[Array, "embed_shard vocab_shard"],
    targets: Int32[Array, "batch seq"],
    lse: Float32[Array, "batch seq"],
    cotangent: Float32[Array, "batch seq"],
) -> tuple[Float[Array, "batch seq embed"], Float[Array, "embed_shard vocab_shard"]]:
    """Return the gradients of one device's tokens and of its piece of the head."""
    gathered = _gathered(head, hidden)

    def one_block(
        head_gradient: Float32[Array, "embed vocab_shard"],
        block: tuple[Array, Array, Array, Array],
    ) -> tuple[Float32[Array, "embed vocab_shard"], Float[Array, "tokens embed"]]:
        x, target, lse, cotangent = block
        scores, is_target = _scores(x, gathered, target, text_vocab=sizes.text_vocab)
        cotangent = jnp.where(target >= 0, cotangent, 0)
        wide = (jnp.exp(scores - lse[:, None]) - is_target.astype(jnp.float32)) * cotangent[:, None]
        gradient = wide.astype(x.dtype)
        head_gradient += jnp.matmul(x.T, gradient, preferred_element_type=jnp.float32)
        partial_sum = jnp.matmul(gradient, gathered.T, preferred_element_type=jnp.float32)
        return head_gradient, jax.lax.psum(partial_sum, TENSOR_AXIS).astype(x.dtype)

    blocks = _blocks(sizes, hidden, targets, lse, cotangent)
    zeros = jax.lax.pcast(jnp.zeros(gathered.shape, jnp.float32), MESH_AXES, to="varying")
    head_gradient, hidden_gradient = jax.lax.scan(one_block, zeros, blocks)
    shard = jax.lax.psum_scatter(head_gradient, WEIGHT_AXES, scatter_dimension=0, tiled=True)
    return hidden_gradient.reshape(hidden.shape), jax.lax.psum(shard, DATA_AXIS).astype(head.dtype)


def _gathered(
    head: Float[Array, "embed_shard vocab_shard"], hidden: Float[Array, "batch seq embed"]
) -> Float[Array, "embed vocab_shard"]:
    return jax.lax.all_gather(head.astype(hidden.dtype), WEIGHT_AXES, axis=0, tiled=True)


def _blocks(sizes: _Sizes, hidden: Float[Array, "batch seq embed"], *per_token: Array) -> Any:
    """Cut the tokens of a device into blocks: [blocks, tokens, embed], and [blocks, tokens] for the rest."""
    block = largest_divisor(hidden.shape[0] * hidden.shape[1], limit=sizes.block_tokens)
    return hidden.reshape(-1, block, hidden.shape[2]), *(x.reshape(-1, block) for x in per_token)


def _scores(
    x: Float[Array, "tokens embed"],
    head: Float[Array, "embed vocab_shard"],
    target: Int32[Array, " tokens"],
    *,
    text_vocab: int,
) -> tuple[Float32[Array, "tokens vocab_shard"], Bool[Array, "tokens vocab_shard"]]:
    """Return the scores, -inf outside the target's modality, and which of them is the target's."""
    start = jax.lax.axis_index(TENSOR_AXIS) * head.shape[1]
    ids = start + jnp.arange(head.shape[1], dtype=jnp.int32)[None, :]
    same_modality = (ids >= text_vocab) == (target >= text_vocab)[:, None]
    scores = jnp.matmul(x, head, preferred_element_type=jnp.float32)
    return jnp.where(same_modality, scores, -jnp.inf), ids == target[:, None]
