"""What is checked of a call to attention while it is traced, before anything runs."""

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
        raise InputError(
            what="mesh for attention",
            got=f"one without the axes {', '.join(missing)}" if sizes else "none",
            expected="a mesh of core.mesh.make_mesh",
            remedy="Call inside `with jax.set_mesh(make_mesh(MeshConfig(...))):`.",
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
        InputError: their types differ or are no compute type, their shapes do not go together, or heads or
        batch do not divide.
    """
    if not q.dtype == k.dtype == v.dtype or q.dtype.name not in get_args(ComputeType):
        raise InputError(
            what="types of queries, keys and values",
            got=f"{q.dtype}, {k.dtype}, {v.dtype}",
            expected=f"{' or '.join(get_args(ComputeType))}, the same for all",
            remedy="Cast them to the compute type.",
        )
    fit = q.ndim == k.ndim == 4 and k.shape == v.shape and q.shape[::3] == k.shape[::3]
    if not fit or 0 in q.shape + k.shape:
        raise InputError(
            what="shapes of queries, keys and values",
            got=f"{q.shape}, {k.shape}, {v.shape}",
            expected="[batch, seq, heads, head], none 0, batch and head the same for all, and keys as values",
            remedy="Check what was transposed or projected.",
        )
    heads, kv_heads, devices = q.shape[2], k.shape[2], axis_size(*head_axes)
    if heads % kv_heads or kv_heads % devices:
        raise InputError(
            what="attention heads",
            got=f"{heads} for queries, {kv_heads} for keys, over {devices} devices ({', '.join(head_axes)})",
            expected="heads a multiple of kv_heads, and kv_heads a multiple of the devices",
            remedy="Change heads or kv_heads of the model, a mesh axis that cuts them, or the strategy.",
        )
    batch, devices = q.shape[0], axis_size(*BATCH_AXES)
    if batch % devices:
        raise InputError(
            what="batch for attention",
            got=f"{batch} sequences over {devices} devices",
            expected=f"a multiple of {devices}",
            remedy="Change the sequences of a batch, or the data and fsdp axes of the mesh.",
        )


def check_self_attention(q: Array, k: Array) -> None:
    """Refuse keys [batch, seq, ...] that are not one for each query.

    Raises:
        InputError: they are not.
    """
    if k.shape[1] != q.shape[1]:
        raise InputError(
            what="tokens for attention",
            got=f"{q.shape[1]} queries and {k.shape[1]} keys",
            expected="as many keys as queries",
            remedy="Use decode_attention for a few queries to the keys of a cache.",
        )


def check_shardings(**arrays: tuple[Array, PartitionSpec]) -> None:
    """Refuse arrays that are not cut as they should be over the mesh that is set.

    Where shardings are the compiler's choice, so is this.

    Args:
        arrays: each with its sharding, by name.

    Raises:
        InputError: the first that is cut otherwise.
    """
    if not jax.sharding.get_abstract_mesh().are_all_axes_explicit:
        return
    for name, (x, wanted) in arrays.items():
        found = jax.typeof(x).sharding.spec
        if _mesh_axes(found, x.ndim) != _mesh_axes(wanted, x.ndim):
            raise InputError(
                what=f"sharding of {name}",
                got=str(found),
                expected=str(wanted),
                remedy="Put it there with jax.device_put, or in a program with jax.sharding.reshard; "
                "core.sharding.spec gives the sharding from the names of the dimensions.",
            )


def _mesh_axes(spec: PartitionSpec, dimensions: int) -> list[tuple[str, ...]]:
    """Return the mesh axes that cut each dimension: those of P("a") and P(("a",), None) are the same."""
    cuts = [() if cut is None else (cut,) if isinstance(cut, str) else tuple(cut) for cut in spec]
    return cuts + [()] * (dimensions - len(cuts))


def check_tokens(integers: Mapping[str, Array], *, like: Array) -> None:
    """Refuse what is not one int32 for each token of queries or keys [batch, seq, ...].

    Args:
        integers: such as the order of each token, by name.
        like: the queries or keys.

    Raises:
        InputError: a type or a shape differs.
    """
    for name, x in integers.items():
        if x.shape != like.shape[:2] or x.dtype != "int32":
            raise InputError(
                what=f"{name} of the tokens",
                got=f"{x.dtype}{list(x.shape)}",
                expected=f"int32{list(like.shape[:2])}",
                remedy="Give each token of each sequence its order, and that of its example's first token.",
            )
