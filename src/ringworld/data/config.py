"""Configuration of the toy world, preparation, packing and mixtures."""

from dataclasses import dataclass
from typing import Literal, get_args

from ringworld.core.ranges import check_range, require

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
HeldOutOf = Literal["files held out", "files trained on"]
"""Where the frames come from that a frame tokenizer is judged by; either way it was not trained on them."""
TextJudgedOn = Literal["text held out", "text trained on"]
"""What a text tokenizer is judged by; the latter where nothing is held out."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ToyWorldConfig:
    """Videos of moving shapes and documents that hold facts."""

    clips: int = 200
    """Number of videos to train on."""
    held_out_clips: int = 20
    """Number of further videos. Videos to train on show none of their scenes, and none of some poses (color,
    shape and place) that they show."""
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
        check_range(self, "clips", "held_out_clips", "documents", "speed_pixels", "grid_pixels", least=0)
        check_range(self, "frames_per_second", "most_facts", least=1)
        check_range(self, "shape_pixels", least=4)
        check_range(self, "clip_seconds", above=0)
        check_range(self, "cut_fraction", least=0, most=1)
        check_range(self, "shortest_words", least=10, most=self.longest_words)
        room, travel = self.room_pixels, self.speed_pixels * self.clip_seconds
        got, expected = f"{travel:g} pixels in a clip", f"at most {room}"
        require(travel <= room, "toy world travel", got=got, expected=expected)

    @property
    def room_pixels(self) -> int:
        """How far a shape can go from one edge of the frame to the other."""
        return self.frame_pixels - self.shape_pixels


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
        check_range(self, "frames_per_second", above=0)
        check_range(self, "max_frames", "files_per_shard", least=1)
        check_range(self, "document_tokens", least=16)
        check_range(self, "held_out_fraction", "drop_caption_fraction", least=0, below=1)
        check_range(self, "images_per_video", "max_text_bytes", least=0)


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

    def __post_init__(self) -> None:
        """Refuse negative weights and a mixture of nothing."""
        check_range(self, *KINDS, least=0, what="mixture weight of {}".format)
        require(len(self.weights) > 0, "mixture", got="no weight above 0", expected="at least one")

    @property
    def weights(self) -> dict[Kind, float]:
        """The weights above zero, by kind."""
        return {kind: getattr(self, kind) for kind in KINDS if getattr(self, kind) > 0}
