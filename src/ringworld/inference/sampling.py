"""From logits to the next token."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32, Int32, Key, UInt32

_LEAST = float(jnp.finfo(jnp.float32).min)
_TEMPERATURES = (1e-30, 1e30)
"""Beyond these a float32 or its reciprocal overflows; draws are those of the limit long before."""


def guide(
    conditional: Float[Array, "batch vocab"],
    unconditional: Float[Array, "batch vocab"],
    *,
    scale: Float32[Array, ""] | Float32[Array, "batch 1"],
) -> Float32[Array, "batch vocab"]:
    """Return classifier-free guided logits, `unconditional + scale * (conditional - unconditional)`.

    Source: Ho and Salimans, "Classifier-Free Diffusion Guidance" (2022), on logits as LWM's
    `vision_generation.py` does.
    """
    given, free = conditional.astype(jnp.float32), unconditional.astype(jnp.float32)
    return _finite(free + scale * (given - free))


def row_keys(seeds: UInt32[Array, " batch"], prompts: UInt32[Array, " batch"]) -> Key[Array, " batch"]:
    """Return a key for each sequence from its seed and a checksum of its prompt.

    Its draws then depend on nothing else in the batch, and two captions of one batch draw differently.
    """
    return jax.vmap(lambda seed, prompt: jax.random.fold_in(jax.random.key(seed), prompt))(seeds, prompts)


class Sampling(NamedTuple):
    """How ids are drawn for each sequence, as values of a compiled program; see `SamplingConfig`."""

    temperature: Float32[Array, " batch"]
    top_k: Int32[Array, " batch"]
    top_p: Float32[Array, " batch"]
    min_p: Float32[Array, " batch"]
    repetition_penalty: Float32[Array, " batch"]


def sample(
    logits: Float[Array, "batch vocab"],
    *,
    legal: Bool[Array, " vocab"] | Bool[Array, "batch vocab"],
    seen: Bool[Array, "batch vocab"],
    keys: Key[Array, " batch"],
    index: Int32[Array, " batch"],
    sampling: Sampling,
) -> Int32[Array, " batch"]:
    """Draw one legal id a sequence, whatever the logits and the temperature are.

    Args:
        logits: scores of all ids; NaN counts as the least.
        legal: which ids may be drawn, at least one; of all sequences alike, or of each.
        seen: which ids the prompt and the output hold.
        keys: one for each sequence.
        index: of the token of each that is drawn; each draws anew.
        sampling: how; ids that tie with the last one kept are kept.
    """
    temperature, top_k, top_p, min_p, penalty = (x[:, None] for x in sampling)
    wide = _finite(jnp.where(jnp.isnan(logits), -jnp.inf, logits.astype(jnp.float32)))
    wide = jnp.where(seen, _finite(jnp.where(wide > 0, wide / penalty, wide * penalty)), wide)
    # Minus infinity is kept for what is not legal: a legal id that overflows is still more than that.
    kept = jnp.where(jnp.atleast_2d(legal), wide, -jnp.inf)
    kept = _if(top_k > 0, kept, lambda x: likeliest(x, count=top_k))
    # Differences to the greatest, because no division makes them overflow upwards.
    below = kept - jnp.max(kept, axis=1, keepdims=True)
    scaled = jnp.maximum(below / jnp.clip(temperature, *_TEMPERATURES), _LEAST)
    scaled = jnp.where(kept > -jnp.inf, scaled, -jnp.inf)
    scaled = _if(top_p < 1, scaled, lambda x: nucleus(x, mass=top_p))
    scaled = jnp.where(scaled >= jnp.log(min_p), scaled, -jnp.inf)

    def noisy(x: Float32[Array, "batch vocab"]) -> Float32[Array, "batch vocab"]:
        fresh = jax.vmap(jax.random.fold_in)(keys, index)
        noise = jax.vmap(lambda key: jax.random.gumbel(key, x.shape[1:]))(fresh)
        return jnp.where(temperature > 0, scaled + noise, x)

    drawn = jax.lax.cond((temperature > 0).any(), noisy, lambda x: x, below)
    return _first_greatest(jnp.where(scaled > -jnp.inf, drawn, -jnp.inf))


def _first_greatest(scores: Float32[Array, "batch vocab"]) -> Int32[Array, " batch"]:
    """Return what argmax does, by two plain reductions: XLA on a CPU makes argmax a number at a time."""
    ids = jnp.arange(scores.shape[1], dtype=jnp.int32)
    greatest = scores == jnp.max(scores, axis=1, keepdims=True)
    return jnp.where(greatest, ids, ids[-1]).min(axis=1)


def likeliest(
    logits: Float32[Array, "batch vocab"], *, count: Int32[Array, "#batch 1"]
) -> Bool[Array, "batch vocab"]:
    """Return which ids are among the `count` likeliest of their sequence, or tie with the last of them.

    Example:
        `[[3, 1, 2, 2]]` with count 2 gives `[[True, False, True, True]]`.
    """
    return _greatest(logits, enough=lambda kept: jnp.sum(kept, axis=1, keepdims=True) >= count)


def nucleus(
    logits: Float32[Array, "batch vocab"], *, mass: Float32[Array, "#batch 1"]
) -> Bool[Array, "batch vocab"]:
    """Return the fewest likeliest ids that together have this share of the probability, and ties of the last.

    Example:
        Probabilities `[[0.5, 0.1, 0.3, 0.1]]` with mass 0.7 give `[[True, False, True, False]]`.
    """
    shares = jax.nn.softmax(logits, axis=1)
    return _greatest(
        logits, enough=lambda kept: jnp.sum(jnp.where(kept, shares, 0), axis=1, keepdims=True) >= mass
    )


def _greatest(
    scores: Float32[Array, "batch vocab"],
    *,
    enough: Callable[[Bool[Array, "batch vocab"]], Bool[Array, "batch 1"]],
) -> Bool[Array, "batch vocab"]:
    """Return the ids above the highest threshold that keeps enough of them.

    The threshold is found bit by bit: a tenth of the time of a partial sort on a CPU, and what is enough need
    not be known when the program is compiled.
    """
    bits = jax.lax.bitcast_convert_type(scores, jnp.uint32)
    top = jnp.uint32(1 << 31)
    # Unsigned integers in the order of the floats: negative ones with all bits flipped, others above them.
    ranks = jnp.where(bits >= top, ~bits, bits | top)

    def next_bit(i: Int32[Array, ""], threshold: UInt32[Array, "batch 1"]) -> UInt32[Array, "batch 1"]:
        raised = threshold | (top >> i.astype(jnp.uint32))
        return jnp.where(enough(ranks >= raised), raised, threshold)

    return ranks >= jax.lax.fori_loop(0, 32, next_bit, jnp.zeros_like(ranks[:, :1]))


def _if(
    asked: Bool[Array, "batch 1"],
    scores: Float32[Array, "batch vocab"],
    keeps: Callable[[Float32[Array, "batch vocab"]], Bool[Array, "batch vocab"]],
) -> Float32[Array, "batch vocab"]:
    """Leave minus infinity where something is asked of a sequence and does not keep a score."""

    def cut(x: Float32[Array, "batch vocab"]) -> Float32[Array, "batch vocab"]:
        return jnp.where(keeps(x) | ~asked, x, -jnp.inf)

    return jax.lax.cond(asked.any(), cut, lambda x: x, scores)


def _finite(scores: Float32[Array, "batch vocab"]) -> Float32[Array, "batch vocab"]:
    return jnp.clip(scores, _LEAST, -_LEAST)
