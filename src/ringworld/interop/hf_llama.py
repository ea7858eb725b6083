"""Weights and `config.json` of Hugging Face `LlamaForCausalLM`, to and from a world model.

Rotation is half-split on both sides, so no weight is permuted. The vision ids are the last rows of the
embedding and of the head; the key `ringworld` of `config.json` keeps where they begin, and other readers
ignore it. Tensors are read straight into their shards, and written file by file.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Int32, Shaped
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from ringworld.core.config import from_json, read_as
from ringworld.core.errors import InputError, listed
from ringworld.core.files import write_json_atomic
from ringworld.core.sharding import spec
from ringworld.model.config import Architecture
from ringworld.model.decode import GenerationWeights
from ringworld.model.world_model import WorldModel

T = TypeVar("T")
WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
_FLOATS = ("F64", "F32", "F16", "BF16")
_NUMPY_TYPES = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16}


@dataclass(frozen=True, kw_only=True, slots=True)
class _Weight:
    """One tensor of theirs, and the leaf of a world model that holds it.

    Theirs is a matrix [out, in], ours has the dimensions `ours` with those of `in` first: `inputs` of them.
    A tensor with `inputs` 0 is the same on both sides.
    """

    key: str
    """Theirs, with `{}` for the layer."""
    path: str
    """Ours, from the model or, where `layered`, from its stacked layers."""
    ours: tuple[int, ...]
    """Dimensions of ours, without that of layers."""
    inputs: int = 0
    layered: bool = True

    @property
    def theirs(self) -> tuple[int, ...]:
        """Dimensions of theirs."""
        if self.inputs == 0:
            return self.ours
        return math.prod(self.ours[self.inputs :]), math.prod(self.ours[: self.inputs])

    def slices(self, index: tuple[slice, ...]) -> tuple[slice, ...]:
        """Return the part of theirs that a part of ours is made of."""
        if self.inputs == 0:
            return index
        ours, n = self.ours, self.inputs
        return _flat(index[n:], ours[n:]), _flat(index[:n], ours[:n])

    def to_ours(
        self, tensor: Shaped[np.ndarray, "..."], index: tuple[slice, ...]
    ) -> Shaped[np.ndarray, "..."]:
        """Return the part `index` of ours from the part of theirs that `slices` names."""
        shape = tuple(len(range(*cut.indices(size))) for cut, size in zip(index, self.ours))
        return (tensor.T if self.inputs else tensor).reshape(shape)

    def to_theirs(self, array: Shaped[np.ndarray, "..."]) -> Shaped[np.ndarray, "..."]:
        """Return theirs, contiguous."""
        return np.ascontiguousarray(array.reshape(self.theirs[::-1]).T if self.inputs else array)


def _flat(index: tuple[slice, ...], sizes: tuple[int, ...]) -> slice:
    """Return the slice of flattened dimensions of which only the first is cut."""
    first, *rest = (cut.indices(size) for cut, size in zip(index, sizes))
    assert all((start, stop) == (0, size) for (start, stop, _), size in zip(rest, sizes[1:])), index
    inner = math.prod(sizes[1:])
    return slice(first[0] * inner, first[1] * inner)


def weight_table(architecture: Architecture) -> tuple[_Weight, ...]:
    """Return every tensor of `LlamaForCausalLM` with its place in a world model."""
    embed, mlp, vocab = architecture.embed, architecture.mlp, architecture.vocab
    heads, kv_heads, head = architecture.heads, architecture.kv_heads, architecture.head
    layer = "model.layers.{}."
    q, kv = (embed, heads, head), (embed, kv_heads, head)
    return (
        _Weight(key="model.embed_tokens.weight", path="embed", ours=(vocab, embed), layered=False),
        _Weight(key="model.norm.weight", path="norm", ours=(embed,), layered=False),
        _Weight(key="lm_head.weight", path="head", ours=(embed, vocab), inputs=1, layered=False),
        _Weight(key=layer + "input_layernorm.weight", path="attention_norm", ours=(embed,)),
        _Weight(key=layer + "self_attn.q_proj.weight", path="attention.wq", ours=q, inputs=1),
        _Weight(key=layer + "self_attn.k_proj.weight", path="attention.wk", ours=kv, inputs=1),
        _Weight(key=layer + "self_attn.v_proj.weight", path="attention.wv", ours=kv, inputs=1),
        _Weight(
            key=layer + "self_attn.o_proj.weight", path="attention.wo", ours=(heads, head, embed), inputs=2
        ),
        _Weight(key=layer + "post_attention_layernorm.weight", path="mlp_norm", ours=(embed,)),
        _Weight(key=layer + "mlp.gate_proj.weight", path="mlp.gate", ours=(embed, mlp), inputs=1),
        _Weight(key=layer + "mlp.up_proj.weight", path="mlp.up", ours=(embed, mlp), inputs=1),
        _Weight(key=layer + "mlp.down_proj.weight", path="mlp.down", ours=(mlp, embed), inputs=1),
    )


def read_weights(folder: Path, architecture: Architecture, *, tied: bool = False) -> WorldModel:
    """Read float32 weights onto the mesh that is set, to be trained; each tensor goes straight to its shards.

    Args:
        folder: of `model.safetensors`, or of several files with an index.
        architecture: of the model.
        tied: whether the head is the embedding, and no tensor besides.

    Raises:
        InputError: one error that names everything that is missing, unknown, damaged or of another shape.
    """
    read = _reader(folder, architecture, tied=tied)

    def place(path: str, leaf: jax.ShapeDtypeStruct) -> jax.Array:
        name = path.removeprefix("layers.")
        if name == path:
            return read(name, leaf.sharding.spec)
        of_layer = PartitionSpec(*leaf.sharding.spec[1:])
        stack = jnp.zeros(leaf.shape, leaf.dtype, out_sharding=leaf.sharding.spec)
        for layer in range(architecture.layers):
            stack = _put_layer(stack, read(name, of_layer, layer), jnp.int32(layer))
        return stack

    return _placed(place, WorldModel.abstract(architecture))


def read_generation_weights(
    folder: Path, architecture: Architecture, *, compute: str, tied: bool = False
) -> GenerationWeights:
    """Read weights ready for inference in the compute type; otherwise as `read_weights`."""
    read = _reader(folder, architecture, tied=tied)

    def place(path: str, leaf: jax.ShapeDtypeStruct) -> jax.Array:
        layer, name = 0, path
        if path.startswith("layers."):
            _, layer, name = path.split(".", 2)
        return read(name, leaf.sharding.spec, int(layer), dtype=str(leaf.dtype))

    ready = partial(GenerationWeights.from_model, compute=compute)
    return _placed(place, jax.eval_shape(ready, WorldModel.abstract(architecture)))


def _placed(place: Callable[[str, jax.ShapeDtypeStruct], jax.Array], abstract: T) -> T:
    """Fill a tree of shapes, leaf by leaf, by the path of each: `layers.attention.wq`."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: place(jax.tree_util.keystr(path, simple=True, separator="."), leaf), abstract
    )


