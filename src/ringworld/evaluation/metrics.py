"""Every number of a run, as it stands in `metrics.json`; the report shows nothing else."""

from dataclasses import dataclass
from typing import Literal

from ringworld.data.config import HeldOutOf, Kind, TextJudgedOn
from ringworld.evaluation.needles import NeedleAccuracy

When = Literal["before", "after"]
Modality = Literal["text", "vision"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Fact:
    """One line of a short table."""

    name: str
    value: str


@dataclass(frozen=True, kw_only=True, slots=True)
class InputFile:
    """A file that was read, or those of one name below several folders, which no example tells apart."""

    name: str
    """Path below the folder that was named."""
    kind: Literal["video", "image", "text"]
    files: int
    """How many have this name."""
    bytes: int
    examples: int
    """Examples made from it."""
    tokens: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Quarantined:
    """A file that could not be used, and why."""

    name: str
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class TextTokenizerMetrics:
    """The byte-level BPE."""

    vocabulary_size: int
    bytes_per_token: float
    judged_on: TextJudgedOn


@dataclass(frozen=True, kw_only=True, slots=True)
class UnlikeFrames:
    """Held-out frames that no frame trained on resembles: what tells learning from remembering."""

    threshold_db: float
    """Frames resemble each other whose PSNR, at 32 px at most, reaches this."""
    frames: int
    psnr_db: float | None
    """Mean PSNR of what the frame tokenizer makes of them; None without any."""
    nearest_db: float | None
    """Mean PSNR of the most similar frame trained on, in place of the frame tokenizer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FrameTokenizerMetrics:
    """The VQGAN, on frames that it was not trained on."""

    resolution: int
    codes_per_frame: int
    codebook_size: int
    codebook_used: int
    held_out_frames: int
    held_out_of: HeldOutOf
    psnr_db: float
    """Mean over all held-out frames."""
    unlike: UnlikeFrames
    steps: int


@dataclass(frozen=True, kw_only=True, slots=True)
class LeftOut:
    """Examples of one kind that are longer than a context and cannot be cut, so that they are never drawn."""

    kind: str
    examples: int


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
    """What the tokens need, without what rematerialisation repeats, over the time."""
    left_out: tuple[LeftOut, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class LossPoint:
    """Training loss at one step; None where the batch held no such token."""

    step: int
    """Counted through all stages."""
    stage: str
    text_loss: float | None
    vision_loss: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class NeedleMetrics:
    """One needle grid, before or after one stage."""

    stage: str
    when: When
    needles: int
    asked: int
    cells: tuple[NeedleAccuracy, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class PositionLoss:
    """Loss of targets whose token lies at `start <= position < stop` of its example; None without any."""

    start: int
    stop: int
    text_loss: float | None
    vision_loss: float | None
    text_targets: int
    vision_targets: int


@dataclass(frozen=True, kw_only=True, slots=True)
class KindLoss:
    """Loss of the targets of one kind of example; None without any."""

    kind: Kind
    text_loss: float | None
    vision_loss: float | None
    text_targets: int
    vision_targets: int


@dataclass(frozen=True, kw_only=True, slots=True)
class HeldOutLoss:
    """Negative log-likelihood in nats a target, each modality over its own ids, weighted as in training."""

    context_tokens: int
    text_loss: float | None
    vision_loss: float | None
    text_targets: int
    vision_targets: int
    by_kind: tuple[KindLoss, ...]
    by_position: tuple[PositionLoss, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class HeldOutMetrics:
    """Held-out loss, before or after one stage."""

    stage: str
    when: When
    loss: HeldOutLoss
    left_out: tuple[LeftOut, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Reconstruction:
    """Frames and what the frame tokenizer makes of them, as a picture file."""

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
class GeneratedImage:
    """An image made from a caption."""

    caption: str
    file: str


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
class Continuation:
    """A beginning of a text and how the model goes on."""

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
    facts: tuple[Fact, ...]
    """What was done: devices, preset, parameters and the like."""
    versions: tuple[Fact, ...]
    inputs: tuple[InputFile, ...]
    quarantined: tuple[Quarantined, ...]
    questions_left_out: int
    """Questions about documents that are longer than one example."""
    text_tokenizer: TextTokenizerMetrics
    frame_tokenizer: FrameTokenizerMetrics
    stages: tuple[StageMetrics, ...]
    losses: tuple[LossPoint, ...]
    needles: tuple[NeedleMetrics, ...]
    held_out: tuple[HeldOutMetrics, ...]
    reconstructions: tuple[Reconstruction, ...]
    videos: tuple[GeneratedVideo, ...]
    images: tuple[GeneratedImage, ...]
    questions: tuple[AnsweredQuestion, ...]
    continuations: tuple[Continuation, ...]
    phases: tuple[Phase, ...]
