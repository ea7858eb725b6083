"""Images by Pillow, still and animated: what they are, their frames by time, and why one is refused."""

import io
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ringworld.core.errors import InputError
from ringworld.vision.config import MediaLimits

# Others that Pillow knows run programs (EPS) or have no signature (TGA).
_FORMATS = ("AVIF", "BMP", "GIF", "ICO", "JPEG", "JPEG2000", "PCX", "PNG", "PPM", "PSD", "TIFF", "WEBP")
_ANIMATED_FORMATS = ("AVIF", "GIF", "PNG", "WEBP")
# What Pillow and the libraries that it calls raise on damaged or hostile files.
_DAMAGE = (
    *(OSError, ValueError, ArithmeticError, LookupError, RuntimeError, SyntaxError, EOFError, TypeError),
    *(AttributeError, struct.error, zlib.error, Image.DecompressionBombError),
)
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_TEXT = frozenset({b"iCCP", b"iTXt", b"tEXt", b"zTXt"})
# As in browsers and FFmpeg: a frame that is shown no longer than the first is shown for the second.
_UNSET_SECONDS, _DEFAULT_SECONDS = 0.01, 0.1
_NEW_SUBFILE_TYPE, _REDUCED = 254, 1
_WITHOUT_WHITE = ("F", "I")
"""Modes whose numbers have no range."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class DecodedPicture:
    """One frame, upright, in RGB."""

    image: Image.Image
    pixel_aspect: float = 1.0
    """Width of a pixel over its height, as it is to be shown."""


Develop = Callable[[], DecodedPicture]
"""Makes the picture of a decoded frame; raises `InputError` where its colors cannot be converted."""


class Animation:
    """An open animated image (GIF, WebP, PNG, AVIF), asked for moments that never go back."""

    def __init__(self, path: Path, limits: MediaLimits) -> None:
        """Open the file, check its size and decode the first frame.

        Raises:
            InputError: see `ringworld.vision.media.stream_video`.
        """
        self._path, self._limits = path, limits
        self._image = open_image(path)
        self._frames = self._decoded()
        self._shown: Image.Image | None = None
        self._begins = self._ends = 0.0
        try:
            refuse_size(path, *self._image.size, limits)
            self._next = next(self._frames, None)
        except InputError:
            self.close()
            raise

    def close(self) -> None:
        """Close the file."""
        self._image.close()

    def picture_at(self, seconds: float) -> Develop | None:
        """Return the picture on screen at `seconds`, or None once the animation has ended."""
        while self._next is not None and self._begins <= seconds + 1e-6:
            self._shown, self._next = self._next, None
            self._ends = self._begins + _seconds_shown(self._image)
            self._begins, self._next = self._ends, next(self._frames, None)
        is_over = self._next is None and seconds > self._ends - 1e-6
        if is_over or self._shown is None:
            return None
        return partial(DecodedPicture, image=self._shown)

    def _decoded(self) -> Iterator[Image.Image]:
        # The default image of an APNG may be for programs that show no animations.
        first = 1 if self._image.info.get("default_image") else 0
        try:
            frames = getattr(self._image, "n_frames", 1)
        except _DAMAGE as error:
            raise _damaged(self._path, f"its frames cannot be counted: {error}") from None
        for index in range(first, frames):
            refuse_duration(self._path, self._begins, self._limits)
            try:
                self._image.seek(index)
                self._image.load()
                yield upright_rgb(self._image)
            except _DAMAGE as error:
                raise _damaged(self._path, f"frame {index} cannot be decoded: {error}") from None


def open_image(path: Path) -> Image.Image:
    """Open an image without decoding it.

    Raises:
        InputError: the file is missing, empty, enormous, or not an image that can be read.
    """
    refuse_missing(path)
    try:
        with warnings.catch_warnings():
            # Our own limit is the lower one, and what Pillow has to say about metadata concerns nobody here.
            warnings.simplefilter("ignore")
            return Image.open(_without_text(path), formats=_FORMATS)
    except UnidentifiedImageError:
        raise InputError(f"{path} is not an image of a known format", path=path) from None
    except Image.DecompressionBombError as error:
        raise InputError(f"{path} is too large ({error})", path=path, remedy="make it smaller") from None
    except _DAMAGE as error:
        raise InputError(f"{path} cannot be opened as an image ({error})", path=path) from None


def load_still(path: Path, limits: MediaLimits) -> Image.Image:
    """Decode an image of one picture, upright, transparent parts on white.

    Raises:
        InputError: see `ringworld.vision.media.read_image`.
    """
    with open_image(path) as image:
        refuse_size(path, *image.size, limits)
        if is_animated(image, path=path):
            raise InputError(f"{path} is an animation, not one picture", path=path)
        try:
            pages = _full_pages(image)
            image.load()
        except _DAMAGE as error:
            raise _damaged(path, f"{image.format}: {error}") from None
        if pages > 1:
            remedy = "save each page as a file of its own"
            raise InputError(f"{path} has {pages} pages, not one picture", path=path, remedy=remedy)
        if image.mode in _WITHOUT_WHITE:
            problem = (
                f"{path} has pixels of 32 bits, of which it does not say what is black and what is white"
            )
            raise InputError(problem, path=path, remedy="save it with 8 or 16 bits a channel")
        try:
            return upright_rgb(image)
        except _DAMAGE as error:
            raise InputError(
                f"{path} has metadata (orientation or transparency) that cannot be read: {error}",
                path=path,
                remedy="save it again without metadata",
            ) from None


def is_animated(image: Image.Image, *, path: Path) -> bool:
    """Return whether the open image of a file is a clip; further pictures of other formats are its pages.

    Raises:
        InputError: its frames cannot be counted, as GIF is read through for it.
    """
    try:
        return image.format in _ANIMATED_FORMATS and bool(getattr(image, "is_animated", False))
    except _DAMAGE as error:
        raise _damaged(path, f"{image.format}: {error}") from None


def upright_rgb(image: Image.Image) -> Image.Image:
    """Return a decoded image in RGB, turned as its EXIF says, transparent parts on white."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def refuse_size(path: Path, width: float | int, height: float | int, limits: MediaLimits) -> None:
    """Raise InputError for a frame above `limits`."""
    short, long = sorted((width, height))
    if width * height > limits.frame_pixels or long > limits.aspect_ratio * short:
        raise InputError(
            f"{path} has frames of {width:.0f} x {height:.0f} pixels; a frame may have {limits.frame_pixels} "
            f"pixels, and its longer side {limits.aspect_ratio:g} times the shorter",
            path=path,
            field="limits.frame_pixels",
            value=(width, height),
            remedy="scale or crop it, or raise MediaLimits",
        )


