"""How tokens are drawn, and how much is decoded at once."""

from dataclasses import dataclass

from ringworld.core.ranges import check_range


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
        distribution = "Use 0 for the likeliest token, 1 for the model's own distribution."
        check_range(self, "temperature", least=0, remedy=distribution)
        check_range(self, "top_k", least=0, remedy="Use 0 to keep every id.")
        check_range(self, "guidance_scale", least=0, remedy="Use 1 for no guidance.")
        check_range(self, "seed", least=0, below=2**32, remedy="Choose another seed.")


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
        check_range(self, "max_context_tokens", "max_rows", "max_cache_tokens", least=1)


GREEDY = SamplingConfig(temperature=0.0)
"""Always the likeliest id."""
