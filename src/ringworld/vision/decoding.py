"""Video files opened with suspicion: a decoder that walks a video by timestamp, and why a file is refused."""

import itertools
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Any

import av
import av.logging
from av.container import InputContainer
from av.error import FFmpegError
from av.stream import Disposition
from av.video.reformatter import ColorPrimaries, ColorTrc, VideoReformatter
from PIL import Image

from ringworld.core.errors import InputError
from ringworld.vision.bitstream import BitstreamCheck
from ringworld.vision.config import MediaLimits
from ringworld.vision.images import (
    DecodedPicture,
    Develop,
    as_file,
    refuse_duration,
    refuse_missing,
    refuse_size,
    upright_rgb,
)
from ringworld.vision.orientation import QUARTERS, SIDEWAYS, mirroring

# FFmpeg's own words would interleave with ours from its threads. Reading them here instead can deadlock, as
# its threads then wait for the interpreter. Errors are exceptions, and concealed ones are marked on frames.
av.logging.set_libav_level(av.logging.PANIC)

# A jump shorter than this decodes through: most files have a key frame every few seconds.
_SEEK_BEYOND_SECONDS = 5.0
# Matroska rounds times to a millisecond; a frame may begin this much after the moment asked for.
_TIME_TOLERANCE_SECONDS = 1e-3
# A video up to this length is decoded whole to see whether it can be read.
_CHECKED_WHOLE_SECONDS = 10.0
_MOV = "mov,mp4,m4a,3gp,3g2,mj2"
_MATROSKA = "matroska,webm"
# Containers that write down their duration; elsewhere FFmpeg guesses it from the bit rate.
_DECLARES_DURATION = frozenset({_MOV, _MATROSKA, "avi", "flv"})
# Playlists open other files, of whoever reads them; the last draws text files as a terminal would.
_NO_VIDEO_FORMATS = frozenset({"hls", "concat", "dash", "sdp", "imf", "tty"})
_OPENED = {
    "protocol_whitelist": "file",
    # Looked at before a format opens anything.
    "format_whitelist": ",".join(sorted(av.formats_available - _NO_VIDEO_FORMATS)),
}
_HEIF_BRANDS = frozenset({"heic", "heix", "heim", "heis", "mif1", "msf1"})
# A file may end this much before its declared end, or a tenth of its duration, without being called cut.
_MISSING_TAIL_SECONDS = 1.0
# FFmpeg's own decoders of these notice no damage (VP9) and know no transparency.
_STRICT_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}
# These otherwise show what they cannot decode: gray, or the picture before.
_ERRORS_THAT_END = {"mjpeg": "explode"} | dict.fromkeys(
    ("wmv1", "wmv2", "msmpeg4v1", "msmpeg4v2", "msmpeg4"), "bitstream+buffer+explode"
)
# Every packet of these shows a frame, or the second field of one.
_A_FRAME_A_PACKET = ("h264", "hevc", "av1")
_HIGH_DYNAMIC_RANGE = (ColorTrc.SMPTE2084, ColorTrc.ARIB_STD_B67)
_PROGRESSIVE = 1
"""FFmpeg's AV_FIELD_PROGRESSIVE."""
_REORDERED_FRAMES = 16
"""Most frames that stand in another order than they are shown in (ITU-T H.264, A.3.1)."""
_BACK_SECONDS = 1.0
"""A frame that is shown so much before the one before it begins another film, behind the first."""
_DAMAGED_REMEDY = "copy or download it again, or save what is left: ffmpeg -i FILE -c copy NEW_FILE"


@dataclass(frozen=True, kw_only=True, slots=True)
class Moments:
    """When a video is looked at: so many times a second, from some second on."""

    start_seconds: float | int
    per_second: float | int
    wanted: Callable[[int], bool]
    """Whether what is on screen then matters, by the index of the moment."""

    def __iter__(self) -> Iterator[float]:
        return (self.start_seconds + index / self.per_second for index in itertools.count())

    def any_between(self, begin: float | int, end: float | int) -> bool:
        """Return whether there is one that matters at the second `begin` or later, and before `end`."""
        first = max(0, math.ceil((begin - self.start_seconds) * self.per_second))
        there = takewhile(
            lambda index: self.start_seconds + index / self.per_second < end, itertools.count(first)
        )
        return any(map(self.wanted, there))