def refuse_duration(path: Path, seconds: float, limits: MediaLimits) -> None:
    """Raise InputError for a video that lasts longer than `limits`."""
    if seconds > limits.duration_seconds:
        raise InputError(
            f"{path} lasts {seconds:.0f} s; at most {limits.duration_seconds:.0f} s are read",
            path=path,
            field="limits.duration_seconds",
            value=seconds,
            remedy="cut it into shorter files, or raise MediaLimits.duration_seconds",
        )


def refuse_missing(path: Path) -> None:
    """Raise InputError for what is no file, or an empty one."""
    if not path.is_file():
        raise InputError(f"{path} is a folder" if path.is_dir() else f"{path} does not exist", path=path)
    if path.stat().st_size == 0:
        raise InputError(f"{path} is empty", path=path, remedy="copy or download it again")


def as_file(path: Path) -> str:
    """Return the name by which FFmpeg opens a file; of one such as `12:30.mp4` it would ask a protocol 12."""
    return f"file:{path}"


def _seconds_shown(image: Image.Image) -> float:
    seconds = float(image.info.get("duration") or 0) / 1000
    return seconds if seconds > _UNSET_SECONDS else _DEFAULT_SECONDS


def _full_pages(image: Image.Image) -> int:
    """Count the pages of a TIFF that are not reduced copies of another."""
    if image.format != "TIFF":
        return 1
    pages = 0
    for index in range(getattr(image, "n_frames", 1)):
        image.seek(index)
        pages += not int(getattr(image, "tag_v2", {}).get(_NEW_SUBFILE_TYPE, 0)) & _REDUCED
    image.seek(0)
    return pages


def _without_text(path: Path) -> Path | io.BytesIO:
    """Leave texts and color profile out of a PNG: Pillow refuses files for their size; none is used here."""
    with path.open("rb") as stream:
        if stream.read(8) != _PNG_SIGNATURE:
            return path
        chunks = []
        while len(header := stream.read(8)) == 8:
            chunks.append((stream.tell() - 8, int.from_bytes(header[:4]) + 12, header[4:]))
            stream.seek(chunks[-1][1] - 8, io.SEEK_CUR)
        if not any(name in _PNG_TEXT for *_, name in chunks):
            return path
        kept = io.BytesIO()
        kept.write(_PNG_SIGNATURE)
        for at, size, name in chunks:
            if name not in _PNG_TEXT:
                stream.seek(at)
                kept.write(stream.read(size))
    kept.seek(0)
    return kept


def _damaged(path: Path, reason: str) -> InputError:
    return InputError(
        f"{path} is a cut or damaged image ({reason})", path=path, remedy="copy or download it again"
    )
