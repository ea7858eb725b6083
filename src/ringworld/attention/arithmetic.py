"""Arithmetic that kernels share: products in float32, and exponentials to base 2, those of the hardware."""

import math

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Float32

LOG2_E = math.log2(math.e)

# Which dimensions of two matrices a product sums over.
ROWS_WITH_ROWS = (((1,), (1,)), ((), ()))
ROWS_WITH_COLUMNS = (((1,), (0,)), ((), ()))


def base_two(lse: Float32[Array, "*dims"]) -> Float32[Array, "*dims"]:
    """Return `lse` to base 2, +inf for a query that sees nothing: exp2(-inf - inf) is 0 and never NaN."""
    return jnp.where(lse == -jnp.inf, jnp.inf, lse * LOG2_E)


def dot(a: Float[Array, "_ _"], b: Float[Array, "_ _"], dimensions: tuple) -> Float32[Array, "_ _"]:
    """Multiply two matrices in float32."""
    return lax.dot_general(a, b, dimensions, precision=precision_for(a), preferred_element_type=jnp.float32)


def precision_for(operand: Float[Array, "..."]) -> lax.Precision | None:
    """Return the precision of a product: matrix units round float32 to bfloat16 or TF32 unless asked."""
    return lax.Precision.HIGHEST if operand.dtype == jnp.float32 else None
