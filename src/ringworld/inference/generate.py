"""The decoding loop: one compiled program writes what follows prompts, all of it or some tokens at a time."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float32, Int32

from ringworld.core.processes import fetched
from ringworld.core.sharding import spec
from ringworld.inference.grammar import legal
from ringworld.inference.request import Request
from ringworld.inference.sampling import Sampling, guide, row_keys, sample
from ringworld.model.cache import KVCache
from ringworld.model.decode import GenerationWeights, decode_step
from ringworld.model.forward import Forward


class Written(NamedTuple):
    """What follows each prompt so far."""

    tokens: Int32[np.ndarray, "batch room"]
    """After an end of the grammar, and from the count on, it holds -1."""
    logprobs: Float32[np.ndarray, "batch room"]
    """Of each token in nats, among the ids that are legal, before all that sampling changes."""
    finite: bool
    """Whether all scores that were drawn from are numbers; what was drawn means nothing otherwise."""
    count: int
    """Tokens written, of the sequences that are not finished."""
    done: Bool[np.ndarray, " batch"]


class _State(NamedTuple):
    index: Int32[Array, ""]
    """Of the last token written."""
    last: Int32[Array, " batch"]
    seen: Bool[Array, "batch vocab"]
    tokens: Int32[Array, "batch room"]
    logprobs: Float32[Array, "batch room"]
    done: Bool[Array, " batch"]
    finite: Bool[Array, ""]


class Decoding:
    """Sequences that are being continued; call it under `jax.set_mesh`, outside jit.

    Attributes:
        cache: keys and values of the prompts, and of all tokens written but the last.
    """

    def __init__(
        self,
        weights: GenerationWeights,
        scores: Float32[Array, "batch vocab"],
        cache: KVCache,
        request: Request,
        *,
        prompt_slots: int,
        forward: Forward,
        room: int,
        group: int = 1,
    ) -> None:
        """Write the first token.

        Args:
            weights: the model, ready for generation.
            scores: of what follows the prompts.
            cache: what they were read into; it is used up.
            request: how they are continued.
            prompt_slots: where the cache takes the first token; it has `room` slots from there.
            forward: rotary frequencies and configuration.
            room: most tokens that can be written.
            group: 1, or 2 where each conditional prompt is followed by its unconditional one; the scores of
                the two are combined, and both get the same tokens.
        """
        self.cache = cache
        self._weights, self._request, self._forward, self._group = weights, request, forward, group
        self._slots = jnp.int32(prompt_slots)
        self._state = _begin(scores, request, room=room, group=group)

    def advance(self, tokens: int, *, finished: Bool[np.ndarray, " batch"] | None = None) -> None:
        """Write so many tokens more at most, without waiting for them.

        Args:
            tokens: how many.
            finished: sequences that need nothing more.
        """
        self._state, self.cache = _decode(
            self._weights,
            self._state,
            self.cache,
            self._request,
            tokens=jnp.int32(tokens),
            finished=jnp.asarray(np.zeros(self._state.done.shape, bool) if finished is None else finished),
            prompt_slots=self._slots,
            forward=self._forward,
            group=self._group,
        )

    def written(self) -> Written:
        """Wait for what was written so far, and return it."""
        state = self._state
        tokens, logprobs, finite, index, done = fetched(
            (state.tokens, state.logprobs, state.finite, state.index, state.done)
        )
        return Written(tokens, logprobs, bool(finite), int(index) + 1, done)


@partial(jax.jit, static_argnames=("room", "group"))
def _begin(scores: Float32[Array, "batch vocab"], request: Request, *, room: int, group: int) -> _State:
    nothing = jnp.full((len(scores), room), -1, jnp.int32)
    state = _State(
        index=jnp.int32(-1),
        last=jnp.zeros_like(request.lengths),
        seen=request.seen,
        tokens=nothing,
        logprobs=jnp.zeros_like(nothing, jnp.float32),
        done=request.idle,
        finite=jnp.bool_(True),
    )
    return _write(state, scores, request=request, group=group)


# The cache is returned so that it can be donated: the loop would begin with a copy of it.
@partial(jax.jit, static_argnames="group", donate_argnames=("state", "cache"))
def _decode(
    weights: GenerationWeights,
    state: _State,
    cache: KVCache,
    request: Request,
    *,
    tokens: Int32[Array, ""],
    finished: Bool[Array, " batch"],
    prompt_slots: Int32[Array, ""],
    forward: Forward,
    group: int,
) -> tuple[_State, KVCache]:
    last = jnp.minimum(state.index + tokens, request.new_tokens - 1)

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
        return (state.index < last) & ~jnp.all(state.done)

    state = state._replace(done=state.done | finished)
    return jax.lax.while_loop(unfinished, step, (state, cache))


def _write(state: _State, scores: Float32[Array, "batch vocab"], *, request: Request, group: int) -> _State:
    """Draw the next token of each sequence and write it down."""
    index = state.index + 1
    # Scores of one token are small: every device draws for every sequence, and no draw depends on the mesh.
    scores = jax.reshard(scores, spec(None, None))
    token, logprob = (
        jnp.repeat(drawn, group) for drawn in _draw(scores, state.seen, index, request=request, group=group)
    )
    column, beside = jnp.where(state.done, -1, token)[:, None], jnp.where(state.done, 0, logprob)[:, None]
    return _State(
        index=index,
        last=jnp.where(state.done, 0, token),
        seen=state.seen.at[jnp.arange(len(token)), token].set(True),
        tokens=jax.lax.dynamic_update_slice_in_dim(state.tokens, column, index, axis=1),
        logprobs=jax.lax.dynamic_update_slice_in_dim(state.logprobs, beside, index, axis=1),
        done=state.done | (token[:, None] == request.grammar.ends[None]).any(axis=1),
        finite=state.finite & (jnp.isfinite(scores).all(axis=1) | state.done).all(),
    )


def _draw(
    scores: Float32[Array, "batch vocab"],
    seen: Bool[Array, "batch vocab"],
    index: Int32[Array, ""],
    *,
    request: Request,
    group: int,
) -> tuple[Int32[Array, " groups"], Float32[Array, " groups"]]:
    """Return a token for each group, and how likely the model finds it."""
    if group == 2:
        scores = guide(scores[::2], scores[1::2], scale=request.guidance_scale)
    checksums = request.checksums[::group]
    may_follow = legal(request.grammar, index, vocab=scores.shape[1])
    token = sample(
        scores,
        legal=may_follow,
        seen=seen[::group],
        keys=row_keys(jnp.broadcast_to(request.seed, checksums.shape), checksums),
        index=jnp.broadcast_to(index, (len(scores),)),
        sampling=Sampling(*(x[::group] for x in request.sampling)),
    )
    logprobs = jax.nn.log_softmax(jnp.where(may_follow[None], scores, -jnp.inf), axis=1)
    return token, jnp.take_along_axis(logprobs, token[:, None], axis=1)[:, 0]
