"""Codes of clips: made once in preparation, and chosen from by each stage."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int, Int32, UInt8

from ringworld.core.ahead import ahead
from ringworld.core.errors import InputError
from ringworld.data.config import ClipConfig, PrepareConfig
from ringworld.data.frames import stream_frames
from ringworld.data.samples import Clip, CodedClip, MediaFile, Sample
from ringworld.text.vocabulary import Vocabulary
from ringworld.vision.sampling import Thinned, evenly

_BATCH_FRAMES = 32
"""Frames that are encoded at once, while as many more are read; no others are held as pixels."""
_ROUNDING = 1e-6


@runtime_checkable
class FrameEncoder(Protocol):
    """What preparation needs of `ringworld.vision.frame_tokenizer.FrameTokenizer`."""

    @property
    def resolution(self) -> int:
        """Side of a frame in pixels."""
        ...

    @property
    def fingerprint(self) -> str:
        """What changes when a weight does."""
        ...

    def encode(self, frames: UInt8[np.ndarray, "frames side side 3"]) -> Int32[np.ndarray, "frames codes"]:
        """Return the codes of each frame."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ClipCodes:
    """The codes of a clip, and how fast its frames follow each other."""

    codes: Int[np.ndarray, "frames codes"]
    frames_per_second: float
    """Of frames that were thinned, on the average."""
    seconds: float
    """How long the whole video is, rounded up to the rate of preparation; 0 for an image."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipEncoder:
    """Turns clips into codes."""

    config: PrepareConfig
    vocabulary: Vocabulary
    frame_tokenizer: FrameEncoder | None
    """None where all is text."""
    alive: Callable[[], None] = lambda: None
    """Called with each frame that is read."""

    def windows(self, sample: Sample) -> list[ClipCodes]:
        """Return all frames of footage, `config.max_frames` at a time, fewer in the last.

        Raises:
            InputError: the video cannot be read to its end, which may show late, or is not to be encoded.
        """
        (clip,) = sample.clips
        rate, most = self.config.frames_per_second, self.config.max_frames
        if isinstance(clip, CodedClip):
            codes = self._coded(clip)
        else:
            codes = np.concatenate([rows for _, _, rows in self._batches(clip, wanted=lambda index: True)])
        return [
            ClipCodes(
                codes=codes[start : start + most],
                frames_per_second=rate,
                seconds=self._seconds(clip, len(codes)),
            )
            for start in range(0, len(codes), most)
        ]

    def spread(self, clip: Clip) -> ClipCodes:
        """Return at most `config.max_frames` frames that are spread over a whole clip, as `vision.sampling`.

        Codes are thinned while the video is read, as frames are by `read_spread`.

        Raises:
            InputError: the clip cannot be read, or is not to be encoded.
        """
        rate, most = self.config.frames_per_second, self.config.max_frames
        if isinstance(clip, CodedClip):
            every = list(enumerate(self._coded(clip)))
            chosen, read = evenly(every, most), len(every)
        else:
            thinned, read = Thinned[np.ndarray](most=most), 0
            for so_far, indices, rows in self._batches(clip, wanted=thinned.wants):
                thinned.add(zip(indices, rows))
                read = so_far
            chosen = thinned.chosen()
        codes = np.stack([row for _, row in chosen])
        if len(chosen) > 1:
            rate *= (len(chosen) - 1) / (chosen[-1][0] - chosen[0][0])
        return ClipCodes(codes=codes, frames_per_second=rate, seconds=self._seconds(clip, read))

    def _seconds(self, clip: Clip, frames: int) -> float:
        is_image = clip.form == "image" if isinstance(clip, MediaFile) else frames == 1
        return 0.0 if is_image else frames / self.config.frames_per_second

    def _batches(
        self, clip: MediaFile, *, wanted: Callable[[int], bool]
    ) -> Iterator[tuple[int, list[int], Int32[np.ndarray, "frames codes"]]]:
        """Yield how many frames were read, and the indices and codes of the next of those that are wanted."""
        if self.frame_tokenizer is None or not self.vocabulary.codes:
            problem = f"{clip.path} is a {clip.form}, but there is no frame tokenizer"
            raise InputError(problem, path=clip.path, remedy="use a tokenizer folder that has one")
        read, indices, pending = 0, [], []
        stream = stream_frames(
            clip, config=self.config, resolution=self.frame_tokenizer.resolution, wanted=wanted
        )
        with closing(ahead(stream, most=_BATCH_FRAMES)) as frames:
            for read, frame in enumerate(frames, start=1):
                self.alive()
                if frame is not None:
                    indices.append(read - 1)
                    pending.append(frame)
                if len(pending) == _BATCH_FRAMES:
                    yield read, indices, self.frame_tokenizer.encode(np.stack(pending))
                    indices, pending = [], []
        rest = (
            self.frame_tokenizer.encode(np.stack(pending))
            if pending
            else np.zeros((0, self.vocabulary.codes_per_frame), np.int32)
        )
        yield read, indices, rest

    def _coded(self, clip: CodedClip) -> Int32[np.ndarray, "frames codes"]:
        each, most = self.vocabulary.codes_per_frame, self.vocabulary.codes
        if not each or len(clip.codes) % each or not all(0 <= code < most for code in clip.codes):
            raise InputError(
                f"{len(clip.codes)} codes are not whole frames of {each} codes, each from 0 to {most - 1}",
                field="vision",
                remedy="use the frame tokenizer that made them",
            )
        return np.array(clip.codes, np.int32).reshape(-1, each)


def count_shown(
    frames: Int[np.ndarray, " clips"],
    frames_per_second: Sequence[float] | np.ndarray,
    *,
    clips: ClipConfig,
) -> Int[np.ndarray, " clips"]:
    """Return how many frames of each clip a stage draws.

    Args:
        frames: that were prepared of each clip.
        frames_per_second: of these.
        clips: what of them is drawn.
    """
    counts = _at_rate(frames, _steps(np.asarray(frames_per_second, float), clips))
    return np.minimum(counts, clips.max_frames) if clips.max_frames else counts


def shown(frames: int, frames_per_second: float, *, clips: ClipConfig) -> Int[np.ndarray, " shown"]:
    """Return which of the prepared frames are drawn at the rate of a stage, before it takes only so many.

    Of 8 frames at 4 a second, 2 a second are `0 2 4 6`; of these, `evenly` takes `0 2 6` where 3 are drawn.
    """
    if not clips.frames_per_second:
        return np.arange(frames)
    (step,) = _steps(np.array([frames_per_second]), clips)
    (count,) = _at_rate(np.array([frames]), step)
    return (np.arange(count) * step + _ROUNDING).astype(int)


def _at_rate(frames: Int[np.ndarray, " clips"], steps: Any) -> Int[np.ndarray, " clips"]:
    return ((frames - 1) / steps + _ROUNDING).astype(int) + 1


def _steps(rates: np.ndarray, clips: ClipConfig) -> np.ndarray:
    if not clips.frames_per_second:
        return np.ones(len(rates))
    return np.maximum(1.0, rates / clips.frames_per_second)
