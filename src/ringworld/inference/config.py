"""How tokens are drawn, and how much is decoded at once."""

import math
from dataclasses import dataclass

from ringworld.core.errors import InputError


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplingConfig:
    """How the next token is drawn from the ids that the grammar allows.

    LWM's own defaults are, for an image, `top_k=8192, guidance_scale=5`, and for a video
    `top_k=1000, guidance_scale=1` (its `scripts/sample_image.py` and `sample_video.py`).
    """

    temperature: float = 1.0
    """Divides the logits; 0 takes the likeliest id."""
    top_k: int = 0
    """Draw among the likeliest `top_k` ids only; 0 keeps them all."""
    guidance_scale: float = 1.0
    """Classifier-free guidance of images and video, `uncond + scale * (cond - uncond)`; 1 is none."""
    seed: int = 0
    """The same seed and prompt give the same output, whatever else is in the batch."""

    def __post_init__(self) -> None:
        """Refuse what no distribution can be drawn with."""
        _require(
            math.isfinite(self.temperature) and self.temperature >= 0,
            what="temperature",
            got=self.temperature,
            expected="a finite number, 0 or more",
            remedy="Use 0 for the likeliest token, 1 for the model's own distribution.",
        )
        _require(
            self.top_k >= 0,
            what="top k",
            got=self.top_k,
            expected="0 or more",
            remedy="Use 0 to keep every id.",
        )
        _require(
            math.isfinite(self.guidance_scale) and self.guidance_scale >= 0,
            what="guidance scale",
            got=self.guidance_scale,
            expected="a finite number, 0 or more",
            remedy="Use 1 for no guidance.",
        )
        _require(
            0 <= self.seed < 2**32,
            what="seed",
            got=self.seed,
            expected="an integer from 0 to 2**32 - 1",
            remedy="Choose another seed.",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineConfig:
    """How much the engine decodes at once.

    A call is cut into batches of few shapes, so that few programs are compiled: the number of rows is a power
    of two, and prompts and answers are padded to the next power of two or one and a half times one.
    """

    max_context_tokens: int
    """Longest prompt and answer together, in tokens."""
    max_rows: int = 32
    """Most sequences decoded together; guided generation takes two for each caption."""
    max_cache_tokens: int = 65536
    """Most cache slots of a batch, rows times slots; a single sequence may need more and gets it."""

    def __post_init__(self) -> None:
        """Refuse sizes below one."""
        for name in ("max_context_tokens", "max_rows", "max_cache_tokens"):
            _require(
                getattr(self, name) >= 1,
                what=name.replace("_", " "),
                got=getattr(self, name),
                expected="at least 1",
                remedy="Give a positive number.",
            )


def _require(holds: bool, *, what: str, got: object, expected: str, remedy: str) -> None:
    if not holds:
        raise InputError(what=what, got=str(got), expected=expected, remedy=remedy)


GREEDY = SamplingConfig(temperature=0.0)
"""Always the likeliest id."""
