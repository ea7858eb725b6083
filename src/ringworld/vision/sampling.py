"""A few frames that stand for a whole video."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
from jaxtyping import Shaped, UInt8
from PIL import Image

from ringworld.core.errors import InputError
from ringworld.vision.config import DEFAULT_LIMITS, MediaLimits
from ringworld.vision.media import fit_frame, stream_wanted

T = TypeVar("T")


@dataclass(kw_only=True, slots=True)
class Thinned(Generic[T]):
    """What stands for all frames of a video whose length shows at its end.

    It holds every `stride`-th of those that were read so far, and at most twice as many as are asked for: of
    20 frames, with `most=4`, 0 4 8 12 16 are held at the end and 0 4 8 16 are chosen, evenly as by LWM.
    """

    most: int
    _held: list[tuple[int, T]] = field(default_factory=list)

    def wants(self, index: int) -> bool:
        """Return whether a frame may be chosen in the end; that follows from its index alone."""
        return index % self._stride(index + 1) == 0

    def add(self, frames: Iterable[tuple[int, T]]) -> None:
        """Take the next of those that are wanted, with their indices."""
        self._held += frames
        stride = self._stride(self._held[-1][0] + 1)
        self._held = [(index, frame) for index, frame in self._held if index % stride == 0]

    def chosen(self) -> list[tuple[int, T]]:
        """Return at most `most` of them, with their indices."""
        return evenly(self._held, self.most)

    def _stride(self, read: int) -> int:
        """Return the least power of two of which so many frames have few enough multiples."""
        least = -(-read // (2 * self.most))
        return 1 << max(0, least - 1).bit_length()


def read_spread(
    path: Path,
    *,
    most_frames: int,
    frames_per_second: float,
    resolution: int,
    limits: MediaLimits = DEFAULT_LIMITS,
) -> UInt8[np.ndarray, "frames side side 3"]:
    """Read at most `most_frames` frames that are spread over the whole video.

    A short video gives all its frames at `frames_per_second`. A longer one is `Thinned` while it is read.

    Raises:
        InputError: the file cannot be read; see `ringworld.vision.media`.
    """
    thinned = Thinned[np.ndarray](most=most_frames)
    stream = stream_wanted(
        path,
        wanted=thinned.wants,
        frames_per_second=frames_per_second,
        resolution=resolution,
        limits=limits,
    )
    for index, (_, frame) in enumerate(stream):
        if frame is not None:
            thinned.add([(index, frame)])
    return np.stack([frame for _, frame in thinned.chosen()])


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
