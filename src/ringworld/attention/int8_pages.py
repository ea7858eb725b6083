"""Keys and values in half of their bytes or less: int8, with one scale for each token's head."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32, Int8

_LARGEST = 127


class Int8Numbers(eqx.Module):
    """Numbers rounded to 255 steps of the largest along their last dimension."""

    values: Int8[Array, "*dims head"]
    scale: Float32[Array, "*dims"]

    def to(self, dtype: str) -> Float[Array, "*dims head"]:
        """Return the numbers that they stand for."""
        return (self.values.astype(jnp.float32) * self.scale[..., None]).astype(dtype)


StoredPages = Float[Array, "pages kv_heads page head"] | Int8Numbers
"""The keys or the values of a pool: as they are computed, or rounded."""


def rounded(numbers: Float[Array, "*dims head"]) -> Int8Numbers:
    """Round numbers; the error of each is at most half a step, 1/254 of the largest of its head.

    What is rounded again keeps its values: the largest is a whole number of steps. A head that holds NaN or
    infinity stays not finite.
    """
    wide = numbers.astype(jnp.float32)
    largest = jnp.abs(wide).max(axis=-1)
    scale = jnp.where(largest == 0, 1, largest) / _LARGEST
    return Int8Numbers(values=jnp.round(wide / scale[..., None]).astype(jnp.int8), scale=scale)
