"""The whole path in minutes on a laptop, and the same too small to learn anything."""

from dataclasses import replace

from ringworld.attention.config import AttentionConfig
from ringworld.core.mesh_config import MeshConfig
from ringworld.data.config import MixtureConfig, PrepareConfig
from ringworld.evaluation.config import EvaluationConfig
from ringworld.evaluation.held_out import HeldOutConfig
from ringworld.evaluation.needles import NeedleConfig
from ringworld.inference.config import SamplingConfig, SamplingDefaults
from ringworld.model.config import Architecture, Execution
from ringworld.presets.run import RunConfig
from ringworld.training.config import OptimizerConfig, Stage, TrainingConfig
from ringworld.vision.config import FrameTokenizerConfig, FrameTrainingConfig


def quickstart() -> RunConfig:
    """The whole path in minutes, on a laptop: 32 px frames of 16 codes, a million parameters, contexts to 2K.

    Hardware: two CPU cores, under 6 GB; about ten minutes.
    Expect more than 24 dB on toy frames of poses never seen, videos with the shape and color of a caption of
    one scene, and four of five answers about clips right, none about documents.

        ringworld quickstart --out runs/quickstart
    """
    frame_tokenizer = FrameTokenizerConfig(
        resolution=32,
        channels=(16, 32, 64, 64),
        res_blocks=1,
        latent=16,
        codebook_size=128,
        groups=4,
    )
    stage = Stage(
        name="512",
        context_tokens=512,
        rope_base=1e4,
        steps=2300,
        batch_sequences=2,
        learning_rate=3e-3,
        min_learning_rate=6e-4,
        warmup_steps=30,
        mesh=MeshConfig(ring=2),
        mixture=MixtureConfig(
            ratios={
                "text": 0.5,
                "text_qa": 0.6,
                "video": 1.0,
                "video_caption": 3.0,
                "video_qa": 4.0,
                "caption_video": 16.0,
                "caption_image": 10.0,
            }
        ),
    )
    # Answers about documents are long, and so a third of what the longer contexts hold.
    longer = MixtureConfig(ratios={**stage.mixture.ratios, "text_qa": 3.4})
    # Of one shape where they can be, so that fewer programs are compiled.
    one = NeedleConfig(context_tokens=(512, 1024, 2048), max_new_tokens=56)
    drawn = SamplingConfig(temperature=0.2, top_k=50, guidance_scale=1.2)
    return RunConfig(
        frame_tokenizer=frame_tokenizer,
        frame_training=FrameTrainingConfig(
            steps=700, batch_frames=8, learning_rate=2e-3, continuous_steps=200, adversarial_start_step=670
        ),
        frame_training_frames=4096,
        prepare=PrepareConfig(max_frames=6, document_tokens=1900),
        model=Architecture(
            layers=4,
            embed=128,
            heads=4,
            kv_heads=2,
            head=32,
            mlp=384,
            text_vocab=1024,
            vision_vocab=frame_tokenizer.codebook_size + 2,
        ),
        execution=Execution(
            attention=AttentionConfig(layout="zigzag", block_q_tokens=64, block_kv_tokens=64)
        ),
        training=TrainingConfig(
            stages=(
                stage,
                replace(
                    stage,
                    name="1K",
                    context_tokens=1024,
                    rope_base=2e4,
                    batch_sequences=1,
                    steps=200,
                    learning_rate=6e-4,
                    min_learning_rate=4e-4,
                    warmup_steps=10,
                    mixture=longer,
                ),
                replace(
                    stage,
                    name="2K",
                    context_tokens=2048,
                    rope_base=4e4,
                    batch_sequences=1,
                    steps=125,
                    learning_rate=4e-4,
                    min_learning_rate=4e-5,
                    warmup_steps=10,
                    mixture=longer,
                ),
            ),
            optimizer=OptimizerConfig(kind="muon"),
            checkpoint_every_steps=200,
        ),
        evaluation=EvaluationConfig(
            tasks=(
                one,
                replace(one, context_tokens=(1024, 2048), needles=4, asked=2),
                HeldOutConfig(examples_per_kind=64, position_edges=(0, 16, 64, 128, 256, 512, 1024, 2048)),
            ),
        ),
        sampling=SamplingDefaults(text=SamplingConfig(temperature=0.0), image=drawn, video=drawn),
    )


def smoke() -> RunConfig:
    """Every part of the quickstart in about a minute, too small to learn anything: what the tests run.

    Hardware: two CPU cores, under 3 GB.

        ringworld quickstart --preset smoke --out runs/smoke
    """
    run = quickstart()
    frame_tokenizer = FrameTokenizerConfig(
        resolution=16,
        channels=(8, 16, 16),
        res_blocks=1,
        latent=8,
        codebook_size=32,
        groups=4,
    )
    needle = NeedleConfig(context_tokens=(256,), depth_percents=(0.0, 100.0), max_new_tokens=8)
    return replace(
        run,
        frame_tokenizer=frame_tokenizer,
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
            vision_vocab=frame_tokenizer.codebook_size + 2,
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
                for stage, context in zip(run.training.stages[1:], (64, 256))
            ),
            optimizer=OptimizerConfig(),  # which is compiled sooner
            checkpoint_every_steps=4,
        ),
        evaluation=EvaluationConfig(
            tasks=(
                needle,
                replace(needle, context_tokens=(384,), needles=2, asked=2),
                HeldOutConfig(examples_per_kind=8, position_edges=(0, 16, 64, 256)),
            ),
        ),
    )
