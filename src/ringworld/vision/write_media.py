"""Frames to files that any browser shows."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from ringworld.core.errors import InputError
from ringworld.core.files import writing
from ringworld.vision.images import as_file


def write_video(
    path: Path,
    frames: UInt8[np.ndarray, "frames height width 3"],
    *,
    frames_per_second: float | int,
    scale: int = 1,
) -> None:
    """Write an H.264 MP4 in 4:2:0 whose index comes first, whole or not at all.

    Args:
        path: file to write; its folder is made if need be.
        frames: RGB.
        frames_per_second: rate of the video.
        scale: each pixel becomes a square of this side, so that small frames can be watched. An odd side is
            made even by repeating its last row or column, as 4:2:0 has no odd sides.

    Raises:
        InputError: there are no frames, or the name does not end in `.mp4`.
    """
    if path.suffix.lower() != ".mp4" or not len(frames):
        raise InputError(
            f"{path} does not end in .mp4" if len(frames) else f"{path} would be a video of 0 frames",
            path=path,
        )
    rate = Fraction(frames_per_second).limit_denominator(1001)
    height, width = (side * scale + side * scale % 2 for side in frames.shape[1:3])
    with (
        writing(path) as temporary,
        av.open(as_file(temporary), "w", format="mp4", options={"movflags": "faststart"}) as container,
    ):
        stream = container.add_stream("libx264", rate=rate, width=width, height=height, pix_fmt="yuv420p")
        # The same frames are to be the same bytes; without these, up to 6% of small clips were not.
        stream.options = {"crf": "16", "x264-params": "mbtree=0:asm=0"}
        stream.codec_context.thread_count = 1
        for frame in frames:
            picture = _enlarged(frame, scale)
            odd = ((0, height - picture.shape[0]), (0, width - picture.shape[1]), (0, 0))
            picture = np.pad(picture, odd, mode="edge")
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))


def write_image(path: Path, frame: UInt8[np.ndarray, "height width 3"], *, scale: int = 1) -> None:
    """Write one frame as PNG or JPEG, by the name's ending, whole or not at all; `scale` as in `write_video`.

    Raises:
        InputError: the name ends otherwise.
    """
    formats = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}
    if path.suffix.lower() not in formats:
        raise InputError(f"{path} ends in none of {', '.join(formats)}", path=path, value=path.suffix)
    with writing(path) as temporary:
        Image.fromarray(_enlarged(frame, scale)).save(temporary, formats[path.suffix.lower()])


def _enlarged(frame: np.ndarray, scale: int) -> np.ndarray:
    return np.ascontiguousarray(frame.repeat(scale, axis=0).repeat(scale, axis=1))
