"""The ring as a function of plain arrays: `ringworld.attention`.

It serves a single call. A model that trains lays out each batch once (`model.arrange.Layout`) and then calls
`attend.attention` in every layer; here q, k, v and the result move to the layout and back in each call.
"""

import functools
from collections.abc import Sequence
from operator import index
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int32, Shaped

from ringworld.attention import attend
from ringworld.attention.blocks import fill_blocks
from ringworld.attention.config import (
    AttentionConfig,
    KernelName,
    LayoutName,
    Strategy,
    advised_sharing,
    advised_strategy,
)
from ringworld.attention.inputs import axis_size, check_inputs, check_self_attention, check_shapes
from ringworld.attention.layouts import filled_length, place_rows
from ringworld.attention.work import check_lengths
from ringworld.core.errors import InputError
from ringworld.core.mesh import make_mesh, mesh_device
from ringworld.core.mesh_config import MeshConfig
from ringworld.core.padding import PADDING_ORDER
from ringworld.core.ranges import whole_number
from ringworld.core.sharding import MESH_AXES, RING_AXIS, TENSOR_AXIS, ULYSSES_AXIS, spec


def attention(
    q: Float[Any, "batch seq heads head"],
    k: Float[Any, "batch seq kv_heads head"],
    v: Float[Any, "batch seq kv_heads head"],
    *,
    lengths: Sequence[int] | Sequence[Sequence[int]] | None = None,
    mesh: Mesh | None = None,
    strategy: Strategy | None = None,
    layout: LayoutName = "balanced",
    kernel: KernelName = "auto",
    window: int | None = None,
) -> Float[Array, "batch seq heads head"]:
    """Return exact causal attention within each document, computed by all devices together.

    It can be differentiated, and called under `jax.jit`.

    Example:
        Two documents of 5 and 3 tokens in one sequence, with 4 heads of queries that share 2 of keys:

        >>> q = np.random.normal(size=(1, 8, 4, 16)).astype(np.float32)
        >>> k, v = np.random.normal(size=(2, 1, 8, 2, 16)).astype(np.float32)
        >>> out = attention(q, k, v, lengths=[5, 3])

    Args:
        q: queries in the order of the sequence, of NumPy or jax; float32 or bfloat16, and no other type:
            float64 is refused, not narrowed.
        k: keys, one head for each group of heads of `q`.
        v: values, shaped as the keys.
        lengths: tokens of the documents that are packed into each sequence, in order: one list for all
            sequences, or one for each. The rest is padding, for which the result is zero. By default each
            sequence is one document.
        mesh: the devices. One of `core.mesh.make_mesh` is used as it is; in any other, and by default in all
            devices of the process, every device shares each sequence. Inside `jax.set_mesh` leave it out.
        strategy: how devices share a sequence; by default the best for `kv_heads` and the mesh.
        layout: which tokens live on which device; it changes speed, never the result.
        kernel: what computes the blocks.
        window: most keys that a query sees, its own included; by default all before it in its document.

    Returns:
        The result in the order of the sequence and the type of `q`.

    Raises:
        InputError: shapes or types do not match, documents do not fit into the sequence, heads or batch do
            not divide over the mesh, or the kernel does not run on its devices.
    """
    q, k, v = (_to_jax(x) for x in (q, k, v))
    check_shapes(q, k, v)
    own_mesh = _own_mesh(mesh, kv_heads=k.shape[2], strategy=strategy)
    # A mesh that is set stays set; another one is known to this call alone.
    with jax.sharding.use_abstract_mesh(
        own_mesh.abstract_mesh if own_mesh else jax.sharding.get_abstract_mesh()
    ):
        check_inputs(q, k, v)
        check_self_attention(q, k)
        strategy = strategy or advised_strategy(
            kv_heads=k.shape[2] // axis_size(TENSOR_AXIS),
            ring=axis_size(RING_AXIS),
            ulysses=axis_size(ULYSSES_AXIS),
        )
        config = AttentionConfig(strategy=strategy, layout=layout, kernel=kernel)
        tokens = _place(q.shape[0], q.shape[1], config, lengths=lengths, window=window)
    if own_mesh is not None:
        even = q.shape[1] == tokens.order.shape[1]
        q, k, v = (jax.device_put(x, NamedSharding(own_mesh, _spec(even))) for x in (q, k, v))
    return _run(q, k, v, tokens, config=config, mesh=own_mesh)


class _Placed(NamedTuple):
    """The integers of each token, in its slot, and the way there and back; None where slots are in order."""

    order: Int32[Any, "batch slots"]
    first: Int32[Any, "batch slots"]
    token_of_slot: Int32[Any, "batch slots"] | None
    slot_of_token: Int32[Any, "batch slots"] | None


def _to_jax(x: Any) -> Array:
    """Return an array as one of jax.

    Raises:
        InputError: jax would narrow it, as it does with float64 of NumPy.
    """
    array = jnp.asarray(x)
    if isinstance(x, np.ndarray) and x.dtype != array.dtype:
        problem = f"an array is {x.dtype}, but queries, keys and values are float32 or bfloat16"
        raise InputError(problem, field="dtype", value=x.dtype, remedy="cast them to the compute type")
    return array


