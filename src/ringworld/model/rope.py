"""Rotary position embedding, half-split as in Hugging Face Llama."""

import math
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int32, UInt32


class Rotation(NamedTuple):
    """Cosine and sine of the angle of each token and each pair of a head's components."""

    cos: Float32[Array, "batch seq half"]
    sin: Float32[Array, "batch seq half"]


class Frequencies(NamedTuple):
    """How far each pair of components turns from one position to the next, in units of 2**-32 of a turn."""

    whole: UInt32[Array, " half"]
    rest: Float32[Array, " half"]


def frequencies(*, head: int, base: float) -> Frequencies:
    """Return what pair `i` turns by, `base ** (-2 * i / head)` radians, for every pair of a head."""
    turns = base ** (-np.arange(0, head, 2, dtype=np.float64) / head) / (2 * math.pi) * 2.0**32
    whole = np.floor(turns)
    return Frequencies(
        whole=jnp.asarray(whole.astype(np.uint32)), rest=jnp.asarray((turns - whole).astype(np.float32))
    )


def rotation(positions: Int32[Array, "batch seq"], turns: Frequencies) -> Rotation:
    """Return the rotation of each position.

    The angle is kept as a 32-bit fraction of a turn, in which whole turns overflow away. The plain float32
    product is wrong by up to 0.03 radians at position 1,000,000; this is wrong by less than 1e-6 at any
    position.
    """
    steps = positions.astype(jnp.uint32)[:, :, None]
    rest = positions.astype(jnp.float32)[:, :, None] * turns.rest[None, None, :]
    phase = steps * turns.whole[None, None, :] + jnp.round(rest).astype(jnp.uint32)
    angle = phase.astype(jnp.int32).astype(jnp.float32) * np.float32(2 * math.pi / 2**32)
    return Rotation(cos=jnp.cos(angle), sin=jnp.sin(angle))


def rotate(x: Float[Array, "batch seq heads head"], turn: Rotation) -> Float[Array, "batch seq heads head"]:
    """Rotate component `i` with component `i + head / 2`, in float32, and return the type of `x`.

    bfloat16 has 8 bits of mantissa, too few for the product of an angle and a component.
    """
    left, right = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    cos, sin = turn.cos[:, :, None, :], turn.sin[:, :, None, :]
    return jnp.concatenate([left * cos - right * sin, right * cos + left * sin], axis=-1).astype(x.dtype)
