"""The toy world, and what a quickstart runs with."""

from dataclasses import dataclass

from ringworld.core.errors import InputError
from ringworld.core.ranges import check_number, check_range
from ringworld.presets import RunConfig, extend_needles, needles, quickstart, smoke


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
        check_range(self, "frame_pixels", least=self.shape_pixels, most=4096)
        check_range(self, "clip_seconds", above=0)
        check_range(self, "cut_fraction", least=0, most=1)
        check_range(self, "shortest_words", least=10, most=self.longest_words)
        room, travel = self.room_pixels, self.speed_pixels * self.clip_seconds
        if travel > room:
            problem = f"a shape travels {travel:g} pixels in a clip, but the frame leaves it {room}"
            raise InputError(problem, field="speed_pixels", value=self.speed_pixels)
        check_range(self, "seed", least=0, below=2**63)

    @property
    def room_pixels(self) -> int:
        """How far a shape can go from one edge of the frame to the other."""
        return self.frame_pixels - self.shape_pixels


@dataclass(frozen=True, kw_only=True, slots=True)
class NeedleWorldConfig:
    """Documents that hide needles, and conversations that ask for them."""

    lengths_tokens: tuple[int, ...]
    """Of a document with its conversation."""
    documents: tuple[int, ...]
    """Number of documents of each length."""
    dense_fraction: float = 0.5
    """Part of the documents that hold as many needles as fit, all of which are asked for."""
    most_sparse_facts: int = 4
    """Needles that any other document holds at most."""
    copied: int = 0
    """Documents besides, of the shortest length: words at random, with the question to write them again."""
    held_out: int = 16
    """Documents that are not trained on, of the middle one of the lengths."""
    haystacks: int = 4
    """Held-out documents of filler alone."""
    haystack_words: int = 4000
    """Length of each."""
    seed: int = 0
    """Same seed, same files."""

    def __post_init__(self) -> None:
        """Refuse lengths without a number of documents, and those that hold no needle."""
        if not self.lengths_tokens or len(self.lengths_tokens) != len(self.documents):
            raise InputError(
                "needle documents need lengths, and a number of documents for each",
                field="lengths_tokens",
                value=self.lengths_tokens,
            )
        for name, least in (("lengths_tokens", 100), ("documents", 0)):
            for number in getattr(self, name):
                check_number(name, number, least=least, below=2**31)
        check_range(self, "most_sparse_facts", "haystacks", "haystack_words", least=1, below=2**31)
        check_range(self, "copied", "held_out", least=0)
        check_range(self, "dense_fraction", least=0, most=1)
        check_range(self, "seed", least=0, below=2**63)


@dataclass(frozen=True, kw_only=True, slots=True)
class ExtensionConfig:
    """How the context of the kept model is extended."""

    documents: NeedleWorldConfig
    """What it is trained on; their haystacks are what it is measured in."""
    run: RunConfig
    """The stages, and what is measured before and after."""


@dataclass(frozen=True, kw_only=True, slots=True)
class QuickstartConfig:
    """A run, and the world that is rendered for it."""

    toy_world: ToyWorldConfig | NeedleWorldConfig
    """Videos and documents that the quickstart renders for itself."""
    run: RunConfig
    """From files to a trained model."""
    extension: ExtensionConfig | None = None
    """Of a kept model, beside what is trained from nothing; None leaves it out."""


def full() -> QuickstartConfig:
    """Return the quickstart: minutes on two CPU cores."""
    toy_world = ToyWorldConfig(
        clips=1600,
        held_out_clips=24,
        clip_seconds=1.5,
        cut_fraction=0.2,
        shape_pixels=32,
        grid_pixels=16,
        speed_pixels=21.0,
        documents=600,
        longest_words=1500,
    )
    documents = NeedleWorldConfig(lengths_tokens=(1024, 2048, 4096), documents=(150, 100, 100))
    extension = ExtensionConfig(documents=documents, run=extend_needles())
    return QuickstartConfig(toy_world=toy_world, run=quickstart(), extension=extension)


def tiny() -> QuickstartConfig:
    """Return one too small to learn anything, about a minute: what the tests run."""
    toy_world = ToyWorldConfig(
        clips=12,
        held_out_clips=3,
        documents=8,
        frame_pixels=32,
        shape_pixels=12,
        speed_pixels=4.0,
        longest_words=300,
    )
    return QuickstartConfig(toy_world=toy_world, run=smoke())


def retrieval() -> QuickstartConfig:
    """Return a model of text alone that learns to find needles, from nothing to 8K tokens."""
    world = NeedleWorldConfig(
        lengths_tokens=(128, 256, 512, 1024, 2048, 4096, 8192),
        documents=(6000, 3000, 2000, 1000, 300, 300, 200),
        copied=10_000,
    )
    return QuickstartConfig(toy_world=world, run=needles())


QUICKSTARTS = {"quickstart": full, "smoke": tiny, "needles": retrieval}
