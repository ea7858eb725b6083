"""A model of one's own footage that a laptop trains overnight."""

from dataclasses import replace

from ringworld.attention.config import AttentionConfig
from ringworld.core.mesh_config import MeshConfig
from ringworld.data.config import PrepareConfig
from ringworld.evaluation.config import EvaluationConfig
from ringworld.evaluation.held_out import HeldOutConfig
from ringworld.evaluation.needles import NeedleConfig
from ringworld.inference.config import SamplingConfig, SamplingDefaults
from ringworld.model.config import Architecture, Execution
from ringworld.presets.run import RunConfig
from ringworld.training.config import Stage, TrainingConfig
from ringworld.vision.config import FrameTokenizerConfig, FrameTrainingConfig


def laptop() -> RunConfig:
    """Eight million parameters over one's own videos at 256 px and texts, to 4K tokens, overnight on a CPU.

    Hardware: two CPU cores or more, 8 GB.
    Cost: about ten hours on two busy cores, by extrapolation: 1.2 s a step of the frame tokenizer, 3.3 s a
    step at 1K tokens and 4.5 s at 4K, over tens of steps on videos and a novel (2026-11-27).
    Never run by us to its end.

        ringworld train-tokenizer --preset laptop --videos VIDEOS --texts TEXTS --out tokenizer
        ringworld prepare --preset laptop --tokenizer tokenizer --videos VIDEOS --texts TEXTS --out examples
        ringworld train --preset laptop --data examples --out run
    """
    frames = FrameTokenizerConfig(
        channels=(16, 32, 64, 64, 128),
        res_blocks=1,
        latent=16,
        codebook_size=1024,
        groups=8,
    )
    stage = Stage(
        name="1K",
        context_tokens=1024,
        rope_base=1e4,
        steps=6_000,
        batch_sequences=4,
        learning_rate=1e-3,
        min_learning_rate=2e-4,
        warmup_steps=100,
        mesh=MeshConfig(ring=2),
    )
    return RunConfig(
        frames=frames,
        frame_training=FrameTrainingConfig(
            steps=6_000,
            batch_frames=4,
            learning_rate=1e-3,
            warmup_steps=100,
            continuous_steps=500,
            adversarial_start_step=6_000,
        ),
        frame_training_frames=2_000,
        prepare=PrepareConfig(frames_per_second=2.0, max_frames=12, document_tokens=4_000),
        model=Architecture(
            layers=8,
            embed=256,
            heads=8,
            kv_heads=4,
            head=32,
            mlp=768,
            text_vocab=4_096,
            vision_vocab=frames.codebook_size + 2,
        ),
        execution=Execution(attention=AttentionConfig(layout="balanced")),
        training=TrainingConfig(
            stages=(
                stage,
                replace(
                    stage,
                    name="4K",
                    context_tokens=4096,
                    rope_base=2e5,
                    steps=2_000,
                    batch_sequences=1,
                    learning_rate=3e-4,
                    min_learning_rate=3e-5,
                ),
            ),
            log_every_steps=10,
        ),
        evaluation=EvaluationConfig(tasks=(NeedleConfig(context_tokens=(1024, 4096)), HeldOutConfig())),
        sampling=SamplingDefaults(
            image=SamplingConfig(temperature=0.8, top_k=200, guidance_scale=2.0),
            video=SamplingConfig(temperature=0.8, top_k=200, guidance_scale=2.0),
        ),
    )
