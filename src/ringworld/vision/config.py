"""Shapes and training of the frame tokenizer, and what a media file may cost."""

from dataclasses import dataclass
from functools import partial
from typing import Literal

from ringworld.core.ranges import check_range, require


@dataclass(frozen=True, kw_only=True)
class FrameTokenizerConfig:
    """A convolutional VQGAN without attention, as LWM's (`lwm/vqgan.py`); the defaults are LWM's own numbers.

    Attributes:
        resolution: side of a frame in pixels.
        hidden: channels of the first level.
        channel_multipliers: channels of each level over `hidden`; each level after the first halves the side.
        res_blocks: residual blocks a level in the encoder; the decoder has one more (taming-transformers).
        latent: channels of a code.
        codebook_size: number of codes.
        groups: groups of every group normalisation; divides the channels of every level.
        pixel_range: what the network sees: `signed` is [-1, 1] (LWM), `unit` is [0, 1] (aMUSEd, open-muse).
    """

    resolution: int = 256
    hidden: int = 128
    channel_multipliers: tuple[int, ...] = (1, 2, 2, 4, 6)
    res_blocks: int = 2
    latent: int = 64
    codebook_size: int = 8192
    groups: int = 32
    pixel_range: Literal["signed", "unit"] = "signed"

    def __post_init__(self) -> None:
        """Refuse shapes that cannot be built.

        Raises:
            InputError: a size is below one, `resolution` cannot be halved often enough, or `groups` does not
                divide the channels of a level.
        """
        sizes = (self.resolution, self.hidden, self.res_blocks, self.latent, self.codebook_size, self.groups)
        positive = len(self.channel_multipliers) > 0 and min(sizes + self.channel_multipliers) >= 1
        require(positive, "frame tokenizer", got=self, expected="sizes of one or more")
        require(
            self.resolution % self.downsampling == 0,
            "frame tokenizer resolution",
            got=f"{self.resolution} px with {len(self.channel_multipliers)} levels",
            expected=f"a multiple of {self.downsampling}",
            remedy="Change resolution or the number of channel_multipliers.",
        )
        require(
            not any(channels % self.groups for channels in self.channels),
            "frame tokenizer groups",
            got=f"{self.groups} groups for levels of {self.channels} channels",
            expected="groups that divide the channels of every level",
            remedy="Lower groups or change hidden.",
        )

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels of each level, from pixels inwards."""
        return tuple(self.hidden * multiplier for multiplier in self.channel_multipliers)

    @property
    def downsampling(self) -> int:
        """Pixels along one side of a code."""
        return 2 ** (len(self.channel_multipliers) - 1)

    @property
    def codes_side(self) -> int:
        """Codes along one side of a frame."""
        return self.resolution // self.downsampling

    @property
    def codes_per_frame(self) -> int:
        """Codes of a frame, in row-major order."""
        return self.codes_side**2


@dataclass(frozen=True, kw_only=True)
class FrameTrainingConfig:
    """How a frame tokenizer is trained (VQGAN: Esser et al., 2021, arXiv 2012.09841).

    Attributes:
        steps: optimizer steps in all.
        batch_frames: frames a step.
        learning_rate: peak of Adam's rate, reached after `warmup_steps` and brought to a tenth by a cosine.
        continuous_steps: steps before the codebook exists, with latents as they are; k-means then founds it.
        l1_weight, l2_weight: weights of the reconstruction errors, pixels in [-1, 1].
        edge_weight: weight of the L1 error of the differences between neighbouring pixels, in place of the
            perceptual term of the paper, which needs a pretrained network.
        commitment_weight: pull of the encoder towards its code.
        codebook_decay: of the moving averages that are the codebook.
        revive_below: a code seen less often than this a step, in moving average, restarts at a random latent;
            above zero, since the mean of no latents is not a number.
        adversarial_start_step: first step with the patch discriminator; `steps` or more means never.
        adversarial_weight: factor of the adaptive weight of the adversarial loss.
        discriminator_hidden: channels of the discriminator's first layer, a multiple of 4.
        checkpoint_every_steps: steps between checkpoints.
        log_every_steps: steps between rows of `metrics.jsonl`.
        seed: of weights, batches and revivals.
    """

    steps: int
    batch_frames: int
    learning_rate: float = 3e-3
    warmup_steps: int = 20
    continuous_steps: int = 100
    l1_weight: float = 0.0
    l2_weight: float = 4.0
    edge_weight: float = 0.2
    commitment_weight: float = 0.25
    codebook_decay: float = 0.97
    revive_below: float = 0.03
    adversarial_start_step: int
    adversarial_weight: float = 0.1
    discriminator_hidden: int = 32
    checkpoint_every_steps: int = 200
    log_every_steps: int = 20
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse runs that cannot be run.

        Raises:
            InputError: a number is out of its range, or the codebook would never be founded.
        """
        check = partial(check_range, self, what="frame tokenizer training {}".format)
        check("steps", "batch_frames", "discriminator_hidden", least=1)
        check("checkpoint_every_steps", "log_every_steps", least=1)
        check("learning_rate", above=0)
        check("warmup_steps", "seed", least=0)
        check("l1_weight", "l2_weight", "edge_weight", "commitment_weight", "adversarial_weight", least=0)
        check("codebook_decay", least=0, below=1)
        check("revive_below", above=0)
        require(
            self.discriminator_hidden % 4 == 0,
            "frame tokenizer training discriminator_hidden",
            got=self.discriminator_hidden,
            expected="a multiple of 4, which its groups divide once it has doubled",
        )
        require(
            0 < self.continuous_steps < self.steps,
            "frame tokenizer training",
            got=f"{self.continuous_steps} continuous_steps of {self.steps} steps",
            expected="at least one step before and one after the codebook is founded",
            remedy="Lower continuous_steps or raise steps.",
        )
        require(
            self.adversarial_start_step >= self.continuous_steps,
            "frame tokenizer training",
            got=f"adversarial_start_step {self.adversarial_start_step}",
            expected=f"at least continuous_steps, {self.continuous_steps}",
            remedy="The discriminator judges quantised frames: start it later.",
        )


@dataclass(frozen=True, kw_only=True)
class MediaLimits:
    """What one file may ask of this machine before it is refused as a decompression bomb.

    Attributes:
        frame_pixels: width times height of a decoded frame; the default holds 8K video four times over.
        aspect_ratio: long side over short side; a frame is resized by its short side, so that a frame of one
            by a million pixels would become enormous.
        duration_seconds: length of a video; the default is a day.
    """

    frame_pixels: int = 2**27
    aspect_ratio: float = 32.0
    duration_seconds: float = 86400.0

    def __post_init__(self) -> None:
        """Refuse limits that nothing passes, or everything."""
        check_range(self, "frame_pixels", "aspect_ratio", least=1, what="media limit {}".format)
        check_range(self, "duration_seconds", above=0, what="media limit {}".format)


DEFAULT_LIMITS = MediaLimits()
