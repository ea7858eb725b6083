"""A small model of text that learns to find needles, from nothing to 4K tokens."""

from dataclasses import replace

from ringworld.attention.config import AttentionConfig
from ringworld.data.config import MixtureConfig, PrepareConfig
from ringworld.evaluation.config import EvaluationConfig
from ringworld.evaluation.needles import NeedleConfig
from ringworld.model.config import Architecture, Execution
from ringworld.presets.run import RunConfig
from ringworld.training.config import OptimizerConfig, Stage, TrainingConfig

_CONVERSATIONS = MixtureConfig(
    text=0.0, video=0.0, video_caption=0.0, video_qa=0.0, caption_video=0.0, caption_image=0.0
)


def needles() -> RunConfig:
    """Retrieval by a model of 270K parameters: one needle at every depth, from nothing to 4K tokens.

    Three layers with norms of queries and keys, moved by Muon: without either it did not learn in the time.
    Documents of 128 tokens with two needles come first, longer ones follow, half of which hide a few needles
    in filler. Loss is on the answers alone. `docs/log.md` has what was found at each stage, and what is not:
    the first digits of one needle among several.

    Hardware: two CPU cores, 1 GB, half an hour. Run by us stage by stage, not yet in one run.

        ringworld quickstart --preset needles --out runs/needles
    """
    stage = Stage(
        name="128",
        context_tokens=128,
        rope_base=1e5,
        steps=800,
        batch_sequences=16,
        learning_rate=8e-3,
        min_learning_rate=8e-3,
        warmup_steps=40,
        mixture=_CONVERSATIONS,
    )
    later = replace(stage, batch_sequences=4, warmup_steps=20)
    longest = replace(
        later,
        rope_base=1e6,
        batch_sequences=1,
        learning_rate=4e-3,
        min_learning_rate=4e-3,
        warmup_steps=5,
        mixture=replace(_CONVERSATIONS, shortest_tokens=900),
    )
    grid = NeedleConfig(context_tokens=(512, 1024, 2048, 4096), rounds=2, max_new_tokens=28)
    return RunConfig(
        frames=None,
        frame_training=None,
        prepare=PrepareConfig(document_tokens=4096, held_out_fraction=0.0),
        model=Architecture(
            layers=3,
            embed=64,
            heads=4,
            kv_heads=4,
            head=32,
            mlp=128,
            text_vocab=1536,
            family="qwen3",
            tied=True,
        ),
        execution=Execution(attention=AttentionConfig(layout="contiguous"), remat="none"),
        training=TrainingConfig(
            stages=(
                stage,
                replace(later, name="512", context_tokens=512, steps=1100),
                replace(
                    later,
                    name="1K",
                    context_tokens=1024,
                    steps=300,
                    learning_rate=6e-3,
                    min_learning_rate=6e-4,
                    mixture=replace(_CONVERSATIONS, shortest_tokens=400),
                ),
                replace(longest, name="2K", context_tokens=2048, steps=80, batch_sequences=2),
                replace(longest, name="4K", context_tokens=4096, steps=100, min_learning_rate=1e-3),
            ),
            optimizer=OptimizerConfig(kind="muon", beta2=0.98, weight_decay=0.0),
            checkpoint_every_steps=200,
            log_every_steps=10,
        ),
        evaluation=EvaluationConfig(
            tasks=(
                grid,
                replace(grid, needles=4, asked=2, depth_percents=(0.0, 50.0, 100.0), max_new_tokens=48),
            ),
        ),
    )
