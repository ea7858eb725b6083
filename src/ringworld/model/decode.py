"""Inference: read prompts with the ring, or chunk by chunk; then one token at a time; or score what is there.

    weights = GenerationWeights.from_model(model, compute=execution.compute)            # once
    cache = KVCache.init(architecture, batch=batch, slots=slots, compute=execution.compute)
    logits, cache = prefill(weights, cache, prompt, order=order, forward=forward)
    logits, cache = decode_step(weights, cache, tokens, order=order, slot=slot, forward=forward)
    logits, cache = read_chunk(weights, cache, tokens, order=order, slot=slot, forward=forward)

Call all of it under `jax.set_mesh`, and `decode_step` inside jit. A row of a prompt holds one example, so
`first` is 0 everywhere.

Reading and scoring many tokens, a layer takes so long that each is a call of one compiled program, whatever
the number of layers. A step of one token is so short that all layers are one program, unrolled: a scan would
slice each layer's weights and cache out of a stack, which costs a token up to twice its time on a CPU
(`benchmarks/first_token.py`).
"""

from collections.abc import Callable
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32, Int32

from ringworld.attention.attend import attention
from ringworld.attention.decode import decode_attention
from ringworld.core.sharding import spec
from ringworld.model.cache import KVCache, append, fill
from ringworld.model.forward import Forward
from ringworld.model.layers import Layer, rms_norm
from ringworld.model.rope import Rotation, rotation
from ringworld.model.weights import FrozenWeight, in_use
from ringworld.model.world_model import (
    WorldModel,
    embedded,
    logits,
    losses_of,
    positions,
    window_start,
)

_Stored = Float[Array, "batch kv_heads slots head"]
_Called = tuple[Float[Array, "batch seq embed"], _Stored, _Stored]  # what a layer returns, and stores


class GenerationWeights(eqx.Module):
    """A world model ready for inference: gathered over the `weight` axes, unstacked, in any type.

    What is not in the compute type is cast when it is used.
    """

    embed: Float[Array, "vocab embed"]
    layers: tuple[Layer, ...]
    norm: Float[Array, " embed"]
    output_head: FrozenWeight  # [embed, vocab]

    @staticmethod
    def from_model(model: WorldModel, *, compute: str) -> "GenerationWeights":
        """Cast, gather and unstack; `heads`, `mlp` and `vocab` stay sharded over the tensor axis."""
        layers = range(len(model.layers.mlp_norm))
        embed, norm, output_head = _ends(model, compute=compute)
        return GenerationWeights(
            embed=embed,
            layers=tuple(_layer(model.layers, jnp.int32(i), compute=compute) for i in layers),
            norm=norm,
            output_head=output_head,
        )


def prefill(
    weights: GenerationWeights,
    cache: KVCache,
    tokens: Int32[Array, "batch seq"],
    *,
    order: Int32[Array, "batch seq"],
    forward: Forward,
) -> tuple[Float32[Array, "batch vocab"], KVCache]:
    """Read one prompt a row into slots `[0, seq)` of an empty cache, and score what follows each.

    Args:
        weights: The model.
        cache: An empty cache of at least `seq` slots; outside jit its arrays are used up.
        tokens: Prompts padded to `padded_length` and arranged in the layout of the attention, sharded by
            `spec("batch", "seq")`.
        order: Index of each token in its prompt, -1 for padding; arranged as the tokens are.
        forward: Rotary frequencies and configuration.

    Returns:
        The scores after the last token of each row, and the cache.
    """
    first = jnp.zeros_like(order)
    x, rotated = begin(weights.embed, tokens, order=order, first=first, forward=forward)
    read = partial(_read_layer, rotated=rotated, order=order, first=first, forward=forward)
    written = _fill(cache.order, order, slot=jnp.int32(0))
    x, cache = _through_layers(read, weights, cache, x, written=written)
    return scores_of_last(weights, x, order=order, forward=forward), cache


