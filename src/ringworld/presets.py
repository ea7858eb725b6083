"""Whole runs, as Python functions that return a typed configuration."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from ringworld.attention.config import AttentionConfig
from ringworld.core.errors import InputError, not_a_choice
from ringworld.core.mesh_config import MeshConfig
from ringworld.core.ranges import check_range
from ringworld.data.config import MixtureConfig, PackingConfig, PrepareConfig, ToyWorldConfig
from ringworld.evaluation.config import EvaluationConfig, HeldOutConfig, NeedleConfig
from ringworld.inference.config import SamplingConfig
from ringworld.model.config import ModelConfig
from ringworld.text.vocabulary import Vocabulary
from ringworld.training.config import StageConfig, TrainingConfig, validate
from ringworld.vision.config import FrameTokenizerConfig, FrameTrainingConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class RunConfig:
    """Everything that decides a run, from files to report."""

    toy_world: ToyWorldConfig
    """Videos and documents that the quickstart renders for itself."""
    frames: FrameTokenizerConfig
    """Shape of the frame tokenizer."""
    frame_training: FrameTrainingConfig
    """How it is trained."""
    frame_training_frames: int
    """Most frames that are kept in memory to train it on."""
    prepare: PrepareConfig
    """How files become examples."""
    model: ModelConfig
    """Shape of the world model; `text_vocab` is also the size asked of the text tokenizer."""
    training: TrainingConfig
    """Stages and optimizer."""
    mesh: MeshConfig
    """Devices along each axis."""
    evaluation: EvaluationConfig
    """What is measured before and after each stage."""
    text_sampling: SamplingConfig
    """How text is drawn."""
    image_sampling: SamplingConfig
    """How images are drawn."""
    video_sampling: SamplingConfig
    """How video is drawn."""

    def __post_init__(self) -> None:
        """Check what the parts demand of each other.

        Raises:
            InputError: a rule does not hold.
        """
        check_range(self, "frame_training_frames", least=1)
        validate(self.training, self.model, self.mesh)
        if self.model.vision_vocab < self.vocabulary.vision_size:
            raise InputError(
                what="model vision_vocab",
                got=str(self.model.vision_vocab),
                expected=f"at least {self.vocabulary.vision_size}: the codebook and two ends",
                remedy="Raise vision_vocab or shrink the codebook.",
            )

    @property
    def vocabulary(self) -> Vocabulary:
        """The one id space of this run."""
        return Vocabulary(
            text_size=self.model.text_vocab,
            codes=self.frames.codebook_size,
            codes_per_frame=self.frames.codes_per_frame,
        )

    def on_devices(self, count: int) -> "RunConfig":
        """Return the same run with the ring as large as `count` devices allow, the other axes kept.

        Raises:
            InputError: the other axes do not divide `count`, or the model or a context does not divide.
        """
        others = self.mesh.devices // self.mesh.ring
        if count < 1 or count % others:
            raise InputError(
                what="--devices",
                got=str(count),
                expected=f"a multiple of {others}, the product of the axes other than the ring",
                remedy="Give another number of devices, or another mesh in the configuration.",
            )
        try:
            return replace(self, mesh=replace(self.mesh, ring=count // others))
        except InputError as error:
            raise InputError(
                what="--devices",
                got=f"{count}, which gives for {error.what}: {error.got}",
                expected=error.expected,
                remedy="Give another number of devices, such as 1, 2 or 4.",
            ) from None


def quickstart() -> RunConfig:
    """The whole path in minutes, on a laptop: 32 px frames of 16 codes, a million parameters, contexts to 2K.

    Hardware: two CPU cores, under 6 GB; about seven minutes.
    Expect more than 24 dB on toy frames of poses never seen, videos with the shape and colour of a caption of
    one scene, and mostly right answers about clips of one scene, none about documents.

        ringworld quickstart --out runs/quickstart
    """
    frames = FrameTokenizerConfig(
        resolution=32,
        hidden=16,
        channel_multipliers=(1, 2, 4, 4),
        res_blocks=1,
        latent=16,
        codebook_size=128,
        groups=4,
    )
    stage = StageConfig(
        name="512",
        context_tokens=512,
        rope_base=1e4,
        steps=3400,
        batch_sequences=2,
        learning_rate=3e-3,
        min_learning_rate=6e-4,
        warmup_steps=30,
        mixture=MixtureConfig(
            text=0.5, text_qa=0.7, video_caption=3.0, video_qa=4.0, caption_video=16.0, caption_image=10.0
        ),
    )
    # Answers about documents are long, and so a third of what the longer contexts hold.
    longer = replace(stage.mixture, text_qa=4.0)
    drawn = SamplingConfig(temperature=0.2, top_k=50, guidance_scale=1.2)
    return RunConfig(
        toy_world=ToyWorldConfig(
            clips=800,
            held_out_clips=24,
            clip_seconds=1.5,
            cut_fraction=0.2,
            shape_pixels=32,
            grid_pixels=16,
            speed_pixels=21.0,
            documents=600,
            longest_words=1500,
        ),
        frames=frames,
        frame_training=FrameTrainingConfig(
            steps=700, batch_frames=8, learning_rate=2e-3, continuous_steps=200, adversarial_start_step=670
        ),
        frame_training_frames=4096,
        prepare=PrepareConfig(max_frames=6, document_tokens=1900),
        model=ModelConfig(
            layers=4,
            embed=128,
            heads=4,
            kv_heads=2,
            head=32,
            mlp=384,
            text_vocab=1024,
            vision_vocab=frames.codebook_size + 2,
            attention=AttentionConfig(layout="zigzag", block_q_tokens=64, block_kv_tokens=64),
        ),
        training=TrainingConfig(
            stages=(
                stage,
                replace(
                    stage,
                    name="1K",
                    context_tokens=1024,
                    rope_base=5e4,
                    batch_sequences=1,
                    steps=400,
                    learning_rate=6e-4,
                    min_learning_rate=4e-4,
                    warmup_steps=10,
                    mixture=longer,
                ),
                replace(
                    stage,
                    name="2K",
                    context_tokens=2048,
                    rope_base=2e5,
                    batch_sequences=1,
                    steps=250,
                    learning_rate=4e-4,
                    min_learning_rate=4e-5,
                    warmup_steps=10,
                    mixture=longer,
                ),
            ),
            checkpoint_every_steps=200,
        ),
        mesh=MeshConfig(ring=2),
        evaluation=EvaluationConfig(
            needles=(
                NeedleConfig(context_tokens=(512, 1024, 2048), rounds=2, max_new_tokens=28),
                NeedleConfig(
                    context_tokens=(1024, 2048),
                    needles=4,
                    asked=2,
                    depth_percents=(0.0, 50.0, 100.0),
                    max_new_tokens=56,
                ),
            ),
            held_out=HeldOutConfig(
                examples_per_kind=64, position_edges=(0, 16, 64, 128, 256, 512, 1024, 2048)
            ),
        ),
        text_sampling=SamplingConfig(temperature=0.0),
        image_sampling=drawn,
        video_sampling=drawn,
    )


def smoke() -> RunConfig:
    """Every part of the quickstart in about a minute, too small to learn anything: what the tests run.

    Hardware: two CPU cores, under 3 GB.

        ringworld quickstart --preset smoke --out runs/smoke
    """
    run = quickstart()
    frames = FrameTokenizerConfig(
        resolution=16,
        hidden=8,
        channel_multipliers=(1, 2, 2),
        res_blocks=1,
        latent=8,
        codebook_size=32,
        groups=4,
    )
    needle = NeedleConfig(context_tokens=(256,), depth_percents=(0.0, 100.0), max_new_tokens=8)
    return replace(
        run,
        toy_world=ToyWorldConfig(
            clips=12,
            held_out_clips=3,
            documents=8,
            frame_pixels=32,
            shape_pixels=12,
            speed_pixels=4.0,
            longest_words=300,
        ),
        frames=frames,
        frame_training=FrameTrainingConfig(
            steps=12,
            batch_frames=8,
            warmup_steps=2,
            continuous_steps=4,
            adversarial_start_step=8,
            checkpoint_every_steps=5,
            log_every_steps=2,
        ),
        frame_training_frames=64,
        prepare=PrepareConfig(max_frames=3, document_tokens=240, held_out_fraction=0.25),
        model=replace(
            run.model,
            layers=2,
            embed=32,
            heads=2,
            kv_heads=1,
            head=16,
            mlp=64,
            text_vocab=384,
            vision_vocab=frames.codebook_size + 2,
        ),
        training=replace(
            run.training,
            stages=tuple(
                replace(
                    stage,
                    name=str(context),
                    context_tokens=context,
                    batch_sequences=2,
                    steps=6,
                    warmup_steps=1,
                )
                for stage, context in zip(run.training.stages, (64, 128, 256))
            ),
            checkpoint_every_steps=4,
        ),
        evaluation=EvaluationConfig(
            needles=(needle, replace(needle, context_tokens=(384,), needles=2, asked=2)),
            held_out=HeldOutConfig(examples_per_kind=8, position_edges=(0, 16, 64, 256)),
        ),
    )


def lwm_7b() -> RunConfig:
    """The vision-language stages of LWM-7B, 1K to 1M tokens: paper tables 11 and 13, arXiv 2402.08268.

    Hardware: 512 TPU v4 chips, the paper's v4-1024 slice (there ring 4 and tensor 16 at 1M tokens).
    Wall time in the paper: 83 + 32 + 10 + 6 + 8 hours; it starts from LWM-Text-1M, this from random weights.

        ringworld train --preset lwm_7b --data examples --tokenizer tokenizer --out runs/lwm_7b
    """
    frames = FrameTokenizerConfig()
    table = (
        ("1K", 2**10, 45_000, 6e-4, 6e-5, 1_000),
        ("8K", 2**13, 14_000, 6e-4, 6e-5, 500),
        ("32K", 2**15, 1_200, 8e-5, 8e-5, 100),
        ("128K", 2**17, 450, 8e-5, 8e-5, 50),
        ("1M", 2**20, 50, 8e-5, 8e-5, 5),
    )
    stages = tuple(
        StageConfig(
            name=name,
            context_tokens=context,
            rope_base=5e7,
            steps=steps,
            batch_sequences=2**23 // context,
            learning_rate=highest,
            min_learning_rate=lowest,
            warmup_steps=warmup,
        )
        for name, context, steps, highest, lowest, warmup in table
    )
    contexts = tuple(2**power for power in range(12, 21, 2))
    needle = NeedleConfig(context_tokens=contexts, rounds=3)
    return RunConfig(
        toy_world=ToyWorldConfig(frame_pixels=256, shape_pixels=96, grid_pixels=16),
        frames=frames,
        frame_training=FrameTrainingConfig(
            steps=500_000,
            batch_frames=256,
            learning_rate=1e-4,
            warmup_steps=5_000,
            continuous_steps=5_000,
            adversarial_start_step=250_000,
            checkpoint_every_steps=5_000,
        ),
        frame_training_frames=2**16,
        prepare=PrepareConfig(max_frames=4_000, document_tokens=2**20, held_out_fraction=0.001),
        model=ModelConfig(
            layers=32,
            embed=4096,
            heads=32,
            kv_heads=32,
            head=128,
            mlp=11_008,
            text_vocab=32_000,
            vision_vocab=8_448,
            attention=AttentionConfig(layout="balanced"),
            mlp_block_tokens=4_096,
            compute="bfloat16",
        ),
        training=TrainingConfig(stages=stages, packing=PackingConfig(open_rows=64), log_every_steps=10),
        mesh=MeshConfig(fsdp=8, ring=8, tensor=8),
        evaluation=EvaluationConfig(
            needles=(needle, replace(needle, needles=4, asked=2, rounds=10)), held_out=HeldOutConfig()
        ),
        text_sampling=SamplingConfig(temperature=0.0),
        image_sampling=SamplingConfig(top_k=8_192, guidance_scale=5.0),
        video_sampling=SamplingConfig(top_k=1_000),
    )


PRESETS: tuple[Callable[[], RunConfig], ...] = (quickstart, smoke, lwm_7b)


def named(name: str) -> RunConfig:
    """Return the preset of that name.

    Raises:
        InputError: there is none; the message names the nearest.
    """
    functions = {function.__name__: function for function in PRESETS}
    if name not in functions:
        raise not_a_choice("--preset", name, choices=functions)
    return functions[name]()
