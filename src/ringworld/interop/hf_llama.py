"""Weights of Hugging Face's LLaMA and its relatives, to and from a world model.

Rotation is half-split on both sides, so no weight is permuted. The vision ids are the last rows of the
embedding and of the head; the key `ringworld` of `config.json` keeps where they begin, and other readers
ignore it. Tensors are read straight into their shards, and written one by one.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Int32, Shaped
from safetensors import SafetensorError, safe_open

from ringworld.core.config import from_json, read_as
from ringworld.core.errors import InputError, listed, plain
from ringworld.core.files import damage_of
from ringworld.core.processes import by_all
from ringworld.core.sharding import spec
from ringworld.core.shared_files import FLOATS
from ringworld.interop.tensors import (
    INDEX_FILE,
    WEIGHTS_FILE,
    Tensor,
    read_in_any_case,
    reading_tensors,
    write_tensors,
)
from ringworld.model.config import Architecture, WeightType
from ringworld.model.decode import GenerationWeights
from ringworld.model.weights import FrozenWeight, quantized
from ringworld.model.world_model import WorldModel

T = TypeVar("T")
Adapt = Callable[[Shaped[np.ndarray, "..."], str, tuple[slice, ...]], Shaped[np.ndarray, "..."]]
"""Returns a part of one of their tensors, by its key and slices, with what an adapter adds to it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Weight:
    """One tensor of theirs, and the leaf of a world model that holds it."""

    key: str
    """Theirs, with `{}` for the layer."""
    path: str
    """Ours, from the model or, where `layered`, from its stacked layers."""
    ours: tuple[int, ...]
    """Dimensions of ours, without that of layers."""
    inputs: int | None = None
    """Theirs is a matrix [out, in] or a vector [out]; ours has its parts as dimensions, those of `in` first:
    so many of them. None where both are the same."""
    layered: bool = True

    @property
    def theirs(self) -> tuple[int, ...]:
        """Dimensions of theirs."""
        if self.inputs is None:
            return self.ours
        parts = self.ours[self.inputs :], self.ours[: self.inputs]
        return tuple(math.prod(part) for part in parts if part)

    def slices(self, index: tuple[slice, ...]) -> tuple[slice, ...]:
        """Return the part of theirs that a part of ours is made of."""
        if self.inputs is None:
            return index
        n, ours = self.inputs, self.ours
        parts = (index[n:], ours[n:]), (index[:n], ours[:n])
        return tuple(_flat(*part) for part in parts if part[0])

    def to_ours(
        self, tensor: Shaped[np.ndarray, "..."], index: tuple[slice, ...]
    ) -> Shaped[np.ndarray, "..."]:
        """Return the part `index` of ours from the part of theirs that `slices` names."""
        shape = tuple(len(range(*cut.indices(size))) for cut, size in zip(index, self.ours))
        return (tensor if self.inputs is None else tensor.T).reshape(shape)

    def to_theirs(self, array: Shaped[np.ndarray, "..."]) -> Shaped[np.ndarray, "..."]:
        """Return theirs."""
        return array if self.inputs is None else array.reshape(self.theirs[::-1]).T


def _flat(index: tuple[slice, ...], sizes: tuple[int, ...]) -> slice:
    """Return the slice of flattened dimensions of which only the first is cut."""
    outer, *rest = (cut.indices(size) for cut, size in zip(index, sizes))
    assert all((start, stop) == (0, size) for (start, stop, _), size in zip(rest, sizes[1:])), index
    inner = math.prod(sizes[1:])
    return slice(outer[0] * inner, outer[1] * inner)


