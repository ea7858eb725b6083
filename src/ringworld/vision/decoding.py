"""Media files opened with suspicion: a decoder that walks a video by timestamp, and why a file is refused."""

import warnings
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import av
import av.logging
from av.container import InputContainer
from av.error import FFmpegError
from PIL import Image, UnidentifiedImageError

from ringworld.core.errors import InputError
from ringworld.vision.config import MediaLimits

# FFmpeg's own words would interleave with ours from its threads; errors reach us as exceptions all the same.
av.logging.set_libav_level(av.logging.PANIC)

# A jump shorter than this decodes through: most files have a key frame every few seconds.
_SEEK_BEYOND_SECONDS = 5.0
# Matroska rounds times to a millisecond; a frame may begin this much after the moment asked for.
_TIME_TOLERANCE_SECONDS = 1e-3
# Containers that write down their duration; elsewhere FFmpeg guesses it from the bit rate.
_DECLARES_DURATION = frozenset({"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "avi"})
# A file may end this much before its declared duration, or a tenth of it, without being called cut.
_MISSING_TAIL_SECONDS = 1.0
_IMAGE_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "AVIF")
_DAMAGED_REMEDY = "Copy or download it again, or save what is left: ffmpeg -i FILE -c copy NEW_FILE."


class VideoDecoder:
    """One open video, asked for moments that never go back."""

    def __init__(self, path: Path, limits: MediaLimits) -> None:
        """Open the file and its main video stream.

        Raises:
            InputError: see `ringworld.vision.media.stream_video`.
        """
        self._path, self._limits = path, limits
        self._container = _open_container(path)
        stream = self._container.streams.best("video")
        if not isinstance(stream, av.VideoStream):
            self._container.close()
            raise _refused(path, "a file without video, only sound", "a video", "Give a file with pictures.")
        if stream.codec_context is None:
            self._container.close()
            raise _refused(path, "a codec that is not known", "a common codec", "Convert it, to H.264 say.")
        stream.thread_type = "AUTO"
        self._stream, self._tick = stream, float(stream.time_base or 0)
        self._start = (stream.start_time or 0) * self._tick
        self._declared_seconds = self._declared_duration()
        self._read_seconds = 0.0
        self._seekable = True
        self._shown: av.VideoFrame | None = None

    def __enter__(self) -> "VideoDecoder":
        """Check sizes and decode the first frame."""
        try:
            refuse_size(self._path, self._stream.width, self._stream.height, self._limits)
            self._refuse_duration(self._declared_seconds)
            self._frames = self._decoded()
            self._next = next(self._frames, None)
            if self._next is None:
                raise _refused(self._path, "a video without a frame", "frames", _DAMAGED_REMEDY)
        except InputError:
            self._container.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the file."""
        self._container.close()

    def frame_at(self, seconds: float) -> av.VideoFrame | None:
        """Return the frame on screen at `seconds` from the beginning, or None once the video has ended."""
        if self._next is not None and seconds - self._time(self._next) > _SEEK_BEYOND_SECONDS:
            self._seek(seconds)
        while self._next is not None and self._time(self._next) <= seconds + _TIME_TOLERANCE_SECONDS:
            self._shown, self._next = self._next, next(self._frames, None)
        shown = self._shown or self._next
        if shown is None:
            return None
        over = self._next is None and seconds > self._end(shown) - _TIME_TOLERANCE_SECONDS
        return None if over and seconds > self._time(shown) + _TIME_TOLERANCE_SECONDS else shown

    def _declared_duration(self) -> float:
        guessed = (self._container.duration or 0) / av.time_base
        if self._container.format.name != "avi":
            return guessed
        # A cut AVI has lost its index, and FFmpeg guesses by the size; the header's length is here, in ticks.
        return max(guessed, self._stream.frames * self._tick)

    def _time(self, frame: av.VideoFrame) -> float:
        if frame.pts is None:
            raise _refused(
                self._path,
                "frames without a time",
                "a container that keeps times",
                "Put it in one: ffmpeg -i FILE -c copy NEW_FILE.mp4.",
            )
        return frame.pts * self._tick - self._start

    def _end(self, frame: av.VideoFrame) -> float:
        return self._time(frame) + (frame.duration or 0) * self._tick

    def _seek(self, seconds: float) -> None:
        """Jump to the last key frame before `seconds`, unless jumping has proved to lead backwards."""
        if not self._seekable or seconds >= self._declared_seconds or self._next is None:
            return
        reached = self._time(self._next)
        try:
            self._container.seek(int((seconds + self._start) / self._tick), stream=self._stream)
        except FFmpegError:
            self._seekable = False
            return
        self._frames = self._decoded()
        self._next = next(self._frames, None)
        self._seekable = self._next is not None and self._time(self._next) > reached

    def _decoded(self) -> Iterator[av.VideoFrame]:
        try:
            for packet in self._container.demux():
                is_ours = packet.stream.index == self._stream.index
                if is_ours and packet.is_corrupt:
                    raise self._damaged("")
                if is_ours:
                    yield from map(self._checked, self._stream.decode(packet))
                if packet.pts is not None and packet.time_base is not None:
                    end = float((packet.pts + (packet.duration or 0)) * packet.time_base) - self._start
                    self._read_seconds = max(self._read_seconds, end)
        except FFmpegError as error:
            raise self._damaged(f" ({error.strerror})") from None
        missing = self._declared_seconds - self._read_seconds
        tolerated = min(_MISSING_TAIL_SECONDS, 0.1 * self._declared_seconds)
        if self._container.format.name in _DECLARES_DURATION and missing > tolerated:
            raise self._damaged("")

    def _checked(self, frame: av.VideoFrame) -> av.VideoFrame:
        refuse_size(self._path, frame.width, frame.height, self._limits)
        self._refuse_duration(self._time(frame))
        return frame

    def _refuse_duration(self, seconds: float) -> None:
        if seconds > self._limits.duration_seconds:
            raise _refused(
                self._path,
                f"a video of {seconds:.0f} s",
                f"at most {self._limits.duration_seconds:.0f} s",
                "Cut it into shorter files or raise MediaLimits.duration_seconds.",
            )

    def _damaged(self, reason: str) -> InputError:
        declared = f" of {self._declared_seconds:.2f} s" if self._declared_seconds else ""
        return _refused(
            self._path,
            f"a cut or damaged video{declared}, of which {self._read_seconds:.2f} s could be read{reason}",
            "a whole video",
            _DAMAGED_REMEDY,
        )


def open_image(path: Path) -> Image.Image:
    """Open an image without decoding it.

    Raises:
        InputError: the file is missing, empty, enormous or not an image.
    """
    _refuse_missing(path)
    try:
        with warnings.catch_warnings():
            # Our own limit is the lower one.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            return Image.open(path)
    except Image.DecompressionBombError as error:
        raise _refused(path, str(error), "an image of ordinary size", "Make it smaller.") from None
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError):
        raise _refused(path, "not an image", "JPEG, PNG or the like", "Check the file.") from None


def image_format(path: Path) -> str | None:
    """Return the name of a still image's format, or None for anything else, GIF included."""
    try:
        with Image.open(path, formats=_IMAGE_FORMATS) as image:
            return image.format
    except Image.DecompressionBombError:
        return "very large"
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError):
        return None


