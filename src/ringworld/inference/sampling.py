"""From logits to the next token."""

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
    scale: Float32[Array, ""],
) -> Float32[Array, "batch vocab"]:
    """Return classifier-free guided logits, `unconditional + scale * (conditional - unconditional)`.

    Source: Ho and Salimans, "Classifier-Free Diffusion Guidance" (2022), on logits as LWM's
    `vision_generation.py` does.
    """
    given, free = conditional.astype(jnp.float32), unconditional.astype(jnp.float32)
    return free + scale * (given - free)


def row_keys(seed: UInt32[Array, ""], prompts: UInt32[Array, " batch"]) -> Key[Array, " batch"]:
    """Return a key for each sequence from the seed and a checksum of its prompt.

    Its draws then depend on nothing else in the batch, and two captions of one batch draw differently.
    """
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(jax.random.key(seed), prompts)


def sample(
    logits: Float[Array, "batch vocab"],
    *,
    legal: Bool[Array, " vocab"],
    keys: Key[Array, " batch"],
    index: Int32[Array, ""],
    temperature: Float32[Array, ""],
    top_k: Int32[Array, ""],
) -> Int32[Array, " batch"]:
    """Draw one legal id a sequence, whatever the logits and the temperature are.

    Args:
        logits: scores of all ids; NaN counts as the least.
        legal: which ids may be drawn, at least one.
        keys: one for each sequence.
        index: of the token that is drawn; each draws anew.
        temperature: divides the logits; 0 takes the likeliest id.
        top_k: draw among the likeliest `top_k` ids, and those that tie with the last of them; 0 keeps all.
    """
    wide = logits.astype(jnp.float32)
    # Minus infinity is kept for what is not legal: a legal id that overflows is still more than that.
    finite = jnp.where(jnp.isnan(wide), _LEAST, jnp.clip(wide, _LEAST, -_LEAST))
    kept = jnp.where(legal[None], finite, -jnp.inf)
    kept = jnp.where(likeliest(kept, count=jnp.where(top_k > 0, top_k, kept.shape[1])), kept, -jnp.inf)
    # Differences to the greatest, because no division makes them overflow upwards.
    below = kept - jnp.max(kept, axis=1, keepdims=True)
    scaled = jnp.maximum(below / jnp.clip(temperature, *_TEMPERATURES), _LEAST)
    noise = jax.vmap(lambda key: jax.random.gumbel(jax.random.fold_in(key, index), kept.shape[1:]))(keys)
    drawn = jnp.where(temperature > 0, scaled + noise, below)
    return jnp.argmax(jnp.where(kept > -jnp.inf, drawn, -jnp.inf), axis=-1).astype(jnp.int32)


def likeliest(
    logits: Float32[Array, "batch vocab"], *, count: Int32[Array, ""]
) -> Bool[Array, "batch vocab"]:
    """Return which ids are among the `count` likeliest of their sequence, or tie with the last of them.

    The threshold is found bit by bit: a tenth of the time of a partial sort on a CPU, and `count` need not be
    known when the program is compiled.

    Example:
        `[[3, 1, 2, 2]]` with count 2 gives `[[True, False, True, True]]`.
    """
    bits = jax.lax.bitcast_convert_type(logits, jnp.uint32)
    top = jnp.uint32(1 << 31)
    # Unsigned integers in the order of the floats: negative ones with all bits flipped, others above them.
    ranks = jnp.where(bits >= top, ~bits, bits | top)

    def next_bit(i: Int32[Array, ""], threshold: UInt32[Array, "batch 1"]) -> UInt32[Array, "batch 1"]:
        raised = threshold | (top >> i.astype(jnp.uint32))
        enough = jnp.sum(ranks >= raised, axis=1, keepdims=True) >= count
        return jnp.where(enough, raised, threshold)

    start = jnp.zeros_like(ranks[:, :1])
    return ranks >= jax.lax.fori_loop(0, 32, next_bit, start)
