"""Images and videos of any kind to square RGB frames, one at a time and by timestamp."""

import itertools
import math
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

from ringworld.core.errors import InputError
from ringworld.vision.config import DEFAULT_LIMITS, MediaLimits
from ringworld.vision.decoding import VideoDecoder, open_image, refuse_size


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
    that a slow video repeats frames and a variable rate is followed. Rotation metadata is applied. Wide
    distances are crossed by seeking.

    Example: a 25 frames/s video of one second at `frames_per_second=4` gives the frames that begin at 0,
    0.24, 0.48 and 0.72 seconds, for the seconds 0, 0.25, 0.5 and 0.75.

    Args:
        path: any container and codec that FFmpeg reads, GIF among them.
        frames_per_second: rate of the result.
        resolution: side of the result in pixels; see `fit_frame`.
        start_seconds: moment of the first frame, from the beginning of the video.
        limits: sizes above which the file is refused.

    Raises:
        InputError: the file is missing, empty, an image, without video, not a media file, above `limits`, or
            ends before `start_seconds`; or it is cut or damaged, which is refused whole, however much of it
            could be read, once the reading reaches the damage (the message says at which second).
    """
    for name, value in (("frames_per_second", frames_per_second), ("resolution", resolution)):
        if not 0 < value < math.inf:
            raise _bad_argument(name, str(value), "a number above zero")
    if not 0 <= start_seconds < math.inf:
        raise _bad_argument("start_seconds", str(start_seconds), "zero or more")
    with VideoDecoder(path, limits) as video:
        for index in itertools.count():
            seconds = start_seconds + index / frames_per_second
            frame = video.frame_at(seconds)
            if frame is None and index == 0:
                raise InputError(
                    what=str(path),
                    got=f"a video that ends before {start_seconds:g} s",
                    expected="a longer video",
                    remedy="Start earlier.",
                )
            if frame is None:
                return
            yield seconds, fit_frame(_upright(frame), resolution)


def read_image(
    path: Path, *, resolution: int, limits: MediaLimits = DEFAULT_LIMITS
) -> UInt8[np.ndarray, "side side 3"]:
    """Read an image as one frame: EXIF rotation applied, any colour mode, transparent parts on white.

    Raises:
        InputError: the file is missing, empty, not an image, cut, or above `limits`.
    """
    with open_image(path) as image:
        refuse_size(path, *image.size, limits)
        try:
            image.load()
            upright = _as_rgb(ImageOps.exif_transpose(image))
        except (OSError, ValueError, SyntaxError) as error:
            raise InputError(
                what=str(path),
                got=f"a cut or damaged {image.format} image ({error})",
                expected="a whole image",
                remedy="Copy or download it again.",
            ) from None
        return fit_frame(upright, resolution)


def fit_frame(image: Image.Image, resolution: int) -> UInt8[np.ndarray, "side side 3"]:
    """Resize the short side to `resolution` and crop the middle square, to the pixel as LWM does.

    Bicubic (Pillow's default), the long side truncated to an integer (LWM `lwm/vision_chat.py`).
    """
    width, height = image.size
    if width < height:
        size = resolution, int(resolution * height / width)
    else:
        size = int(resolution * width / height), resolution
    left, top = (round((side - resolution) / 2) for side in size)
    resized = image.resize(size).crop((left, top, left + resolution, top + resolution))
    return np.asarray(resized.convert("RGB"))


def _upright(frame: av.VideoFrame) -> Image.Image:
    image = frame.to_image()
    quarter_turns = round(frame.rotation / 90) % 4
    return image.rotate(90 * quarter_turns, expand=True) if quarter_turns else image


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def _bad_argument(what: str, got: str, expected: str) -> InputError:
    return InputError(what=what, got=got, expected=expected, remedy=f"Change {what}.")