def _reader(folder: Path, architecture: Architecture, *, tied: bool) -> Callable[..., jax.Array]:
    """Return what reads one tensor, by our path and layer, onto the mesh that is set.

    No more of the model is in host memory at a time than a shard of one tensor.
    """
    weights = {weight.path: weight for weight in weight_table(architecture)}
    sources = weight_files(folder, architecture, tied=tied)
    mesh = jax.sharding.get_mesh()

    def read(path: str, partition: PartitionSpec, layer: int = 0, *, dtype: str = "float32") -> jax.Array:
        weight = weights[path]
        key = weights["embed"].key if tied and path == "head" else weight.key.format(layer)

        def part(index: tuple[slice, ...] | None) -> Shaped[np.ndarray, "..."]:
            assert index is not None
            with safe_open(sources[key], framework="numpy") as tensors:
                theirs = tensors.get_slice(key)[weight.slices(index)]
            return weight.to_ours(theirs, index).astype(_NUMPY_TYPES[dtype])

        return jax.make_array_from_callback(weight.ours, NamedSharding(mesh, partition), part)

    return read


@partial(jax.jit, donate_argnums=0)
def _put_layer(
    stack: Shaped[Array, "layers ..."], layer: Shaped[Array, "..."], i: Int32[Array, ""]
) -> Shaped[Array, "layers ..."]:
    return jax.lax.dynamic_update_index_in_dim(stack, layer, i, axis=0)


