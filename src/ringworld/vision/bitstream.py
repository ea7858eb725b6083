"""Damage that a decoder conceals: bytes that no encoder writes."""

import re

from av import VideoStream

# A byte of 3 is put between two zeros and a byte below 4, so that no start code arises inside a unit
# (ITU-T H.264, 7.4.1; H.265, 7.4.2). Three zeros, and then no start code, are therefore never written.
_HOLE = re.compile(rb"\0\0\0[\x02-\xff]")


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
        if self._codec not in ("h264", "hevc"):
            return False
        if not self._prefix_bytes:
            return _HOLE.search(packet) is not None
        at = 0
        while at + self._prefix_bytes < len(packet):
            begin = at + self._prefix_bytes
            at = begin + int.from_bytes(packet[at:begin])
            if at > len(packet):
                return True
            if at > begin and self._holds_picture(packet[begin]) and _HOLE.search(packet, begin, at):
                return True
        return False

    def _holds_picture(self, header: int) -> bool:
        """Return whether a unit holds pixels; some encoders write the others carelessly."""
        return 1 <= header & 31 <= 5 if self._codec == "h264" else (header >> 1 & 63) < 32
