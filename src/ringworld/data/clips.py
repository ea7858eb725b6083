"""Codes of clips: made once in preparation, and chosen from by each stage."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int, Int32

from ringworld.core.ahead import ahead
from ringworld.core.errors import InputError
from ringworld.data.config import ClipConfig, PrepareConfig
from ringworld.data.frame_batches import BATCH_FRAMES, FrameBatches, FrameEncoder
from ringworld.data.frames import stream_frames
from ringworld.data.samples import Clip, CodedClip, MediaFile, Sample
from ringworld.text.vocabulary import Vocabulary
from ringworld.vision.sampling import Thinned, evenly

Alive = Callable[[], None]
_ROUNDING = 1e-6


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ClipCodes:
    """The codes of a clip, and how fast its frames follow each other."""

    codes: Int[np.ndarray, "frames codes"]
    frames_per_second: float
    """Of frames that were thinned, on the average."""
    seconds: float
    """How long the whole video is, rounded up to the rate of preparation; 0 for an image."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ReadClip:
    """A clip whose frames are read, and may wait to be encoded."""

    frames: Sequence[int]
    """Their numbers in `FrameBatches`."""
    frames_per_second: float
    seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipEncoder:
    """Turns clips into codes."""

    config: PrepareConfig
    vocabulary: Vocabulary
    frame_tokenizer: FrameEncoder | None
    """None where all is text."""
    batches: FrameBatches
    """Of the same."""

    def read(self, sample: Sample, *, alive: Alive = lambda: None) -> list[list[ReadClip | ClipCodes]]:
        """Read the clips of a sample, which are encoded later.

        Args:
            sample: what shows them.
            alive: called with each frame that is read.

        Returns:
            All frames of footage, `config.max_frames` at a time, fewer in the last, each by itself. Else all
            clips together, each with at most `config.max_frames` frames that are spread over it.

        Raises:
            InputError: a clip cannot be read to its end, which may show late, or is not to be encoded.
        """
        if sample.is_footage:
            return [[window] for clip in sample.clips for window in self._windows(clip, alive)]
        return [[self._spread(clip, alive) for clip in sample.clips]]

    def encoded(self, clip: ReadClip | ClipCodes) -> ClipCodes:
        """Return a clip with its codes, where `batches` has encoded its frames."""
        if isinstance(clip, ClipCodes):
            return clip
        codes = self.batches.codes(clip.frames)
        return ClipCodes(codes=codes, frames_per_second=clip.frames_per_second, seconds=clip.seconds)

    def _windows(self, clip: Clip, alive: Alive) -> Iterator[ReadClip | ClipCodes]:
        most = self.config.max_frames
        if isinstance(clip, CodedClip):
            codes = self._coded(clip)
            said = self._said(clip, (), read=len(codes))
            for start in range(0, len(codes), most):
                yield ClipCodes(codes=codes[start : start + most], **said)
            return
        found, read = self._read(clip, alive, wanted=lambda index: True)
        numbers, said = [number for _, number in found], self._said(clip, (), read=read)
        for start in range(0, read, most):
            yield ReadClip(frames=numbers[start : start + most], **said)

    def _spread(self, clip: Clip, alive: Alive) -> ReadClip | ClipCodes:
        """Thin a clip while it is read, as `vision.sampling.read_spread` does."""
        most = self.config.max_frames
        if isinstance(clip, CodedClip):
            codes = self._coded(clip)
            chosen = evenly([*range(len(codes))], most)
            return ClipCodes(codes=codes[chosen], **self._said(clip, chosen, read=len(codes)))
        thinned = Thinned[int](most=most)
        found, read = self._read(clip, alive, wanted=thinned.wants)
        thinned.add(found)
        indices, numbers = zip(*thinned.chosen())
        return ReadClip(frames=numbers, **self._said(clip, indices, read=read))

    def _said(self, clip: Clip, chosen: Sequence[int], *, read: int) -> dict[str, float]:
        """Return the rate and the seconds of a clip, of which these frames were chosen, if not all."""
        rate = self.config.frames_per_second
        if len(chosen) > 1:
            rate *= (len(chosen) - 1) / (chosen[-1] - chosen[0])
        return {"frames_per_second": rate, "seconds": self._seconds(clip, read)}

    def _seconds(self, clip: Clip, frames: int) -> float:
        is_image = clip.form == "image" if isinstance(clip, MediaFile) else frames == 1
        return 0.0 if is_image else frames / self.config.frames_per_second

    def _read(
        self, clip: MediaFile, alive: Alive, *, wanted: Callable[[int], bool]
    ) -> tuple[list[tuple[int, int]], int]:
        """Return index and number of each wanted frame of a clip, and how many frames it has."""
        if self.frame_tokenizer is None or not self.vocabulary.codes:
            problem = f"{clip.path} is a {clip.form}, but there is no frame tokenizer"
            raise InputError(problem, path=clip.path, remedy="use a tokenizer folder that has one")
        read, found = 0, []
        stream = stream_frames(
            clip, config=self.config, resolution=self.frame_tokenizer.resolution, wanted=wanted
        )
        with closing(ahead(stream, most=BATCH_FRAMES)) as frames:
            for read, frame in enumerate(frames, start=1):
                alive()
                if frame is not None:
                    found.append((read - 1, self.batches.add(frame)))
        return found, read

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