def read_chunk(
    weights: GenerationWeights,
    cache: KVCache,
    tokens: Int32[Array, "batch seq"],
    *,
    order: Int32[Array, "batch seq"],
    slot: Int32[Array, ""],
    forward: Forward,
) -> tuple[Float32[Array, "batch vocab"], KVCache]:
    """Read more of each row after what the cache holds already, and score what follows.

    The tokens are cut over the sequence axes, as in `prefill`, and keys and values stay where they are made.
    Only the queries of the chunk travel, and what they found: the traffic does not depend on the context.

    Args:
        weights: The model.
        cache: An empty one, or what the last call returned; outside jit its arrays are used up.
        tokens: Padded to a multiple of the members, sharded by `spec("batch", "seq")`. In the striped layout
            padding at the end leaves the last slots empty, and the next chunk may take them.
        order: Index of each token in its row, -1 for padding; arranged as the tokens are.
        slot: The first that is written, a multiple of the members; `seq` slots from there are overwritten.
        forward: Rotary frequencies and configuration.

    Returns:
        The scores after the last token of each row, which mean nothing for a row of padding, and the cache.
    """
    first = jnp.zeros_like(order)
    x, rotated = begin(weights.embed, tokens, order=order, first=first, forward=forward)
    written, whole_order = _fill(cache.order, order, slot=slot), _whole(order)
    read = partial(
        _chunk_layer,
        rotated=rotated,
        order=whole_order,
        written=written,
        slot=slot,
        forward=forward,
        cut=True,
    )
    x, cache = _through_layers(read, weights, cache, x, written=written)
    return scores_of_last(weights, x, order=order, forward=forward), cache


def decode_step(
    weights: GenerationWeights,
    cache: KVCache,
    tokens: Int32[Array, "batch new"],
    *,
    order: Int32[Array, "batch new"],
    slot: Int32[Array, ""],
    forward: Forward,
) -> tuple[Float32[Array, "batch vocab"], KVCache]:
    """Append tokens to each row, usually one, and score what follows them.

    No key or value moves between devices, and what does move does not grow with the cache.

    Args:
        weights: The model.
        cache: What the last call returned.
        tokens: New ids, whole on every member of the sequence axes: sharded by `spec("batch", None)`.
        order: Index of each new token in its row; rows may differ. -1 for a row that is finished.
        slot: Where the first is written: tokens of the padded prompt, plus tokens appended since.
        forward: Rotary frequencies and configuration.

    Returns:
        The scores after the last new token of each row, and the cache.
    """
    first = jnp.zeros_like(order)
    x, rotated = begin(weights.embed, tokens, order=order, first=first, forward=forward)
    written = append(cache.order, order, slot=slot)
    decode = partial(
        _decode_layer,
        rotated=rotated,
        order=order,
        written=written,
        slot=slot,
        forward=forward,
        cut=False,
    )
    x, cache = _through_layers(decode, weights, cache, x, written=written)
    return scores_of_last(weights, x, order=order, forward=forward), cache


def target_losses(
    weights: GenerationWeights,
    tokens: Int32[Array, "batch seq"],
    targets: Int32[Array, "batch seq"],
    *,
    order: Int32[Array, "batch seq"],
    first: Int32[Array, "batch seq"],
    forward: Forward,
) -> Float32[Array, "batch seq"]:
    """Return the negative log-likelihood of each target in nats, among the ids of its own modality.

    Arrays and layout as in `world_model.hidden_states`; see `cross_entropy` for targets below 0. The masters
    in training give the same, since they are cast as these weights were.
    """
    x, rotated = begin(weights.embed, tokens, order=order, first=first, forward=forward)
    for layer in weights.layers:
        x = _score_layer(layer, x, rotated=rotated, order=order, first=first, forward=forward)
    return _losses_of(x, targets, norm=weights.norm, output_head=weights.output_head, forward=forward)


def _through_layers(
    call: Callable[..., _Called],
    weights: GenerationWeights,
    cache: KVCache,
    x: Float[Array, "batch seq embed"],
    *,
    written: Int32[Array, "batch slots"],
) -> tuple[Float[Array, "batch seq embed"], KVCache]:
    """Call each layer with what it has stored; what it returns makes a cache of the order `written`."""
    keys, values = [], []
    for layer, stored_k, stored_v in zip(weights.layers, cache.keys, cache.values):
        x, k, v = call(layer, x, stored_k, stored_v)
        keys.append(k)
        values.append(v)
    return x, KVCache(keys=tuple(keys), values=tuple(values), order=written)


@jax.jit
def begin(
    table: Float[Array, "vocab embed"],
    tokens: Int32[Array, "batch seq"],
    *,
    order: Int32[Array, "batch seq"],
    first: Int32[Array, "batch seq"],
    forward: Forward,
) -> tuple[Float[Array, "batch seq embed"], Rotation]:
    """Return the embedding of tokens, and how their queries and keys are rotated."""
    x = embedded(table, tokens, compute=forward.execution.compute)
    return x, rotation(positions(order, first), forward.frequencies)