class VideoDecoder:
    """One open video, asked for moments that never go back."""

    def __init__(self, path: Path, limits: MediaLimits, *, moments: Moments | None = None) -> None:
        """Open the file, check sizes and decode the first frame of its main video stream.

        Args:
            path: of the video.
            limits: sizes above which it is refused.
            moments: those that it will be asked for; frames that none of them that matters shows, and from
                which no other is predicted, are not decoded. None decodes all.

        Raises:
            InputError: see `ringworld.vision.media.stream_video`.
        """
        self._path, self._limits, self._moments = path, limits, moments
        self._container = _open_container(path)
        try:
            self._begin()
        except InputError:
            self.close()
            raise

    def close(self) -> None:
        """Close the file."""
        self._container.close()

    def _begin(self) -> None:
        self._stream = _picture_stream(self._path, self._container)
        self._decoder = _decoder(self._stream)
        self._check = BitstreamCheck(self._stream)
        if self._stream.codec_context.field_order != _PROGRESSIVE:
            self._moments = None  # a packet may be half a frame
        self._tick = float(self._stream.time_base or 0)
        self._start = (self._stream.start_time or 0) * self._tick
        self._pixel_aspect = float(self._stream.sample_aspect_ratio or 1) or 1.0
        # MP4 says how long each stream is; elsewhere the file's end is that of its longest stream.
        is_mov = self._container.format.name == _MOV
        self._mirroring = mirroring(self._path, track=self._stream.id) if is_mov else None
        self._has_own_end = is_mov and bool(self._stream.duration)
        self._declared_end = self._end_declared()
        self._read_end = self._start
        self._has_begun = False
        self._seekable = True
        self._refuse_size(self._stream.width, self._stream.height)
        refuse_duration(self._path, self._declared_end - self._start, self._limits)
        self._reformatter = VideoReformatter()
        self._shown: av.VideoFrame | None = None
        self._frames = self._decoded()
        self._next = next(self._frames, None)
        if self._next is None:
            raise InputError(f"{self._path} holds no frame", path=self._path, remedy=_DAMAGED_REMEDY)

    def picture_at(self, seconds: float) -> Develop | None:
        """Return what is on screen at `seconds` from the first frame, or None once the video has ended.

        A thread may develop one picture while another asks for the next.
        """
        frame = self._frame_at(seconds)
        return None if frame is None else partial(self._developed, frame)

    def _developed(self, frame: av.VideoFrame) -> DecodedPicture:
        try:
            image, transpose = _rgb(frame, self._reformatter), self._mirroring
        except (FFmpegError, ValueError) as error:
            raise InputError(
                f"{self._path} has frames of {frame.format.name} that cannot be shown in sRGB ({error})",
                path=self._path,
                remedy="convert it, to H.264 in the colors of BT.709 say",
            ) from None
        if transpose is None:
            transpose = QUARTERS[round(frame.rotation / 90) % 4]
        if transpose is not None:
            image = image.transpose(transpose)
        is_sideways = transpose in SIDEWAYS
        return DecodedPicture(image=image, pixel_aspect=self._pixel_aspect ** (-1 if is_sideways else 1))

    def read_to_end(self) -> None:
        """Decode to the end, of a longer video only from its last key frame.

        Raises:
            InputError: the video is cut or damaged there.
        """
        last_second = self._declared_end - self._start - _MISSING_TAIL_SECONDS
        if last_second > _CHECKED_WHOLE_SECONDS:
            self._seek(last_second)
        while self._next is not None:
            self._next = next(self._frames, None)

    def _frame_at(self, seconds: float) -> av.VideoFrame | None:
        if self._next is not None and seconds - self._time(self._next) > _SEEK_BEYOND_SECONDS:
            self._seek(seconds)
        while self._next is not None and self._time(self._next) <= seconds + _TIME_TOLERANCE_SECONDS:
            self._shown, self._next = self._next, next(self._frames, None)
        shown = self._shown or self._next
        if shown is None:
            return None
        end = self._time(shown) + (shown.duration or 0) * self._tick
        over = self._next is None and seconds > end - _TIME_TOLERANCE_SECONDS
        return None if over and seconds > self._time(shown) + _TIME_TOLERANCE_SECONDS else shown

    def _end_declared(self) -> float:
        """Return the second, on the container's clock, at which the file says that it ends, or the start."""
        if self._has_own_end:
            return self._start + (self._stream.duration or 0) * self._tick
        container = self._container
        # Matroska counts its duration from 0, whenever the first picture stands.
        begin = 0 if container.format.name == _MATROSKA else container.start_time or 0
        guessed = (begin + (container.duration or 0)) / av.time_base
        if container.format.name == "avi":
            # A cut AVI has lost its index, and FFmpeg guesses by the size; the header's length is here.
            guessed = max(guessed, self._stream.frames * self._tick)
        return max(guessed, self._start)

    def _time(self, frame: av.VideoFrame) -> float:
        if frame.pts is None:
            raise InputError(
                f"{self._path} has frames without a time",
                path=self._path,
                remedy="put it in a container that keeps times: ffmpeg -i FILE -c copy NEW_FILE.mp4",
            )
        return frame.pts * self._tick - self._start

    def _seek(self, seconds: float) -> None:
        """Jump to the last key frame before `seconds`, unless jumping has proved to lead elsewhere."""
        if not self._seekable or self._start + seconds >= self._declared_end or self._next is None:
            return
        reached = self._time(self._next)
        self._seekable = self._jump(seconds) and self._next is not None and self._time(self._next) > reached
        if self._next is None or self._time(self._next) > seconds:
            # The index is missing or wrong. From the beginning, then, without another jump.
            self._seekable = False
            if not self._jump(0.0):
                raise self._damaged("it cannot be searched")

    def _jump(self, seconds: float) -> bool:
        try:
            self._container.seek(int((seconds + self._start) / self._tick), stream=self._stream)
        except FFmpegError:
            return False
        self._decoder.flush_buffers()
        self._frames = self._decoded()
        self._next = next(self._frames, None)
        return True

    def _decoded(self) -> Iterator[av.VideoFrame]:
        last_packet = last_frame = last_end = -1
        is_flv = self._container.format.name == "flv"
        times: list[int] = []
        shown: int | None = None
        recent: deque[int] = deque(maxlen=2 * _REORDERED_FRAMES)
        try:
            for packet in self._container.demux():
                if is_flv and not self._has_begun:
                    self._begin_flv(packet)
                if packet.stream.index == self._stream.index:
                    if is_flv and packet.pts is not None:
                        times.append(packet.pts)
                    content = bytes(packet)
                    if packet.is_corrupt or self._check.is_damaged(content):
                        raise self._damaged("")
                    is_skipped = False
                    if packet.pts is not None and not packet.is_discard:
                        last_packet = max(last_packet, packet.pts)
                        recent.append(packet.pts)
                        is_skipped = self._is_skipped(packet.pts, content, recent)
                    for frame in () if is_skipped else self._decoder.decode(packet if packet.size else None):
                        self._refuse_jump_back(frame, after=shown)
                        shown = frame.pts
                        last_frame = max(last_frame, frame.pts or 0)
                        last_end = last_frame + (frame.duration or 0)
                        yield self._checked(frame)
                elif self._has_own_end:
                    continue
                if packet.pts is not None and packet.time_base is not None:
                    end = float((packet.pts + (packet.duration or 0)) * packet.time_base)
                    self._read_end = max(self._read_end, end)
        except FFmpegError as error:
            raise self._damaged(error.strerror or "") from None
        if last_packet >= last_end > last_frame and self._decoder.name in _A_FRAME_A_PACKET:
            raise self._damaged("the last frames cannot be decoded")
        if is_flv and not times:
            return  # a jump beyond the last packet, as FLV is searched by decoding times
        if is_flv:
            self._read_end = max(self._read_end, (max(times) + self._spacing(times)) * self._tick)
        missing = self._declared_end - self._read_end
        tolerated = min(_MISSING_TAIL_SECONDS, 0.1 * (self._declared_end - self._start))
        if self._container.format.name in _DECLARES_DURATION and missing > tolerated:
            raise self._damaged("")

    def _refuse_jump_back(self, frame: av.VideoFrame, *, after: int | None) -> None:
        """Refuse films that were joined as they are: what follows the first would pass in no time."""
        if frame.pts is None or after is None or (after - frame.pts) * self._tick < _BACK_SECONDS:
            return
        reached, begins = (pts * self._tick - self._start for pts in (after, frame.pts))
        raise InputError(
            f"{self._path} has a clock that goes back from {reached:.2f} s to {begins:.2f} s, as where films "
            "are joined byte by byte",
            path=self._path,
            value=reached,
            remedy="give it one clock: ffmpeg -i FILE NEW_FILE.mp4",
        )

    def _is_skipped(self, time: int, packet: bytes, recent: Iterable[int]) -> bool:
        """Return whether nobody needs the frame of a packet, as far as the times of recent ones show."""
        if self._moments is None or not self._check.is_disposable(packet):
            return False
        following = min((other for other in recent if other > time), default=None)
        if following is None:
            return False
        begin, end = (each * self._tick - self._start for each in (time, following))
        return not self._moments.any_between(begin - 2 * _TIME_TOLERANCE_SECONDS, end)

    def _begin_flv(self, packet: av.Packet) -> None:
        """Count the duration of FLV from the first decoding time; FFmpeg does from the first picture."""
        self._has_begun = True
        container = self._container
        if packet.dts is not None and packet.time_base is not None and container.start_time is not None:
            early = container.start_time / av.time_base - float(packet.dts * packet.time_base)
            self._declared_end = max(self._declared_end - max(early, 0.0), self._start)

    def _spacing(self, times: list[int]) -> float:
        """Return how many ticks a frame of FLV, where none has a duration, is shown on average."""
        if len(times) > 1:
            return (max(times) - min(times)) / (len(times) - 1)
        return 1 / (float(self._stream.average_rate or 0) * self._tick or math.inf)

    def _checked(self, frame: av.VideoFrame) -> av.VideoFrame:
        if frame.is_corrupt:
            raise self._damaged("a frame is damaged")
        self._refuse_size(frame.width, frame.height)
        refuse_duration(self._path, self._time(frame), self._limits)
        return frame

    def _refuse_size(self, width: int, height: int) -> None:
        refuse_size(self._path, width, height, self._limits)
        refuse_size(self._path, width * self._pixel_aspect, height, self._limits)

    def _damaged(self, reason: str) -> InputError:
        read, declared = self._read_end - self._start, self._declared_end - self._start
        whole = f" of {declared:.2f} s" if declared else ""
        return InputError(
            f"{self._path} is a cut or damaged video{whole}, of which {read:.2f} s could be read"
            + (f" ({reason})" if reason else ""),
            path=self._path,
            value=read,
            remedy=_DAMAGED_REMEDY,
        )


