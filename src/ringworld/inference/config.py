"""How tokens are drawn, and how much is decoded at once."""

from dataclasses import dataclass, field
from typing import TypedDict

from ringworld.core.ranges import check_range
from ringworld.model.config import CacheType


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplingConfig:
    """How the next token is drawn from the ids that the grammar allows.

    The order is that of transformers: guidance, repetition penalty, temperature, top-k, top-p, min-p.

    LWM's own defaults are, for an image, `top_k=8192, guidance_scale=5`, and for a video
    `top_k=1000, guidance_scale=1` (its `scripts/sample_image.py` and `sample_video.py`).
    """

    temperature: float = 1.0
    """Divides the logits; 0 takes the likeliest id."""
    top_k: int = 0
    """Draw among the likeliest `top_k` ids only; 0 keeps them all."""
    top_p: float = 1.0
    """Draw among the fewest likeliest ids that are together at least so likely; 1 keeps them all
    (nucleus sampling, arXiv 1904.09751)."""
    min_p: float = 0.0
    """Draw among the ids at least so likely, as a share of the likeliest one; 0 keeps them all
    (arXiv 2407.01082)."""
    repetition_penalty: float = 1.0
    """Divides the positive, and multiplies the negative logits of ids that the prompt or the output holds; 1
    is none (CTRL, arXiv 1909.05858)."""
    guidance_scale: float = 1.0
    """Classifier-free guidance of images and video, `uncond + scale * (cond - uncond)`; 1 is none."""
    seed: int = 0
    """The same seed and prompt give the same output, whatever else is in the batch."""

    def __post_init__(self) -> None:
        """Refuse what no distribution can be drawn with."""
        distribution = "use 0 for the likeliest token, 1 for the model's own distribution"
        check_range(self, "temperature", least=0, remedy=distribution)
        check_range(self, "top_k", least=0, remedy="use 0 to keep every id")
        check_range(self, "top_p", above=0, most=1, remedy="use 1 to keep every id")
        check_range(self, "min_p", least=0, most=1, remedy="use 0 to keep every id")
        check_range(self, "repetition_penalty", above=0, remedy="use 1 for no penalty")
        check_range(self, "guidance_scale", least=0, remedy="use 1 for no guidance")
        check_range(self, "seed", least=0, below=2**32)


class TextSampling(TypedDict, total=False):
    """Fields of `SamplingConfig` in which text differs from the model's defaults; None leaves one."""

    temperature: float | None
    top_k: int | None
    top_p: float | None
    min_p: float | None
    repetition_penalty: float | None
    seed: int | None


class DrawingSampling(TextSampling, total=False):
    """Fields in which frames do."""

    guidance_scale: float | None


GREEDY = SamplingConfig(temperature=0.0)
"""Always the likeliest id."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplingDefaults:
    """How a model samples where the caller does not say; part of its folder."""

    text: SamplingConfig = field(default_factory=SamplingConfig)
    """Of text that continues a text."""
    answer: SamplingConfig = GREEDY
    """Of an answer to a question."""
    image: SamplingConfig = field(default_factory=SamplingConfig)
    """Of a single frame."""
    video: SamplingConfig = field(default_factory=SamplingConfig)
    """Of several frames."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WatchingConfig:
    """How a model reads the videos that it is asked about: as it did in training."""

    max_frames: int = 16
    """A longer video is thinned to these, spread over the whole of it."""
    frames_per_second: float = 4.0
    """Rate at which a video that is short enough is read."""

    def __post_init__(self) -> None:
        """Refuse a video without frames."""
        check_range(self, "max_frames", of="watching", least=1)
        check_range(self, "frames_per_second", of="watching", above=0)


@dataclass(frozen=True, kw_only=True, slots=True)
class GenerationLimits:
    """How much is decoded at once.

    A call is cut into batches of few shapes, so that few programs are compiled: the number of sequences is a
    power of two, and prompts and answers are padded to the next power of two or one and a half times one.
    """

    max_context_tokens: int
    """Longest prompt and answer together, in tokens."""
    max_sequences: int = 32
    """Most sequences decoded together; guided generation takes two for each caption."""
    max_cache_tokens: int = 65536
    """Most cache slots of a batch, sequences times slots; a single sequence may need more and gets it."""
    chunk_tokens: int = 2048
    """A longer prompt is read so many tokens at a time; a power of two."""

    def __post_init__(self) -> None:
        """Refuse sizes below one."""
        sizes = ("max_context_tokens", "max_sequences", "max_cache_tokens", "chunk_tokens")
        check_range(self, *sizes, least=1)


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineConfig:
    """How much an engine does at once; memory and compiled programs depend on it."""

    max_sequences: int = 16
    """Sequences that are decoded together; a step costs as much for fewer."""
    cache_tokens: int = 0
    """Tokens that the cache holds, of all sequences and of earlier ones, at least a context; 0 holds one
    context, or two of up to 32K."""
    page_tokens: int = 0
    """Tokens of a page, in whole numbers of which prefixes are reused; 0 takes 32, and of contexts beyond
    32K a thousandth."""
    cache_type: CacheType = "compute"
    """How keys and values are kept: as they are computed, or rounded to 255 steps of the largest number of
    each token's head."""
    chunk_tokens: int = 256
    """Most tokens of prompts that are read between two steps."""
    max_waiting: int = 128
    """Requests that may wait; one more is refused."""

    def __post_init__(self) -> None:
        """Refuse sizes that are none."""
        check_range(self, "max_sequences", "chunk_tokens", "max_waiting", least=1)
        check_range(self, "cache_tokens", "page_tokens", least=0)
