"""The bytes of one record: the examples of one sample, and the codes of the clips that they show, once.

A little-endian uint32 (length of the header), the header as msgpack, the codes of each clip as little-endian
uint16, or uint32 where the codebook is larger, then of each example the ids as little-endian int32, -1 for a
clip, and one bit per id that is set where it carries loss.
"""

import struct

import msgpack
import numpy as np

from ringworld.data.clips import ClipCodes
from ringworld.data.examples import Example
from ringworld.data.making import Group, Unfilled
from ringworld.data.recipe import Shown

_FIELDS = ("kind", "source", "dataset", "start_token", "cut")


def encode_group(group: Group) -> bytes:
    """Return a group as one record; its bytes follow from the group alone."""
    codes = [clip.codes for clip in group.clips]
    width = "<u4" if any(one.max(initial=0) >= 2**16 for one in codes) else "<u2"
    header = {
        "width": width,
        "clips": [[*clip.codes.shape, clip.frames_per_second, clip.seconds] for clip in group.clips],
        "examples": [
            {
                "fields": {name: getattr(unfilled.example, name) for name in _FIELDS},
                "tokens": len(unfilled.example),
                "shown": [[one.clip, one.frame] for one in unfilled.shown],
            }
            for unfilled in group.examples
        ],
    }
    packed = msgpack.packb(header)
    assert packed is not None
    parts = [struct.pack("<I", len(packed)), packed, *(one.astype(width).tobytes() for one in codes)]
    for unfilled in group.examples:
        example = unfilled.example
        parts += [example.tokens.astype("<i4").tobytes(), np.packbits(example.loss).tobytes()]
    return b"".join(parts)


def decode_example(record: bytes, number: int) -> tuple[tuple[ClipCodes, ...], Unfilled]:
    """Return the clips of a record, and its example of a number, counted from 0."""
    (header_bytes,) = struct.unpack_from("<I", record)
    header, at = msgpack.unpackb(record[4 : 4 + header_bytes]), 4 + header_bytes

    def take(dtype: str, count: int) -> np.ndarray:
        nonlocal at
        values = np.frombuffer(record, dtype, count=count, offset=at)
        at += values.nbytes
        return values

    clips = tuple(
        ClipCodes(
            codes=take(header["width"], frames * each).reshape(frames, each).astype(np.int32),
            frames_per_second=rate,
            seconds=seconds,
        )
        for frames, each, rate, seconds in header["clips"]
    )
    *before, one = header["examples"][: number + 1]
    at += sum(4 * other["tokens"] + -(-other["tokens"] // 8) for other in before)
    count = one["tokens"]
    ids = take("<i4", count).astype(np.int32, copy=False)
    loss = np.unpackbits(take("u1", -(-count // 8)), count=count).view(bool)
    shows = tuple(Shown(clip=clip, frame=frame) for clip, frame in one["shown"])
    return clips, Unfilled(example=Example(tokens=ids, loss=loss, **one["fields"]), shown=shows)
