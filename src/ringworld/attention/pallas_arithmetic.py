"""Arithmetic that kernels in Pallas share: exponentials to base 2, as the hardware has them, and products."""

import math

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float32

LOG2_E = math.log2(math.e)

# Which dimensions of two matrices a product sums over.
ROWS_WITH_ROWS = (((1,), (1,)), ((), ()))
ROWS_WITH_COLUMNS = (((1,), (0,)), ((), ()))


def base_two(lse: Float32[Array, "*dims"]) -> Float32[Array, "*dims"]:
    """Return `lse` to base 2, +inf for a query that sees nothing: exp2(-inf - inf) is 0 and never NaN."""
    return jnp.where(lse == -jnp.inf, jnp.inf, lse * LOG2_E)


def dot(a: Array, b: Array, dimensions: tuple) -> Array:
    """Multiply two matrices in float32."""
    # Without "highest" the matrix unit would round float32 operands to bfloat16 or TF32.
    precision = lax.Precision.HIGHEST if a.dtype == jnp.float32 else None
    return lax.dot_general(a, b, dimensions, precision=precision, preferred_element_type=jnp.float32)