def _open_container(path: Path) -> InputContainer:
    refuse_missing(path)
    try:
        # Names and titles in another encoding than UTF-8 are common, and no reason to refuse a video.
        opened = av.open(as_file(path), metadata_errors="replace", options=_OPENED)
    except FFmpegError as error:
        with path.open("rb") as stream:
            is_mp4 = stream.read(12)[4:8] == b"ftyp"
        cut = "an MP4 file without a whole index (moov), as after a recording or download that was cut"
        problem = cut if is_mp4 else "not a media file"
        raise InputError(f"{path} is {problem} ({error.strerror})", path=path) from None
    if opened.metadata.get("major_brand") in _HEIF_BRANDS:
        opened.close()
        problem = f"{path} is a HEIF image, which is not read"
        raise InputError(problem, path=path, remedy="convert it to JPEG")
    return opened


def _picture_stream(path: Path, container: InputContainer) -> av.VideoStream:
    """Return the main stream of pictures; the cover of a song is none."""
    moving = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    if not moving:
        has = "only sound" if container.streams.audio else "neither pictures nor sound"
        raise InputError(
            f"{path} holds {has}",
            path=path,
            field="streams",
            value=tuple(sorted({each.type for each in container.streams} - {"video"})),
            remedy="use a file with pictures",
        )
    best = container.streams.best("video")
    stream = best if isinstance(best, av.VideoStream) and best in moving else moving[0]
    if stream.codec_context is None:
        raise InputError(f"{path} has an unknown codec", path=path, remedy="convert it, to H.264 say")
    return stream


