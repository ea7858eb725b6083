"""From logits to the next token."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32, Int32, Key, UInt32


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
    """Return a key for each row from the seed and a checksum of its prompt.

    A row's draws then depend on nothing else in the batch, and two captions of one batch draw differently.
    """
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(jax.random.key(seed), prompts)


def sample(
    logits: Float32[Array, "batch vocab"],
    *,
    keys: Key[Array, " batch"],
    place: Int32[Array, ""],
    temperature: Float32[Array, ""],
    top_k: Int32[Array, ""],
) -> Int32[Array, " batch"]:
    """Draw one id a row.

    Args:
        logits: minus infinity for every id that may not be drawn.
        keys: one for each row.
        place: of the token that is drawn; every place draws anew.
        temperature: divides the logits; 0 takes the likeliest id.
        top_k: draw among the likeliest `top_k` ids, and those that tie with the last of them; 0 keeps all.
    """
    kept = jnp.where(top_k > 0, top_k, logits.shape[1])
    logits = jnp.where(likeliest(logits, count=kept), logits, -jnp.inf)
    scaled = logits / jnp.where(temperature > 0, temperature, 1.0)
    noise = jax.vmap(lambda key: jax.random.gumbel(jax.random.fold_in(key, place), logits.shape[1:]))(keys)
    return jnp.argmax(jnp.where(temperature > 0, scaled + noise, logits), axis=-1).astype(jnp.int32)


def likeliest(
    logits: Float32[Array, "batch vocab"], *, count: Int32[Array, ""]
) -> Bool[Array, "batch vocab"]:
    """Say which ids are among the `count` likeliest of their row, or tie with the last of them.

    The threshold is found bit by bit: a tenth of the time of a partial sort on a CPU, and `count` need not be
    known when the program is compiled.

    Example:
        `[[3, 1, 2, 2]]` with count 2 gives `[[True, False, True, True]]`.
    """
    bits = jax.lax.bitcast_convert_type(logits, jnp.uint32)
    top = jnp.uint32(1 << 31)
    # Unsigned integers in the order of the floats: negative ones with all bits turned, the others above them.
    ranks = jnp.where(bits >= top, ~bits, bits | top)

    def next_bit(i: Int32[Array, ""], threshold: UInt32[Array, "batch 1"]) -> UInt32[Array, "batch 1"]:
        raised = threshold | (top >> i.astype(jnp.uint32))
        enough = jnp.sum(ranks >= raised, axis=1, keepdims=True) >= count
        return jnp.where(enough, raised, threshold)

    start = jnp.zeros_like(ranks[:, :1])
    return ranks >= jax.lax.fori_loop(0, 32, next_bit, start)
