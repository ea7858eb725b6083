"""Frames of videos and images: the whole of a file in few frames, or all of it piece by piece."""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from jaxtyping import UInt8

from ringworld.core.errors import InputError
from ringworld.data.config import HeldOutOf, PrepareConfig, Split
from ringworld.data.quarantine import Quarantined, nothing_usable, quarantine
from ringworld.data.sources import Source
from ringworld.vision import sampling
from ringworld.vision.media import read_image, stream_video

Frames = UInt8[np.ndarray, "frames side side 3"]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class FrameSample:
    """Frames of many files, to train a frame tokenizer on and to judge it by."""

    train: Frames
    held_out: UInt8[np.ndarray, "held_out side side 3"]
    held_out_of: HeldOutOf
    quarantined: tuple[Quarantined, ...]
    """Files that gave none."""


def read_spread(source: Source, *, most_frames: int, frames_per_second: float, resolution: int) -> Frames:
    """Read at most `most_frames` frames that are spread over the whole file, as `vision.sampling` does.

    Raises:
        InputError: the file cannot be read; see `ringworld.vision.media`.
    """
    if source.format == "image":
        return read_image(source.path, resolution=resolution)[None]
    return sampling.read_spread(
        source.path, most_frames=most_frames, frames_per_second=frames_per_second, resolution=resolution
    )


def read_windows(source: Source, *, config: PrepareConfig, resolution: int) -> Iterator[Frames]:
    """Yield all frames of a file in order, `config.max_frames` at a time (fewer in the last).

    Raises:
        InputError: the file cannot be read, which may show late; see `ringworld.vision.media`.
    """
    if source.format == "image":
        yield read_image(source.path, resolution=resolution)[None]
        return
    rate = config.frames_per_second
    stream = stream_video(source.path, frames_per_second=rate, resolution=resolution)
    while window := [frame for _, frame in itertools.islice(stream, config.max_frames)]:
        yield np.stack(window)


def sample_frames(
    sources: Sequence[Source], *, most_frames: int, frames_per_second: float, resolution: int
) -> FrameSample:
    """Read about `most_frames` frames to train a frame tokenizer on, and a tenth as many to judge it by.

    Each file of a split gives the same number of frames, where it is long enough. Where no held-out file
    gives any, the last tenth of the frames to train on is held out in their place: of one video, its end.

    Raises:
        InputError: there is no video or image to train on, none can be read, or they have one frame in all.
    """
    read = partial(read_spread, frames_per_second=frames_per_second, resolution=resolution)
    failed: list[Quarantined] = []
    clips = _clips(sources, "train", most_frames, read=read, failed=failed)
    held_out = _clips(sources, "held_out", _tenth(most_frames), read=read, failed=failed)
    if not clips:
        raise nothing_usable("the videos and images to train on", failed, field="videos")
    of: HeldOutOf = "files held out" if held_out else "files trained on"
    frames = np.concatenate([*clips, *held_out])
    kept = sum(map(len, clips)) if held_out else len(frames) - _tenth(len(frames))
    if not kept:
        raise InputError(
            "the videos and images to train on have one frame in all, but one is held out to judge the frame "
            "tokenizer by",
            field="videos",
            remedy="use a longer video, or more videos or images",
        )
    return FrameSample(train=frames[:kept], held_out=frames[kept:], held_out_of=of, quarantined=tuple(failed))


def _clips(
    sources: Sequence[Source],
    split: Split,
    most_frames: int,
    *,
    read: Callable[..., Frames],
    failed: list[Quarantined],
) -> list[np.ndarray]:
    """Return about `most_frames` frames of one split, file by file; what cannot be read goes to `failed`."""
    pictures = [s for s in sources if s.split == split and s.format in ("video", "image")]
    chosen = sampling.evenly(pictures, most_frames)
    clips = []
    for source in chosen:
        with quarantine(source.relative, into=failed):
            clips.append(read(source, most_frames=math.ceil(most_frames / len(chosen))))
    return clips


def _tenth(frames: int) -> int:
    return max(1, frames // 10)