def _own_mesh(mesh: Mesh | None, *, kv_heads: int, strategy: Strategy | None) -> Mesh | None:
    """Return the mesh of this call, or None where one is set.

    Raises:
        InputError: it is no mesh, another one is set than the one asked for, or the devices do not suit the
            strategy.
    """
    if mesh is not None and not isinstance(mesh, Mesh):
        raise InputError(
            f"mesh is a {type(mesh).__name__}, not a jax.sharding.Mesh",
            field="mesh",
            value=mesh,
            remedy="make one of a MeshConfig with core.mesh.make_mesh",
        )
    if not jax.sharding.get_abstract_mesh().empty:
        if mesh is not None and mesh.abstract_mesh != jax.sharding.get_abstract_mesh():
            raise InputError(
                "attention cannot use another mesh than the one that is set",
                field="mesh",
                value=mesh,
                remedy="leave mesh out, or call it outside of jax.set_mesh",
            )
        return None
    devices = jax.devices() if mesh is None else mesh.devices.flatten().tolist()
    if mesh is not None and mesh.axis_names == MESH_AXES:
        sizes = MeshConfig(**mesh.shape)
    else:
        shared = advised_sharing(kv_heads=kv_heads, members=len(devices), strategy=strategy)
        sizes = MeshConfig(ring=shared.ring, ulysses=shared.ulysses)
    return make_mesh(sizes, devices=devices, shardings="inferred")


def _place(
    batch: int,
    seq: int,
    config: AttentionConfig,
    *,
    lengths: Sequence[int] | Sequence[Sequence[int]] | None,
    window: int | None,
) -> _Placed:
    """Lay out the tokens of each sequence, filled up to a length that the mesh that is set can cut."""
    rows = _lengths_of_rows(lengths, batch=batch, seq=seq)
    ring, ulysses = axis_size(RING_AXIS), axis_size(ULYSSES_AXIS)
    filled = filled_length(config, seq=seq, ring=ring, ulysses=ulysses)
    order = np.full((batch, filled), PADDING_ORDER, np.int32)
    first = np.zeros((batch, filled), np.int32)
    for row, documents in enumerate(rows):
        used = sum(documents)
        order[row, :used] = np.arange(used)
        first[row, :used] = np.repeat(np.cumsum(documents) - documents, documents)
    if window is not None:
        window = whole_number("window", window, least=1)
        first = np.maximum(first, order - np.int32(min(window, filled)) + 1)
    platform = mesh_device().platform
    placed = place_rows(rows, config, seq=filled, ring=ring, ulysses=ulysses, platform=platform)
    token_of_slot = np.stack([one.token_of_slot() for one in placed]).astype(np.int32)
    if (token_of_slot == np.arange(filled)).all():
        return _Placed(order, first, None, None)
    order, first = (np.take_along_axis(x, token_of_slot, axis=1) for x in (order, first))
    slot_of_token = np.stack([one.slot_of_token() for one in placed]).astype(np.int32)
    return _Placed(order, first, token_of_slot, slot_of_token)


def _lengths_of_rows(
    lengths: Sequence[int] | Sequence[Sequence[int]] | None, *, batch: int, seq: int
) -> list[list[int]]:
    """Return the lengths of the documents of each sequence.

    Raises:
        InputError: there are none, they are not integers, there are not as many lists as sequences, or
            documents do not fit.
    """
    rows, problem = [], ""
    try:
        given: list[Any] = [seq] if lengths is None else list(lengths)
        if given and all(np.ndim(one) == 0 for one in given):
            given = [given] * batch
        rows = [[index(length) for length in row] for row in given]
    except TypeError as error:
        problem = f"lengths are not lists of whole numbers ({error})"
    if len(rows) != batch:
        raise InputError(
            problem or f"there are lengths of {len(rows)} sequences, but {batch} sequences",
            field="lengths",
            value=lengths,
            remedy="give one list for each sequence, or a single list of integers for all",
        )
    for row in rows:
        check_lengths(row, seq=seq)
    return rows


@functools.partial(jax.jit, static_argnames=("config", "mesh"))
def _run(
    q: Array, k: Array, v: Array, tokens: _Placed, *, config: AttentionConfig, mesh: Mesh | None
) -> Array:
    attend_to = functools.partial(_in_layout, config=config)
    out_spec = _spec(even=q.shape[1] == tokens.order.shape[1])
    if mesh is not None:
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            out = attend_to(q, k, v, tokens)
        return jax.lax.with_sharding_constraint(out, NamedSharding(mesh, out_spec))
    if jax.sharding.get_abstract_mesh().are_all_axes_explicit:  # gathers have no rule for them
        attend_to: Any = jax.sharding.auto_axes(attend_to, out_sharding=out_spec)
    return attend_to(q, k, v, tokens)


def _in_layout(q: Array, k: Array, v: Array, tokens: _Placed, *, config: AttentionConfig) -> Array:
    seq, slots = q.shape[1], tokens.order.shape[1]
    q, k, v = (_take(fill_blocks(x, 1, slots), tokens.token_of_slot) for x in (q, k, v))
    out = attend.attention(q, k, v, order=tokens.order, first=tokens.first, config=config)
    return _take(out, tokens.slot_of_token)[:, :seq]


def _take(
    x: Shaped[Array, "batch seq heads head"], indices: Int32[Array, "batch slots"] | None
) -> Shaped[Array, "batch slots heads head"]:
    return x if indices is None else jnp.take_along_axis(x, indices[:, :, None, None], axis=1)


def _spec(even: bool) -> PartitionSpec:
    """Return how an array is cut from outside: by tokens where they divide over the mesh as they are."""
    return spec("batch", "seq" if even else None, "kv_heads", "head")
