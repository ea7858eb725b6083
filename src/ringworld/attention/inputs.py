"""Checks of the arguments of attention, made while it is traced, before anything runs."""

import math
from collections.abc import Mapping
from typing import get_args

import jax
from jax.sharding import PartitionSpec
from jaxtyping import Array

from ringworld.attention.config import ComputeType
from ringworld.core.errors import InputError
from ringworld.core.sharding import BATCH_AXES, TENSOR_AXIS


def axis_size(*axes: str) -> int:
    """Return the number of devices along these axes of the mesh that is set.

    Raises:
        InputError: no mesh is set, or it lacks an axis.
    """
    sizes = jax.sharding.get_abstract_mesh().shape
    if missing := [axis for axis in axes if axis not in sizes]:
        lacking = f"the mesh that is set has no axis {', '.join(missing)}" if sizes else "no mesh is set"
        raise InputError(
            f"{lacking}, but attention needs one of core.mesh.make_mesh",
            field="mesh",
            value=sizes or None,
            remedy="call it inside `with jax.set_mesh(make_mesh(MeshConfig(...))):`",
        )
    return math.prod(sizes[axis] for axis in axes)


def check_inputs(q: Array, k: Array, v: Array, *, head_axes: tuple[str, ...] = (TENSOR_AXIS,)) -> None:
    """Refuse queries, keys and values [batch, seq, heads, head] that cannot be cut over the mesh that is set.

    Args:
        q: Queries.
        k: Keys; they may be more or fewer than the queries.
        v: Values, of the shape of the keys.
        head_axes: The mesh axes that cut heads while attention is computed.

    Raises:
        InputError: types or shapes do not match, or heads or batch do not divide over the mesh.
    """
    check_shapes(q, k, v)
    heads, kv_heads, devices = q.shape[2], k.shape[2], axis_size(*head_axes)
    if heads % kv_heads or kv_heads % devices:
        raise InputError(
            f"{devices} devices ({', '.join(head_axes)}) cannot share {kv_heads} kv_heads for {heads} heads: "
            "heads must be a multiple of kv_heads, and kv_heads of the devices",
            field="kv_heads",
            value=kv_heads,
            remedy="change heads or kv_heads, a mesh axis that cuts them, or the strategy",
        )
    batch, devices = q.shape[0], axis_size(*BATCH_AXES)
    if batch % devices:
        raise InputError(
            f"{devices} devices (data, fsdp) cannot share a batch of {batch} sequences",
            field="batch",
            value=batch,
            remedy=f"use a multiple of {devices}, or smaller data and fsdp axes of the mesh",
        )


def check_shapes(q: Array, k: Array, v: Array) -> None:
    """Refuse queries, keys and values whose types or shapes do not match, on whatever mesh.

    Raises:
        InputError: types differ or are no compute type, batch or head differ, or keys and values do.
    """
    if not q.dtype == k.dtype == v.dtype or q.dtype.name not in get_args(ComputeType):
        raise InputError(
            f"queries, keys and values are {q.dtype}, {k.dtype} and {v.dtype}, but must all be "
            f"{' or all '.join(get_args(ComputeType))}",
            field="dtype",
            value=(q.dtype, k.dtype, v.dtype),
            remedy="cast them to the compute type",
        )
    fit = q.ndim == k.ndim == 4 and k.shape == v.shape and q.shape[::3] == k.shape[::3]
    if not fit or 0 in q.shape + k.shape:
        raise InputError(
            f"queries {q.shape}, keys {k.shape} and values {v.shape} do not match: all are [batch, seq, "
            "heads, head], none 0, with the same batch and head, and values have the shape of the keys",
            field="shape",
            value=(q.shape, k.shape, v.shape),
        )


def check_self_attention(q: Array, k: Array) -> None:
    """Refuse another number of keys than of queries [batch, seq, ...]."""
    if k.shape[1] != q.shape[1]:
        raise InputError(
            f"self-attention got {k.shape[1]} keys for {q.shape[1]} queries",
            field="seq",
            value=(q.shape[1], k.shape[1]),
            remedy="use decode_attention for a few queries to the keys of a cache",
        )


def check_shardings(**arrays: tuple[Array, PartitionSpec]) -> None:
    """Refuse arrays that are not sharded as they should be over the mesh that is set.

    Where the compiler chooses shardings, any will do.

    Args:
        arrays: each with its sharding, by name.

    Raises:
        InputError: the first that is sharded otherwise.
    """
    if not jax.sharding.get_abstract_mesh().are_all_axes_explicit:
        return
    for name, (x, wanted) in arrays.items():
        found = jax.typeof(x).sharding.spec
        if _mesh_axes(found, x.ndim) != _mesh_axes(wanted, x.ndim):
            raise InputError(
                f"{name} is sharded as {found}, but must be as {wanted}",
                field=name,
                value=found,
                remedy="move it with jax.device_put, or inside a program with jax.sharding.reshard; "
                "core.sharding.spec gives the sharding from the names of the dimensions",
            )


def _mesh_axes(spec: PartitionSpec, dimensions: int) -> list[tuple[str, ...]]:
    """Return the mesh axes that cut each dimension: those of P("a") and P(("a",), None) are the same."""
    cuts = [() if cut is None else (cut,) if isinstance(cut, str) else tuple(cut) for cut in spec]
    return cuts + [()] * (dimensions - len(cuts))


def check_tokens(integers: Mapping[str, Array], *, like: Array) -> None:
    """Refuse anything but one int32 for each token of queries or keys [batch, seq, ...].

    Args:
        integers: such as the order of each token, by name.
        like: the queries or keys.

    Raises:
        InputError: a type or a shape differs.
    """
    for name, x in integers.items():
        if x.shape != like.shape[:2] or x.dtype != "int32":
            raise InputError(
                f"{name} is {x.dtype}{list(x.shape)}, but must be int32{list(like.shape[:2])}: one integer a "
                "token",
                field=name,
                value=(x.dtype, x.shape),
            )
