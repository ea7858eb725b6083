"""Frames of videos and images: the whole of a file in few frames, or all of it piece by piece."""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from jaxtyping import UInt8

from ringworld.core.errors import InputError
from ringworld.data.config import PrepareConfig, Split
from ringworld.data.quarantine import Quarantined, nothing_usable, quarantine
from ringworld.data.sources import Source
from ringworld.vision.media import read_image, stream_video

T = TypeVar("T")
Frames = UInt8[np.ndarray, "frames side side 3"]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class FrameSample:
    """Frames of many files."""

    frames: Frames
    quarantined: tuple[Quarantined, ...]
    """Files that gave none."""


def read_spread(source: Source, *, most_frames: int, frames_per_second: float, resolution: int) -> Frames:
    """Read at most `most_frames` frames that are spread over the whole file.

    A short video gives all its frames at `frames_per_second`. A longer one is thinned while it is read, so
    that little more than twice `most_frames` is ever held, and then evenly as LWM does: of 20 frames, with
    `most_frames=4`, 0 4 8 12 16 are held at the end and 0 4 8 16 are returned.

    Raises:
        InputError: the file cannot be read; see `ringworld.vision.media`.
    """
    if source.format == "image":
        return read_image(source.path, resolution=resolution)[None]
    held: list[np.ndarray] = []
    stride = 1
    for index, frame in enumerate(_stream(source, frames_per_second, resolution)):
        if index % stride == 0:
            held.append(frame)
        if len(held) > 2 * most_frames:
            held, stride = held[::2], stride * 2
    return np.stack(_evenly(held, most_frames))


def read_windows(source: Source, *, config: PrepareConfig, resolution: int) -> Iterator[Frames]:
    """Yield all frames of a file in order, `config.max_frames` at a time (fewer in the last).

    Raises:
        InputError: the file cannot be read, which may show late; see `ringworld.vision.media`.
    """
    if source.format == "image":
        yield read_image(source.path, resolution=resolution)[None]
        return
    stream = _stream(source, config.frames_per_second, resolution)
    while window := list(itertools.islice(stream, config.max_frames)):
        yield np.stack(window)


def sample_frames(
    sources: Sequence[Source],
    *,
    split: Split,
    most_frames: int,
    frames_per_second: float,
    resolution: int,
) -> FrameSample:
    """Read about `most_frames` frames, the same number of each file of one split where they are long enough.

    For training and judging a frame tokenizer.

    Raises:
        InputError: the split has no video or image, or none can be read.
    """
    pictures = [s for s in sources if s.split == split and s.format in ("video", "image")]
    if not pictures:
        raise InputError(
            what=f"{split} videos and images",
            got="none",
            expected="at least one",
            remedy="Give two videos or more, of which one is held out to judge the frame tokenizer by.",
        )
    chosen = _evenly(pictures, most_frames)
    of_each = math.ceil(most_frames / len(chosen))
    clips: list[np.ndarray] = []
    failed: list[Quarantined] = []
    for source in chosen:
        with quarantine(source.relative, into=failed):
            clips.append(
                read_spread(
                    source,
                    most_frames=of_each,
                    frames_per_second=frames_per_second,
                    resolution=resolution,
                )
            )
    if not clips:
        raise nothing_usable(f"{split} videos", failed)
    return FrameSample(frames=np.concatenate(clips), quarantined=tuple(failed))


def _stream(source: Source, frames_per_second: float, resolution: int) -> Iterator[np.ndarray]:
    sampled = stream_video(source.path, frames_per_second=frames_per_second, resolution=resolution)
    return (frame for _, frame in sampled)


def _evenly(items: list[T], most: int) -> list[T]:
    if len(items) <= most:
        return items
    return [items[index] for index in np.linspace(0, len(items) - 1, most, dtype=int)]
