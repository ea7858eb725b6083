"""Shapes and training of the frame tokenizer, and what a media file may cost."""

from dataclasses import dataclass
from functools import partial
from typing import Literal

from ringworld.core.errors import InputError
from ringworld.core.ranges import check_range, whole_number

PixelRange = Literal["signed", "unit"]
_MOST_NUMBERS = 2**31
"""Of one weight."""


@dataclass(frozen=True, kw_only=True)
class FrameTokenizerConfig:
    """A convolutional VQGAN without attention, as LWM's (`lwm/vqgan.py`); the defaults are LWM's numbers."""

    resolution: int = 256
    """Side of a frame in pixels."""
    channels: tuple[int, ...] = (128, 256, 256, 512, 768)
    """Channels of each level, from pixels to codes; each level after the first halves the side."""
    res_blocks: int = 2
    """Residual blocks per level of the encoder; the decoder has one more (taming-transformers)."""
    latent: int = 64
    """Channels of a code."""
    codebook_size: int = 8192
    """Number of codes."""
    groups: int = 32
    """Groups of every group normalization; divides the channels of every level."""
    pixel_range: PixelRange = "signed"
    """What the network sees: `signed` is [-1, 1] (LWM), `unit` is [0, 1] (aMUSEd, open-muse)."""

    def __post_init__(self) -> None:
        """Refuse shapes that cannot be built.

        Raises:
            InputError: a size is below one or too large, `resolution` cannot be halved often enough, or
                `groups` does not divide the channels of a level.
        """
        check = partial(check_range, self, of="frame_tokenizer", least=1)
        check("latent", "groups", below=2**31)
        check("codebook_size", below=2**30)
        check("resolution", below=2**15)
        check("res_blocks", below=2**8)
        if not self.channels:
            raise InputError("channels name no level", field="frame_tokenizer.channels", value=self.channels)
        for channels in self.channels:
            whole_number("frame_tokenizer.channels", channels, least=1, below=2**31)
        if self.resolution % self.downsampling:
            raise InputError(
                f"a frame of {self.resolution} pixels cannot be halved at {len(self.channels)} levels",
                field="frame_tokenizer.resolution",
                value=self.resolution,
                remedy=f"use a multiple of {self.downsampling}, or fewer levels of channels",
            )
        if any(channels % self.groups for channels in self.channels):
            raise InputError(
                f"{self.groups} groups do not divide the channels of every level, {self.channels}",
                field="frame_tokenizer.groups",
                value=self.groups,
                remedy="lower groups or change channels",
            )
        widest = max(*self.channels, self.latent)
        for field, numbers in (
            ("channels" if widest > self.latent else "latent", 9 * widest**2),
            ("codebook_size", self.codebook_size * self.latent),
        ):
            if numbers > _MOST_NUMBERS:
                problem = f"{field} makes a weight of {numbers} numbers, more than {_MOST_NUMBERS}"
                raise InputError(problem, field=f"frame_tokenizer.{field}", value=getattr(self, field))

    @property
    def downsampling(self) -> int:
        """Pixels along one side of a code."""
        return 2 ** (len(self.channels) - 1)

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
    """How a frame tokenizer is trained (VQGAN: Esser et al., 2021, arXiv 2012.09841)."""

    steps: int
    """Optimizer steps in all."""
    batch_frames: int
    """Frames per step."""
    learning_rate: float = 3e-3
    """Peak of Adam's rate, reached after `warmup_steps` and lowered to a tenth by a cosine."""
    warmup_steps: int = 20
    """Steps over which the rate rises."""
    continuous_steps: int = 100
    """Steps before the codebook exists, with latents as they are; k-means then initializes it."""
    l1_weight: float = 0.0
    """Weight of the mean absolute error, pixels in [-1, 1]."""
    l2_weight: float = 4.0
    """Weight of the mean squared error, pixels in [-1, 1]."""
    edge_weight: float = 0.2
    """Weight of the L1 error of the differences between neighboring pixels, in place of the perceptual
    term of the paper, which needs a pretrained network."""
    commitment_weight: float = 0.25
    """Weight of the loss that pulls the encoder's output towards its code."""
    codebook_decay: float = 0.97
    """Decay of the moving averages that are the codebook."""
    revive_below: float = 0.03
    """A code used less often per step than this, in moving average, restarts at a random latent; above zero,
    since the mean of no latents is not a number."""
    adversarial_start_step: int
    """First step with the patch discriminator; `steps` or more means never."""
    adversarial_weight: float = 0.1
    """Factor of the adaptive weight of the adversarial loss."""
    discriminator_hidden: int = 32
    """Channels of the discriminator's first layer, a multiple of 4."""
    checkpoint_every_steps: int = 200
    """Steps between checkpoints."""
    log_every_steps: int = 20
    """Steps between rows of `metrics.jsonl`."""
    seed: int = 0
    """Seed of weights, batches and restarts of codes."""

    def __post_init__(self) -> None:
        """Refuse runs that cannot be run.

        Raises:
            InputError: a number is out of its range, or the codebook would never be initialized.
        """
        check = partial(check_range, self, of="frame_training")
        check("steps", "batch_frames", "discriminator_hidden", least=1, below=2**31)
        check("checkpoint_every_steps", "log_every_steps", least=1)
        check("learning_rate", above=0)
        check("warmup_steps", least=0, below=2**31)
        check("seed", least=0, below=2**32)
        check("l1_weight", "l2_weight", "edge_weight", "commitment_weight", "adversarial_weight", least=0)
        check("codebook_decay", least=0, below=1)
        check("revive_below", above=0)
        if self.discriminator_hidden % 4:
            problem = f"discriminator_hidden is {self.discriminator_hidden}, but must be a multiple of 4"
            raise InputError(
                problem, field="frame_training.discriminator_hidden", value=self.discriminator_hidden
            )
        if not 0 < self.continuous_steps < self.steps:
            raise InputError(
                f"{self.continuous_steps} continuous_steps of {self.steps} steps leave none before or none "
                "after the codebook is initialized",
                field="frame_training.continuous_steps",
                value=self.continuous_steps,
            )
        if self.adversarial_start_step < self.continuous_steps:
            raise InputError(
                f"the discriminator would start at step {self.adversarial_start_step}, before frames are "
                f"quantized at step {self.continuous_steps}",
                field="frame_training.adversarial_start_step",
                value=self.adversarial_start_step,
                remedy="start it later",
            )


@dataclass(frozen=True, kw_only=True)
class MediaLimits:
    """What one file may ask of this machine before it is refused as a decompression bomb."""

    frame_pixels: int = 2**27
    """Width times height of a decoded frame; the default holds 8K video four times over."""
    aspect_ratio: float = 32.0
    """Long side over short side; a frame is resized by its short side, so that a frame of one by a million
    pixels would become enormous."""
    duration_seconds: float = 86400.0
    """Length of a video; the default is a day."""

    def __post_init__(self) -> None:
        """Refuse limits that nothing passes, or everything."""
        check_range(self, "frame_pixels", "aspect_ratio", least=1, of="limits")
        check_range(self, "duration_seconds", above=0, of="limits")


DEFAULT_LIMITS = MediaLimits()