def weight_table(architecture: Architecture) -> tuple[_Weight, ...]:
    """Return every tensor of a causal language model of this family and where it is in a world model.

    A tied model has no head of its own.
    """
    embed, mlp, vocab = architecture.embed, architecture.mlp, architecture.vocab
    heads, kv_heads, head = architecture.heads, architecture.kv_heads, architecture.head
    layer = "model.layers.{}."
    attention = layer + "self_attn."
    q, kv = (embed, heads, head), (embed, kv_heads, head)
    ends = [
        _Weight(key="model.embed_tokens.weight", path="embed", ours=(vocab, embed), layered=False),
        _Weight(key="model.norm.weight", path="norm", ours=(embed,), layered=False),
        _Weight(key="lm_head.weight", path="output_head", ours=(embed, vocab), inputs=1, layered=False),
    ]
    layers = [
        _Weight(key=layer + "input_layernorm.weight", path="attention_norm", ours=(embed,)),
        _Weight(key=attention + "q_proj.weight", path="attention.wq", ours=q, inputs=1),
        _Weight(key=attention + "k_proj.weight", path="attention.wk", ours=kv, inputs=1),
        _Weight(key=attention + "v_proj.weight", path="attention.wv", ours=kv, inputs=1),
        _Weight(key=attention + "o_proj.weight", path="attention.wo", ours=(heads, head, embed), inputs=2),
        _Weight(key=layer + "post_attention_layernorm.weight", path="mlp_norm", ours=(embed,)),
        _Weight(key=layer + "mlp.gate_proj.weight", path="mlp.gate", ours=(embed, mlp), inputs=1),
        _Weight(key=layer + "mlp.up_proj.weight", path="mlp.up", ours=(embed, mlp), inputs=1),
        _Weight(key=layer + "mlp.down_proj.weight", path="mlp.down", ours=(mlp, embed), inputs=1),
    ]
    if architecture.qkv_bias:
        layers += [
            _Weight(key=attention + "q_proj.bias", path="attention.bq", ours=q[1:], inputs=0),
            _Weight(key=attention + "k_proj.bias", path="attention.bk", ours=kv[1:], inputs=0),
            _Weight(key=attention + "v_proj.bias", path="attention.bv", ours=kv[1:], inputs=0),
        ]
    if architecture.qk_norm:
        layers += [
            _Weight(key=attention + "q_norm.weight", path="attention.q_norm", ours=(head,)),
            _Weight(key=attention + "k_norm.weight", path="attention.k_norm", ours=(head,)),
        ]
    return (*(ends[:2] if architecture.tied else ends), *layers)


def read_weights(
    folder: Path,
    architecture: Architecture,
    *,
    weights: WeightType = "float32",
    adapt: Adapt | None = None,
) -> WorldModel:
    """Read weights onto the mesh that is set, to be trained or adapted; each goes straight to its shards.

    The folder holds `model.safetensors`, or several files with an index.

    Args:
        folder: that holds them.
        architecture: what its `config.json` says.
        weights: their type: float32 to train them; of int8 weights only the matrices are int8, and the rest
            is bfloat16.
        adapt: adds an adapter to each tensor that is read.

    Raises:
        InputError: one error that names everything that is missing, unknown, damaged or of another shape.
    """
    read = by_all(partial(_reader, folder, architecture, adapt=adapt))
    table = _by_path(architecture)
    floats = "float32" if weights == "float32" else "bfloat16"

    def leaf_at(path: str, leaf: jax.ShapeDtypeStruct) -> FrozenWeight:
        name = path.removeprefix("layers.")
        inputs, layered = table[name].inputs, name != path
        partition = PartitionSpec(*leaf.sharding.spec[1:]) if layered else leaf.sharding.spec

        def one(layer: int) -> FrozenWeight:
            if weights == "int8" and inputs:
                return quantized(read(name, partition, layer), inputs=inputs)
            return read(name, partition, layer, dtype=floats)

        return _stacked(one, layers=architecture.layers) if layered else one(0)

    return _filled(leaf_at, WorldModel.abstract(architecture))


def read_generation_weights(
    folder: Path,
    architecture: Architecture,
    *,
    compute: str,
    weights: WeightType | None = None,
    adapt: Adapt | None = None,
) -> GenerationWeights:
    """Read weights ready for inference, in the compute type or another; otherwise as `read_weights`.

    Of int8 weights only the matrices are int8; the table of embeddings, biases and norms are in the compute
    type. Each is rounded as soon as it is read.
    """
    read, table = _reader(folder, architecture, adapt=adapt), _by_path(architecture)
    floats = compute if weights in (None, "int8") else weights

    def leaf_at(path: str, leaf: jax.ShapeDtypeStruct) -> FrozenWeight:
        layer, name = 0, path
        if path.startswith("layers."):
            _, layer, name = path.split(".", 2)
        inputs = table[name].inputs
        if weights == "int8" and inputs:
            return quantized(read(name, leaf.sharding.spec, int(layer)), inputs=inputs)
        return read(name, leaf.sharding.spec, int(layer), dtype=str(leaf.dtype))

    ready = partial(GenerationWeights.from_model, compute=floats)
    return _filled(leaf_at, jax.eval_shape(ready, WorldModel.abstract(architecture)))


