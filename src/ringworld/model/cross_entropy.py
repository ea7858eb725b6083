"""Cross entropy of two softmaxes over one output head, a block of tokens at a time.

No array of size seq x vocab exists. Where a loss is differentiated, the weights of its tokens are known, so
gradients are computed with the losses, while the scores of a block are there, and nothing is computed again
(as in Liger Kernel, arXiv 2410.10989). The gradient of the output head is summed over blocks on each
device, in float32, and reduced over devices once.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32, Int32

from ringworld.core.divisors import largest_divisor
from ringworld.core.sharding import DATA_AXIS, MESH_AXES, TENSOR_AXIS, WEIGHT_AXES, spec

_HIDDEN = spec("batch", "seq", "embed")
_OUTPUT_HEAD = spec("weight", "vocab")
_TOKEN = spec("batch", "seq")
_BLOCK_TOKENS = 512


class _Sizes(NamedTuple):
    text_vocab: int
    block_tokens: int


def cross_entropy(
    hidden: Float[Array, "batch seq embed"],
    output_head: Float[Array, "embed vocab"],
    targets: Int32[Array, "batch seq"],
    *,
    text_vocab: int,
    block_tokens: int = _BLOCK_TOKENS,
) -> Float32[Array, "batch seq"]:
    """Return the negative log-likelihood of each target, in nats, among the ids of its own modality.

    | target | is normalized over |
    |---|---|
    | `0 <= t < text_vocab` | ids `[0, text_vocab)` |
    | `text_vocab <= t` | ids `[text_vocab, vocab)` |
    | `t < 0` | nothing: the loss is 0 and has no gradient |

    This equals the two heads of LWM, one for each modality. Call it inside jit, under `jax.set_mesh`; to
    train, see `weighted_cross_entropy`.

    Args:
        hidden: The residual stream after the last norm; its type is the type of the matrix products, which
            add in float32.
        output_head: Float32 master weights; cast to the type of `hidden` and gathered here.
        targets: Next ids, sharded as the first two dimensions of `hidden`.
        text_vocab: Number of text ids; the rest of the vocabulary is vision.
        block_tokens: Tokens of a device whose scores exist at one time (the largest divisor not above it).
    """
    assert text_vocab <= output_head.shape[1], (output_head.shape, text_vocab)
    sizes = _Sizes(text_vocab=text_vocab, block_tokens=block_tokens)
    with jax.named_scope("cross_entropy"):
        return _losses(sizes, hidden, jax.reshard(output_head, _OUTPUT_HEAD), targets)


def weighted_cross_entropy(
    hidden: Float[Array, "batch seq embed"],
    output_head: Float[Array, "embed vocab"],
    targets: Int32[Array, "batch seq"],
    weights: Float32[Array, "batch seq"],
    *,
    text_vocab: int,
    block_tokens: int = _BLOCK_TOKENS,
) -> tuple[Float32[Array, ""], Float32[Array, "batch seq"]]:
    """Return the sum of losses, each times its weight, and the losses themselves, which have no gradient.

    Arguments as of `cross_entropy`; `weights` are sharded as `targets`.
    """
    assert text_vocab <= output_head.shape[1], (output_head.shape, text_vocab)
    sizes = _Sizes(text_vocab=text_vocab, block_tokens=block_tokens)
    with jax.named_scope("cross_entropy"):
        made: tuple[Array, Array] = _weighted(
            sizes, hidden, jax.reshard(output_head, _OUTPUT_HEAD), targets, weights
        )
    total, losses = made
    return total, jax.lax.stop_gradient(losses)


def _losses(
    sizes: _Sizes,
    hidden: Float[Array, "batch seq embed"],
    output_head: Float[Array, "embed vocab"],
    targets: Int32[Array, "batch seq"],
) -> Float32[Array, "batch seq"]:
    mapped = jax.shard_map(
        partial(_local_losses, sizes), in_specs=(_HIDDEN, _OUTPUT_HEAD, _TOKEN), out_specs=_TOKEN
    )
    return mapped(hidden, output_head, targets)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _weighted(
    sizes: _Sizes,
    hidden: Float[Array, "batch seq embed"],
    output_head: Float[Array, "embed vocab"],
    targets: Int32[Array, "batch seq"],
    weights: Float32[Array, "batch seq"],
) -> tuple[Float32[Array, ""], Float32[Array, "batch seq"]]:
    losses = _losses(sizes, hidden, output_head, targets)
    return jnp.sum(weights * losses), losses


def _forward(sizes, hidden, output_head, targets, weights):
    mapped = jax.shard_map(
        partial(_local_gradients, sizes),
        in_specs=(_HIDDEN, _OUTPUT_HEAD, _TOKEN, _TOKEN),
        out_specs=(_TOKEN, _HIDDEN, _OUTPUT_HEAD),
    )
    losses, of_hidden, of_output_head = mapped(hidden, output_head, targets, weights)
    return (jnp.sum(weights * losses), losses), (losses, of_hidden, of_output_head)


def _backward(sizes, saved, cotangents):
    losses, of_hidden, of_output_head = saved
    scale, _ = cotangents
    return scale.astype(of_hidden.dtype) * of_hidden, scale * of_output_head, None, scale * losses


_weighted.defvjp(_forward, _backward)


def _local_losses(
    sizes: _Sizes,
    hidden: Float[Array, "batch seq embed"],
    output_head: Float[Array, "embed_shard vocab_shard"],
    targets: Int32[Array, "batch seq"],
) -> Float32[Array, "batch seq"]:
    """Return the losses of the tokens of one device."""
    gathered = _gathered(output_head, hidden)

    def one_block(block: tuple[Array, Array]) -> Float32[Array, " tokens"]:
        return _scored(*block, gathered, text_vocab=sizes.text_vocab).losses

    return jax.lax.map(one_block, _blocks(sizes, hidden, targets)).reshape(targets.shape)


def _local_gradients(
    sizes: _Sizes,
    hidden: Float[Array, "batch seq embed"],
    output_head: Float[Array, "embed_shard vocab_shard"],
    targets: Int32[Array, "batch seq"],
    weights: Float32[Array, "batch seq"],
) -> tuple[
    Float32[Array, "batch seq"], Float[Array, "batch seq embed"], Float[Array, "embed_shard vocab_shard"]
]:
    """Return the losses of one device's tokens, and the gradients of them and of its output head."""
    gathered = _gathered(output_head, hidden)

    def one_block(
        of_output_head: Float32[Array, "embed vocab_shard"], block: tuple[Array, Array, Array]
    ) -> tuple[Float32[Array, "embed vocab_shard"], tuple[Array, Array]]:
        x, target, weight = block
        scored = _scored(x, target, gathered, text_vocab=sizes.text_vocab)
        weight = jnp.where(target >= 0, weight, 0)[:, None]
        of_scores = ((scored.shares - scored.is_target.astype(jnp.float32)) * weight).astype(x.dtype)
        of_output_head += jnp.matmul(x.T, of_scores, preferred_element_type=jnp.float32)
        of_x = jnp.matmul(of_scores, gathered.T, preferred_element_type=jnp.float32)
        return of_output_head, (scored.losses, jax.lax.psum(of_x, TENSOR_AXIS).astype(x.dtype))

    zeros = jax.lax.pcast(jnp.zeros(gathered.shape, jnp.float32), MESH_AXES, to="varying")
    of_output_head, (losses, of_hidden) = jax.lax.scan(
        one_block, zeros, _blocks(sizes, hidden, targets, weights)
    )
    shard = jax.lax.psum_scatter(of_output_head, WEIGHT_AXES, scatter_dimension=0, tiled=True)
    of_output_head = jax.lax.psum(shard, DATA_AXIS).astype(output_head.dtype)
    return losses.reshape(targets.shape), of_hidden.reshape(hidden.shape), of_output_head


