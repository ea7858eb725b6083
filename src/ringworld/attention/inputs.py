"""What is checked of a call to attention while it is traced, before anything runs."""

import math

import jax
from jaxtyping import Array

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


def check_inputs(q: Array, k: Array, v: Array) -> None:
    """Refuse queries, keys and values [batch, seq, heads, head] that cannot be cut over the mesh that is set.

    Raises:
        InputError: their types differ or are no compute type, or heads or batch do not divide.
    """
    if not q.dtype == k.dtype == v.dtype or q.dtype.name not in ("float32", "bfloat16"):
        raise InputError(
            what="types of queries, keys and values",
            got=f"{q.dtype}, {k.dtype}, {v.dtype}",
            expected="float32 or bfloat16, the same for all",
            remedy="Cast them to the compute type.",
        )
    heads, kv_heads, tensor = q.shape[2], k.shape[2], axis_size(TENSOR_AXIS)
    if heads % kv_heads or kv_heads % tensor:
        raise InputError(
            what="attention heads",
            got=f"{heads} for queries and {kv_heads} for keys over {tensor} tensor-parallel devices",
            expected="heads a multiple of kv_heads, and kv_heads a multiple of the devices",
            remedy="Change heads or kv_heads of the model, or make the tensor axis of the mesh smaller.",
        )
    batch, devices = q.shape[0], axis_size(*BATCH_AXES)
    if batch % devices:
        raise InputError(
            what="batch for attention",
            got=f"{batch} sequences over {devices} devices",
            expected=f"a multiple of {devices}",
            remedy="Change the sequences of a batch, or the data and fsdp axes of the mesh.",
        )
