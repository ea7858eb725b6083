"""The decoding loop: prompts are read layer by layer, and one compiled program writes all that follows."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float32, Int32, UInt32

from ringworld.core.sharding import spec
from ringworld.inference.grammar import Grammar, legal
from ringworld.inference.sampling import guide, row_keys, sample
from ringworld.model.cache import KVCache
from ringworld.model.decode import GenerationWeights, decode_step, prefill
from ringworld.model.forward import Forward


class Request(NamedTuple):
    """What is asked of a batch; nothing here makes a program compile again."""

    lengths: Int32[Array, " batch"]
    """Of the prompts."""
    idle: Bool[Array, " batch"]
    """Sequences for which nothing need be written."""
    checksums: UInt32[Array, " batch"]
    seed: UInt32[Array, ""]
    new_tokens: Int32[Array, ""]
    """Most tokens to write."""
    temperature: Float32[Array, ""]
    top_k: Int32[Array, ""]
    guidance_scale: Float32[Array, ""]
    grammar: Grammar


class Written(NamedTuple):
    """What follows each prompt."""

    tokens: Int32[Array, "batch room"]
    """After the grammar's stop, and from `Request.new_tokens` on, it holds -1."""
    finite: Bool[Array, ""]
    """Whether all scores that were drawn from are numbers; what was drawn means nothing otherwise."""


class _State(NamedTuple):
    index: Int32[Array, ""]
    """Of the last token written."""
    last: Int32[Array, " batch"]
    written: Int32[Array, "batch room"]
    done: Bool[Array, " batch"]
    finite: Bool[Array, ""]


def generate(
    weights: GenerationWeights,
    tokens: Int32[Array, "batch prompt"],
    request: Request,
    *,
    order: Int32[Array, "batch prompt"],
    forward: Forward,
    slots: int,
    room: int,
    group: int,
) -> Written:
    """Continue each prompt; call it under `jax.set_mesh`, outside jit.

    Args:
        weights: the model, ready for generation.
        tokens: prompts in the layout of the model's attention.
        request: how they are continued.
        order: index of each token in its prompt; -1 for padding.
        forward: rotary frequencies and configuration.
        slots: of the cache, at least the padded prompt and `room`.
        room: most tokens that the result can hold.
        group: 1, or 2 where each conditional prompt is followed by its unconditional one; the scores of the
            two are combined, and both get the same tokens.
    """
    batch, width = tokens.shape
    cache = KVCache.init(forward.architecture, batch=batch, slots=slots, compute=forward.execution.compute)
    scores, cache = prefill(weights, cache, tokens, order=order, forward=forward)
    state = _begin(scores, request, room=room, group=group)
    prompt_slots = jnp.int32(width)
    state, _ = _decode(
        weights, state, cache, request, prompt_slots=prompt_slots, forward=forward, group=group
    )
    return Written(state.written, state.finite)


@partial(jax.jit, static_argnames=("room", "group"))
def _begin(scores: Float32[Array, "batch vocab"], request: Request, *, room: int, group: int) -> _State:
    nothing = jnp.full((len(scores), room), -1, jnp.int32)
    state = _State(jnp.int32(-1), jnp.zeros_like(request.lengths), nothing, request.idle, jnp.bool_(True))
    return _write(state, scores, request=request, group=group)


# The cache is returned so that it can be donated: the loop would begin with a copy of it.
@partial(jax.jit, static_argnames="group", donate_argnames=("state", "cache"))
def _decode(
    weights: GenerationWeights,
    state: _State,
    cache: KVCache,
    request: Request,
    *,
    prompt_slots: Int32[Array, ""],
    forward: Forward,
    group: int,
) -> tuple[_State, KVCache]:
    def step(carry: tuple[_State, KVCache]) -> tuple[_State, KVCache]:
        state, cache = carry
        order = jnp.where(state.done, -1, request.lengths + state.index)
        scores, cache = decode_step(
            weights,
            cache,
            jax.reshard(state.last[:, None], spec("batch", None)),
            order=jax.reshard(order[:, None], spec("batch", None)),
            slot=prompt_slots + state.index,
            forward=forward,
        )
        return _write(state, scores, request=request, group=group), cache

    def unfinished(carry: tuple[_State, KVCache]) -> Bool[Array, ""]:
        state, _ = carry
        return (state.index + 1 < request.new_tokens) & ~jnp.all(state.done)

    return jax.lax.while_loop(unfinished, step, (state, cache))


def _write(state: _State, scores: Float32[Array, "batch vocab"], *, request: Request, group: int) -> _State:
    """Draw the next token of each sequence and write it down."""
    index = state.index + 1
    # Scores of one token are small: every device draws for every sequence, and no draw depends on the mesh.
    scores = jax.reshard(scores, spec(None, None))
    guided = guide(scores[::2], scores[1::2], scale=request.guidance_scale) if group == 2 else scores
    drawn = sample(
        guided,
        legal=legal(request.grammar, index, vocab=scores.shape[1]),
        keys=row_keys(request.seed, request.checksums[::group]),
        index=index,
        temperature=request.temperature,
        top_k=request.top_k,
    )
    token = jnp.repeat(drawn, group)
    column = jnp.where(state.done, -1, token)[:, None]
    return _State(
        index=index,
        last=jnp.where(state.done, 0, token),
        written=jax.lax.dynamic_update_slice_in_dim(state.written, column, index, axis=1),
        done=state.done | (token == request.grammar.stop),
        finite=state.finite & (jnp.isfinite(scores).all(axis=1) | state.done).all(),
    )
