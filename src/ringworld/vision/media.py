"""Images and videos of any kind to square RGB frames, one at a time and by timestamp."""

import math
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from ringworld.core.ahead import ahead
from ringworld.core.errors import InputError
from ringworld.core.ranges import check_number
from ringworld.vision.config import DEFAULT_LIMITS, MediaLimits
from ringworld.vision.decoding import Moments, VideoDecoder
from ringworld.vision.images import (
    Animation,
    DecodedPicture,
    Develop,
    is_animated,
    load_still,
    open_image,
)

# Files of these names are opened when they are read, not when they are found.
_VIDEO_SUFFIXES = frozenset(
    {".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".flv", ".wmv"}
)
_PICTURES_AHEAD = 2


def stream_video(
    path: Path,
    *,
    frames_per_second: float | int,
    resolution: int,
    start_seconds: float | int = 0.0,
    limits: MediaLimits = DEFAULT_LIMITS,
) -> Iterator[tuple[float, UInt8[np.ndarray, "side side 3"]]]:
    """Yield (seconds, frame) at a fixed rate, holding no more than a few decoded frames.

    A frame is chosen by its timestamp: the frame shown at second t is the last that begins at or before t, so
    that a slow video repeats frames and a variable rate is followed. The first frame of the picture is at
    second 0, whenever the sound begins. Each frame is shown as a player would: rotated and mirrored, with the
    proportions of its pixels, transparent parts on white. Wide distances are crossed by seeking, and frames
    of H.264 that are neither shown nor needed for others are not decoded.

    Example: a 25 frames/s video of one second at `frames_per_second=4` gives the frames that begin at 0,
    0.24, 0.48 and 0.72 seconds, for the seconds 0, 0.25, 0.5 and 0.75.

    Args:
        path: any container and codec that FFmpeg reads, or an animated GIF, WebP, PNG or AVIF.
        frames_per_second: rate of the result.
        resolution: side of the result in pixels; see `fit_frame`.
        start_seconds: moment of the first frame, from the beginning of the picture.
        limits: sizes above which the file is refused.

    Raises:
        InputError: the file is missing, empty, a still image, without video, not a media file, above
            `limits`, or ends before `start_seconds`; or it is cut or damaged, which is refused whole, however
            much of it could be read, once the reading reaches the damage (`value` is that second). Damage is
            what the container, the bitstream or the decoder shows. Bytes that changed within a whole file
            may show in none: in VP8 nearly never, in HEVC and AV1 not always outside key frames, in H.264
            seldom not, but for frames that are not decoded. Of 144 runs of 16 to 600 bytes within pictures of
            MPEG-2, Motion JPEG and Sorenson's H.263 (FLV), no zeros were shown as other pictures; of random
            bytes 1, 46 and 2 were.
    """
    stream = stream_wanted(
        path,
        wanted=lambda index: True,
        frames_per_second=frames_per_second,
        resolution=resolution,
        start_seconds=start_seconds,
        limits=limits,
    )
    for seconds, frame in stream:
        assert frame is not None
        yield seconds, frame


def stream_wanted(
    path: Path,
    *,
    wanted: Callable[[int], bool],
    frames_per_second: float | int,
    resolution: int,
    start_seconds: float | int = 0.0,
    limits: MediaLimits = DEFAULT_LIMITS,
) -> Iterator[tuple[float, UInt8[np.ndarray, "side side 3"] | None]]:
    """Yield what `stream_video` does, but None in place of frames that are not wanted.

    These are neither converted nor resized, and not decoded where no other is predicted from them.

    Args:
        path: see `stream_video`, as of all that follow `wanted`.
        wanted: whether a frame is, by its index, of which alone it is a function; threads ask it.
        frames_per_second: rate of the result.
        resolution: side of the result in pixels.
        start_seconds: moment of the first frame.
        limits: sizes above which the file is refused.

    Raises:
        InputError: see `stream_video`.
    """
    check_number("frames_per_second", frames_per_second, above=0)
    check_number("resolution", resolution, least=1)
    check_number("start_seconds", start_seconds, least=0)
    moments = Moments(start_seconds=start_seconds, per_second=frames_per_second, wanted=wanted)
    with closing(_open_video(path, limits, moments=moments)) as video:
        # A thread decodes, and does nothing else, while the caller's converts and resizes.
        with closing(ahead(_pictures(video, moments), most=_PICTURES_AHEAD)) as pictures:
            seconds = None
            for index, (seconds, develop) in enumerate(pictures):
                yield seconds, _fitted(develop(), resolution) if wanted(index) else None
    if seconds is None:
        raise InputError(
            f"{path} ends before {start_seconds:g} s", path=path, field="start_seconds", value=start_seconds
        )


def _fitted(picture: DecodedPicture, resolution: int) -> UInt8[np.ndarray, "side side 3"]:
    return fit_frame(picture.image, resolution, pixel_aspect=picture.pixel_aspect)


def _pictures(video: VideoDecoder | Animation, moments: Moments) -> Iterator[tuple[float, Develop]]:
    for seconds in moments:
        picture = video.picture_at(seconds)
        if picture is None:
            return
        yield seconds, picture


def check_video(path: Path, *, limits: MediaLimits = DEFAULT_LIMITS) -> None:
    """Read the beginning and the end of a video, which finds most that cannot be read, at little cost.

    Raises:
        InputError: see `stream_video`.
    """
    with closing(_open_video(path, limits)) as video:
        if (develop := video.picture_at(0.0)) is not None:
            develop()
        if isinstance(video, VideoDecoder):
            video.read_to_end()


def read_image(
    path: Path, *, resolution: int, limits: MediaLimits = DEFAULT_LIMITS
) -> UInt8[np.ndarray, "side side 3"]:
    """Read an image as one frame: EXIF rotation applied, any color mode, transparent parts on white.

    Raises:
        InputError: the file is missing, empty, not an image, animated, of several pages, cut, or above
            `limits`.
    """
    return fit_frame(load_still(path, limits), resolution)


def media_format(path: Path) -> Literal["video", "image"]:
    """Return what a file is. What is inside decides, not the name; an animated image is a video.

    Raises:
        InputError: it is neither. A file that is named like a video is opened only when it is read.
    """
    try:
        image = open_image(path)
    except InputError as error:
        no_image = error
    else:
        with image:
            return "video" if is_animated(image, path=path) else "image"
    suffix = path.suffix.lower()
    if suffix in _VIDEO_SUFFIXES:
        return "video"
    try:
        VideoDecoder(path, DEFAULT_LIMITS).close()
        return "video"
    except InputError as no_video:
        is_named_image = suffix in Image.registered_extensions()
        raise (no_image if is_named_image else no_video) from None


def fit_frame(
    image: Image.Image, resolution: int, *, pixel_aspect: float | int = 1.0
) -> UInt8[np.ndarray, "side side 3"]:
    """Resize the short side to `resolution` and crop the middle square, to the pixel as LWM does.

    Bicubic (Pillow's default), the long side truncated to an integer (LWM `lwm/vision_chat.py`).

    Args:
        image: any picture.
        resolution: side of the result in pixels.
        pixel_aspect: width of a pixel of `image` over its height; those of the result are square.
    """
    width, height = image.width * pixel_aspect, image.height
    if width < height:
        size = resolution, int(resolution * height / width)
    else:
        size = int(resolution * width / height), resolution
    # Of the columns only those around the middle are computed, each as if all were: they begin and end where
    # columns of the picture do. Of 1280 resized to 455, each 91 are 256, so 91 to 364 for the middle 256.
    block, left = size[0] // math.gcd(image.width, size[0]), round((size[0] - resolution) / 2)
    begin, end = left // block * block, -(-(left + resolution) // block) * block
    box = (begin * image.width // size[0], 0, end * image.width // size[0], image.height)
    resized = image.resize((end - begin, size[1]), box=box)
    left, top = left - begin, round((size[1] - resolution) / 2)
    return np.asarray(resized.crop((left, top, left + resolution, top + resolution)).convert("RGB"))


def _open_video(
    path: Path, limits: MediaLimits, *, moments: Moments | None = None
) -> VideoDecoder | Animation:
    try:
        image = open_image(path)
    except InputError:
        return VideoDecoder(path, limits, moments=moments)
    with image:
        format_, is_clip = image.format, is_animated(image, path=path) or image.format == "GIF"
    if not is_clip:
        raise InputError(f"{path} is a still image ({format_}), not a video", path=path)
    return Animation(path, limits)
