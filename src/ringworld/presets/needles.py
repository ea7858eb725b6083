"""Small models of text that learn to find needles, from nothing and from a kept model."""

from dataclasses import replace

from ringworld.attention.config import AttentionConfig
from ringworld.data.config import MixtureConfig, PrepareConfig
from ringworld.evaluation.config import EvaluationConfig
from ringworld.evaluation.needles import NeedleConfig
from ringworld.model.config import Architecture, Execution
from ringworld.presets.run import RunConfig
from ringworld.training.config import OptimizerConfig, Stage, TrainingConfig

_CONVERSATIONS = MixtureConfig(ratios={"text_qa": 1.0})
_SHORT = Stage(
    name="128",
    context_tokens=128,
    rope_base=1e4,
    steps=2500,
    batch_sequences=16,
    learning_rate=5e-3,
    min_learning_rate=5e-3,
    warmup_steps=40,
    mixture=_CONVERSATIONS,
)
_LONG = replace(
    _SHORT,
    name="4K",
    context_tokens=4096,
    rope_base=1e6,
    steps=60,
    batch_sequences=1,
    learning_rate=4e-3,
    min_learning_rate=1e-3,
    warmup_steps=5,
    mixture=replace(_CONVERSATIONS, shortest_tokens=900),
)
_GRID = NeedleConfig(context_tokens=(1024, 2048, 4096), rounds=2, max_new_tokens=28)


def needles() -> RunConfig:
    """Retrieval by a model of 270K parameters: one needle at every depth, from nothing to 8K tokens.

    Three layers with norms of queries and keys, moved by Muon: without either it did not learn in the time.
    Documents of 128 tokens come first, some of words at random that are to be written again and some with two
    needles; longer ones follow, half of which hide a few needles in filler. Loss is on the answers alone.
    `docs/log.md` has what was found at each stage: after 1K tokens every needle at that length, also two of
    four; after 8K nine of ten at 8K, and half of two of four.

    Hardware: two CPU cores, 1 GB, half an hour.

        ringworld quickstart --preset needles --out runs/needles
    """
    one = replace(_GRID, context_tokens=(*_GRID.context_tokens, 8192))
    later = replace(_SHORT, batch_sequences=4, warmup_steps=20)
    return _run(
        _SHORT,
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
        _LONG,
        replace(
            _LONG,
            name="8K",
            context_tokens=8192,
            learning_rate=2e-3,
            min_learning_rate=5e-4,
            mixture=replace(_CONVERSATIONS, shortest_tokens=1900),
        ),
        grids=(
            one,
            replace(one, needles=4, asked=2, depth_percents=(0.0, 50.0, 100.0), max_new_tokens=48),
        ),
    )


def extend_needles() -> RunConfig:
    """The model of `needles` at 1K tokens extended to 4K, as LWM extends LLaMA-2: part of the quickstart.

    Hardware: two CPU cores, 1 GB, minutes.

        ringworld quickstart --out runs/quickstart
    """
    return _run(_LONG, grids=(_GRID,))


def _run(*stages: Stage, grids: tuple[NeedleConfig, ...]) -> RunConfig:
    return RunConfig(
        frames=None,
        frame_training=None,
        prepare=PrepareConfig(document_tokens=8192, held_out_fraction=0.0),
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
            stages=stages,
            optimizer=OptimizerConfig(kind="muon", beta2=0.98, weight_decay=0.0),
            checkpoint_every_steps=200,
            log_every_steps=10,
        ),
        evaluation=EvaluationConfig(tasks=grids),
    )
