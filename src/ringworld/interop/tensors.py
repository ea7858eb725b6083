"""Tensors that are not in memory yet, and safetensors files that are written from them one at a time."""

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import ml_dtypes
import numpy as np
from jaxtyping import Shaped
from safetensors import SafetensorError, safe_open

from ringworld.core.files import reading, write_json_atomic

WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
FloatType = Literal["F32", "F16", "BF16"]
NUMPY_TYPES = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "BF16": np.dtype(ml_dtypes.bfloat16)}
PART_NUMBERS = 2**22
"""Of a tensor, in memory at a time where it is read in parts."""
_ALIGNMENT_BYTES = 8


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Tensor:
    """A tensor of a file, whatever its format, as `LlamaForCausalLM` lays it out."""

    shape: tuple[int, ...]
    dtype: FloatType
    read: Callable[[], Shaped[np.ndarray, "..."]]
    """Bring it into memory: an array of this shape and type."""
    read_parts: Callable[[], Iterable[Shaped[np.ndarray, "..."]]] | None = None
    """The same, piece by piece along its first dimension, where it need not be in memory whole."""

    @staticmethod
    def in_parts(
        shape: tuple[int, ...],
        *,
        dtype: FloatType,
        read_parts: Callable[[], Iterable[Shaped[np.ndarray, "..."]]],
    ) -> "Tensor":
        """Return a tensor that is read in pieces along its first dimension."""

        def read() -> Shaped[np.ndarray, "..."]:
            whole, end = np.empty(shape, NUMPY_TYPES[dtype]), 0
            for part in read_parts():
                start, end = end, end + len(part)
                whole[start:end] = part
            return whole

        return Tensor(shape=shape, dtype=dtype, read=read, read_parts=read_parts)

    def parts(self) -> Iterable[Shaped[np.ndarray, "..."]]:
        """Bring it into memory in pieces along its first dimension, or in one."""
        return (self.read(),) if self.read_parts is None else self.read_parts()

    @property
    def size_bytes(self) -> int:
        """Bytes in memory and in a safetensors file."""
        return math.prod(self.shape) * NUMPY_TYPES[self.dtype].itemsize


@contextmanager
def reading_tensors(path: Path) -> Iterator[Any]:
    """Open a safetensors file whose header was looked at before, to read some of its tensors.

    Raises:
        InputError: it is gone or damaged meanwhile, or the disk fails.
    """
    readable = reading(
        path,
        expected="a file of weights that can be read",
        damage=(OSError, SafetensorError),
        remedy="check the disk, and get the file again if it is damaged",
    )
    with readable, safe_open(path, framework="numpy") as tensors:
        yield tensors


@contextmanager
def read_in_any_case(tensors: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """Give tensors to write, of which those that are left are still read where the block fails.

    Several processes that hold parts of them read each together, and would wait for one that cannot write.
    """
    left = dict(tensors)
    try:
        yield {
            name: replace(tensor, read=partial(lambda name: left.pop(name).read(), name))
            for name, tensor in tensors.items()
        }
    except Exception:
        for tensor in left.values():
            tensor.read()
        raise


def write_tensors(folder: Path, tensors: Mapping[str, Tensor], *, largest_file_bytes: int = 2**30) -> None:
    """Write safetensors: one file, or several with an index. One tensor at a time is in memory.

    Args:
        folder: where to write.
        tensors: by name.
        largest_file_bytes: how large a file may become; a larger tensor has a file of its own.
    """
    files: list[dict[str, Tensor]] = [{}]
    room = largest_file_bytes
    for name, tensor in tensors.items():
        if tensor.size_bytes > room and files[-1]:
            files.append({})
            room = largest_file_bytes
        files[-1][name] = tensor
        room -= tensor.size_bytes
    if len(files) == 1:
        write_file(folder / WEIGHTS_FILE, tensors)
        return
    where: dict[str, str] = {}
    for number, held in enumerate(files, start=1):
        name = f"model-{number:05d}-of-{len(files):05d}.safetensors"
        write_file(folder / name, held)
        where |= dict.fromkeys(held, name)
    total_bytes = sum(tensor.size_bytes for tensor in tensors.values())
    write_json_atomic(folder / INDEX_FILE, {"metadata": {"total_size": total_bytes}, "weight_map": where})


def write_file(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write one safetensors file; the library's own writer would hold all of it in memory, twice."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in tensors.items():
        start, end = end, end + tensor.size_bytes
        header[name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": [start, end]}
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % _ALIGNMENT_BYTES)
    with path.open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        for name, tensor in tensors.items():
            before = file.tell()
            for part in tensor.parts():
                assert (part.shape[1:], part.dtype) == (tensor.shape[1:], NUMPY_TYPES[tensor.dtype]), name
                file.write(np.ascontiguousarray(part).reshape(-1).view(np.uint8).data)
            assert file.tell() - before == tensor.size_bytes, name
