"""LoRA adapters in peft's format: `adapter_config.json` and `adapter_model.safetensors`.

The matrix that an adapter adds to `W` [out, in] is `scale * B @ A`, with `A` [rank, in] and `B` [out, rank].
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from pathlib import Path
from reprlib import repr as short
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Shaped
from safetensors import SafetensorError, safe_open

from ringworld.core.config import read_as
from ringworld.core.errors import InputError, listed
from ringworld.core.files import damage_of, write_json_atomic
from ringworld.core.shared_files import FLOATS
from ringworld.interop.hf_llama import in_order, whole_layer
from ringworld.interop.tensors import Tensor, read_in_any_case, reading_tensors, write_file
from ringworld.model.config import Architecture
from ringworld.model.lora_config import LoraConfig
from ringworld.model.weights import LoraWeight
from ringworld.model.world_model import WorldModel

ADAPTER_CONFIG_FILE, ADAPTER_FILE = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."
_MOST = 2**31
"""Beyond what a rank and what `lora_alpha` is."""
_Part = Literal["a", "b"]
_ENDS: Mapping[_Part, str] = {"a": ".lora_A.weight", "b": ".lora_B.weight"}
_PLAIN: Mapping[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",),
    "bias": ("none",),
    "fan_in_fan_out": (False,),
    "use_dora": (False,),
    "use_qalora": (False,),
    "use_bdlora": (None, False),
    "alora_invocation_tokens": (None,),
    "lora_bias": (False,),
    "modules_to_save": (None, []),
    "rank_pattern": (None, {}),
    "alpha_pattern": (None, {}),
    "layer_replication": (None, []),
    "trainable_token_indices": (None, [], {}),
    "target_parameters": (None, []),
    # Others change the weights of the model that they begin from.
    "init_lora_weights": (True, False, "gaussian", "orthogonal", "eva"),
}
"""What a field of peft's may hold; with anything else more is meant than the sum of two matrices."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HfAdapter:
    """An adapter on disk, of which a part is read where it is added."""

    file: Path
    rank: int
    scale: float
    shapes: Mapping[str, Mapping[str, tuple[int, ...]]]
    """Of `a` and `b`, by the key of the weight that they are added to."""
    base: str
    """What its configuration says of the model that it was trained for: a folder, or a name on a hub."""

    @staticmethod
    def open(folder: Path) -> "HfAdapter":
        """Read what an adapter is, but not its numbers.

        Raises:
            InputError: one error that names everything that is missing, damaged, or cannot be expressed.
        """
        path = folder / ADAPTER_CONFIG_FILE
        config = read_as(dict[str, Any], path)
        problems = [
            f"{name} is {short(config[name])}, which is not supported"
            for name, allowed in _PLAIN.items()
            if name in config and config[name] not in allowed
        ]
        rank: Any = config.get("r")
        alpha: Any = config.get("lora_alpha")
        if type(rank) is not int or not 1 <= rank < _MOST:
            problems.append(f"r is {short(rank)}, but must be a whole number from 1 to {_MOST - 1}")
        if type(alpha) not in (int, float) or abs(alpha) >= _MOST:
            problems.append(f"lora_alpha is {short(alpha)}, but must be a number below {_MOST}")
        file, shapes = folder / ADAPTER_FILE, {}
        try:
            with safe_open(file, framework="numpy") as tensors:
                for name in tensors.keys():
                    part = tensors.get_slice(name)
                    found = _named(name)
                    if found is None or part.get_dtype() not in FLOATS:
                        problems.append(f"{name} is unknown, or holds no floats")
                    else:
                        shapes.setdefault(found[0], {})[found[1]] = tuple(part.get_shape())
        except (OSError, SafetensorError) as error:
            problems.append(f"{ADAPTER_FILE} cannot be read ({damage_of(file, error)})")
        problems += [f"{key} has one matrix alone" for key, pair in shapes.items() if len(pair) != 2]
        if problems or not shapes:
            raise InputError(
                f"{folder} holds no adapter that can be added: {listed(problems or ['it has no matrices'])}",
                path=folder,
                value=tuple(problems),
            )
        scale = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
        base = config.get("base_model_name_or_path")
        base = base if isinstance(base, str) else ""
        return HfAdapter(file=file, rank=rank, scale=scale, shapes=shapes, base=base)

    def check(self, architecture: Architecture) -> None:
        """Refuse a model that has other matrices.

        Raises:
            InputError: one error that names every matrix that the model lacks or has in another shape.
        """
        matrices = {
            weight.key.format(layer): weight.theirs
            for weight, layer in in_order(architecture)
            if weight.inputs
        }
        problems = []
        for key, pair in sorted(self.shapes.items()):
            if key not in matrices:
                problems.append(f"the model has no matrix {key}")
                continue
            (out, into), a, b = matrices[key], pair["a"], pair["b"]
            if (a, b) != ((self.rank, into), (out, self.rank)):
                has = f"the adapter of rank {self.rank} has {list(a)} and {list(b)}"
                problems.append(f"{key} is [{out}, {into}], but {has}")
        if problems:
            raise InputError(
                f"the adapter in {self.file.parent} is of another model: {listed(problems)}",
                field="adapter",
                path=self.file.parent,
                value=tuple(problems),
                remedy="name the model that it was trained for",
            )

    def added_to(
        self, tensor: Shaped[np.ndarray, "..."], key: str, index: tuple[slice, ...]
    ) -> Shaped[np.ndarray, "..."]:
        """Return a part of a weight with what is added to it, as float32; one of no matrix as it is."""
        if key not in self.shapes:
            return tensor
        with reading_tensors(self.file) as tensors:
            a = tensors.get_slice(_theirs(key, "a"))[:, index[1]].astype(np.float32)
            b = tensors.get_slice(_theirs(key, "b"))[index[0], :].astype(np.float32)
        return tensor.astype(np.float32) + np.float32(self.scale) * (b @ a)