def _gathered(
    output_head: Float[Array, "embed_shard vocab_shard"], hidden: Float[Array, "batch seq embed"]
) -> Float[Array, "embed vocab_shard"]:
    ready = output_head.astype(hidden.dtype)
    if jax.lax.axis_size(WEIGHT_AXES) == 1:
        return ready  # which XLA would copy
    return jax.lax.all_gather(ready, WEIGHT_AXES, axis=0, tiled=True)


def _blocks(sizes: _Sizes, hidden: Float[Array, "batch seq embed"], *per_token: Array) -> Any:
    """Cut the tokens of a device into blocks: [blocks, tokens, embed], and [blocks, tokens] for the rest."""
    block = largest_divisor(hidden.shape[0] * hidden.shape[1], limit=sizes.block_tokens)
    return hidden.reshape(-1, block, hidden.shape[2]), *(x.reshape(-1, block) for x in per_token)


class _Scored(NamedTuple):
    losses: Float32[Array, " tokens"]
    shares: Float32[Array, "tokens vocab_shard"]
    """Likelihood of each id; 0 outside the target's modality."""
    is_target: Bool[Array, "tokens vocab_shard"]


def _scored(
    x: Float[Array, "tokens embed"],
    target: Int32[Array, " tokens"],
    output_head: Float[Array, "embed vocab_shard"],
    *,
    text_vocab: int,
) -> _Scored:
    start = jax.lax.axis_index(TENSOR_AXIS) * output_head.shape[1]
    ids = start + jnp.arange(output_head.shape[1], dtype=jnp.int32)[None, :]
    same_modality, is_target = (ids >= text_vocab) == (target >= text_vocab)[:, None], ids == target[:, None]
    scores = jnp.matmul(x, output_head, preferred_element_type=jnp.float32)
    scores = jnp.where(same_modality, scores, -jnp.inf)
    top = jax.lax.pmax(jnp.max(scores, axis=1), TENSOR_AXIS)
    total = jax.lax.psum(jnp.sum(jnp.exp(scores - top[:, None]), axis=1), TENSOR_AXIS)
    at_target = jax.lax.psum(jnp.sum(jnp.where(is_target, scores, 0), axis=1), TENSOR_AXIS)
    lse = top + jnp.log(total)
    return _Scored(
        losses=jnp.where(target >= 0, lse - at_target, 0),
        shares=jnp.exp(scores - lse[:, None]),
        is_target=is_target,
    )
