"""The one rule that joins attention over two sets of keys, for ring steps and decoding alike.

Within a shard a kernel needs none: it keeps a running maximum, and normalises once.

With `out` normalised over its own keys and `lse` the log of the sum of their exponentials,

    lse = log(exp(lse_a) + exp(lse_b)),    out = exp(lse_a - lse) out_a + exp(lse_b - lse) out_b,

(Blockwise Parallel Transformer, arXiv 2305.19370; FlashAttention-2, arXiv 2307.08691). All of it is in
float32 whatever the compute type, so that the error does not grow with the number of parts.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32


class Partial(NamedTuple):
    """Attention over some of the keys; `lse` is -inf and `out` zero where none of them is visible."""

    out: Float32[Array, "*dims head"]
    lse: Float32[Array, "*dims"]


def nothing_seen(q: Float[Array, "*dims head"]) -> Partial:
    """Return attention over no keys, which merges with any part to that part."""
    out = jnp.zeros_like(q, dtype=jnp.float32)
    return Partial(out=out, lse=jnp.full_like(out[..., 0], -jnp.inf))


def merge(a: Partial, b: Partial) -> Partial:
    """Return attention over the keys of both parts."""
    highest = jnp.maximum(a.lse, b.lse)
    (weight_a, out_a), (weight_b, out_b) = _weighted(a, highest), _weighted(b, highest)
    return _normalised(out_a + out_b, weight_a + weight_b, highest)


def merge_over(part: Partial, axes: tuple[str, ...]) -> Partial:
    """Return attention over the keys of all members of `axes`, equal on each; only `out` and `lse` travel."""
    highest = jax.lax.pmax(part.lse, axes)
    weight, out = _weighted(part, highest)
    return _normalised(jax.lax.psum(out, axes), jax.lax.psum(weight, axes), highest)


def _weighted(part: Partial, highest: Array) -> tuple[Array, Array]:
    weight = jnp.exp(part.lse - _finite(highest))
    return weight, weight[..., None] * part.out


def _normalised(out: Array, weight: Array, highest: Array) -> Partial:
    # Where nothing is visible weight is 0 and out is 0: 0 / 1, and log(0) = -inf.
    return Partial(
        out=out / jnp.where(weight == 0, 1, weight)[..., None], lse=_finite(highest) + jnp.log(weight)
    )


def _finite(highest: Array) -> Array:
    return jnp.where(highest == -jnp.inf, 0, highest)
