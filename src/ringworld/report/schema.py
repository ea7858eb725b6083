"""Every number of a run, as it stands in `metrics.json`; the report shows nothing else."""

from dataclasses import dataclass
from typing import Literal

from ringworld.core.results import Evaluation


@dataclass(frozen=True, kw_only=True, slots=True)
class InputFile:
    """A file that was read, or those of one name below several folders, which no example tells apart."""

    name: str
    """Path below the folder that was named."""
    kind: str
    """Name of its reader: video, image, text, lines, ..."""
    files: int
    """How many have this name."""
    bytes: int
    examples: int
    """Examples made from it."""
    tokens: int


@dataclass(frozen=True, kw_only=True, slots=True)
class UnusableFile:
    """A file that could not be used, and why."""

    name: str
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class TextTokenizerMetrics:
    """The byte-level BPE."""

    vocabulary_size: int
    bytes_per_token: float
    judged_on: str
    """Such as "text held out"."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FrameTokenizerMetrics:
    """The VQGAN, on frames that it was not trained on."""

    resolution: int
    codes_per_frame: int
    codebook_size: int
    codebook_used: int
    held_out_frames: int
    held_out_of: str
    """Such as "files held out"."""
    psnr_db: float
    """Mean over all held-out frames."""
    resembling_db: float
    """Frames resemble each other whose PSNR, at 32 px at most, reaches this."""
    unlike_frames: int
    """Held-out frames that no frame trained on resembles: what tells learning from remembering."""
    unlike_psnr_db: float | None
    """Mean over them; None without any."""
    nearest_psnr_db: float | None
    """The same with the most similar frame trained on in place of the reconstruction."""
    steps: int


@dataclass(frozen=True, kw_only=True, slots=True)
class StageMetrics:
    """One stage of training."""

    name: str
    context_tokens: int
    rope_base: float
    steps: int
    tokens: int
    seconds: float
    fill: float
    """Share of the packed sequences that is not padding."""
    examples: int
    ring_efficiency: float
    """Total attention work over members times the slowest member of each ring step."""
    model_flops_per_second: float
    """What the tokens need, without what rematerialization repeats, over the time."""
    left_out: dict[str, int]
    """Examples of a kind that are longer than the context and cannot be cut, so that they are never drawn."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LossPoint:
    """Training loss at one step; None where the batch held no such token."""

    step: int
    """Counted through all stages."""
    stage: str
    text_loss: float | None
    vision_loss: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """A file: an image made from a caption, or frames above what the frame tokenizer makes of them."""

    file: str
    caption: str


@dataclass(frozen=True, kw_only=True, slots=True)
class GeneratedVideo:
    """A video made from a caption, beside a real one of the same caption."""

    caption: str
    generated: str
    real: str | None
    caption_trained: bool
    """Whether a file that was trained on has the same caption."""
    seconds: float
    """Time that its batch took, divided by the videos in it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AnsweredQuestion:
    """A question, the model's answer and the true one."""

    about: str
    """The video, image or document asked about."""
    kind: Literal["video", "image", "text"]
    """Which of them it is."""
    question: str
    answer: str
    truth: str
    correct: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class ContinuedText:
    """The beginning of a text, and what the model adds."""

    prompt: str
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Phase:
    """One part of the run: how long it took and how much it left on disk."""

    name: str
    seconds: float
    """Of all calls up to the one that finished it; of a killed one, up to the last file that it wrote."""
    bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Metrics:
    """A whole run. File names are relative to the folder of `metrics.json`."""

    title: str
    command: str
    summary: str
    """One or two sentences: what this run was."""
    facts: dict[str, str]
    """What was done: devices, preset, parameters and the like."""
    versions: dict[str, str]
    inputs: tuple[InputFile, ...]
    quarantined: tuple[UnusableFile, ...]
    questions_left_out: int
    """Questions about documents that are longer than one example."""
    text_tokenizer: TextTokenizerMetrics
    frame_tokenizer: FrameTokenizerMetrics | None
    """None for a model of text alone."""
    stages: tuple[StageMetrics, ...]
    losses: tuple[LossPoint, ...]
    evaluations: tuple[Evaluation, ...]
    """Before the first stage and after each."""
    extended: tuple[Evaluation, ...]
    """Of a kept model whose context was extended: before, and after each stage; empty where none was."""
    reconstructions: tuple[Picture, ...]
    videos: tuple[GeneratedVideo, ...]
    images: tuple[Picture, ...]
    questions: tuple[AnsweredQuestion, ...]
    continuations: tuple[ContinuedText, ...]
    phases: tuple[Phase, ...]
