"""Configuration of preparation, packing and mixtures."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from ringworld.core.errors import InputError
from ringworld.core.ranges import check_number, check_range
from ringworld.text.template_name import TemplateName

Split = Literal["train", "held_out"]
Duplicates = Literal["keep", "exact", "near"]
Longer = Literal["split", "truncate", "leave_out"]
"""What becomes of an example that is longer than a context.

| longer | what may be cut | anything else |
|---|---|---|
| split | becomes several examples | is left out |
| truncate | ends where the context does | is left out |
| leave_out | is left out | is left out |
"""
HeldOutOf = Literal["files held out", "files trained on"]
"""Where the frames come from that a frame tokenizer is judged by; either way it was not trained on them."""
TextJudgedOn = Literal["text held out", "text trained on"]
"""What a text tokenizer is judged by; the latter where nothing is held out."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PrepareConfig:
    """How files become examples; the resolution is the frame tokenizer's."""

    frames_per_second: float = 4.0
    """Rate at which frames are taken from a video, by timestamp; a stage may draw fewer."""
    max_frames: int = 8
    """Most frames of one clip; a stage may draw fewer. A longer video without caption and questions becomes
    several clips, any other is thinned evenly."""
    document_tokens: int = 8192
    """Longest text example; a longer document is cut into consecutive examples."""
    held_out_fraction: float = 0.1
    """Part of the files that is never trained on, chosen by the hash of their content."""
    drop_caption_fraction: float = 0.1
    """Part of the generation examples without their caption, for classifier-free guidance."""
    images_per_video: int = 1
    """Image generation examples made of single frames of each captioned video."""
    files_per_shard: int = 32
    """Most files whose examples are written together, and again if one of them changes; about half as many
    on the average."""
    bytes_per_shard: int = 64 * 2**20
    """Most bytes of files whose examples are written together. JSON lines, Parquet and tars of more are
    divided into parts of about so many, which several processes read."""
    max_text_bytes: int = 256 * 2**20
    """Largest text file that is read."""
    chat_template: TemplateName = "lwm"
    """How conversations and questions are laid out: as LWM does, as LLaMA-2, or by the template that came
    with the tokenizer."""
    duplicates: Duplicates = "keep"
    """Videos and images of the same bytes, and texts of the same words, are left out but for one; or also
    texts that share most runs of five words."""
    near_similarity: float = 0.8
    """Share of runs of words in which near duplicates agree at least (Jaccard), estimated by MinHash."""
    seed: int = 0
    """Decides which examples lose their caption and which frames become images."""

    def __post_init__(self) -> None:
        """Refuse values that could never give an example."""
        check_range(self, "frames_per_second", above=0)
        check_range(self, "max_frames", "files_per_shard", "bytes_per_shard", least=1)
        check_range(self, "document_tokens", least=16)
        check_range(self, "held_out_fraction", "drop_caption_fraction", least=0, below=1)
        check_range(self, "images_per_video", "max_text_bytes", least=0)
        check_range(self, "seed", least=0, below=2**32)
        check_range(self, "near_similarity", above=0, most=1)


