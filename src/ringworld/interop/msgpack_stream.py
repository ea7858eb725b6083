"""Streaming msgpack checkpoints, as tux and EasyLM write them, read by their heads alone.

The file has no header and no index. It is record after record, each `[path, value]`:

    path     array of strings: ["transformer", "wte", "embedding"]
    value    bytes, which are msgpack again, of flax's `to_bytes`: an extension of type 1 that holds
             [shape, type name, numbers]; or, for an array above 1 GiB, a map of its shape and of flat chunks

Nothing here recurses, and no length is believed before the file has as many bytes.

Source: tux `checkpoint.py`, flax `serialization.py`.
"""

import math
import mmap
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from reprlib import repr as short
from typing import TypeVar

from ringworld.core.errors import InputError
from ringworld.interop.mapped_array import MappedArray, StoredPiece, float_type, map_file

T = TypeVar("T")
_MOST_RECORDS = 2**16
_MOST_PARTS = 2**5
"""Of a path."""
_LONGEST_NAME_BYTES = 2**8
_MOST_DIMENSIONS = 2**3
_MOST_CHUNKS = 2**12
_CHUNKED = "__msgpack_chunked_array__"
_ARRAY_TYPES = (1, 3)
"""Extension types of flax for arrays and for scalars of NumPy, written alike."""
_FIXED = (
    {number: ("integer", number) for number in range(0x80)}
    | {0x80 + count: ("map", count) for count in range(16)}
    | {0x90 + count: ("array", count) for count in range(16)}
    | {0xA0 + length: ("string", length) for length in range(32)}
    | {0xD4 + power: ("extension", 2**power) for power in range(5)}
    | {0xC3: ("true", 1)}
)
"""Byte that begins a value: the kind of value, and how many items or bytes follow, or the integer itself."""
_SIZED = {
    **{0xC4 + power: ("bytes", 2**power) for power in range(3)},
    **{0xC7 + power: ("extension", 2**power) for power in range(3)},
    **{0xCC + power: ("integer", 2**power) for power in range(4)},
    **{0xD9 + power: ("string", 2**power) for power in range(3)},
    **{0xDC + power: ("array", 2 ** (power + 1)) for power in range(2)},
    **{0xDE + power: ("map", 2 ** (power + 1)) for power in range(2)},
}
"""The same, where the number follows in so many bytes."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Record:
    """One value of a checkpoint, not looked into yet."""

    buffer: mmap.mmap
    start: int
    stop: int

    def array(self) -> MappedArray:
        """Read the head of the array that the value is.

        Raises:
            ValueError: it is no array of floats, or contradicts itself.
        """
        cursor = _Cursor(self.buffer, self.start, self.stop)
        found = _chunked(cursor) if cursor.begins("map") else _array(cursor)
        if cursor.position != self.stop:
            raise ValueError(f"has {self.stop - cursor.position} bytes too many")
        return found


def find_records(path: Path) -> dict[str, Record]:
    """Return the values of a checkpoint by their paths, joined by slashes.

    Raises:
        InputError: the file is missing, or is not made of such records from end to end.
    """
    buffer = map_file(path, expected="a streaming msgpack checkpoint")
    cursor = _Cursor(buffer, 0, len(buffer))
    records: dict[str, Record] = {}
    while cursor.position < len(buffer):
        start = cursor.position
        try:
            name = _record_name(cursor)
            length = cursor.number("bytes")
            value = Record(buffer=buffer, start=cursor.position, stop=cursor.position + length)
            cursor.skip(length)
            if name in records or len(records) == _MOST_RECORDS:
                raise ValueError(f"{name} is there twice" if name in records else "there are too many")
        except ValueError as error:
            raise InputError(
                f"{path} is not a streaming msgpack checkpoint: record {len(records) + 1} at byte {start} is "
                f"damaged ({error})",
                path=path,
                value=start,
                remedy="copy it again; of LWM's files it is the one named params or streaming_params",
            ) from None
        records[name] = value
    return records


class _Cursor:
    """A position in a part of a file, which moves over what is read and never beyond the part."""

    def __init__(self, buffer: mmap.mmap, position: int, stop: int) -> None:
        self.buffer, self.position = buffer, position
        self._stop = stop

    def skip(self, length: int) -> int:
        """Return where bytes begin, and move behind them."""
        start = self.position
        if length > self._stop - start:
            raise ValueError(
                f"{length} bytes at byte {start} of the file, where {self._stop - start} are left"
            )
        self.position += length
        return start

    def take(self, length: int) -> bytes:
        start = self.skip(length)
        return self.buffer[start : start + length]

    def begins(self, kind: str) -> bool:
        """Return whether a value of that kind is next, without moving."""
        ahead = self.buffer[self.position : min(self.position + 1, self._stop)]
        return bool(ahead) and (_FIXED | _SIZED).get(ahead[0], ("", 0))[0] == kind

    def number(self, kind: str, *, most: int = 2**64) -> int:
        """Move into a value of a kind; return how many items or bytes follow, or the integer that it is."""
        start, tag = self.position, self.take(1)[0]
        found, number = _FIXED.get(tag) or _SIZED.get(tag, ("nothing that belongs here", 0))
        if tag in _SIZED:
            number = int.from_bytes(self.take(number), "big")
        if found != kind:
            raise ValueError(f"byte {start} of the file, {tag:#04x}, begins {found} and not {kind}")
        if number > most:
            raise ValueError(f"{kind} of {number} at byte {start} of the file, where at most {most} are sane")
        return number

    def string(self) -> str:
        return self.take(self.number("string", most=_LONGEST_NAME_BYTES)).decode()


def _record_name(cursor: _Cursor) -> str:
    if cursor.begins("map"):
        raise ValueError(
            "it is a map: flax writes one where everything is in one value, which is not supported"
        )
    if (items := cursor.number("array")) != 2:
        raise ValueError(f"it has {items} items, not a path and a value")
    parts = [cursor.string() for _ in range(cursor.number("array", most=_MOST_PARTS))]
    name = "/".join(parts)
    if not name.isprintable():
        raise ValueError("its path is not printable")
    return name


def _array(cursor: _Cursor) -> MappedArray:
    length = cursor.number("extension")
    kind = cursor.take(1)[0]
    stop = cursor.position + length
    if kind not in _ARRAY_TYPES:
        raise ValueError(f"is an extension of type {kind}, which is no array")
    if (items := cursor.number("array")) != 3:
        raise ValueError(f"has {items} parts, not shape, type and numbers")
    dimensions = cursor.number("array", most=_MOST_DIMENSIONS)
    shape = tuple(cursor.number("integer") for _ in range(dimensions))
    name = cursor.string()
    size_bytes = cursor.number("bytes")
    offset = cursor.skip(size_bytes)
    if cursor.position != stop:
        raise ValueError(f"ends at byte {cursor.position} of the file, not at {stop} as it states")
    return MappedArray(
        shape=shape,
        dtype=float_type(name, shape=shape, size_bytes=size_bytes),
        buffer=cursor.buffer,
        pieces=(StoredPiece(begin=0, count=math.prod(shape), offset_bytes=offset),),
    )


def _chunked(cursor: _Cursor) -> MappedArray:
    """Read an array that flax has cut, flattened, into chunks."""
    shape: tuple[int, ...] | None = None
    chunks: tuple[MappedArray, ...] | None = None
    for _ in range(cursor.number("map", most=3)):
        match cursor.string():
            case "shape":
                shape = _numbered(cursor, lambda: cursor.number("integer"), most=_MOST_DIMENSIONS)
            case "chunks":
                chunks = _numbered(cursor, lambda: _array(cursor), most=_MOST_CHUNKS)
            case name if name == _CHUNKED:
                cursor.number("true")
            case name:
                raise ValueError(f"is a map with the key {name!r}, not an array in chunks")
    if shape is None or not chunks:
        raise ValueError("is a map without the shape or the chunks of an array")
    if len({chunk.dtype for chunk in chunks}) > 1:
        raise ValueError("has chunks of several types")
    pieces, count = [], 0
    for chunk in chunks:
        pieces += [replace(piece, begin=count) for piece in chunk.pieces]
        count += math.prod(chunk.shape)
    if math.prod(shape) != count:
        raise ValueError(f"has {count} numbers in its chunks, which is no array of shape {shape}")
    return MappedArray(shape=shape, dtype=chunks[0].dtype, buffer=cursor.buffer, pieces=tuple(pieces))


def _numbered(cursor: _Cursor, item: Callable[[], T], *, most: int) -> tuple[T, ...]:
    """Read flax's way to write a tuple: `{"0": ..., "1": ...}`."""
    found = {cursor.string(): item() for _ in range(cursor.number("map", most=most))}
    if found.keys() != {str(number) for number in range(len(found))}:
        raise ValueError(f"has a tuple with the keys {short(sorted(found))}")
    return tuple(found[str(number)] for number in range(len(found)))
