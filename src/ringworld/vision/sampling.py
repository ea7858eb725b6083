"""A few frames that stand for a whole video."""

from pathlib import Path
from typing import TypeVar

import numpy as np
from jaxtyping import Shaped, UInt8
from PIL import Image

from ringworld.core.errors import InputError
from ringworld.vision.config import DEFAULT_LIMITS, MediaLimits
from ringworld.vision.media import fit_frame, stream_video

T = TypeVar("T")


def read_spread(
    path: Path,
    *,
    most_frames: int,
    frames_per_second: float,
    resolution: int,
    limits: MediaLimits = DEFAULT_LIMITS,
) -> UInt8[np.ndarray, "frames side side 3"]:
    """Read at most `most_frames` frames that are spread over the whole video.

    A short video gives all its frames at `frames_per_second`. A longer one is thinned while it is read, so
    that little more than twice `most_frames` is ever held, and then evenly as LWM does: of 20 frames, with
    `most_frames=4`, 0 4 8 12 16 are held at the end and 0 4 8 16 are returned.

    Raises:
        InputError: the file cannot be read; see `ringworld.vision.media`.
    """
    held: list[np.ndarray] = []
    stride = 1
    stream = stream_video(path, frames_per_second=frames_per_second, resolution=resolution, limits=limits)
    for index, (_, frame) in enumerate(stream):
        if index % stride == 0:
            held.append(frame)
        if len(held) > 2 * most_frames:
            held, stride = held[::2], stride * 2
    return np.stack(evenly(held, most_frames))


def evenly(items: list[T], most: int) -> list[T]:
    """Return at most `most` items, spread from the first to the last."""
    if len(items) <= most:
        return items
    return [items[index] for index in np.linspace(0, len(items) - 1, most, dtype=int)]


def fit_frames(pixels: Shaped[np.ndarray, "..."], resolution: int) -> UInt8[np.ndarray, "frames side side 3"]:
    """Return one picture, or several, as square frames of a resolution; see `fit_frame`.

    Raises:
        InputError: the array is not RGB bytes [height, width, 3] or [frames, height, width, 3], or is empty.
    """
    frames = pixels[None] if pixels.ndim == 3 else pixels
    if frames.ndim != 4 or frames.shape[3] != 3 or 0 in frames.shape or frames.dtype != np.uint8:
        raise InputError(
            f"frames are {pixels.dtype}{list(pixels.shape)}, but must be uint8[frames, height, width, 3]",
            field="frames",
            value=pixels.shape,
        )
    if frames.shape[1:3] == (resolution, resolution):
        return frames
    return np.stack([fit_frame(Image.fromarray(frame), resolution) for frame in frames])
