"""Configuration of the toy world, preparation, packing and mixtures."""

from dataclasses import dataclass, fields
from typing import Literal, get_args

from ringworld.core.errors import InputError

Kind = Literal["text", "text_qa", "video", "video_caption", "video_qa", "caption_video", "caption_image"]
"""What an example is, and so which of its tokens carry loss.

| kind | tokens | loss on |
|---|---|---|
| text | a document, or a piece of one | all |
| text_qa | a document, a question about it, the answer | the answer |
| video | an uncaptioned video or image | all |
| video_caption | a video or image, then its caption | the caption |
| video_qa | a question, the video or image, the answer | the answer |
| caption_video | a request for a video, then the video | the video |
| caption_image | a request for an image, then the image | the image |
"""
KINDS: tuple[Kind, ...] = get_args(Kind)
Split = Literal["train", "held_out"]
SPLITS: tuple[Split, ...] = get_args(Split)


@dataclass(frozen=True, kw_only=True, slots=True)
class ToyWorldConfig:
    """Videos of moving shapes and documents that hold facts."""

    clips: int = 200
    """Number of videos to train on."""
    held_out_clips: int = 20
    """Number of further videos, no frame of which is drawn in any video that is trained on."""
    frame_pixels: int = 64
    """Width and height of the videos."""
    frames_per_second: int = 8
    """Frame rate of the videos."""
    clip_seconds: float = 2.0
    """Length of each video."""
    cut_fraction: float = 0.3
    """Part of the videos that cut to a second scene in the middle."""
    shape_pixels: int = 24
    """Width and height of each shape."""
    speed_pixels: float = 16.0
    """Pixels that a shape moves in a second."""
    grid_pixels: int = 4
    """Shapes stand at multiples of this, so that frames have fewer distinct patches; 0 is no grid."""
    documents: int = 200
    """Number of text files."""
    shortest_words: int = 70
    """Length of the shortest document."""
    longest_words: int = 4500
    """Length of the longest document; lengths are spread evenly over their logarithm."""
    most_facts: int = 4
    """A document holds from one to this many needles, and up to half as many other facts of each family."""
    seed: int = 0
    """Same seed, same files."""

    def __post_init__(self) -> None:
        """Refuse sizes that leave the shapes no room."""
        room = self.frame_pixels - self.shape_pixels - 2 * self.grid_pixels
        travel = self.speed_pixels * self.clip_seconds
        words = f"{self.shortest_words} to {self.longest_words}"
        _require(self.shape_pixels >= 4, "shape_pixels", f"{self.shape_pixels}", "at least 4")
        _require(travel <= room, "toy world travel", f"{travel:g} pixels in a clip", f"at most {room}")
        _require(self.clips >= 0, "clips", f"{self.clips}", "0 or more")
        _require(self.held_out_clips >= 0, "held_out_clips", f"{self.held_out_clips}", "0 or more")
        _require(self.documents >= 0, "documents", f"{self.documents}", "0 or more")
        _require(10 <= self.shortest_words <= self.longest_words, "words", words, "10 or more, rising")
        _require(self.most_facts >= 1, "most_facts", f"{self.most_facts}", "at least 1")
        _require(0 <= self.cut_fraction <= 1, "cut_fraction", f"{self.cut_fraction}", "0 to 1")


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
    """Part of the files that is never trained on, chosen by the hash of their path."""
    drop_caption_fraction: float = 0.1
    """Part of the generation examples without their caption, for classifier-free guidance."""
    images_per_video: int = 1
    """Image generation examples made of single frames of each captioned video."""
    files_per_shard: int = 32
    """Files whose examples are written, and if need be written again, together."""
    max_text_bytes: int = 256 * 2**20
    """Largest text file that is read."""
    seed: int = 0
    """Decides which examples lose their caption and which frames become images."""

    def __post_init__(self) -> None:
        """Refuse values that could never give an example."""
        _require(self.frames_per_second > 0, "frames_per_second", f"{self.frames_per_second}", "more than 0")
        _require(self.max_frames >= 1, "max_frames", f"{self.max_frames}", "at least 1")
        _require(self.document_tokens >= 16, "document_tokens", f"{self.document_tokens}", "at least 16")
        _require(self.files_per_shard >= 1, "files_per_shard", f"{self.files_per_shard}", "at least 1")
        for name in ("held_out_fraction", "drop_caption_fraction"):
            _require(0 <= getattr(self, name) < 1, name, f"{getattr(self, name)}", "0 or more, below 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class PackingConfig:
    """How examples are laid end to end."""

    open_rows: int = 16
    """Rows that are filled at the same time: more waste less, and hold more examples in memory."""

    def __post_init__(self) -> None:
        """Refuse to pack into no row at all."""
        _require(self.open_rows >= 1, "open_rows", f"{self.open_rows}", "at least 1")


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

    def __post_init__(self) -> None:
        """Refuse negative weights and a mixture of nothing."""
        weights = [getattr(self, field.name) for field in fields(self)]
        _require(
            min(weights) >= 0 and max(weights) > 0,
            "mixture",
            f"{weights}",
            "no negative weight and one above 0",
        )

    @property
    def weights(self) -> dict[Kind, float]:
        """The weights above zero, by kind."""
        return {kind: getattr(self, kind) for kind in KINDS if getattr(self, kind) > 0}


def _require(holds: bool, what: str, got: str, expected: str) -> None:
    if not holds:
        raise InputError(what=what, got=got, expected=expected, remedy="Change the configuration.")