@partial(jax.jit, donate_argnames=("x", "stored_k", "stored_v"))
def _read_layer(
    layer: Layer,
    x: Float[Array, "batch seq embed"],
    stored_k: _Stored,
    stored_v: _Stored,
    *,
    rotated: Rotation,
    order: Int32[Array, "batch seq"],
    first: Int32[Array, "batch seq"],
    forward: Forward,
) -> _Called:
    stored = []

    def attend(q, k, v):
        stored.append(fill(stored_k, k.swapaxes(1, 2), slot=jnp.int32(0)))
        stored.append(fill(stored_v, v.swapaxes(1, 2), slot=jnp.int32(0)))
        seen_from = window_start(order, first, forward=forward)
        return attention(q, k, v, order=order, first=seen_from, config=forward.execution.attention)

    x = layer(x, rotation=rotated, attend=attend, forward=forward)
    return x, stored[0], stored[1]


def _cached_layer(
    layer: Layer,
    x: Float[Array, "batch seq embed"],
    stored_k: _Stored,
    stored_v: _Stored,
    *,
    rotated: Rotation,
    order: Int32[Array, "batch seq"],
    written: Int32[Array, "batch slots"],
    slot: Int32[Array, ""],
    forward: Forward,
    cut: bool,
) -> _Called:
    """Put new tokens into the cache and attend to it; `cut` where they are cut over the sequence axes."""
    stored = []

    def attend(q, k, v):
        q, k, v = (x.swapaxes(1, 2) for x in (q, k, v))
        write = fill if cut else append
        stored.append(write(stored_k, k, slot=slot))
        stored.append(write(stored_v, v, slot=slot))
        out = decode_attention(
            jax.reshard(q, spec("batch", "heads", None, "head")),
            *stored,
            q_order=order,
            q_first=window_start(order, jnp.zeros_like(order), forward=forward),
            k_order=written,
            config=forward.execution.attention,
        )
        return jax.reshard(out, jax.typeof(q).sharding.spec).swapaxes(1, 2)

    x = layer(x, rotation=rotated, attend=attend, forward=forward)
    return x, stored[0], stored[1]


@partial(jax.jit, donate_argnames="x")
def _score_layer(
    layer: Layer,
    x: Float[Array, "batch seq embed"],
    *,
    rotated: Rotation,
    order: Int32[Array, "batch seq"],
    first: Int32[Array, "batch seq"],
    forward: Forward,
) -> Float[Array, "batch seq embed"]:
    seen_from = window_start(order, first, forward=forward)
    attend = partial(attention, order=order, first=seen_from, config=forward.execution.attention)
    return layer(x, rotation=rotated, attend=attend, forward=forward)


@jax.jit
def scores_of_last(
    weights: GenerationWeights,
    x: Float[Array, "batch seq embed"],
    *,
    order: Int32[Array, "batch seq"],
    forward: Forward,
) -> Float32[Array, "batch vocab"]:
    """Score what follows the last token of each row."""
    x = rms_norm(x, weights.norm, eps=forward.architecture.norm_eps)
    is_last = (order == jnp.max(order, axis=1, keepdims=True)).astype(x.dtype)
    last = jnp.einsum("bs,bse->be", is_last, x, out_sharding=spec("batch", "embed"))
    return logits(last[:, None, :], weights.output_head)[:, 0]


@partial(jax.jit, static_argnames="compute")
def _ends(
    model: WorldModel, *, compute: str
) -> tuple[Float[Array, "vocab embed"], Float[Array, " embed"], FrozenWeight]:
    return (
        in_use(model.embed, "vocab", "embed", compute=compute),
        jax.reshard(model.norm, spec("embed")),
        in_use(model.read_out, "embed", "vocab", compute=compute),
    )


@partial(jax.jit, static_argnames="compute")
def _layer(layers: Layer, index: Int32[Array, ""], *, compute: str) -> Layer:
    layer = jax.tree.map(lambda w: jax.lax.dynamic_index_in_dim(w, index, keepdims=False), layers)
    return Layer(
        attention_norm=jax.reshard(layer.attention_norm, spec("embed")),
        attention=layer.attention.in_use(compute),
        mlp_norm=jax.reshard(layer.mlp_norm, spec("embed")),
        mlp=layer.mlp.in_use(compute),
    )


_decode_layer = jax.jit(_cached_layer, static_argnames="cut")
_chunk_layer = jax.jit(_cached_layer, static_argnames="cut", donate_argnames=("x", "stored_k", "stored_v"))
_fill = jax.jit(fill)
_losses_of = jax.jit(losses_of)
_whole = jax.jit(lambda order: jax.reshard(order, spec("batch", None)))
