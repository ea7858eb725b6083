"""Arrays that lie in a file, whatever its format, and are copied from its memory map when asked for."""

import math
import mmap
from dataclasses import dataclass
from pathlib import Path
from reprlib import repr as short
from typing import Literal

import numpy as np
from jaxtyping import Shaped

from ringworld.core.files import reading
from ringworld.interop.tensors import NUMPY_TYPES, FloatType

FLOAT_TYPES: dict[str, FloatType] = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
"""By NumPy's names, which are those of msgpack and pickle."""
_MOST_DIMENSIONS = 8
_RUNS = 64
"""Places of a file that are read before their pages are given back: each may map two megabytes around it."""


def map_file(path: Path, *, expected: str) -> mmap.mmap:
    """Map a file for reading; no byte of it is read yet.

    Args:
        path: the file.
        expected: what it should be, for the error.

    Raises:
        InputError: it is missing, empty, a folder, or may not be read.
    """
    damage, remedy = (OSError, ValueError), "name the file itself"
    with reading(path, expected=expected, damage=damage, remedy=remedy), path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredPiece:
    """Some of an array's numbers, one after another in the file."""

    begin: int
    """Index in the flattened array of the earliest of them."""
    count: int
    offset_bytes: int
    """Where in the file they begin, at any alignment."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class MappedArray:
    """An array whose numbers are in a mapped file, little-endian."""

    shape: tuple[int, ...]
    dtype: FloatType
    buffer: mmap.mmap
    pieces: tuple[StoredPiece, ...]
    """All of the numbers, in order."""
    order: Literal["C", "F"] = "C"
    """Whether the last dimension is the innermost, or the first."""

    def read(self) -> Shaped[np.ndarray, "..."]:
        """Copy all of it into memory."""
        flat = np.empty(math.prod(self.shape), NUMPY_TYPES[self.dtype])
        self._copy(flat, begin=0)
        self._release()
        return flat.reshape(self.shape, order=self.order)

    def read_part(self, index: int, *, axis: int) -> Shaped[np.ndarray, "..."]:
        """Copy one of the arrays that are stacked along an axis, and no other."""
        return self.read_range(index, index + 1, axis=axis).reshape(
            self.shape[:axis] + self.shape[axis + 1 :]
        )

    def read_range(self, start: int, stop: int, *, axis: int) -> Shaped[np.ndarray, "..."]:
        """Copy what has an index in a range along an axis, and nothing else."""
        assert self.order == "C"
        outer, stacked, inner = self.shape[:axis], self.shape[axis], self.shape[axis + 1 :]
        numbers = math.prod(inner)
        runs = np.empty((math.prod(outer), (stop - start) * numbers), NUMPY_TYPES[self.dtype])
        for number, run in enumerate(runs, start=1):
            self._copy(run, begin=((number - 1) * stacked + start) * numbers)
            if number % _RUNS == 0:
                self._release()
        self._release()
        return runs.reshape(*outer, stop - start, *inner)

    def _copy(self, into: Shaped[np.ndarray, " numbers"], *, begin: int) -> None:
        for piece in self.pieces:
            low = max(begin, piece.begin)
            count = min(begin + len(into), piece.begin + piece.count) - low
            if count > 0:
                offset = piece.offset_bytes + (low - piece.begin) * into.itemsize
                into[low - begin :][:count] = np.frombuffer(self.buffer, into.dtype, count, offset)

    def _release(self) -> None:
        # What was copied is not needed again: otherwise the whole file would count as memory of this process.
        self.buffer.madvise(mmap.MADV_DONTNEED)


def float_type(name: str, *, shape: tuple[int, ...], size_bytes: int) -> FloatType:
    """Return the type of an array that a file describes so.

    Args:
        name: of the type, by NumPy.
        shape: of the array.
        size_bytes: how many bytes the file has of it.

    Raises:
        ValueError: the type is none of `FLOAT_TYPES`, or an array of this shape has another size.
    """
    if name not in FLOAT_TYPES:
        raise ValueError(f"holds {short(name)}, not one of {', '.join(FLOAT_TYPES)}")
    if len(shape) > _MOST_DIMENSIONS:
        raise ValueError(f"has {len(shape)} dimensions, more than {_MOST_DIMENSIONS}")
    dtype = FLOAT_TYPES[name]
    if math.prod(shape) * NUMPY_TYPES[dtype].itemsize != size_bytes:
        raise ValueError(f"has {size_bytes} bytes, which is no {name} of shape {shape}")
    return dtype
