"""What a training run is: stages, optimizer, seed; without importing jax."""

import itertools
import re
from dataclasses import dataclass, field
from functools import partial
from typing import Literal, get_args

from ringworld.core.errors import InputError, not_a_choice
from ringworld.core.mesh_config import MeshConfig
from ringworld.core.ranges import check_range
from ringworld.core.tracker import TrackerName
from ringworld.data.config import ClipConfig, MixtureConfig, PackingConfig
from ringworld.model.config import Architecture, Execution, check_mesh
from ringworld.model.lora_config import LoraConfig

_FOLDER_NAME = re.compile(r"\w([\w.-]{0,62}[\w-])?")


StageMoments = Literal["kept", "reset"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """One step of context extension; it begins from the weights that the last stage left."""

    name: str
    """What metrics and reports call the stage."""
    context_tokens: int
    """Length of a packed sequence."""
    rope_base: float
    """Base of the rotary position embedding; it rises with the context."""
    steps: int
    """Updates of the weights."""
    batch_sequences: int
    """Packed sequences of one update."""
    learning_rate: float
    """Highest learning rate, reached after the warm-up."""
    min_learning_rate: float = 0.0
    """Learning rate at which the cosine ends."""
    warmup_steps: int = 0
    """Updates over which the learning rate rises in a straight line."""
    accumulation_steps: int = 1
    """Pieces of a batch that are computed one after another, to save memory; the update is the same."""
    mixture: MixtureConfig = field(default_factory=MixtureConfig)
    """How often which examples are drawn."""
    clips: ClipConfig = field(default_factory=ClipConfig)
    """Which of the prepared frames of a clip are drawn: most frames, and frames a second."""
    moments: StageMoments = "kept"
    """Whether the optimizer keeps the moments that the last stage left, or begins anew, as a run does
    that is given weights alone (LWM's `train.py` with `params::`)."""
    mesh: MeshConfig = field(default_factory=MeshConfig)
    """Devices of this stage; weights and moments are resharded where it begins."""

    def __post_init__(self) -> None:
        """Refuse a stage that could not run."""
        check = partial(check_range, self, of=f"stage {self.name}")
        check("context_tokens", "steps", "batch_sequences", "accumulation_steps", least=1)
        check("rope_base", above=1)
        check("learning_rate", above=0)
        check("min_learning_rate", least=0, most=self.learning_rate)
        check("warmup_steps", least=0, below=self.steps)
        if self.moments not in get_args(StageMoments):
            choices = get_args(StageMoments)
            raise not_a_choice(f"stage {self.name}.moments", self.moments, choices=choices)
        # The model and the evaluations of a stage are folders of its name.
        if not _FOLDER_NAME.fullmatch(self.name):
            raise InputError(
                f"the name of a stage is {self.name!r}, but must be up to 64 letters, digits, _, - and dots "
                "inside",
                field="name",
                value=self.name,
            )

    @property
    def tokens(self) -> int:
        """Tokens of the whole stage, padding included."""
        return self.steps * self.batch_sequences * self.context_tokens


MomentType = Literal["float32", "bfloat16"]


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimizerConfig:
    """AdamW as LWM uses it (section 3.1 and its training scripts), or Muon; clipped by the global norm."""

    kind: Literal["adamw", "muon"] = "adamw"
    """Muon (arXiv 2502.16982) makes the update of each matrix of a layer orthogonal, and as large as one of
    AdamW, so that both take the same learning rates; embedding, output head and vectors are left to AdamW."""
    beta1: float = 0.9
    """Decay of the mean of gradients; Muon's own is 0.95."""
    beta2: float = 0.95
    """Decay of the mean of squared gradients."""
    epsilon: float = 1e-8
    """Keeps the update finite where gradients vanish."""
    weight_decay: float = 0.1
    """Pull of every matrix towards zero, times the learning rate; norms and the embedding are left alone."""
    clip_norm: float = 1.0
    """Largest global norm of a gradient; a longer one is shortened to it."""
    moment_dtype: MomentType = "float32"
    """Type in which moments are kept between updates, which are computed in float32."""

    def __post_init__(self) -> None:
        """Refuse values for which AdamW is not defined, or moments that would stand still."""
        check_range(self, "beta1", "beta2", least=0, below=1)
        check_range(self, "epsilon", "clip_norm", above=0)
        check_range(self, "weight_decay", least=0)
        if self.moment_dtype not in get_args(MomentType):
            raise not_a_choice("moment_dtype", str(self.moment_dtype), choices=get_args(MomentType))
        if self.moment_dtype == "bfloat16":
            # It rounds to 2 ** -8: a moment that moves by less of itself would often be what it was.
            remedy = "use a smaller one, or moment_dtype float32"
            check_range(self, "beta1", "beta2", most=1 - 2**-7, remedy=remedy)


@dataclass(frozen=True, kw_only=True, slots=True)
class GuardConfig:
    """Which updates are skipped, and when a run stops for it.

    An update whose loss or gradient norm is NaN or infinite is always skipped: weights and moments stay what
    they were, its examples are not seen again, and the schedule of learning rates continues.
    """

    spike_factor: float = 0.0
    """An update whose gradient norm is more than so many times the median of the last 64 is skipped, too; 0
    skips none for its size."""
    most_in_a_row: int = 10
    """The run stops when so many updates in a row were skipped; with 1, at the first."""

    def __post_init__(self) -> None:
        """Refuse a factor that would skip half of all updates."""
        if self.spike_factor != 0:
            remedy = "use 0 to skip none for its size"
            check_range(self, "spike_factor", of="guard", above=1, remedy=remedy)
        check_range(self, "most_in_a_row", of="guard", least=1, below=2**31)


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingConfig:
    """Stages in the order in which they run, on one state."""

    stages: tuple[Stage, ...]
    """At least one; contexts and rope bases never fall from one to the next."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """The same through all stages; each says whether its moments carry over."""
    guard: GuardConfig = field(default_factory=GuardConfig)
    """Which updates are skipped."""
    lora: LoraConfig = field(default_factory=LoraConfig)
    """Which adapter is trained in place of all weights, by default none; it needs a model to adapt."""
    text_loss_weight: float = 0.5
    """Weight of the loss over text in the total."""
    vision_loss_weight: float = 0.5
    """Weight of the loss over vision codes in the total; a batch with one modality counts that one alone."""
    packing: PackingConfig = field(default_factory=PackingConfig)
    """How examples are laid end to end."""
    seed: int = 0
    """Decides the first weights and the order of the data."""
    checkpoint_every_steps: int = 100
    """Steps that a kill can cost at most; the end of a stage is always kept."""
    log_every_steps: int = 1
    """Steps between two rows of metrics."""
    tracker: TrackerName = "none"
    """What gets the rows besides `metrics.jsonl`; it needs the extra of its name."""

    def __post_init__(self) -> None:
        """Refuse an empty run, and names that metrics could not tell apart."""
        names = [stage.name for stage in self.stages]
        if not names:
            raise InputError("a run needs at least one stage", field="stages", value=())
        if len(set(names)) < len(names):
            raise InputError(f"two stages share a name: {', '.join(names)}", field="stages", value=names)
        check_range(self, "checkpoint_every_steps", "log_every_steps", least=1)
        check_range(self, "text_loss_weight", "vision_loss_weight", above=0)
        # Each stage adds its index, and Grain takes 32 bits.
        check_range(self, "seed", least=0, below=2**31)
        if self.lora.rank and self.optimizer.kind == "muon":
            raise InputError(
                "optimizer.kind is muon, which makes updates of whole matrices, but an adapter has thin ones",
                field="optimizer.kind",
                value="muon",
                remedy="train the adapter with adamw",
            )

    @property
    def boundaries(self) -> tuple[int, ...]:
        """Global step at which each stage begins, and the one at which the run ends.

        Example:
            Stages of 10, 20 and 5 steps: `(0, 10, 30, 35)`.
        """
        return tuple(itertools.accumulate((stage.steps for stage in self.stages), initial=0))


def validate(config: TrainingConfig, architecture: Architecture, execution: Execution) -> None:
    """Check what stages, model and meshes demand of each other, before anything is computed.

    Raises:
        InputError: a rule does not hold; the first one found.
    """
    for before, after in itertools.pairwise(config.stages):
        for name in ("context_tokens", "rope_base"):
            least, value = getattr(before, name), getattr(after, name)
            if value < least:
                raise InputError(
                    f"{name} falls from {least} in stage {before.name} to {value} in stage {after.name}",
                    field=f"stage {after.name}.{name}",
                    value=value,
                )
    for stage in config.stages:
        pieces = stage.accumulation_steps * stage.mesh.batch_members
        if stage.batch_sequences % pieces:
            raise InputError(
                f"stage {stage.name} cannot cut {stage.batch_sequences} sequences into {pieces} equal parts, "
                "the product of accumulation_steps and the data and fsdp axes",
                field=f"stage {stage.name}.batch_sequences",
                value=stage.batch_sequences,
                remedy=f"use a multiple of {pieces}",
            )
        contexts = (stage.context_tokens,)
        check_mesh(architecture, execution.attention, stage.mesh, contexts_tokens=contexts)