def _decoder(stream: av.VideoStream) -> av.VideoCodecContext:
    name = _STRICT_DECODERS.get(stream.codec_context.name, "")
    if name not in av.codecs_available:
        stream.thread_type = "AUTO"
        if errors := _ERRORS_THAT_END.get(stream.codec_context.name):
            stream.codec_context.options = {"err_detect": errors}
        return stream.codec_context
    decoder = av.CodecContext.create(name, "r")
    assert isinstance(decoder, av.VideoCodecContext)
    decoder.extradata = stream.codec_context.extradata
    decoder.width, decoder.height = stream.width, stream.height
    decoder.thread_count = 0
    return decoder


def _rgb(frame: av.VideoFrame, reformatter: VideoReformatter) -> Image.Image:
    """Return the pixels of a frame in sRGB, transparent parts on white.

    Args:
        frame: of any format.
        reformatter: of one thread, which keeps what it has set up for the frames before.
    """
    if any(component.is_alpha for component in frame.format.components):
        return upright_rgb(Image.fromarray(frame.to_ndarray(format="rgba"), "RGBA"))
    to: dict[str, Any] = {}
    if frame.color_trc in _HIGH_DYNAMIC_RANGE:
        to = {"dst_color_trc": ColorTrc.IEC61966_2_1, "dst_color_primaries": ColorPrimaries.BT709}
    # One thread, since those that decode have the cores. `to_image` would copy the pixels twice more.
    return Image.fromarray(reformatter.reformat(frame, format="rgb24", threads=1, **to).to_ndarray())
