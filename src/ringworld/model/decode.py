"""Generation: read a prompt with the ring, then one token at a time with the cache.

    weights = GenerationWeights.from_model(model, config=config)            # once
    cache = KVCache.init(config, batch=batch, slots=slots)
    logits, cache = prefill(weights, cache, prompt, order=order, config=config)
    logits, cache = decode_step(weights, cache, tokens, order=order, slot=slot, config=config)

Call all of it inside jit, under `jax.set_mesh`. A row holds one example, so `first` is 0 everywhere.
"""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32, Int32

from ringworld.attention.attend import attention
from ringworld.attention.decode import decode_attention
from ringworld.core.sharding import spec
from ringworld.model.cache import KVCache, append, fill
from ringworld.model.config import ModelConfig
from ringworld.model.layers import Layer, in_use, rms_norm
from ringworld.model.rope import Frequencies, frequencies, rotation
from ringworld.model.world_model import WorldModel, embedded, logits, positions


class GenerationWeights(eqx.Module):
    """A world model ready for generation: in the compute type, gathered over the `weight` axes, unstacked.

    A decode step is so short that gathering weights, or slicing a layer out of the stack, would take most of
    it. The rotary frequencies are weights here, so that the stages of a run, which differ in `rope_base`
    alone, share their compiled programs.
    """

    turns: Frequencies
    embed: Float[Array, "vocab embed"]
    layers: tuple[Layer, ...]
    norm: Float[Array, " embed"]
    head: Float[Array, "embed vocab"]

    @staticmethod
    def from_model(model: WorldModel, *, config: ModelConfig) -> "GenerationWeights":
        """Cast, gather and unstack; `heads`, `mlp` and `vocab` stay cut over the tensor axis."""
        layers = (jax.tree.map(lambda w, i=i: w[i], model.layers) for i in range(config.layers))
        return GenerationWeights(
            turns=frequencies(head=config.head, base=config.rope_base),
            embed=in_use(model.embed, "vocab", "embed", compute=config.compute),
            layers=tuple(_ready(layer, compute=config.compute) for layer in layers),
            norm=jax.reshard(model.norm, spec("embed")),
            head=in_use(model.head, "embed", "vocab", compute=config.compute),
        )


def prefill(
    weights: GenerationWeights,
    cache: KVCache,
    tokens: Int32[Array, "batch seq"],
    *,
    order: Int32[Array, "batch seq"],
    config: ModelConfig,
) -> tuple[Float32[Array, "batch vocab"], KVCache]:
    """Read one prompt a row into slots `[0, seq)` of an empty cache, and score what follows each.

    Args:
        weights: The model.
        cache: An empty cache of at least `seq` slots.
        tokens: Prompts padded to `padded_length` and arranged in `config.attention.layout`, sharded by
            `spec("batch", "seq")`.
        order: Index of each token in its prompt, -1 for padding; arranged as the tokens are.
        config: The model's configuration.

    Returns:
        The scores after the last token of each row, and the cache.
    """
    first = jnp.zeros_like(order)
    turn = rotation(positions(order, first), weights.turns)
    x, keys, values = embedded(weights.embed, tokens, compute=config.compute), [], []
    for layer, stored_k, stored_v in zip(weights.layers, cache.keys, cache.values):

        def attend(q, k, v, stored_k=stored_k, stored_v=stored_v):
            keys.append(fill(stored_k, k.swapaxes(1, 2)))
            values.append(fill(stored_v, v.swapaxes(1, 2)))
            return attention(q, k, v, order=order, first=first, config=config.attention)

        x = layer(x, turn=turn, attend=attend, config=config)
    cache = KVCache(keys=tuple(keys), values=tuple(values), order=fill(cache.order, order))
    return _scores_of_last(weights, x, order=order, config=config), cache


def decode_step(
    weights: GenerationWeights,
    cache: KVCache,
    tokens: Int32[Array, "batch new"],
    *,
    order: Int32[Array, "batch new"],
    slot: Int32[Array, ""],
    config: ModelConfig,
) -> tuple[Float32[Array, "batch vocab"], KVCache]:
    """Append tokens to each row, usually one, and score what follows them.

    No key or value moves between devices, and what does move does not grow with the cache.

    Args:
        weights: The model.
        cache: What the last call returned.
        tokens: New ids, whole on every member of the sequence axes: sharded by `spec("batch", None)`.
        order: Index of each new token in its row; rows may differ. -1 for a row that is finished.
        slot: Where the first is written: tokens of the padded prompt, plus tokens appended since.
        config: The model's configuration.

    Returns:
        The scores after the last new token of each row, and the cache.
    """
    first = jnp.zeros_like(order)
    turn = rotation(positions(order, first), weights.turns)
    written = append(cache.order, order, slot=slot)
    attend_to = partial(
        decode_attention, q_order=order, q_first=first, k_order=written, config=config.attention
    )
    x, keys, values = embedded(weights.embed, tokens, compute=config.compute), [], []
    for layer, stored_k, stored_v in zip(weights.layers, cache.keys, cache.values):

        def attend(q, k, v, stored_k=stored_k, stored_v=stored_v):
            keys.append(append(stored_k, k.swapaxes(1, 2), slot=slot))
            values.append(append(stored_v, v.swapaxes(1, 2), slot=slot))
            return attend_to(q, keys[-1].swapaxes(1, 2), values[-1].swapaxes(1, 2))

        x = layer(x, turn=turn, attend=attend, config=config)
    cache = KVCache(keys=tuple(keys), values=tuple(values), order=written)
    return _scores_of_last(weights, x, order=order, config=config), cache


def _ready(layer: Layer, *, compute: str) -> Layer:
    return Layer(
        attention_norm=jax.reshard(layer.attention_norm, spec("embed")),
        attention=layer.attention.in_use(compute),
        mlp_norm=jax.reshard(layer.mlp_norm, spec("embed")),
        mlp=layer.mlp.in_use(compute),
    )


def _scores_of_last(
    weights: GenerationWeights,
    x: Float[Array, "batch seq embed"],
    *,
    order: Int32[Array, "batch seq"],
    config: ModelConfig,
) -> Float32[Array, "batch vocab"]:
    x = rms_norm(x, weights.norm, eps=config.norm_eps)
    is_last = (order == jnp.max(order, axis=1, keepdims=True)).astype(x.dtype)
    last = jnp.einsum("bs,bse->be", is_last, x, out_sharding=spec("batch", "embed"))
    return logits(last[:, None, :], weights.head)[:, 0]
