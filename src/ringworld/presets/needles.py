"""Small models of text that learn to find needles, from nothing and from a kept model."""

from dataclasses import replace

from ringworld.attention.config import AttentionConfig
from ringworld.data.config import MixtureConfig, PrepareConfig
from ringworld.evaluation.config import EvaluationConfig
from ringworld.evaluation.needles import NeedleConfig
from ringworld.model.config import Architecture, Execution
from ringworld.presets.run import RunConfig
from ringworld.training.config import OptimizerConfig, Stage, TrainingConfig


def _stage(
    name: str,
    context_tokens: int,
    *,
    steps: int,
    sequences: int = 1,
    rope_base: float = 1e4,
    rates: tuple[float, float] = (5e-3, 5e-3),
    shortest_tokens: int = 0,
) -> Stage:
    return Stage(
        name=name,
        context_tokens=context_tokens,
        rope_base=rope_base,
        steps=steps,
        batch_sequences=sequences,
        learning_rate=rates[0],
        min_learning_rate=rates[1],
        warmup_steps=20,
        mixture=MixtureConfig(ratios={"text_qa": 1.0}, shortest_tokens=shortest_tokens),
    )


# Ten times the base for four times the context. Short documents stand among the long ones, of which a step
# has room for one or two.
_4K = _stage("4K", 4096, steps=360, rope_base=1e5, rates=(2e-3, 3e-4), shortest_tokens=200)
_GRID = NeedleConfig(context_tokens=(1024, 2048, 4096), rounds=2, max_new_tokens=28)


def needles() -> RunConfig:
    """Retrieval by a model of 270K parameters: one needle or two of four, from nothing to 8K tokens.

    Three layers with norms of queries and keys, moved by Muon: without either it did not learn in the time.
    Documents of 128 tokens come first, some of words at random that are to be written again and some with two
    needles; longer ones follow, half of which hide a few needles in filler. Loss is on the answers alone.
    `docs/howto/longer-context.md` has what it finds, `docs/log.md` what was tried.

    Hardware: one CPU core or two, 2 GB, half an hour.

        ringworld quickstart --preset needles --out runs/needles
    """
    one = replace(_GRID, context_tokens=(*_GRID.context_tokens, 8192))
    return _run(
        _stage("128", 128, steps=2500, sequences=16),
        _stage("512", 512, steps=1100, sequences=4),
        _stage("1K", 1024, steps=300, sequences=4, rates=(6e-3, 6e-4), shortest_tokens=400),
        _4K,
        _stage("8K", 8192, steps=240, rope_base=2e5, rates=(2e-3, 3e-4), shortest_tokens=200),
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
    return _run(replace(_4K, steps=80), grids=(_GRID,))


def _run(*stages: Stage, grids: tuple[NeedleConfig, ...]) -> RunConfig:
    return RunConfig(
        frame_tokenizer=None,
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
