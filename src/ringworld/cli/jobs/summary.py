"""Every number of a quickstart, gathered from what its parts left on disk."""

import os
import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ringworld.cli.jobs.demonstrations import Demonstrations
from ringworld.cli.jobs.measure import SUMMARY_FILE, Evaluation, left_out, read_evaluation
from ringworld.cli.jobs.tokenizers import TokenizerReport, read_tokenizer_report
from ringworld.cli.jobs.training import evaluation_folder
from ringworld.core.files import read_jsonl
from ringworld.data.loader import make_loader
from ringworld.data.prepare import PrepareReport
from ringworld.data.sources import Source
from ringworld.data.store import ExampleStore
from ringworld.data.toy_world import held_out_words
from ringworld.evaluation.metrics import (
    Fact,
    FrameTokenizerMetrics,
    InputFile,
    LeftOut,
    LossPoint,
    Metrics,
    Phase,
    Quarantined,
    StageMetrics,
    TextTokenizerMetrics,
)
from ringworld.model.flops import parameters
from ringworld.presets import RunConfig
from ringworld.training.config import StageConfig
from ringworld.training.metrics import METRICS_FILE, check_rows

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
        phases: time and space of the parts.
        peak_bytes: most memory of this process, which may have found much done.

    Raises:
        InputError: what a part left is missing or damaged; rows of the training are, say, doubled.
    """
    rows = read_jsonl(train / METRICS_FILE)
    check_rows(rows, run.training, logged_steps=run.training.boundaries[-1], where=train / METRICS_FILE)
    evaluations = _evaluations(run, train)
    tokenizers = read_tokenizer_report(tokenizer)
    mesh, attention = run.mesh, run.model.attention
    facts = {
        "devices": f"{mesh.devices} ({mesh.ring} in the ring)",
        "parameters": f"{parameters(run.model):,}",
        "model": f"{run.model.layers} layers of {run.model.embed}, {run.model.heads} heads, "
        f"{run.model.kv_heads} of keys and values, {run.model.compute}",
        "attention": f"{attention.strategy.replace('_', ' ')}, {attention.layout} layout, "
        f"{attention.kernel} kernel",
        "held out of the toy world": held_out_words(run.toy_world),
        "training tokens": f"{sum(row['tokens'] for row in rows):,}",
        "peak memory of the last call": f"{peak_bytes / 2**30:.2f} GiB",
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
        questions_left_out=prepared.questions_left_out,
        text_tokenizer=TextTokenizerMetrics(
            vocabulary_size=tokenizers.text_vocabulary,
            bytes_per_token=tokenizers.text_bytes_per_token,
            judged_on=tokenizers.text_judged_on,
        ),
        frame_tokenizer=_frame_tokenizer(run, tokenizers),
        stages=tuple(
            stage_metrics(stage, rows, left_out=_left_out(stage, examples)) for stage in run.training.stages
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
    tokens, batches = sum(one.tokens for one in prepared.counts), sum(row["steps"] for row in rows)
    return (
        f"{prepared.files:,} files became {tokens:,} tokens; a model was trained on {batches:,} batches of "
        f"them with ring attention over {run.mesh.sequence_members} devices, at contexts of {contexts} "
        "tokens, each stage from the weights of the last."
    )


def _facts(values: dict[str, str]) -> tuple[Fact, ...]:
    return tuple(Fact(name=name, value=value) for name, value in values.items())


def _evaluations(run: RunConfig, train: Path) -> list[Evaluation]:
    stages = run.training.stages
    folders = [evaluation_folder(train, stages[0].name, "before")]
    folders += [evaluation_folder(train, stage.name, "after") for stage in stages]
    return [read_evaluation(folder / SUMMARY_FILE) for folder in folders]


def _inputs(examples: Path, sources: Sequence[Source]) -> tuple[InputFile, ...]:
    """Return the files by name; examples say which name they come from, but not below which folder."""
    named: dict[str, list[Source]] = {}
    for source in sources:
        named.setdefault(source.relative, []).append(source)
    store = ExampleStore(examples)
    made: dict[str, list[int]] = {}
    for name, tokens in zip(store.column("source"), store.column("tokens")):
        # A line of JSONL adds its number to the name of its file.
        made.setdefault(name if name in named else name.rpartition("#")[0], []).append(int(tokens))
    return tuple(
        InputFile(
            name=name,
            kind="text" if of_name[0].format == "lines" else of_name[0].format,
            files=len(of_name),
            bytes=sum(source.path.stat().st_size for source in of_name),
            examples=len(made.get(name, ())),
            tokens=sum(made.get(name, ())),
        )
        for name, of_name in named.items()
    )


def _frame_tokenizer(run: RunConfig, tokenizers: TokenizerReport) -> FrameTokenizerMetrics:
    return FrameTokenizerMetrics(
        resolution=run.frames.resolution,
        codes_per_frame=run.frames.codes_per_frame,
        codebook_size=run.frames.codebook_size,
        codebook_used=round(tokenizers.frames.codebook_usage * run.frames.codebook_size),
        held_out_frames=tokenizers.held_out_frames,
        held_out_of=tokenizers.held_out_of,
        psnr_db=tokenizers.frames.psnr_db,
        unlike=tokenizers.unlike,
        steps=tokenizers.frames.steps,
    )


def stage_metrics(
    stage: StageConfig, rows: Sequence[dict[str, Any]], *, left_out: tuple[LeftOut, ...]
) -> StageMetrics:
    """Add up the rows of a stage, each of which covers the steps since the one before it.

    Args:
        stage: its configuration.
        rows: of `metrics.jsonl`, those of other stages among them.
        left_out: examples that are too long for it.
    """
    rows = [row for row in rows if row["stage"] == stage.name]
    steps, tokens, seconds = (sum(row[name] for row in rows) for name in ("steps", "tokens", "seconds"))
    return StageMetrics(
        name=stage.name,
        context_tokens=stage.context_tokens,
        rope_base=stage.rope_base,
        steps=steps,
        tokens=tokens,
        seconds=seconds,
        fill=tokens / (steps * stage.batch_sequences * stage.context_tokens),
        examples=sum(row["examples"] for row in rows),
        ring_efficiency=sum(row["ring_efficiency"] * row["steps"] for row in rows) / steps,
        model_flops_per_second=sum(row["model_flops_per_second"] * row["seconds"] for row in rows) / seconds,
        left_out=left_out,
    )


def _left_out(stage: StageConfig, examples: Path) -> tuple[LeftOut, ...]:
    loader = make_loader(
        examples,
        split="train",
        context_tokens=stage.context_tokens,
        batch_sequences=stage.batch_sequences,
        mixture=stage.mixture,
        seed=0,
    )
    return left_out(loader.left_out)
