"""The decoding loop: one compiled program reads the prompts and writes all that follows them."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float32, Int32, Key, UInt32

from ringworld.core.sharding import spec
from ringworld.inference.grammar import Grammar, allowed, mask
from ringworld.inference.sampling import guide, row_keys, sample
from ringworld.model.cache import KVCache
from ringworld.model.config import ModelConfig
from ringworld.model.decode import GenerationWeights, decode_step, prefill


class Request(NamedTuple):
    """What is asked of a batch; nothing here makes the program compile again."""

    lengths: Int32[Array, " rows"]
    """Of the prompts."""
    idle: Bool[Array, " rows"]
    """Rows for which nothing need be written."""
    checksums: UInt32[Array, " rows"]
    seed: UInt32[Array, ""]
    new_tokens: Int32[Array, ""]
    """Most tokens to write."""
    temperature: Float32[Array, ""]
    top_k: Int32[Array, ""]
    guidance_scale: Float32[Array, ""]
    grammar: Grammar


class _State(NamedTuple):
    place: Int32[Array, ""]
    """Of the last token written."""
    last: Int32[Array, " rows"]
    written: Int32[Array, "rows room"]
    done: Bool[Array, " rows"]
    cache: KVCache


@partial(jax.jit, static_argnames=("config", "slots", "room", "rows_each"))
def generate(
    weights: GenerationWeights,
    tokens: Int32[Array, "rows prompt"],
    request: Request,
    *,
    order: Int32[Array, "rows prompt"],
    config: ModelConfig,
    slots: int,
    room: int,
    rows_each: int,
) -> Int32[Array, "rows room"]:
    """Continue each prompt; call it under `jax.set_mesh`.

    Args:
        weights: the model, ready for generation.
        tokens: prompts, one a row, in the layout of the model's attention.
        request: how they are continued.
        order: index of each token in its prompt; -1 for padding.
        config: the model's configuration.
        slots: of the cache, at least the padded prompt and `room`.
        room: most tokens that the result can hold.
        rows_each: 1, or 2 where each conditional row is followed by its unconditional one; the scores of the
            two are combined, and both rows get the same tokens.

    Returns:
        What follows each prompt. After the grammar's stop, and from `request.new_tokens` on, it holds -1.
    """
    keys = row_keys(request.seed, request.checksums[::rows_each])
    rows, width = tokens.shape

    def draw(scores: Float32[Array, "rows vocab"], place: Int32[Array, ""]) -> Int32[Array, " rows"]:
        # A row of scores is small: every device draws for every row, and no draw depends on the mesh.
        scores = jax.reshard(scores, spec(None, None))
        if rows_each == 2:
            scores = guide(scores[::2], scores[1::2], scale=request.guidance_scale)
        token = _draw(scores, keys, place, request=request)
        return jnp.repeat(token, rows_each)

    def step(state: _State) -> _State:
        place = state.place + 1
        places = jnp.where(state.done, -1, request.lengths + state.place)
        scores, cache = decode_step(
            weights,
            state.cache,
            jax.reshard(state.last[:, None], spec("batch", None)),
            order=jax.reshard(places[:, None], spec("batch", None)),
            slot=width + state.place,
            config=config,
        )
        return write(draw(scores, place), place, state.written, done=state.done, cache=cache)

    def write(
        token: Int32[Array, " rows"],
        place: Int32[Array, ""],
        written: Int32[Array, "rows room"],
        *,
        done: Bool[Array, " rows"],
        cache: KVCache,
    ) -> _State:
        column = jnp.where(done, -1, token)[:, None]
        written = jax.lax.dynamic_update_slice_in_dim(written, column, place, axis=1)
        last = jnp.where(done, 0, token)
        return _State(place, last, written, done | (token == request.grammar.stop), cache)

    def unfinished(state: _State) -> Bool[Array, ""]:
        return (state.place + 1 < request.new_tokens) & ~jnp.all(state.done)

    cache = KVCache.init(config, batch=rows, slots=slots)
    scores, cache = prefill(weights, cache, tokens, order=order, config=config)
    start = jnp.int32(0)
    nothing = jnp.full((rows, room), -1, jnp.int32)
    state = write(draw(scores, start), start, nothing, done=request.idle, cache=cache)
    return jax.lax.while_loop(unfinished, step, state).written


def _draw(
    scores: Float32[Array, "rows vocab"],
    keys: Key[Array, " rows"],
    place: Int32[Array, ""],
    *,
    request: Request,
) -> Int32[Array, " rows"]:
    legal = mask(scores, allowed(request.grammar, place))
    return sample(legal, keys=keys, place=place, temperature=request.temperature, top_k=request.top_k)