@dataclass(frozen=True, kw_only=True, slots=True)
class PackingConfig:
    """How examples are laid end to end, and how they count."""

    open_sequences: int = 16
    """Packed sequences that are filled at the same time: more waste less."""
    fit: Literal["first", "best"] = "first"
    """Where an example goes: into the first open sequence with room, or into that with the least."""
    together: Literal["all", "name"] = "all"
    """What may share a sequence: examples of all names of the mixture, or of one. LWM packs short
    conversations apart from questions about long documents."""
    longer: Longer = "split"
    """What becomes of examples that are longer than the context and may be cut."""
    weights: Literal["example", "token"] = "example"
    """Whether each example has the same weight in the loss, as it would alone in a padded sequence, or each
    token."""

    def __post_init__(self) -> None:
        """Refuse to pack into nothing at all."""
        check_range(self, "open_sequences", least=1, of="packing")


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipConfig:
    """Which of the prepared frames of a clip are drawn."""

    max_frames: int = 0
    """Most frames of one clip, evenly spread over it; 0 draws all that were prepared."""
    frames_per_second: float = 0.0
    """Rate at which they are taken from those prepared; 0 takes all of them."""

    def __post_init__(self) -> None:
        """Refuse less than nothing."""
        check_range(self, "max_frames", "frames_per_second", least=0, of="clips")

    def of(self, prepared: PrepareConfig) -> "ClipConfig":
        """Return the same with what is 0, or more than was prepared, as it was prepared."""
        rate = prepared.frames_per_second
        return replace(
            self,
            max_frames=min(self.max_frames or prepared.max_frames, prepared.max_frames),
            frames_per_second=min(self.frames_per_second or rate, rate),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class MixtureConfig:
    """How much is drawn of examples of each name, which is that of their data set and kind.

    | name | examples |
    |---|---|
    | `books/text` | of this kind in this data set |
    | `books/*` | all others of this data set |
    | `text` | all others of this kind |
    | `*` | all others |
    | `image_qa,image_chat` | of any of these, as if they had one name |

    Example: `{"books/text": 3, "text": 1}` draws three documents of `books` for each of another data set.
    """

    ratios: Mapping[str, float] = field(default_factory=dict, hash=False)
    """Share of each name; 0 leaves its examples out. Without any, each kind that there is has the same."""
    by: Literal["examples", "tokens"] = "examples"
    """What shares are of. Conversations of 1,000 tokens that have 7 of 10 beside texts of 32,000 have 7 of
    100 tokens where shares are of examples, and 99 of 100 examples where they are of tokens."""
    shortest_tokens: int = 0
    """Shorter documents and conversations are not drawn: LWM trains each context on documents of its length
    (its table 1). Of a document that preparation cut, the whole counts; what shows a video or an image is
    drawn as without."""
    longest_tokens: int = 0
    """Longer ones are not drawn; 0 draws them all, in pieces where they may be cut."""
    shortest_seconds: float = 0.0
    """Shorter videos are not drawn. Of a video that preparation cut or thinned, the whole counts; images and
    texts are drawn as without."""
    longest_seconds: float = 0.0
    """Longer videos are not drawn; 0 draws them all."""

    def __post_init__(self) -> None:
        """Refuse shares below zero, a mixture of nothing, and names that could be of nothing."""
        for shortest, longest in (
            ("shortest_tokens", "longest_tokens"),
            ("shortest_seconds", "longest_seconds"),
        ):
            check_range(self, shortest, longest, least=0, of="mixture")
            if getattr(self, longest):
                check_range(self, longest, least=getattr(self, shortest), of="mixture")
        for name, share in self.ratios.items():
            check_number(f"mixture.{name}", share, least=0)
        parts = [part for name in self.ratios for part in name.split(",")]
        for part in parts:
            if not part or part.count("/") > 1 or "" in part.split("/"):
                problem = f"{part!r} in the mixture is neither KIND nor DATASET/KIND"
                raise InputError(problem, field="mixture", value=part, remedy="such as text or books/text")
            if parts.count(part) > 1:
                problem = f"{part} stands twice in the mixture"
                raise InputError(problem, field="mixture", value=part, remedy="give it one share")
        if self.ratios and not any(self.ratios.values()):
            raise InputError("the mixture has no share above 0", field="mixture", value=self)

    def __contains__(self, kind: str) -> bool:
        """Return whether examples of a kind may be drawn, of whatever data set."""
        names = (name for name, share in self.ratios.items() if share > 0)
        drawn = {part.rpartition("/")[2] for name in names for part in name.split(",")}
        return not self.ratios or bool({kind, "*"} & drawn)

    def name_of(self, dataset: str, kind: str) -> str | None:
        """Return the most special name for examples of a kind in a data set; None draws none of them."""
        if not self.ratios:
            return kind
        named = {part: name for name in self.ratios for part in name.split(",")} | {
            name: name for name in self.ratios
        }
        parts = (f"{dataset}/{kind}", f"{dataset}/*", kind, "*")
        found = next((named[part] for part in parts if part in named), None)
        return found if found is not None and self.ratios[found] > 0 else None

    def share(self, name: str) -> float:
        """Return how often the examples of a name are drawn, relative to those of others."""
        return self.ratios.get(name, 1.0)