def _filled(leaf_at: Callable[[str, jax.ShapeDtypeStruct], FrozenWeight], abstract: T) -> T:
    """Fill a tree of shapes, leaf by leaf, by the path of each: `layers.attention.wq`."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: leaf_at(jax.tree_util.keystr(path, simple=True, separator="."), leaf), abstract
    )


def _by_path(architecture: Architecture) -> dict[str, _Weight]:
    weights = {weight.path: weight for weight in weight_table(architecture)}
    if architecture.tied:
        # Ready for inference it is an array of its own.
        embed = weights["embed"]
        weights["output_head"] = replace(embed, path="output_head", ours=embed.ours[::-1], inputs=1)
    return weights


def _reader(
    folder: Path, architecture: Architecture, *, adapt: Adapt | None = None
) -> Callable[..., jax.Array]:
    """Return what reads one tensor, by our path and layer, onto the mesh that is set.

    No more of the model is in host memory at a time than a shard of one tensor. Several processes read each
    tensor together, and raise what any of them fails with.
    """
    weights = _by_path(architecture)
    sources = weight_files(folder, architecture)
    mesh = jax.sharding.get_mesh()

    def read(path: str, partition: PartitionSpec, layer: int = 0, *, dtype: str = "float32") -> jax.Array:
        weight = weights[path]
        key = weight.key.format(layer)

        def part(index: tuple[slice, ...] | None) -> Shaped[np.ndarray, "..."]:
            assert index is not None
            slices = weight.slices(index)
            with reading_tensors(sources[key]) as tensors:
                theirs = tensors.get_slice(key)[slices]
            theirs = adapt(theirs, key, slices) if adapt else theirs
            return weight.to_ours(theirs, index).astype(jnp.dtype(dtype))

        where = NamedSharding(mesh, partition)
        return by_all(lambda: jax.make_array_from_callback(weight.ours, where, part))

    return read


def _stacked(read: Callable[[int], FrozenWeight], *, layers: int) -> FrozenWeight:
    """Return the weights of all layers in one, of which one is read at a time."""

    def room(of_layer: Array) -> Array:
        where = PartitionSpec(None, *jax.typeof(of_layer).sharding.spec)
        return jnp.zeros((layers, *of_layer.shape), of_layer.dtype, out_sharding=where)

    lowest = read(0)
    stack = jax.tree.map(room, lowest)
    for layer in range(layers):
        weight = read(layer) if layer else lowest
        stack = jax.tree.map(partial(_put_layer, i=jnp.int32(layer)), stack, weight)
        # Several processes talk about the next layer, and nothing else may be on its way between them then.
        jax.block_until_ready(stack)
    return stack


@partial(jax.jit, donate_argnums=0)
def _put_layer(
    stack: Shaped[Array, "layers ..."], layer: Shaped[Array, "..."], i: Int32[Array, ""]
) -> Shaped[Array, "layers ..."]:
    return jax.lax.dynamic_update_index_in_dim(stack, layer, i, axis=0)


def write_weights(
    folder: Path | None, model: WorldModel, architecture: Architecture, *, largest_file_bytes: int = 2**30
) -> None:
    """Write safetensors: one file, or several with an index.

    No more of the model, on any mesh of this process, is ever in host memory than one tensor; one that is
    larger than `largest_file_bytes` has a file of its own. Call it under `jax.set_mesh`. Where several
    processes hold the model, all but the one that writes call it without a folder, since each has a part.
    """
    tensors = {}
    for weight, layer in in_order(architecture):
        read = partial(_fetched, model, weight, layer)
        tensors[weight.key.format(layer)] = Tensor(shape=weight.theirs, dtype="F32", read=read)
    if folder is not None:
        with read_in_any_case(tensors) as each:
            write_tensors(folder, each, largest_file_bytes=largest_file_bytes)
        return
    for tensor in tensors.values():
        tensor.read()


def in_order(architecture: Architecture) -> Iterator[tuple[_Weight, int]]:
    """Yield every tensor with its layer, those of no layer first."""
    table = weight_table(architecture)
    yield from ((weight, 0) for weight in table if not weight.layered)
    for layer in range(architecture.layers):
        yield from ((weight, layer) for weight in table if weight.layered)


def _fetched(model: WorldModel, weight: _Weight, layer: int) -> Shaped[np.ndarray, "..."]:
    leaf = attrgetter(weight.path)(model.layers if weight.layered else model)
    if weight.layered:
        leaf = whole_layer(leaf, jnp.int32(layer))
    elif not leaf.is_fully_addressable:
        leaf = jax.reshard(leaf, spec())
    return weight.to_theirs(np.asarray(leaf))


@jax.jit
def whole_layer(stack: Shaped[Array, "layers ..."], i: Int32[Array, ""]) -> Shaped[Array, "..."]:
    """Return one layer of a stack, whole on every device."""
    layer = jax.lax.dynamic_index_in_dim(stack, i, axis=0, keepdims=False)
    return jax.reshard(layer, spec(*(None,) * layer.ndim))


def weight_files(folder: Path, architecture: Architecture) -> dict[str, Path]:
    """Return the file that holds each tensor, by what its name, shape and type say; none is read.

    Raises:
        InputError: as for `read_weights`.
    """
    unreadable: list[str] = []
    sources = _sources(folder, unreadable)
    expected = {
        weight.key.format(layer): weight
        for weight in weight_table(architecture)
        for layer in range(architecture.layers if weight.layered else 1)
    }
    # Old exports carry the rotary frequencies, and tied ones the head; both follow from the rest.
    derived = {key for key in sources if key.endswith("rotary_emb.inv_freq") or key == "lm_head.weight"}
    # What a file that cannot be read would have held is not missing.
    problems = [] if unreadable else [f"{key} is missing" for key in expected.keys() - sources.keys()]
    problems += [f"{key} is unknown" for key in sources.keys() - expected.keys() - derived]
    with ExitStack() as stack:
        opened = {
            path: stack.enter_context(safe_open(path, framework="numpy")) for path in set(sources.values())
        }
        for key in expected.keys() & sources.keys():
            found = opened[sources[key]].get_slice(key)
            shape, kind = tuple(found.get_shape()), found.get_dtype()
            if shape != expected[key].theirs:
                problems.append(f"{key} has shape {shape}, expected {expected[key].theirs}")
            if kind not in FLOATS:
                problems.append(f"{key} is stored as {kind}, expected one of {', '.join(FLOATS)}")
    if problems := unreadable + sorted(problems):
        raise InputError(
            f"{folder} does not hold the weights of its config.json: {listed(problems)}",
            path=folder,
            value=tuple(problems),
        )
    return sources


def _sources(folder: Path, problems: list[str]) -> dict[str, Path]:
    """Return the file of each tensor, of one file or of many with an index."""
    index, single = folder / INDEX_FILE, folder / WEIGHTS_FILE
    names = {WEIGHTS_FILE}
    if not single.exists() and index.exists():
        listed = read_as(dict[str, Any], index).get("weight_map")
        names = set(from_json(dict[str, str], listed, where=f"weight_map of {index}").values())
    sources: dict[str, Path] = {}
    for name in sorted(names):
        if Path(name).name != name or not name.endswith(".safetensors"):
            problems.append(f"{INDEX_FILE} names {name!r}, which is not a safetensors file of this folder")
            continue
        try:
            with safe_open(folder / name, framework="numpy") as tensors:
                keys = tensors.keys()
        except ValueError:
            problems.append(f"{plain(name)} is no name of a file, since it is no Unicode")
            continue
        except (OSError, SafetensorError) as error:
            problems.append(f"{name} cannot be read ({damage_of(folder / name, error)})")
            continue
        problems += [f"{key} is in {sources[key].name} and in {name}" for key in keys if key in sources]
        sources |= dict.fromkeys(keys, folder / name)
    return sources