def write_weights(
    folder: Path, model: WorldModel, architecture: Architecture, *, largest_file_bytes: int = 2**30
) -> None:
    """Write safetensors: one file, or several with an index.

    No more of the model is ever in host memory than one file. Call it under `jax.set_mesh`.

    Args:
        folder: where to write.
        model: on any mesh of this process.
        architecture: of the model.
        largest_file_bytes: how large a file may become; a larger tensor has a file of its own.
    """
    files: list[list[tuple[_Weight, int]]] = [[]]
    room = largest_file_bytes
    for weight, layer in in_order(architecture):
        leaf = attrgetter(weight.path)(model.layers if weight.layered else model)
        size = math.prod(weight.ours) * leaf.dtype.itemsize
        if size > room and files[-1]:
            files.append([])
            room = largest_file_bytes
        files[-1].append((weight, layer))
        room -= size
    names = [WEIGHTS_FILE]
    if len(files) > 1:
        names = [f"model-{i:05d}-of-{len(files):05d}.safetensors" for i in range(1, len(files) + 1)]
    where, total_bytes = {}, 0
    for name, tensors in zip(names, files):
        arrays = {weight.key.format(layer): _fetched(model, weight, layer) for weight, layer in tensors}
        save_file(arrays, folder / name, metadata={"format": "pt"})
        where |= dict.fromkeys(arrays, name)
        total_bytes += sum(array.nbytes for array in arrays.values())
    if len(files) > 1:
        index = {"metadata": {"total_size": total_bytes}, "weight_map": where}
        write_json_atomic(folder / INDEX_FILE, index)


def in_order(architecture: Architecture) -> Iterator[tuple[_Weight, int]]:
    """Yield every tensor with its layer, those of no layer first."""
    table = weight_table(architecture)
    yield from ((weight, 0) for weight in table if not weight.layered)
    for layer in range(architecture.layers):
        yield from ((weight, layer) for weight in table if weight.layered)


def _fetched(model: WorldModel, weight: _Weight, layer: int) -> Shaped[np.ndarray, "..."]:
    leaf = attrgetter(weight.path)(model.layers if weight.layered else model)
    if weight.layered:
        leaf = _whole_layer(leaf, jnp.int32(layer))
    elif not leaf.is_fully_addressable:
        leaf = jax.reshard(leaf, spec())
    return weight.to_theirs(np.asarray(leaf))


@jax.jit
def _whole_layer(stack: Shaped[Array, "layers ..."], i: Int32[Array, ""]) -> Shaped[Array, "..."]:
    layer = jax.lax.dynamic_index_in_dim(stack, i, axis=0, keepdims=False)
    return jax.reshard(layer, spec(*(None,) * layer.ndim))


def weight_files(folder: Path, architecture: Architecture, *, tied: bool = False) -> dict[str, Path]:
    """Return the file that holds each tensor, by what its name, shape and type say; none is read.

    Raises:
        InputError: as for `read_weights`.
    """
    unreadable: list[str] = []
    sources = _sources(folder, unreadable)
    expected = {
        weight.key.format(layer): weight
        for weight in weight_table(architecture)
        if not (tied and weight.path == "head")
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
            if kind not in _FLOATS:
                problems.append(f"{key} is stored as {kind}, expected one of {', '.join(_FLOATS)}")
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
    sources = {}
    for name in sorted(names):
        if Path(name).name != name or not name.endswith(".safetensors"):
            problems.append(f"{INDEX_FILE} names {name!r}, which is not a safetensors file of this folder")
            continue
        try:
            with safe_open(folder / name, framework="numpy") as tensors:
                sources |= dict.fromkeys(tensors.keys(), folder / name)
        except (OSError, SafetensorError) as error:
            problems.append(f"{name} cannot be read ({error})")
    return sources