def refuse_size(path: Path, width: int, height: int, limits: MediaLimits) -> None:
    """Raise InputError for a frame above `limits`."""
    short, long = sorted((width, height))
    if width * height > limits.frame_pixels or long > limits.aspect_ratio * short:
        raise _refused(
            path,
            f"frames of {width} x {height} pixels",
            f"at most {limits.frame_pixels} pixels and sides of at most {limits.aspect_ratio:g} to 1",
            "Scale or crop it, or raise MediaLimits.",
        )


def _open_container(path: Path) -> InputContainer:
    _refuse_missing(path)
    if kind := image_format(path):
        raise _refused(path, f"a {kind} image", "a video", "Use it as an image, or correct the file's name.")
    try:
        # Names and titles in another encoding than UTF-8 are common, and no reason to refuse a video.
        return av.open(str(path), metadata_errors="replace")
    except FFmpegError as error:
        with path.open("rb") as stream:
            is_mp4 = stream.read(12)[4:8] == b"ftyp"
        if is_mp4:
            got = "an MP4 file without an index (moov): 0 s could be read, the recording or download was cut"
            raise _refused(path, got, "a whole video", "Record or download it again.") from None
        raise _refused(
            path, f"not a media file ({error.strerror})", "a video", "Check the file's name."
        ) from None


def _refuse_missing(path: Path) -> None:
    if not path.is_file():
        got = "a folder" if path.is_dir() else "no such file"
        raise _refused(path, got, "a media file", "Check the file's name.")
    if path.stat().st_size == 0:
        raise _refused(path, "an empty file", "a media file", "Copy or download it again.")


def _refused(path: Path, got: str, expected: str, remedy: str) -> InputError:
    return InputError(what=str(path), got=got, expected=expected, remedy=remedy)
