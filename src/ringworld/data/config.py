"""Configuration of preparation, packing and mixtures."""

from dataclasses import dataclass
from typing import Literal, get_args

from ringworld.core.errors import InputError
from ringworld.core.ranges import check_range

Kind = Literal["text", "text_qa", "video", "video_caption", "video_qa", "caption_video", "caption_image"]
"""What an example is, which decides which of its tokens carry loss.

| kind | tokens | loss on |
|---|---|---|
| text | a document, or a piece of one | all |
| text_qa | a document, then questions about it, each with its answer | the answers |
| video | an uncaptioned video or image | all |
| video_caption | a video or image, then its caption | the caption |
| video_qa | a question, the video or image, the answer | the answer |
| caption_video | a request for a video, then the video | the video |
| caption_image | a request for an image, then the image | the image |
"""
KINDS: tuple[Kind, ...] = get_args(Kind)
Split = Literal["train", "held_out"]
HeldOutOf = Literal["files held out", "files trained on"]
"""Where the frames come from that a frame tokenizer is judged by; either way it was not trained on them."""
TextJudgedOn = Literal["text held out", "text trained on"]
"""What a text tokenizer is judged by; the latter where nothing is held out."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PrepareConfig:
    """How files become examples; the resolution is the frame tokenizer's."""

    frames_per_second: float = 4.0
    """Rate at which frames are taken from a video, by timestamp."""
    max_frames: int = 8
    """Most frames of one example."""
    document_tokens: int = 8192
    """Longest text example; a longer document is cut into consecutive examples."""
    held_out_fraction: float = 0.1
    """Part of the files that is never trained on, chosen by the hash of their content."""
    drop_caption_fraction: float = 0.1
    """Part of the generation examples without their caption, for classifier-free guidance."""
    images_per_video: int = 1
    """Image generation examples made of single frames of each captioned video."""
    files_per_shard: int = 32
    """Files whose examples are written together, and again if one of them changes."""
    max_text_bytes: int = 256 * 2**20
    """Largest text file that is read."""
    seed: int = 0
    """Decides which examples lose their caption and which frames become images."""

    def __post_init__(self) -> None:
        """Refuse values that could never give an example."""
        check_range(self, "frames_per_second", above=0)
        check_range(self, "max_frames", "files_per_shard", least=1)
        check_range(self, "document_tokens", least=16)
        check_range(self, "held_out_fraction", "drop_caption_fraction", least=0, below=1)
        check_range(self, "images_per_video", "max_text_bytes", least=0)
        check_range(self, "seed", least=0, below=2**32)


@dataclass(frozen=True, kw_only=True, slots=True)
class PackingConfig:
    """How examples are laid end to end."""

    open_rows: int = 16
    """Rows that are filled at the same time: more waste less, and hold more examples in memory."""

    def __post_init__(self) -> None:
        """Refuse to pack into no row at all."""
        check_range(self, "open_rows", least=1)


@dataclass(frozen=True, kw_only=True, slots=True)
class MixtureConfig:
    """How often each kind of example is drawn, relative to the others; 0 leaves a kind out."""

    text: float = 1.0
    text_qa: float = 1.0
    video: float = 1.0
    video_caption: float = 1.0
    video_qa: float = 1.0
    caption_video: float = 1.0
    caption_image: float = 1.0
    shortest_tokens: int = 0
    """Shorter examples are not drawn: LWM trains each context on documents of its length."""

    def __post_init__(self) -> None:
        """Refuse negative weights and a mixture of nothing."""
        check_range(self, *KINDS, "shortest_tokens", least=0, of="mixture")
        if not self.weights:
            raise InputError("the mixture has no weight above 0", field="mixture", value=self)

    @property
    def weights(self) -> dict[Kind, float]:
        """The weights above zero, by kind."""
        return {kind: getattr(self, kind) for kind in KINDS if getattr(self, kind) > 0}
