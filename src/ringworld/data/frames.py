"""Frames of videos and images: the whole of a file in few frames, or all of it piece by piece."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import UInt8

from ringworld.core.errors import InputError
from ringworld.data.config import HeldOutOf, PrepareConfig, Split
from ringworld.data.copies import named_as_held
from ringworld.data.quarantine import Quarantined, nothing_usable, quarantine
from ringworld.data.samples import MediaFile
from ringworld.data.sources import Source
from ringworld.vision import sampling
from ringworld.vision.media import read_image, stream_wanted

Frames = UInt8[np.ndarray, "frames side side 3"]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class FrameSample:
    """Frames of many files, to train a frame tokenizer on and to judge it by."""

    train: Frames
    held_out: UInt8[np.ndarray, "held_out side side 3"]
    held_out_of: HeldOutOf
    quarantined: tuple[Quarantined, ...]
    """Files that gave none."""


def stream_frames(
    clip: MediaFile,
    *,
    config: PrepareConfig,
    resolution: int,
    wanted: Callable[[int], bool] = lambda index: True,
) -> Iterator[UInt8[np.ndarray, "side side 3"] | None]:
    """Yield the one frame of an image, or the frames of a video at `config.frames_per_second`.

    Args:
        clip: the file.
        config: of preparation.
        resolution: side of a frame in pixels.
        wanted: whether a frame is, by its index; None comes in place of others.

    Raises:
        InputError: the file cannot be read, which may show late; see `ringworld.vision.media`.
    """
    rate = config.frames_per_second
    with named_as_held(clip):
        if clip.form == "image":
            yield read_image(clip.path, resolution=resolution) if wanted(0) else None
            return
        stream = stream_wanted(clip.path, wanted=wanted, frames_per_second=rate, resolution=resolution)
        for _, frame in stream:
            yield frame


def read_spread(clip: MediaFile, *, config: PrepareConfig, resolution: int) -> Frames:
    """Read at most `config.max_frames` frames spread over the whole file, as `vision.sampling` does.

    Raises:
        InputError: the file cannot be read; see `ringworld.vision.media`.
    """
    most, rate = config.max_frames, config.frames_per_second
    with named_as_held(clip):
        if clip.form == "image":
            return read_image(clip.path, resolution=resolution)[None]
        return sampling.read_spread(
            clip.path, most_frames=most, frames_per_second=rate, resolution=resolution
        )


def sample_frames(
    sources: Sequence[Source], *, most_frames: int, config: PrepareConfig, resolution: int
) -> FrameSample:
    """Read about `most_frames` frames to train a frame tokenizer on, and a tenth as many to judge it by.

    Each file of a split gives the same number of frames, where it is long enough. Where no held-out file
    gives any, the last tenth of the frames to train on is held out in their place: of one video, its end.

    Raises:
        InputError: there is no video or image to train on, none can be read, or they have one frame in all.
    """
    failed: list[Quarantined] = []

    def read(split: Split, most: int) -> Iterator[Frames]:
        pictures = [one for one in sources if one.reader.shows != "text" and _may_hold(one, split)]
        chosen = sampling.evenly(pictures, most)
        for source in chosen:
            with quarantine(source.relative, into=failed):
                left = math.ceil(most / len(chosen))
                for sample in source.reader.read(source, config=config, quarantined=failed):
                    for clip in sample.clips if sample.split == split and left > 0 else ():
                        if isinstance(clip, MediaFile):
                            few = min(left, config.max_frames) if source.reader.holds == "many" else left
                            of_each = replace(config, max_frames=few)
                            frames = read_spread(clip, config=of_each, resolution=resolution)
                            left -= len(frames)
                            yield frames

    clips, held_out = [*read("train", most_frames)], [*read("held_out", _tenth(most_frames))]
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


def _may_hold(source: Source, split: Split) -> bool:
    return source.split == split or (source.reader.holds == "many" and split == "held_out")


def _tenth(frames: int) -> int:
    return max(1, frames // 10)
