"""Rotary position embedding, half-split as in Hugging Face Llama."""

import math
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Float64, Int32, UInt32

from ringworld.model.config import Linear, Llama3, Rope, Yarn


class Rotation(NamedTuple):
    """Cosine and sine of the angle of each token and each pair of a head's components."""

    cos: Float32[Array, "batch seq half"]
    sin: Float32[Array, "batch seq half"]


class Frequencies(NamedTuple):
    """Angle from one position to the next, in units of 2**-32 of a revolution, of each pair of components."""

    whole: UInt32[Array, " half"]
    rest: Float32[Array, " half"]
    magnitude: Float32[Array, ""]
    """Factor of the rotated components: 1, but for YaRN."""


def frequencies(rope: Rope, *, head: int) -> Frequencies:
    """Return the frequencies of a head of size `head` as an argument of the model."""
    units = inverse_frequencies(rope, head=head) / (2 * math.pi) * 2.0**32
    whole = np.floor(units)
    magnitude = 0.1 * math.log(rope.scaling.factor) + 1 if isinstance(rope.scaling, Yarn) else 1.0
    return Frequencies(
        whole=jnp.asarray(whole.astype(np.uint32)),
        rest=jnp.asarray((units - whole).astype(np.float32)),
        magnitude=jnp.float32(magnitude),
    )


def inverse_frequencies(rope: Rope, *, head: int) -> Float64[np.ndarray, " half"]:
    """Return the angle in radians by which each pair of components rotates from one position to the next.

    The formulas are those of transformers' `modeling_rope_utils.py`.
    """
    plain = rope.base ** (-np.arange(0, head, 2, dtype=np.float64) / head)
    match rope.scaling:
        case Linear(factor=factor):
            return plain / factor
        case Llama3() as scaling:
            return _llama3(plain, scaling)
        case Yarn() as scaling:
            return _yarn(plain, scaling, base=rope.base, head=head)
    return plain


def rotation(positions: Int32[Array, "batch seq"], frequencies: Frequencies) -> Rotation:
    """Return the rotation of each position.

    The angle is kept as a 32-bit fraction of a revolution, in which whole ones overflow away. The plain
    float32 product is wrong by up to 0.03 radians at position 1,000,000; this is wrong by less than 1e-6 at
    any position.
    """
    steps = positions.astype(jnp.uint32)[:, :, None]
    rest = positions.astype(jnp.float32)[:, :, None] * frequencies.rest[None, None, :]
    phase = steps * frequencies.whole[None, None, :] + jnp.round(rest).astype(jnp.uint32)
    angle = phase.astype(jnp.int32).astype(jnp.float32) * np.float32(2 * math.pi / 2**32)
    magnitude = frequencies.magnitude[None, None, None]
    return Rotation(cos=jnp.cos(angle) * magnitude, sin=jnp.sin(angle) * magnitude)


def rotate(
    x: Float[Array, "batch seq heads head"], rotation: Rotation
) -> Float[Array, "batch seq heads head"]:
    """Rotate component `i` with component `i + head / 2`, in float32, and return the type of `x`.

    bfloat16 has 8 bits of mantissa, too few for the product of an angle and a component.
    """
    left, right = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    cos, sin = rotation.cos[:, :, None, :], rotation.sin[:, :, None, :]
    return jnp.concatenate([left * cos - right * sin, right * cos + left * sin], axis=-1).astype(x.dtype)


def _llama3(plain: Float64[np.ndarray, " half"], scaling: Llama3) -> Float64[np.ndarray, " half"]:
    wavelengths = 2 * math.pi / plain
    low, high = scaling.low_frequency_factor, scaling.high_frequency_factor
    kept = np.clip((scaling.original_context_tokens / wavelengths - low) / (high - low), 0, 1)
    return kept * plain + (1 - kept) * plain / scaling.factor


def _yarn(
    plain: Float64[np.ndarray, " half"], scaling: Yarn, *, base: float, head: int
) -> Float64[np.ndarray, " half"]:
    def pair_that_rotates(times: float) -> float:
        wavelength = scaling.original_context_tokens / (2 * math.pi * times)
        return head * math.log(wavelength) / (2 * math.log(base))

    low = max(math.floor(pair_that_rotates(scaling.beta_fast)), 0)
    high = min(math.ceil(pair_that_rotates(scaling.beta_slow)), head - 1)
    divided = np.clip((np.arange(head // 2) - low) / max(high - low, 1e-3), 0, 1)
    return divided * plain / scaling.factor + (1 - divided) * plain
