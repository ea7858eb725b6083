"""What packets show before they are decoded: damage that a decoder conceals, and pictures none refers to."""

import re
from collections.abc import Iterator

from av import VideoStream

from ringworld.vision.jpeg_scan import has_stray_zeros

# A byte of 3 is put between two zeros and a byte below 4, so that no start code arises inside a unit
# (ITU-T H.264, 7.4.1; H.265, 7.4.2), and no codes of MPEG-1 and 2 make 23 bits of zeros (ITU-T H.262, 5.2.3).
# Three zeros, and then no start code, are therefore never written.
_HOLE = re.compile(rb"\0\0\0[\x02-\xff]")
_START = re.compile(rb"\x00\x00\x01(.)", re.DOTALL)
"""What begins a unit where its length does not stand before it, and its header."""
_USER_DATA = 0xB2
"""Of MPEG-1 and 2 (ITU-T H.262, table 6-1)."""


class BitstreamCheck:
    """What can be said of the packets of a stream without decoding them; of most codecs, nothing."""

    def __init__(self, stream: VideoStream) -> None:
        """Read how the units of the stream are delimited."""
        self._codec = stream.codec_context.name
        setup = stream.codec_context.extradata or b""
        size_at = {"h264": 4, "hevc": 21}.get(self._codec, len(setup))
        is_prefixed = setup[:1] == b"\1" and size_at < len(setup)
        self._prefix_bytes = (setup[size_at] & 3) + 1 if is_prefixed else 0

    def is_damaged(self, packet: bytes) -> bool:
        """Return whether a packet of the stream holds what no encoder writes."""
        if self._codec == "mjpeg":
            return has_stray_zeros(packet)
        if self._codec in ("mpeg1video", "mpeg2video"):
            return any(_HOLE.search(packet, begin, end) for begin, end in _mpeg_units(packet))
        if self._codec not in ("h264", "hevc"):
            return False
        if not self._prefix_bytes:
            return _HOLE.search(packet) is not None
        return any(
            end > len(packet) or (self._holds_picture(packet[begin]) and _HOLE.search(packet, begin, end))
            for begin, end in self._units(packet)
        )

    def is_disposable(self, packet: bytes) -> bool:
        """Return whether no other picture is predicted from that of a packet; only H.264 says so.

        It is one whose slices all have a `nal_ref_idc` of 0 (ITU-T H.264, 7.4.1).
        """
        if self._codec != "h264":
            return False
        if self._prefix_bytes:
            headers = [packet[begin] for begin, _ in self._units(packet)]
        else:
            headers = [found[1][0] for found in _START.finditer(packet)]
        pictures = [header for header in headers if self._holds_picture(header)]
        return bool(pictures) and not any(header >> 5 & 3 for header in pictures)

    def _units(self, packet: bytes) -> Iterator[tuple[int, int]]:
        """Yield where units begin and end that are not empty; one that is cut ends beyond the packet."""
        at = 0
        while at + self._prefix_bytes < len(packet):
            begin = at + self._prefix_bytes
            at = begin + int.from_bytes(packet[at:begin])
            if at > begin:
                yield begin, at

    def _holds_picture(self, header: int) -> bool:
        """Return whether a unit holds pixels; some encoders write the others carelessly."""
        return 1 <= header & 31 <= 5 if self._codec == "h264" else (header >> 1 & 63) < 32


def _mpeg_units(packet: bytes) -> Iterator[tuple[int, int]]:
    """Yield where slices and headers of MPEG-1 and 2 begin and end; users' data is written carelessly."""
    starts = [(found[1][0], found.start()) for found in _START.finditer(packet)]
    ends = [begin for _, begin in starts[1:]]
    for (code, begin), end in zip(starts, [*ends, len(packet)]):
        if code != _USER_DATA:
            yield begin, end