def write_adapter(
    folder: Path | None, model: WorldModel, architecture: Architecture, *, config: LoraConfig, base: str
) -> None:
    """Write the adapter beside the matrices of a model, as peft does; one matrix at a time is in memory.

    Call it under `jax.set_mesh`. Where several processes hold the model, all but the one that writes call it
    without a folder, since each has a part.

    Args:
        folder: that exists.
        model: what `adapted` returned.
        architecture: of the model.
        config: what the adapter was made with.
        base: folder or name of the model without it.
    """
    tensors = {}
    for weight, layer in in_order(architecture):
        leaf = attrgetter(weight.path)(model.layers) if weight.layered else None
        if isinstance(leaf, LoraWeight):
            key, (out, into) = weight.key.format(layer), weight.theirs
            shapes: dict[_Part, tuple[int, int]] = {"a": (config.rank, into), "b": (out, config.rank)}
            for part, shape in shapes.items():
                read = partial(_fetched, getattr(leaf, part), layer, shape=shape)
                tensors[_theirs(key, part)] = Tensor(shape=shape, dtype="F32", read=read)
    if folder is None:
        for tensor in tensors.values():
            tensor.read()
        return
    with read_in_any_case(tensors) as each:
        write_file(folder / ADAPTER_FILE, each)
    described = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": config.rank,
        "lora_alpha": int(config.alpha) if config.alpha == int(config.alpha) else config.alpha,
        "lora_dropout": 0.0,
        "target_modules": list(config.targets),
        "bias": "none",
        "fan_in_fan_out": False,
        "use_rslora": False,
        "use_dora": False,
        "inference_mode": True,
    }
    write_json_atomic(folder / ADAPTER_CONFIG_FILE, described)


def _fetched(
    stack: Float[Array, "layers ..."], layer: int, *, shape: tuple[int, int]
) -> Float32[np.ndarray, "_ _"]:
    """Return a matrix of one layer as theirs: its inputs last."""
    return np.asarray(whole_layer(stack, jnp.int32(layer))).reshape(shape[::-1]).T


def _theirs(key: str, part: _Part) -> str:
    return _PREFIX + key.removesuffix(".weight") + _ENDS[part]


def _named(name: str) -> tuple[str, _Part] | None:
    """Return the key of the weight that a tensor is added to, and which of the two matrices it is."""
    for part, end in _ENDS.items():
        if name.startswith(_PREFIX) and name.endswith(end):
            return f"{name.removeprefix(_PREFIX).removesuffix(end)}.weight", part
    return None
