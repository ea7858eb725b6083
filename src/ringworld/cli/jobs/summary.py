"""Every number of a quickstart, gathered from what its parts left on disk."""

import os
import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from ringworld.cli.jobs.demonstrations import Demonstrations
from ringworld.cli.jobs.measure import SUMMARY_FILE, Evaluation, read_evaluation
from ringworld.cli.jobs.tokenizers import TokenizerReport, read_tokenizer_report
from ringworld.cli.jobs.training import evaluation_folder
from ringworld.core.files import read_jsonl
from ringworld.data.prepare import PrepareReport
from ringworld.data.sources import Source
from ringworld.data.store import ExampleStore
from ringworld.evaluation.metrics import (
    Fact,
    FrameTokenizerMetrics,
    InputFile,
    LossPoint,
    Metrics,
    Phase,
    Quarantined,
    StageMetrics,
    TextTokenizerMetrics,
)
from ringworld.presets import RunConfig
from ringworld.training.metrics import METRICS_FILE

_LIBRARIES = ("jax", "jaxlib", "equinox", "optax", "orbax-checkpoint", "grain", "av", "tokenizers", "numpy")


def summarize(
    run: RunConfig,
    *,
    tokenizer: Path,
    examples: Path,
    train: Path,
    command: str,
    sources: Sequence[Source],
    prepared: PrepareReport,
    shown: Demonstrations,
    parameters: int,
    phases: tuple[Phase, ...],
    peak_bytes: int,
) -> Metrics:
    """Return the metrics of a finished run.

    Args:
        run: its configuration.
        tokenizer: what train-tokenizer wrote.
        examples: what prepare wrote.
        train: what train wrote.
        command: how it was started.
        sources: the files that were read.
        prepared: what preparation made of them.
        shown: what the model made.
        parameters: how many the model has.
        phases: time and space of the parts.
        peak_bytes: most memory of the process.
    """
    rows = read_jsonl(train / METRICS_FILE)
    evaluations = _evaluations(run, train)
    tokenizers = read_tokenizer_report(tokenizer)
    mesh = run.mesh
    facts = {
        "devices": f"{mesh.devices} ({mesh.ring} in the ring)",
        "parameters": f"{parameters:,}",
        "model": f"{run.model.layers} layers of {run.model.embed}, {run.model.heads} heads, "
        f"{run.model.kv_heads} key heads, {run.model.compute}",
        "attention": f"ring, {run.model.attention.layout} layout, {run.model.attention.kernel} kernel",
        "training tokens": f"{sum(row['tokens'] for row in rows):,}",
        "peak memory": f"{peak_bytes / 2**30:.2f} GiB",
        "processor": f"{os.cpu_count()} x {platform.machine()}",
    }
    return Metrics(
        title="ringworld: from files to a world model",
        command=command,
        summary=_summary(run, prepared, rows),
        facts=_facts(facts),
        versions=_facts({"python": platform.python_version()} | {name: version(name) for name in _LIBRARIES}),
        inputs=_inputs(examples, sources),
        quarantined=tuple(Quarantined(name=one.path, reason=one.reason) for one in prepared.quarantined),
        text_tokenizer=TextTokenizerMetrics(
            vocabulary_size=tokenizers.text_vocabulary, bytes_per_token=tokenizers.text_bytes_per_token
        ),
        frame_tokenizer=_frame_tokenizer(run, tokenizers),
        stages=tuple(
            _stage(run, index, [row for row in rows if row["stage"] == stage.name])
            for index, stage in enumerate(run.training.stages)
        ),
        losses=tuple(
            LossPoint(
                step=row["step"],
                stage=row["stage"],
                text_loss=row["text_loss"],
                vision_loss=row["vision_loss"],
            )
            for row in rows
        ),
        needles=tuple(grid for one in evaluations for grid in one.needles),
        held_out=tuple(one.held_out for one in evaluations),
        reconstructions=shown.reconstructions,
        videos=shown.videos,
        images=shown.images,
        questions=shown.questions,
        continuations=shown.continuations,
        phases=phases,
    )


def _summary(run: RunConfig, prepared: PrepareReport, rows: Sequence[dict]) -> str:
    contexts = ", ".join(f"{stage.context_tokens:,}" for stage in run.training.stages)
    return (
        f"{prepared.files:,} files became {sum(one.tokens for one in prepared.counts):,} tokens; a model was "
        f"trained on {len(rows):,} batches of them with ring attention over {run.mesh.sequence_members} "
        f"devices, at contexts of {contexts} tokens, each stage from the weights of the last."
    )


def _facts(values: dict[str, str]) -> tuple[Fact, ...]:
    return tuple(Fact(name=name, value=value) for name, value in values.items())


def _evaluations(run: RunConfig, train: Path) -> list[Evaluation]:
    stages = run.training.stages
    folders = [evaluation_folder(train, stages[0].name, "before")]
    folders += [evaluation_folder(train, stage.name, "after") for stage in stages]
    return [read_evaluation(folder / SUMMARY_FILE) for folder in folders]


def _inputs(examples: Path, sources: Sequence[Source]) -> tuple[InputFile, ...]:
    store = ExampleStore(examples)
    made: dict[str, list[int]] = {}
    for name, tokens in zip(store.column("source"), store.column("tokens")):
        made.setdefault(name.partition("#")[0], []).append(int(tokens))
    return tuple(
        InputFile(
            name=source.relative,
            kind="text" if source.format == "lines" else source.format,
            bytes=source.path.stat().st_size,
            examples=len(made.get(source.relative, ())),
            tokens=sum(made.get(source.relative, ())),
        )
        for source in sources
    )


def _frame_tokenizer(run: RunConfig, tokenizers: TokenizerReport) -> FrameTokenizerMetrics:
    return FrameTokenizerMetrics(
        resolution=run.frames.resolution,
        codes_per_frame=run.frames.codes_per_frame,
        codebook_size=run.frames.codebook_size,
        codebook_used=round(tokenizers.frames.codebook_usage * run.frames.codebook_size),
        held_out_frames=tokenizers.held_out_frames,
        psnr_db=tokenizers.frames.psnr_db,
        steps=tokenizers.frames.steps,
    )


def _stage(run: RunConfig, index: int, rows: Sequence[dict]) -> StageMetrics:
    stage = run.training.stages[index]
    tokens = sum(row["tokens"] for row in rows)
    return StageMetrics(
        name=stage.name,
        context_tokens=stage.context_tokens,
        rope_base=stage.rope_base,
        steps=stage.steps,
        tokens=tokens,
        seconds=sum(row["seconds"] for row in rows),
        fill=tokens / (len(rows) * stage.batch_sequences * stage.context_tokens),
        examples=sum(row["examples"] for row in rows),
        ring_efficiency=sum(row["ring_efficiency"] for row in rows) / len(rows),
    )
