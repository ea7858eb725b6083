"""A model in anyone's format, read as what a folder of Hugging Face's holds."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped

from ringworld.core.errors import InputError
from ringworld.interop.tensors import NUMPY_TYPES, FloatType, Tensor
from ringworld.model.config import StoredType
from ringworld.text.tokenizer import TextTokenizer

_STORED: dict[StoredType, FloatType] = {"float32": "F32", "bfloat16": "BF16"}


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class OtherModel:
    """What `convert` writes to a model folder: small parts in memory, tensors where they are."""

    config: Mapping[str, Any]
    """Of `config.json`; sizes of vision under our own key."""
    tensors: Mapping[str, Tensor]
    """By the names of Hugging Face, in the order of the layers."""
    tokenizer: TextTokenizer | None
    """None where the format has none, so that the user names one. Holds the chat template, if any."""
    generation: Mapping[str, Any] = field(default_factory=dict)
    """Of `generation_config.json`."""

    def stored_as(self, dtype: StoredType) -> "OtherModel":
        """Return the same model with every number rounded to the nearest of a type, where it is read."""
        kind = _STORED[dtype]
        tensors = {
            name: Tensor.in_parts(tensor.shape, dtype=kind, read_parts=partial(_rounded, tensor, kind))
            for name, tensor in self.tensors.items()
        }
        return replace(self, config=with_type(self.config, dtype), tensors=tensors)

    def of_finite_numbers(self, source: Path) -> "OtherModel":
        """Return the same model, of which NaN and infinity are an error where they are read.

        Args:
            source: file or folder, which the error names.
        """
        tensors = {
            name: Tensor.in_parts(
                tensor.shape, dtype=tensor.dtype, read_parts=partial(_finite, tensor, name, source)
            )
            for name, tensor in self.tensors.items()
        }
        return replace(self, tensors=tensors)


def with_type(config: Mapping[str, Any], dtype: StoredType) -> dict[str, Any]:
    """Return a `config.json` that says how weights are stored, under the key of transformers 4 alone.

    transformers 5 calls it `dtype`, and reads both.
    """
    return {**{key: value for key, value in config.items() if key != "dtype"}, "torch_dtype": dtype}


def _finite(tensor: Tensor, name: str, source: Path) -> Iterator[Shaped[np.ndarray, "part ..."]]:
    for part in tensor.parts():
        if not np.isfinite(part).all():
            raise InputError(
                f"{source} cannot be converted: {name} holds numbers that are NaN or infinite",
                path=source,
                field=name,
                remedy="copy it again, or use the weights of a run that did not diverge",
            )
        yield part


def _rounded(tensor: Tensor, kind: FloatType) -> Iterator[Shaped[np.ndarray, "part ..."]]:
    for part in tensor.parts():
        yield part.astype(NUMPY_TYPES[kind], copy=False)
