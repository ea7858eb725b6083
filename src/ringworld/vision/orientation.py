"""How the pictures of a video are turned and mirrored to be shown."""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from PIL.Image import Transpose

QUARTERS = (None, Transpose.ROTATE_90, Transpose.ROTATE_180, Transpose.ROTATE_270)
"""How a frame is turned to be shown, by the quarter turns that its metadata asks for in any container."""
# The matrix (a, b, c, d) maps a point: x' = a x + c y, y' = b x + d y, y downwards (ISO/IEC 14496-12, 8.3.2).
_MIRRORED: dict[tuple[int, ...], Transpose] = {
    (-1, 0, 0, 1): Transpose.FLIP_LEFT_RIGHT,
    (1, 0, 0, -1): Transpose.FLIP_TOP_BOTTOM,
    (0, 1, 1, 0): Transpose.TRANSPOSE,
    (0, -1, -1, 0): Transpose.TRANSVERSE,
}
SIDEWAYS = (Transpose.ROTATE_90, Transpose.ROTATE_270, Transpose.TRANSPOSE, Transpose.TRANSVERSE)
"""What makes the width the height."""


def mirroring(path: Path, *, track: int) -> Transpose | None:
    """Return how a track of an MP4 file is mirrored, or None.

    Of a mirrored picture `frame.rotation` knows half. PyAV 18 has the whole matrix in `frame.side_data`, but
    that ends the process where a frame has side data of a type that PyAV does not know.
    """
    with path.open("rb") as stream:
        for name, begin, end in _boxes(stream, 0, path.stat().st_size):
            if name == b"moov":
                found = _track_mirrorings(stream, begin, end, track)
                return next((mirrored for mirrored in found if mirrored is not None), None)
    return None


def _track_mirrorings(stream: BinaryIO, begin: int, end: int, track: int) -> Iterator[Transpose | None]:
    for name, at, stop in _boxes(stream, begin, end):
        if name == b"trak":
            yield from _track_mirrorings(stream, at, stop, track)
        elif name == b"tkhd":
            stream.seek(at)
            header = stream.read(96)
            skip = 8 if header[:1] == b"\1" else 0  # times of 64 bits
            if len(header) >= 76 + skip and int.from_bytes(header[12 + skip : 16 + skip]) == track:
                a, b, _, c, d = struct.unpack_from(">5i", header, 40 + 12 * (skip > 0))
                largest = max(1, *map(abs, (a, b, c, d)))
                yield _MIRRORED.get(tuple(round(entry / largest) for entry in (a, b, c, d)))


def _boxes(stream: BinaryIO, begin: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield the name, beginning and end of the content of each box."""
    while begin + 8 <= end:
        stream.seek(begin)
        size, name = struct.unpack(">I4s", stream.read(8).ljust(8, b"\0"))
        at = begin + 8
        if size == 1:
            size, at = int.from_bytes(stream.read(8)), at + 8
        size = end - begin if size == 0 else size
        if size < at - begin:
            return
        yield name, at, min(begin + size, end)
        begin += size
