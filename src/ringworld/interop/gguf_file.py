"""The header of a GGUF file, which nobody vouches for: its metadata, and where its tensors lie.

The tables and the arithmetic of the library `gguf` are used, but not its reader: a count that lies keeps that
busy for ever, and it makes an object of each word of a vocabulary (12 s and 170 MB for the small SmolLM2).
The format is that of https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, versions 2 and 3.
"""

import math
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFValueType, dequantize
from jaxtyping import Shaped

from ringworld.core.errors import InputError
from ringworld.core.files import reading
from ringworld.interop.tensors import NUMPY_TYPES, PART_NUMBERS, FloatType

MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_MOST_HEADER_BYTES = 2**28
"""Vocabularies of 256K words take a twentieth of it."""
MOST_STRINGS = 2**21
"""Names, words and merges; a vocabulary of 256K words has a third of it."""
_MOST_DIMENSIONS = 4
_ALIGNMENT_BYTES = 32
_CODES = {
    GGUFValueType.UINT8: "B",
    GGUFValueType.INT8: "b",
    GGUFValueType.UINT16: "H",
    GGUFValueType.INT16: "h",
    GGUFValueType.UINT32: "I",
    GGUFValueType.INT32: "i",
    GGUFValueType.FLOAT32: "f",
    GGUFValueType.BOOL: "?",
    GGUFValueType.UINT64: "Q",
    GGUFValueType.INT64: "q",
    GGUFValueType.FLOAT64: "d",
}
_KEPT: dict[int, FloatType] = {
    GGMLQuantizationType.F32: "F32",
    GGMLQuantizationType.F16: "F16",
    GGMLQuantizationType.BF16: "BF16",
}
_QUANTIZED = tuple(
    GGMLQuantizationType[name]
    for name in ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K")
)


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredTensor:
    """Where a tensor lies in a file, and how its numbers are stored."""

    shape: tuple[int, ...]
    """As NumPy counts; GGUF lists the dimensions the other way round."""
    kind: int
    """A `GGMLQuantizationType`, if it is one."""
    start: int
    """Of its first byte in the file."""

    @property
    def dtype(self) -> FloatType:
        """Type in which its numbers are read: what is quantized becomes float32."""
        return _KEPT.get(self.kind, "F32")

    @property
    def row_bytes(self) -> int:
        """Bytes in the file along the last dimension."""
        numbers, size_bytes = GGML_QUANT_SIZES[GGMLQuantizationType(self.kind)]
        return self.shape[-1] // numbers * size_bytes

    @property
    def end(self) -> int:
        """Byte of the file after its last one."""
        return self.start + math.prod(self.shape[:-1]) * self.row_bytes

    def problem(self, *, file_bytes: int) -> str:
        """Return why it cannot be read from a file of this size; empty if it can."""
        if self.kind not in _KEPT and self.kind not in _QUANTIZED:
            known = {int(kind): kind.name for kind in GGMLQuantizationType}
            supported = ", ".join(kind.name for kind in (*map(GGMLQuantizationType, _KEPT), *_QUANTIZED))
            return f"is stored as {known.get(self.kind, f'type {self.kind}')}, not as one of {supported}"
        numbers, _ = GGML_QUANT_SIZES[GGMLQuantizationType(self.kind)]
        if self.shape[-1] % numbers:
            return f"has rows of {self.shape[-1]} numbers, not of whole blocks of {numbers}"
        if self.end <= file_bytes:
            return ""
        return f"ends at byte {self.end}, after the end of the file at {file_bytes}"

    def parts(self, path: Path, *, rows: int = 1) -> Iterator[Shaped[np.ndarray, "part ..."]]:
        """Read it in pieces along the first dimension, each a multiple of so many rows.

        Raises:
            InputError: the file became shorter since its header was read.
        """
        count, *inner = self.shape if len(self.shape) > 1 else (1, *self.shape)
        step = max(1, PART_NUMBERS // (rows * math.prod(inner))) * rows
        in_row = math.prod(inner[:-1]) * self.row_bytes
        for start in range(0, count, step):
            part = min(step, count - start)
            raw = np.fromfile(path, np.uint8, count=part * in_row, offset=self.start + start * in_row)
            if raw.size < part * in_row:
                raise InputError(f"{path} became shorter while it was read", path=path)
            if self.kind in _KEPT:
                numbers = raw.view(NUMPY_TYPES[self.dtype])
            else:
                numbers = dequantize(raw.reshape(-1, self.row_bytes), GGMLQuantizationType(self.kind))
            yield numbers.reshape((part, *inner) if len(self.shape) > 1 else self.shape)


@dataclass(frozen=True, kw_only=True, slots=True)
class Header:
    """What a GGUF file says of itself."""

    metadata: Mapping[str, Any]
    """Whole numbers, floats, strings, lists of strings, and NumPy arrays of numbers."""
    tensors: Mapping[str, StoredTensor]
    file_bytes: int


def read_header(path: Path, *, most_strings: int = MOST_STRINGS) -> Header:
    """Read the header of a GGUF file.

    Raises:
        InputError: there is no such file, it is no GGUF of version 2 or 3, or its header is cut off
            or has more than `most_strings` strings.
    """
    damage = (ValueError, struct.error)
    with reading(path, expected="a whole GGUF file", damage=damage, remedy="fetch it again"):
        with path.open("rb") as file:
            return _header(file, file_bytes=path.stat().st_size, most_strings=most_strings)


def _header(file: BinaryIO, *, file_bytes: int, most_strings: int) -> Header:
    cursor = _HeaderReader(file, left=min(file_bytes, _MOST_HEADER_BYTES), most_strings=most_strings)
    if file_bytes < len(MAGIC) or cursor.take(len(MAGIC)) != MAGIC:
        raise ValueError(f"it does not begin with {MAGIC.decode()}")
    if (version := cursor.number("I")) not in _VERSIONS:
        raise ValueError(f"its version is {version}, not one of {_VERSIONS} in little-endian order")
    tensor_count, value_count = cursor.number("Q"), cursor.number("Q")
    metadata: dict[str, Any] = {}
    for _ in range(value_count):
        name = cursor.string()
        if name in metadata:
            raise ValueError(f"{name} is there twice")
        metadata[name] = cursor.value(cursor.number("I"))
    described: dict[str, tuple[tuple[int, ...], int, int]] = {}
    for _ in range(tensor_count):
        name = cursor.string()
        if name in described:
            raise ValueError(f"{name} is there twice")
        if not 1 <= (dimensions := cursor.number("I")) <= _MOST_DIMENSIONS:
            raise ValueError(f"{name} has {dimensions} dimensions, not 1 to {_MOST_DIMENSIONS}")
        shape = tuple(cursor.number("Q") for _ in range(dimensions))[::-1]
        if 0 in shape:
            raise ValueError(f"{name} is empty")
        described[name] = (shape, cursor.number("I"), cursor.number("Q"))
    alignment = metadata.get("general.alignment", _ALIGNMENT_BYTES)
    if type(alignment) is not int or alignment < 1:
        raise ValueError(f"general.alignment is {alignment!r}")
    data = -(-file.tell() // alignment) * alignment
    tensors = {
        name: StoredTensor(shape=shape, kind=kind, start=data + offset)
        for name, (shape, kind, offset) in described.items()
    }
    return Header(metadata=metadata, tensors=tensors, file_bytes=file_bytes)


class _HeaderReader:
    """Reads values one after another, and never more than there is."""

    def __init__(self, file: BinaryIO, *, left: int, most_strings: int) -> None:
        self._file, self._left = file, left
        self._strings = self._most_strings = most_strings

    def take(self, size: int) -> bytes:
        if size > self._left:
            raise ValueError("its header does not end where the file does, or is too long")
        self._left -= size
        return self._file.read(size)

    def number(self, code: str) -> Any:
        return struct.unpack(f"<{code}", self.take(struct.calcsize(f"<{code}")))[0]

    def string(self) -> str:
        if not (left := self._strings):
            raise ValueError(f"its header has more than {self._most_strings} strings")
        self._strings = left - 1
        return self.take(self.number("Q")).decode()

    def value(self, kind: int) -> Any:
        kind = GGUFValueType(kind)
        if kind == GGUFValueType.STRING:
            return self.string()
        if kind == GGUFValueType.FLOAT32:
            # The shortest decimal is what was meant: 1e-05, and not 9.999999747378752e-06.
            return float(str(np.float32(self.number("f"))))
        if kind != GGUFValueType.ARRAY:
            return self.number(_CODES[kind])
        kind, count = GGUFValueType(self.number("I")), self.number("Q")
        if kind == GGUFValueType.STRING:
            return [self.string() for _ in range(count)]
        if kind == GGUFValueType.ARRAY:
            raise ValueError("a list holds lists")
        return np.frombuffer(self.take(count * struct.calcsize(f"<{_CODES[kind]}")), f"<{_CODES[kind]}")
