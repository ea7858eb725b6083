"""Weights at rest and in use: float32 masters, or where they do not learn a smaller type, or with an adapter.

At rest one dimension of a master is spread over the `weight` axes; `in_use` casts it to the compute type and
gathers that dimension, so that what travels and what is kept is the smaller type. Weights of int8 stay int8
until they are multiplied: a weight is `values * scale`, with one scale for each output channel.
"""

from dataclasses import replace
from functools import partial
from typing import overload

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, Float32, Int8, Shaped

from ringworld.core.sharding import spec

PRODUCT_NAME = "product"
"""Of what a layer's weights are multiplied to, for a policy of rematerialization that keeps it."""
_LARGEST = 127


class Int8Weight(eqx.Module):
    """A weight whose trailing dimensions are output channels, rounded to 255 steps in each of them."""

    values: Int8[Array, "..."]
    scale: Float32[Array, "..."]
    """Of each output channel: of the shape of the trailing dimensions."""

    def to(self, dtype: str) -> Float[Array, "..."]:
        """Return the weight that it stands for."""
        return (self.values.astype(jnp.float32) * _along(self.scale, self.values)).astype(dtype)


FrozenWeight = Float[Array, "..."] | Int8Weight


class LoraWeight(eqx.Module):
    """A weight that does not learn, with the product of an adapter that does: `base + scale * a @ b`.

    `a` has the inputs of the base and then the rank, `b` the rank and then the output channels.
    """

    base: FrozenWeight
    a: Float[Array, "..."]
    b: Float[Array, "..."]
    scale: float = eqx.field(static=True)


Weight = FrozenWeight | LoraWeight


@partial(jax.jit, static_argnames="inputs")
def quantized(weight: Float[Array, "..."], *, inputs: int) -> Int8Weight:
    """Round a weight whose first `inputs` dimensions are summed over; each channel by its own largest value.

    Call it under `jax.set_mesh`; the parts lie where those of the weight lay. The error of a number is at
    most half a step, 1/254 of the largest of its channel. A channel that holds NaN or infinity stays not
    finite.
    """
    wide = weight.astype(jnp.float32)
    largest = jnp.max(jnp.abs(wide), axis=range(inputs))
    # Asked apart, since a maximum over devices may pass over NaN.
    finite = jnp.isfinite(wide).all(axis=range(inputs))
    scale = jnp.where(finite, jnp.where(largest > 0, largest, 1) / _LARGEST, jnp.nan)
    values = jnp.round(wide / _along(scale, wide)).astype(jnp.int8)
    return Int8Weight(values=jax.reshard(values, jax.typeof(weight).sharding.spec), scale=scale)


@overload
def in_use(weight: Array, *dimensions: str, compute: str) -> Array: ...
@overload
def in_use(weight: Int8Weight, *dimensions: str, compute: str) -> Int8Weight: ...
@overload
def in_use(weight: LoraWeight, *dimensions: str, compute: str) -> LoraWeight: ...
def in_use(weight: Weight, *dimensions: str, compute: str) -> Weight:
    """Cast a weight to the compute type and lay it out by `dimensions`; nothing moves if it lies so."""
    if isinstance(weight, LoraWeight):
        inputs = weight.a.ndim - 1
        return replace(
            weight,
            base=in_use(weight.base, *dimensions, compute=compute),
            a=in_use(weight.a, *dimensions[:inputs], "rank", compute=compute),
            b=in_use(weight.b, "rank", *dimensions[inputs:], compute=compute),
        )
    if isinstance(weight, Int8Weight):
        channels = dimensions[-weight.scale.ndim :]
        return Int8Weight(
            values=jax.reshard(weight.values, spec(*dimensions)),
            scale=jax.reshard(weight.scale, spec(*channels)),
        )
    return jax.reshard(weight.astype(compute), spec(*dimensions))


def as_floats(weight: FrozenWeight, *, compute: str) -> Float[Array, "..."]:
    """Return the weight, or what int8 stands for in the compute type."""
    return weight.to(compute) if isinstance(weight, Int8Weight) else weight


def widened(weight: Weight) -> Weight:
    """Return what learns as float32, so that gradients add in it: neither int8 nor the base of an adapter."""
    if isinstance(weight, LoraWeight):
        return replace(weight, a=weight.a.astype(jnp.float32), b=weight.b.astype(jnp.float32))
    return weight if isinstance(weight, Int8Weight) else weight.astype(jnp.float32)


def product(
    equation: str,
    x: Float[Array, "..."],
    weight: Weight,
    *,
    wide: bool = False,
    out_sharding: jax.sharding.PartitionSpec | jax.sharding.NamedSharding | None = None,
) -> Float[Array, "..."]:
    """Multiply as `jnp.einsum` does; what is summed over comes first in the weight, channels last in both.

    The result has the type of `x`; a wide one is float32, in which the terms are then added too. Of an
    adapter the two thin products are made one after the other, and never the matrix that they stand for.
    """
    if isinstance(weight, LoraWeight):
        into, back = _through_rank(equation)
        # Where it is given, the last dimension is whole: so is the rank in its place.
        thin = checkpoint_name(product(into, x, weight.a, out_sharding=out_sharding), PRODUCT_NAME)
        added = weight.scale * product(back, thin, weight.b, wide=wide, out_sharding=out_sharding)
        return product(equation, x, weight.base, wide=wide, out_sharding=out_sharding) + added
    values = weight.values if isinstance(weight, Int8Weight) else weight
    dtype = jnp.float32 if wide else None
    out = jnp.einsum(
        equation, x, values.astype(x.dtype), preferred_element_type=dtype, out_sharding=out_sharding
    )
    if isinstance(weight, Int8Weight):
        return (out * _along(weight.scale, out)).astype(out.dtype)
    return out


def _along(scale: Float32[Array, "..."], of: Shaped[Array, "..."]) -> Float32[Array, "..."]:
    """Give scales the rank of the array whose trailing dimensions they scale."""
    return jnp.expand_dims(scale, range(of.ndim - scale.ndim))


def _through_rank(equation: str) -> tuple[str, str]:
    """Return the two products of an adapter that stand for one.

    Example:
        `bse,ehd->bshd` becomes `bse,er->bsr` and `bsr,rhd->bshd`.
    """
    x, weight, out = equation.replace("->", ",").split(",")
    summed = "".join(letter for letter in weight if letter not in out)
    kept = "".join(letter for letter in x if letter not in summed)
    return f"{x},{summed}r->{kept}r", f"{kept}r,r{weight.removeprefix(summed)}->{out}"
