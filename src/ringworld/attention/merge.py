"""The one rule that joins attention over two sets of keys, for ring steps and for decoding.

Within a shard a kernel does not need it: it keeps a running maximum and normalizes once.

With `out` normalized over its own keys and `lse` the log of the sum of their exponentials,

    lse = log(exp(lse_a) + exp(lse_b)),    out = out_a + exp(lse_b - lse) (out_b - out_a),

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
    highest = _finite(jnp.maximum(a.lse, b.lse))
    weight_a, weight_b = jnp.exp(a.lse - highest), jnp.exp(b.lse - highest)
    weight = weight_a + weight_b
    # A small part is added as a small difference: an output that is merged often is rounded once each time.
    share = weight_b / _or_one(weight)
    return Partial(out=a.out + share[..., None] * (b.out - a.out), lse=highest + jnp.log(weight))


def merge_over(part: Partial, axes: tuple[str, ...]) -> Partial:
    """Return attention over the keys of all members of `axes`, equal on each; only `out` and `lse` travel."""
    highest = _finite(jax.lax.pmax(part.lse, axes))
    weight = jnp.exp(part.lse - highest)
    out, weight = jax.lax.psum((weight[..., None] * part.out, weight), axes)
    return Partial(out=out / _or_one(weight)[..., None], lse=highest + jnp.log(weight))


def _or_one(weight: Array) -> Array:
    # Where nothing is visible weight and out are 0: 0 / 1, and log(0) = -inf.
    return jnp.where(weight == 0, 1, weight)


def _finite(highest: Array) -> Array:
    return jnp.where(highest == -jnp.inf, 0, highest)
